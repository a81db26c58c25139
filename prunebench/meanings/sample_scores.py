"""What single samples are worth, by the scores of papers on data pruning: what a choice of samples should beat.

el2n : ‖softmax − one-hot‖₂, averaged over networks early in training. Paul, Ganguli, Dziugaite: Deep Learning on a
    Data Diet, NeurIPS 2021.
prototype : the distance from the nearest of k-means' centres in the network's embedding. Sorscher et al.: Beyond neural
    scaling laws, NeurIPS 2022.
forgetting : how often a sample that was right is wrong after the next epoch; one that was never right counts most.
    Toneva et al.: An Empirical Study of Example Forgetting, ICLR 2019, who look at every batch, not every epoch.
error, uncertainty, error-uncertainty : the loss, the entropy of the prediction, and their product: the two quantities
    by which Q-Tuning sorts samples; its thresholds are not taken over.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.core.problem import NetworkProblem
from prunebench.meanings import features
from prunebench.meanings.samples import classes_of
from prunebench.networks.chosen import prunable_network
from prunebench.networks.network import PrunableNetwork
from prunebench.recovery.training.protocol import Protocol
from prunebench.recovery.training.starts import require_initialisable, trainer, trajectory_of

Predicted = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Probabilities (s, classes), classes (s,) and losses (s,) of samples -> their scores (s,)."""


@dataclass(frozen=True, kw_only=True)
class Early:
    """Networks early in training, by whose predictions samples are scored.

    Raises
    ------
    InvalidInput   a count below 1
    """

    networks: int = 5
    """So many, each with an initialisation of its own; forgetting looks at one."""

    epochs: int = 3
    """Each trained for so many epochs; forgetting follows one for ten times as many."""

    def __post_init__(self) -> None:
        for name in ("networks", "epochs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInput(f"{name} is {value!r}; choose a whole number from 1")


def _el2n(probabilities: torch.Tensor, classes: torch.Tensor, _losses: torch.Tensor) -> torch.Tensor:
    aimed = torch.nn.functional.one_hot(classes, probabilities.shape[1])
    apart: torch.Tensor = probabilities - aimed
    return apart.square().sum(dim=1).sqrt()


def _uncertainty(probabilities: torch.Tensor, _classes: torch.Tensor, _losses: torch.Tensor) -> torch.Tensor:
    terms: torch.Tensor = torch.special.entr(probabilities)
    return terms.sum(dim=1)


PREDICTED: dict[str, Predicted] = {
    "el2n": _el2n,
    "error": lambda _probabilities, _classes, losses: losses,
    "uncertainty": _uncertainty,
    "error-uncertainty": lambda probabilities, classes, losses: losses * _uncertainty(probabilities, classes, losses),
}
"""Scores by what networks early in training predict."""

SCORES = (*PREDICTED, "prototype", "forgetting", "random")
"""Names of scores: high means hard, or rare."""

FORGETTING_LENGTH = 10
"""Times so many epochs are followed where forgetting is counted: one early training forgets nothing yet."""


def require_known(name: str) -> None:
    """Raise UnknownName unless there is such a score."""
    if name not in SCORES:
        raise unknown_name("score of samples", name, SCORES)


def sample_scores(problem: NetworkProblem, name: str, *, early: Early | None = None, seed: int = 0) -> FloatArray:
    """The score of every calibration sample: high for those that are hard, or far from others. float64 (n,)

    early : the networks that are trained for it;  seed : of their initialisations, and of what is random

    Raises
    ------
    UnknownName    no such score
    InvalidInput   the network cannot be initialised anew, or is no classifier
    """
    require_known(name)
    early = early or Early()
    if name == "random":
        return np.random.default_rng(seed).random(len(problem.calibration()))
    if name == "prototype":
        return _prototype(problem, prunable_network(problem), seed)
    if name == "forgetting":
        return _forgetting(problem, early.epochs * FORGETTING_LENGTH, seed)
    total = np.zeros(len(problem.calibration()))
    for number in range(early.networks):
        total += _predicted(problem, early_network(problem, early.epochs, seed + number), PREDICTED[name])
    return total / early.networks


def early_network(problem: NetworkProblem, epochs: int, seed: int) -> PrunableNetwork:
    """The problem's network, initialised anew and trained for a few epochs.

    Batches and learning rate are those of its dense training where that is known, else those of a usual protocol.

    Raises
    ------
    InvalidInput   it cannot be initialised anew
    """
    require_initialisable(problem)
    network = prunable_network(problem)
    training = trainer(problem, network, np.ones(network.total, dtype=np.bool_), _protocol(problem, epochs, seed))
    while not training.done:
        training.epoch()
    training.finish()
    return network


def _protocol(problem: NetworkProblem, epochs: int, seed: int) -> Protocol:
    known, usual = trajectory_of(problem), Protocol()
    batch = usual.batch_size if known is None else known.recipe.batch_size
    return Protocol(
        start=f"fresh:{seed}",
        epochs=epochs,
        seed=seed,
        schedule="constant",
        batch_size=min(batch, len(problem.calibration())),
        learning_rate=usual.learning_rate if known is None else known.recipe.learning_rate,
    )


def _predicted(problem: NetworkProblem, network: PrunableNetwork, score: Predicted) -> FloatArray:
    parts = []
    for outputs, targets in features.outputs_of(problem, network.model):
        _require_classes(problem, outputs, targets)
        parts.append(score(torch.softmax(outputs, dim=1), targets, problem.loss(outputs, targets)).double())
    return np.asarray(torch.cat(parts).numpy())


def _forgetting(problem: NetworkProblem, epochs: int, seed: int) -> FloatArray:
    require_initialisable(problem)
    network, total = prunable_network(problem), len(problem.calibration())
    training = trainer(problem, network, np.ones(network.total, dtype=np.bool_), _protocol(problem, epochs, seed))
    forgotten, before, ever = np.zeros(total), np.zeros(total, dtype=np.bool_), np.zeros(total, dtype=np.bool_)
    while not training.done:
        training.epoch()
        parts = []
        for outputs, targets in features.outputs_of(problem, network.model):
            _require_classes(problem, outputs, targets)
            parts.append((outputs.argmax(dim=1) == targets).numpy())
        right = np.concatenate(parts)
        forgotten += before & ~right
        before, ever = right, ever | right
    return np.where(ever, forgotten, float(epochs))


def _prototype(problem: NetworkProblem, network: PrunableNetwork, seed: int) -> FloatArray:
    from sklearn.cluster import KMeans

    rows = features.embeddings(problem, network)
    count = classes_of(features.labels_of(problem.calibration())).size
    found = KMeans(count, n_init=1, random_state=seed).fit(rows)
    return np.asarray(found.transform(rows).min(axis=1), dtype=np.float64)


def _require_classes(problem: NetworkProblem, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    if outputs.ndim != 2 or targets.ndim != 1 or targets.is_floating_point():
        raise InvalidInput(f"{problem.name} is no classifier, so its samples have no such score; choose random")
