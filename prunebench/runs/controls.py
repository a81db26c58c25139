"""Train the controls of what a run kept, by the protocol by which it was trained, and note what they reach."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.controls import CONTROLS, require_controls
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.log.run_directory import RunDirectory
from prunebench.recovery.training.protocol import Protocol, as_text
from prunebench.runs.runner import TRAINING, Progress, Step

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork

STATE = "controls.npz"
"""In the state folder: the controls that are done of a run that still trains others."""


def require_possible(
    problem: Any, names: Sequence[str], protocol: Protocol | None, *, density: float, of_groups: bool
) -> None:
    """Refuse controls that cannot be, before any work.

    protocol : by which they are trained; None where nothing is trained;  density : the part of the weights that is kept

    Raises
    ------
    InvalidInput   with the remedy
    """
    require_controls(names)
    if not isinstance(problem, NetworkProblem):
        raise InvalidInput(f"problem {problem.name!r} is no network, so it has no controls; leave them out")
    if of_groups:
        raise InvalidInput(
            "controls are of single weights, and this run keeps whole groups; leave controls out, or compare with "
            "--uniform and random groups (--solver random)"
        )
    if protocol is None:
        raise InvalidInput(
            "controls are trained as what was kept is, and nothing says how; give --retrain PROTOCOL, or a recipe that "
            "trains, such as lottery"
        )
    from prunebench.recovery.training import controls

    controls.require_known(problem, protocol, names, density)


def trained_controls(
    problem: NetworkProblem, network: "PrunableNetwork", mask: BoolArray, names: Sequence[str], protocol: Protocol, *,
    seed: int, run: RunDirectory, progress: Progress,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train controls one after another; those that an interrupted run has done already are not done again.

    network : has the pruned values, which it has again at the end;  seed : of what controls draw

    Returns
    -------
    list   for each control: control, protocol (as text, with where it started), trained_as (the protocol asked for),
           options, the measures on the validation samples, epochs, best, kept, seconds

    Raises
    ------
    PrunebenchError   a loss is no longer finite
    """
    held, text = run.load_state(name=STATE), as_text(protocol)
    entries: list[dict[str, Any]] = [] if held is None else list(held[1]["entries"])
    done = [entry for entry in entries if entry["trained_as"] == text]
    pruned = network.state()
    for name in names:
        if not any(entry["control"] == name for entry in done):
            network.load_state(pruned)
            done.append(_trained(name, problem, network, mask, protocol, seed, progress))
            run.save_state({}, {"entries": done}, STATE)
    network.load_state(pruned)
    (run.path / "state" / STATE).unlink(missing_ok=True)
    return done


def _trained(
    name: str, problem: NetworkProblem, network: "PrunableNetwork", mask: BoolArray, protocol: Protocol, seed: int,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    from prunebench.recovery.training import controls
    from prunebench.recovery.training.starts import dense_schedule

    clock = perf_counter()
    control = controls.made(name, problem, network, mask, protocol, seed)
    teacher = problem.model() if protocol.distil else None
    dense = dense_schedule(problem) if protocol.schedule == "rewound" else None
    training = controls.training_of(control, problem, teacher, dense)
    while not training.done:
        epoch = training.epoch()
        words = f"control {name}: training loss {epoch.loss:.5g}"
        progress(Step(len(training.epochs), training.course.total_epochs, words, work=f"{TRAINING} {name}"))
    training.finish()
    return {
        "control": name,
        "protocol": as_text(control.protocol),
        "trained_as": as_text(protocol),
        "options": asdict(control.protocol),
        **dict(problem.evaluate(control.network.model)),
        "epochs": [asdict(epoch) for epoch in training.epochs],
        "best": training.best,
        "kept": int(np.count_nonzero(control.mask)),
        "seconds": perf_counter() - clock,
    }


def words(entry: Mapping[str, Any], measure: str) -> str:
    """A control in a line: what it reaches, and what it is. measure : in words"""
    kept = "" if entry["control"] != "small-dense" else f", {entry['kept']:,} weights"
    return f"{measure} ({entry['control']}: {CONTROLS[entry['control']]}{kept})"
