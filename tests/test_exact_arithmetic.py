"""Claims of proof against exact rational arithmetic: the oracle, the hostile families, every bound."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from prunebench import QuadraticForm
from prunebench.core.rows import RowsForm
from prunebench.testing.exact import Exact, Unbounded
from prunebench.testing.hostile import HOSTILE, ill_conditioned
from prunebench.testing.instances import FAMILIES, BruteForce, instance


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("family", [*FAMILIES, "quota-uneven"])
def test_the_oracle_agrees_with_brute_force_where_rounding_is_small(family, mode):
    for seed in range(2):
        block = instance(family, seed, mode)
        exact, brute = Exact.of(block), BruteForce.of(block)
        assert float(exact.optimum) == pytest.approx(brute.objective, rel=1e-10, abs=1e-13)
        assert float(exact.of_mask(brute.mask)) == pytest.approx(brute.objective, rel=1e-10, abs=1e-13)
        assert float(exact.value(block.weights_of(brute.mask))) == pytest.approx(brute.objective, rel=1e-10, abs=1e-13)


def test_the_oracle_is_exact_to_the_last_digit():
    third = Fraction(0.1)
    block = instance("gaussian", 0, "refit", p=2, keep=1)
    form = QuadraticForm(hessian=[[1e-20, 0.0], [0.0, 3.0]], ridge=0.1, linear=[0.1, 0.0], centre=[1e20, 0.1])
    exact = Exact.of(replace(block, form=form))
    curvature, far = Fraction(1e-20) + third, Fraction(1e20)
    # with the first kept, 0.1 (w − 1e20) + ½ curvature (w − 1e20)² has its least value −0.1²/(2 curvature)
    assert exact.of_mask(np.array([True, False])) == -(third**2) / (2 * curvature) + (3 + third) * third**2 / 2
    assert exact.of_mask(np.array([False, True])) == -third * far + curvature * far**2 / 2


def test_the_oracle_refuses_a_support_without_a_minimum():
    block = instance("gaussian", 0, "select", p=2, keep=2)
    form = QuadraticForm(hessian=[[1.0, 3.0], [3.0, 1.0]])
    exact = Exact.of(replace(block, form=form))
    object.__setattr__(exact.block, "mode", "refit")
    with pytest.raises(Unbounded):
        exact.of_mask(np.ones(2, dtype=bool))


def test_hostile_blocks_are_the_same_for_the_same_seed_and_differ_otherwise():
    for family, draw in HOSTILE.items():
        hashes = [draw(seed, "select").block.hash for seed in range(20)]
        assert hashes == [draw(seed, "select").block.hash for seed in range(20)], family
        assert len(set(hashes)) == 20, family


def _unconstrained(form):
    """The exact least value of f over all weights, of what the form holds and of the factor it was made from."""
    block = replace(
        instance("gaussian", 0, "select", p=form.p, keep=1), form=form, keep=form.p, dense_weights=form.centre
    )
    object.__setattr__(block, "mode", "refit")
    return block


def test_the_forms_bound_is_below_the_exact_minimum_at_any_conditioning():
    bounded = tight = 0
    for seed in range(400):
        hostile = ill_conditioned(seed, "refit")
        form = hostile.block.form
        bound = form.lower_bound()
        if not np.isfinite(bound) or not form.linear.any():
            continue
        bounded += 1
        block = _unconstrained(form)
        least = Exact.of(block).optimum
        assert Fraction(bound) <= least, hostile.block.problem
        if hostile.factor is not None:
            assert Fraction(bound) <= Exact.of(block, hostile.factor).optimum, hostile.block.problem
        tight += bool(least - Fraction(bound) <= abs(least) / 10**6)
    assert bounded > 150
    assert tight > bounded / 2


def test_the_forms_bound_misses_the_minimum_by_rounding_alone():
    for seed in range(1, 40, 2):
        form = instance("gaussian", seed, "refit").form
        least = Exact.of(_unconstrained(form)).optimum
        assert 0 <= least - Fraction(form.lower_bound()) <= Fraction(1e-12) * abs(least)


def test_the_bound_of_a_whole_layer_is_that_of_its_rows():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(9, 3))
    for scale in (1.0, 1e-9, 1e9):
        form = RowsForm(
            shared=scale * factor.T @ factor, rows=2, ridge=1e-9 * scale, linear=scale * rng.normal(size=6),
            centre=rng.normal(size=6), constant=scale,
        )  # fmt: skip
        least = Exact.of(_unconstrained(form.plain())).optimum
        assert 0 <= least - Fraction(form.lower_bound()) <= Fraction(1e-9) * abs(least)


def test_nothing_is_proved_of_an_indefinite_form():
    for seed in range(20):
        form = HOSTILE["indefinite"](seed, "select").block.form
        if np.linalg.eigvalsh(form.gram(np.arange(form.p)))[0] < 0.0:
            assert form.strong_convexity is None
            assert form.lower_bound() == -np.inf


def test_an_enclosure_holds_the_exact_value_and_gradient():
    for seed in range(100):
        hostile = ill_conditioned(seed, "select")
        block = hostile.block
        weights = block.weights_of(block.incumbent)
        value, slope = block.form.enclosure(weights)
        truths = [Exact.of(block)] if hostile.factor is None else [Exact.of(block), Exact.of(block, hostile.factor)]
        for exact in truths:
            assert Fraction(float(value.lower())) <= exact.value(weights) <= Fraction(float(value.upper()))
            gradient = exact.gradient(weights)
            for low, entry, high in zip(slope.lower(), gradient, slope.upper(), strict=True):
                assert Fraction(float(low)) <= entry <= Fraction(float(high))
