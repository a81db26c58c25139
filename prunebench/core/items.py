"""What the items of a block are, where they are not weights: a word for people, and what each stands for.

A block problem chooses `keep` of p items. What they are changes nothing that a solver sees and is no part of the
block's hash; it says what an answer means, and is kept in the block's file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import frozen
from prunebench.core.errors import InvalidInput

WEIGHTS = "weights"
"""What items are where nothing else is said."""
PREFIX = "item_"
"""What the names of columns begin with in a block file."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""A word for items, or the name of a column."""


@dataclass(frozen=True, eq=False)
class Items:
    """What the p items of a block are.

    word : their name in the plural, such as "slices" or "samples", as tables and messages show it
    columns : by name, an array (p,) of numbers: what each item stands for

    Raises
    ------
    InvalidInput   a word or name that is no lower-case word, or columns that are not numbers
    """

    word: str
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, name in (("word", self.word), *(("column", name) for name in self.columns)):
            if not isinstance(name, str) or _NAME.fullmatch(name) is None:
                raise InvalidInput(f"the items' {what} is {name!r}; choose a lower-case word, such as slices")
        held = {}
        for name, values in self.columns.items():
            array = np.array(values)
            if array.ndim != 1 or array.dtype.kind not in "biuf":
                raise InvalidInput(
                    f"the items' column {name} has dtype {array.dtype} and shape {array.shape}; expected numbers (p,)"
                )
            held[name] = frozen(array)
        object.__setattr__(self, "columns", held)

    def require_size(self, size: int) -> None:
        """Raise InvalidInput unless every column has `size` entries."""
        for name, values in self.columns.items():
            if values.size != size:
                raise InvalidInput(f"the items' column {name} has {values.size} entries; the block has {size} items")

    def contents(self) -> dict[str, Any]:
        """The arrays of a block file, by key."""
        return {"items": np.str_(self.word), **{PREFIX + name: values for name, values in self.columns.items()}}

    @staticmethod
    def of(contents: Mapping[str, Any]) -> "Items | None":
        """What a block file's arrays say of the items; None where they are weights."""
        if "items" not in contents:
            return None
        columns = {key.removeprefix(PREFIX): value for key, value in contents.items() if key.startswith(PREFIX)}
        return Items(str(contents["items"]), columns)
