"""One-shot pruning beside WoodFisher and M-FAC on the same gradients: CPU seconds, memory, and the quadratic objective.

The claim to be looked at: "20 to 1000 times faster than WoodFisher and M-FAC". Sizes are those of ResNet20 (268,336
weights) and ResNet50 (25,502,912). With --woodfisher and --mfac the released programs' own inverses (block by block;
matrix-free) are run from the folders they are checked out to; nothing of them is part of this project. Gradients are
Gaussian with columns of unequal size, or with --real those of the trained ResNet20. Each method runs in a process of
its own, so that its memory is seen; gradients are read before the clock starts.

A released method that would take more than --most seconds works on a part of its blocks; its time is then that part's
times the number of parts; the column "measured" tells which part it was. With several numbers of gradients, seconds
are fitted by c1·n + c2·n² and extrapolated to the number that WoodFisher's own settings use.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
from scipy.optimize import nnls

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Budget
from prunebench.core.solver import make_solver
from runner import Benchmark, Note, Row

SIZES = {"resnet20": 268_336, "resnet50": 25_502_912}
"""Prunable weights."""

PUBLISHED = {"resnet20": 1000, "resnet50": 400}
"""Gradients that WoodFisher's own settings use; those of mini-batches for ResNet50."""

DENSITY = 0.1
RIDGE = 1e-3
"""Relative to the mean of the curvature's diagonal, for all methods alike."""

BLOCK = 2000
"""Weights in a block of the released WoodFisher, as published for ResNet50."""

OURS: dict[str, dict[str, Any]] = {"chita-bso": {}, "admm": {}, "woodfisher": {}, "mfac": {}}
"""Our solvers, as they are by default."""

REPEATS = 3
"""Runs of ours, of which the median is taken: they are short."""

GIB = 2**30
"""Bytes that tables count in."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=SIZES, default="resnet20")
    parser.add_argument("--weights", type=int, default=0, help="another number of weights than the size's")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[250, 500], help="numbers of gradients, from few to many"
    )
    parser.add_argument("--real", action="store_true", help="gradients of the trained ResNet20")
    parser.add_argument("--woodfisher", type=Path, help="folder with the released WoodFisher")
    parser.add_argument("--mfac", type=Path, help="folder with the released M-FAC")
    parser.add_argument("--methods", nargs="*", default=list(OURS), help="which of ours")
    parser.add_argument("--most", type=float, default=60.0, help="seconds after which a released method is cut short")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)


def gradients(chosen: argparse.Namespace) -> tuple[Any, FloatArray]:
    """Gradients float32 (n, p) and weights (p,)."""
    if chosen.real:
        from prunebench import make_problem
        from prunebench.curvature.gradients import sample_gradients
        from prunebench.networks.chosen import prunable_network

        problem: Any = make_problem("resnet20-cifar10")
        network = prunable_network(problem)
        total, count = len(problem.calibration()), max(chosen.rows)
        positions = np.sort(np.random.default_rng(0).choice(total, count, replace=False))
        return sample_gradients(network, problem.loss, problem.calibration(), positions), network.weights()
    rng, size = np.random.default_rng(0), chosen.weights or SIZES[chosen.size]
    rows = np.empty((max(chosen.rows), size), dtype=np.float32)
    scale = np.exp(0.5 * rng.standard_normal(size, dtype=np.float32)) / np.float32(np.sqrt(size))
    for row in rows:
        row[:] = rng.standard_normal(size, dtype=np.float32) * scale
    return rows, 0.05 * rng.standard_t(4, size=size)


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    if chosen.one:
        _one(chosen)
        return
    released = {"WoodFisher (released)": chosen.woodfisher, "M-FAC (released)": chosen.mfac}
    methods = [*chosen.methods, *(name for name, folder in released.items() if folder is not None)]
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "held"
        held, weights = gradients(chosen)
        np.save(file.with_suffix(".rows.npy"), held)
        np.save(file.with_suffix(".weights.npy"), weights)
        size = held.shape[1]
        del held
        for count in chosen.rows:
            base = float("nan")
            title = f"{chosen.size}{' (real gradients)' if chosen.real else ''}: n = {count}, p = {size:,}"
            for name in methods:
                row = _measured(name, count, chosen, file)
                seconds[name].append(row["seconds"])
                base = row["seconds"] if name == "chita-bso" else base
                yield Row(
                    title,
                    {
                        "method": name, "CPU s": row["seconds"], "measured": row["measured"],
                        "of chita-bso": row["seconds"] / base, "extra GiB": row["bytes"] / GIB,
                        "objective": row["objective"], "refitted": row["refitted"],
                    },
                )  # fmt: skip
    yield Note("objective: of the method's own mask and weights; refitted: of its mask with the weights that are best")
    if len(chosen.rows) > 1:
        yield from _extrapolated(chosen.rows, seconds, PUBLISHED[chosen.size])


def _extrapolated(counts: list[int], seconds: dict[str, list[float]], published: int) -> Iterator[Row]:
    """Seconds at another number of gradients, by a fit of c1·n + c2·n² with neither below zero."""
    n = np.array(counts, dtype=np.float64)
    base = float("nan")
    for name, held in seconds.items():
        # relative residuals, so that few gradients count as much as many
        (first, second), _ = nnls(np.column_stack([n, n**2]) / np.array(held)[:, None], np.ones(n.size))
        found = float(first * published + second * published**2)
        base = found if name == "chita-bso" else base
        yield Row(
            f"n = {published}, extrapolated",
            {"method": name, "CPU s": found, "of chita-bso": found / base, "c1": first, "c2": second},
        )


def _measured(name: str, count: int, chosen: argparse.Namespace, file: Path) -> dict[str, Any]:
    """What a process of its own says of a method."""
    command = [sys.executable, __file__, "--one", name, "--file", str(file), "--most", str(chosen.most)]
    command += ["--rows", str(count)]
    for option in ("woodfisher", "mfac"):
        if getattr(chosen, option) is not None:
            command += [f"--{option}", str(getattr(chosen, option))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    answer: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return answer


def _one(chosen: argparse.Namespace) -> None:
    """Run one method and print what came of it."""
    held = np.array(np.load(chosen.file.with_suffix(".rows.npy"), mmap_mode="r")[: chosen.rows[0]])
    weights = np.load(chosen.file.with_suffix(".weights.npy"))
    count, size = held.shape
    diagonal = float(np.einsum("ij,ij->", held, held, dtype=np.float64)) / count / size
    ridge, keep = RIDGE * diagonal, round(DENSITY * size)
    if chosen.one in OURS:
        # loaded and compiled before anything is timed
        _ours(chosen.one, np.ascontiguousarray(held[:, :20_000]), weights[:20_000], ridge, 2000)
    else:
        import torch  # noqa: F401  # before anything is timed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, measured = process_time(), 1.0
    if chosen.one in OURS:
        times = []
        for _ in range(REPEATS):
            started = process_time()
            mask, found = _ours(chosen.one, held, weights, ridge, keep)
            times.append(process_time() - started)
        seconds = median(times)
    elif chosen.one.startswith("WoodFisher"):
        mask, found, seconds, measured = _woodfisher(chosen, held, weights, ridge, keep)
    else:
        mask, found = _mfac(chosen.mfac, held.copy(), weights, ridge, keep)
        seconds = process_time() - started
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    objective = refitted = None
    if measured == 1.0:
        form = QuadraticForm(factor=held / np.float32(np.sqrt(count)), ridge=ridge, centre=weights)
        objective, refitted = form.value(found), form.value(form.refit(mask))
    print(
        json.dumps(
            {"seconds": seconds, "measured": measured, "bytes": 1024 * used, "objective": objective,
             "refitted": refitted}
        )
    )  # fmt: skip


def _ours(name: str, held: Any, weights: FloatArray, ridge: float, keep: int) -> tuple[BoolArray, FloatArray]:
    form = QuadraticForm(factor=held / np.float32(np.sqrt(len(held))), ridge=ridge, centre=weights)
    block = BlockProblem(form, weights, keep, "refit")
    solution = make_solver(name, OURS[name]).solve(block, Budget(), np.random.default_rng(0))
    return solution.mask, solution.weights


def _kept(score: FloatArray, keep: int) -> BoolArray:
    mask = np.zeros(score.size, dtype=np.bool_)
    mask[np.argpartition(score, score.size - keep)[score.size - keep :]] = True
    return mask


def _mfac(folder: Path, held: Any, weights: FloatArray, ridge: float, keep: int) -> tuple[BoolArray, FloatArray]:
    """The released full inverse: its diagonal ranks, its product moves what is kept. Writes to `held`."""
    import torch

    program = _module("mfac_prun", folder / "prun.py")
    inverse = program.HInvFastSwap(torch.from_numpy(held), damp=ridge, npages=1, cpu="cpu", gpu=torch.device("cpu"))
    diagonal = inverse.diag()
    dense = torch.from_numpy(weights.astype(np.float32))
    mask = _kept((dense**2 / diagonal).numpy(), keep)
    gone = torch.from_numpy(~mask)
    moved = dense + inverse.mul(torch.where(gone, -dense / diagonal, torch.zeros(())))
    return mask, np.where(mask, moved.numpy().astype(np.float64), 0.0)


def _woodfisher(
    chosen: argparse.Namespace, held: Any, weights: FloatArray, ridge: float, keep: int
) -> tuple[BoolArray, FloatArray, float, float]:
    """The released inverse of each block; as many blocks as `--most` allows. -> also CPU seconds, and which part"""
    import torch

    for name, members in (
        ("utils", ()), ("utils.utils", ("flatten_tensor_list", "get_summary_stats", "get_total_sparsity")),
        ("policies", ()), ("policies.pruners", ()),
    ):  # fmt: skip
        # what the file imports and the inverse of a block does not use
        stand_in: Any = types.ModuleType(name)
        for member in members:
            setattr(stand_in, member, None)
        sys.modules[name] = stand_in
    sys.modules["policies.pruners"].GradualPruner = object  # type: ignore[attr-defined]  # a module made here
    kind: Any = _module("woodfisher_block", chosen.woodfisher / "pruners" / "woodfisherblock.py")
    pruner = object.__new__(kind.BlockwiseWoodburryFisherPruner)
    pruner.args = argparse.Namespace(
        aux_gpu_id=-1, fisher_cpu=True, fisher_damp=ridge, fisher_optimized=False, offload_inv=False
    )
    pruner._num_grads = pruner._goal = len(held)
    pruner._all_grads_dic = {0: torch.from_numpy(held)}
    dense = torch.from_numpy(weights.astype(np.float32))
    diagonal, moves = np.ones(weights.size, dtype=np.float32), np.zeros(weights.size)
    started, size = process_time(), weights.size
    stops: list[int] = []
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        inverse = pruner._compute_split_block_woodburry_fisher_inverse(0, start, stop, torch.device("cpu"))
        diagonal[start:stop] = inverse.diagonal().numpy()
        # the published update of all weights that go needs the mask of all blocks; it is a product a block
        part = dense[start:stop]
        inverse @ (part / inverse.diagonal())
        stops.append(stop)
        if process_time() - started > chosen.most:
            break
    seconds = process_time() - started
    done = stops[-1] / size
    mask = _kept(weights**2 / diagonal, keep)
    if done == 1.0:
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            inverse = pruner._compute_split_block_woodburry_fisher_inverse(0, start, stop, torch.device("cpu"))
            gone = torch.from_numpy(~mask[start:stop])
            basis = torch.where(gone, -dense[start:stop] / inverse.diagonal(), torch.zeros(()))
            moves[start:stop] = (inverse @ basis).numpy()
    return mask, np.where(mask, weights + moves, 0.0), seconds / done, done


def _module(name: str, file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"weights": 20_000, "rows": [20, 40]})

if __name__ == "__main__":
    BENCHMARK.main()
