"""Everything that a solution says of its group block, derived again as far as that goes.

Called by `prunebench.verification.verify`, whose verdicts and words it shares.
"""

import itertools
import math
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_proof import GroupProof
from prunebench.core.optimality import PROOF_TOLERANCE, is_proved
from prunebench.core.solution import Budget, Status
from prunebench.proofs.groups import proved_group_bound, record_bound
from prunebench.verification import (
    CONSISTENT,
    REFUTED,
    ROUNDING,
    VERIFIED,
    Verdict,
    read_array,
    read_mask,
    wrong_bound,
    wrong_entries,
)

ENUMERATED = 3000
"""Most masks that are tried one by one; each takes an inverse, a second or two for a layer of a hundred inputs."""


def verify_groups(block: GroupBlock, contents: dict[str, Any], proof: GroupProof | None, seconds: float) -> Verdict:
    """Check a solution against its group block; see `prunebench.verification.verify`."""
    block = block.in_mode(contents["mode"])
    mask, weights = read_mask(contents, block.p), _weights(contents, block)
    faults = wrong_entries(contents, block, mask, weights)
    value, rounding = block.form.loss(weights), block.form.rounding_of(weights)
    low, high = value - rounding, value + rounding
    reported = float(contents["objective"])
    slack = 2.0 * rounding + ROUNDING * abs(reported)
    if not low - slack <= reported <= high + slack:
        faults.append(f"the objective is {value:.12g}, not {reported:.12g}")
    given = contents.get("lower_bound")
    claimed = -math.inf if given is None else float(given)
    faults += wrong_bound(contents, claimed, reported, high + slack)
    needed = claimed - PROOF_TOLERANCE * abs(reported)
    bound, source, more = _support(block, proof, needed, seconds)
    faults += more
    derived = is_proved(high, bound) if contents.get("status") == Status.OPTIMAL else bound >= needed
    verdict, rests = VERIFIED, f"the {source}"
    nodes = (contents.get("details") or {}).get("nodes")
    if claimed == -math.inf:
        rests = "nothing: no bound is claimed"
    elif not derived and proof is None and isinstance(nodes, int) and nodes > 0:
        verdict, rests = CONSISTENT, f"a search of {nodes} nodes that is not re-derived: its bound is not checked here"
        faults += _refuted(block, mask, claimed, reported)
    elif not derived:
        rests = "nothing"
        given_by = "the proof proves" if proof is not None else "nothing in the file supports it; here is proved"
        faults.append(f"the lower bound {claimed:.12g} is not supported: {given_by} {bound:.12g}")
    return Verdict(
        verdict=REFUTED if faults else verdict,
        faults=tuple(faults),
        status=contents.get("status"),
        mode=block.mode,
        objective=reported,
        interval=(low, high),
        lower_bound=claimed,
        derived_bound=bound,
        rests_on=source,
        claim_rests_on=rests,
        derived_gap=block.gap(high, bound),
        nodes=nodes if isinstance(nodes, int) else None,
    )


def _support(
    block: GroupBlock, proof: GroupProof | None, needed: float, seconds: float
) -> tuple[float, str, list[str]]:
    """The best bound that is derived here, from what, and what is wrong with the proof."""
    faults: list[str] = []
    found: list[tuple[float, str]] = []
    if block.settled:
        found.append((record_bound(block, block.incumbent, ~block.incumbent, None), "only mask"))
    if proof is not None:
        try:
            found.append((proved_group_bound(block, proof), f"proof's {proof.records} records"))
        except InvalidInput as error:
            faults.append(str(error))
    enough = any(bound >= needed for bound, _ in found)
    if not enough and needed > -math.inf and block.mask_count <= ENUMERATED:
        found.append((_enumerated(block), f"enumeration of all {block.mask_count} masks, done here"))
    if not found:
        from prunebench.solving import solve

        own = solve(block, "group-exact", budget=Budget(seconds=seconds))
        found.append((own.lower_bound, "group-exact, run here"))
    best = max(found, key=lambda pair: pair[0])
    return best[0], best[1], faults


def _enumerated(block: GroupBlock) -> float:
    """A lower bound from every mask one by one."""
    lowest = np.inf
    for chosen in itertools.combinations(range(block.p), block.keep):
        kept: BoolArray = np.zeros(block.p, dtype=np.bool_)
        kept[list(chosen)] = True
        lowest = min(lowest, record_bound(block, kept, ~kept, None))
    return lowest


def _refuted(block: GroupBlock, mask: BoolArray, claimed: float, reported: float) -> list[str]:
    """A mask below the bound, where exchanges from the solution's mask find one."""
    from prunebench.solving import solve

    better = solve(block.with_start(mask), "group-swap", seed=0)
    if better.objective + block.rounding_of(better.weights) < claimed - PROOF_TOLERANCE * abs(reported):
        return [f"the bound {claimed:.12g} is false: another mask has the objective {better.objective:.12g}"]
    return []


def _weights(contents: dict[str, Any], block: GroupBlock) -> FloatArray:
    values = read_array("weights", contents["weights"])
    shape = (block.form.p, block.form.q)
    if values.dtype.kind not in "iuf" or values.shape != shape or not np.isfinite(values).all():
        raise InvalidInput(f"the solution's weights have shape {values.shape}; expected {shape}, all finite numbers")
    return values.astype(np.float64)
