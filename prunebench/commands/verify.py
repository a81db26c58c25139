"""Check a solution file against its block: everything it says, derived again as far as that goes.

Exit codes: 0 verified; 1 something is wrong, and what; 3 consistent: nothing is wrong, but the bound
rests on a search, or on HiGHS, and was not derived again.
"""

import argparse
from pathlib import Path
from typing import Any

from prunebench.core import solution_file
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock, load_block
from prunebench.core.group_proof import GroupProof
from prunebench.core.proof import Proof
from prunebench.core.solution import Solution, Status
from prunebench.verification import REFUTED, SECONDS, Verdict, verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The solution or a mask, the block file, the proof file, and how long a bound may be looked for."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE",
        help="SOLUTION.json, what 'prunebench solve -o' wrote, and FILE.npz, the block problem file it answers; with "
        "--mask FILE.npz alone",
    )  # fmt: skip
    parser.add_argument(
        "--mask", type=Path, metavar="FILE",
        help="check this in place of a solution: masks as a list (text, .npy, JSON), a solution file (.sol, .mst, XML) "
        "of HiGHS, Gurobi, SCIP, CBC or CPLEX, a dimod SampleSet as JSON; of several the best is checked",
    )  # fmt: skip
    parser.add_argument("--proof", type=Path, metavar="PROOF.npz", help="what 'prunebench solve --proof' wrote")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="SEC",
        help=f"look this long for a bound where nothing else gives one (default: {SECONDS:g})",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Check every entry of the solution, and derive its bound; of masks, the best.

    Returns
    -------
    dict   verdict ("verified", "consistent" or "not verified"), verified (bool) and faults (list of
           sentences); objective, its interval, the solution's bound, the bound derived here, what that
           and what the claim rest on; of masks also how many there are and what became of each

    Raises
    ------
    InvalidInput   a file is missing or not what it should be
    """
    wanted = 1 if arguments.mask else 2
    if len(arguments.files) != wanted:
        what = (
            "--mask FILE and one FILE.npz"
            if arguments.mask
            else "SOLUTION.json and FILE.npz, or --mask FILE and FILE.npz"
        )
        raise InvalidInput(f"{len(arguments.files)} files are given; expected {what}")
    block = load_block(arguments.files[-1])
    proof: Proof | GroupProof | None = None
    if arguments.proof is not None:
        proof = (GroupProof if isinstance(block, GroupBlock) else Proof).load(arguments.proof)
    if arguments.mask:
        return _of_masks(arguments.mask, block, proof, arguments.seconds)
    contents = solution_file.read(arguments.files[0])
    return _told(verify(block, contents, proof=proof, seconds=arguments.seconds), block)


def _of_masks(
    file: Path, block: BlockProblem | GroupBlock, proof: Proof | GroupProof | None, seconds: float
) -> dict[str, Any]:
    """What is found of masks from elsewhere: the block's value of each, and a bound for the best."""
    from prunebench.forms.foreign.answers import read_answers

    answers = read_answers(file, block)
    values = [block.evaluate(mask) if block.constraint.feasible(mask) else None for mask in answers.masks]
    found = {
        "kind": answers.kind,
        "masks": len(values),
        "feasible": sum(value is not None for value in values),
        "distinct": len({mask.tobytes() for mask in answers.masks}),
        "ignored": answers.ignored,
        "stated": answers.stated,
        "objectives": values,
    }
    held = [value for value in values if value is not None]
    if not held:
        why = block.constraint.violation(answers.masks[0])
        faults = [f"no mask is feasible; the first {why}"]
        return {"verdict": REFUTED, "verified": False, "faults": faults, **found}
    best = answers.masks[values.index(min(held))]
    given = Solution.from_mask(block, best, status=Status.FEASIBLE, stop_reason="given")  # type: ignore[arg-type]  # group blocks too
    return {**_told(verify(block, given, proof=proof, seconds=seconds), block), **found}


def _told(found: Verdict, block: BlockProblem | GroupBlock) -> dict[str, Any]:
    """A verdict as JSON-able values."""
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
    masks = [] if "masks" not in result else [_masks_text(result)]
    if "objective" not in result:
        return "\n".join(["NOT VERIFIED", *masks, *(f"fault: {fault}" for fault in result["faults"])])
    low, high = result["objective_interval"]
    bound = "none" if result["lower_bound"] is None else f"{result['lower_bound']:.12g}"
    derived = "none" if result["derived_bound"] is None else f"{result['derived_bound']:.12g}"
    verdict = {REFUTED: "NOT VERIFIED"}.get(result["verdict"], result["verdict"])
    lines = [
        f"{verdict}  (status {result['status']}, mode {result['mode']})",
        *masks,
        f"objective      {result['objective']:.12g}, in [{low:.17g}, {high:.17g}]",
        f"lower bound    {bound}; rests on {result['claim_rests_on']}",
        f"derived here   {derived}, from the {result['rests_on']}",
    ]
    if result["derived_gap"] is not None:
        one = "nothing kept" if result["form"] == "groups" else "a random mask"
        lines.append(f"gap to it      {result['derived_gap']:.3g} (0: optimal, 1: {one})")
    return "\n".join([*lines, *(f"fault: {fault}" for fault in result["faults"])])


def _masks_text(result: dict[str, Any]) -> str:
    """How many masks there are, and what the file says of them itself."""
    counts = f"{result['distinct']} distinct, {result['feasible']} feasible"
    line = f"masks          {result['masks']} ({result['kind']}), {counts}"
    if result["ignored"]:
        line += f"; {result['ignored']} names that are no variables of the block are passed over"
    if result["stated"] is not None:
        line += f"\nstated         {result['stated']:.12g}, in the units of the file"
    return line
