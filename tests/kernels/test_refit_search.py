"""The iterated search of small blocks in mode refit: optimal where that is known, within groups and budgets."""

import itertools

import numpy as np
import pytest

from prunebench import BlockProblem, Budget, QuadraticForm, Quota, solve
from prunebench.core.incumbent import Incumbent
from prunebench.core.stop import never
from prunebench.kernels.local_search import descent, refit_rows
from prunebench.kernels.local_search.refit_search import AGREEING
from prunebench.testing.instances import BruteForce, instance


def few_rows(seed: int, p: int = 22, keep: int = 7, n: int = 9) -> BlockProblem:
    """Few samples and few kept weights: one descent seldom finds the optimum."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n, p)) / np.sqrt(n)
    weights = rng.standard_t(4, size=p)
    return BlockProblem(QuadraticForm(factor=factor, ridge=1e-3, centre=weights), weights, keep, "refit")


def ends(block: BlockProblem, seed: int, budget: Budget | None = None) -> list[descent.DescentResult]:
    best = Incumbent(block, budget)
    return list(descent.search(block, block.incumbent, best, np.random.default_rng(seed)))


@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_the_optimum_of_every_small_block(seed):
    block = instance("gaussian", seed, "refit", p=14, keep=4)
    assert solve(block, "swap").objective == pytest.approx(BruteForce.of(block).objective, rel=1e-9)


@pytest.mark.parametrize("seed", [0, 6, 10])
def test_the_search_finds_what_ten_descents_miss(seed):
    block = few_rows(seed)
    optimum = solve(block, "exhaustive").objective
    assert solve(block, "swap", options={"restarts": 10}).objective > 1.1 * optimum
    assert solve(block, "swap").objective == pytest.approx(optimum, rel=1e-9)


def test_walks_that_agree_end_the_search():
    block = instance("gaussian", 0, "refit", p=14, keep=4)
    values = [block.evaluate(end.mask) for end in ends(block, 0)]
    assert sum(value == pytest.approx(min(values), rel=1e-9) for value in values) == AGREEING


def test_a_quota_holds_in_every_mask_and_its_optimum_is_found():
    groups = np.repeat(np.arange(4), 4)
    rng = np.random.default_rng(3)
    weights = rng.normal(size=16)
    form = QuadraticForm(factor=rng.normal(size=(6, 16)), ridge=1e-2, centre=weights)
    order = rng.permutation(16)
    block = BlockProblem(form, weights, 6, "refit", quota=Quota(groups[order], np.array([1, 2, 2, 1])))
    found = ends(block, 0)
    assert all(np.bincount(groups[order][end.mask]).tolist() == [1, 2, 2, 1] for end in found)
    exact = solve(block, "exhaustive").objective
    assert min(block.evaluate(end.mask) for end in found) == pytest.approx(exact, rel=1e-9)


def test_a_seed_gives_one_answer_and_a_budget_of_evaluations_is_kept():
    block = few_rows(0)
    first, again = ends(block, 5), ends(block, 5)
    assert [end.mask.tobytes() for end in first] == [end.mask.tobytes() for end in again]
    limit = 50.0 * 7 * 15
    spent = sum(end.evaluations for end in ends(block, 5, Budget(evaluations=limit)))
    # the last scan may begin just before the limit, and at most one descent of one scan follows it
    assert 0.9 * limit <= spent <= limit + 2 * 7 * 15


@pytest.mark.parametrize("seed", range(3))
def test_columns_that_are_collinear_to_rounding_end_walks_but_not_the_search(seed):
    rng = np.random.default_rng(seed)
    form = QuadraticForm(factor=rng.normal(size=(8, 40)), ridge=1e-14, centre=np.ones(40))
    block = BlockProblem(form, np.ones(40), 10, "refit")
    found = solve(block, "swap")
    assert found.objective <= 1.01 * solve(block, "swap", options={"restarts": 10}).objective
    assert found.details["descents"] >= AGREEING


def test_every_walks_end_is_proved_to_be_a_local_optimum():
    block = few_rows(0)
    for end in ends(block, 1):
        assert end.locally_optimal
        kept, pruned = np.flatnonzero(end.mask), np.flatnonzero(~end.mask)
        value = block.evaluate(end.mask)
        for leaving, entering in itertools.product(kept, pruned):
            other = end.mask.copy()
            other[leaving], other[entering] = False, True
            assert block.evaluate(other) >= value * (1 - 1e-9)


def test_a_share_of_the_work_ends_the_search_earlier():
    block, best = few_rows(0), Incumbent(few_rows(0))
    few = sum(end.moves for end in descent.search(block, block.incumbent, best, np.random.default_rng(0), share=0.01))
    assert 0 < few < sum(end.moves for end in ends(block, 0)) / 2


def test_a_budget_that_ends_inside_a_walks_first_descent_ends_the_search():
    block = few_rows(0)
    for limit in (1.0, 106.0, 400.0):
        assert solve(block, "swap", budget=Budget(evaluations=limit)).mask.sum() == 7


def test_blocks_of_hundreds_of_weights_are_searched_by_default_and_far_below_single_descents():
    rng = np.random.default_rng(0)
    factor, weights = rng.normal(size=(60, 300)), rng.standard_t(4, size=300)
    block = BlockProblem(QuadraticForm(factor=factor, ridge=1e-2, centre=weights), weights, 40, "refit")
    budget = Budget(evaluations=2e7)
    searched = solve(block, "swap", budget=budget, seed=0).objective
    assert searched < 0.9 * solve(block, "swap", options={"restarts": 3}, budget=budget, seed=0).objective


def test_the_state_at_the_end_of_a_descent_is_handed_out_once_and_only_for_its_support():
    block = instance("gaussian", 1, "refit", p=14, keep=4)
    search, _ = descent._refit_descent(block)
    mask = block.incumbent.copy()
    search.run(mask, never, np.inf)
    end, other = np.flatnonzero(mask), np.flatnonzero(block.top_mask(-np.abs(block.dense_weights)))
    assert not np.array_equal(end, other)
    np.testing.assert_array_equal(search.at(other).table, refit_rows.fresh(search.matrix, other).table)
    search.run(mask, never, np.inf)
    held = search.at(end)
    np.testing.assert_array_equal(held.table, refit_rows.fresh(search.matrix, end).table)
    held.table[:] = np.nan
    np.testing.assert_array_equal(search.at(end).table, refit_rows.fresh(search.matrix, end).table)
