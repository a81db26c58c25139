"""Checking of proofs, with code that shares nothing with the solvers but the block itself."""
