"""How kernels are compiled, and short loops that replace numba's array functions, which compile slowly.

A person's first solve waits for every line: compiling costs some 9 ms of CPU time a line, 12 a call with arrays and 30
a function, spread evenly over numba's front end and LLVM, so that options of LLVM change little. Hence:

- One entry a search. An entry is compiled with all that it calls, even what another entry calls too. Rare work before
  or after the loop (starts, energies of a few masks, lists of what is left) is NumPy's.
- What only compiled code calls is `inner`; an entry alone has a wrapper for Python, as dear as thirty lines.
- Space is allocated in Python and passed; loops instead of slices on the left, `sum`, `any`, `copy`, stable sorts: the
  first `a[:] = b` between arrays costs a process 3 CPU seconds, a stable argsort 2.
- One signature a function: literals are passed as ZERO or ONE, arrays always with the same type and order.
- A function called in two places is called twice: a loop or a flag that leaves one place is cheaper.
- One that calls others, from one place, is `merged`: LLVM compiles what a function calls anew with each caller, which
  is half of all time where kernels call kernels. Loops without calls gain nothing by it, nor do `min` and `max`.
- No messages: strings in compiled code bring 1.5 s of string handling.
- Not for short: kernels that vectorise take rows (`matrix[i]`, `row[a:b]`) as arguments, which were 4 % faster than
  indices.

benchmarks/first_use.py measures what a first solve costs; a test counts that nothing is compiled twice.
"""

import gc
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit
from numba.core import event

from prunebench.core import compilation
from prunebench.core.arrays import FloatArray, IndexArray

FAST = {"reassoc", "contract", "nsz"}
"""What LLVM may do to vectorise sums: reorder them, fuse multiply and add, ignore the sign of zero. NaN and infinity
keep their meaning."""


class _Compilations(event.Listener):
    """Tells of compilations, and lets no garbage be collected meanwhile: their objects live until the end."""

    def __init__(self) -> None:
        self.depth, self.collects = 0, False

    def on_start(self, event: Any) -> None:
        """Compilations of callees are within their caller's."""
        self.depth += 1
        if self.depth == 1:
            self.collects = gc.isenabled()
            gc.disable()
            compilation.tell(begins=True)

    def on_end(self, event: Any) -> None:
        """At the outermost end all is as before."""
        self.depth -= 1
        if self.depth == 0:
            compilation.tell(begins=False)
            if self.collects:
                gc.enable()


event.register("numba:compile", _Compilations())  # type: ignore[no-untyped-call]  # numba has no type hints

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
Row: TypeAlias = Any
"""One row of a structured array: numbers that compiled functions pass to each other and change. Fields are attributes
in compiled code and keys in Python."""
ZERO: Any = np.int64(0)
"""0 as an argument: for a literal number, numba would compile the function anew."""
ONE: Any = np.int64(1)
"""1 as an argument, for the same reason."""


def compiled(
    *, fast: bool = False, nan: bool = True, inner: bool = False, allocates: bool = False
) -> Callable[[Kernel], Kernel]:
    """Decorator of a kernel: cached on disk, without the interpreter lock, and with IEEE division by zero.

    fast : sums in any order (FAST);  nan : with `fast`, whether NaN may occur; minima are vectorised only if not
    inner : called from compiled code only, not from Python; compiles faster
    allocates : makes arrays, for example by np.empty, or receives arrays made by functions it calls. Kernels without it
        skip reference counting, which took a third of a select node's time: numba refuses to compile them if they make
        an array; one that receives a new array would leak it, and only kernels of the same kind may use a
        view that it returns
    """
    flags = FAST if nan else FAST | {"nnan"}
    # numba's type hints lack the last three options
    options: dict[str, Any] = {
        "cache": True, "error_model": "numpy", "nogil": True, "fastmath": flags if fast else False,
        "_nrt": allocates, "no_cpython_wrapper": inner, "no_cfunc_wrapper": True,
    }  # fmt: skip
    decorate: Callable[[Kernel], Kernel] = njit(**options)
    return decorate


def merged(function: Kernel) -> Kernel:
    """Decorator of a part of a larger function, called in one place: inlined there, with that function's options.

    A separate function would be compiled by itself, and again with every direct or indirect caller.
    """
    decorated: Any = njit(inline="always", error_model="numpy", nogil=True)(function)
    return decorated  # type: ignore[no-any-return]  # numba has no types


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
