"""Compiled loops of the subspace simulator. A state is float64 (N, 2): real and imaginary part, contiguous.

The reverse pass stores the state and its adjoint together as float64 (N, 4), so that each pair of row
numbers is read once for both.
"""

from collections.abc import Callable
from typing import Any

import numba.core.config
import numpy as np
from numba import njit
from numpy.typing import NDArray

Real = NDArray[np.float64]
Whole = NDArray[np.int64]
Table = NDArray[np.uint32]
"""Row numbers without a sign: a signed one would be tested for being negative at each access, a third of the time."""


def packed(function: Callable[..., Any]) -> Any:
    """`njit` for loops over short rows: numbers of one row share vector instructions, which halves the time.

    Numba switches LLVM's straight-line vectorizer off, except by an environment variable for all it compiles;
    here it is on for this one function.
    """
    config: Any = numba.core.config
    compiled: Any = njit(cache=True, fastmath=True)(function)
    compile_plainly = compiled.compile

    def compile_packed(signature: Any) -> Any:
        before = config.SLP_VECTORIZE
        config.SLP_VECTORIZE = 1
        try:
            return compile_plainly(signature)
        finally:
            config.SLP_VECTORIZE = before

    compiled.compile = compile_packed
    return compiled


@njit(cache=True)
def enumerate_states(p: int, keep: int, count: int) -> Whole:
    """All integers below 2^p with `keep` bits set, ascending (Gosper's successor). -> int64 (count,)"""
    states = np.empty(count, dtype=np.int64)
    state = (1 << keep) - 1
    for row in range(count):
        states[row] = state
        if state:
            lowest = state & -state
            carried = state + lowest
            state = (((state ^ carried) >> 2) // lowest) | carried
    return states


@njit(cache=True, fastmath=True)
def phase_factors(energies: Real, gamma: float) -> Real:
    """exp(−i·gamma·energies): real and imaginary part. -> float64 (N, 2)"""
    factors = np.empty((energies.size, 2))
    for row in range(energies.size):
        factors[row, 0], factors[row, 1] = np.cos(gamma * energies[row]), -np.sin(gamma * energies[row])
    return factors


@njit(cache=True, fastmath=True)
def weighted_phase_factors(energies: Real, gamma: float, states: Whole, angles: Real) -> Real:
    """exp(−i(gamma·energies + Σ angles over the ones of each state)). angles : (p,) -> float64 (N, 2)

    The sum is looked up byte by byte.
    """
    count = (angles.size + 7) // 8
    sums = np.zeros((count, 256))
    for bit in range(angles.size):
        for byte in range(256):
            sums[bit >> 3, byte] += ((byte >> (bit & 7)) & 1) * angles[bit]
    factors = np.empty((energies.size, 2))
    for row in range(energies.size):
        phase, rest = gamma * energies[row], states[row]
        for part in range(count):
            phase += sums[part, rest & 255]
            rest >>= 8
        factors[row, 0], factors[row, 1] = np.cos(phase), -np.sin(phase)
    return factors


@njit(cache=True, fastmath=True)
def weight_slopes(both: Real, states: Whole, p: int) -> Real:
    """2 Im⟨adjoint|nᵢ|state⟩ for every weight i, nᵢ being bit i of a state; summed byte by byte. -> float64 (p,)"""
    count = (p + 7) // 8
    sums = np.zeros((count, 256))
    for row in range(both.shape[0]):
        share, rest = both[row, 2] * both[row, 1] - both[row, 3] * both[row, 0], states[row]
        for part in range(count):
            sums[part, rest & 255] += share
            rest >>= 8
    slopes = np.zeros(p)
    for bit in range(p):
        for byte in range(256):
            slopes[bit] += 2.0 * ((byte >> (bit & 7)) & 1) * sums[bit >> 3, byte]
    return slopes


@njit(cache=True, fastmath=True)
def turn(state: Real, factors: Real, sign: float) -> None:
    """Multiply the (N, 2) or (N, 4) state by the factors, sign = 1, or by their conjugates, sign = −1."""
    for row in range(state.shape[0]):
        c, s = factors[row, 0], sign * factors[row, 1]
        for part in range(0, state.shape[1], 2):
            re, im = state[row, part], state[row, part + 1]
            state[row, part] = c * re - s * im
            state[row, part + 1] = c * im + s * re


@packed
def apply_pairs(state: Real, runs: Table, first: Table, second: Table, beta: float) -> None:
    """state ← Π_e exp(−i·beta·X_e)·state, where X_e exchanges the rows of the runs of factor e, which are in order."""
    c, s = np.cos(beta), np.sin(-beta)
    for r in range(runs.shape[0]):
        one, two = runs[r, 0], runs[r, 1]
        for t in range(runs[r, 2], runs[r, 3]):
            a, b = one + first[t], two + second[t]
            ar, ai, br, bi = state[a, 0], state[a, 1], state[b, 0], state[b, 1]
            state[a, 0] = c * ar - s * bi
            state[a, 1] = c * ai + s * br
            state[b, 0] = c * br - s * ai
            state[b, 1] = c * bi + s * ar


@packed
def undo_pairs(both: Real, runs: Table, first: Table, second: Table, beta: float) -> float:
    """Undo `apply_pairs` on the state and its adjoint; returns 2 Σ_e Im⟨adjoint|X_e|state⟩, gathered on the way."""
    c, s = np.cos(beta), np.sin(beta)
    # four independent sums, since in one each addition would wait for the one before
    one = two = three = four = 0.0
    for r in range(runs.shape[0] - 1, -1, -1):
        left, right = runs[r, 0], runs[r, 1]
        for t in range(runs[r, 2], runs[r, 3]):
            a, b = left + first[t], right + second[t]
            ar, ai, ur, ui = both[a, 0], both[a, 1], both[a, 2], both[a, 3]
            br, bi, vr, vi = both[b, 0], both[b, 1], both[b, 2], both[b, 3]
            one += ur * bi
            two += ui * br
            three += vr * ai
            four += vi * ar
            both[a, 0] = c * ar - s * bi
            both[a, 1] = c * ai + s * br
            both[a, 2] = c * ur - s * vi
            both[a, 3] = c * ui + s * vr
            both[b, 0] = c * br - s * ai
            both[b, 1] = c * bi + s * ar
            both[b, 2] = c * vr - s * ui
            both[b, 3] = c * vi + s * ur
    return 2.0 * (one - two + three - four)


@njit(cache=True, fastmath=True)
def apply_uniform(state: Real, beta: float) -> float:
    """state ← exp(−i·beta·|D⟩⟨D|)·state, D the uniform superposition: a rank-one update in one pass.

    A state with its adjoint, (N, 4), has both updated. Returns 2 Im⟨adjoint|D⟩⟨D|state⟩, 0 without adjoint.
    """
    rows = state.shape[0]
    c, s = np.cos(beta) - 1.0, -np.sin(beta)
    sums = np.zeros(4)
    for row in range(rows):
        for part in range(state.shape[1]):
            sums[part] += state[row, part]
    for part in range(0, state.shape[1], 2):
        re, im = sums[part] / rows, sums[part + 1] / rows
        add_re, add_im = c * re - s * im, c * im + s * re
        for row in range(rows):
            state[row, part] += add_re
            state[row, part + 1] += add_im
    slope: float = 2.0 * (sums[2] * sums[1] - sums[3] * sums[0]) / rows
    return slope


@njit(cache=True, fastmath=True)
def phase_slope(both: Real, energies: Real) -> float:
    """2 Im⟨adjoint|diag(energies)|state⟩."""
    slope = 0.0
    for row in range(both.shape[0]):
        slope += energies[row] * (both[row, 2] * both[row, 1] - both[row, 3] * both[row, 0])
    return 2.0 * slope
