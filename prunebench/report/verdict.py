"""What a comparison's page opens with: who is best for each block size and time budget, by how much, and how sure.

A solver is judged by the gap to best of its incumbent when the budget is over, averaged over blocks and seeds. Two
solvers are compared on the same blocks, by the mean of their differences and its bootstrap interval over blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench import measures
from prunebench.comparison.table import words as items_of
from prunebench.core.arrays import FloatArray
from prunebench.measures import FEWEST_BLOCKS, Interval
from prunebench.report.anytime import COMPARE, GAP_FLOOR, TRACED, by_solver, groups, late
from prunebench.report.figure import Absent, Drawn, Figure, Series, category_axis, log_axis, power, seconds_label
from prunebench.report.gather import Comparison
from prunebench.report.tables import Cell, Table, count, interval, number

if TYPE_CHECKING:
    import pandas

RANKED = "Ranking"
"""Title of the ranked bars."""
SHARES = (0.01, 0.1, 1.0)
"""Time budgets that are judged, as parts of the time limit."""
ROOM = 8.0
"""The axis goes on for this factor beyond the longest bar, for the number beside it."""
EQUAL = 1e-12
"""Mean gaps that differ by no more are the same: what rounding leaves of equal objectives."""


@dataclass(frozen=True)
class Standing:
    """A solver's gap to best when the budget is over. means : float64 (b,), of each block over its seeds"""

    solver: str
    gap: Interval
    means: FloatArray
    runs: int


@dataclass(frozen=True)
class Verdict:
    """The standings on one kind of block at one time budget, best first.

    items : what is chosen among, "weights" for most blocks
    best : the first standing, and those that equal it or that the blocks cannot tell from it
    after : the first standing that is none of them, with its mean distance behind the best; None where all are
    partial : solvers that did not answer every block, and so are not ranked
    """

    words: str
    items: str
    p: int
    density: float
    seconds: float
    blocks: int
    standings: tuple[Standing, ...]
    best: tuple[str, ...]
    after: tuple[Standing, Interval] | None
    partial: tuple[str, ...]

    @property
    def equal(self) -> tuple[str, ...]:
        """Those of the best that have the least gap itself."""
        first = self.standings[0].gap.value if self.standings else 0.0
        return tuple(s.solver for s in self.standings if s.gap.value <= first + EQUAL)

    @property
    def near(self) -> tuple[str, ...]:
        """Those of the best whose gap is larger, and that the blocks cannot tell from the first."""
        return tuple(solver for solver in self.best if solver not in self.equal)

    @property
    def sure(self) -> str:
        """How sure the first place is, in words."""
        if self.blocks < FEWEST_BLOCKS:
            few = "1 block" if self.blocks == 1 else f"{self.blocks} blocks"
            return f"{few}: too few to say (at least {FEWEST_BLOCKS})"
        if self.near:
            return "not told apart"
        return "told apart" if self.after else "the only one" if len(self.best) == 1 else "equal"


def verdicts(comparison: Comparison) -> list[Verdict]:
    """For each kind of block and each time budget at which a solver had an answer; the longest budget first."""
    out = []
    for words, part in groups(comparison, ("problem", "select", "mode", "density", "p")):
        limit = float(part["time_limit"].max())
        first = min(float(held[0]) for held in part["trace_seconds"] if len(held))
        for share in reversed(SHARES):
            if share == 1.0 or first <= share * limit:
                out.append(_judged(words, part, share * limit))
    return out


def _judged(words: str, part: "pandas.DataFrame", seconds: float) -> Verdict:
    blocks = list(dict.fromkeys(part["block_hash"]))
    standings, partial = [], []
    for solver, rows in by_solver(part):
        if rows["block_hash"].nunique() < len(blocks):
            partial.append(solver)
            continue
        # sorted by block, so that differences of two solvers are of the same blocks
        rows = rows.sort_values("block_hash", kind="stable")
        at_end = [gap_at(row, seconds) for row in rows[list(TRACED)].to_dict("records")]
        means = measures.by_block(at_end, list(rows["block_hash"]))
        gap = measures.block_interval(at_end, list(rows["block_hash"]))
        standings.append(Standing(solver, gap, means, len(rows)))
    standings.sort(key=lambda standing: standing.gap.value)
    best, after = _leaders(standings)
    first = part.iloc[0]
    return Verdict(
        words, items_of(part), int(first["p"]), float(first["density"]), seconds, len(blocks), tuple(standings), best,
        after, tuple(partial),
    )  # fmt: skip


def gap_at(row: Mapping[Any, Any], seconds: float) -> float:
    """The gap to best of the incumbent after so many seconds; 1, a random mask's, before there is one."""
    gaps = measures.gap(np.asarray(row["trace_objective"], np.float64), row["best_objective"], row["random_mean"])
    return float(measures.curve(row["trace_seconds"], gaps, [seconds], before=1.0)[0])


def _leaders(standings: list[Standing]) -> tuple[tuple[str, ...], tuple[Standing, Interval] | None]:
    """The first, those that are not told from it, and the first that is, with its distance."""
    if not standings:
        return (), None
    first = standings[0]
    best, after = [first.solver], None
    for standing in standings[1:]:
        behind = measures.block_interval(standing.means - first.means, range(first.means.size))
        equal = behind.value <= EQUAL
        # without an interval only equals share the first place
        if equal or behind.lower <= EQUAL:
            best.append(standing.solver)
        elif after is None:
            after = (standing, behind)
    return tuple(best), after


def sentence(verdict: Verdict) -> str:
    """The verdict in words."""
    where = f"{verdict.p:,} {verdict.items}, density {verdict.density:g}, {seconds_label(verdict.seconds)}: "
    if not verdict.standings:
        return where + "no solver answered every block."
    gap = number(verdict.standings[0].gap.value, 2).text
    equal = verdict.equal
    text = f"{_listed(equal)} {'is best' if len(equal) == 1 else 'are equal'}, at a gap of {gap}"
    if verdict.near:
        text += f", and the blocks do not tell {_listed(verdict.near)} from {'it' if len(equal) == 1 else 'them'}"
    if verdict.after is not None:
        standing, behind = verdict.after
        text += f"; next is {standing.solver}, {interval(behind).text} behind"
    if verdict.blocks < FEWEST_BLOCKS:
        text += f" ({verdict.sure})"
    return f"{where}{text}."


def table(comparison: Comparison, index: int, held: list[Verdict]) -> Table:
    """Every verdict as a row."""
    rows = tuple(
        (
            count(verdict.p), number(verdict.density), Cell(seconds_label(verdict.seconds), verdict.seconds),
            Cell(_listed(verdict.best) or "–"),
            interval(verdict.standings[0].gap) if verdict.standings else number(None),
            Cell(verdict.after[0].solver if verdict.after else "–"),
            interval(verdict.after[1]) if verdict.after else number(None),
            Cell(verdict.sure if verdict.standings else "–"), count(verdict.blocks),
            Cell(_listed(verdict.partial) or "–"),
        )
        for verdict in held
    )  # fmt: skip
    return Table(
        f"verdict-{index}", f"Best by size and time: {comparison.source.path.name}",
        "The solver with the least mean gap to best when the time is over, with those that the blocks do not tell from "
        "it: the 95 % interval of their difference, block by block, holds 0. “Behind” is the mean difference between "
        "the next and the best. Each comparison of two solvers stands for itself; among many, one in twenty may err.",
        (items_of(comparison.frame), "density", "time", "best", "gap to best", "next", "behind by", "how sure",
         "blocks", "did not answer every block"),
        rows, ("gap to best", "confidence interval"),
    )  # fmt: skip


def ranking(comparisons: tuple[Comparison, ...]) -> Drawn:
    """Bars of the mean gap to best at the time limit, best first, a figure for each problem, size and density."""
    figures = []
    for number_, comparison in enumerate(comparisons):
        for index, (words, part) in enumerate(groups(comparison, ("problem", "select", "mode", "density", "p"))):
            held = _judged(words, part, float(part["time_limit"].max()))
            if held.standings:
                marked = {solver: late(solver, rows) for solver, rows in by_solver(part)}
                figures.append(_bars(f"ranking-{number_}-{index}", held, marked))
    if figures:
        return Drawn(tuple(figures))
    return Drawn(absent=Absent(RANKED, "Solvers ranked by their answers", "there is no comparison", COMPARE))


def _bars(name: str, verdict: Verdict, marked: Mapping[str, str]) -> Figure:
    standings = verdict.standings
    series = []
    for place, standing in enumerate(standings):
        gap = standing.gap
        series.append(
            Series(
                marked[standing.solver], standing.solver, "bar", np.array([max(gap.value, GAP_FLOOR)]),
                np.array([float(len(standings) - 1 - place)]), np.array([max(gap.lower, GAP_FLOOR)]),
                np.array([max(gap.upper, GAP_FLOOR)]),
                (f"gap {interval(gap).text}, {standing.runs} runs on {verdict.blocks} blocks",),
                labels=(number(gap.value, 2).text,),
            )
        )  # fmt: skip
    names = [series.name for series in reversed(series)]
    values = [s.x for s in series] + [s.upper for s in series if s.upper is not None]
    notes = [f"{verdict.blocks} blocks; each solve had {seconds_label(verdict.seconds)}."]
    if verdict.blocks < FEWEST_BLOCKS:
        notes.append(f"Fewer than {FEWEST_BLOCKS} blocks give no interval.")
    if verdict.partial:
        notes.append(f"Not ranked, since blocks are missing: {_listed(verdict.partial)}.")
    if any("†" in held for held in marked.values()):
        notes.append("† some runs ended at the time limit.")
    most = ROOM * max([1.0, *(float(v) for held in values for v in held if np.isfinite(v))])
    return Figure(
        name, RANKED, "Ranking", verdict.words,
        "The mean gap to best of what was found when the time limit was over (0 is the best answer known, 1 what a "
        "random mask gives; what came later does not count), with its 95 % interval over blocks. Shorter is better. "
        f"The scale is logarithmic, and gaps below {power(GAP_FLOOR)} are drawn at {power(GAP_FLOOR)}.",
        log_axis("gap to best", values, floor=GAP_FLOOR, least=GAP_FLOOR, most=most), category_axis("", names),
        tuple(series), ("gap to best", "confidence interval"), " ".join(notes),
    )  # fmt: skip


def _listed(names: tuple[str, ...]) -> str:
    if len(names) < 3:
        return " and ".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
