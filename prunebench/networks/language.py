"""What all language problems share: the loss of every sequence, and the perplexity of a set."""

import math
from typing import Any

import numpy as np
import torch

from prunebench.data.language_samples import IGNORED, TokenSamples
from prunebench.networks.network import evaluation_mode

SINGLE_BYTES = 4
"""Bytes of a number of float32; shorter ones are of 16 bits."""

LOOKED_AHEAD, LOOKED_AHEAD_HALF = 1e-5, 1e-2
"""Difference of logits, relative to the largest, above which they depend on a later token: above rounding of float32,
and of 16 bits. An untrained BERT, whose tokens hardly look at each other, shows less than 1e-3."""


def logits_of(outputs: Any) -> torch.Tensor:
    """The logits (s, t, v) of a model's answer: a transformers output object, or the tensor itself."""
    held: torch.Tensor = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
    return held


def token_losses(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of every predicted token in float32, zero where it is padding. (s, t - 1)."""
    logits = logits_of(outputs)[:, :-1].float()
    labels = targets[:, 1:].to(logits.device)
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")


def sequence_loss(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of every sequence's predicted tokens, (s,)."""
    losses = token_losses(outputs, targets)
    counts = (targets[:, 1:] != IGNORED).sum(dim=1).to(losses.device)
    return losses.sum(dim=1) / counts


def replaced(ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Tokens with another one at one place of each row.

    Parameters
    ----------
    ids : whole numbers (s, t);  places : int64 (s,)
    """
    out = ids.clone()
    rows = torch.arange(len(ids), device=ids.device)
    held = ids[rows, places]
    # Token 0, and the one before any that there is, are in every vocabulary of two.
    out[rows, places] = torch.where(held > 0, held - 1, 1)
    return out


def same_before(first: torch.Tensor, second: torch.Tensor, place: int) -> bool:
    """Whether two answers (s, t, v) are the same before a place, up to rounding: what differs there was not seen."""
    held = first[:, :place].double(), second[:, :place].double()
    largest = float(held[0].abs().nan_to_num(0.0).amax()) if held[0].numel() else 0.0
    share = LOOKED_AHEAD_HALF if first.element_size() < SINGLE_BYTES else LOOKED_AHEAD
    return torch.allclose(*held, rtol=0.0, atol=share * largest, equal_nan=True)


def evaluate_language_model(model: torch.nn.Module, samples: TokenSamples) -> dict[str, float]:
    """Perplexity a token and loss (its logarithm) on all samples: every predicted token weighs the same.

    Sequences of similar length go through the network together. Sums are float64.
    """
    device = next((item.device for item in model.parameters()), torch.device("cpu"))
    lengths = np.array([len(item) for item in samples.sequences])
    order = np.argsort(lengths, kind="stable").astype(np.int64)
    total = 0.0
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, order.size, samples.batch_size):
            inputs, targets = samples.batch(order[start : start + samples.batch_size])
            total += float(token_losses(model(inputs.to(device)), targets).sum(dtype=torch.float64))
    loss = total / samples.predicted
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
