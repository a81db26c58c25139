"""Backward elimination of groups: the cheapest group leaves at each step, all others refitted.

The rule of ZipLM (Kurtic, Frantar, Alistarh: ZipLM: Inference-Aware Structured Pruning of Language Models, NeurIPS
2023, §3.1): a structure costs what the loss rises by once all others compensate, and inverse and weights are updated
exactly after every removal. Written from the formulas; the paper's code is not used.
"""

from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.group_form import GroupForm
from prunebench.core.group_state import GroupState, best_group
from prunebench.core.stop import StopCheck, never


class GroupPath(NamedTuple):
    """A removal order and f at every count.

    order : int64 (C,)        groups in the order in which they leave; the last ones are those worth most
    values : float64 (C+1,)   values[k] is f with k groups kept: the last k of `order`
    """

    order: IndexArray
    values: FloatArray


def group_path(form: GroupForm, stop: StopCheck = never) -> GroupPath:
    """The greedy removal order from everything kept to nothing, with f at every count. O(p³)

    stop : asked before each removal with the number of removals; once it says stop, the groups left are removed in
           the order of their costs at that moment, whose values are then computed singly
    """
    count = form.groups
    state = GroupState(form, np.ones(count, dtype=np.bool_))
    order = np.empty(count, dtype=np.int64)
    values = np.empty(count + 1)
    values[count] = state.value
    for step in range(count):
        costs = state.changes()
        if stop(float(step)):
            rest = np.flatnonzero(state.kept)
            order[step:] = rest[np.argsort(costs[rest], kind="stable")]
            _value_singly(form, order, values, step)
            break
        leaving = best_group(costs, state.kept)
        state.move(leaving)
        order[step] = leaving
        values[count - step - 1] = state.value
    values[0] = form.constant
    return GroupPath(order, values)


def _value_singly(form: GroupForm, order: IndexArray, values: FloatArray, step: int) -> None:
    kept = np.zeros(form.groups, dtype=np.bool_)
    kept[order[step:]] = True
    for at in range(step, form.groups):
        kept[order[at]] = False
        values[form.groups - at - 1] = form.value(kept)
