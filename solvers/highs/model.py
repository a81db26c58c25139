"""A HiGHS model built from arrays, run in a thread so that Ctrl-C and time limits reach it.

HiGHS accepts no Hessian together with integer columns, so every formulation here is linear, with tangents
for curved rows, added where a solution violates them. highspy is imported when a model is made.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunebench.core import solver_log
from prunebench.core.arrays import FloatArray
from prunebench.core.stop import Stop, StopCheck, StopKind, never

FEASIBILITY = 1e-10
"""Row and integrality tolerance for HiGHS; `Model.slack` lowers bounds by its effect."""
SAFETY = 4.0
"""Safety factor on the first-order effect of tolerances on the optimum: tolerance times the rows' multipliers."""
NEGLIGIBLE = 1e-9
"""HiGHS drops row entries below its default of this; they are dropped here first, so that no solution is lost."""
HALF_ULP = 0.5 * float(np.finfo(np.float64).eps)
"""Unit roundoff of float64: the largest relative error of one operation."""


@dataclass
class Outcome:
    """The result of a run.

    bound : HiGHS' dual bound;  points : improving integer solutions;  finished : solved to the end
    infeasible : HiGHS reports that the model has no solution;  failed : the run ended in an error
    words : HiGHS' text for its status
    """

    bound: float
    points: list[FloatArray]
    nodes: int
    finished: bool
    infeasible: bool
    failed: bool
    words: str


TOLERANCES = Stop.finished("HiGHS' tolerances leave this gap")
"""The stop of a search whose gap is within HiGHS' tolerances."""


def stopped(outcome: Outcome) -> Stop:
    """The stop for a run that HiGHS did not finish."""
    return Stop(StopKind.FAILED, f"HiGHS stopped: {outcome.words}")


@dataclass
class Rows:
    """Sparse rows lower <= Σ value·column <= upper, added one by one."""

    starts: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)

    def add(self, columns: Any, values: Any, lower: float = -np.inf, upper: float = np.inf) -> None:
        """Add one row."""
        self.starts.append(len(self.columns))
        self.columns.extend(np.asarray(columns, dtype=np.int64).tolist())
        self.values.extend(np.asarray(values, dtype=np.float64).tolist())
        self.lower.append(lower)
        self.upper.append(upper)


class Model:
    """Columns with costs and bounds, some of them binary; rows may be added between runs.

    tolerance : to which every row holds in double precision: FEASIBILITY, or more if a row has large terms
    """

    def __init__(self, cost: FloatArray, lower: FloatArray, upper: FloatArray, binary: int, threads: int) -> None:
        import highspy

        self._highspy = highspy
        self.binary, self.tolerance = binary, FEASIBILITY
        # a bound on the magnitude of each column in any solution
        self._reach = np.maximum(np.abs(lower), np.abs(upper))
        self._lost = HALF_ULP * cost.size * float(np.abs(cost) @ self._reach)
        # HiGHS accepts a relaxation's value as a bound if reduced costs are wrong by at most the tolerance
        self._lost += FEASIBILITY * float((upper - lower).sum())
        self.highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]  # highspy's stubs are partial
        self.set_options((
            ("output_flag", False),
            ("threads", threads),
            ("primal_feasibility_tolerance", FEASIBILITY),
            ("mip_feasibility_tolerance", FEASIBILITY),
            ("mip_rel_gap", 1e-9),
            ("mip_abs_gap", 1e-9),
            ("mip_min_logging_interval", 0.5),
        ))  # fmt: skip
        self._log = solver_log.listener()
        if self._log is not None:
            self.set_options((("output_flag", True), ("log_to_console", False)))
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = cost.size, 0
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, lower, upper
        lp.row_lower_ = lp.row_upper_ = np.empty(0)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.zeros(1, np.int32)
        lp.a_matrix_.index_, lp.a_matrix_.value_ = np.empty(0, np.int32), np.empty(0)
        self._taken = self.highs.passModel(lp) != highspy.HighsStatus.kError
        self._integral = False
        states = highspy.HighsModelStatus
        # after an error the dual bound reads 0, which is not proved
        self._bounding = (
            states.kOptimal, states.kInterrupt, states.kTimeLimit, states.kIterationLimit, states.kSolutionLimit,
        )  # fmt: skip

    def set_options(self, options: Iterable[tuple[str, bool | float]]) -> None:
        """Set HiGHS options by name."""
        for name, value in options:
            self.highs.setOptionValue(name, value)

    def add(self, rows: Rows) -> None:
        """Append rows, each widened so that double precision excludes no solution.

        If HiGHS rejects a row it is missing, which makes the bound weaker, not wrong.
        """
        if not rows.starts:
            return
        columns, values = np.array(rows.columns, dtype=np.int32), np.array(rows.values)
        starts = np.array(rows.starts, dtype=np.int32)
        sizes = np.abs(values) * self._reach[columns]
        small = np.abs(values) < NEGLIGIBLE
        lost = np.add.reduceat(np.where(small, sizes, 0.0), starts)
        summing = HALF_ULP * np.diff(starts, append=values.size) * np.add.reduceat(sizes, starts)
        self.tolerance = max(self.tolerance, float(summing.max()))
        # rounding below HiGHS' own tolerance is covered by it
        lost += np.where(summing > FEASIBILITY, summing, 0.0)
        self.highs.addRows(
            starts.size, np.array(rows.lower) - lost, np.array(rows.upper) + lost, values.size,
            starts, columns, np.where(small, 0.0, values),
        )  # fmt: skip

    def slack(self, multipliers: float) -> float:
        """How far HiGHS' dual bound may exceed the true optimum. multipliers : bound on the sum of the rows'"""
        return SAFETY * self.tolerance * multipliers + self._lost

    def relax(self, seconds: float) -> FloatArray | None:
        """The optimum with continuous binaries; None if it was not reached."""
        self._set_integrality(False)
        outcome = self._run(seconds, never, lambda _: None)
        return np.array(self.highs.getSolution().col_value) if outcome.finished else None

    def solve(
        self,
        seconds: float,
        start: FloatArray | None,
        stop: StopCheck,
        watch: Callable[[float], None],
    ) -> Outcome:
        """Branch and cut from `start`. `watch` gets the dual bound as it rises; `stop` can end the run early."""
        self._set_integrality(True)
        if start is not None:
            solution = self._highspy.HighsSolution()
            solution.col_value = start.tolist()
            self.highs.setSolution(solution)
        return self._run(seconds, stop, watch)

    def _set_integrality(self, wanted: bool) -> None:
        if wanted != self._integral:
            kind = self._highspy.HighsVarType.kInteger if wanted else self._highspy.HighsVarType.kContinuous
            chosen = np.arange(self.binary, dtype=np.int32)
            self.highs.changeColsIntegrality(self.binary, chosen, np.full(self.binary, int(kind), dtype=np.uint8))
            self._integral = wanted

    def _pass_on(self, event: Any) -> None:
        assert self._log is not None
        self._log(str(event.message).rstrip("\n"))

    def _run(self, seconds: float, stop: StopCheck, watch: Callable[[float], None]) -> Outcome:
        highs = self.highs
        points: list[FloatArray] = []
        seen: list[float] = []
        interrupted = threading.Event()

        def check(event: Any) -> None:
            if interrupted.is_set() or stop(0.0):
                event.data_in.user_interrupt = True

        def log(event: Any) -> None:
            seen.append(float(event.data_out.mip_dual_bound))

        def improving(event: Any) -> None:
            points.append(np.array(event.data_out.mip_solution))

        pairs = (
            (highs.cbMipInterrupt, check),
            (highs.cbSimplexInterrupt, check),
            (highs.cbMipLogging, log),
            (highs.cbMipImprovingSolution, improving),
            *(((highs.cbLogging, self._pass_on),) if self._log is not None else ()),
        )
        for callback, function in pairs:
            callback += function
        highs.setOptionValue("time_limit", float(highs.getRunTime() + min(max(seconds, 0.0), 1e7)))
        worker = threading.Thread(target=highs.run, daemon=True)
        worker.start()
        try:
            while worker.is_alive():
                worker.join(0.05)
                # here rather than in HiGHS' thread, which must not raise exceptions
                while seen:
                    watch(seen.pop(0))
        except BaseException:
            interrupted.set()
            worker.join()
            raise
        finally:
            for callback, function in pairs:
                callback -= function
        status = highs.getModelStatus()
        info = highs.getInfo()
        finished = status == self._highspy.HighsModelStatus.kOptimal
        if finished and self._integral:
            points.append(np.array(highs.getSolution().col_value))
        bound = float(info.mip_dual_bound) if self._integral and self._taken and status in self._bounding else -np.inf
        nodes = int(getattr(info, "mip_node_count", 0)) if self._integral else 0
        states = self._highspy.HighsModelStatus
        return Outcome(
            bound, points, nodes, finished, status == states.kInfeasible, status == states.kSolveError,
            highs.modelStatusToString(status),
        )  # fmt: skip
