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
"""η of the Gibbs objective for energies with standard deviation 1, where it is known of samples alone; the least one
where all energies are known."""

SHARE = 0.25
"""Share of the distribution, from its low end, that CVaR averages."""

OTHERS = 1.0
"""With the steepness that fits a block, all masks but the best together weigh so many times as much as the best in the
Gibbs objective of a uniform distribution. With 3, loops on 2 of 46 blocks settled on a mask that is nearly the best (12
to 20 weights), with 7 on 5; with 1 the best mask had 68 % or more of the probability in all of them."""

STEEPEST = 1e5
"""The largest such steepness: masks whose energies differ by less than a hundred-thousandth of the spread are equal."""

NEWTON_STEPS = 100
"""At most so many steps to it; some ten are taken."""

NEWTON_TOLERANCE = 0.05
"""The logarithm of the sum of weights may be so far above the one wanted: nothing depends on the exact steepness."""

Objective = Callable[[FloatArray], tuple[float, FloatArray]]
"""From probabilities (N,), summing to 1, to the value and its derivatives by them (N,)."""


def objective(name: str, energies: FloatArray, steepness: float = STEEPNESS) -> Objective:
    """The objective over states with these energies. energies : float64 (N,), normalised to mean 0, deviation 1.

    mean  : ⟨e⟩
    gibbs : −ln⟨exp(−η e)⟩ with η = `steepness`
    cvar  : the mean of the lowest `SHARE` of the distribution
    """
    if name == "mean":
        return lambda chances: (float(chances @ energies), energies)
    if name == "gibbs":
        lowest = float(energies.min())
        weights = np.exp(-steepness * (energies - lowest))

        def gibbs(chances: FloatArray) -> tuple[float, FloatArray]:
            total = float(chances @ weights)
            return steepness * lowest - float(np.log(total)), weights / -total

        return gibbs
    order = np.argsort(energies, kind="stable")

    def tail(chances: FloatArray) -> tuple[float, FloatArray]:
        reached = int(np.searchsorted(np.cumsum(chances[order]), SHARE))
        edge = float(energies[order[min(reached, order.size - 1)]])
        slope = np.minimum(energies - edge, 0.0) / SHARE
        return edge + float(chances @ slope), slope

    return tail


def fitting_steepness(energies: FloatArray) -> float:
    """The η of the Gibbs objective at which the masks that are not the best weigh `OTHERS` times as much as the best.

    At least STEEPNESS, at most STEEPEST. In a block of many masks, or with many that are nearly the best, a fixed η
    leaves the best ones a share of the sum that no step of a loop notices.

    Parameters
    ----------
    energies : float64 (N,)   of all states, in any order
    """
    above = energies - energies.min()
    wanted = float(np.log((1.0 + OTHERS) * np.count_nonzero(above <= 1.0 / STEEPEST)))
    steepness = STEEPNESS
    for _ in range(NEWTON_STEPS):
        # the logarithm of the sum is convex in η and falls, so that the steps never go too far
        weights = np.exp(-steepness * above)
        total = float(weights.sum())
        excess = float(np.log(total)) - wanted
        if excess <= NEWTON_TOLERANCE:
            break
        steepness += excess * total / float(weights @ above)
    return min(steepness, STEEPEST)


def of_samples(name: str, energies: FloatArray) -> float:
    """The same objective for equally weighted samples. float64 (s,), s at least 1 -> float."""
    return objective(name, energies)(np.full(energies.size, 1.0 / energies.size))[0]
