"""Blocks with few kept weights: all masks are evaluated, the best is found, and the error bound holds."""

from fractions import Fraction

import numpy as np
import pytest

from prunebench import Status, solve
from prunebench.core.stop import Stop, StopKind, never
from prunebench.kernels.relaxations.programs import RefitProgram
from prunebench.solvers.branch_and_bound import solver as branch_and_bound
from prunebench.solvers.branch_and_bound.few import Few, doubt_of
from prunebench.testing.claims import faults
from prunebench.testing.exact import Exact
from prunebench.testing.hostile import HOSTILE
from prunebench.testing.instances import FAMILIES, instance


@pytest.mark.parametrize("keep", [3, 5, 8])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_best_of_all_masks_is_found_within_the_error_bound(family, keep):
    exact = Exact.of(instance(family, keep, "refit", p=9, keep=keep))
    block = exact.block
    program = RefitProgram.of(block, block.evaluate(block.incumbent))
    few = Few.of(program, np.inf)
    gain, mask = few.best(-np.inf, never)
    assert exact.of_mask(mask) <= exact.optimum + Fraction(2 * few.doubt / program.scale)
    assert Fraction(program.outer(-gain - few.doubt)) <= exact.optimum
    assert few.best(gain * (1 + 1e-12), never)[1] is None


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
        gain, _ = few.best(-np.inf, never)
        assert Fraction(program.outer(-gain - few.doubt)) <= exact.optimum
        bounded += 1
    assert bounded >= 5


def test_the_tree_is_left_for_the_enumeration_and_its_answer_is_optimal(monkeypatch):
    monkeypatch.setattr(branch_and_bound, "NODES_A_MASK", -1.0)
    for family in sorted(FAMILIES):
        block = instance(family, 2, "refit", p=10, keep=4)
        found = solve(block, "branch-and-bound")
        assert not faults(Exact.of(block), found)
        assert found.status is Status.OPTIMAL
        assert found.details["enumerated"] == block.mask_count


def test_a_stop_ends_the_enumeration():
    block = instance("gaussian", 0, "refit", p=9, keep=3)
    program = RefitProgram.of(block, block.evaluate(block.incumbent))
    stop = Stop(StopKind.TIME, "now")
    assert Few.of(program, np.inf).best(0.0, lambda _: stop) is stop


def test_a_program_without_a_certain_curvature_is_not_enumerated():
    block = instance("gaussian", 0, "refit", p=9, keep=3)
    program = RefitProgram.of(block, block.evaluate(block.incumbent))
    assert doubt_of(program, np.diag(np.append(np.ones(8), 1e-16))) is None
    assert Few.of(program, 0.0) is None
