"""Counts of calibration samples that fit what there is: a usual count must not stop a run on a small data set."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from prunebench.core import options as option_tools
from prunebench.core import recovery
from prunebench.core.coordinator import Coordinator
from prunebench.core.problem import NetworkProblem, ProblemLike
from prunebench.core.registry import COORDINATORS, RECOVERIES
from prunebench.runs.request import PruneRequest

Fixed = Mapping[str, Collection[str]]
"""Names that are a user's own word, by field of a request: a count among them is taken or refused, never lowered."""


def lowered(
    request: PruneRequest,
    problem: ProblemLike,
    fixed: Fixed,
    say: Callable[[str], None],
    *,
    own_recovery: bool = False,
) -> PruneRequest:
    """The request with every count that is not fixed and exceeds the calibration samples lowered to what there is.

    Parameters
    ----------
    fixed : by field, curvature or coordinator_options
    say : is told each count that is lowered
    own_recovery : whether counts of the request's recoveries are the user's own word too
    """
    if not isinstance(problem, NetworkProblem):
        return request
    kind: type[Coordinator] = COORDINATORS.get(request.coordinator)
    total = len(problem.calibration())
    table = "curvature" if "curvature" in kind.takes else "coordinator_options"
    asked: Mapping[str, Any] = getattr(request, table)
    counts = kind.fitted(asked, total, fixed.get(table, ()))
    for name, count in counts.items():
        say(f"{name.replace('_', ' ')} lowered to {count:,}: {problem.name} has {total:,} calibration samples")
    held = {**asked, **counts}.get("held_out")
    pool = total - (int(held) if held else recovery.held_out(total))
    recover = request.recover
    if recover is not None:
        recover = [_fitted_text(text, pool, own_recovery, say) for text in recover]
    tables: dict[str, Any] = {table: {**asked, **counts}}
    return replace(request, recover=recover, **tables)


def _fitted_text(text: str, pool: int, own: bool, say: Callable[[str], None]) -> str:
    """A recovery's text with no more samples than `pool`, where it would refuse them."""
    name, options = recovery.parts_of(text)
    if name == recovery.NONE or (own and "samples" in options) or not RECOVERIES.get(name).needs_samples:
        return text
    samples = getattr(option_tools.build(RECOVERIES.get(name), options), "samples", 0)
    if samples <= pool:
        return text
    say(f"recovery {name}: samples lowered to {pool:,}: no more are not held out")
    parts = ",".join(f"{key}={value}" for key, value in {**options, "samples": str(pool)}.items())
    return f"{name}:{parts}"
