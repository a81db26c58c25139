"""Coordinators: the outer loop that chooses blocks, their order, and what is done with their solutions."""
