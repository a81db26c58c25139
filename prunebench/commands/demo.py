"""The main job on the network that needs no download: train it, let solvers compete for its blocks, prune it."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.coordinator.cut import cut_block
from prunebench.coordinator.prune import PruneRequest, prune
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput, SolverRefused
from prunebench.core.registry import SOLVERS, missing_packages
from prunebench.core.solution import Budget
from prunebench.core.solution_file import finite
from prunebench.core.solver import solve
from prunebench.log.run_directory import next_free
from prunebench.testing.instances import instance

PROBLEM = "digits-mlp"
SIZES = (16, 64)
DENSITY = 0.1
SECONDS = 5.0
BLOCK_SOLVERS = (
    "magnitude",
    "swap",
    "exhaustive",
    "iht",
    "branch-and-bound",
    "highs",
    "anneal",
    "neal",
    "qaoa-subspace",
)
"""Solvers that compete for the blocks, in this order; those not installed are named as skipped."""

NETWORK_SOLVERS = ("magnitude", "iht", "admm", "swap")
"""Solvers that prune the whole network as one block."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/demo-NNN, the first that is free")
    parser.add_argument("--seed", type=shared.seed, default=0, help="the seed of everything random (default: 0)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Blocks first, then the whole network."""
    out: Path = arguments.out or next_free(Path("runs"), "demo")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} exists and is not empty; choose another --out")
    say = shared.teller(arguments)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in BLOCK_SOLVERS:
        # Compiled code is compiled at its first call; that must not count as solving time.
        say(f"preparing {name}")
        _compete(instance("gaussian", 1, "select", p=6), name, arguments.seed)
    for size in SIZES:
        say(f"cutting a block of {size} weights out of {PROBLEM} (the network is trained the first time)")
        block = cut_block(PROBLEM, size=size, density=0.5, select="row", seed=arguments.seed)
        block.save(out / f"block-{size}.npz")
        for name in BLOCK_SOLVERS:
            say(f"block of {size}: {name}")
            rows.append(_compete(block, name, arguments.seed))
        _add_gaps(block, [row for row in rows if row["block_hash"] == block.hash])
    pruned = []
    for name in (name for name in NETWORK_SOLVERS if name in SOLVERS.names()):
        say(f"pruning {PROBLEM} to density {DENSITY} with {name}")
        request = PruneRequest(problem=PROBLEM, density=DENSITY, solver=name, seconds=20.0, seed=arguments.seed)
        pruned.append(prune(request, out=out / f"prune-{name}", say=say))
    _write_table(out, rows)
    return {"out": str(out), "blocks": rows, "pruned": pruned}


def text(result: dict[str, Any]) -> str:
    """The two tables."""
    lines = ["The same blocks, select mode, half of the weights kept:", ""]
    lines.append(
        f"{'p':>4}  {'block':<10} {'solver':<18} {'objective':>14} {'lower bound':>14} {'gap':>9} "
        f"{'seconds':>8}  status"
    )
    for row in result["blocks"]:
        if row["skipped"]:
            lines.append(f"{row['p']:>4}  {row['block_hash'][:8]:<10} {row['solver']:<18} skipped: {row['skipped']}")
            continue
        bound = "none" if row["lower_bound"] is None else f"{row['lower_bound']:.6e}"
        gap = "unknown" if row["gap"] is None else f"{row['gap']:.1e}" + ("*" if row["gap_to"] == "best" else "")
        lines.append(
            f"{row['p']:>4}  {row['block_hash'][:8]:<10} {row['solver']:<18} {row['objective']:>14.6e} {bound:>14} "
            f"{gap:>9} {row['seconds']:>8.3f}  {row['status']}"
        )
    lines += [
        "",
        "gap: to the best bound proved by any solver (* to the best objective); 0 optimal, 1 a random mask.",
        f"seconds: solving alone, limited to {SECONDS:g}; code is compiled before.",
    ]
    lines += ["", f"{PROBLEM} pruned to density {DENSITY} in one shot:", ""]
    lines.append(f"{'solver':<12} {'mode':<8} {'kept':>6} {'accuracy':>9} {'loss':>9} {'seconds':>8}")
    for row in result["pruned"]:
        lines.append(
            f"{row['solver']:<12} {row['mode']:<8} {row['kept']:>6} {row['accuracy']:>9.4f} {row['loss']:>9.4f} "
            f"{row['seconds']:>8.1f}"
        )
    dense = result["pruned"][0]
    lines.append(
        f"{'dense':<12} {'':<8} {dense['total']:>6} {dense['dense_accuracy']:>9.4f} {dense['dense_loss']:>9.4f}"
    )
    lines += ["", f"Everything is in {result['out']}."]
    return "\n".join(lines)


def _compete(block: BlockProblem, name: str, seed: int) -> dict[str, Any]:
    """One solver on one block, or the reason why it is left out."""
    row: dict[str, Any] = {"p": block.p, "keep": block.keep, "block_hash": block.hash, "solver": name, "skipped": ""}
    if name not in SOLVERS.names():
        return {**row, "skipped": "not registered"}
    cls = SOLVERS.get(name)
    missing = missing_packages(cls.requires)
    if missing:
        return {**row, "skipped": f"needs {', '.join(missing)}"}
    try:
        answer = solve(block, name, budget=Budget(seconds=SECONDS), seed=seed)
    except SolverRefused as error:
        return {**row, "skipped": str(error).split("): ", 1)[-1]}
    return {
        **row,
        "objective": answer.objective,
        "lower_bound": finite(answer.lower_bound),
        "seconds": answer.timings["total"],
        "status": str(answer.status),
    }


def _add_gaps(block: BlockProblem, rows: list[dict[str, Any]]) -> None:
    """The gap of every solver to the best bound that any of them proved, else to the best objective found."""
    solved = [row for row in rows if not row["skipped"]]
    bounds = [row["lower_bound"] for row in solved if row["lower_bound"] is not None]
    best = min(row["objective"] for row in solved)
    proved = bool(bounds) and block.gap(best, max(bounds)) <= 1.0
    for row in solved:
        row["gap"] = finite(block.gap(row["objective"], max(bounds) if proved else best))
        row["gap_to"] = "bound" if proved else "best"


def _write_table(out: Path, rows: list[dict[str, Any]]) -> None:
    import pandas

    pandas.DataFrame(rows).to_parquet(out / "results.parquet", index=False)
