"""The best objective known of a block, from solvers of several kinds over longer runs and other seeds.

At p = 64 branch and bound proves it. Above, `anneal` would be its own judge, so multi-start swap
descent, tabu search and neal search as well, and every run of the table counts; the record says what
each found and what branch and bound proved.
"""

import time
from typing import Any

from annealing_runs import make
from prunebench import BlockProblem, Budget, Status, solve

SEED = 10**6
PROVED_SIZE = 64


def prove(block: BlockProblem, seconds: float = float("inf")) -> tuple[Status, float, float, float]:
    """(status, objective, lower bound, CPU seconds) of branch and bound."""
    started = time.process_time()
    found = solve(block, "branch-and-bound", budget=Budget(seconds=seconds))
    return found.status, found.objective, found.lower_bound, time.process_time() - started


def reference(block: BlockProblem, seconds: float) -> dict[str, Any]:
    """A record: objectives by solver, the bound, and whether it is proved.

    seconds : CPU seconds of the long anneal; swap descent gets half, tabu, neal and the proof a quarter each
    """
    if block.p <= PROVED_SIZE:
        status, objective, bound, spent = prove(block)
        if status is not Status.OPTIMAL:
            raise RuntimeError(f"branch and bound proved nothing of {block.problem}: {status}")
        return _record(block, {"branch-and-bound": objective}, bound, True, spent)
    status, objective, bound, spent = prove(block, seconds / 4.0)
    found = {"branch-and-bound": objective}
    if status is not Status.OPTIMAL:
        for name, share in (("anneal", 1.0), ("swap", 0.5), ("tabu", 0.25), ("neal", 0.25)):
            budget = Budget(seconds=share * seconds)
            found[name] = solve(block, make(name), budget=budget, seed=SEED).objective
    return _record(block, found, bound, status is Status.OPTIMAL, spent)


def _record(block: BlockProblem, found: dict[str, float], bound: float, proved: bool, spent: float) -> dict[str, Any]:
    return {
        "block": block.problem,
        "hash": block.hash,
        "found": found,
        "lower_bound": bound,
        "proved": proved,
        "proof_cpu": spent,
        "random": block.random_mean(),
    }
