"""A step's blocks: their block problems about the current weights, and their joint effect.

The model of a step is E(D) = scale·g'D + 1/2 ‖A D‖² + ridge·‖D‖² with D the move from the current
weights, where g and A are taken; E(0) = 0 (Rosenberg et al., arXiv 2411.17796, §3).
"""

import copy
from dataclasses import dataclass, field

import numpy as np

from prunebench.core.arrays import BoolArray, Factor, FloatArray, IndexArray, times, transposed_times
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.keeping import Counted
from prunebench.core.quadratic import QuadraticForm


@dataclass
class StepBlock:
    """One of the disjoint blocks of a step, with all that is needed to judge it jointly with the others.

    indices : int64 (b,);  factor : (n, b);  slope : float64 (b,), the scaled gradient;
    ridge : float64 (b,), of the loss itself;  weights, mask : the block's current state;
    keeping : which masks of the block are feasible
    """

    label: str
    indices: IndexArray
    factor: Factor
    slope: FloatArray
    ridge: FloatArray
    dense_weights: FloatArray
    weights: FloatArray
    mask: BoolArray
    keeping: Counted
    new_weights: FloatArray = field(init=False)
    new_mask: BoolArray = field(init=False)
    predicted: float = 0.0
    """E of the block's solution alone."""

    def __post_init__(self) -> None:
        self.new_weights, self.new_mask = self.weights, self.mask

    @property
    def move(self) -> FloatArray:
        """The move D of the block's solution. float64 (b,)."""
        return self.new_weights - self.weights

    @property
    def image(self) -> FloatArray:
        """A D: the move's effect on the samples. float64 (n,)."""
        return times(self.factor, self.move)

    def problem(self, mode: Mode, trust: float, others: FloatArray | None, name: str) -> BlockProblem:
        """The block problem about the current weights; `others` is the sum of other blocks' images. float64 (n,)."""
        slope = self.slope if others is None else self.slope + transposed_times(self.factor, others)
        form = QuadraticForm(
            factor=self.factor, ridge=self.ridge + 2.0 * trust, linear=slope, centre=self.weights, constant=0.0
        )
        return BlockProblem(
            form=form,
            dense_weights=self.dense_weights,
            keep=int(self.mask.sum()),
            mode=mode,
            start_mask=self.mask,
            indices=self.indices,
            problem=name,
            quota=self.keeping.quota,
        )

    def own_change(self, trust: float) -> float:
        """E of the block's move without the curvature term: slope, ridge and trust ridge."""
        move = self.move
        return float(self.slope @ move) + 0.5 * float((self.ridge + 2.0 * trust) @ move**2)


def half_of_swaps(block: StepBlock, trust: float) -> StepBlock | None:
    """The block with half of its swaps, those the model would lose most by undoing; None if only one is left.

    For mode select, where undoing a swap restores the previous weights.
    """
    removed = np.flatnonzero(block.mask & ~block.new_mask)
    added = np.flatnonzero(~block.mask & block.new_mask)
    if removed.size < 2:
        return None
    move = block.move
    diagonal = np.einsum("ij,ij->j", block.factor, block.factor, dtype=np.float64) + block.ridge + 2.0 * trust
    slope = block.slope + transposed_times(block.factor, block.image) + (block.ridge + 2.0 * trust) * move
    undoing = 0.5 * diagonal * move**2 - slope * move
    # a swap is undone as a whole, and with a quota within one group
    changed = np.sort(np.concatenate([removed, added]))
    among = block.keeping.within(changed, block.mask)
    pairs = among.exchanges(block.mask[changed], undoing[changed], -undoing[changed])
    back = changed[np.concatenate([part[: removed.size - removed.size // 2] for part in pairs])]
    half = copy.copy(block)
    half.new_mask, half.new_weights = block.new_mask.copy(), block.new_weights.copy()
    half.new_mask[back], half.new_weights[back] = block.mask[back], block.weights[back]
    half.predicted = joint_change([half], trust)
    return half


def joint_change(blocks: list[StepBlock], trust: float) -> float:
    """E of all moves together: the curvature acts on the sum of their images."""
    if not blocks:
        return 0.0
    image = np.sum([block.image for block in blocks], axis=0)
    return sum(block.own_change(trust) for block in blocks) + 0.5 * float(image @ image)


def conflicting(blocks: list[StepBlock], share: float) -> list[int]:
    """Blocks whose interaction with the others costs more than `share` of their own gain."""
    images = [block.image for block in blocks]
    total = np.sum(images, axis=0)
    return [
        position
        for position, (block, image) in enumerate(zip(blocks, images, strict=True))
        if float(image @ (total - image)) > share * abs(block.predicted)
    ]


def clip_negative(block: BlockProblem) -> BlockProblem:
    """The ablation "clip-negative": the block's QUBO matrix without negative entries, as in the released code.

    In x = 1 − m (pruned) with E = c + x'Qx, every Qᵢⱼ <= 1e-12 is dropped, and with it all cancelling
    pairs. Only shows what that costs: the objective of the returned block is not E.
    """
    qubo = block.to_qubo()
    couplings = qubo.couplings
    # E(m) with m = 1 - x: couplings stay, the linear term changes sign and gains the row sums
    diagonal = -(qubo.linear + couplings.sum(axis=1))
    pairs = np.where(0.5 * couplings > 1e-12, couplings, 0.0)
    diagonal = np.where(diagonal > 1e-12, diagonal, 0.0)
    linear = -(diagonal + pairs.sum(axis=1))
    constant = float(diagonal.sum()) + 0.5 * float(pairs.sum())
    ones = np.ones(block.p)
    form = QuadraticForm(hessian=pairs, ridge=0.0, linear=linear, centre=np.zeros(block.p), constant=constant)
    return BlockProblem(
        form=form,
        dense_weights=ones,
        keep=block.keep,
        mode="select",
        start_mask=block.start_mask,
        problem=block.problem,
        quota=block.quota,
    )
