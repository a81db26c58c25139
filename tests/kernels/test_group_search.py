"""Removal paths, exchange descents, and allocation over error curves."""

import itertools

import numpy as np
import pytest

from prunebench.core.errors import InvalidInput
from prunebench.core.stop import Stop, StopKind, never
from prunebench.kernels.groups.allocate import allocate
from prunebench.kernels.groups.descent import GAIN, descend
from prunebench.kernels.groups.path import group_path
from prunebench.testing.groups import FAMILIES, group_instance

CASES = [(family, seed) for family in FAMILIES for seed in range(2)]


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_a_path_drops_the_cheapest_group_each_time_and_values_every_count(family, seed):
    form = group_instance(family, seed).form
    order, values = group_path(form)
    assert sorted(order) == list(range(form.groups))
    scale = 1e-9 * abs(form.constant) + 1e-300
    kept = np.ones(form.groups, bool)
    for step, group in enumerate(order):
        assert values[form.groups - step] == pytest.approx(form.value(kept), abs=scale)
        costs = form.drop_costs(kept)
        assert costs[group] <= np.nanmin(costs) + scale
        kept[group] = False
    assert values[0] == form.constant
    assert (np.diff(values) <= scale).all()


def test_a_path_that_is_stopped_still_values_every_count():
    form = group_instance("correlated", 0).form
    order, values = group_path(form, lambda spent: Stop(StopKind.TIME, "") if spent >= 3 else None)
    full = group_path(form)
    assert np.array_equal(order[:3], full.order[:3])
    kept = np.zeros(form.groups, bool)
    for count, group in enumerate(order[::-1], start=1):
        kept[group] = True
        assert values[count] == pytest.approx(form.value(kept), rel=1e-9)


@pytest.mark.parametrize("improvement", ["first", "best"])
@pytest.mark.parametrize(("family", "seed"), CASES)
def test_where_a_descent_ends_no_exchange_gains(family, seed, improvement):
    block = group_instance(family, seed)
    start = block.top_mask(np.random.default_rng(seed).random(block.p))
    end = descend(block.form, start, improvement, never)
    assert end.locally_optimal
    assert int(end.mask.sum()) == block.keep
    scale = 1e-9 * abs(block.form.constant)
    assert end.value == pytest.approx(block.form.value(end.mask), abs=scale)
    assert end.value <= block.form.value(start) + scale
    for leaving, entering in itertools.product(np.flatnonzero(end.mask), np.flatnonzero(~end.mask)):
        other = end.mask.copy()
        other[[leaving, entering]] = False, True
        assert block.form.value(other) >= end.value - GAIN * abs(end.value) - scale


def test_a_descent_that_is_stopped_claims_no_local_optimum():
    block = group_instance("correlated", 0)
    end = descend(block.form, block.incumbent, "first", lambda _: Stop(StopKind.TIME, "limit"))
    assert not end.locally_optimal
    assert np.array_equal(end.mask, block.incumbent)


def test_allocation_is_the_best_of_all_choices():
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(1, 5, rng.integers(1, 5))
        values = [rng.normal(size=size) for size in sizes]
        unit = int(rng.integers(1, 4))
        costs = [rng.integers(0, 9, size) * unit for size in sizes]
        least, most = sum(int(cost.min()) for cost in costs), sum(int(cost.max()) for cost in costs)
        budget = int(rng.integers(least, most + 2))
        found = allocate(values, costs, budget)
        best = min(
            sum(value[point] for value, point in zip(values, choice, strict=True))
            for choice in itertools.product(*map(range, sizes))
            if sum(cost[point] for cost, point in zip(costs, choice, strict=True)) <= budget
        )
        assert found.value == pytest.approx(best)
        assert found.cost == sum(int(cost[point]) for cost, point in zip(costs, found.choice, strict=True)) <= budget


def test_among_equal_allocations_the_cheapest_wins():
    found = allocate([[1.0, 1.0, 0.0], [2.0, 2.0]], [[5, 3, 9], [4, 1]], 8)
    assert (found.choice.tolist(), found.cost) == ([1, 1], 4)


def test_no_curve_is_an_empty_allocation():
    assert allocate([], [], 3).cost == 0


@pytest.mark.parametrize(
    ("values", "costs", "budget", "words"),
    [
        ([[1.0, 0.0]], [[3, 4]], 2, "costs 3; raise it"),
        ([[1.0, np.nan]], [[0, 1]], 2, "values of curve 0 holds nan"),
        ([[1.0]], [[0.5]], 2, "whole numbers"),
        ([[1.0]], [[-1]], 2, "whole numbers of 0 or more"),
        ([[1.0, 2.0]], [[1]], 2, "one cost a value"),
        ([[1.0, 0.0]], [[1, 10**12]], 10**12, "round the costs up"),
    ],
)
def test_curves_that_cannot_be_allocated_are_refused(values, costs, budget, words):
    if "round" in words:
        values, costs = [*values, [1.0, 0.0]], [*costs, [0, 10**12 - 7]]
    with pytest.raises(InvalidInput, match=words):
        allocate(values, costs, budget)
