"""Whole networks pruned by QAOA blocks: digits-mlp with iCBS at 20 %, each block solver at the same steps and time.

    python benchmarks/qaoa_prune.py
    python benchmarks/qaoa_prune.py --steps 10 --seeds 1

Blocks hold 16 weights, small enough for an exact state and for enumeration. "same time" gives the
solver as many seconds a block as qaoa-subspace took on average. One step moves one such block, so 40
steps touch 640 of the 2368 weights at most. Loss and accuracy are on the test set; magnitude is the
first mask. Mean ± standard deviation over seeds; one thread.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from prunebench.runs.prune import PruneRequest, prune

SAMPLES = {"samples": 200, "accept_samples": 1000}
"""The digits have 1347 calibration samples, fewer than iCBS's defaults want."""


def run(solver, options, steps, seed, block_seconds=None, mode="select"):
    with tempfile.TemporaryDirectory() as folder:
        request = PruneRequest(
            problem="digits-mlp", density=0.2, solver=solver, solver_options=options, mode=mode, seed=seed,
            coordinator="icbs", coordinator_options={**SAMPLES, "block_size": 16, "steps": steps},
            block_seconds=block_seconds,
        )  # fmt: skip
        return prune(request, out=Path(folder) / "run")


def spread(values, form):
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {deviation:{form}}"


def row(name, results):
    loss, accuracy = [result["loss"] for result in results], [100 * result["accuracy"] for result in results]
    seconds = statistics.mean(result["timings"]["solve"] for result in results)
    print(f"{name:30} {spread(loss, '.4f'):>17} {spread(accuracy, '.2f'):>15} {seconds:8.2f}", flush=True)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    steps, seeds = arguments.steps, range(arguments.seeds)
    print(f"{'block solver':30} {'cross-entropy':>17} {'accuracy %':>15} {'seconds':>8}")
    for solver in ("qaoa-subspace", "exhaustive", "anneal", "swap"):
        run(solver, {}, 1, 0)
    row("magnitude", [run("swap", {}, 0, seed) for seed in seeds])
    seconds = row("qaoa-subspace", [run("qaoa-subspace", {}, steps, seed) for seed in seeds])
    row("qaoa-subspace, angles=layer", [run("qaoa-subspace", {"angles": "layer"}, steps, seed) for seed in seeds])
    for solver in ("exhaustive", "anneal", "swap"):
        row(solver, [run(solver, {}, steps, seed) for seed in seeds])
    for solver in ("exhaustive", "anneal"):
        row(f"{solver}, same time", [run(solver, {}, steps, seed, seconds / steps) for seed in seeds])


if __name__ == "__main__":
    main()
