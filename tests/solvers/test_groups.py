"""Solvers of group blocks: the conformance suite, their relations to each other, and who is refused what."""

import json

import numpy as np
import pytest

from helpers import call, refused
from prunebench import SOLVERS, make_solver, solve
from prunebench.core.errors import InvalidInput, SolverRefused
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_form import GroupForm
from prunebench.core.solver import solvers_of
from prunebench.kernels.groups.path import group_path
from prunebench.testing.groups import FAMILIES, assert_group_solver_conforms, group_instance
from prunebench.testing.instances import instance

NAMES = solvers_of(GroupForm)


def hard(groups=14, size=3, seed=0):
    """A block on which greedy removal often misses the optimum."""
    rng = np.random.default_rng(seed)
    p = groups * size
    inputs = np.maximum(rng.normal(size=(4 * p, p)) @ (np.eye(p) + 0.5 * rng.normal(size=(p, p))), 0.0)
    outputs = inputs @ rng.normal(size=(p, 4))
    gram = inputs.T @ inputs / len(inputs)
    form = GroupForm(
        gram, inputs.T @ outputs / len(inputs), np.repeat(np.arange(groups), size), 0.01 * gram.trace() / p,
        0.5 * float((outputs**2).sum()) / len(inputs),
    )  # fmt: skip
    return GroupBlock(form, groups // 2, problem="hard", layer=str(seed))


@pytest.mark.parametrize("name", NAMES)
def test_every_group_solver_conforms(name):
    assert_group_solver_conforms(make_solver(name), seeds=range(1, 2) if name == "group-exact" else range(2))


def test_swap_is_never_worse_than_greedy_and_osscar_and_sometimes_better():
    better = 0
    for seed in range(6):
        block = hard(seed=seed)
        greedy, osscar, swap = (solve(block, name).objective for name in ("group-greedy", "osscar", "group-swap"))
        from_osscar = solve(block.with_start(solve(block, "osscar").mask), "group-swap", options={"restarts": 0})
        assert swap <= greedy
        assert from_osscar.objective <= osscar * (1 + 1e-12)
        better += swap < greedy * (1 - 1e-9)
    assert better >= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_the_path_at_its_count(family):
    block = group_instance(family, 0)
    path = group_path(block.form)
    answer = solve(block, "group-greedy")
    assert set(np.flatnonzero(answer.mask)) == set(path.order[block.p - block.keep :])
    assert answer.details["curve"][block.keep] == pytest.approx(answer.objective, abs=1e-9 * block.form.constant)


def test_the_default_solver_goes_by_the_block():
    block = group_instance("plain", 0)
    assert np.array_equal(solve(block).mask, solve(block, "group-swap").mask)


def test_solvers_of_weights_refuse_groups_and_name_those_that_take_them():
    for name in ("swap", "exhaustive", "obc"):
        with pytest.raises(SolverRefused, match="group-swap"):
            solve(group_instance("plain", 0), name)
    with pytest.raises(SolverRefused, match="prunebench solvers"):
        solve(instance("gaussian", 0, "select"), "group-swap")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("osscar", {"batches": 0}, "batches is 0"),
        ("osscar", {"exchange": -1}, "exchange is -1"),
        ("group-swap", {"restarts": -1}, "restarts is -1"),
        ("group-swap", {"improvement": "any"}, "improvement is 'any'"),
    ],
)
def test_wrong_options_are_refused(name, options, words):
    with pytest.raises(InvalidInput, match=words):
        solve(group_instance("plain", 0), name, options=options)


def test_the_command_line_solves_a_group_file(capsys, tmp_path):
    block = hard()
    block.save(tmp_path / "g.npz")
    code, out, _ = call(capsys, "solve", tmp_path / "g.npz", "--json", "-o", tmp_path / "s.json")
    assert code == 0
    row = json.loads(out)
    assert row["solver"] == "group-swap"
    assert (row["kept"], row["total"], row["block_hash"]) == (7, 14, block.hash)
    held = json.loads((tmp_path / "s.json").read_text())
    assert np.asarray(held["weights"]).shape == (block.form.p, block.form.q)
    assert "group-swap" in refused(capsys, "solve", tmp_path / "g.npz", "--solver", "swap")
    assert "mode is 'select'" in refused(capsys, "solve", tmp_path / "g.npz", "--mode", "select")


def test_a_run_over_a_network_refuses_a_group_solver_before_it_begins(capsys, tmp_path):
    line = refused(capsys, "prune", "digits-mlp", "--density", "0.5", "--solver", "group-swap", "--out", tmp_path / "r")
    assert "problem 'digits-mlp'" in line
    assert not (tmp_path / "r").exists()


def test_group_solvers_are_listed(capsys):
    _, out, _ = call(capsys, "solvers", "--json")
    forms = {row["name"]: row["form"] for row in json.loads(out)["solvers"]}
    assert {name for name, form in forms.items() if form == "groups"} == set(NAMES)
    assert set(forms) == set(SOLVERS.names())
