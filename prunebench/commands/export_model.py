"""Write a run's pruned network as a Hugging Face folder that from_pretrained loads, its masks beside it.

Unstructured zeros alone do not speed inference up: they are stored and multiplied like other numbers
unless a sparse kernel or special hardware skips them.
"""

import argparse
from pathlib import Path
from typing import Any

from prunebench.runs.export import export_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run and the folder."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a finished run directory")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="where to; must not exist or be empty"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the folder."""
    return export_model(arguments.directory, arguments.output)


def text(result: dict[str, Any]) -> str:
    """What was written, and what it does not do."""
    return "\n".join(
        [
            f"wrote     {result['folder']} ({result['bytes']:,} bytes): model, mask.safetensors, prunebench.json",
            f"kept      {result['kept']:,} of {result['total']:,} prunable weights, {result['zeros']:,} are zero",
            "note      unstructured zeros alone do not make inference faster",
        ]
    )
