"""Which of a step's moves are applied, and how the trust ridge adapts to wrong predictions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from prunebench.coordinators.icbs.step import StepBlock, half_of_swaps

TRUST_GROWTH = 4.0
"""Factor on the adaptive trust ridge after a poor step."""
TRUST_DECAY = 2.0
"""Divisor of the adaptive trust ridge after a good step; it never falls below its least value."""
TRUST_LIMIT = 4.0**8
"""The adaptive trust ridge is at most this many times its least value: eight poor steps in a row."""
POOR_RATIO = 0.25
"""Ratio of true to predicted change below which a step is poor."""
GOOD_RATIO = 0.75
"""Ratio of true to predicted change above which a step is good."""
SWAP_HALVINGS = 3
"""How often the swaps of the last rejected block are halved before it is given up."""


@dataclass(frozen=True)
class Rule:
    """accept : "none" applies everything, "model" what improves the model, "true-loss" what improves the loss.

    halve_swaps : whether a single rejected block is tried again with half of its swaps (mode select)
    """

    accept: Literal["true-loss", "model", "none"]
    halve_swaps: bool


@dataclass(frozen=True)
class Verdict:
    """accepted : the blocks to apply, possibly with fewer swaps;  loss : the acceptance loss with them applied

    true_change : the change of the acceptance loss if everything proposed is applied; None for both where the loss
    is not measured
    """

    accepted: list[StepBlock]
    loss: float | None
    true_change: float | None


def judge(
    proposed: list[StepBlock],
    predicted: float,
    rule: Rule,
    loss_after: Callable[[list[StepBlock]], float],
    loss: float | None,
    trust: float,
) -> Verdict:
    """Accept or reject the blocks that move, best prediction first.

    By true loss, a rejected set is halved until one block is left, then that block's swaps.

    Parameters
    ----------
    proposed : the blocks that move, best prediction first;  predicted : their joint E
    loss_after : the acceptance loss with the given blocks applied
    loss : the present one; None where it is not to be measured, which the rule "true-loss" cannot do without
    """
    applied = rule.accept == "none" or predicted < 0.0
    if loss is None:
        return Verdict(proposed if applied else [], None, None)
    if not proposed:
        return Verdict([], loss, 0.0)
    after = loss_after(proposed)
    change = after - loss
    if rule.accept != "true-loss":
        return Verdict(proposed if applied else [], after if applied else loss, change)
    trial, halvings = proposed, 0
    while after >= loss:
        if len(trial) > 1:
            trial = trial[: len(trial) // 2]
        else:
            halvings += 1
            half = half_of_swaps(trial[0], trust) if rule.halve_swaps else None
            if half is None or halvings > SWAP_HALVINGS:
                return Verdict([], loss, change)
            trial = [half]
        after = loss_after(trial)
    return Verdict(trial, after, change)


def adapted_trust(trust: float, least: float, predicted: float, change: float) -> float:
    """The next trust ridge: larger if the true change falls short of the prediction, smaller if it does not.

    Without any move it must fall too: if the ridge itself prevented all moves, the search would stop for good.
    """
    ratio = change / predicted if predicted < 0.0 else 1.0
    if ratio < POOR_RATIO:
        return min(trust * TRUST_GROWTH, least * TRUST_LIMIT)
    if ratio > GOOD_RATIO:
        return max(trust / TRUST_DECAY, least)
    return trust
