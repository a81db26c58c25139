"""Prune a whole network and write the run directory: mask, weights, events and result."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.coordinators.quotas import pattern
from prunebench.coordinators.schedules import SCHEDULES
from prunebench.core.block import MODES
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.core.registry import PROBLEMS, SOLVERS
from prunebench.log.run_directory import resume_line
from prunebench.runs.prune import COORDINATORS, SCOPES, PruneRequest, loss_words, prune

ICBS_ARGUMENTS = ("init", "select", "block_size", "steps", "accept", "ablation")
STAGE_ARGUMENTS = ("stages", "schedule")
LAYER_ARGUMENTS = ("target",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The problem, the density, the solver, and how the work is cut into blocks."""
    parser.add_argument("problem", metavar="PROBLEM", help="a registered problem")
    parser.add_argument(
        "--density", type=shared.density, help="the part of the weights that is kept; a quota N:M says it too"
    )
    parser.add_argument("--solver", default="swap", help="a registered solver (default: swap)")
    shared.add_options(parser, "the solver, the problem or the coordinator")
    parser.add_argument("--coordinator", default="one-shot", help=f"one of {', '.join(COORDINATORS)}")
    parser.add_argument("--mode", choices=MODES, help="default: the solver's own; select with icbs")
    parser.add_argument("--scope", default="network", choices=SCOPES, help="one-shot: one block in all, or one a layer")
    shared.add_curvature(parser)
    parser.add_argument(
        "--store",
        metavar="FOLDER",
        help="one-shot, multi-stage: hold gradient rows in a mapped file there, where they are larger than memory",
    )
    icbs = parser.add_argument_group("coordinator icbs (all its options: 'prunebench coordinators')")
    icbs.add_argument("--init", metavar="SCORE", help="score of the first mask")
    icbs.add_argument("--select", metavar="SCORE", help="how a block is picked")
    icbs.add_argument("--block-size", type=shared.positive_int, metavar="P", help="weights in a block")
    icbs.add_argument("--steps", type=shared.positive_int, metavar="N", help="gradient passes")
    icbs.add_argument("--accept", metavar="RULE", help="true-loss, model or none")
    icbs.add_argument(
        "--ablation", metavar="NAME", help="clip-negative: the released program's fault, to show its cost"
    )
    icbs.add_argument("--start", type=Path, metavar="RUN", help="begin from a finished run of the same density")
    icbs.add_argument("--executor", metavar="WHERE", help="inline, local:N or dask:ADDRESS (default: inline)")
    icbs.add_argument("--block-time-limit", type=shared.seconds, metavar="SEC", help="seconds for each block")
    icbs.add_argument(
        "--validate-every", type=shared.positive_int, default=0, metavar="N", help="log accuracy every N steps"
    )
    stages = parser.add_argument_group("coordinator multi-stage (all its options: 'prunebench coordinators')")
    stages.add_argument("--stages", type=shared.positive_int, metavar="T", help="stages, each with new gradients")
    stages.add_argument("--schedule", metavar="NAME", help=f"how the density falls: {', '.join(SCHEDULES)}")
    layers = parser.add_argument_group("coordinator layer-wise (all its options: 'prunebench coordinators')")
    layers.add_argument("--target", metavar="WHAT", help="a layer's own outputs (own) or the dense network's (dense)")
    parser.add_argument(
        "--quota", metavar="UNIT", help="what is kept exactly: row, layer, or N:M such as 2:4 (not one-shot)"
    )
    parser.add_argument("--time-limit", type=shared.seconds, metavar="SEC", help="seconds for all solving together")
    parser.add_argument("--seed", type=shared.seed, default=0, help="the seed of everything random (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run directory; must not exist or be empty")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prune and return the result."""
    if arguments.coordinator not in COORDINATORS:
        raise unknown_name("coordinator", arguments.coordinator, COORDINATORS)
    owners = {"solver": SOLVERS.get(arguments.solver), "problem": PROBLEMS.get(arguments.problem)}
    kind = COORDINATORS[arguments.coordinator]
    if kind is not None:
        owners["coordinator"] = kind
    options = shared.split_options(arguments.option, owners)
    curvature, coordinator = shared.curvature(arguments), dict(options.get("coordinator", {}))
    if arguments.store is not None:
        if arguments.coordinator not in ("one-shot", "multi-stage"):
            raise InvalidInput(f"--store belongs to gradients of all weights; {arguments.coordinator} holds none")
        curvature["store"] = arguments.store
    if arguments.coordinator == "icbs":
        if "batch_size" in curvature:
            raise InvalidInput("--batch-size belongs to one-shot pruning; coordinator icbs takes one row a sample")
        coordinator |= curvature
        curvature = {}
    elif arguments.coordinator == "multi-stage":
        coordinator |= _stage_curvature(curvature)
        curvature = {}
    elif arguments.coordinator == "layer-wise":
        for name in ("batch_size", "gradient_scale"):
            if name in curvature:
                raise InvalidInput(
                    f"--{name.replace('_', '-')} belongs to gradients; coordinator layer-wise computes none"
                )
        coordinator |= curvature
        curvature = {}
    named = {
        name: getattr(arguments, name)
        for name in (*ICBS_ARGUMENTS, *STAGE_ARGUMENTS, *LAYER_ARGUMENTS, "quota")
        if getattr(arguments, name) is not None
    }
    coordinator |= named
    request = PruneRequest(
        problem=arguments.problem,
        density=_density(arguments.density, coordinator.get("quota")),
        solver=arguments.solver,
        problem_options=options["problem"],
        solver_options=options["solver"],
        coordinator=arguments.coordinator,
        mode=arguments.mode,
        scope=arguments.scope,
        curvature=curvature,
        coordinator_options=coordinator,
        executor=arguments.executor,
        block_seconds=arguments.block_time_limit,
        validate_every=arguments.validate_every,
        seconds=arguments.time_limit,
        seed=arguments.seed,
        start=None if arguments.start is None else str(arguments.start),
    )
    return shared.with_losses(lambda: prune(request, out=arguments.out, say=shared.teller(arguments)))


def failure(result: dict[str, Any]) -> str:
    """What a run that lost blocks says, "" for one that did not."""
    if result.get("outcome", "finished") == "finished":
        return ""
    return loss_words(result, resume_line(Path(result["run"])))


def _density(density: float | None, quota: Any) -> float:
    """The density given, or that of a quota N:M."""
    if density is not None:
        return density
    held = pattern(None if quota is None else str(quota))
    if held is None:
        raise InvalidInput("--density is missing; say which part of the weights is kept, for example --density 0.5")
    return held[0] / held[1]


def _stage_curvature(curvature: dict[str, Any]) -> dict[str, Any]:
    """Options of the curvature as those of the stages: one ridge or scale given is the only one tried."""
    out = {key: value for key, value in curvature.items() if key in ("samples", "batch_size", "store")}
    if "ridge" in curvature or "gradient_scale" in curvature:
        out["ridges"] = (curvature.get("ridge", 1.0),)
        out["gradient_scales"] = (curvature.get("gradient_scale", 0.0),)
    return out


def text(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    where = f"scope {result['scope']}" if "scope" in result else f"{result['steps']} steps"
    lines = [
        f"problem      {result['problem']}, {result['coordinator']} with {result['solver']}, "
        f"mode {result['mode']}, {where}",
        f"kept         {result['kept']:,} of {result['total']:,} (density {result['kept'] / result['total']:.4f})",
    ]
    for measure in ("accuracy", "perplexity"):
        if result.get(measure) is not None:
            lines.append(f"{measure:<12} {result[measure]:.4f} (dense {result['dense_' + measure]:.4f})")
    lines.append(f"loss         {_number(result['loss'])} (dense {_number(result['dense_loss'])})")
    if result.get("objective") is not None:
        lines.append(f"objective    {result['objective']:.8g}")
    lines += [
        f"seconds      {result['seconds']:.1f} ({', '.join(f'{k} {v:.1f}' for k, v in result['timings'].items())})",
        f"run          {result['run']}",
    ]
    if result.get("unsolved"):
        lines.append(f"unsolved     {result['unsolved']} blocks: this is not what was asked for")
        lines += [f"             {count} x {reason}" for reason, count in result["failures"].items()]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"
