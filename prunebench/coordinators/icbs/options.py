"""The options of iCBS, validated at construction."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from prunebench.coordinators.quotas import QuotaKind
from prunebench.core.errors import InvalidInput, unknown_name

SELECTIONS = ("gradient", "magnitude", "wanda", "random", "cyclic", "coupling")
"""Ways to pick a block."""
BY_GRADIENT = ("gradient", "coupling")
"""Those that look at the mean gradient."""
INITS = ("magnitude", "gradient", "wanda", "random")
"""Scores for the first mask."""


@dataclass(frozen=True, kw_only=True)
class ICBSOptions:
    """Options of iCBS; the defaults for selection, fractions, scale and ridge are the published ones.

    Raises
    ------
    InvalidInput   a count, fraction or name is invalid; the message names it
    """

    steps: int = 90
    """Steps, each with one gradient pass."""

    block_size: int = 1024
    """Weights in a block."""

    blocks_per_step: int = 1
    """Disjoint blocks that share one gradient pass and may be solved side by side."""

    samples: int = 200
    """Fresh calibration samples a step, for scores, gradient and curvature."""

    gradient_scale: float = 0.75
    """Factor of the mean gradient in the block's model."""

    ridge: float = 1e-3
    """Trust ridge: the block's model adds ridge·‖movement‖²."""

    trust: Literal["fixed", "adaptive"] = "fixed"
    """Whether the ridge stays, or grows fourfold where the loss falls by less than a quarter of what was predicted."""

    select: str = "gradient"
    """How a block is picked: gradient, magnitude, wanda, random, cyclic or coupling."""

    init: str = "magnitude"
    """The score of the first mask: magnitude, gradient, wanda or random."""

    init_scope: Literal["layer", "row", "network"] = "layer"
    """Whether the first mask has one density per layer, per output row, or only in total (a quota overrides this)."""

    quota: str | None = None
    """What every mask keeps exactly: none, layer, row (each output row), or N:M along the inputs, such as 2:4."""

    fixed_pruned: float = 0.42
    """Share of each layer's pruned weights, lowest scores first, that stays pruned for the whole run."""

    fixed_kept: float = 0.35
    """Share of each layer's kept weights, highest scores first, that stays kept for the whole run."""

    tabu: float = 0.4
    """Share of each group's candidates, most recently visited first, that must wait."""

    layers: Literal["log-size", "gain"] = "log-size"
    """How layers are drawn: by the logarithm of their size, or by their recent gain a step."""

    block_scope: Literal["layer", "network"] = "layer"
    """Whether a block stays in one layer, or takes weights of all (per-layer density may then move)."""

    accept: Literal["true-loss", "model", "none"] = "true-loss"
    """When an answer is applied: if the loss on unseen samples falls, if the model says so, or always."""

    evaluate: bool = False
    """Measure the loss after each step also where no rule needs it, for the log; the best state is the result then."""

    accept_samples: int | None = None
    """Calibration samples set apart for acceptance; none: 2,000, or a quarter of all below 8,000."""

    conflict: float = 0.25
    """Blocks that lose more than this part of their gain to the others of the step are solved again in turn."""

    ablation: Literal["", "clip-negative"] = ""
    """"clip-negative" drops negative QUBO entries, the fault of the released program, to show what it costs."""

    def __post_init__(self) -> None:
        for name in ("steps", "block_size", "blocks_per_step", "samples", "accept_samples"):
            value = getattr(self, name)
            if name == "accept_samples" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < (0 if name == "steps" else 1):
                raise InvalidInput(f"coordinator icbs: {name} is {value!r}; choose a whole number from 1")
        if self.block_size < 2:
            raise InvalidInput("coordinator icbs: block_size is 1; a swap needs 2 weights")
        for name in ("fixed_pruned", "fixed_kept", "tabu"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise InvalidInput(f"coordinator icbs: {name} is {value!r}; choose a number from 0 to below 1")
        for name in ("gradient_scale", "ridge", "conflict"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0.0):
                raise InvalidInput(f"coordinator icbs: {name} is {value!r}; choose a number that is not negative")
        for what, value, known in (("selection", self.select, SELECTIONS), ("init score", self.init, INITS)):
            if value not in known:
                raise unknown_name(what, value, known)
        _ = self.quota_kind
        if self.select == "coupling" and self.block_size > 1024:
            raise InvalidInput("coordinator icbs: select=coupling takes blocks of at most 1024 weights")

    @property
    def needs_loss(self) -> bool:
        """Whether the loss on the samples set apart is measured at every step."""
        return self.evaluate or self.accept == "true-loss" or self.layers == "gain"

    @cached_property
    def quota_kind(self) -> QuotaKind:
        """The quota, parsed."""
        return QuotaKind.parse(self.quota)
