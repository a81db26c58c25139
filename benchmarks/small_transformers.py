"""Small real transformers: perplexity or accuracy against density, for every way of pruning them.

    OMP_NUM_THREADS=1 python benchmarks/small_transformers.py stories-llama [--densities 0.8 0.7 0.5 0.3 2:4]
    OMP_NUM_THREADS=1 python benchmarks/small_transformers.py vit-mnist [--seeds 3] [--methods …] [--cells FILE]

stories-llama: perplexity a token on the last 100 stories (dense 3.87). vit-mnist: per cent of the 10,000
test images (dense 97.94). Mean over seeds and standard deviation; magnitude has no seed. The seconds are CPU
seconds of a run without loading, with its last judging. After each density: the best, against the better of
Wanda and SparseGPT (perplexity, or errors). With --cells every run is written as a line of JSON, and what the
file holds is not run again. Needs the data under $PRUNEBENCH_DATA. One thread.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prunebench.runs.prune import PruneRequest, prune
from runner import Benchmark, Row, spread

PUBLISHED = ("wanda", "sparsegpt", "sparsegpt (row)")
FREE = {"fixed_pruned": 0.0, "fixed_kept": 0.0, "gradient_scale": 1.0}
"""No weight is held back, and the gradient counts in full."""
WHOLE = {"block_scope": "network", "block_size": 10**6, "select": "magnitude", "tabu": 0.0, "trust": "adaptive"}
"""The whole network as the block."""
SHORT = {"context": 128, "sequences": 2500, "batch": 32}
"""Many short sequences: more rows for the same tokens."""

Run = Mapping[str, Any]
"""What a pruning run is asked for beside problem, density and seed."""
Method = Sequence[Run]
"""Runs one after the other, each from where the one before ended."""


def layer_wise(samples: int) -> dict[str, Method]:
    """Methods from layer inputs alone."""

    def run(solver: str, mode: str, quota: str, target: str = "own") -> Run:
        options = {"quota": quota, "samples": samples, "target": target}
        return {"solver": solver, "mode": mode, "coordinator": "layer-wise", "coordinator_options": options}

    return {
        "magnitude": [run("magnitude", "select", "layer")],
        "wanda": [run("wanda", "select", "row")],
        "sparsegpt": [run("sparsegpt", "refit", "layer")],
        "sparsegpt (row)": [run("sparsegpt", "refit", "row")],
        "alps": [run("alps", "refit", "row")],
        "alps, dense target": [run("alps", "refit", "row", "dense")],
    }


def icbs(solver: str, mode: str, problem_options: Mapping[str, Any], **options: Any) -> Run:
    """A run of block coordinate descent."""
    held = {**FREE, **options}
    return {
        "solver": solver,
        "mode": mode,
        "coordinator": "icbs",
        "problem_options": problem_options,
        "coordinator_options": held,
    }


def stories() -> dict[str, Method]:
    """Methods for the language model."""
    methods = layer_wise(32)
    select = {"init": "wanda", "steps": 8, "blocks_per_step": 35, "samples": 256, "accept_samples": 128}
    refit = {**WHOLE, "init": "wanda", "samples": 128, "accept_samples": 128, "ridge": 1.0}
    return {
        **methods,
        "icbs select": [icbs("swap", "select", SHORT, **select)],
        "icbs refit": [icbs("obd", "refit", SHORT, steps=16, **refit)],
        "alps, icbs refit": [*methods["alps, dense target"], icbs("obd", "refit", SHORT, steps=10, **refit)],
    }


def vision() -> dict[str, Method]:
    """Methods for the vision transformer."""
    methods = layer_wise(256)
    refit = {**WHOLE, "samples": 500, "ridge": 0.1}
    return {
        **methods,
        "icbs select": [icbs("swap", "select", {}, steps=10, blocks_per_step=24, samples=500)],
        "icbs refit": [icbs("obd", "refit", {}, steps=10, **refit)],
        "alps, icbs refit": [*methods["alps, dense target"], icbs("obd", "refit", {}, steps=5, **refit)],
    }


PROBLEMS: dict[str, tuple[str, Callable[[], dict[str, Method]]]] = {
    "stories-llama": ("perplexity", stories),
    "vit-mnist": ("accuracy", vision),
}
"""By name: the measure, and the methods. A further method is one more entry."""


def share(density: str) -> tuple[float, str | None]:
    """The density as a number, and N:M where it is one."""
    n, _, m = density.partition(":")
    return (int(n) / int(m), density) if m else (float(density), None)


def run(problem: str, method: Method, density: str, seed: int, measure: str) -> tuple[float, float]:
    """The measure, and CPU seconds from the end of loading to the end."""
    part, pattern = share(density)
    spent, start, result = 0.0, None, {}
    with tempfile.TemporaryDirectory() as folder:
        for position, asked in enumerate(method):
            began: list[float] = []
            options = dict(asked["coordinator_options"])
            if pattern is not None:
                options["quota"] = pattern
            request = PruneRequest(
                problem=problem,
                density=part,
                seed=seed,
                start=start,
                **{**asked, "coordinator_options": options},
            )
            out = Path(folder) / str(position)
            result = prune(request, out=out, say=partial(_note_time, began))
            spent += time.process_time() - began[0]
            start = str(out)
    return result[measure], spent


def _note_time(times: list[float], _line: str) -> None:
    """The first line is said once everything is loaded."""
    times.append(time.process_time())


class Cells:
    """Finished runs by problem, density, method with its settings, and seed; kept in a file of JSON lines."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.held: dict[str, list[float]] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                cell = json.loads(line)
                self.held[cell["key"]] = cell["value"]

    def value(self, problem: str, name: str, method: Method, density: str, seed: int, measure: str) -> list[float]:
        """Measure and CPU seconds, run where they are not held."""
        key = json.dumps([problem, density, name, method, seed], sort_keys=True)
        if key not in self.held:
            self.held[key] = list(run(problem, method, density, seed, measure))
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "value": self.held[key]}) + "\n")
        return self.held[key]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--densities", nargs="+", default=["0.8", "0.7", "0.5", "0.3", "2:4"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--cells", type=Path, metavar="FILE", help="finished runs, kept and not run again")


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    """One problem's table."""
    torch.set_num_threads(1)
    measure, make = PROBLEMS[chosen.problem]
    methods, cells = make(), Cells(chosen.cells)
    scale = 1.0 if measure == "perplexity" else 100.0
    title = f"{chosen.problem}, {chosen.seeds} seeds, {torch.get_num_threads()} thread, float32"
    for density in chosen.densities:
        means: dict[str, float] = {}
        for name, method in methods.items():
            if chosen.methods and name not in chosen.methods:
                continue
            seeds = range(1 if name == "magnitude" else chosen.seeds)
            found = [cells.value(chosen.problem, name, method, density, seed, measure) for seed in seeds]
            values, seconds = zip(*found, strict=True)
            means[name], deviation = spread(values, scale)
            took = statistics.fmean(seconds)
            cell = {"density": density, "method": name, measure: means[name], "std": deviation, "CPU s": took}
            yield Row(title, cell)
        # perplexity, or errors: less is better
        badness = {name: mean if scale == 1.0 else 100.0 - mean for name, mean in means.items()}
        best = min(badness, key=lambda name: badness[name])
        for reference in PUBLISHED:
            if reference in badness:
                ratio = badness[best] / badness[reference]
                unit = "perplexity" if scale == 1.0 else "errors"
                cell = {"density": density, "best": best, "published": reference, "ratio": ratio}
                yield Row(f"{unit} of the best, in parts of a published method's", cell)


QUICK = {"densities": ["0.5"], "seeds": 1, "methods": ["magnitude", "wanda", "sparsegpt"]}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
