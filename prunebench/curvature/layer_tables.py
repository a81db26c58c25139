"""A parameter as rows of weights, each row an output of a product: one table, whatever axes the parameter has."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.curvature.products import MOST_COLUMNS, Part


class Unfit(Exception):
    """The products do not make a table of the parameter; the message says why."""


class Unseen(Unfit):
    """Part of the parameter has not been seen to multiply anything."""


@dataclass(frozen=True, eq=False)
class Table:
    """A parameter's weights, those of an output in a row, and which rows have inputs in common.

    parts : of the parameter, each with inputs of its own, in the order of the rows
    places : int64 (rows, columns)   where in the parameter, flattened, each weight is
    """

    parts: tuple[Part, ...]
    places: IndexArray

    @cached_property
    def rows_of(self) -> dict[Part, tuple[int, slice]]:
        """The number of each part, and its rows."""
        stops = np.cumsum([part.rows for part in self.parts]).tolist()
        return {
            part: (number, slice(stop - part.rows, stop))
            for number, (part, stop) in enumerate(zip(self.parts, stops, strict=True))
        }


def table_of(name: str, parameter: torch.Tensor, seen: Iterable[Part]) -> Table:
    """The table that the products of a parameter make.

    seen : the parts that were seen to multiply

    Raises
    ------
    Unseen   they leave weights out
    Unfit    they overlap, have rows of several lengths, or rows that are too long
    """
    parts = sorted(_with_neighbours(parameter, list(seen)), key=lambda part: (part.offset, part.sizes, part.strides))
    if not parts:
        raise Unseen("is never reached by the samples")
    places = [_logical(parameter, part.storage_places()) for part in parts]
    counts = np.bincount(np.concatenate([held.reshape(-1) for held in places]), minlength=parameter.numel())
    if (counts > 1).any():
        raise Unfit("is used along different axes, or in different pieces, so that no one table has its inputs")
    columns = {part.columns for part in parts}
    if len(columns) > 1:
        raise Unfit(f"multiplies inputs of several lengths ({', '.join(map(str, sorted(columns)))})")
    if max(columns) > MOST_COLUMNS:
        raise Unfit(
            f"has {max(columns):,} inputs an output, and the Gram matrix of more than {MOST_COLUMNS:,} is large"
        )
    if (counts == 0).any():
        raise Unseen(f"has {int((counts == 0).sum()):,} weights that multiply nothing on these samples")
    return Table(tuple(parts), np.concatenate(places))


def _with_neighbours(parameter: torch.Tensor, seen: Sequence[Part]) -> list[Part]:
    """The parts and, where they are alike and lie one at each step of the first axis, those at the other steps.

    So experts that no sample was sent to are known from the others.
    """
    if not seen or len({(part.sizes, part.strides) for part in seen}) > 1 or parameter.ndim < 3:
        return list(seen)
    first, step, count = seen[0], int(parameter.stride(0)), len(parameter)
    start = int(parameter.storage_offset())
    offsets = {part.offset - start for part in seen}
    if first.rows * first.columns * count != parameter.numel() or any(
        offset % step or not 0 <= offset // step < count for offset in offsets
    ):
        return list(seen)
    return [Part(first.name, first.sizes, first.strides, start + number * step) for number in range(count)]


def _logical(parameter: torch.Tensor, places: IndexArray) -> IndexArray:
    """Places in the storage as places in the flattened parameter."""
    start = int(parameter.storage_offset())
    if parameter.is_contiguous():
        return np.asarray(places - start)
    whole = Part("", tuple(parameter.shape), tuple(parameter.stride()), start).storage_places().reshape(-1)
    where = np.full(int(whole.max()) - start + 1, -1, dtype=np.int64)
    where[whole - start] = np.arange(parameter.numel())
    return np.asarray(where[places - start])
