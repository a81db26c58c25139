"""What every constraint on masks answers, whether it counts weights or adds up their costs."""

from typing import Protocol

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray


class MaskConstraint(Protocol):
    """The feasible masks of p weights, m in {0, 1}^p. Scores are float (p,), high = worth keeping."""

    @property
    def p(self) -> int:
        """How many weights there are."""

    @property
    def most(self) -> int:
        """No feasible mask keeps more weights than this."""

    @property
    def settled(self) -> bool:
        """Whether only one mask is feasible."""

    @property
    def mask_count(self) -> int:
        """How many masks are feasible, exactly."""

    @property
    def shares(self) -> FloatArray:
        """How often each weight is kept by a uniformly random feasible mask. float64 (p,), 0 to 1"""

    def violation(self, mask: BoolArray) -> str:
        """How a mask breaks the constraint, in words that follow "the mask"; "" where it is feasible."""

    def feasible(self, mask: BoolArray) -> bool:
        """Whether a mask may be chosen. bool (p,)"""

    def top_mask(self, scores: FloatArray) -> BoolArray:
        """The feasible mask of the highest scores; among equal scores the lower position wins. (p,) -> bool (p,)"""

    def repair(self, mask: BoolArray, scores: FloatArray) -> BoolArray:
        """A feasible mask near `mask`: the lowest scores leave or the highest enter. A feasible one may grow only.

        bool (p,), (p,) -> bool (p,)
        """

    def exchanges(self, mask: BoolArray, cost: FloatArray, worth: FloatArray) -> tuple[IndexArray, IndexArray]:
        """Pairs (leaving, entering), no weight twice, any of which together keep a feasible mask feasible.

        mask : bool (p,);  cost : (p,), of pruning a kept weight;  worth : (p,), of keeping a pruned one.
        The largest worth − cost comes first. -> int64 (e,), int64 (e,)
        """

    def within(self, indices: IndexArray, mask: BoolArray) -> "MaskConstraint":
        """The constraint on the weights `indices` (b,) while all others stay as `mask` (p,) has them."""
