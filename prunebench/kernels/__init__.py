"""Compiled inner loops shared by solvers. numba is imported by the kernel modules, when a solver runs."""
