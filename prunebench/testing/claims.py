"""Whether what a solver claims holds in exact arithmetic, and an attack with thousands of hostile blocks.

from prunebench.testing.claims import attack
print(attack(["exhaustive", "highs"], count=1000, seed=0))
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from prunebench.core.block import MODES, BlockProblem, Mode
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.optimality import PROOF_TOLERANCE
from prunebench.core.solution import Budget, Solution, Status
from prunebench.kernels.relaxations.bounds import lower_bound
from prunebench.solving import solve
from prunebench.testing.exact import Exact
from prunebench.testing.hostile import HOSTILE, Hostile

UNIT = Fraction(1, 2**53)
"""Half a unit in the last place of 1.0 in float64, exactly."""
ONE_ROUNDING = 1 + 4 * UNIT
"""What computing "objective − bound" and the part of |objective| may round."""
EXAMPLES = 20
"""Faults that are kept in words; the others are only counted."""

BOUND = "bound above the optimum"
"""Kind of fault."""
OPTIMAL = "optimal of what is not"
"""Kind of fault."""
OBJECTIVE = "objective that is not f of the weights"
"""Kind of fault."""


def faults(exact: Exact, solution: Solution, meant: Exact | None = None) -> dict[str, str]:
    """What of a solution does not hold, by kind, in words.

    exact : the block as its arrays have it;  meant : as the factor has it that the form was made from
    """
    out = {}
    objective, weights = Fraction(solution.objective), solution.weights
    for truth in (exact,) if meant is None else (exact, meant):
        best = truth.optimum
        if np.isfinite(solution.lower_bound) and Fraction(solution.lower_bound) > best:
            out[BOUND] = f"bound {solution.lower_bound!r} > optimum {float(best)!r}"
        if solution.status is Status.OPTIMAL:
            room = Fraction(PROOF_TOLERANCE) * abs(objective) * ONE_ROUNDING
            if not np.isfinite(solution.lower_bound) or objective - best > room:
                out[OPTIMAL] = f"optimal at {solution.objective!r}, optimum {float(best)!r}"
    off = abs(exact.value(weights) - objective)
    if off > evaluation_rounding(exact.block, weights):
        out[OBJECTIVE] = f"objective {solution.objective!r} is off by {float(off):.3g}"
    return out


def evaluation_rounding(block: BlockProblem, weights: np.ndarray) -> Fraction:
    """What evaluating f in float64, in any order of its sums, may round (Higham 2002, (3.5))."""
    form = block.plain().form
    move = np.abs(weights - form.centre)
    if form.factor is not None:
        factor = np.abs(form.factor.astype(np.float64))
        hessian = factor.T @ factor
    else:
        assert form.hessian is not None
        hessian = np.abs(form.hessian)
    size = abs(form.constant) + np.abs(form.linear) @ move + move @ hessian @ move + (form.ridge * move) @ move
    terms = 2 * form.p + (0 if form.factor is None else 2 * form.factor.shape[0]) + 8
    return terms * UNIT * Fraction(float(size)) * Fraction(101, 100) + Fraction(1, 2**1000)


@dataclass
class Counts:
    """What an attack found.

    solves : answers looked at;  optimal : of which called optimal;  bounded : of which with a finite bound
    refused : blocks that a solver refused with its reason, before or on the way
    faults : how often what was claimed does not hold, by kind, and exceptions by name;  examples : some in words
    """

    blocks: int = 0
    solves: int = 0
    optimal: int = 0
    bounded: int = 0
    refused: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """Claims that do not hold, and exceptions."""
        return sum(self.faults.values())

    def add(self, kind: str, words: str) -> None:
        """Count a fault."""
        self.faults[kind] = self.faults.get(kind, 0) + 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {words}")


def attack(
    solvers: Sequence[str],
    count: int,
    seed: int = 0,
    *,
    families: Iterable[str] = tuple(HOSTILE),
    modes: Iterable[Mode] = MODES,
    bounds: bool = True,
) -> Counts:
    """Solve `count` hostile blocks of every family and mode by every solver, and judge each answer exactly.

    Parameters
    ----------
    solvers : registered names
    count : blocks of a family in a mode;  seed : of the first
    families : of prunebench.testing.hostile.HOSTILE;  modes : "indefinite" is tried in mode select only
    bounds : judge `core.bounds.lower_bound` and the form's own bound, too
    """
    counts = Counts()
    for family in families:
        for mode in modes:
            if family == "indefinite" and mode == "refit":
                continue
            for number in range(seed, seed + count):
                _judge(counts, HOSTILE[family](number, mode), solvers, bounds)
    return counts


def _judge(counts: Counts, hostile: Hostile, solvers: Sequence[str], bounds: bool) -> None:
    block = hostile.block
    counts.blocks += 1
    exact = Exact.of(block)
    meant = None if hostile.factor is None else Exact.of(block, hostile.factor)
    where = f"{block.problem}, {block.mode}"
    for name in solvers:
        try:
            solution = solve(block, name, budget=Budget(), seed=0)
        except InvalidInput:
            counts.refused += 1
            continue
        except Exception as error:  # whatever a solver raises is what is counted
            counts.add(f"{type(error).__name__}", f"{name}, {where}: {error}")
            continue
        counts.solves += 1
        counts.optimal += solution.status is Status.OPTIMAL
        counts.bounded += bool(np.isfinite(solution.lower_bound))
        for kind, words in faults(exact, solution, meant).items():
            counts.add(kind, f"{name}, {where}: {words}")
    if bounds:
        least = exact.optimum if meant is None else min(exact.optimum, meant.optimum)
        for name, bound in _bounds(block, counts, where):
            if np.isfinite(bound) and Fraction(bound) > least:
                counts.add(BOUND, f"{name}, {where}: {bound!r} > {float(least)!r}")


def _bounds(block: BlockProblem, counts: Counts, where: str) -> list[tuple[str, float]]:
    out = [("form.lower_bound", block.form.lower_bound())]
    try:
        found = lower_bound(block, 5.0).value
        counts.bounded += bool(np.isfinite(found))
        out.append(("--bound", found))
    except PrunebenchError as error:
        counts.add(type(error).__name__, f"--bound, {where}: {error}")
    return out
