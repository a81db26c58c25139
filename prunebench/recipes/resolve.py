"""From a recipe and what is given beside it to the request of a run."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prunebench.coordinators.quotas import QuotaKind
from prunebench.core.errors import unknown_name
from prunebench.core.masks import keep_count
from prunebench.core.problem import NetworkProblem, ProblemLike
from prunebench.recipes import rules
from prunebench.recipes.recipe import EFFORTS, NORMAL, OPTION_TABLES, Recipe, find
from prunebench.recipes.traits import loaded, traits_of
from prunebench.runs.counts import lowered
from prunebench.runs.request import SCOPES, PruneRequest

AUTO = "auto"
"""The name that stands for the recipe which the rules choose."""

BY_HAND = ("coordinator", "solver", "mode", "scope", "start")
"""Who gives one of these chooses by hand: `auto` is left out then."""

OF_COORDINATOR = ("mode", "scope", "recover", "coordinator_options", "curvature")
"""What of a recipe is meant for its coordinator, and dropped where another is given."""
OF_SOLVER = ("mode", "solver_options")
"""What of a recipe is meant for its solver, and dropped where another is given."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """The recipe that a run goes by, None where everything is chosen by hand.

    name : what was asked for;  why : the reason of the rules, "" where the recipe was named
    network : the problem's network where it was loaded to choose, as it was loaded, for the run to go on with
    """

    name: str | None
    recipe: Recipe | None = None
    why: str = ""
    effort: str | None = None
    network: Any = field(default=None, compare=False, repr=False)

    @property
    def line(self) -> str:
        """What the user is told at the start; "" where there is nothing to tell."""
        if self.recipe is None:
            return ""
        if self.why:
            return f"recipe {AUTO}: chose {self.recipe.name}, effort {self.effort}, because {self.why}"
        return f"recipe {self.name}: {self.recipe.summary}"


def choose(
    problem: ProblemLike,
    density: float,
    *,
    recipe: str | None = AUTO,
    effort: str = NORMAL,
    given: Mapping[str, Any] | None = None,
    network: Any = None,
) -> Choice:
    """The recipe for a problem: the one that is named, or for "auto" what the rules choose.

    given : fields of `PruneRequest` that are given beside it; see BY_HAND
    network : the problem's, where it is loaded already

    Raises
    ------
    InvalidInput   no such recipe or effort, a density or quota that cannot be, or data are missing
    """
    held = dict(given or {})
    if effort not in EFFORTS:
        raise unknown_name("effort", effort, EFFORTS)
    if recipe is None or (recipe == AUTO and _by_hand(held)):
        return Choice(None)
    if recipe != AUTO:
        found = find(recipe)
        return Choice(recipe, found.at(effort), effort=effort if effort in found.efforts else None)
    keep_count(density, 10**12)
    quota = QuotaKind.parse(dict(held.get("coordinator_options") or {}).get("quota"))
    if network is None and isinstance(problem, NetworkProblem):
        network = loaded(problem)
    name, why = rules.chosen(rules.Asked(traits_of(problem, network), density, quota.grouped))
    return Choice(AUTO, dataclasses.replace(find(name).at(effort), name=name), why, effort, network)


ROUNDED = "layers"
"""The recipe where levels of so many bits are asked for and nothing else is named: rounding needs Gram matrices, and
weights that no step moves afterwards."""


def default_recipe(given: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The recipe where none is named.

    given : fields of `PruneRequest` that are given;  options : of whoever has them, by name
    """
    rounds = any(options.get(name) is not None for name in ("bits", "coordinator.bits"))
    return ROUNDED if rounds and given.get("coordinator") is None else AUTO


def _by_hand(given: Mapping[str, Any]) -> bool:
    return any(given.get(name) not in (None, SCOPES[0] if name == "scope" else None) for name in BY_HAND)


def request_of(
    problem: ProblemLike,
    density: float,
    *,
    recipe: str | None = AUTO,
    effort: str = NORMAL,
    given: Mapping[str, Any] | None = None,
    say: Say = lambda _line: None,
) -> PruneRequest:
    """The request that a recipe makes for a problem; what is given goes over it.

    Parameters
    ----------
    problem : a problem object
    density : the part of the weights that is kept
    recipe : a name, the path of a TOML file, "auto" for what the rules choose, or None for no recipe
    effort : quick, normal or thorough
    given : fields of `PruneRequest` beside problem and density. Tables of options are laid over the recipe's key by
            key; all else takes its place. A coordinator or solver other than the recipe's drops what the recipe says
            for its own. With "auto", one of BY_HAND leaves the recipe out
    say : is told the choice, and which counts are lowered because there are fewer samples

    Raises
    ------
    InvalidInput   as `choose`, a field that a request does not have, or a mode, coordinator or solver that is unknown
    """
    held = {name: value for name, value in dict(given or {}).items() if value is not None}
    choice = choose(problem, density, recipe=recipe, effort=effort, given=held)
    return resolved(choice, problem, density, held, say)


def resolved(
    choice: Choice, problem: ProblemLike, density: float, given: Mapping[str, Any], say: Say = lambda _line: None
) -> PruneRequest:
    """`request_of` once the recipe is chosen."""
    known = {item.name for item in dataclasses.fields(PruneRequest)} - {"problem", "density", "recipe", "effort"}
    for name in given:
        if name not in known:
            raise unknown_name("field of a pruning request", name, known)
    if choice.line:
        say(choice.line)
    base = {} if choice.recipe is None else kept_fields(choice.recipe, given)
    fields: dict[str, Any] = {**base, **given}
    for name in OPTION_TABLES:
        fields[name] = {**base.get(name, {}), **given.get(name, {})}
    request = PruneRequest(
        problem=problem.name, density=density, recipe=_recorded(choice), effort=choice.effort, **fields
    )
    return lowered(request, problem, _fixed(given), say) if choice.recipe is not None else request


def kept_fields(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request that a recipe sets beside what is given: without those of what is replaced."""
    out = recipe.request_fields
    for part, owned in (("coordinator", OF_COORDINATOR), ("solver", OF_SOLVER)):
        if given.get(part) not in (None, out[part]):
            for name in owned:
                out.pop(name, None)
    return {name: value for name, value in out.items() if value is not None}


def _recorded(choice: Choice) -> str | None:
    """What run.json says of the recipe: the name asked for, with the one that auto chose."""
    return f"{AUTO}:{choice.recipe.name}" if choice.why and choice.recipe is not None else choice.name


def _fixed(given: Mapping[str, Any]) -> dict[str, set[str]]:
    """The options that are the user's own word, by table."""
    return {name: set(given.get(name, {})) for name in ("coordinator_options", "curvature")}
