"""Options common to both QAOA solvers, checked in one place."""

from collections.abc import Mapping
from typing import Any

LEAST: Mapping[str, int] = {"reps": 1, "shots": 1, "parts": 1, "steps": 0, "qubits": 0, "recursion": 0}
"""The smallest value of each whole-number option."""
MOST: Mapping[str, int] = {"reps": 1000, "shots": 10_000_000}
"""The largest value: a layer is built gate by gate, and every shot is stored."""


def wrong_option(solver: Any, known: Mapping[str, tuple[str | None, ...]], least: Mapping[str, int]) -> str:
    """The first option of a solver that is out of range, with what to choose instead; "" if there is none.

    Parameters
    ----------
    known : the values an option may take; None among them means that the solver chooses
    least : the smallest value of a numeric option; options that are None are not checked
    """
    for option, choices in known.items():
        value = getattr(solver, option)
        if value not in choices:
            return f"{option} is {value!r}; choose one of {', '.join(name for name in choices if name is not None)}"
    for option, lowest in least.items():
        value = getattr(solver, option)
        if value is not None and value < lowest:
            return f"{option} is {value}; choose {lowest} or more"
    for option, highest in MOST.items():
        value = getattr(solver, option)
        if value is not None and value > highest:
            return f"{option} is {value}; choose at most {highest:,}"
    if solver.qubits == 1:
        return "qubits is 1, which leaves nothing to exchange; choose 2 or more, or 0 for the whole block"
    return ""
