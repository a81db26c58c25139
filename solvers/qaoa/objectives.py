"""Objectives to which QAOA angles are fitted: mean energy, Gibbs objective, or mean of the best quarter.

All three depend only on the distribution of sampled energies, so a device's shots give them as well as an
exact state. The last two stress the low end, where the answer comes from.

Li, Fan, Coram, Riley, Leichenauer: Quantum optimization with a novel Gibbs objective function and ansatz
architecture search, Phys. Rev. Research 2 (2020) 023074, eq. 3; Barkoutsos et al.: Improving variational
quantum optimization using CVaR, Quantum 4 (2020) 256, eq. 9.
"""

import math
from collections.abc import Callable

import numpy as np

from prunebench.core.arrays import FloatArray

OBJECTIVES = ("gibbs", "mean", "cvar")
"""Values of option `objective`."""

STEEPNESS = 2.0
"""η of the Gibbs objective, for energies with standard deviation 1."""

SHARE = 0.25
"""Share of the distribution, from its low end, that CVaR averages."""

TAIL = 0.02
"""The first and least share in the loops of `tails`. A state in which the best mask has this probability has the lowest
mean of its tail that there is; 1000 samples miss that mask less than once in 10^8."""

TAIL_STATES = 256.0
"""The last of these shares is that of so many states of a uniform distribution, so that the best mask comes out so many
times as often, but at most MOST_TAIL."""

MOST_TAIL = 0.5
"""The largest of these shares."""

Objective = Callable[[FloatArray], tuple[float, FloatArray]]
"""From probabilities (N,), summing to 1, to the value and its derivatives by them (N,)."""


def objective(name: str, energies: FloatArray) -> Objective:
    """The objective over states with these energies. energies : float64 (N,), normalised to mean 0, deviation 1.

    mean  : ⟨e⟩
    gibbs : −ln⟨exp(−η e)⟩ / η
    cvar  : the mean of the lowest `SHARE` of the distribution
    """
    if name == "mean":
        return lambda chances: (float(chances @ energies), energies)
    if name == "gibbs":
        lowest = float(energies.min())
        weights = np.exp(-STEEPNESS * (energies - lowest))

        def gibbs(chances: FloatArray) -> tuple[float, FloatArray]:
            total = float(chances @ weights)
            return lowest - float(np.log(total)) / STEEPNESS, weights / (-STEEPNESS * total)

        return gibbs
    return lowest_share(energies, SHARE)


def lowest_share(energies: FloatArray, share: float) -> Objective:
    """The mean of the lowest `share` of the distribution: CVaR."""
    order = np.argsort(energies, kind="stable")

    def tail(chances: FloatArray) -> tuple[float, FloatArray]:
        reached = int(np.searchsorted(np.cumsum(chances[order]), share))
        edge = float(energies[order[min(reached, order.size - 1)]])
        slope = np.minimum(energies - edge, 0.0) / share
        return edge + float(chances @ slope), slope

    return tail


def tails(energies: FloatArray) -> list[Objective]:
    """Means of growing shares of the distribution's low end: once one is lowered, the next begins from there.

    A Gibbs objective can settle on a mask that is nearly the best; a small share's mean sees no mask but the best ones.
    """
    last = min(max(TAIL, TAIL_STATES / energies.size), MOST_TAIL)
    count = max(0, math.ceil(math.log2(last / TAIL)))
    return [lowest_share(energies, min(TAIL * 2.0**step, last)) for step in range(count + 1)]


def of_samples(name: str, energies: FloatArray) -> float:
    """The same objective for equally weighted samples. float64 (s,), s at least 1 -> float."""
    return objective(name, energies)(np.full(energies.size, 1.0 / energies.size))[0]
