"""Benchmarks: all have one runner, one of them runs here, and what is kept of them says where it comes from."""

import argparse
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
HELPERS = {
    "annealing_reference", "annealing_runs", "annealing_tables", "digits_blocks", "layer_releases",
    "random_networks", "runner", "suite_instances", "suite_networks", "torch_pruning_rival", "training_groups",
    "training_masks",
    "training_tickets", "vision_networks",
}  # fmt: skip
NAMES = sorted({file.stem for file in FOLDER.glob("*.py")} - HELPERS)
KEPT = sorted((FOLDER / "results").glob("*.jsonl"))


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import runner

    return runner


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def head_of(file):
    head, *rest = lines(file)
    assert re.fullmatch("[0-9a-f]{40}", head["commit"])
    assert re.match(r"\d{4}-\d\d-\d\dT", head["date"])
    assert head["machine"]["processor"]
    assert head["machine"]["cores"] >= 1
    assert {"numpy", "numba", "torch"} <= head["versions"].keys()
    assert rest[-1]["cpu_seconds"] > 0.0
    assert all({"table", "note"} & row.keys() for row in rest[:-1])
    return head


def test_a_benchmark_prints_a_table_and_writes_the_same_rows(tmp_path):
    file = tmp_path / "refit.jsonl"
    command = [sys.executable, FOLDER / "refit.py", "--quick", "--repeats", "1", "--out", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head = head_of(file)
    assert head["benchmark"] == "refit"
    assert head["commit"] in done.stdout
    assert head["quick"]
    assert head["arguments"]["rows"] == 200
    assert head["arguments"]["repeats"] == 1  # what the command line says goes before what --quick does
    rows = lines(file)[1:-1]
    assert len(rows) == 6
    for row in rows:
        assert row["f ours"] == pytest.approx(row["f textbook"], rel=1e-4)
        assert f"{row['ratio']:.5g}" in done.stdout


def test_every_benchmark_has_the_runner_and_less_to_do_when_asked_for_less():
    """In a process of its own: some set limits on threads before anything is imported."""
    script = (
        "import importlib, json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "first = {'small_transformers': ['vit-mnist']}\n"
        "for name in sys.argv[2:]:\n"
        "    benchmark = importlib.import_module(name).BENCHMARK\n"
        "    full, quick = (vars(benchmark.parsed([*first.get(name, []), *more])) for more in ([], ['--quick']))\n"
        "    assert benchmark.name == name\n"
        "    assert all(quick[key] == value != full[key] for key, value in benchmark.quick.items()), name\n"
        "    assert full['results'] is None and benchmark.quick, name\n"
    )
    done = subprocess.run([sys.executable, "-c", script, FOLDER, *NAMES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rows_that_are_no_numbers_are_written_as_words(runner, tmp_path, capsys):
    def rows(_):
        yield runner.Row("first", {"name": "a", "value": math.inf, "count": np.int64(12345), "none": None})
        yield runner.Row("first", {"name": "b", "value": 0.123456789, "count": 1, "none": True})
        yield runner.Note("a sentence")
        yield runner.Row("second", {"list": (1, 2.5)})

    file = tmp_path / "new" / "x.jsonl"
    runner.Benchmark("x.py", "Text.", rows).main(["--out", str(file)])
    assert lines(file)[1:-1] == [
        {"table": "first", "name": "a", "value": "inf", "count": 12345, "none": None},
        {"table": "first", "name": "b", "value": 0.123456789, "count": 1, "none": True},
        {"note": "a sentence"},
        {"table": "second", "list": [1, 2.5]},
    ]
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    for words in (["a", "inf", "12,345", "-"], ["b", "0.12346", "1", "yes"], ["a", "sentence"], ["1,", "2.5"]):
        assert words in shown
    assert shown.count(["name", "value", "count", "none"]) == 1


def test_a_run_that_is_cut_short_has_no_last_line(runner, tmp_path):
    def rows(_):
        yield runner.Row("first", {"value": 1})
        raise RuntimeError

    file = tmp_path / "x.jsonl"
    with pytest.raises(RuntimeError):
        runner.Benchmark("x.py", "Text.", rows).main(["--out", str(file)])
    assert [sorted(line)[0] for line in lines(file)] == ["arguments", "table"]


def test_the_file_of_results_can_have_another_option_where_out_means_something_else(runner):
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--out")

    benchmark = runner.Benchmark("x.py", "Text.", lambda _: [], arguments, out="--results")
    chosen = benchmark.parsed(["--out", "runs", "--results", "file"])
    assert (chosen.out, chosen.results) == ("runs", Path("file"))


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_results_that_are_kept_say_where_they_come_from(file):
    head = head_of(file)
    assert head["benchmark"] in NAMES
    assert file.stem.startswith(head["benchmark"])
    assert not head["changed"]
    assert str(Path.home()) not in file.read_text()


def test_the_example_of_the_readme_runs(runner, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", (FOLDER / "README.md").read_text(), re.M | re.S)
    names = {"__file__": "sums.py", "__name__": "sums", "__doc__": "Sums."}
    exec(compile(code, "sums.py", "exec"), names)
    names["BENCHMARK"].main(["--quick"])
    assert ["10", "45"] in [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
