"""The scores of groups by name: what each is, and where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prunebench.core.errors import unknown_name


@dataclass(frozen=True)
class Score:
    """One score.

    summary : what it is, in a clause;  source : the paper
    needs : weights alone, or calibration samples, or their labels as well
    """

    summary: str
    source: str
    needs: Literal["weights", "samples", "labels"]


GATES = "gates"
"""The score that a run takes by itself."""

SCORES: Mapping[str, Score] = {
    GATES: Score(
        "half the mean squared gradient by the group's gate", "this project, after LeCun et al., 1989", "labels"
    ),
    "l1": Score(
        "sum of absolute weights of the filters", "Li et al.: Pruning Filters for Efficient ConvNets, 2017", "weights"
    ),
    "l2": Score("root of the sum of squared weights of the filters", "He et al.: Soft Filter Pruning, 2018", "weights"),
    "bn": Score("absolute scale of the batch norm", "Liu et al.: Network Slimming, 2017", "weights"),
    "group-norm": Score(
        "squared weights of all that goes with the group, its family's mean being 1",
        "Fang et al.: DepGraph, 2023",
        "weights",
    ),
    "taylor": Score(
        "mean absolute gradient by the gate, the family's norm being 1",
        "Molchanov et al.: Pruning CNNs for Resource Efficient Inference, 2017",
        "labels",
    ),
    "taylor-squared": Score(
        "mean over minibatches of the squared mean gradient by the gate",
        "Molchanov et al.: Importance Estimation for Neural Network Pruning, 2019",
        "labels",
    ),
    "hessian": Score(
        "half the diagonal of the loss's Hessian in the gates, estimated by Hessian-vector products",
        "LeCun et al.: Optimal Brain Damage, 1989; Bekas et al.: An estimator for the diagonal of a matrix, 2007",
        "labels",
    ),
    "beta-rank": Score(
        "sum of absolute weights of a filter times how much it spreads its inputs",
        "Homayounfar et al.: Beta-Rank, 2023",
        "samples",
    ),
    "lrp": Score(
        "relevance of the group for the label's output, by layer-wise relevance propagation",
        "Yeom et al.: Pruning by Explaining, 2021",
        "labels",
    ),
    "spectrum": Score(
        "how well the singular values of the filters survive where the group is among those that stay",
        "Sengupta et al.: PruneNet, 2025",
        "weights",
    ),
    "layer-obs": Score(
        "what the sums of the next layers lose once their other weights have made up for the group",
        "Dong et al.: Layer-wise Optimal Brain Surgeon, 2017; Wang et al.: Structurally Prune Anything, 2024",
        "samples",
    ),
    "cka": Score(
        "how unlike the last layer's inputs become without the group",
        "Kornblith et al., 2019; Pons et al.: layer pruning by centred kernel alignment, 2024",
        "samples",
    ),
    "random": Score("a random number: the control", "", "weights"),
}
"""By name, in the order in which they are shown."""


def require_score(name: str) -> None:
    """Raise UnknownName, with the nearest one, if there is no such score."""
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
