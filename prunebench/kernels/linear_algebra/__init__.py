"""Matrices as support searches and layer methods see them."""
