"""How many groups every family keeps within a part of the dense network's time.

By a table of measured times, every family has a curve: what is saved at which count, and what the loss rises by. One
point of every curve is chosen exactly (a multiple-choice knapsack), so that the sum of times is within the budget. The
sum is a model, so the network is measured, and the budget of the model moved until the measured time fits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.kernels.groups.allocate import MOST_CELLS
from prunebench.kernels.groups.allocate import allocate as choose
from prunebench.structure.budget import Steps
from prunebench.structure.families import LAYERS, Family, without_parts
from prunebench.structure.latency import LatencyTable, Measured

UNITS = 20_000
"""Parts that a budget of time is planned in: what rounding up may waste is less than a family's noise."""

ROUNDS = 5
"""Networks that are chosen and measured at most: the model is off by some per cent, and each round takes most of it."""

ROOM, CLOSE = 0.99, 0.97
"""Measured times between these parts of what is asked for are taken: below, since medians repeat to a per cent and the
network's time at the end is to be within what was asked for."""


@dataclass(frozen=True)
class Point:
    """One choice for families that are chosen together.

    lost : what the loss rises by;  saved : milliseconds;  counts : kept, by number of family
    """

    lost: float
    saved: float
    counts: Mapping[int, int]


@dataclass(frozen=True)
class Timed:
    """Counts within a budget of time.

    counts : kept, by family;  predicted : the part of the dense time by the table's sum;  measured : of the network
    """

    counts: list[int]
    predicted: float
    measured: Measured


def within_time(
    table: LatencyTable,
    families: Sequence[Family],
    scores: Sequence[FloatArray],
    part: float,
    steps: Steps,
    measure: Callable[[Sequence[int]], Measured],
) -> Timed:
    """Counts of least loss whose measured time is at most a part of the dense network's, as near to it as some rounds
    come; where none is, those of the least time that was found.

    Parameters
    ----------
    scores : what the loss rises by if a group goes, by family
    measure : the time of a network with these counts; asked only for what the table has not

    Raises
    ------
    InvalidInput   the least that families may keep is above the budget, by the table
    """
    curves = curves_of(table, families, scores, steps)
    require_time(table, curves, part)
    aim, found = part, list[tuple[float, Timed]]()
    for _ in range(ROUNDS):
        try:
            counts, saved, lost = planned(table, families, curves, aim)
        except InvalidInput:
            if not found:
                raise
            break
        held = table.known(counts)
        if held is None:
            held = measure(counts)
            table.networks.append(held)
        repeated = any(counts == before.counts for _, before in found)
        found.append((lost, Timed(counts, 1.0 - saved / table.dense_ms, held)))
        if repeated or CLOSE * part <= held.part <= ROOM * part:
            break
        aim *= 0.5 * (ROOM + CLOSE) * part / held.part
    fitting = [item for item in found if item[1].measured.part <= ROOM * part]
    fitting = fitting or [item for item in found if item[1].measured.part <= part]
    if fitting:
        return min(fitting, key=lambda item: item[0])[1]
    return min((item[1] for item in found), key=lambda item: item.measured.part)


def require_time(table: LatencyTable, curves: Sequence[Sequence[Point]], part: float) -> None:
    """Raise InvalidInput if a part of the dense time cannot be met by the table's sum."""
    least = 1.0 - sum(max(point.saved for point in curve) for curve in curves) / table.dense_ms
    if part < least:
        raise InvalidInput(
            f"{part:.4g} of the time cannot be reached: by the table, {least:.4g} stays with the least that every "
            "pruned family keeps; ask for more, or name more kinds of --structure"
        )


def planned(
    table: LatencyTable, families: Sequence[Family], curves: Sequence[Sequence[Point]], part: float
) -> tuple[list[int], float, float]:
    """The choice of least loss whose sum of times is within a part of the dense time, exactly but for UNITS.

    Returns
    -------
    counts by family, the milliseconds saved, what the loss rises by

    Raises
    ------
    InvalidInput   there is none
    """
    unit = table.dense_ms / min(UNITS, MOST_CELLS // (2 * len(curves)))
    most = [max(point.saved for point in curve) for curve in curves]
    # a curve's cost is what it saves less than it could, rounded up, so that the budget is never exceeded
    costs = [
        np.array([math.ceil((top - point.saved) / unit) for point in curve], dtype=np.int64)
        for top, curve in zip(most, curves, strict=True)
    ]
    room = math.floor((part * table.dense_ms - (table.dense_ms - sum(most))) / unit)
    if room < 0:
        raise InvalidInput(f"{part:.4g} of the time cannot be reached with these families")
    chosen = choose([[point.lost for point in curve] for curve in curves], costs, room)
    points = [curve[int(k)] for curve, k in zip(curves, chosen.choice, strict=True)]
    counts = {number: count for point in points for number, count in point.counts.items()}
    kept = [counts.get(number, family.size) for number, family in enumerate(families)]
    return without_parts(families, kept), math.fsum(p.saved for p in points), math.fsum(p.lost for p in points)


def curves_of(
    table: LatencyTable, families: Sequence[Family], scores: Sequence[FloatArray], steps: Steps
) -> list[list[Point]]:
    """The curves to choose from: families one by one, or all of a kind and size; what is inside of a branch goes with
    it.

    Raises
    ------
    InvalidInput   families are to be uniform and are inside of branches that may go
    """
    own = [_curve(table, number, family, scores[number], steps.multiple) for number, family in enumerate(families)]
    inner = _innermost(families)
    if steps.uniform:
        if inner:
            raise InvalidInput("--uniform and layers cannot both be within a budget of time; leave one of them out")
        together: dict[object, list[int]] = {}
        for number, family in enumerate(families):
            together.setdefault(number if family.kind == LAYERS else (family.kind, family.size), []).append(number)
        return [_same([own[number] for number in numbers]) for numbers in together.values()]

    def whole(number: int) -> list[Point]:
        parts = [whole(child) for child, parent in inner.items() if parent == number]
        if not parts:
            return own[number]
        kept = [Point(0.0, 0.0, {number: 1})]
        for curve in parts:
            kept = _hull([_joined((one, other)) for one in kept for other in curve])
        return _hull([*kept, *(point for point in own[number] if not point.counts[number])])

    return [whole(number) for number in range(len(families)) if number not in inner]


def _curve(table: LatencyTable, number: int, family: Family, scores: FloatArray, multiple: int) -> list[Point]:
    """A family alone: counts that save more than larger ones do."""
    lost = np.concatenate([[0.0], np.cumsum(np.sort(np.asarray(scores, dtype=np.float64)))])
    counted = family.kind in ("channels", "neurons") and family.size >= multiple
    return [
        Point(float(lost[family.size - count]), saved, {number: count})
        for count, saved in table.hull(family).items()
        if count == family.size or not counted or count % multiple == 0
    ]


def _innermost(families: Sequence[Family]) -> dict[int, int]:
    """By number of a family that is inside of pruned branches, that of the smallest of them."""
    branches = {family.groups[0]: number for number, family in enumerate(families) if family.kind == LAYERS}
    out = {}
    for number, family in enumerate(families):
        around = [branches[base] for base in family.within if base in branches]
        if around:
            # the innermost has all the others around it
            out[number] = max(around, key=lambda k: len([base for base in families[k].within if base in branches]))
    return out


def _same(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """Families that keep the same count: one curve of their sums, over the counts that all of them have."""
    by_count = [{next(iter(point.counts.values())): point for point in curve} for curve in curves]
    shared = sorted(set.intersection(*(set(held) for held in by_count)), reverse=True)
    return _hull([_joined([held[count] for held in by_count]) for count in shared])


def _joined(points: Sequence[Point]) -> Point:
    counts = {number: count for point in points for number, count in point.counts.items()}
    return Point(math.fsum(p.lost for p in points), math.fsum(p.saved for p in points), counts)


def _hull(points: Sequence[Point]) -> list[Point]:
    """The points that no other is better than in both, in rising loss."""
    out: list[Point] = []
    for point in sorted(points, key=lambda item: (item.lost, -item.saved)):
        if not out or point.saved > out[-1].saved:
            out.append(point)
    return out
