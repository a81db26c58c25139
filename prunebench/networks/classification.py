"""What all classification problems share: the loss of every sample, and accuracy and mean loss on a set."""

import numpy as np
import torch

from prunebench.core.problem import Samples
from prunebench.networks.network import evaluation_mode

EVALUATION_BATCH = 1000


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of every sample. Logits (s, classes), labels int64 (s,) -> (s,)."""
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def evaluate_classifier(
    model: torch.nn.Module, samples: Samples, *, batch_size: int = EVALUATION_BATCH
) -> dict[str, float]:
    """Accuracy (a fraction) and loss (mean cross-entropy) of a classifier on all samples.

    Runs in evaluation mode without gradients, where the model's parameters are, in batches.
    Sums are float64. The model's training flags are restored.
    """
    total = len(samples)
    device = next((item.device for item in model.parameters()), torch.device("cpu"))
    right, loss = 0, 0.0
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, total, batch_size):
            positions = np.arange(start, min(start + batch_size, total), dtype=np.int64)
            inputs, targets = samples.batch(positions)
            outputs, targets = model(inputs.to(device)), targets.to(device)
            right += int((outputs.argmax(dim=1) == targets).sum())
            loss += float(cross_entropy(outputs, targets).sum(dtype=torch.float64))
    return {"accuracy": right / total, "loss": loss / total}
