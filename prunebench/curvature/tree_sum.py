"""Sums in an order that depends on how many terms there are and on nothing else, whoever adds them up.

Terms are added in pairs, pairs of pairs, and so on, as in pairwise summation (Higham: Accuracy and Stability of
Numerical Algorithms, 2002, §4.1). Whoever has some consecutive terms can add up the part of the tree that lies within
them, and what several have so is added up to the same sum, bit for bit. Rounding errors grow with the logarithm of the
number of terms, and so does the number of partial sums that are held.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Term = TypeVar("Term", bound=Any)


@dataclass(frozen=True)
class Node(Generic[Term]):
    """The sum of the `size` terms from `start` on; size is a power of two that divides start."""

    start: int
    size: int
    value: Term


class TreeSum(Generic[Term]):
    """The sum of consecutive terms, as nodes of the tree.

    Parameters
    ----------
    add : the sum of two terms; may write to the first
    """

    def __init__(self, add: Callable[[Term, Term], Term]) -> None:
        self._add = add
        self._held: list[Node[Term]] = []

    @property
    def nodes(self) -> tuple[Node[Term], ...]:
        """What is added up so far, in as few nodes as there can be."""
        return tuple(self._held)

    def take(self, nodes: Iterable[Node[Term]]) -> None:
        """Go on with nodes that follow those that are held."""
        for node in nodes:
            self._held.append(node)
            while len(self._held) > 1 and self._pair(*self._held[-2:]):
                self._merge()

    def term(self, number: int, value: Term) -> None:
        """Go on with one term, the `number`-th of all."""
        self.take([Node(number, 1, value)])

    def total(self) -> Term:
        """The sum of all terms that were taken, at least one, from the first of all on."""
        while len(self._held) > 1:
            self._merge()
        return self._held[0].value

    def _merge(self) -> None:
        right, left = self._held.pop(), self._held.pop()
        self._held.append(Node(left.start, left.size + right.size, self._add(left.value, right.value)))

    @staticmethod
    def _pair(left: Node[Term], right: Node[Term]) -> bool:
        return left.size == right.size and left.start % (2 * left.size) == 0
