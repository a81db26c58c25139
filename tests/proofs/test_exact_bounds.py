"""Bounds and certificates: never above the optimum, rigorous to the last bit, and refused when tampered with."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from prunebench import BlockProblem, QuadraticForm, solve
from prunebench.core.balls import Ball, image, largest_sum
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Count
from prunebench.kernels.relaxations import bounds
from prunebench.kernels.relaxations.bounds import lower_bound
from prunebench.kernels.relaxations.certificate import LAGRANGIAN, SHIFT, SPLIT, derive, value_range
from prunebench.kernels.relaxations.programs import SelectProgram
from prunebench.kernels.relaxations.shift import certified_shift, plane_shift
from prunebench.testing.instances import FAMILIES, instance, scaled

MODES = ["select", "refit"]


def random_block(mode, p=12, n=6, keep=5, seed=0, ridge=0.01, dtype=np.float64):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n, p)).astype(dtype)
    return BlockProblem(
        QuadraticForm(factor=factor, ridge=ridge, centre=rng.normal(size=p)), rng.normal(size=p), keep, mode
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_no_bound_is_above_the_optimum(family, mode):
    for seed in range(5):
        block = instance(family, seed, mode, p=10, keep=4)
        best = solve(block, "exhaustive").objective
        _, high = value_range(block, solve(block, "exhaustive").weights)
        assert lower_bound(block).value <= high, (family, seed, best)


@pytest.mark.parametrize("mode", MODES)
def test_no_matrix_free_bound_is_above_the_optimum(mode, monkeypatch):
    monkeypatch.setattr(bounds, "DENSE_SIZE", {"select": 0, "refit": 0})
    for seed in range(5):
        block = random_block(mode, seed=seed)
        bound = lower_bound(block, seconds=5.0)
        best = solve(block, "exhaustive").objective
        assert bound.value <= best * (1 + 1e-12)
        assert bound.method == LAGRANGIAN


@pytest.mark.parametrize("mode", MODES)
def test_bounds_scale_with_the_loss_and_the_weights(mode):
    block = random_block(mode)
    value = lower_bound(block).value
    for loss, weights in ((1e-12, 1.0), (1e12, 1.0), (1e-6, 1e6), (1e6, 1e-6)):
        assert lower_bound(scaled(block, loss, weights)).value / loss == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_the_dense_bound_is_at_least_as_good_as_the_matrix_free_one(mode, monkeypatch):
    block = random_block(mode, p=40, n=15, keep=12)
    dense = lower_bound(block).value
    monkeypatch.setattr(bounds, "DENSE_SIZE", {"select": 0, "refit": 0})
    free = lower_bound(block, seconds=5.0).value
    assert dense >= free - 1e-3 * abs(free)


@pytest.mark.parametrize("mode", MODES)
def test_a_wide_float32_factor_gets_a_certified_bound_without_square_matrices(mode):
    block = random_block(mode, p=4000, n=20, keep=800, ridge=0.1, dtype=np.float32)
    bound = lower_bound(block, seconds=10.0)
    assert np.isfinite(bound.value)
    assert bound.value <= solve(block, "magnitude").objective
    assert derive(block, bound.details["certificate"]) == bound.value


@pytest.mark.parametrize("mode", MODES)
def test_keeping_all_or_nothing_has_its_value_as_its_bound(mode):
    for keep in (0, 12):
        block = replace(random_block(mode), keep=keep)
        best = block.evaluate(np.full(12, keep > 0))
        assert lower_bound(block).value == pytest.approx(best, rel=1e-9)
        assert lower_bound(block).value <= best


def test_zero_ridge_in_mode_select_still_has_a_bound():
    block = random_block("select", ridge=0.0)
    assert 0.0 <= lower_bound(block).value + 1e-12 <= solve(block, "exhaustive").objective + 1e-9


def test_the_shift_solves_its_semidefinite_program():
    """For ½(x₁ + x₂ − 2x₃)² on Σx = 1 the relaxation with the best shift is exact: its optimum is ½."""
    ray = np.array([1.0, 1.0, -2.0])
    found = plane_shift(np.outer(ray, ray), np.zeros(3), 1, 0.5, accuracy=1e-8)
    assert found.value == pytest.approx(0.5, abs=1e-6)
    matrix = np.outer(ray, ray) + np.diag(certified_shift(np.outer(ray, ray), found.diagonal))
    basis = np.linalg.qr(np.column_stack([np.ones(3), np.eye(3)[:, :2]]))[0][:, 1:]
    assert np.linalg.eigvalsh(basis.T @ matrix @ basis)[0] >= 0.0


def test_a_certificate_proves_the_solvers_root_bound_again():
    for mode, formulation in (("select", SHIFT), ("refit", SPLIT)):
        block = random_block(mode, p=30, n=12, keep=10)
        proof = solve(block, "branch-and-bound").details["certificate"]
        assert proof["formulation"] == formulation
        assert derive(block, proof) == pytest.approx(proof["root_bound"], rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_wrong_numbers_in_a_certificate_never_give_a_wrong_bound(mode):
    block = random_block(mode)
    best = solve(block, "exhaustive").objective
    proof = solve(block, "branch-and-bound").details["certificate"]
    key = "shift" if mode == "select" else "split"
    rng = np.random.default_rng(1)
    for size in (1e-6, 1e-2, 1.0, 1e3):
        forged = dict(proof)
        forged[key] = (np.array(proof[key]) * (1 + size * rng.normal(size=12))).tolist()
        forged["point"] = (np.array(proof["point"]) + size * rng.normal(size=12)).tolist()
        assert derive(block, forged) <= best


def test_a_certificate_with_a_missing_array_is_refused_by_name():
    block = random_block("select")
    with pytest.raises(InvalidInput, match="'point'"):
        derive(block, {"formulation": SHIFT, "shift": [0.0] * 12})


def test_the_programs_count_what_rounding_lost():
    block = random_block("select", p=40, n=30, keep=13)
    program = SelectProgram.of(block, block.evaluate(block.incumbent))
    rng = np.random.default_rng(2)
    for _ in range(20):
        mask = np.isin(np.arange(40), rng.choice(40, 13, replace=False))
        x = (~mask).astype(float)
        inner = program.linear @ x + 0.5 * x @ program.quadratic @ x
        assert program.outer(inner) <= block.evaluate(mask) * (1 + 1e-15)


def test_an_interval_holds_the_exact_objective():
    block = random_block("select", p=7, n=3)
    weights = np.random.default_rng(3).normal(size=7)
    low, high = value_range(block, weights)
    move = [Fraction(float(a)) - Fraction(float(b)) for a, b in zip(weights, block.form.centre, strict=True)]
    factor = [[Fraction(float(v)) for v in row] for row in block.form.factor]
    squares = sum((sum((a * d for a, d in zip(row, move, strict=True)), Fraction(0))) ** 2 for row in factor)
    ridge = sum((Fraction(float(r)) * d * d for r, d in zip(block.form.ridge, move, strict=True)), Fraction(0))
    assert Fraction(low) <= (squares + ridge) / 2 <= Fraction(high)
    assert high - low <= 1e-13 * high


def test_products_of_balls_hold_the_exact_product():
    rng = np.random.default_rng(4)
    matrix, vector = rng.normal(size=(4, 9)), rng.normal(size=9) * 10.0 ** rng.integers(-8, 8, 9)
    ball = image(matrix, Ball.of(vector))
    for row, low, high in zip(matrix, ball.lower(), ball.upper(), strict=True):
        exact = sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, vector, strict=True)), Fraction(0))
        assert Fraction(float(low)) <= exact <= Fraction(float(high))


def test_the_largest_sum_is_an_upper_end():
    ball = Ball(np.array([3.0, 1.0, 2.0]), np.array([0.5, 0.5, 2.0]))
    assert 7.5 <= largest_sum(ball, Count(ball.mid.size, 2)) <= 7.5 + 1e-12
