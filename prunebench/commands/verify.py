"""Check a solution file against its block: the objective, the bound's root, and what it claims."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.core import solution_file
from prunebench.core.block import BlockProblem
from prunebench.core.bounds import lower_bound
from prunebench.core.certificate import derive, value_range
from prunebench.core.errors import InvalidInput

ROUNDING = 1e-9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The solution file, the block file, and how long a bound may be looked for."""
    parser.add_argument("solution", type=Path, metavar="SOLUTION.json", help="what 'prunebench solve -o' wrote")
    parser.add_argument("file", type=Path, metavar="FILE.npz", help="the block problem file it answers")
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="SEC",
        help="look this long for a bound where the solution has no certificate (default: 30)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Re-evaluate the objective in interval arithmetic and derive the root bound again.

    Returns
    -------
    dict   verified (bool) and faults (list of sentences); objective, its interval, the solution's
           bound, the root bound derived here and what it rests on

    Raises
    ------
    InvalidInput   a file is missing or not what it should be
    """
    solution = solution_file.read(arguments.solution)
    block = BlockProblem.load(arguments.file).in_mode(solution["mode"])
    mask, weights = _mask(solution, block.p), _weights(solution, block.p)
    faults: list[str] = []
    if solution["block_hash"] != block.hash:
        faults.append("the solution was made for another block: the hashes differ")
    low, high = value_range(block, weights)
    reported = float(solution["objective"])
    faults += _feasibility(block, mask, weights)
    slack = ROUNDING * (abs(reported) + abs(block.form.constant) + abs(block.random_mean()))
    if not low - slack <= reported <= high + slack:
        faults.append(f"the objective is {0.5 * (low + high):.12g}, not {reported:.12g}")
    claimed = solution.get("lower_bound")
    claimed = -math.inf if claimed is None else float(claimed)
    proof = (solution.get("details") or {}).get("certificate") or {}
    root, rests = _root(block, proof, arguments.seconds)
    if claimed > high + slack:
        faults.append(f"the lower bound {claimed:.12g} is above the objective {high:.12g}")
    if solution.get("status") == "optimal" and not math.isfinite(claimed):
        faults.append("it says optimal without a bound")
    tolerance = float(proof.get("tolerance", 0.0) or 0.0)
    if solution.get("status") == "optimal" and claimed < low - max(slack, 4.0 * tolerance):
        faults.append(f"it says optimal but its bound {claimed:.12g} leaves a gap")
    stated = proof.get("root_bound")
    own = rests.startswith("certificate")
    if stated is not None and own and float(stated) > root + max(slack, 4.0 * tolerance):
        faults.append(
            f"the certificate's root bound {float(stated):.12g} is above the {root:.12g} that its numbers prove"
        )
    return {
        "verified": not faults,
        "faults": faults,
        "status": solution.get("status"),
        "objective": reported,
        "objective_interval": [low, high],
        "lower_bound": solution_file.finite(claimed),
        "derived_bound": solution_file.finite(root),
        "derived_gap": solution_file.finite(block.gap(high, root)),
        "rests_on": rests,
        "nodes": proof.get("nodes"),
    }


def text(result: dict[str, Any]) -> str:
    """A verdict and what it rests on."""
    low, high = result["objective_interval"]
    bound = "none" if result["lower_bound"] is None else f"{result['lower_bound']:.12g}"
    derived = "none" if result["derived_bound"] is None else f"{result['derived_bound']:.12g}"
    lines = [
        f"{'verified' if result['verified'] else 'NOT VERIFIED'}  (status {result['status']})",
        f"objective      {result['objective']:.12g}, in [{low:.17g}, {high:.17g}]",
        f"lower bound    {bound}" + (f", by {result['nodes']} nodes of a search tree" if result["nodes"] else ""),
        f"derived here   {derived}, from the {result['rests_on']}",
    ]
    if result["derived_gap"] is not None:
        lines.append(f"gap to it      {result['derived_gap']:.3g} (0: optimal, 1: a random mask)")
    return "\n".join([*lines, *(f"fault: {fault}" for fault in result["faults"])])


def _root(block: BlockProblem, proof: dict[str, Any], seconds: float) -> tuple[float, str]:
    """The bound of the certificate's own numbers; without any, the best bound found here."""
    root = derive(block, proof) if proof else -np.inf
    if np.isfinite(root):
        return float(root), f"certificate, {proof['formulation']}"
    bound = lower_bound(block, seconds)
    return bound.value, f"{bound.method}, found here"


def _feasibility(block: BlockProblem, mask: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> list[str]:
    try:
        block.evaluate(weights, mask)
    except InvalidInput as error:
        return [str(error)]
    return []


def _mask(solution: dict[str, Any], size: int) -> np.ndarray[Any, Any]:
    """The mask, given as 0 and 1 for every weight or as the list of kept positions."""
    try:
        values = np.asarray(solution["mask"])
        if values.shape == (size,) and values.dtype.kind in "iub" and set(np.unique(values)) <= {0, 1}:
            return values.astype(np.bool_)
        mask = np.zeros(size, dtype=np.bool_)
        if values.size:
            mask[values] = True
        return mask
    except (IndexError, ValueError, TypeError) as error:
        raise InvalidInput(f"the solution's mask does not fit a block of {size} weights: {error}") from error


def _weights(solution: dict[str, Any], size: int) -> np.ndarray[Any, Any]:
    try:
        values = np.asarray(solution["weights"], dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"the solution's weights are not numbers: {error}") from error
    if values.shape != (size,) or not np.isfinite(values).all():
        raise InvalidInput(f"the solution's weights have shape {values.shape}; expected ({size},), all finite")
    return values
