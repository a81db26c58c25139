"""The quadratic form against dense formulas."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench import QuadraticForm
from prunebench.core.arrays import times, transposed_times
from prunebench.core.errors import InvalidInput


def dense(form):
    half = form.square_root().astype(np.float64)
    return half.T @ half + np.diag(form.ridge)


@st.composite
def forms(draw, max_p=14):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = draw(st.integers(1, max_p))
    n = draw(st.integers(1, 2 * max_p))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scale = 10.0 ** draw(st.integers(-6, 6))
    return QuadraticForm(
        factor=(rng.normal(size=(n, p)) * scale).astype(dtype),
        ridge=scale**2 * rng.uniform(0.01, 1.0, size=p),
        linear=scale**2 * rng.normal(size=p),
        centre=rng.normal(size=p),
        constant=scale**2 * rng.normal(),
    )


def some_mask(form, seed):
    return np.random.default_rng(seed).random(form.p) < 0.6


@given(forms(), st.integers(0, 1000))
def test_value_is_the_formula(form, seed):
    move = np.random.default_rng(seed).normal(size=form.p)
    expected = form.constant + form.linear @ move + 0.5 * move @ dense(form) @ move
    size = abs(form.constant) + np.abs(form.linear) @ np.abs(move) + move @ dense(form) @ move
    assert abs(form.value(form.centre + move) - expected) <= 1e-12 * size


@given(forms(), st.integers(0, 1000))
def test_gradient_product_and_diagonal_are_those_of_the_dense_matrix(form, seed):
    move = np.random.default_rng(seed).normal(size=form.p)
    matrix = dense(form)
    size = np.abs(matrix) @ np.abs(move) + np.abs(form.linear)
    assert (np.abs(form.product(move) - matrix @ move) <= 1e-12 * size).all()
    assert (np.abs(form.gradient(form.centre + move) - form.linear - matrix @ move) <= 1e-12 * size).all()
    assert np.allclose(form.diagonal(), matrix.diagonal(), rtol=1e-12)
    indices = np.flatnonzero(some_mask(form, seed))
    assert np.allclose(
        form.gram(indices), matrix[np.ix_(indices, indices)], rtol=1e-10, atol=1e-12 * np.abs(matrix).max()
    )


@given(forms(), st.integers(0, 1000))
def test_restrict_agrees_with_the_full_form(form, seed):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=form.p)
    indices = rng.permutation(form.p)[: rng.integers(1, form.p + 1)]
    restricted = form.restrict(indices, weights)
    moved = weights.copy()
    moved[indices] = rng.normal(size=indices.size)
    full = form.value(moved)
    move = np.abs(moved - form.centre) + np.abs(weights - form.centre)
    size = abs(form.constant) + np.abs(form.linear) @ move + move @ np.abs(dense(form)) @ move
    assert abs(restricted.value(moved[indices]) - full) <= 1e-10 * size


@given(forms(), st.integers(0, 1000))
def test_restricting_twice_is_restricting_once(form, seed):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=form.p)
    outer = rng.permutation(form.p)[: rng.integers(1, form.p + 1)]
    inner = rng.permutation(outer.size)[: rng.integers(1, outer.size + 1)]
    once = form.restrict(outer[inner], weights)
    twice = form.restrict(outer, weights).restrict(inner, weights[outer])
    probe = rng.normal(size=inner.size)
    assert twice.value(probe) == pytest.approx(once.value(probe), rel=1e-9, abs=1e-9 * np.abs(dense(form)).max())


@given(forms(), st.integers(0, 1000))
def test_refit_is_the_dense_least_squares_solution(form, seed):
    mask = some_mask(form, seed)
    kept, gone = np.flatnonzero(mask), np.flatnonzero(~mask)
    matrix = dense(form)
    weights = form.refit(mask)
    assert not weights[gone].any()
    slope = form.linear[kept] - matrix[np.ix_(kept, gone)] @ form.centre[gone]
    expected = form.centre[kept] - np.linalg.solve(matrix[np.ix_(kept, kept)], slope)
    assert np.allclose(weights[kept], expected, rtol=1e-7, atol=1e-7 * (1 + np.abs(expected).max(initial=0)))


@given(forms(), st.integers(0, 1000))
def test_refit_is_never_worse_than_keeping_the_centre(form, seed):
    mask = some_mask(form, seed)
    start = form.value(np.where(mask, form.centre, 0.0))
    assert form.value(form.refit(mask)) <= start + 1e-9 * abs(start) + 1e-12


def float32_instance(n, p, with_linear):
    """A layered factor: columns of very different size, as gradients have them."""
    rng = np.random.default_rng(5)
    factor = (rng.normal(size=(n, p)) * rng.gamma(0.5, size=p) / np.sqrt(n)).astype(np.float32)
    wide = factor.astype(np.float64)
    ridge = 1e-6 * float((wide**2).sum()) / p
    linear = wide.T @ rng.normal(size=n) / np.sqrt(n) if with_linear else None
    return QuadraticForm(factor=factor, ridge=ridge, centre=rng.standard_t(4, size=p), linear=linear)


@pytest.mark.parametrize("with_linear", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_float32_refit_at_a_tiny_ridge_reaches_the_float64_optimum(with_linear, share):
    form = float32_instance(60, 600, with_linear)
    mask = np.random.default_rng(1).random(form.p) < share
    kept, gone = np.flatnonzero(mask), np.flatnonzero(~mask)
    matrix = dense(form)
    slope = form.linear[kept] - matrix[np.ix_(kept, gone)] @ form.centre[gone]
    exact = np.zeros(form.p)
    exact[kept] = form.centre[kept] - np.linalg.solve(matrix[np.ix_(kept, kept)], slope)
    scale = abs(form.value(exact)) + abs(form.value(np.where(mask, form.centre, 0.0)))
    assert form.value(form.refit(mask)) - form.value(exact) <= 1e-9 * scale


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_float32_refit_is_exact_where_one_correction_does_not_do(unit):
    """Eigenvalues over ten orders of magnitude: float32 alone solves for none of the small ones."""
    rng = np.random.default_rng(8)
    left = np.linalg.qr(rng.normal(size=(60, 60)))[0] * np.logspace(0.0, -5.0, 60)
    factor = (unit * left @ np.linalg.qr(rng.normal(size=(600, 60)))[0].T).astype(np.float32)
    wide = factor.astype(np.float64)
    ridge = 1e-8 * unit**2
    form = QuadraticForm(factor=factor, ridge=ridge, centre=rng.normal(size=600))
    mask = rng.random(600) < 0.5
    columns = wide[:, mask]
    right = wide[:, ~mask] @ form.centre[~mask]
    exact = np.zeros(600)
    dual = np.linalg.solve(columns @ columns.T / ridge + np.eye(60), right)
    exact[mask] = form.centre[mask] + columns.T @ dual / ridge
    assert form.value(form.refit(mask)) == pytest.approx(form.value(exact), rel=1e-10)


def test_textbook_woodbury_in_float32_fails_where_push_through_does_not():
    """The reason for the push-through form: the published float32 form loses its digits at this ridge."""
    form = float32_instance(60, 600, with_linear=False)
    mask = np.random.default_rng(1).random(form.p) < 0.3
    columns = form.factor[:, mask]
    ridge = np.float32(form.ridge[0])
    slope = -columns.T @ (form.factor[:, ~mask] @ form.centre[~mask].astype(np.float32))
    inner = np.eye(60, dtype=np.float32) + columns @ columns.T / ridge
    step = -(slope / ridge - columns.T @ np.linalg.solve(inner, columns @ slope) / ridge**2)
    textbook = np.zeros(form.p)
    textbook[mask] = form.centre[mask] + step
    assert form.value(textbook) > 1.5 * form.value(form.refit(mask))


@given(forms(), st.integers(0, 1000))
def test_the_lower_bound_is_below_every_value(form, seed):
    rng = np.random.default_rng(seed)
    bound = form.lower_bound()
    assert bound <= form.value(form.refit(np.ones(form.p, dtype=bool)))
    for _ in range(5):
        assert bound <= form.value(rng.normal(size=form.p) * 3)


def test_the_lower_bound_is_tight():
    form = QuadraticForm(factor=np.eye(3), ridge=1.0, linear=[1.0, 2.0, 3.0])
    assert form.lower_bound() == pytest.approx(-0.5 * (1 + 4 + 9) / 2, rel=1e-12)


@settings(max_examples=20)
@given(forms())
def test_the_smaller_representation_is_held_and_both_agree(form):
    assert (form.factor is None) != (form.hessian is None)
    assert (form.factor is not None) == (form.square_root().shape[0] < form.p and form.hessian is None)
    again = QuadraticForm(
        hessian=form.square_root().T.astype(np.float64) @ form.square_root().astype(np.float64),
        ridge=form.ridge,
        linear=form.linear,
        centre=form.centre,
        constant=form.constant,
    )
    probe = np.linspace(-1, 1, form.p)
    assert again.value(probe) == pytest.approx(form.value(probe), rel=1e-8, abs=1e-8 * np.abs(dense(form)).max())


def test_arrays_are_read_only_and_inputs_are_left_alone():
    linear = np.ones(3)
    form = QuadraticForm(factor=np.ones((2, 3)), ridge=1.0, linear=linear)
    linear[0] = 7.0
    assert form.linear[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        form.linear[0] = 2.0
    with pytest.raises(ValueError, match="read-only"):
        form.factor[0, 0] = 2.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"factor": [[1.0, np.nan]], "ridge": 1.0}, "factor holds nan at position \\(0, 1\\)"),
        ({"factor": [[1.0, 2.0]], "ridge": -1.0}, "ridge is -1.0; it must not be negative"),
        ({"factor": [[1.0, 2.0]], "ridge": [1.0, 2.0, 3.0]}, "ridge has shape \\(3,\\)"),
        ({"factor": [[1.0, 2.0]], "ridge": np.inf}, "ridge holds inf"),
        ({"factor": [1.0, 2.0]}, "factor has shape \\(2,\\); expected \\(n, p\\)"),
        ({"hessian": [[1.0, 2.0], [0.0, 1.0]]}, "hessian is not symmetric"),
        # whose difference wraps around to zero, or to its own negative
        ({"hessian": np.array([[127, 100], [-100, 127]], dtype=np.int8)}, "differ from their mirror by up to 200"),
        ({"hessian": [[1.0, 2.0]]}, "hessian has shape \\(1, 2\\)"),
        ({"factor": [[1.0, 2.0]], "linear": [1.0]}, "linear has shape \\(1,\\); expected \\(2,\\)"),
        ({"factor": [[1.0, 2.0]], "centre": [1.0, np.inf]}, "centre holds inf"),
        ({"factor": [[1.0, 2.0]], "constant": np.nan}, "constant holds nan"),
        ({"factor": [["a", "b"]]}, "factor has dtype"),
        ({}, "give the curvature once"),
    ],
)
def test_wrong_input_is_named(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        QuadraticForm(**arguments)


def test_restrict_names_a_position_outside_and_a_repeat():
    form = QuadraticForm(factor=np.ones((1, 3)), ridge=1.0)
    with pytest.raises(IndexError, match="index 3 is outside the form's 3 weights"):
        form.restrict([0, 3], np.zeros(3))
    with pytest.raises(ValueError, match="indices repeat"):
        form.restrict([1, 1], np.zeros(3))
    with pytest.raises(ValueError, match="weights has shape"):
        form.restrict([1], np.zeros(2))


def test_refit_without_ridge_on_a_singular_curvature_is_refused():
    with pytest.raises(InvalidInput, match="singular on the kept weights"):
        QuadraticForm(factor=np.ones((1, 3)), ridge=0.0).refit(np.ones(3, dtype=bool))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(3, 400_000), (1001, 1500), (1502, 700)])
def test_products_of_a_large_float32_factor_have_float64_accuracy(shape, order):
    rng = np.random.default_rng(0)
    factor = np.asarray(rng.normal(size=shape), dtype=np.float32, order=order)
    factor.flags.writeable = False
    right, left = rng.normal(size=shape[1]), rng.normal(size=shape[0])
    wide = factor.astype(np.float64)
    # rounding grows with the sum of the terms' sizes, in an order that each processor chooses; float32 would lose 1e-7
    lost = 1e-14 * float(np.abs(wide).sum(axis=1).max()) * float(np.abs(right).max())
    np.testing.assert_allclose(times(factor, right), wide @ right, rtol=0.0, atol=lost)
    np.testing.assert_allclose(
        times(factor, right.astype(np.float32)[::-1]), wide @ right.astype(np.float32)[::-1], rtol=0.0, atol=lost
    )
    lost = 1e-14 * float(np.abs(wide).sum(axis=0).max()) * float(np.abs(left).max())
    np.testing.assert_allclose(transposed_times(factor, left), left @ wide, rtol=0.0, atol=lost)


@given(forms(max_p=6), st.integers(0, 1000))
@settings(max_examples=30)
def test_entry_error_bounds_what_the_gram_matrix_is_off_from_the_exact_product(form, seed):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(int(rng.integers(1, 9)), form.p)) * 10.0 ** rng.integers(-9, 9, size=form.p)
    held = QuadraticForm(factor=factor)
    columns = [[Fraction(x) for x in column] for column in factor.T.tolist()]
    gram = held.gram(np.arange(held.p))
    for i in range(held.p):
        for j in range(held.p):
            exact = sum(a * b for a, b in zip(columns[i], columns[j], strict=True))
            size = Fraction(float(gram[i, i])) * Fraction(float(gram[j, j]))
            assert (Fraction(float(gram[i, j])) - exact) ** 2 <= Fraction(held.entry_error) ** 2 * size


def test_entry_error_is_zero_of_a_given_hessian_and_inf_where_products_underflow():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(8, 4))
    assert QuadraticForm(hessian=factor.T @ factor).entry_error == 0.0
    formed = QuadraticForm(factor=factor)
    assert formed.hessian is not None
    assert 0.0 < formed.entry_error < 1e-14
    part = formed.with_terms(ridge=0.1).restrict(np.arange(2), np.zeros(4))
    assert part.entry_error == formed.entry_error
    assert QuadraticForm(factor=1e-160 * factor).entry_error == np.inf
    assert QuadraticForm(factor=np.zeros((8, 4))).entry_error < 1e-14
