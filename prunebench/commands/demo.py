"""The full picture on a network that needs no download: solver families on blocks and inside iCBS, and a report."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.comparison import table
from prunebench.comparison.run import compare
from prunebench.core.errors import InvalidInput
from prunebench.log.run_directory import next_free
from prunebench.runs.prune import PruneRequest, prune

PROBLEM = "digits-mlp"
"""A network that trains in seconds and needs no download."""
SIZES = (16, 32, 64)
"""Weights of the compared blocks."""
BLOCKS = 2
"""Blocks of each size."""
SEEDS = 2
"""Seeds of each stochastic solver: the fewest that show a spread."""
SECONDS = 0.5
"""Time limit of a solve in seconds: small, since the demo makes more than a hundred of them."""
BLOCK_SOLVERS = (
    "magnitude",
    "exhaustive",
    "iht",
    "branch-and-bound",
    "highs",
    "anneal",
    "neal",
    "qaoa-subspace",
)
"""Solvers that compete for the blocks beside random sampling, greedy elimination and swap descent."""

DENSITY = 0.1
"""Part of the weights that the pruning runs keep."""


@dataclass(frozen=True)
class Family:
    """A solver family and how it takes part in block coordinate descent."""

    family: str
    solver: str
    options: dict[str, Any] = field(default_factory=dict)
    mode: str = "select"


SMALL_BLOCKS = {"block_size": 16, "blocks_per_step": 2, "steps": 30}
"""Blocks that every family can take; the quantum simulator holds all masks of a block in memory."""

FAMILIES = (
    Family("iterative hard thresholding", "iht", SMALL_BLOCKS),
    Family("exact", "branch-and-bound", SMALL_BLOCKS),
    Family("annealing", "anneal", SMALL_BLOCKS),
    Family("quantum (simulated)", "qaoa-subspace", SMALL_BLOCKS),
    Family("swap descent, larger blocks, refit", "swap", {
        "block_size": 256, "blocks_per_step": 2, "steps": 30, "samples": 500, "block_scope": "network"
    }, "refit"),
)  # fmt: skip
"""One solver of each family, inside the same coordinator."""
BLOCK_SECONDS = 0.1
"""Time limit of a block in the pruning runs, in seconds: each family has 60 of them."""

BASELINES = ("magnitude", "admm")
"""Solvers of one-shot pruning."""
BASELINE_DENSITIES = (0.05, 0.1, 0.2, 0.4)
"""One-shot pruning that the report draws as points beside the runs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/demo-NNN, the first that is free")
    parser.add_argument("--seed", type=shared.seed, default=0, help="the seed of everything random (default: 0)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare on blocks, prune the network with each family, write the report."""
    from prunebench.report import write_report

    out: Path = arguments.out or next_free(Path("runs"), "demo")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} exists and is not empty; choose another --out")
    say = shared.teller(arguments)
    out.mkdir(parents=True, exist_ok=True)
    say(f"solvers on the same blocks of {PROBLEM} (the network is trained, and code compiled, the first time)")
    frame = compare(
        PROBLEM,
        BLOCK_SOLVERS,
        out=out / "compare",
        say=say,
        sizes=SIZES,
        blocks=BLOCKS,
        seeds=SEEDS,
        time_limit=SECONDS,
        select="row",
        seed=arguments.seed,
    )
    baselines = []
    for density in BASELINE_DENSITIES:
        for solver in BASELINES:
            say(f"one-shot pruning to density {density:g} with {solver}")
            request = PruneRequest(problem=PROBLEM, density=density, solver=solver, seconds=20.0, seed=arguments.seed)
            baselines.append(prune(request, out=out / f"one-shot-{solver}-{density:g}"))
    pruned = []
    for family in FAMILIES:
        say(f"iCBS to density {DENSITY:g}: {family.family} ({family.solver})")
        request = PruneRequest(
            problem=PROBLEM,
            density=DENSITY,
            solver=family.solver,
            coordinator="icbs",
            mode="refit" if family.mode == "refit" else "select",
            coordinator_options=family.options,
            block_seconds=BLOCK_SECONDS,
            validate_every=2,
            seed=arguments.seed,
        )
        result = prune(request, out=out / f"icbs-{family.solver}")
        pruned.append({**result, "family": family.family, "block_size": family.options["block_size"]})
    say("writing the report")
    page = write_report([out], out / "report.html")
    return {
        "out": str(out),
        "report": str(page),
        "blocks": table.summary(frame).to_dict("records"),
        "one_shot": baselines,
        "pruned": pruned,
    }


def text(result: dict[str, Any]) -> str:
    """The two tables, and where the report is."""
    lines = [f"The same blocks of {PROBLEM}, select mode, half of the weights kept, {SECONDS:g} s a solve:", ""]
    lines.append(f"{'p':>4}  {'solver':<18} {'runs':>4} {'mean gap':>10} {'proved':>6} {'TTS99':>10} {'seconds':>8}")
    for row in result["blocks"]:
        head = f"{row['p']:>4}  {row['solver']:<18} {row['runs']:>4}"
        if not row["runs"]:
            lines.append(f"{head} skipped: {row['reason']}")
            continue
        gap = f"{row['gap']:.1e}{'' if row['gap_to'] == 'bound' else '*'}"
        time = "never" if row["time_to_solution"] == float("inf") else f"{row['time_to_solution']:.2g} s"
        lines.append(f"{head} {gap:>10} {int(row['optimal']):>6} {time:>10} {row['seconds']:>8.3f}")
    lines += [
        "",
        "gap: to the best bound proved by any solver (* to the best objective); 0 optimal, 1 a random mask.",
        "TTS99: time to within 1e-3 of the best objective known, with probability 0.99.",
        "",
        f"{PROBLEM} pruned to density {DENSITY:g}:",
        "",
    ]
    lines.append(f"{'how':<52} {'block':>5} {'kept':>6} {'accuracy':>9} {'loss':>9} {'seconds':>8}")
    dense = result["one_shot"][0]
    lines.append(
        f"{'dense network':<52} {'':>5} {dense['total']:>6} {dense['dense_accuracy']:>9.4f} {dense['dense_loss']:>9.4f}"
    )
    for row in result["one_shot"]:
        if row["density"] == DENSITY:
            lines.append(_line(f"one-shot, {row['solver']}", "", row))
    for row in result["pruned"]:
        lines.append(_line(f"iCBS, {row['family']}: {row['solver']}", row["block_size"], row))
    lines += [
        "",
        "The first four iCBS runs differ in the solver alone. Blocks of 16 are small for everybody but the quantum",
        "simulator: what the larger blocks of the last line buy is the reason to have solvers that can take them.",
        "",
        f"Everything is in {result['out']}; open {result['report']} in a browser.",
    ]
    return "\n".join(lines)


def _line(how: str, size: Any, row: dict[str, Any]) -> str:
    return (
        f"{how:<52} {size:>5} {row['kept']:>6} {row['accuracy']:>9.4f} {row['loss']:>9.4f} "
        f"{row['timings']['solve']:>8.1f}"
    )
