"""What all classification problems share: samples in two parts, the loss of every sample, accuracy and mean loss.

Importing this module loads no torch, so that problems can be listed without it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from prunebench.core.problem import Problem, Samples

if TYPE_CHECKING:
    import torch

    from prunebench.networks.pretrained import Source
    from prunebench.networks.training import Trajectory

EVALUATION_BATCH = 1000
"""Samples that go through the network at a time where neither they nor the problem say how many: small images."""

Part = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Classification(Problem, ABC):
    """A trained classifier with its training and test samples, targets being classes.

    A subclass gives the network, the names of its prunable parameters, and the samples of both parts.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch",)
    evaluation_batch: ClassVar[int] = 0
    """Test samples that go through the network at a time; 0: as many as they say, or a thousand."""

    @abstractmethod
    def model(self) -> "torch.nn.Module":
        """A new copy of the trained network, in evaluation mode."""

    @abstractmethod
    def prunable(self) -> tuple[str, ...]:
        """The names of the parameters that may be pruned, in the order of the weight vector."""

    @abstractmethod
    def samples(self, part: Part) -> Samples:
        """The samples of one part."""

    def calibration(self) -> Samples:
        """The training samples."""
        return self.samples("train")

    def validation(self) -> Samples:
        """The test samples."""
        return self.samples("test")

    def loss(self, outputs: Any, targets: Any) -> Any:
        """The cross-entropy of every sample."""
        return cross_entropy(outputs, targets)

    def evaluate(self, model: Any) -> dict[str, float]:
        """Accuracy and mean cross-entropy on the test samples."""
        return evaluate_classifier(model, self.validation(), batch_size=self.evaluation_batch)


@dataclass(frozen=True, kw_only=True)
class TrainableClassification(Classification):
    """A classifier whose weights are a published checkpoint, a file, or trained here.

    A subclass says where they come from and how the network is trained.
    """

    weights: str = "checkpoint"
    """The published checkpoint ("checkpoint"), a network trained here ("train"), or a safetensors file's path."""

    @abstractmethod
    def source(self) -> "Source":
        """Where the weights come from."""

    @abstractmethod
    def dense(self) -> "Trajectory":
        """How the network is made, and trained if it is trained here."""

    def model(self) -> "torch.nn.Module":
        """A new copy of the trained network, in evaluation mode."""
        return self.source().model(self.dense())

    def trajectory(self) -> "Trajectory":
        """The dense training.

        Raises
        ------
        InvalidInput   the weights come from a file
        """
        self.source().require_trained_here()
        return self.dense()


def cross_entropy(outputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """The cross-entropy of every sample. Logits (s, classes), labels int64 (s,) -> (s,)."""
    import torch

    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def evaluate_classifier(model: "torch.nn.Module", samples: Samples, *, batch_size: int = 0) -> dict[str, float]:
    """Accuracy (a fraction) and loss (mean cross-entropy) of a classifier on all samples.

    Runs in evaluation mode without gradients, where the model's parameters are, in batches: of `batch_size`, or,
    where that is 0, of what the samples say. Sums are float64. The model's training flags are restored.
    """
    import torch

    from prunebench.networks.network import evaluation_mode
    from prunebench.networks.samples import at_once

    total = len(samples)
    device = next((item.device for item in model.parameters()), torch.device("cpu"))
    right, loss, step = 0, 0.0, batch_size or at_once(samples, EVALUATION_BATCH)
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, total, step):
            positions = np.arange(start, min(start + step, total), dtype=np.int64)
            inputs, targets = samples.batch(positions)
            outputs, targets = model(inputs.to(device)), targets.to(device)
            right += int((outputs.argmax(dim=1) == targets).sum())
            loss += float(cross_entropy(outputs, targets).sum(dtype=torch.float64))
    return {"accuracy": right / total, "loss": loss / total}
