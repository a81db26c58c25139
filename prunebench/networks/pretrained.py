"""Where weights come from: a published checkpoint, a file of the user's, or training here; no torch on import."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunebench.core.errors import InvalidInput, MissingData
from prunebench.core.problem import DATA_VARIABLE, data_directory

if TYPE_CHECKING:
    import torch

    from prunebench.core.problem import Samples
    from prunebench.networks.training import Recipe

CHECKPOINT = "checkpoint"
"""The value of `weights` that stands for the published checkpoint."""
TRAIN = "train"
"""That for a network trained here."""


@dataclass(frozen=True)
class Checkpoint:
    """A problem's option `weights`, where it names a file.

    problem : the problem's name
    weights : "checkpoint" or the path of a safetensors file
    checkpoint : the published checkpoint's path below the data folder
    """

    problem: str
    weights: str
    checkpoint: str

    def file(self) -> Path:
        """The file that the weights are read from."""
        return data_directory() / self.checkpoint if self.weights == CHECKPOINT else Path(self.weights).expanduser()

    def missing(self) -> str:
        """What is not there and what to do, in one line; "" if the file is there."""
        if self.file().is_file():
            return ""
        return (
            f"the weights of {self.problem} are not at {str(self.file())!r}: put them there (a safetensors file), "
            f"give a path with --option weights=FILE, or point {DATA_VARIABLE} or --data at the folder that holds "
            "checkpoints"
        )

    def fill(self, model: "torch.nn.Module") -> "torch.nn.Module":
        """The model with its weights in place, in evaluation mode.

        Raises
        ------
        MissingData    the file is not there
        InvalidInput   the file is broken, or holds tensors of other names or shapes
        """
        from prunebench.networks.convolutional import filled

        if self.missing():
            raise MissingData(self.missing())
        return filled(model, self.file(), self.problem)


@dataclass(frozen=True)
class Source:
    """A problem's option `weights`, where the network can be trained here as well.

    problem : the problem's name
    weights : "checkpoint", "train" or the path of a safetensors file
    checkpoint : the published checkpoint's path below the data folder
    tensors : the shapes it must hold, by name
    """

    problem: str
    weights: str
    checkpoint: str
    tensors: Mapping[str, tuple[int, ...]]

    def file(self) -> Path | None:
        """The file that the weights are read from; None when the network is trained here."""
        if self.weights == TRAIN:
            return None
        return data_directory() / self.checkpoint if self.weights == CHECKPOINT else Path(self.weights).expanduser()

    def missing(self) -> str:
        """What is not there and what to do, in one line; "" if the file is there or none is needed."""
        file = self.file()
        if file is None or file.is_file():
            return ""
        shapes = ", ".join(f"{name} {shape}" for name, shape in self.tensors.items())
        remedy = f"or train the network here with --option {_TRAIN_OPTION}"
        if self.weights == CHECKPOINT:
            place = f"put it there (a safetensors file with {shapes}), point {DATA_VARIABLE} or --data at its folder"
        else:
            place = f"give a safetensors file with {shapes}, or weights={CHECKPOINT}"
        return f"the weights of {self.problem} are not at {str(file)!r}: {place}, {remedy}"

    def fill(self, model: "torch.nn.Module", samples: "Callable[[], Samples]", recipe: "Recipe") -> "torch.nn.Module":
        """The model with its weights in place, in evaluation mode.

        Parameters
        ----------
        model : parameters not initialised
        samples : gives the training samples; called only to train
        recipe : how to train

        Raises
        ------
        MissingData    the file is not there
        InvalidInput   the file is broken, or holds tensors of other names or shapes
        """
        from prunebench.networks import checkpoints
        from prunebench.networks.training import trained

        file = self.file()
        if file is None:
            identity: dict[str, Any] = {"tensors": {name: list(shape) for name, shape in self.tensors.items()}}
            return trained(model, self.problem, samples, recipe, identity)
        if self.missing():
            raise MissingData(self.missing())
        try:
            checkpoints.load_into(model, checkpoints.read_state(file), f"weights file {str(file)!r}")
        except InvalidInput as error:
            raise InvalidInput(f"{self.problem}: {error}; use another file or --option {_TRAIN_OPTION}") from error
        return model.eval()


_TRAIN_OPTION = f"weights={TRAIN}"
"""How the command line asks for it, as messages say."""
