"""Solvers compared on identical blocks: the request, its cells, the cache, the table, QOBLIB's format."""
