"""What `--bound` proves on blocks of 1,024 to 100,000 weights, and how far that is from the best mask found.

    python benchmarks/bounds.py --before
    python benchmarks/bounds.py --modes refit --cases mlpnet-mnist,1024,512,1e-3 resnet20-cifar10,100000,128

The mask is the best of `swap` and, in mode refit, `admm`. The gap is (objective − bound)/|objective|, so it holds both
what the bound lacks and what the mask lacks. "before" has the Lagrangian dual above 600 weights, which is what those
blocks had before. Every bound is derived again from its certificate. Set OPENBLAS_NUM_THREADS=1.
"""

import argparse
import os
from collections.abc import Iterator

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from prunebench import BlockProblem, Budget, solve
from prunebench.core.block import MODES, Mode
from prunebench.kernels.relaxations import bounds
from prunebench.kernels.relaxations.certificate import derive
from prunebench.runs.cut import cut_block
from runner import Benchmark, Note, Row, cpu_seconds

BEFORE = {"select": 600, "refit": 600}
"""Up to this p the dense relaxation was solved before."""
CASES = [
    *((problem, 1024, samples, 1e-2) for problem in ("digits-mlp", "mlpnet-mnist") for samples in (128, 512, 1000)),
    *((problem, 1024, 1024, 1e-3) for problem in ("digits-mlp", "mlpnet-mnist")),
    ("mlpnet-mnist", 2048, 1000, 1e-2),
    ("mlpnet-mnist", 10_000, 1000, 1e-2),
    ("mlpnet-mnist", 32_360, 1000, 1e-2),
    ("resnet20-cifar10", 100_000, 128, 1e-2),
]
"""Problem, weights, samples and ridge relative to the mean diagonal, whose default is a hundredth; 32,360 weights are a
whole network. With a smaller ridge and more samples the bound is weaker."""
HEURISTICS: dict[Mode, tuple[str, ...]] = {"select": ("swap",), "refit": ("swap", "admm")}
"""Where the masks come from."""


def with_best_mask(block: BlockProblem, seconds: float) -> BlockProblem:
    """The block with the heuristics' best mask as its incumbent."""
    answers = [solve(block, name, budget=Budget(seconds=seconds)) for name in HEURISTICS[block.mode]]
    return block.with_start(min(answers, key=lambda answer: answer.objective).mask)


def bounded(block: BlockProblem, sizes: dict[str, int], seconds: float) -> tuple[bounds.Bound, float]:
    """The bound with dense relaxations up to `sizes` weights, and its CPU seconds."""
    held, bounds.DENSE_SIZE = bounds.DENSE_SIZE, sizes
    try:
        return cpu_seconds(lambda: bounds.lower_bound(block, seconds), 1)
    finally:
        bounds.DENSE_SIZE = held


def case(text: str) -> tuple[str, int, int, float]:
    """A problem, its weights, samples and ridge out of "PROBLEM,P,N" or "PROBLEM,P,N,RIDGE"."""
    problem, size, samples, *ridge = text.split(",")
    return problem, int(size), int(samples), float(ridge[0]) if ridge else 1e-2


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", type=case, nargs="+", default=CASES, metavar="PROBLEM,P,N[,RIDGE]")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--limit", type=float, default=60.0, help="wall seconds a bound")
    parser.add_argument("--search", type=float, default=10.0, help="wall seconds a heuristic")
    parser.add_argument("--before", action="store_true", help="also the Lagrangian dual above 600 weights")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    title = f"keep {chosen.density:g} p: lower bounds in at most {chosen.limit:g} wall seconds, one thread"
    for mode in chosen.modes:
        for problem, size, samples, ridge in chosen.cases:
            curvature = {"samples": samples, "ridge": ridge}
            try:
                block = cut_block(problem, size=size, density=chosen.density, mode=mode, curvature=curvature)
            except ValueError as error:
                yield Note(f"{problem}, {size} weights, {samples} samples: {error}")
                continue
            yield Row(title, {"problem": problem, "ridge": ridge, **row(block, samples, chosen)})


def row(block: BlockProblem, samples: int, chosen: argparse.Namespace) -> dict[str, object]:
    """One block's objective, bound and gap."""
    block = with_best_mask(block, chosen.search)
    objective = block.evaluate(block.incumbent)
    found, seconds = bounded(block, bounds.DENSE_SIZE, chosen.limit)
    certificate = found.details.get("certificate", {})
    if derive(block, certificate) != found.value and found.method != bounds.UNCONSTRAINED:
        raise SystemExit(f"the certificate of {block.name} does not give its bound")
    cells: dict[str, object] = {
        "mode": block.mode, "p": block.p, "n": samples, "keep": block.keep, "objective": objective,
        "bound": found.value, "gap": (objective - found.value) / abs(objective), "method": found.method,
        "CPU s": seconds,
    }  # fmt: skip
    if chosen.before:
        before, _ = bounded(block, BEFORE, chosen.limit)
        cells["gap before"] = (objective - before.value) / abs(objective)
    return cells


QUICK = {"cases": [("digits-mlp", 700, 64, 1e-2)], "limit": 10.0, "search": 2.0}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
