"""Iterated swap descent on a small block in mode refit: many short walks among local optima, from many starts.

A walk repeats a kick of two random exchanges and a descent; a local optimum replaces the last if it is not
much worse (Lourenço, Martin, Stützle: Iterated local search, 2003, with a threshold for acceptance). A walk ends when
it has found nothing better for a while, which grows from walk to walk, and the next begins at a random mask. Where
several walks end equally low, the search ends early: easy blocks take a fraction of the time, and only those with many
deep local optima (few samples, few kept weights) all of the work.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError

from prunebench.core.arrays import BoolArray, IndexArray
from prunebench.core.stop import StopCheck
from prunebench.kernels.local_search import refit_rows
from prunebench.kernels.local_search.refit_kernel import RefitDescent

KICK = 2
"""Random exchanges of a kick. A descent can undo one; after three it found fewer of the optima."""
WORSE = 0.02
"""A local optimum may be worse than the last by this share of what the last is above the unconstrained minimum. With
.05 and kicks of two or three exchanges, five of 72 searches of blocks of 64 and 128 weights ended more than .1 % above
the best known; with .02 and two exchanges, two."""
WORK = 7e8
"""Most exchanges, times the k·p operations of one: some .9 s on one core."""
MOST_MOVES = 390_000
"""Most exchanges, which take as long on blocks of 64 weights."""
PATIENCE, LEAST_PATIENCE = 4, 512
"""The first walk ends after PATIENCE exchanges a weight, and at least so many, without a better local optimum; the
second after twice that, and so on."""
AGREEING = 16
"""Walks that must end at the lowest value found to end the search. A wide basin can hold most walks while the optimum
is elsewhere: on one block of 64 weights ten of the first twelve ended a fifth above it."""
SAME = 1e-10
"""Relative difference of two values of f − f(0) up to which they count as equal."""
MOVES_AT_ONCE = 512
"""Exchanges between two computations of the state anew."""
FRESH_MOVES = 50
"""The cost of such a computation, in exchanges: what a walk that it ends is charged."""


class WalkEnd(NamedTuple):
    """The lowest local optimum of one walk: mask (p,), exchanges made and swaps examined in the walk."""

    mask: BoolArray
    moves: int
    evaluations: float


class _Walk:
    """One walk: `value` and `kept` are its lowest local optimum, 2 (f − f(0)), inf without one, and the support."""

    def __init__(self, descent: RefitDescent, seed: int, floor: float) -> None:
        self._descent, self._floor = descent, floor
        self._draws = refit_rows.seeded(seed)
        self.moves, self.evaluations, self.idle = 0, 0.0, 0
        self.value = np.inf

    def start(self, mask: BoolArray, stop: StopCheck, left: float) -> None:
        """Descend from a mask, which gives the first local optimum; `stop` is given the swaps examined."""
        out = mask.copy()
        moves, tried, _, _ = self._descent.run(out, stop, left)
        self.moves, self.evaluations = self.moves + moves, self.evaluations + tried
        self.kept = np.flatnonzero(out)
        self._held = refit_rows.fresh(self._descent.matrix, self.kept)
        self.value = self._held.value

    def go_on(self, most: int, left: float) -> None:
        """At most `most` exchanges and a descent; `idle` counts those since the lowest local optimum."""
        descent = self._descent
        state = refit_rows.State(np.empty_like(self._held.table), self._held.kept.copy())
        limits = refit_rows.Limits(
            most, left, min(KICK, self.kept.size), WORSE, self._floor, self.value - SAME * abs(self.value)
        )
        made, tried, _ = refit_rows.walk(
            descent.matrix, state, self._held, descent.ranges, descent.spaces, limits, self._draws
        )
        self.moves, self.evaluations, self.idle = self.moves + made, self.evaluations + tried, self.idle + made
        self._held = refit_rows.fresh(descent.matrix, np.sort(self._held.kept))
        if self._held.value < self.value - SAME * abs(self.value):
            self.value, self.kept, self.idle = self._held.value, self._held.kept.copy(), 0


def walks(
    descent: RefitDescent,
    first: BoolArray,
    draw: Callable[[], BoolArray],
    rng: np.random.Generator,
    stop: StopCheck,
    max_evaluations: float,
    share: float = 1.0,
) -> Iterator[WalkEnd]:
    """Walks until AGREEING of them end at the lowest value, the work is done, or `stop` says why to stop.

    Parameters
    ----------
    descent : on the block's matrix
    first : bool (p,)        where the first walk begins
    draw : a random feasible mask for each further walk
    stop : given the swaps examined, why to stop now, or None
    max_evaluations : no scan begins after this many swaps examined
    share : of the work that is done at most
    """
    size, count = first.size, int(first.sum())
    patience = max(PATIENCE * size, LEAST_PATIENCE)
    left = int(share * min(MOST_MOVES, WORK / (size * count)))
    floor = _floor(descent)
    lowest, agreeing, evaluations, number = np.inf, 0, 0.0, 0
    while left > 0 and agreeing < AGREEING and not stop(evaluations) and evaluations < max_evaluations:
        number += 1
        walk = _Walk(descent, int(rng.integers(2**62)), floor)
        try:
            spent = evaluations
            walk.start(
                first if number == 1 else draw(),
                lambda made, spent=spent: stop(spent + made),  # type: ignore[misc]  # bound now
                max_evaluations - evaluations,
            )
            while walk.idle < number * patience and walk.moves < left:
                if stop(evaluations + walk.evaluations) or evaluations + walk.evaluations >= max_evaluations:
                    break
                most = min(MOVES_AT_ONCE, left - walk.moves, number * patience - walk.idle)
                walk.go_on(most, max_evaluations - evaluations - walk.evaluations)
        except LinAlgError:
            # singular in floating point: this walk goes no further, the next begins elsewhere
            walk.moves += FRESH_MOVES
        left, evaluations = left - max(walk.moves, 1), evaluations + walk.evaluations
        if not np.isfinite(walk.value):
            continue
        if walk.value < lowest - SAME * abs(lowest) or not np.isfinite(lowest):
            lowest, agreeing = walk.value, 1
        elif walk.value <= lowest + SAME * abs(lowest):
            agreeing += 1
        yield WalkEnd(_mask(size, walk.kept), walk.moves, walk.evaluations)


def _floor(descent: RefitDescent) -> float:
    """2 (f − f(0)) of the best weights without any constraint; −inf if H is singular in floating point."""
    try:
        return refit_rows.fresh(descent.matrix, np.arange(descent.matrix.shape[0] - 1)).value
    except LinAlgError:
        return -np.inf


def _mask(size: int, kept: IndexArray) -> BoolArray:
    out = np.zeros(size, dtype=np.bool_)
    out[kept] = True
    return out
