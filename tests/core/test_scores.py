import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunebench import QuadraticForm
from prunebench.core.errors import InvalidInput, UnknownName
from prunebench.scores import SCORES, score


@st.composite
def forms(draw):
    """A form and dense weights, held as a factor or as a Gram matrix; the dense weights are not the centre."""
    n, p = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    form = QuadraticForm(
        factor=rng.standard_normal((n, p)),
        ridge=rng.uniform(0.1, 1.0, p),
        linear=rng.standard_normal(p),
        centre=rng.standard_normal(p),
        constant=3.0,
    )
    return form, rng.standard_normal(p)


@given(forms())
def test_diagonal_change_is_the_exact_change_when_one_weight_is_pruned(drawn):
    form, weights = drawn
    changes = score("diagonal-change", form, weights)
    for i in range(form.p):
        pruned = weights.copy()
        pruned[i] = 0.0
        assert changes[i] == pytest.approx(form.value(pruned) - form.value(weights), abs=1e-9)


@given(forms())
def test_obd_is_the_exact_change_when_one_weight_is_pruned_at_the_minimum(drawn):
    form, weights = drawn
    at_minimum = QuadraticForm(factor=form.square_root(), ridge=form.ridge, centre=weights)
    for i, saliency in enumerate(score("obd", at_minimum, weights)):
        pruned = weights.copy()
        pruned[i] = 0.0
        assert saliency == pytest.approx(at_minimum.value(pruned), rel=1e-9, abs=1e-12)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 1000))
def test_wanda_is_weight_times_input_norm_up_to_the_common_factor(n, p, seed):
    rng = np.random.default_rng(seed)
    inputs, weights = rng.standard_normal((n, p)), rng.standard_normal(p)
    form = QuadraticForm(hessian=inputs.T @ inputs / n, ridge=0.7, centre=weights)
    expected = np.abs(weights) * np.linalg.norm(inputs, axis=0)
    np.testing.assert_allclose(np.sqrt(n) * score("wanda", form, weights), expected, rtol=1e-9)


def test_wanda_is_the_same_from_a_factor_and_from_its_gram():
    rng = np.random.default_rng(0)
    factor, weights = rng.standard_normal((3, 5)), rng.standard_normal(5)
    from_factor = score("wanda", QuadraticForm(factor=factor, ridge=1.0), weights)
    from_gram = score("wanda", QuadraticForm(hessian=factor.T @ factor, ridge=1.0), weights)
    np.testing.assert_allclose(from_factor, from_gram, rtol=1e-12)


def test_magnitude_is_the_absolute_weight():
    form = QuadraticForm(factor=np.ones((1, 3)), ridge=1.0)
    np.testing.assert_array_equal(score("magnitude", form, [-2.0, 0.0, 1.0]), [2.0, 0.0, 1.0])


def test_gradient_is_the_absolute_first_order_change():
    form = QuadraticForm(factor=np.ones((1, 3)), ridge=1.0, linear=[1.0, -2.0, 0.0])
    np.testing.assert_array_equal(score("gradient", form, [3.0, 3.0, 3.0]), [3.0, 6.0, 0.0])


def test_gradient_without_a_linear_term_is_refused_with_the_remedy():
    with pytest.raises(InvalidInput, match="gradient_scale=1"):
        score("gradient", QuadraticForm(factor=np.ones((1, 3)), ridge=1.0), np.ones(3))


def test_random_repeats_with_the_seed_and_needs_a_generator():
    form = QuadraticForm(factor=np.ones((1, 3)), ridge=1.0)
    first, second = (score("random", form, np.ones(3), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(InvalidInput, match="random generator"):
        score("random", form, np.ones(3))


@pytest.mark.parametrize("name", SCORES)
def test_every_score_gives_one_finite_float64_a_weight(name):
    rng = np.random.default_rng(0)
    form = QuadraticForm(factor=rng.standard_normal((4, 9)).astype(np.float32), ridge=0.1, linear=np.ones(9))
    values = score(name, form, rng.standard_normal(9), rng)
    assert values.shape == (9,)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()


def test_an_unknown_score_gets_the_nearest_match():
    with pytest.raises(UnknownName, match="did you mean 'magnitude'"):
        score("magnitud", QuadraticForm(factor=np.ones((1, 3)), ridge=1.0), np.ones(3))


def test_weights_that_do_not_fit_the_form_are_refused():
    with pytest.raises(InvalidInput, match=r"\(4,\).*\(3,\)"):
        score("magnitude", QuadraticForm(factor=np.ones((1, 3)), ridge=1.0), np.ones(4))
