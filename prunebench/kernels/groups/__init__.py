"""Search over kept groups: removal paths, allocation over their curves, exchanges, and trees with bounds."""
