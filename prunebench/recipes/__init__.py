"""Recipes: named ways to prune, and the rules by which `auto` chooses one of them.

A recipe is a small TOML file that says coordinator, solver, mode, options and recovery. `request_of` makes the request
of a run out of a recipe and what is given beside it.
"""

from prunebench.recipes.recipe import EFFORTS, NORMAL, Recipe, find, names, parsed
from prunebench.recipes.resolve import AUTO, BY_HAND, Choice, choose, default_recipe, request_of, resolved
from prunebench.recipes.rules import RULES
from prunebench.recipes.traits import Traits, loaded, traits_of

__all__ = [
    "AUTO",
    "BY_HAND",
    "EFFORTS",
    "NORMAL",
    "RULES",
    "Choice",
    "Recipe",
    "Traits",
    "choose",
    "default_recipe",
    "find",
    "loaded",
    "names",
    "parsed",
    "request_of",
    "resolved",
    "traits_of",
]
