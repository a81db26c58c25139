"""A user's data as samples by position: loaders, data sets, tensors, columns by name, batches one after the other.

A loader of a data set that answers by position is not held: its samples are fetched when they are asked for, in the
order of its sampler, which is drawn once from the run's seed. What can only be gone through once is held.
"""

import hashlib
import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, IterableDataset, default_collate

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import spread
from prunebench.networks.own_copy import first_line
from prunebench.networks.own_losses import COUNTED, IGNORED, TARGETS
from prunebench.networks.samples import Batch, Parts, checked_positions

Say = Callable[[str], None]

HELD_BYTES = 2 * 2**30
"""Of batches that come one after the other, so many bytes are held at most; what comes later is left out, and told."""

HELD_OUT = 0.2
"""The part of the data that judges where no validation data are given."""

MOST_HELD_OUT = 5_000
"""Samples that judge then, at most: more take time and tell little more."""

DIGEST_SAMPLES = 5
"""Samples, spread over the data, whose values are part of the data's fingerprint."""

TARGET_NAMES = ("labels", "label", "targets", "target", "y")
"""Under these names data by column hold what a loss compares outputs with; the first that is there counts."""

MASK = "attention_mask"
"""The name under which inputs say which of their positions are no padding."""


@dataclass(frozen=True)
class Reading:
    """How a batch of the user's becomes inputs and targets.

    with_loss : whether a loss outside the model takes targets: the last of a tuple, or what has one of TARGET_NAMES
    accepted : the names of arguments that the model takes, None where it takes any
    """

    with_loss: bool
    accepted: frozenset[str] | None

    def parted(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and targets, None where the model is to find its loss by itself.

        Raises
        ------
        InvalidInput   targets are missing, or a batch is of no known form
        """
        if isinstance(batch, Mapping):
            return self._by_name(dict(batch))
        if isinstance(batch, tuple | list):
            values = tuple(map(_as_tensors, batch))
            if not values:
                raise InvalidInput("a batch of the data is empty; give tensors")
            if not self.with_loss:
                return values if len(values) > 1 else values[0], None
            if len(values) < 2:
                raise InvalidInput(_missing_targets("a tuple of one"))
            return values[0] if len(values) == 2 else values[:-1], values[-1]
        if self.with_loss:
            raise InvalidInput(_missing_targets(f"a {type(batch).__name__}"))
        return _as_tensors(batch), None

    def _by_name(self, batch: dict[str, Any]) -> tuple[Any, Any]:
        values = {name: _as_tensors(item) for name, item in batch.items() if not _is_text(item)}
        targets = None
        if self.with_loss:
            name = next((name for name in TARGET_NAMES if name in values), None)
            if name is None:
                raise InvalidInput(_missing_targets(f"columns {', '.join(batch)}"))
            targets = values.pop(name)
        elif "label" in values and "labels" not in values:
            values["labels"] = values.pop("label")
        if self.accepted is not None:
            taken = {name: item for name, item in values.items() if name in self.accepted}
            if not taken and len(values) == 1:
                return next(iter(values.values())), targets
            values = taken
        if not values:
            raise InvalidInput(
                f"of the columns {', '.join(batch)} none is an argument of the model; rename them, or give forward="
            )
        return values, targets


def reading_of(model: torch.nn.Module, *, with_loss: bool, forward: Callable[..., Any] | None) -> Reading:
    """How batches are read for a model: by what its `forward` takes, all columns where `forward=` is given."""
    if forward is not None:
        return Reading(with_loss, None)
    parameters = inspect.signature(model.forward).parameters
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        named = {name for name, item in parameters.items() if item.kind is not inspect.Parameter.VAR_KEYWORD}
        # A model that takes any name says by those that it names which it means, if there are several.
        return Reading(with_loss, frozenset(named) if len(named) > 1 else None)
    return Reading(with_loss, frozenset(parameters))


class Source(Protocol):
    """Where samples come from."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def take(self, positions: IndexArray) -> tuple[Any, Any]:
        """Inputs and targets of some, as the user's structure; targets None where there are none."""
        ...


class Held:
    """Samples held as one structure of tensors."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self._all = Parts.of((inputs, targets))

    @property
    def targets(self) -> Any:
        """All targets, None where there are none."""
        return self._all.value[1]

    def __len__(self) -> int:
        return len(self._all)

    def take(self, positions: IndexArray) -> tuple[Any, Any]:
        """As `Source.take`."""
        inputs, targets = self._all[torch.from_numpy(positions)].value
        return inputs, targets


class Ragged:
    """Samples of different shapes, held one by one; several together are padded where a mask of attention says how."""

    def __init__(self, singles: Sequence[Parts]) -> None:
        self._singles = singles

    def __len__(self) -> int:
        return len(self._singles)

    def take(self, positions: IndexArray) -> tuple[Any, Any]:
        """As `Source.take`."""
        inputs, targets = _joined([self._singles[place] for place in positions])
        return inputs, targets


class ByPosition:
    """Samples of a data set that answers by position, put together by its loader's `collate_fn`."""

    def __init__(self, data: Any, order: IndexArray, collate: Callable[[list[Any]], Any], reading: Reading) -> None:
        self._data, self._order, self._collate, self._reading = data, order, collate, reading

    def __len__(self) -> int:
        return self._order.size

    def take(self, positions: IndexArray) -> tuple[Any, Any]:
        """As `Source.take`."""
        items = [_clean(self._data[int(self._order[place])]) for place in positions]
        try:
            return self._reading.parted(self._collate(items))
        except (RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise
            if len(items) == 1:
                raise InvalidInput(f"a sample of it makes no batch ({first_line(error)})") from error
        inputs, targets = _joined([Parts.of(self._reading.parted(self._collate([item]))) for item in items])
        return inputs, targets


class OwnSamples:
    """Samples of a user's data, as the rest of prunebench takes them.

    Parameters
    ----------
    source : where they come from
    called : whether inputs go as `Parts` of a tuple with them, because the model is called otherwise than with a tensor
    at_once : how many should go through the network at a time; 0: as many as is usual
    rows : how many observations a sample's loss is the mean of (`prunebench.networks.samples.row_weight`)
    alone : whether samples make no batch, because they have different shapes
    """

    def __init__(
        self, source: Source, *, called: bool, at_once: int = 0, rows: float = 1.0, alone: bool = False
    ) -> None:
        self.source, self._called = source, called
        self.alone = alone
        self.row_weight = rows
        if at_once:
            self.batch_size = at_once

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, positions: IndexArray) -> tuple[Batch, Batch]:
        """Inputs and targets of the samples at `positions`, int64 (b,)."""
        chosen = checked_positions(positions, len(self))
        inputs, targets = self.source.take(chosen)
        counted = _counted(inputs)
        if targets is None:
            targets = torch.zeros(chosen.size)
        if counted is not None:
            targets = {TARGETS: targets, COUNTED: counted}
        return (
            Parts.of((inputs,)) if self._called else inputs,
            targets if isinstance(targets, torch.Tensor) else Parts.of(targets),
        )

    @staticmethod
    def counted(targets: Batch) -> torch.Tensor | None:
        """Which positions of a batch's inputs are no padding, bool (b, t); None where they do not say."""
        held = targets.value if isinstance(targets, Parts) else None
        if isinstance(held, dict) and COUNTED in held:
            counted: torch.Tensor = held[COUNTED]
            return counted
        return None


class Chosen:
    """Some samples of a source, in an order of their own."""

    def __init__(self, source: Source, positions: IndexArray) -> None:
        self._source, self._positions = source, positions

    def __len__(self) -> int:
        return self._positions.size

    def take(self, positions: IndexArray) -> tuple[Any, Any]:
        """As `Source.take`."""
        return self._source.take(self._positions[positions])


def source_of(data: Any, reading: Reading, seed: int, say: Say, what: str = "data") -> Source:
    """The samples of a user's data.

    Parameters
    ----------
    data : a DataLoader, a data set (`len` and `[position]`), a pair of tensors, a mapping of columns, or batches
    seed : of what a shuffling loader draws;  say : told what is left out or held;  what : its name, for messages

    Raises
    ------
    InvalidInput   of no known form, or without any sample
    """
    try:
        with _seeded(seed):
            found = _source_of(data, reading, seed, say, what)
    except InvalidInput as error:
        raise InvalidInput(f"{what}: {error}") from error
    if len(found) == 0:
        raise InvalidInput(f"{what} has no samples; give at least one")
    return found


def parted(source: Source, seed: int) -> tuple[Source, Source]:
    """The samples to calibrate on, and a part held out to judge, drawn from the seed; both all of it if it is one."""
    total = len(source)
    count = min(int(np.ceil(HELD_OUT * total)), MOST_HELD_OUT)
    if total < 2:
        return source, source
    held = spread(total, count, np.random.default_rng([seed, 3]))
    rest = np.setdiff1d(np.arange(total, dtype=np.int64), held)
    return Chosen(source, rest), Chosen(source, held)


def digest(*sources: Source) -> str:
    """A fingerprint of data: how many samples each part has, and the values of a few. 16 hexadecimal digits."""
    held = hashlib.sha256()
    for source in sources:
        held.update(f"{len(source)}\0".encode())
        for place in np.unique(np.linspace(0, len(source) - 1, DIGEST_SAMPLES).astype(np.int64)):
            for leaf in pytree.tree_leaves(source.take(np.array([place]))):
                if isinstance(leaf, torch.Tensor):
                    flat = leaf.detach().cpu().contiguous().reshape(-1)
                    held.update(f"{leaf.dtype} {tuple(leaf.shape)}\0".encode())
                    held.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return held.hexdigest()[:16]


def _source_of(data: Any, reading: Reading, seed: int, say: Say, what: str) -> Source:
    if data is None:
        raise InvalidInput("it is missing; give a DataLoader, a Dataset, tensors (x, y), or a mapping of columns")
    if isinstance(data, DataLoader):
        return _of_loader(data, reading, seed, say, what)
    if isinstance(data, Mapping):
        return _of_columns(data, reading)
    tensors = torch.Tensor | np.ndarray
    if isinstance(data, tensors) or (isinstance(data, tuple) and data and isinstance(data[-1], tensors)):
        inputs, targets = reading.parted(data)
        return Held(inputs, targets)
    if isinstance(data, list | tuple):
        return _of_batches(iter(data), reading, say, what)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return _of_dataset(data, np.arange(len(data), dtype=np.int64), default_collate, reading, seed, say, what)
    if isinstance(data, Iterable):
        return _of_batches(iter(data), reading, say, what)
    raise InvalidInput(
        f"a {type(data).__name__} is no data; give a DataLoader, a Dataset, tensors (x, y), a mapping of columns, or "
        "batches one after the other"
    )


def _of_loader(loader: "DataLoader[Any]", reading: Reading, seed: int, say: Say, what: str) -> Source:
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__getitem__"):
        return _of_batches(iter(loader), reading, say, what)
    own = [item for item in (loader.generator, getattr(loader.sampler, "generator", None)) if item is not None]
    states = [item.get_state() for item in own]
    with _seeded(seed):
        if loader.batch_sampler is not None:
            order = [int(place) for places in loader.batch_sampler for place in places]
        else:
            order = [int(place) for place in loader.sampler]
    for item, state in zip(own, states, strict=True):
        item.set_state(state)
    collate = loader.collate_fn if loader.batch_sampler is not None else default_collate
    return _of_dataset(loader.dataset, np.array(order, dtype=np.int64), collate, reading, seed, say, what)


def _of_dataset(
    data: Any, order: IndexArray, collate: Callable[..., Any], reading: Reading, seed: int, say: Say, what: str
) -> Source:
    found = ByPosition(data, order, collate, reading)
    if not order.size:
        return found
    first = np.zeros(1, dtype=np.int64)
    with _seeded(seed):
        once = found.take(first)
        again = found.take(first)
    if not _same(once, again):
        say(f"{what} gives other values each time that a sample is asked for (random changes): drawn once and held")
        with _seeded(seed):
            singles = (found.take(np.array([place])) for place in range(len(found)))
            return _held(map(Parts.of, singles), say, what)
    return found


def _of_columns(data: Mapping[str, Any], reading: Reading) -> Source:
    lengths = {name: len(column) for name, column in data.items() if hasattr(column, "__len__")}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise InvalidInput(f"its columns have different lengths: {listed}")
    if not any(lengths.values()):
        raise InvalidInput("it has no samples; give at least one")
    inputs, targets = reading.parted(data)
    return Held(inputs, targets)


def _of_batches(batches: Iterator[Any], reading: Reading, say: Say, what: str) -> Source:
    first = next(batches, None)
    if first is None:
        raise InvalidInput(
            "it gives no batch (a generator gives its batches once: was it gone through before?); give a list, a "
            "DataLoader or a new generator"
        )

    def singles() -> Iterator[Parts]:
        for batch in chain([first], batches):
            held = Parts.of(reading.parted(batch))
            yield from (held[place : place + 1] for place in range(len(held)))

    return _held(singles(), say, what)


def _held(singles: Iterator[Parts], say: Say, what: str) -> Source:
    """Samples that come one after the other, held up to HELD_BYTES."""
    kept: list[Parts] = []
    size = 0
    for single in singles:
        if size + single.nbytes > HELD_BYTES and kept:
            say(f"{what}: {len(kept):,} samples are held, {size / 2**30:.1f} GiB; those that follow are left out")
            break
        # Cloned: a slice would keep its whole batch.
        kept.append(Parts([tensor.clone() for tensor in single.tensors], single.layout))
        size += single.nbytes
    if len({(part.shape, str(part.layout[0])) for part in kept}) > 1:
        return Ragged(kept)
    inputs, targets = Parts([torch.cat(column) for column in zip(*(part.tensors for part in kept), strict=True)],
                            kept[0].layout).value  # fmt: skip
    return Held(inputs, targets)


def _joined(singles: Sequence[Parts]) -> Any:
    """Samples as one batch; sequences that have a mask of attention are padded at their ends to the longest."""
    if len({part.shape for part in singles}) > 1:
        values = [part.value for part in singles]
        masked = all(isinstance(inputs, dict) and MASK in inputs for inputs, _ in values)
        if not masked:
            raise InvalidInput(
                "samples have different shapes and do not go through the network together; give them in one shape, or "
                f"with an {MASK}"
            )
        longest = max(inputs[MASK].shape[1] for inputs, _ in values)
        singles = [Parts.of(_padded(value, value[0][MASK].shape[1], longest)) for value in values]
    columns = zip(*(part.tensors for part in singles), strict=True)
    return Parts([torch.cat(column) for column in columns], singles[0].layout).value


def _padded(value: Any, length: int, longest: int) -> Any:
    """One sample (inputs, targets) whose sequences, all of `length`, are padded: labels by IGNORED, others by zeros."""

    def grown(tensor: torch.Tensor, fill: float) -> torch.Tensor:
        if tensor.ndim < 2 or tensor.shape[1] != length:
            return tensor
        out = tensor.new_full((1, longest, *tensor.shape[2:]), fill)
        out[:, :length] = tensor
        return out

    inputs, targets = value
    held = {name: grown(item, IGNORED if name == "labels" else 0) for name, item in inputs.items()}
    return held, grown(targets, IGNORED) if isinstance(targets, torch.Tensor) else targets


def _counted(inputs: Any) -> torch.Tensor | None:
    held = inputs.get(MASK) if isinstance(inputs, dict) else None
    return held.bool() if isinstance(held, torch.Tensor) and held.ndim == 2 else None


def _clean(item: Any) -> Any:
    """A sample without its texts, its lists of numbers as tensors: what `default_collate` makes of lists is columns."""
    if isinstance(item, Mapping):
        return {name: _as_tensors(value) if isinstance(value, list) else value
                for name, value in item.items() if not _is_text(value)}  # fmt: skip
    return item


def _as_tensors(value: Any) -> Any:
    """Arrays and lists of numbers as tensors, inside tuples and mappings too."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Mapping):
        return {name: _as_tensors(item) for name, item in value.items() if not _is_text(item)}
    if isinstance(value, tuple | list):
        if value and all(isinstance(item, int | float) for item in _flat(value)):
            return torch.tensor(value)
        return tuple(map(_as_tensors, value))
    column = getattr(value, "to_numpy", None) or getattr(value, "__array__", None)
    if column is not None:
        return torch.from_numpy(np.ascontiguousarray(np.asarray(column())))
    return value


def _flat(value: Any) -> Iterator[Any]:
    for item in value:
        if isinstance(item, tuple | list):
            yield from _flat(item)
        else:
            yield item


def _is_text(value: Any) -> bool:
    first = value[0] if isinstance(value, list | tuple) and value else value
    return isinstance(first, str | bytes) or (isinstance(value, np.ndarray) and value.dtype.kind in "OUS")


def _same(first: Any, second: Any) -> bool:
    pairs = zip(pytree.tree_leaves(first), pytree.tree_leaves(second), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else True for a, b in pairs)


def _missing_targets(found: str) -> str:
    return (
        f"targets are missing: a batch is {found}, and the loss compares outputs with targets; give (inputs, targets), "
        f"or a column named {TARGET_NAMES[0]}, or loss=None where the model returns its loss"
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, everything that draws from a global state draws from the seed; afterwards those states are as before."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002
