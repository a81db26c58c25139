"""The block problem and the solver contract; needs numpy and scipy only."""
