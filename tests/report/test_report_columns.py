"""Every column of a comparison and of the report's tables, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from prunebench import measures
from prunebench.comparison import run as comparison_run
from prunebench.comparison import table, writing
from prunebench.comparison.blocks import Entry, worst_objective
from prunebench.comparison.request import CompareRequest, SolverChoice
from prunebench.comparison.work import Outcome
from prunebench.core.solution import Solution, Status
from prunebench.core.solver import make_solver
from prunebench.core.stop import Stop
from prunebench.report import gather, tables
from prunebench.report.gather import Comparison, Run, Source
from prunebench.testing.instances import BruteForce, instance

LIMIT, TARGET = 4.0, 0.05


def answer(solver, seed, objective, bound, trace, *, block="b", **more):
    """A row as it stands in events.jsonl: random mean 10, worst mask 20, start 8."""
    return {
        "problem": "digits-mlp", "select": "row", "density": 0.5, "p": 16, "n": 4, "keep": 8, "mode": "select",
        "block_seed": 5, "block_index": 2, "block_hash": block, "random_mean": 10.0, "worst_objective": 20.0,
        "start_objective": 8.0, "solver": solver, "solver_name": solver, "options": "{}", "stochastic": True,
        "seed": seed, "time_limit": LIMIT, "version": "v", "skipped": "", "cached": False, "status": "feasible",
        "stop_reason": "done", "objective": objective, "lower_bound": bound, "seconds": trace[-1][0],
        "cpu_seconds": 0.25, "feasible_before_repair": 0.5, "model_change": objective - 8.0, "true_change": 0.125,
        "mask": "ff00", "trace_seconds": [t for t, _ in trace], "trace_objective": [f for _, f in trace],
        "trace_bound": [None] * len(trace), **more,
    }  # fmt: skip


def two_answers():
    """The best is 2 and the best bound 1: exact proves it, fast ends at 2.5 with a bound of its own."""
    exact = answer("exact", 0, 2.0, 1.0, [(1.0, 12.0), (2.0, 6.0), (3.0, 2.0)], status="optimal")
    fast = answer("fast", 0, 2.4, -5.0, [(0.5, 2.4)])
    return [exact, fast]


def frame_of(rows):
    return table.finished(rows, LIMIT, TARGET).set_index(["solver", "seed"])


def test_the_measures_of_an_answer_are_those_of_their_definitions():
    rows = frame_of(two_answers())
    exact, fast = rows.loc[("exact", 0)], rows.loc[("fast", 0)]
    for row in (exact, fast):
        assert row["best_objective"] == 2.0
        assert row["best_bound"] == 1.0
        assert row["gap_to"] == "bound"
    assert exact["gap"] == pytest.approx((2.0 - 1.0) / (10.0 - 1.0))
    assert fast["gap"] == pytest.approx((2.4 - 1.0) / (10.0 - 1.0))
    assert exact["gap_to_best"] == 0.0
    assert fast["gap_to_best"] == pytest.approx(0.4 / 8.0)
    assert exact["relative_gap"] == pytest.approx(1.0 / 2.0)
    assert fast["relative_gap"] == pytest.approx(1.4 / 2.4)  # to the best bound of all, not to its own
    assert exact["approximation_ratio"] == 1.0
    assert fast["approximation_ratio"] == pytest.approx((20.0 - 2.4) / (20.0 - 2.0))
    assert exact["time_to_target"] == 3.0
    # gaps to best 1.25 (capped at 1), 0.5, 0: one second before the first, one at each of the others, one at 0
    assert exact["primal_integral"] == pytest.approx((1.0 + 1.0 + 0.5 + 0.0) / LIMIT)
    assert fast["primal_integral"] == pytest.approx((0.5 * 1.0 + 3.5 * 0.05) / LIMIT)


@pytest.mark.parametrize(("objective", "success"), [(2.0 + 8.0 * 0.0625, True), (2.5 + 1e-9, False)])
def test_a_gap_of_exactly_the_target_is_a_success(objective, success):
    rows = [answer("exact", 0, 2.0, 1.0, [(1.0, 2.0)]), answer("fast", 0, objective, None, [(0.5, objective)])]
    row = table.finished(rows, LIMIT, 0.0625).set_index("solver").loc["fast"]
    assert bool(row["success"]) is success
    assert math.isfinite(row["time_to_target"]) is success


def test_a_bound_that_makes_the_best_look_like_a_random_mask_is_no_reference():
    rows = [answer("exact", 0, 2.0, None, [(1.0, 2.0)]), answer("fast", 0, 3.0, None, [(0.5, 3.0)])]
    found = frame_of(rows)
    assert set(found["gap_to"]) == {"best"}
    assert found.loc[("fast", 0), "gap"] == pytest.approx(1.0 / 8.0)
    assert math.isnan(found.loc[("fast", 0), "best_bound"])
    assert math.isinf(found.loc[("fast", 0), "relative_gap"])


def test_answers_are_measured_against_those_to_their_own_block():
    other = answer("fast", 0, 5.0, 4.0, [(0.5, 5.0)], block="c")
    found = table.finished([*two_answers(), other], LIMIT, TARGET)
    assert list(found[found["block_hash"] == "c"]["best_objective"]) == [5.0]
    assert list(found[found["block_hash"] == "c"]["best_bound"]) == [4.0]


def summary_rows():
    """Two blocks, two seeds: on b one of two runs succeeds, on c both do; one solve was skipped."""
    rows = [
        answer("exact", 0, 2.0, 2.0, [(1.0, 2.0)], status="optimal"),
        answer("exact", 0, 4.0, None, [(1.0, 4.0)], block="c"),
        answer("fast", 0, 2.0, None, [(0.5, 2.0), (2.0, 2.0)]),
        answer("fast", 1, 6.0, None, [(3.0, 6.0)]),
        answer("fast", 0, 4.0, None, [(1.0, 4.0)], block="c"),
        answer("fast", 1, 4.0, None, [(2.0, 4.0)], block="c"),
    ]
    refused = {key: value for key, value in rows[0].items() if key not in ("objective", "lower_bound", "status")}
    return [*rows, refused | {"solver": "fast", "seed": 2, "skipped": "too large"}]


def test_the_summary_is_of_the_solved_rows():
    summary = table.summary(table.finished(summary_rows(), LIMIT, TARGET)).set_index("solver")
    fast, exact = summary.loc["fast"], summary.loc["exact"]
    assert (fast["runs"], fast["skipped"], fast["reason"]) == (4, 1, "too large")
    assert (exact["runs"], exact["skipped"], exact["reason"]) == (2, 0, "")
    gaps = np.array([0.0, 0.5, 0.0, 0.0])
    assert fast["gap"] == pytest.approx(gaps.mean())
    # two blocks say nothing of how blocks differ
    ends = [f"{name}_{end}" for name in ("gap", "success", "time_to_solution") for end in ("lower", "upper")]
    assert fast[ends].isna().all()
    assert fast["gap_to"] == "best"  # block c has no bound, so not all are to a bound
    assert (fast["optimal"], exact["optimal"]) == (0, 1)
    assert fast["success"] == 0.75
    # b: (0.5 + 3)/2 seconds at success 1/2; c: (1 + 2)/2 at success 1; the median of two is their mean
    on_b, on_c = 1.75 * math.log(0.01) / math.log(0.5), 1.5
    assert fast["time_to_solution"] == pytest.approx((on_b + on_c) / 2.0)
    assert fast["primal_integral"] == pytest.approx(np.mean([0.5, 3.0 + 0.5, 1.0, 2.0]) / LIMIT)
    assert fast["seconds"] == pytest.approx((2.0 + 3.0 + 1.0 + 2.0) / 4.0)


def test_three_blocks_have_intervals_within_what_was_measured():
    third = [
        answer("exact", 0, 4.0, None, [(1.0, 4.0)], block="d"),
        answer("fast", 0, 6.0, None, [(1.0, 6.0)], block="d"),
    ]
    fast = table.summary(table.finished([*summary_rows(), *third], LIMIT, TARGET)).set_index("solver").loc["fast"]
    # blocks' means over seeds: 0.25, 0 and that of d; each is drawn three times over in one of 27 draws
    of_d = 2.0 / 6.0
    assert fast["gap"] == pytest.approx((0.25 + 0.0 + of_d) / 3.0)
    assert (fast["gap_lower"], fast["gap_upper"]) == pytest.approx((0.0, of_d))
    assert fast["success_lower"] == pytest.approx(0.2307, abs=1e-3)  # Wilson's, 3 of 5
    assert fast["success_upper"] == pytest.approx(0.8824, abs=1e-3)
    # b 11.6, c 1.5, d never: the median of most draws lies between
    assert fast["time_to_solution"] == pytest.approx(1.75 * math.log(0.01) / math.log(0.5))
    assert (fast["time_to_solution_lower"], fast["time_to_solution_upper"]) == (1.5, math.inf)


def compared(rows):
    source = Source(gather.Path("here"), {"kind": "compare"}, 0, {}, {}, finished=True)
    return Comparison(source, table.finished(rows, LIMIT, TARGET))


def cells(shown, row):
    return {column: cell.text for column, cell in zip(shown.columns, row, strict=True)}


def test_the_reports_summary_shows_each_value_under_its_heading():
    (shown,) = tables.summaries([compared(summary_rows())])
    rows = {row[2].text: cells(shown, row) for row in shown.rows}
    assert rows["fast"] == {
        "p": "16", "density": "0.5", "solver": "fast", "runs": "4", "gap": "0.125*", "proved": "0",
        "success": "75 %", "TTS 99 % (s)": "6.56", "primal integral": "0.438", "seconds": "2", "CPU s": "0.25",
        "remarks": "1 skipped",
    }  # fmt: skip


def test_the_reports_answers_show_each_value_under_its_heading():
    rows = [answer("exact", 7, 2.0, 1.0, [(3.0, 2.0)], status="optimal", stop_reason="proved", cached=True)]
    (shown,) = tables.every_answer([compared([*rows, answer("fast", 0, 2.4, None, [(0.5, 2.4)])])])
    assert cells(shown, shown.rows[0]) == {
        "p": "16", "density": "0.5", "block": "b", "solver": "exact", "seed": "7", "objective": "2",
        "lower bound": "1", "gap": "0.111", "relative gap": "0.5", "approximation ratio": "1", "seconds": "3",
        "CPU s": "0.25", "status": "optimal", "why it stopped": "proved", "from": "cache",
    }  # fmt: skip
    assert cells(shown, shown.rows[1])["from"] == ""


def test_the_reports_skipped_table_counts_by_solver_and_reason():
    rows = [
        {**answer("a", seed, 0.0, None, [(0.0, 0.0)]), "skipped": reason, "solver": solver}
        for solver, seed, reason in (("a", 0, "no"), ("a", 1, "no"), ("a", 2, "never"), ("c", 0, "no"))
    ]
    shown = tables.skipped([compared([*rows, answer("fast", 0, 2.4, None, [(0.5, 2.4)])])])
    counted = {(row[0].text, row[1].text): row[3].text for row in shown.rows}
    assert counted == {("a", "no"): "2", ("a", "never"): "1", ("c", "no"): "1"}


def test_the_reports_pruning_table_shows_each_value_under_its_heading():
    request = {
        "problem": "digits-mlp", "density": 0.25, "solver": "swap", "solver_options": {}, "coordinator": "icbs",
        "coordinator_options": {},
    }  # fmt: skip
    result = {
        "kept": 592, "total": 2368, "accuracy": 0.95, "dense_accuracy": 0.97, "loss": 0.125, "dense_loss": 0.0625,
        "seconds": 9.0, "timings": {"load": 1.0, "build": 2.0, "solve": 3.0, "evaluate": 0.5}, "solve_seconds": 3.0,
    }  # fmt: skip
    source = Source(gather.Path("runs/first"), request, 11, {}, {}, finished=True)
    run = Run(source, ({"time": 3.0, "kept": 592, "validation": {}},), result, {})
    (shown,) = tables.pruning([run])
    assert cells(shown, shown.rows[0]) | {"seconds": ""} == {
        "problem": "digits-mlp", "coordinator": "icbs", "solver": "swap", "density": "0.25", "kept": "592",
        "accuracy": "95.00 %", "dense accuracy": "97.00 %", "loss": "0.125", "seconds": "", "seed": "11",
        "status": "finished", "directory": "runs/first",
    }  # fmt: skip


def test_a_language_models_perplexity_is_the_pruned_networks():
    request = {
        "problem": "stories-llama", "density": 0.5, "solver": "swap", "solver_options": {}, "coordinator": "icbs",
        "coordinator_options": {},
    }  # fmt: skip
    result = {"kept": 5, "loss": 2.0, "perplexity": 7.5, "dense_perplexity": 6.5, "seconds": 9.0, "timings": {}}
    run = Run(Source(gather.Path("r"), request, 0, {}, {}, True), ({"time": 3.0, "kept": 5},), result, {})
    (shown,) = tables.pruning([run])
    assert cells(shown, shown.rows[0])["perplexity"] == "7.5"


@pytest.mark.parametrize("success", [0.99, 0.995, 1.0])
def test_one_run_is_enough_where_success_reaches_the_confidence(success):
    assert measures.time_to_solution(3.0, success) == 3.0
    assert measures.time_to_solution(3.0, 0.98) == pytest.approx(3.0 * math.log(0.01) / math.log(0.02))


def test_a_runs_layers_are_kept_and_size(tmp_path):
    save_file({"fc": np.array([True, False, False])}, tmp_path / "mask.safetensors")
    layers, pictures = gather._layers(tmp_path, {})
    assert layers == {"fc": (1, 3)}
    assert pictures["fc"].tolist() == [[1.0, 0.0, 0.0]]


def test_a_row_has_the_values_of_its_solve():
    block = instance("gaussian", 1, "select", p=8, keep=4)
    best = BruteForce.of(block)
    trace = np.array([[0.25, 9.0, -np.inf], [0.5, best.objective, 0.0]])
    stop = Stop.finished("because")
    solution = Solution(
        best.mask, block.weights_of(best.mask), best.objective, -np.inf, Status.FEASIBLE, stop, trace,
        timings={"build": 1.0, "queue": 2.0, "solve": 3.0, "decode": 4.0, "refit": 5.0, "polish": 6.0, "total": 7.0},
        details={"feasible_share": 0.75},
    )  # fmt: skip
    entry = Entry(3, 8, 0.5, 17, block, worst_objective(block))
    request = CompareRequest(problem="digits-mlp", solvers=(SolverChoice("neal"),), select="obd", time_limit=2.5)
    cell = comparison_run.Cell(entry, SolverChoice("neal", {"sweeps": "9"}), make_solver("neal", {"sweeps": "9"}), 4)
    row = writing._row(request, cell, Outcome(solution, cpu_seconds=0.125), True, lambda _block, weights: weights.sum())
    start = block.evaluate(block.incumbent)
    expected = {
        "problem": "digits-mlp", "select": "obd", "density": 0.5, "p": 8, "keep": 4, "mode": "select",
        "block_seed": 17, "block_index": 3, "block_hash": block.hash, "random_mean": block.random_mean(),
        "start_objective": start, "solver": "neal (sweeps=9)", "solver_name": "neal", "stochastic": True, "seed": 4,
        "time_limit": 2.5, "skipped": "", "cached": True, "status": "feasible", "stop_reason": "because",
        "objective": best.objective, "lower_bound": None, "seconds": 7.0, "cpu_seconds": 0.125, "build": 1.0,
        "queue": 2.0, "solve": 3.0, "decode": 4.0, "refit": 5.0, "polish": 6.0, "feasible_before_repair": 0.75,
        "model_change": best.objective - start, "true_change": solution.weights.sum(),
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["mask"]), dtype=np.uint8))[:8]
    assert np.array_equal(bits.astype(bool), best.mask)
    assert list(row["trace_seconds"]) == [0.25, 0.5]
    assert list(row["trace_objective"]) == [9.0, best.objective]
    assert list(row["trace_bound"]) == [-np.inf, 0.0]
