"""Code shared by several solver families, in folders named by their mathematics; numba is imported only when used."""
