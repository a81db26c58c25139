"""Claims of proof against exact rational arithmetic: the oracle, the hostile families, every bound."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from prunebench import QuadraticForm, Status, solve
from prunebench.core import definite
from prunebench.core.keeping import Quota
from prunebench.core.rows import RowsForm
from prunebench.kernels.relaxations.bounds import lower_bound
from prunebench.solvers.exhaustive.enumeration import Collected
from prunebench.solvers.exhaustive.solver import _Enumeration
from prunebench.testing.claims import BOUND, OBJECTIVE, OPTIMAL, attack, faults
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


def test_an_enclosure_allows_for_the_hessian_that_was_formed_from_a_factor():
    rng = np.random.default_rng(0)
    for _ in range(20):
        factor = rng.normal(size=(30, 2))
        factor[:, 1] -= factor[:, 0] * (factor[:, 0] @ factor[:, 1]) / (factor[:, 0] @ factor[:, 0])
        form = QuadraticForm(factor=factor, ridge=1.0)
        assert form.hessian is not None
        # the columns are orthogonal to rounding, so that all of the off-diagonal entry is rounding
        _, slope = form.enclosure(np.array([1.0, 0.0]))
        exact = sum(Fraction(a) * Fraction(b) for a, b in factor.tolist())
        assert Fraction(float(slope.lower()[1])) <= exact <= Fraction(float(slope.upper()[1]))


@pytest.mark.parametrize("seed", range(6))
def test_strong_convexity_is_what_the_ridge_leaves_after_lifting_the_curvature(seed):
    factor = np.random.default_rng(seed).normal(size=(4, 8)).astype(np.float32)
    gram = (factor.T @ factor).astype(np.float64)
    lowest = -np.linalg.eigvalsh(gram)[0]
    assert lowest > 0.0
    form = QuadraticForm(hessian=gram, ridge=1.5 * lowest)
    floor = form.strong_convexity
    assert floor is not None
    assert (floor > 0.0).all()
    assert definite.exactly_definite(gram, form.ridge - 0.999 * floor)
    assert not definite.exactly_definite(gram, form.ridge - 100.0 * floor)


def test_nothing_singular_to_rounding_is_proved_semidefinite():
    passed = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        factor = rng.normal(size=(1 + seed % 3, 4))
        gram = factor.T @ factor
        if not definite.exactly_definite(gram, np.zeros(4)):
            assert not definite.proved_semidefinite(gram), seed
            passed += np.linalg.eigvalsh(gram)[0] > 0.0
    # some look definite in floating point
    assert passed > 20


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_the_bound_of_a_settled_block_is_below_its_one_mask(mode):
    for seed in range(40):
        block = ill_conditioned(seed, mode).block
        settled = replace(block, keep=block.p, quota=None, start_mask=None)
        bound = lower_bound(settled, 1.0)
        assert bound.method == "one mask"
        assert not np.isfinite(bound.value) or Fraction(bound.value) <= Exact.of(settled).optimum, seed


def test_bounds_of_indefinite_blocks_hold_with_and_without_a_quota():
    counts = attack([], 12, families=["indefinite"], modes=["select"])
    assert counts.blocks == 12
    assert counts.bounded == 12
    assert not counts.wrong, counts.examples
    for seed in range(4):
        block = HOSTILE["indefinite"](seed, "select").block
        group = np.arange(block.p) % 2
        held = replace(block, quota=Quota(group, np.array([1, 0])), keep=1, start_mask=None)
        assert Fraction(lower_bound(held, 5.0).value) <= Exact.of(held).optimum


def test_an_attack_counts_what_is_wrong():
    counts = attack(["exhaustive", "swap"], 6, bounds=False)
    assert (counts.blocks, counts.solves, counts.wrong) == (18, 36, 0)
    block = ill_conditioned(1, "select").block
    answer = solve(block, "exhaustive")
    exact = Exact.of(block)
    above = replace(answer, lower_bound=float(exact.optimum) + 1e-6 * abs(answer.objective))
    assert list(faults(exact, above)) == [BOUND]
    worse = max(exact.masks(), key=exact.of_mask)
    other = replace(answer, mask=worse, weights=block.weights_of(worse), objective=block.evaluate(worse))
    assert list(faults(exact, other)) == [OPTIMAL]
    assert list(faults(exact, replace(answer, objective=answer.objective * (1.0 - 1e-9), lower_bound=-np.inf,
                                      status=Status.FEASIBLE))) == [OBJECTIVE]  # fmt: skip


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_what_an_enumeration_computes_proves_no_more_than_is_so(mode):
    ready = {True: 0, False: 0}
    for seed in range(400):
        block = ill_conditioned(seed, mode).block
        walk = _Enumeration(block)
        if not walk.doubt.ready:
            continue
        mask, value, done, finished = walk.advance(10**6)
        assert (done, finished) == (block.mask_count, True)
        exact = Exact.of(block)
        optimum = exact.optimum
        assert Fraction(walk.doubt.least(value)) <= optimum, seed
        # no mask below an objective is left out of what is collected for it
        objective = block.evaluate(mask)
        held = _Enumeration(block, Collected(walk.doubt.limit(objective), block.mask_count))
        held.advance(10**6)
        cheaper = {mask.tobytes() for mask in exact.masks() if exact.of_mask(mask) < Fraction(objective)}
        assert cheaper <= {mask.tobytes() for mask in held.collected()}, seed
        ready[block.keep * 2 <= block.p] += 1
    assert min(ready.values()) > 50
