"""Bounds, verification and export from the command line."""

import json

import pytest

from helpers import call
from prunebench.commands.export import FORMATS
from prunebench.testing.instances import BruteForce, instance


@pytest.fixture
def block():
    return instance("cancelling-pairs", 1, "select", p=10)


@pytest.fixture
def block_file(tmp_path, block):
    block.save(tmp_path / "b.npz")
    return tmp_path / "b.npz"


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_a_bound_is_attached_to_a_heuristics_answer(capsys, block_file, block, mode):
    code, out, _ = call(capsys, "solve", block_file, "--solver", "magnitude", "--mode", mode, "--bound", "--json")
    row = json.loads(out)
    best = BruteForce.of(block.in_mode(mode)).objective
    assert code == 0
    assert row["lower_bound"] <= best <= row["objective"] + 1e-12
    assert row["gap"] is not None
    assert row["trace"][-1][2] == row["lower_bound"]
    assert row["status"] == "feasible"


@pytest.mark.parametrize("solver", ["swap", "exhaustive", "branch-and-bound"])
def test_a_solution_verifies(capsys, block_file, tmp_path, solver):
    call(capsys, "solve", block_file, "--solver", solver, "-o", tmp_path / "s.json")
    code, out, _ = call(capsys, "verify", tmp_path / "s.json", block_file, "--json")
    assert code == 0
    assert json.loads(out)["verified"] is True


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.update(objective=held["objective"] * 0.5),
        lambda held: held.update(lower_bound=held["objective"] * 2 + 1.0),
        lambda held: held.update(mask=[1 - bit for bit in held["mask"]]),
        lambda held: held.update(weights=[0.5 for _ in held["weights"]]),
    ],
)
def test_a_forged_solution_is_refuted_with_exit_code_one(capsys, block_file, tmp_path, change):
    call(capsys, "solve", block_file, "--solver", "exhaustive", "-o", tmp_path / "s.json")
    held = json.loads((tmp_path / "s.json").read_text())
    change(held)
    (tmp_path / "s.json").write_text(json.dumps(held))
    code, out, _ = call(capsys, "verify", tmp_path / "s.json", block_file, "--json")
    assert code == 1
    assert json.loads(out)["verified"] is False
    assert json.loads(out)["faults"]


def test_what_is_no_solution_file_is_refused(capsys, block_file, tmp_path):
    (tmp_path / "s.json").write_text("{}")
    code, out, err = call(capsys, "verify", tmp_path / "s.json", block_file)
    assert code == 2
    assert out == ""
    assert "not a solution file" in err


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_every_format_is_written(capsys, block_file, tmp_path, form):
    code, out, err = call(capsys, "export", block_file, "--format", form, "-o", tmp_path / f"o.{form}", "--json")
    assert code == 0, err
    assert json.loads(out)["bytes"] == (tmp_path / f"o.{form}").stat().st_size > 0


def test_an_unknown_format_is_answered_with_the_nearest(capsys, block_file, tmp_path):
    code, _, err = call(capsys, "export", block_file, "--format", "bqn", "-o", tmp_path / "o")
    assert code == 2
    assert "did you mean 'bqm'?" in err
