"""What is claimed, attacked: false "optimal", bounds above the optimum, forged files, proofs, damaged blocks.

    python benchmarks/trust.py                 # everything, five minutes on one core
    python benchmarks/trust.py --quick         # a twentieth of it
    python benchmarks/trust.py claims forged   # some parts

Every claim is judged in exact rational arithmetic; what has to be zero is said beside each count.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from prunebench import BlockProblem, QuadraticForm, solve
from prunebench.commands import verify
from prunebench.core import solution_file
from prunebench.core.block import MODES, Mode
from prunebench.core.errors import InvalidInput
from prunebench.core.group_proof import GroupProof
from prunebench.core.proof import Proof
from prunebench.proofs.check import proved_bound
from prunebench.runs.cut import cut_block
from prunebench.testing import damaged_blocks
from prunebench.testing.claims import attack
from prunebench.testing.forged import FORGERIES, forged
from runner import Benchmark, Note, Row

BLOCKS = {"branch-and-bound": 5000, "exhaustive": 5000, "highs": 500}
"""Ill-conditioned blocks a mode, by solver; HiGHS takes some .3 s a block, the others a tenth of that or less."""
INDEFINITE, FORGED, HONEST, FUZZED = 1000, 300, 100, 540
"""Blocks of mode select whose Hessian is indefinite; forged and honest solution files; damaged block files."""


def claims(share: float) -> Iterator[Row | Note]:
    """False claims of optimality and bounds above the optimum, on ill-conditioned blocks of up to eight weights."""
    plans: list[tuple[tuple[str, ...], str, tuple[Mode, ...], int]] = [
        *(((solver,), "ill-conditioned", (mode,), full) for solver, full in BLOCKS.items() for mode in MODES),
        (("branch-and-bound", "exhaustive"), "indefinite", ("select",), INDEFINITE),
    ]
    for solvers, family, modes, full in plans:
        begin = process_time()
        count, bounds = max(10, int(full * share)), "exhaustive" in solvers
        found = attack(solvers, count, families=[family], modes=modes, bounds=bounds)
        yield Row(title(claims), {
            "solver": ", ".join(solvers), "family": family, "mode": modes[0], "blocks": found.blocks,
            "called optimal": found.optimal, "refused": found.refused, "wrong claims (0)": found.wrong,
            "CPU s": process_time() - begin, "faults": counted(found.faults),
        })  # fmt: skip
        for example in found.examples[:5]:
            yield Note(f"    {example}")


def honest_block(rng: np.random.Generator) -> BlockProblem:
    """A random block of 16 to 30 weights in either mode."""
    p = int(rng.integers(16, 31))
    weights = rng.normal(size=p)
    form = QuadraticForm(factor=rng.normal(size=(int(rng.integers(4, 30)), p)), ridge=0.05, centre=weights)
    return BlockProblem(form, weights, int(rng.integers(2, p - 2)), MODES[int(rng.integers(2))])


def verdict(folder: Path, contents: Any, block: BlockProblem, proof: Proof | None = None) -> str:
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
        return str(verify.run(parser.parse_args(given))["verdict"])
    except InvalidInput:
        return "refused"


def files(share: float) -> Iterator[Row | Note]:
    """Forged solution files accepted, and honest ones refused."""
    rng = np.random.default_rng(0)
    accepted: list[str] = []
    refused: list[str] = []
    of_forged: Counter[str] = Counter()
    of_honest: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(max(8, int(FORGED * share))):
            block = honest_block(rng)
            answer = solve(block, "branch-and-bound", options={"proof": True})
            assert not isinstance(answer.proof, GroupProof)
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
    for name, verdicts, wrong in (("forged", of_forged, accepted), ("honest", of_honest, refused)):
        cell = {"files": name, "number": verdicts.total(), "wrong (0)": len(wrong), "verdicts": counted(verdicts)}
        yield Row(title(files), cell)
        for kind in wrong:
            yield Note(f"    {name} and wrong: {kind}")


def proofs(_share: float) -> Iterator[Row | Note]:
    """Size and time of proofs of blocks of 64 weights, the checker's time beside the solve's."""
    kinds: dict[str, dict[str, Any]] = {
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
            assert isinstance(answer.proof, Proof)
            checked = proved_bound(block, answer.proof)
            end = process_time()
            yield Row(title(proofs), {
                "mode": mode, "block": name, "nodes": answer.details["nodes"], "MB": answer.proof.nbytes / 1e6,
                "solve s": middle - begin, "check s": end - middle, "ratio": (end - middle) / (middle - begin),
                "proved": answer.objective - checked.bound <= 1e-6 * abs(answer.objective),
            })  # fmt: skip


def fuzz(share: float) -> Iterator[Row | Note]:
    """Damaged block files: internal errors, accepted ones, memory and time before the refusal."""
    outcomes: Counter[str] = Counter()
    worst_seconds, worst_bytes, wrong = 0.0, 0, []
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
    yield Row(title(fuzz), {
        "kinds": len(kinds), "files": outcomes.total(), "wrong (0)": len(wrong), "most s": worst_seconds,
        "most MB": worst_bytes / 1e6, "outcomes": counted(outcomes),
    })  # fmt: skip
    for kind, words in wrong[:5]:
        yield Note(f"    {kind}: {words}")


PARTS: dict[str, Callable[[float], Iterator[Row | Note]]] = {
    "claims": claims,
    "forged": files,
    "proofs": proofs,
    "fuzz": fuzz,
}


def title(part: Callable[..., Any]) -> str:
    return str(part.__doc__).partition("\n")[0]


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def known_part(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"unknown part {text!r}; choose from {', '.join(PARTS)}")
    return text


def arguments(parser: argparse.ArgumentParser) -> None:
    names = f"which: {', '.join(PARTS)} (default: all)"
    parser.add_argument("parts", nargs="*", type=known_part, metavar="PART", help=names)
    parser.add_argument("--share", type=float, default=1.0, help="of the blocks and files")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    for part in chosen.parts or PARTS:
        yield from PARTS[part](chosen.share)


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"share": 0.05})

if __name__ == "__main__":
    BENCHMARK.main()
