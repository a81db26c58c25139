"""Answers kept between comparisons: the same block, solver, options, seed, limit and code are not solved twice.

A file is believed only where its seal fits its contents, its key is its own, and the block itself gives
the objective that it states. Any other is removed, told once, and solved again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.comparison import fingerprint
from prunebench.comparison.request import portable
from prunebench.comparison.work import Outcome
from prunebench.core import solution_file
from prunebench.core.block import BlockProblem
from prunebench.core.errors import SolverFault
from prunebench.core.options import as_json
from prunebench.core.problem import cache_directory
from prunebench.core.solution import Solution, Status, kind_of
from prunebench.core.solver import SolverLike, verified
from prunebench.core.stop import Stop, StopKind

FORMAT = "prunebench.answer/2"
"""Name and version of a kept answer; another is not read."""

OBJECTIVE_ROUNDING = 1e-12
"""A stated objective may differ by this part of its size from what the block gives: sums may be ordered differently."""

Say = Callable[[str], None]


class AnswerCache:
    """A folder of answers by key; `None` as folder keeps nothing. What goes wrong with it is told through `say`."""

    def __init__(self, folder: Path | None, say: Say = lambda _line: None) -> None:
        self.folder = folder
        self._say = say
        self._told: set[str] = set()

    @staticmethod
    def of_user(say: Say = lambda _line: None) -> "AnswerCache":
        """The user's cache folder."""
        return AnswerCache(cache_directory() / "answers", say)

    def key(self, block: BlockProblem, solver: SolverLike, seed: int, time_limit: float) -> str:
        """SHA-256 over all that decides an answer and its times, code, libraries and machine included.

        "" where that cannot be told, and nothing is kept: an option that is an object, code without a file.
        """
        options = as_json(solver)
        if not portable(solver):
            return ""
        try:
            surroundings = fingerprint.of(solver, options)
        except fingerprint.NoSource:
            return ""
        parts = {
            "format": FORMAT,
            "block": block.hash,
            "solver": solver.name,
            "options": options,
            "seed": seed,
            "time_limit": time_limit,
            **surroundings,
        }
        return _digest(parts)

    def get(self, key: str, block: BlockProblem) -> Outcome | None:
        """The answer kept under a key, checked against the block; None where there is none that holds."""
        if self.folder is None or not key or not (file := self._file(key)).is_file():
            return None
        try:
            return _checked(json.loads(file.read_text(encoding="utf-8")), key, block)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SolverFault) as error:
            self._tell(
                "damaged",
                f"a kept answer is damaged or was changed, and is solved again ({type(error).__name__}: {error})",
            )
            with suppress(OSError):
                file.unlink(missing_ok=True)
            return None

    def put(self, key: str, block: BlockProblem, outcome: Outcome) -> None:
        """Keep an answer; reasons for having none are not kept, since they may go away."""
        if self.folder is None or not key or outcome.solution is None:
            return
        answer = solution_file.plain(contents_of(block, outcome))
        file = self._file(key)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            held = {"format": FORMAT, "key": key, "seal": _digest([key, answer]), "answer": answer}
            temporary.write_text(json.dumps(held, allow_nan=False), encoding="utf-8")
            temporary.replace(file)
        except (OSError, ValueError) as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            self._tell("unwritten", f"answers cannot be kept in {self.folder} ({error}); the comparison goes on")

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"

    def _tell(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._say(line)


def contents_of(block: BlockProblem, outcome: Outcome) -> dict[str, Any]:
    """An answer as JSON-able values."""
    solution = outcome.solution
    assert solution is not None
    summary = solution_file.as_json(block, solution, solver="", options={}, seed=0)
    return {**solution_file.with_arrays(summary, solution), "cpu_seconds": outcome.cpu_seconds}


def _checked(held: Mapping[str, Any], key: str, block: BlockProblem) -> Outcome:
    """The answer of a file; raises ValueError or SolverFault where the file is not what was written."""
    answer = held["answer"]
    if held["format"] != FORMAT or held["key"] != key or held["seal"] != _digest([key, answer]):
        raise ValueError("its seal does not fit")
    outcome = outcome_of(answer, block)
    assert outcome.solution is not None
    found, stated = outcome.solution.objective, answer["objective"]
    if not abs(found - stated) <= OBJECTIVE_ROUNDING * (abs(found) + abs(block.form.constant)):
        raise ValueError(f"it states objective {stated!r} where the block gives {found!r}")
    verified(block, outcome.solution, "cache")
    return outcome


def outcome_of(held: Mapping[str, Any], block: BlockProblem) -> Outcome:
    """The answer of JSON-able values; its objective is recomputed by the block."""
    mask = np.array(held["mask"], dtype=np.bool_)
    weights = np.array(held["weights"], dtype=np.float64)
    trace = np.array([[a, b, -np.inf if c is None else c] for a, b, c in held["trace"]], dtype=np.float64)
    bound, status = held["lower_bound"], Status(held["status"])
    solution = Solution(
        mask=mask,
        weights=weights,
        objective=block.evaluate(weights, mask),
        lower_bound=-np.inf if bound is None else bound,
        status=status,
        stop=Stop(StopKind(held.get("stop") or kind_of(status)), held["stop_reason"]),
        trace=trace,
        timings=held["timings"],
        details=held["details"],
        bridges=tuple(held.get("bridges", ())),
    )
    return Outcome(solution, cpu_seconds=held["cpu_seconds"])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
