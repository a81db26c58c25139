"""sparsegpt, wanda and alps on one linear layer, beside the published code: CPU seconds, memory and error.

    OMP_NUM_THREADS=1 python benchmarks/layer_solvers.py [--release FOLDER]

Half of the weights are kept (the releases of sparsegpt and ALPS choose freely in the layer, wanda in each row, and so
do we), or 2 of 4. Each side begins with the layer's weights and its inputs in float32 and ends with the pruned weights;
`CPU s` are those of pruning, `of inputs` those before it that multiply the inputs. Memory is the most that either side
holds beyond weights and inputs. Error: the outputs' ½‖X(W − W̄)‖²/n, in float64. Every side runs in a process of its
own, ours after a small layer, as theirs has all imported. With --release the published code comes from checkouts below
FOLDER (sparsegpt and ALPS), else sparsegpt from the paper; alps without a checkout has no other side.
"""

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import layer_releases
from runner import Benchmark, Row

CASES = (("wanda", 4096, "row"), ("sparsegpt", 4096, "layer"), ("sparsegpt", 4096, "2:4"), ("alps", 1024, "layer"))
"""Solver, rows and columns, and quota."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", type=Path, metavar="FOLDER", help="checkouts of the published code")
    parser.add_argument("--cases", nargs="+", help="solver/size/quota, such as alps/4096/layer")
    parser.add_argument("--inputs", type=int, default=2048, help="input vectors")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    """A row a case."""
    cases = [tuple(case.split("/")) for case in chosen.cases] if chosen.cases else CASES
    if chosen.side:
        torch.set_num_threads(1)
        solver, size, quota = cases[0]
        print(json.dumps(measured(chosen.side, str(solver), int(size), str(quota), chosen.inputs, chosen.release)))
        sys.stdout.flush()
        os._exit(0)
    for solver, size, quota in cases:
        sides = ["ours"] if solver == "alps" and not chosen.release else ["ours", "theirs"]
        held: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(chosen.repeats):
            for side in sides:
                held[side].append(apart(chosen, side, f"{solver}/{size}/{quota}"))
        medians = {
            side: {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
            for side, runs in held.items()
        }
        for side, found in medians.items():
            ratios = {f"ratio of {name}": found[name] / medians[sides[-1]][name] for name in ("CPU s", "MB")}
            case = {"solver": solver, "size": int(size), "quota": quota, "side": side}
            yield Row(f"one layer, {chosen.inputs} input vectors, medians of {chosen.repeats}", case | found | ratios)


def apart(chosen: argparse.Namespace, side: str, case: str) -> dict[str, float]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--cases", case, "--inputs", str(chosen.inputs)]
    command += ["--release", str(chosen.release)] if chosen.release else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(side: str, solver: str, size: int, quota: str, count: int, folder: Path | None) -> dict[str, float]:
    """CPU seconds, megabytes and the error of one side."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, size, generator=generator)
    mixed = inputs[:, torch.randperm(size, generator=generator)]
    inputs = inputs * torch.exp(0.5 * torch.randn(size, generator=generator)) + 0.5 * mixed
    weights = torch.randn(size, size, generator=generator) / size**0.5
    small = torch.randn(16, 16, generator=generator)
    run = ours if side == "ours" else theirs
    run(solver, small, small, quota, folder)
    reset, before = peak_reset(), memory("VmRSS")
    pruned, spent, spent_before = run(solver, inputs, weights, quota, folder)
    held = memory("VmHWM") - before if reset else float("nan")
    away = (pruned - weights).double()
    error = 0.5 * float(((inputs.double() @ away.T) ** 2).sum()) / count
    return {"CPU s": spent, "of inputs": spent_before, "MB": held, "error": error}


def ours(
    solver: str, inputs: torch.Tensor, weights: torch.Tensor, quota: str, _folder: Path | None
) -> tuple[torch.Tensor, float, float]:
    """The pruned weights, and CPU seconds of pruning and before."""
    from prunebench import solve
    from prunebench.core.arrays import fixed
    from prunebench.core.block import BlockProblem, Mode
    from prunebench.core.keeping import Quota
    from prunebench.core.rows import RowsForm
    from prunebench.curvature.layer_passes import SUMMED, product

    clock = time.process_time()
    count, columns = inputs.shape
    # in float64 only where the sums of several parts are added up, as the walk does
    gram = torch.zeros(columns, columns, dtype=torch.float32 if count <= 2 * SUMMED else torch.float64)
    for start in range(0, count, SUMMED):
        gram += product(inputs[start : start + SUMMED], inputs[start : start + SUMMED])
    shared = np.asarray((gram / count).numpy(), dtype=np.float32)
    shared = fixed(shared)
    del gram
    before, clock = time.process_time() - clock, time.process_time()
    size = len(weights)
    kept: Quota | None = None
    if quota != "layer":
        kept = Quota.n_m(weights.numel(), 2, 4) if quota == "2:4" else Quota.rows(size, columns, 0.5)
    dense = fixed(weights.numpy().reshape(-1).copy())
    form = RowsForm(shared=shared, rows=size, ridge=0.01 * float(shared.diagonal().mean()), centre=dense)
    mode: Mode = "select" if solver == "wanda" else "refit"
    found = solve(BlockProblem(form, dense, weights.numel() // 2, mode, quota=kept), solver)
    spent = time.process_time() - clock
    # only the answer is wanted; the copy of it below is this benchmark's own
    del form, shared, dense, kept
    return torch.from_numpy(np.array(found.weights).reshape(weights.shape)), spent, before


def theirs(
    solver: str, inputs: torch.Tensor, weights: torch.Tensor, quota: str, folder: Path | None
) -> tuple[torch.Tensor, float, float]:
    """The same of the published code."""
    layer = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
    layer.weight.data = weights.clone()
    release = layer_releases.release_of(solver, folder)
    clock = time.process_time()
    with torch.no_grad():
        held = layer_releases.Published(solver, layer, "2:4" if quota == "2:4" else "row", release, 1)
        held.take(inputs[None], inputs[None] @ weights.T if solver == "alps" else inputs[None])
        before, clock = time.process_time() - clock, time.process_time()
        held.prune()
    return layer.weight.data, time.process_time() - clock, before


def memory(name: str) -> float:
    """A line of this process's status, in megabytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def peak_reset() -> bool:
    """Whether the most memory held is counted anew from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


QUICK = {"cases": ["sparsegpt/256/2:4", "wanda/256/row"], "inputs": 256, "repeats": 1}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
