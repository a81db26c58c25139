"""Structured pruning from calibration samples alone, no training: ours beside the rules of the literature.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/structured.py --seeds 5 --cells FILE
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/structured.py --cases resnet20-cifar10:0.5 --samples 300

A case is PROBLEM:PART, the part of the multiply-accumulates that is kept. All ways see the same samples and are judged
on the same ones; seeds draw the calibration samples and the labels. "zipml" and "osscar" are their rules of choice
inside of a layer, with one count in all families of a size, and each pruned layer refitted to what it gave before from
its present inputs; both are written anew here. "select" keeps every weight's value. Accuracies in per cent, or
perplexity; differences are of the same seed, with their standard error. Needs the data under $PRUNEBENCH_DATA.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prunebench.runs.prune import PruneRequest, prune
from runner import Benchmark, Note, Row, spread

CASES = (
    "resnet20-cifar10:0.5",
    "resnet56-cifar10:0.472",
    "resnet56-cifar10:0.383",
    "vit-mnist:0.5",
    "vit-mnist:0.35",
    "vit-mnist:0.25",
)
"""The networks and budgets: ResNet56 at 2.12 and 2.61 times fewer multiply-accumulates, as Torch-Pruning has it."""

OPTIONS = {"resnet20-cifar10": {"variant": "akamaster"}}
"""Options of problems: the ResNet20 whose shortcuts have no parameters."""

OURS = "ours"
WAYS: dict[str, dict[str, Any]] = {
    OURS: {"solver": "obd"},
    "layers choose": {"solver": "group-swap", "coordinator_options": {"choice": "layers"}},
    "zipml": {
        "solver": "group-greedy",
        "coordinator_options": {"choice": "layers", "uniform": True, "targets": "own", "ridge": 0.001},
    },
    "osscar": {
        "solver": "osscar",
        "coordinator_options": {"choice": "layers", "uniform": True, "targets": "own", "ridge": 0.01},
    },
    "select": {"solver": "swap", "mode": "select"},
}
"""By way, what a run is asked for beside problem, part and samples."""


def run(case: str, way: str, seed: int, samples: int) -> dict[str, Any]:
    """One run: measure, costs and CPU seconds of choice and refit."""
    name, _, part = case.partition(":")
    asked = WAYS[way]
    options = {"samples": samples, **asked.get("coordinator_options", {})}
    request = PruneRequest(
        problem=name, density=float(part), problem_options=OPTIONS.get(name, {}), coordinator="structured", seed=seed,
        **{**asked, "coordinator_options": options},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        result = prune(request, out=Path(folder) / "run")
        spent = time.process_time() - start
    measure = "perplexity" if "perplexity" in result else "accuracy"
    scale = 1.0 if measure == "perplexity" else 100.0
    macs = result["costs"]["macs"]
    return {
        "case": case, "way": way, "seed": seed, "samples": samples, "measure": measure,
        "value": scale * result[measure], "dense": scale * result[f"dense_{measure}"],
        "macs": macs["pruned"] / macs["dense"], "CPU s": spent,
    }  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="PROBLEM:PART")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", type=int, default=5, help="0: nothing is run, the tables are of what --cells holds")
    parser.add_argument("--samples", type=int, default=300, help="calibration samples of every way")
    parser.add_argument("--cells", type=Path, metavar="FILE", help="finished runs, kept and not run again")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    held: list[dict[str, Any]] = []
    if chosen.cells is not None and chosen.cells.is_file():
        held = [json.loads(line) for line in chosen.cells.read_text(encoding="utf-8").splitlines()]
    for case in chosen.cases:
        found = {
            way: {cell["seed"]: cell for cell in held
                  if (cell["case"], cell["way"], cell["samples"]) == (case, way, chosen.samples)}
            for way in chosen.ways
        }  # fmt: skip
        for seed in range(chosen.seeds):
            for way in chosen.ways:
                if seed not in found[way]:
                    found[way][seed] = _kept(run(case, way, seed, chosen.samples), chosen.cells)
        for way in chosen.ways:
            if found[way]:
                yield _row(case, way, found[way], found.get(OURS, {}))
            else:
                yield Note(f"{case} by {way}: not run")


def _kept(cell: dict[str, Any], file: Path | None) -> dict[str, Any]:
    if file is not None:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(cell) + "\n")
    return cell


def _row(case: str, way: str, found: dict[int, dict[str, Any]], ours: dict[int, dict[str, Any]]) -> Row:
    cells: Sequence[dict[str, Any]] = list(found.values())
    mean, deviation = spread([cell["value"] for cell in cells])
    ahead = [ours[seed]["value"] - cell["value"] for seed, cell in found.items() if seed in ours]
    several = way != OURS and len(ahead) > 1
    return Row("structured pruning, no training", {
        "case": case, "way": way, "measure": cells[0]["measure"], "mean": mean, "std": deviation, "seeds": len(cells),
        "dense": cells[0]["dense"], "macs": max(cell["macs"] for cell in cells),
        "ours ahead by": statistics.fmean(ahead) if ahead and way != OURS else None,
        "standard error": statistics.stdev(ahead) / math.sqrt(len(ahead)) if several else None,
        "CPU s": statistics.median(cell["CPU s"] for cell in cells),
    })  # fmt: skip


QUICK = {"cases": ["digits-mlp:0.5"], "seeds": 2, "samples": 200}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
