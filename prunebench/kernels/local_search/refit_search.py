"""Tabu search on a small block in mode refit: many walks from many starts.

A walk takes the best swap again and again, also where that raises f, and weights that were just exchanged stay as they
are for some moves, so that it leaves every local optimum by another way than it came (Glover: Tabu search, part I, ORSA
Journal on Computing 1, 1989). A walk ends when it has found nothing better for a while, which grows from walk to walk,
and the next begins at a random mask. Where several walks end equally low, the search ends early: easy blocks take a
fraction of the time, and only those with many deep local optima (few samples, few kept weights) all of the work.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError

from prunebench.core.arrays import BoolArray, IndexArray
from prunebench.core.stop import StopCheck
from prunebench.kernels.local_search import refit_kernel, refit_rows
from prunebench.kernels.local_search.refit_kernel import RefitDescent

STAY, AWAY = 1, 4
"""A weight that entered may not leave for 1 or 2 moves, one that left not return for 4 to 8."""
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
MOVES_AT_ONCE = 256
"""Most exchanges between two computations of the state anew."""
FRESH_MOVES = 50
"""The cost of such a computation, in exchanges: what a walk that it ends is charged."""


class WalkEnd(NamedTuple):
    """The lowest point of one walk: mask (p,), exchanges made and swaps examined in the walk."""

    mask: BoolArray
    moves: int
    evaluations: float


class _Walk:
    """One walk: `value` and `kept` are its lowest point, 2 (f − f(0)), inf without one, and the support."""

    def __init__(self, descent: RefitDescent, seed: int) -> None:
        self._descent = descent
        self._draws = refit_rows.seeded(seed)
        self._banned = np.zeros(descent.ranges.shape[1], np.int64)
        self.moves, self.evaluations, self.idle = 0, 0.0, 0
        self.value = np.inf
        self._drifted = False

    def start(self, mask: BoolArray, stop: StopCheck, left: float) -> None:
        """Descend from a mask; `stop` is given the swaps examined."""
        out = mask.copy()
        moves, tried, _, _ = self._descent.run(out, stop, left)
        self.moves, self.evaluations = self.moves + moves, self.evaluations + tried
        self._state = self._descent.at(np.flatnonzero(out))
        self.value, self.kept = self._state.value, self._state.kept.copy()

    def go_on(self, most: int, left: float) -> None:
        """At most `most` exchanges; `idle` counts those since the lowest point, as far as it was found before."""
        descent, lowest = self._descent, self.kept.copy()
        if self._drifted:
            self._state = descent.at(np.sort(self._state.kept))
        self._drifted = True
        limits = refit_rows.Limits(most, left, STAY, AWAY, self.value - SAME * abs(self.value))
        made, tried, found = refit_rows.walk(
            descent.matrix, self._state, lowest, descent.ranges, descent.spaces, limits, self._draws, self._banned,
            self.moves,
        )  # fmt: skip
        self.moves, self.evaluations, self.idle = self.moves + made, self.evaluations + tried, self.idle + made
        if found:
            value = descent.at(np.sort(lowest)).value
            if value < self.value - SAME * abs(self.value):
                self.value, self.kept, self.idle = value, np.sort(lowest), 0


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
    at_once = min(MOVES_AT_ONCE, refit_kernel.moves_at_once(size, count))
    lowest, agreeing, evaluations, number = np.inf, 0, 0.0, 0
    while left > 0 and agreeing < AGREEING and not stop(evaluations) and evaluations < max_evaluations:
        number += 1
        walk = _Walk(descent, int(rng.integers(2**62)))
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
                most = min(at_once, left - walk.moves, number * patience - walk.idle)
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


def _mask(size: int, kept: IndexArray) -> BoolArray:
    out = np.zeros(size, dtype=np.bool_)
    out[kept] = True
    return out
