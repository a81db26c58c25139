"""From first to best angles: the classical loop at one depth, or at all depths up to it when interpolating."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.stop import Stop, StopCheck
from prunebench.solvers.qaoa import starts
from prunebench.solvers.qaoa.optimizers import Objective, minimise

ANGLES = (None, "weight", "layer")
"""How many angles a layer has: as the mixer suggests, one a weight, or one."""


@dataclass(frozen=True, eq=False)
class Fit:
    """angles : the best met;  first : γ and β before the last loop;  evaluations : in all;  stopped : why early."""

    angles: FloatArray
    first: FloatArray
    evaluations: int
    stopped: Stop | None


def weighted_by(angles: str | None, optimizer: str) -> bool:
    """Whether the option `angles` means one for each weight: where left open, if L-BFGS fits them."""
    return (angles or ("weight" if optimizer == "lbfgs" else "layer")) == "weight"


def fit_angles(
    objective: Callable[[bool], Objective],
    p: int,
    *,
    mixer: str,
    reps: int,
    start: str,
    optimizer: str,
    weighted: bool,
    steps: int,
    rng: np.random.Generator,
    stop: StopCheck,
) -> Fit:
    """Lower the objective from the first angles on.

    Parameters
    ----------
    objective : from whether the weights have angles of their own to the function to minimise; asked of
                fewer layers than `reps`, without such angles, when interpolating
    start, optimizer, steps : as in `first_angles` and `minimise`; "fixed" keeps the start and evaluates nothing
    weighted : the last loop fits an angle for each weight and layer too, from 0
    stop : called with the evaluations done so far; a Stop ends every loop
    """
    evaluations = 0
    stopped: Stop | None = None

    def improve(angles: FloatArray, own: bool = False) -> FloatArray:
        nonlocal evaluations, stopped
        point = starts.with_weights(angles, p) if own else angles
        if optimizer == "fixed":
            return point
        units = starts.weighted_units if own else starts.units
        found = minimise(
            objective(own), point,
            method=optimizer, steps=steps, units=units(p, mixer, angles.size // 2), rng=rng,
            stop=lambda done: stopped or stop(evaluations + done),
        )  # fmt: skip
        evaluations, stopped = evaluations + found.evaluations, found.stopped
        return found.angles

    first = starts.first_angles(p, mixer, reps, start, improve)
    return Fit(improve(first, weighted), first, evaluations, stopped)
