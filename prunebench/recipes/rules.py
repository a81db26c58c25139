"""Which recipe `auto` takes: rules on what can be measured of any network and its data, never on a problem's name.

The first rule that holds decides. docs/recipes.md states them, and what was measured with each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunebench.recipes.traits import Traits

FEW_KEPT = 8000
"""Kept weights that models of the whole loss can settle: some thousand gradient rows say something of each."""


@dataclass(frozen=True)
class Asked:
    """What a rule looks at: the problem's traits, and the request.

    density : the part that is kept;  grouped : whether a quota is asked for (row, layer, or N:M)
    """

    traits: Traits
    density: float
    grouped: bool

    @property
    def kept(self) -> float:
        """How many weights are kept."""
        return self.density * self.traits.weights


@dataclass(frozen=True)
class Rule:
    """A recipe, when it is taken, and why, as a person reads it."""

    recipe: str
    holds: Callable[[Asked], bool]
    reason: Callable[[Asked], str]


RULES: Sequence[Rule] = (
    Rule("one-block", lambda asked: not asked.traits.network, lambda _asked: "there is no network, but one block"),
    Rule(
        "staged",
        lambda asked: not asked.traits.tokens and asked.kept <= FEW_KEPT,
        lambda asked: f"{asked.kept:,.0f} weights are kept, few enough for models of the whole loss",
    ),
    Rule(
        "staged",
        lambda asked: not asked.traits.walkable,
        lambda asked: f"its layers cannot be pruned one by one: {asked.traits.hindrance}",
    ),
    Rule(
        "staged-layers",
        lambda asked: asked.traits.batch_norm and asked.traits.convolutions and not asked.grouped,
        lambda _asked: "convolutions with batch norm, which stages of refitted layers keep in step",
    ),
    Rule(
        "layers",
        lambda asked: asked.traits.tokens,
        lambda _asked: "targets are tokens: each layer has many more inputs than the loss has values",
    ),
    Rule(
        "layers",
        lambda _asked: True,
        lambda asked: f"{asked.kept:,.0f} weights are kept, too many for a model of the whole loss",
    ),
)
"""In the order in which they are tried."""


def chosen(asked: Asked) -> tuple[str, str]:
    """Name of the recipe, and the reason in words."""
    rule = next(rule for rule in RULES if rule.holds(asked))
    return rule.recipe, rule.reason(asked)
