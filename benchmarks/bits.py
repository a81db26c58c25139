"""Bits: slices chosen jointly, levels with a searched scale, and stories-llama at half of its weights and 4 bits.

    OMP_NUM_THREADS=1 python benchmarks/bits.py [--release FOLDER] [--seeds 3]

slices: rows of digits-mlp's layers by the Gram matrix of their inputs, a budget of 1 or 2 bits a weight in slices of 4.
In turn: prune (swap, every count that leaves bits for 4 to 8 each), then give refinements to the kept weights greedily,
the best count of all; and the optimum of the block of slices, proved by branch-and-bound. Ratio of their errors.

levels: the same layers' first ten rows at 4 bits, masks by swap with a refit. Errors in parts of a pruned row's: of the
refit alone, of the refit rounded to the nearest levels with the best of the same scales or with the largest weight's,
and of `rounded`.

stories: perplexity on the last 100 stories, mean of the seeds, from the same calibration sequences, CPU seconds of
gathering and pruning left out. Published: SparseGPT's release alone and with its joint 4 bits, as its llama.py asks for
(a scale and an offset a row) and with the scale alone, from a checkout below FOLDER.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import layer_releases
from layer_wise import entered, passed
from prunebench.core.block import BlockProblem
from prunebench.core.coordinator import calibration_seed
from prunebench.core.problem import make_problem, spread
from prunebench.core.rows import RowsForm
from prunebench.core.solution import Budget
from prunebench.curvature.activations import layer_inputs
from prunebench.meanings.bits.grids import largest_level
from prunebench.meanings.bits.rounding import TRIALS, rounded
from prunebench.meanings.bits.slices import sliced
from prunebench.networks.chosen import prunable_network
from prunebench.runs.prune import PruneRequest, prune
from prunebench.solving import solve
from runner import Benchmark, Row

BITS, ROWS, SLICE = (0, 4, 8), 10, 4
RIDGE = 1e-6
"""Of the mean diagonal: nearly none, so that errors are those of the layer's outputs."""
TABLES = ("slices", "levels", "stories")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", type=Path, metavar="FOLDER", help="a checkout of SparseGPT's code")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--rows", type=int, default=ROWS, help="of a layer")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--solvers", nargs="+", default=["sparsegpt", "alps"])


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    """The tables that are asked for."""
    torch.set_num_threads(1)
    if "slices" in chosen.tables:
        yield from slices(chosen.rows)
    if "levels" in chosen.tables:
        yield from levels(chosen.rows)
    if "stories" in chosen.tables:
        yield from stories(chosen)


def layers(count: int) -> Iterator[tuple[str, RowsForm]]:
    """The first rows of digits-mlp's layers, their inputs that are never seen left out."""
    problem: Any = make_problem("digits-mlp")
    network, calibration = prunable_network(problem), problem.calibration()
    for name in ("fc2", "fc1"):
        held = layer_inputs(network, name, calibration, np.arange(len(calibration)))
        seen = np.flatnonzero(held.gram.diagonal() > 1e-12)
        gram, weights = held.gram[np.ix_(seen, seen)], held.weights[:count, seen]
        ridge = RIDGE * float(held.gram.diagonal().mean())
        yield name, RowsForm(shared=gram, rows=len(weights), ridge=ridge, centre=weights.reshape(-1))


def slices(count: int) -> Iterator[Row]:
    """A row a layer and budget, and one for all."""
    table = "slices of 4 bits, digits-mlp"
    solve(_row_block(next(layers(1))[1], 0, SLICE), "branch-and-bound")  # compiles
    found: dict[int, list[tuple[float, float, bool]]] = {}
    for name, form in layers(count):
        for average in (1, 2):
            cells = []
            for row in range(form.rows):
                total = average * form.columns // SLICE * SLICE
                whole = _row_block(form, row, form.columns)
                block = sliced(whole, BITS, total / form.columns)
                clock = time.process_time()
                best = solve(block, "branch-and-bound", budget=Budget(seconds=60))
                took = time.process_time() - clock
                cells.append((best.objective / in_turn(whole, block, total), took, str(best.status) == "optimal"))
            found.setdefault(average, []).extend(cells)
            yield _summary(table, name, average, cells)
    for average, cells in found.items():
        yield _summary(table, "both", average, cells)


def _summary(table: str, name: str, average: int, cells: list[tuple[float, float, bool]]) -> Row:
    ratios, seconds, proved = zip(*cells, strict=True)
    return Row(
        table,
        {
            "layer": name, "bits a weight": average, "rows": len(cells), "proved": sum(proved),
            "joint/in turn": statistics.fmean(ratios), "least": min(ratios), "most": max(ratios),
            "CPU s to proof, median": statistics.median(seconds), "CPU s, most": max(seconds),
        },
    )  # fmt: skip


def _row_block(form: RowsForm, row: int, keep: int) -> BlockProblem:
    one = form.row(row)
    return BlockProblem(one, one.centre, keep, "select")


def in_turn(whole: BlockProblem, block: BlockProblem, total: int) -> float:
    """f of pruning first, then spending the bits that are left on refinements one by one, with the best count."""
    size, best = whole.p, np.inf
    base, refinement = block.dense_weights[:size], block.dense_weights[size:]
    for kept in range(-(-total // (2 * SLICE)), min(size, total // SLICE) + 1):
        pruned = BlockProblem(whole.form, whole.dense_weights, kept, "select")
        mask = solve(pruned, "swap").mask
        weights = np.where(mask, base, 0.0)
        free = list(np.flatnonzero(mask))
        for _ in range(min(total // SLICE - kept, kept)):
            values = [whole.form.value(weights + refinement * (np.arange(size) == j)) for j in free]
            j = free.pop(int(np.argmin(values)))
            weights[j] += refinement[j]
        best = min(best, whole.form.value(weights))
    return float(best)


def levels(count: int) -> Iterator[Row]:
    """A row a layer and density."""
    for name, form in layers(count):
        weights = form.table(form.centre)
        for density in (0.5, 0.25):
            keep = round(density * form.columns)
            masks = np.array([_refit_mask(form, row, keep) for row in range(form.rows)])
            nothing = np.array([form.row(row).value(np.zeros(form.columns)) for row in range(form.rows)])
            refit = np.array([form.row(row).refit(masks[row]) for row in range(form.rows)])
            clock = time.process_time()
            ours = rounded(form, masks, SLICE).values
            took = time.process_time() - clock
            kept = [_nearest(form, row, np.where(masks[row], weights[row], 0.0), TRIALS) for row in range(form.rows)]
            nearest = [_nearest(form, row, refit[row], TRIALS) for row in range(form.rows)]
            largest = [_nearest(form, row, refit[row], (1.0,)) for row in range(form.rows)]
            alone, on_levels = ([form.row(row).value(held[row]) for row in range(form.rows)] for held in (refit, ours))
            means = [float(np.mean(np.array(held) / nothing)) for held in (alone, kept, largest, nearest, on_levels)]
            yield Row(
                "4 bits, digits-mlp: error in parts of a row that is pruned away",
                {
                    "layer": name, "density": density, "refit": means[0], "pruned, rounded": means[1],
                    "refit, rounded, largest scale": means[2], "refit, rounded": means[3], "ours": means[4],
                    "ours/refit, rounded": means[4] / means[3], "CPU s": took,
                },
            )  # fmt: skip


def _refit_mask(form: RowsForm, row: int, keep: int) -> Any:
    one = form.row(row)
    return solve(BlockProblem(one, one.centre, keep, "refit"), "swap").mask


def _nearest(form: RowsForm, row: int, weights: Any, trials: tuple[float, ...]) -> float:
    """f of the nearest levels, with the best scale of those tried."""
    most = largest_level(SLICE)
    scales = np.abs(weights).max() / most * np.array(trials)
    return min(form.row(row).value(np.clip(np.rint(weights / scale), -most, most) * scale) for scale in scales)


def stories(chosen: argparse.Namespace) -> Iterator[Row]:
    """A row a way: pruned alone, and rounded, by each solver; and the published ones."""
    table = f"stories-llama, half of the weights, {chosen.samples} sequences, {chosen.seeds} seeds"
    for solver in chosen.solvers:
        alone: list[float] = []
        for way, options in (
            ("alone", {}),
            ("4 bits, a scale a row", {"bits": 4}),
            ("4 bits, a scale each 128", {"bits": 4, "group_size": 128}),
            ("4 bits, a scale each 32", {"bits": 4, "group_size": 32}),
        ):
            results = [ours(solver, seed, chosen.samples, options) for seed in range(chosen.seeds)]
            perplexities = [float(result["perplexity"]) for result in results]
            alone = alone or perplexities
            size = results[0].get("bits", {}).get("bytes", {})
            yield _way(table, f"ours, {solver}", way, perplexities, alone, size)
    if chosen.release is None:
        return
    alone = []
    for way, bits, symmetric in (
        ("alone", None, False), ("4 bits, scale and offset a row", 4, False), ("4 bits, a scale a row", 4, True),
    ):  # fmt: skip
        perplexities = [
            published(seed, chosen.samples, chosen.release, bits, symmetric) for seed in range(chosen.seeds)
        ]
        alone = alone or perplexities
        yield _way(table, "SparseGPT's release", way, perplexities, alone, {})


def _way(table: str, who: str, way: str, perplexities: list[float], alone: list[float], size: Mapping[str, int]) -> Row:
    ratios = [held / base for held, base in zip(perplexities, alone, strict=True)]
    return Row(
        table,
        {
            "who": who, "way": way, "perplexity": statistics.fmean(perplexities),
            "least": min(perplexities), "most": max(perplexities), "ratio to alone": statistics.fmean(ratios),
            "dense bytes": size.get("dense", float("nan")), "packed bytes": size.get("packed", float("nan")),
        },
    )  # fmt: skip


def ours(solver: str, seed: int, samples: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a run."""
    request = PruneRequest(
        problem="stories-llama", density=0.5, seed=seed, solver=solver, coordinator="layer-wise",
        coordinator_options={"samples": samples, **options},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return prune(request, out=Path(folder) / "run")


def published(seed: int, samples: int, folder: Path, bits: int | None, symmetric: bool) -> float:
    """Perplexity after the release pruned, and where bits are given rounded on the way, decoder layer by layer."""
    problem: Any = make_problem("stories-llama", {})
    calibration, model = problem.calibration(), problem.model()
    tokens, _ = calibration.batch(spread(len(calibration), samples, np.random.default_rng(calibration_seed(seed))))
    release = layer_releases.release_of("sparsegpt", folder)
    with torch.no_grad():
        entering, named = entered(model, tokens)
        for block in model.model.layers:
            found = {name: held for name, held in block.named_modules() if isinstance(held, torch.nn.Linear)}
            methods = {name: release.SparseGPT(held) for name, held in found.items()}
            for method in methods.values() if bits else ():
                method.quantizer = release.Quantizer()
                method.quantizer.configure(bits, perchannel=True, sym=symmetric, mse=False)
            hooks = [
                held.register_forward_hook(
                    lambda _module, given, out, method=methods[name]: method.add_batch(given[0], out)
                )
                for name, held in found.items()
            ]
            for hidden in entering:
                passed(block, hidden, named)
            for hook in hooks:
                hook.remove()
            for method in methods.values():
                with layer_releases.on_cpu():
                    method.fasterprune(0.5)
            entering = [passed(block, hidden, named) for hidden in entering]
    return float(problem.evaluate(model)["perplexity"])


QUICK = {"rows": 1, "seeds": 1, "samples": 8, "solvers": ["sparsegpt"]}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
