"""Prune a whole problem: build its quadratic form, drive a coordinator over it, judge and save the result."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.coordinators import quotas
from prunebench.coordinators.icbs.coordinator import ICBS
from prunebench.coordinators.icbs.options import ICBSOptions
from prunebench.coordinators.landscape import FormLandscape
from prunebench.coordinators.layer_wise.coordinator import LayerWise, require_fit
from prunebench.coordinators.layer_wise.options import LayerWiseOptions
from prunebench.coordinators.multi_stage.coordinator import (
    MultiStage,
    MultiStageOptions,
    layer_positions,
    statistics_positions,
)
from prunebench.coordinators.one_shot import OneShot, Span
from prunebench.core import options as option_tools
from prunebench.core.arrays import RealArray
from prunebench.core.block import MODES, Mode
from prunebench.core.coordinator import Coordinator, calibration_seed
from prunebench.core.errors import CannotWrite, Interrupted, InvalidInput, RunFailed, SolverRefused, unknown_name
from prunebench.core.masks import keep_count
from prunebench.core.problem import (
    BlockSetProblem,
    NetworkProblem,
    Problem,
    make_problem,
    options_as_json,
    require_data,
    selection,
    spread,
)
from prunebench.core.solution import Budget
from prunebench.core.solution_file import plain
from prunebench.core.solver import Solver, make_solver
from prunebench.core.trust import require_trust
from prunebench.curvature.fisher import FisherOptions, network_form
from prunebench.log import checks
from prunebench.log.run_directory import RunDirectory, next_free, resume_line
from prunebench.runs import network_facts
from prunebench.runs.executors import Workers, leave_import_by_worker, make_workers
from prunebench.runs.runner import Drive, Say, Validate, drive
from prunebench.runs.start import finished, load_start
from prunebench.signals import terminable

if TYPE_CHECKING:
    from prunebench.curvature.gradient_check import Checked
    from prunebench.curvature.reach import Unreached
    from prunebench.networks.network import PrunableNetwork

COORDINATORS: Mapping[str, type | None] = {
    "one-shot": None,
    "icbs": ICBSOptions,
    "multi-stage": MultiStageOptions,
    "layer-wise": LayerWiseOptions,
}
"""The coordinators by name, with the class of their options."""
SCOPES = ("network", "layer")

REACH_SAMPLES = 1000
"""Samples from which multi-stage tells what is not reached: a stage may take many more, and that pass is extra."""


@dataclass(frozen=True, kw_only=True)
class PruneRequest:
    """All that a pruning run is asked for; JSON-able, so that a run directory can be resumed from it.

    mode None means the solver's own: `preferred_mode` where it names one, else refit if it handles it.
    scope "network" solves the whole network as one block, "layer" one block a layer.
    `curvature` holds options of `prunebench.curvature.fisher.FisherOptions` by name (one-shot),
    `coordinator_options` those of the coordinator (`ICBSOptions`, `MultiStageOptions`, `LayerWiseOptions`).
    `seconds` limits the whole run, `block_seconds` each block. `executor` says where blocks are solved:
    inline, local:N, dask:ADDRESS.
    The network is judged on its validation samples every `validate_every` steps, for the log.
    """

    problem: str
    density: float
    solver: str = "swap"
    problem_options: Mapping[str, Any] = field(default_factory=dict)
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    coordinator: str = "one-shot"
    mode: Mode | None = None
    scope: str = "network"
    curvature: Mapping[str, Any] = field(default_factory=dict)
    coordinator_options: Mapping[str, Any] = field(default_factory=dict)
    executor: str | None = None
    seconds: float | None = None
    block_seconds: float | None = None
    validate_every: int = 0
    seed: int = 0
    start: str | None = None
    """A finished run of the same problem and density that coordinator icbs begins from."""

    @staticmethod
    def from_json(held: Mapping[str, Any], source: object) -> "PruneRequest":
        """The request of a run directory.

        source : what messages call it

        Raises
        ------
        InvalidInput   a key is missing or unknown to this version, or a value is of another kind
        """
        if unknown := set(held) - {item.name for item in dataclasses.fields(PruneRequest)}:
            raise InvalidInput(f"{source} asks for {', '.join(sorted(unknown))}, which this version does not know")
        checks.require(held, checks.REQUEST, checks.REQUEST_NEEDS, source)
        return PruneRequest(**held)

    def as_json(self) -> dict[str, Any]:
        """The request as JSON-able values."""
        return dataclasses.asdict(self)


def prune(request: PruneRequest, *, out: Path | None = None, say: Say = lambda _line: None) -> dict[str, Any]:
    """Prune a problem from the start and return the result as JSON-able values (see the command line's documentation).

    Parameters
    ----------
    request : what to do
    out : the run directory; by default runs/PROBLEM-SOLVER-NNN below the working directory
    say : called with one line of progress at a time

    Raises
    ------
    InvalidInput   before any work is done or file written, where the request is wrong
    Interrupted    Ctrl-C or SIGTERM; the message says how to resume
    RunFailed      a solver failed, workers died, or nothing was solved: what was lost stands in the error's `result`
                   and in result.json, and resuming solves it again
    WorkersGone    worker processes do not start, or the scheduler is lost
    CannotWrite    a file of the run cannot be written: disk full, read-only
    """
    leave_import_by_worker()
    with terminable():
        prepared = _prepare(request)
        try:
            prepared.workers.start()
            folder = out or next_free(Path("runs"), f"{request.problem}-{request.solver}")
            run = RunDirectory.create(folder, request.as_json(), request.seed)
        except BaseException:
            prepared.workers.close()
            raise
        try:
            return _execute(request, prepared, run, say)
        except InvalidInput:
            run.remove_if_unused()
            raise
        finally:
            run.release()


def resume(
    path: Path, *, say: Say = lambda _line: None, trust: bool = False, executor: str | None = None
) -> dict[str, Any]:
    """Continue a run directory to the result an uninterrupted run gives; a finished one returns its result.

    A run that lost blocks goes back to before the first of them.

    Parameters
    ----------
    path : the run directory
    trust : the run directory is the user's own or of somebody trusted: options that name code are followed, and
            a checkpoint without a seal is taken
    executor : where blocks are solved, instead of where the run was asked to; the result is the same

    Raises
    ------
    InvalidInput   not a run directory, somebody else writes to it, it is damaged, or it names code and is not trusted
    Others         as `prune`
    """
    leave_import_by_worker()
    run = RunDirectory.open(path)
    request = PruneRequest.from_json(run.request, path / "run.json")
    done = run.result()
    if done is not None and run.finished:
        run.require_own("mask.safetensors")
        say(f"{path} is finished; nothing is left to do")
        return {**done, "run": str(path)}
    if executor is not None:
        request = dataclasses.replace(request, executor=executor)
    if not trust:
        # An executor given here is the user's own word.
        asked = {**request.as_json(), "executor": request.executor if executor is None else None}
        require_trust(asked, path, f"{resume_line(path)} --trust")
    with terminable():
        run.hold(say)
        try:
            if run.forget_losses():
                say("going back to before the first block that was not solved")
            prepared = _prepare(request)
            try:
                prepared.workers.start()
                run.withdraw_result()
                return _execute(request, dataclasses.replace(prepared, trust=trust), run, say)
            finally:
                prepared.workers.close()
        finally:
            run.release()


@dataclass(frozen=True)
class _Prepared:
    problem: Problem
    solver: Solver
    mode: Mode
    options: Any
    """Of the coordinator; None where it has none."""
    workers: Workers
    trust: bool = False
    """Whether a checkpoint without a seal is taken."""


def _prepare(request: PruneRequest) -> _Prepared:
    """Check everything that can be checked before work begins."""
    checks.require(plain(request.as_json()), checks.REQUEST, checks.REQUEST_NEEDS, "the request")
    for what, value, known in (
        ("coordinator", request.coordinator, COORDINATORS),
        ("scope", request.scope, SCOPES),
        ("mode", request.mode or MODES[0], MODES),
    ):
        if value not in known:
            raise unknown_name(what, value, known)
    keep_count(request.density, 10**12)
    kind = COORDINATORS[request.coordinator]
    if request.coordinator_options and kind is None:
        names = ", ".join(sorted(request.coordinator_options))
        raise InvalidInput(f"coordinator {request.coordinator!r} has no options, but {names} is given; leave it out")
    problem = make_problem(request.problem, request.problem_options)
    solver = make_solver(request.solver, request.solver_options)
    require_data(problem)
    if request.scope == "layer" and not isinstance(problem, NetworkProblem):
        raise InvalidInput(f"problem {request.problem!r} has no layers; leave --scope at network")
    option_tools.build(FisherOptions, request.curvature)
    if request.coordinator == "multi-stage" and not isinstance(problem, NetworkProblem):
        raise InvalidInput(
            f"problem {request.problem!r} is no network, and its quadratic form is the same at every stage; "
            "use --coordinator one-shot or icbs"
        )
    if request.coordinator == "layer-wise" and not isinstance(problem, NetworkProblem):
        raise InvalidInput(
            f"problem {request.problem!r} is no network and has no layers; use --coordinator one-shot or icbs"
        )
    if request.start is not None:
        _require_start(request, problem)
    options = None if kind is None else option_tools.build(kind, request.coordinator_options)
    if isinstance(options, (LayerWiseOptions, ICBSOptions, MultiStageOptions)):
        quotas.require_density(options.quota, request.density)
    if isinstance(options, (ICBSOptions, MultiStageOptions)) and options.quota is not None:
        # A block inside one layer keeps the layer's count by itself.
        inside = options.quota == "layer" and getattr(options, "block_scope", "network") == "layer"
        if not inside:
            quotas.require_honoured(solver, options.quota, "leave the quota out")
    mode = request.mode or ("select" if request.coordinator == "icbs" else preferred_mode(solver))
    return _Prepared(problem, solver, mode, options, make_workers(request.executor))


def _require_start(request: PruneRequest, problem: Problem) -> None:
    """Refuse a start that the coordinator cannot begin from, before anything is loaded."""
    if request.coordinator != "icbs" or not isinstance(problem, NetworkProblem):
        raise InvalidInput(
            f"a start is for coordinator icbs on a network, not for {request.coordinator} on {request.problem}; "
            "leave it out"
        )
    held = finished(Path(str(request.start))).request
    if (held["problem"], held["density"]) != (request.problem, request.density):
        raise InvalidInput(
            f"start {request.start} pruned {held['problem']} to density {held['density']:g}, and this run is of "
            f"{request.problem} to {request.density:g}; give a run of the same problem and density"
        )


def preferred_mode(solver: Solver) -> Mode:
    """The mode a solver is best known in: its `preferred_mode`, else refit where it handles it."""
    preferred: Mode | None = getattr(solver, "preferred_mode", None)
    return preferred or ("refit" if "refit" in solver.modes else "select")


def _execute(request: PruneRequest, prepared: _Prepared, run: RunDirectory, say: Say) -> dict[str, Any]:
    started = perf_counter()
    try:
        if isinstance(prepared.problem, NetworkProblem):
            measures = _prune_network(request, prepared, prepared.problem, run, say)
        else:
            measures = _prune_block_set(request, prepared, run, say)
        result = {
            **_described(request, prepared),
            **measures,
            "seconds": perf_counter() - started,
            "run": str(run.path),
        }
        run.finish(result)
    except KeyboardInterrupt:
        line = resume_line(run.path, run.request)
        raise Interrupted(f"interrupted between steps; the steps done are kept. Resume with: {line}") from None
    except OSError as error:
        line = resume_line(run.path, run.request)
        raise CannotWrite(f"{error}; what is done up to the last checkpoint is kept. Resume with: {line}") from error
    finally:
        prepared.workers.close()
    if result["unsolved"]:
        raise RunFailed(loss_words(result, resume_line(run.path, run.request)), result)
    return result


def _described(request: PruneRequest, prepared: _Prepared) -> dict[str, Any]:
    """What was asked for, as the result has it."""
    solver, problem = option_tools.as_json(prepared.solver), options_as_json(prepared.problem)
    out = {
        "problem": request.problem,
        "coordinator": request.coordinator,
        "solver": prepared.solver.name,
        "options": {**solver, **{f"problem.{key}": value for key, value in problem.items()}},
        "mode": prepared.mode,
        "density": request.density,
        "seed": request.seed,
    }
    if prepared.options is None:
        return {**out, "scope": request.scope}
    return {**out, "coordinator_options": option_tools.as_json(prepared.options)}


def loss_words(result: Mapping[str, Any], resume: str) -> str:
    """What a run that ended with unsolved blocks says: how many, why, and the command that solves them again."""
    failures = "; ".join(f"{count} x {reason}" for reason, count in result["failures"].items())
    return (
        f"{result['unsolved']} blocks were not solved and stayed as they were ({failures}). The network is whole, but "
        f"not what was asked for. Resume, from before the first of them, with: {resume}"
    )


def _prune_network(
    request: PruneRequest, prepared: _Prepared, problem: NetworkProblem, run: RunDirectory, say: Say
) -> dict[str, Any]:
    from prunebench.curvature.finite import require_finite_losses
    from prunebench.networks.chosen import not_pruned, prunable_network

    clock = perf_counter()
    model = problem.model()
    network = prunable_network(problem, model)
    network.require_finite()
    dense = problem.evaluate(model)
    if not all(math.isfinite(value) for value in dense.values()):
        require_finite_losses(network, problem.loss, problem.validation())
        raise InvalidInput(f"the dense network is judged {dense} on its validation samples; look for a broken one")
    timings = {"load": perf_counter() - clock}
    measures = ", ".join(f"{name} {value:.4f}" for name, value in dense.items())
    say(f"{request.problem}: {network.total} prunable weights, dense {measures}")

    clock = perf_counter()
    coordinator, way, unreached = _network_coordinator(request, prepared, problem, network, say)
    if not run.describes_network():
        facts = network_facts.as_json(not_pruned(network, selection(problem)), way, unreached())
        run.describe_network(facts)
        for line in network_facts.lines(facts):
            say(line)
    timings["build"] = perf_counter() - clock

    def validate(weights: RealArray) -> Mapping[str, float]:
        if isinstance(coordinator, MultiStage):
            coordinator.place(weights)
        else:
            network.assign(weights)
        return problem.evaluate(model)

    driven = drive(coordinator, prepared.solver, run, _drive(request, prepared, validate), say)
    coordinator.check()
    timings["solve"] = driven.pop("solve_seconds")

    clock = perf_counter()
    mask, weights = coordinator.best()
    judged = dict(validate(weights))
    with run.writes("weights.safetensors"):
        network.save(run.path / "weights.safetensors")
    spans = {layer.name: mask[layer.start : layer.stop].reshape(layer.shape) for layer in network.layers}
    run.save_tensors("mask.safetensors", spans)
    timings["evaluate"] = perf_counter() - clock
    return {
        "outcome": _outcome(driven),
        "kept": int(mask.sum()),
        "total": network.total,
        **judged,
        **{f"dense_{key}": value for key, value in dense.items()},
        "kept_per_layer": {name: int(part.sum()) for name, part in spans.items()},
        **driven,
        "timings": timings,
    }


def _network_coordinator(
    request: PruneRequest, prepared: _Prepared, problem: NetworkProblem, network: "PrunableNetwork", say: Say
) -> tuple[Coordinator, "Checked | None", Callable[[], "Unreached"]]:
    """The coordinator over a network, how it computes gradients, and what tells which weights samples do not reach.

    iCBS and multi-stage look at the network again and again, one-shot once.
    """
    from prunebench.curvature import reach
    from prunebench.curvature.gradient_ways import way_of

    rng = np.random.default_rng(calibration_seed(request.seed))
    if request.coordinator == "icbs":
        from prunebench.curvature.landscape import NetworkLandscape

        landscape = NetworkLandscape(problem, network)
        start = None if request.start is None else load_start(Path(request.start), network)
        icbs = ICBS(
            landscape,
            request.density,
            prepared.mode,
            prepared.options,
            seed=request.seed,
            problem=request.problem,
            start=start,
        )
        looked = spread(landscape.samples, prepared.options.samples, rng)

        def unreached() -> "Unreached":
            landscape.place(landscape.dense_weights)
            return reach.unreached(network.layers, landscape.look(looked).gradient != 0.0, looked.size)

        return icbs, landscape.way, unreached
    if request.coordinator == "multi-stage":
        stages = _multi_stage(request, prepared, problem, network)
        calibration, looked = problem.calibration(), stages.stage_samples[:REACH_SAMPLES]
        way = way_of(network, problem.loss, calibration, looked, batch_size=stages.row_samples)
        return (
            stages,
            way,
            lambda: reach.unreached(
                network.layers, reach.reached_by_gradients(network, problem.loss, calibration, looked), looked.size
            ),
        )
    if request.coordinator == "layer-wise":
        return _layer_wise(request, prepared, problem, network, say)
    curvature = option_tools.build(FisherOptions, request.curvature)
    layers = [Span(layer.name, layer.start, layer.stop) for layer in network.layers]
    spans = layers if request.scope == "layer" else [Span("network", 0, network.total)]
    _require_size(prepared.solver, max(span.stop - span.start for span in spans))
    form = network_form(problem, network, curvature, rng)
    say(f"quadratic form from {curvature.samples} samples")
    one_shot = OneShot(form, network.weights(), request.density, prepared.mode, spans, problem=request.problem)
    calibration = problem.calibration()
    way = way_of(network, problem.loss, calibration, np.arange(1), batch_size=curvature.batch_size)
    return one_shot, way, lambda: reach.unreached(network.layers, reach.reached_by_form(form), curvature.samples)


def _multi_stage(
    request: PruneRequest, prepared: _Prepared, problem: NetworkProblem, network: "PrunableNetwork"
) -> MultiStage:
    from prunebench.recovery.layer_refit import LayerRefit
    from prunebench.recovery.movable import MovableNetwork

    options: MultiStageOptions = prepared.options
    calibration = problem.calibration()
    total, seed = len(calibration), request.seed
    refitted = layer_positions(options, total, seed)
    layers = LayerRefit(network, calibration, refitted, ridge=options.layer_ridge) if refitted.size else None
    stages = MovableNetwork(problem, network, statistics_positions(options, total, seed), layers)
    return MultiStage(stages, total, request.density, prepared.mode, options, seed=seed, problem=request.problem)


def _layer_wise(
    request: PruneRequest, prepared: _Prepared, problem: NetworkProblem, network: "PrunableNetwork", say: Say
) -> tuple[LayerWise, None, Callable[[], "Unreached"]]:
    from prunebench.curvature import reach
    from prunebench.curvature.layer_walk import LayerWalk

    options: LayerWiseOptions = prepared.options
    require_fit(prepared.solver, network.layers, options)
    calibration = problem.calibration()
    if options.samples > len(calibration):
        raise InvalidInput(
            f"coordinator layer-wise: samples is {options.samples} but {problem.name} has {len(calibration)} "
            "calibration samples; ask for fewer"
        )
    rng = np.random.default_rng(calibration_seed(request.seed))
    positions = spread(len(calibration), options.samples, rng)
    walk = LayerWalk(network, calibration, positions, dense=options.target == "dense")
    how = f"{walk.blocks} blocks run by themselves" if walk.blocks else "the network run from its inputs each time"
    say(f"{len(network.layers)} layers with {len(walk.groups)} different inputs, {how}")
    coordinator = LayerWise(
        walk,
        network.layers,
        network.weights(),
        request.density,
        prepared.mode,
        options,
        whole_layers=getattr(prepared.solver, "whole_layers", False),
        problem=request.problem,
    )
    return (
        coordinator,
        None,
        lambda: reach.unreached(
            network.layers, reach.reached_by_inputs(network, calibration, positions), positions.size
        ),
    )


def _require_size(solver: Solver, size: int) -> None:
    """Refuse a block that is too large before its gradients are computed."""
    largest = getattr(solver, "max_size", None)
    if largest is not None and size > largest:
        raise SolverRefused(
            f"solver {solver.name!r} takes blocks of at most {largest:,} weights and one-shot pruning needs {size:,}; "
            f"use --coordinator icbs --block-size {min(largest, 64)}, --scope layer, or another solver"
        )


def _prune_block_set(request: PruneRequest, prepared: _Prepared, run: RunDirectory, say: Say) -> dict[str, Any]:
    problem = prepared.problem
    if not isinstance(problem, BlockSetProblem):
        raise InvalidInput(f"problem {request.problem!r} is neither a network nor a set of blocks")
    block = problem.block(request.density, prepared.mode, request.seed)
    coordinator: Coordinator
    if request.coordinator == "icbs":
        landscape = FormLandscape(block.form, block.dense_weights)
        coordinator = ICBS(
            landscape, request.density, prepared.mode, prepared.options, seed=request.seed, problem=request.problem
        )
    else:
        span = Span("block", 0, block.p)
        coordinator = OneShot(
            block.form, block.dense_weights, request.density, prepared.mode, [span], problem=request.problem
        )
    driven = drive(coordinator, prepared.solver, run, _drive(request, prepared, None), say)
    coordinator.check()
    mask, weights = coordinator.best()
    run.save_tensors("weights.safetensors", {"weights": weights})
    run.save_tensors("mask.safetensors", {"weights": mask})
    return {
        "outcome": _outcome(driven),
        "kept": int(mask.sum()),
        "total": block.p,
        "accuracy": None,
        "loss": block.form.value(weights),
        "dense_accuracy": None,
        "dense_loss": block.form.value(block.dense_weights),
        **driven,
        "timings": {"solve": driven.pop("solve_seconds")},
    }


def _outcome(driven: Mapping[str, Any]) -> str:
    return "incomplete" if driven["unsolved"] else "finished"


def _drive(request: PruneRequest, prepared: _Prepared, validate: Validate | None) -> Drive:
    stepwise = request.coordinator != "one-shot"
    return Drive(
        seed=request.seed,
        seconds=float("inf") if request.seconds is None else request.seconds,
        block_budget=Budget() if request.block_seconds is None else Budget(seconds=request.block_seconds),
        workers=prepared.workers,
        validate=validate,
        # every stage is logged with its accuracy
        validate_every=request.validate_every or int(request.coordinator == "multi-stage"),
        finish_step=stepwise,
        blas_threads=1 if stepwise else None,
        trust=prepared.trust,
    )
