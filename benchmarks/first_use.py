"""What a first solve costs: CPU seconds of a fresh process with an empty and with a full cache of compiled kernels.

    python benchmarks/first_use.py
    python benchmarks/first_use.py --solvers anneal:select --repeats 5
    python benchmarks/first_use.py --before FOLDER      # another checkout, measured in the same run

Each number is of a process of its own that imports prunebench and solves one block of 48 weights with at most 2000
evaluations; "commands" are whole processes of the command line with a full cache. One thread each; Python's bytecode
is written by a process before.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner import ROOT, Benchmark, Note, Row

SOLVERS = (
    "branch-and-bound:select", "branch-and-bound:refit", "anneal:select", "admm:refit", "swap:select", "swap:refit",
)  # fmt: skip
"""Solver and mode."""
SOLVE = """
import json, sys
import numpy as np
from prunebench import BlockProblem, Budget, QuadraticForm, solve
rng = np.random.default_rng(0)
factor, weights = rng.normal(size=(64, 48)), rng.normal(size=48)
solver, mode = sys.argv[1].split(":")
block = BlockProblem(QuadraticForm(factor=factor, ridge=0.1, centre=weights), weights, 20, mode)
found = solve(block, solver, budget=Budget(evaluations=2000))
print(json.dumps({"objective": found.objective}))
"""
COMMANDS = (("solvers",), ("solve", "select.npz"), ("solve", "refit.npz"))
"""Arguments of the command line; the blocks have 24 weights."""
BLOCKS = """
import numpy as np
from prunebench import BlockProblem, QuadraticForm
rng = np.random.default_rng(0)
factor, weights = rng.normal(size=(64, 24)), rng.normal(size=24)
form = QuadraticForm(factor=factor, ridge=0.1, centre=weights)
for mode in ("select", "refit"):
    BlockProblem(form, weights, 10, mode).save(f"{mode}.npz")
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), metavar="SOLVER:MODE")
    parser.add_argument("--repeats", type=int, default=3, help="processes a number; the median counts (default: 3)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another checkout to measure beside this one")


def process(arguments: Sequence[str], source: Path, cache: str, work: str) -> tuple[float, str]:
    """CPU seconds of a Python process with these arguments, and its output."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    own = {
        "PYTHONPATH": str(source), "NUMBA_CACHE_DIR": cache, "PYTHONPYCACHEPREFIX": f"{work}/bytecode",
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    before = os.times()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=work, env=kept | own, check=True, capture_output=True, text=True
    )
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return spent, done.stdout


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    sources = {"now": ROOT} | ({} if chosen.before is None else {"before": chosen.before.resolve()})
    yield Note("CPU seconds; empty: nothing compiled yet; full: all of it in the cache")
    with tempfile.TemporaryDirectory() as work:
        for source in sources.values():
            process(["-c", BLOCKS], source, f"{work}/blocks", work)
            # writes the bytecode of all that is imported
            process(["-c", SOLVE, "swap:select"], source, f"{work}/blocks", work)
        for solver in chosen.solvers:
            values: dict[str, object] = {"solver": solver}
            for name, source in sources.items():
                empty, full = [], []
                for repeat in range(chosen.repeats):
                    cache = f"{work}/{name}-{solver.replace(':', '-')}-{repeat}"
                    # the second process finds what the first compiled
                    empty.append(process(["-c", SOLVE, solver], source, cache, work)[0])
                    seconds, out = process(["-c", SOLVE, solver], source, cache, work)
                    full.append(seconds)
                values |= {f"empty, {name}": statistics.median(empty), f"full, {name}": statistics.median(full)}
                values[f"objective, {name}"] = json.loads(out)["objective"]
            values["empty / full"] = float(str(values["empty, now"])) / float(str(values["full, now"]))
            if "before" in sources:
                values["now / before"] = float(str(values["empty, now"])) / float(str(values["empty, before"]))
            yield Row("first solve", values)
        for command in COMMANDS:
            values = {"command": " ".join(command)}
            for name, source in sources.items():
                given, cache = ["-m", "prunebench", *command], f"{work}/commands-{name}"
                process(given, source, cache, work)
                spent = [process(given, source, cache, work)[0] for _ in range(chosen.repeats)]
                values[f"full, {name}"] = statistics.median(spent)
            if "before" in sources:
                values["now / before"] = float(str(values["full, now"])) / float(str(values["full, before"]))
            yield Row("commands", values)


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"solvers": ["swap:select"], "repeats": 1})

if __name__ == "__main__":
    BENCHMARK.main()
