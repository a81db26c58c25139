"""Comparisons: identical blocks, every cell once, resumable, cached; measures and QOBLIB's format."""

import csv
import importlib
import json
import math
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import dimod
import numpy as np
import pandas
import pytest

import prunebench
from prunebench import Status, measures, scores
from prunebench.cli import main
from prunebench.comparison import blocks as blocks_module
from prunebench.comparison import cache as cache_module
from prunebench.comparison import fingerprint, qoblib, table
from prunebench.comparison.blocks import worst_objective
from prunebench.comparison.cache import AnswerCache
from prunebench.comparison.request import BASELINES, CompareRequest, SolverChoice, with_baselines
from prunebench.comparison.run import resume
from prunebench.comparison.work import Outcome
from prunebench.core.errors import Interrupted, InvalidInput, NoCurvature, UnknownName
from prunebench.core.registry import SOLVERS
from prunebench.core.solution import Solution
from prunebench.testing.instances import BruteForce, all_masks, instance

CALLS: list[tuple[str, str, int]] = []


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Gives the incumbent, counts its calls, and does what `behaviour` says."""

    name: ClassVar[str] = "counting"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "this test"

    behaviour: str = "answer"

    def refuses(self, block):
        return "it takes no blocks at all; use another solver" if self.behaviour == "refuse" else ""

    def solve(self, block, budget, rng, progress=None):
        draw = int(rng.integers(1 << 30))
        if block.p > 8:
            CALLS.append((block.hash, self.behaviour, draw))
            if self.behaviour == "raise":
                raise RuntimeError("the device is on fire")
            if self.behaviour == "interrupt" and len([c for c in CALLS if c[1] == "interrupt"]) == 3:
                raise KeyboardInterrupt
        return Solution.from_mask(block, block.incumbent, status=Status.FEASIBLE, stop_reason="kept the incumbent")


@pytest.fixture
def counting(monkeypatch, tmp_path):
    SOLVERS.names()
    monkeypatch.setitem(SOLVERS._classes, "counting", Counting)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    CALLS.clear()


def blocks(count, p=12, mode="select"):
    return [instance("gaussian", seed, mode, p=p, keep=p // 2) for seed in range(count)]


def test_rows_are_complete_and_on_identical_blocks(tmp_path):
    frame = prunebench.compare(
        "digits-mlp", ["branch-and-bound", "anneal"], out=tmp_path / "c", sizes=(12, 16), densities=(0.25, 0.5),
        blocks=2, seeds=2, time_limit=0.3, select="row", curvature={"samples": 200},
    )  # fmt: skip
    assert list(frame.columns) == list(table.COLUMNS)
    assert set(frame["solver"]) == {*BASELINES, "branch-and-bound", "anneal"}
    grid = frame.groupby(["p", "density", "block_index"])
    assert len(grid) == 8
    for _, rows in grid:
        assert rows["block_hash"].nunique() == 1
        assert sorted(rows[rows["solver"] == "anneal"]["seed"]) == [0, 1]
        assert list(rows[rows["solver"] == "greedy"]["seed"]) == [0]
        assert np.isfinite(rows["true_change"]).all()
        proved = rows[rows["status"] == "optimal"]
        assert len(proved) == 1
        assert proved["gap"].iloc[0] == pytest.approx(0.0, abs=1e-9)
        assert (rows["gap_to"] == "bound").all()
    for _, row in frame.iterrows():
        (file,) = (tmp_path / "c" / "blocks").glob(
            f"{row['p']}-{row['block_index'] // 2 % 2}-seed{row['block_seed']}.npz"
        )
        block = replace(prunebench.BlockProblem.load(file), keep=row["keep"])
        mask = np.unpackbits(np.frombuffer(bytes.fromhex(row["mask"]), dtype=np.uint8))[: block.p].astype(bool)
        assert block.hash == row["block_hash"]
        assert block.evaluate(mask) == pytest.approx(row["objective"], rel=1e-12)
        assert block.gap(row["objective"], row["best_bound"]) == pytest.approx(row["gap"], abs=1e-12)
        assert row["trace_objective"][-1] == pytest.approx(row["objective"])
    again = table.read(tmp_path / "c")
    assert len(again) == len(frame)


def test_tables_without_later_columns_are_read(monkeypatch, tmp_path):
    prunebench.compare(blocks(1), ["magnitude"], out=tmp_path / "c")
    whole = pandas.read_parquet(tmp_path / "c" / table.FILE)
    monkeypatch.setattr(pandas, "read_parquet", lambda file: whole.drop(columns=list(table.LATER)))
    frame = table.read(tmp_path / "c")
    assert set(frame.columns) == set(whole.columns)
    assert set(frame["items"]) == {"weights"}


def test_true_change_is_the_networks_own(tmp_path):
    frame = prunebench.compare(
        "digits-mlp", ["magnitude"], out=tmp_path / "c", sizes=(16,), blocks=1, seeds=1, time_limit=0.2,
        curvature={"samples": 200},
    )  # fmt: skip
    by_solver = frame.set_index("solver")["true_change"]
    assert by_solver["magnitude"] == pytest.approx(0.0, abs=1e-12)
    assert by_solver["swap"] != 0.0


def test_interrupted_and_resumed_without_solving_anything_twice(counting, tmp_path):
    out = tmp_path / "c"
    with pytest.raises(Interrupted, match=r"prunebench resume .*/c"):
        prunebench.compare(
            blocks(3), ["counting:behaviour=interrupt", "counting"], out=out, seeds=2, time_limit=0.2, cache=False
        )
    half = table.read(out)
    assert 0 < len(half) < 3 * (2 * 2 + 2 * 2 + 1)
    before = len(CALLS)
    done = half[half["solver_name"] == "counting"]
    frame = resume(out)
    solved_again = {(digest, kind) for digest, kind, _ in CALLS[before:]}
    finished = {(row["block_hash"], "interrupt" if "interrupt" in row["solver"] else "answer", row["seed"])
                for _, row in done.iterrows()}  # fmt: skip
    assert len(CALLS) - before == 12 - len(done)
    assert len({(digest, kind, draw) for digest, kind, draw in CALLS[before:]}) == len(CALLS) - before
    assert solved_again
    assert finished
    assert not frame.duplicated(["block_hash", "solver", "seed"]).any()
    assert len(frame) == 3 * (2 * 2 + 2 * 2 + 1)
    assert len(resume(out)) == len(frame)


def test_blocks_of_dead_units_are_passed_over(monkeypatch, tmp_path):
    real = blocks_module.cut_block

    def cut(problem, *, seed, **wanted):
        if seed in (0, 2, 3):
            raise NoCurvature("all gradients are zero")
        return real(problem, seed=seed, **wanted)

    monkeypatch.setattr(blocks_module, "cut_block", cut)
    told = []
    wanted = {"sizes": (12,), "blocks": 2, "seeds": 1, "time_limit": 0.2, "curvature": {"samples": 200}}
    frame = prunebench.compare("digits-mlp", ["swap"], out=tmp_path / "c", say=told.append, **wanted)
    assert sorted(set(frame["block_seed"])) == [1, 4]
    assert sum("gradients are all zero" in line for line in told) == 3
    (tmp_path / "c" / "result.json").unlink()
    assert list(resume(tmp_path / "c")["block_seed"]) == list(frame["block_seed"])
    monkeypatch.setattr(blocks_module, "cut_block", lambda *_, **__: cut(None, seed=0))
    with pytest.raises(InvalidInput, match="have no gradients at all"):
        prunebench.compare("digits-mlp", ["swap"], out=tmp_path / "d", **wanted)
    assert not (tmp_path / "d").exists()


def test_the_cache_answers_what_was_solved_before(counting, tmp_path):
    first = prunebench.compare(blocks(2), ["counting"], out=tmp_path / "a", seeds=2, time_limit=0.2)
    calls = len(CALLS)
    second = prunebench.compare(blocks(2), ["counting"], out=tmp_path / "b", seeds=2, time_limit=0.2)
    assert len(CALLS) == calls
    assert second["cached"].all()
    assert not first["cached"].any()
    assert second["objective"].equals(first["objective"])
    assert second["seconds"].equals(first["seconds"])
    prunebench.compare(blocks(2), ["counting"], out=tmp_path / "c", seeds=2, time_limit=0.3)
    assert len(CALLS) == 2 * calls
    prunebench.compare(blocks(2), ["counting"], out=tmp_path / "d", seeds=2, time_limit=0.2, cache=False)
    assert len(CALLS) == 3 * calls


def kept_answers(folder):
    return sorted((folder / "cache").rglob("*.json"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[1, 2]",
        lambda text: "\0\0",
        lambda text: text.replace('"status": "feasible"', '"status": "optimal"'),
        lambda text: json.dumps(json.loads(text) | {"seal": "0" * 64}),
        lambda text: json.dumps(json.loads(text) | {"key": "0" * 64}),
    ],
)
def test_a_damaged_or_changed_answer_is_dropped_and_told_once(damage, counting, tmp_path):
    said, (block,) = [], blocks(1)
    cache = AnswerCache(tmp_path / "cache", said.append)
    for seed in (0, 1):
        cache.put(cache.key(block, Counting(), seed, 1.0), block, Outcome(prunebench.solve(block, Counting())))
    for file in kept_answers(tmp_path):
        file.write_text(damage(file.read_text()))
    for seed in (0, 1):
        assert cache.get(cache.key(block, Counting(), seed, 1.0), block) is None
    assert kept_answers(tmp_path) == []
    assert len(said) == 1
    assert "damaged or was changed" in said[0]


def test_a_comparison_solves_again_what_is_damaged_in_the_cache(counting, tmp_path):
    wanted = {"seeds": 1, "time_limit": 0.05}
    first = prunebench.compare(blocks(1), ["counting"], out=tmp_path / "a", **wanted)
    said = []
    for file in kept_answers(tmp_path):
        file.write_text(file.read_text()[:99])
    second = prunebench.compare(blocks(1), ["counting"], out=tmp_path / "b", say=said.append, **wanted)
    assert len(CALLS) == 2
    assert not second["cached"].any()
    assert list(second["objective"]) == list(first["objective"])
    assert len([line for line in said if "damaged" in line]) == 1
    assert prunebench.compare(blocks(1), ["counting"], out=tmp_path / "c", **wanted)["cached"].all()


@pytest.mark.parametrize(
    "forged",
    [{"objective": -1e6}, {"lower_bound": 1e6}, {"mask": [1] * 12}, {"weights": [0.5] * 12}, {"status": "best"}],
)
def test_a_sealed_answer_that_is_not_the_blocks_is_dropped(forged, counting, tmp_path):
    cache, (block,) = AnswerCache(tmp_path / "kept"), blocks(1)
    solver = Counting()
    key = cache.key(block, solver, 0, 1.0)
    cache.put(key, block, Outcome(prunebench.solve(block, solver)))
    (file,) = (tmp_path / "kept").rglob("*.json")
    held = json.loads(file.read_text())
    assert cache.get(key, block) is not None
    answer = held["answer"] | forged
    file.write_text(json.dumps(held | {"answer": answer, "seal": cache_module._digest([key, answer])}))
    assert cache.get(key, block) is None
    assert not file.exists()


def test_every_part_of_what_decides_an_answer_is_in_its_key(counting, monkeypatch, tmp_path):
    cache, (block, other) = AnswerCache(tmp_path), blocks(2)
    solver = prunebench.make_solver("magnitude")
    keys = {cache.key(block, solver, 0, 1.0)}

    def differs(*wanted):
        key = cache.key(*wanted)
        assert key not in keys
        keys.add(key)

    differs(other, solver, 0, 1.0)
    differs(block.in_mode("refit"), solver, 0, 1.0)
    differs(block.with_start(~block.incumbent), solver, 0, 1.0)
    differs(block, solver, 1, 1.0)
    differs(block, solver, 0, 2.0)
    differs(block, prunebench.make_solver("obd"), 0, 1.0)
    differs(block, prunebench.make_solver("magnitude", {"score": "obd"}), 0, 1.0)
    differs(block, prunebench.make_solver("swap", {"restarts": 3}), 0, 1.0)
    for name in ("package_code", "libraries", "machine"):
        with monkeypatch.context() as change:
            change.setattr(fingerprint, name, lambda: "another")
            differs(block, solver, 0, 1.0)
    assert cache.key(block, solver, 0, 1.0) in keys


def test_the_code_of_scores_and_solvers_from_elsewhere_is_in_the_key(monkeypatch, tmp_path):
    cache, (block,) = AnswerCache(tmp_path), blocks(1)
    solver = prunebench.make_solver("magnitude", {"score": "mine"})
    plain, keys = cache.key(block, solver, 0, 1.0), set()
    script = tmp_path / "script_with_a_score.py"
    helper = tmp_path / "helper_of_the_script.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for factor, power in ((1, 1), (1, 1), (2, 1), (2, 3)):
        helper.write_text(f"POWER = {power}\n")
        script.write_text(
            "from helper_of_the_script import POWER\n"
            f"def mine(form, weights, rng):\n    return {factor} * abs(weights) ** POWER\n"
        )
        for name in (script.stem, helper.stem):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        module = importlib.import_module(script.stem)
        monkeypatch.setattr(scores, "SCORES", {**scores.SCORES, "mine": module.mine})
        monkeypatch.setattr(fingerprint, "SCORES", scores.SCORES)
        keys.add(cache.key(block, solver, 0, 1.0))
    assert len(keys) == 3
    assert plain not in keys
    for name in (script.stem, helper.stem):
        del sys.modules[name]


def test_answers_of_code_without_a_file_are_not_kept(monkeypatch, tmp_path):
    space = {"__name__": "typed_in"}
    exec("def typed(form, weights, rng):\n    return abs(weights)", space)
    monkeypatch.setattr(fingerprint, "SCORES", {**scores.SCORES, "typed": space["typed"]})
    (block,) = blocks(1)
    assert AnswerCache(tmp_path).key(block, prunebench.make_solver("swap"), 0, 1.0) == ""


def test_a_program_that_an_option_names_is_in_the_key(monkeypatch, tmp_path):
    program = tmp_path / "mysolver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    cache, (block,) = AnswerCache(tmp_path), blocks(1)
    solver = prunebench.make_solver("pyomo", {"solver": "mysolver"})
    before = cache.key(block, solver, 0, 1.0)
    program.write_text("#!/bin/sh\n# version 2\n")
    assert cache.key(block, solver, 0, 1.0) != before


def test_a_folder_that_cannot_be_written_is_told_once_and_stops_nothing(counting, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    said = []
    frame = prunebench.compare(blocks(2), ["counting"], out=tmp_path / "a", seeds=1, time_limit=0.05, say=said.append)
    assert (frame["skipped"] == "").all()
    assert len([line for line in said if "answers cannot be kept" in line]) == 1


class MySampler:
    """A dimod sampler that enumerates; picklable and without options."""

    parameters: ClassVar[dict] = {}

    def sample(self, bqm):
        if len(bqm.variables) == 9:
            raise RuntimeError("no licence for nine")
        return dimod.ExactSolver().sample(bqm)


@pytest.mark.parametrize(
    ("given", "label"),
    [
        (lambda: dimod.ExactSolver(), "dimod (sampler=dimod.reference.samplers.exact_solver.ExactSolver)"),
        (lambda: dimod.ExactSolver, "dimod (sampler=dimod.reference.samplers.exact_solver.ExactSolver)"),
        (lambda: prunebench.make_solver("dimod", {"sampler": MySampler()}), f"dimod (sampler={__name__}.MySampler)"),
        (lambda: SolverChoice("dimod", {"sampler": MySampler}), f"dimod (sampler={__name__}.MySampler)"),
    ],
)
def test_samplers_are_taken_as_objects_and_classes(given, label, counting, tmp_path):
    frame = prunebench.compare(blocks(1, p=8), [given(), "exhaustive"], out=tmp_path / "a", seeds=1, time_limit=0.3)
    rows = frame.set_index("solver")
    assert rows.loc[label, "skipped"] == ""
    assert rows.loc[label, "objective"] == pytest.approx(rows.loc["exhaustive", "objective"])
    assert frame.attrs["failed"] == 0
    assert not any("ExactSolver" in file.read_text() for file in kept_answers(tmp_path))
    # The finished table is read; an unfinished one cannot go on without the object.
    assert len(resume(tmp_path / "a")) == len(frame)
    (tmp_path / "a" / "result.json").unlink()
    with pytest.raises(InvalidInput, match="given as an object, which no file holds"):
        resume(tmp_path / "a")


def test_two_objects_of_one_class_are_told_apart(tmp_path):
    chosen = with_baselines([MySampler(), MySampler()])
    assert len({choice.label for choice in chosen}) == len(chosen)


def test_solver_classes_are_taken_and_what_is_no_solver_is_refused(tmp_path):
    assert SolverChoice.of(SOLVERS.get("swap")) == SolverChoice("swap")
    for wrong in (3, object(), dict):
        with pytest.raises(InvalidInput, match="is no solver"):
            SolverChoice.of(wrong)


def test_a_sampler_that_fails_is_a_row_with_its_words_and_told_once(counting, tmp_path):
    said = []
    both = [*blocks(2, p=9), *blocks(1, p=8)]
    frame = prunebench.compare(both, [MySampler()], out=tmp_path / "a", seeds=1, time_limit=0.3, say=said.append)
    failed = frame[frame["solver_name"] == "dimod"].set_index("p")["skipped"]
    assert failed[9].str.contains("RuntimeError: no licence for nine").all()
    assert failed[8] == ""
    assert frame.attrs["failed"] == 2
    assert len([line for line in said if "no licence for nine" in line]) == 1
    assert any(line.startswith("2 of ") and "failed" in line for line in said)
    assert json.loads((tmp_path / "a" / "result.json").read_text())["failed"] == 2


def test_a_comparison_with_failures_says_so_and_exits_with_one(counting, tmp_path, capsys):
    words = ["compare", "planted", "--size", "12", "--blocks", "1", "--seeds", "1", "--time-limit", "0.05"]
    code = main([*words, "--solver", "counting:behaviour=raise", "--out", str(tmp_path / "a")])
    out = capsys.readouterr().out
    assert code == 1
    assert "FAILED  1 of 4 solves" in out
    assert out.count("FAILED") == 1
    assert "failed: RuntimeError: the device is on fire" in out
    assert main([*words, "--solver", "counting:behaviour=refuse", "--out", str(tmp_path / "b")]) == 0


def test_a_solver_that_refuses_or_breaks_does_not_end_the_comparison(counting, tmp_path):
    frame = prunebench.compare(
        blocks(2), ["counting:behaviour=refuse", "counting:behaviour=raise", "exhaustive"],
        out=tmp_path / "c", seeds=1, time_limit=0.5,
    )  # fmt: skip
    reasons = frame.set_index("solver")["skipped"]
    assert (reasons["counting (behaviour=refuse)"] == "it takes no blocks at all; use another solver").all()
    assert (reasons["counting (behaviour=raise)"] == "failed: RuntimeError: the device is on fire").all()
    assert (reasons["exhaustive"] == "").all()
    assert frame.attrs["skipped"] == 4
    summary = table.summary(frame).set_index("solver")
    assert summary.loc["counting (behaviour=raise)", "skipped"] == 2
    assert summary.loc["exhaustive", "optimal"] == 2


def test_worker_processes_give_the_same_answers(tmp_path):
    wanted = {"seeds": 1, "time_limit": 5.0, "cache": False}
    inline = prunebench.compare(blocks(2), ["exhaustive"], out=tmp_path / "a", **wanted)
    pooled = prunebench.compare(blocks(2), ["exhaustive"], out=tmp_path / "b", executor="local:2", **wanted)
    assert list(pooled["objective"]) == list(inline["objective"])
    assert list(pooled["mask"]) == list(inline["mask"])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"solvers": ["aneal"]}, "did you mean 'anneal'"),
        ({"solvers": ["anneal:sweps=5"]}, "did you mean 'sweeps'"),
        ({"solvers": ["anneal:sweeps"]}, "NAME:OPTION=VALUE"),
        ({"solvers": ["swap", "swap"]}, "asked for twice"),
        ({"solvers": ["swap"], "time_limit": math.inf}, "finite limit"),
        ({"solvers": ["swap"], "densities": (1.5,)}, "density"),
        ({"solvers": ["swap"], "executor": "local:none"}, "local:2"),
        ({"solvers": ["swap"], "sizes": (10**7,)}, "2368 prunable weights"),
        ({"solvers": ["swap"], "seeds": 0}, "at least 1"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(tmp_path, wanted, message):
    out = tmp_path / "c"
    with pytest.raises(InvalidInput, match=message):
        prunebench.compare("digits-mlp", out=out, **wanted)
    assert not out.exists()


def test_the_same_block_twice_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="are the same"):
        prunebench.compare(blocks(1) * 2, ["swap"], out=tmp_path / "c")


def test_a_solver_object_is_named_by_its_class_and_options():
    choice = SolverChoice.of(prunebench.make_solver("anneal", {"sweeps": 7}))
    assert choice == SolverChoice("anneal", {"sweeps": 7})


def test_request_round_trips_through_json():
    request = CompareRequest(problem="digits-mlp", solvers=(SolverChoice("anneal", {"sweeps": "5"}),), sizes=(8, 16))
    assert CompareRequest.from_json(json.loads(json.dumps(request.as_json())), "here") == request
    with pytest.raises(InvalidInput, match="unknown to this version"):
        CompareRequest.from_json({**request.as_json(), "colour": 1}, "here")


def test_qoblib_export_has_the_librarys_columns(tmp_path):
    frame = prunebench.compare(blocks(2), ["exhaustive"], out=tmp_path / "c", seeds=2, time_limit=0.5)
    code = main(["export", str(tmp_path / "c"), "--format", "qoblib", "-o", str(tmp_path / "q"), "--submitter", "N. N.",
                 "--affiliation", "Nowhere", "--json"])  # fmt: skip
    assert code == 0
    folders = sorted((tmp_path / "q").glob("*/*"))
    assert len(folders) == len(frame.groupby(["solver", "block_hash"]))
    for folder in folders:
        with (folder / f"{folder.name}_summary.csv").open(newline="") as stream:
            (row,) = csv.DictReader(stream)
        assert tuple(row) == qoblib.COLUMNS
        assert len(row) == 30
        assert row["Problem"] == folder.name
        runs = json.loads((folder / f"{folder.name}_objective_time_series.json").read_text())
        assert len(runs) == int(row["# Runs"])
        for run in runs:
            assert all(a["Incumbent"] > b["Incumbent"] and a["Time"] <= b["Time"] for a, b in pairwise(run))
        bits = (folder / f"{folder.name}_solution.txt").read_text().split()
        assert sum(map(int, bits)) == 6
        assert len(bits) == int(row["# Binary Variables"])
        assert float(row["Best Objective Value"]) == pytest.approx(min(run[-1]["Incumbent"] for run in runs))


def test_export_needs_a_submitter_and_a_comparison(tmp_path, capsys):
    arguments = ["export", str(tmp_path), "--format", "qoblib", "-o", str(tmp_path / "q")]
    assert main(arguments) == 2
    assert "--submitter" in capsys.readouterr().err
    assert main([*arguments, "--submitter", "N", "--affiliation", "M"]) == 2
    assert "run.json is missing" in capsys.readouterr().err


def test_unfinished_comparison_is_read_from_its_events(counting, tmp_path):
    with pytest.raises(Interrupted):
        prunebench.compare(blocks(3), ["counting:behaviour=interrupt"], out=tmp_path / "c", seeds=2, cache=False)
    frame = table.read(tmp_path / "c")
    assert np.isfinite(frame["gap"]).all()
    with pytest.raises(InvalidInput, match="unfinished"):
        qoblib.export(tmp_path / "c", tmp_path / "q", submitter="N", affiliation="M")


def test_unknown_solver_is_named():
    with pytest.raises(UnknownName, match="counting"):
        prunebench.compare(blocks(1), ["counting"])


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_worst_objective_is_brute_forces(mode):
    block = instance("cancelling-pairs", 2, mode, p=9, keep=4)
    assert worst_objective(block) == pytest.approx(BruteForce.of(block).worst, rel=1e-12)


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_greedy_changes_the_cheapest_weight_each_time(direction):
    for seed in range(4):
        block = instance("gaussian", seed, "select", p=9, keep=4)
        form, weights = block.form, block.dense_weights
        mask = np.full(9, direction == "backward")
        while int(mask.sum()) != 4:
            trials = []
            for i in np.flatnonzero(mask == (direction == "backward")):
                trial = mask.copy()
                trial[i] = not trial[i]
                trials.append((form.value(np.where(trial, weights, 0.0)), trial))
            mask = min(trials, key=lambda pair: pair[0])[1]
        answer = prunebench.solve(block, "greedy", options={"direction": direction})
        assert np.array_equal(answer.mask, mask)


def test_greedy_on_the_factor_agrees_with_the_matrix():
    rng = np.random.default_rng(0)
    factor, weights = rng.normal(size=(40, 2200)) / 7.0, rng.normal(size=2200)
    wide = prunebench.BlockProblem(
        prunebench.QuadraticForm(factor=factor, ridge=0.1, centre=weights), weights, 2180, "select"
    )
    dense = prunebench.BlockProblem(
        prunebench.QuadraticForm(hessian=factor.T @ factor, ridge=0.1, centre=weights), weights, 2180, "select"
    )
    assert np.array_equal(prunebench.solve(wide, "greedy").mask, prunebench.solve(dense, "greedy").mask)


def test_random_sampling_is_uniform_and_keeps_its_best():
    block = instance("gaussian", 3, "select", p=6, keep=3)
    values = sorted(block.evaluate(mask) for mask in all_masks(6, 3))
    assert prunebench.solve(block, "random", options={"samples": 500}).objective == pytest.approx(values[0])
    means = [
        prunebench.solve(block, "random", options={"samples": 1}, seed=s).details["best_sample"] for s in range(800)
    ]
    spread = np.std(values) / math.sqrt(800)
    assert abs(np.mean(means) - block.random_mean()) < 4 * spread


class TestMeasures:
    def test_gap(self):
        assert list(measures.gap([1.0, 2.0, 3.0, 0.5], 1.0, 3.0)) == [0.0, 0.5, 1.0, 0.0]
        assert math.isinf(measures.gap(1.0, -math.inf, 3.0))
        assert float(measures.gap(1.0, 1.0, 1.0)) == 0.0

    def test_primal_integral_of_a_step(self):
        assert measures.primal_integral([1.0, 2.0], [0.5, 0.0], 4.0) == pytest.approx((1.0 + 0.5) / 4.0)
        assert measures.primal_integral([], [], 4.0) == 1.0
        assert measures.primal_integral([0.0, 5.0], [0.2, 0.0], 4.0) == pytest.approx(0.2)
        with pytest.raises(InvalidInput, match="finite"):
            measures.primal_integral([0.0], [0.2], math.inf)

    def test_time_to_target_and_solution(self):
        assert measures.time_to_target([0.1, 0.4, 0.9], [0.3, 1e-3, 0.0]) == 0.4
        assert math.isinf(measures.time_to_target([0.1], [0.3]))
        assert measures.time_to_solution(2.0, 0.5) == pytest.approx(2.0 * math.log(0.01) / math.log(0.5))
        assert measures.time_to_solution(2.0, 1.0) == 2.0
        assert math.isinf(measures.time_to_solution(2.0, 0.0))
        with pytest.raises(InvalidInput, match="0 to 1"):
            measures.time_to_solution(2.0, 1.5)

    def test_intervals(self):
        interval = measures.mean_interval([1.0, 2.0, 3.0, math.inf])
        assert (interval.value, interval.upper - 2.0) == (2.0, pytest.approx(4.302652729911275 / math.sqrt(3)))
        share = measures.share_interval(8, 10)
        assert (share.lower, share.upper) == (pytest.approx(0.4901625), pytest.approx(0.9433178))
        assert measures.share_interval(10, 10).upper == pytest.approx(1.0)

    def test_performance_profile(self):
        factors, shares = measures.performance_profile({"a": [1.0, 2.0, math.inf], "b": [2.0, 2.0, math.inf]})
        assert list(factors) == [1.0, 2.0]
        assert list(shares["a"]) == [pytest.approx(2 / 3), pytest.approx(2 / 3)]
        assert list(shares["b"]) == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
        with pytest.raises(InvalidInput, match="the same for all"):
            measures.performance_profile({})

    def test_curve_is_a_step_function(self):
        assert list(measures.curve([1.0, 2.0], [5.0, 3.0], [0.5, 1.0, 1.5, 9.0], before=8.0)) == [8.0, 5.0, 5.0, 3.0]

    def test_approximation_ratio(self):
        assert measures.approximation_ratio(1.0, 1.0, 3.0) == 1.0
        assert measures.approximation_ratio(2.0, 1.0, 3.0) == 0.5
        assert math.isnan(measures.approximation_ratio(2.0, 1.0, math.nan))

    def test_every_measure_in_the_glossary_is_a_column_or_a_figure(self):
        columns = {name.replace("_", " ") for name in table.COLUMNS}
        elsewhere = {"anytime curve", "performance profile", "confidence interval", "success probability",
                     "time to solution", "feasibility rate"}  # fmt: skip
        assert set(measures.GLOSSARY) - columns == elsewhere
