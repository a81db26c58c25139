"""Write a run's pruned network: a Hugging Face folder that from_pretrained loads, its masks beside it.

A run with bits has levels too: --format packed writes them as compressed-tensors reads them, and with it transformers.
A run of structured pruning has a smaller network: write that as pt2 (torch.export.load), onnx or safetensors.
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
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder that does not exist or is empty; a file for the formats of a smaller network",
    )
    parser.add_argument(
        "--format", default="hf", choices=("hf", "packed", "pt2", "onnx", "safetensors"),
        help="hf: a folder of transformers or timm (default; of a smaller network where all layers have one width); "
        "packed: a folder with the levels of a run with bits; the others are files, of a structured run's network",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the folder."""
    if arguments.format == "hf":
        return export_model(arguments.directory, arguments.output)
    if arguments.format == "packed":
        from prunebench.runs.packed import export_packed

        return export_packed(arguments.directory, arguments.output)
    from prunebench.runs.smaller import export_smaller

    return export_smaller(arguments.directory, arguments.output, arguments.format)


def text(result: dict[str, Any]) -> str:
    """What was written, and what it does not do."""
    if "quantization_config" in result:
        sizes = {held["weights"]["group_size"] for held in result["quantization_config"]["config_groups"].values()}
        scales = ", ".join("a scale a row" if size is None else f"a scale each {size} weights" for size in sizes)
        lines = [
            f"wrote     {result['folder']}: model.safetensors ({result['bytes']:,} bytes), mask.safetensors, "
            "prunebench.json",
            f"format    {result['format']}, {result['bits']} bits, {scales}",
            f"kept      {result['kept']:,} of {result['total']:,} prunable weights",
        ]
        return "\n".join(lines)
    if "format" in result:
        lines = [f"wrote       {result['file']} ({result['bytes']:,} bytes), format {result['format']}"]
        if "difference" in result:
            lines.append(f"difference  {result['difference']:.1g} of the largest output of torch's")
        return "\n".join(lines)
    return "\n".join(
        [
            f"wrote     {result['folder']} ({result['bytes']:,} bytes): model, mask.safetensors, prunebench.json",
            f"kept      {result['kept']:,} of {result['total']:,} prunable weights, {result['zeros']:,} are zero",
            "note      unstructured zeros alone do not make inference faster",
        ]
    )
