"""A pruned layer on a grid of levels: each row by itself, from the same Gram matrix by which it was pruned.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, ICLR 2023, and Frantar, Alistarh: Optimal Brain Compression, NeurIPS 2022:
weights go to their levels one after another, and those that are still free make up for it. Beyond the papers, here:
pruned weights are constraints before the first weight is rounded, so that a row is rounded with the Hessian of its kept
weights; a scale is chosen by what rounding with it costs after that compensation, not by distances; and levels that the
order of the columns left worse than need be are moved at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prunebench.core import row_products
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.levels import group_count, spread_scales
from prunebench.core.rows import RowsForm
from prunebench.meanings.bits.grids import largest_level

TRIALS = tuple(number / 100 for number in range(30, 121))
"""Scales that are tried, in parts of the one at which the largest weight has the largest level. A smaller one clips the
largest weights, which compensation makes up for, and is finer for the others."""
OWN_INVERSES = 2048
"""Kept weights of a row up to which the inverse Hessian of those alone is computed, which every row pays: a second at
this length. Of longer rows the refitted weights go to the nearest levels, and these are moved singly afterwards."""
CHUNK = 1 << 24
"""Numbers that the Hessians of rows rounded together have: 128 MiB, and as much again for what is made of them."""
MOVES = 4
"""Levels of a row that are moved at the end, at most, in parts of its length."""


@dataclass(frozen=True, eq=False)
class Rounded:
    """Rows on levels.

    levels : int8 (rows, columns), zero where pruned
    scales : float64 (rows, groups), of eight significant bits; 1 where a group keeps nothing but zeros
    values : float64 (rows, columns), levels times scales, exactly
    """

    levels: npt.NDArray[np.int8]
    scales: FloatArray
    values: FloatArray


def rounded(form: RowsForm, mask: BoolArray, bits: int, group_size: int | None = None) -> Rounded:
    """Levels and scales for the kept weights of rows that share a Hessian, all of them refitted on the way.

    Parameters
    ----------
    form : of the rows
    mask : bool (rows, columns)
    bits : of a level, 2 to 8
    group_size : weights along a row that have a scale in common; None: the whole row

    Cost: for each row the cube of its kept weights, or of rows longer than OWN_INVERSES the square of the columns.
    """
    from prunebench.meanings.bits.level_loops import fit_rows

    rows, columns = mask.shape
    matrix = row_products.as_wide(form.shared) + np.diag(form.row_ridge)
    centre = row_products.as_wide(form.table(form.centre))
    pull = centre @ matrix
    if form.has_slope:
        pull -= row_products.as_wide(form.table(form.linear))
    levels = np.zeros((rows, columns), dtype=np.int8)
    scales = np.ones((rows, group_count(columns, group_size)))
    member = np.arange(columns) // (group_size or columns)
    # weights of large curvature first, while many others can still make up for them (GPTQ's order by activations)
    order = np.lexsort((-matrix.diagonal(), member))
    for part, places in _parts(mask, order):
        counts = mask[part].sum(axis=1) if places is not None else np.full(len(part), columns)
        width = columns if places is None else places.shape[1]
        inside = np.arange(width) < counts[:, None]
        if places is None:
            target = row_products.as_wide(form.refit(_only(mask, part)).reshape(mask.shape)[part])
            matrices = np.array([np.diag(1.0 / np.sqrt(matrix.diagonal())), matrix])[:, None]
            kept, group = mask[part], np.tile(member, (len(part), 1))
        else:
            matrices, target = _of_rows(matrix, np.take_along_axis(pull[part], places, axis=1), places, inside)
            kept, group = inside, np.where(inside, member[places], -1)
        found = np.zeros(target.shape, dtype=np.int64)
        limits = np.array([largest_level(bits), MOVES * width], dtype=np.int64)
        chosen = np.ones((len(part), scales.shape[1]))
        fit_rows(
            target, np.ascontiguousarray(kept), np.ascontiguousarray(group), matrices, np.array(TRIALS), limits, found,
            chosen, np.empty((4, width)),
        )  # fmt: skip
        scales[part] = chosen
        if places is None:
            levels[part] = found
        else:
            row, at = np.nonzero(inside)
            levels[part[row], places[row, at]] = found[row, at]
    return Rounded(levels, scales, levels * spread_scales(scales, columns, group_size))


def _parts(mask: BoolArray, order: IndexArray) -> Iterator[tuple[IndexArray, IndexArray | None]]:
    """Rows that are rounded together, and where each keeps its weights; None where those are too many for an inverse.

    Places beyond a row's count repeat its last one.

    order : of the columns, in which places stand
    """
    counts = mask.sum(axis=1)
    rows = np.argsort(counts, kind="stable")
    rows = rows[counts[rows] > 0]
    long = rows[counts[rows] > OWN_INVERSES]
    if long.size:
        yield np.sort(long), None
    rows = rows[counts[rows] <= OWN_INVERSES]
    start = 0
    while start < rows.size:
        # rows of nearly the same count: at most an eighth is padding
        most = int(counts[rows[start]] * 1.125)
        stop = start + 1
        while stop < rows.size and counts[rows[stop]] <= most and (stop + 1 - start) * most**2 <= CHUNK:
            stop += 1
        part = rows[start:stop]
        width = int(counts[part].max())
        places = np.zeros((part.size, width), dtype=np.int64)
        for number, row in enumerate(part):
            held = order[mask[row, order]]
            places[number, : held.size], places[number, held.size :] = held, held[-1]
        yield part, places
        start = stop


def _only(mask: BoolArray, part: IndexArray) -> BoolArray:
    """The mask with nothing kept outside some rows, flattened."""
    out = np.zeros_like(mask)
    out[part] = mask[part]
    return out.reshape(-1)


def _of_rows(
    matrix: FloatArray, pull: FloatArray, places: IndexArray, inside: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """Roots and Hessians of rows at their own places, and the rows' minimisers there. (2, r, k, k), (r, k)

    pull : −gradient at zero, (r, k);  inside : which places are not padding, which is apart from all others
    """
    rows, width = places.shape
    out = np.empty((2, rows, width, width))
    both = inside[:, :, None] & inside[:, None, :]
    np.multiply(matrix[places[:, :, None], places[:, None, :]], both, out=out[1])
    spare, diagonal = np.where(inside, 0.0, 1.0), np.arange(width)
    out[1][:, diagonal, diagonal] += spare
    inverse = np.linalg.inv(out[1])
    target = np.einsum("rij,rj->ri", inverse, np.where(inside, pull, 0.0))
    # of a symmetric matrix; rounding made it a little otherwise
    inverse += inverse.transpose(0, 2, 1).copy()
    inverse *= 0.5
    out[0] = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    return out, target
