"""The values that a training starts from: those of the pruned network, of the dense one, of a step of its training."""

from collections.abc import Callable
from typing import Any

import torch

from prunebench.core.arrays import BoolArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.training import Trajectory, initialise
from prunebench.recovery.batch_norm import batch_norms
from prunebench.recovery.training.course import Course, DenseSchedule
from prunebench.recovery.training.protocol import Begin, Protocol
from prunebench.recovery.training.trainer import Trainer


def trainer(
    problem: NetworkProblem, network: PrunableNetwork, mask: BoolArray, protocol: Protocol, *,
    put: Callable[[Begin], None] | None = None,
) -> Trainer:  # fmt: skip
    """A training that is ready to begin, with the values in place that it starts from.

    network : has the pruned network's values, which stay where the protocol starts from them
    put : puts the values into place that it starts from; None: those of the network with all its groups

    Raises
    ------
    InvalidInput   the protocol does not fit the network, its samples, or what is known of its dense training
    """
    protocol = protocol.at(float(mask.mean()))
    dense = dense_schedule(problem) if protocol.schedule == "rewound" else None
    if put is None:
        place(problem, network, protocol.begin)
    else:
        put(protocol.begin)
    teacher = problem.model() if protocol.distil else None
    return Trainer(problem, network, mask, protocol, teacher=teacher, dense=dense)


def course_of(problem: NetworkProblem, network: PrunableNetwork, protocol: Protocol) -> Course:
    """Steps and epochs of a protocol over the problem's calibration samples.

    Raises
    ------
    InvalidInput   the protocol does not fit them
    """
    dense = dense_schedule(problem) if protocol.schedule == "rewound" else None
    averages = bool(batch_norms(network.model)) and protocol.batch_norm == "train"
    return Course(protocol, problem.name, len(problem.calibration()), dense=dense, averages=averages)


def place(problem: NetworkProblem, network: PrunableNetwork, begin: Begin) -> None:
    """Put the values that a training starts from into the network, in place.

    Raises
    ------
    InvalidInput   they are not known, or the network cannot be initialised anew
    """
    if begin.kind == "fresh":
        initialise_anew(problem, network.model, begin.number)
    elif begin.kind != "pruned":
        network.load_state(values_at(problem, begin).state_dict())


def values_at(problem: NetworkProblem, begin: Begin) -> torch.nn.Module:
    """The network with its dense values, or those of a step of its training. begin : of kind dense or step

    Raises
    ------
    InvalidInput   the dense training is not known
    """
    if begin.kind == "dense":
        made: torch.nn.Module = problem.model()
        return made
    return _trajectory(problem, "a step of the dense training").at(begin.number)


def require_known(problem: NetworkProblem, protocol: Protocol) -> None:
    """Refuse a protocol that needs the dense training where it is not known, or a new initialisation where nobody knows
    how to make one, before any work.

    Raises
    ------
    InvalidInput   with the remedy
    """
    if protocol.begin.kind == "fresh":
        require_initialisable(problem)
    if protocol.begin.kind == "step" or protocol.schedule == "rewound":
        _trajectory(problem, f"start={protocol.start}" if protocol.begin.kind == "step" else "schedule=rewound")


def require_initialisable(problem: NetworkProblem) -> None:
    """Refuse a network that nobody knows how to initialise anew.

    Raises
    ------
    InvalidInput   a module with parameters does not say how it is initialised
    """
    if trajectory_of(problem) is None:
        _require_reset(problem.model())


def dense_schedule(problem: NetworkProblem) -> DenseSchedule:
    """How the dense network was trained.

    Raises
    ------
    InvalidInput   that is not known
    """
    recipe = _trajectory(problem, "schedule=rewound").recipe
    return DenseSchedule(recipe.epochs, recipe.learning_rate)


def _trajectory(problem: NetworkProblem, what: str) -> Trajectory:
    made = getattr(problem, "trajectory", None)
    if made is None:
        raise InvalidInput(
            f"{what} needs the dense training, which is not known of problem {problem.name}: choose start=pruned, "
            "dense or fresh:SEED, or a problem whose network is trained here, such as digits-mlp"
        )
    try:
        known: Trajectory = made()
    except InvalidInput as error:
        raise InvalidInput(f"{what} cannot be had: {error}") from error
    return known


def initialise_anew(problem: NetworkProblem, model: torch.nn.Module, seed: int) -> None:
    """Initialise a model anew, in place: as the problem does it, or as every module does by itself.

    Raises
    ------
    InvalidInput   a module with parameters does not say how it is initialised
    """
    known = trajectory_of(problem)
    # where weights come from a file, their kind of network is initialised as torch does
    if known is None:
        initialised(model, seed)
    else:
        initialise(model, torch.Generator().manual_seed(seed))


def trajectory_of(problem: NetworkProblem) -> Trajectory | None:
    """The dense training, None where it is not known."""
    made = getattr(problem, "trajectory", None)
    try:
        known: Trajectory | None = None if made is None else made()
    except InvalidInput:
        return None
    return known


def initialised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A model initialised anew, in place, by the `reset_parameters` of its modules, as torch's own have it.

    Raises
    ------
    InvalidInput   a module with parameters has none
    """
    _require_reset(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
    return model.eval()


def _require_reset(model: torch.nn.Module) -> None:
    without = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None and not hasattr(module, "reset_parameters")
    ]
    if without:
        raise InvalidInput(
            f"start=fresh cannot initialise {', '.join(without[:5])}{' and others' if len(without) > 5 else ''}: no "
            "reset_parameters there; give these modules one, or choose another start"
        )
