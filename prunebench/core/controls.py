"""The names of the controls of a trained mask. Loads no torch."""

from collections.abc import Mapping, Sequence

from prunebench.core.errors import InvalidInput, unknown_name

CONTROLS: Mapping[str, str] = {
    "reinit": "the same mask, its weights initialised anew",
    "random": "a random mask with as many weights in every layer, from the values of their places",
    "shuffle": "the kept weights moved, with their values, to random places of their layers",
    "one-shot": "the largest dense weights, as many in every layer",
    "small-dense": "a dense network with narrower hidden layers and at most as many weights",
}
"""What a mask that was trained is compared with, under the same protocol.

Frankle, Carbin: The Lottery Ticket Hypothesis, 2019 (reinit, random, one-shot); Su et al.: Sanity-Checking Pruning
Methods, 2020 (shuffle); Zhu, Gupta: To Prune, or Not to Prune, 2017 (small-dense).
"""

GROUPS: Mapping[str, str] = {
    **CONTROLS,
    "reinit": "the same groups, all their weights initialised anew",
    "random": "random groups, as many of every family, from the values of their places",
    "shuffle": "the smaller network's weights moved, with their values, to random places of their layers",
    "one-shot": "the groups of the largest dense weights, as many of every family",
}
"""The same where whole groups were kept, and what is trained is a smaller network."""


def require_controls(names: Sequence[str]) -> None:
    """Refuse a control that there is not, or one that is asked for twice.

    Raises
    ------
    UnknownName    with the nearest match
    InvalidInput   one is named twice
    """
    for name in names:
        if name not in CONTROLS:
            raise unknown_name("control", name, CONTROLS)
        if list(names).count(name) > 1:
            raise InvalidInput(f"control {name!r} is asked for twice; leave one out")
