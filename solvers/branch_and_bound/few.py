"""Blocks with so few kept weights that all masks can be evaluated: bounds are weak there, and a gain costs little."""

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.optimality import PROOF_TOLERANCE
from prunebench.core.stop import Stop, StopCheck
from prunebench.kernels.relaxations.programs import HALF_ULP, RefitProgram
from prunebench.kernels.relaxations.split import certified_split

FEWEST_KEPT = 3
"""The loops choose the last two weights together, after one or more others."""
MOST_KEPT = 12
"""With more kept weights the loops over what is left of the program are too short to be fast."""
ROW_WORK = 6
"""Work of beginning a row of the program that a chosen weight leaves, in units of the work of one of its entries."""
MOST_WORK = 1.5e10
"""Most work for evaluating all masks, in units of one entry, 2.7 ns: forty seconds."""
NODE_WORK = 2.0
"""Work of a node of the tree in the same units, times p²: 90 µs at p = 128, where 30 to 270 were measured."""
WORK_OF_A_CALL = 1e8
"""Most work of one compiled call, a quarter of a second: how long Ctrl-C and limits may wait."""
DOUBT_SHARE = 0.3
"""Share of the tolerance of "optimal" that rounding may use."""
MOST_DOUBT = 1e-3
"""Most that rounding may change of the curvature, as a share of its lowest eigenvalue; else nothing is enumerated."""


class Found(NamedTuple):
    """What an enumeration found: the largest gain, its mask (p,) if that gain is new, and why it ended early, or None.

    If it ended early, the gain is the largest of the masks evaluated so far.
    """

    gain: float
    mask: BoolArray | None
    stopped: Stop | None


def work(p: int, keep: int) -> int:
    """Work of evaluating all masks, in entries of what is left of the program after each choice of a weight.

    A set of j weights is extended once by each choice of two later ones, C(p, j + 2) entries in C(p, j + 1) rows, for
    j = 1 … keep − 2. Within a third of what was measured for 3 to 12 kept of 22 to 1,000 weights.
    """
    return sum(comb(p, j) + ROW_WORK * comb(p, j - 1) for j in range(3, keep + 1))


def affordable(p: int, keep: int) -> bool:
    """Whether all masks may be evaluated."""
    return FEWEST_KEPT <= keep <= min(MOST_KEPT, p // 2) and work(p, keep) <= MOST_WORK


@dataclass(frozen=True, eq=False)
class Few:
    """A program whose masks can all be evaluated.

    program : of the block;  matrix : its Hessian scaled by 1/reach from both sides;  doubt : error bound of all gains
    """

    program: RefitProgram
    matrix: FloatArray
    doubt: float

    @staticmethod
    def of(program: RefitProgram, objective: float) -> "Few | None":
        """The program, unless rounding could leave a gap too large for a proof. O(p³)

        objective : of the best mask known, in the program's units but from zero, as proofs are relative to it
        """
        unit = 1.0 / program.reach
        matrix = program.hessian * unit[:, None] * unit
        doubt = doubt_of(program, matrix)
        if doubt is None or not doubt <= DOUBT_SHARE * PROOF_TOLERANCE * abs(objective):
            return None
        return Few(program, matrix, doubt)

    def best(self, gain: float, stop: StopCheck) -> Found:
        """The largest of `gain` and the gains of all masks."""
        from prunebench.kernels.trees.few import best_from, levels_of

        p, keep = self.matrix.shape[0], self.program.keep
        levels = levels_of(self.matrix, self.program.slope / self.program.reach, keep)
        fixed = 1
        while fixed < keep - 2 and work(p - fixed, keep - fixed) > WORK_OF_A_CALL:
            fixed += 1
        stopped = None
        for first in combinations(range(p - keep + fixed), fixed):
            gain = best_from(levels, np.array(first), gain)
            if stopped := stop(0.0):
                break
        if levels.found[0] < 0:
            return Found(gain, None, stopped)
        mask = np.zeros(p, dtype=np.bool_)
        mask[levels.found] = True
        return Found(gain, mask, stopped)


def doubt_of(program: RefitProgram, matrix: FloatArray) -> float | None:
    """A bound on the error of every computed gain, with the program's own errors; None if too little is certain.

    matrix : the Hessian H scaled by 1/reach from both sides, so that its diagonal is at most 1.

    A gain is ½ h'x with H_SS x = h on the mask. Elimination in any order is exact for data that are off by unit = 8
    (keep + 8) half ulps of √(H_ii H_jj) (Higham, Accuracy and Stability of Numerical Algorithms, §10.1), the program's
    entries are off by `relative` more. With λ below the eigenvalues of H and G above all gains, |x|² <= 2G/λ and
    |hᵢ| <= √2G, so these errors E and e change a gain by ½ x'Ex + x'e <= error·G (keep/λ + 2√(keep/λ)) to first order;
    twice that is taken. The last pair's quotient has a denominator of at least λ, and terms of at most 16 G.
    """
    lowest = 0.9 * float(np.linalg.eigvalsh(matrix)[0])
    if lowest <= 0.0:
        return None
    proved = certified_split(program, lowest * program.reach**2)
    if proved is None:
        return None
    lowest = float((proved / program.reach**2).min())
    slope = program.slope / program.reach
    error = program.relative + 8.0 * (program.keep + 8) * HALF_ULP
    if not matrix.shape[0] * error <= MOST_DOUBT * lowest:
        return None
    most = 1.01 * 0.5 * float(slope @ np.linalg.solve(matrix, slope))
    kept = program.keep / lowest
    return most * (2.0 * error * (kept + 2.0 * float(np.sqrt(kept))) + 512.0 * HALF_ULP / lowest)
