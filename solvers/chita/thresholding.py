"""Iterative hard thresholding on an active set with an exact line search: CHITA's method without its faults.

Benbaki et al.: Fast as CHITA, ICML 2023, §3 and algorithms 2 to 5. From β with gradient G the path
β(τ) = H_k(β − τG) keeps one support between breakpoints, where f is a parabola in τ. The line search
goes from piece to piece, each time to the parabola's minimiser, until that lies inside its own piece.
No Lipschitz constant is needed, a step is accepted only if f falls, and the k largest are found by
partition. Computes in the factor's precision; reported objectives are the block's.
"""

import contextlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import BoolArray, Factor, FloatArray, IndexArray, columns_of
from prunebench.core.keeping import Counted
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.stop import Stop, StopCheck
from prunebench.kernels.linear_algebra.matrix import FactorMatrix

PIECES = 8
"""Most pieces examined in one line search."""
RELATIVE_GAIN = 1e-7
"""A step that lowers f by less than this share of it is the last."""
COARSE_GAIN = 1e-3
"""The same where exchanges follow, which find in a moment what many short steps would."""
SHORTER = 0.25
"""If the gradient vanishes on the support, successive trials shorten the step by this factor."""


@dataclass
class Point:
    """State of the search. weights : float64 (p,), taken as zero off the support;  value : f there."""

    weights: FloatArray
    mask: BoolArray
    residual: FloatArray
    """A(w − centre). (n,)"""
    value: float


class Root(NamedTuple):
    """H = A'A + diag(ridge), for descents on all weights or on some of them.

    factor : (n, p)   A;  ridge : float64 (p,), zero where A holds it;  image : float64 (n,), A·centre
    """

    factor: Factor
    ridge: FloatArray
    image: FloatArray


class Descent:
    """IHT on the weights `chosen` of a form, all others at zero; `keep` is the constraint on their mask."""

    def __init__(
        self,
        form: QuadraticForm,
        keep: Counted,
        chosen: IndexArray | None = None,
        root: "Root | None" = None,
        least_gain: float = RELATIVE_GAIN,
    ) -> None:
        self.form, self.least_gain = form, least_gain
        self.root = root = _root(form) if root is None else root
        self._keep = keep
        ridge = root.ridge
        if chosen is None:
            self._matrix = FactorMatrix(root.factor)
            self.centre, self._linear, self._ridge = form.centre, form.linear, ridge
            self._constant = 0.0
        else:
            outside = np.array(form.centre)
            outside[chosen] = 0.0
            self._matrix = FactorMatrix(columns_of(root.factor, chosen))
            self.centre, self._linear, self._ridge = form.centre[chosen], form.linear[chosen], ridge[chosen]
            self._constant = float(0.5 * (ridge * outside) @ outside - form.linear @ outside)

    def within(self, keep: Counted, chosen: IndexArray) -> "Descent":
        """The same search on the weights `chosen` alone."""
        return Descent(self.form, keep, chosen, self.root, self.least_gain)

    @property
    def size(self) -> int:
        """Number of weights that the search moves."""
        return int(self.centre.size)

    def at(self, weights: FloatArray, mask: BoolArray) -> Point:
        """The point with these weights. (s,), (s,)"""
        residual = self._times(weights) - self.root.image
        return Point(weights, mask, residual, self._value(weights, residual))

    def gradient(self, point: Point) -> FloatArray:
        """The gradient of f. float64 (s,)"""
        inner = self._matrix.transposed_times(point.residual).astype(np.float64)
        return self._linear + inner + self._ridge * (point.weights - self.centre)

    def step(self, point: Point, gradient: FloatArray) -> Point | None:
        """The best point found on the path of hard thresholds from `point`; None if none lowers f."""
        mask, found = point.mask, None
        for piece in range(PIECES):
            length, weights, residual = self._minimiser(point, mask, gradient)
            if length > 0.0:
                value = self._value(weights, residual)
                if value < (found or point).value:
                    found = Point(weights, mask, residual, value)
            elif piece == 0:
                return self._exchange(point, gradient)
            ahead = self._keep.top_mask(np.abs(point.weights - max(length, 0.0) * gradient))
            if length <= 0.0 or bool((ahead == mask).all()):
                break
            mask = ahead
        return found

    def _minimiser(self, point: Point, mask: BoolArray, gradient: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """The minimum of the parabola with this support: τ, and the weights and residual there."""
        start, slope = np.where(mask, point.weights, 0.0), np.where(mask, gradient, 0.0)
        image = self._times(slope)
        residual = point.residual if mask is point.mask else self._times(start) - self.root.image
        move = start - self.centre
        curvature = float(image @ image + (self._ridge * slope) @ slope)
        fall = float(self._linear @ slope + residual @ image + (self._ridge * move) @ slope)
        # a gradient that consists of rounding has no useful minimiser
        if curvature <= 0.0 or fall <= 1e-12 * float(np.abs(gradient) @ np.abs(gradient)):
            return 0.0, start, residual
        length = fall / curvature
        return length, start - length * slope, residual - length * image

    def _exchange(self, point: Point, gradient: FloatArray) -> Point | None:
        """A step from a back-solved point, whose gradient vanishes on the support; longest first."""
        strongest = self._keep.top_mask(np.abs(gradient))
        slope = np.where(strongest, gradient, 0.0)
        image = self._times(slope)
        curvature = float(image @ image + (self._ridge * slope) @ slope)
        length = float(slope @ slope) / curvature if curvature > 0.0 else 0.0
        for _ in range(PIECES):
            mask = self._keep.top_mask(np.abs(point.weights - length * gradient))
            if length <= 0.0 or bool((mask == point.mask).all()):
                return None
            best, weights, residual = self._minimiser(point, mask, gradient)
            value = self._value(weights, residual)
            if best > 0.0 and value < point.value:
                return Point(weights, mask, residual, value)
            length *= SHORTER
        return None

    def run(self, point: Point, steps: int, stop: StopCheck) -> tuple[Point, int]:
        """Steps until f falls no more, `steps` are made, or `stop` says why to stop. -> the point, steps made."""
        made = 0
        while made < steps and not stop(made):
            made += 1
            following = self.step(point, self.gradient(point))
            if following is None:
                break
            gain, point = point.value - following.value, following
            if gain <= self.least_gain * abs(following.value):
                break
        return point, made

    def _times(self, vector: FloatArray) -> FloatArray:
        return np.asarray(self._matrix.times(vector), dtype=np.float64)

    def _value(self, weights: FloatArray, residual: FloatArray) -> float:
        move = weights - self.centre
        ridge = float((self._ridge * move) @ move)
        return self._constant + float(self._linear @ move) + 0.5 * (float(residual @ residual) + ridge)


def first_support(descent: Descent, dense_weights: FloatArray, keep: Counted) -> BoolArray:
    """The support of the hard threshold of one gradient step from the dense weights. bool (p,)

    descent : on all weights, with the constraint `keep`

    With zero gradient this is magnitude pruning. Otherwise the step length is the parabola's minimiser
    on the magnitude support, or a halving of it, whichever gives the lowest f. The result is always a
    support (the released program's is undefined when no trial improves).
    """
    magnitude = keep.top_mask(np.abs(dense_weights))
    gradient = descent.form.gradient(dense_weights)
    if not gradient.any():
        return magnitude
    start = descent.at(np.where(magnitude, dense_weights, 0.0), magnitude)
    dense = Point(dense_weights, magnitude, start.residual, start.value)
    found = descent.step(dense, gradient)
    return magnitude if found is None else found.mask


def with_active_set(
    whole: Descent, start: Point, keep: Counted, steps: int, growth: float, stop: StopCheck
) -> tuple[Point, int]:
    """IHT with steps on an active set of about growth·keep weights, which grows while outside weights improve f.

    -> the point, over all weights, and the steps made
    """
    made = 0
    point = start
    gradient = whole.gradient(point)
    scale = _step_scale(point, gradient)
    wide = keep.grown(growth)
    active = wide.top_mask(np.abs(point.weights - scale * gradient)) | point.mask
    while made < steps and not stop(made):
        chosen = np.flatnonzero(active)
        part = whole.within(keep.within(chosen, point.mask), chosen)
        spent = made

        def inner_stop(count: float, spent: int = spent) -> Stop | None:
            return stop(spent + count)

        inner, count = part.run(part.at(point.weights[chosen], point.mask[chosen]), steps - made, inner_stop)
        made += count
        mask, weights = np.zeros(whole.size, dtype=np.bool_), np.zeros(whole.size)
        mask[chosen], weights[chosen] = inner.mask, inner.weights
        point = whole.at(weights, mask)
        gradient = whole.gradient(point)
        following = whole.step(point, gradient)
        made += 1
        if following is None or not (following.mask & ~active).any():
            point = following or point
            break
        active |= following.mask
        point = following
    return point, made


def _root(form: QuadraticForm) -> Root:
    """The form's factor and ridge; of a form with an explicit Hessian the Cholesky factor of both.

    With its ridge the Hessian is regular; without it, it may need a spectrum, at twenty times the cost.
    """
    factor, ridge = form.factor, form.ridge
    if factor is None and form.hessian is not None:
        with contextlib.suppress(np.linalg.LinAlgError):
            whole = form.hessian.copy()
            whole[np.diag_indices_from(whole)] += ridge
            factor, ridge = np.linalg.cholesky(whole).T, np.zeros_like(ridge)
    if factor is None:
        factor = form.square_root()
    return Root(factor, ridge, FactorMatrix(factor).times(form.centre).astype(np.float64))


def _step_scale(point: Point, gradient: FloatArray) -> float:
    """A step length that moves the largest gradient entries by as much as the weights' size."""
    largest = float(np.abs(gradient).max())
    return float(np.abs(point.weights).max()) / largest if largest > 0.0 else 0.0
