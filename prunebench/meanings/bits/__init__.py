"""Bits: how finely kept weights are stored, as a block problem of slices, and layer by layer."""
