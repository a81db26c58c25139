"""The block as the quadratic program that peers get: binaries, rows that say how many, and an objective."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import SolverRefused
from prunebench.core.solver import Incumbent
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram

ROOM = 1.001
"""Factor by which bounds on weights are widened, against rounding."""
FARTHEST = 1e12
"""Largest bound on a weight, in the program's units, that is written: from 1e20 on programs take a number as infinite,
and far below that their tolerances mean nothing."""


def too_large(block: BlockProblem, most: int) -> str:
    """Why a block of more than `most` weights is refused; "" where it is not."""
    if block.p <= most:
        return ""
    return f"it handles at most {most} weights; use solver 'branch-and-bound' or 'swap'"


@dataclass(frozen=True, eq=False)
class Quadratic:
    """min linear'z + ½ z'Qz over z: in mode select z marks pruned weights, in mode refit z are the weights.

    matrix : Q (p, p);  linear : (p,);  both scaled so that values are of the order of 1000
    reach : (p,)   in mode refit, bounds on the size of the weights of every mask that is no worse than the best so far
    """

    matrix: FloatArray
    linear: FloatArray
    reach: FloatArray | None
    program: SelectProgram | RefitProgram

    @staticmethod
    def of(best: Incumbent) -> "Quadratic":
        """The program of the block, scaled by the best mask so far. O(p³)

        Raises
        ------
        SolverRefused   in mode refit, where nothing bounds the weights of good masks: the curvature is nearly singular
        """
        block, upper = best.block, best.objective
        if block.mode == "select":
            select = SelectProgram.of(block, upper)
            return Quadratic(select.quadratic, select.linear, None, select)
        lowest = block.form.lower_bound()
        refit = RefitProgram.of(block, upper, lowest if np.isfinite(lowest) else None)
        reach = _reach(refit, refit.inner(upper))
        if not (np.isfinite(reach).all() and reach.max() <= FARTHEST):
            reason = (
                "its curvature is so nearly singular that good masks may have weights of any size; cut the block with "
                "a larger ridge, or use solver 'branch-and-bound'"
            )
            raise SolverRefused(f"a program in mode refit does not take block '{block.name}': {reason}", reason)
        return Quadratic(refit.hessian, -refit.slope, reach, refit)

    def value(self, inner: float) -> float:
        """An objective of the program in the block's units."""
        return self.program.constant + inner / self.program.scale


def rows(block: BlockProblem) -> Iterator[tuple[IndexArray, int]]:
    """Groups of weights, and how many of each are kept: one group of all without a quota."""
    keeping = block.keeping
    for number, count in enumerate(keeping.counts):
        yield np.flatnonzero(keeping.group == number), int(count)


def mask_of(block: BlockProblem, kept: FloatArray) -> BoolArray:
    """The feasible mask nearest to the shares that a program gives, in which tolerances may have left a half. (p,)"""
    return block.top_mask(np.asarray(kept, dtype=np.float64))


def _reach(program: RefitProgram, upper: float) -> FloatArray:
    """The box around the ellipsoid of all weights whose value is at most `upper`."""
    try:
        inverse = np.linalg.inv(program.hessian).diagonal()
        free = np.linalg.solve(program.hessian, program.slope)
    except np.linalg.LinAlgError:
        return np.full(program.slope.size, np.inf)
    room = max(upper + 0.5 * float(program.slope @ free), 0.0) * ROOM + 1e-6
    return np.asarray(np.abs(free) + np.sqrt(2.0 * room * np.maximum(inverse, 0.0)), dtype=np.float64)
