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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.runs.prune import PruneRequest, prune

PROBLEM = "garment-fashion-mnist"
PUBLISHED = {"steps": 90, "accept": "none"}
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
class Row:
    """One configuration of the table."""

    name: str
    solver: str = "swap"
    solver_options: dict[str, Any] = field(default_factory=lambda: {"restarts": 1})
    coordinator: str = "icbs"
    mode: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    curvature: dict[str, Any] = field(default_factory=dict)


ROWS = [
    *(Row(score, options={"steps": 0, "init": score}) for score in ("magnitude", "wanda", "gradient", "random")),
    Row("published", options=PUBLISHED),
    Row("published-anneal", "anneal", {"sweeps": 100, "reads": 10}, options=PUBLISHED),
    Row("clip-negative", options={**PUBLISHED, "ablation": "clip-negative"}),
    Row("published+accept", options={"steps": 90, "accept_samples": 4000, "ridge": 0.06}),
    Row(
        "the same, anneal",
        "anneal",
        {"sweeps": 100, "reads": 10},
        options={"steps": 90, "accept_samples": 4000, "ridge": 0.06},
    ),
    Row("samples-1000", options={**PUBLISHED, "samples": 1000}),
    Row("multi-stage", "chita-bso", {}, coordinator="multi-stage", options=STAGES),
    Row("strongest", mode="refit", options=STRONGEST),
]


def run(row: Row, density: float, seed: int) -> dict[str, Any]:
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


def spread(values: list[float], form: str) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {deviation:{form}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3, 0.5])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", nargs="+", default=[row.name for row in ROWS])
    arguments = parser.parse_args()
    print(
        f"{'density':>7}  {'configuration':<18} {'accuracy %':>15} {'cross-entropy':>17} "
        f"{'seconds':>8} {'match':>6}  a step"
    )
    for density in arguments.density:
        for row in (row for row in ROWS if row.name in arguments.rows):
            results = [run(row, density, seed) for seed in range(arguments.seeds)]
            accuracy = spread([100 * result["accuracy"] for result in results], ".2f")
            loss = spread([result["loss"] for result in results], ".4f")
            seconds = statistics.mean(result["timings"]["solve"] for result in results)
            match = statistics.mean(result["match"] for result in results)
            split = results[0]["split"]
            steps = max(1, results[0]["steps"])
            split["log"] = results[0]["timings"]["solve"] / steps - sum(split.values())
            total = sum(split.values())
            phases = " ".join(f"{name} {value:.3f}" for name, value in split.items())
            exact = "" if all(result["kept_exact"] for result in results) else "  KEPT COUNT WRONG"
            print(
                f"{density:>7}  {row.name:<18} {accuracy:>15} {loss:>17} {seconds:>8.1f} {match:>6.2f}  "
                f"{total:.3f}: {phases}{exact}",
                flush=True,
            )


if __name__ == "__main__":
    main()
