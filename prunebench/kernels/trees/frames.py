"""Frames of the select tree: program and tableau reduced to the free variables.

Where a tree is widest, at most a third of its variables are free. So a node with few free variables, or
with many sweeps since its tableau was made, opens a frame: program and tableau of the free variables, with the
fixed ones substituted. All nodes below use it, and it is closed once they are done. Frame 0 is the
whole program.
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
        ("size", np.int64),  # n, the number of its variables
        ("count", np.int64),  # how many of them must be 1
        ("at", np.int64),  # offset of its matrix and tableau in the sheets
        ("end", np.int64),  # offset past them
        ("sweeps", np.int64),  # its first row in the stack of sweeps
        ("constant", np.float64),  # the fixed variables' contribution to the objective
    ],
    align=True,
)
"""One frame."""


class Frames(NamedTuple):
    """The open frames of a program of p variables, one row each.

    rows : FRAME (p + 2,)
    linear : float64 (p + 2, p)   the linear term, n entries
    variables : int64 (p + 2, p)  their numbers in the whole program, n entries
    fixed : int8 (p + 2, p)       in the whole program: FREE for the frame's variables, the values of the others
    """

    rows: npt.NDArray[np.void]
    linear: FloatArray
    variables: IndexArray
    fixed: Pattern


def new_frames(program: Program, fixed: Pattern) -> Frames:
    """Space for a program's frames; the first is the whole program with `fixed` applied."""
    p = program.linear.size
    rows = p + 2
    frames = Frames(
        np.zeros(rows, FRAME), np.empty((rows, p)), np.empty((rows, p), np.int64), np.empty((rows, p), np.int8)
    )
    frames.rows[0]["size"], frames.rows[0]["count"], frames.rows[0]["end"] = p, program.ones, room(p)
    frames.linear[0], frames.variables[0], frames.fixed[0] = program.linear, np.arange(p), fixed
    return frames


def room(n: int) -> int:
    """Size of a frame's matrix and tableau together, for n variables."""
    return n * n + (n + 1) * (n + 1)


@compiled(inner=True)
def frame_at(
    frames: Frames, at: int, sheets: FloatArray, sweeps: Sweeps, point: Point, rounding: float
) -> tuple[Program, Tableau, Point]:
    """Frame `at` as a program of its own, with its part of the whole program's `sweeps` and `point`."""
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


@compiled(fast=True, inner=True, allocates=True)
def put_in(
    matrix: FloatArray, linear: FloatArray, fixed: Pattern, free: IndexArray, part: FloatArray, slope: FloatArray
) -> tuple[float, int]:
    """Substitute the fixed variables. Returns the constant of the objective in `free`, and how many fixed ones are 1.

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
        # one sum per row: a single sum of p² terms could round by p² units
        pairs = 0.0
        for d in range(size):
            pairs += row[kept[d]]
        constant += linear[kept[c]] + 0.5 * pairs
    return constant, size


@compiled(inner=True, allocates=True)
def restrict(tableau: Tableau, made: int, free: IndexArray, out: FloatArray) -> None:
    """The tableau after `made` sweeps, restricted to the count and the `free` variables; all others are at bounds."""
    f = free.size
    row = np.empty(tableau.sheet.shape[0])
    for a in range(f + 1):
        row_of(tableau, made, 0 if a == 0 else free[a - 1] + 1, row)
        out[a, 0] = row[0]
        for b in range(f):
            out[a, b + 1] = row[free[b] + 1]
