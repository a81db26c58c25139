"""How many groups of every family stay, by a rule for the part of each: uniform, or as the layers' densities say."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.structure.budget import ROUNDING, Steps, require_reachable, together
from prunebench.structure.cost import Cost
from prunebench.structure.families import Family

UNIFORM_STEPS = 1000
"""Parts that are tried for a uniform allocation: families of up to a thousand groups change by one from each to the
next."""

FADING = 0.9
"""Where the last densities of a rule still cost too much, its parts are multiplied with this until they do not."""

FADES = 100
"""How often that is done: after it less than a group is left of every family, and each keeps its least count."""


def by_shares(
    cost: Cost, families: Sequence[Family], shares: Iterable[FloatArray], limit: float, steps: Steps | None = None
) -> list[int]:
    """Kept counts of every family: of these parts, given from dense to sparse, the first that meets the limit.

    Counts are rounded down to what `steps` lets them be; then each family is rounded up where that fits, those first
    that lost most by rounding.

    Parameters
    ----------
    shares : the part of every family that is kept, (families,) each;  limit : in the cost's unit

    Raises
    ------
    InvalidInput   the limit cannot be met
    """
    steps = steps or Steps()
    require_reachable(cost, families, limit, steps)
    most = limit * (1.0 + ROUNDING)
    held = together(families, steps)
    sizes = np.array([family.size for family in families])
    counts = [family.size for family in families]
    wanted = sizes.astype(np.float64)
    for share in _faded(shares):
        wanted = sizes * np.clip(share, 0.0, 1.0)
        for item in held:
            asked = float(np.mean(wanted[list(item.numbers)]))
            # a rounding error must not cost a group
            number = max(item.floor, math.floor(asked / item.step + 1e-9) * item.step)
            for k in item.numbers:
                counts[k] = min(number, families[k].size)
        if cost.total(counts) <= most:
            break
    lost = {n: float(np.mean(wanted[list(item.numbers)])) - counts[item.numbers[0]] for n, item in enumerate(held)}
    for n in sorted(lost, key=lambda n: -lost[n]):
        item = held[n]
        up = min(families[item.numbers[0]].size, (counts[item.numbers[0]] // item.step + 1) * item.step)
        tried = list(counts)
        for k in item.numbers:
            tried[k] = up
        if lost[n] > 0.0 and cost.total(tried) <= most:
            counts = tried
    return counts


def uniform_shares(families: Sequence[Family]) -> Iterator[FloatArray]:
    """The same part of every family, from all to none."""
    for k in range(UNIFORM_STEPS, -1, -1):
        yield np.full(len(families), k / UNIFORM_STEPS)


def density_shares(families: Sequence[Family], densities: Iterable[Mapping[str, float]]) -> Iterator[FloatArray]:
    """Parts of families that leave every weight the density that a rule gives it, as near as can be.

    A weight between two families has the density that is the product of their parts. Logarithms make that a
    least-squares problem over all weights; parts above 1 become 1. Cai et al. (PreCropping: Structured Pruning is All
    You Need for Pruning CNNs at Initialization, 2022) crop channels so that layers have the densities that pruning of
    weights gives them.

    densities : by weight, from dense to sparse
    """
    touched = [{name for name, _ in family.members} for family in families]
    for density in densities:
        names = [name for name in density if any(name in held for held in touched)]
        table = np.array(
            [[float(sum(part == name for part, _ in family.members)) for family in families] for name in names]
        )
        goal = np.log(np.maximum([density[name] for name in names], 1e-12))
        found = np.linalg.lstsq(table, goal, rcond=None)[0]
        yield np.minimum(np.exp(found), 1.0)


def _faded(shares: Iterable[FloatArray]) -> Iterator[FloatArray]:
    last = None
    for share in shares:
        last = share
        yield share
    if last is not None:
        for k in range(1, FADES + 1):
            yield last * FADING**k
