"""The suite: its files give the blocks of the catalogue, runs go on, and nobody's word is taken for a mask."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from prunebench import Budget, Solver, Stop, solve
from prunebench.cli import main
from prunebench.core import solution
from prunebench.core.errors import Interrupted, InvalidInput, UnknownName
from prunebench.core.group_block import GroupBlock
from prunebench.core.masks import mask_from_text, mask_text
from prunebench.suite import catalogue, check, drawn, instances, results, table
from prunebench.suite.run import Limit
from prunebench.suite.run import run as run_suite

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("select-wine-first-random-16-8-n64", "select-drawn-uniform-20-10", "refit-digits-first-random-16-4")
"""The small subset that is run here."""
SMALL = [item for item in catalogue.catalogue().instances if item.p <= 64]


@pytest.fixture
def chosen():
    return catalogue.chosen(NAMES)


@dataclass(frozen=True, kw_only=True)
class Start(Solver):
    """Gives the start back; an object of nobody's registry."""

    name = "start-only"
    calls: ClassVar[list[str]] = []

    def search(self, best, rng):
        type(self).calls.append(best.block.problem)
        return Stop.finished("the start")


@pytest.fixture
def start():
    Start.calls.clear()
    return Start()


def test_every_instance_is_what_the_catalogue_says_of_it():
    for item, faults, _ in check.check_catalogue(catalogue.catalogue().instances):
        assert not faults, (item.name, faults)
        block = instances.load(item)
        assert (block.p, block.keep, block.mode) == (item.p, item.keep, item.mode)
        scale = block.form.constant if isinstance(block, GroupBlock) else block.random_mean()
        assert item.scale == pytest.approx(scale, rel=1e-9)
        assert item.best < item.scale
        assert item.origin in catalogue.catalogue().origins


def test_the_suite_has_what_it_promises():
    held = catalogue.catalogue().instances
    assert len(held) >= 60
    assert {item.mode for item in held} == {"select", "refit"}
    assert {item.kind for item in held} == {"weights", "quota", "budget", "groups"}
    assert min(item.p for item in held) == 16
    assert max(item.p for item in held) == 4096
    assert sum(not item.proved for item in held) >= 12
    files = sum(file.stat().st_size for file in (catalogue.FOLDER / "data").iterdir())
    assert files + (catalogue.FOLDER / "catalogue.json").stat().st_size < 2_000_000


def test_a_hessian_is_exact_whatever_the_order_of_its_sums():
    item = catalogue.catalogue().get("select-digits-first-random-64-32")
    held, own = instances._arrays(item.recipe["data"]), instances._arrays(item.name)
    above, below = np.divmod(own["chosen"].astype(np.int64), held["right"].shape[1])
    whole = held["left"][:, above].astype(object) * held["right"][:, below].astype(object)
    exact = (whole.T @ whole) * (float(held["unit"]) * item.recipe["scale"]) ** 2
    assert np.array_equal(exact.astype(np.float64), instances.load(item).form.hessian)


def test_a_changed_file_is_noticed():
    item = catalogue.catalogue().get(NAMES[0])
    with pytest.raises(InvalidInput, match="install prunebench again"):
        instances.load(replace(item, recipe={**item.recipe, "ridge": item.recipe["ridge"] * 2.0}))


def test_drawn_numbers_are_the_same_everywhere():
    draws = drawn.Draws(1)
    assert (draws.numbers(4) * 2.0**drawn.BITS).tolist() == [96.0, 3690.0, -2916.0, 3675.0]
    matrix, weights = drawn.columns("planted", 3, 4, 64)
    assert np.array_equal(matrix * 2.0 ** (drawn.BITS + 1), np.rint(matrix * 2.0 ** (drawn.BITS + 1)))
    assert (np.abs(weights) > 0.5).sum() == 4


def test_a_mask_is_written_and_read():
    mask = np.arange(19) % 3 == 0
    assert np.array_equal(mask_from_text(mask_text(mask), 19), mask)
    for text, words in (("ff", "takes 3 bytes"), ("zz", "hexadecimal"), ("ffffff", "beyond the 19")):
        with pytest.raises(InvalidInput, match=words):
            mask_from_text(text, 19)


def test_a_run_goes_on_where_it_was(tmp_path, chosen, start):
    file = tmp_path / "suite.json"
    whole = run_suite(start, chosen, file)
    assert [row.instance for row in whole.rows] == list(NAMES)
    assert len(Start.calls) >= 3
    results.write(file, replace(whole, rows=whole.rows[:2]))
    Start.calls.clear()
    again = run_suite(start, chosen, file)
    assert set(Start.calls) <= {"suite/" + NAMES[2], "a miniature"}
    assert [row.mask for row in again.rows] == [row.mask for row in whole.rows]


def test_a_stop_in_the_middle_loses_one_solve(tmp_path, chosen):
    class Stopped(Start):
        name = "stopped"

        def search(self, best, rng):
            if best.block.problem.endswith(NAMES[1]):
                raise KeyboardInterrupt
            return Stop.finished("the start")

    file = tmp_path / "suite.json"
    with pytest.raises(Interrupted, match="1 rows are done"):
        run_suite(Stopped(), chosen, file)
    assert [row.instance for row in results.read(file).rows] == [NAMES[0]]


def test_another_run_is_not_continued(tmp_path, chosen):
    file = tmp_path / "suite.json"
    run_suite("magnitude", chosen[:1], file)
    with pytest.raises(InvalidInput, match="another run, with another limit"):
        run_suite("magnitude", chosen, file, limit=Limit(seconds=1.0))
    with pytest.raises(InvalidInput, match="another solver"):
        run_suite("magnitude:score=obd", chosen, file)
    with pytest.raises(UnknownName, match="magnitude"):
        run_suite("magnitud", chosen, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_a_sampler_is_run_as_an_object(tmp_path, chosen):
    import dimod

    class Zeros:
        """A sampler that answers with all zeros."""

        parameters: ClassVar[dict[str, list[str]]] = {"num_reads": []}

        def sample(self, bqm, **_keywords):
            return dimod.SampleSet.from_samples_bqm(np.zeros((1, bqm.num_variables)), bqm)

    held = run_suite(Zeros(), chosen[:1], tmp_path / "suite.json")
    assert held.label.startswith("dimod (sampler=")
    assert held.rows[0].solved


def _file(tmp_path, chosen, name="suite.json", solver="swap"):
    file = tmp_path / name
    run_suite(solver, chosen, file, limit=Limit(seconds=30.0))
    return file, json.loads(file.read_text())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": 1.0}, "its mask is worth"),
        ({"mask": "ffff"}, "exactly 8|keeps 16|16 weights"),
        ({"mask": "00"}, "takes 2 bytes"),
        ({"hash": "0" * 64}, "no such instance"),
        ({"lower_bound": 1.0}, "above a mask"),
        ({"status": "optimal", "lower_bound": None}, "without a bound"),
        ({"trace": [[1.0, 2.0], [0.5, 1.0]]}, "seconds of its trace"),
        ({"trace": [[0.0, 1.0], [0.5, 2.0]]}, "values of its trace"),
        ({"trace": [[0.0, -1.0]]}, "ends below"),
    ],
)
def test_what_is_not_so_is_found(tmp_path, chosen, change, words):
    file, held = _file(tmp_path, chosen[:1])
    assert not check.check_results(results.read(file), catalogue.catalogue()).faults
    held["rows"][0] |= change
    file.write_text(json.dumps(held))
    faults = check.check_results(results.read(file), catalogue.catalogue()).faults
    assert len(faults) == 1
    assert any(part in faults[0] for part in words.split("|")), faults
    assert main(["suite", "check", str(file)]) == 1


@pytest.mark.parametrize("change", [{"seed": -1}, {"mask": 3}, {"trace": [[1]]}, {"other": 1}, {"objective": "x"}])
def test_a_row_of_another_kind_is_refused(tmp_path, chosen, change):
    file, held = _file(tmp_path, chosen[:1], solver="magnitude")
    held["rows"][0] |= change
    file.write_text(json.dumps(held))
    with pytest.raises(InvalidInput, match=f"row 1: {next(iter(change))}"):
        results.read(file)


def _results(label, rows, seconds=1.0):
    held = catalogue.catalogue()
    return results.Results(
        suite={"version": held.version, "digest": held.digest}, solver={"name": label, "label": label, "version": ""},
        limit={"seconds": seconds, "clock": "cpu"}, seeds=1, machine={}, versions={}, threads={}, rows=rows,
    )  # fmt: skip


def _row(item, gap, at=0.0, seconds=0.5, **more):
    value = item.best + gap * (item.scale - item.best)
    return results.Row(
        instance=item.name, hash=item.hash, seed=0, objective=value, seconds=seconds, trace=((at, value),), **more
    )


def test_a_proof_of_the_optimum_is_no_fault(tmp_path, chosen):
    file, held = _file(tmp_path, chosen[:1], solver="exhaustive")
    assert held["rows"][0]["status"] == "optimal"
    assert not check.check_results(results.read(file), catalogue.catalogue()).faults


def test_committed_results_are_what_their_masks_are_worth():
    files = sorted((ROOT / "benchmarks" / "results" / "suite").glob("*.json"))
    assert len(files) >= 10
    for file in files:
        assert not check.check_results(results.read(file), catalogue.catalogue()).faults, file.name


def test_committed_results_stand_in_one_table():
    files = [results.read(file) for file in sorted((ROOT / "benchmarks" / "results" / "suite").glob("*.json"))]
    assert len(table.board(files, catalogue.catalogue()).solvers) == len(files)


def test_two_files_of_one_solver_are_told_apart(chosen):
    files = [_results("a", [_row(chosen[0], gap)]) for gap in (0.0, 0.1)]
    held = table.board([*files, replace(files[0], submitter="Ada")], catalogue.catalogue())
    assert held.solvers == ["a", "a (2)", "a, Ada"]
    assert len(held.scores) == 3


def test_a_seed_without_an_answer_counts_as_none(chosen):
    refused = results.Row(instance=chosen[0].name, hash=chosen[0].hash, seed=1, skipped="no")
    held = table.board([_results("a", [_row(chosen[0], 0.0), refused])], catalogue.catalogue())
    assert held.scores["a", NAMES[0]].gaps.tolist() == [0.5, 0.5]


def test_ranks_and_the_virtual_best(chosen):
    first, second, third = chosen
    files = [
        _results("a", [_row(first, 0.0), _row(second, 0.2), _row(third, 0.0, at=0.5)]),
        _results("b", [_row(first, 0.1), _row(second, 0.1), _row(third, 0.0)]),
        _results("c", [_row(first, 0.0, status="optimal", lower_bound=first.best), _row(second, 0.3)]),
    ]
    held = table.board(files, catalogue.catalogue())
    late = table.ranks(held, chosen)
    assert {name: part.tolist() for name, part in late.items()} == {
        "a": [1.5, 2.0, 1.5], "b": [3.0, 1.0, 1.5], "c": [1.5, 3.0, 3.0],
    }  # fmt: skip
    # after a tenth of the limit a has nothing yet on the third
    assert table.ranks(held, chosen, 0)["a"].tolist() == [1.5, 2.0, 2.0]
    lines = {line.solver: line for line in table.lines(held, chosen)}
    assert lines["c"].gap.value == pytest.approx((0.0 + 0.3 + 1.0) / 3)
    assert lines["c"].answered == 2
    assert lines["c"].proved == 1
    assert lines["b"].alone == 1
    best = lines[table.VIRTUAL]
    assert best.gap.value == pytest.approx(0.1 / 3)
    assert best.integral.value == pytest.approx(0.1 / 3)
    assert lines["a"].integral.value == pytest.approx((0.0 + 0.2 + 0.5) / 3)


def test_no_interval_from_fewer_than_three_and_none_outside_the_values(chosen):
    assert np.isnan(table.interval([1.0, 2.0]).lower)
    held = table.interval([0.0, 0.0, 1.0, 3.0])
    assert 0.0 <= held.lower < held.value == 1.0 < held.upper <= 3.0


def test_a_late_answer_counts_by_its_trace(chosen):
    late = _results("late", [_row(chosen[0], 0.0, at=3.0, seconds=3.0)])
    held = table.board([late], catalogue.catalogue())
    score = held.scores["late", NAMES[0]]
    assert score.gaps.tolist() == [1.0, 1.0]
    assert score.overran
    proof = _results("late", [_row(chosen[0], 0.0, at=3.0, seconds=3.0, status="optimal")])
    assert not table.board([proof], catalogue.catalogue()).scores["late", NAMES[0]].proved
    with pytest.raises(InvalidInput, match="different limits"):
        table.board([late, _results("b", [], seconds=2.0)], catalogue.catalogue())


def test_a_budget_of_processor_seconds_is_not_used_up_by_waiting(monkeypatch):
    clocks = {"wall": 0.0, "cpu": 0.0}

    def tick(name, step):
        def read():
            clocks[name] += step
            return clocks[name]

        return read

    monkeypatch.setattr(solution, "perf_counter", tick("wall", 100.0))
    monkeypatch.setattr(solution, "process_time", tick("cpu", 0.0))
    block = instances.load(catalogue.catalogue().get(NAMES[0]))
    assert solve(block, "random", budget=Budget(seconds=5.0)).stop.kind == "time"
    assert solve(block, "random", budget=Budget(seconds=5.0, cpu=True)).stop.kind == "finished"


def test_the_command_from_list_to_export(tmp_path, capsys):
    assert main(["suite", "list", "--largest", "32", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {item["name"] for item in listed["instances"]} >= set(NAMES)
    files = []
    for solver in ("swap", "magnitude"):
        files.append(str(tmp_path / f"{solver}.json"))
        given = ["--cpu", "0.2", "--instance", *NAMES, "-o", files[-1], "--quiet"]
        assert main(["suite", "run", "--solver", solver, *given]) == 0
    assert main(["suite", "check", *files]) == 0
    capsys.readouterr()
    assert main(["suite", "table", *files]) == 0
    text = capsys.readouterr().out
    assert text.index("swap") < text.index("magnitude")
    assert "virtual best" in text
    assert (
        main(["suite", "export", *files, "-o", str(tmp_path / "qoblib"), "--submitter", "A", "--affiliation", "B"]) == 0
    )
    assert len(list((tmp_path / "qoblib").rglob("*_summary.csv"))) == 6
    assert main(["suite", "get", NAMES[0], "-o", str(tmp_path / "block.npz")]) == 0
    assert main(["solve", str(tmp_path / "block.npz"), "--solver", "exhaustive", "--json"]) == 0
    best = json.loads(capsys.readouterr().out.splitlines()[-1])["objective"]
    assert best == pytest.approx(catalogue.catalogue().get(NAMES[0]).best, rel=1e-9)


def test_groups_are_part_of_it(tmp_path):
    item = next(item for item in SMALL if item.kind == "groups")
    held = run_suite("group-swap", [item, *catalogue.chosen(NAMES[:1])], tmp_path / "suite.json")
    assert held.rows[0].solved
    assert "groups" in held.rows[1].skipped
