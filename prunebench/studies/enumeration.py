"""All masks of a small group of items: whole neurons of a hidden layer, or single weights of a pruned network."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.quadratic import QuadraticForm
from prunebench.scores import score

if TYPE_CHECKING:
    from prunebench.networks.network import Layer

MOST = 500_000
"""Masks of an enumeration; the true losses of so many of a small network take minutes."""

TEXT = re.compile(r"(neurons|weights):(\d+)/(\d+)")
"""KIND:K/N, keep K of N items."""


@dataclass(frozen=True)
class Asked:
    """What is to be enumerated: items of a kind, of which some are kept."""

    kind: str
    keep: int
    items: int

    @property
    def count(self) -> int:
        """How many masks there are."""
        return comb(self.items, self.keep)


def parse(text: str, study: str) -> Asked:
    """What a text KIND:K/N says.

    Raises
    ------
    InvalidInput   another form, nothing to choose, or more than MOST masks
    """
    found = TEXT.fullmatch(text)
    if found is None:
        raise InvalidInput(f"study {study}: enumerate is {text!r}; write neurons:8/16 or weights:7/14 (keep 8 of 16)")
    asked = Asked(found[1], int(found[2]), int(found[3]))
    if not 0 < asked.keep < asked.items:
        raise InvalidInput(f"study {study}: enumerate={text} leaves no choice; keep some of the items, but not all")
    if asked.count > MOST:
        raise InvalidInput(
            f"study {study}: enumerate={text} has {asked.count:,} masks, and {MOST:,} are looked at; take fewer items"
        )
    return asked


@dataclass(frozen=True)
class Enumeration:
    """All masks that keep `keep` of some items, and everything else of a base mask.

    base : bool (p,), the mask in which the items are present
    items : bool (n, p), the weights of each item; no two share one
    kept : bool (masks, n), which items a mask keeps
    """

    base: BoolArray
    items: BoolArray
    kept: BoolArray

    @staticmethod
    def of(base: BoolArray, items: BoolArray, keep: int) -> "Enumeration":
        """That of these items."""
        chosen = np.array(list(combinations(range(items.shape[0]), keep)))
        kept = np.zeros((chosen.shape[0], items.shape[0]), dtype=np.bool_)
        np.put_along_axis(kept, chosen, True, axis=1)
        return Enumeration(base, items, kept)

    def masks(self, numbers: IndexArray | slice) -> BoolArray:
        """The masks of these numbers. bool (m, p)"""
        gone = (~self.kept[numbers]).astype(np.int8) @ self.items.astype(np.int8)
        return np.asarray(self.base & (gone == 0))

    def objectives(self, form: QuadraticForm, weights: FloatArray) -> FloatArray:
        """What a quadratic form says of every mask of these weights, none refitted. float64 (masks,)

        With V the items' weights and z the items that are gone the weights are w − Vz, where w has the base mask, so
        that the form is a small quadratic function of z.
        """
        base = np.where(self.base, weights, 0.0)
        parts = np.where(self.items, base, 0.0)
        gone = (~self.kept).astype(np.float64)
        slopes = parts @ form.gradient(base)
        curvature = parts @ np.array([form.product(part) for part in parts]).T
        return np.asarray(
            form.value(base) - gone @ slopes + 0.5 * np.einsum("mi,ij,mj->m", gone, curvature, gone, optimize=True)
        )


def neurons(layers: "Sequence[Layer]", asked: Asked, study: str) -> Enumeration:
    """All choices among the neurons of the first hidden layer that has as many as were asked for.

    Raises
    ------
    InvalidInput   no hidden layer has so many
    """
    for before, after in pairwise(layers):
        plain = len(before.shape) == len(after.shape) == 2
        if plain and before.shape[0] == after.shape[1] == asked.items:
            items = np.zeros((asked.items, layers[-1].stop), dtype=np.bool_)
            owner = np.repeat(np.arange(asked.items), before.shape[1])
            items[owner, before.start + np.arange(before.size)] = True
            owner = np.tile(np.arange(asked.items), after.shape[0])
            items[owner, after.start + np.arange(after.size)] = True
            return Enumeration.of(np.ones(layers[-1].stop, dtype=np.bool_), items, asked.keep)
    widths = ", ".join(str(layer.shape[0]) for layer in layers[:-1]) or "none"
    raise InvalidInput(
        f"study {study}: no hidden dense layer has {asked.items} neurons (there are {widths}); ask for as many as one "
        "has, or give the network another width (digits-mlp: --option hidden=16)"
    )


def weights_of(form: QuadraticForm, dense: FloatArray, within: BoolArray, asked: Asked, study: str) -> Enumeration:
    """All choices among the weights of a mask that cost most alone (score obd); the rest of the mask stays.

    Raises
    ------
    InvalidInput   the mask keeps fewer
    """
    if int(within.sum()) < asked.items:
        raise InvalidInput(
            f"study {study}: the network keeps {int(within.sum())} weights, fewer than {asked.items}; raise density"
        )
    heaviest = np.argsort(np.where(within, -score("obd", form, dense), np.inf), kind="stable")[: asked.items]
    items = np.zeros((asked.items, dense.size), dtype=np.bool_)
    items[np.arange(asked.items), heaviest] = True
    return Enumeration.of(within, items, asked.keep)
