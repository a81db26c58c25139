"""`iht`, `chita`, `admm` and the back-solve beside the released CHITA: objective and CPU seconds in one run.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/chita_release.py --release FOLDER

--release is a folder that holds a checkout of mazumder-lab/CHITA. Its active-set IHT runs with the arguments of its own
pruner (float64, twenty steps) and ends in its back-solve; as its objective counts the lower of its own weights' and of
those this program finds on its support. "small": the kinds of `refit_search.py`, other seeds; "layered" and
"digits": the instances of `chita.py`; the others: networks with a checkpoint, 1,000 samples. The table "back-solve"
gives the same support to both sides, the release's Heuristic_LS and `QuadraticForm.refit`, float32 rows, beside
the gathered columns, their Gram matrix and its Cholesky factor by numpy and scipy.

Every method gets a form of its own. Times are medians of --repeats runs; compilation does not count.
"""

import argparse
import contextlib
import importlib
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy.linalg

from chita import digits, layered
from prunebench import BlockProblem, QuadraticForm, solve
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.masks import top_mask
from prunebench.runs.cut import cut_block
from refit_search import KINDS, SAMPLES, SHARES, SIZES, block_of
from runner import Benchmark, Row

SOLVERS = ("iht", "chita", "admm")
DENSITIES = (0.5, 0.2, 0.05)
STEPS = 20
"""Steps of the release, in and between active sets: --num_iterations of its own scripts."""
SAME = 1e-9
"""Relative difference of objectives that is rounding."""

T = TypeVar("T")


class Release:
    """The released solver on forms of this program: y = A w̄, alpha = the linear term, lambda2 = ridge/2."""

    def __init__(self, folder: Path) -> None:
        found = next(iter(sorted(folder.rglob("L0_card_const.py"))), None)
        if found is None:
            raise SystemExit(f"no L0_card_const.py below {folder}; check out mazumder-lab/CHITA there")
        sys.path.insert(0, str(found.parent))
        try:
            self._code: Any = importlib.import_module("L0_card_const")
        finally:
            sys.path.pop(0)

    def iht(self, rows: FloatArray, block: BlockProblem) -> FloatArray:
        """Active-set IHT with line search, then the back-solve on its support. float64 (n, p) -> float64 (p,)"""
        form, keep = block.form, block.keep
        dense, half = np.array(block.dense_weights), float(form.ridge[0]) / 2.0
        target, linear = rows @ form.centre, np.array(form.linear)
        with contextlib.redirect_stdout(io.StringIO()):
            found = self._code.Active_IHTCDLS_PP(
                target, rows, dense, keep, alpha=linear, lambda1=0, lambda2=half, beta_tilde1=np.zeros(dense.size),
                beta_tilde2=np.array(form.centre), iht_max_itr=STEPS, ftol=1e-7, act_max_itr=STEPS, kimp=1.5,
                cd_itr=0, ctol=1e-4, sea1_max_itr=5, sea2_max_itr=10,
            )[0]  # fmt: skip
        return self.solved(target, rows, linear, half, np.array(form.centre), np.flatnonzero(found))

    def solved(
        self, target: FloatArray, rows: FloatArray, linear: FloatArray, half: float, centre: FloatArray, support: Any
    ) -> FloatArray:
        """Its back-solve on a support. -> float64 (p,)"""
        out = np.zeros(centre.size)
        out[support] = self._code.compute_inverse(target, rows[:, support], linear[support], half, centre[support])
        return out

    def back_solve(self, rows: Any, weights: Any, ridge: float, keep: int) -> Any:
        """Heuristic_LS without a first-order term: magnitude's support. float32 (n, p), (p,) -> (p,)"""
        zero = np.zeros_like(weights)
        return self._code.Heuristic_LS(rows @ weights, rows, weights, keep, zero, 0, ridge / 2, zero, weights)[0]


def large(names: list[str], seed: int, ridges: list[float]) -> Iterator[tuple[str, Any, QuadraticForm]]:
    """Name, float32 rows and form of each large instance."""
    for name in names:
        if name in ("layered", "digits"):
            rows, weights = layered(seed) if name == "layered" else digits(seed)
            for ridge in ridges:
                form = QuadraticForm(factor=rows, ridge=len(rows) * ridge, centre=weights)
                yield f"{name}, ridge {ridge:g}", rows, form
            continue
        problem, _, size = name.partition(":")
        held = cut_block(problem, size=int(size or 100_000), density=0.5, mode="refit", seed=seed,
                         curvature={"samples": 1000})  # fmt: skip
        yield name, held.form.factor, held.form


def small(seeds: list[int], kinds: list[str]) -> Iterator[tuple[str, BlockProblem]]:
    for seed in seeds:
        number = 0
        for kind in kinds:
            for p in SIZES:
                for share in SHARES:
                    n = SAMPLES[(number + seed) % len(SAMPLES)]
                    number += 1
                    yield (
                        f"{kind}, p {p}, keep {p // share}, n {n}, seed {seed}",
                        block_of(kind, n, p, p // share, seed),
                    )
            number += 1


def fresh(form: QuadraticForm, keep: int) -> BlockProblem:
    """A block on a form of its own, so that no method gains from what another derived."""
    given: dict[str, Any] = {"factor": form.factor} if form.factor is not None else {"hessian": form.hessian}
    own = QuadraticForm(ridge=form.ridge, linear=form.linear, centre=form.centre, constant=form.constant, **given)
    return BlockProblem(own, form.centre, keep, "refit", problem="")


def medians(runs: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, Any], dict[str, float]]:
    """What each run gives, and its median CPU seconds; the runs alternate, and a first round is not counted."""
    out = {name: run() for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            out[name] = run()
            times[name].append(time.process_time() - start)
    return out, {name: statistics.median(held) for name, held in times.items()}


def searched(
    title: str, name: str, form: QuadraticForm, keep: int, release: Release, chosen: argparse.Namespace
) -> Row:
    """One row: the release and the solvers."""
    rows = form.factor if form.factor is not None else form.square_root()
    wide = np.asarray(rows, dtype=np.float64)
    block = fresh(form, keep)
    blocks = {solver: [fresh(form, keep) for _ in range(chosen.repeats + 1)] for solver in chosen.solvers}
    runs: dict[str, Callable[[], Any]] = {"release": partial(release.iht, wide, block)}
    runs |= {solver: partial(lambda solver: solve(blocks[solver].pop(), solver), solver) for solver in chosen.solvers}
    found, seconds = medians(runs, chosen.repeats)
    theirs = found["release"]
    support = top_mask(np.where(theirs != 0.0, np.abs(theirs), -1.0), keep)
    base = min(form.value(theirs), block.evaluate(support))
    magnitude = block.evaluate(block.incumbent)
    cells: dict[str, Any] = {
        "block": name, "keep": keep, "magnitude / release": magnitude / base, "release": base,
        "release s": seconds["release"],
    }  # fmt: skip
    for solver in chosen.solvers:
        cells |= {f"{solver} / release": found[solver].objective / base, f"{solver} s ratio":
                  seconds[solver] / seconds["release"]}  # fmt: skip
    return Row(title, cells)


def floor(rows: Any, support: Any, ridge: float) -> Any:
    """The columns gathered, their Gram matrix and its Cholesky factor: the least a back-solve of n < k does."""
    columns = rows.take(support, axis=1)
    gram = columns @ columns.T if support.size > len(rows) else columns.T @ columns
    gram[np.diag_indices_from(gram)] += gram.dtype.type(ridge)
    return scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)


def back_solved(name: str, rows: Any, form: QuadraticForm, keep: int, release: Release, repeats: int) -> Row:
    """One row: Heuristic_LS, `refit` and the floor on magnitude's support."""
    weights, ridge = np.array(form.centre), float(form.ridge[0])
    mask: BoolArray = top_mask(np.abs(weights), keep)
    block = fresh(form, keep)
    found, seconds = medians({
        "release": partial(release.back_solve, rows, weights.astype(rows.dtype), ridge, keep),
        "ours": partial(block.form.refit, mask),
        "floor": partial(floor, rows, np.flatnonzero(mask), ridge),
    }, 2 * repeats + 1)  # fmt: skip
    return Row("back-solve on magnitude's support, float32", {
        "block": name, "keep": keep, "f ours / release": form.value(found["ours"]) / form.value(found["release"]),
        "release s": seconds["release"], "ours s": seconds["ours"], "floor s": seconds["floor"],
        "ours / release": seconds["ours"] / seconds["release"], "ours / floor": seconds["ours"] / seconds["floor"],
    })  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", type=Path, metavar="FOLDER", help="holds the released code")
    parser.add_argument("--tables", nargs="+", choices=["small", "large", "back-solve"],
                        default=["small", "large", "back-solve"])  # fmt: skip
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help="of the small blocks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11], help="of the small blocks")
    parser.add_argument("--instances", nargs="+", default=["layered", "digits", "mlpnet-mnist:32360",
                        "resnet20-cifar10:30000"], help="of the large blocks")  # fmt: skip
    parser.add_argument("--ridges", type=float, nargs="+", default=[1e-6, 1e-4], help="of layered and digits")
    parser.add_argument("--densities", type=float, nargs="+", default=list(DENSITIES))
    parser.add_argument("--seed", type=int, default=3, help="of the large blocks")
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS))
    parser.add_argument("--repeats", type=int, default=3)


def tables(chosen: argparse.Namespace) -> Iterator[Row]:
    if chosen.release is None:
        raise SystemExit("--release is missing; give a folder that holds a checkout of mazumder-lab/CHITA")
    release = Release(chosen.release)
    held: list[Row] = []
    if "small" in chosen.tables:
        for name, block in small(chosen.seeds, chosen.kinds):
            held.append(searched("small blocks", name, block.form, block.keep, release, chosen))
            yield held[-1]
    for name, rows, form in (
        large(chosen.instances, chosen.seed, chosen.ridges)
        if len(chosen.tables) > 1 or "small" not in chosen.tables
        else ()
    ):
        for density in chosen.densities:
            keep = round(density * form.p)
            if "large" in chosen.tables:
                held.append(searched("large blocks", name, form, keep, release, chosen))
                yield held[-1]
            if "back-solve" in chosen.tables:
                yield back_solved(name, rows, form, keep, release, chosen.repeats)
    for solver in chosen.solvers if held else ():
        ratios = [row.values[f"{solver} / release"] for row in held]
        times = [row.values[f"{solver} s ratio"] for row in held]
        yield Row("all blocks", {
            "solver": solver, "blocks": len(held), "above the release": sum(ratio > 1.0 + SAME for ratio in ratios),
            "worst f ratio": max(ratios), "median f ratio": statistics.median(ratios),
            "slower": sum(ratio > 1.0 for ratio in times), "worst s ratio": max(times),
            "median s ratio": statistics.median(times),
        })  # fmt: skip


QUICK: dict[str, Any] = {"kinds": ["independent"], "instances": ["layered"], "densities": [0.2], "ridges": [1e-4]}
BENCHMARK = Benchmark(__file__, __doc__, tables, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
