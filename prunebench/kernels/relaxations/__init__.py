"""Convex relaxations: a block as a dense program, the shift or split with the best root bound, certificates."""
