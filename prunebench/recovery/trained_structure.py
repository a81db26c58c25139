"""A network without some of its groups, trained on what the dense network gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import BoolArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.core.recovery import Division
from prunebench.networks.samples import at_once
from prunebench.recovery.distillation import Distillation, Pace
from prunebench.recovery.steps.distil import Distil
from prunebench.structure.found import BATCH, Found
from prunebench.structure.resize import Living, State, grown_state, shrunk_program

JUDGES = 500
"""Held-out samples that say whether training helped; all others are trained on, as no label is looked at."""

JUDGING = 10
"""The stream of random numbers that these samples are drawn from: no other part of a run has it."""


class TrainedStructure:
    """Trains the smaller network epoch by epoch; taken at the end if held-out samples say that it came nearer.

    Parameters
    ----------
    found, kept, state : the groups, what is kept of them, and the network at its old shapes
    step : how it is trained;  samples, division : on which samples, and which judge;  seed : of order and images

    Raises
    ------
    InvalidInput   a divergence of outputs that are no scores
    """

    def __init__(
        self, found: Found, kept: Sequence[BoolArray], state: State, step: Distil, *,
        samples: Samples, division: Division, seed: int,
    ) -> None:  # fmt: skip
        coupling = found.coupling
        if step.distance == "divergence" and not (found.tokens or found.classifies(samples)):
            raise InvalidInput(
                "recovery distil: outputs are no scores of classes or tokens, so they have no divergence; take "
                "distance squared"
            )
        self._coupling, self._state = coupling, state
        # drawn, and not the first: samples may lie in order of their classes
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(JUDGING,)))
        order = rng.permutation(division.held)
        self._held, trained = order[:JUDGES], np.concatenate([division.pool, order[JUDGES:]])
        self._living = Living(coupling, found.families, kept)
        self._smaller = shrunk_program(coupling, state, self._living)
        self._work = Distillation(
            self._smaller, coupling.program, lambda positions: found.inputs(samples, positions), trained,
            pace=Pace(step.epochs, step.rate, step.batch, step.distance, step.temperature, step.images), seed=seed,
            at_once=at_once(samples, BATCH),
        )  # fmt: skip
        self._before = self._work.distance(self._held)

    @property
    def done(self) -> bool:
        """Whether all epochs are done."""
        return self._work.done

    @property
    def epochs(self) -> int:
        """How many are done."""
        return self._work.epochs

    def epoch(self) -> dict[str, Any]:
        """Train for an epoch. -> what the log says of it"""
        return {"kind": Distil.name, "epoch": self.epochs + 1, "distance": self._work.epoch()}

    def judged(self) -> tuple[float, float]:
        """The held-out samples' mean distance to the dense network before training, and now."""
        return self._before, self._work.distance(self._held)

    def trained(self) -> State:
        """The network's state at its old shapes."""
        tensors: dict[str, torch.Tensor] = {**dict(self._smaller.named_parameters())}
        return grown_state(self._coupling, self._state, tensors, self._living)

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], int]:
        """What `load` goes on from: arrays, and the number of epochs."""
        return self._work.state(), self._work.epochs

    def load(self, arrays: Mapping[str, npt.NDArray[Any]], epochs: int) -> None:
        """Go on after so many epochs.

        Raises
        ------
        InvalidInput   an array is missing, or of another shape
        """
        self._work.load(arrays, epochs)
