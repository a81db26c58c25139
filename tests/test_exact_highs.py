"""HiGHS: every formulation proves the same optimum, and stops honestly."""

import numpy as np
import pytest

from prunebench import BlockProblem, Budget, QuadraticForm, Status, solve
from prunebench.core.errors import SolverRefused

FORMULATIONS = {
    "select": ["pairs", "mccormick", "residuals", "shifted-residuals"],
    "refit": ["perspective"],
}


def block_of(mode, p=10, n=6, keep=4, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=p)
    form = QuadraticForm(factor=rng.normal(size=(n, p)), ridge=0.05, centre=weights)
    return BlockProblem(form, weights, keep, mode)


@pytest.mark.parametrize(("mode", "formulation"), [(m, f) for m, names in FORMULATIONS.items() for f in names])
def test_every_formulation_proves_the_optimum(mode, formulation):
    for seed in range(2):
        block = block_of(mode, seed=seed)
        answer = solve(block, "highs", options={"formulation": formulation})
        best = solve(block, "exhaustive").objective
        assert answer.status is Status.OPTIMAL, answer.stop_reason
        assert answer.objective == pytest.approx(best, rel=1e-9)
        assert best * (1 - 1e-4) <= answer.lower_bound <= best * (1 + 1e-12)
        assert answer.details["formulation"] == formulation


def test_cuts_in_the_mask_alone_bound_the_optimum():
    block = block_of("refit", p=8, n=5, keep=3)
    answer = solve(block, "highs", options={"formulation": "mask-cuts"})
    best = solve(block, "exhaustive").objective
    assert answer.objective == pytest.approx(best, rel=1e-9)
    assert best * 0.99 <= answer.lower_bound <= best * (1 + 1e-12)


def test_it_proves_forty_weights_in_mode_select():
    rng = np.random.default_rng(5)
    weights = rng.normal(size=40)
    factor = rng.normal(size=(20, 40)) / np.sqrt(20)
    block = BlockProblem(QuadraticForm(factor=factor, ridge=0.01, centre=weights), weights, 24, "select")
    answer = solve(block, "highs", budget=Budget(seconds=5.0))
    exact = solve(block, "branch-and-bound")
    assert answer.lower_bound <= exact.objective * (1 + 1e-9)
    assert answer.objective >= exact.objective * (1 - 1e-9)
    assert (np.diff(answer.trace[:, 1]) <= 0).all()
    assert (answer.trace[1:, 2] >= answer.trace[:-1, 2]).all()


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_no_time_gives_the_incumbent(mode):
    answer = solve(block_of(mode), "highs", budget=Budget(seconds=0.0))
    assert answer.status is Status.TIME_LIMIT
    assert int(answer.mask.sum()) == 4


def test_interruption_during_the_run_keeps_the_incumbent():
    def press_ctrl_c(_seconds, _objective, bound):
        if np.isfinite(bound):
            raise KeyboardInterrupt

    answer = solve(block_of("select"), "highs", progress=press_ctrl_c)
    assert answer.status is Status.INTERRUPTED
    assert int(answer.mask.sum()) == 4


def test_a_formulation_of_the_other_mode_is_refused_with_the_right_ones():
    with pytest.raises(SolverRefused, match="choose auto, pairs"):
        solve(block_of("select"), "highs", options={"formulation": "perspective"})
