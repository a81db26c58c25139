"""From a request to what is run: everything that can be refused is, before any work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prunebench.core import options as option_tools
from prunebench.core import recovery
from prunebench.core.block import MODES, Mode
from prunebench.core.coordinator import Coordinator, Setting, require_current
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.core.masks import keep_count
from prunebench.core.problem import (
    BlockSetProblem,
    NetworkProblem,
    ProblemLike,
    make_problem,
    options_as_json,
    require_data,
)
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import COORDINATORS
from prunebench.core.solution import Budget
from prunebench.core.solution_file import plain
from prunebench.core.solver import SolverLike, facts, make_solver, require_form
from prunebench.core.subset import OfSubset, of_subset, whole
from prunebench.log import checks
from prunebench.recovery.training.protocol import Protocol, as_text, with_known_samples
from prunebench.recovery.training.protocol import parse as parse_protocol
from prunebench.runs.controls import require_possible
from prunebench.runs.counts import lowered
from prunebench.runs.executors import make_workers
from prunebench.runs.request import SCOPES, PruneRequest
from prunebench.runs.retraining import require_trainable
from prunebench.runs.runner import Drive, Progress, Say
from prunebench.runs.start import finished, load_start


@dataclass(frozen=True)
class Prepared:
    """What is run.

    request : what was asked for, its usual counts lowered to the samples there are
    kind : the coordinator's class
    setting : what it begins with, still without its block, or its network where that is not loaded yet
    how : how it is driven, its workers not yet started
    described : what was asked for, as the result has it
    """

    request: PruneRequest
    kind: type[Coordinator]
    setting: Setting
    how: Drive
    described: dict[str, Any]


def prepare(
    request: PruneRequest,
    say: Say,
    *,
    trust: bool = False,
    problem: ProblemLike | None = None,
    network: Any = None,
    progress: Progress | None = None,
) -> Prepared:
    """Check everything that can be checked before work begins.

    trust : take a checkpoint without a seal
    problem : the object, where the request names one that only a program can make
    network : the problem's, where it is loaded already
    progress : takes every step as a value, in place of a line

    Raises
    ------
    InvalidInput   the request is wrong
    """
    checks.require(plain(request.as_json()), checks.REQUEST, checks.REQUEST_NEEDS, "the request")
    kind: type[Coordinator] = COORDINATORS.get(request.coordinator)
    for what, value, known in (("scope", request.scope, SCOPES), ("mode", request.mode or MODES[0], MODES)):
        if value not in known:
            raise unknown_name(what, value, known)
    keep_count(request.density, 10**12)
    problem = make_problem(request.problem, request.problem_options) if problem is None else problem
    if request.subset is not None:
        require_data(problem)
        problem = of_subset(problem, request.subset, request.subset_hash)
    solver = make_solver(request.solver, request.solver_options)
    if not kind.of_groups:
        # of groups, which solvers fit depends on options: its own `require` sees to it
        require_form(solver, QuadraticForm, f"problem {request.problem!r}")
    require_data(problem)
    _require_taken(request, kind, problem)
    request = _with_known_samples(request, kind)
    if request.retrain is not None:
        require_trainable(problem, parse_protocol(request.retrain), kind.of_groups)
    if request.controls:
        protocol = control_protocol(request, kind, _options(kind, request.coordinator_options))
        density = None if kind.of_groups else request.density
        require_possible(problem, request.controls, protocol, density=density)
    fixed = {"curvature": request.curvature, "coordinator_options": request.coordinator_options}
    request = lowered(request, problem, fixed, say, own_recovery=True)
    mode = request.mode or kind.default_mode or preferred_mode(solver)
    setting = Setting(
        problem=problem,
        solver=solver,
        density=request.density,
        mode=mode,
        options=_options(kind, request.coordinator_options),
        seed=request.seed,
        scope=request.scope,
        curvature=request.curvature,
        network=network,
        recovery=_recovery(request.recover, kind, mode, problem),
        load_start=None if request.start is None else partial(load_start, Path(request.start)),
        say=say,
    )
    kind.require(setting)
    _require_still(request, setting, kind)
    return Prepared(
        request, kind, setting, replace(_drive(request, kind, trust), progress=progress), _described(setting, kind)
    )


def _with_known_samples(request: PruneRequest, kind: type[Coordinator]) -> PruneRequest:
    """The request, its trainings on chosen samples with what tells these from others (`Protocol.subset_hash`)."""

    def known(text: str) -> str:
        protocol = parse_protocol(text)
        return as_text(with_known_samples(protocol)) if protocol.subset else text

    options = {
        name: known(value) if name in kind.protocol_options and isinstance(value, str) else value
        for name, value in request.coordinator_options.items()
    }
    retrain = None if request.retrain is None else known(request.retrain)
    return replace(request, retrain=retrain, coordinator_options=options)


def control_protocol(request: PruneRequest, kind: type[Coordinator], options: Any) -> Protocol | None:
    """By which protocol controls are trained: as what is kept is; None where nothing is trained."""
    text = request.retrain if request.retrain is not None else kind.last_training(options)
    return None if text is None else parse_protocol(text)


def preferred_mode(solver: SolverLike) -> Mode:
    """The mode a solver is best known in: its `preferred_mode`, else refit where it handles it."""
    return facts(solver).preferred_mode or ("refit" if "refit" in solver.modes else "select")


def _options(kind: type[Coordinator], given: Mapping[str, Any]) -> Any:
    """The coordinator's options, None where it has none."""
    require_current(kind, given)
    if kind.options_class is not None:
        return option_tools.build(kind.options_class, given)
    if given:
        names = ", ".join(sorted(given))
        raise InvalidInput(f"coordinator {kind.name!r} has no options, but {names} is given; leave it out")
    return None


def _recovery(
    asked: Sequence[str] | None, kind: type[Coordinator], mode: Mode, problem: ProblemLike
) -> tuple[recovery.Recovery, ...]:
    """What is asked for, or the coordinator's own.

    Raises
    ------
    InvalidInput   there is no network to recover, or mode select forbids it from stage to stage
    """
    if asked is None:
        own = recovery.parse(kind.default_recovery)
        return tuple(step for step in own if mode == "refit" or not step.moves)
    steps = recovery.parse(asked)
    if steps and not isinstance(problem, NetworkProblem):
        raise InvalidInput(f"problem {problem.name!r} is no network, so there is nothing to recover; leave it out")
    groups = [step.name for step in steps if step.of_groups and not kind.of_groups]
    if groups:
        raise InvalidInput(
            f"recovery {', '.join(groups)} trains a network without some of its groups; use it with --structure, or "
            "leave it out"
        )
    moving = [step.name for step in steps if step.moves]
    if moving and kind.recovers_between and mode == "select":
        raise InvalidInput(
            f"recovery {', '.join(moving)} moves weights, and coordinator {kind.name} in mode select keeps their "
            "values from stage to stage; use --mode refit, or leave it out"
        )
    return steps


def _require_still(request: PruneRequest, setting: Setting, kind: type[Coordinator]) -> None:
    """Refuse what would move weights after a coordinator that puts them on levels.

    Raises
    ------
    InvalidInput   recovery that moves weights, a training or a control
    """
    why = kind.unmovable(setting.options)
    if not why:
        return
    moving = [step.name for step in setting.recovery if step.moves]
    if moving:
        raise InvalidInput(
            f"recovery {', '.join(moving)} moves weights off the levels of {why}; leave it out (--recover none), or "
            "leave bits out"
        )
    if request.retrain is not None or request.controls:
        what = "a training" if request.retrain is not None else "a control"
        raise InvalidInput(
            f"{what} moves weights off the levels of {why}; leave it out here, or train first and round a run of what "
            "was trained"
        )


def _require_taken(request: PruneRequest, kind: type[Coordinator], problem: ProblemLike) -> None:
    """Refuse what this coordinator does not take, before anything is loaded."""
    if not isinstance(problem, NetworkProblem | BlockSetProblem):
        raise InvalidInput(f"problem {problem.name!r} is neither a network nor a set of blocks")
    network = isinstance(problem, NetworkProblem)
    if kind.needs_network and not network:
        others = _names(lambda other: not other.needs_network)
        raise InvalidInput(
            f"problem {problem.name!r} is no network and has no layers, which coordinator {kind.name} needs; "
            f"use --coordinator {others}"
        )
    if request.validate_every and kind.of_groups:
        raise InvalidInput(
            f"coordinator {kind.name} has a whole network only at its end, where it is judged; leave out validate_every"
        )
    if request.scope != "network" and "scope" not in kind.takes:
        raise InvalidInput(f"coordinator {kind.name} has no scope {request.scope!r}; leave --scope at network")
    if request.curvature and "curvature" not in kind.takes:
        raise InvalidInput(
            f"coordinator {kind.name} takes no curvature, but {', '.join(request.curvature)} is given; say it by "
            "coordinator_options"
        )
    if request.start is None:
        return
    if "start" not in kind.takes or not network:
        raise InvalidInput(
            f"a start is for coordinator {_names(lambda other: 'start' in other.takes)} on a network, not for "
            f"{kind.name} on {problem.name}; leave it out"
        )
    held = finished(Path(request.start)).request
    if (held["problem"], held["density"]) != (request.problem, request.density):
        raise InvalidInput(
            f"start {request.start} pruned {held['problem']} to density {held['density']:g}, and this run is of "
            f"{request.problem} to {request.density:g}; give a run of the same problem and density"
        )


def _names(which: Callable[[type[Coordinator]], bool]) -> str:
    """The coordinators of which something holds, as a choice."""
    return " or ".join(name for name in COORDINATORS.names() if which(COORDINATORS.get(name)))


def _drive(request: PruneRequest, kind: type[Coordinator], trust: bool) -> Drive:
    return Drive(
        seed=request.seed,
        seconds=float("inf") if request.seconds is None else request.seconds,
        block_budget=Budget() if request.block_seconds is None else Budget(seconds=request.block_seconds),
        workers=make_workers(request.executor),
        validate_every=request.validate_every or kind.validate_every,
        finish_step=not kind.large_blocks,
        blas_threads=None if kind.large_blocks else 1,
        trust=trust,
    )


def _described(setting: Setting, kind: type[Coordinator]) -> dict[str, Any]:
    solver, problem = option_tools.as_json(setting.solver), options_as_json(whole(setting.problem))
    out = {
        "problem": setting.name,
        "coordinator": kind.name,
        "solver": setting.solver.name,
        "options": {**solver, **{f"problem.{key}": value for key, value in problem.items()}},
        "mode": setting.mode,
        "density": setting.density,
        "seed": setting.seed,
    }
    if "scope" in kind.takes:
        out["scope"] = setting.scope
    if setting.options is not None:
        out["coordinator_options"] = option_tools.as_json(setting.options)
    if isinstance(setting.problem, OfSubset):
        out["subset"] = {"samples": setting.problem.subset.positions.size, "hash": setting.problem.subset.hash}
    if setting.recovery:
        out["recover"] = [recovery.as_text(step) for step in setting.recovery]
    return out
