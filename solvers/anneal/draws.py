"""Masks drawn from the semidefinite relaxation of the block: where swaps alone do not find the way, its moments do.

The relaxation that gives the best diagonal shift (`kernels.relaxations.shift`) has as its dual solution a mean and a
covariance of masks. A normal vector with these moments, of which the largest entries are kept, is a mask near the
relaxation's optimum (Goemans, Williamson: Improved approximation algorithms for maximum cut, J. ACM 42, 1995, with a
count in place of signs). Drawn about a point between that mean and a good mask, it joins what both agree on.
"""

import math
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.stop import StopCheck
from prunebench.kernels.relaxations.programs import SelectProgram
from prunebench.kernels.relaxations.shift import plane_shift

ACCURACY = 0.1
"""Of the relaxation, as a share of the gap: draws are better at .01, beams are not, and these find more."""
SECONDS_A_CUBE = 1e-8
"""Seconds that the relaxation takes, divided by p³: ten to twenty iterations, measured at p = 256, 512 and 1024."""
RELAXED_SHARE = 0.6
"""Share of a time limit after which the relaxation must have ended; it is cut there, which leaves weaker moments."""
RELAXED_PART = 0.5
"""Least part of the relaxation that must fit until then for it to be begun: less has no use."""
RELAXED_EVALUATIONS = 2.0
"""Evaluations that the relaxation counts as, divided by p³: at 10 ns an evaluation."""
LEAST_PULL = 0.2
"""Least share of a good mask in the centre of a draw that begins from one; the most is 1, the mask itself."""
LEAST_SPREAD = 0.1
"""Least factor of the covariance's square root in such a draw, log-uniform up to 1."""


def cost(p: int, seconds: float) -> float:
    """What the relaxation counts as in evaluations; infinite where so few seconds do not suffice for it."""
    cube = float(p) ** 3
    return math.inf if RELAXED_PART * SECONDS_A_CUBE * cube > seconds else RELAXED_EVALUATIONS * cube


@dataclass(frozen=True, eq=False)
class Draws:
    """Moments of the relaxation: `mean` (p,) of kept weights, and a square root `spread` (p, p) of their covariance.

    program : the block's;  shift : the relaxation's (p,), in its units
    """

    mean: FloatArray
    spread: FloatArray
    program: SelectProgram
    shift: FloatArray

    @staticmethod
    def of(block: BlockProblem, upper: float, stop: StopCheck) -> "Draws":
        """Solve the relaxation, O(p³) an iteration; `stop` ends it with the moments that it has by then.

        upper : objective of the best mask known
        """
        program = SelectProgram.of(block, upper)
        found = plane_shift(program.quadratic, program.linear, program.count, program.inner(upper), ACCURACY, stop)
        # the program's ones are pruned weights, which have the same covariance
        values, vectors = np.linalg.eigh(found.moments - np.outer(found.point, found.point))
        spread = vectors * np.sqrt(np.clip(values, 0.0, None))
        return Draws(1.0 - found.point, spread, program, found.diagonal)

    def masks(self, count: int, keep: int, good: BoolArray, rng: np.random.Generator) -> BoolArray:
        """Masks of `keep` weights; every second one begins from a random row of `good`. bool (r, p) -> (count, p)"""
        p = self.mean.size
        pull, spread = np.zeros((count, 1)), np.ones((count, 1))
        pull[1::2] = rng.uniform(LEAST_PULL, 1.0, (count // 2, 1))
        spread[1::2] = np.exp(rng.uniform(np.log(LEAST_SPREAD), 0.0, (count // 2, 1)))
        centre = self.mean + pull * (good[rng.integers(good.shape[0], size=count)] - self.mean)
        scores = centre + spread * (rng.standard_normal((count, p)) @ self.spread.T)
        masks = np.zeros((count, p), dtype=np.bool_)
        np.put_along_axis(masks, np.argpartition(-scores, keep - 1, axis=1)[:, :keep], True, axis=1)
        return masks
