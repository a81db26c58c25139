"""Branch and bound of both modes: the relaxation at a node, the compiled loops, and the dives of a search."""
