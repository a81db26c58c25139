"""The catalogue: what is known of every instance of the suite."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from prunebench.core.arrays import BoolArray
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.core.masks import mask_from_text
from prunebench.core.optimality import is_proved

FORMAT = "prunebench.suite/1"
"""Name and version of the catalogue's format."""
FOLDER = files("prunebench.suite")
"""Where the catalogue and its data are."""

SIZE_CLASSES: Mapping[str, tuple[int, int]] = {
    "p ≤ 32": (1, 32),
    "33–128": (33, 128),
    "129–512": (129, 512),
    "over 512": (513, 2**31),
}
"""Classes of sizes in tables: name, least and largest p."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One instance and what is known of it.

    name : unique;  mode : select or refit;  p : weights, or groups;  n : rows of the factor, 0 where there is none
    keep : kept weights, or groups; with a budget the most that it allows
    kind : weights, quota, budget or groups
    origin : a key of the catalogue's origins: network and data it was cut from
    about : what makes it different from the others
    recipe : how the block is made (`prunebench.suite.instances`)
    hash : of the block
    scale : gap 1 above the best value: the random mean, for groups the value of keeping nothing
    best : the best value known;  best_from : who found it;  mask : the mask, as hexadecimal bits
    bound : the best bound proved, None without one;  bound_from : from what it was derived
    proof : name of the file in the package from which it can be derived again; "" without one
    """

    name: str
    mode: str
    p: int
    n: int
    keep: int
    kind: str
    origin: str
    about: str
    recipe: Mapping[str, Any]
    hash: str
    scale: float
    best: float
    best_from: str
    mask: str
    bound: float | None
    bound_from: str
    proof: str = ""

    @property
    def proved(self) -> bool:
        """Whether the best value is proved to be the optimum."""
        return self.bound is not None and is_proved(self.best, self.bound)

    @property
    def gap(self) -> float | None:
        """What is open: (best − bound)/(scale − bound), 0 where it is proved; None without a bound."""
        if self.bound is None:
            return None
        return 0.0 if self.proved else (self.best - self.bound) / (self.scale - self.bound)

    @property
    def size_class(self) -> str:
        """The class of its size."""
        return next(name for name, (low, high) in SIZE_CLASSES.items() if low <= self.p <= high)

    @property
    def best_mask(self) -> BoolArray:
        """The mask of the best value. bool (p,)"""
        return mask_from_text(self.mask, self.p)


@dataclass(frozen=True)
class Catalogue:
    """All instances, and the origins they come from.

    origins : by key, what the data and the network are and under which licence the data may be passed on
    version : of the suite: results of different versions are not compared
    """

    version: str
    origins: Mapping[str, str]
    instances: Sequence[Instance]

    @property
    def digest(self) -> str:
        """SHA-256 of the instances' names and hashes: two suites with it pose the same problems."""
        lines = "\n".join(f"{item.name} {item.hash}" for item in self.instances)
        return hashlib.sha256(lines.encode()).hexdigest()

    def get(self, name: str) -> Instance:
        """The instance of that name.

        Raises
        ------
        UnknownName   with the nearest match
        """
        for item in self.instances:
            if item.name == name:
                return item
        raise unknown_name("instance", name, [item.name for item in self.instances], "('prunebench suite list')")


@cache
def catalogue() -> Catalogue:
    """The catalogue that comes with the package."""
    return from_json(json.loads(FOLDER.joinpath("catalogue.json").read_text(encoding="utf-8")), "catalogue.json")


def from_json(held: Mapping[str, Any], source: str) -> Catalogue:
    """A catalogue of JSON values. source : its name in messages

    Raises
    ------
    InvalidInput   another format, or an entry with missing or unknown keys
    """
    if held.get("format") != FORMAT:
        raise InvalidInput(f"{source}: format is {held.get('format')!r}; expected {FORMAT!r}")
    try:
        return Catalogue(held["version"], held["origins"], tuple(Instance(**item) for item in held["instances"]))
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"{source} is not a catalogue of this version: {error}") from error


def chosen(names: Sequence[str] = (), *, modes: Sequence[str] = (), largest: int | None = None) -> list[Instance]:
    """Instances of the catalogue, in its order. names : all by default;  modes, largest : leave the others out

    Raises
    ------
    UnknownName    an instance that is not there
    InvalidInput   nothing is left
    """
    held = catalogue()
    wanted = {held.get(name).name for name in names}
    out = [
        item
        for item in held.instances
        if (not names or item.name in wanted)
        and (not modes or item.mode in modes)
        and (largest is None or item.p <= largest)
    ]
    if not out:
        raise InvalidInput("no instance of the suite is left by these choices; 'prunebench suite list' shows all")
    return out
