"""From initial to best angles: the classical loop at one depth, or at all depths up to it when interpolating."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.stop import Stop, StopCheck
from prunebench.solvers.qaoa import starts
from prunebench.solvers.qaoa.optimizers import Objective, minimise

TAIL_STEPS = 3
"""Iterations in the loops that lower tails, in units of `steps`: where the best masks are nearly equal they take more.
Few blocks need such loops."""
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
    tails: Sequence[Objective] = (),
) -> Fit:
    """Lower the objective, starting from the initial angles.

    Parameters
    ----------
    objective : takes whether the weights have angles of their own; returns the function to minimise. When
                interpolating, that is also called for fewer layers than `reps`, without such angles
    start, optimizer, steps : as in `first_angles` and `minimise`; "fixed" keeps the start and evaluates nothing
    weighted : the last loop also fits an angle for each weight and layer, starting from 0
    stop : called with the evaluations so far; a Stop ends every loop
    tails : where the angles found do not lower the last of these all the way, all of them are lowered in turn from the
            initial angles, then from transferred ones, and what is lowest in the last is taken
    """
    evaluations = 0
    stopped: Stop | None = None

    def improve(angles: FloatArray, own: bool = False) -> FloatArray:
        point = starts.with_weights(angles, p) if own else angles
        return point if optimizer == "fixed" else lower(objective(own), point, own)

    def lower(aim: Objective, point: FloatArray, own: bool, steps: int = steps) -> FloatArray:
        nonlocal evaluations, stopped
        layers = reps if own else point.size // 2
        units = starts.weighted_units(p, mixer, layers) if own else starts.units(p, mixer, layers)
        found = minimise(
            aim, point,
            method=optimizer, steps=steps, units=units, rng=rng,
            stop=lambda done: stopped or stop(evaluations + done),
        )  # fmt: skip
        evaluations, stopped = evaluations + found.evaluations, found.stopped
        return found.angles

    def value_of_tail(angles: FloatArray) -> tuple[float, FloatArray | None]:
        nonlocal evaluations, stopped
        stopped = stopped or (stop(evaluations) if tails else None)
        if stopped or not tails:
            return float("inf"), None
        evaluations += 1
        return tails[-1](angles)

    first = starts.first_angles(p, mixer, reps, start, improve)
    found = improve(first, weighted)
    attempts = [first, starts.transferred(p, mixer, reps)] if tails else []
    reached, slope = value_of_tail(found)
    value = reached
    while attempts and not stopped and slope is not None and slope.any():
        begun = attempts.pop(0)
        again = starts.with_weights(begun, p) if weighted else begun
        for aim in tails:
            again = lower(aim, again, weighted, TAIL_STEPS * steps)
        reached, slope = value_of_tail(again)
        if reached < value:
            found, value = again, reached
    return Fit(found, first, evaluations, stopped)
