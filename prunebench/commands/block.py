"""Cut one block problem out of a network, write it to a file, and show its graph of couplings."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.coordinators.quotas import QuotaKind
from prunebench.core.block import MODES, BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import make_problem, require_data
from prunebench.core.subset import of_subset
from prunebench.meanings.bits.slices import checked_bits, sliced
from prunebench.runs.cut import cut_block


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The problem, the block's size and density, and which weights it takes."""
    parser.add_argument("problem", metavar="PROBLEM", help=shared.PROBLEM_HELP)
    parser.add_argument("--size", type=shared.positive_int, metavar="P", help="weights in the block")
    parser.add_argument(
        "--structure",
        metavar="KINDS",
        help="in place of weights, all groups of the network of these kinds or families ('usual': channels, neurons, "
        "heads); the density is a part of the multiply-accumulates, and every family keeps what that leaves it",
    )
    parser.add_argument(
        "--coupling",
        type=float,
        default=1.0,
        metavar="T",
        help="with --structure: the part of the groups' mutual curvature that counts, 0 to 1 (default: 1)",
    )
    parser.add_argument(
        "--by",
        choices=("counts", "budget"),
        help="with --structure: every family keeps the count that the density leaves it, or the solver decides within "
        "the multiply-accumulates (default: counts)",
    )
    parser.add_argument(
        "--density",
        type=shared.density,
        metavar="D",
        help="the part that is kept; a quota N:M says it by itself; with --structure half where it is left out",
    )
    parser.add_argument(
        "--quota", metavar="KIND", help="layer or row (each keeps the same part), or N:M as in 2:4 (default: none)"
    )
    parser.add_argument(
        "--select", default="random", metavar="SCORE", help="random, row, or a score: the P highest (default: random)"
    )
    parser.add_argument(
        "--graph",
        action="store_true",
        help="also the coupling graph: communities, and whether an annealer holds it",
    )
    parser.add_argument("--mode", choices=MODES, default="select", help="default: select")
    parser.add_argument(
        "--bits",
        metavar="0,B,…",
        help="choose slices of quantised weights in place of weights: how many bits a weight may have, as 0,4,8; needs "
        "--budget in place of --density",
    )
    parser.add_argument("--budget", type=shared.finite, metavar="BITS", help="with --bits: bits a weight, on average")
    shared.add_curvature(parser)
    parser.add_argument(
        "--subset", type=Path, metavar="FILE.npz", help="a file of 'prunebench samples': gradients of its samples alone"
    )
    parser.add_argument("--seed", type=shared.seed, default=0, help="which weights and samples (default: 0)")
    shared.add_options(parser, "the problem")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz", help="where to write the block")


HALF = 0.5
"""The part of the multiply-accumulates that a block of groups keeps where none is named: as most papers report."""


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Cut, write, describe."""
    shared.require_folder(arguments.output)
    halved = arguments.structure is not None and arguments.density is None
    if halved:
        arguments.density = HALF
    if arguments.bits is not None or arguments.budget is not None:
        arguments.density = _sliced_density(arguments)
    if arguments.density is None and QuotaKind.parse(arguments.quota).density is None:
        raise InvalidInput("--density is missing: give the part that is kept, or a --quota N:M")
    block = _groups(arguments) if arguments.structure is not None else _weights(arguments)
    block.save(arguments.output)
    form = block.form
    result: dict[str, Any] = {
        "problem": block.problem,
        "file": str(arguments.output),
        "p": block.p,
        "items": block.word,
        "keep": block.keep,
        "budgets": [] if block.budget is None else budget_rows(block.budget),
        "quota_groups": None if block.quota is None else int(block.quota.counts.size),
        "mode": block.mode,
        "held": "factor" if form.factor is not None else "hessian",
        "rows": int(form.factor.shape[0]) if form.factor is not None else block.p,
        "random_mean": block.random_mean(),
        "incumbent_objective": block.evaluate(block.incumbent),
        "block_hash": block.hash,
    }
    if halved:
        result["density"] = HALF
    if arguments.graph:
        from prunebench.forms import graph

        result["graph"] = graph.describe(block)
    return result


def budget_rows(budget: Cost) -> list[dict[str, Any]]:
    """The budgets as rows of name, limit, and what all weights cost."""
    rows = zip(budget.names, budget.limits, budget.costs.sum(axis=1), strict=True)
    return [{"name": name, "limit": float(limit), "of": float(whole)} for name, limit, whole in rows]


ALL = 1.0
"""The density of a block that is sliced afterwards: the budget of bits says what is kept."""


def _sliced_density(arguments: argparse.Namespace) -> float:
    """The density that a block of slices is cut with.

    Raises
    ------
    InvalidInput   --bits and --budget do not stand together, or beside what says otherwise how much is kept
    """
    if arguments.bits is None or arguments.budget is None:
        missing = "--budget" if arguments.budget is None else "--bits"
        raise InvalidInput(f"{missing} is missing: say both, as in --bits 0,4,8 --budget 2.0")
    beside = [name for name in ("density", "quota", "structure") if getattr(arguments, name) is not None]
    if beside:
        raise InvalidInput(f"--{beside[0]} says how much is kept, and so does --budget; leave one of them out")
    if arguments.mode != "select":
        raise InvalidInput("slices have fixed values, and --mode refit moves them; leave --mode out")
    checked_bits(_bits(arguments.bits))
    return ALL


def _bits(text: str) -> tuple[int, ...]:
    """The numbers of a list with commas.

    Raises
    ------
    InvalidInput   one is no whole number
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"--bits {text} is no list of whole numbers; write it as 0,4,8") from None


def _weights(arguments: argparse.Namespace) -> BlockProblem:
    """A block of weights, or of their slices.

    Raises
    ------
    InvalidInput   its size is missing
    """
    if arguments.by is not None:
        raise InvalidInput("--by is of groups: give --structure, or leave it out")
    if arguments.size is None:
        raise InvalidInput("--size is missing: give how many weights the block has, or --structure for groups")
    options, problem = shared.pairs(arguments.option), arguments.problem
    if arguments.subset is not None:
        made = make_problem(problem, options)
        require_data(made)
        options, problem = {}, of_subset(made, arguments.subset)
    block = cut_block(
        problem,
        size=arguments.size,
        density=arguments.density,
        select=arguments.select,
        mode=arguments.mode,
        curvature=shared.curvature(arguments),
        seed=arguments.seed,
        options=options,
        quota=arguments.quota,
    )
    return block if arguments.bits is None else sliced(block, _bits(arguments.bits), arguments.budget)


def _groups(arguments: argparse.Namespace) -> BlockProblem:
    """A block of gates on groups.

    Raises
    ------
    InvalidInput   what is said of weights alone
    """
    from prunebench.runs.structured import cut_groups

    if arguments.size is not None or arguments.quota is not None or arguments.mode != "select":
        raise InvalidInput("--size, --quota and --mode are of weights; with --structure leave them out")
    if arguments.subset is not None:
        raise InvalidInput("--subset is for blocks of weights; with --structure leave it out")
    return cut_groups(
        arguments.problem,
        structure="" if arguments.structure == "usual" else arguments.structure,
        density=arguments.density,
        coupling=arguments.coupling,
        samples=arguments.samples,
        seed=arguments.seed,
        options=shared.pairs(arguments.option),
        by=arguments.by or "counts",
    )


def text(result: dict[str, Any]) -> str:
    """What was written."""
    groups = f" ({result['quota_groups']} groups with counts of their own)" if result["quota_groups"] else ""
    kept = f"keep {result['keep']}{groups}"
    if result["budgets"]:
        told = (f"{held['name']} up to {held['limit']:.12g} of {held['of']:.12g}" for held in result["budgets"])
        kept = f"budget {', '.join(told)}"
    lines = [
        f"wrote {result['file']}: {result['p']} {result['items']} of {result['problem']}, {kept}, "
        f"mode {result['mode']}, {result['held']} with {result['rows']} rows",
        f"magnitude pruning costs {result['incumbent_objective']:.6g}, a random mask {result['random_mean']:.6g}",
        f"hash {result['block_hash']}",
    ]
    if "density" in result:
        lines.append(f"no --density is given: {result['density']:g} of the multiply-accumulates")
    if "graph" in result:
        from prunebench.forms import graph

        lines.append(graph.text(result["graph"]))
    return "\n".join(lines)
