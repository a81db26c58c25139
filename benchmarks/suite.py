"""The suite's instances, made and re-proved: best values by heuristics and exact search, bounds derived from proofs.

    python benchmarks/suite.py --only select-wine-first-random-32-16-n64   one instance
    python benchmarks/suite.py --quick                                     the small ones, two seconds each
    python benchmarks/suite.py --write                                     all; the catalogue is brought up to date
    python benchmarks/suite.py --make                                      make the files that are missing

Each instance is loaded and its hash compared. The exact solver gets --exact CPU seconds and writes a proof, from which
`prunebench.verify` derives the bound again: that bound is told, not the search's. Where it leaves a gap, each heuristic
gets --seconds and starts from the best mask so far. With --write the catalogue takes a better mask, a higher bound and
a small proof; it never takes a worse one. With --make data files that are missing are made; instances whose hash has
changed lose all that was known of them. On another machine a file that is removed comes back with other numbers, since
training does; the files in the package are what defines the suite.
"""

import argparse
import io
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import suite_instances
import suite_networks
from prunebench import BlockProblem, Budget, Solution, lower_bound, solve
from prunebench.core import solution_file
from prunebench.core.errors import SolverFailed, SolverRefused
from prunebench.core.group_block import GroupBlock
from prunebench.core.masks import mask_from_text, mask_text
from prunebench.suite import catalogue as catalogues
from prunebench.suite import instances, results
from prunebench.suite.catalogue import Instance
from prunebench.verification import verify
from runner import Benchmark, Note, Row

FOLDER = Path(instances.__file__).parent
CATALOGUE = FOLDER / "catalogue.json"
PROOF_BYTES = 120_000
"""Largest proof, packed, that comes with the package."""
VERSION = "1"
"""Version of the suite."""

HEURISTICS = {
    "select": ("beam", "anneal", "swap", "tabu"),
    "refit": ("swap", "admm", "obs", "cbs"),
    "groups": ("group-swap", "osscar"),
}
"""Who looks for masks; `swap` goes on until its time is used up in mode select."""
EXACT = {"select": "branch-and-bound", "refit": "branch-and-bound", "groups": "group-exact"}
"""Who proves."""
OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("select", "swap"): {"restarts": 10**9},
    ("select", "tabu"): {"keep_samples": 0},
}
"""Options by kind of block and solver; in mode refit `swap` has a search that ends by itself."""
ROUNDING = 1e-12
"""A mask is better than the best known by more than this share of a random mask's gap: less is rounding."""
VERIFY_SECONDS = 60.0
"""Wall seconds for which `verify` looks for a bound where nothing else gives one."""


def make() -> Iterator[Row]:
    """Write the files that are missing, and a catalogue that knows masks and bounds of unchanged hashes only."""
    before = _read()["instances"] if CATALOGUE.is_file() else []
    known, named = {item["hash"]: item for item in before}, {item["name"]: item for item in before}
    data = FOLDER / "data"
    held: dict[str, dict[str, Any]] = {}
    for name, made in suite_networks.DATA.items():
        file = data / f"{name}.npz"
        if not file.is_file():
            np.savez_compressed(file, **made())
        with np.load(file) as arrays:
            held[name] = dict(arrays)
    entries = []
    for spec in suite_instances.specs():
        recipe = dict(spec.recipe)
        source = held.get(recipe.get("data", ""), {})
        file = data / f"{spec.name}.npz"
        if not file.is_file() and (own := spec.own(source)):
            np.savez_compressed(file, **own)
        instances._arrays.cache_clear()
        if recipe["kind"] == "groups":
            numbers = source if "ridge" in source else named[spec.name]["recipe"]
            recipe |= {"ridge": float(numbers["ridge"]), "constant": float(numbers["constant"])}
        else:
            plain = instances.made(spec.name, {**recipe, "ridge": 1.0}, spec.mode, spec.keep)
            assert isinstance(plain, BlockProblem)
            diagonal = float(np.mean(plain.form.gram(np.arange(plain.p)).diagonal())) - 1.0
            recipe["ridge"] = float(f"{spec.ridge * diagonal:.3g}")
        block = instances.made(spec.name, recipe, spec.mode, spec.keep)
        entry = known.get(block.hash) or _unknown(block)
        entries.append({**entry, **_facts(spec, recipe, block)})
        yield Row(
            "instances", {"instance": spec.name.ljust(44), "p": block.p, "keep": block.keep, "hash": block.hash[:12]}
        )
    _write({"format": catalogues.FORMAT, "version": VERSION, "origins": suite_networks.ORIGINS, "instances": entries})


def _facts(spec: suite_instances.Spec, recipe: dict[str, Any], block: BlockProblem | GroupBlock) -> dict[str, Any]:
    groups = isinstance(block, GroupBlock)
    kind = "groups" if groups else "budget" if block.budget else "quota" if block.quota else "weights"
    rows = recipe.get("n") or (0 if groups else recipe.get("samples", 256))
    scale = block.form.constant if isinstance(block, GroupBlock) else block.random_mean()
    return {
        "name": spec.name, "mode": block.mode, "p": block.p, "n": rows, "keep": block.keep, "kind": kind,
        "origin": spec.origin, "about": spec.about, "recipe": recipe, "hash": block.hash, "scale": scale,
    }  # fmt: skip


def _unknown(block: BlockProblem | GroupBlock) -> dict[str, Any]:
    """What is known without any search: the start."""
    return {
        "best": float(block.evaluate(block.incumbent)), "best_from": "start", "mask": mask_text(block.incumbent),
        "bound": None, "bound_from": "", "proof": "",
    }  # fmt: skip


def improve(instance: Instance, seconds: float) -> tuple[dict[str, Any], dict[str, float]]:
    """What changes in the entry after every heuristic has looked for a better mask; and what each of them found."""
    # a start mask is part of a block's hash, not of what a mask is worth
    block = instances.load(instance).with_start(instance.best_mask)
    kind = "groups" if instance.kind == "groups" else instance.mode
    found: dict[str, float] = {}
    best, mask, by = block.evaluate(instance.best_mask), instance.best_mask, instance.best_from
    for name in HEURISTICS[kind]:
        try:
            answer = solve(block, name, options=OPTIONS.get((kind, name)), budget=Budget(seconds=seconds, cpu=True))
        except SolverRefused:
            continue
        found[name] = answer.objective
        if answer.objective < best:
            best, mask, by = answer.objective, answer.mask, name
            block = block.with_start(mask)
    return {"best": float(best), "best_from": by, "mask": mask_text(mask)}, found


def prove(instance: Instance, seconds: float, relaxation: float) -> tuple[dict[str, Any], str]:
    """What changes in the entry after an exact search; what its bound rests on.

    seconds : of the search
    relaxation : wall-clock seconds of the relaxation that takes its place where the exact solver refuses
    """
    kind = "groups" if instance.kind == "groups" else instance.mode
    plain = instances.load(instance)
    try:
        answer = solve(
            plain, EXACT[kind], options={"proof": instance.kind != "budget"}, budget=Budget(seconds=seconds, cpu=True)
        )
    except (SolverRefused, SolverFailed):
        if isinstance(plain, GroupBlock):
            return {}, ""
        bound = lower_bound(plain, relaxation)
        answer = solve(plain, "magnitude")
        answer = _with(answer, bound.value, bound.details)
    change: dict[str, Any] = {}
    best, mask = instance.best, instance.best_mask
    if answer.objective < best:
        best, mask = answer.objective, answer.mask
        change |= {"best": float(best), "best_from": EXACT[kind], "mask": mask_text(mask)}
    verdict = verify(plain, answer, proof=answer.proof, seconds=VERIFY_SECONDS)
    if verdict.faults:
        raise RuntimeError(f"{instance.name}: {'; '.join(verdict.faults)}")
    bound_now = min(verdict.derived_bound, best)
    if math.isfinite(bound_now) and (instance.bound is None or bound_now > instance.bound):
        change |= {"bound": float(bound_now), "bound_from": f"the {verdict.rests_on}", "proof": ""}
        packed = b"" if answer.proof is None or "proof" not in verdict.rests_on else _packed_proof(answer.proof)
        if 0 < len(packed) <= PROOF_BYTES:
            file = f"{instance.name}.proof.npz"
            (FOLDER / "data" / file).write_bytes(packed)
            change["proof"] = file
    return change, verdict.rests_on


def _with(answer: Solution, bound: float, details: dict[str, Any]) -> Solution:
    from dataclasses import replace

    trace = np.array(answer.trace)
    trace[-1, 2] = bound
    return replace(answer, lower_bound=min(bound, answer.objective), details={**answer.details, **details}, trace=trace)


def _packed_proof(proof: Any) -> bytes:
    """The proof file with its arrays packed."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        file = Path(folder) / "proof.npz"
        proof.save(file)
        with np.load(file) as held:
            stream = io.BytesIO()
            np.savez_compressed(stream, **{key: held[key] for key in held.files})
    return stream.getvalue()


def _read() -> dict[str, Any]:
    return dict(json.loads(CATALOGUE.read_text(encoding="utf-8")))


def _write(held: dict[str, Any]) -> None:
    temporary = CATALOGUE.with_suffix(".tmp")
    temporary.write_text(json.dumps(solution_file.plain(held), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(CATALOGUE)


def _take(name: str, change: dict[str, Any]) -> Instance:
    """Write a change of one entry into the catalogue; the entry as it is now."""
    held = _read()
    entry = next(item for item in held["instances"] if item["name"] == name)
    entry.update(change)
    _write(held)
    return Instance(**entry)


def rows(arguments: argparse.Namespace) -> Iterator[Row | Note]:
    if arguments.make:
        yield from make()
        return
    if arguments.results_of:
        yield from better(arguments.results_of)
        return
    held = catalogues.from_json(_read(), "catalogue.json")
    chosen = [
        item for item in held.instances
        if (not arguments.only or item.name in arguments.only)
        and item.p <= arguments.largest
        and not (arguments.open and item.proved)
        and not (arguments.unbounded and item.bound is not None)
    ]  # fmt: skip
    for item in chosen:
        began = time.process_time()
        changes: dict[str, Any] = {}
        found: dict[str, float] = {}
        now, rests = item, ""
        if arguments.exact + arguments.relaxation > 0.0 and not now.proved:
            changes, rests = prove(now, arguments.exact, arguments.relaxation)
            now = Instance(**{**vars(now), **changes})
        if arguments.seconds > 0.0 and not now.proved:
            more, found = improve(now, arguments.seconds)
            changes |= more
            now = Instance(**{**vars(now), **more})
        if arguments.write and changes:
            _take(item.name, changes)
        yield Row("instances of the suite", {
            "instance": item.name.ljust(44), "p": item.p, "best": now.best, "from": now.best_from, "bound": now.bound,
            "gap": now.gap, "proved": now.proved, "rests on": (rests or now.bound_from).ljust(30),
            "heuristics": " ".join(f"{name} {_gap(value, now):.1e}" for name, value in found.items()),
            "CPU s": time.process_time() - began,
        })  # fmt: skip


def better(files: Iterable[Path]) -> Iterator[Row]:
    """Take over masks of files of results that are better than the best known, evaluated here."""
    for file in files:
        held = results.read(file)
        for row in held.rows:
            item = catalogues.from_json(_read(), "catalogue.json").get(row.instance)
            if row.objective is None or not row.objective < item.best or row.hash != item.hash:
                continue
            value = instances.load(item).evaluate(mask_from_text(row.mask, item.p))
            if item.best - value > ROUNDING * (item.scale - item.best):
                _take(item.name, {"best": float(value), "best_from": held.label, "mask": row.mask})
                gain = (item.best - value) / (item.scale - item.best)
                yield Row(
                    "better masks", {"instance": item.name.ljust(44), "from": held.label, "best": value, "by": gain}
                )


def _gap(value: float, instance: Instance) -> float:
    """A heuristic's gap to the best value."""
    return (value - instance.best) / (instance.scale - instance.best)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="*", default=(), help="these instances, by name")
    parser.add_argument("--largest", type=int, default=4096, help="no instances of more weights")
    parser.add_argument("--open", action="store_true", help="only those without a proof")
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU seconds of a heuristic on an instance")
    parser.add_argument("--exact", type=float, default=30.0, help="CPU seconds of the exact search; 0: none")
    parser.add_argument("--relaxation", type=float, default=60.0,
                        help="wall-clock seconds of a bound where nobody searches exactly")  # fmt: skip
    parser.add_argument("--unbounded", action="store_true", help="only those without any bound")
    parser.add_argument("--write", action="store_true", help="bring the catalogue up to date")
    parser.add_argument("--results-of", type=Path, nargs="*", default=(), metavar="FILE",
                        help="take better masks from these files of results, and prove nothing")  # fmt: skip
    parser.add_argument("--make", action="store_true", help="make the files that are missing, and prove nothing")


QUICK = {"largest": 32, "seconds": 0.5, "exact": 2.0}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
