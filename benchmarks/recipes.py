"""What `prune` reaches with nothing but a problem and a density, and how long it takes beside the best run by hand.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/recipes.py --seeds 3 --cells FILE
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/recipes.py --cases digits-mlp:0.1 --efforts quick normal

A case is PROBLEM:DENSITY, where the density may be a quota N:M. Recipe `auto` at each effort: accuracies in per
cent, or perplexity; mean and standard deviation over seeds, which draw the calibration samples, and whether the
mean reaches what was aimed at. Then the time of each effort beside that of a request by hand (the effort `hand`):
the one with which the project's other benchmarks reach most on this problem, or `demo` on digits-mlp. Seed by seed
the ways take turns, so that both sides see the same machine.

CPU seconds without loading the network and without judging it by validation samples, on as many threads as the
environment allows; `auto`'s with what it takes to choose. Medians over seeds: the first run of a process loads
compiled code. With --cells every run is written as a line of JSON, and what the file holds is not run again.
Needs the data under $PRUNEBENCH_DATA.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import icbs
import mlpnet
import resnet20
import small_transformers
from prunebench import make_problem
from prunebench.commands import demo
from prunebench.core.problem import NetworkProblem
from prunebench.recipes import EFFORTS, request_of
from prunebench.runs.prune import PruneRequest, prune
from runner import Benchmark, Note, Row, spread

TARGETS = {
    "digits-mlp:0.1": 94.0,
    "mlpnet-mnist:0.1": 95.0,
    "mlpnet-mnist:0.02": 93.5,
    "garment-fashion-mnist:0.1": 84.5,
    "resnet20-cifar10:0.3": 90.2,
    "resnet20-cifar10:0.2": 88.8,
    "vit-mnist:0.3": 97.7,
    "stories-llama:0.5": 6.5,
    "stories-llama:2:4": 10.0,
}
"""By case: the accuracy in per cent that is to be reached, or the perplexity that is not to be exceeded."""

HAND = "hand"
"""What stands in place of an effort for the best run by hand."""

LIMITS = {"quick": 0.1, "normal": 1.2}
"""By effort: the part of the time of the best run by hand that it may take."""

LOADED = "dense "
"""The line of progress that says that the network is loaded and judged holds this."""

Run = Mapping[str, Any]
"""The fields of a request beside problem, density and seed."""
Cell = dict[str, Any]
"""One run: case, effort, seed, recipe, measure, its value, that of the dense network, and CPU seconds by part."""


def by_hand(problem: str, density: float) -> Sequence[Run]:
    """The best request by hand: runs one after the other, each from where the one before ended."""
    if problem == "digits-mlp":
        best = demo.FAMILIES[-1]
        # without the demo's limit on a block's time: how much work it cuts off is decided by how busy the machine is
        options = {"coordinator": "icbs", "coordinator_options": best.options}
        return [{"solver": best.solver, "mode": best.mode, **options}]
    if problem == "garment-fashion-mnist":
        options = {"coordinator": "icbs", "coordinator_options": icbs.STRONGEST, "solver_options": {"restarts": 1}}
        return [{"solver": "swap", "mode": "refit", **options}]
    if problem == "mlpnet-mnist":
        return [mlpnet.staged([part for part in mlpnet.STAGES if part >= density])]
    if problem == "resnet20-cifar10":
        return [resnet20.staged([part for part in resnet20.STAGES if part >= density])]
    return small_transformers.PROBLEMS[problem][1]()["alps, icbs refit"]


@contextmanager
def judging(problem: NetworkProblem) -> Iterator[list[float]]:
    """CPU seconds of every judging by validation samples, while it lasts."""
    kind, spent = type(problem), []
    judge = kind.evaluate

    def timed(self: Any, model: Any) -> dict[str, float]:
        start = time.process_time()
        try:
            return judge(self, model)
        finally:
            spent.append(time.process_time() - start)

    kind.evaluate = timed  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        kind.evaluate = judge  # type: ignore[method-assign]


def run(case: str, effort: str, seed: int) -> Cell:
    """One run of `auto` at an effort, or of the best request by hand."""
    name, _, part = case.partition(":")
    kept, _, of = part.partition(":")
    quota = {"quota": part} if of else {}
    density = int(kept) / int(of) if of else float(part)
    problem = make_problem(name)
    assert isinstance(problem, NetworkProblem)
    problem.model()  # what it imports is no time of choosing; loading network and samples to look at them is
    start = time.process_time()
    if effort == HAND:
        asked = [
            PruneRequest(problem=name, density=density, seed=seed, **_with_quota(step, quota))
            for step in by_hand(name, density)
        ]
    else:
        given: dict[str, Any] = {"seed": seed} | ({"coordinator_options": quota} if quota else {})
        asked = [request_of(problem, density, effort=effort, given=given)]
    choosing = time.process_time() - start if effort != HAND else 0.0
    result, spent, judged = pruned(problem, asked)
    measure = "perplexity" if "perplexity" in result else "accuracy"
    scale = 1.0 if measure == "perplexity" else 100.0
    return {
        "case": case,
        "effort": effort,
        "seed": seed,
        "recipe": asked[0].recipe or " + ".join(f"{request.coordinator} {request.solver}" for request in asked),
        "measure": measure,
        "value": scale * result[measure],
        "dense": scale * result[f"dense_{measure}"],
        "CPU s": spent,
        "choosing CPU s": choosing,
        "judging CPU s": judged,
    }


def pruned(problem: NetworkProblem, asked: Sequence[PruneRequest]) -> tuple[dict[str, Any], float, float]:
    """The last one's result, CPU seconds of all without loading and judging, and those of judging."""
    spent = judged = 0.0
    start, result = None, {}
    with tempfile.TemporaryDirectory() as folder, judging(problem) as seconds:
        for position, request in enumerate(asked):
            began: list[tuple[float, int]] = []
            out = Path(folder) / str(position)
            step = request if start is None else _from(request, start)
            result = prune(step, out=out, say=partial(_note_time, began, seconds))
            at, before = began[0]
            own = sum(seconds[before:])
            spent, judged, start = spent + time.process_time() - at - own, judged + own, str(out)
    return result, spent, judged


def _from(request: PruneRequest, start: str) -> PruneRequest:
    return PruneRequest(**{**vars(request), "start": start})


def _note_time(began: list[tuple[float, int]], judged: list[float], line: str) -> None:
    """Once the network is loaded: the time, and how often it was judged so far."""
    if LOADED in line and not began:
        began.append((time.process_time(), len(judged)))


def _with_quota(step: Run, quota: Mapping[str, str]) -> dict[str, Any]:
    return {**step, "coordinator_options": {**step["coordinator_options"], **quota}}


def arguments(parser: argparse.ArgumentParser) -> None:
    ways = (HAND, *EFFORTS)
    parser.add_argument("--cases", nargs="+", default=list(TARGETS), metavar="PROBLEM:DENSITY")
    parser.add_argument("--efforts", nargs="+", default=[HAND, "quick", "normal"], choices=ways)
    parser.add_argument("--seeds", type=int, default=3, help="0: nothing is run, the tables are of what --cells holds")
    parser.add_argument("--cells", type=Path, metavar="FILE", help="finished runs, kept and not run again")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    held: list[Cell] = []
    if chosen.cells is not None and chosen.cells.is_file():
        held = [json.loads(line) for line in chosen.cells.read_text(encoding="utf-8").splitlines()]
    found: dict[tuple[str, str], list[Cell]] = {
        (case, effort): [cell for cell in held if (cell["case"], cell["effort"]) == (case, effort)]
        for case in chosen.cases
        for effort in chosen.efforts
    }
    for case in chosen.cases:
        for seed in range(chosen.seeds):
            for effort in chosen.efforts:
                if seed not in [cell["seed"] for cell in found[case, effort]]:
                    found[case, effort].append(_kept(run(case, effort, seed), chosen.cells))
        for effort in chosen.efforts:
            if found[case, effort]:
                yield _row(case, effort, found[case, effort])
            else:
                yield Note(f"{case} at effort {effort}: not run")
    for case in chosen.cases:
        for effort in chosen.efforts:
            if effort != HAND and found[case, effort] and found.get((case, HAND)):
                yield _beside(case, effort, found[case, effort], found[case, HAND])


def _kept(cell: Cell, file: Path | None) -> Cell:
    if file is not None:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(cell) + "\n")
    return cell


def _seconds(cells: Sequence[Cell], *parts: str) -> float:
    """The median over seeds of the CPU seconds of some parts together."""
    return float(statistics.median(sum(cell[part] for part in parts) for cell in cells))


def _row(case: str, effort: str, found: Sequence[Cell]) -> Row:
    mean, deviation = spread([cell["value"] for cell in found])
    target, less = TARGETS.get(case), found[0]["measure"] == "perplexity"
    reached = None if target is None else (mean <= target if less else mean >= target)
    return Row("recipe auto, and by hand", {
        "case": case, "effort": effort, "recipe": str(found[0]["recipe"]), "measure": str(found[0]["measure"]),
        "mean": mean, "std": deviation, "seeds": len(found), "dense": found[0]["dense"], "target": target,
        "reached": reached, "CPU s": _seconds(found, "CPU s"), "choosing CPU s": _seconds(found, "choosing CPU s"),
        "judging CPU s": _seconds(found, "judging CPU s"),
    })  # fmt: skip


def _beside(case: str, effort: str, auto: Sequence[Cell], hand: Sequence[Cell]) -> Row:
    ours, theirs = _seconds(auto, "CPU s", "choosing CPU s"), _seconds(hand, "CPU s")
    limit = LIMITS.get(effort)
    return Row("time beside the best run by hand", {
        "case": case, "effort": effort, "by hand": str(hand[0]["recipe"]),
        "reached by hand": spread([cell["value"] for cell in hand])[0],
        "reached": spread([cell["value"] for cell in auto])[0],
        "CPU s by hand": theirs, "CPU s with choosing": ours, "limit": limit, "ratio": ours / theirs,
    })  # fmt: skip


QUICK = {"seeds": 1, "cases": ["digits-mlp:0.1"], "efforts": ["quick"]}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
