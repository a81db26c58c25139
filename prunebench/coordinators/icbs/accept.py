"""Which of a step's answers are applied, and how the trust ridge answers to broken promises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from prunebench.coordinators.icbs.step import StepBlock, half_of_swaps

TRUST_GROWTH = 4.0
"""Factor of the adaptive trust ridge after a poor step."""
TRUST_DECAY = 2.0
"""Divisor of the adaptive trust ridge after a good step, never below the least."""
TRUST_LIMIT = 4.0**8
"""The adaptive trust ridge is at most this many times the least: eight poor steps in a row."""
POOR_RATIO = 0.25
"""True change over predicted change below which a step was poor."""
GOOD_RATIO = 0.75
"""True change over predicted change above which a step was good."""
SWAP_HALVINGS = 3
"""How often the swaps of the last rejected block are halved before it is given up."""


@dataclass(frozen=True)
class Rule:
    """accept : "none" applies everything, "model" what the model says improves, "true-loss" what does.

    halve_swaps : whether a single rejected block is tried again with half of its swaps (mode select)
    """

    accept: Literal["true-loss", "model", "none"]
    halve_swaps: bool


@dataclass(frozen=True)
class Verdict:
    """accepted : the blocks to apply, perhaps with fewer swaps;  loss : the acceptance loss then;

    true_change : how applying all that was proposed changes the acceptance loss
    """

    accepted: list[StepBlock]
    loss: float
    true_change: float


def judge(
    proposed: list[StepBlock],
    predicted: float,
    rule: Rule,
    loss_after: Callable[[list[StepBlock]], float],
    loss: float,
    trust: float,
) -> Verdict:
    """Accept or reject the blocks that move, best prediction first.

    By true loss, a rejected set is halved until it is one block, and that block's swaps after it.

    Parameters
    ----------
    proposed : the blocks that move, best prediction first;  predicted : their joint E
    loss_after : the acceptance loss with some blocks applied;  loss : as it is now
    """
    if not proposed:
        return Verdict([], loss, 0.0)
    after = loss_after(proposed)
    change = after - loss
    if rule.accept != "true-loss":
        applied = rule.accept == "none" or predicted < 0.0
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
    """The next trust ridge: larger where the model promised too much, smaller where it kept its word.

    Where the ridge forbade every move it must fall again, or the search would stand still for ever.
    """
    ratio = change / predicted if predicted < 0.0 else 1.0
    if ratio < POOR_RATIO:
        return min(trust * TRUST_GROWTH, least * TRUST_LIMIT)
    if ratio > GOOD_RATIO:
        return max(trust / TRUST_DECAY, least)
    return trust
