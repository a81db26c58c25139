"""What a run tells once of its network: what is not pruned or reached, how gradients are had, whether it repeats."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunebench.networks.chosen import Group

MOST_NAMES = 6
"""Names that a line of text lists; run.json has all."""


def as_json(not_pruned: Sequence["Group"], found: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as run.json holds them under "network".

    found : the coordinator's `network_facts`
    """
    return {"not_pruned": [dataclasses.asdict(group) for group in not_pruned], **found}


def lines(facts: Mapping[str, Any]) -> list[str]:
    """The same for people, a line a fact; what went as usual takes none."""
    out = []
    groups = facts["not_pruned"]
    if groups:
        total = sum(group["weights"] for group in groups)
        out.append(f"not pruned: {_matrices(sum(group['matrices'] for group in groups))}, {total:,} weights")
        for group in groups:
            counted = f"{_matrices(group['matrices'])} of {group['kind']}, {group['weights']:,} weights"
            out.append(f"  {counted}: {_names(group['names'])}")
    tied = facts.get("tied") or {}
    if tied:
        pairs = [f"{name} (also {', '.join(others)})" for name, others in tied.items()]
        out.append(f"pruned once, in all their uses: {_matrices(len(pairs))}: {_names(pairs)}")
    out += left_dense_lines(facts)
    out += [
        f"not refitted by recovery layers: {_matrices(held['matrices'])}, {held['weights']:,} weights: "
        f"{_names(held['names'])}: {held['reason']}"
        for held in facts.get("not_refitted") or []
    ]
    out += reached_lines(facts)
    way = facts.get("gradients")
    if way is not None:
        checked = (
            f", equal to those of plain autograd on {way['samples']} samples to {way['error']:.1g} of each layer's"
            if way["way"] != "one by one"
            else ""
        )
        rejected = "".join(f"; not by {name}: {reason}" for name, reason in way["rejected"].items())
        cost = ", a backward pass for each" if way["way"] == "one by one" else ""
        out.append(f"sample gradients: {way['way']}{cost}{checked}{rejected}")
    noise = facts.get("unrepeatable")
    if noise:
        out.append(
            f"the same samples give other outputs when they are sent through twice, by {100 * noise:.2g} % of the "
            "largest: something is random in evaluation mode (dropout by function without training=self.training?), "
            "so losses and gradients are noisy and the mask follows the noise"
        )
    return out


def left_dense_lines(facts: Mapping[str, Any]) -> list[str]:
    """Which layers the coordinator leaves as they are, and why; nothing where it prunes all that is prunable."""
    held = facts.get("left_dense") or []
    if not held:
        return []
    matrices, weights = (sum(group[name] for group in held) for name in ("matrices", "weights"))
    out = [f"left dense: {_matrices(matrices)}, {weights:,} weights; the density is of the other prunable ones"]
    for group in held:
        counted = f"{_matrices(group['matrices'])}, {group['weights']:,} weights"
        out.append(f"  {counted}: {_names(group['names'])}: {group['reason']}")
    return out


def reached_lines(facts: Mapping[str, Any]) -> list[str]:
    """What no sample reaches, for people; nothing where all weights are reached."""
    held = facts.get("unreached")
    if held is None:
        return []
    out = []
    layers, weights = held["layers"], held["weights"]
    which = f"none of {held['samples']} samples reaches"
    if layers["matrices"]:
        counted = f"{_matrices(layers['matrices'])}, {layers['weights']:,} weights"
        out.append(f"{which} {counted}: {_names(layers['names'])} (exclude= leaves them as they are)")
    if weights:
        listed = [f"{name} {count:,}" for name, count in weights.items()]
        where = "weights in other layers" if layers["matrices"] else "weights"
        out.append(f"{which} {sum(weights.values()):,} {where}: {_names(listed)}")
    return out


def _names(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f", and {more} more" if more > 0 else "")


def _matrices(count: int) -> str:
    return f"{count:,} matrices" if count != 1 else "1 matrix"
