"""The empirical Fisher form: sample gradients in, the quadratic model of the loss around the dense weights out.

Importing this module loads no torch; `network_form` does when it is called.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, column_squares, numeric, require_finite, row_chunks
from prunebench.core.errors import InvalidInput, NoCurvature
from prunebench.core.problem import NetworkProblem, spread
from prunebench.core.quadratic import QuadraticForm

if TYPE_CHECKING:
    from prunebench.curvature.gradients import Report
    from prunebench.networks.network import PrunableNetwork

DEFAULT_RIDGE = 0.01
"""Best or close to it for refitted magnitude masks of MLPNet and the digits MLP at a density of 0.05 to 0.4."""


@dataclass(frozen=True, kw_only=True)
class FisherOptions:
    """How the curvature of a network is sampled.

    Raises
    ------
    InvalidInput   a count below 1, fewer samples than one mini-batch, a negative ridge or scale
    """

    samples: int = 1000
    """Calibration samples, drawn without replacement."""

    batch_size: int = 1
    """Samples a row: 1 for per-sample gradients, more for mean gradients of mini-batches (fewer rows)."""

    ridge: float = DEFAULT_RIDGE
    """Ridge relative to the mean of the curvature's diagonal, so that it means the same in every network."""

    gradient_scale: float = 0.0
    """Factor of the mean gradient in the linear term; 0 leaves it out: the dense weights count as a minimum."""

    store: str = ""
    """Folder for a memory-mapped file of the gradient rows, where they are larger than memory; empty: in memory."""

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInput(f"{name} is {value!r}; choose a whole number from 1")
        if self.samples < self.batch_size:
            raise InvalidInput(
                f"samples is {self.samples}, less than one batch of {self.batch_size}; take more samples"
            )
        _check_not_negative("ridge", self.ridge)
        _check_not_negative("gradient_scale", self.gradient_scale)


def fisher_form(
    gradients: npt.NDArray[np.float32] | FloatArray,
    weights: npt.ArrayLike,
    *,
    ridge: float = DEFAULT_RIDGE,
    batch_size: int = 1,
    gradient_scale: float = 0.0,
    row_weight: float = 1.0,
) -> QuadraticForm:
    """The quadratic model of the loss with the empirical Fisher as its curvature, H = (b/n) G'G + ridge.

    A mean over b independent samples has 1/b of their covariance, so mini-batch rows are weighted
    by b: in expectation the curvature is the same as from single samples.

    Parameters
    ----------
    gradients : float32 or float64 (n, p)    **scaled in place** by sqrt(b/n) and then held by the form,
                                             so that a large array is never there twice; pass a copy to keep it
    weights : float (p,)                     the centre, where the gradients were taken
    ridge : relative to the mean of the curvature's diagonal
    batch_size : samples a row, b
    gradient_scale : factor of the mean gradient in the linear term
    row_weight : how many observations a sample's loss is the mean of (the predicted tokens of a
                 sequence); rows then count as often, and are centred for it: see `samples.centring`

    Raises
    ------
    InvalidInput   not an array of floats (n, p), NaN, gradients that are zero throughout, a negative ridge
    """
    _check_not_negative("ridge", ridge)
    _check_not_negative("gradient_scale", gradient_scale)
    factor = gradients
    if not isinstance(factor, np.ndarray) or factor.dtype not in (np.float32, np.float64) or factor.ndim != 2:
        shape = f"dtype {factor.dtype} and shape {factor.shape}" if isinstance(factor, np.ndarray) else type(factor)
        raise InvalidInput(f"gradients have {shape}; expected a float32 or float64 array (n, p)")
    if not factor.flags.writeable:
        raise InvalidInput("gradients are read-only but are scaled in place; pass a copy")
    if factor.size == 0:
        raise InvalidInput(f"gradients have shape {factor.shape}; expected at least one row and one weight")
    require_finite("gradients", factor)
    centre = numeric("weights", weights)
    if centre.shape != (factor.shape[1],):
        raise InvalidInput(f"weights have shape {centre.shape}; the gradients have {factor.shape[1]} columns")
    linear = gradient_scale * _column_means(factor) if gradient_scale else None
    if row_weight > 1.0:
        from prunebench.networks.samples import centring

        factor -= (centring(batch_size * row_weight) * _column_means(factor)).astype(factor.dtype)
    factor *= factor.dtype.type(math.sqrt(batch_size * row_weight / factor.shape[0]))
    mean_diagonal = float(column_squares(factor).mean())
    if mean_diagonal == 0.0:
        raise NoCurvature(
            "all gradients are zero, so they say nothing about any weight; "
            "check that the loss depends on the network's outputs and is not saturated"
        )
    return QuadraticForm(factor=factor, ridge=ridge * mean_diagonal, linear=linear, centre=centre)


def network_form(
    problem: NetworkProblem,
    network: "PrunableNetwork",
    options: FisherOptions,
    rng: np.random.Generator,
    progress: "Report | None" = None,
    memory_limit: int | None = None,
) -> QuadraticForm:
    """The empirical Fisher form of a network at its present weights, from its calibration samples.

    Parameters
    ----------
    problem : gives the calibration samples and the loss
    network : gives the weights, which become the centre
    options : FisherOptions
    rng : draws the samples
    progress : called with (rows done, rows)
    memory_limit : bytes that gradients in memory may take; the machine's available memory if None

    Raises
    ------
    InvalidInput   fewer calibration samples than asked for, more rows than memory holds and no store,
                   or what sample_gradients and fisher_form refuse
    """
    from prunebench.curvature.gradients import sample_gradients, stored_rows
    from prunebench.networks.samples import row_weight

    calibration = problem.calibration()
    if options.samples > len(calibration):
        raise InvalidInput(
            f"samples is {options.samples} but problem {problem.name!r} has {len(calibration)} calibration samples; "
            f"choose at most {len(calibration)}"
        )
    positions = spread(len(calibration), options.samples, rng)
    if options.batch_size > 1:
        # Data are often sorted by class; mini-batches must not be.
        positions = rng.permutation(positions)
    gradients = sample_gradients(
        network,
        problem.loss,
        calibration,
        positions,
        batch_size=options.batch_size,
        progress=progress,
        memory_limit=memory_limit,
        out=stored_rows(options.store, options.samples // options.batch_size, network.total),
    )
    return fisher_form(
        gradients,
        network.weights(),
        ridge=options.ridge,
        batch_size=options.batch_size,
        gradient_scale=options.gradient_scale,
        row_weight=row_weight(calibration),
    )


def _column_means(array: npt.NDArray[np.float32] | FloatArray) -> FloatArray:
    total = np.zeros(array.shape[1])
    for rows in row_chunks(array):
        total += array[rows].sum(axis=0, dtype=np.float64)
    return np.asarray(total / array.shape[0])


def _check_not_negative(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0.0:
        raise InvalidInput(f"{name} is {value!r}; choose a number that is not negative")
