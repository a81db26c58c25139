"""The classical loop of QAOA: L-BFGS with exact gradients, COBYLA and SPSA; each can stop at any evaluation."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.stop import Stop, StopCheck

OPTIMIZERS = ("lbfgs", "cobyla", "spsa", "fixed")
"""Classical loops; fixed keeps the initial angles."""

Objective = Callable[[FloatArray], tuple[float, FloatArray | None]]
"""From angles (2·reps,) to the value and, if the simulator gives it, the gradient."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """The best angles found. angles : float64 (2·reps,); value; evaluations : of the objective; stopped : why early."""

    angles: FloatArray
    value: float
    evaluations: int
    stopped: Stop | None


class _Stop(Exception):
    """The budget is used up inside an optimizer that cannot be stopped otherwise."""


@dataclass
class _Watch:
    """The objective in scaled angles; keeps the best point and stops on request."""

    objective: Objective
    units: FloatArray
    stop: StopCheck
    best: FloatArray
    value: float = float("inf")
    evaluations: int = 0
    stopped: Stop | None = None

    def __call__(self, point: FloatArray) -> tuple[float, FloatArray | None]:
        self.stopped = self.stop(self.evaluations)
        if self.stopped:
            raise _Stop
        value, gradient = self.objective(point * self.units)
        self.evaluations += 1
        if value < self.value:
            self.value, self.best = value, point * self.units
        return value, None if gradient is None else gradient * self.units

    def with_gradient(self, point: FloatArray) -> tuple[float, FloatArray]:
        """The value and the gradient in scaled angles, for objectives that give one."""
        value, gradient = self(point)
        assert gradient is not None
        return value, gradient


def minimise(
    objective: Objective,
    start: FloatArray,
    *,
    method: str,
    steps: int,
    units: FloatArray,
    rng: np.random.Generator,
    stop: StopCheck,
) -> Optimum:
    """Improve the angles from `start`.

    Parameters
    ----------
    objective : the expectation to minimise
    start : float64 (2·reps,)
    method : lbfgs (needs gradients) | cobyla | spsa | fixed, which only evaluates the start
    steps : iterations of L-BFGS and of SPSA (two evaluations each), evaluations of COBYLA
    units : float64 (2·reps,)   natural sizes of the angles; all methods work in angles/units
    rng : SPSA's directions
    stop : called before each evaluation with the number made; a Stop ends the loop
    """
    watch = _Watch(objective, units, stop, best=start.copy())
    point = start / units
    try:
        if method == "fixed" or steps == 0:
            watch(point)
        elif method == "lbfgs":
            _lbfgs(watch, point, steps)
        elif method == "cobyla":
            _cobyla(watch, point, steps)
        else:
            _spsa(watch, point, steps, rng)
    except _Stop:
        pass
    return Optimum(watch.best, watch.value, watch.evaluations, watch.stopped)


def _lbfgs(watch: _Watch, point: FloatArray, steps: int) -> None:
    """L-BFGS with a backtracking line search: Nocedal, Wright: Numerical Optimization, algorithms 7.4 and 3.1.

    Not scipy's, whose LAPACK calls wake a thread pool at every step: for ten angles and shared cores that
    costs up to a hundred times the step itself.
    """
    value, slope = watch.with_gradient(point)
    history: deque[tuple[FloatArray, FloatArray]] = deque(maxlen=10)
    for _ in range(steps):
        direction = -_inverse_hessian_times(slope, history)
        descent = float(direction @ slope)
        if descent >= 0.0:
            history.clear()
            direction, descent = -slope, -float(slope @ slope)
        if descent > -1e-16:
            return
        length = 1.0 if history else min(1.0, 1.0 / float(np.sqrt(-descent)))
        for _ in range(10):
            moved = point + length * direction
            new_value, new_slope = watch.with_gradient(moved)
            if new_value <= value + 1e-4 * length * descent:
                break
            parabola = -0.5 * descent * length**2 / (new_value - value - length * descent)
            length = float(np.clip(parabola, 0.1 * length, 0.5 * length))
        else:
            return
        step, change = moved - point, new_slope - slope
        if float(step @ change) > 1e-10 * float(change @ change):
            history.append((step, change))
        if value - new_value <= 1e-9 * max(1.0, abs(value)):
            return
        point, value, slope = moved, new_value, new_slope


def _inverse_hessian_times(slope: FloatArray, history: "deque[tuple[FloatArray, FloatArray]]") -> FloatArray:
    """The two-loop recursion: the inverse Hessian that `history` implies, times `slope`. (d,) -> (d,)"""
    out = slope.copy()
    shares = []
    for step, change in reversed(history):
        share = float(step @ out) / float(step @ change)
        shares.append(share)
        out -= share * change
    if history:
        step, change = history[-1]
        out *= float(step @ change) / float(change @ change)
    for (step, change), share in zip(history, reversed(shares), strict=True):
        out += (share - float(change @ out) / float(step @ change)) * step
    return out


def _cobyla(watch: _Watch, point: FloatArray, steps: int) -> None:
    from scipy.optimize import minimize

    options: Any = {"maxiter": steps, "rhobeg": 0.2}
    minimize(lambda at: watch(at)[0], point, method="COBYLA", options=options)  # type: ignore[call-overload]  # stubs want a static rank


def _spsa(watch: _Watch, point: FloatArray, steps: int, rng: np.random.Generator) -> None:
    """Simultaneous perturbation with Spall's gains; the first step moves each angle by about 0.1 units.

    Spall: Implementation of the simultaneous perturbation algorithm, IEEE Trans. AES 34 (1998).
    """
    gain = None
    for step in range(steps):
        reach = 0.1 / (step + 1) ** 0.101
        direction = rng.choice((-1.0, 1.0), size=point.size)
        slope = (watch(point + reach * direction)[0] - watch(point - reach * direction)[0]) / (2.0 * reach)
        if gain is None and slope != 0.0:
            gain = 0.1 / abs(slope) * (1.0 + 0.1 * steps) ** 0.602
        if gain is not None:
            point = point - gain / (step + 1.0 + 0.1 * steps) ** 0.602 * slope * direction
    watch(point)
