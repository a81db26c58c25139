"""The solvers that every other one is measured against: magnitude, exhaustive, swap."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import InvalidInput, SolverRefused
from prunebench.core.masks import top_mask
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Budget, Status
from prunebench.core.solver import make_solver
from prunebench.scores import score
from prunebench.solving import solve
from prunebench.testing.instances import FAMILIES, BruteForce, instance, scaled

MODES: tuple[Mode, ...] = ("select", "refit")
NAMES = ("magnitude", "exhaustive", "swap")
UNITS = [(1e-12, 1.0), (1e12, 1.0), (1.0, 1e-12), (1.0, 1e12)]
families = st.sampled_from(sorted(FAMILIES))
seeds = st.integers(0, 10_000)


def scale_of(block: BlockProblem) -> float:
    return abs(block.random_mean()) + abs(block.evaluate(block.incumbent)) + abs(block.form.value(np.zeros(block.p)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0, 1, 7, 8])
def test_every_keep_count_is_kept_exactly(name, mode, keep):
    solution = solve(instance("gaussian", 1, mode, p=8, keep=keep), name)
    assert solution.mask.sum() == keep


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0, 1])
def test_a_block_of_one_weight_is_solved(name, mode, keep):
    form = QuadraticForm(factor=np.array([[2.0]]), ridge=0.5, centre=np.array([1.5]))
    solution = solve(BlockProblem(form, np.array([1.5]), keep, mode), name)
    assert solution.objective == pytest.approx(0.0 if keep else 0.5 * 4.5 * 1.5**2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_a_solver_without_time_gives_a_feasible_mask(name, mode):
    block = instance("gaussian", 1, mode, p=10, keep=4)
    solution = solve(block, name, budget=Budget(seconds=0))
    assert solution.mask.sum() == 4
    assert solution.objective <= block.evaluate(block.incumbent)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_the_start_mask_is_never_made_worse(name, mode):
    block = instance("cancelling-pairs", 1, mode, p=10, keep=4)
    start = BruteForce.of(block).mask
    solution = solve(block.with_start(start), name, budget=Budget(seconds=0))
    assert np.array_equal(solution.mask, start)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_answer(name, mode):
    options = {"score": "random"} if name == "magnitude" else {}
    block = instance("gaussian", 2, mode, p=12, keep=5)
    first, second = (solve(block, name, options=options, seed=3) for _ in range(2))
    assert np.array_equal(first.mask, second.mask)
    assert first.objective == second.objective


@pytest.mark.parametrize("name", ["obd", "wanda", "diagonal-change", "gradient"])
def test_magnitude_keeps_the_top_of_the_score_it_is_told(name):
    block = instance("gaussian", 1, "select", p=12, keep=5)
    expected = top_mask(score(name, block.form, block.dense_weights), 5)
    assert np.array_equal(solve(block, "magnitude", options={"score": name}).mask, expected)


def test_equal_scores_do_not_change_the_count():
    block = instance("equal-weights", 1, "select", p=9, keep=4)
    assert np.array_equal(solve(block, "magnitude").mask, np.arange(9) < 4)


def test_a_random_score_depends_on_the_seed():
    block = instance("gaussian", 1, "select", p=30, keep=10)
    masks = [solve(block, "magnitude", options={"score": "random"}, seed=seed).mask for seed in range(2)]
    assert not np.array_equal(*masks)


def test_an_unknown_score_is_refused_with_the_known_ones():
    with pytest.raises(SolverRefused, match="magnitude, obd"):
        solve(instance("gaussian", 1, "select"), "magnitude", options={"score": "size"})


def test_the_gradient_score_is_refused_without_a_linear_term():
    with pytest.raises(SolverRefused, match="linear term"):
        solve(instance("gaussian", 2, "select"), "magnitude", options={"score": "gradient"})


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None)
@given(families, seeds)
def test_exhaustive_finds_what_evaluating_every_mask_finds(mode, family, seed):
    block = instance(family, seed, mode)
    brute = BruteForce.of(block)
    solution = solve(block, "exhaustive")
    assert solution.status is Status.OPTIMAL
    assert solution.objective == pytest.approx(brute.objective, abs=1e-10 * scale_of(block))
    assert solution.lower_bound <= brute.objective
    assert solution.lower_bound == pytest.approx(brute.objective, abs=1e-6 * scale_of(block))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("loss", "weights"), UNITS)
def test_exhaustive_proves_the_optimum_in_any_units(mode, loss, weights):
    block = instance("gaussian", 4, mode, p=9, keep=4)
    solution = solve(scaled(block, loss, weights), "exhaustive")
    assert np.array_equal(solution.mask, BruteForce.of(block).mask)
    assert solution.lower_bound == pytest.approx(solution.objective, rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_exhaustive_says_how_many_masks_it_went_through(mode):
    solution = solve(instance("gaussian", 1, mode, p=10, keep=4), "exhaustive")
    assert solution.details["masks"] == math.comb(10, 4)


def test_exhaustive_refuses_more_masks_than_it_can_go_through():
    with pytest.raises(SolverRefused, match="solver 'swap'"):
        solve(instance("gaussian", 1, "select", p=60, keep=30), "exhaustive")


@pytest.mark.parametrize("mode", MODES)
def test_an_exhaustive_search_cut_short_claims_no_optimum(mode):
    block = instance("gaussian", 1, mode, p=20, keep=10)
    solution = solve(block, "exhaustive", budget=Budget(evaluations=100))
    assert solution.status is Status.TIME_LIMIT
    assert solution.details["masks"] < math.comb(20, 10)
    assert solution.lower_bound == pytest.approx(block.form.lower_bound())


@pytest.mark.parametrize("name", ["exhaustive", "swap"])
def test_an_interrupt_gives_the_incumbent(name):
    block = instance("gaussian", 1, "select", p=12, keep=5)
    calls = []

    def at_the_second(*row: float) -> None:
        calls.append(row)
        if len(calls) == 2:
            raise KeyboardInterrupt

    solution = solve(block, name, progress=at_the_second)
    assert solution.status is Status.INTERRUPTED
    assert solution.objective <= block.evaluate(block.incumbent)


@pytest.mark.parametrize("mode", MODES)
def test_swap_reaches_the_optimum_on_nearly_all_structured_blocks(mode):
    names = ["gaussian", "rank-2", "equal-weights", "cancelling-pairs", "duplicate-columns", "zero-columns"]
    rng = np.random.default_rng(0)
    reached = 0
    for number in range(200):
        size = int(rng.integers(6, 17))
        block = instance(names[number % len(names)], number, mode, p=size, keep=int(rng.integers(1, size)))
        best = solve(block, "exhaustive").objective
        found = solve(block, "swap", options={"restarts": 10}, seed=number).objective
        reached += found <= best + 1e-9 * scale_of(block)
    assert reached >= 190


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("loss", "weights"), UNITS)
def test_swap_finds_the_same_mask_in_any_units(mode, loss, weights):
    block = instance("gaussian", 4, mode, p=14, keep=6)
    assert np.array_equal(solve(scaled(block, loss, weights), "swap").mask, solve(block, "swap").mask)


@pytest.mark.parametrize("mode", MODES)
def test_swap_alternatives_are_other_feasible_masks_best_first(mode):
    block = instance("cancelling-pairs", 3, mode, p=16, keep=8)
    solution = solve(block, "swap", options={"restarts": 30})
    assert solution.alternatives is not None
    values = [solution.objective, *(block.evaluate(mask) for mask in solution.alternatives)]
    assert values == sorted(values)
    assert len({mask.tobytes() for mask in (solution.mask, *solution.alternatives)}) == len(values)


def test_swap_says_that_its_answer_is_locally_optimal():
    assert solve(instance("gaussian", 3, "select", p=16, keep=8), "swap").details["locally_optimal"]


def test_swap_stops_at_its_evaluations():
    solution = solve(instance("gaussian", 3, "select", p=16, keep=8), "swap", budget=Budget(evaluations=64))
    assert solution.status is Status.TIME_LIMIT
    assert solution.details["evaluations"] == 64


def test_swap_makes_as_many_descents_as_it_is_told():
    solution = solve(instance("gaussian", 3, "select", p=16, keep=8), "swap", options={"restarts": 4})
    assert solution.details["descents"] == 4


def test_swap_refuses_no_restarts():
    with pytest.raises(InvalidInput, match="at least 1"):
        solve(instance("gaussian", 3, "select"), "swap", options={"restarts": 0})


def test_large_negative_weights_can_be_swapped_back_in():
    weights = np.array([0.1, -5.0, 0.2, 0.1])
    block = BlockProblem(QuadraticForm(factor=np.eye(4), ridge=0.1, centre=weights), weights, 1, "select")
    start = np.array([True, False, False, False])
    assert np.array_equal(solve(block.with_start(start), "swap", options={"restarts": 1}).mask, np.arange(4) == 1)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_known_by_name(name):
    assert make_solver(name).name == name
