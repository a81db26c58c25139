"""The outer loop: which weights form a block, in which order, and what becomes of the answers."""
