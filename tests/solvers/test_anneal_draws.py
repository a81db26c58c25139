"""Masks that anneal draws from the semidefinite relaxation."""

from itertools import combinations

import numpy as np
import pytest

from prunebench import BlockProblem, Budget, QuadraticForm, solve
from prunebench.core.stop import never
from prunebench.solvers.anneal.draws import Draws
from prunebench.solvers.anneal.solver import Anneal
from prunebench.suite import catalogue, instances


def low_rank(p: int, seed: int) -> BlockProblem:
    """Few samples and half of the weights kept: many masks far apart are nearly as good."""
    rng = np.random.default_rng(seed)
    form = QuadraticForm(factor=rng.normal(size=(p // 4, p)) * rng.lognormal(size=p), ridge=1e-6)
    return BlockProblem(form, rng.normal(size=p), p // 2, "select")


def test_the_moments_are_of_masks_with_the_count() -> None:
    block = low_rank(14, 0)
    masks = np.zeros((3432, 14), dtype=np.bool_)
    for row, kept in enumerate(combinations(range(14), 7)):
        masks[row, list(kept)] = True
    best = min(block.evaluate(mask) for mask in masks)
    draws = Draws.of(block, best, never)
    assert draws.mean.sum() == pytest.approx(7.0, abs=1e-3)
    assert (draws.mean > -1e-6).all()
    assert (draws.mean < 1.0 + 1e-6).all()
    # a draw's variance is that of a zero-one variable with its mean, as the relaxation demands
    assert (draws.spread**2).sum(axis=1) == pytest.approx(draws.mean * (1.0 - draws.mean), abs=1e-3)
    drawn = draws.masks(200, 7, masks[:1], np.random.default_rng(0))
    assert (drawn.sum(axis=1) == 7).all()
    objectives = np.array([block.evaluate(mask) for mask in drawn])
    assert np.median(objectives) < 0.5 * block.random_mean()


def test_draws_improve_on_reads_at_equal_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    block, budget = low_rank(192, 1), Budget(evaluations=3.8e7)
    # beams find as much without draws
    monkeypatch.setattr("prunebench.solvers.anneal.search.Search._beam", lambda *_: None)
    found = solve(block, Anneal(), budget=budget, seed=0)
    assert found.details["draws"] > 100
    again = solve(block, Anneal(), budget=budget, seed=0)
    assert np.array_equal(found.mask, again.mask)
    monkeypatch.setattr("prunebench.solvers.anneal.search.Search._relax", lambda self: False)
    without = solve(block, Anneal(), budget=budget, seed=0)
    assert "draws" not in without.details
    assert found.objective < without.objective


def test_a_budget_too_small_for_the_relaxation_leaves_it_out() -> None:
    block = low_rank(96, 1)
    found = solve(block, Anneal(), budget=Budget(evaluations=1.5e6), seed=0)
    assert "draws" not in found.details


def test_beams_over_the_relaxation_find_what_reads_and_draws_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    block = instances.load(catalogue.catalogue().get("select-digits-first-fisher-128-64"))
    budget = Budget(evaluations=2e7)
    found = solve(block, Anneal(), budget=budget, seed=0)
    assert found.details["beams"] > 3
    assert np.array_equal(found.mask, solve(block, Anneal(), budget=budget, seed=0).mask)
    monkeypatch.setattr("prunebench.solvers.anneal.search.Search._beam", lambda *_: None)
    without = solve(block, Anneal(), budget=budget, seed=0)
    assert "beams" not in without.details
    assert found.objective < without.objective * (1.0 - 1e-3)
