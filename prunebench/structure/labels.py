"""Labels of tensor indices: which indices of which dimensions can only be removed together.

Every index of every dimension of every tensor has a label. What an operation does with its inputs says which labels
are the same: an addition unites those of its operands, a matrix product those of the dimension that it sums over. A
dimension that is split into two makes every old label the *product* of two new ones: it is alive where both are. A
label that nothing divides any further is a *base*; an index of a tensor is alive where all bases of its label are.

So one base is one group: the indices, in however many tensors, that go when it goes.
"""

from collections.abc import Iterable, Sequence


class Labels:
    """A union-find structure over labels, with products, and with what must stay.

    frozen : by base, why it must stay
    crossing : by base, the operation that mixes it with others, so that zeros in its place are not the same as its
        absence: a norm or a mean over the dimension
    summed : bases whose indices are sums of several branches: the stream of a residual network
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._factors: dict[int, tuple[int, ...]] = {}
        self._frozen: dict[int, str] = {}
        self._crossing: dict[int, str] = {}
        self._summed: set[int] = set()

    def new(self, count: int, frozen: str = "") -> list[int]:
        """That many labels of their own; frozen for that reason if one is given."""
        first = len(self._parent)
        made = list(range(first, first + count))
        self._parent.extend(made)
        if frozen:
            self._frozen.update(dict.fromkeys(made, frozen))
        return made

    def product(self, *factors: int) -> int:
        """A label that is alive where all of its factors are."""
        (label,) = self.new(1)
        self._factors[label] = factors
        return label

    def bases(self, label: int) -> tuple[int, ...]:
        """The bases of a label, outer factors first, each once."""
        root = self._find(label)
        factors = self._factors.get(root)
        if factors is None:
            return (root,)
        return tuple(dict.fromkeys(base for factor in factors for base in self.bases(factor)))

    def same(self, first: Sequence[int], second: Sequence[int]) -> bool:
        """Whether the labels of two dimensions are one already, index by index."""
        return all(self.bases(one) == self.bases(other) for one, other in zip(first, second, strict=True))

    def unite(self, first: int, second: int) -> None:
        """Make two labels one.

        Products of as many factors, or of as many bases, are united one by one; others have all their bases frozen,
        which is safe: what is not removed cannot be removed wrongly.
        """
        one, other = self._find(first), self._find(second)
        if one == other:
            return
        mine, its = self._factors.get(one), self._factors.get(other)
        if mine is not None and its is not None:
            self._unite_products(one, other, mine, its)
        elif mine is not None:
            self._become(other, one)
        else:
            self._become(one, other)

    def unite_all(self, first: Sequence[int], second: Sequence[int]) -> None:
        """Make the labels of two dimensions one, index by index."""
        for one, other in zip(first, second, strict=True):
            self.unite(one, other)

    def divide(self, label: int, factors: Sequence[int]) -> None:
        """Make a label the product of these."""
        self.unite(label, self.product(*factors))

    def freeze(self, labels: Iterable[int], why: str) -> None:
        """All bases of these labels must stay; the first reason is kept."""
        for label in labels:
            for base in self.bases(label):
                self._frozen.setdefault(base, why)

    def cross(self, labels: Iterable[int], what: str) -> None:
        """An operation mixes these labels with each other."""
        for label in labels:
            for base in self.bases(label):
                self._crossing.setdefault(base, what)

    def sum_up(self, labels: Iterable[int]) -> None:
        """These labels are of a sum of several branches."""
        for label in labels:
            self._summed.update(self.bases(label))

    def why_frozen(self, base: int) -> str:
        """Why a base must stay; "" if it need not."""
        return self._frozen.get(base, "")

    def crossed_by(self, base: int) -> str:
        """The operation that mixes a base with others; "" if none does."""
        return self._crossing.get(base, "")

    def is_summed(self, base: int) -> bool:
        """Whether a base's indices are sums of several branches."""
        return base in self._summed

    def _find(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def _become(self, base: int, root: int) -> None:
        """Let a base be the same as another root, base or product."""
        if base in self.bases(root):
            # a label that is a product with itself in it: nothing of it can be removed alone
            self.freeze([root], "a dimension that is a part of itself")
            return
        self._parent[base] = root
        if why := self._frozen.pop(base, ""):
            self.freeze([root], why)
        if what := self._crossing.pop(base, ""):
            self.cross([root], what)
        if base in self._summed:
            self._summed.discard(base)
            self.sum_up([root])

    def _unite_products(self, one: int, other: int, mine: tuple[int, ...], its: tuple[int, ...]) -> None:
        if len(mine) == len(its):
            for first, second in zip(mine, its, strict=True):
                self.unite(first, second)
            return
        bases, others = self.bases(one), self.bases(other)
        if len(bases) == len(others):
            for base, same in zip(bases, others, strict=True):
                self.unite(base, same)
        else:
            self.freeze([one, other], "a dimension that is divided in two ways")
