"""Tiny blocks on which rounding is not small: where a claim of proof breaks, if it can.

"ill-conditioned": ridges from 1e-14 to 1e-2 of the mean diagonal, losses and weights in units from 1e-12 to
1e12, columns that are equal but for tiny noise or all but cancel, a centre far away, linear terms, forms
that hold a factor (float32 or float64), a Hessian made from one, or a given Hessian. "indefinite": curvature
with eigenvalues of both signs, among it cuts of graphs; mode select only, as refit has no minimum there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Count, Quota
from prunebench.core.quadratic import QuadraticForm

MOST_WEIGHTS = 8
"""Blocks have 2 to so many weights: exact arithmetic goes through all their masks in milliseconds."""
TRIES = 50
"""Draws after which no acceptable block was found: a Hessian of rounding's making may not be definite."""

Curvature = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Hostile:
    """A block, and the factor that its form was made from where it holds a rounded Hessian instead."""

    block: BlockProblem
    factor: Curvature | None


def ill_conditioned(seed: int, mode: Mode) -> Hostile:
    """An ill-conditioned block, the same for the same arguments."""
    return _drawn("ill-conditioned", seed, mode, _ill_conditioned)


def indefinite(seed: int, mode: Mode = "select") -> Hostile:
    """A block in mode select whose Hessian has eigenvalues of both signs, the same for the same seed."""
    return _drawn("indefinite", seed, "select", _indefinite)


HOSTILE: dict[str, Callable[[int, Mode], Hostile]] = {"ill-conditioned": ill_conditioned, "indefinite": indefinite}
"""Hostile families by name."""


def _drawn(name: str, seed: int, mode: Mode, draw: "Callable[[np.random.Generator, int], _Drawn]") -> Hostile:
    rng = np.random.default_rng([seed, *name.encode(), *mode.encode()])
    for _ in range(TRIES):
        p = int(rng.integers(2, MOST_WEIGHTS + 1))
        drawn = draw(rng, p)
        keeping = _quota(rng, p) if p >= 4 and rng.random() < 0.2 else Count(p, int(rng.integers(1, p)))
        try:
            block = BlockProblem(
                drawn.form, drawn.dense, keeping.keep, mode, quota=keeping.quota, problem=f"{name}/{seed}"
            )
        except InvalidInput:
            continue
        if block.keeping.one_count and rng.random() < 0.2:
            block = block.with_start(rng.permutation(np.arange(p) < keeping.keep))
        return Hostile(block, drawn.factor if drawn.form.factor is None else None)
    raise InvalidInput(f"no acceptable block of family {name!r} for seed {seed} in {TRIES} draws")


@dataclass(frozen=True, eq=False)
class _Drawn:
    form: QuadraticForm
    dense: FloatArray
    factor: Curvature | None


def _ill_conditioned(rng: np.random.Generator, p: int) -> _Drawn:
    columns = _columns(rng, int(rng.integers(1, 2 * p + 1)), p)
    factor: Curvature = columns / np.sqrt(columns.shape[0])
    loss, size = 10.0 ** rng.uniform(-12, 12), 10.0 ** rng.uniform(-12, 12)
    curvature = loss / size**2
    factor = factor * np.sqrt(curvature)
    if rng.random() < 0.3:
        narrow = factor.astype(np.float32)
        factor = narrow if np.isfinite(narrow).all() and narrow.any() else factor
    wide = factor.astype(np.float64)
    mean = float(np.mean(np.sum(wide**2, axis=0)))
    ridge = mean * 10.0 ** rng.uniform(-14, -2) * (np.ones(p) if rng.random() < 0.7 else rng.uniform(0.1, 10.0, p))
    dense = _weights(rng, p) * size
    far = 10.0 ** rng.uniform(0, 6) if rng.random() < 0.3 else 1.0
    centre = dense if rng.random() < 0.6 else far * rng.normal(size=p) * size
    linear = np.zeros(p)
    if rng.random() < 0.5:
        # in the range of the curvature, or out of it, where a small ridge lets the refit run far
        direction = rng.normal(size=p) if rng.random() < 0.5 else wide.T @ rng.normal(size=len(wide)) / np.sqrt(mean)
        linear = direction * 10.0 ** rng.uniform(-4, 1) * loss / size
    terms: dict[str, Any] = {
        "ridge": ridge,
        "linear": linear,
        "centre": centre,
        "constant": loss * float(rng.choice([0.0, 1.0, rng.normal()])),
    }
    if rng.random() < 0.25:
        return _Drawn(QuadraticForm(hessian=wide.T @ wide, **terms), dense, None)
    return _Drawn(QuadraticForm(factor=factor, **terms), dense, factor)


def _columns(rng: np.random.Generator, n: int, p: int) -> FloatArray:
    kind = rng.integers(5)
    columns = rng.normal(size=(n, p))
    noise = 10.0 ** rng.uniform(-14, -1)
    if kind == 1:
        columns = columns[:, rng.integers(max(1, p // 2), size=p)] + noise * rng.normal(size=(n, p))
    elif kind == 2:
        rank = int(rng.integers(1, max(2, p // 2)))
        columns = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, p)) + noise * columns
    elif kind == 3:
        columns *= 10.0 ** rng.uniform(-5, 5, size=p)
    elif kind == 4:
        # whole numbers: ties, zero columns, and sums that are exact
        columns = rng.integers(-2, 3, size=(n, p)).astype(np.float64)
        columns[0, 0] = 1.0
    return columns


def _weights(rng: np.random.Generator, p: int) -> FloatArray:
    kind = rng.integers(4)
    weights = rng.normal(size=p)
    if kind == 1:
        weights = rng.choice([-1.0, 1.0], size=p)
    elif kind == 2:
        weights *= 10.0 ** rng.uniform(-4, 4, size=p)
    elif kind == 3:
        weights[rng.integers(p)] = 0.0
    return weights


def _indefinite(rng: np.random.Generator, p: int) -> _Drawn:
    scale = 10.0 ** rng.uniform(-12, 12)
    upper = np.triu(rng.normal(size=(p, p)), 1)
    kind = rng.integers(3)
    if kind == 0:
        # a cut: weighted edges, nothing on the diagonal
        upper = np.triu(rng.integers(-3, 4, size=(p, p)), 1).astype(np.float64)
    elif kind == 1:
        upper *= 10.0 ** rng.uniform(-6, 0, size=(p, p))
    hessian = upper + upper.T
    if kind:
        hessian[np.diag_indices(p)] = rng.normal(size=p)
    dense = np.ones(p) if kind == 0 else _weights(rng, p)
    linear = np.zeros(p) if rng.random() < 0.3 else rng.normal(size=p)
    centre = np.zeros(p) if rng.random() < 0.4 else rng.normal(size=p)
    ridge = 0.0 if rng.random() < 0.5 else 10.0 ** rng.uniform(-6, 0)
    constant = float(rng.choice([0.0, rng.normal()]))
    form = QuadraticForm(
        hessian=scale * hessian, ridge=scale * ridge, linear=scale * linear, centre=centre, constant=scale * constant
    )
    return _Drawn(form, dense, None)


def _quota(rng: np.random.Generator, p: int) -> Quota:
    sizes = np.bincount(np.sort(rng.permutation(np.arange(p) % 2)), minlength=2)
    counts = np.array([rng.integers(0, sizes[0] + 1), rng.integers(1, sizes[1])])
    return Quota(rng.permutation(np.repeat(np.arange(2), sizes)), counts)
