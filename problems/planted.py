"""A synthetic block whose optimum is known by construction, at any size: for testing solvers."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import keep_count
from prunebench.core.problem import Problem, register
from prunebench.core.quadratic import QuadraticForm


@register
@dataclass(frozen=True, kw_only=True)
class Planted(Problem):
    """A Gaussian factor into which an optimal mask m* is planted; optimal in both modes.

    kind "cancel": |w̄| = 1, no linear term, centre w̄, and the pruned weights' columns cancel,
    Σ_{i pruned} w̄_i a_i = 0. Pruning p − keep weights costs at least their ridge, ½ρ(p − keep), and
    f(m*·w̄) costs no more, so m* is optimal; all magnitudes are equal, so magnitude pruning sees nothing.

    kind "sparse": Gaussian w̄ and the linear term g = H(w̄ − m*·w̄), so that f has its unconstrained
    minimum at m*·w̄. Every keep count has its own g.
    """

    name = "planted"
    summary = "a synthetic block of any size whose optimum is known by construction"

    p: int = 64
    """Number of weights."""

    n: int = 32
    """Rows of the factor."""

    kind: Literal["cancel", "sparse"] = "cancel"
    """How the optimum is planted: the pruned columns cancel, or the unconstrained minimum is sparse."""

    ridge: float = 0.01
    """Ridge, relative to the curvature's mean diagonal, which is about 1."""

    def __post_init__(self) -> None:
        for name in ("p", "n"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InvalidInput(f"{self.name}: {name} is {value!r}; choose a whole number from 1")
        if self.kind not in ("cancel", "sparse"):
            raise InvalidInput(f"{self.name}: kind is {self.kind!r}; choose one of cancel, sparse")
        if not (np.isfinite(self.ridge) and self.ridge > 0.0):
            raise InvalidInput(f"{self.name}: ridge is {self.ridge!r}; choose a positive number")

    def block(self, density: float, mode: Mode, seed: int) -> BlockProblem:
        """The block with round(density·p) weights kept; the same seed gives the same block."""
        form, weights, mask = self._draw(density, seed)
        return BlockProblem(
            form=form, dense_weights=weights, keep=int(mask.sum()), mode=mode, problem=f"{self.name}/{self.kind}"
        )

    def optimum(self, density: float, mode: Mode, seed: int) -> tuple[BoolArray, float]:
        """An optimal mask of `block(density, mode, seed)` and the optimal value, the same in both modes."""
        form, weights, mask = self._draw(density, seed)
        if self.kind == "cancel":
            return mask, 0.5 * self.ridge * int((~mask).sum())
        return mask, form.value(mask * weights)

    def _draw(self, density: float, seed: int) -> tuple[QuadraticForm, FloatArray, BoolArray]:
        keep = keep_count(density, self.p, f"problem {self.name!r}")
        rng = np.random.default_rng(seed)
        mask = np.zeros(self.p, dtype=np.bool_)
        mask[rng.choice(self.p, size=keep, replace=False)] = True
        factor = rng.standard_normal((self.n, self.p)) / np.sqrt(self.n)
        if self.kind == "sparse":
            weights = rng.standard_normal(self.p)
            curvature = QuadraticForm(factor=factor, ridge=self.ridge)
            linear = curvature.product(weights - mask * weights)
            return QuadraticForm(factor=factor, ridge=self.ridge, linear=linear, centre=weights), weights, mask
        weights = rng.choice([-1.0, 1.0], size=self.p)
        pruned = ~mask
        if pruned.any():
            signed = factor[:, pruned] * weights[pruned]
            factor[:, pruned] = (signed - signed.mean(axis=1, keepdims=True)) * weights[pruned]
        return QuadraticForm(factor=factor, ridge=self.ridge, centre=weights), weights, mask
