"""Products of a float32 matrix with float64 vectors, accumulated in float64, in one pass over the matrix.

numpy would first convert the matrix, writing and reading it again at twice the size.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from prunebench.core.arrays import FloatArray

Narrow = npt.NDArray[np.float32]

COLUMN_BLOCK = 2048
"""Columns whose sums fit the fast cache."""
SUMS = {"reassoc", "contract"}
"""The compiler may reorder sums: the error bounds used hold for any order, and infinities are preserved."""


@njit(cache=True, nogil=True, fastmath=SUMS)
def add_times(matrix: Narrow, vector: FloatArray, out: FloatArray) -> None:
    """out += matrix @ vector. (n, p), (p,), (n,)"""
    for row in range(matrix.shape[0]):
        total = 0.0
        for column in range(matrix.shape[1]):
            total += matrix[row, column] * vector[column]
        out[row] += total


@njit(cache=True, nogil=True, fastmath=SUMS)
def add_transposed_times(matrix: Narrow, vector: FloatArray, out: FloatArray) -> None:
    """out += matrix.T @ vector, four rows at a time. (n, p), (n,), (p,)"""
    rows, columns = matrix.shape
    for start in range(0, columns, COLUMN_BLOCK):
        stop = min(columns, start + COLUMN_BLOCK)
        part = out[start:stop]
        for row in range(0, rows - 3, 4):
            first, second = matrix[row, start:stop], matrix[row + 1, start:stop]
            third, fourth = matrix[row + 2, start:stop], matrix[row + 3, start:stop]
            a, b, c, d = vector[row], vector[row + 1], vector[row + 2], vector[row + 3]
            for index in range(part.size):
                part[index] += a * first[index] + b * second[index] + c * third[index] + d * fourth[index]
        for row in range(rows - rows % 4, rows):
            first, a = matrix[row, start:stop], vector[row]
            for index in range(part.size):
                part[index] += a * first[index]


@njit(cache=True, nogil=True, fastmath=SUMS)
def add_column_squares(matrix: Narrow, out: FloatArray) -> None:
    """out += the squared norm of every column. (n, p), (p,)"""
    rows, columns = matrix.shape
    for start in range(0, columns, COLUMN_BLOCK):
        stop = min(columns, start + COLUMN_BLOCK)
        part = out[start:stop]
        for row in range(rows):
            held = matrix[row, start:stop]
            for index in range(part.size):
                wide = np.float64(held[index])
                part[index] += wide * wide


@njit(cache=True, nogil=True, fastmath=SUMS)
def row_squares(matrix: Narrow, out: FloatArray) -> None:
    """out = the squared norm of every row. (n, p), (n,)"""
    for row in range(matrix.shape[0]):
        total = 0.0
        for column in range(matrix.shape[1]):
            wide = np.float64(matrix[row, column])
            total += wide * wide
        out[row] = total
