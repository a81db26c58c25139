"""Whether a network with zeros in place of some groups gives the same as the network without them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.func import functional_call

from prunebench.core.arrays import BoolArray
from prunebench.structure.branches import masked_program
from prunebench.structure.families import LAYERS, Family
from prunebench.structure.module import difference as difference_of
from prunebench.structure.resize import Living, masked_state, shrunk_program, state_of
from prunebench.structure.trace import Coupling

TOLERANCE = 1e-4
"""Largest difference of outputs, relative to the largest output, that is taken for rounding: float32 through some
hundred layers stays below 1e-5, and a wrong index changes outputs in their first digits."""

SHARE = 0.25
"""The part of a family that a check removes."""


@dataclass(frozen=True)
class Checked:
    """What a check found.

    families : that were removed from together
    difference : largest difference of outputs relative to the largest output; NaN where the smaller graph does not run
    reason : why they cannot be pruned; "" if it can
    """

    families: tuple[Family, ...]
    difference: float
    reason: str = ""


def check(coupling: Coupling, families: Sequence[Family], seed: int = 0) -> tuple[Checked, ...]:
    """Check every family: a random quarter of its groups is removed, masked outputs against shrunk ones.

    Families that no operation crosses are removed from together, and one by one where that fails.
    """
    rng = np.random.default_rng(seed)
    masks = {}
    for family in families:
        mask = np.ones(family.size, dtype=bool)
        mask[rng.choice(family.size, max(1, int(SHARE * family.size)), replace=False)] = False
        masks[family.kind, family.name] = mask
    # branches apart: what is inside of one that is gone would not be checked
    plain = [family for family in families if not family.crossed_by and family.kind != LAYERS]
    layers = [family for family in families if family.kind == LAYERS]
    sound: dict[str, float] = {}
    for part in (plain, layers):
        together = checked(coupling, part, [masks[item.kind, item.name] for item in part]) if part else None
        if together is not None and not together.reason:
            sound |= {family.label: together.difference for family in part}
    return tuple(
        Checked((family,), sound[family.label])
        if family.label in sound
        else checked(coupling, [family], [masks[family.kind, family.name]])
        for family in families
    )


def checked(coupling: Coupling, families: Sequence[Family], masks: Sequence[BoolArray]) -> Checked:
    """Check families with these groups kept."""
    held = tuple(families)
    crossed = next((family.crossed_by for family in held if family.crossed_by), "")
    try:
        found = difference(coupling, held, masks)
    except Exception as error:  # the smaller graph may stop in any operation
        where = f"; {crossed} goes across it" if crossed else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Checked(held, float("nan"), f"the smaller network does not run ({reason}){where}")
    if found <= TOLERANCE:
        return Checked(held, found)
    what = crossed or "an operation"
    return Checked(
        held, found, f"{what} mixes its groups: without some, outputs differ by {found:.1e} from zeros there"
    )


def difference(coupling: Coupling, families: Sequence[Family], kept: Sequence[BoolArray]) -> float:
    """Largest difference between masked and shrunk outputs on the example, relative to the largest output."""
    living = Living(coupling, families, kept)
    state = state_of(coupling)
    with torch.no_grad():
        program = masked_program(coupling.program, living.gone)
        masked = functional_call(program, masked_state(coupling, state, living), (coupling.example,))
        shrunk = shrunk_program(coupling, state, living, share=True)(coupling.example)
    return difference_of(masked, shrunk)
