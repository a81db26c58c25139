"""The annealing benchmark's tables, made from stored runs: comparison, earlier study, time to solution."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from annealing_runs import Record, Store
from prunebench import BlockProblem
from runner import Note, Row

OPTIMUM = 1e-9
"""A gap up to this counts as the optimum: rounding, not quality."""

_SAFE = "neal-safe-own-range"
EARLIER: dict[str, tuple[str | None, str, str]] = {
    "neal, safe penalty, own range": (_SAFE, "raw", "3e-1 7e-2 4e-2 6e-2 7e-1 4e-1 2e-1 9e-2 8e-1 6e-1 4e-1"),
    "  + repair + swap descent": (_SAFE, "polished", "0 0 3e-3 6e-4 0 2e-3 9e-3 6e-3 0 6e-3 4e-3"),
    "neal, adaptive, own range": ("neal-own-range", "raw", "0 0 9e-4 1e-4 0 1e-3 9e-3 6e-3 0 2e-3 2e-3"),
    "neal, adaptive, our range, polish": ("neal", "polished", "0 0 3e-4 0 0 0 4e-3 3e-3 0 1e-3 7e-4"),
    "tabu, adaptive": ("tabu", "raw", "- 0 5e-3 6e-3 0 1e-3 1e-2 8e-3 0 6e-3 5e-3"),
    "tabu + polish": ("tabu", "polished", "0 0 2e-3 1e-3 0 1e-3 5e-3 5e-3 0 4e-3 4e-3"),
    "steepest descent + polish": ("steepest-descent", "polished", "0 0 1e-4 0 0 0 7e-3 4e-3 0 2e-3 2e-3"),
    "path integral + polish": ("path-integral", "polished", "0 2e-3 3e-3 1e-3 0 1e-3 1e-2 7e-3 0 5e-3 2e-3"),
    "OpenJij SA + polish": ("openjij-sa", "polished", "0 0 7e-4 1e-3 0 0 7e-3 4e-3 0 2e-3 2e-3"),
    "OpenJij SQA": ("openjij-sqa", "raw", "0 1e-3 1e-2 9e-3 2e-4 1e-2 3e-2 4e-2 3e-3 7e-2 3e-2"),
    "OpenJij SQA + polish": ("openjij-sqa", "polished", "0 0 1e-3 9e-4 0 3e-4 6e-3 4e-3 0 3e-3 2e-3"),
    "multi-start swap descent": ("swap", "polished", "0 0 8e-4 0 0 1e-3 5e-3 4e-3 0 4e-3 3e-3"),
    "swap tabu": (None, "", "0 0 2e-3 0 0 1e-3 2e-3 2e-3 0 3e-3 2e-3"),
    "swap parallel tempering": (None, "", "0 0 1e-4 0 0 0 1e-3 2e-3 3e-6 3e-3 1e-3"),
    "swap annealing": ("anneal", "polished", "0 0 1e-4 0 0 0 4e-4 1e-3 0 0 3e-4"),
}
"""An earlier study's best gaps, one run each after 1, 4 and 15 CPU s, on other blocks of the same families."""

COLUMNS = (
    ("e64 k32", "e", 64, 32, 0),
    ("z64 k12", "z", 64, 12, 0),
    ("z64 k32a", "z", 64, 32, 0),
    ("z64 k32b", "z", 64, 32, 2),
    ("e256", "e", 256, 128, 1),
    ("t256", "t", 256, 128, 1),
    ("z256 k51", "z", 256, 51, 1),
    ("z256k128", "z", 256, 128, 1),
    ("e1024", "e", 1024, 512, 1),
    ("z1024k204", "z", 1024, 204, 1),
    ("z1024k512", "z", 1024, 512, 1),
)

EARLIER_TIMES = (
    ("t, e", "te", (12, 32), "3-22", "2.3-4", "2.2-4", "0.2-1.1"),
    ("z k12", "z", (12,), "127-173", "2.6-23", "2.7-13", "0.2-35"),
    ("z k32", "z", (32,), "470-3000", "160-1700, one not in 6 s", "15-51", "230, two not in 6 s"),
)
"""The same study at p = 64, ms: Gurobi's proof, swap annealing to the optimum and to gap 1e-3, swap descent."""


REFERENCES = ("branch-and-bound", "anneal", "swap", "tabu", "neal")
"""Those whose long runs the gaps are measured from."""

Runs = Callable[[BlockProblem, str], Sequence[Record]]
"""The runs of a contestant on a block."""


def best_known(store: Store, block: BlockProblem) -> float:
    """The least objective of the references and of every stored run of the block."""
    values = [record["polished"] for record in store.all("run") if record["hash"] == block.hash]
    for record in store.all("reference"):
        if record["hash"] == block.hash:
            values += record["found"].values()
    return float(min(values))


def gap(block: BlockProblem, objective: float | None, best: float) -> float | None:
    """Where `objective` lies between the best known (0) and a random mask (1), rounding as 0; None for no objective."""
    if objective is None:
        return None
    found = (objective - best) / (block.random_mean() - best)
    return 0.0 if found <= OPTIMUM else found


def median(values: Sequence[float | None]) -> float | None:
    """The median; None where there are no values, or one of them is none."""
    held = [value for value in values if value is not None]
    return statistics.median(held) if held and len(held) == len(values) else None


def references(store: Store, blocks: Sequence[BlockProblem]) -> Iterator[Row]:
    """What the gaps above p = 64 are measured from."""
    for block in blocks:
        best = best_known(store, block)
        for record in store.all("reference"):
            if record["hash"] == block.hash:
                bound = 0.0 if record["proved"] else (record["lower_bound"] - best) / (block.random_mean() - best)
                gaps = {name: gap(block, record["found"].get(name), best) for name in REFERENCES}
                title = "references above p = 64: gap to the best known of each long run, and of the proved bound"
                yield Row(title, {"block": block.problem, "proved": record["proved"], "bound": bound, **gaps})


def comparison(
    store: Store, families: Sequence[str], blocks: Sequence[BlockProblem], names: Sequence[str], plan: Runs
) -> Iterator[Row | Note]:
    """A row per family, keep and contestant, medians over blocks and seeds, and where `anneal` is not the best.

    blocks : of one size;  plan : gives the runs
    """
    title = f"p = {blocks[0].p}; gaps, medians over blocks and seeds, the worst polished one; CPU s"
    lost = groups = 0
    for family in families:
        for keep in sorted({block.keep for block in blocks}):
            group = [b for b in blocks if b.problem.startswith(f"{family}-") and b.keep == keep]
            polished: dict[str, float] = {}
            for name in names:
                found = [(block, run) for block in group for run in plan(block, name)]
                if not found:
                    continue
                stages = {
                    stage: [gap(block, run[stage], best_known(store, block)) for block, run in found]
                    for stage in ("raw", "repaired", "polished")
                }
                medians = {stage: median(values) for stage, values in stages.items()}
                polished[name] = medians["polished"] or 0.0
                yield Row(title, {
                    "family": family, "keep": keep, "contestant": name,
                    "feasible": statistics.mean(run["feasible"] for _, run in found), **medians,
                    "worst": max(value or 0.0 for value in stages["polished"]),
                    "CPU s": max(run["cpu"] for _, run in found), "runs": len(found),
                })  # fmt: skip
            groups += 1
            if "anneal" in polished and len(polished) > 1:
                rival = min((value, name) for name, value in polished.items() if name != "anneal")
                if polished["anneal"] > rival[0] + OPTIMUM:
                    lost += 1
                    yield Note(f"    anneal is behind {rival[1]}: {polished['anneal']:.1e} against {rival[0]:.1e}")
    yield Note(f"anneal's median polished gap is above the best other's in {lost} of {groups} groups")


def columns(store: Store, block_of: Callable[[tuple[Any, ...]], BlockProblem], runs_of: Runs) -> Iterator[Row | Note]:
    """The earlier study's table beside ours: 'earlier/here' in each cell.

    block_of : column -> block;  runs_of : those of the comparison
    """
    title = "the earlier study's columns: its gap/ours (median); its time 1, 4, 15 s at p = 64, 256, 1024"
    spans = [{run["seconds"] for run in runs_of(block_of(column), "anneal")} for column in COLUMNS]
    seconds = [f"{min(span, default=0.0):g} s" for span in spans]
    labels = [column[0] for column in COLUMNS]
    yield Row(title, {**dict(zip(labels, seconds, strict=True)), "row": "our time"})
    beaten = []
    for row, (name, stage, numbers) in EARLIER.items():
        cells: dict[str, str] = {}
        for position, (column, earlier) in enumerate(zip(COLUMNS, numbers.split(), strict=True)):
            here = "."
            if name is not None:
                block = block_of(column)
                best = best_known(store, block)
                value = median([gap(block, run[stage], best) for run in runs_of(block, name)])
                here = _short(value)
                if name == "anneal" and value is not None:
                    least = min(_number(other.split()[position]) for _, _, other in EARLIER.values())
                    beaten.append((column[0], value, least))
            cells[column[0]] = f"{earlier}/{here}"
        yield Row(title, {**cells, "row": row})
    behind = [f"{label} {value:.1e} > {least:g}" for label, value, least in beaten if value > least + OPTIMUM]
    yield Note(
        f"anneal is at or below the best earlier number of the column in {len(beaten) - len(behind)} of {len(beaten)}"
        + (f"; behind: {', '.join(behind)}" if behind else "")
    )


def _short(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0.0 else f"{value:.0e}".replace("e-0", "e-")


def _number(text: str) -> float:
    return math.inf if text == "-" else float(text)


def time_to_solution(times: Sequence[float]) -> float:
    """min over t of t ln(0.01)/ln(1 - share of runs done by t): restarts until 99 % are sure."""
    ordered = sorted(times)
    shares = (np.arange(len(ordered)) + 0.5) / len(ordered)
    return float(min(t * max(1.0, math.log(0.01) / math.log(1.0 - s)) for t, s in zip(ordered, shares, strict=True)))


def times(
    blocks: Sequence[BlockProblem], proofs: Callable[[BlockProblem], Record], firsts: Runs, cap: float
) -> Iterator[Row | Note]:
    """p = 64: milliseconds to the proof, to gap 1e-3 and to the optimum, and time to solution at 99 %.

    proofs : block -> reference record;  firsts : (block, name) -> records with `close` and `exact` in seconds
    """
    title = f"p = 64, ms (CPU), medians, at most {cap:g} s a run; TTS99: until the optimum is found with 99 %"
    close: dict[tuple[str, str], float] = {}
    exact: dict[tuple[str, str], float] = {}
    for block in blocks:
        cells: dict[str, Any] = {"block": block.problem, "proof": 1e3 * proofs(block)["proof_cpu"]}
        for name in ("anneal", "swap"):
            records = firsts(block, name)
            key, found = (block.problem, name), [record["exact"] for record in records]
            close[key] = statistics.median(record["close"] for record in records)
            exact[key] = statistics.median(found)
            reached = sum(t < math.inf for t in found)
            cells |= {
                f"{name} 1e-3": 1e3 * close[key], f"{name} optimum": 1e3 * exact[key],
                f"{name} reached": f"{reached}/{len(found)}", f"{name} TTS99": 1e3 * time_to_solution(found),
            }  # fmt: skip
        yield Row(title, cells)
    for label, families, keeps, *earlier in EARLIER_TIMES:
        group = [b for b in blocks if b.problem[0] in families and b.keep in keeps]
        ours = [
            [proofs(b)["proof_cpu"] for b in group],
            [exact[b.problem, "anneal"] for b in group],
            [close[b.problem, "anneal"] for b in group],
            [exact[b.problem, "swap"] for b in group],
        ]
        if group:
            spans = [f"{1e3 * min(now):.3g}-{1e3 * max(now):.3g}" for now in ours]
            texts = [f"{was} / {now}" for was, now in zip(earlier, spans, strict=True)]
            heads = ("proof", "anneal optimum", "anneal 1e-3", "swap optimum")
            title = "the earlier study's groups at p = 64, ms: its numbers (Gurobi for the proof) / ours, least-most"
            yield Row(title, {"group": label, **dict(zip(heads, texts, strict=True))})
    easy = [exact[b.problem, "anneal"] < 0.005 for b in blocks if b.problem[0] != "z"]
    near = [close[b.problem, "anneal"] < 0.1 for b in blocks]
    solved = [exact[b.problem, "anneal"] < 2.0 for b in blocks]
    yield Note(
        f"anneal: optimum in under 5 ms on {sum(easy)}/{len(easy)} of the t and e blocks; "
        f"gap 1e-3 within 0.1 s on {sum(near)}/{len(near)}; optimum within 2 s on {sum(solved)}/{len(solved)}"
    )
