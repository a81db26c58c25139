"""The compiled searches: their changes are exact, their ends are 1-swap optimal, their paths agree."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.incumbent import Incumbent
from prunebench.core.masks import top_mask
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Budget
from prunebench.kernels.local_search import descent, refit_kernel, refit_rows, select_factor, select_kernel
from prunebench.kernels.local_search.refit_factor import WORKING_SET, DualRefit, PrimalRefit, RefitFactorSearch
from prunebench.solvers.exhaustive import enumeration
from prunebench.testing.instances import FAMILIES, BruteForce, all_masks, instance, scaled

MODES: tuple[Mode, ...] = ("select", "refit")
families = st.sampled_from(sorted(FAMILIES))
seeds = st.integers(0, 10_000)


def wide_block(n: int, p: int, keep: int, mode: Mode, *, seed: int = 0, dtype: type = np.float64) -> BlockProblem:
    rng = np.random.default_rng(seed)
    factor = (rng.normal(size=(n, p)) * rng.uniform(0.1, 1.0, p) / np.sqrt(n)).astype(dtype)
    weights = rng.normal(size=p)
    ridge = 0.01 * float(np.mean(np.sum(factor.astype(np.float64) ** 2, axis=0)))
    form = QuadraticForm(factor=factor, ridge=ridge, linear=0.01 * rng.normal(size=p), centre=weights)
    return BlockProblem(form, weights, keep, mode)


def random_mask(block: BlockProblem, seed: int) -> BoolArray:
    return top_mask(np.random.default_rng(seed).random(block.p), block.keep)


def swapped(mask: BoolArray, leaving: int, entering: int) -> BoolArray:
    out = mask.copy()
    out[leaving], out[entering] = False, True
    return out


def pairs(mask: BoolArray) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in product(np.flatnonzero(mask), np.flatnonzero(~mask))]


def size_of(block: BlockProblem) -> float:
    return abs(block.evaluate(block.incumbent)) + abs(block.random_mean()) + abs(block.form.value(np.zeros(block.p)))


def best_neighbour(block: BlockProblem, mask: BoolArray) -> float:
    return min(block.evaluate(swapped(mask, i, j)) for i, j in pairs(mask))


def refit_matrix(block: BlockProblem) -> np.ndarray:
    form = block.form
    return refit_rows.bordered(form.gram(np.arange(block.p)), form.linear - form.product(form.centre))


def refit_state(block: BlockProblem, mask: BoolArray) -> refit_rows.State:
    return refit_rows.fresh(refit_matrix(block), np.flatnonzero(mask))


def exchanged(block: BlockProblem, state: refit_rows.State, i: int, j: int) -> refit_rows.State:
    """The state after one move of the compiled exchange, which only compiled code can call."""
    spaces = np.empty((refit_rows.SPACES, block.p + 1))
    table, kept = state.table.copy(), state.kept.copy()
    move(refit_matrix(block), table, kept, int(np.flatnonzero(kept == i)[0]), j, spaces)
    return refit_rows.State(table, kept)


@njit
def move(matrix, table, kept, row, entering, spaces):
    refit_rows.exchange(matrix, table, kept, row, entering, spaces)


@settings(max_examples=30, deadline=None)
@given(families, seeds)
def test_select_swap_changes_equal_the_recomputed_differences(family, seed):
    block = instance(family, seed, "select")
    mask = random_mask(block, seed)
    qubo = block.to_qubo()
    changes = select_kernel.swap_changes(qubo.couplings, np.array(qubo.linear), mask)
    before = block.evaluate(mask)
    for i, j in pairs(mask):
        assert changes[i, j] == pytest.approx(block.evaluate(swapped(mask, i, j)) - before, abs=1e-11 * size_of(block))


@settings(max_examples=30, deadline=None)
@given(families, seeds)
def test_refit_swap_changes_equal_the_recomputed_differences(family, seed):
    block = instance(family, seed, "refit")
    mask = random_mask(block, seed)
    changes = refit_kernel.swap_changes(refit_state(block, mask))
    before = block.evaluate(mask)
    for i, j in pairs(mask):
        assert changes[i, j] == pytest.approx(block.evaluate(swapped(mask, i, j)) - before, abs=1e-9 * size_of(block))


@settings(max_examples=20, deadline=None)
@given(families, seeds)
def test_one_exchange_gives_the_state_computed_anew(family, seed):
    block = instance(family, seed, "refit", keep=4)
    mask = random_mask(block, seed)
    for i, j in pairs(mask):
        found = exchanged(block, refit_state(block, mask), i, j)
        expected = refit_rows.fresh(refit_matrix(block), found.kept)
        assert set(found.kept) == set(np.flatnonzero(swapped(mask, i, j)))
        np.testing.assert_allclose(found.table, expected.table, atol=1e-8 * np.abs(expected.table).max())


def test_the_state_on_a_support_holds_the_refit():
    block = wide_block(30, 60, 37, "refit")
    mask = random_mask(block, 0)
    state, weights = refit_state(block, mask), block.form.refit(mask)
    np.testing.assert_allclose(-state.table[:37, 60], weights[mask], atol=1e-10)
    np.testing.assert_allclose(state.table[37, :60][~mask], block.form.gradient(weights)[~mask], atol=1e-10)
    change = block.form.value(weights) - block.form.value(np.zeros(60))
    assert 0.5 * state.value == pytest.approx(change, rel=1e-10)


def test_a_thousand_exchanges_leave_little_drift_in_the_state():
    block = wide_block(40, 60, 30, "refit")
    mask = block.incumbent.copy()
    matrix, state = refit_matrix(block), refit_state(block, mask)
    spaces = np.empty((refit_rows.SPACES, block.p + 1))
    rng = np.random.default_rng(1)
    for _ in range(1000):
        entering = rng.choice(np.setdiff1d(np.arange(60), state.kept))
        move(matrix, state.table, state.kept, int(rng.integers(30)), int(entering), spaces)
    expected = refit_rows.fresh(matrix, state.kept)
    np.testing.assert_allclose(state.table, expected.table, atol=1e-8 * np.abs(expected.table).max())


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40, deadline=None)
@given(families, seeds)
def test_no_swap_improves_where_a_descent_ends(mode, family, seed):
    block = instance(family, seed, mode)
    if block.keep == block.p:
        return
    result = descent.swap_descent(block, random_mask(block, seed), Incumbent(block))
    assert result.locally_optimal
    assert best_neighbour(block, result.mask) >= block.evaluate(result.mask) - 1e-10 * size_of(block)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("loss", "weights"), [(1e-12, 1e12), (1e12, 1e-12), (1e12, 1e12), (1e-12, 1e-12)])
def test_a_descent_does_not_depend_on_the_units(mode, loss, weights):
    block = instance("gaussian", 3, mode, p=14, keep=6)
    other = scaled(block, loss, weights)
    start = random_mask(block, 5)
    there = descent.swap_descent(other, start, Incumbent(other)).mask
    assert np.array_equal(there, descent.swap_descent(block, start, Incumbent(block)).mask)


@pytest.mark.parametrize("mode", MODES)
def test_a_descent_never_cycles_among_equal_masks(mode):
    form = QuadraticForm(factor=np.ones((3, 40)), ridge=0.1, centre=np.ones(40))
    block = BlockProblem(form, np.ones(40), 17, mode)
    result = descent.swap_descent(block, random_mask(block, 0), Incumbent(block))
    assert result.locally_optimal
    assert result.moves == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_descent_leaves_its_start_as_it_is(mode):
    block = instance("gaussian", 1, mode, p=12, keep=5)
    start = random_mask(block, 2)
    held = start.copy()
    assert descent.swap_descent(block, start, Incumbent(block)).moves > 0
    assert np.array_equal(start, held)


@pytest.mark.parametrize("mode", MODES)
def test_a_descent_without_time_gives_its_start_back(mode):
    block = instance("gaussian", 1, mode, p=12, keep=5)
    start = random_mask(block, 2)
    result = descent.swap_descent(block, start, Incumbent(block, Budget(seconds=0)))
    assert np.array_equal(result.mask, start)
    assert not result.locally_optimal
    assert "time limit" in result.stop.text


@pytest.mark.parametrize("mode", MODES)
def test_one_evaluation_allows_one_scan(mode):
    block = instance("gaussian", 1, mode, p=12, keep=5)
    result = descent.swap_descent(block, random_mask(block, 2), Incumbent(block, Budget(evaluations=1)))
    assert result.evaluations == 35
    assert result.moves <= 1


@pytest.fixture
def small_limits(monkeypatch):
    """Every block above 16 weights takes the paths for large blocks, in small working sets and tiles."""
    from prunebench.kernels.local_search import refit_factor

    monkeypatch.setattr(descent, "DENSE_SELECT_SIZE", 16)
    monkeypatch.setattr(descent, "DENSE_REFIT_SIZE", 16)
    monkeypatch.setattr(descent, "TABLEAU_SIZE", 16)
    monkeypatch.setattr(select_factor, "WORKING_SET", 8)
    monkeypatch.setattr(select_factor, "TILE_KEPT", 16)
    monkeypatch.setattr(select_factor, "TILE_PRUNED", 32)
    monkeypatch.setattr(refit_factor, "WORKING_SET", 16)
    monkeypatch.setattr(refit_factor, "COLUMN_CHUNK", 32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("keep", [1, 30, 119, 149])
@pytest.mark.usefixtures("small_limits")
def test_the_factor_path_ends_where_no_swap_improves(keep, dtype):
    block = wide_block(20, 150, keep, "select", dtype=dtype)
    result = descent.swap_descent(block, random_mask(block, 0), Incumbent(block))
    assert result.locally_optimal
    assert best_neighbour(block, result.mask) >= block.evaluate(result.mask) - 1e-10 * size_of(block)


@pytest.mark.usefixtures("small_limits")
def test_the_factor_path_finds_what_fields_alone_do_not_show():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(20, 50))
    factor = np.hstack((half, half + 1e-3 * rng.normal(size=half.shape)))
    weights = np.concatenate((np.ones(50), -np.ones(50)))
    block = BlockProblem(QuadraticForm(factor=factor, ridge=0.01, centre=weights), weights, 50, "select")
    result = descent.swap_descent(block, np.arange(100) < 50, Incumbent(block))
    assert result.locally_optimal
    assert best_neighbour(block, result.mask) >= block.evaluate(result.mask) - 1e-10 * size_of(block)


@pytest.mark.usefixtures("small_limits")
def test_the_factor_path_says_so_when_it_proves_nothing():
    block = wide_block(20, 150, 60, "select")
    search = select_factor.SelectFactorSearch(block, scan_operations=0.0)
    _, _, proved, stop = search.run(random_mask(block, 0), Incumbent(block))
    assert not proved
    assert "too much" in stop.text


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.usefixtures("small_limits")
def test_the_factor_path_is_as_good_as_the_dense_path(seed, monkeypatch):
    block = wide_block(20, 150, 60, "select", seed=seed)
    start = random_mask(block, seed)
    on_factor = block.evaluate(descent.swap_descent(block, start, Incumbent(block)).mask)
    monkeypatch.setattr(descent, "DENSE_SELECT_SIZE", 4096)
    dense = block.evaluate(descent.swap_descent(block, start, Incumbent(block)).mask)
    assert on_factor <= dense + 0.05 * (block.evaluate(start) - dense)


@pytest.mark.parametrize("keep", [10, 75, 140])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dual_refit_view_equals_the_definitions(keep, dtype):
    block = wide_block(20, 150, keep, "refit", dtype=dtype)
    mask = random_mask(block, 0)
    view = DualRefit(block.form).view(mask, True)
    np.testing.assert_allclose(view.weights, block.form.refit(mask), atol=1e-9)
    np.testing.assert_allclose(view.gradient[~mask], block.form.gradient(view.weights)[~mask], atol=1e-9)
    value = block.form.value(view.weights)
    rel = 1e-3 if dtype is np.float32 else 1e-7
    for i in np.flatnonzero(mask)[:5]:
        fewer = mask.copy()
        fewer[i] = False
        assert view.drop[i] == pytest.approx(block.form.value(block.form.refit(fewer)) - value, rel=rel)
    for j in np.flatnonzero(~mask)[:5]:
        more = mask.copy()
        more[j] = True
        assert view.gain[j] == pytest.approx(value - block.form.value(block.form.refit(more)), rel=rel)


def test_the_pruned_weights_that_are_not_looked_at_are_of_little_use():
    block = wide_block(40, 1500, 60, "refit", seed=3)
    mask = block.incumbent
    view = DualRefit(block.form).view(mask, True)
    value = block.form.value(view.weights)
    exact = np.zeros(block.p)
    for j in np.flatnonzero(~mask):
        more = mask.copy()
        more[j] = True
        exact[j] = value - block.form.value(block.form.refit(more))
    best = np.argsort(exact)[::-1][:60]
    assert (view.gain > 0.0).sum() == 2 * WORKING_SET
    np.testing.assert_allclose(view.gain[best], exact[best], rtol=1e-7)


def test_the_kept_weights_that_are_not_looked_at_are_the_dear_ones(monkeypatch):
    from prunebench.kernels.local_search import refit_factor

    block = wide_block(40, 1500, 400, "refit", seed=3)
    mask = block.incumbent
    full = DualRefit(block.form).view(mask, True)
    monkeypatch.setattr(refit_factor, "WORKING_SET", 16)
    few = DualRefit(block.form).view(mask, True)
    looked_at = mask & (few.drop <= 2.0 * full.drop)
    assert looked_at.sum() == refit_factor.EXCHANGED_SETS * 16
    np.testing.assert_array_equal(few.drop[looked_at], full.drop[looked_at])
    cheapest = np.argsort(np.where(mask, full.drop, np.inf))[:64]
    assert looked_at[cheapest].all()


def test_primal_and_dual_refit_agree():
    block = wide_block(20, 150, 60, "refit")
    hessian = block.form.gram(np.arange(150)) - np.diag(block.form.ridge)
    form = QuadraticForm(hessian=hessian, ridge=block.form.ridge, linear=block.form.linear, centre=block.form.centre)
    mask = random_mask(block, 0)
    dual, primal = DualRefit(block.form), PrimalRefit(form)
    for name in ("weights", "gradient"):
        np.testing.assert_allclose(
            getattr(primal.view(mask, True), name), getattr(dual.view(mask, True), name), atol=1e-8
        )
    chosen = np.arange(40)
    fixed = mask & (np.arange(150) >= 40)
    for mine, other in zip(primal.reduced(fixed, chosen), dual.reduced(fixed, chosen), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridge", [1e-6, 1e-2])
def test_the_back_solve_from_a_system_at_hand_is_that_of_the_form(dtype, ridge):
    rng = np.random.default_rng(5)
    form = QuadraticForm(
        factor=rng.normal(size=(20, 150)).astype(dtype),
        ridge=ridge * rng.uniform(0.5, 2.0, 150),
        centre=rng.normal(size=150),
        linear=1e-3 * rng.normal(size=150),
    )
    search = DualRefit(form)
    mask = rng.permutation(150) < 60
    search.view(mask, True)
    # the system is brought up to date from mask to mask; 12 kept weights are fewer than the rows
    for kept in (mask, np.roll(mask, 1), rng.permutation(150) < 12):
        np.testing.assert_allclose(search.refit(kept), form.refit(kept), atol=1e-7)
        assert form.value(search.refit(kept)) == pytest.approx(form.value(form.refit(kept)), rel=1e-10)
    # what is at hand only preconditions: a wrong system costs steps, not accuracy
    rough = np.diag(1.0 + (form.factor.astype(np.float64) ** 2 / ridge) @ mask)
    assert form.value(form.refit(mask, rough)) == pytest.approx(form.value(form.refit(mask)), rel=1e-8)


@pytest.mark.parametrize("keep", [1, 10, 60, 140, 149])
@pytest.mark.parametrize("held", ["factor", "hessian"])
def test_the_large_refit_search_lowers_the_objective_and_keeps_the_count(keep, held):
    block = wide_block(20, 150, keep, "refit")
    if held == "hessian":
        hessian = block.form.gram(np.arange(150)) - np.diag(block.form.ridge)
        form = QuadraticForm(
            hessian=hessian, ridge=block.form.ridge, linear=block.form.linear, centre=block.form.centre
        )
        block = BlockProblem(form, block.dense_weights, keep, "refit")
    mask = random_mask(block, 0)
    before = block.evaluate(mask)
    moves, _, _, _ = RefitFactorSearch(block).run(mask, Incumbent(block))
    assert moves > 0
    assert mask.sum() == keep
    assert block.evaluate(mask) < before


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("seed", range(5))
def test_the_large_refit_search_is_nearly_as_good_as_the_tableau(seed, monkeypatch):
    block = wide_block(20, 150, 40, "refit", seed=seed)
    start = block.incumbent
    large = block.evaluate(descent.swap_descent(block, start, Incumbent(block)).mask)
    monkeypatch.setattr(descent, "DENSE_REFIT_SIZE", 2048)
    tableau = block.evaluate(descent.swap_descent(block, start, Incumbent(block)).mask)
    assert large <= tableau + 0.1 * (block.evaluate(start) - tableau)


@pytest.mark.usefixtures("small_limits")
def test_between_the_sizes_the_tableau_proves_what_working_sets_found(monkeypatch):
    monkeypatch.setattr(descent, "TABLEAU_SIZE", 2048)
    block = wide_block(20, 150, 40, "refit")
    result = descent.swap_descent(block, random_mask(block, 0), Incumbent(block))
    assert result.locally_optimal
    assert best_neighbour(block, result.mask) >= block.evaluate(result.mask) - 1e-9 * size_of(block)


@pytest.mark.parametrize("chosen", range(6))
def test_the_select_enumeration_goes_through_every_subset_once(chosen):
    rng = np.random.default_rng(chosen)
    couplings = rng.normal(size=(9, 9))
    couplings = couplings + couplings.T
    np.fill_diagonal(couplings, 0.0)
    linear = rng.normal(size=9)
    masks = list(all_masks(9, chosen))
    values = [linear[mask].sum() + 0.5 * couplings[np.ix_(mask, mask)].sum() for mask in masks]
    walk = enumeration.SelectEnumeration(couplings, linear, chosen).advance(10**9)
    assert walk.finished
    assert walk.done == len(masks)
    assert walk.lowest == pytest.approx(min(values), abs=1e-12)
    assert np.array_equal(walk.best_subset, np.flatnonzero(masks[int(np.argmin(values))]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("chosen", range(6))
def test_the_refit_enumeration_goes_through_every_subset_once(chosen, sign):
    rng = np.random.default_rng(chosen)
    columns = rng.normal(size=(12, 9))
    matrix, vector = columns.T @ columns, rng.normal(size=9)
    masks = list(all_masks(9, chosen))
    values = [sign * vector[mask] @ np.linalg.solve(matrix[np.ix_(mask, mask)], vector[mask]) for mask in masks]
    walk = enumeration.RefitEnumeration(matrix, vector, chosen, sign).advance(10**9)
    assert walk.finished
    assert walk.done == len(masks)
    assert walk.lowest == pytest.approx(min(values), abs=1e-10)
    assert np.array_equal(walk.best_subset, np.flatnonzero(masks[int(np.argmin(values))]))


def test_an_enumeration_in_pieces_gives_what_it_gives_at_once():
    rng = np.random.default_rng(0)
    couplings = rng.normal(size=(14, 14))
    linear = rng.normal(size=14)
    at_once = enumeration.SelectEnumeration(couplings, linear, 6).advance(10**9)
    pieces = enumeration.SelectEnumeration(couplings, linear, 6)
    while not (walk := pieces.advance(50)).finished:
        pass
    assert walk.done == at_once.done
    assert np.array_equal(walk.best_subset, at_once.best_subset)


@pytest.mark.parametrize("mode", MODES)
def test_the_best_of_many_descents_is_the_optimum(mode):
    block = instance("gaussian", 7, mode, p=10, keep=4)
    search = descent.SwapDescent(block)
    found = min(block.evaluate(search.run(random_mask(block, s), Incumbent(block)).mask) for s in range(20))
    assert found == pytest.approx(BruteForce.of(block).objective, rel=1e-10)
