"""What `prune` reaches with nothing but a problem and a density: recipe `auto` at each effort, several seeds.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/recipes.py --seeds 3 --cells FILE
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/recipes.py --cases digits-mlp:0.1 --efforts quick normal

A case is PROBLEM:DENSITY, where the density may be a quota N:M. Accuracies in per cent, or perplexity; mean and
standard deviation over seeds, which draw the calibration samples, and whether the mean reaches what was aimed at.
CPU seconds without loading and choosing, with the last judging, on as many threads as the environment
allows. With --cells every run is written as a line of JSON, and what the file holds is not run again.
Needs the data under $PRUNEBENCH_DATA.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prunebench import make_problem
from prunebench.recipes import EFFORTS, request_of
from prunebench.runs.prune import prune
from runner import Benchmark, Note, Row, spread

TARGETS = {
    "digits-mlp:0.1": 94.0,
    "mlpnet-mnist:0.1": 95.0,
    "mlpnet-mnist:0.02": 93.5,
    "garment-fashion-mnist:0.1": 84.5,
    "resnet20-cifar10:0.3": 90.2,
    "resnet20-cifar10:0.2": 88.8,
    "vit-mnist:0.3": 97.7,
    "stories-llama:0.5": 6.5,
    "stories-llama:2:4": 10.0,
}
"""By case: the accuracy in per cent that is to be reached, or the perplexity that is not to be exceeded."""

LOADED = "dense "
"""The line of progress that says that the network is loaded and judged holds this."""


def run(case: str, effort: str, seed: int) -> dict[str, Any]:
    """One run: measure, dense measure, recipe and CPU seconds."""
    name, _, part = case.partition(":")
    kept, _, of = part.partition(":")
    given: dict[str, Any] = {"seed": seed} | ({"coordinator_options": {"quota": part}} if of else {})
    density = int(kept) / int(of) if of else float(part)
    request = request_of(make_problem(name), density, effort=effort, given=given)
    began: list[float] = []

    def say(line: str) -> None:
        if LOADED in line:
            began.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        result = prune(request, out=Path(folder) / "run", say=say)
    measure = "perplexity" if "perplexity" in result else "accuracy"
    scale = 1.0 if measure == "perplexity" else 100.0
    return {
        "case": case,
        "effort": effort,
        "seed": seed,
        "recipe": request.recipe,
        "measure": measure,
        "value": scale * result[measure],
        "dense": scale * result[f"dense_{measure}"],
        "CPU s": time.process_time() - began[0],
        "seconds": result["timings"]["build"] + result["timings"]["solve"],
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", default=list(TARGETS), metavar="PROBLEM:DENSITY")
    parser.add_argument("--efforts", nargs="+", default=["quick", "normal"], choices=EFFORTS)
    parser.add_argument("--seeds", type=int, default=3, help="0: nothing is run, the table is of what --cells holds")
    parser.add_argument("--cells", type=Path, metavar="FILE", help="finished runs, kept and not run again")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    held: list[dict[str, Any]] = []
    if chosen.cells is not None and chosen.cells.is_file():
        held = [json.loads(line) for line in chosen.cells.read_text(encoding="utf-8").splitlines()]
    for case in chosen.cases:
        for effort in chosen.efforts:
            found = [c for c in held if (c["case"], c["effort"]) == (case, effort)] if not chosen.seeds else []
            for seed in range(chosen.seeds):
                cell = next((c for c in held if (c["case"], c["effort"], c["seed"]) == (case, effort, seed)), None)
                if cell is None:
                    cell = run(case, effort, seed)
                    if chosen.cells is not None:
                        with chosen.cells.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(cell) + "\n")
                found.append(cell)
            if found:
                yield _row(case, effort, found)
            else:
                yield Note(f"{case} at effort {effort}: not run")


def _row(case: str, effort: str, found: list[dict[str, Any]]) -> Row:
    values = [cell["value"] for cell in found]
    mean, deviation = spread(values)
    target, less = TARGETS.get(case), found[0]["measure"] == "perplexity"
    reached = None if target is None else (mean <= target if less else mean >= target)
    return Row("recipe auto", {
        "case": case, "effort": effort, "recipe": str(found[0]["recipe"]), "measure": str(found[0]["measure"]),
        "mean": mean, "std": deviation, "seeds": len(found), "dense": found[0]["dense"], "target": target,
        "reached": reached, "CPU s": statistics.fmean(cell["CPU s"] for cell in found),
    })  # fmt: skip


QUICK = {"seeds": 1, "cases": ["digits-mlp:0.1"], "efforts": ["quick"]}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
