"""How kernels are compiled, and short loops in place of numba's array functions, which take long to compile.

The first `a[:] = b` between arrays costs a process 3 CPU seconds and a stable argsort 2: each brings in numba's own
code for arrays of any shape, and for the messages it may raise. A loop takes a tenth of a second.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray

FAST = {"reassoc", "contract", "nsz"}
"""What LLVM may do to sums so that they become vector instructions: reorder them, fuse multiply and add, ignore the
sign of zero. NaN and infinity keep their meaning."""


Kernel = TypeVar("Kernel", bound=Callable[..., Any])
Row: TypeAlias = Any
"""One row of a structured array, with its fields as attributes: numbers that compiled functions change for each other.
In Python they are keys."""
ZERO: Any = np.int64(0)
"""0 as an argument: given a number that is written out, numba compiles a function anew for that very number."""
ONE: Any = np.int64(1)
"""1 as an argument."""


def compiled(*, fast: bool = False, inner: bool = False, allocates: bool = False) -> Callable[[Kernel], Kernel]:
    """Decorator of a kernel: kept on disk, without the interpreter lock, and with IEEE division by zero.

    fast : sums in any order (FAST)
    inner : called from compiled code alone; Python cannot call it, and it compiles faster
    allocates : makes arrays, by np.empty say, or takes those that a function it calls has made. Others only borrow
        their arguments, so references need not be counted, which took a third of a select node's time. numba refuses
        to compile one that makes an array and does not say so; one that is given a new array would leak it, and views
        that one without it gives back are for callers without it
    """
    # the last three are options of numba's that its own type hints leave out
    options: dict[str, Any] = {
        "cache": True, "error_model": "numpy", "nogil": True, "fastmath": FAST if fast else False,
        "_nrt": allocates, "no_cpython_wrapper": inner, "no_cfunc_wrapper": True,
    }  # fmt: skip
    decorate: Callable[[Kernel], Kernel] = njit(**options)
    return decorate


def merged(function: Kernel) -> Kernel:
    """Decorator of a part of one large function, called in one place: compiled as if written out there, with the large
    function's options.

    A function of its own is compiled for itself, and again with all that call it, directly or not.
    """
    decorated: Any = njit(inline="always", error_model="numpy", nogil=True)(function)
    return decorated  # type: ignore[no-any-return]


@compiled(inner=True)
def copy(source: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Write all of `source` (n,) to the first n entries of `out`."""
    for i in range(source.size):
        out[i] = source[i]


@compiled(inner=True)
def copy_square(source: FloatArray, out: FloatArray, size: int) -> None:
    """Write the leading `size` rows and columns of `source` to those of `out`."""
    for a in range(size):
        for b in range(size):
            out[a, b] = source[a, b]


@compiled(inner=True)
def fill(out: npt.NDArray[Any], value: float) -> None:
    """Set every entry of `out` (n,)."""
    for i in range(out.size):
        out[i] = value


@compiled(inner=True)
def largest(values: FloatArray) -> int:
    """The position of the largest entry, the first of equals. (n,), n >= 1"""
    best = 0
    for i in range(1, values.size):
        if values[i] > values[best]:
            best = i
    return best


@compiled(inner=True, allocates=True)
def sort_positions(key: FloatArray, order: IndexArray) -> None:
    """Write to `order` (n,) the positions of key (n,) by rising value, equals in their own order: a merge sort."""
    n = key.size
    spare = np.empty(n, np.int64)
    for i in range(n):
        order[i] = i
    width = 1
    while width < n:
        for first in range(0, n, 2 * width):
            middle, last = min(first + width, n), min(first + 2 * width, n)
            a, b = first, middle
            for at in range(first, last):
                if b >= last or (a < middle and not key[order[b]] < key[order[a]]):
                    spare[at] = order[a]
                    a += 1
                else:
                    spare[at] = order[b]
                    b += 1
        for i in range(n):
            order[i] = spare[i]
        width *= 2
