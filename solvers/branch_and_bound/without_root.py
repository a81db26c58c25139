"""Mode select where the limit is too short for the root relaxation: the Lagrangian dual's bound, and a better mask.

The relaxation's iterations take O(p³) each, 0.6 s at p = 1024, and its bound is useless before the last ones. What it
will take is known before, so it is not begun where it would not fit. Whether it is depends on the block's size and the
limit only, not on the clock.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from prunebench.core.block import BlockProblem
from prunebench.core.solver import Incumbent, Stop
from prunebench.kernels.relaxations.bounds import lagrangian
from prunebench.kernels.relaxations.shift import seconds_of

if TYPE_CHECKING:
    from prunebench.kernels.local_search.iterated import Iterated

ROOT_SHARE = 0.9
"""Share of the limit that the root relaxation may take, as estimated; the first mask and its end take the rest."""
KICKS_A_WEIGHT = 2
"""Kicks per weight in an iterated descent for an incumbent, before it is offered."""
BOUND_SHARE = 0.5
"""Share of the limit after which the search for the Lagrangian bound ends; the rest goes to the mask."""


def root_seconds(block: BlockProblem) -> float:
    """About how long the root relaxations take: with a quota or a budget there are two."""
    relaxations = 1 if block.budget is None and block.keeping.one_count else 2
    return relaxations * seconds_of(block.p)


def fits(best: Incumbent) -> bool:
    """Whether the root relaxation fits the limit."""
    return root_seconds(best.block) <= ROOT_SHARE * best.budget.seconds


def _stop_bounding(best: Incumbent, spent: float) -> Stop | None:
    late = best.seconds >= BOUND_SHARE * best.budget.seconds
    return best.time_limit() if late else best.stop()


def settle_for_less(best: Incumbent, improver: "Iterated | None") -> tuple[Stop, dict[str, Any]]:
    """Bound the block by the Lagrangian dual and improve the mask until a limit is met.

    improver : None where the masks obey a quota or a budget
    Returns why it ended, and what the certificate is to say.
    """
    block = best.block
    told = f"the root relaxation, some {root_seconds(block):.1f} s, did not fit"
    held: dict[str, Any] = {}
    if block.form.strong_convexity is not None and not best.stop():
        value, proof = lagrangian(block, partial(_stop_bounding, best))
        best.bound(value)
        held = {"root_bound": min(value, best.objective), "tolerance": 0.0, **proof}
        told += ", the bound is the Lagrangian dual's"
    while improver is not None and not best.stop():
        best.offer(improver.run(best.mask, KICKS_A_WEIGHT * block.p, lambda _: best.stop()), "kicks")
    return (best.stop() or Stop.finished("a descent and the Lagrangian dual")).also(told), held
