"""From rows to the table: the measures that need all answers to a block, and a summary by solver."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench import measures
from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.core.items import WEIGHTS
from prunebench.core.solution_file import plain
from prunebench.log import checks

if TYPE_CHECKING:
    import pandas

    from prunebench.log.run_directory import RunDirectory

PHASES = ("build", "queue", "solve", "decode", "refit", "polish")
"""Seconds by phase, as far as a solver tells them apart."""

COLUMNS = (
    "problem", "select", "density", "p", "items", "n", "keep", "budgets", "mode", "block_seed", "block_index",
    "block_hash", "solver", "solver_name", "options", "stochastic", "seed", "time_limit", "version", "skipped",
    "failed", "cached", "status", "stop_reason", "objective", "lower_bound", "best_bound", "best_objective",
    "worst_objective", "start_objective", "random_mean", "gap", "gap_to", "gap_to_best", "relative_gap",
    "approximation_ratio", "success", "time_to_target", "primal_integral", "seconds", "cpu_seconds", *PHASES,
    "feasible_before_repair", "model_change", "true_change", "retrained_loss", "retrained_accuracy",
    "retrained_perplexity", "retrained_epochs", "retrained_rank", "mask", "trace_seconds", "trace_objective",
    "trace_bound",
)  # fmt: skip
"""The columns of a comparison, in order; `prunebench.measures.GLOSSARY` defines the measures."""

LISTS = ("trace_seconds", "trace_objective", "trace_bound")
"""Columns that hold a list of numbers."""
TEXTS = (
    "problem", "select", "items", "budgets", "mode", "block_hash", "solver", "solver_name", "options", "version",
    "skipped", "status", "stop_reason", "gap_to", "mask",
)  # fmt: skip
"""Columns that hold text."""

LATER: Mapping[str, str | float] = {"items": WEIGHTS, "retrained_epochs": math.nan, "retrained_rank": math.nan}
"""Columns that tables of earlier versions lack, and what those would have held."""

FILE = "results.parquet"
"""Where a finished comparison has its table."""

ROW: Mapping[str, checks.Kind] = {
    **{name: checks.optional(checks.is_number) for name in COLUMNS},
    **{name: checks.optional(checks.is_text) for name in TEXTS},
    **{name: checks.lists_of(checks.optional(checks.is_number)) for name in LISTS},
    **dict.fromkeys(("stochastic", "failed", "cached"), checks.is_flag),
    **dict.fromkeys(("p", "seed", "block_index"), checks.is_whole),
    **dict.fromkeys(("block_hash", "solver", "skipped"), checks.is_text),
    **dict.fromkeys(("density", "random_mean"), checks.is_number),
}
"""What an event of a comparison, a row before its measures, holds."""
ROW_NEEDS = ("block_hash", "solver", "seed", "skipped", "p", "density", "block_index", "random_mean", "worst_objective")
"""Columns that every event has, also where a solver refused."""
SOLVED_NEEDS = ("objective", "lower_bound", "seconds", "status", *LISTS)
"""What is there too where there is an answer."""

FAILED = "failed: "
"""What the reason of a solve begins with that broke, and was not refused before any work."""


def _failed(frame: "pandas.DataFrame") -> "pandas.Series":
    """Which solves broke; tables and rows from before that was written have the words alone."""
    told = frame["skipped"].str.startswith(FAILED)
    return told if "failed" not in frame else frame["failed"].where(frame["failed"].notna(), told).astype(bool)


def finished(rows: Sequence[Mapping[str, Any]], time_limit: float, target: float) -> "pandas.DataFrame":
    """The table of all rows with every measure computed, block by block."""
    import pandas

    by_block: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_block.setdefault(row["block_hash"], []).append(dict(row))
    done: list[dict[str, Any]] = []
    for group in by_block.values():
        _measure(group, time_limit, target)
        done += group
    frame = pandas.DataFrame(done, columns=list(COLUMNS))
    for column in TEXTS:
        # a column without any text is one of missing numbers
        frame[column] = frame[column].astype(object).fillna("").astype(str)
    numbers = [name for name in COLUMNS if name not in (*TEXTS, *LISTS, "stochastic", "failed", "cached", "success")]
    for column in numbers:
        frame[column] = pandas.to_numeric(frame[column])
    for column in LISTS:
        frame[column] = [list(item) if isinstance(item, (list, np.ndarray)) else [] for item in frame[column]]
    frame["failed"] = _failed(frame)
    frame["success"] = frame["success"].fillna(False).astype(bool)
    return frame


def rows_of(run: "RunDirectory") -> list[dict[str, Any]]:
    """The rows that a comparison has so far.

    Raises
    ------
    InvalidInput   events.jsonl holds something else; the message names the line
    """
    rows = run.events()
    for number, row in enumerate(rows, 1):
        source = f"{run.path / 'events.jsonl'}, line {number}"
        checks.require(row, ROW, ROW_NEEDS, source)
        if not row["skipped"]:
            solved = {**ROW, **dict.fromkeys(("objective", "seconds"), checks.is_number)}
            checks.require(row, solved, SOLVED_NEEDS, source)
            if len({len(row[name]) for name in LISTS}) != 1 or not row[LISTS[0]]:
                raise InvalidInput(f"{source}: the columns of its trace have different lengths")
    return rows


def read(directory: Path | str) -> "pandas.DataFrame":
    """The table of a comparison's run directory; of an unfinished one, what is solved so far.

    Raises
    ------
    InvalidInput   the directory holds no comparison, or its table cannot be read
    """
    import pandas

    from prunebench.comparison.request import CompareRequest
    from prunebench.log.run_directory import RunDirectory

    path = Path(directory)
    run = RunDirectory.open(path)
    if run.request.get("kind") != "compare":
        raise InvalidInput(f"{path} holds no comparison; 'prunebench compare … --out DIR' makes one")
    file = path / FILE
    if file.is_file():
        try:
            frame = pandas.read_parquet(file)
        except Exception as error:
            raise InvalidInput(f"{file} cannot be read ({error}); remove it and run 'prunebench resume'") from error
        run.require_own(FILE)
        for name, value in LATER.items():
            if name not in frame:
                frame[name] = value
    else:
        request = CompareRequest.from_json(run.request, str(path))
        frame = finished(rows_of(run), request.time_limit, request.target)
    frame.attrs["directory"] = str(path)
    frame.attrs["skipped"] = int((frame["skipped"] != "").sum())
    frame.attrs["failed"] = int(_failed(frame).sum())
    return frame


def words(frame: "pandas.DataFrame") -> str:
    """What the blocks of a table choose among, in the plural; several kinds with "or" between them."""
    found = sorted({str(word) for word in frame["items"] if word})
    return " or ".join(found) or WEIGHTS


def summary(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """One row a size, density and solver: means with 95 % intervals, success, time to solution.

    Columns: p, density, solver, runs, blocks, skipped, gap, gap_lower, gap_upper, gap_to, optimal (runs proved),
    success, success_lower, success_upper, time_to_solution (median over blocks) with its _lower and _upper,
    primal_integral, seconds, cpu_seconds, reason; and where answers were trained, retrained (mean accuracy,
    perplexity or loss after it) and retrained_measure, and finals, how many runs were trained in full where answers
    were ranked by halving. Intervals are NaN where there are fewer than `prunebench.measures.FEWEST_BLOCKS` blocks.
    """
    import pandas

    out = []
    for (p, density, solver), part in frame.groupby(["p", "density", "solver"], sort=False):
        solved = part[part["skipped"] == ""]
        row = {"p": p, "density": density, "solver": solver, "runs": len(solved), "skipped": len(part) - len(solved)}
        if len(solved):
            interval = measures.block_interval(solved["gap"], list(solved["block_hash"]))
            share = measures.share_interval(int(solved["success"].sum()), len(solved))
            solution = measures.median_interval(times_to_solution(solved))
            few = solved["block_hash"].nunique() < measures.FEWEST_BLOCKS
            row |= {
                "blocks": solved["block_hash"].nunique(),
                "gap": interval.value,
                "gap_lower": interval.lower,
                "gap_upper": interval.upper,
                "gap_to": "bound" if (solved["gap_to"] == "bound").all() else "best",
                "optimal": int((solved["status"] == "optimal").sum()),
                "success": share.value,
                "success_lower": math.nan if few else share.lower,
                "success_upper": math.nan if few else share.upper,
                "time_to_solution": solution.value,
                "time_to_solution_lower": solution.lower,
                "time_to_solution_upper": solution.upper,
                "primal_integral": float(solved["primal_integral"].mean()),
                "seconds": float(solved["seconds"].mean()),
                "cpu_seconds": float(solved["cpu_seconds"].mean()),
            }
            row |= _after_training(solved)
        row["reason"] = next((text for text in part["skipped"] if text), "")
        out.append(row)
    return pandas.DataFrame(out)


def _after_training(solved: "pandas.DataFrame") -> dict[str, Any]:
    """The mean of the measure that tells most after training; nothing where answers were not trained."""
    for measure in ("accuracy", "perplexity", "loss"):
        column = f"retrained_{measure}"
        if column in solved and solved[column].notna().any():
            out = {"retrained": float(solved[column].mean()), "retrained_measure": measure}
            return out | ({"finals": int(solved[column].notna().sum())} if _ranked(solved) else {})
    return {"finals": 0} if _ranked(solved) else {}


def _ranked(solved: "pandas.DataFrame") -> bool:
    """Whether answers were ranked by training, and only the last of them trained in full."""
    return "retrained_rank" in solved and bool(solved["retrained_rank"].notna().any())


def json_text(value: Any) -> str:
    """A value as JSON on one line."""
    return json.dumps(plain(value), sort_keys=True)


def times_to_solution(solved: "pandas.DataFrame") -> FloatArray:
    """The time to solution on each block, inf where no seed reached the target. -> float64 (blocks,)"""
    times = []
    for _, part in solved.groupby("block_hash", sort=False):
        seconds = np.minimum(part["seconds"], part["time_to_target"])
        times.append(measures.time_to_solution(float(seconds.mean()), float(part["success"].mean())))
    return np.array(times, dtype=np.float64)


def _measure(group: list[dict[str, Any]], time_limit: float, target: float) -> None:
    """Fill in, for all answers to one block, the measures that compare them."""
    solved = [row for row in group if not row["skipped"]]
    if not solved:
        return
    best = min(row["objective"] for row in solved)
    bounds = [row["lower_bound"] for row in solved if row.get("lower_bound") is not None]
    bound = max(bounds, default=-math.inf)
    mean = solved[0]["random_mean"]
    # A bound so weak that even the best answer looks like a random mask is of no use as a reference.
    useful = math.isfinite(bound) and float(measures.gap(best, bound, mean)) <= 1.0
    for row in solved:
        objective, seconds = row["objective"], np.asarray(row["trace_seconds"], dtype=np.float64)
        over_time = measures.gap(row["trace_objective"], best, mean)
        row["best_objective"] = best
        row["best_bound"] = bound if math.isfinite(bound) else None
        row["gap"] = float(measures.gap(objective, bound if useful else best, mean))
        row["gap_to"] = "bound" if useful else "best"
        row["gap_to_best"] = float(measures.gap(objective, best, mean))
        row["relative_gap"] = measures.relative_gap(objective, bound)
        worst = row["worst_objective"]
        row["approximation_ratio"] = measures.approximation_ratio(
            objective, best, math.nan if worst is None else float(worst)
        )
        row["success"] = row["gap_to_best"] <= target
        row["time_to_target"] = measures.time_to_target(seconds, over_time, target)
        row["primal_integral"] = measures.primal_integral(seconds, over_time, time_limit)
