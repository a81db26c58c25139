"""Local search by swaps in both modes, on dense matrices and on the factor."""
