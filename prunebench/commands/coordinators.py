"""List the coordinators and their options."""

import argparse
from typing import Any

from prunebench.commands.solvers import options_rows
from prunebench.coordinators.icbs.options import ICBSOptions
from prunebench.coordinators.layer_wise.options import LayerWiseOptions
from prunebench.coordinators.multi_stage.coordinator import MultiStageOptions
from prunebench.coordinators.one_shot import OneShot
from prunebench.core.options import options_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Name, summary and options of each."""
    return {
        "coordinators": [
            {"name": "one-shot", "summary": _first_line(OneShot), "options": []},
            {
                "name": "icbs",
                "summary": "Block coordinate descent over the network.",
                "options": options_rows(options_of(ICBSOptions)),
            },
            {
                "name": "multi-stage",
                "summary": "The density falls in stages, each from new gradients about the current weights.",
                "options": options_rows(options_of(MultiStageOptions)),
            },
            {
                "name": "layer-wise",
                "summary": "Layer by layer from the Gram matrix of each layer's inputs; no backward pass.",
                "options": options_rows(options_of(LayerWiseOptions)),
            },
        ]
    }


def text(result: dict[str, Any]) -> str:
    """One paragraph a coordinator."""
    lines: list[str] = []
    for row in result["coordinators"]:
        lines += [f"{row['name']}: {row['summary']}"]
        lines += [f"  --option {o['name']}={o['default']}  ({o['type']})  {o['doc']}" for o in row["options"]]
        lines.append("")
    return "\n".join(lines).rstrip()


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]
