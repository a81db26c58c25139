"""Which recipe `auto` takes: rules on what can be measured of any network and its data, never on a problem's name.

The first rule that holds decides. docs/recipes.md states them, and what was measured with each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunebench.recipes.traits import Traits

FEW_KEPT = 8000
"""Kept weights that models of the whole loss can settle: some thousand gradient rows say something of each."""

LITTLE_LEFT = 0.05
"""Density below which small steps pay: on MLPNet at 0.02 they gave 0.7 points (docs/coordinators.md)."""

ROWS_HELD = 300_000
"""Weights of which 1,000 gradient rows are held at once: 1.2 GB."""

SETTLED = 1_000_000
"""Kept weights of which 500 gradient rows are held at once: 2 GB, and as much again while they are gathered."""

COPIED = 50_000_000
"""Weights of a network of which a second copy is run beside it, and whose layers a search of some seconds can take."""


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

    @property
    def staged(self) -> bool:
        """Whether models of the whole loss are within reach: of how many weights, and to settle how many."""
        return not self.traits.tokens and self.kept <= FEW_KEPT and self.traits.weights <= ROWS_HELD


@dataclass(frozen=True)
class Rule:
    """A recipe, when it is taken, and why, as a person reads it."""

    recipe: str
    holds: Callable[[Asked], bool]
    reason: Callable[[Asked], str]


RULES: Sequence[Rule] = (
    Rule("one-block", lambda asked: not asked.traits.network, lambda _asked: "there is no network, but one block"),
    Rule(
        "staged-deep",
        lambda asked: asked.staged and asked.density < LITTLE_LEFT,
        lambda asked: (
            f"{asked.kept:,.0f} weights are kept, few enough for models of the whole loss and many small steps"
        ),
    ),
    Rule(
        "staged",
        lambda asked: asked.staged,
        lambda asked: f"{asked.kept:,.0f} weights are kept, few enough for models of the whole loss",
    ),
    Rule(
        "icbs-strongest",
        lambda asked: not asked.traits.walkable,
        lambda asked: f"its layers cannot be pruned one by one: {asked.traits.hindrance}",
    ),
    Rule(
        "layers-refitted",
        lambda asked: (
            asked.traits.batch_norm
            and asked.traits.convolutions
            and asked.traits.refittable
            and asked.traits.weights <= SETTLED
            and not asked.grouped
        ),
        lambda _asked: "it has convolutions and batch norms, and layers that can be refitted to their outputs",
    ),
    Rule(
        "sparsegpt",
        lambda asked: asked.traits.weights > COPIED,
        lambda asked: f"there are {asked.traits.weights:,} weights, too many for a second copy beside the network",
    ),
    Rule(
        "tokens",
        lambda asked: asked.traits.tokens and asked.kept <= SETTLED,
        lambda asked: f"samples are rows of tokens, and {asked.kept:,.0f} weights are few enough to settle at the end",
    ),
    Rule(
        "layers-settled",
        lambda asked: asked.kept <= SETTLED,
        lambda asked: f"{asked.kept:,.0f} weights are kept: too many for stages, few enough to settle at the end",
    ),
    Rule(
        "layers",
        lambda _asked: True,
        lambda asked: f"{asked.kept:,.0f} weights are kept, too many for any model of the whole loss",
    ),
)
"""In the order in which they are tried."""


def chosen(asked: Asked) -> tuple[str, str]:
    """Name of the recipe, and the reason in words."""
    rule = next(rule for rule in RULES if rule.holds(asked))
    return rule.recipe, rule.reason(asked)
