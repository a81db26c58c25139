"""Train the controls of what a run kept, by the protocol by which it was trained, and note what they reach."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.controls import CONTROLS, GROUPS, require_controls
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.log.run_directory import RunDirectory
from prunebench.recovery.training.protocol import Protocol, as_text
from prunebench.runs.runner import TRAINING, Progress, Step

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork
    from prunebench.recovery.training.controls import Control
    from prunebench.runs.smaller_training import SmallerTraining

Make = Callable[[str], "Control"]
"""Gives a control by its name, its values in place."""

STATE = "controls.npz"
"""In the state folder: the controls that are done of a run that still trains others."""


def require_possible(problem: Any, names: Sequence[str], protocol: Protocol | None, *, density: float | None) -> None:
    """Refuse controls that cannot be, before any work.

    protocol : by which they are trained; None where nothing is trained;  density : the part of the weights that is
        kept; None where whole groups are kept

    Raises
    ------
    InvalidInput   with the remedy
    """
    require_controls(names)
    if not isinstance(problem, NetworkProblem):
        raise InvalidInput(f"problem {problem.name!r} is no network, so it has no controls; leave them out")
    if protocol is None:
        raise InvalidInput(
            "controls are trained as what was kept is, and nothing says how; give --retrain PROTOCOL, or a recipe that "
            "trains, such as lottery"
        )
    from prunebench.recovery.training import controls

    controls.require_known(problem, protocol, names, density)


def of_weights(
    problem: NetworkProblem, network: "PrunableNetwork", mask: BoolArray, protocol: Protocol, seed: int
) -> Make:
    """What makes controls of a mask of single weights.

    network : has the pruned values, which every control begins from anew;  seed : of what controls draw
    """
    pruned = network.state()

    def make(name: str) -> "Control":
        from prunebench.recovery.training import controls

        network.load_state(pruned)
        return controls.made(name, problem, network, mask, protocol, seed)

    return make


def of_groups(smaller: "SmallerTraining", protocol: Protocol, seed: int) -> Make:
    """What makes controls of a smaller network, which has its pruned values."""
    pruned = smaller.network.state()

    def make(name: str) -> "Control":
        smaller.network.load_state(pruned)
        return smaller.control(name, protocol, seed)

    return make


def trained_controls(
    problem: NetworkProblem, names: Sequence[str], protocol: Protocol, make: Make, *, run: RunDirectory,
    progress: Progress,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train controls one after another; those that an interrupted run has done already are not done again.

    make : gives a control by its name, ready to be trained

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
    for name in names:
        if not any(entry["control"] == name for entry in done):
            done.append(_trained(name, problem, make, protocol, progress))
            run.save_state({}, {"entries": done}, STATE)
    (run.path / "state" / STATE).unlink(missing_ok=True)
    return done


def _trained(name: str, problem: NetworkProblem, make: Make, protocol: Protocol, progress: Progress) -> dict[str, Any]:
    from prunebench.recovery.training import controls
    from prunebench.recovery.training.starts import dense_schedule

    clock = perf_counter()
    control = make(name)
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


def words(entry: Mapping[str, Any], measure: str, groups: bool = False) -> str:
    """A control in a line: what it reaches, and what it is.

    measure : in words;  groups : whether whole groups were kept
    """
    kept = "" if entry["control"] != "small-dense" else f", {entry['kept']:,} weights"
    known = GROUPS if groups else CONTROLS
    protocol = entry["trained_as"] or "the usual protocol"
    return f"{measure} ({entry['control']}: {known[entry['control']]}{kept}; {protocol})"
