"""A pruning run: its request, the drive of a coordinator, where blocks are solved, and what is kept of it."""
