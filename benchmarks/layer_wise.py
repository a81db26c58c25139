"""Layer-wise pruning from input Gram matrices: magnitude, Wanda, SparseGPT, OBC and ALPS on the same samples.

python benchmarks/layer_wise.py [stories-llama|vit-mnist|mlpnet-mnist …] [--densities 0.8 0.5 2:4] [--seeds 3]
                                [--samples 32] [--methods wanda sparsegpt …]

Prints perplexity (or accuracy) and seconds of each method, mean over the seeds (which draw the calibration
samples) with the standard deviation behind it; the line after a density gives the best row over the best of
Wanda and SparseGPT, the latter also with one count a row, which is not its paper's setting. One thread.
Seconds are of gathering inputs and solving, without loading and judging.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from prunebench import make_problem, make_solver, solve
from prunebench.coordinator.layer_wise import LayerWise
from prunebench.coordinator.layer_wise_options import LayerWiseOptions, Target
from prunebench.coordinator.state import calibration_seed
from prunebench.core.block import Mode
from prunebench.core.problem import NetworkProblem, spread
from prunebench.curvature.network import PrunableNetwork
from prunebench.curvature.staged import StagedNetwork

DENSITIES = ("0.8", "0.7", "0.5", "0.3", "2:4")
PUBLISHED = ("wanda", "sparsegpt", "sparsegpt (row)")


@dataclass(frozen=True)
class Setting:
    """What a method is asked for: a network at its dense weights, a density or N:M, and calibration samples."""

    problem: NetworkProblem
    network: PrunableNetwork
    density: float
    pattern: str | None
    samples: int
    seed: int


Method = Callable[[Setting], float]
"""Prunes the setting's network in place and returns the seconds it took."""


def layer_wise(solver: str, mode: Mode, quota: str, target: Target = "own", **options: object) -> Method:
    """A method of this coordinator."""

    def run(setting: Setting) -> float:
        started = perf_counter()
        held = LayerWiseOptions(quota=setting.pattern or quota, samples=setting.samples, target=target)
        calibration = setting.problem.calibration()
        rng = np.random.default_rng(calibration_seed(setting.seed))
        positions = spread(len(calibration), min(held.samples, len(calibration)), rng)
        network, made = setting.network, make_solver(solver, options)
        stages = StagedNetwork(network, calibration, positions, dense=target == "dense")
        whole = getattr(made, "whole_layers", False)
        walk = LayerWise(stages, network.layers, network.weights(), setting.density, mode, held, whole_layers=whole)
        while tasks := walk.ask():
            for task in tasks:
                walk.tell(task, solve(task.block, made, seed=setting.seed))
        network.assign(walk.weights)
        return perf_counter() - started

    return run


METHODS: dict[str, Method] = {
    "magnitude": layer_wise("magnitude", "select", "layer"),
    "wanda": layer_wise("wanda", "select", "row"),
    "sparsegpt": layer_wise("sparsegpt", "refit", "layer"),
    "sparsegpt (row)": layer_wise("sparsegpt", "refit", "row"),
    "obc": layer_wise("obc", "refit", "row"),
    "alps (layer)": layer_wise("alps", "refit", "layer"),
    "alps": layer_wise("alps", "refit", "row"),
    "alps, dense target": layer_wise("alps", "refit", "row", "dense"),
}
"""By name; a method of another coordinator joins the table with one function more."""


def compare(name: str, arguments: argparse.Namespace) -> None:
    """Print one problem's table."""
    problem = make_problem(name)
    assert isinstance(problem, NetworkProblem)
    model = problem.model()
    network = PrunableNetwork(model, problem.prunable())
    dense = network.weights()
    measures = problem.evaluate(model)
    measure = "perplexity" if "perplexity" in measures else "accuracy"
    sign = 1.0 if measure == "perplexity" else -1.0
    print(f"{name}: {network.total:,} prunable weights, dense {measure} {measures[measure]:.4f}, ", end="")
    print(f"{arguments.samples} calibration samples, {arguments.seeds} seeds, {torch.get_num_threads()} thread")
    print(f"{'density':>8}  {'method':<22} {measure:>20} {'seconds':>9}")
    for text in arguments.densities:
        n, _, m = text.partition(":")
        density, pattern = (int(n) / int(m), text) if m else (float(text), None)
        means: dict[str, float] = {}
        for label in arguments.methods:
            values, seconds = [], []
            for seed in range(arguments.seeds if label != "magnitude" else 1):
                network.assign(dense)
                samples = arguments.samples if label != "magnitude" else 1
                took = METHODS[label](Setting(problem, network, density, pattern, samples, seed))
                seconds.append(took)
                values.append(problem.evaluate(model)[measure])
            means[label] = statistics.fmean(values)
            spread_of = f"± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            print(
                f"{text:>8}  {label:<22} {means[label]:>11.4f} {spread_of:>8} {statistics.fmean(seconds):>9.1f}",
                flush=True,
            )
        published = [means[label] for label in PUBLISHED if label in means]
        if published:
            best = min(means, key=lambda label: sign * means[label])
            reference = min(published, key=lambda value: sign * value)
            print(
                f"{text:>8}  best: {best}, {means[best] / reference:.3f} of the best of Wanda and SparseGPT",
                flush=True,
            )


def main() -> None:
    """Read the command line and print a table a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=["stories-llama", "vit-mnist"])
    parser.add_argument("--densities", nargs="+", default=DENSITIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.problems:
        compare(name, arguments)


if __name__ == "__main__":
    main()
