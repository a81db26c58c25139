"""Instances that are drawn from a seed: the same numbers on every machine.

Only the raw 64-bit words of PCG64 are used, whose stream NumPy keeps unchanged between versions. Everything made of
them is a small multiple of a power of two, so that no rounding, and with it no library or processor, has a say.
"""

from collections.abc import Callable, Mapping

import numpy as np

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.errors import unknown_name

BITS = 12
"""A drawn number is a whole number of this many bits and a sign, divided by 2^BITS."""


class Draws:
    """Numbers from one seed, in the order in which they are asked for."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.PCG64(seed)

    def numbers(self, *shape: int) -> FloatArray:
        """Multiples of 2^−BITS in [−1, 1), of that shape."""
        words = np.asarray(self._words.random_raw(int(np.prod(shape))), dtype=np.uint64)
        whole = (words >> np.uint64(63 - BITS)).astype(np.int64) - 2**BITS
        return np.asarray(whole / 2.0**BITS, dtype=np.float64).reshape(shape)

    def order(self, count: int) -> IndexArray:
        """A random order of `count` positions."""
        return np.argsort(np.asarray(self._words.random_raw(count)), kind="stable").astype(np.int64)


Columns = tuple[FloatArray, FloatArray]
"""A matrix (n, p) before the division by √n, and dense weights (p,)."""


def _uniform(draws: Draws, n: int, p: int) -> Columns:
    """Independent entries."""
    return draws.numbers(n, p), draws.numbers(p)


def _cancelling(draws: Draws, n: int, p: int) -> Columns:
    """Weights 2i and 2i + 1 almost cancel: pruning both is cheap, pruning one is dear."""
    matrix, weights = draws.numbers(n, p), np.abs(draws.numbers(p)) + 0.5
    half = p // 2
    matrix[:, 1 : 2 * half : 2] = matrix[:, 0 : 2 * half : 2] + draws.numbers(n, half) / 16.0
    weights[1 : 2 * half : 2] = -weights[0 : 2 * half : 2]
    return matrix, weights


def _duplicates(draws: Draws, n: int, p: int) -> Columns:
    """Every column twice, with the same weight: many masks are equally good."""
    matrix, weights = draws.numbers(n, p), draws.numbers(p)
    half = p // 2
    matrix[:, half : 2 * half], weights[half : 2 * half] = matrix[:, :half], weights[:half]
    return matrix, weights


def _partition(draws: Draws, n: int, p: int) -> Columns:
    """Number partitioning in n dimensions: columns and weights of like size and either sign, no structure to use."""
    matrix = draws.numbers(n, p)
    matrix += np.where(matrix < 0.0, -1.0, 1.0)
    return matrix, np.ones(p)


def _correlated(draws: Draws, n: int, p: int) -> Columns:
    """Neighbouring columns look alike: a running sum with forgetting, of 1/4 each step."""
    matrix, fresh = np.empty((n, p)), draws.numbers(n, p)
    matrix[:, 0] = fresh[:, 0]
    for j in range(1, p):
        # rounded to a multiple of a power of two, so that the next step is exact again
        matrix[:, j] = np.rint((0.75 * matrix[:, j - 1] + fresh[:, j]) * 2.0**BITS) / 2.0**BITS
    return matrix, draws.numbers(p)


def _planted(draws: Draws, n: int, p: int) -> Columns:
    """A sixteenth of the weights are large, in correlated columns; the others are small and hide them."""
    matrix, _ = _correlated(draws, n, p)
    weights = draws.numbers(p) / 8.0
    large = draws.order(p)[: p // 16]
    weights[large] += np.where(weights[large] < 0.0, -1.0, 1.0)
    return matrix, weights


FAMILIES: Mapping[str, Callable[[Draws, int, int], Columns]] = {
    "uniform": _uniform,
    "cancelling": _cancelling,
    "duplicates": _duplicates,
    "partition": _partition,
    "correlated": _correlated,
    "planted": _planted,
}
"""The families by name."""


def columns(family: str, seed: int, n: int, p: int) -> Columns:
    """The factor (n, p) and the dense weights (p,) of a drawn instance. n : a power of four, so that √n is exact

    Raises
    ------
    UnknownName   no such family
    """
    if family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    matrix, weights = FAMILIES[family](Draws(seed), n, p)
    return matrix / np.sqrt(float(n)), weights
