"""Where weights come from: a published checkpoint, a file of the user's, or training here; no torch on import."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunebench.core.errors import InvalidInput, MissingData
from prunebench.core.problem import DATA_VARIABLE, data_directory

if TYPE_CHECKING:
    import torch

    from prunebench.core.problem import Samples
    from prunebench.networks.training import Recipe, Trajectory

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

    def model(self, dense: "Trajectory") -> "torch.nn.Module":
        """The network with its weights in place, in evaluation mode.

        dense : how it is trained where it is trained here (`trajectory`), and makes it in any case

        Raises
        ------
        MissingData    the file is not there
        InvalidInput   the file is broken, or holds tensors of other names or shapes
        """
        from prunebench.networks import checkpoints

        file = self.file()
        if file is None:
            return dense.end()
        if self.missing():
            raise MissingData(self.missing())
        model = dense.make()
        try:
            checkpoints.load_into(model, checkpoints.read_state(file), f"weights file {str(file)!r}")
        except InvalidInput as error:
            raise InvalidInput(f"{self.problem}: {error}; use another file or --option {_TRAIN_OPTION}") from error
        return model.eval()

    def trajectory(
        self, make: "Callable[[], torch.nn.Module]", samples: "Callable[[], Samples]", recipe: "Recipe",
        narrower: "Callable[[float], torch.nn.Module] | None" = None,
    ) -> "Trajectory":  # fmt: skip
        """How the network is trained here. make : a new model, not initialised;  samples : the training samples

        narrower : the same with narrower hidden layers, as `Trajectory` has it
        """
        from prunebench.networks.training import Trajectory

        identity = {"tensors": {name: list(shape) for name, shape in self.tensors.items()}}
        return Trajectory(make, self.problem, samples, recipe, identity, narrower)

    def require_trained_here(self) -> None:
        """Refuse what needs the dense training where the weights come from a file.

        Raises
        ------
        InvalidInput   with the remedy
        """
        if self.file() is not None:
            raise InvalidInput(
                f"the weights of {self.problem} come from a file, which holds neither their initialisation nor the way "
                f"they were trained; train the network here: --option {_TRAIN_OPTION}"
            )


_TRAIN_OPTION = f"weights={TRAIN}"
"""How the command line asks for it, as messages say."""
