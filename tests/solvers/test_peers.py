"""Programs of others: where their package is missing they say how to get it; their claims stay theirs."""

import numpy as np
import pytest

from prunebench import SOLVERS, Budget, make_solver, solve
from prunebench.core.errors import MissingPackage, SolverRefused
from prunebench.core.registry import missing_packages
from prunebench.solvers.peers.model import mask_of, rows
from prunebench.testing.instances import BruteForce, instance

PROGRAMS = ("cp-sat", "gurobi", "scip")
SAMPLERS = ("openjij", "openjij-sqa", "simulated-bifurcation")


def _made(name):
    if missing_packages(SOLVERS.get(name).requires):
        with pytest.raises(MissingPackage, match=r"not installed; run: pip install 'prunebench\[peers\]'"):
            make_solver(name)
        pytest.skip(f"{name}: its package is not installed; that it says so was tested")
    return make_solver(name)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_finds_the_optimum_and_only_claims_it(name):
    solver = _made(name)
    for mode in solver.modes:
        block = instance("gaussian", 3, mode)
        best = BruteForce.of(block)
        found = solve(block, solver)
        assert found.objective == pytest.approx(best.objective, rel=1e-6, abs=1e-9 * best.worst)
        assert found.details["claims"] == "optimal"
        assert found.lower_bound == -np.inf
        assert found.status == "feasible"
        assert found.details["claimed_bound"] == pytest.approx(best.objective, abs=1e-4 * (best.worst - best.objective))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_keeps_to_a_quota(name):
    block = instance("quota-rows", 2, "select")
    found = solve(block, _made(name), budget=Budget(seconds=5.0))
    assert not block.constraint.violation(found.mask)
    assert found.details["claims"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_finds_a_small_optimum(name):
    block = instance("gaussian", 3, "select")
    found = solve(block, _made(name), budget=Budget(evaluations=20))
    assert found.objective == pytest.approx(BruteForce.of(block).objective)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_block_that_is_too_large_is_refused_with_a_way_out(name):
    solver = _made(name)
    block = instance("gaussian", 1, "select", p=solver.max_size + 1, keep=5)
    with pytest.raises(SolverRefused, match="use solver 'branch-and-bound' or 'swap'"):
        solve(block, solver)


def test_gurobi_says_so_where_its_licence_is_too_small():
    solver = _made("gurobi")
    with pytest.raises(SolverRefused, match="licence here does not allow a model of this size"):
        solve(instance("rank-2", 1, "select", p=1999, keep=5), solver, budget=Budget(seconds=5.0))


def test_a_mask_comes_of_shares_that_are_not_whole():
    block = instance("quota-rows", 2, "select")
    mask = mask_of(block, np.linspace(0.0, 0.9, block.p))
    assert [int(mask[members].sum()) for members, _ in rows(block)] == [count for _, count in rows(block)]
