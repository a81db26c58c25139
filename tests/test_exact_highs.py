"""HiGHS: every formulation proves the same optimum, and stops honestly."""

import numpy as np
import pytest

from prunebench import BlockProblem, Budget, QuadraticForm, Status, solve
from prunebench.core.certificate import value_range
from prunebench.core.errors import SolverRefused
from prunebench.testing.instances import FAMILIES, instance

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
        answer = solve(block, "highs", options={"formulation": formulation, "probing": False})
        best = solve(block, "exhaustive").objective
        assert answer.status is Status.OPTIMAL, answer.stop_reason
        assert answer.objective == pytest.approx(best, rel=1e-9)
        assert best * (1 - 1e-4) <= answer.lower_bound <= best * (1 + 1e-12)
        assert answer.details["formulation"] == formulation


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_probing_never_loses_the_optimum(family):
    for seed in range(5):
        block = instance(family, seed, "select", p=12, keep=5)
        answer = solve(block, "highs")
        best = solve(block, "exhaustive").objective
        _, high = value_range(block, solve(block, "exhaustive").weights)
        assert answer.objective == pytest.approx(best, rel=1e-9, abs=1e-12 * abs(block.form.constant))
        assert answer.lower_bound <= high


def test_probing_leaves_an_easy_block_without_free_weights():
    """One weight costs far more than all others together can save: reduced costs decide every weight."""
    weights = np.ones(12)
    form = QuadraticForm(factor=np.diag(np.geomspace(1.0, 4.0**11, 12)), ridge=0.1, centre=weights)
    block = BlockProblem(form, weights, 5, "select")
    answer = solve(block, "highs")
    assert answer.status is Status.OPTIMAL
    assert answer.details["formulation"] == "probing"
    assert answer.mask.tolist() == [False] * 7 + [True] * 5
    assert answer.objective == pytest.approx(solve(block, "exhaustive").objective, rel=1e-9)


def test_what_probing_fixes_is_so_in_every_better_mask():
    from itertools import combinations, product

    from prunebench.core.programs import SelectProgram
    from prunebench.kernels.branch_and_bound_search import SelectTree
    from prunebench.kernels.probing import reduced

    fixed = 0
    for seed, best_shift in product(range(10), (False, True)):
        block = block_of("select", p=10, n=4, keep=5, seed=seed)
        values = {kept: block.evaluate(np.isin(np.arange(10), kept)) for kept in combinations(range(10), 5)}
        # an incumbent in the middle: many masks are better, and the fixing must hold for all of them
        upper = sorted(values.values())[6]
        program = SelectProgram.of(block, upper)
        tree = SelectTree(program, program.inner(upper), lambda: False, None if best_shift else np.zeros(10))
        left = reduced(program, tree, upper)
        held = np.setdiff1d(np.arange(10), left.free)
        fixed += held.size
        for kept, value in values.items():
            mask = np.isin(np.arange(10), kept)
            if value < left.cut - 1e-9 * abs(upper):
                assert not left.closed
                assert (mask[held] == left.mask[held]).all()
                x = 1.0 - mask[left.free]
                inner = left.program.linear @ x + 0.5 * x @ left.program.quadratic @ x
                assert left.program.constant + inner / left.program.scale == pytest.approx(value, rel=1e-9)
                assert x.sum() == left.program.count
    assert fixed > 20


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

    answer = solve(block_of("select"), "highs", options={"probing": False}, progress=press_ctrl_c)
    assert answer.status is Status.INTERRUPTED
    assert int(answer.mask.sum()) == 4


def test_a_formulation_of_the_other_mode_is_refused_with_the_right_ones():
    with pytest.raises(SolverRefused, match="choose auto, pairs"):
        solve(block_of("select"), "highs", options={"formulation": "perspective"})
