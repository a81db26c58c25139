"""Pruning and bits in one choice: slices of quantised weights are the items of a block problem.

With bits 0, 4 and 8, a weight has two slices of 4 bits: its base, the nearest multiple of a step, and a refinement, the
nearest sixteenth of that step to what the base leaves. A weight without slices is pruned, with its base alone it has 4
bits, with both 8. The value of a weight is the sum of its kept slices, so the block's f is a quadratic form of the
slices, and a budget of bits is their number: an ordinary block problem in mode select, with one weight's slices in one
column of the curvature. A refinement may be kept without its base; it is then a small value of 4 bits.

The joint choice of pruning and bits: Wang et al.: APQ, CVPR 2020 (whose search over architectures is not taken over).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput
from prunebench.core.items import Items
from prunebench.core.quadratic import QuadraticForm
from prunebench.meanings.bits.grids import largest_level, require_bits, rounded_scale

SLICES = "slices"
"""What the items are called."""
LARGEST = 8192
"""Slices of a block: every pair has an entry in an explicit Hessian, half a gigabyte in all."""
WHOLE = 1e-9
"""By how much a budget of bits may miss a whole number, by rounding of bits a weight times weights."""


def checked_bits(bits: Sequence[int]) -> tuple[int, ...]:
    """The bits that a weight may have, rising from 0.

    Raises
    ------
    InvalidInput   without 0, not rising, or others than 2 to 8
    """
    given = tuple(bits)
    words = ",".join(map(str, given))
    if not given or given[0] != 0:
        raise InvalidInput(
            f"bits {words or 'are missing'}: a grid without 0 keeps something of every weight, so that nothing is "
            "pruned; begin with 0, as in 0,4,8"
        )
    if len(given) < 2:
        raise InvalidInput("bits 0 alone keep nothing; name what a kept weight may have, as in 0,4,8")
    for held in given[1:]:
        require_bits(held, f"bits {words}")
    if any(later <= earlier for earlier, later in pairwise(given)):
        raise InvalidInput(f"bits {words} do not rise; name each once, the fewest first, as in 0,4,8")
    return given


def sliced(block: BlockProblem, bits: Sequence[int], budget: float) -> BlockProblem:
    """The block problem of which slices to keep, of the weights of a block, whose own count is not asked.

    Parameters
    ----------
    block : in mode select, with n weights
    bits : what a weight may have, rising from 0, the others 2 to 8
    budget : bits a weight on average; times n it is a whole number of slices, where all slices have the same bits

    Returns
    -------
    BlockProblem   of n items a slice, the bases first; its `items` say of which weight each is (weight), how many bits
                   it has (bits) and in which steps (step), and its place in the network (place) where that is known.
                   Where slices have different bits, a budget of bits in place of a count

    Raises
    ------
    InvalidInput   bits or budget that cannot be, another mode, a quota or budget of the block's own, too many weights
    """
    chosen = checked_bits(bits)
    if block.mode != "select":
        raise InvalidInput(f"{block.name}: slices have fixed values, and mode refit moves them; use mode select")
    if block.quota is not None or block.budget is not None:
        raise InvalidInput(
            f"{block.name}: a budget of bits takes the place of a quota or of another budget; leave it out"
        )
    widths = np.diff(chosen)
    if block.p * len(widths) > LARGEST:
        raise InvalidInput(
            f"{block.name}: {block.p:,} weights of {len(widths)} slices are too many; take at most "
            f"{LARGEST // len(widths):,} weights"
        )
    total = _total_bits(budget, block.p, widths, chosen[-1], block.name)
    values, steps = _values(block, chosen)
    parts = len(widths)
    form = block.form
    tiled = QuadraticForm(
        hessian=np.tile(form.gram(np.arange(block.p)), (parts, parts)),
        ridge=0.0,
        linear=np.tile(form.linear, parts),
        centre=np.concatenate([form.centre, np.zeros((parts - 1) * block.p)]),
        constant=form.constant,
    )
    each = np.repeat(widths, block.p)
    columns = {"weight": np.tile(np.arange(block.p), parts), "bits": each, "step": steps.reshape(-1)}
    if block.indices is not None:
        columns["place"] = np.tile(block.indices, parts)
    equal = bool((widths == widths[0]).all())
    cost = None if equal else Cost(each[None, :].astype(np.float64), np.array([float(total)]), ("bits",))
    return BlockProblem(
        form=tiled,
        dense_weights=values.reshape(-1),
        keep=total // int(widths[0]) if cost is None else cost.most,
        mode="select",
        layer=None if block.layer is None else np.tile(block.layer, parts),
        problem=block.problem,
        budget=cost,
        items=Items(SLICES, columns),
    )


@dataclass(frozen=True, eq=False)
class Stored:
    """What kept slices make of n weights.

    values : float64 (n,)   levels times steps, exactly
    levels : int64 (n,)     whole numbers, of the finest steps
    steps : float64 (n,)    the step of each weight's finest slice
    bits : int64 (n,)       bits of the slices that are kept
    places : int64 (n,)     where in the network the weights are; None where that is not known
    """

    values: FloatArray
    levels: IndexArray
    steps: FloatArray
    bits: IndexArray
    places: IndexArray | None


def stored(block: BlockProblem, mask: npt.ArrayLike) -> Stored:
    """What the weights of a block of slices are under a mask of slices. bool (items,)

    Raises
    ------
    InvalidInput   the block's items are no slices, or the mask does not fit
    """
    items = block.items
    if items is None or items.word != SLICES or not {"weight", "bits", "step"} <= items.columns.keys():
        raise InvalidInput(f"{block.name} is none of slices; 'prunebench block … --bits 0,4,8' makes one")
    kept: BoolArray = np.asarray(mask)
    if kept.dtype != np.bool_ or kept.shape != (block.p,):
        raise InvalidInput(f"{block.name}: the mask has dtype {kept.dtype} and shape {kept.shape}; expected bool")
    weight, step = items.columns["weight"], items.columns["step"]
    count = int(weight.max()) + 1
    finest = np.full(count, np.inf)
    np.minimum.at(finest, weight, step)
    levels = np.zeros(count, dtype=np.int64)
    np.add.at(levels, weight[kept], np.rint(block.dense_weights[kept] / finest[weight[kept]]).astype(np.int64))
    bits = np.zeros(count, dtype=np.int64)
    np.add.at(bits, weight[kept], items.columns["bits"][kept])
    places = None
    if "place" in items.columns:
        places = np.zeros(count, dtype=np.int64)
        places[weight] = items.columns["place"]
    return Stored(levels * finest, levels, finest, bits, places)


def _total_bits(budget: float, count: int, widths: IndexArray, most: int, name: str) -> int:
    """The budget in bits.

    Raises
    ------
    InvalidInput   it is below one slice or above all, or, where all slices have the same bits, none of whole slices
    """
    least, largest = int(widths.min()), most * count
    if not np.isfinite(budget):
        raise InvalidInput(f"{name}: budget is {budget} bits a weight; give a finite number, such as 2.0")
    bits = budget * count
    total = round(bits)
    if bits < least * (1.0 - WHOLE):
        raise InvalidInput(
            f"{name}: a budget of {budget:g} bits a weight is {bits:g} bits for {count} weights, and one slice has "
            f"{least}; choose at least {least / count:.6g}"
        )
    if bits > largest * (1.0 + WHOLE):
        raise InvalidInput(
            f"{name}: a budget of {budget:g} bits a weight is more than all slices, which have {most}; choose at most "
            f"{most}, or name more bits"
        )
    step = least if (widths == least).all() else 1
    if abs(bits - total) > WHOLE * count or total % step:
        below = int(bits // step) * step
        choices = " or ".join(
            f"{held / count!r} ({held} bits)" for held in (below, below + step) if least <= held <= largest
        )
        raise InvalidInput(
            f"{name}: a budget of {budget:g} bits a weight is {bits:g} bits for {count} weights, which is no multiple "
            f"of {step}, the bits of a slice; choose {choices}"
        )
    return total


def _values(block: BlockProblem, bits: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Each slice's value, and the step it is a multiple of. float64 (slices, n) both

    The base's step is that of the largest weight of its layer in the block at the largest level.
    """
    weights, most = block.dense_weights.astype(np.float64), largest_level(bits[1])
    names = np.zeros(block.p, dtype=np.int64) if block.layer is None else np.unique(block.layer, return_inverse=True)[1]
    reach = np.zeros(int(names.max()) + 1)
    np.maximum.at(reach, names, np.abs(weights))
    base = rounded_scale(np.where(reach > 0.0, reach / most, 1.0))[names]
    values, steps, left = [], [], weights
    for number, (fewer, more) in enumerate(pairwise(bits)):
        step = base if number == 0 else np.ldexp(base, bits[1] - more)
        low, high = (-most, most) if number == 0 else (-(2 ** (more - fewer - 1)), 2 ** (more - fewer - 1) - 1)
        part = np.clip(np.rint(left / step), low, high) * step
        values.append(part)
        steps.append(np.broadcast_to(step, part.shape))
        left = left - part
    return np.array(values), np.array(steps)
