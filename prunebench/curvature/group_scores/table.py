"""Scores by name."""

from collections.abc import Callable, Mapping

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.curvature.gates import as_measured
from prunebench.curvature.group_scores import of_samples, of_weights
from prunebench.curvature.group_scores.evidence import Evidence
from prunebench.curvature.group_scores.names import GATES, require_score
from prunebench.curvature.group_scores.relevance import lrp

CONTROL = 3
"""The stream of random numbers of the control; no other score has it."""


def gates(evidence: Evidence) -> FloatArray:
    """½ mean over samples of (∂loss/∂gate)², the diagonal of the Fisher matrix in the gates; of whole residual branches
    what the loss is measured to rise by. float64 (groups,)
    """
    found = of_samples.rows(evidence)
    return np.asarray(0.5 * (as_measured(found / np.sqrt(len(found)), evidence.rises()) ** 2).sum(axis=0))


def control(evidence: Evidence) -> FloatArray:
    """Uniform random numbers. float64 (groups,)"""
    rng = np.random.default_rng(np.random.SeedSequence(evidence.seed, spawn_key=(CONTROL,)))
    return rng.random(evidence.groups)


FUNCTIONS: Mapping[str, Callable[[Evidence], FloatArray]] = {
    GATES: gates,
    "l1": of_weights.l1,
    "l2": of_weights.l2,
    "bn": of_weights.batch_norm_scale,
    "group-norm": of_weights.group_norm,
    "taylor": of_samples.taylor,
    "taylor-squared": of_samples.taylor_squared,
    "hessian": of_samples.hessian,
    "beta-rank": of_samples.beta_rank,
    "lrp": lrp,
    "spectrum": of_weights.spectrum,
    "layer-obs": of_samples.layer_obs,
    "cka": of_samples.cka,
    "random": control,
}
"""By name, as `names.SCORES` has them."""


def scored(name: str, evidence: Evidence) -> FloatArray:
    """The score of every group, 0 or more: the less, the sooner it goes. float64 (groups,)

    Raises
    ------
    UnknownName    no such score
    InvalidInput   the score does not fit the network, or comes out as NaN or infinity
    """
    require_score(name)
    found = np.asarray(FUNCTIONS[name](evidence), dtype=np.float64)
    if not np.isfinite(found).all():
        raise InvalidInput(f"score {name} holds NaN or infinity; give a network with finite weights and losses")
    return found
