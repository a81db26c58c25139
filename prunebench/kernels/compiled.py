"""How kernels are compiled, and short loops that replace numba's array functions, which compile slowly.

The first `a[:] = b` between arrays costs a process 3 CPU seconds and a stable argsort 2, because each brings in
numba's general code for arrays of any shape and its error messages. A loop takes a tenth of a second.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray

FAST = {"reassoc", "contract", "nsz"}
"""What LLVM may do to vectorise sums: reorder them, fuse multiply and add, ignore the sign of zero. NaN and infinity
keep their meaning."""


Kernel = TypeVar("Kernel", bound=Callable[..., Any])
Row: TypeAlias = Any
"""One row of a structured array: numbers that compiled functions pass to each other and change. Fields are attributes
in compiled code and keys in Python."""
ZERO: Any = np.int64(0)
"""0 as an argument: for a literal number, numba would compile the function anew."""
ONE: Any = np.int64(1)
"""1 as an argument, for the same reason."""


def compiled(*, fast: bool = False, inner: bool = False, allocates: bool = False) -> Callable[[Kernel], Kernel]:
    """Decorator of a kernel: cached on disk, without the interpreter lock, and with IEEE division by zero.

    fast : sums in any order (FAST)
    inner : called from compiled code only, not from Python; compiles faster
    allocates : makes arrays, for example by np.empty, or receives arrays made by functions it calls. Kernels without it
        skip reference counting, which took a third of a select node's time: numba refuses to compile them if they make
        an array; one that receives a new array would leak it, and only kernels of the same kind may use a
        view that it returns
    """
    # numba's type hints lack the last three options
    options: dict[str, Any] = {
        "cache": True, "error_model": "numpy", "nogil": True, "fastmath": FAST if fast else False,
        "_nrt": allocates, "no_cpython_wrapper": inner, "no_cfunc_wrapper": True,
    }  # fmt: skip
    decorate: Callable[[Kernel], Kernel] = njit(**options)
    return decorate


def merged(function: Kernel) -> Kernel:
    """Decorator of a part of a larger function, called in one place: inlined there, with that function's options.

    A separate function would be compiled by itself, and again with every direct or indirect caller.
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
    """The position of the largest entry, the first if several are equal. (n,), n >= 1"""
    best = 0
    for i in range(1, values.size):
        if values[i] > values[best]:
            best = i
    return best


@compiled(inner=True, allocates=True)
def sort_positions(key: FloatArray, order: IndexArray) -> None:
    """Write to `order` (n,) the positions that sort key (n,) in ascending order: a stable merge sort."""
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
