"""Objectives to which QAOA angles are fitted: mean energy, Gibbs objective, or mean of the best quarter.

All three depend only on the distribution of sampled energies, so a device's shots give them as well as an
exact state. The last two stress the low end, where the answer comes from.

Li, Fan, Coram, Riley, Leichenauer: Quantum optimization with a novel Gibbs objective function and ansatz
architecture search, Phys. Rev. Research 2 (2020) 023074, eq. 3; Barkoutsos et al.: Improving variational
quantum optimization using CVaR, Quantum 4 (2020) 256, eq. 9.
"""

from collections.abc import Callable

import numpy as np

from prunebench.core.arrays import FloatArray

OBJECTIVES = ("gibbs", "mean", "cvar")
"""Values of option `objective`."""

STEEPNESS = 2.0
"""η of the Gibbs objective, for energies with standard deviation 1."""

SHARE = 0.25
"""Share of the distribution, from its low end, that CVaR averages."""

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
    order = np.argsort(energies, kind="stable")

    def tail(chances: FloatArray) -> tuple[float, FloatArray]:
        reached = int(np.searchsorted(np.cumsum(chances[order]), SHARE))
        edge = float(energies[order[min(reached, order.size - 1)]])
        slope = np.minimum(energies - edge, 0.0) / SHARE
        return edge + float(chances @ slope), slope

    return tail


def of_samples(name: str, energies: FloatArray) -> float:
    """The same objective for equally weighted samples. float64 (s,), s at least 1 -> float."""
    return objective(name, energies)(np.full(energies.size, 1.0 / energies.size))[0]
