"""Time the smaller network of a run of structured pruning beside the dense one, in torch and onnxruntime."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the runtimes, and how often."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a finished run directory of structured pruning")
    parser.add_argument("--runtime", default="torch", metavar="NAMES", help="torch, onnxruntime, or both with a comma")
    parser.add_argument("--threads", default="1", metavar="N,N", help="numbers of threads (default: 1)")
    parser.add_argument("--batch", type=shared.positive_int, default=16, help="samples at a time (default: 16)")
    parser.add_argument("--runs", type=shared.positive_int, default=30, help="timed runs of each (default: 30)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run both in turns and take medians."""
    from prunebench.runs.smaller import time_smaller

    return time_smaller(
        arguments.directory,
        runtimes=[part.strip() for part in arguments.runtime.split(",")],
        threads=[shared.positive_int(part) for part in arguments.threads.split(",")],
        batch=arguments.batch,
        runs=arguments.runs,
    )


def text(result: dict[str, Any]) -> str:
    """One line a runtime and number of threads."""
    lines = [f"multiply-accumulates: {result['macs']:.2f} times fewer; medians of a batch of {result['batch']}"]
    for row in result["rows"]:
        lines.append(
            f"{row['runtime']:<12} {row['threads']} thread{'s' if row['threads'] > 1 else ' '}  "
            f"dense {row['dense_ms']:.3f} ms  pruned {row['pruned_ms']:.3f} ms  {row['speed_up']:.2f} times the speed"
        )
    return "\n".join(lines)
