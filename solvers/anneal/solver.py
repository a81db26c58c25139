"""Simulated annealing by swaps: every state satisfies the count, or a quota, exactly, so no penalty is needed.

Kirkpatrick, Gelatt, Vecchi: Optimization by Simulated Annealing, Science 220, 1983; the move is
Kawasaki's spin exchange (Phys. Rev. 145, 1966). Temperatures fall geometrically over a range in
units of the block's mean swap energy; many short reads follow each other until the budget is
used.
"""

import math
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import Refusal, RefusalKind
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.solvers.anneal.search import KICKED_SIZE, Search

MOST_SWEEPS = 10_000_000
"""Most sweeps of a read: its schedule then takes 80 MB."""
BUDGET_SIZE = 8192
"""Most weights with a budget: the couplings are then half a gigabyte."""


@register
@dataclass(frozen=True, kw_only=True)
class Anneal(Solver):
    """Many short swap anneals, one batch in four from random masks, the others from the best mask so far.

    If several batches bring nothing, every second one starts hotter and is shorter, and on couplings good masks are
    improved by double swaps. On couplings of more than 64 weights three searches take turns with the batches: an
    iterated descent from the best mask, for as long as it finds better ones; descents from masks drawn from the
    semidefinite relaxation and from those of beams over it (solver `beam`), where the budget allows its O(p³); and
    searches of what good masks decide differently.
    Proves no bound.
    A proposal costs O(1) on dense couplings, an accepted swap O(p); on the factor both cost O(n) and
    nothing of size p² is formed. Where the block has a budget, weights are also added and dropped, on couplings.
    The budget counts proposals as evaluations. A search ends by itself
    after 32 reads, or on blocks with few masks after 100 proposed swaps per mask; larger blocks use up
    a limit on seconds or evaluations, and make 32 reads without one. Equal seeds give equal answers for
    any threads and limits, unless the seconds run out or do not suffice for one read, which is then
    shortened to fit.
    """

    name = "anneal"
    modes = frozenset({"select"})
    stochastic = True
    takes = frozenset({Count, Quota, Cost})
    reference = "Kirkpatrick, Gelatt, Vecchi: Optimization by Simulated Annealing, Science 220, 1983"

    sweeps: int = 1000
    """Sweeps of p proposals a read; fewer where the budget does not allow one whole read."""

    reads: int | None = None
    """Reads at most; none: 32 or more without a limit on seconds and evaluations, else until it is used."""

    hot: float = 0.05
    """First temperature, in units of the mean energy change of a random swap."""

    cold: float = 3e-5
    """Last temperature, in the same units."""

    couplings: Literal["auto", "dense", "factor"] = "auto"
    """Form the couplings, or work on the factor; auto: the factor from p = 4097 on where one is held."""

    polish: bool = True
    """End with the shared swap descent, reported apart."""

    threads: int = 1
    """Reads that run at the same time; more than the 4 of a batch bring nothing."""

    def warm_up(self, block: BlockProblem) -> None:
        """Load or compile the sweeps for such a block, and the polish."""
        _compile(block, self.couplings)

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """Options out of range, or option couplings=factor for a form without a factor."""
        for name in ("sweeps", "threads", "reads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                return f"{name} is {value}; choose at least 1"
        if self.sweeps > MOST_SWEEPS:
            return f"sweeps is {self.sweeps}; choose at most {MOST_SWEEPS:,}: each has an entry in the schedule"
        if not 0.0 < self.cold <= self.hot < math.inf:
            return f"cold is {self.cold} and hot is {self.hot}; choose 0 < cold <= hot"
        if self.couplings not in ("auto", "dense", "factor"):
            return f"couplings is {self.couplings!r}; choose one of auto, dense, factor"
        if block.budget is not None and (self.couplings == "factor" or block.p > BUDGET_SIZE):
            return Refusal(
                f"with a budget it anneals on couplings, of at most {BUDGET_SIZE:,} weights; choose couplings auto and "
                "smaller blocks, or solver 'obd'",
                RefusalKind.BUDGET,
            )
        if self.couplings == "factor" and block.form.factor is None:
            return "couplings is 'factor' but the form holds its hessian; choose 'auto' or 'dense'"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best mask of all reads, polished if requested, or the incumbent if that is better."""
        with best.building():
            best.timings["compile"] = _compile(best.block, self.couplings)
        search = Search(self, best)
        try:
            stop = search.go(rng)
        finally:
            search.tell()
        if self.polish:
            from prunebench.kernels.local_search.polish import polish

            polish(best)
        return stop


def _grouped(block: BlockProblem) -> bool:
    """Whether the block has a quota of several groups, whose kernels are their own."""
    return block.budget is None and not block.keeping.one_count


def _compile(block: BlockProblem, couplings: str) -> float:
    """Load or compile the kernels for such a block before the solve's clock starts. -> seconds it took"""
    started = perf_counter()
    from prunebench.kernels.local_search import descent, polish
    from prunebench.solvers.anneal import reads

    if block.budget is None:
        reads.warm(reads.factored(block, couplings), _grouped(block), block.p > KICKED_SIZE)
        polish.warm(block.form.factor is not None and block.p > descent.DENSE_SELECT_SIZE)
    return perf_counter() - started
