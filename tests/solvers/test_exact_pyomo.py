"""The Pyomo form: the model is the block, files can be written, and a missing solver is one clear line."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers import gaussian_block
from prunebench import BlockProblem, QuadraticForm, Status, solve
from prunebench.cli import main
from prunebench.core.errors import InvalidInput, MissingPackage, SolverFailed
from prunebench.forms import pyomo as forms


def block_of(mode, p=8, keep=3, seed=0):
    return gaussian_block(p, keep, seed, mode, n=4, ridge=0.1, constant=2.0)


@pytest.mark.parametrize("formulation", ["miqp", "milp"])
def test_the_select_models_objective_is_the_blocks_on_every_mask(formulation):
    import pyomo.environ as pyo

    block = block_of("select")
    model = forms.build(block, formulation)
    rng = np.random.default_rng(1)
    for _ in range(10):
        mask = np.isin(np.arange(8), rng.choice(8, 3, replace=False))
        for i in range(8):
            model.keep[i].set_value(int(mask[i]))
        if formulation == "milp":
            for i, j in model.pairs:
                model.both[i, j].set_value(int(not mask[i] and not mask[j]))
            assert all(abs(pyo.value(row.body) - pyo.value(row.lower or row.upper)) < 9 for row in model.links.values())
        assert forms.unscaled(model, pyo.value(model.objective)) == pytest.approx(block.evaluate(mask), rel=1e-9)


def test_the_refit_models_objective_is_the_blocks_at_refitted_weights():
    import pyomo.environ as pyo

    block = block_of("refit")
    model = forms.build(block)
    weights = block.weights_of(block.incumbent)
    for i in range(8):
        model.weight[i].set_value(float(weights[i]))
    assert forms.unscaled(model, pyo.value(model.objective)) == pytest.approx(block.evaluate(block.incumbent), rel=1e-9)
    assert all(pyo.value(row.body) <= 1e-9 for row in (model.above[i] for i in range(8)))


def test_highs_through_pyomo_finds_the_optimum_in_mode_select():
    block = block_of("select")
    answer = solve(block, "pyomo", options={"solver": "highs"})
    assert answer.objective == pytest.approx(solve(block, "exhaustive").objective, rel=1e-9)
    assert answer.status is Status.FEASIBLE
    assert answer.details["claimed_bound"] == pytest.approx(answer.objective, rel=1e-6)


def test_the_linear_refit_models_claimed_bound_is_below_the_optimum():
    block = block_of("refit")
    answer = solve(block, "pyomo", options={"solver": "highs"})
    best = solve(block, "exhaustive").objective
    assert answer.objective >= best * (1 - 1e-9)
    assert answer.details["claimed_bound"] <= best * (1 + 1e-6)


def test_a_missing_solver_is_one_clear_line():
    with pytest.raises(MissingPackage, match="Pyomo finds no solver 'nosuchsolver'"):
        solve(block_of("select"), "pyomo", options={"solver": "nosuchsolver"})


def test_a_licence_that_is_too_small_is_an_error_in_the_solvers_own_words(tmp_path, capsys):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=210)
    form = QuadraticForm(factor=rng.normal(size=(4, 210)), ridge=0.1, centre=weights)
    BlockProblem(form, weights, 105, "select").save(tmp_path / "b.npz")
    code = main(["solve", str(tmp_path / "b.npz"), "--solver", "pyomo", "--option", "solver=gurobi_direct"])
    said = capsys.readouterr()
    assert code == 1
    assert "size-limited license" in said.err
    assert not said.out


@pytest.mark.parametrize("name", ["gurobi_persistent", "gurobi_direct", "appsi_highs", "scip_direct"])
def test_every_kind_of_interface_finds_the_optimum(name):
    block = block_of("select")
    answer = solve(block, "pyomo", options={"solver": name})
    assert answer.objective == pytest.approx(solve(block, "exhaustive").objective, rel=1e-9)
    assert answer.stop_reason == f"{name} says optimal"


class Ends:
    """Pyomo's side of a solver that comes back without an answer."""

    def __init__(self, condition):
        self.condition = condition

    def available(self, exception_flag=True):
        return True

    def solve(self, model, load_solutions, options):
        solver = SimpleNamespace(termination_condition=self.condition, message="the tableau is upside down")
        return SimpleNamespace(solver=solver, problem=SimpleNamespace(lower_bound=None), solution=())


def test_a_run_without_an_answer_is_an_error_and_one_that_a_limit_ended_is_told(monkeypatch):
    import pyomo.environ as pyo

    monkeypatch.setattr(pyo, "SolverFactory", lambda _name: Ends("error"))
    with pytest.raises(SolverFailed, match="gave no answer; it says error: the tableau is upside down"):
        solve(block_of("select"), "pyomo", options={"solver": "mine"})
    monkeypatch.setattr(pyo, "SolverFactory", lambda _name: Ends("maxTimeLimit"))
    answer = solve(block_of("select"), "pyomo", options={"solver": "mine"})
    assert answer.status is Status.TIME_LIMIT
    assert "without a mask of its own" in answer.stop_reason


@pytest.mark.parametrize("suffix", [".lp", ".nl", ".mps"])
def test_models_are_written_to_files(tmp_path, suffix):
    target = tmp_path / f"block{suffix}"
    forms.export(block_of("select"), target)
    assert target.stat().st_size > 100


def test_another_suffix_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InvalidInput, match=r"\.lp, \.mps, \.nl"):
        forms.export(block_of("select"), tmp_path / "block.txt")
