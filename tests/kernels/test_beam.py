"""Beams: with room for all masks they enumerate, what they cost is the program's value, and shifts change nothing."""

import itertools

import numpy as np
import pytest

from prunebench import BlockProblem, Budget, QuadraticForm, solve
from prunebench.core.stop import Stop, StopKind
from prunebench.kernels.relaxations.beam import Beam, sorted_factor
from prunebench.suite import catalogue, instances


def drawn(seed, p=9, rows=6):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(rows, p))
    return rows.T @ rows, rng.normal(size=p)


def values(quadratic, linear, ones):
    return ones @ linear + 0.5 * np.einsum("ri,ij,rj->r", ones, quadratic, ones)


@pytest.mark.parametrize("p", [1, 2, 31, 32, 33, 70])
def test_a_sorted_factor_is_one_of_the_matrix_in_its_order(p):
    rng = np.random.default_rng(p)
    rows = rng.normal(size=(p + 3, p)) * 10.0 ** rng.uniform(-3, 0, p)
    matrix = rows.T @ rows
    triangle, order = sorted_factor(matrix)
    assert sorted(order) == list(range(p))
    assert np.array_equal(triangle, np.triu(triangle))
    assert triangle.T @ triangle == pytest.approx(matrix[np.ix_(order, order)], rel=1e-9, abs=1e-12 * matrix.max())
    # each pivot is the least of those that were left
    rest = matrix[np.ix_(order, order)]
    for _ in range(p):
        assert rest[0, 0] <= rest.diagonal().min() * (1 + 1e-6)
        rest = rest[1:, 1:] - np.outer(rest[1:, 0], rest[0, 1:]) / rest[0, 0]


def test_a_matrix_that_is_not_positive_definite_has_none():
    assert sorted_factor(np.array([[1.0, 2.0], [2.0, 1.0]])) is None
    assert sorted_factor(np.zeros((3, 3))) is None
    assert Beam.of(-np.eye(3), np.zeros(3), np.zeros(3), 1) is None


@pytest.mark.parametrize("seed", range(6))
def test_with_room_for_all_it_lists_every_mask_in_order_whatever_the_shift(seed):
    quadratic, linear = drawn(seed)
    count = 1 + seed
    shift = np.random.default_rng(seed).random(9) + 0.1
    found = Beam.of(quadratic, linear, shift, count).search(2**9)
    every = {tuple(np.isin(np.arange(9), chosen)) for chosen in itertools.combinations(range(9), count)}
    assert {tuple(row) for row in found.ones} == every
    worth = values(quadratic, linear, found.ones)
    assert np.diff(worth).min() >= -1e-9
    # costs are values up to a constant
    assert found.costs - found.costs[0] == pytest.approx(worth - worth[0], abs=1e-8)


def test_a_narrow_beam_is_feasible_and_sorted_and_a_wide_one_finds_better():
    quadratic, linear = drawn(3, 40, 40)
    beam = Beam.of(quadratic, linear, np.full(40, 0.01), 13)
    least = []
    for width in (1, 8, 512):
        found = beam.search(width)
        assert len(found.ones) <= width
        assert (found.ones.sum(axis=1) == 13).all()
        assert (np.diff(found.costs) >= 0).all()
        least.append(values(quadratic, linear, found.ones).min())
    assert least[-1] < least[0]


def test_a_beam_stops_when_it_is_told_to():
    quadratic, linear = drawn(0, 100)
    beam = Beam.of(quadratic, linear, np.full(100, 0.1), 50)
    asked = []

    def stop(decided):
        asked.append(decided)
        return Stop(StopKind.TIME, "enough") if len(asked) > 2 else None

    assert beam.search(4, stop) == Stop(StopKind.TIME, "enough")
    assert asked == sorted(asked)
    assert asked[-1] > 0.0
    told = Stop(StopKind.TIME, "late")
    assert Beam.of(quadratic, linear, np.full(100, 0.1), 50, lambda _: told) is told


def test_the_solver_finds_the_proved_optimum_of_blocks_on_which_descents_end_above_it():
    beaten = 0
    for name in (
        "select-digits-first-random-64-32",
        "select-digits-first-random-128-26",
        "select-drawn-uniform-128-64",
    ):
        item = catalogue.catalogue().get(name)
        block = instances.load(item)
        found = solve(block, "beam", options={"width": 512})
        assert found.objective == pytest.approx(item.best, rel=1e-9)
        beaten += solve(block, "swap").objective > found.objective * (1 + 1e-6)
    assert beaten >= 2


def test_an_indefinite_block_is_solved_as_enumeration_solves_it():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        hessian = rng.normal(size=(12, 12))
        form = QuadraticForm(hessian=hessian + hessian.T, ridge=0.1, centre=np.ones(12))
        block = BlockProblem(form, rng.normal(size=12), 5, "select")
        assert form.strong_convexity is None
        assert solve(block, "beam").objective == pytest.approx(solve(block, "exhaustive").objective, rel=1e-9)


def test_limits_end_it_with_the_best_so_far_and_widths_below_one_are_refused():
    block = instances.load(catalogue.catalogue().get("select-digits-first-random-128-64"))
    whole = solve(block, "beam", options={"width": 64})
    part = solve(block, "beam", options={"width": 64}, budget=Budget(evaluations=20_000))
    assert part.stop_reason == "evaluation limit of 20000"
    assert whole.objective <= part.objective < block.evaluate(block.incumbent)
    with pytest.raises(Exception, match="width is 0; choose at least 1"):
        solve(block, "beam", options={"width": 0})
