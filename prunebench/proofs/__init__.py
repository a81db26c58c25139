"""Checks of proofs, by code that shares nothing with the solvers but the block itself."""
