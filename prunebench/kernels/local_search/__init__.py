"""Search by exchanges in both modes, on dense matrices and on the factor, and what a search keeps as its best."""
