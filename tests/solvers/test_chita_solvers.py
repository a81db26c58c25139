"""The solvers of CHITA's family: what each promises, and how bad input is met."""

import numpy as np
import pytest

from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput, SolverRefused, UnknownName
from prunebench.core.keeping import Count, Quota
from prunebench.core.masks import top_mask
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Budget, Status
from prunebench.core.solver import make_solver
from prunebench.kernels.relaxations.bounds import lower_bound
from prunebench.solvers.admm.candidates import narrowed
from prunebench.solvers.chita.thresholding import Descent
from prunebench.solving import solve
from prunebench.testing.instances import BruteForce, instance

NAMES = ("admm", "iht", "obs", "chita", "chita-bso", "cbs", "woodfisher", "mfac", "obd")
BASELINES = ("magnitude", "obd", "woodfisher", "mfac", "cbs", "chita", "chita-bso")
GUARDED = ("admm", "iht", "obs", "chita", "chita-bso")
"""Those that are never worse than the start with its back-solve."""


def gradients_block(seed=0, n=40, p=300, keep=60, ridge=1e-3, dtype=np.float32, **form):
    """Columns that differ in size and share directions, as gradients do."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 8)) @ rng.normal(size=(8, p)) + 0.5 * rng.normal(size=(n, p))
    rows *= np.exp(0.5 * rng.normal(size=p)) / np.sqrt(n)
    weights = rng.standard_t(4, size=p)
    held = QuadraticForm(factor=rows.astype(dtype), ridge=ridge, centre=weights, **form)
    return BlockProblem(held, weights, keep, "refit")


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_of_the_literature_has_its_name(name):
    assert make_solver(name).name == name


@pytest.mark.parametrize("name", GUARDED)
@pytest.mark.parametrize("seed", range(3))
def test_no_search_ends_worse_than_magnitude_with_its_back_solve(name, seed):
    block = gradients_block(seed)
    assert solve(block, name).objective <= block.evaluate(block.incumbent)


@pytest.mark.parametrize("seed", range(3))
def test_the_combinatorial_brain_surgeon_back_solves_the_mask_it_chose_without_refitting(seed):
    block = gradients_block(seed)
    chosen = solve(block.in_mode("select"), "cbs")
    surgeon = solve(block, "cbs")
    assert (surgeon.mask == chosen.mask).all()
    assert surgeon.objective == pytest.approx(block.evaluate(chosen.mask))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [1, 39, 40, 41, 299])
def test_keep_counts_below_at_and_above_the_rows_are_kept_exactly(name, keep):
    solution = solve(gradients_block(keep=keep), name)
    assert int(solution.mask.sum()) == keep
    assert np.isfinite(solution.weights).all()
    assert solution.weights.any()


@pytest.mark.parametrize("name", NAMES)
def test_dead_columns_do_not_empty_the_network(name):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(20, 90))
    rows[:, ::2] = 0.0
    weights = rng.normal(size=90)
    block = BlockProblem(QuadraticForm(factor=rows, ridge=0.1, centre=weights), weights, 50, "refit")
    solution = solve(block, name)
    assert int(solution.mask.sum()) == 50
    assert int((solution.weights != 0.0).sum()) == 50


@pytest.mark.parametrize("name", NAMES)
def test_ties_do_not_change_the_count(name):
    rows = np.random.default_rng(2).normal(size=(10, 1)) @ np.ones((1, 60))
    block = BlockProblem(QuadraticForm(factor=rows, ridge=0.5, centre=np.ones(60)), np.ones(60), 17, "refit")
    assert int(solve(block, name).mask.sum()) == 17


@pytest.mark.parametrize("name", ["woodfisher", "mfac"])
def test_an_inverse_without_a_ridge_is_refused_with_the_remedy(name):
    rows = np.random.default_rng(3).normal(size=(4, 9))
    block = BlockProblem(QuadraticForm(factor=rows, ridge=0.0, centre=np.ones(9)), np.ones(9), 3, "select")
    with pytest.raises(SolverRefused, match="ridge"):
        solve(block, name)


def test_a_rank_deficient_refit_without_a_ridge_is_refused_and_not_solved_to_zeros():
    rows = np.random.default_rng(4).normal(size=(4, 9))
    form = QuadraticForm(factor=rows, ridge=0.0, centre=np.ones(9))
    with pytest.raises(InvalidInput, match="positive ridge"):
        BlockProblem(form, np.ones(9), 6, "refit")


def test_admm_is_below_every_published_variant_of_chita_on_correlated_gradients():
    for seed in range(3):
        block = gradients_block(seed, n=60, p=3000, keep=150)
        published = (("chita", {"swaps": 0}), ("chita-bso", {}), ("iht", {"swaps": 0, "rounds": 10}))
        best = min(solve(block, name, options=options).objective for name, options in published)
        assert solve(block, "admm").objective < best


@pytest.mark.parametrize("name", ["iht", "chita"])
@pytest.mark.parametrize("size", [{"p": 120, "keep": 12}, {"p": 3000, "keep": 150}])
def test_exchanges_go_below_the_support_that_thresholding_finds(name, size):
    block = gradients_block(3, n=60, **size)
    assert solve(block, name).objective < 0.99 * solve(block, name, options={"swaps": 0}).objective


def test_a_factor_stored_by_column_gives_the_refit_of_one_stored_by_row():
    block = gradients_block(2, n=70, p=900, keep=300)
    by_column = QuadraticForm(
        factor=np.asfortranarray(block.form.factor), ridge=block.form.ridge, centre=block.form.centre
    )
    for mask in (block.incumbent, block.top_mask(-np.abs(block.dense_weights))):
        weights = by_column.refit(mask)
        assert weights == pytest.approx(block.form.refit(mask), rel=1e-5, abs=1e-7)
        assert block.form.value(weights) == pytest.approx(block.evaluate(mask), rel=1e-11)


def test_admm_among_candidates_is_as_good_as_among_all_weights():
    block = gradients_block(4, n=30, p=9000, keep=300)
    narrow = solve(block, "admm", options={"swaps": 0})
    # a device has no candidates
    whole = solve(block, "admm", options={"swaps": 0, "device": "cpu:0"})
    assert narrow.objective <= 1.005 * whole.objective


def test_candidates_have_the_residual_of_the_weights_left_out():
    block = gradients_block(5, n=30, p=9000, keep=300, dtype=np.float64)
    narrow = narrowed(block, block.incumbent, block.weights_of(block.incumbent))
    assert narrow is not None
    mask = narrow.block.top_mask(np.abs(narrow.block.dense_weights))
    whole = narrow.widened(mask, block.p)
    weights = block.weights_of(whole)
    move = weights[narrow.chosen] - narrow.block.form.centre
    residual = narrow.residual + np.asarray(narrow.block.form.factor) @ move
    assert residual == pytest.approx(np.asarray(block.form.factor) @ (weights - block.form.centre), abs=1e-9)


def test_the_exact_block_of_candidates_has_the_objective_of_the_whole_one():
    block = gradients_block(7, n=30, p=9000, keep=300, dtype=np.float64)
    narrow = narrowed(block, block.incumbent, block.weights_of(block.incumbent))
    assert narrow is not None
    exact = narrow.exact(block.incumbent)
    masks = [exact.incumbent, exact.top_mask(-np.abs(exact.dense_weights))]
    inside = [exact.evaluate(mask) for mask in masks]
    whole = [block.evaluate(narrow.widened(mask, block.p)) for mask in masks]
    # but for a constant
    assert inside[1] - inside[0] == pytest.approx(whole[1] - whole[0], rel=1e-8)


def test_candidates_of_a_quota_keep_each_groups_count():
    base = gradients_block(6, n=30, p=9000, keep=300)
    block = BlockProblem(base.form, base.dense_weights, 300, "refit", quota=Quota.rows(3, 3000, 1 / 30))
    narrow = narrowed(block, block.incumbent, block.weights_of(block.incumbent))
    assert narrow is not None
    assert block.keeping.feasible(narrow.widened(narrow.block.incumbent, block.p))


def test_admm_is_within_two_per_cent_of_a_proven_bound_where_the_ridge_counts():
    for ridge in (0.03, 0.3):
        block = gradients_block(0, n=60, p=3000, keep=150, ridge=ridge)
        bound = lower_bound(block, seconds=60.0).value
        assert bound <= solve(block, "admm").objective <= 1.02 * bound


def test_admm_finds_the_optimum_of_small_blocks_or_comes_within_a_tenth_of_the_spread():
    for seed in range(1, 9):
        block = instance("gaussian", seed, "refit", p=10, keep=4)
        truth = BruteForce.of(block)
        excess = solve(block, "admm").objective - truth.objective
        assert excess <= 0.1 * (truth.worst - truth.objective)


def test_admm_on_the_hessian_agrees_with_admm_on_the_factor():
    block = gradients_block(5, n=40, p=120, keep=30, dtype=np.float64)
    factor = np.asarray(block.form.factor)
    dense = QuadraticForm(hessian=factor.T @ factor, ridge=block.form.ridge, centre=block.form.centre)
    other = BlockProblem(dense, block.dense_weights, block.keep, "refit")
    assert solve(other, "admm").objective == pytest.approx(solve(block, "admm").objective, rel=1e-6)


def test_admm_accepts_a_ridge_that_differs_from_weight_to_weight():
    ridge = np.linspace(1e-3, 1e-1, 300)
    block = gradients_block(6, ridge=ridge)
    assert solve(block, "admm").objective < block.evaluate(block.incumbent)


def test_admm_on_a_torch_device_gives_the_mask_it_gives_without():
    block = gradients_block(7, p=2500, keep=200)
    without = solve(block, "admm", options={"swaps": 0})
    on_torch = solve(block, "admm", options={"swaps": 0, "device": "cpu:0"})
    assert int((without.mask != on_torch.mask).sum()) <= 4
    assert on_torch.objective == pytest.approx(without.objective, rel=1e-3)


def test_a_device_that_is_not_there_is_refused_with_the_remedy():
    with pytest.raises(SolverRefused, match="choose cpu"):
        solve(gradients_block(), "admm", options={"device": "cuda:99"})


def test_one_decomposition_serves_a_path_of_ridges():
    block = gradients_block(8)
    solve(block, "admm")
    held = block.form.derived["spectrum/cpu"]
    other = BlockProblem(block.form.with_terms(ridge=0.5), block.dense_weights, block.keep, "refit")
    solve(other, "admm")
    assert other.form.derived["spectrum/cpu"] is held


def test_with_terms_changes_the_ridge_and_nothing_else():
    form = gradients_block(9).form
    other = form.with_terms(ridge=2.0, linear=np.ones(300))
    fresh = QuadraticForm(factor=form.factor, ridge=2.0, linear=np.ones(300), centre=form.centre)
    at = np.random.default_rng(0).normal(size=300)
    assert other.value(at) == pytest.approx(fresh.value(at), rel=1e-12)
    assert form.ridge[0] == 1e-3


def test_a_weight_pruned_before_comes_back_where_the_gradient_asks_for_it():
    rng = np.random.default_rng(16)
    weights = np.zeros(200)
    weights[:20] = 1.0
    linear = np.zeros(200)
    linear[100:105] = -3.0
    form = QuadraticForm(factor=rng.normal(size=(30, 200)) / 30.0, ridge=0.5, linear=linear, centre=weights)
    solution = solve(BlockProblem(form, weights, 20, "refit"), "admm", options={"swaps": 0})
    assert solution.mask[100:105].all()


@pytest.mark.parametrize("rank", [5, 12, 40])
def test_thresholding_has_the_values_and_gradients_of_the_form_whatever_holds_its_curvature(rank):
    rng = np.random.default_rng(rank)
    rows, centre, slope = rng.normal(size=(rank, 12)), rng.normal(size=12), 0.1 * rng.normal(size=12)
    common = {"ridge": rng.uniform(0.01, 0.1, size=12), "linear": slope, "centre": centre}
    chosen, weights = np.array([0, 2, 3, 7, 9, 11]), np.zeros(12)
    weights[[2, 3, 9]] = rng.normal(size=3)
    for form in (QuadraticForm(factor=rows, **common), QuadraticForm(hessian=rows.T @ rows, **common)):
        whole = Descent(form, Count(12, 3))
        part = whole.within(Count(6, 3), chosen)
        for search, held in ((whole, np.arange(12)), (part, chosen)):
            point = search.at(weights[held], weights[held] != 0.0)
            assert point.value == pytest.approx(form.value(weights), rel=1e-12)
            np.testing.assert_allclose(search.gradient(point), form.gradient(weights)[held], rtol=1e-9, atol=1e-12)


def test_chita_bso_without_a_gradient_is_magnitude_with_its_back_solve():
    block = gradients_block(10)
    expected = top_mask(np.abs(block.dense_weights), block.keep)
    assert np.array_equal(solve(block, "chita-bso").mask, expected)


def test_chita_without_back_solve_keeps_the_weights_of_its_last_step():
    block = gradients_block(11)
    plain = solve(block, "chita", options={"back_solve": False})
    assert block.evaluate(plain.weights, plain.mask) >= block.evaluate(plain.mask)


def test_the_linear_term_is_followed_even_where_thresholding_alone_would_not_improve():
    rng = np.random.default_rng(12)
    for seed in range(20):
        block = gradients_block(seed, n=12, p=30, keep=6, linear=rng.normal(size=30))
        solution = solve(block, "chita-bso")
        assert int((solution.weights != 0.0).sum()) == 6


def test_iht_in_select_mode_never_rises_along_its_trace():
    block = instance("gaussian", 1, "select", p=40, keep=15)
    objectives = solve(block, "iht").trace[:, 1]
    assert (np.diff(objectives) <= 0.0).all()


def test_published_updates_are_those_of_the_single_weight_formula():
    block = gradients_block(13, n=10, p=25, keep=10, dtype=np.float64)
    inverse = np.linalg.inv(block.form.gram(np.arange(25)))
    saliency = block.dense_weights**2 / (2.0 * inverse.diagonal())
    mask = top_mask(saliency, 10)
    move = -inverse @ np.where(mask, 0.0, block.dense_weights / inverse.diagonal())
    solution = solve(block, "woodfisher", options={"update": "published"})
    assert np.array_equal(solution.mask, mask)
    assert solution.weights == pytest.approx(np.where(mask, block.dense_weights + move, 0.0))


def test_mfac_over_all_rows_in_one_round_ranks_as_woodfisher():
    block = gradients_block(14, n=10, p=25, keep=10, dtype=np.float64)
    options = {"rows": 10, "rounds": 1}
    assert np.array_equal(solve(block, "mfac", options=options).mask, solve(block, "woodfisher").mask)


def test_one_round_of_obs_drops_the_cheapest_single_weights_of_the_minimiser():
    block = gradients_block(15, n=10, p=1500, keep=1400, dtype=np.float64)
    inverse = np.linalg.inv(block.form.gram(np.arange(1500)))
    expected = top_mask(block.dense_weights**2 / inverse.diagonal(), 1400)
    solution = solve(block, "obs", options={"rounds": 1, "swaps": 0})
    assert int((solution.mask & ~expected).sum()) <= 2


def test_sequential_obs_on_a_diagonal_curvature_is_optimal():
    weights = np.arange(1.0, 9.0)
    form = QuadraticForm(hessian=np.diag(1.0 / weights**3), ridge=1e-9, centre=weights)
    solution = solve(BlockProblem(form, weights, 3, "refit"), "obs", options={"swaps": 0})
    assert np.flatnonzero(solution.mask).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_of_no_time_is_reported_as_such(name):
    solution = solve(gradients_block(), name, budget=Budget(seconds=0))
    assert solution.status in (Status.TIME_LIMIT, Status.FEASIBLE)
    assert int(solution.mask.sum()) == 60


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("admm", {"penalties": ()}, "at least one"),
        ("admm", {"steps": 0}, "at least 1 step"),
        ("iht", {"rounds": 0}, "rounds is 0"),
        ("iht", {"swaps": -1}, "swaps is -1"),
        ("chita", {"swaps": -1}, "swaps is -1"),
        ("obs", {"rounds": 0}, "rounds is 0"),
        ("chita", {"active": 0.5}, "1 or more"),
        ("woodfisher", {"block_size": -1}, "block_size is -1"),
        ("mfac", {"rows": 0}, "rows is 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, words):
    with pytest.raises(SolverRefused, match=words):
        solve(gradients_block(), name, options=options)


def test_an_unknown_option_is_an_error_with_the_nearest_match():
    with pytest.raises(UnknownName, match="penalties"):
        make_solver("admm", {"penaltys": 1})
