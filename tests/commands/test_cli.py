"""The command line as a user meets it: what it prints, what it refuses, and with which exit code."""

import json

import numpy as np
import pytest

from helpers import call, refused
from prunebench import BlockProblem
from prunebench.cli import main
from prunebench.testing.instances import instance


@pytest.fixture
def block_file(tmp_path):
    path = tmp_path / "b.npz"
    instance("cancelling-pairs", 1, "select", p=10).save(path)
    return path


def test_solve_prints_one_json_object_and_nothing_else(capsys, block_file):
    code, out, _ = call(capsys, "solve", block_file, "--solver", "swap", "--json")
    row = json.loads(out)
    assert code == 0
    assert row["solver"] == "swap"
    assert row["kept"] == BlockProblem.load(block_file).keep
    assert row["block_hash"] == BlockProblem.load(block_file).hash
    assert row["status"] in ("optimal", "feasible", "infeasible", "time_limit", "interrupted")
    assert {"options", "objective", "lower_bound", "gap", "seconds", "seed", "mode", "trace", "timings"} <= set(row)


def test_solve_repeats_with_one_json_line_a_seed(capsys, block_file):
    _, out, _ = call(capsys, "solve", block_file, "--repeat", 3, "--seed", 5, "--json")
    assert [json.loads(line)["seed"] for line in out.splitlines()] == [5, 6, 7]


def test_the_proven_optimum_has_gap_zero(capsys, block_file):
    _, out, _ = call(capsys, "solve", block_file, "--solver", "exhaustive", "--json")
    row = json.loads(out)
    assert row["status"] == "optimal"
    assert row["gap"] == pytest.approx(0.0, abs=1e-9)


def test_the_solution_file_holds_mask_and_weights_that_evaluate_to_the_objective(capsys, block_file, tmp_path):
    code, _, _ = call(capsys, "solve", block_file, "-o", tmp_path / "s.json")
    held = json.loads((tmp_path / "s.json").read_text())
    block = BlockProblem.load(block_file)
    assert code == 0
    assert block.evaluate(np.array(held["weights"]), np.array(held["mask"], dtype=bool)) == held["objective"]


def test_options_reach_the_solver(capsys, block_file):
    _, out, _ = call(capsys, "solve", block_file, "--solver", "magnitude", "--option", "score=obd", "--json")
    assert json.loads(out)["options"]["score"] == "obd"


def test_solvers_and_problems_list_what_is_registered(capsys):
    _, out, _ = call(capsys, "solvers", "--json")
    names = {row["name"] for row in json.loads(out)["solvers"]}
    assert {"magnitude", "swap", "exhaustive"} <= names
    _, out, _ = call(capsys, "problems", "--json")
    names = {row["name"] for row in json.loads(out)["problems"]}
    assert {"digits-mlp", "mlpnet-mnist", "garment-fashion-mnist", "planted"} <= names


def test_every_option_of_every_solver_and_problem_is_documented(capsys):
    for command in ("solvers", "problems"):
        _, out, _ = call(capsys, command, "--json")
        for row in json.loads(out)[command]:
            for option in row["options"]:
                assert option["doc"], (row["name"], option["name"])


def test_block_writes_a_block_of_the_size_and_density_asked_for(capsys, tmp_path):
    code, _, err = call(capsys, "block", "digits-mlp", "--size", 12, "--density", 0.25, "-o", tmp_path / "b.npz")
    assert code == 0, err
    block = BlockProblem.load(tmp_path / "b.npz")
    assert (block.p, block.keep, block.mode) == (12, 3, "select")


@pytest.mark.parametrize("select", ["random", "row", "magnitude", "obd"])
def test_the_same_seed_cuts_the_same_block(capsys, tmp_path, select):
    for name in ("a.npz", "b.npz"):
        arguments = ["--size", 8, "--density", 0.5, "--select", select, "--samples", 64, "--seed", 3]
        assert call(capsys, "block", "digits-mlp", *arguments, "-o", tmp_path / name)[0] == 0
    assert BlockProblem.load(tmp_path / "a.npz").hash == BlockProblem.load(tmp_path / "b.npz").hash


@pytest.mark.parametrize("solver", ["magnitude", "swap"])
@pytest.mark.parametrize("scope", ["network", "layer"])
def test_prune_keeps_the_exact_number_and_the_weights_file_evaluates_to_the_same_accuracy(
    capsys, tmp_path, solver, scope
):
    out = tmp_path / "run"
    code, text, err = call(
        capsys, "prune", "digits-mlp", "--density", 0.2, "--solver", solver, "--scope", scope, "--out", out, "--json"
    )
    assert code == 0, err
    result = json.loads(text)
    assert result["kept"] == round(0.2 * result["total"])
    _, text, _ = call(capsys, "evaluate", "digits-mlp", "--weights", out / "weights.safetensors", "--json")
    judged = json.loads(text)
    assert judged["accuracy"] == result["accuracy"]
    assert judged["loss"] == result["loss"]
    assert judged["kept"] <= result["kept"]
    for name in ("run.json", "events.jsonl", "mask.safetensors", "results.parquet", "state/checkpoint.npz"):
        assert (out / name).is_file(), name


def test_prune_with_a_planted_problem_reports_its_objective(capsys, tmp_path):
    arguments = ["--density", 0.5, "--solver", "swap", "--option", "p=16", "--out", tmp_path / "run", "--json"]
    code, text, err = call(capsys, "prune", "planted", *arguments)
    assert code == 0, err
    assert json.loads(text)["kept"] == 8


def test_the_same_seed_prunes_to_the_same_mask(capsys, tmp_path):
    for name in ("a", "b"):
        asked = ["--density", 0.1, "--solver", "swap", "--seed", 4, "--samples", 100]
        call(capsys, "prune", "digits-mlp", *asked, "--out", tmp_path / name)
    first, second = ((tmp_path / name / "mask.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


def test_icbs_runs_with_its_defaults_on_a_small_data_set(capsys, tmp_path):
    arguments = ["--density", 0.2, "--coordinator", "icbs", "--block-size", 16, "--steps", 2, "--json"]
    code, text, err = call(capsys, "prune", "digits-mlp", *arguments, "--out", tmp_path / "run")
    assert code == 0, err
    assert json.loads(text)["kept"] == round(0.2 * json.loads(text)["total"])


def test_unknown_names_are_answered_with_the_nearest_match(capsys, block_file, tmp_path):
    out = tmp_path / "x.npz"
    assert "did you mean 'solve'?" in refused(capsys, "slove", block_file)
    assert "did you mean 'swap'?" in refused(capsys, "solve", block_file, "--solver", "swop")
    assert "did you mean 'score'?" in refused(
        capsys, "solve", block_file, "--solver", "magnitude", "--option", "scor=obd"
    )
    line = refused(capsys, "block", "digit-mlp", "--size", 8, "--density", 0.5, "-o", out)
    assert "did you mean 'digits-mlp'?" in line
    line = refused(capsys, "block", "digits-mlp", "--size", 8, "--density", 0.5, "--select", "magnitud", "-o", out)
    assert "did you mean 'magnitude'?" in line
    asked = ["--density", 0.5, "--solver", "swap", "--option", "restart=3", "--out", tmp_path / "run"]
    assert "did you mean 'restarts'?" in refused(capsys, "prune", "digits-mlp", *asked)


@pytest.mark.parametrize("density", ["0", "-0.5", "1.5", "nan", "half"])
def test_an_impossible_density_is_refused(capsys, tmp_path, density):
    line = refused(capsys, "prune", "digits-mlp", f"--density={density}", "--out", tmp_path / "run")
    assert "density" in line
    assert not (tmp_path / "run").exists()


def test_a_non_empty_out_is_refused_and_left_alone(capsys, tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    line = refused(capsys, "prune", "digits-mlp", "--density", 0.5, "--out", tmp_path)
    assert "is not empty" in line
    assert [file.name for file in tmp_path.iterdir()] == ["keep.txt"]
    assert "is not empty" in refused(capsys, "demo", "--out", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ridge", "-1"], "ridge is -1.0"),
        (["--solver", "swap", "--ridge", "0"], "mode refit needs a positive ridge"),
        (["--solver", "swap", "--samples", "100000"], "calibration samples"),
        (["--solver", "exhaustive"], "takes blocks of at most 2,048 weights"),
        (["--coordinator", "ibcs"], "did you mean 'icbs'"),
    ],
)
def test_a_request_that_cannot_be_met_leaves_no_run_directory(capsys, tmp_path, arguments, words):
    out = tmp_path / "run"
    line = refused(capsys, "prune", "digits-mlp", "--density", 0.1, *arguments, "--quiet", "--out", out)
    assert words in line
    assert not out.exists()


def test_broken_files_are_refused(capsys, tmp_path, block_file):
    (tmp_path / "t.npz").write_bytes(block_file.read_bytes()[:100])
    assert "t.npz: not a readable block problem file" in refused(capsys, "solve", tmp_path / "t.npz")
    assert "there is no such file" in refused(capsys, "solve", tmp_path / "none.npz")
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    assert "w.safetensors" in refused(capsys, "evaluate", "digits-mlp", "--weights", tmp_path / "w.safetensors")


def test_missing_data_say_what_to_fetch_and_where_to_put_it(capsys, tmp_path):
    for command in (["evaluate", "mlpnet-mnist"], ["prune", "mlpnet-mnist", "--density", 0.5, "--out", tmp_path / "r"]):
        line = refused(capsys, *command, "--data", tmp_path)
        assert "mlpnet_mnist_784-40-20-10_nobias.safetensors" in line
        assert str(tmp_path) in line
        assert "weights=train" in line


@pytest.fixture(autouse=True)
def _keep_the_data_variable(monkeypatch):
    """--data sets the variable for the process; undo that after each test."""
    import os

    monkeypatch.setenv("PRUNEBENCH_DATA", os.environ.get("PRUNEBENCH_DATA", ""))


def test_wrong_numbers_are_refused(capsys, block_file):
    assert "seed" in refused(capsys, "solve", block_file, "--seed", "-1")
    assert "time limit" in refused(capsys, "solve", block_file, "--time-limit", "-1")
    assert "at least 1" in refused(capsys, "solve", block_file, "--repeat", "0")
    assert "not of the form K=V" in refused(capsys, "solve", block_file, "--option", "score")
    assert "unrecognized arguments: --wrong" in refused(capsys, "solve", block_file, "--wrong")


def test_a_solution_that_cannot_be_written_is_refused_before_solving(capsys, block_file, tmp_path):
    assert "does not exist" in refused(capsys, "solve", block_file, "-o", tmp_path / "no" / "s.json")


def test_debug_shows_the_traceback(block_file):
    with pytest.raises(ValueError, match="unknown solver"):
        main(["solve", str(block_file), "--solver", "swop", "--debug"])


def test_help_and_version_are_answered(capsys):
    assert "usage: prunebench COMMAND" in call(capsys)[1]
    assert "prunebench 0" in call(capsys, "--version")[1]
