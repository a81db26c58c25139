"""The commands `compare`, `resume` of a comparison, and `demo`, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from prunebench.cli import main
from prunebench.commands import demo
from prunebench.comparison import table

ARGUMENTS = ("--solver", "anneal", "--solver", "branch-and-bound", "--solver", "neal", "--size", "16", "--blocks", "4",
             "--seeds", "3", "--time-limit", "0.4", "--samples", "200", "--no-cache")  # fmt: skip
CELLS = 4 * (3 * 4 + 2)
"""random, swap, anneal and neal three times on each of four blocks, greedy and branch-and-bound once."""


def test_compare_prints_a_table_and_writes_table_and_report(tmp_path, capsys):
    out = tmp_path / "c"
    assert main(["compare", "digits-mlp", "--solver", "exhaustive", "--size", "12", "--blocks", "2", "--seeds", "2",
                 "--time-limit", "0.5", "--samples", "200", "--out", str(out), "--json"]) == 0  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == 2 * (2 * 2 + 1 + 1)
    (exact,) = (row for row in printed["summary"] if row["solver"] == "exhaustive")
    assert exact["optimal"] == 2
    assert (out / "report.html").stat().st_size > 50_000
    assert main(["resume", str(out), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "exhaustive" in text
    assert "report" in text


def test_killed_comparison_resumes_without_solving_anything_twice(tmp_path):
    out = tmp_path / "c"
    command = [sys.executable, "-m", "prunebench", "compare", "digits-mlp", *ARGUMENTS, "--out", str(out)]
    for wanted in (8, 25):
        process = subprocess.Popen(
            command if wanted == 8 else [sys.executable, "-m", "prunebench", "resume", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_events(out, wanted, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = _events(out)
    assert 25 <= len(before) < CELLS
    assert main(["resume", str(out), "--quiet"]) == 0
    after = _events(out)
    assert after[: len(before)] == before
    keys = [(row["block_hash"], row["solver"], row["seed"]) for row in after]
    assert len(keys) == len(set(keys)) == CELLS
    assert len(table.read(out)) == CELLS


def test_compare_needs_a_solver(capsys):
    assert main(["compare", "digits-mlp"]) == 2
    assert "--solver anneal" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["anneal:sweps=1", "aneal"])
def test_misspelt_solvers_and_options_are_named(tmp_path, capsys, name):
    assert main(["compare", "digits-mlp", "--solver", name, "--out", str(tmp_path / "c")]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_demo_shows_all_families_and_writes_its_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SIZES", (10,))
    monkeypatch.setattr(demo, "BLOCKS", 1)
    monkeypatch.setattr(demo, "SEEDS", 1)
    monkeypatch.setattr(demo, "SECONDS", 0.2)
    monkeypatch.setattr(demo, "BLOCK_SECONDS", 0.05)
    monkeypatch.setattr(demo, "BASELINE_DENSITIES", (0.1,))
    for options in demo.SMALL_BLOCKS, demo.FAMILIES[-1].options:
        monkeypatch.setitem(options, "steps", 3)
    monkeypatch.setitem(demo.SMALL_BLOCKS, "block_size", 10)
    assert main(["demo", "--out", str(tmp_path / "d"), "--quiet"]) == 0
    text = capsys.readouterr().out
    for word in ("iht", "branch-and-bound", "anneal", "qaoa-subspace", "magnitude", "dense network"):
        assert word in text
    assert (tmp_path / "d" / "report.html").is_file()


def _events(out):
    file = out / "events.jsonl"
    if not file.is_file():
        return []
    lines = file.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _wait_for_events(out, count, process):
    deadline = time.monotonic() + 120
    while len(_events(out)) < count:
        assert process.poll() is None, "the comparison ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.path.isdir(out)
