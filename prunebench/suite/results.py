"""A file of results: what one solver found on instances of the suite, under one limit, on one machine.

The file (JSON), format "prunebench.suite-results/1":

    suite        version and digest of the suite
    solver       name, label (name with its options), options, and the version of its code
    limit        seconds a solve, and the clock that counts them: "cpu" or "wall"
    seeds        how many runs a stochastic solver makes of each instance
    date         when the run began
    machine, versions, threads     on what the times were made
    submitter, note                who sends the file, and what others should know; may be empty
    rows         one for each instance and seed

A row has `instance`, `hash`, `seed`; `skipped`, the reason where there is no answer, and `failed`, whether the solver
broke. Where there is an answer: `status`, `stop`, `objective`, `lower_bound` (proved, or null), `claimed_bound` (of
another program, not checked here, or null), `seconds` by the limit's clock, `cpu_seconds`, `mask` as hexadecimal bits,
and `trace`, pairs (seconds, objective) of the best answer so far. The objective is that of the mask; in mode refit its
weights are fitted again, so a solver's own weights do not count.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.core.solution import Solution
from prunebench.core.solution_file import finite, plain
from prunebench.log import checks

FORMAT = "prunebench.suite-results/1"
"""Format name and version that a file of results states."""
CLOCKS = ("cpu", "wall")
"""What may count the seconds of a limit."""
FIRST, STEP = 1e-4, 1.2
"""Seconds from which improvements are told apart, and the factor in time within which only the last is kept."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a solver found on one instance with one seed; see the top of this module."""

    instance: str
    hash: str
    seed: int
    skipped: str = ""
    failed: bool = False
    status: str = ""
    stop: str = ""
    objective: float | None = None
    lower_bound: float | None = None
    claimed_bound: float | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    mask: str = ""
    trace: Sequence[Sequence[float]] = ()

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from other rows of its file."""
        return self.instance, self.seed

    @property
    def solved(self) -> bool:
        """Whether there is an answer."""
        return self.objective is not None


@dataclass(frozen=True, kw_only=True)
class Results:
    """The contents of a file of results; see the top of this module."""

    suite: Mapping[str, str]
    solver: Mapping[str, Any]
    limit: Mapping[str, Any]
    seeds: int
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    threads: Mapping[str, str]
    date: str = ""
    submitter: str = ""
    note: str = ""
    rows: Sequence[Row] = field(default=())

    @property
    def label(self) -> str:
        """The solver with its options."""
        return str(self.solver["label"])

    @property
    def seconds(self) -> float:
        """The limit of a solve."""
        return float(self.limit["seconds"])

    @property
    def clock(self) -> str:
        """What counts the limit's seconds."""
        return str(self.limit["clock"])

    def differences(self, other: "Results") -> list[str]:
        """What keeps the rows of another file from standing beside these, for a run that is continued."""
        return [
            name
            for name in ("suite", "solver", "limit", "seeds", "machine", "threads", "versions")
            if plain(getattr(self, name)) != plain(getattr(other, name))
        ]


def trace_of(solution: Solution) -> FloatArray:
    """The improvements of a solution's trace, and its end: pairs (seconds, objective). float64 (t, 2)

    Of several improvements within a factor of STEP in time the last is kept, so that a file is small.
    """
    rows: FloatArray = np.asarray(solution.trace, dtype=np.float64)[:, :2]
    better = np.concatenate([[True], np.diff(rows[:, 1]) < 0.0])
    better[-1] = True
    rows = rows[better]
    steps = np.floor(np.log(np.maximum(rows[:, 0], FIRST) / FIRST) / np.log(STEP))
    last = np.append(np.diff(steps) > 0.0, True)
    # the first answer counts from when it was there
    last[0] = True
    return np.asarray(rows[last])


def write(file: Path, results: Results) -> None:
    """Write a file of results atomically.

    Raises
    ------
    InvalidInput   the folder does not exist
    """
    if not file.parent.is_dir():
        raise InvalidInput(f"{file}: the folder {file.parent} does not exist; create it first")
    head = {name: value for name, value in vars(results).items() if name != "rows"}
    lines = [json.dumps(plain({"format": FORMAT, **head}), allow_nan=False)[:-1] + ', "rows": [']
    held = [json.dumps(plain(vars(row)), allow_nan=False) for row in results.rows]
    text = "\n".join([*lines, ",\n".join(held), "]}"]) + "\n"
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read(file: Path) -> Results:
    """Read a file of results.

    Raises
    ------
    InvalidInput   no such file, another format, or a value of the wrong kind
    """
    if not file.is_file():
        raise InvalidInput(f"{file}: there is no such file; 'prunebench suite run … -o FILE' makes one")
    held = checks.read_object(file)
    if held.get("format") != FORMAT:
        raise InvalidInput(f"{file}: format is {held.get('format')!r}; expected {FORMAT!r}")
    for name, kind in HEAD.items():
        if not kind(held.get(name)):
            raise InvalidInput(f"{file}: {name} is {_short(held.get(name))}, which a file of results does not have")
    rows = tuple(_row(file, number, item) for number, item in enumerate(held["rows"], 1))
    if len({row.key for row in rows}) < len(rows):
        raise InvalidInput(f"{file} has two rows of one instance and seed; remove one")
    return Results(**{name: held[name] for name in HEAD if name != "rows"}, rows=rows)


def _row(file: Path, number: int, held: Any) -> Row:
    if not isinstance(held, dict):
        raise InvalidInput(f"{file}, row {number}: {_short(held)}; expected an object")
    wrong = [name for name, kind in ROW.items() if name in held and not kind(held[name])]
    missing = [name for name in ("instance", "hash", "seed") if name not in held]
    unknown = [name for name in held if name not in ROW]
    if wrong or missing or unknown:
        name = (wrong or missing or unknown)[0]
        what = "is missing" if missing and not wrong else f"is {_short(held[name])}, which no row has"
        raise InvalidInput(f"{file}, row {number}: {name} {what}")
    return Row(**held)


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def _is_solver(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("name", "label", "version"))


def _is_limit(value: Any) -> bool:
    known = isinstance(value, dict) and value.get("clock") in CLOCKS
    return known and checks.is_number(value.get("seconds")) and value["seconds"] > 0


def _is_trace(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(checks.is_number, pair)) for pair in value
    )


HEAD: Mapping[str, checks.Kind] = {
    "suite": _is_map,
    "solver": _is_solver,
    "limit": _is_limit,
    "seeds": checks.is_whole,
    "machine": _is_map,
    "versions": _is_map,
    "threads": _is_map,
    "date": checks.is_text,
    "submitter": checks.is_text,
    "note": checks.is_text,
    "rows": lambda value: isinstance(value, list),
}
"""What a file holds beside its format."""

ROW: Mapping[str, checks.Kind] = {
    **dict.fromkeys(("instance", "hash", "skipped", "status", "stop", "mask"), checks.is_text),
    **dict.fromkeys(("objective", "lower_bound", "claimed_bound"), checks.optional(checks.is_number)),
    **dict.fromkeys(("seconds", "cpu_seconds"), checks.is_number),
    "seed": checks.is_whole,
    "failed": checks.is_flag,
    "trace": _is_trace,
}
"""What a row holds."""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def bound_of(solution: Solution) -> tuple[float | None, float | None]:
    """The bound that a solution proves, and the one that another program claims."""
    # over a bridge the claim is about another problem
    claimed = None if solution.bridges else solution.details.get("claimed_bound")
    return finite(solution.lower_bound), finite(float(claimed)) if isinstance(claimed, (int, float)) else None
