"""Run what is prepared: load the network, drive the coordinator over it, judge and save the result."""

import math
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any, cast

import numpy as np

from prunebench import threads
from prunebench.coordinators.recovered import begin
from prunebench.core.arrays import BoolArray, RealArray
from prunebench.core.coordinator import Setting
from prunebench.core.errors import CannotWrite, Interrupted, InvalidInput, PrunebenchError, RunFailed
from prunebench.core.levels import Levels
from prunebench.core.problem import BlockSetProblem, NetworkProblem, selection
from prunebench.core.subset import whole
from prunebench.log.run_directory import RunDirectory, resume_line
from prunebench.recovery.training.protocol import parse
from prunebench.runs import controls, network_facts
from prunebench.runs.preparation import Prepared, control_protocol
from prunebench.runs.retraining import trained
from prunebench.runs.runner import Validate, drive, shown_by
from prunebench.runs.shared import shared_out, workers_of
from prunebench.runs.smaller_training import SmallerTraining
from prunebench.runs.start import LEVELS_FILE
from prunebench.runs.structured import on_groups


def execute(prepared: Prepared, run: RunDirectory) -> dict[str, Any]:
    """Run to the end, write the result and return it; the workers are closed whatever happens.

    Raises
    ------
    Interrupted, CannotWrite, RunFailed   as `prunebench.runs.prune.prune`
    """
    started = perf_counter()
    problem = prepared.setting.problem
    try:
        measures = _on_network(prepared, run) if isinstance(problem, NetworkProblem) else _on_block(prepared, run)
        result = {**prepared.described, **measures, "seconds": perf_counter() - started, "run": str(run.path)}
        run.finish(result)
    except KeyboardInterrupt:
        line = resume_line(run.path, run.request)
        raise Interrupted(f"interrupted between steps; the steps done are kept. Resume with: {line}") from None
    except OSError as error:
        line = resume_line(run.path, run.request)
        raise CannotWrite(f"{error}; what is done up to the last checkpoint is kept. Resume with: {line}") from error
    finally:
        prepared.how.workers.close()
    if result["unsolved"]:
        raise RunFailed(loss_words(result, resume_line(run.path, run.request)), result)
    return result


def loss_words(result: Mapping[str, Any], resume: str) -> str:
    """What a run that ended with unsolved blocks says: how many, why, and the command that solves them again."""
    failures = "; ".join(f"{count} x {reason}" for reason, count in result["failures"].items())
    return (
        f"{result['unsolved']} blocks were not solved and stayed as they were ({failures}). The network is whole, but "
        f"not what was asked for. Resume, from before the first of them, with: {resume}"
    )


def _on_network(prepared: Prepared, run: RunDirectory) -> dict[str, Any]:
    clock = perf_counter()
    setting = _loaded(prepared.setting)
    problem = setting.problem
    assert isinstance(problem, NetworkProblem)
    with threads.for_network(threads.few(setting.network.model, problem.validation())):
        dense = _judged_dense(setting, problem)
        with shared_out(prepared, setting) as shared:
            prepared = replace(prepared, how=replace(prepared.how, shared=shared), setting=setting)
            if prepared.kind.of_groups:
                return _smaller_trained(prepared, setting, on_groups(prepared, setting, dense, run, clock), run)
            return _pruned(prepared, problem, run, dense, {"load": perf_counter() - clock})


def _smaller_trained(prepared: Prepared, setting: Setting, result: dict[str, Any], run: RunDirectory) -> dict[str, Any]:
    """The result of structured pruning with the trainings of the smaller network and its controls, where they are
    asked for.
    """
    request, problem = prepared.request, setting.problem
    if request.retrain is None and not request.controls:
        return result
    assert isinstance(problem, NetworkProblem)
    if result["unsolved"]:
        setting.say("what is kept is not trained, since blocks were not solved")
        return result
    clock, timings = perf_counter(), dict(result["timings"])
    try:
        if request.retrain is not None:
            problem = whole_network(problem)
        smaller = SmallerTraining(problem, run.path, run.request, result)
    except InvalidInput as reason:
        # only now is it known whether the module takes smaller tensors; what was pruned stands
        setting.say(f"not trained: {reason}")
        return result
    protocol = control_protocol(request, prepared.kind, setting.options)
    assert protocol is not None
    make = controls.of_groups(smaller, protocol, request.seed)
    out = {**result, "timings": timings}
    if request.retrain is not None:
        out["retrained"] = [trained(
            problem, smaller.network, np.ones(smaller.network.total, dtype=np.bool_), protocol, run=run,
            say=setting.say, progress=prepared.how.progress, smaller=smaller,
        )]  # fmt: skip
        timings["retrain"] = perf_counter() - clock
    if request.controls:
        clock = perf_counter()
        out["controls"] = controls.trained_controls(
            problem, request.controls, protocol, make, run=run, progress=shown_by(setting.say, prepared.how.progress)
        )
        timings["controls"] = perf_counter() - clock
    return out


def _pruned(
    prepared: Prepared,
    problem: NetworkProblem,
    run: RunDirectory,
    dense: Mapping[str, float],
    timings: dict[str, float],
) -> dict[str, Any]:
    """Prune the network that the setting has, write mask and weights, and judge it.

    dense : what the dense network is judged;  timings : seconds by part, to which others are added
    """
    clock = perf_counter()
    setting = prepared.kind.narrowed(prepared.setting)
    network = setting.network
    coordinator = begin(prepared.kind, setting)
    if not run.describes_network():
        _describe(setting, coordinator.network_facts(), run)
    timings["build"] = perf_counter() - clock

    def validate(weights: RealArray) -> Mapping[str, float]:
        coordinator.place(network, weights)
        return problem.evaluate(network.model)

    driven = drive(coordinator, setting.solver, run, replace(prepared.how, validate=validate), setting.say)
    coordinator.check()
    timings["solve"] = driven.pop("solve_seconds")

    clock = perf_counter()
    mask, weights = coordinator.best()
    held = coordinator.levels()
    rounding = {} if held is None else {"bits": _rounding(held, network, mask, validate)}
    judged = dict(validate(weights))
    if held is not None:
        _write_levels(held, network, run)
    with run.writes("weights.safetensors"):
        network.save(run.path / "weights.safetensors")
    spans = {layer.name: mask[layer.start : layer.stop].reshape(layer.shape) for layer in network.layers}
    run.save_tensors("mask.safetensors", spans)
    timings["evaluate"] = perf_counter() - clock
    retrained, pruned = [], network.state() if prepared.request.controls else None
    if prepared.request.retrain is not None and driven["unsolved"]:
        setting.say("what is kept is not trained, since blocks were not solved")
    elif prepared.request.retrain is not None:
        clock = perf_counter()
        protocol = parse(prepared.request.retrain)
        retrained = [
            trained(
                whole_network(problem), network, mask, protocol,
                run=run, say=setting.say, progress=prepared.how.progress,
            )
        ]  # fmt: skip
        timings["retrain"] = perf_counter() - clock
    clock = perf_counter()
    compared = _controls(prepared, problem, network, mask, pruned, run) if not driven["unsolved"] else []
    if compared:
        timings["controls"] = perf_counter() - clock
    return {
        "outcome": _outcome(driven),
        "kept": int(mask.sum()),
        "total": network.total,
        **judged,
        **{f"dense_{key}": value for key, value in dense.items()},
        "kept_per_layer": {name: int(part.sum()) for name, part in spans.items()},
        **rounding,
        **driven,
        **workers_of(run.events(), prepared.how.shared is not None, setting.say),
        **({"retrained": retrained} if retrained else {}),
        **({"controls": compared} if compared else {}),
        "timings": timings,
    }


def _rounding(held: Levels, network: Any, mask: BoolArray, validate: Validate) -> dict[str, Any]:
    """What a result says of levels: bits, bytes in several ways of storing, and measures before rounding."""
    item_size = max(parameter.element_size() for parameter in network.parameters)
    tensors = network.model.state_dict().values()
    whole = sum(tensor.numel() * tensor.element_size() for tensor in {t.data_ptr(): t for t in tensors}.values())
    on_levels = sum(layer.levels.size for layer in held.layers)
    return {
        "bits": held.bits,
        "group_size": held.group_size,
        "bytes": held.bytes(int(mask.sum()), item_size, whole - on_levels * item_size),
        "unrounded": dict(validate(held.unrounded)),
    }


def _write_levels(held: Levels, network: Any, run: RunDirectory) -> None:
    """Write levels and scales, once the network is seen to hold nothing else.

    Raises
    ------
    PrunebenchError   a weight of the network is not its level times its scale
    """
    if wrong := held.wrong(network.weights(network.precision)):
        raise PrunebenchError(f"{wrong}; please report this")
    run.save_tensors(LEVELS_FILE, held.tensors({layer.name: layer.start for layer in network.layers}))


def _controls(
    prepared: Prepared, problem: NetworkProblem, network: Any, mask: BoolArray, pruned: Any, run: RunDirectory
) -> list[dict[str, Any]]:
    """Train the controls that are asked for. pruned : the network's state before it was trained, None without any"""
    request = prepared.request
    if not request.controls:
        return []
    network.load_state(pruned)
    protocol = control_protocol(request, prepared.kind, prepared.setting.options)
    assert protocol is not None
    if request.retrain is not None:
        problem = whole_network(problem)
    make = controls.of_weights(problem, network, mask, protocol, request.seed)
    shown = shown_by(prepared.setting.say, prepared.how.progress)
    return controls.trained_controls(problem, request.controls, protocol, make, run=run, progress=shown)


def whole_network(problem: NetworkProblem) -> NetworkProblem:
    """The problem with all its samples: on which of them is trained is said by the training's protocol."""
    return cast(NetworkProblem, whole(problem))


def _loaded(setting: Setting) -> Setting:
    """The setting with its network.

    Raises
    ------
    InvalidInput   weights that are NaN or infinite
    """
    from prunebench.networks.chosen import prunable_network

    problem = setting.problem
    assert isinstance(problem, NetworkProblem)
    for line in getattr(problem, "told", ()):
        setting.say(line)
    network = prunable_network(problem) if setting.network is None else setting.network
    network.require_finite()
    return replace(setting, network=network)


def _judged_dense(setting: Setting, problem: NetworkProblem) -> dict[str, float]:
    """What the dense network is judged, which is told.

    Raises
    ------
    InvalidInput   losses that are NaN or infinite
    """
    from prunebench.curvature.finite import require_finite_losses

    network = setting.network
    dense = _dense_measures(problem, network.model)
    if not all(math.isfinite(value) for value in dense.values()):
        require_finite_losses(network, problem.loss, problem.validation())
        raise InvalidInput(f"the dense network is judged {dense} on its validation samples; look for a broken one")
    measures = ", ".join(f"{name} {value:.4f}" for name, value in dense.items())
    setting.say(f"{setting.name}: {network.total} prunable weights, dense {measures}")
    return dense


def _dense_measures(problem: NetworkProblem, model: Any) -> dict[str, float]:
    """What the dense network is judged.

    Raises
    ------
    InvalidInput   the network cannot be run on its own samples
    """
    try:
        return dict(problem.evaluate(model))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, PrunebenchError):
            raise
        first = next(iter(str(error).splitlines()), "")
        raise InvalidInput(
            f"{problem.name}: the network cannot be run on its validation samples ({type(error).__name__}: {first}); "
            "look at the model and at what it is given"
        ) from error


def _describe(setting: Setting, found: Mapping[str, Any], run: RunDirectory) -> None:
    """Tell and note what of the network is not pruned, and what the coordinator found out of it."""
    from prunebench.curvature.repeated import difference_when_repeated
    from prunebench.networks.chosen import not_pruned

    problem = setting.problem
    assert isinstance(problem, NetworkProblem)
    if noise := difference_when_repeated(setting.network, problem.calibration()):
        found = {**found, "unrepeatable": noise}
    if setting.network.tied:
        found = {**found, "tied": {name: list(others) for name, others in setting.network.tied.items()}}
    left = [name for held in setting.left_dense for name in held.names]
    facts = network_facts.as_json(not_pruned(setting.network, selection(problem), left), found)
    run.describe_network(facts)
    for line in network_facts.lines(facts):
        setting.say(line)


def _on_block(prepared: Prepared, run: RunDirectory) -> dict[str, Any]:
    setting = prepared.setting
    assert isinstance(setting.problem, BlockSetProblem)
    block = setting.problem.block(setting.density, setting.mode, setting.seed)
    coordinator = prepared.kind.begin(replace(setting, block=block))
    driven = drive(coordinator, setting.solver, run, prepared.how, setting.say)
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
