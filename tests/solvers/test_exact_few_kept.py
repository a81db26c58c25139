"""Blocks with few kept weights: all masks are evaluated, the best is found, and the error bound holds."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from prunebench import BlockProblem, QuadraticForm, Status, solve, verification, verify
from prunebench.core.stop import Stop, StopKind, never
from prunebench.kernels.relaxations.programs import RefitProgram
from prunebench.solvers.branch_and_bound import few as few_kept
from prunebench.solvers.branch_and_bound import solver as branch_and_bound
from prunebench.solvers.branch_and_bound.few import Few, affordable, doubt_of, work
from prunebench.testing.claims import faults
from prunebench.testing.exact import Exact
from prunebench.testing.hostile import HOSTILE
from prunebench.testing.instances import FAMILIES, BruteForce, all_masks, instance


@pytest.mark.parametrize("keep", [3, 5, 8])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_best_of_all_masks_is_found_within_the_error_bound(family, keep):
    exact = Exact.of(instance(family, keep, "refit", p=9, keep=keep))
    block = exact.block
    program = RefitProgram.of(block, block.evaluate(block.incumbent))
    few = Few.of(program, np.inf)
    gain, mask, stopped = few.best(-np.inf, never)
    assert stopped is None
    assert exact.of_mask(mask) <= exact.optimum + Fraction(2 * few.doubt / program.scale)
    assert Fraction(program.outer(-gain - few.doubt)) <= exact.optimum
    assert few.best(gain * (1 + 1e-12), never).mask is None


def test_hostile_blocks_get_a_bound_that_holds_or_none():
    bounded = 0
    for seed in range(60):
        block = HOSTILE["ill-conditioned"](seed, "refit").block
        if block.keep < 3 or not block.keeping.one_count:
            continue
        exact = Exact.of(block)
        program = RefitProgram.of(block, block.evaluate(block.incumbent))
        if (few := Few.of(program, np.inf)) is None:
            continue
        gain = few.best(-np.inf, never).gain
        assert Fraction(program.outer(-gain - few.doubt)) <= exact.optimum
        bounded += 1
    assert bounded >= 5


@pytest.mark.parametrize("fixed", [1, 2, 3])
def test_masks_are_evaluated_in_parts_that_begin_with_the_same_weights(monkeypatch, fixed):
    block = instance("gaussian", 1, "refit", p=10, keep=5)
    program = RefitProgram.of(block, block.evaluate(block.incumbent))
    monkeypatch.setattr(few_kept, "WORK_OF_A_CALL", {1: np.inf, 2: work(9, 4) - 1, 3: 0}[fixed])
    calls = []
    found = Few.of(program, np.inf).best(-np.inf, calls.append)
    assert len(calls) == comb(10 - 5 + fixed, fixed)
    assert found.mask.tolist() == BruteForce.of(block).mask.tolist()


def test_the_tree_is_left_for_the_enumeration_and_its_answer_is_optimal(monkeypatch):
    monkeypatch.setattr(branch_and_bound, "NODE_WORK", -1.0)
    enumerated = 0
    for family in sorted(FAMILIES):
        block = instance(family, 2, "refit", p=10, keep=4)
        found = solve(block, "branch-and-bound")
        assert not faults(Exact.of(block), found)
        assert found.status is Status.OPTIMAL
        assert found.details["nodes"] == 0
        # the root relaxation proves some
        enumerated += found.details.get("enumerated") == block.mask_count
    assert enumerated >= 4


def test_a_tree_that_is_finished_is_not_followed_by_an_enumeration(monkeypatch):
    monkeypatch.setattr(branch_and_bound, "NODE_WORK", np.inf)
    found = solve(instance("gaussian", 2, "refit", p=10, keep=4), "branch-and-bound")
    assert found.status is Status.OPTIMAL
    assert found.details["nodes"] > 0
    assert "enumerated" not in found.details


def test_a_stop_ends_the_enumeration_and_its_best_mask_is_kept():
    block = instance("gaussian", 0, "refit", p=9, keep=3)
    program = RefitProgram.of(block, block.evaluate(block.incumbent))
    stop = Stop(StopKind.TIME, "now")
    found = Few.of(program, np.inf).best(-np.inf, lambda _: stop)
    assert found.stopped is stop
    # all masks that keep the first weight
    first = max((mask for mask in all_masks(9, 3) if mask[0]), key=lambda mask: -block.evaluate(mask))
    assert found.mask.tolist() == first.tolist()


def test_a_solution_says_that_its_bound_rests_on_an_evaluation_of_all_masks(monkeypatch):
    monkeypatch.setattr(branch_and_bound, "NODE_WORK", np.inf)
    monkeypatch.setattr(branch_and_bound, "WORK_OF_A_DIVE", 0.0)
    # verify enumerates blocks as small as this one itself
    monkeypatch.setattr(verification, "can_enumerate", lambda _: False)
    rng = np.random.default_rng(0)
    form = QuadraticForm(factor=rng.normal(size=(40, 20)), ridge=1e-3, centre=np.ones(20))
    block = BlockProblem(form, np.ones(20), 4, "refit")
    solution = solve(block, "branch-and-bound")
    words = f"a search of {solution.details['nodes']} nodes and an evaluation of 4845 masks that are not re-derived"
    assert verify(block, solution).claim_rests_on.startswith(words)


@pytest.mark.parametrize(("p", "keep"), [(24, 13), (8, 5), (10, 2), (256, 8)])
def test_blocks_with_too_many_masks_or_kept_weights_are_not_affordable(p, keep):
    assert not affordable(p, keep)


@pytest.mark.parametrize(("p", "keep"), [(24, 12), (128, 6), (1024, 3)])
def test_blocks_with_few_kept_weights_are_affordable(p, keep):
    assert affordable(p, keep)


def test_a_program_without_a_certain_curvature_is_not_enumerated():
    block = instance("gaussian", 0, "refit", p=9, keep=3)
    program = RefitProgram.of(block, block.evaluate(block.incumbent))
    assert doubt_of(program, np.diag(np.append(np.ones(8), 1e-16))) is None
    assert Few.of(program, 0.0) is None
