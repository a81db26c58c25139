"""Structured pruning: which channels, neurons and heads of a network go together, and the network without them."""
