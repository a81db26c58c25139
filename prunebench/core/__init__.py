"""The problem layer and the solver contract; numpy and scipy only."""
