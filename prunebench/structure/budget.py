"""How many groups of every family are kept within a budget: cheapest loss per cost first, never above the budget."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.structure.cost import Cost
from prunebench.structure.families import LAYERS, Family, without_parts

ROUNDING = 1e-9
"""Relative slack of a budget for the rounding of its costs."""


@dataclass(frozen=True)
class Steps:
    """How counts may be lowered.

    multiple : kept counts of channels and neurons are multiples of this, where a family has at least as many
    uniform : families of one kind and size keep the same count
    per_cost : otherwise the least score goes first, whatever it costs, as a threshold for all families has it
    """

    multiple: int = 1
    uniform: bool = False
    per_cost: bool = True


@dataclass(frozen=True)
class _Class:
    """Families whose counts go together. numbers : which;  floor : the least count;  step : counts are multiples"""

    numbers: tuple[int, ...]
    floor: int
    step: int


def losses_of(scores: Sequence[FloatArray]) -> list[FloatArray]:
    """By family, what the loss rises by if none, one, two … groups go, those of least score first. float64 (size + 1,)

    scores : what the loss rises by if a group goes, by family
    """
    order = [np.sort(np.asarray(values, dtype=np.float64)) for values in scores]
    return [np.concatenate([[0.0], np.cumsum(values)]) for values in order]


def allocate(
    cost: Cost, families: Sequence[Family], losses: Sequence[FloatArray], limit: float, steps: Steps | None = None
) -> list[int]:
    """Kept counts of every family within a limit.

    Groups go one by one (or some at a time, `steps`), always of the family whose loss rises least for what is saved,
    until the limit is met; then what still fits comes back, dearest first.

    Parameters
    ----------
    losses : by family, what the loss rises by if none, one, two … groups go (`losses_of` scores), (size + 1,)
    limit : in the cost's unit

    Raises
    ------
    InvalidInput   the limit cannot be met
    """
    steps = steps or Steps()
    sums = losses
    classes = together(families, steps)
    counts = [family.size for family in families]
    require_reachable(cost, families, limit, steps)
    total, whole = cost.total(), cost.total()
    terms = [cost.touching(held.numbers) for held in classes]
    near = [[k for k, other in enumerate(terms) if not set(other).isdisjoint(mine)] for mine in terms]
    parts = _parts(families)
    versions = [0] * len(classes)
    queue: list[tuple[float, int, int]] = []

    def push(k: int) -> None:
        move = _lowered(counts, classes[k])
        if move is None:
            return
        lost = sum(_lost(sums[n], families[n].size, counts[n], move) for n in classes[k].numbers)
        # what a branch has lost inside is lost with it, and not twice
        inside = sum(sums[n][families[n].size - counts[n]] for held in classes[k].numbers for n in parts[held])
        lost = max(lost - float(inside), 0.0)
        saved = _saved(cost, terms[k], counts, classes[k], move)
        if saved > 0.0:
            heapq.heappush(queue, (lost / saved if steps.per_cost else lost, k, versions[k]))

    for k in range(len(classes)):
        push(k)
    while total > limit * (1.0 + ROUNDING):
        if not queue:
            raise InvalidInput(f"{limit / whole:.4g} of the {cost.unit} cannot be reached with these families")
        _, k, version = heapq.heappop(queue)
        if version != versions[k]:
            continue
        move = _lowered(counts, classes[k])
        assert move is not None
        total -= _saved(cost, terms[k], counts, classes[k], move)
        for number in classes[k].numbers:
            counts[number] = move
        for other in near[k]:
            versions[other] += 1
            push(other)
    _fill(cost, families, sums, counts, classes, terms, limit)
    return without_parts(families, counts)


def require_reachable(cost: Cost, families: Sequence[Family], limit: float, steps: Steps) -> None:
    """Raise InvalidInput if a limit cannot be met with the least that every family may keep."""
    least = [family.size for family in families]
    for held in together(families, steps):
        for number in held.numbers:
            least[number] = held.floor
    lowest, whole = cost.total(least), cost.total()
    if limit * (1.0 + ROUNDING) < lowest:
        raise InvalidInput(
            f"{limit / whole:.4g} of the {cost.unit} cannot be reached: with the least that every pruned family keeps, "
            f"{lowest / whole:.4g} stays; ask for more, or name more kinds of --structure"
        )


def _fill(
    cost: Cost,
    families: Sequence[Family],
    sums: Sequence[FloatArray],
    counts: list[int],
    classes: Sequence[_Class],
    terms: Sequence[Sequence[int]],
    limit: float,
) -> None:
    """Let groups come back where they fit, those first whose loss is largest."""
    while True:
        total = cost.total(counts)
        best, found = 0.0, None
        gone = without_parts(families, counts)
        for k, held in enumerate(classes):
            # what is a part of a branch that is gone comes back with the branch alone
            if any(counts[n] and not gone[n] for n in held.numbers):
                continue
            now = counts[held.numbers[0]]
            size = families[held.numbers[0]].size
            up = min(size, (now // held.step + 1) * held.step)
            if up == now:
                continue
            tried = list(counts)
            for number in held.numbers:
                tried[number] = up
            if total + cost.part(terms[k], tried) - cost.part(terms[k], counts) > limit * (1.0 + ROUNDING):
                continue
            gain = sum(_lost(sums[n], families[n].size, up, now) for n in held.numbers)
            if found is None or gain > best:
                best, found = gain, tried
        if found is None:
            return
        counts[:] = found


def together(families: Sequence[Family], steps: Steps) -> list[_Class]:
    """Families whose counts go together, each alone where nothing ties them."""
    held: dict[object, list[int]] = {}
    for number, family in enumerate(families):
        key: object = (family.kind, family.size) if steps.uniform and family.kind != LAYERS else number
        held.setdefault(key, []).append(number)
    out = []
    for numbers in held.values():
        family = families[numbers[0]]
        step = steps.multiple if family.kind in ("channels", "neurons") and family.size >= steps.multiple else 1
        out.append(_Class(tuple(numbers), step if family.least else 0, step))
    return out


def _parts(families: Sequence[Family]) -> list[list[int]]:
    """By number of a family, those that are a part of it: what is inside of a residual branch."""
    return [
        [n for n, other in enumerate(families) if not family.least and family.groups[0] in other.within]
        for family in families
    ]


def _lowered(counts: Sequence[int], held: _Class) -> int | None:
    """The next lower count of a class, None if there is none."""
    now = counts[held.numbers[0]]
    below = (now - 1) // held.step * held.step
    return below if below >= held.floor else None


def _lost(sums: FloatArray, size: int, now: int, then: int) -> float:
    """The scores of those that go between two counts."""
    return float(sums[size - then] - sums[size - now])


def _saved(cost: Cost, terms: Sequence[int], counts: Sequence[int], held: _Class, move: int) -> float:
    then = list(counts)
    for number in held.numbers:
        then[number] = move
    return cost.part(terms, counts) - cost.part(terms, then)
