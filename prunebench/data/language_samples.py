"""Texts as samples of a causal language model: token sequences, cut to a context, padded at their end."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.networks.samples import checked_positions

IGNORED = -100
"""The label of a position that is padding: it counts neither in the loss nor among a layer's inputs."""

Packing = Literal["documents", "packed"]
PACKINGS: tuple[Packing, ...] = ("documents", "packed")
"""One document a sequence, or documents joined and cut to the context."""

Rows = Literal["sequence", "token"]
ROWS: tuple[Rows, ...] = ("sequence", "token")
"""What a gradient row is: a whole sequence, or one token of it."""


class TokenSamples:
    """Token sequences, one a sample.

    A batch is padded at the right end to its longest sequence. Causal attention never looks to the
    right, so padding needs no attention mask; what it yields is left out by the labels.

    Parameters
    ----------
    sequences : int64 (t,) each, at least 2 tokens: the first is not predicted
    batch_size : how many sequences go through the network at a time
    rows : what a row of the curvature's factor stands for: a sequence, or one token of it
    weighted : whether a sequence's gradient counts in the curvature once for every predicted token, or once

    Raises
    ------
    InvalidInput   no sequences, or one of fewer than 2 tokens
    """

    def __init__(
        self,
        sequences: Sequence[npt.NDArray[np.int64]],
        batch_size: int = 8,
        rows: Rows = "sequence",
        *,
        weighted: bool = True,
    ) -> None:
        short = next((place for place, item in enumerate(sequences) if len(item) < 2), None)
        if not sequences or short is not None:
            what = "there are no token sequences" if short is None else f"sequence {short} has fewer than 2 tokens"
            raise InvalidInput(f"{what}; give longer texts")
        self.sequences = tuple(sequences)
        self.batch_size = batch_size
        """How many sequences should go through the network at a time."""
        self.rows: Rows = rows
        """What a row of the curvature's factor stands for."""
        self._weighted = weighted

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self.sequences)

    @property
    def predicted(self) -> int:
        """How many tokens are predicted in all sequences together."""
        return sum(len(item) - 1 for item in self.sequences)

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels of the sequences at `positions`. int64 (b, t) both; labels are IGNORED at padding."""
        chosen = [self.sequences[place] for place in checked_positions(positions, len(self))]
        longest = max(map(len, chosen))
        ids = np.zeros((len(chosen), longest), dtype=np.int64)
        labels = np.full((len(chosen), longest), IGNORED, dtype=np.int64)
        for row, item in enumerate(chosen):
            ids[row, : len(item)] = item
            labels[row, : len(item)] = item
        return torch.from_numpy(ids), torch.from_numpy(labels)

    @property
    def row_weight(self) -> float:
        """How many predicted tokens the loss of a sequence is the mean of, on average; 1 unless weighted."""
        return self.predicted / len(self) if self._weighted else 1.0

    @staticmethod
    def predicting(targets: torch.Tensor) -> torch.Tensor:
        """At which positions of a batch a next token is predicted. Labels (b, t) -> bool (b, t)."""
        out = torch.zeros_like(targets, dtype=torch.bool)
        out[:, :-1] = targets[:, 1:] != IGNORED
        return out

    @staticmethod
    def counted(targets: torch.Tensor) -> torch.Tensor:
        """Which positions of a batch are tokens and not padding. Labels (b, t) -> bool (b, t)."""
        return targets != IGNORED


def pack(documents: Sequence[npt.NDArray[np.int64]], context: int, packing: Packing) -> list[npt.NDArray[np.int64]]:
    """Documents as sequences of at most `context` tokens.

    "documents": every document by itself, its first `context` tokens. "packed": a sequence begins
    with a document and is filled up to `context` tokens with those that follow, so that there is no
    padding; what is left of the last of them makes further sequences if it is long enough, else it is
    dropped, and the next sequence begins with the next document.

    Parameters
    ----------
    documents : int64 (t,) each
    context : tokens a sequence
    packing : "documents" or "packed"
    """
    if packing == "documents":
        return [document[:context] for document in documents if len(document) > 1]
    out: list[npt.NDArray[np.int64]] = []
    parts: list[npt.NDArray[np.int64]] = []
    for document in documents:
        parts.append(document)
        if sum(map(len, parts)) >= context:
            joined = np.concatenate(parts)
            out += [joined[start : start + context] for start in range(0, len(joined) - context + 1, context)]
            parts = []
    return out
