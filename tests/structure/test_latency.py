"""Budgets of time: tables, the choice by them, and runs that measure; no assertion depends on a clock."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers import call
from prunebench.coordinators.structured.time_budget import ROOM, curves_of, planned, within_time
from prunebench.core.errors import InvalidInput
from prunebench.runs import latency as measuring
from prunebench.runs.latency import Stopwatch, facts_of
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.structure.budget import Steps
from prunebench.structure.families import Family, families
from prunebench.structure.latency import LatencyTable, Measured, widths
from prunebench.structure.trace import couple


def family(name, size, kind="channels", base=0, within=()):
    return Family(name, kind, tuple(range(base, base + size)), {}, within=within)


def table_of(found, saved, dense=10.0):
    """A table by what every family's counts save."""
    curves = {
        item.label: {count: dense - ms for count, ms in part.items()} for item, part in zip(found, saved, strict=True)
    }
    return LatencyTable({"runtime": "torch"}, {item.label: item.size for item in found}, dense, curves)


FOUND = [family("a", 4), family("b", 3, base=10), family("c", 8, base=20)]
SAVED = [{3: 0.5, 2: 0.3, 1: 1.5}, {2: 1.0, 1: 2.0}, {6: -0.2, 4: 2.0, 2: 2.5}]
SCORES = [np.array([0.1, 0.5, 0.7, 0.9]), np.array([0.2, 0.3, 0.4]), np.linspace(0.05, 0.4, 8)]


def test_only_widths_that_are_faster_than_all_larger_ones_are_taken():
    table = table_of(FOUND, SAVED)
    assert table.hull(FOUND[0]) == {4: 0.0, 3: pytest.approx(0.5), 1: pytest.approx(1.5)}
    assert table.hull(FOUND[2]) == {8: 0.0, 4: pytest.approx(2.0), 2: pytest.approx(2.5)}


@pytest.mark.parametrize("part", [0.45, 0.6, 0.75, 0.9, 1.0])
def test_the_choice_is_the_best_of_all_and_within_the_budget(part):
    table = table_of(FOUND, SAVED)
    hulls = [table.hull(item) for item in FOUND]
    lost = [np.concatenate([[0.0], np.cumsum(np.sort(scores))]) for scores in SCORES]
    options = [
        (sum(lost[k][item.size - count] for k, (item, count) in enumerate(zip(FOUND, counts, strict=True))), counts)
        for counts in itertools.product(*hulls)
        if 10.0 - sum(hulls[k][count] for k, count in enumerate(counts)) <= part * 10.0 - 0.02
    ]
    curves = curves_of(table, FOUND, SCORES, Steps())
    counts, saved, found = planned(table, FOUND, curves, part)
    assert 10.0 - saved <= part * 10.0
    assert found <= min(options)[0] + 1e-12
    assert saved == pytest.approx(sum(hulls[k][count] for k, count in enumerate(counts)))


def test_what_is_inside_of_a_branch_goes_with_it():
    found = [family("x", 4, base=10, within=(0,)), family("y", 2, base=20, within=(0,)), family("z", 4, base=30),
             family("branch", 1, "layers")]  # fmt: skip
    saved = [{2: 1.0}, {1: 1.0}, {2: 1.0}, {0: 5.0}]
    scores = [np.full(4, 0.3), np.full(2, 0.3), np.full(4, 0.1), np.array([2.0])]
    table = table_of(found, saved)
    curves = curves_of(table, found, scores, Steps())
    assert planned(table, found, curves, 0.7)[0] == [2, 1, 2, 1]
    assert planned(table, found, curves, 0.5)[0] == [0, 0, 4, 0]
    assert planned(table, found, curves, 0.4)[0] == [0, 0, 2, 0]
    with pytest.raises(InvalidInput, match="--uniform and layers"):
        curves_of(table, found, scores, Steps(uniform=True))


def test_steps_of_widths_are_kept():
    found = [family("a", 8), family("b", 8, base=10)]
    table = table_of(found, [{6: 1.0, 4: 2.0, 3: 3.0}, {6: 1.0, 4: 1.5, 3: 3.0}])
    scores = [np.full(8, 0.1), np.full(8, 0.4)]
    curves = curves_of(table, found, scores, Steps(multiple=4))
    assert {count for curve in curves for point in curve for count in point.counts.values()} == {8, 4}
    assert planned(table, found, curves_of(table, found, scores, Steps(uniform=True)), 0.7)[0] == [4, 4]


def test_the_measured_time_is_within_the_budget_where_sums_say_too_little():
    table = table_of(FOUND, SAVED)

    def measure(counts):
        saved = sum(table.hull(item)[count] for item, count in zip(FOUND, counts, strict=True))
        return Measured(tuple(counts), 10.0, 10.0 - 0.8 * saved)

    found = within_time(table, FOUND, SCORES, 0.7, Steps(), measure)
    assert found.measured.part <= 0.7
    assert found.predicted < found.measured.part
    # what was measured is in the table: nothing is measured again, and the same is found
    again = within_time(table, FOUND, SCORES, 0.7, Steps(), lambda _: pytest.fail("measured again"))
    assert again == found
    with pytest.raises(InvalidInput, match=r"0\.4 stays with the least"):
        within_time(table, FOUND, SCORES, 0.3, Steps(), measure)


def test_where_nothing_is_fast_enough_the_fastest_is_given():
    table = table_of(FOUND, SAVED)
    found = within_time(
        table, FOUND, SCORES, 0.6, Steps(), lambda counts: Measured(tuple(counts), 10.0, 9.0 + sum(counts) / 100)
    )
    assert found.measured.part > 0.6 >= 0.6 * ROOM
    assert found.measured.part == min(item.part for item in table.networks)


def test_widths_that_are_measured():
    assert widths(family("a", 16)) == [14, 12, 10, 8, 6, 4, 2, 1]
    assert widths(family("a", 64)) == [56, 48, 40, 32, 24, 16, 8, 1]
    assert widths(family("a", 3)) == [2, 1]
    assert widths(family("a", 172)) == [168, 144, 120, 96, 72, 48, 24, 1]
    assert widths(family("a", 1, "layers")) == [0]


def test_a_table_is_read_again_and_refused_elsewhere(tmp_path):
    table = table_of(FOUND, SAVED)
    table.networks.append(Measured((4, 3, 8), 10.0, 9.5))
    path = tmp_path / "latency.json"
    table.write(path)
    again = LatencyTable.read(path)
    assert again == replace(table, facts=again.facts)
    again.require({"runtime": "torch"}, FOUND, "it")
    assert again.of(FOUND) == again
    part = again.of(FOUND[1:])
    assert (list(part.sizes), list(part.curves), part.networks) == (["b:channels", "c:channels"],) * 2 + ([],)
    with pytest.raises(InvalidInput, match="measured with runtime torch, and here it is onnxruntime"):
        again.require({"runtime": "onnxruntime"}, FOUND, "it")
    with pytest.raises(InvalidInput, match="no channels a of 5 groups"):
        again.require({}, [family("a", 5)], "it")
    held = json.loads(path.read_text())
    for wrong in ({**held, "format": "other"}, {**held, "dense_ms": -1.0}, {**held, "curves": {}}, []):
        path.write_text(json.dumps(wrong))
        with pytest.raises(InvalidInput):
            LatencyTable.read(path)


@pytest.mark.parametrize("counts", [[3, 2], [6, 1]])
def test_a_resized_onnx_model_is_the_smaller_network(counts):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'prunebench[onnx]'")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)
    ).eval()
    model[1].running_mean.normal_()
    coupling = couple(model, torch.randn(3, 2, 6, 6))
    found = type("Found", (), {"coupling": coupling, "families": families(coupling)[0]})
    watch = Stopwatch(found, torch.randn(2, 2, 6, 6), "onnxruntime")
    living = watch._living(counts)
    from prunebench.structure.resize import shrunk_program, state_of

    assert watch._resized(shrunk_program(coupling, state_of(coupling), living), living) is not None
    # of another network's outputs it is none
    assert watch._resized(coupling.program, living) is None
    assert watch.measure(counts, runs=1).counts == tuple(counts)


REQUEST = PruneRequest(
    problem="digits-mlp", density=0.7, coordinator="structured", solver="obd",
    coordinator_options={"samples": 300, "budget": "latency"},
)  # fmt: skip


@pytest.fixture
def timed(monkeypatch):
    """Times that follow from counts: a millisecond, and one for all groups."""
    asked = []

    def measure(self, counts, runs=0):
        asked.append(tuple(counts))
        return Measured(tuple(counts), 2.0, 1.0 + counts[0] / 32)

    monkeypatch.setattr(Stopwatch, "measure", measure)
    monkeypatch.setattr(Stopwatch, "beside_dense", lambda self, program: Measured((), 2.0, 1.36))
    return asked


def test_a_run_within_a_part_of_the_time(timed, tmp_path, capsys, monkeypatch):
    path = tmp_path / "run"
    result = prune(REQUEST, out=path)
    assert result["kept"] == 12
    assert result["latency"]["part"] == 0.68
    assert (result["latency"]["asked"], result["latency"]["runtime"]) == (0.7, "torch")
    assert result["latency"]["predicted"] == result["latency"]["chosen"] == 0.6875
    assert json.loads((path / "structure.json").read_text())["latency"] == result["latency"]
    code, _, _ = call(capsys, "report", path, "-o", tmp_path / "page.html")
    assert (code, "milliseconds, torch, batch 16" in (tmp_path / "page.html").read_text()) == (0, True)

    # with its table nothing is measured again
    timed.clear()
    given = {**REQUEST.coordinator_options, "latency_table": str(path / "latency.json")}
    again = prune(replace(REQUEST, coordinator_options=given), out=tmp_path / "again")
    assert (timed, again["kept"], again["accuracy"]) == ([], 12, result["accuracy"])
    assert facts_of("torch", 16).items() <= json.loads((path / "latency.json").read_text())["facts"].items()
    monkeypatch.setattr(measuring, "facts_of", lambda runtime, batch: {"processor": "another"})
    with pytest.raises(InvalidInput, match="was measured with processor"):
        prune(replace(REQUEST, coordinator_options=given), out=tmp_path / "third")


def test_an_interrupted_run_keeps_its_table(timed, tmp_path, monkeypatch):
    from prunebench.coordinators.structured import Structured
    from prunebench.core.errors import Interrupted

    whole = Structured._pruned

    def stop(self, kept):
        raise KeyboardInterrupt

    monkeypatch.setattr(Structured, "_pruned", stop)
    with pytest.raises(Interrupted):
        prune(REQUEST, out=tmp_path / "run")
    monkeypatch.setattr(Structured, "_pruned", whole)
    timed.clear()
    assert resume(tmp_path / "run")["kept"] == 12
    assert timed == []


PRUNE = ("prune", "digits-mlp", "--structure", "neurons")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*PRUNE, "--flops", "0.5", "--runtime", "torch"), "--runtime is of a budget of time: add --latency PART"),
        ((*PRUNE, "--flops", "0.5", "--latency", "0.5"), "are both given"),
        ((*PRUNE, "--flops", "0.5", "--option", "runtime=onnxruntime"), "are of a budget of time: add --latency"),
        ((*PRUNE, "--latency", "0.5", "--latency-table", "none.json"), "none.json cannot be read"),
        ((*PRUNE, "--latency", "0.3"), "0.3 of the time cannot be reached: by the table, 0.5156 stays"),
        ((*PRUNE, "--latency", "0.5", "--option", "latency_batch=0"), "latency_batch is 0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(timed, capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    # what needs the network to be seen comes after the line on the dense network
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("prunebench: error: ")
    assert words in err.splitlines()[-1]
    assert not list(tmp_path.rglob("run.json"))
