"""Every solver, and runs of coordinators, here and at another checkout: CPU seconds and objectives, side by side.

    git worktree add ../before REVISION
    python benchmarks/before_after.py --before ../before
    python benchmarks/before_after.py --only solve:swap prune      # cases whose names begin so

Each case is done in a process of either checkout, in turn: once to compile and to load, then --repeats times; the least
CPU seconds count. Blocks are drawn by a seed, one thread. Solvers run with what they do by default in either, so a case
that takes longer may find a better mask: objectives stand beside it. Without --before only this checkout is measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from runner import ROOT, Benchmark, Note, Row

SOLVES = {
    "select": (
        ("magnitude", 1024), ("obd", 1024), ("greedy", 256), ("random", 256), ("swap", 64), ("swap", 256),
        ("swap", 1024), ("anneal", 64), ("anneal", 256), ("neal", 64), ("tabu", 64), ("steepest-descent", 64),
        ("path-integral", 32), ("qaoa", 12), ("qaoa-subspace", 14), ("exhaustive", 20), ("branch-and-bound", 48),
        ("branch-and-bound", 64), ("highs", 24), ("pyomo", 16),
    ),
    "refit": (
        ("magnitude", 1024), ("obd", 1024), ("greedy", 64), ("swap", 64), ("swap", 256), ("swap", 1024), ("admm", 256),
        ("admm", 1024), ("obs", 256), ("obc", 256), ("cbs", 64), ("woodfisher", 256), ("mfac", 256), ("iht", 256),
        ("chita", 256), ("chita-bso", 1024), ("exhaustive", 16), ("branch-and-bound", 48), ("highs", 24),
    ),
}  # fmt: skip
"""Solver and weights of the block, by mode; half of the weights are kept."""
GROUPS = (("group-greedy", 32), ("group-swap", 32), ("group-exact", 16), ("osscar", 32))
"""Solver and groups of the block, four inputs and eight outputs each; half of the groups are kept."""
PRUNES = {
    "one-shot chita-bso": {"coordinator": "one-shot", "solver": "chita-bso", "density": 0.2},
    "one-shot admm": {"coordinator": "one-shot", "solver": "admm", "density": 0.2},
    "icbs swap": {"coordinator": "icbs", "solver": "swap", "density": 0.2, "coordinator_options": {"steps": 10}},
    "layer-wise sparsegpt": {"coordinator": "layer-wise", "solver": "sparsegpt", "density": 0.5},
    "multi-stage chita-bso": {
        "coordinator": "multi-stage", "solver": "chita-bso", "density": 0.1, "coordinator_options": {"stages": 4},
    },
    "structured osscar": {"coordinator": "structured", "solver": "osscar", "density": 0.5},
}  # fmt: skip
"""Requests of runs of digits-mlp."""

WORK = """
import json, sys, tempfile, time
from pathlib import Path
import numpy as np
kind, name, size, mode, request, repeats = json.loads(sys.argv[1])
if kind == "prune":
    from prunebench.runs.prune import PruneRequest, prune
    asked = PruneRequest(problem="digits-mlp", seed=1, **request)
    def once():
        with tempfile.TemporaryDirectory() as folder:
            found = prune(asked, out=Path(folder) / "run", say=lambda _line: None)
        return found.get("objective", found.get("accuracy"))
else:
    from prunebench import BlockProblem, QuadraticForm, solve
    rng = np.random.default_rng(size)
    if kind == "groups":
        from prunebench.core.group_block import GroupBlock
        from prunebench.core.group_form import GroupForm
        inputs = rng.normal(size=(8 * size, 4 * size)) @ rng.normal(size=(4 * size, 4 * size))
        outputs = inputs @ rng.normal(size=(4 * size, 8))
        half = 0.5 * float((outputs**2).mean(axis=0).sum())
        ridge = 0.01 * float((inputs**2).mean())
        rows = len(inputs)
        form = GroupForm(inputs.T @ inputs / rows, inputs.T @ outputs / rows, np.arange(4 * size) // 4, ridge, half)
        block = GroupBlock(form, size // 2)
    else:
        factor, weights = rng.normal(size=(2 * size, size)), rng.normal(size=size)
        form = QuadraticForm(factor=factor, ridge=0.1, centre=weights)
        block = BlockProblem(form, weights, size // 2, mode)
    def once():
        return solve(block, name, seed=1).objective
once()
spent = []
for _ in range(repeats):
    before = time.process_time()
    value = once()
    spent.append(time.process_time() - before)
print(json.dumps([min(spent), None if value is None else float(value)]))
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another checkout, measured in turn")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="cases whose names begin so")
    parser.add_argument("--repeats", type=int, default=3)


def cases() -> Iterator[tuple[str, list[object]]]:
    """Name, and what `WORK` reads but for the repeats."""
    for mode, solvers in SOLVES.items():
        for solver, size in solvers:
            yield f"solve:{solver} {mode} {size}", ["solve", solver, size, mode, None]
    for solver, size in GROUPS:
        yield f"solve:{solver} groups {size}", ["groups", solver, size, "", None]
    for name, request in PRUNES.items():
        yield f"prune:{name}", ["prune", "", 0, "", request]


def measured(source: Path, case: list[object], repeats: int, cache: str) -> tuple[float, float | None] | str:
    """CPU seconds and value of a case at a checkout, or the last line of why not."""
    own = {
        "PYTHONPATH": str(source), "NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WORK, json.dumps([*case, repeats])], cwd=cache, env=dict(os.environ) | own,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    seconds, value = json.loads(done.stdout.splitlines()[-1])
    return seconds, value


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    sources = {"now": ROOT} | ({} if chosen.before is None else {"before": chosen.before.resolve()})
    with tempfile.TemporaryDirectory() as work:
        caches = {name: f"{work}/{name}" for name in sources}
        for cache in caches.values():
            Path(cache).mkdir()
        for name, case in cases():
            if chosen.only and not any(name.startswith(begin) for begin in chosen.only):
                continue
            values: dict[str, object] = {"case": name}
            for source, folder in sources.items():
                found = measured(folder, case, chosen.repeats, caches[source])
                if isinstance(found, str):
                    yield Note(f"{name}, {source}: {found}")
                    found = (float("nan"), None)
                values |= {f"CPU s, {source}": found[0], f"value, {source}": found[1]}
            if "before" in sources:
                values["now / before"] = float(str(values["CPU s, now"])) / float(str(values["CPU s, before"]))
            yield Row("CPU seconds of a solve or run with everything compiled, and its objective", values)


BENCHMARK = Benchmark(
    __file__, __doc__, rows, arguments, {"only": ["solve:magnitude", "solve:swap select 64"], "repeats": 1}
)

if __name__ == "__main__":
    BENCHMARK.main()
