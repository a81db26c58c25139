"""Run one solver on the suite. A run that is stopped goes on where it was: after each solve the file is written."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prunebench.comparison.fingerprint import code_version
from prunebench.comparison.request import SolverChoice
from prunebench.comparison.work import Outcome, attempt
from prunebench.core.errors import Interrupted, InvalidInput
from prunebench.core.masks import mask_text
from prunebench.core.options import as_json
from prunebench.core.solution import Budget
from prunebench.core.solver import SolverLike, facts
from prunebench.log.machine import machine, versions
from prunebench.runs.executors import Job
from prunebench.suite import instances, results
from prunebench.suite.catalogue import Instance, catalogue
from prunebench.suite.results import Results, Row

Say = Callable[[str], None]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Variables that limit threads, and with them what a second means."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How long a solve may take. seconds : of the clock;  cpu : processor seconds, not wall-clock seconds"""

    seconds: float = 5.0
    cpu: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.seconds < float("inf"):
            raise InvalidInput(f"the limit is {self.seconds} s; give the seconds that a solve may take, above 0")

    @property
    def clock(self) -> str:
        """Its name in files."""
        return "cpu" if self.cpu else "wall"

    @property
    def budget(self) -> Budget:
        """The budget of one solve."""
        return Budget(seconds=self.seconds, cpu=self.cpu)


def run(
    solver: "str | SolverLike | Any",
    chosen: Sequence[Instance],
    out: Path,
    *,
    limit: Limit | None = None,
    seeds: int = 1,
    say: Say = lambda _line: None,
    told: tuple[str, str] = ("", ""),
) -> Results:
    """Solve the chosen instances with one solver and write a file of results.

    Parameters
    ----------
    solver : a name with options ("anneal:sweeps=50"), a solver object or class of your own, or a dimod sampler
    chosen : instances (`prunebench.suite.catalogue.chosen`)
    out : the file; one that is there is continued: rows that it has are not made again
    limit : of a solve; 5 wall-clock seconds by default
    seeds : runs of each instance by a stochastic solver
    say : called with one line of progress at a time
    told : who submits the file, and a note for its readers

    Raises
    ------
    InvalidInput   an unknown solver or option, a package that is missing, or a file of another run
    Interrupted    Ctrl-C; the rows that are done are in the file
    """
    limit = limit or Limit()
    choice = SolverChoice.of(solver)
    made, label = choice.make(), choice.label
    held = _begun(out, _head(made, label, limit, seeds, told))
    done = {row.key: row for row in held.rows}
    count = seeds if facts(made).stochastic else 1
    waiting = [(item, seed) for item in chosen for seed in range(count) if (item.name, seed) not in done]
    say(f"{label}: {len(waiting)} solves, {len(done)} done before; at most {limit.seconds:g} s ({limit.clock}) each")
    for number, (item, seed) in enumerate(waiting, 1):
        try:
            row = _solved(made, item, seed, limit)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {len(held.rows)} rows are done. The same command goes on from {out}"
            ) from None
        held = replace(held, rows=(*held.rows, row))
        results.write(out, held)
        say(f"{number}/{len(waiting)}  {item.name}  {_words(row)}")
    if not out.is_file():
        results.write(out, held)
    return held


def _head(solver: SolverLike, label: str, limit: Limit, seeds: int, told: tuple[str, str]) -> Results:
    held = catalogue()
    options: dict[str, Any] = as_json(solver) if is_dataclass(solver) else {}
    return Results(
        suite={"version": held.version, "digest": held.digest},
        solver={"name": solver.name, "label": label, "options": options, "version": code_version(type(solver))},
        limit={"seconds": limit.seconds, "clock": limit.clock},
        seeds=seeds,
        machine=machine(),
        versions=versions(),
        threads={name: os.environ.get(name, "not limited") for name in THREADS},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        submitter=told[0],
        note=told[1],
    )


def _begun(out: Path, head: Results) -> Results:
    """The results that a file holds, or none.

    Raises
    ------
    InvalidInput   the file is of another run
    """
    if not out.is_file():
        if not out.parent.is_dir():
            raise InvalidInput(f"{out}: the folder {out.parent} does not exist; create it first")
        return head
    held = results.read(out)
    if other := head.differences(held):
        raise InvalidInput(
            f"{out} is of another run, with another {' and '.join(other)}; choose another -o, or remove the file"
        )
    return held


def _solved(solver: SolverLike, item: Instance, seed: int, limit: Limit) -> Row:
    block = instances.load(item)
    outcome: Outcome = attempt(Job(block, solver, limit.budget, seed))  # type: ignore[arg-type]  # group blocks too
    base = Row(instance=item.name, hash=item.hash, seed=seed)
    solution = outcome.solution
    if solution is None:
        return replace(base, skipped=outcome.skipped, failed=outcome.failed)
    proved, claimed = results.bound_of(solution)
    wall = float(solution.timings.get("total", 0.0))
    return replace(
        base,
        status=str(solution.status),
        stop=solution.stop_reason,
        objective=float(block.evaluate(solution.mask)),
        lower_bound=proved,
        claimed_bound=claimed,
        seconds=outcome.cpu_seconds if limit.cpu else wall,
        cpu_seconds=outcome.cpu_seconds,
        mask=mask_text(solution.mask),
        trace=results.trace_of(solution).tolist(),
    )


def _words(row: Row) -> str:
    if row.objective is None:
        return f"{'FAILED' if row.failed else 'refused'}: {row.skipped}"
    return f"{row.objective:.9g}  {row.status}  {row.seconds:.2f} s"


def labels(files: Sequence[Results]) -> Iterator[tuple[str, Results]]:
    """The files under distinct labels: who submitted it is added where a solver comes twice, and a number where that is
    not enough.
    """
    names = [held.label for held in files]
    names = [
        f"{name}, {held.submitter}" if held.submitter and names.count(name) > 1 else name
        for name, held in zip(names, files, strict=True)
    ]
    for number, (name, held) in enumerate(zip(names, files, strict=True)):
        before = names[:number].count(name)
        yield (f"{name} ({before + 1})" if before else name), held
