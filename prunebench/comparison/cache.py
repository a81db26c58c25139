"""Answers kept between comparisons: the same block, solver, options, seed, limit and code are not solved twice."""

import hashlib
import inspect
import json
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import prunebench
from prunebench.comparison.work import Outcome
from prunebench.core import solution_file
from prunebench.core.block import BlockProblem
from prunebench.core.options import as_json
from prunebench.core.problem import cache_directory
from prunebench.core.solution import Solution, Status
from prunebench.core.solver import Solver

FORMAT = "prunebench.answer/1"


class AnswerCache:
    """A folder of answers by key; `None` as folder keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @staticmethod
    def of_user() -> "AnswerCache":
        """The user's cache folder."""
        return AnswerCache(cache_directory() / "answers")

    def key(self, block: BlockProblem, solver: Solver, seed: int, time_limit: float) -> str:
        """SHA-256 over all that decides an answer and its times: also the code and the machine."""
        parts = {
            "block": block.hash,
            "solver": solver.name,
            "options": as_json(solver),
            "seed": seed,
            "time_limit": time_limit,
            "code": code_version(type(solver)),
            "machine": [platform.machine(), platform.processor(), os.cpu_count(), platform.node()],
        }
        return hashlib.sha256(json.dumps(solution_file.plain(parts), sort_keys=True).encode()).hexdigest()

    def get(self, key: str, block: BlockProblem) -> Outcome | None:
        """The answer kept under a key, checked against the block; None where there is none."""
        if self.folder is None or not (file := self.folder / key[:2] / f"{key}.json").is_file():
            return None
        held = json.loads(file.read_text(encoding="utf-8"))
        return outcome_of(held, block) if held.get("format") == FORMAT else None

    def put(self, key: str, block: BlockProblem, outcome: Outcome) -> None:
        """Keep an answer; reasons for having none are not kept, since they may go away."""
        if self.folder is None or outcome.solution is None:
            return
        file = self.folder / key[:2] / f"{key}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(contents_of(block, outcome), allow_nan=False), encoding="utf-8")
        temporary.replace(file)


def contents_of(block: BlockProblem, outcome: Outcome) -> dict[str, Any]:
    """An answer as JSON-able values."""
    solution = outcome.solution
    assert solution is not None
    summary = solution_file.as_json(block, solution, solver="", options={}, seed=0)
    return {
        **solution_file.with_arrays(summary, solution),
        "format": FORMAT,
        "cpu_seconds": outcome.cpu_seconds,
    }


def outcome_of(held: Mapping[str, Any], block: BlockProblem) -> Outcome:
    """The answer of JSON-able values; its objective is recomputed by the block."""
    mask = np.array(held["mask"], dtype=np.bool_)
    weights = np.array(held["weights"], dtype=np.float64)
    trace = np.array([[a, b, -np.inf if c is None else c] for a, b, c in held["trace"]], dtype=np.float64)
    bound = held["lower_bound"]
    solution = Solution(
        mask=mask,
        weights=weights,
        objective=block.evaluate(weights, mask),
        lower_bound=-np.inf if bound is None else bound,
        status=Status(held["status"]),
        stop_reason=held["stop_reason"],
        trace=trace,
        timings=held["timings"],
        details=held["details"],
    )
    return Outcome(solution, "", held["cpu_seconds"])


@cache
def code_version(solver: type) -> str:
    """The version, and a digest of the package's and the solver's own source: edited code solves anew."""
    digest = hashlib.sha256()
    root = Path(prunebench.__file__).parent
    for name in ("core", "forms", "kernels", "solvers"):
        for file in sorted((root / name).resolve().glob("*.py")):
            digest.update(file.read_bytes())
    for file in _own_file(solver):
        digest.update(file.read_bytes())
    return f"{prunebench.__version__}+{digest.hexdigest()[:12]}"


def _own_file(solver: type) -> list[Path]:
    try:
        return [Path(inspect.getfile(solver))]
    except (TypeError, OSError):
        return []
