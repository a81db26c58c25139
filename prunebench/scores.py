"""Scores: one number a weight, high = worth keeping. Each is computed from the quadratic form alone."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.rows import RowsForm

Score = Callable[[QuadraticForm, FloatArray, np.random.Generator | None], FloatArray]


def score(
    name: str, form: QuadraticForm, dense_weights: npt.ArrayLike, rng: np.random.Generator | None = None
) -> FloatArray:
    """The score `name` of every weight, high = worth keeping. float64 (p,).

    Parameters
    ----------
    name : one of SCORES
    form : QuadraticForm over p weights
    dense_weights : float (p,)
    rng : only the score "random" uses it

    Raises
    ------
    UnknownName    there is no such score; the message gives the nearest match
    InvalidInput   dense_weights do not fit the form, or the score needs what is not there
    """
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    return SCORES[name](form, form.as_vector("dense_weights", dense_weights), rng)


def magnitude(_form: QuadraticForm, dense_weights: FloatArray, _rng: np.random.Generator | None) -> FloatArray:
    """|w|."""
    return np.abs(dense_weights)


def obd(form: QuadraticForm, dense_weights: FloatArray, _rng: np.random.Generator | None) -> FloatArray:
    """½ w² H_ii, the rise of f when the weight alone is pruned at a minimum.

    Le Cun, Denker, Solla: Optimal Brain Damage, NeurIPS 1989, §2 (the saliency). With the empirical
    Fisher as curvature this is the Fisher-diagonal score.
    """
    return 0.5 * dense_weights**2 * form.diagonal()


def gradient(form: QuadraticForm, dense_weights: FloatArray, _rng: np.random.Generator | None) -> FloatArray:
    """|w g| with g the linear term: the first-order change of the loss.

    Mozer, Smolensky: Skeletonization, NeurIPS 1988; Molchanov et al., ICLR 2017 (Taylor score).
    """
    if not form.linear.any():
        raise InvalidInput(
            "score 'gradient' needs a linear term and the form's is zero, so all weights would tie; "
            "build the form with gradient_scale=1 or choose another score"
        )
    return np.abs(dense_weights * form.linear)


def diagonal_change(form: QuadraticForm, dense_weights: FloatArray, _rng: np.random.Generator | None) -> FloatArray:
    """½ w² H_ii − w·∂f/∂w: exactly f without this weight minus f of the dense weights; may be negative."""
    return 0.5 * dense_weights**2 * form.diagonal() - dense_weights * form.gradient(dense_weights)


def wanda(form: QuadraticForm, dense_weights: FloatArray, _rng: np.random.Generator | None) -> FloatArray:
    """|w|·sqrt(curvature diagonal without the ridge).

    On a layer-input form, |w_j|·‖X_j‖₂/√n: the score of Sun et al., A Simple and Effective Pruning
    Approach for Large Language Models, ICLR 2024, eq. 1, up to the common factor √n.
    """
    if isinstance(form, RowsForm):
        norms = np.sqrt(np.maximum(form.shared.diagonal(), 0.0))
        return np.asarray((np.abs(form.table(dense_weights)) * norms).reshape(-1))
    return np.abs(dense_weights) * np.sqrt(np.maximum(form.curvature_diagonal(), 0.0))


def random(form: QuadraticForm, _dense_weights: FloatArray, rng: np.random.Generator | None) -> FloatArray:
    """Uniformly random numbers: the floor under every other score."""
    if rng is None:
        raise InvalidInput("score 'random' needs a random generator; pass rng=np.random.default_rng(seed)")
    return rng.random(form.p)


SCORES: Mapping[str, Score] = {
    "magnitude": magnitude,
    "obd": obd,
    "gradient": gradient,
    "diagonal-change": diagonal_change,
    "wanda": wanda,
    "random": random,
}
"""All scores by name."""
