"""The tables of a report: summaries, every answer, the runs, what was skipped."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunebench.core.controls import CONTROLS, GROUPS
from prunebench.core.items import WEIGHTS
from prunebench.log.run_directory import trainings
from prunebench.measures import Interval
from prunebench.report.gather import Comparison, Run
from prunebench.report.runs import finish_seconds

MOST_ROWS = 1000
"""Answers on one page, of all comparisons together; more would make it heavy. The rest is in files."""

MEBIBYTE = 2**20
"""Bytes that tables count in."""

LAST = 1e308
"""What is not known is sorted after everything else; HTML has no word for infinity."""


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and the number it is sorted by (None: by its text)."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A sortable table. `terms` gives for a column the glossary term it links to."""

    id: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    terms: tuple[str, ...] = ()


def number(value: Any, digits: int = 4, mark: str = "") -> Cell:
    """A number with so many significant digits; "none" where there is none, "never" where it is infinite."""
    held = math.nan if value is None else float(value)
    if math.isnan(held):
        return Cell("–", LAST)
    if math.isinf(held):
        return Cell("never" if held > 0 else "none", math.copysign(LAST / 2, held))
    return Cell(f"{held:.{digits}g}{mark}", held)


def interval(held: Interval, digits: int = 3) -> Cell:
    """A value with its interval in brackets, or alone where there is none, or where all blocks have the same."""
    shown = number(held.value, digits)
    if math.isnan(held.lower) or held.lower == held.upper:
        return shown
    return Cell(f"{shown.text} [{number(held.lower, 2).text}, {number(held.upper, 2).text}]", shown.value)


def count(value: Any) -> Cell:
    """A whole number."""
    return Cell(f"{int(value):,}", float(value))


def percent(value: Any) -> Cell:
    """A share as a percentage."""
    return (
        number(None) if value is None or math.isnan(float(value)) else Cell(f"{100 * float(value):.2f} %", float(value))
    )


def summaries(comparisons: Sequence[Comparison]) -> list[Table]:
    """One table a comparison: each solver at each size and density."""
    from prunebench.comparison import table

    out = []
    for index, comparison in enumerate(comparisons):
        rows = []
        summary = table.summary(comparison.frame)
        trained = next(iter(summary["retrained_measure"].dropna()), "") if "retrained" in summary else ""
        ranked = "finals" in summary
        for row in summary.to_dict("records"):
            head = (count(row["p"]), number(row["density"]), Cell(row["solver"]), count(row["runs"]))
            if not row["runs"]:
                dash = number(None)
                rows.append((*head, *([dash] * (7 + bool(trained) + ranked)), Cell(f"skipped: {row['reason']}")))
                continue
            gap = interval(Interval(row["gap"], row["gap_lower"], row["gap_upper"]))
            gap = Cell(gap.text + ("" if row["gap_to"] == "bound" else "*"), gap.value)
            spread = ""
            if not math.isnan(row["success_lower"]):
                spread = f" [{100 * row['success_lower']:.0f}, {100 * row['success_upper']:.0f}]"
            success = Cell(f"{100 * row['success']:.0f} %{spread}", row["success"])
            solution = (row[f"time_to_solution{end}"] for end in ("", "_lower", "_upper"))
            skipped = f"{int(row['skipped'])} skipped" if row["skipped"] else ""
            rows.append(
                (
                    *head, gap, count(row["optimal"]), success, interval(Interval(*solution)),
                    number(row["primal_integral"], 3), number(row["seconds"], 3), number(row["cpu_seconds"], 3),
                    *([(percent if trained == "accuracy" else number)(row["retrained"])] if trained else []),
                    *([count(row["finals"])] if ranked else []),
                    Cell(skipped),
                )
            )  # fmt: skip
        out.append(
            Table(
                f"summary-{index}", f"Solvers compared: {comparison.source.path.name}",
                "Means over blocks and seeds with 95 % intervals, which fewer than 3 blocks do not give. * the gap is "
                "to the best answer known, since no solver proved a bound that says more. Seconds are of the clock, "
                "CPU seconds of all threads together." + _of(comparison),
                ("p", "density", "solver", "runs", "gap", "proved", "success", "TTS 99 % (s)", "primal integral",
                 "seconds", "CPU s", *([f"{trained} after retraining"] if trained else []),
                 *(["trained in full"] if ranked else []), "remarks"),
                tuple(rows), ("gap", "success probability", "time to solution", "primal integral"),
            )
        )  # fmt: skip
    return out


def _of(comparison: Comparison) -> str:
    """What p and density count, where that is something else than weights."""
    from prunebench.comparison import table

    word = table.words(comparison.frame)
    return "" if word == WEIGHTS else f" p counts {word}, and the density is the part of them that is kept."


def every_answer(comparisons: Sequence[Comparison], most: int | None = MOST_ROWS) -> list[Table]:
    """One table a comparison: each answer with bound, gap, seconds and status. most : rows of all; None for no limit"""
    out = []
    each = None if most is None else most // max(1, len(comparisons))
    for index, comparison in enumerate(comparisons):
        solved = comparison.frame[comparison.frame["skipped"] == ""]
        rows = tuple(
            (
                count(row["p"]), number(row["density"]), Cell(str(row["block_hash"])[:8]), Cell(row["solver"]),
                count(row["seed"]), number(row["objective"], 7), number(row["lower_bound"], 7),
                number(row["gap"], 3, "" if row["gap_to"] == "bound" else "*"), number(row["relative_gap"], 3),
                number(row["approximation_ratio"], 5), number(row["seconds"], 3), number(row["cpu_seconds"], 3),
                Cell(row["status"]),
                Cell(row["stop_reason"]), Cell("cache" if row["cached"] else ""),
            )
            for row in solved.iloc[:each].to_dict("records")
        )  # fmt: skip
        cut = ""
        if each is not None and len(solved) > each:
            cut = f" The first {each:,} of {len(solved):,}; all are written by 'prunebench report DIR --tables DIR'."
        out.append(
            Table(
                f"answers-{index}", f"Every answer: {comparison.source.path.name}",
                "One row for each block, solver and seed. Rows with the same block have the identical problem. "
                "Objectives are recomputed by the block, not taken from the solver." + _of(comparison) + cut,
                ("p", "density", "block", "solver", "seed", "objective", "lower bound", "gap", "relative gap",
                 "approximation ratio", "seconds", "CPU s", "status", "why it stopped", "from"),
                rows, ("gap", "relative gap", "approximation ratio"),
            )
        )  # fmt: skip
    return out


def pruning(runs: Sequence[Run]) -> list[Table]:
    """One table of all pruning runs; unfinished ones with what their events say."""
    if not runs:
        return []
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        result = run.result or {}
        kept = result.get("kept", run.events[-1].get("kept") if run.events else None)
        status = "finished" if run.source.finished else f"unfinished after {len(run.events)} steps"
        if run.source.trouble:
            status += f": {run.source.trouble}"
        loss = result.get("loss")
        accuracy = result.get("accuracy")
        if run.result is None:
            last: Mapping[str, float] = next(
                (event["validation"] for event in reversed(run.events) if event.get("validation")), {}
            )
            accuracy, loss = last.get("accuracy"), last.get("loss")
        seconds = finish_seconds(run) if run.result is not None else float(run.events[-1]["time"])
        rows.append(
            (
                Cell(run.problem), Cell(run.coordinator), Cell(run.solver), Cell(run.mode or "–"),
                Cell(run.blocks or "–"), number(run.density), number(None) if kept is None else count(kept),
                number(None) if accuracy is None else percent(accuracy),
                number(None) if result.get("dense_accuracy") is None else percent(result["dense_accuracy"]),
                number(loss), number(result.get("perplexity")), _retrained(result), number(seconds, 3),
                count(run.source.seed),
                Cell(status), Cell(str(run.source.path)),
            )
        )  # fmt: skip
    columns: tuple[str, ...] = (
               "problem", "coordinator", "solver", "mode", "blocks", "density", "kept", "accuracy", "dense accuracy",
               "loss", "perplexity", "after retraining", "seconds", "seed", "status", "directory")  # fmt: skip
    # columns that say nothing of any run are left out
    for place in (11, 10, 4, 3):
        if all(row[place].text == "–" for row in rows):
            columns = (*columns[:place], *columns[place + 1 :])
            rows = [(*row[:place], *row[place + 1 :]) for row in rows]
    return [
        Table(
            "runs", "Networks pruned", "Each pruning run with what its network reaches on the validation samples.",
            columns, tuple(rows), ("accuracy", "density", "seconds of a run"),
        )
    ]  # fmt: skip


def _retrained(result: Mapping[str, Any]) -> Cell:
    """What every training of the run's network reached, with its protocol; accuracy, perplexity or loss."""
    shown = []
    for entry in trainings(result):
        name, show = _measured(entry)
        shown.append(f"{show(entry.get(name)).text} ({entry['protocol'] or 'usual protocol'})")
    return Cell("; ".join(shown)) if shown else number(None)


def controls(runs: Sequence[Run]) -> Table | None:
    """What controls of kept masks reach under the same training; None where no run has any."""
    rows = []
    for run in runs:
        known = GROUPS if run.of_groups else CONTROLS
        for entry in (run.result or {}).get("controls", []):
            name, show = _measured(entry)
            rows.append(
                (
                    Cell(run.problem), Cell(run.coordinator), Cell(run.solver), number(run.density),
                    Cell(entry["control"]), Cell(known.get(entry["control"], "")), Cell(name), show(entry.get(name)),
                    count(entry["kept"]), Cell(entry["protocol"] or "usual protocol"), Cell(str(run.source.path)),
                )
            )  # fmt: skip
    if not rows:
        return None
    return Table(
        "controls", "Controls", "Other values, other masks and another network, trained by the same protocol as what "
        "each run kept; judged on the validation samples.",
        ("problem", "coordinator", "solver", "density", "control", "what it is", "measure", "value", "weights",
         "protocol", "directory"),
        tuple(rows), ("accuracy", "density"),
    )  # fmt: skip


def _measured(entry: Mapping[str, Any]) -> tuple[str, Callable[[Any], Cell]]:
    """The measure that tells most of a trained network, and how it is shown."""
    name = next((name for name in ("accuracy", "perplexity") if entry.get(name) is not None), "loss")
    return name, percent if name == "accuracy" else number


def smaller(runs: Sequence[Run]) -> Table | None:
    """What networks cost before and after structured pruning, and their widths; None where there is no such run."""
    rows = []
    for run in runs:
        if not run.of_groups:
            continue
        result = run.result or {}
        widths = ", ".join(f"{name.rpartition(':')[0]} {size} to {kept}" for name, (kept, size) in run.layers.items())
        better = "perplexity" if result.get("perplexity") is not None else "accuracy"
        show = percent if better == "accuracy" else number
        costs = {unit: (pair, count) for unit, pair in result["costs"].items()}
        if held := result.get("latency"):
            costs[f"milliseconds, {held['runtime']}, batch {held['batch']}"] = (held, number)
        for unit, (pair, amount) in costs.items():
            rows.append(
                (
                    Cell(run.problem), Cell(run.solver), Cell(result.get("score", "gates")), Cell(unit),
                    amount(pair["dense"]), amount(pair["pruned"]),
                    percent(pair["pruned"] / pair["dense"]), show(result.get(better)),
                    show(result.get(f"dense_{better}")), Cell(widths), Cell(run.source.path.name),
                )
            )  # fmt: skip
    if not rows:
        return None
    return Table(
        "smaller", "Smaller networks",
        "What structured pruning left of a network: multiply-accumulates of a sample, parameters and bytes, "
        "milliseconds of a batch where time was the budget, and how many groups each family keeps. The measure is "
        "accuracy, or perplexity for language models.",
        ("problem", "solver", "score", "unit", "dense", "smaller", "part", "measure", "dense measure",
         "groups before and after", "directory"),
        tuple(rows),
    )  # fmt: skip


def levels(runs: Sequence[Run]) -> Table | None:
    """What runs that round their weights to levels take, and reach; None where there is none."""
    rows = []
    for run in runs:
        result = run.result or {}
        held = result.get("bits")
        if held is None:
            continue
        name, show = _measured(result)
        size = held["bytes"]
        rows.append(
            (
                Cell(run.problem), Cell(run.solver), number(run.density), count(held["bits"]),
                Cell("row") if held["group_size"] is None else count(held["group_size"]),
                *(count(size[way]) for way in ("dense", "sparse", "packed", "packed_sparse")),
                Cell(name), show(result.get(f"dense_{name}")), show(held["unrounded"].get(name)),
                show(result.get(name)), Cell(run.source.path.name),
            )
        )  # fmt: skip
    if not rows:
        return None
    return Table(
        "levels", "Weights on levels",
        "Runs that round kept weights to levels of so many bits, with a scale a row or a group of weights. Bytes are "
        "of the whole network: as floats; floats of kept weights and a bit a weight; packed levels of all weights; "
        "levels of kept weights and a bit a weight. Before rounding: with each layer's weights as they were pruned.",
        ("problem", "solver", "density", "bits", "weights a scale", "dense bytes", "sparse bytes", "packed bytes",
         "packed bytes, kept alone", "measure", "dense", "before rounding", "rounded", "directory"),
        tuple(rows), ("accuracy", "density"),
    )  # fmt: skip


def left_out(runs: Sequence[Run]) -> Table | None:
    """What runs did not prune and what their samples did not reach; None where there is nothing of either."""
    rows = tuple(
        (
            Cell(run.problem), Cell(item.why), Cell(item.kind), count(item.matrices), count(item.weights),
            Cell(", ".join(item.names)), Cell(run.source.path.name),
        )
        for run in runs
        for item in run.left_out
    )  # fmt: skip
    if not rows:
        return None
    return Table(
        "left-out", "What was not pruned, and what no sample reached",
        "Matrices that were left as they are, by kind of module; and pruned weights that no calibration sample uses, "
        "so that nothing was known of them.",
        ("problem", "what", "kind", "matrices", "weights", "names", "directory"), rows,
    )  # fmt: skip


def workers(runs: Sequence[Run]) -> Table | None:
    """What workers computed of passes over samples, and what that took; None where none did."""
    rows = []
    for run in runs:
        spent = (run.result or {}).get("workers")
        if not spent:
            continue
        sent = sum(spent.get(f"{name}_bytes", 0) for name in ("network", "changes", "work"))
        rows.append(
            (
                Cell(run.problem), Cell(run.coordinator), count(spent.get("jobs")), count(spent.get("deaths")),
                number(sent / MEBIBYTE), number(spent.get("result_bytes", 0) / MEBIBYTE),
                number(spent.get("send_seconds")), number(spent.get("wait_seconds")),
                number(spent.get("worker_cpu_seconds")), Cell(run.source.path.name),
            )
        )  # fmt: skip
    if not rows:
        return None
    return Table(
        "workers", "What workers computed",
        "Passes of the network over samples that were shared out: shares, workers that died and whose shares went to "
        "others, MiB sent and received, seconds of this process for sending and waiting, and CPU seconds of the "
        "workers.",
        ("problem", "coordinator", "shares", "deaths", "MiB sent", "MiB received", "sending", "waiting",
         "workers' CPU s", "directory"),
        tuple(rows),
    )  # fmt: skip


def skipped(comparisons: Sequence[Comparison]) -> Table | None:
    """What was left out and why, grouped by solver and reason; None where nothing was."""
    rows = []
    for comparison in comparisons:
        left = comparison.frame[comparison.frame["skipped"] != ""]
        for (solver, reason), part in left.groupby(["solver", "skipped"], sort=False):
            sizes = ", ".join(f"{int(p):,}" for p in sorted(set(part["p"])))
            where = str(comparison.source.path.name)
            rows.append((Cell(str(solver)), Cell(str(reason)), Cell(sizes), count(len(part)), Cell(where)))
    if not rows:
        return None
    return Table(
        "skipped", "What was skipped and why",
        "Solves that were asked for and not done. A solver that does not take a block says why.",
        ("solver", "reason", "block sizes", "solves", "comparison"), tuple(rows),
    )  # fmt: skip
