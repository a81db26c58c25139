"""What is claimed, attacked: false "optimal", bounds above the optimum, forged files, proofs, damaged blocks.

    python benchmarks/trust.py                 # everything, some twenty minutes on one core
    python benchmarks/trust.py --quick         # a twentieth of it
    python benchmarks/trust.py claims forged   # some parts

Every claim is judged in exact rational arithmetic; what has to be zero is said beside each count.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import process_time

import numpy as np

from prunebench import BlockProblem, QuadraticForm, solve
from prunebench.commands import verify
from prunebench.core import solution_file
from prunebench.core.block import MODES
from prunebench.core.errors import InvalidInput
from prunebench.proofs.check import proved_bound
from prunebench.runs.cut import cut_block
from prunebench.testing import damaged_blocks
from prunebench.testing.claims import attack
from prunebench.testing.forged import FORGERIES, forged

PARTS = ("claims", "forged", "proofs", "fuzz")
BLOCKS = {"branch-and-bound": 5000, "exhaustive": 5000, "highs": 500}
"""Ill-conditioned blocks a mode, by solver; HiGHS takes some .3 s a block, the others a tenth of that or less."""
INDEFINITE, FORGED, HONEST, FUZZED = 1000, 300, 100, 540
"""Blocks of mode select whose Hessian is indefinite; forged and honest solution files; damaged block files."""


def claims(share):
    """False claims of optimality and bounds above the optimum, on ill-conditioned blocks of up to eight weights."""
    for solver, full in BLOCKS.items():
        count = max(10, int(full * share))
        for mode in MODES:
            begin = process_time()
            found = attack([solver], count, families=["ill-conditioned"], modes=[mode], bounds=solver == "exhaustive")
            print(
                f"{solver:17s} {mode:7s} {found.blocks} blocks, {found.optimal} called optimal, "
                f"{found.refused} refused; wrong claims (0): {found.wrong} {found.faults or ''}  "
                f"{process_time() - begin:.0f} CPU s",
                flush=True,
            )
            for example in found.examples[:5]:
                print("   ", example)
    found = attack(["branch-and-bound", "exhaustive"], max(10, int(INDEFINITE * share)), families=["indefinite"])
    print(f"indefinite, select: {found.blocks} blocks, wrong claims (0): {found.wrong} {found.faults or ''}")


def honest_block(rng):
    """A random block of 16 to 30 weights in either mode."""
    p = int(rng.integers(16, 31))
    weights = rng.normal(size=p)
    form = QuadraticForm(factor=rng.normal(size=(int(rng.integers(4, 30)), p)), ridge=0.05, centre=weights)
    return BlockProblem(form, weights, int(rng.integers(2, p - 2)), MODES[int(rng.integers(2))])


def verdict(folder, contents, block, proof=None):
    """The verdict of `prunebench verify` on a solution's contents; "refused" where the file is no solution file."""
    (folder / "s.json").write_text(json.dumps(contents))
    block.save(folder / "b.npz")
    given = [str(folder / "s.json"), str(folder / "b.npz"), "--seconds", "5"]
    if proof is not None:
        proof.save(folder / "p.npz")
        given += ["--proof", str(folder / "p.npz")]
    parser = argparse.ArgumentParser()
    verify.add_arguments(parser)
    try:
        return verify.run(parser.parse_args(given))["verdict"]
    except InvalidInput:
        return "refused"


def files(share):
    """Forged solution files accepted, and honest ones refused."""
    rng = np.random.default_rng(0)
    accepted, refused, of_forged, of_honest = [], [], Counter(), Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(max(8, int(FORGED * share))):
            block = honest_block(rng)
            answer = solve(block, "branch-and-bound", options={"proof": True})
            summary = solution_file.as_json(block, answer, solver="branch-and-bound", options={}, seed=0)
            honest = solution_file.with_arrays(summary, answer)
            kind = list(FORGERIES)[number % len(FORGERIES)]
            with_proof = number % 3 == 0
            found = verdict(folder, forged(kind, honest, block, rng), block, answer.proof if with_proof else None)
            of_forged[found] += 1
            if found == "verified":
                accepted.append(kind)
            if number < HONEST * share:
                for proof in (answer.proof, None):
                    found = verdict(folder, honest, block, proof)
                    of_honest[found] += 1
                    if found not in ("verified", "consistent") or (proof is not None and found != "verified"):
                        refused.append(block.mode)
    print(f"forged files: {dict(of_forged)}; accepted (0): {len(accepted)} {accepted or ''}")
    print(f"honest files, with and without a proof: {dict(of_honest)}; refused (0): {len(refused)}")


def proofs(_share):
    """Size and time of proofs of blocks of 64 weights, the checker's time beside the solve's."""
    print(f"{'mode':7s} {'block':22s} {'nodes':>8s} {'MB':>7s} {'solve':>7s} {'check':>7s}  ratio  proved")
    kinds = {
        "row": {"select": "row"}, "n=128 keep=13": {"density": 0.2, "select": "random"},
        "fisher": {"select": "obd"}, "n=32 keep=13": {"density": 0.2, "curvature": {"samples": 32, "ridge": 1e-3}},
    }  # fmt: skip
    for mode in MODES:
        for name, given in kinds.items():
            block = cut_block("digits-mlp", size=64, mode=mode, seed=0, **{"density": 0.5, **given})
            # once unseen, so that nothing is compiled while it is timed
            solve(block, "branch-and-bound", options={"proof": True})
            begin = process_time()
            answer = solve(block, "branch-and-bound", options={"proof": True})
            middle = process_time()
            checked = proved_bound(block, answer.proof)
            end = process_time()
            proved = answer.objective - checked.bound <= 1e-6 * abs(answer.objective)
            print(
                f"{mode:7s} {name:22s} {answer.details['nodes']:8d} {answer.proof.nbytes / 1e6:7.2f} "
                f"{middle - begin:7.2f} {end - middle:7.2f} {(end - middle) / (middle - begin):6.2f}  {proved}"
            )


def fuzz(share):
    """Damaged block files: internal errors, accepted ones, memory and time before the refusal."""
    outcomes, worst_seconds, worst_bytes, wrong = Counter(), 0.0, 0, []
    kinds = list(damaged_blocks.KINDS)
    with tempfile.TemporaryDirectory() as name:
        for number in range(max(len(kinds), int(FUZZED * share))):
            kind, seed = kinds[number % len(kinds)], number // len(kinds)
            path = Path(name) / "b.npz"
            path.write_bytes(damaged_blocks.damaged(kind, seed))
            fate = damaged_blocks.fate(path, damaged_blocks.healthy_block(seed))
            outcomes[fate.outcome] += 1
            worst_seconds, worst_bytes = max(worst_seconds, fate.seconds), max(worst_bytes, fate.bytes)
            if fate.outcome in ("accepted", "internal error"):
                wrong.append((kind, fate.words))
    print(
        f"{len(kinds)} kinds of damaged block files: {dict(outcomes)}; wrong (0): {len(wrong)} {wrong[:5] or ''}; "
        f"at most {worst_seconds:.2f} s and {worst_bytes / 1e6:.1f} MB"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the blocks and files")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    share = 0.05 if arguments.quick else 1.0
    run = {"claims": claims, "forged": files, "proofs": proofs, "fuzz": fuzz}
    for part in arguments.parts or PARTS:
        print(f"-- {part}: {run[part].__doc__}", flush=True)
        run[part](share)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
