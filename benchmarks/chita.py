"""Solvers of mode refit on the same large blocks: objective and CPU seconds, in the units of CHITA's papers.

Two instances of about 30,000 weights and 1,000 rows: a layered synthetic one (every row a sum of
rank-one layer gradients, heavy-tailed weights), and real gradients of an MLP on scikit-learn's
digits. Objective 1/2 |A d|² + (n·ridge/2) |d|² with raw gradient rows A. "textbook" is the
back-solve on the magnitude support in float64 by the Woodbury identity, "back-solve" that of this
program, without the rest of solver chita-bso, "released iht" is active-set
IHT without back-solve (twenty steps). What takes under a second is run three times, the best counts;
compilation does not. "bound" is a proven lower bound on every answer of the instance
(`--bound 60` looks for one as long; none by default). Run with one BLAS thread:

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/chita.py
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.masks import top_mask
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Budget, Solution
from prunebench.core.solver import make_solver
from runner import Benchmark, Row, cpu_seconds

Rows = npt.NDArray[np.float32]

ROWS = 1000
DENSITIES = (0.5, 0.2, 0.05)
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "chita-bso": ("chita-bso", {}),
    "released iht": ("chita", {"back_solve": False}),
    "chita": ("chita", {"swaps": 0}),
    "iht": ("iht", {}),
    "woodfisher": ("woodfisher", {}),
    "obs": ("obs", {}),
    "admm": ("admm", {}),
    "swap": ("swap", {}),
}


def layered(seed: int) -> tuple[Rows, FloatArray]:
    """Gradients of three imagined layers, mean squared row norm 1, float32 (n, 30000); t-distributed weights."""
    rng = np.random.default_rng(seed)
    parts = []
    for outputs, inputs in ((100, 150), (150, 80), (60, 50)):
        slopes = rng.normal(size=(ROWS, outputs))
        activations = np.maximum(rng.normal(size=(ROWS, inputs)), 0.0)
        parts.append((slopes[:, :, None] * activations[:, None, :]).reshape(ROWS, -1))
    rows = np.concatenate(parts, axis=1)
    rows /= np.sqrt(np.mean(np.sum(rows**2, axis=1)))
    weights: FloatArray = 0.05 * rng.standard_t(4, size=(rows.shape[1],))
    return np.asarray(rows, dtype=np.float32), weights


def digits(seed: int) -> tuple[Rows, FloatArray]:
    """Per-sample gradients of 64-200-80-10 trained for ten epochs by Adam, float32 (n, 29600), and its weights."""
    import torch
    from sklearn.datasets import load_digits

    from prunebench.curvature.gradients import sample_gradients
    from prunebench.networks.classification import cross_entropy
    from prunebench.networks.network import PrunableNetwork
    from prunebench.networks.samples import TensorSamples

    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 8.0, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(seed)
    order = torch.randperm(len(inputs))[:1400]
    inputs, targets = inputs[order], targets[order]
    widths = (64, 200, 80, 10)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(10):
        for batch in torch.split(torch.randperm(len(inputs)), 32):
            adam.zero_grad()
            cross_entropy(model(inputs[batch]), targets[batch]).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            adam.step()
    network = PrunableNetwork(model.eval(), ["0.weight", "2.weight", "4.weight"])
    rows = np.sort(np.random.default_rng(seed).choice(len(inputs), ROWS, replace=False))
    samples = TensorSamples(inputs, targets)
    return sample_gradients(network, cross_entropy, samples, rows), network.weights()


def textbook(rows: Rows, weights: FloatArray, ridge: float, mask: BoolArray) -> FloatArray:
    """The back-solve in float64, written down as in a textbook."""
    columns = rows[:, mask].astype(np.float64)
    right = columns.T @ (rows.astype(np.float64) @ weights) + ridge * weights[mask]
    out = np.zeros(weights.size)
    inner = np.linalg.solve(np.eye(len(rows)) + columns @ columns.T / ridge, columns @ right)
    out[mask] = right / ridge - columns.T @ inner / ridge**2
    return out


def back_solve(rows: Rows, weights: FloatArray, ridge: float, mask: BoolArray) -> FloatArray:
    """The same by this program, on a form of its own."""
    return QuadraticForm(factor=rows, ridge=len(rows) * ridge, centre=weights).refit(mask)


def answer(label: str, rows: Rows, weights: FloatArray, ridge: float, keep: int, seconds: float) -> Solution:
    """What a solver finds, on a form of its own, so that none gains from what another derived."""
    own = QuadraticForm(factor=rows, ridge=len(rows) * ridge, centre=weights)
    solver, options = SOLVERS[label]
    block = BlockProblem(own, weights, keep, "refit", problem="")
    return make_solver(solver, options).solve(block, Budget(seconds=seconds), np.random.default_rng(0))


def warm_up(solvers: list[str]) -> None:
    """Compile, on a block of the same kind and small."""
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(size=(40, 4000)).astype(np.float32), rng.normal(size=4000)
    for label in solvers:
        answer(label, rows, weights, 1e-3, 800, 60.0)


def compare(
    name: str, rows: Rows, weights: FloatArray, ridge: float, solvers: list[str], limits: tuple[float, float]
) -> Iterator[Row]:
    """The table of one instance; limits : wall-clock seconds of a solver and of the search for a bound."""
    from prunebench.kernels.relaxations.bounds import lower_bound

    for density in DENSITIES:
        keep = int(density * weights.size)
        mask = top_mask(np.abs(weights), keep)
        form = QuadraticForm(factor=rows, ridge=len(rows) * ridge, centre=weights)
        theirs, base_seconds = cpu_seconds(partial(textbook, rows, weights, len(rows) * ridge, mask))
        base = form.value(theirs)

        def row(method: str, objective: float, seconds: float, density: float = density, base: float = base,
                base_seconds: float = base_seconds) -> Row:  # fmt: skip
            return Row(f"{name}, n = {ROWS}; ratios are to the textbook back-solve on the magnitude support", {
                "density": density, "method": method, "objective": objective, "CPU s": seconds,
                "f ratio": objective / base, "s ratio": seconds / base_seconds,
            })  # fmt: skip

        yield row("magnitude", form.value(np.where(mask, weights, 0.0)), 0.0)
        yield row("textbook", base, base_seconds)
        ours, spent = cpu_seconds(partial(back_solve, rows, weights, ridge, mask))
        yield row("back-solve", form.value(ours), spent)
        for label in solvers:
            solution, spent = cpu_seconds(partial(answer, label, rows, weights, ridge, keep, limits[0]))
            yield row(label, form.value(solution.weights), spent)
        if limits[1] > 0.0:
            start = time.process_time()
            bound = lower_bound(BlockProblem(form, weights, keep, "refit", problem=name), limits[1]).value
            yield row("bound", bound, time.process_time() - start)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ridges", type=float, nargs="+", default=[1e-6, 1e-4])
    parser.add_argument("--instances", nargs="+", default=["layered", "digits"])
    parser.add_argument("--solvers", nargs="+", choices=list(SOLVERS), default=list(SOLVERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="wall-clock limit of a solver on an instance")
    parser.add_argument("--bound", type=float, default=0.0, help="seconds for a lower bound of each instance")


def tables(chosen: argparse.Namespace) -> Iterator[Row]:
    warm_up(chosen.solvers)
    for name in chosen.instances:
        rows, weights = layered(chosen.seed) if name == "layered" else digits(chosen.seed)
        for ridge in chosen.ridges:
            limits = chosen.seconds, chosen.bound
            yield from compare(f"{name}, ridge {ridge:g}", rows, weights, ridge, chosen.solvers, limits)


QUICK = {"ridges": [1e-4], "instances": ["digits"], "solvers": ["chita-bso", "chita", "woodfisher"], "seconds": 10.0}
BENCHMARK = Benchmark(__file__, __doc__, tables, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
