"""Exchange descent over kept groups: one leaves, one enters, all others are refitted, until no pair lowers f."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.group_form import GroupForm
from prunebench.core.group_state import GroupState
from prunebench.core.stop import Stop, StopCheck

Improvement = Literal["first", "best"]
"""first: take the first kept group with an exchange that lowers f; best: the best of all pairs."""
GAIN = 1e-9
"""An exchange counts only if it lowers f by this share of |f|: far above rounding, far below what matters."""


@dataclass(frozen=True, eq=False)
class DescentEnd:
    """Where a descent ended.

    mask : bool (C,);  value : float, f of it
    moves : exchanges made;  evaluations : exchanges valued
    locally_optimal : whether every exchange was valued on a fresh table and none lowers f by more than GAIN of it
    stopped : why it was cut short, None if it was not
    """

    mask: BoolArray
    value: float
    moves: int
    evaluations: float
    locally_optimal: bool
    stopped: Stop | None


def descend(form: GroupForm, mask: BoolArray, improvement: Improvement, stop: StopCheck) -> DescentEnd:
    """Exchange kept and dropped groups from `mask` on while f falls.

    Kept groups are tried in the order of what dropping them alone costs, each with every dropped group. All values
    are exact: one kept group with all partners costs O(C·(n³ + n²·r)) for groups of n inputs, a move O(p²n).

    stop : asked before each kept group with the exchanges valued so far
    """
    state = GroupState(form, mask)
    moves, evaluations = 0, 0.0
    lowest = state.value
    while True:
        leaving, entering, change, valued, stopped = _exchange(state, improvement, stop, evaluations)
        evaluations += valued
        if stopped is not None:
            return DescentEnd(state.kept, state.value, moves, evaluations, False, stopped)
        if change < -GAIN * abs(state.value):
            state.move(leaving)
            state.move(entering)
            moves += 1
            continue
        if state.moves == 0:
            return DescentEnd(state.kept, state.value, moves, evaluations, True, None)
        state.refresh()
        if not state.value < lowest:
            # rounding hid that the last moves gained nothing: the table is new, so one look at it is exact
            leaving, entering, change, valued, stopped = _exchange(state, improvement, stop, evaluations)
            proved = stopped is None and not change < -GAIN * abs(state.value)
            return DescentEnd(state.kept, state.value, moves, evaluations + valued, proved, stopped)
        lowest = state.value


def _exchange(
    state: GroupState, improvement: Improvement, stop: StopCheck, spent: float
) -> tuple[int, int, float, float, Stop | None]:
    """The exchange to make: leaving, entering, its change of f, how many were valued, and why to stop now."""
    costs = state.changes()
    kept = np.flatnonzero(state.kept)
    partners = state.kept.size - kept.size
    best = (-1, -1, np.inf)
    valued = 0.0
    for leaving in kept[np.argsort(costs[kept], kind="stable")]:
        if stopped := stop(spent + valued):
            return (*best, valued, stopped)
        changes = state.exchanges(int(leaving))
        valued += partners
        entering = int(np.argmin(changes))
        if changes[entering] < best[2]:
            best = (int(leaving), entering, float(changes[entering]))
        if improvement == "first" and best[2] < -GAIN * abs(state.value):
            break
    return (*best, valued, None)
