"""The interface of all constraints on masks, whether they count weights or sum costs."""

from typing import Protocol

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray


class MaskConstraint(Protocol):
    """The feasible masks of p weights, m in {0, 1}^p. Scores are float (p,), high = worth keeping."""

    @property
    def p(self) -> int:
        """Number of weights."""

    @property
    def most(self) -> int:
        """The largest number of weights that any feasible mask keeps, or an upper bound on it."""

    @property
    def settled(self) -> bool:
        """Whether only one mask is feasible."""

    @property
    def mask_count(self) -> int:
        """How many masks are feasible, exactly."""

    @property
    def shares(self) -> FloatArray:
        """The probability that a uniformly random feasible mask keeps each weight. float64 (p,)"""

    def violation(self, mask: BoolArray) -> str:
        """How a mask breaks the constraint, worded to follow "the mask"; "" if it is feasible."""

    def feasible(self, mask: BoolArray) -> bool:
        """Whether a mask satisfies the constraint. bool (p,)"""

    def top_mask(self, scores: FloatArray) -> BoolArray:
        """The feasible mask with the highest scores; ties go to the lower position. (p,) -> bool (p,)"""

    def repair(self, mask: BoolArray, scores: FloatArray) -> BoolArray:
        """A feasible mask near `mask`: the lowest scores are dropped or the highest added. A feasible mask loses none.

        bool (p,), (p,) -> bool (p,)
        """

    def exchanges(self, mask: BoolArray, cost: FloatArray, worth: FloatArray) -> tuple[IndexArray, IndexArray]:
        """Disjoint pairs (leaving, entering); any subset of them keeps a feasible mask feasible.

        mask : bool (p,);  cost : (p,), of pruning each kept weight;  worth : (p,), of keeping each pruned weight.
        Sorted by worth − cost, the largest first. -> int64 (e,), int64 (e,)
        """

    def within(self, indices: IndexArray, mask: BoolArray) -> "MaskConstraint":
        """The constraint on the weights `indices` (b,) if all others are fixed as in `mask` (p,)."""
