"""Whole layers in float32: the same answers to rounding, held once, evaluated once."""

import pickle

import numpy as np
import pytest

from prunebench import solve
from prunebench.core import keeping, row_products
from prunebench.core.arrays import fixed, immutable
from prunebench.core.block import BlockProblem
from prunebench.core.definite import proved_semidefinite
from prunebench.core.keeping import Quota
from prunebench.core.masks import top_of_each
from prunebench.core.rows import RowsForm
from prunebench.core.rows_qubo import RowsQubo
from prunebench.kernels.linear_algebra.layer_view import LayerView
from prunebench.kernels.linear_algebra.triangular import inverse_root
from prunebench.solvers.sparsegpt import columns as sparsegpt

ROWS, COLUMNS = 10, 48


def pair(seed=0, **terms):
    """A layer in float32, and the same numbers in float64."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(90, COLUMNS)) @ (np.eye(COLUMNS) + 0.2 * rng.normal(size=(COLUMNS, COLUMNS)))
    gram = (inputs.T @ inputs / 90).astype(np.float32)
    gram = ((gram + gram.T) / 2).astype(np.float32)
    weights = rng.normal(size=ROWS * COLUMNS).astype(np.float32)
    ridge = 0.01 * float(gram.diagonal().mean())
    narrow = RowsForm(shared=fixed(gram), rows=ROWS, ridge=ridge, centre=fixed(weights), **terms)
    wide = RowsForm(shared=gram.astype(float), rows=ROWS, ridge=ridge, centre=weights.astype(float), **terms)
    return narrow, wide, rng


def test_a_layer_in_float32_has_the_values_of_float64_within_its_own_bound(monkeypatch):
    monkeypatch.setattr(row_products, "BLOCK", 7)
    monkeypatch.setattr(row_products, "WIDENED", 3 * COLUMNS)
    slope = np.random.default_rng(5).normal(size=ROWS * COLUMNS)
    for terms in ({}, {"linear": slope.astype(np.float32)}):
        narrow, wide, rng = pair(1, **terms)
        given = rng.normal(size=narrow.p).astype(np.float32)
        exact = wide.value(given)
        assert abs(narrow.value(given) - exact) <= narrow.rounding_of(given)
        assert narrow.value(given) == pytest.approx(exact, rel=1e-13)
        assert narrow.rounding_of(given) < 1e-11 * exact
        np.testing.assert_allclose(narrow.gradient(given), wide.gradient(given), rtol=1e-12, atol=1e-12)
        squares = [RowsQubo.of(form, form.centre) for form in (narrow, wide)]
        np.testing.assert_allclose(squares[0].linear, squares[1].linear, rtol=1e-12, atol=1e-12)
        mask = rng.random(narrow.p) < 0.5
        np.testing.assert_allclose(narrow.refit(mask), wide.refit(mask), atol=1e-3)
        assert narrow.refit(mask).dtype == np.float32


def test_one_vector_in_float64_makes_the_layer_float64():
    gram, weights = np.eye(4, dtype=np.float32), np.full(8, 1.0 + 1e-12)
    form = RowsForm(shared=gram, rows=2, ridge=0.1, centre=weights)
    assert form.shared.dtype == form.centre.dtype == np.float64
    assert (form.centre == weights).all()


def test_a_constant_that_swallows_the_rest_is_within_the_rounding_that_is_claimed():
    narrow, wide, rng = pair(1, constant=1e9)
    given = rng.normal(size=narrow.p).astype(np.float32)
    exact = wide.with_terms().value(given) - 1e9
    bare, _, _ = pair(1)
    assert abs(exact - bare.value(given)) <= narrow.rounding_of(given)
    assert narrow.rounding_of(given) < 1e-5


def test_weights_in_float64_are_never_rounded_to_float32():
    narrow, wide, rng = pair(4)
    given = np.asarray(narrow.centre, dtype=np.float64) * (1.0 + 1e-9)
    assert narrow.value(given) == pytest.approx(wide.value(given), rel=1e-12, abs=0.0)
    block = BlockProblem(narrow, given, narrow.p, "select")
    np.testing.assert_array_equal(block.dense_weights, given)
    assert block.evaluate(given) == narrow.value(given) > narrow.value(narrow.centre)
    slope = rng.normal(size=narrow.p)
    changed = narrow.with_terms(linear=slope)
    np.testing.assert_array_equal(changed.linear, slope)
    assert changed.dtype == changed.shared.dtype == np.float64
    assert narrow.with_terms(linear=slope.astype(np.float32)).dtype == np.float32


def test_other_terms_share_what_is_derived_and_single_numbers_travel_once():
    narrow, _, _ = pair()
    assert narrow.with_terms(ridge=0.5).derived is narrow.derived
    sent = pickle.loads(pickle.dumps(narrow))
    assert sent.ridge.strides == sent.linear.strides == (0,)
    np.testing.assert_array_equal(sent.ridge, narrow.ridge)
    assert sent.value(np.zeros(sent.p)) == narrow.value(np.zeros(narrow.p))
    assert len(pickle.dumps(narrow)) < 4 * (narrow.p + COLUMNS**2) + 2000


def test_rows_whose_solution_misses_are_not_called_solved(monkeypatch):
    narrow, wide, rng = pair(6)
    mask = rng.random((ROWS, COLUMNS)) < 0.5
    right = rng.normal(size=mask.shape).astype(np.float32) * mask
    _, done = row_products.solve_on_supports(narrow.shared, narrow.row_ridge, mask, right)
    assert done.all()
    _, done = row_products.solve_on_supports(narrow.shared, narrow.row_ridge, mask, right, steps=1)
    assert not done.any()
    monkeypatch.setattr("prunebench.core.rows.DIRECT_SIZE", 0)
    monkeypatch.setattr(row_products, "SETTLED", {"float32": 0.0, "float64": 0.0})
    # each row by Cholesky then
    np.testing.assert_allclose(narrow.refit(mask.reshape(-1)), wide.refit(mask.reshape(-1)), atol=1e-5)


def test_a_hessian_that_float32_cannot_decompose_is_decomposed_as_it_is_and_not_rounded():
    scales = np.array([1.0, 3.0, 7.0, 11.0], dtype=np.float32) / 3
    gram = fixed(np.outer(scales, scales).astype(np.float32))
    form = RowsForm(shared=gram, rows=1, ridge=1e-9, centre=np.ones(4, dtype=np.float32))
    view = LayerView.of(BlockProblem(form, form.centre, 2, "select"))
    exact = gram.astype(np.float64) + 1e-9 * np.eye(4)
    scale = view.scale.astype(np.float64)
    np.testing.assert_allclose(view.scaled_matrix(wide=True), exact * scale[:, None] * scale, rtol=1e-15)


def test_arrays_that_cannot_change_are_held_once_and_a_value_is_computed_once(monkeypatch):
    narrow, _, rng = pair()
    assert BlockProblem(narrow, narrow.centre, narrow.p // 2, "refit").dense_weights is narrow.centre
    assert immutable(narrow.shared)
    assert narrow.linear.strides == narrow.ridge.strides == (0,)
    given = fixed(rng.normal(size=narrow.p).astype(np.float32))
    first = narrow.value(given)
    monkeypatch.setattr(row_products, "along", lambda *_: pytest.fail("computed again"))
    assert narrow.value(given) == narrow.value(given.view()) == first
    open_to_change = np.array(given)
    with pytest.raises(pytest.fail.Exception):
        narrow.value(open_to_change)


@pytest.mark.parametrize("name", ["sparsegpt", "wanda", "alps", "obc", "magnitude"])
@pytest.mark.parametrize("quota", [None, Quota.rows(ROWS, COLUMNS, 0.5), Quota.n_m(ROWS * COLUMNS, 2, 4)])
def test_solvers_find_in_float32_what_they_find_in_float64(name, quota):
    narrow, wide, _ = pair(2)
    found = [
        solve(BlockProblem(form, form.centre, form.p // 2, "refit", quota=quota), name).objective
        for form in (narrow, wide)
    ]
    assert found[0] == pytest.approx(found[1], rel=2e-2 if name == "alps" else 1e-3)


def test_updates_of_sparsegpt_that_are_delayed_change_nothing(monkeypatch):
    _, wide, _ = pair(3)
    for quota in (None, Quota.rows(ROWS, COLUMNS, 0.5), Quota.n_m(ROWS * COLUMNS, 2, 4)):
        held = BlockProblem(wide, wide.centre, wide.p // 2, "refit", quota=quota)
        at_once = solve(held, "sparsegpt", options={"columns": 8})
        monkeypatch.setattr(sparsegpt, "INNER", 3)
        monkeypatch.setattr(sparsegpt, "OUTER", 16)
        delayed = solve(held, "sparsegpt", options={"columns": 8})
        monkeypatch.undo()
        np.testing.assert_array_equal(at_once.mask, delayed.mask)
        np.testing.assert_allclose(at_once.weights, delayed.weights, atol=1e-10)


@pytest.mark.parametrize("size", [3, 4, 9, 40])
def test_the_best_of_each_row_are_those_of_a_stable_sort(size):
    rng = np.random.default_rng(size)
    scores = rng.integers(0, 5, (50, size)).astype(np.float32)
    counts = rng.integers(0, size + 1, 50)
    expected = np.zeros(scores.shape, dtype=bool)
    order = np.argsort(-scores, axis=1, kind="stable")
    np.put_along_axis(expected, order, np.arange(size) < counts[:, None], axis=1)
    np.testing.assert_array_equal(top_of_each(scores, counts), expected)


def test_a_quota_of_runs_is_the_quota_of_its_groups():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 7, 5)
    runs, written = Quota.runs(6, counts), Quota(rng.permutation(30), np.ones(30, dtype=np.int64))
    assert (runs.run, written.run) == (6, 1)
    same = Quota(np.repeat(np.arange(5), 6), counts)
    assert same.run == 6
    scattered = Quota(np.arange(30) % 5, counts)
    assert scattered.run == 0
    mask = runs.top_mask(rng.random(30))
    assert runs.violation(mask) == ""
    np.testing.assert_array_equal(runs.kept_of(mask), counts)
    np.testing.assert_array_equal(runs.group, np.repeat(np.arange(5), 6))
    np.testing.assert_array_equal(runs.members(2), np.arange(12, 18))


def test_a_large_pattern_holds_one_count_and_names_the_first_group_that_breaks_it(monkeypatch):
    small = Quota.n_m(4000, 2, 4)
    monkeypatch.setattr(keeping, "HELD", 1000)
    monkeypatch.setattr(keeping, "PIECE", 70)
    large = Quota.n_m(4000, 2, 4)
    assert large.counts.strides == large.sizes.strides == (0,)
    assert (large.keep, large.run, large.settled) == (small.keep, small.run, small.settled)
    scores = np.random.default_rng(0).random(4000)
    mask = large.top_mask(scores)
    np.testing.assert_array_equal(mask, small.top_mask(scores))
    assert large.feasible(mask)
    mask[4 * 300 : 4 * 300 + 4] = True
    assert large.violation(mask) == small.violation(mask)
    assert "keeps 4 weights of group 300 (the one of weight 1200)" in large.violation(mask)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_inverse_root_multiplies_to_the_inverse(kind):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(500, 300))
    matrix = samples.T @ samples / 500 + 0.1 * np.eye(300)
    root = inverse_root(matrix.astype(kind))
    assert not np.tril(root, -1).any()
    np.testing.assert_allclose(root.T @ root @ matrix, np.eye(300), atol=1e-3 if kind == np.float32 else 1e-10)


def test_large_matrices_are_proved_semidefinite_block_by_block_and_only_they():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(200, 600))
    matrix = samples.T @ samples / 200
    assert proved_semidefinite(matrix + 1e-6 * np.eye(600))
    assert not proved_semidefinite(matrix - 1e-6 * np.eye(600))
