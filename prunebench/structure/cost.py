"""What a network costs with some of its groups: multiply-accumulates of one sample, parameters, bytes.

A layer's multiply-accumulates are a constant times the live indices of each of its dimensions, and how many of those
live depends on how many groups of each family do, not on which. So costs are polynomials in the kept counts, and are
exact without running anything. What is inside of a residual branch is multiplied with whether the branch is kept; what
only several branches together need (the parameters of a norm that feeds two) counts as kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch.fx import Node

from prunebench.structure.branches import enclosing
from prunebench.structure.families import Family
from prunebench.structure.trace import Coupling

Unit = Literal["macs", "parameters", "bytes"]
"""Multiply-accumulates of one sample, numbers of the network, or their bytes."""

UNITS: tuple[Unit, ...] = get_args(Unit)
"""All units, in the order in which they are shown."""

Pattern = tuple[tuple[int, ...], float]
"""Families by number, and how many indices of a dimension are products of one group of each of them."""


@dataclass(frozen=True)
class Term:
    """A constant times the live indices of some dimensions.

    name : of the operation or parameter
    fixed : the constant, with all dimensions that no family touches multiplied in
    dimensions : of each of the others, its indices by the families that they belong to
    """

    name: str
    fixed: float
    dimensions: tuple[tuple[Pattern, ...], ...]

    @property
    def families(self) -> frozenset[int]:
        """The families that it depends on."""
        return frozenset(f for dimension in self.dimensions for families, _ in dimension for f in families)

    def count(self, shares: Sequence[float]) -> float:
        """The term where this share of every family is kept."""
        out = self.fixed
        for dimension in self.dimensions:
            out *= sum(many * math.prod(shares[f] for f in families) for families, many in dimension)
        return out


@dataclass(frozen=True)
class Cost:
    """What a network costs in one unit, as a function of how many groups of every family are kept.

    sizes : of the families;  terms : whose sum it is
    """

    unit: Unit
    sizes: tuple[int, ...]
    terms: tuple[Term, ...]

    def total(self, counts: Sequence[int] | None = None) -> float:
        """The whole cost with these counts; of the whole network if None."""
        return self.part(range(len(self.terms)), self.sizes if counts is None else counts)

    def part(self, which: Sequence[int], counts: Sequence[int]) -> float:
        """The sum of some terms, by number."""
        shares = [count / size for count, size in zip(counts, self.sizes, strict=True)]
        return math.fsum(self.terms[k].count(shares) for k in which)

    def touching(self, families: Sequence[int]) -> list[int]:
        """The terms that depend on one of these families, by number."""
        asked = set(families)
        return [k for k, term in enumerate(self.terms) if not asked.isdisjoint(term.families)]


def cost_of(coupling: Coupling, families: Sequence[Family], unit: Unit) -> Cost:
    """The cost of a network as a function of what is kept of these families."""
    owner = {base: number for number, family in enumerate(families) for base in family.groups}
    branches = [branch for branch in coupling.branches if branch.base in owner]
    sizes = tuple(family.size for family in families)
    found: list[tuple[str, float, Sequence[Sequence[int]], Sequence[Node]]]
    if unit == "macs":
        found = [(node.name, *term, [node]) for node, terms in coupling.walk.terms.items() for term in terms]
    else:
        reads = coupling.reads()
        held = dict(coupling.program.named_parameters(remove_duplicate=False))
        found = [
            (name, 1.0 if unit == "parameters" else float(held[name].element_size()), dims, reads[name])
            for name, dims in coupling.parameters.items()
            if name in held and name not in coupling.tied
        ]
    return Cost(
        unit,
        sizes,
        tuple(
            _term(coupling, owner, name, coefficient, dims, [owner[base] for base in enclosing(branches, nodes)])
            for name, coefficient, dims, nodes in found
        ),
    )


def _term(
    coupling: Coupling,
    owner: dict[int, int],
    name: str,
    coefficient: float,
    dims: Sequence[Sequence[int]],
    within: Sequence[int],
) -> Term:
    """A term of a product or parameter; `within` : the numbers of the branches whose part it is."""
    fixed: float = coefficient
    moving: list[tuple[Pattern, ...]] = [(((number,), 1.0),) for number in within]
    for labels in dims:
        patterns: dict[tuple[int, ...], float] = {}
        for label in labels:
            touched = tuple(owner[base] for base in coupling.walk.labels.bases(label) if base in owner)
            patterns[touched] = patterns.get(touched, 0.0) + 1.0
        if set(patterns) <= {()}:
            fixed *= len(labels)
        else:
            moving.append(tuple(patterns.items()))
    return Term(name, fixed, tuple(moving))
