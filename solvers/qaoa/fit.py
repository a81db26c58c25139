"""From initial to best angles: the classical loop at one depth, or at all depths up to it when interpolating."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.stop import Stop, StopCheck
from prunebench.solvers.qaoa import starts
from prunebench.solvers.qaoa.optimizers import Objective, minimise

ANGLES = (None, "weight", "layer")
"""Angles per layer: None as the mixer suggests, "weight" one per weight, "layer" a single one."""


@dataclass(frozen=True, eq=False)
class Fit:
    """angles : the best found;  first : γ and β before the last loop;  evaluations : in total;  stopped : why early."""

    angles: FloatArray
    first: FloatArray
    evaluations: int
    stopped: Stop | None


def weighted_by(angles: str | None, optimizer: str) -> bool:
    """Whether option `angles` means one per weight; None does if L-BFGS fits them."""
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
    """Lower the objective, starting from the initial angles.

    Parameters
    ----------
    objective : takes whether the weights have angles of their own; returns the function to minimise. When
                interpolating, that is also called for fewer layers than `reps`, without such angles
    start, optimizer, steps : as in `first_angles` and `minimise`; "fixed" keeps the start and evaluates nothing
    weighted : the last loop also fits an angle for each weight and layer, starting from 0
    stop : called with the evaluations so far; a Stop ends every loop
    """
    evaluations = 0
    stopped: Stop | None = None

    def improve(angles: FloatArray, own: bool = False) -> FloatArray:
        nonlocal evaluations, stopped
        point = starts.with_weights(angles, p) if own else angles
        if optimizer == "fixed":
            return point
        layers = angles.size // 2
        units = starts.weighted_units(p, mixer, layers) if own else starts.units(p, mixer, layers)
        found = minimise(
            objective(own), point,
            method=optimizer, steps=steps, units=units, rng=rng,
            stop=lambda done: stopped or stop(evaluations + done),
        )  # fmt: skip
        evaluations, stopped = evaluations + found.evaluations, found.stopped
        return found.angles

    first = starts.first_angles(p, mixer, reps, start, improve)
    return Fit(improve(first, weighted), first, evaluations, stopped)
