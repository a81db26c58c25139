"""A frame of the select tree: the program and the tableau of the free variables alone."""

import numpy as np
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.trees.select_node import FAST, Pattern
from prunebench.kernels.trees.tableau import Sweeps, row_of


@njit(cache=True, error_model="numpy", nogil=True)
def views(sheets: FloatArray, at: int, n: int) -> tuple[FloatArray, FloatArray]:
    """The matrix (n, n) and the tableau (n + 1, n + 1) of a frame whose place begins at `at`."""
    middle = at + n * n
    return sheets[at:middle].reshape((n, n)), sheets[middle : middle + (n + 1) * (n + 1)].reshape((n + 1, n + 1))


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def put_in(
    matrix: FloatArray, linear: FloatArray, fixed: Pattern, free: IndexArray, part: FloatArray, slope: FloatArray
) -> tuple[float, int]:
    """The objective of the `free` variables with the others at their values; its constant, and how many are 1.

    part (f, f), slope (f,) receive the matrix and the linear term.
    """
    f = free.size
    for a in range(f):
        row = matrix[free[a]]
        slope[a] = linear[free[a]]
        for b in range(f):
            part[a, b] = row[free[b]]
    constant = 0.0
    kept = np.flatnonzero(fixed == 1)
    for c in range(kept.size):
        row = matrix[kept[c]]
        for a in range(f):
            slope[a] += row[free[a]]
        # row by row: a sum of p² terms in one go could round by p² units
        pairs = 0.0
        for d in range(kept.size):
            pairs += row[kept[d]]
        constant += linear[kept[c]] + 0.5 * pairs
    return constant, kept.size


@njit(cache=True, error_model="numpy", nogil=True)
def restrict(tableau: FloatArray, sweeps: Sweeps, made: int, free: IndexArray, out: FloatArray) -> None:
    """The tableau after `made` sweeps, of the count and the `free` variables; the others are at bounds."""
    f = free.size
    row = np.empty(tableau.shape[0])
    for a in range(f + 1):
        row_of(tableau, sweeps, made, 0 if a == 0 else free[a - 1] + 1, row)
        out[a, 0] = row[0]
        for b in range(f):
            out[a, b + 1] = row[free[b] + 1]
