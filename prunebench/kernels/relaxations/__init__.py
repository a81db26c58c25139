"""Convex relaxations of a block: two dense programs, the shift and the split with the best root bound, certificates."""
