"""What the angles of a QAOA circuit are fitted to: the mean energy, the Gibbs objective, or the best quarter's mean.

All three are functions of the distribution of sampled energies and nothing else, so that shots of a
device give them as an exact state does. The last two look at the low end, where the answer comes from.

Li, Fan, Coram, Riley, Leichenauer: Quantum optimization with a novel Gibbs objective function and ansatz
architecture search, Phys. Rev. Research 2 (2020) 023074, eq. 3; Barkoutsos et al.: Improving variational
quantum optimization using CVaR, Quantum 4 (2020) 256, eq. 9.
"""

from collections.abc import Callable

import numpy as np

from prunebench.core.arrays import FloatArray

OBJECTIVES = ("gibbs", "mean", "cvar")
"""What the angles may be fitted to."""

STEEPNESS = 2.0
"""η of the Gibbs objective, for energies of spread 1."""

SHARE = 0.25
"""How much of the distribution, from its low end, CVaR averages."""

Objective = Callable[[FloatArray], tuple[float, FloatArray]]
"""Probabilities (N,), summing to 1, to the value and its slope in each of them (N,)."""


def objective(name: str, energies: FloatArray) -> Objective:
    """The objective over states with these energies. energies : float64 (N,), normalised to mean 0 and spread 1.

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
    """The same objective of equally weighted samples. float64 (s,), s at least 1 -> float."""
    return objective(name, energies)(np.full(energies.size, 1.0 / energies.size))[0]
