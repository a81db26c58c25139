"""Solvers within budgets: against enumeration on many small blocks, and what each says of what it proves."""

import numpy as np
import pytest

from prunebench import BlockProblem, Budget, solve, verify
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput, SolverRefused
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Status
from prunebench.forms import nonlinear
from prunebench.forms.dimod import to_bqm, to_cqm
from prunebench.forms.program import program
from prunebench.forms.pyomo import export
from prunebench.kernels.relaxations.bounds import lower_bound
from prunebench.testing.claims import faults
from prunebench.testing.exact import Exact
from prunebench.testing.hostile import HOSTILE
from prunebench.testing.instances import BruteForce, feasible_masks


def _block(p, seed, budgets=1, whole=True, mode="select", share=None):
    rng = np.random.default_rng([seed, budgets, whole])
    weights = rng.normal(size=p)
    linear = 0.1 * rng.normal(size=p) if seed % 2 else np.zeros(p)
    form = QuadraticForm(
        factor=rng.normal(size=(p // 2 + seed % p, p)) / np.sqrt(p), ridge=0.05, centre=weights, linear=linear
    )
    costs = rng.integers(0, 9, (budgets, p)).astype(float) if whole else rng.random((budgets, p))
    limits = (rng.uniform(0.1, 0.9, budgets) if share is None else share) * costs.sum(axis=1)
    budget = Cost(costs, np.floor(limits) if whole else limits)
    return BlockProblem(form, weights, budget.most, mode, budget=budget)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("budgets", [1, 2])
@pytest.mark.parametrize("solver", ["exhaustive", "branch-and-bound", "highs"])
def test_exact_solvers_equal_brute_force(solver, budgets, whole):
    for seed in range(4 if solver == "highs" else 20):
        block = _block(7, seed, budgets, whole)
        if block.settled:
            continue
        answer, truth = solve(block, solver), BruteForce.of(block)
        assert answer.status is Status.OPTIMAL, answer.stop_reason
        assert answer.objective == pytest.approx(truth.objective, rel=1e-6, abs=1e-12)
        assert answer.lower_bound <= truth.objective + 1e-12


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_bounds_are_below_every_mask_and_verify_derives_them_again(mode):
    for seed in range(8):
        block = _block(8, seed, 1 + seed % 2, bool(seed % 3), mode)
        bound, truth = lower_bound(block, 10.0), BruteForce.of(block)
        assert bound.value <= truth.objective + 1e-12
        assert np.isfinite(bound.value)


def test_branch_and_bound_proves_blocks_beyond_enumeration_and_swap_reaches_them():
    block = _block(48, 1, 2, share=0.5)
    exact, local = solve(block, "branch-and-bound"), solve(block, "swap")
    assert exact.status is Status.OPTIMAL
    assert local.details["locally_optimal"]
    assert exact.lower_bound <= local.objective + 1e-12
    verdict = verify(block, exact)
    assert verdict.faults == ()
    assert verdict.derived_bound >= exact.details["certificate"]["root_bound"] - 1e-9
    stopped = solve(block, "branch-and-bound", budget=Budget(evaluations=30))
    assert stopped.status is Status.TIME_LIMIT
    assert stopped.lower_bound <= exact.objective


def test_a_false_bound_of_a_block_with_a_budget_is_refuted():
    block = _block(7, 3)
    answer = solve(block, "exhaustive")
    worse = next(mask for mask in (np.zeros(7, dtype=bool), block.incumbent) if block.evaluate(mask) > answer.objective)
    from prunebench.core import solution_file

    summary = solution_file.as_json(block, answer, solver="exhaustive", options={}, seed=0)
    told = solution_file.with_arrays(summary, answer)
    value = block.evaluate(worse)
    lie = {**told, "mask": worse.astype(int).tolist(), "weights": block.weights_of(worse).tolist()}
    lie |= {"kept": int(worse.sum()), "objective": value, "lower_bound": value, "gap": 0.0, "relative_gap": 0.0}
    lie |= {"budgets": None}
    assert not verify(block, lie).verified
    assert verify(block, told).verified


@pytest.mark.parametrize("solver", ["exhaustive", "branch-and-bound"])
def test_claims_hold_in_exact_arithmetic_where_rounding_is_not_small(solver):
    for family in HOSTILE:
        for seed in range(3):
            block = HOSTILE[family](seed, "select").block
            costs = np.random.default_rng(seed).integers(1, 9, (1, block.p)) / 10.0
            block = block.with_budget(Cost(costs, 0.5 * costs.sum(axis=1)))
            if block.settled:
                continue
            try:
                answer = solve(block, solver)
            except InvalidInput:
                continue
            assert not faults(Exact.of(block), answer), (family, seed)


def test_proof_files_and_refits_are_refused_a_budget_with_the_way_out():
    with pytest.raises(SolverRefused, match="leave the proof out"):
        solve(_block(8, 1), "branch-and-bound", options={"proof": True})
    with pytest.raises(SolverRefused, match="'exhaustive'"):
        solve(_block(8, 1, mode="refit"), "branch-and-bound")
    with pytest.raises(SolverRefused, match="at most 28 weights"):
        solve(_block(29, 1), "exhaustive")


def test_exported_models_hold_the_budgets_and_formats_without_inequalities_refuse_them(tmp_path):
    block = _block(6, 1, 2)
    made = program(block)
    rows = [row for row in made.rows if row.name.startswith("budget")]
    assert [row.sense for row in rows] == ["<=", "<="]
    assert [row.bound for row in rows] == block.budget.limits.tolist()
    for mask in feasible_masks(block):
        held = mask.astype(float)
        assert all(row.coefficients @ held[row.places] <= row.bound for row in rows)
        assert made.value(held) / made.units.scale + made.units.constant == pytest.approx(block.evaluate(mask))
    cqm = to_cqm(block)
    assert sorted(cqm.constraints) == ["budget0", "budget1"]
    for suffix in ("lp", "mps", "nl"):
        export(block, tmp_path / f"block.{suffix}")
    for refused in (lambda: to_bqm(block), lambda: nonlinear.to_nonlinear(block)):
        with pytest.raises(InvalidInput, match="budget"):
            refused()


@pytest.mark.parametrize("solver", ["anneal", "swap", "neal"])
def test_heuristics_reach_the_optimum_of_small_blocks(solver):
    for seed in range(2):
        block = _block(10, seed, 1 + seed, bool(seed))
        assert solve(block, solver).objective == pytest.approx(solve(block, "exhaustive").objective, rel=1e-9)


def test_pyomo_with_highs_finds_the_optimum_within_two_budgets():
    block = _block(8, 2, 2)
    answer, truth = solve(block, "pyomo"), BruteForce.of(block)
    assert answer.objective == pytest.approx(truth.objective, rel=1e-6)
