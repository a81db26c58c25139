"""Structured pruning from calibration samples alone, no training: ours beside the rules of the literature.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/structured.py --seeds 5 --cells FILE
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/structured.py --cases resnet20-cifar10:0.5 --samples 300
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/structured.py --ways ours taylor "torch-pruning Taylor"

A case is PROBLEM:PART, the part of the multiply-accumulates that is kept. All ways see the same samples and are judged
on the same ones; seeds draw the calibration samples and the labels. "zipml" and "osscar" are their rules of choice
inside of a layer, with one count in all families of a size, and each pruned layer refitted to what it gave before from
its present inputs; both are written anew here. "select" keeps every weight's value. Scores of the literature choose by
their own numbers and the samples' own labels: once with the allocation over layers that their papers have, weights kept
and batch norms re-estimated on the calibration samples; once more with our refit; and once with our allocation and
refit ("per cost"), where score and labels are all that differs from "ours". Ways of "torch-pruning" are that library's
own choice, if it is installed, with batch norms re-estimated as well. Accuracies in per cent, or perplexity;
differences are of the same seed, with their standard error. Needs the data under $PRUNEBENCH_DATA.
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

import numpy as np

import torch_pruning_rival
from prunebench.core.arrays import IndexArray
from prunebench.core.coordinator import calibration_seed
from prunebench.core.problem import NetworkProblem, make_problem
from prunebench.core.problem import spread as draw
from prunebench.core.recovery import Division
from prunebench.pruned_structure import smaller_from_run
from prunebench.recovery.batch_norm import batch_norms, reestimate_batch_norm
from prunebench.runs.prune import PruneRequest, prune
from runner import Benchmark, Note, Row, spread

CASES = (
    "resnet20-cifar10:0.7",
    "resnet20-cifar10:0.5",
    "resnet20-cifar10:0.35",
    "resnet56-cifar10:0.6",
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
    OURS: {"solver": "group-swap"},
    "gates choose": {"solver": "obd"},
    "measured counts": {"solver": "group-swap", "coordinator_options": {"allocation": "measured"}},
    "ours, distilled": {"solver": "group-swap", "recover": ("distil:images=mirror",)},
    "zipml": {
        "solver": "group-greedy",
        "coordinator_options": {"choice": "layers", "uniform": True, "targets": "own", "ridge": 0.001},
    },
    "osscar": {
        "solver": "osscar",
        "coordinator_options": {"choice": "layers", "uniform": True, "targets": "own", "ridge": 0.01},
    },
    "select": {"solver": "swap", "mode": "select"},
    "uniform parts": {"solver": "obd", "coordinator_options": {"allocation": "uniform"}},
    "precropping": {"solver": "obd", "coordinator_options": {"allocation": "precropping"}},
    "ours by noise": {"solver": "obd", "coordinator_options": {"calibration": "noise"}},
    "layer-obs by noise, refit": {
        "solver": "obd",
        "coordinator_options": {"score": "layer-obs", "calibration": "noise"},
    },
}
"""By way, what a run is asked for beside problem, part and samples."""

ALLOCATIONS = {
    "l1": "uniform", "l2": "uniform", "bn": "score", "group-norm": "score", "taylor": "score",
    "taylor-squared": "score", "hessian": "score", "beta-rank": "uniform", "lrp": "score", "spectrum": "uniform",
    "layer-obs": "cost", "random": "uniform",
}  # fmt: skip
"""By score of the literature, how its paper spreads it over layers: one part of each, or one threshold for all. Of
layer-obs that could not be read; score per cost is what is best here."""

NORMS = "norms"
"""Key of a way whose batch norms are re-estimated, which no run does by itself."""

for _score, _allocation in ALLOCATIONS.items():
    _options = {"score": _score, "allocation": _allocation, "draws": 0}
    WAYS[_score] = {"solver": "obd", "mode": "select", "coordinator_options": _options, NORMS: True}
    WAYS[f"{_score}, refit"] = {"solver": "obd", "coordinator_options": _options}
    if _allocation != "cost":
        WAYS[f"{_score} per cost, refit"] = {"solver": "obd", "coordinator_options": {**_options, "allocation": "cost"}}

RIVALS = {"torch-pruning L1": "l1", "torch-pruning Taylor": "taylor"}
"""By way, the importance of Torch-Pruning."""


def run(case: str, way: str, seed: int, samples: int) -> dict[str, Any]:
    """One run: measure, costs and CPU seconds of choice and refit."""
    name, _, part = case.partition(":")
    result, spent = (_rival if way in RIVALS else _own)(name, float(part), way, seed, samples)
    measure = "perplexity" if "perplexity" in result else "accuracy"
    scale = 1.0 if measure == "perplexity" else 100.0
    macs = result["costs"]["macs"]
    return {
        "case": case, "way": way, "seed": seed, "samples": samples, "measure": measure,
        "value": scale * result[measure], "dense": scale * result[f"dense_{measure}"],
        "macs": macs["pruned"] / macs["dense"], "CPU s": spent,
    }  # fmt: skip


def _own(name: str, part: float, way: str, seed: int, samples: int) -> tuple[dict[str, Any], float]:
    asked = {key: value for key, value in WAYS[way].items() if key != NORMS}
    options = {"samples": samples, **asked.get("coordinator_options", {})}
    request = PruneRequest(
        problem=name, density=part, problem_options=OPTIONS.get(name, {}), coordinator="structured", seed=seed,
        **{**asked, "coordinator_options": options},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        result = prune(request, out=Path(folder) / "run")
        problem = _problem(name)
        if WAYS[way].get(NORMS) and batch_norms(problem.model()):
            model = smaller_from_run(Path(folder) / "run").apply(problem.model())
            result |= _with_norms(problem, model, seed, samples)
        return result, time.process_time() - start


def _rival(name: str, part: float, way: str, seed: int, samples: int) -> tuple[dict[str, Any], float]:
    problem = _problem(name)
    positions, start = _positions(problem, seed, samples), time.process_time()
    pruned = torch_pruning_rival.prune(problem, part, RIVALS[way], positions)
    judged = _with_norms(problem, pruned, seed, samples)
    example = problem.calibration().batch(np.arange(3))[0]
    dense = problem.model().eval()
    costs = {
        "dense": torch_pruning_rival.macs(dense, example),
        "pruned": torch_pruning_rival.macs(pruned, example),
    }
    before = {f"dense_{key}": value for key, value in problem.evaluate(dense).items()}
    return {**judged, **before, "costs": {"macs": costs}}, time.process_time() - start


def _problem(name: str) -> NetworkProblem:
    made = make_problem(name, OPTIONS.get(name, {}))
    assert isinstance(made, NetworkProblem)
    return made


def _with_norms(problem: NetworkProblem, model: Any, seed: int, samples: int) -> dict[str, float]:
    """What a network reaches once its batch norms are re-estimated on the calibration samples."""
    reestimate_batch_norm(model, problem.calibration(), _positions(problem, seed, samples))
    return dict(problem.evaluate(model.eval()))


def _positions(problem: NetworkProblem, seed: int, samples: int) -> IndexArray:
    """The calibration samples that the coordinator takes."""
    pool = Division.of(len(problem.calibration()), seed).pool
    found: IndexArray = np.sort(pool[draw(pool.size, samples, np.random.default_rng(calibration_seed(seed)))])
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="PROBLEM:PART")
    parser.add_argument("--ways", nargs="+", default=[*WAYS, *RIVALS], choices=[*WAYS, *RIVALS])
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
                if seed not in found[way] and not refused(case, way):
                    found[way][seed] = _kept(run(case, way, seed, chosen.samples), chosen.cells)
        for way in chosen.ways:
            if found[way]:
                yield _row(case, way, found[way], found.get(OURS, {}))
            else:
                yield Note(f"{case} by {way}: not run{refused(case, way)}")


def refused(case: str, way: str) -> str:
    """Why a way is not for a case, "" if it is."""
    if way in RIVALS and not torch_pruning_rival.there():
        return ": pip install torch-pruning"
    convolutional = case.startswith(("resnet", "mobilenet"))
    if way in RIVALS and not convolutional:
        return ": heads need hints in torch-pruning, and convolutional networks alone are compared"
    score = WAYS.get(way, {}).get("coordinator_options", {}).get("score")
    if score in ("bn", "lrp", "beta-rank") and not convolutional:
        return f": {score} is for convolutional networks"
    return ""


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
