"""Small dense networks, and training them deterministically without touching the global random state."""

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples, cache_directory
from prunebench.networks import checkpoints
from prunebench.networks.classification import cross_entropy


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: Adam with weight decay, the learning rate falling to zero along a cosine."""

    epochs: int
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    seed: int = 0
    version: int = 1


def dense_network(sizes: Sequence[int], names: Sequence[str], *, bias: bool = True) -> torch.nn.Sequential:
    """Flatten, then linear layers of the given sizes with ReLU between them; the parameters are not initialised.

    Parameters
    ----------
    sizes : widths from the inputs to the outputs, one more than layers
    names : the linear layers' names; "a.b" puts layer b into a container a
    bias : whether the linear layers have biases
    """
    modules: OrderedDict[str, torch.nn.Module] = OrderedDict(flatten=torch.nn.Flatten())
    parts: dict[str, OrderedDict[str, torch.nn.Module]] = {"": modules}
    for position, name in enumerate(names):
        container, _, own = name.rpartition(".")
        if container not in parts:
            parts[container] = OrderedDict()
        # skip_init: the usual constructor would draw from the global random state.
        layer: torch.nn.Module = torch.nn.utils.skip_init(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.Linear, sizes[position], sizes[position + 1], bias=bias
        )
        parts[container][own] = layer
        if position < len(names) - 1:
            parts[container][f"relu{position + 1}"] = torch.nn.ReLU()
    for container, members in parts.items():
        if container:
            modules[container] = torch.nn.Sequential(members)
    return torch.nn.Sequential(modules)


def narrowed(sizes: Sequence[int], part: float) -> tuple[int, ...]:
    """Widths of a dense network whose hidden layers have at most this part of the widest one's, one unit at least.

    Wide layers are narrowed first: where all were narrowed alike, the narrowest would let nothing through.

    sizes : from the inputs to the outputs, which stay
    """
    most = max(1, round(part * max(sizes[1:-1], default=1)))
    return (sizes[0], *(min(most, width) for width in sizes[1:-1]), sizes[-1])


@dataclass(frozen=True)
class Trajectory:
    """The dense training of a network: whatever step of it is asked for.

    make : a new model, its parameters not initialised
    name : the problem's name, for files in the cache
    samples : gives the training samples; called when there is something to train, and by `at`, which counts them
    recipe : how it is trained
    identity : everything else that the weights depend on, JSON-able (options, widths)
    narrower : the same whose hidden layers have at most a part, 0 to 1, of the widest one's width; None where no such
        network is known
    """

    make: Callable[[], torch.nn.Module]
    name: str
    samples: Callable[[], Samples]
    recipe: Recipe
    identity: Mapping[str, Any]
    narrower: Callable[[float], torch.nn.Module] | None = None

    def end(self) -> torch.nn.Module:
        """The trained network, from the cache where it is there."""
        return trained(self.make(), self.name, self.samples, self.recipe, self.identity)

    def at(self, step: int) -> torch.nn.Module:
        """The network after so many steps of the optimizer; 0 is its initialisation.

        The training is deterministic, so a step that is not in the cache is made anew, and kept there.

        Raises
        ------
        InvalidInput   the training has fewer steps
        """
        total = steps_of(self.recipe, len(self.samples()))
        if not 0 <= step <= total:
            raise InvalidInput(
                f"start=step:{step} lies beyond the dense training of {self.name}, which has {total} steps"
            )
        return trained(self.make(), self.name, self.samples, self.recipe, self.identity, step)

    def fresh(self, seed: int, part: float = 1.0) -> torch.nn.Module:
        """The network as it would be initialised with another seed.

        part : of the widest hidden layer, which none exceeds; other than 1 only where `narrower` is known
        """
        model = self.make() if self.narrower is None or part == 1.0 else self.narrower(part)
        initialise(model, torch.Generator().manual_seed(seed))
        return model.eval()


def trained(
    model: torch.nn.Module,
    name: str,
    samples: Callable[[], Samples],
    recipe: Recipe,
    identity: Mapping[str, Any],
    step: int | None = None,
) -> torch.nn.Module:
    """The model, trained by the recipe or loaded from the user's cache when it was trained before.

    Parameters
    ----------
    model : its parameters are overwritten
    name : the problem's name, for the file in the cache
    samples : gives the training samples; called only when there is something to train
    recipe : Recipe
    identity : everything else that the weights depend on, JSON-able (options, widths)
    step : after how many steps of the optimizer; None: after all
    """
    file = cached_file(name, recipe, identity, step)
    if file.is_file():
        try:
            checkpoints.load_into(model, checkpoints.read_state(file), str(file))
        except InvalidInput as error:
            raise InvalidInput(f"{error}; delete this file of the cache to train the network again") from error
        model.eval()
        return model
    train_classifier(model, samples(), recipe, step)
    checkpoints.write_state(file, model.state_dict(), {"problem": name, "recipe": json.dumps(asdict(recipe))})
    return model


def cached_file(name: str, recipe: Recipe, identity: Mapping[str, Any], step: int | None = None) -> Path:
    """Where the network of this recipe and identity is kept, after `step` steps, or after all."""
    at = {} if step is None else {"step": step}
    text = json.dumps({"recipe": asdict(recipe), **identity, **at}, sort_keys=True)
    return cache_directory() / "networks" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def steps_of(recipe: Recipe, total: int) -> int:
    """How many steps of the optimizer a training on `total` samples has."""
    return math.ceil(total / recipe.batch_size) * recipe.epochs


def train_classifier(model: torch.nn.Module, samples: Samples, recipe: Recipe, step: int | None = None) -> None:
    """Initialise and train the model in place; the same recipe on the same machine gives the same weights.

    step : stop after so many steps of the optimizer; None: go to the end

    He-uniform weights and zero biases. All random numbers come from a generator of the recipe's
    seed. Runs on one thread, so that sums round alike whatever the number of threads is (and since
    layers of this size gain nothing from more).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _train(model, samples, recipe, step)
    finally:
        torch.set_num_threads(threads)


def initialise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """He-uniform weights and zero biases, in place."""
    for parameter in model.parameters():
        with torch.no_grad():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=generator)
            else:
                parameter.zero_()


def _train(model: torch.nn.Module, samples: Samples, recipe: Recipe, last: int | None) -> None:
    generator = torch.Generator().manual_seed(recipe.seed)
    initialise(model, generator)
    total = len(samples)
    steps, an_epoch = steps_of(recipe, total), math.ceil(total / recipe.batch_size)
    order = np.zeros(0, dtype=np.int64)
    adam = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=max(steps, 1))
    model.train()
    for step in range(steps if last is None else last):
        start = step % an_epoch * recipe.batch_size
        if start == 0:
            order = torch.randperm(total, generator=generator).numpy().astype(np.int64)
        inputs, targets = samples.batch(order[start : start + recipe.batch_size])
        adam.zero_grad(set_to_none=True)
        cross_entropy(model(inputs), targets).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        adam.step()
        schedule.step()
    model.zero_grad(set_to_none=True)
    model.eval()
