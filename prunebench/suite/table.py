"""Who is best, by size and time: ranks with intervals, the virtual best, primal integrals and proofs.

Only what was measured under one limit and clock stands in one table. A solver that refuses an instance, fails on it or
was not run on it shares the last rank there, with gap 1, what a random mask has: who answers only what suits it does
not lead.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunebench import measures
from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.core.solution import Status
from prunebench.measures import Interval
from prunebench.suite.catalogue import SIZE_CLASSES, Catalogue, Instance
from prunebench.suite.results import Results, Row
from prunebench.suite.run import labels

SHARES = (0.1, 1.0)
"""Moments at which solvers are ranked, as parts of the limit."""
GRACE_SHARE, GRACE_SECONDS = 0.1, 0.25
"""An answer counts that comes this much after the limit: a solver looks at the clock now and then. Of a later one only
the trace up to the limit counts."""
SOLVED = 1e-6
"""Gap to the best known value below which an instance counts as solved: what rounding leaves."""
TIE = 1e-9
"""Gaps that differ by less are one rank."""
VIRTUAL = "virtual best"
"""The name of the row that takes the best of all solvers on every instance."""


@dataclass(frozen=True)
class Score:
    """One solver on one instance, means over its seeds.

    gaps : at each of SHARES, capped at 1;  integral : the primal integral over the limit
    proved : whether a run proved its answer optimal;  overran : whether an answer came too late to count
    """

    gaps: FloatArray
    integral: float
    seconds: float
    answered: bool = True
    proved: bool = False
    overran: bool = False


ABSENT = Score(np.ones(len(SHARES)), 1.0, float("nan"), answered=False)
"""The score where there is no answer."""


@dataclass(frozen=True)
class Board:
    """Scores by solver and instance, and what they are measured by.

    best : by instance, the best value known, results included
    """

    instances: Sequence[Instance]
    solvers: Sequence[str]
    scores: Mapping[tuple[str, str], Score]
    best: Mapping[str, float]
    limit: float
    clock: str

    def of(self, solver: str, chosen: Sequence[Instance]) -> list[Score]:
        """A solver's scores on some instances."""
        return [self.scores.get((solver, item.name), ABSENT) for item in chosen]

    def part(self, mode: str, size: str = "") -> list[Instance]:
        """The instances of a mode (select, refit, groups) and a class of sizes; "" for all sizes.

        None of a mode in which nobody answered.
        """
        answered = {name for _, name in self.scores}
        if not any(mode_of(item) == mode and item.name in answered for item in self.instances):
            return []
        return [item for item in self.instances if mode_of(item) == mode and size in ("", item.size_class)]


def mode_of(item: Instance) -> str:
    """select, refit or groups: what a solver has to be able to do."""
    return "groups" if item.kind == "groups" else item.mode


MODES = ("select", "refit", "groups")
"""The parts of the suite, each a competition of its own."""


def board(files: Sequence[Results], catalogue: Catalogue) -> Board:
    """The scores of some files of results.

    Raises
    ------
    InvalidInput   no files, files of another suite, or of several limits
    """
    if not files:
        raise InvalidInput("there are no files of results to rank; give at least one")
    for held in files:
        if held.suite.get("digest") != catalogue.digest:
            raise InvalidInput(
                f"the results of {held.label} are of another version of the suite; run it again, or take the "
                "prunebench that they were made with"
            )
    limits = sorted({(held.seconds, held.clock) for held in files})
    if len(limits) > 1:
        told = ", ".join(f"{seconds:g} s {clock}" for seconds, clock in limits)
        raise InvalidInput(f"the files have different limits ({told}); make one table of each")
    best = {item.name: item.best for item in catalogue.instances}
    for held in files:
        for row in held.rows:
            if row.objective is not None and row.instance in best:
                best[row.instance] = min(best[row.instance], row.objective)
    named = list(labels(files))
    scores = {}
    for label, held in named:
        for item in catalogue.instances:
            rows = [row for row in held.rows if row.instance == item.name]
            solved = [row for row in rows if row.solved]
            if solved:
                parts = [_of_row(row, item, best[item.name], held.seconds) for row in solved]
                scores[label, item.name] = _score([*parts, *[ABSENT] * (len(rows) - len(solved))])
    seen = {name for _, name in scores} | {row.instance for held in files for row in held.rows}
    chosen = [item for item in catalogue.instances if item.name in seen]
    return Board(chosen, [label for label, _ in named], scores, best, *limits[0])


def _score(parts: Sequence[Score]) -> Score:
    """The mean over seeds; one without an answer counts as such."""
    return Score(
        np.mean([part.gaps for part in parts], axis=0),
        float(np.mean([part.integral for part in parts])),
        float(np.nanmean([part.seconds for part in parts])),
        proved=any(part.proved for part in parts),
        overran=any(part.overran for part in parts),
    )


def _of_row(row: Row, item: Instance, best: float, limit: float) -> Score:
    trace = np.asarray(row.trace, dtype=np.float64).reshape(-1, 2)
    spread = item.scale - best
    late = row.seconds > limit * (1.0 + GRACE_SHARE) + GRACE_SECONDS
    over_time = np.minimum((trace[:, 1] - best) / spread, 1.0)
    gaps = np.minimum(measures.curve(trace[:, 0], over_time, limit * np.asarray(SHARES), before=1.0), 1.0)
    assert row.objective is not None
    if not late:
        # a solver's own weights may be worse than those of its mask, which are what counts
        gaps[-1] = min(gaps[-1], (row.objective - best) / spread)
    gaps = np.maximum(gaps, 0.0)
    integral = measures.primal_integral(trace[:, 0], np.maximum(over_time, 0.0), limit)
    return Score(gaps, integral, row.seconds, proved=not late and row.status == Status.OPTIMAL, overran=late)


def ranks(held: Board, chosen: Sequence[Instance], share: int = -1) -> dict[str, FloatArray]:
    """By solver, its rank on each of some instances, 1 the best; ties share the mean of their ranks. float64 (i,)

    share : which of SHARES. Ranked are the solvers that answer any instance of these modes, so that solvers of other
    modes lengthen no list.
    """
    modes = {mode_of(item) for item in chosen}
    rivals = [item for item in held.instances if mode_of(item) in modes]
    solvers = [solver for solver in held.solvers if any(score.answered for score in held.of(solver, rivals))]
    gaps = np.array([[score.gaps[share] for score in held.of(solver, chosen)] for solver in solvers])
    answered = np.array([[score.answered for score in held.of(solver, chosen)] for solver in solvers])
    gaps = np.where(answered, gaps, 2.0)
    out = np.empty_like(gaps)
    for column in range(gaps.shape[1]):
        values = gaps[:, column]
        better = (values[None, :] < values[:, None] - TIE).sum(axis=1)
        equal = (np.abs(values[None, :] - values[:, None]) <= TIE).sum(axis=1)
        out[:, column] = better + 0.5 * (equal + 1)
    return dict(zip(solvers, out, strict=True))


def interval(values: Sequence[float] | FloatArray) -> Interval:
    """The mean of values, one an instance, with its bootstrap interval."""
    return measures.block_interval(values, range(len(values)))


@dataclass(frozen=True)
class Line:
    """One solver in a table.

    rank, integral, gap : over the table's instances;  early : the rank at the first of SHARES
    solved : instances whose best known value it reached;  proved : those that it proved
    alone : instances on which nobody else was as good;  overran : answers that came too late to count
    """

    solver: str
    rank: Interval
    early: Interval
    gap: Interval
    integral: Interval
    answered: int
    solved: int
    proved: int
    alone: int
    overran: int


def lines(held: Board, chosen: Sequence[Instance]) -> list[Line]:
    """The solvers that answered any of these instances, the best rank first, and the virtual best."""
    late, early = ranks(held, chosen), ranks(held, chosen, 0)
    scores = {solver: held.of(solver, chosen) for solver in late}
    ends = {solver: np.array([score.gaps[-1] for score in part]) for solver, part in scores.items()}
    out = []
    for solver, part in scores.items():
        if not any(score.answered for score in part):
            continue
        others = [ends[other] for other in late if other != solver]
        ahead = np.min(others, axis=0) - ends[solver] > TIE if others else np.ones(len(chosen), dtype=bool)
        out.append(_line(solver, part, interval(late[solver]), interval(early[solver]), int(ahead.sum())))
    out.sort(key=lambda line: (line.rank.value, line.integral.value))
    return [*out, _virtual(held, chosen)]


def _line(solver: str, part: Sequence[Score], rank: Interval, early: Interval, alone: int) -> Line:
    return Line(
        solver, rank, early,
        interval([float(score.gaps[-1]) for score in part]),
        interval([score.integral for score in part]),
        sum(score.answered for score in part),
        sum(score.answered and bool(score.gaps[-1] <= SOLVED) for score in part),
        sum(score.proved for score in part),
        alone,
        sum(score.overran for score in part),
    )  # fmt: skip


def _virtual(held: Board, chosen: Sequence[Instance]) -> Line:
    """The best of all solvers on every instance, each measure by itself."""
    best = []
    for item in chosen:
        part = [held.scores[key] for solver in held.solvers if (key := (solver, item.name)) in held.scores] or [ABSENT]
        best.append(
            Score(
                np.min([score.gaps for score in part], axis=0),
                min(score.integral for score in part),
                float("nan"),
                answered=any(score.answered for score in part),
                proved=any(score.proved for score in part),
            )
        )
    none = Interval(np.nan, np.nan, np.nan)
    return _line(VIRTUAL, best, none, none, 0)


def sizes(held: Board, mode: str) -> Iterator[tuple[str, list[Instance]]]:
    """The classes of sizes of which a part of the suite has instances here."""
    for size in SIZE_CLASSES:
        if part := held.part(mode, size):
            yield size, part
