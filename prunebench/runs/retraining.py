"""Train what a run kept, by a protocol, beside its result: the network as it was pruned stays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench import threads
from prunebench.core.arrays import BoolArray
from prunebench.core.errors import Interrupted, InvalidInput
from prunebench.core.problem import NetworkProblem, make_problem, require_data
from prunebench.core.trust import require_trust
from prunebench.log.run_directory import RETRAINED, RunDirectory, trainings
from prunebench.quiet import quiet
from prunebench.recovery.training.protocol import Protocol, as_text, with_known_samples
from prunebench.runs.controls import of_groups, of_weights, require_possible, trained_controls
from prunebench.runs.runner import TRAINING, Progress, Say, Step, shown_by
from prunebench.runs.smaller_training import SmallerTraining
from prunebench.runs.start import finished, load_start
from prunebench.signals import terminable

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork

STATE = "retraining.npz"
"""In the state folder: a training under way."""
SAVE_SECONDS = 2.0
"""A training under way is written at most this often."""


@quiet()
def retrain(
    path: Path,
    protocol: Protocol,
    *,
    say: Say = lambda _line: None,
    trust: bool = False,
    progress: Progress | None = None,
    problem: NetworkProblem | None = None,
    controls: Sequence[str] = (),
) -> dict[str, Any]:
    """Train the network of a finished run by a protocol and add what it reaches to the run's result.

    A training that was interrupted goes on where it was; one that is done already is returned as it is.

    Parameters
    ----------
    path : the run directory;  protocol : what is done
    trust : the directory is the user's own: options that name code are followed
    problem : the object, of a network that a Python program made
    controls : names of `prunebench.core.controls.CONTROLS` that are trained by the same protocol

    Returns
    -------
    dict   the run's result, with "retrained": one entry for each training, "controls": one for each control and
           protocol, and "run", the directory

    Raises
    ------
    InvalidInput   no finished run of a network, one of structured pruning, a protocol that does not fit it, or options
                   that name code and no trust
    Interrupted    Ctrl-C; what is done up to the last epoch that was written is kept
    """
    from prunebench.networks.chosen import prunable_network

    protocol = with_known_samples(protocol)
    run = finished(path)
    request = run.request
    if not trust:
        require_trust({**request, "executor": None}, path, f"prunebench retrain {path} --trust")
    with terminable():
        # what is there is read under the lock: another process may be training by the same protocol
        run.hold(say)
        try:
            result = run.result() or {}
            known = next((entry for entry in trainings(result) if entry["options"] == asdict(protocol)), None)
            wanted = [name for name in controls if not _has_control(result, name, protocol)]
            if known is not None and not wanted:
                say(f"{path} has this training already")
                return {**result, "run": str(path)}
            if problem is None:
                made = make_problem(request["problem"], request.get("problem_options", {}))
                if not isinstance(made, NetworkProblem):
                    raise InvalidInput(f"{path} pruned no network, so there is nothing to train")
                problem = made
            require_trainable(problem, protocol, bool(result.get("costs")))
            if controls:
                density = None if result.get("costs") else int(result["kept"]) / int(result["total"])
                require_possible(problem, controls, protocol, density=density)
            require_data(problem)
            smaller, seed = None, int(request.get("seed", 0))
            if result.get("costs"):
                smaller = SmallerTraining(problem, path, request, result)
                network, mask = smaller.network, np.ones(smaller.network.total, dtype=np.bool_)
                make = of_groups(smaller, protocol, seed)
            else:
                network = prunable_network(problem)
                mask = load_start(path, network).mask
                make = of_weights(problem, network, mask, protocol, seed)
            with threads.for_network(threads.few(network.model, problem.validation())):
                if known is None:
                    entry = trained(
                        problem, network, mask, protocol,
                        run=run, say=say, progress=progress, smaller=smaller,
                    )  # fmt: skip
                    result = {**result, "retrained": [*result.get("retrained", []), entry]}
                    run.conclude(result)
                if wanted:
                    entries = trained_controls(
                        problem, wanted, protocol, make, run=run, progress=shown_by(say, progress)
                    )
                    run.conclude({**result, "controls": [*result.get("controls", []), *entries]})
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; the epochs that were written are kept. Go on with: prunebench retrain {path} and the "
                "same protocol"
            ) from None
        finally:
            run.release()
    return {**(run.result() or {}), "run": str(path)}


def require_trainable(problem: Any, protocol: Protocol, of_groups: bool) -> None:
    """Refuse a training that cannot be, before any work.

    Raises
    ------
    InvalidInput   with the remedy
    """
    from prunebench.recovery.training.starts import require_known

    if not isinstance(problem, NetworkProblem):
        raise InvalidInput(f"problem {problem.name!r} is no network, so there is nothing to train; leave retrain out")
    if of_groups and protocol.penalty:
        raise InvalidInput("penalty pulls at weights that go, and of a smaller network none does; leave it out")
    require_known(problem, protocol)


def trained(
    problem: NetworkProblem, network: "PrunableNetwork", mask: BoolArray, protocol: Protocol, *,
    run: RunDirectory, say: Say, progress: Progress | None, smaller: SmallerTraining | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a network that has a run's pruned values, in place, and write its state into the run's directory.

    smaller : whose network it is, where whole groups were pruned

    Returns
    -------
    dict   protocol (as text), options, the measures on the validation samples, epochs (loss, judged, rate of each),
           best (the epoch whose values are returned), kept, seconds, file

    Raises
    ------
    InvalidInput      the protocol does not fit the network
    PrunebenchError   the loss is no longer finite
    """
    from prunebench.recovery.training.starts import trainer

    clock, text = perf_counter(), as_text(protocol)
    if smaller is None:
        training = trainer(problem, network, mask, protocol)
    else:
        training = trainer(problem, network, mask, protocol.at(smaller.part), put=smaller.put)
    before = _restored(training, run, text, say)
    saved = perf_counter()
    while not training.done:
        epoch = training.epoch()
        done = len(training.epochs)
        judged = "" if epoch.judged is None else f"  judged {epoch.judged:.5g}"
        step = Step(done, training.course.total_epochs, f"training loss {epoch.loss:.5g}{judged}", work=TRAINING)
        shown_by(say, progress)(step)
        if perf_counter() - saved > SAVE_SECONDS and not training.done:
            arrays, info = training.state()
            run.save_state(arrays, {**info, "protocol": text, "seconds": before + perf_counter() - clock}, STATE)
            saved = perf_counter()
    training.finish()
    name = RETRAINED.format(number=len(trainings(run.result() or {})) + 1)
    with run.writes(name):
        network.save(run.path / name)
    measures = dict(problem.evaluate(network.model))
    (run.path / "state" / STATE).unlink(missing_ok=True)
    return {
        "protocol": text,
        "options": asdict(protocol),
        **measures,
        "epochs": [asdict(epoch) for epoch in training.epochs],
        "best": training.best,
        "kept": int(np.count_nonzero(mask)),
        "seconds": before + perf_counter() - clock,
        "file": name,
    }


def words(entry: Mapping[str, Any], measure: Callable[[Mapping[str, Any]], str]) -> str:
    """A training in a line: its measure, how many epochs, and its protocol."""
    done = len(entry["epochs"])
    kept = f", the best of them {entry['best']}" if entry["best"] != done else ""
    protocol = entry["protocol"] or "the usual protocol"
    return f"{measure(entry)} after {done} epoch{'s' if done != 1 else ''}{kept} ({protocol})"


def _has_control(result: Mapping[str, Any], name: str, protocol: Protocol) -> bool:
    """Whether a result has a control that was trained by a protocol."""
    held = result.get("controls", [])
    return any(entry["control"] == name and entry["trained_as"] == as_text(protocol) for entry in held)


def _restored(training: Any, run: RunDirectory, text: str, say: Say) -> float:
    """Go on from a training under way, if it is by the same protocol. -> seconds that it took until then

    Raises
    ------
    InvalidInput   its file is not what this run wrote
    """
    held = run.load_state(name=STATE)
    if held is None:
        return 0.0
    arrays, info = held
    if info.get("protocol") != text:
        say("a training by another protocol was under way and is dropped")
        return 0.0
    training.load(arrays, info)
    say(f"continuing after epoch {len(training.epochs)} of training")
    return float(info["seconds"])
