"""The answers to a block ranked by ever longer training of ever fewer of them; only the last are trained in full."""

from collections.abc import Sequence

import numpy as np

from prunebench.comparison.retrained import Retrained
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.recovery.training.halving import successive_halving

Answer = tuple[BoolArray, FloatArray]
"""A mask and its weights. bool, float64 (p,)"""


class Finalists:
    """Ranks the answers to one block after another. Equal ones are one, and share a rank.

    retrained : trains those that come to the end, as it would train all
    """

    def __init__(self, retrained: Retrained) -> None:
        self._retrained = retrained

    def measures(self, block: BlockProblem, answers: Sequence[Answer]) -> list[dict[str, float]]:
        """By answer: retrained_epochs, how long it was trained; retrained_rank, from 1; and where it was trained in
        full, the columns of `retrained.MEASURES` too.
        """
        if not answers:
            return []
        numbers: dict[bytes, int] = {}
        which = [numbers.setdefault(mask.tobytes() + weights.tobytes(), len(numbers)) for mask, weights in answers]
        different = [answers[which.index(number)] for number in range(len(numbers))]
        placed = [self._retrained.placed(block, *answer) for answer in different]
        held = self._retrained
        found = successive_halving(
            held.problem, held.dense(), np.array([mask for mask, _ in placed]), held.protocol,
            weights=np.array([values for _, values in placed]),
        )  # fmt: skip
        epochs = np.zeros(len(different), dtype=np.int64)
        for rung in found.rungs:
            epochs[rung.positions] = rung.epochs
        ranks = np.empty(len(different), dtype=np.int64)
        ranks[found.order] = np.arange(1, len(different) + 1)
        last = set(found.rungs[-1].positions.tolist())
        columns = [
            {"retrained_epochs": float(epochs[number]), "retrained_rank": float(ranks[number]),
             **(held.measures(block, *answer) if number in last else {})}
            for number, answer in enumerate(different)
        ]  # fmt: skip
        return [columns[number] for number in which]
