"""Blocks with a budget: what they refuse, their file, their hash, and what verify says of their solutions."""

from dataclasses import replace

import numpy as np
import pytest

from prunebench import BlockProblem, Budget, solve, verify
from prunebench.core import block_file, solution_file
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput, SolverRefused
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import SOLVERS
from prunebench.core.solver import facts, make_solver
from prunebench.testing.damaged_blocks import contents_of, packed


def _block(p=8, seed=0, mode="select", costs=None, limits=None):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=p)
    form = QuadraticForm(factor=rng.normal(size=(p, p)), ridge=0.1, centre=weights)
    costs = rng.integers(1, 9, (1, p)).astype(float) if costs is None else costs
    budget = Cost(costs, 0.5 * costs.sum(axis=1) if limits is None else limits, ("MACs", "bytes")[: len(costs)])
    return BlockProblem(form, weights, budget.most, mode, budget=budget, problem="budgeted")


def test_masks_are_judged_by_what_they_cost_and_not_by_their_number():
    block = _block(costs=np.array([[4.0, 1, 1, 1, 1, 1, 1, 2]]), limits=np.array([4.0]))
    one, four = np.arange(8) == 0, np.isin(np.arange(8), (1, 2, 3, 4))
    assert block.evaluate(one) == block.form.value(block.dense_weights * one)
    assert block.evaluate(four) == block.form.value(block.dense_weights * four)
    assert np.isfinite(block.evaluate(np.zeros(8, dtype=bool)))
    with pytest.raises(InvalidInput, match=r"spends 5 of budget 'MACs'; its limit is 4"):
        block.evaluate(one | (np.arange(8) == 1))
    with pytest.raises(InvalidInput, match=r"the weights spends? 12 of budget 'MACs'"):
        block.evaluate(block.dense_weights)
    with pytest.raises(InvalidInput, match="has a budget and no keep count"):
        _ = block.keeping


def test_the_random_mean_is_that_of_independent_masks_that_spend_the_budget_on_average():
    block = _block(p=5)
    share = 0.5
    masks = (np.arange(32)[:, None] >> np.arange(5) & 1).astype(bool)
    weights = share ** masks.sum(axis=1) * (1 - share) ** (~masks).sum(axis=1)
    values = [block.form.value(block.dense_weights * mask) for mask in masks]
    assert block.random_mean() == pytest.approx(float(weights @ values))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep": 3}, "give keep=budget.most"),
        ({"budget": Cost(np.ones((1, 7)), np.array([3.0]))}, "over 7 weights; the block has 8"),
        ({"budget": "half"}, "expected a Cost"),
        ({"quota": ((range(4), 2), (range(4, 8), 2))}, "a quota or a budget, not both"),
        ({"start_mask": np.ones(8, dtype=bool)}, "start_mask spends"),
    ],
)
def test_a_block_refuses_what_does_not_fit_its_budget(changes, words):
    with pytest.raises(InvalidInput, match=words):
        replace(_block(), **changes)


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_a_file_gives_back_the_block(mode, tmp_path):
    rng = np.random.default_rng(3)
    for number, slack in enumerate((None, np.array([0.0, 1e-9]))):
        costs = rng.random((2, 8))
        budget = Cost(costs, 0.4 * costs.sum(axis=1), ("MACs", "bytes"), slack)
        block = _block(mode=mode).with_budget(budget)
        block = block.with_start(block.incumbent)
        block.save(tmp_path / f"{number}.npz")
        again = BlockProblem.load(tmp_path / f"{number}.npz")
        assert again.hash == block.hash
        assert again.budget.names == ("MACs", "bytes")
        assert np.array_equal(again.budget.allowed, budget.allowed)
        other = Cost(costs, budget.limits * 1.01, budget.names, slack)
        assert block.with_budget(other).hash != block.with_budget(budget).hash


def test_a_reader_that_knows_no_budgets_misses_the_count_and_refuses():
    assert "keep" not in _block().contents()
    assert "keep" in block_file.REQUIRED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget_limits": None}, "needs both 'budget_costs'"),
        ({"budget_costs": None}, "needs both 'budget_costs'"),
        ({"keep": np.int64(4)}, "a budget or 'keep', not both"),
        ({"budget_costs": np.ones((1, 7))}, r"budget_costs has shape \(1, 7\); expected \(k, 8\)"),
        ({"budget_costs": np.ones(8)}, "budget_costs has shape"),
        ({"budget_limits": np.ones(2)}, r"budget_limits has shape \(2,\)"),
        ({"budget_names": np.array(["a", "b"])}, "budget_names has shape"),
        ({"budget_names": np.array(["a\nb"])}, "expected characters that print"),
        ({"budget_costs": -np.ones((1, 8))}, "costs are 0 or more"),
        ({"budget_costs": np.full((1, 8), np.nan)}, "must be finite"),
        ({"budget_limits": np.array([-1.0])}, "choose 0 or more"),
        ({"budget_slack": np.array([-1.0])}, "slack holds -1"),
        ({"budget_costs": np.ones((1, 8), dtype=complex)}, "dtype complex128"),
        ({"quota_group": np.arange(8), "quota_counts": np.ones(8, dtype=np.int64)}, "not both"),
    ],
)
def test_a_damaged_budget_is_refused_in_one_line(changes, words, tmp_path):
    contents = {**contents_of(_block()), **changes}
    (tmp_path / "block.npz").write_bytes(packed({key: value for key, value in contents.items() if value is not None}))
    with pytest.raises(InvalidInput, match=words) as refusal:
        BlockProblem.load(tmp_path / "block.npz")
    assert "\n" not in str(refusal.value)


def test_solvers_that_take_no_budget_are_refused_one_and_told_which_do():
    for name in SOLVERS.names():
        if not facts(SOLVERS.get(name)).budgets and facts(SOLVERS.get(name)).miniature:
            try:
                solver = make_solver(name)
            except InvalidInput:
                continue
            with pytest.raises(SolverRefused) as refusal:
                solve(_block(mode="select" if "select" in solver.modes else "refit"), solver)
            if refusal.value.kind != "form":
                assert refusal.value.kind == "budget", refusal.value
                assert "obd" in str(refusal.value)


def test_verify_finds_a_mask_beyond_the_budget_and_a_wrong_claim_of_what_is_spent():
    block = _block()
    solution = solve(block, "obd", budget=Budget(evaluations=10))
    assert verify(block, solution).faults == ()
    told = solution_file.with_arrays(solution_file.as_json(block, solution, solver="obd", options={}, seed=0), solution)
    assert told["budgets"][0]["spent"] <= told["budgets"][0]["limit"]
    cheaper = {**told, "budgets": [{**told["budgets"][0], "spent": 0.0}]}
    assert "spends of the budgets" in verify(block, cheaper).faults[0]
    everything = {**told, "mask": [1] * 8, "weights": block.dense_weights.tolist(), "kept": 8, "budgets": None}
    assert any("spends" in fault for fault in verify(block, everything).faults)
