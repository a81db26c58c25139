"""List the recipes: named ways to prune, with what they ask for, their paper, cost, and what they are good for."""

import argparse
from typing import Any

from prunebench import recipes
from prunebench.core.recovery import NONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One optional name."""
    parser.add_argument("name", nargs="?", help="only this recipe, or that of a TOML file, with all that it asks for")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The recipes that come with prunebench, or one of them, or that of a file."""
    listed = [arguments.name] if arguments.name else recipes.names()
    return {"recipes": [_row(recipes.find(name)) for name in listed], "detail": bool(arguments.name)}


def _row(recipe: recipes.Recipe) -> dict[str, Any]:
    texts = {name: getattr(recipe, name) for name in ("name", "summary", "good_for", "cost", "paper")}
    return {**texts, **recipe.request_fields, "efforts": dict(recipe.efforts)}


def text(result: dict[str, Any]) -> str:
    """A paragraph a recipe; with a name, its options too."""
    return "\n\n".join("\n".join(_lines(row, result["detail"])) for row in result["recipes"])


def _lines(row: dict[str, Any], detail: bool) -> list[str]:
    way = f"{row['coordinator']}, solver {row['solver']}" + (f", mode {row['mode']}" if row["mode"] else "")
    lines = [
        f"{row['name']}: {row['summary']}",
        f"  is         {way}" + (f", scope {row['scope']}" if row["scope"] != "network" else ""),
        f"  good for   {row['good_for']}",
        f"  cost       {row['cost']}",
    ]
    lines += [f"  paper      {row['paper']}"] if row["paper"] else []
    efforts = ["normal", *row["efforts"]]
    lines += [f"  efforts    {', '.join(efforts)}"] if row["efforts"] else []
    if not detail:
        return lines
    lines += _options(row, "  ")
    for effort, changed in row["efforts"].items():
        lines += [f"  at effort {effort}:", *_options(changed, "    ")]
    return lines


def _options(held: dict[str, Any], indent: str) -> list[str]:
    out = [f"{indent}{name} {held[name]}" for name in ("coordinator", "solver") if name in held and indent != "  "]
    for name, words in (("coordinator_options", "coordinator"), ("solver_options", "solver"), ("curvature", "")):
        for key, value in held.get(name, {}).items():
            shown = ",".join(map(str, value)) if isinstance(value, list) else value
            flag = f"--option {words}.{key}={shown}" if words else f"--{key.replace('_', '-')} {shown}"
            out.append(f"{indent}{flag}")
    recover = held.get("recover")
    return out + [f"{indent}--recover {step}" for step in ([] if recover is None else recover or [NONE])]
