"""Branch and bound in both modes: relaxations at a node, compiled search loops, and dives."""
