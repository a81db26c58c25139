"""Checks of arrays, and products accumulated in float64, used throughout the block problem."""

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import InvalidInput

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
RealArray = npt.NDArray[np.floating[Any]]
"""float32 or float64: weights in the network's own precision, and what is computed in either."""

IndexArray = npt.NDArray[np.int64]
Factor = npt.NDArray[np.float32] | npt.NDArray[np.float64]

CHUNK_ELEMENTS = 500_000
"""Elements of a float32 factor converted to float64 at a time: 4 MB, which fits the CPU cache."""
LARGEST = 1e140
"""Largest number a problem may hold: sums of many squares of it still fit float64."""
COMPILED_ELEMENTS = 1_000_000
"""Number of elements from which a float32 matrix is worth loading the compiled product for."""


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view of `array`."""
    view = array.view()
    view.flags.writeable = False
    return view


def fixed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, from now on read-only with all of its memory; a read-only copy where that is not all its own.

    Views made before stay writable, so nobody else may hold any: give what was made for this.
    """
    held = owner(array)
    if not (held.flags.owndata and held.size == array.size and held.dtype == array.dtype and array.flags.c_contiguous):
        held = array = array.copy()
    held.flags.writeable = False
    view = array.view()
    view.flags.writeable = False
    return view


def owner(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array whose memory this one is, or is a part of."""
    held = array
    while isinstance(held.base, np.ndarray):
        held = held.base
    return held


def immutable(array: npt.NDArray[Any]) -> bool:
    """Whether the array is meant to stay as it is: all of the memory of a read-only array that owns it, in C order.

    Who made a writable view before, or sets the flag back, can change it all the same.
    """
    held = owner(array)
    return (
        not (array.flags.writeable or held.flags.writeable)
        and held.flags.owndata
        and held.dtype == array.dtype
        and held.size == array.size
        and array.flags.c_contiguous
    )


def vector(name: str, value: npt.ArrayLike, size: int, each: str = "weight") -> FloatArray:
    """`value` as a read-only float64 copy of shape (size,), finite throughout.

    Raises
    ------
    InvalidInput   wrong shape, not numeric, NaN or infinity; the message names the array and the shapes
    """
    array = numeric(name, value)
    if array.shape != (size,):
        raise InvalidInput(f"{name} has shape {array.shape}; expected ({size},), one entry a {each}")
    require_finite(name, array)
    return np.asarray(frozen(array.astype(np.float64, copy=True)), dtype=np.float64)


def numeric(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """`value` as a real numeric array, its dtype kept.

    Raises
    ------
    InvalidInput   objects, text, booleans, complex numbers, or rows of unequal length
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidInput(f"{name} is no array of numbers ({error}); give one that numpy.asarray takes") from error
    if array.dtype.kind not in "fiu":
        raise InvalidInput(f"{name} has dtype {array.dtype}; expected real numbers")
    return array


def require_finite(name: str, array: npt.NDArray[Any], largest: float = LARGEST) -> float:
    """The largest absolute value in `array`; 0 where it is empty.

    Raises
    ------
    InvalidInput   naming the first position that holds NaN, infinity or a number beyond `largest`
    """
    array = np.atleast_1d(array)
    reached = 0.0
    for rows in row_chunks(array):
        chunk = array[rows]
        if chunk.size == 0:
            continue
        low, high = float(chunk.min()), float(chunk.max())
        # NaN fails both comparisons, so one test finds NaN, infinity and numbers too large
        if high <= largest and low >= -largest:
            reached = max(reached, high, -low)
            continue
        good = np.isfinite(chunk)
        finite = bool(good.all())
        if finite:
            good = np.abs(chunk) <= largest
        first = np.argwhere(~good)[0]
        where = tuple(int(i) for i in first)
        if rows.start:
            where = (where[0] + rows.start, *where[1:])
        rule = (
            f"numbers must not exceed {largest:g}, so that their products stay finite: rescale the problem"
            if finite
            else "all values must be finite: look for a diverged network or a broken file"
        )
        raise InvalidInput(
            f"{name} holds {array[where]} at position {where} ({int((~good).sum())} such values seen); {rule}"
        )
    return reached


def whole_number(name: str, value: Any, least: int) -> int:
    """`value` as an int.

    Raises
    ------
    InvalidInput   a boolean, a fraction, text, an array, or a number below `least`
    """
    number = np.asarray(value)
    if number.shape != () or number.dtype.kind not in "iu":
        raise InvalidInput(f"{name} is {value!r}; expected a whole number of at least {least}")
    if int(number) < least:
        raise InvalidInput(f"{name} is {int(number)}; choose at least {least}")
    return int(number)


def is_mapped(array: npt.NDArray[Any]) -> bool:
    """Whether the array is a memory-mapped file and may thus exceed the machine's memory."""
    holder: Any = array
    while isinstance(holder, np.ndarray):
        if isinstance(holder, np.memmap):
            return True
        holder = holder.base
    return isinstance(holder, mmap.mmap)


def row_chunks(array: npt.NDArray[Any]) -> Iterator[slice]:
    """Slices along the first axis, each of at most CHUNK_ELEMENTS elements."""
    width = max(1, array.size // max(1, array.shape[0]))
    step = max(1, CHUNK_ELEMENTS // width)
    for start in range(0, array.shape[0], step):
        yield slice(start, min(start + step, array.shape[0]))


def times(factor: Factor, vector: FloatArray) -> FloatArray:
    """factor @ vector accumulated in float64, whatever the factor's dtype. (n, p), (p,) -> (n,)"""
    if factor.dtype == np.float64:
        return np.asarray(factor @ vector, dtype=np.float64)
    if by_column(factor):
        return transposed_times(factor.T, vector)
    out = np.zeros(factor.shape[0])
    if _is_worth_compiling(factor):
        from prunebench.core.wide import add_times

        right = np.ascontiguousarray(vector, dtype=np.float64)
        for rows in row_chunks(factor):
            add_times(np.asarray(factor[rows]), right, out[rows])
        return out
    for rows in row_chunks(factor):
        out[rows] = factor[rows].astype(np.float64) @ vector
    return out


def transposed_times(factor: Factor, vector: FloatArray) -> FloatArray:
    """factor.T @ vector accumulated in float64, whatever the factor's dtype. (n, p), (n,) -> (p,)"""
    if factor.dtype == np.float64:
        return np.asarray(factor.T @ vector, dtype=np.float64)
    if by_column(factor):
        return times(factor.T, vector)
    out = np.zeros(factor.shape[1])
    if _is_worth_compiling(factor):
        from prunebench.core.wide import add_transposed_times

        left = np.ascontiguousarray(vector, dtype=np.float64)
        for rows in row_chunks(factor):
            add_transposed_times(np.asarray(factor[rows]), left[rows], out)
        return out
    for rows in row_chunks(factor):
        out += vector[rows] @ factor[rows].astype(np.float64)
    return out


def by_column(factor: Factor) -> bool:
    """Whether the columns, not the rows, lie in order in memory: gradients of some networks come so."""
    return factor.flags.f_contiguous and not factor.flags.c_contiguous


def columns_of(factor: Factor, chosen: IndexArray) -> Factor:
    """A copy of the chosen columns, stored by row or by column as the factor is. (n, p), int64 (k,) -> (n, k)

    chosen : in [0, p), which is not checked
    """
    if by_column(factor):
        return factor.T.take(chosen, axis=0).T
    return factor.take(chosen, axis=1)


def _is_worth_compiling(factor: Factor) -> bool:
    return factor.dtype == np.float32 and factor.size >= COMPILED_ELEMENTS and factor.flags.c_contiguous


def column_squares(factor: Factor) -> FloatArray:
    """The squared norm of every column, in float64. (n, p) -> (p,)"""
    out = np.zeros(factor.shape[1])
    if _is_worth_compiling(factor):
        from prunebench.core.wide import add_column_squares

        for rows in row_chunks(factor):
            add_column_squares(np.asarray(factor[rows]), out)
        return out
    if _is_worth_compiling(factor.T):
        from prunebench.core.wide import row_squares

        for columns in row_chunks(factor.T):
            row_squares(np.asarray(factor.T[columns]), out[columns])
        return out
    for rows in row_chunks(factor):
        wide = factor[rows].astype(np.float64, copy=False)
        out += np.einsum("ij,ij->j", wide, wide)
    return out
