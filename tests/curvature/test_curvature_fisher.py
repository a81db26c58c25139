import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench import make_problem
from prunebench.core.errors import InvalidInput
from prunebench.curvature.fisher import FisherOptions, fisher_form, network_form
from prunebench.networks.network import PrunableNetwork


@st.composite
def gradient_arrays(draw):
    rows, columns = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.standard_normal((rows, columns)).astype(draw(st.sampled_from([np.float32, np.float64])))


def curvature(form):
    return form.gram(np.arange(form.p))


@given(gradients=gradient_arrays(), batch_size=st.integers(1, 16), ridge=st.floats(0.0, 10.0))
def test_curvature_is_b_over_n_times_the_gradients_gram_plus_the_relative_ridge(gradients, batch_size, ridge):
    wide = gradients.astype(np.float64)
    expected = batch_size / len(wide) * wide.T @ wide
    expected += ridge * expected.diagonal().mean() * np.eye(len(expected))
    form = fisher_form(gradients, np.zeros(wide.shape[1]), ridge=ridge, batch_size=batch_size)
    np.testing.assert_allclose(curvature(form), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@given(gradients=gradient_arrays(), scale=st.floats(0.1, 2.0))
def test_the_linear_term_is_the_scaled_mean_gradient(gradients, scale):
    mean = gradients.astype(np.float64).mean(axis=0)
    form = fisher_form(gradients, np.zeros(gradients.shape[1]), batch_size=4, gradient_scale=scale)
    np.testing.assert_allclose(form.linear, scale * mean, rtol=1e-12, atol=1e-12)


def test_without_gradient_scale_the_dense_weights_are_the_minimum_with_value_zero():
    weights = np.arange(5.0)
    form = fisher_form(np.random.default_rng(0).standard_normal((3, 5)), weights)
    assert form.value(weights) == 0.0
    assert not form.gradient(weights).any()


def test_the_gradients_are_scaled_in_place_and_held_without_a_copy():
    gradients = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    before = gradients.copy()
    form = fisher_form(gradients, np.zeros(9))
    assert np.shares_memory(form.factor, gradients)
    np.testing.assert_allclose(gradients, before / 2.0, rtol=1e-6)


@settings(deadline=None)
@given(seed=st.integers(0, 1000))
def test_mini_batch_means_have_the_curvature_of_single_samples_in_expectation(seed):
    rng = np.random.default_rng(seed)
    single = rng.standard_normal((40_000, 2)) * [1.0, 3.0]
    means = single.reshape(-1, 8, 2).mean(axis=1)
    one = fisher_form(single, np.zeros(2), ridge=0.0)
    eight = fisher_form(means, np.zeros(2), ridge=0.0, batch_size=8)
    # 5,000 rows: the standard error of a variance is sqrt(2/5000) = 2 %; six of them.
    np.testing.assert_allclose(eight.diagonal(), one.diagonal(), rtol=0.12)


def test_gradients_that_are_zero_throughout_are_refused():
    with pytest.raises(InvalidInput, match="all gradients are zero"):
        fisher_form(np.zeros((3, 5), dtype=np.float32), np.zeros(5))


def test_weights_that_do_not_fit_the_gradients_are_refused():
    with pytest.raises(InvalidInput, match=r"\(4,\).*5 columns"):
        fisher_form(np.ones((3, 5), dtype=np.float32), np.zeros(4))


def test_nan_gradients_are_refused():
    with pytest.raises(InvalidInput, match="gradients holds nan"):
        fisher_form(np.full((2, 3), np.nan, dtype=np.float32), np.zeros(3))


def test_read_only_gradients_are_refused_because_they_are_scaled_in_place():
    gradients = np.ones((2, 3), dtype=np.float32)
    gradients.flags.writeable = False
    with pytest.raises(InvalidInput, match="read-only"):
        fisher_form(gradients, np.zeros(3))


@pytest.mark.parametrize("name", ["ridge", "gradient_scale"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_negative_or_infinite_number_is_refused(name, value):
    with pytest.raises(InvalidInput, match=name):
        FisherOptions(**{name: value})
    with pytest.raises(InvalidInput, match=name):
        fisher_form(np.ones((2, 3)), np.zeros(3), **{name: value})


@pytest.mark.parametrize("options", [{"samples": 0}, {"batch_size": 0}, {"samples": 3, "batch_size": 4}])
def test_impossible_sample_counts_are_refused(options):
    with pytest.raises(InvalidInput, match=r"samples|batch_size"):
        FisherOptions(**options)


def test_the_form_of_a_network_stands_at_its_weights_and_repeats_with_the_seed():
    problem = make_problem("digits-mlp", {"epochs": 1, "hidden": (8,)})
    network = PrunableNetwork(problem.model(), problem.prunable())
    options = FisherOptions(samples=50)
    first, second = (network_form(problem, network, options, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.centre, network.weights())
    np.testing.assert_array_equal(first.factor, second.factor)
    assert first.factor.shape == (50, network.total)
    assert first.factor.dtype == np.float32


def test_mini_batches_of_a_network_have_about_the_trace_of_single_samples():
    problem = make_problem("digits-mlp", {"epochs": 1, "hidden": (8,)})
    network = PrunableNetwork(problem.model(), problem.prunable())
    mean = {}
    for batch_size in (1, 4):
        options = FisherOptions(samples=1200, batch_size=batch_size, ridge=0.0)
        form = network_form(problem, network, options, np.random.default_rng(0))
        mean[batch_size] = form.diagonal().mean()
    # The mean gradient's own square enters b times over, so mini-batches may only be larger.
    assert 0.9 < mean[4] / mean[1] < 2.0


def test_more_samples_than_there_are_name_both_numbers():
    problem = make_problem("digits-mlp", {"epochs": 1, "hidden": (8,)})
    network = PrunableNetwork(problem.model(), problem.prunable())
    with pytest.raises(InvalidInput, match=r"samples is 5000 but problem 'digits-mlp' has 1347"):
        network_form(problem, network, FisherOptions(samples=5000), np.random.default_rng(0))
