"""The bridge that lets a mask solver take mode refit: select a mask, then re-optimise the kept weights."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.errors import Refusal
from prunebench.core.incumbent import Incumbent
from prunebench.core.solution import Budget, Progress, Solution, Status
from prunebench.core.solver import Facts, SolverLike, facts

NAME = "refit"
"""The bridge's name in Solution.bridges."""


@dataclass(frozen=True)
class Refit:
    """Solve the select problem with a mask solver, then re-optimise the kept weights.

    The two steps of Combinatorial Brain Surgeon (Yu et al., ICML 2022): selection, then update. As the mask
    was chosen for another objective, "optimal" becomes "feasible" and the mask solver's bound is replaced by
    the trivial bound of the quadratic form.
    """

    mask_solver: SolverLike

    modes: ClassVar[frozenset[str]] = frozenset({"refit"})

    @property
    def name(self) -> str:
        """The mask solver's name followed by +refit."""
        return f"{self.mask_solver.name}+refit"

    @property
    def facts(self) -> Facts:
        """The mask solver's facts, except for its modes and proofs."""
        return facts(self.mask_solver)._replace(name=self.name, modes=self.modes, exact=False)

    def warm_up(self, block: BlockProblem) -> None:
        """The mask solver's own, if it has one."""
        if hasattr(self.mask_solver, "warm_up"):
            self.mask_solver.warm_up(block.in_mode("select"))

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """The mask solver's refusal of the select problem."""
        return self.mask_solver.refuses(block.in_mode("select"))

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The refitted mask, or the refitted incumbent if that is better."""
        best = Incumbent(block, budget, progress)
        selected = self.mask_solver.solve(block.in_mode("select"), budget, rng)
        before = best.seconds
        best.offer(selected.mask, self.name)
        best.begin()
        best.bound(block.form.lower_bound())
        best.alternatives = selected.alternatives
        best.timings = {**selected.timings, "refit": best.seconds - before}
        best.details = {**selected.details, "select_objective": selected.objective}
        found = best.solution(selected.stop.also("then refitted (the mask was chosen for mode select)"))
        status = Status.FEASIBLE if selected.status is Status.OPTIMAL else selected.status
        return replace(found, status=status, bridges=(NAME, *selected.bridges))
