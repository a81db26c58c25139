"""iCBS on garment-fashion-mnist: published settings, ablation, baselines and the strongest configuration, in one run.

    python benchmarks/icbs.py --density 0.05 0.1 --seeds 5
    python benchmarks/icbs.py --rows published strongest --density 0.1 --seeds 1

Prints accuracy and cross-entropy (mean ± standard deviation over seeds), wall seconds of the
coordinator, the correlation of predicted and true change over the steps ("match"), and the time
split of a step, with what logging and checkpoints add. Needs the Fashion-MNIST data and the checkpoint.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.core.block import Mode
from prunebench.runs.prune import PruneRequest, prune
from runner import Benchmark, Note, Row, spread

PROBLEM = "garment-fashion-mnist"
PUBLISHED = {"steps": 90, "accept": "none", "evaluate": True}
"""Every answer is applied; the loss is measured for "match", and the best state by it is the result."""
STRONGEST = {
    "steps": 20,
    "samples": 1000,
    "block_size": 512,
    "blocks_per_step": 3,
    "ridge": 0.003,
    "select": "random",
    "fixed_pruned": 0.0,
    "fixed_kept": 0.0,
    "accept": "true-loss",
    "accept_samples": 3000,
}

STAGES = {"stages": 5, "samples": 1000, "batch_size": 4, "ridges": (0.03,), "gradient_scales": (0.0,)}
"""CHITA++ within reach of a benchmark: 250 rows a stage, one model a stage, no first-order term."""


@dataclass(frozen=True)
class Setting:
    """One configuration of the table."""

    name: str
    solver: str = "swap"
    solver_options: dict[str, Any] = field(default_factory=lambda: {"restarts": 1})
    coordinator: str = "icbs"
    mode: Mode | None = None
    options: dict[str, Any] = field(default_factory=dict)
    curvature: dict[str, Any] = field(default_factory=dict)


SETTINGS = [
    *(Setting(score, options={"steps": 0, "init": score}) for score in ("magnitude", "wanda", "gradient", "random")),
    Setting("published", options=PUBLISHED),
    Setting("last state", options={"steps": 90, "accept": "none"}),
    Setting("published-anneal", "anneal", {"sweeps": 100, "reads": 10}, options=PUBLISHED),
    Setting("clip-negative", options={**PUBLISHED, "ablation": "clip-negative"}),
    Setting("published+accept", options={"steps": 90, "accept_samples": 4000, "ridge": 0.06}),
    Setting(
        "the same, anneal",
        "anneal",
        {"sweeps": 100, "reads": 10},
        options={"steps": 90, "accept_samples": 4000, "ridge": 0.06},
    ),
    Setting("samples-1000", options={**PUBLISHED, "samples": 1000}),
    Setting("multi-stage", "chita-bso", {}, coordinator="multi-stage", options=STAGES),
    Setting("strongest", mode="refit", options=STRONGEST),
]


def run(row: Setting, density: float, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        request = PruneRequest(
            problem=PROBLEM,
            density=density,
            solver=row.solver,
            solver_options=row.solver_options,
            coordinator=row.coordinator,
            mode=row.mode,
            coordinator_options=row.options,
            curvature=row.curvature,
            seed=seed,
        )
        result = prune(request, out=out)
        file = out / "events.jsonl"
        events = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    split: dict[str, float] = {}
    for event in events:
        for phase, seconds in event.get("times", {}).items():
            split[phase] = split.get(phase, 0.0) + seconds / len(events)
    moved = [event for event in events if event["predicted_change"] < 0.0 and "true_change" in event]
    changes = np.array([[event["predicted_change"], event["true_change"]] for event in moved])
    match = float(np.corrcoef(changes.T)[0, 1]) if len(changes) > 2 else float("nan")
    return {
        **result,
        "split": split,
        "match": match,
        "kept_exact": row.coordinator != "icbs" or all(event["kept"] == result["kept"] for event in events),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--density", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3, 0.5])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", nargs="+", default=[row.name for row in SETTINGS])


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    phases = ("gradients", "select", "build", "solve", "evaluate")
    for density in chosen.density:
        for setting in (setting for setting in SETTINGS if setting.name in chosen.rows):
            results = [run(setting, density, seed) for seed in range(chosen.seeds)]
            accuracy, accuracy_deviation = spread([result["accuracy"] for result in results], 100.0)
            loss, loss_deviation = spread([result["loss"] for result in results])
            first = results[0]
            step = first["timings"]["solve"] / max(1, first["steps"])
            split = {f"{phase} s": first["split"].get(phase, 0.0) for phase in phases}
            yield Row(f"{PROBLEM}, {chosen.seeds} seeds; the last columns split a step of the first", {
                "density": density, "configuration": setting.name,
                "accuracy %": accuracy, "accuracy ±": accuracy_deviation,
                "cross-entropy": loss, "loss ±": loss_deviation,
                "seconds": statistics.mean(result["timings"]["solve"] for result in results),
                "match": statistics.mean(result["match"] for result in results), "a step s": step, **split,
                "log s": step - sum(first["split"].values()),
            })  # fmt: skip
            if not all(result["kept_exact"] for result in results):
                yield Note(f"KEPT COUNT WRONG in {setting.name}")


QUICK = {"density": [0.1], "seeds": 1, "rows": ["magnitude", "wanda"]}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
