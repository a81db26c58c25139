"""Layer-wise pruning of transformers, ours by default beside the published code: perplexity, CPU seconds, memory.

    OMP_NUM_THREADS=1 python benchmarks/layer_wise.py [--release FOLDER] [--seeds 5]
    python benchmarks/layer_wise.py --scale [--samples 32]

stories-llama, pruned to half of its weights, or 2 of every 4, from the same calibration sequences; perplexity a token
on its last 100 stories (dense 3.87). Ours: coordinator layer-wise as it is without options, but for the samples and
2:4. Published: decoder layer after decoder layer, the inputs of its layers gathered in one pass, then a pass of the
pruned layer, as all three releases do; their code from checkouts below FOLDER (sparsegpt, ALPS), else sparsegpt and
wanda from the papers. CPU seconds are of gathering and pruning, without loading and judging, both sides in turn.

--scale: a random Llama of 85 million prunable weights, sparsegpt by default, in a process of its own: seconds and the
most memory it held, in parts of the model's, and the first estimate of the time, told once inputs were gathered twice,
in parts of what the run then took.
"""

import argparse
import os
import sys

if "--scale" not in sys.argv:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import layer_releases
from prunebench.core.coordinator import calibration_seed
from prunebench.core.problem import make_problem, spread
from prunebench.runs.prune import PruneRequest, prune
from prunebench.runs.runner import Step
from random_networks import random_llama
from runner import Benchmark, Row

SOLVERS = ("wanda", "sparsegpt", "alps")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", type=Path, metavar="FOLDER", help="checkouts of the published code")
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=SOLVERS)
    parser.add_argument("--quotas", nargs="+", default=["row", "2:4"], choices=("row", "2:4"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--scale", action="store_true", help="the large random Llama instead")


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    """A row a method and quota, or those of the large model."""
    if chosen.scale:
        yield from large(chosen.samples)
        return
    torch.set_num_threads(1)
    title = f"stories-llama, half of the weights, {chosen.samples} sequences, {chosen.seeds} seeds"
    for quota in chosen.quotas:
        for solver in chosen.solvers:
            without = solver == "alps" and chosen.release is None
            found: dict[str, list[tuple[float, float]]] = {"ours": [], "published": []}
            for seed in range(chosen.seeds):
                found["ours"].append(ours(solver, quota, seed, chosen.samples))
                if not without:
                    found["published"].append(published(solver, quota, seed, chosen.samples, chosen.release))
            for side, runs in found.items():
                if not runs:
                    continue
                perplexities, seconds = zip(*runs, strict=True)
                took = statistics.median(seconds)
                cell = {"quota": quota, "solver": solver, "side": side, "perplexity": statistics.fmean(perplexities)}
                cell |= {"std": statistics.stdev(perplexities) if len(runs) > 1 else float("nan"), "CPU s": took}
                if found["published"]:
                    cell["ratio of CPU s"] = took / statistics.median([spent for _, spent in found["published"]])
                yield Row(title, cell)


def ours(solver: str, quota: str, seed: int, samples: int) -> tuple[float, float]:
    """Perplexity, and CPU seconds from when the walk is made to the last layer."""
    began: list[float] = []
    ended: list[float] = []

    def note(line: str) -> None:
        # what the coordinator says once the walk is made
        if "different inputs" in line:
            began.append(time.process_time())

    def step(made: Step) -> None:
        ended.append(time.process_time())

    options = {"samples": samples} | ({} if quota == "row" else {"quota": quota})
    request = PruneRequest(
        problem="stories-llama", density=0.5, seed=seed, solver=solver, coordinator="layer-wise",
        coordinator_options=options,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result = prune(request, out=Path(folder) / "run", say=note, progress=step)
    (start,) = began
    return float(result["perplexity"]), ended[-1] - start


def published(solver: str, quota: str, seed: int, samples: int, folder: Path | None) -> tuple[float, float]:
    """The same by the published code, sequence by sequence."""
    problem: Any = make_problem("stories-llama", {})
    calibration, model = problem.calibration(), problem.model()
    positions = spread(len(calibration), samples, np.random.default_rng(calibration_seed(seed)))
    tokens, _ = calibration.batch(positions)
    release = layer_releases.release_of(solver, folder)
    began = time.process_time()
    with torch.no_grad():
        entering, named = entered(model, tokens)
        for block in model.model.layers:
            layers = {name: held for name, held in block.named_modules() if isinstance(held, torch.nn.Linear)}
            methods = {
                name: layer_releases.Published(solver, held, quota, release, samples) for name, held in layers.items()
            }
            hooks = [
                held.register_forward_hook(lambda _module, given, out, method=methods[name]: method.take(given[0], out))
                for name, held in layers.items()
            ]
            for hidden in entering:
                passed(block, hidden, named)
            for hook in hooks:
                hook.remove()
            for method in methods.values():
                method.prune()
            entering = [passed(block, hidden, named) for hidden in entering]
    spent = time.process_time() - began
    return float(problem.evaluate(model)["perplexity"]), spent


class _Caught(Exception):
    """Ends a pass at the first decoder layer."""


def entered(model: Any, tokens: torch.Tensor) -> tuple[list[torch.Tensor], Mapping[str, Any]]:
    """What enters the first decoder layer for each sequence, and with what else it is called."""
    caught: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def catch(_module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        caught.append((given[0], named))
        raise _Caught

    hook = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for sequence in tokens:
        try:
            model(sequence[None])
        except _Caught:
            continue
    hook.remove()
    return [hidden for hidden, _ in caught], {key: item for key, item in caught[0][1].items() if "past" not in key}


def passed(block: Any, hidden: torch.Tensor, named: Mapping[str, Any]) -> torch.Tensor:
    """What leaves a decoder layer."""
    out = block(hidden, **named)
    return out[0] if isinstance(out, tuple) else out  # type: ignore[no-any-return]  # a layer of any model


def large(samples: int) -> Iterator[Row]:
    """The random Llama, by sparsegpt with the coordinator's defaults."""
    told: list[tuple[float, float]] = []

    def step(made: Step) -> None:
        if made.left is not None:
            told.append((time.perf_counter(), made.left))

    with tempfile.TemporaryDirectory() as folder:
        model = random_llama(Path(folder) / "model")
        size = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e6
        before, wall, cpu = memory(), time.perf_counter(), time.process_time()
        request = PruneRequest(
            problem="stories-llama", density=0.5, solver="sparsegpt", coordinator="layer-wise",
            problem_options={"model": str(model), "sequences": samples, "context": 128, "validation_context": 128},
            coordinator_options={"samples": samples},
        )  # fmt: skip
        result = prune(request, out=Path(folder) / "run", progress=step)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    took = told[-1][0] - told[0][0]
    yield Row(
        f"a random Llama of 85 million prunable weights, {samples} sequences of 128 tokens",
        {
            "threads": torch.get_num_threads(),
            "seconds": wall,
            "CPU s": cpu,
            "of pruning": result["timings"]["solve"],
            "peak MB": peak,
            "in models": peak / size,
            "beyond the start": (peak - before) / size,
            "estimate": told[0][1],
            "took": took,
            "estimate/took": told[0][1] / took,
        },
    )


def memory() -> float:
    """Megabytes held now."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1e3
    return float("nan")


QUICK = {"solvers": ["wanda"], "quotas": ["2:4"], "seeds": 1, "samples": 8}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
