"""The kept weights settled: model steps of theirs alone, from more samples than a stage looks at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput, NoCurvature
from prunebench.core.recovery import Recovery, Stand, register
from prunebench.curvature.fisher import fisher_form

if TYPE_CHECKING:
    from prunebench.recovery.movable import MovableNetwork


@register
@dataclass(frozen=True, kw_only=True)
class Settle(Recovery):
    """Move the kept weights to the minimum of a model of the loss, the best of several ridges, while that helps.

    For networks that keep few weights: a model of some thousand samples fits those samples alone where it has
    thousands of weights to move.
    """

    name: ClassVar[str] = "settle"
    summary: ClassVar[str] = "The kept weights move to the minimum of a model of the loss from many samples."
    reserves: ClassVar[bool] = True

    rounds: int = 10
    """Rounds after the last stage; they end when one does not lower the held-out loss."""

    between: int = 2
    """The same after each stage before the last."""

    size: int = 3000
    """More kept weights than this are not settled."""

    samples: int = 15000
    """Calibration samples of a round, one gradient row each, or all that are not held out; a few for each kept weight,
    or the round fits those."""

    ridges: tuple[float, ...] = (0.03, 1.0, 10.0)
    """Ridges of the models tried, relative to the mean of the curvature's diagonal."""

    window: int = 0
    """Where samples are rows of tokens: how many of them a gradient row is from, a window at random; 0: all."""

    def __post_init__(self) -> None:
        for name, least in (("rounds", 0), ("between", 0), ("size", 0), ("samples", 1), ("window", 0)):
            if getattr(self, name) < least:
                raise InvalidInput(
                    f"recovery settle: {name} is {getattr(self, name)!r}; choose a whole number from {least}"
                )
        if self.window == 1:
            raise InvalidInput("recovery settle: window is 1, and no token is predicted in it; choose 2 or more, or 0")
        if not self.ridges or not all(np.isfinite(ridge) and ridge > 0.0 for ridge in self.ridges):
            raise InvalidInput(f"recovery settle: ridges are {self.ridges!r}; give positive numbers, at least one")

    def rounds_after(self, kept: int, total: int, last: bool) -> int:
        """None where too many weights are kept."""
        return 0 if kept > self.size else self.rounds if last else self.between

    def spawn_key(self, first: int, number: int) -> tuple[int, ...]:
        """A round is a step of the run like any other."""
        return (0, first + 1 + number)

    def candidates(self, stand: Stand) -> Sequence[FloatArray]:
        """One point for each ridge; none where the samples have no gradient."""
        network: MovableNetwork = stand.network
        kept, pool = np.flatnonzero(stand.mask), network.division.pool
        positions = np.sort(stand.rng.choice(pool, min(self.samples, pool.size), replace=False))
        with network.windowed(self.window, stand.rng):
            rows, weight = network.rows(positions, 1, kept), network.row_weight
        gradient = rows.mean(axis=0, dtype=np.float64)
        try:
            whole = fisher_form(rows, stand.weights[kept], ridge=1.0, row_weight=weight)
        except NoCurvature:
            return []
        out = []
        for ridge in self.ridges:
            form = whole.with_terms(ridge=ridge * float(whole.ridge[0]), linear=gradient)
            moved = np.zeros_like(stand.weights)
            moved[kept] = form.refit(np.ones(kept.size, dtype=np.bool_))
            out.append(moved)
        return out
