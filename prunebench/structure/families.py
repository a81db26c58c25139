"""Families of groups: what can be removed from a network, by its kind and name.

A group is all that one base label touches. Groups that touch the same dimensions of the same parameters, as often and
in the same place of a product, are a family: the channels of a convolution, the heads of an attention.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.structure.branches import enclosing
from prunebench.structure.trace import Coupling
from prunebench.structure.walk import WINDOW

KINDS = ("channels", "neurons", "heads", "kv-heads", "query-heads", "head-dims", "stream", "layers")
"""What a family can be made of.

channels : of convolutions;  neurons : of linear layers
heads, kv-heads : of attention; key and value heads with all query heads that share them
query-heads : the n-th query head of every key and value head;  head-dims : the n-th dimension of every head
stream : the width of a residual stream;  layers : a whole residual branch, whose sum is its shortcut then
"""

LAYERS = "layers"
"""The kind whose groups are no indices of dimensions: each is a family of its own, a branch that is kept or not."""

USUAL = ("channels", "neurons", "heads", "kv-heads")
"""The kinds that are pruned where none are named: those inside of a layer or block, which leave the streams alone."""


@dataclass(frozen=True)
class Family:
    """Groups of one kind.

    name : of the parameter whose rows they are, or of the module that has it;  kind : one of KINDS
    groups : their base labels, in order;  size : how many
    members : by parameter and dimension, the indices of every group
    crossed_by : the operation that mixes the groups, "" if none does: zeros are not absence then
    within : the groups of kind layers that it is a part of: where one of them goes, so does all of the family
    """

    name: str
    kind: str
    groups: tuple[int, ...]
    members: Mapping[tuple[str, int], tuple[IndexArray, ...]]
    crossed_by: str = ""
    within: tuple[int, ...] = ()

    @property
    def least(self) -> int:
        """How few groups may be kept: one, or none of a branch whose shortcut stays."""
        return 0 if self.kind == LAYERS else 1

    @property
    def label(self) -> str:
        """Name and kind, which no other family of the network has both."""
        return f"{self.name}:{self.kind}"

    @property
    def size(self) -> int:
        """How many groups there are."""
        return len(self.groups)


@dataclass(frozen=True)
class Frozen:
    """Indices that must stay.

    name : a parameter that has them;  groups : how many;  why : the reason
    """

    name: str
    groups: int
    why: str


def families(coupling: Coupling) -> tuple[tuple[Family, ...], tuple[Frozen, ...]]:
    """All families of a network in the order of its parameters, and what must stay."""
    labels = coupling.walk.labels
    touched: dict[int, dict[tuple[str, int], list[tuple[int, int, int]]]] = {}
    for name, dims in coupling.parameters.items():
        if name in coupling.tied:
            continue
        for dim, indices in enumerate(dims):
            for index, label in enumerate(indices):
                bases = labels.bases(label)
                # what must stay counts for nothing in a product: that the rows of a packed matrix are q, k and v
                movable = [base for base in bases if not labels.why_frozen(base)]
                for base in bases:
                    place = movable.index(base) if base in movable else 0
                    touched.setdefault(base, {}).setdefault((name, dim), []).append((index, place, len(movable)))
    kept: dict[tuple[object, ...], list[int]] = {}
    frozen: dict[tuple[str, str], int] = {}
    for base, found in touched.items():
        if why := labels.why_frozen(base):
            if why == WINDOW:
                continue
            key = (next(iter(found))[0], why)
            frozen[key] = frozen.get(key, 0) + 1
        else:
            signature = tuple((*where, len(items), *items[0][1:]) for where, items in found.items())
            kept.setdefault(signature, []).append(base)
    out = []
    reads = coupling.reads()
    for held in kept.values():
        if len(held) > 1:
            family = _family(coupling, held, [touched[base] for base in held])
            nodes = [node for name, _ in family.members for node in reads[name]]
            out.append(replace(family, within=enclosing(coupling.branches, nodes)))
    for branch in coupling.branches:
        around = [other for other in coupling.branches if other is not branch]
        out.append(Family(branch.name, LAYERS, (branch.base,), {}, within=enclosing(around, [branch.total])))
    return _named_apart(out), tuple(Frozen(name, count, why) for (name, why), count in frozen.items())


Found = Mapping[tuple[str, int], Sequence[tuple[int, int, int]]]
"""Of one base: by parameter and dimension, (index, place in the product, factors of the product) of all it touches."""


def _family(coupling: Coupling, bases: Sequence[int], found: Sequence[Found]) -> Family:
    labels = coupling.walk.labels
    members = {
        where: tuple(np.array([item[0] for item in each[where]], dtype=np.int64) for each in found)
        for where in found[0]
    }
    crossed = next((text for text in map(labels.crossed_by, bases) if text), "")
    producer = next((name for (name, dim) in members if dim == 0), next(iter(members))[0])
    return Family(
        producer.rpartition(".")[0] or producer,
        _kind(coupling, bases, found[0]),
        tuple(bases),
        members,
        crossed,
    )


def _kind(coupling: Coupling, bases: Sequence[int], found: Found) -> str:
    """The kind of a family, by where its bases stand in products and what is summed over them."""
    places = [item[0][1:] for item in found.values()]
    factors = max(count for _, count in places)
    if factors > 1:
        place = next(place for place, count in places if count == factors)
        if place == factors - 1:
            return "head-dims" if _attends(coupling, found) else "channels"
        if place > 0:
            return "query-heads"
        counts = {count for _, count in places}
        if not _attends(coupling, found):
            return "channels"
        # a number a head, as a bias of positions has, is no product
        return "kv-heads" if len(counts - {1}) > 1 else "heads"
    if coupling.walk.labels.is_summed(bases[0]):
        return "stream"
    if any(len(coupling.parameters[name]) > 2 for name, _ in found):
        return "channels"
    return "neurons"


def _attends(coupling: Coupling, found: Found) -> bool:
    """Whether all matrices that a base touches have two dimensions: those of attention, and not of convolutions."""
    return all(len(coupling.parameters[name]) <= 2 for name, _ in found)


def _named_apart(found: Iterable[Family]) -> tuple[Family, ...]:
    """Families with names that no other of their kind has."""
    out: list[Family] = []
    taken: set[tuple[str, str]] = set()
    for family in found:
        name, number = family.name, 2
        while (family.kind, name) in taken:
            name, number = f"{family.name}#{number}", number + 1
        taken.add((family.kind, name))
        out.append(replace(family, name=name))
    return tuple(out)


def chosen(found: Sequence[Family], asked: Sequence[str]) -> tuple[Family, ...]:
    """The families that are pruned.

    Parameters
    ----------
    asked : kinds, or patterns of names (conv1, layer2.*), which mean residual branches where they name nothing else;
        none: those of USUAL

    Raises
    ------
    UnknownName    neither a kind nor a name of a family, with the nearest
    InvalidInput   nothing is left
    """
    if not asked:
        out = tuple(family for family in found if family.kind in USUAL and not family.crossed_by)
    else:
        kinds = {text for text in asked if text in KINDS}
        matched: set[str] = set()
        for pattern in (text for text in asked if text not in KINDS):
            named = [family for family in found if fnmatchcase(family.name, pattern)]
            # a pattern that names families inside of a branch does not mean the branch
            inner = [family for family in named if family.kind != LAYERS]
            matched |= {family.label for family in inner or named}
            if not named:
                raise unknown_name("kind or family", pattern, (*KINDS, *(family.name for family in found)))
        out = tuple(family for family in found if family.kind in kinds or family.label in matched)
    if not out:
        there = ", ".join(sorted({family.kind for family in found})) or "none"
        raise InvalidInput(f"no family of {', '.join(asked) or 'the usual kinds'} can be pruned; there are: {there}")
    return out


def without_parts(families: Sequence[Family], counts: Sequence[int]) -> list[int]:
    """Kept counts where all that is a part of a branch that goes counts as gone."""
    gone = {family.groups[0] for family, count in zip(families, counts, strict=True) if not count and not family.least}
    return [0 if not gone.isdisjoint(family.within) else count for family, count in zip(families, counts, strict=True)]
