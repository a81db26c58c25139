"""Run structured pruning: load, find the groups, drive the coordinator, shrink the network, judge and save it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from prunebench.core import options as option_tools
from prunebench.core.block import BlockProblem
from prunebench.core.coordinator import Setting
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.problem import NetworkProblem, ProblemLike, make_problem, require_data
from prunebench.core.solver import make_solver
from prunebench.log.run_directory import RunDirectory
from prunebench.runs.preparation import Prepared
from prunebench.runs.runner import drive
from prunebench.runs.start import MASK_FILE, WEIGHTS_FILE

STRUCTURE_FILE = "structure.json"
"""Where a run directory has its families, what is kept of them, and what the network costs before and after."""
PROGRAM_FILE = "model.pt2"
"""Where a run directory has the smaller network, as torch.export.load reads it."""
TAKES = "takes the smaller weights"
"""What structure.json says of a module that runs with smaller tensors."""


@dataclass(frozen=True)
class Shrunk:
    """A smaller network.

    program : its graph as a module;  module : the user's own module with smaller parameters, None where its code does
        not take its sizes from them, with the reason;  difference : from the network with zeros in their place
    """

    program: Any
    module: Any
    reason: str
    difference: float


def on_groups(
    prepared: Prepared, setting: Setting, dense: Mapping[str, float], run: RunDirectory, started: float
) -> dict[str, Any]:
    """Prune the groups of a loaded network, and return the result's measures.

    Parameters
    ----------
    setting : with the network;  dense : what the dense network is judged;  started : when loading began, perf_counter
    """
    from prunebench.structure.cost import UNITS

    problem = setting.problem
    assert isinstance(problem, NetworkProblem)
    timings = {"load": perf_counter() - started}
    clock = perf_counter()
    coordinator: Any = prepared.kind.begin(setting)
    if coordinator.options.budget == "latency":
        from prunebench.runs.latency import Times

        coordinator.counting.use_times(Times(coordinator.found, problem, run, coordinator.options, setting.say))
    if not run.describes_network():
        run.describe_network(described(coordinator.found))
    timings["build"] = perf_counter() - clock

    driven = drive(coordinator, setting.solver, run, replace(prepared.how, validate=None), setting.say)
    coordinator.check()
    timings["solve"] = driven.pop("solve_seconds")

    clock = perf_counter()
    shrunk = shrink(setting.network.model, coordinator.found, coordinator.kept(), coordinator.state)
    timings["shrink"] = perf_counter() - clock
    clock = perf_counter()
    judged = dict(problem.evaluate(shrunk.program))
    timings["evaluate"] = perf_counter() - clock
    found, kept = coordinator.found, coordinator.kept()
    counts = [int(mask.sum()) for mask in kept]
    costs: dict[str, tuple[float, float]] = {
        unit: (found.cost(unit).total(), found.cost(unit).total(counts)) for unit in UNITS
    }
    latency = _latency(coordinator, shrunk, setting)
    _save(run, shrunk, coordinator, costs, latency)
    say = setting.say
    say(f"the smaller network gives what zeros give, to {shrunk.difference:.1g} of the largest output")
    if shrunk.reason:
        say(f"the module itself keeps its shape ({shrunk.reason}); the smaller network is the graph in {PROGRAM_FILE}")
    return {
        "outcome": "incomplete" if driven["unsolved"] else "finished",
        "kept": sum(counts),
        "total": int(coordinator.mask.size),
        **judged,
        **{f"dense_{key}": value for key, value in dense.items()},
        "kept_per_layer": {family.label: count for family, count in zip(found.families, counts, strict=True)},
        "budget": coordinator.options.budget,
        "score": coordinator.options.score,
        "allocation": coordinator.options.allocation,
        "costs": {unit: {"dense": before, "pruned": after} for unit, (before, after) in costs.items()},
        **({"latency": latency} if latency else {}),
        **driven,
        "timings": timings,
    }


def cut_groups(
    problem: "str | ProblemLike",
    *,
    density: float,
    structure: str = "",
    budget: str = "macs",
    coupling: float = 1.0,
    samples: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    by: str = "counts",
) -> BlockProblem:
    """All groups of a network as one block: dense weights 1, the variables being gates on channels, neurons and heads.

    Parameters
    ----------
    problem : registered name (with its `options`), or a problem object
    density : the part of the budget that is kept;  budget : macs, parameters or bytes
    structure : kinds or patterns of families, separated by commas; "" for the usual ones
    coupling : the part of the groups' mutual curvature that counts, 0 to 1
    samples : calibration samples; None for as many as are usual, or as there are
    by : "counts", a quota of what the density leaves every family; or "budget", what groups cost as the block's budget.
        The best group of every family then stays and is no variable, and where families meet in a layer the row is the
        cost's tangent at those counts, which the budget's name says

    Raises
    ------
    InvalidInput   no network, no such family, or a budget that cannot be met
    """
    from prunebench.coordinators.structured import Structured, StructuredOptions
    from prunebench.networks.chosen import prunable_network
    from prunebench.structure.cost import UNITS

    if not 0.0 <= coupling <= 1.0:
        raise InvalidInput(f"coupling is {coupling}; give a number from 0 to 1")
    if budget not in UNITS:
        raise InvalidInput(f"budget is {budget!r}; a block is cut with one of {', '.join(UNITS)}")
    made = make_problem(problem, options)
    if not isinstance(made, NetworkProblem):
        raise InvalidInput(f"problem {made.name!r} is no network and has no groups")
    require_data(made)
    given = {} if samples is None else {"samples": samples}
    usual = Structured.fitted(given, len(made.calibration()), given)
    if by not in ("counts", "budget"):
        raise InvalidInput(f"by is {by!r}; choose counts or budget")
    allocation = "block" if by == "budget" else "cost"
    asked = {"structure": structure, "budget": budget, "allocation": allocation, **usual, **given}
    chosen = option_tools.build(StructuredOptions, asked)
    setting = Setting(
        problem=made, solver=make_solver("obd"), density=density, mode="select", options=chosen, seed=seed,
        network=prunable_network(made),
    )  # fmt: skip
    Structured.require(setting)
    return Structured.begin(setting).gates_block(coupling)


def shrink(model: Any, found: Any, kept: Any, state: Any) -> Shrunk:
    """The smaller network of a pruned one.

    Parameters
    ----------
    model : the user's module;  found : its groups;  kept : of every family;  state : at its old shapes

    Raises
    ------
    PrunebenchError   it does not give what the network with zeros gives
    """
    import torch
    from torch.func import functional_call

    from prunebench.structure.branches import masked_program
    from prunebench.structure.check import TOLERANCE
    from prunebench.structure.module import difference, resized
    from prunebench.structure.resize import Living, shrunk_program, shrunk_state

    coupling = found.coupling
    living = Living(coupling, found.families, kept)
    program = shrunk_program(coupling, state, living)
    with torch.no_grad():
        masked = functional_call(masked_program(coupling.program, living.gone), dict(state), (coupling.example,))
        smaller = program(coupling.example)
        error = difference(masked, smaller)
        if not error <= TOLERANCE:
            raise PrunebenchError(
                f"the smaller network's outputs differ by {error:.1e} from those with zeros; please report this"
            )
        module, reason = None, ""
        if living.gone:
            return Shrunk(program, None, f"its code adds what {living.gone[0].name} gives, which is gone", error)
        try:
            module = resized(model, shrunk_state(coupling, state, living))
            other = difference(smaller, module(coupling.example))
            if not other <= TOLERANCE:
                module, reason = None, "its code holds sizes of its own"
        except Exception as failure:  # the user's own code
            module, reason = None, f"its code holds sizes of its own: {(str(failure).splitlines() or [''])[0][:120]}"
    return Shrunk(program, module, reason, error)


def described(found: Any) -> dict[str, Any]:
    """What was found of a network's structure, as run.json and `prunebench structure` have it."""
    from prunebench.structure.cost import UNITS

    costs = {unit: found.cost(unit) for unit in UNITS}
    families = []
    for number, family in enumerate(found.families):
        shares = {}
        for unit, cost in costs.items():
            counts = list(cost.sizes)
            counts[number] = 0
            shares[unit] = 1.0 - cost.total(counts) / cost.total()
        families.append(
            {"name": family.name, "kind": family.kind, "groups": family.size, "share": shares,
             "members": [f"{name}[{dim}]" for name, dim in family.members]}
        )  # fmt: skip
    others = [
        {"name": family.name, "kind": family.kind, "groups": family.size,
         "reason": held.reason or "not asked for", "crossed_by": family.crossed_by}
        for held in found.others
        for family in held.families
    ]  # fmt: skip
    frozen = [{"name": item.name, "groups": item.groups, "reason": item.why} for item in found.frozen]
    return {
        "families": families,
        "not_pruned_families": others,
        "frozen": frozen,
        "unknown_operations": dict(found.coupling.walk.unknown),
        "costs": {unit: cost.total() for unit, cost in costs.items()},
    }


def _latency(coordinator: Any, shrunk: Shrunk, setting: Setting) -> dict[str, Any]:
    """What the smaller network takes beside the dense one, with what was asked for and predicted; {} without such a
    budget."""
    if coordinator.counting.times is None:
        return {}
    held, facts = coordinator.counting.times.final(shrunk.program), coordinator.counting.times.table.facts
    out = {
        "runtime": facts["runtime"], "batch": facts["batch"], "threads": facts["threads"],
        "dense": held.dense_ms, "pruned": held.ms, "part": held.part, "asked": setting.density,
        "predicted": coordinator.counting.timed.predicted, "chosen": coordinator.counting.timed.measured.part,
    }  # fmt: skip
    over = "" if held.part <= setting.density else ", which is more"
    asked = f"asked for {setting.density:g}{over}"
    setting.say(
        f"latency: {held.ms:.3f} ms of {held.dense_ms:.3f} ms in {facts['runtime']}, batch {facts['batch']}, one "
        f"thread: {held.part:.4f} of the time; {asked}; the table's sum is {out['predicted']:.4f}"
    )
    return out


def _save(
    run: RunDirectory,
    shrunk: Shrunk,
    coordinator: Any,
    costs: Mapping[str, tuple[float, float]],
    latency: Mapping[str, Any],
) -> None:
    import torch

    from prunebench.networks.checkpoints import write_state
    from prunebench.structure.trace import export

    found, kept = coordinator.found, coordinator.kept()
    run.save_tensors(MASK_FILE, {f.label: mask for f, mask in zip(found.families, kept, strict=True)})
    program = shrunk.program
    tensors = {**dict(program.named_parameters()), **dict(program.named_buffers())}
    with run.writes(WEIGHTS_FILE):
        write_state(run.path / WEIGHTS_FILE, {name: tensor.detach() for name, tensor in tensors.items()})
    facts = {
        "score": coordinator.options.score,
        "allocation": coordinator.options.allocation,
        "calibration": coordinator.options.calibration or "the problem's own samples",
        "families": [
            {"name": f.name, "kind": f.kind, "before": f.size, "after": int(mask.sum())}
            for f, mask in zip(found.families, kept, strict=True)
        ],
        "costs": {unit: {"dense": before, "pruned": after} for unit, (before, after) in costs.items()},
        **({"latency": latency} if latency else {}),
        "errors": coordinator.errors,
        "difference": shrunk.difference,
        "module": shrunk.reason or TAKES,
    }
    with run.writes(STRUCTURE_FILE):
        (run.path / STRUCTURE_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    with run.writes(PROGRAM_FILE):
        torch.export.save(export(program, found.coupling.example), run.path / PROGRAM_FILE)


def is_structured(path: Path) -> bool:
    """Whether a run directory is of structured pruning."""
    return (path / STRUCTURE_FILE).is_file()
