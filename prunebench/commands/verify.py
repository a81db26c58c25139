"""Check a solution file against its block: everything it says, derived again as far as that goes.

Exit codes: 0 verified; 1 something is wrong, and what; 3 consistent: nothing is wrong, but the bound
rests on a search, or on HiGHS, and was not derived again.
"""

import argparse
from pathlib import Path
from typing import Any

from prunebench.core import solution_file
from prunebench.core.group_block import GroupBlock, load_block
from prunebench.core.group_proof import GroupProof
from prunebench.core.proof import Proof
from prunebench.verification import REFUTED, SECONDS, verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The solution file, the block file, the proof file, and how long a bound may be looked for."""
    parser.add_argument("solution", type=Path, metavar="SOLUTION.json", help="what 'prunebench solve -o' wrote")
    parser.add_argument("file", type=Path, metavar="FILE.npz", help="the block problem file it answers")
    parser.add_argument("--proof", type=Path, metavar="PROOF.npz", help="what 'prunebench solve --proof' wrote")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="SEC",
        help=f"look this long for a bound where nothing else gives one (default: {SECONDS:g})",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Check every entry of the solution, and derive its bound.

    Returns
    -------
    dict   verdict ("verified", "consistent" or "not verified"), verified (bool) and faults (list of
           sentences); objective, its interval, the solution's bound, the bound derived here, what that
           and what the claim rest on

    Raises
    ------
    InvalidInput   a file is missing or not what it should be
    """
    contents = solution_file.read(arguments.solution)
    block = load_block(arguments.file)
    proof: Proof | GroupProof | None = None
    if arguments.proof is not None:
        proof = (GroupProof if isinstance(block, GroupBlock) else Proof).load(arguments.proof)
    found = verify(block, contents, proof=proof, seconds=arguments.seconds)
    return {
        "verdict": found.verdict,
        "verified": found.verified,
        "faults": list(found.faults),
        "status": found.status,
        "mode": found.mode,
        "form": "groups" if isinstance(block, GroupBlock) else "weights",
        "objective": found.objective,
        "objective_interval": list(found.interval),
        "lower_bound": solution_file.finite(found.lower_bound),
        "derived_bound": solution_file.finite(found.derived_bound),
        "derived_gap": solution_file.finite(found.derived_gap),
        "rests_on": found.rests_on,
        "claim_rests_on": found.claim_rests_on,
        "nodes": found.nodes,
    }


def text(result: dict[str, Any]) -> str:
    """A verdict and what it rests on."""
    low, high = result["objective_interval"]
    bound = "none" if result["lower_bound"] is None else f"{result['lower_bound']:.12g}"
    derived = "none" if result["derived_bound"] is None else f"{result['derived_bound']:.12g}"
    verdict = {REFUTED: "NOT VERIFIED"}.get(result["verdict"], result["verdict"])
    lines = [
        f"{verdict}  (status {result['status']}, mode {result['mode']})",
        f"objective      {result['objective']:.12g}, in [{low:.17g}, {high:.17g}]",
        f"lower bound    {bound}; rests on {result['claim_rests_on']}",
        f"derived here   {derived}, from the {result['rests_on']}",
    ]
    if result["derived_gap"] is not None:
        one = "nothing kept" if result["form"] == "groups" else "a random mask"
        lines.append(f"gap to it      {result['derived_gap']:.3g} (0: optimal, 1: {one})")
    return "\n".join([*lines, *(f"fault: {fault}" for fault in result["faults"])])
