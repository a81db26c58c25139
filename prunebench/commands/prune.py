"""Prune a whole network and write the run directory: mask, weights, events and result."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.coordinators.quotas import QuotaKind
from prunebench.core import options as option_tools
from prunebench.core.block import MODES
from prunebench.core.coordinator import Coordinator, require_current
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import class_of, make_problem, problem_options
from prunebench.core.registry import COORDINATORS, SOLVERS
from prunebench.core.subset import of_subset
from prunebench.log.run_directory import require_free, resume_line, trainings
from prunebench.progress import shown
from prunebench.recipes import EFFORTS, NORMAL, choose, default_recipe, resolved
from prunebench.runs.controls import words as control_words
from prunebench.runs.execution import loss_words
from prunebench.runs.prune import prune
from prunebench.runs.request import SCOPES, PruneRequest
from prunebench.runs.retraining import words
from prunebench.structure.latency import RUNTIMES

CURVATURE = ("samples", "batch_size", "ridge", "gradient_scale", "store")
"""Arguments that say how a coordinator samples the curvature."""

STRUCTURED = "structured"
"""The coordinator that prunes whole groups where none is named."""
USUAL = "usual"
"""What --structure says for the kinds that are pruned where none are named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The problem, the density, the solver, and how the work is cut into blocks."""
    parser.add_argument("problem", metavar="PROBLEM", help=shared.PROBLEM_HELP)
    parser.add_argument(
        "--density", type=shared.density, help="the part of the weights that is kept; a quota N:M says it too"
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE|auto",
        help="a named way to prune ('prunebench recipes'), a TOML file of yours, or auto: the strongest known for this "
        "kind of network and density. Default: auto, or none where coordinator, solver, mode, scope or start is given",
    )
    parser.add_argument(
        "--effort", default=NORMAL, choices=EFFORTS, help=f"how much work the recipe may take (default: {NORMAL})"
    )
    parser.add_argument("--solver", help="a registered solver (default: the recipe's; swap without one)")
    shared.add_options(parser, "the solver, the problem or the coordinator")
    names = ", ".join(COORDINATORS.names())
    parser.add_argument("--coordinator", help=f"one of {names} (default: the recipe's; one-shot without one)")
    parser.add_argument(
        "--mode", choices=MODES, help="default: the recipe's or coordinator's, or else the solver's own"
    )
    parser.add_argument(
        "--scope", choices=SCOPES, help="one-shot: one block in all (network, the default), or one a layer"
    )
    shared.add_curvature(parser)
    parser.add_argument(
        "--store",
        metavar="FOLDER",
        help="hold gradient rows of all weights in a mapped file there, where they are larger than memory",
    )
    parser.add_argument("--quota", metavar="UNIT", help="what is kept exactly: row, layer, or N:M such as 2:4")
    _add_groups(parser)
    parser.add_argument(
        "--recover",
        action="append",
        metavar="STEP",
        help="recover the network after the last step (and between stages): NAME or NAME:K=V,K=V; repeatable; 'none': "
        "not even as the coordinator does by itself (all of them: 'prunebench coordinators')",
    )
    parser.add_argument(
        "--retrain",
        nargs="?",
        const="",
        metavar="PROTOCOL",
        help="train what was kept once pruning is over, and tell what that reaches beside the pruned network: K=V,K=V "
        "as in 'prunebench retrain --help', such as epochs=2,distil=0.9; nothing for the usual protocol",
    )
    shared.add_controls(parser, "by --retrain's protocol, or the coordinator's own last one,")
    parser.add_argument("--start", type=Path, metavar="RUN", help="begin from a finished run of the same density")
    parser.add_argument(
        "--subset",
        type=Path,
        metavar="FILE.npz",
        help="a file of 'prunebench samples': calibrate on its samples alone (--retrain says its own, subset=FILE)",
    )
    parser.add_argument(
        "--executor",
        metavar="WHERE",
        help="who solves blocks and computes passes over samples: inline, local:N or dask:ADDRESS (default: inline)",
    )
    parser.add_argument("--block-time-limit", type=shared.seconds, metavar="SEC", help="seconds for each block")
    parser.add_argument(
        "--validate-every", type=shared.positive_int, default=0, metavar="N", help="log accuracy every N steps"
    )
    parser.add_argument("--time-limit", type=shared.seconds, metavar="SEC", help="seconds for all solving together")
    parser.add_argument("--seed", type=shared.seed, default=0, help="the seed of everything random (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run directory; must not exist or be empty")
    parser.set_defaults(flags=["quota", *_add_flags(parser)])


def _add_groups(parser: argparse.ArgumentParser) -> None:
    """What is pruned as a whole, and within which budget."""
    parser.add_argument(
        "--structure",
        metavar="KINDS",
        help="prune whole groups, so that the network gets smaller: channels, neurons, heads, kv-heads, query-heads, "
        "head-dims, stream, layers (residual branches), or patterns of families' names ('prunebench structure "
        "PROBLEM' lists them), separated by commas; 'usual' for channels, neurons and heads",
    )
    budget = "with --structure, in place of --density: the part that is kept of the"
    parser.add_argument("--flops", type=shared.density, metavar="PART", help=f"{budget} multiply-accumulates")
    parser.add_argument("--params", type=shared.density, metavar="PART", help=f"{budget} parameters")
    parser.add_argument(
        "--latency",
        type=shared.density,
        metavar="PART",
        help=f"{budget} measured time (--runtime; in a run directory as latency.json)",
    )
    parser.add_argument(
        "--runtime", choices=RUNTIMES, help="with --latency: what runs the network, on one thread (default: torch)"
    )
    parser.add_argument(
        "--latency-table", type=Path, metavar="FILE", help="with --latency: times that another run measured here"
    )
    parser.add_argument(
        "--uniform", action="store_true", help="with --structure: families of one kind and size keep the same count"
    )


def _add_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Options of coordinators that are arguments of their own, each once. -> their names"""
    added: list[str] = []
    for kind in map(COORDINATORS.get, COORDINATORS.names()):
        group = parser.add_argument_group(f"coordinator {kind.name} (all its options: 'prunebench coordinators')")
        for option in option_tools.options_of(kind.options_class) if kind.flags else []:
            flag = f"--{option.name.replace('_', '-')}"
            # one that is there already serves several coordinators, or is another argument: K=V remains
            if option.name in kind.flags and flag not in parser._option_string_actions:
                number = shared.positive_int if option.kind == "whole number" else str
                metavar, meaning = kind.flags[option.name], option.doc.replace("%", "%%")
                group.add_argument(flag, type=number, metavar=metavar, help=meaning)
                added.append(option.name)
    return added


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prune and return the result."""
    if arguments.out is not None:
        # before a network is loaded to choose a recipe
        require_free(arguments.out)
    with shown(not arguments.quiet, lines=True) as (say, step):
        request, network = _request(arguments, say)
        return shared.with_losses(lambda: prune(request, out=arguments.out, say=say, network=network, progress=step))


def _request(arguments: argparse.Namespace, say: shared.Say) -> tuple[PruneRequest, Any]:
    """What the arguments ask for: the recipe, and over it what is given; with the network, if it had to be loaded.

    Raises
    ------
    InvalidInput   something is unknown or does not fit; where auto chose the coordinator, the message says so
    """
    grouped = _structured(arguments)
    given = {name: value for name, value in _plain(arguments).items() if value is not None}
    # Names are looked at before anything is loaded.
    kind_of_problem = class_of(arguments.problem)
    for registry, name in (
        (COORDINATORS, arguments.coordinator),
        (SOLVERS, arguments.solver),
    ):
        if name is not None:
            registry.get(name)
    pairs = shared.pairs(arguments.option)
    density = _density(_part(arguments), _quota(arguments, pairs))
    problem = make_problem(arguments.problem, _of_problem(pairs, kind_of_problem))
    if arguments.subset is not None:
        # what a recipe counts samples by
        problem = of_subset(problem, arguments.subset)
    if quota := _quota(arguments, pairs):
        given["coordinator_options"] = {"quota": quota}
    recipe = arguments.recipe or default_recipe(given, {"bits": arguments.bits, **pairs})
    choice = choose(problem, density, recipe=recipe, effort=arguments.effort, given=given)
    given.pop("coordinator_options", None)
    base = {} if choice.recipe is None else choice.recipe.request_fields
    kind = COORDINATORS.get(given.get("coordinator", base.get("coordinator", PruneRequest.coordinator)))
    if "solver" not in given and "solver" not in base:
        flags = {name: value for name in arguments.flags if (value := getattr(arguments, name)) is not None}
        named = {key.removeprefix("coordinator."): value for key, value in pairs.items()}
        given["solver"] = kind.usual_solver(named | flags, arguments.mode)
    solver = SOLVERS.get(given["solver"] if "solver" in given else base["solver"])
    try:
        given |= _tables(arguments, kind, solver)
        given["coordinator_options"] |= grouped
        if choice.why and kind.options_class is not None:
            option_tools.build(kind.options_class, {**base["coordinator_options"], **given["coordinator_options"]})
    except InvalidInput as error:
        if not choice.why:
            raise
        raise InvalidInput(
            f"{error} (recipe auto chose coordinator {kind.name}; --coordinator names another)"
        ) from error
    return resolved(choice, problem, density, given, say), choice.network


BUDGETS = ("density", "flops", "params", "latency")
"""Arguments that say which part is kept, the first of weights."""


def _part(arguments: argparse.Namespace) -> float | None:
    """The part that is kept, of whatever; None if none is said."""
    return next((value for name in BUDGETS if (value := getattr(arguments, name)) is not None), None)


def _structured(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of structured pruning, which names its coordinator; none where weights are pruned.

    Raises
    ------
    InvalidInput   a budget is said twice, or another coordinator is named
    """
    budgets = [name for name in BUDGETS if getattr(arguments, name) is not None]
    times = [name for name in ("runtime", "latency_table") if getattr(arguments, name) is not None]
    if times and arguments.latency is None:
        raise InvalidInput(f"--{times[0].replace('_', '-')} is of a budget of time: add --latency PART")
    asked = [name for name in ("structure", *BUDGETS[1:]) if getattr(arguments, name) is not None]
    named = None if arguments.coordinator is None else COORDINATORS.get(arguments.coordinator)
    if not asked and not arguments.uniform and (named is None or not named.of_groups):
        return {}
    if len(budgets) > 1:
        raise InvalidInput(f"--{' and --'.join(budgets)} are both given; say one of them")
    if named is not None and not named.of_groups:
        others = " or ".join(name for name in COORDINATORS.names() if COORDINATORS.get(name).of_groups)
        raise InvalidInput(
            f"--{(asked or ['uniform'])[0]} is of coordinator {others}, and --coordinator {arguments.coordinator} "
            "is given; leave one of them out"
        )
    arguments.coordinator = arguments.coordinator or STRUCTURED
    out: dict[str, Any] = {"budget": "parameters"} if arguments.params is not None else {}
    if arguments.latency is not None:
        out = {"budget": "latency"} | {name: str(getattr(arguments, name)) for name in times}
    if arguments.structure not in (None, USUAL):
        out["structure"] = arguments.structure
    return out | ({"uniform": True} if arguments.uniform else {})


def _plain(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request that one argument says each."""
    return {
        "coordinator": arguments.coordinator,
        "solver": arguments.solver,
        "mode": arguments.mode,
        "scope": arguments.scope,
        "executor": arguments.executor,
        "block_seconds": arguments.block_time_limit,
        "validate_every": arguments.validate_every,
        "recover": arguments.recover,
        "retrain": arguments.retrain,
        "controls": arguments.control or None,
        "seconds": arguments.time_limit,
        "seed": arguments.seed,
        "start": None if arguments.start is None else str(arguments.start),
        "subset": None if arguments.subset is None else str(arguments.subset),
    }


def _tables(arguments: argparse.Namespace, kind: type[Coordinator], solver: type[Any]) -> dict[str, Any]:
    """The fields of a request that hold options, for a coordinator and a solver."""
    owners: dict[str, type] = {"solver": solver, "problem": class_of(arguments.problem)}
    if kind.options_class is not None:
        owners["coordinator"] = kind.options_class
    require_current(kind, (name.removeprefix("coordinator.") for name in shared.pairs(arguments.option)))
    options = shared.split_options(arguments.option, owners)
    coordinator: dict[str, Any] = dict(options.get("coordinator", {}))
    curvature = {name: getattr(arguments, name) for name in CURVATURE if getattr(arguments, name) is not None}
    if "curvature" not in kind.takes:
        coordinator |= kind.curvature_options(curvature)
        curvature = {}
    flags = {name: getattr(arguments, name) for name in arguments.flags}
    coordinator |= {name: value for name, value in flags.items() if value is not None}
    return {
        "problem_options": options["problem"],
        "solver_options": options["solver"],
        "coordinator_options": coordinator,
        "curvature": curvature,
    }


def _of_problem(pairs: Mapping[str, str], problem: type[Any]) -> dict[str, str]:
    """Those of --option K=V that the problem has: said with its prefix, or an option of its own."""
    known = {option.name for option in problem_options(problem)}
    named = {key.removeprefix("problem."): value for key, value in pairs.items() if key.startswith("problem.")}
    return named | {key: value for key, value in pairs.items() if key in known}


def _quota(arguments: argparse.Namespace, pairs: Mapping[str, str]) -> str | None:
    """The quota, however it is said."""
    return arguments.quota or pairs.get("coordinator.quota") or pairs.get("quota")


def failure(result: dict[str, Any]) -> str:
    """What a run that lost blocks says, "" for one that did not."""
    if result.get("outcome", "finished") == "finished":
        return ""
    return loss_words(result, resume_line(Path(result["run"])))


def _density(density: float | None, quota: Any) -> float:
    """The density given, or that of a quota N:M."""
    if density is not None:
        return density
    held = QuotaKind.parse(None if quota is None else str(quota)).density
    if held is None:
        raise InvalidInput("--density is missing; say which part of the weights is kept, for example --density 0.5")
    return held


def text(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    where = f"scope {result['scope']}" if "scope" in result else f"{result['steps']} steps"
    lines = [
        f"problem      {result['problem']}, {result['coordinator']} with {result['solver']}, "
        f"mode {result['mode']}, {where}",
        f"kept         {_kept(result)}",
    ]
    for measure in ("accuracy", "perplexity"):
        if result.get(measure) is not None:
            lines.append(f"{measure:<12} {result[measure]:.4f} (dense {result['dense_' + measure]:.4f})")
    if held := result.get("latency"):
        lines.append(
            f"milliseconds {held['pruned']:.3f} (dense {held['dense']:.3f}; {held['part']:.4f} of the time, asked for "
            f"{held['asked']:g}; {held['runtime']}, batch {held['batch']}, one thread)"
        )
    lines.append(f"loss         {_number(result['loss'])} (dense {_number(result['dense_loss'])})")
    lines += _rounding(result["bits"]) if "bits" in result else []
    lines += [f"retrained    {words(entry, measure_of)}" for entry in trainings(result)]
    groups = bool(result.get("costs"))
    lines += [f"control      {control_words(entry, measure_of(entry), groups)}" for entry in result.get("controls", [])]
    if held := result.get("subset"):
        lines.append(f"samples      {held['samples']:,} that were chosen, and no others")
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


def _rounding(held: Mapping[str, Any]) -> list[str]:
    """What levels take, and what the network was before weights were rounded to them."""
    size = held["bytes"]
    scales = "a scale a row" if held["group_size"] is None else f"a scale each {held['group_size']} weights"
    return [
        f"bits         {held['bits']}, {scales}; {measure_of(held['unrounded'])} before rounding",
        f"bytes        dense {size['dense']:,}, sparse {size['sparse']:,}, packed {size['packed']:,} (of kept weights "
        f"alone {size['packed_sparse']:,})",
    ]


def measure_of(held: Mapping[str, Any]) -> str:
    """The measure that tells most, in words: accuracy, perplexity, or the loss where there is neither."""
    name = next((name for name in ("accuracy", "perplexity") if held.get(name) is not None), "loss")
    return f"{name} {_number(held.get(name))}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"


def _kept(result: Mapping[str, Any]) -> str:
    """How much is kept: weights, or groups with what the smaller network costs."""
    counts = f"{result['kept']:,} of {result['total']:,}"
    if "costs" not in result:
        return f"{counts} (density {result['kept'] / result['total']:.4f})"
    shares = [f"{unit} {pair['pruned'] / pair['dense']:.4f}" for unit, pair in result["costs"].items()]
    return f"{counts} groups ({', '.join(shares)} of the dense network's)"
