"""Small block problems of known structure: the families on which every solver is tested.

With Gaussian instances alone a published fault (negative pair energies dropped) goes unnoticed, so
most families here have structure: low rank, ties, cancelling and duplicate columns, dead weights.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.cost import Cost
from prunebench.core.keeping import Quota
from prunebench.core.quadratic import QuadraticForm

Columns = Callable[[np.random.Generator, int, int], tuple[FloatArray, FloatArray]]


def _gaussian(rng: np.random.Generator, n: int, p: int) -> tuple[FloatArray, FloatArray]:
    return rng.normal(size=(n, p)), rng.normal(size=p)


def _rank_two(rng: np.random.Generator, n: int, p: int) -> tuple[FloatArray, FloatArray]:
    return rng.normal(size=(n, 2)) @ rng.normal(size=(2, p)), rng.normal(size=p)


def _equal_weights(rng: np.random.Generator, n: int, p: int) -> tuple[FloatArray, FloatArray]:
    return rng.normal(size=(n, p)), np.ones(p)


def _cancelling_pairs(rng: np.random.Generator, n: int, p: int) -> tuple[FloatArray, FloatArray]:
    """Weights 2i and 2i+1 almost cancel: pruning both is cheap, pruning one is dear."""
    columns = rng.normal(size=(n, p))
    half = p // 2
    columns[:, 1 : 2 * half : 2] = columns[:, 0 : 2 * half : 2] + 0.05 * rng.normal(size=(n, half))
    weights = np.abs(rng.normal(size=p)) + 0.5
    weights[1 : 2 * half : 2] = -weights[0 : 2 * half : 2]
    return columns, weights


def _duplicate_columns(rng: np.random.Generator, n: int, p: int) -> tuple[FloatArray, FloatArray]:
    columns = rng.normal(size=(n, p))
    columns[:, p // 2 :] = columns[:, : p - p // 2]
    weights = rng.normal(size=p)
    weights[p // 2 :] = weights[: p - p // 2]
    return columns, weights


def _zero_columns(rng: np.random.Generator, n: int, p: int) -> tuple[FloatArray, FloatArray]:
    columns = rng.normal(size=(n, p))
    columns[:, ::3] = 0.0
    weights = rng.normal(size=p)
    weights[1::4] = 0.0
    return columns, weights


def _zero_rows(rng: np.random.Generator, n: int, p: int) -> tuple[FloatArray, FloatArray]:
    columns = rng.normal(size=(n, p))
    columns[1:] = 0.0
    return columns, rng.normal(size=p)


FAMILIES: dict[str, Columns] = {
    "gaussian": _gaussian,
    "rank-2": _rank_two,
    "equal-weights": _equal_weights,
    "cancelling-pairs": _cancelling_pairs,
    "duplicate-columns": _duplicate_columns,
    "zero-columns": _zero_columns,
    "zero-rows": _zero_rows,
}
"""Synthetic families by name; "digits" beside them cuts real blocks out of a trained network."""


def _uneven(rng: np.random.Generator, p: int) -> Quota:
    """Groups of very different sizes, scattered; one keeps none, one keeps all."""
    group = rng.permutation(np.repeat(np.arange(4), (1, 2, 2, p - 5)))
    return Quota(group, np.array([1, 0, 1, (p - 5) // 2 + 1]))


QUOTAS: dict[str, Callable[[np.random.Generator, int], Quota]] = {
    "rows": lambda rng, p: Quota.rows(2, p // 2, float(rng.integers(1, p // 2)) / (p // 2)),
    "2:4": lambda _, p: Quota.n_m(p, 2, 4),
    "uneven": _uneven,
}
"""Quotas by name; the family "quota-rows" puts the first of them on instances of the other families in turn."""


def _whole_costs(rng: np.random.Generator, p: int) -> Cost:
    """Whole numbers, some weights free, and a limit that masks meet exactly."""
    costs = rng.integers(0, 8, p).astype(np.float64)
    return Cost(costs[None], np.array([max(float(np.rint(rng.uniform(0.2, 0.8) * costs.sum())), float(costs.min()))]))


def _decimal_costs(rng: np.random.Generator, p: int) -> Cost:
    """Tenths, which are no float64 numbers, and as limit the sum of some of them."""
    costs = rng.integers(1, 9, p) / 10.0
    return Cost(costs[None], np.array([costs[rng.permutation(p)[: max(1, p // 2)]].sum()]), ("time",))


def _two_budgets(rng: np.random.Generator, p: int) -> Cost:
    """Two that pull apart: what is dear in one is cheap in the other."""
    costs = rng.uniform(0.5, 4.0, p)
    both = np.stack((costs, 4.5 - costs + 0.1 * rng.random(p)))
    return Cost(both, both.sum(axis=1) * rng.uniform(0.3, 0.7, 2), ("MACs", "bytes"))


BUDGETS: dict[str, Callable[[np.random.Generator, int], Cost]] = {
    "whole": _whole_costs,
    "decimal": _decimal_costs,
    "two": _two_budgets,
}
"""Budgets by name; the family "budget-whole" puts the first of them on instances of the other families in turn."""


def instance(family: str, seed: int, mode: Mode, *, p: int = 8, keep: int | None = None) -> BlockProblem:
    """A block problem of a family, the same for the same arguments.

    Odd seeds have n < p (factor held) and a linear term, even seeds n >= p (hessian held) and none;
    the family "digits" cuts real blocks out of the digits network. A family "quota-…" has the quota of
    that name, and its own `keep`; a family "budget-…" a budget.
    """
    if family.startswith("budget-"):
        return _with_budget(family.removeprefix("budget-"), seed, mode, p)
    if family.startswith("quota-"):
        return _with_quota(family.removeprefix("quota-"), seed, mode, p)
    rng = np.random.default_rng([seed, *family.encode()])
    size = keep if keep is not None else int(rng.integers(1, p)) if p > 1 else 1
    if family == "digits":
        return _digits_block(seed, mode, p, size)
    n = max(2, p // 2) if seed % 2 else p + 3
    columns, weights = FAMILIES[family](rng, n, p)
    factor = columns / np.sqrt(n)
    ridge = 0.01 * float(np.mean(np.sum(factor**2, axis=0))) + 1e-6
    linear = 0.1 * rng.normal(size=p) if seed % 2 else np.zeros(p)
    form = QuadraticForm(factor=factor, ridge=ridge, linear=linear, centre=weights, constant=0.25 * (seed % 3))
    return BlockProblem(form, weights, size, mode, problem=f"{family}/{seed}")


def scaled(block: BlockProblem, loss: float, weights: float) -> BlockProblem:
    """The same problem in other units: f times `loss`, weights times `weights`. The best mask is unchanged."""
    form = block.form
    curvature = loss / weights**2
    return BlockProblem(
        QuadraticForm(
            factor=None if form.factor is None else form.factor * np.sqrt(curvature),
            hessian=None if form.hessian is None else form.hessian * curvature,
            ridge=form.ridge * curvature,
            linear=form.linear * loss / weights,
            centre=form.centre * weights,
            constant=form.constant * loss,
        ),
        block.dense_weights * weights,
        block.keep,
        block.mode,
        quota=block.quota,
        budget=block.budget,
        problem=f"{block.problem} scaled {loss:g}, {weights:g}",
    )


def all_masks(p: int, keep: int) -> Iterator[BoolArray]:
    """Every mask of p weights with `keep` ones."""
    for kept in itertools.combinations(range(p), keep):
        mask = np.zeros(p, dtype=np.bool_)
        mask[list(kept)] = True
        yield mask


def feasible_masks(block: BlockProblem) -> Iterator[BoolArray]:
    """Every feasible mask of a block: with a budget, of all 2^p."""
    sizes = [block.keep] if block.budget is None else range(block.p + 1)
    for size in sizes:
        yield from (mask for mask in all_masks(block.p, size) if block.constraint.feasible(mask))


@dataclass(frozen=True)
class BruteForce:
    """The optimum by evaluating every mask with the block itself: slow, and independent of every solver."""

    mask: BoolArray
    objective: float
    worst: float
    """The objective of the worst mask: with the best one, the problem's scale."""

    @staticmethod
    def of(block: BlockProblem) -> "BruteForce":
        """Evaluate every feasible mask."""
        pairs = [(block.evaluate(mask), mask) for mask in feasible_masks(block)]
        best = min(pairs, key=lambda pair: pair[0])
        return BruteForce(best[1], best[0], max(value for value, _ in pairs))


def _with_quota(name: str, seed: int, mode: Mode, p: int) -> BlockProblem:
    base = list(FAMILIES)[(seed + 3 * list(QUOTAS).index(name)) % len(FAMILIES)]
    quota = QUOTAS[name](np.random.default_rng([seed, *name.encode()]), p)
    block = instance(base, seed, mode, p=p, keep=quota.keep)
    return replace(block, quota=quota, problem=f"{base}/{seed}, quota {name}")


def _with_budget(name: str, seed: int, mode: Mode, p: int) -> BlockProblem:
    base = list(FAMILIES)[(seed + 3 * list(BUDGETS).index(name)) % len(FAMILIES)]
    budget = BUDGETS[name](np.random.default_rng([seed, *name.encode()]), p)
    return replace(instance(base, seed, mode, p=p).with_budget(budget), problem=f"{base}/{seed}, budget {name}")


def _digits_block(seed: int, mode: Mode, p: int, keep: int) -> BlockProblem:
    from prunebench.runs.cut import cut_block

    select = "random" if seed % 2 else "row"
    block = cut_block("digits-mlp", size=p, keep=keep, select=select, mode=mode, curvature={"samples": 128}, seed=seed)
    return block
