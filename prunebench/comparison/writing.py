"""The rows of a comparison as they are written: one for every outcome, before the measures that need the others."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.comparison import table
from prunebench.comparison.finalists import Finalists
from prunebench.comparison.fingerprint import code_version
from prunebench.core.block import BlockProblem
from prunebench.core.masks import mask_text
from prunebench.core.options import as_json
from prunebench.core.solution_file import finite
from prunebench.core.solver import facts

if TYPE_CHECKING:
    from prunebench.comparison.blocks import Entry
    from prunebench.comparison.request import CompareRequest
    from prunebench.comparison.retrained import Retrained
    from prunebench.comparison.run import Cell
    from prunebench.comparison.work import Outcome
    from prunebench.log.run_directory import RunDirectory

Judge = Callable[[BlockProblem, np.ndarray], float]
"""Measures an answer's true change of loss."""


class Writer:
    """Writes a row for every outcome: at once, or where finalists are ranked once all of a block are there."""

    def __init__(
        self, request: "CompareRequest", run: "RunDirectory", judge: Judge | None, retrained: "Retrained | None",
        waiting: "Sequence[Cell]",
    ) -> None:  # fmt: skip
        self._request, self._run, self._judge, self._retrained = request, run, judge, retrained
        ranks = retrained is not None and request.finalists == "halving"
        self._finalists = Finalists(retrained) if ranks and retrained is not None else None
        self._left = Counter(cell.entry.block.hash for cell in waiting)
        self._held: list[tuple[Cell, Outcome, bool]] = []
        self.written = 0
        self.whole = " (of blocks that are whole)" if self._finalists is not None else ""

    def take(self, cell: "Cell", outcome: "Outcome", cached: bool) -> None:
        """An outcome, in the order of cells."""
        if self._finalists is None:
            solution, more = outcome.solution, {}
            if self._retrained is not None and solution is not None:
                more = self._retrained.measures(cell.entry.block, solution.mask, solution.weights)
            self._write(cell, outcome, cached, more)
            return
        self._held.append((cell, outcome, cached))
        self._left[cell.entry.block.hash] -= 1
        if self._left[cell.entry.block.hash]:
            return
        answers = [(held.solution.mask, held.solution.weights) for _, held, _ in self._held if held.solution]
        columns = iter(self._finalists.measures(cell.entry.block, answers))
        for one, held, known in self._held:
            self._write(one, held, known, next(columns) if held.solution else {})
        self._held = []

    def _write(self, cell: "Cell", outcome: "Outcome", cached: bool, more: Mapping[str, float]) -> None:
        self._run.event(_row(self._request, cell, outcome, cached, self._judge) | dict(more))
        self.written += 1


def whole_blocks(rows: Sequence[Mapping[str, Any]], due_in: "Sequence[Entry]") -> int:
    """How many rows at the beginning are those of whole blocks: answers are ranked among all of a block.

    due_in : the block of every row that there is to be
    """
    due, count = Counter(entry.block.hash for entry in due_in), 0
    for block, there in Counter(row["block_hash"] for row in rows).items():
        if there < due[block]:
            break
        count += there
    return count


def _row(
    request: "CompareRequest",
    cell: "Cell",
    outcome: "Outcome",
    cached: bool,
    judge: Judge | None,
) -> dict[str, Any]:
    """One row, before the measures that need the other rows."""
    block, solution = cell.entry.block, outcome.solution
    row: dict[str, Any] = {
        "problem": request.problem or block.problem,
        "select": request.select if request.problem else "",
        **cell.entry.facts,
        "solver": cell.choice.label,
        "solver_name": cell.choice.name,
        "options": table.json_text(as_json(cell.solver) if cell.solver is not None else cell.choice.options),
        "stochastic": cell.solver is not None and facts(cell.solver).stochastic,
        "seed": cell.seed,
        "time_limit": request.time_limit,
        "version": code_version(type(cell.solver)) if cell.solver is not None else "",
        "skipped": outcome.skipped,
        "failed": outcome.failed,
        "cached": cached,
    }
    if solution is None:
        return row
    timings: Mapping[str, float] = solution.timings
    seconds = timings.get("total", math.nan)
    share = solution.details.get("feasible_share")
    return row | {
        "status": str(solution.status),
        "stop_reason": solution.stop_reason,
        "objective": solution.objective,
        "lower_bound": finite(solution.lower_bound),
        "seconds": seconds,
        "cpu_seconds": outcome.cpu_seconds,
        **{phase: timings.get(phase, 0.0) for phase in table.PHASES},
        "feasible_before_repair": share,
        "model_change": solution.objective - cell.entry.facts["start_objective"],
        "true_change": None if judge is None else judge(block, solution.weights),
        "mask": mask_text(solution.mask),
        "trace_seconds": solution.trace[:, 0],
        "trace_objective": solution.trace[:, 1],
        "trace_bound": solution.trace[:, 2],
    }
