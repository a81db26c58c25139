"""Bridges: each rewrites a block for a solver that cannot take it, and converts the solution back."""
