"""A frame of the select tree: the program and the tableau of the free variables alone.

Where a tree is widest a third of its variables or less are free. So a node with few free ones, or
with many sweeps since its tableau was made, opens a frame: the program and the tableau of the free
variables alone, the fixed ones put in. All below it uses that, and the search leaves it again when
it is through. Frame 0 is the whole program.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.compiled import compiled
from prunebench.kernels.trees.select_node import Pattern, Point, Program
from prunebench.kernels.trees.tableau import Sweeps, Tableau, row_of

FRAME = np.dtype(
    [
        ("size", np.int64),  # how many variables it has: n
        ("count", np.int64),  # how many of them are 1
        ("at", np.int64),  # where in the sheets its matrix and its tableau begin
        ("end", np.int64),  # and where they end
        ("sweeps", np.int64),  # which row of the stack of sweeps is its first
        ("constant", np.float64),  # what the fixed variables add to the objective
    ],
    align=True,
)
"""One frame."""


class Frames(NamedTuple):
    """The open frames of a program of p variables, one row each.

    rows : FRAME (p + 2,)
    linear : float64 (p + 2, p)   the linear term, n entries
    variables : int64 (p + 2, p)  which variables of the whole program they are, n entries
    fixed : int8 (p + 2, p)       of the whole program: FREE for those of the frame, the values of the others
    """

    rows: npt.NDArray[np.void]
    linear: FloatArray
    variables: IndexArray
    fixed: Pattern


def new_frames(program: Program, fixed: Pattern) -> Frames:
    """Room for a program's frames; the first is the whole program with what is `fixed`."""
    p = program.linear.size
    rows = p + 2
    frames = Frames(
        np.zeros(rows, FRAME), np.empty((rows, p)), np.empty((rows, p), np.int64), np.empty((rows, p), np.int8)
    )
    frames.rows[0]["size"], frames.rows[0]["count"], frames.rows[0]["end"] = p, program.ones, room(p)
    frames.linear[0], frames.variables[0], frames.fixed[0] = program.linear, np.arange(p), fixed
    return frames


def room(n: int) -> int:
    """How many numbers the matrix and the tableau of a frame of n variables take."""
    return n * n + (n + 1) * (n + 1)


@compiled(inner=True)
def frame_at(
    frames: Frames, at: int, sheets: FloatArray, sweeps: Sweeps, point: Point, rounding: float
) -> tuple[Program, Tableau, Point]:
    """Frame `at` as a program of its own; `sweeps` and `point` are the whole program's, of which it takes its part."""
    row = frames.rows[at]
    n, begin, first = row.size, row.at, row.sweeps
    middle = begin + n * n
    matrix = sheets[begin:middle].reshape((n, n))
    sheet = sheets[middle : middle + (n + 1) * (n + 1)].reshape((n + 1, n + 1))
    return (
        Program(matrix, frames.linear[at, :n], row.count, rounding),
        Tableau(sheet, Sweeps(sweeps.rows[first:], sweeps.places[first:], sweeps.pivots[first:])),
        Point(point.x[:n], point.grad[:n], point.reduced[:n], point.fixed[:n], point.basic[:n]),
    )


@compiled(fast=True, allocates=True)
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
    kept = np.empty(fixed.size, np.int64)
    size = 0
    for i in range(fixed.size):
        if fixed[i] == 1:
            kept[size] = i
            size += 1
    for c in range(size):
        row = matrix[kept[c]]
        for a in range(f):
            slope[a] += row[free[a]]
        # row by row: a sum of p² terms in one go could round by p² units
        pairs = 0.0
        for d in range(size):
            pairs += row[kept[d]]
        constant += linear[kept[c]] + 0.5 * pairs
    return constant, size


@compiled(allocates=True)
def restrict(tableau: Tableau, made: int, free: IndexArray, out: FloatArray) -> None:
    """The tableau after `made` sweeps, of the count and the `free` variables; the others are at bounds."""
    f = free.size
    row = np.empty(tableau.sheet.shape[0])
    for a in range(f + 1):
        row_of(tableau, made, 0 if a == 0 else free[a - 1] + 1, row)
        out[a, 0] = row[0]
        for b in range(f):
            out[a, b + 1] = row[free[b] + 1]
