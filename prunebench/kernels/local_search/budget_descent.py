"""Descent within budgets: drop a weight, add one that fits, or exchange two, while that improves.

In mode select a drop can lower the objective, in mode refit it never does. With one kept and one pruned weight a move,
masks at a limit can still change; each move is the best of all that fit.
"""

from collections.abc import Callable

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.incumbent import Incumbent
from prunebench.core.stop import Stop, StopCheck
from prunebench.kernels.compiled import compiled

MOST_SELECT = 8192
"""Largest p in mode select: the couplings are then half a gigabyte."""
MOST_REFIT = 1024
"""Largest p in mode refit: each move inverts a matrix of the kept weights."""
MOVES_TIMES_PAIRS = 50_000_000
"""Moves between two looks at the clock, times p²: some tens of milliseconds."""
REFRESH_MOVES = 64
"""Moves after which fields and spending are computed anew, so that rounding does not add up."""
GAIN = 1e-12
"""Least relative improvement of a move in mode refit: less may be rounding of the inverse."""

Run = Callable[[BoolArray, Incumbent, float], tuple[int, float, bool, Stop]]


def too_large(block: BlockProblem) -> int:
    """The largest p that the descent takes within budgets, if the block exceeds it; 0 otherwise."""
    most = MOST_SELECT if block.mode == "select" else MOST_REFIT
    return most if block.budget is not None and block.p > most else 0


def select_descent(block: BlockProblem, budget: Cost) -> Run:
    """The descent in mode select on dense couplings: O(k(p − k)) a move."""
    qubo = block.to_qubo()
    couplings, linear = qubo.couplings, np.array(qubo.linear)
    tolerance = 16.0 * float(np.finfo(np.float64).eps) * (np.abs(linear) + np.abs(couplings).sum(axis=1))
    largest = couplings.max(axis=1)
    limits = budget.safe
    space = np.empty((3, block.p)), np.empty(limits.size)
    at_once = max(4, MOVES_TIMES_PAIRS // block.p**2)

    def run(mask: BoolArray, best: Incumbent, spent: float) -> tuple[int, float, bool, Stop]:
        stop: StopCheck = best.stop_after(spent)
        moves, evaluations = 0, 0.0
        while not (stopped := stop(evaluations)):
            made, tried, optimal = descend(
                couplings, linear, tolerance, largest, budget.costs, limits, mask, at_once,
                best.budget.evaluations - spent - evaluations, *space,
            )  # fmt: skip
            moves, evaluations = moves + int(made), evaluations + float(tried)
            if optimal:
                return moves, evaluations, True, Stop.finished("no move improves")
        return moves, evaluations, False, stopped

    return run


@compiled()
def descend(
    couplings: FloatArray,
    linear: FloatArray,
    tolerance: FloatArray,
    largest: FloatArray,
    costs: FloatArray,
    limits: FloatArray,
    mask: BoolArray,
    most_moves: int,
    most_tried: float,
    space: FloatArray,
    room: FloatArray,
) -> tuple[int, float, bool]:
    """Improve `mask` in place. -> moves, moves tried, whether no move improves by more than rounding

    couplings (p, p), linear, tolerance (p,) : as for swaps;  largest (p,) : the largest coupling of every row
    costs (k, p), limits (k,);  space (3, p), room (k,) : overwritten
    """
    p, fields, value_out, value_in = mask.size, space[0], space[1], space[2]
    moves, tried, stale = 0, 0.0, REFRESH_MOVES
    while moves < most_moves and tried < most_tried:
        fresh = stale >= REFRESH_MOVES
        if fresh:
            refresh(couplings, linear, costs, limits, mask, fields, room)
            stale = 0
        leaving, entering, best = -1, -1, 0.0
        lowest_in = np.inf
        for j in range(p):
            value_out[j], value_in[j] = -np.inf, np.inf
            if mask[j]:
                value_out[j] = fields[j] - tolerance[j]
                if -value_out[j] < best:
                    leaving, entering, best = j, -1, -value_out[j]
            else:
                value_in[j] = fields[j] + tolerance[j]
                lowest_in = min(lowest_in, value_in[j])
                if value_in[j] < best and fits(costs, room, -1, j):
                    leaving, entering, best = -1, j, value_in[j]
        for i in range(p):
            if mask[i] and lowest_in - value_out[i] - largest[i] < best:
                for j in range(p):
                    change = value_in[j] - value_out[i] - couplings[i, j]
                    if change < best and fits(costs, room, i, j):
                        leaving, entering, best = i, j, change
        kept = 0
        for i in range(p):
            kept += mask[i]
        tried += float(kept) * float(p - kept) + p
        if leaving < 0 and entering < 0:
            if moves == 0 or fresh:
                return moves, tried, True
            stale = REFRESH_MOVES
            continue
        move(couplings, costs, mask, fields, room, leaving, entering)
        moves += 1
        stale += 1
    return moves, tried, False


@compiled(inner=True)
def fits(costs: FloatArray, room: FloatArray, leaving: int, entering: int) -> bool:
    """Whether what enters costs no more than what leaves and the room; −1: nothing does."""
    if entering < 0:
        return True
    for k in range(room.size):
        more = costs[k, entering]
        if leaving >= 0:
            more -= costs[k, leaving]
        if more > max(room[k], 0.0):
            return False
    return True


@compiled(inner=True)
def move(
    couplings: FloatArray,
    costs: FloatArray,
    mask: BoolArray,
    fields: FloatArray,
    room: FloatArray,
    leaving: int,
    entering: int,
) -> None:
    """Carry out a move: mask, fields and room."""
    for sign, place in ((-1.0, leaving), (1.0, entering)):
        if place >= 0:
            mask[place] = sign > 0.0
            for j in range(fields.size):
                fields[j] += sign * couplings[place, j]
            for k in range(room.size):
                room[k] -= sign * costs[k, place]


@compiled(inner=True)
def refresh(
    couplings: FloatArray,
    linear: FloatArray,
    costs: FloatArray,
    limits: FloatArray,
    mask: BoolArray,
    fields: FloatArray,
    room: FloatArray,
) -> None:
    """The fields, and what is left of the limits, at a mask."""
    for i in range(mask.size):
        fields[i] = linear[i]
    for k in range(room.size):
        room[k] = limits[k]
    for i in range(mask.size):
        if mask[i]:
            for j in range(mask.size):
                fields[j] += couplings[i, j]
            for k in range(room.size):
                room[k] -= costs[k, i]


def refit_descent(block: BlockProblem, budget: Cost) -> Run:
    """The descent in mode refit: additions that fit, then exchanges, by the exact change of the refitted objective."""
    form = block.form
    matrix = form.gram(np.arange(block.p))
    scale = 1.0 / np.sqrt(matrix.diagonal())
    matrix = matrix * scale[:, None] * scale
    slope = scale * (form.linear - form.product(form.centre))
    limits = budget.safe

    def run(mask: BoolArray, best: Incumbent, spent: float) -> tuple[int, float, bool, Stop]:
        stop: StopCheck = best.stop_after(spent)
        moves, evaluations = 0, 0.0
        while not (stopped := stop(evaluations)):
            kept, pruned = np.flatnonzero(mask), np.flatnonzero(~mask)
            evaluations += float((kept.size + 1) * pruned.size)
            move = _best_refit_move(matrix, slope, kept, pruned, budget.costs, limits)
            if move is None:
                return moves, evaluations, True, Stop.finished("no move improves")
            leaving, entering = move
            if leaving >= 0:
                mask[leaving] = False
            mask[entering] = True
            moves += 1
        return moves, evaluations, False, stopped

    return run


def _best_refit_move(
    matrix: FloatArray, slope: FloatArray, kept: np.ndarray, pruned: np.ndarray, costs: FloatArray, limits: FloatArray
) -> tuple[int, int] | None:
    """The (leaving or −1, entering) weight that lowers the refitted objective most; None if none does.

    Removing i costs ½w_i²/P_ii with P the inverse of the kept weights' matrix; what j then gains follows from the
    Schur complement, changed by a rank-one term.
    """
    if pruned.size == 0:
        return None
    room = np.maximum(limits - costs[:, kept].sum(axis=1), 0.0)
    inverse = np.linalg.inv(matrix[np.ix_(kept, kept)])
    weights = -inverse @ slope[kept]
    follow = inverse @ matrix[np.ix_(kept, pruned)]
    pull = slope[pruned] + matrix[np.ix_(pruned, kept)] @ weights
    rest = np.maximum(matrix.diagonal()[pruned] - np.einsum("ij,ij->j", matrix[np.ix_(kept, pruned)], follow), 1e-300)
    least = -GAIN * max(float(slope[kept] @ weights) * -0.5, 1e-300)
    fit = (costs[:, pruned] <= room[:, None]).all(axis=0)
    alone = np.where(fit, -0.5 * pull**2 / rest, 0.0)
    best, move = least, None
    if alone.min() < best:
        at = int(np.argmin(alone))
        best, move = float(alone[at]), (-1, int(pruned[at]))
    if kept.size:
        own = inverse.diagonal()
        other_pull = pull[None, :] - follow * (weights / own)[:, None]
        other_rest = rest[None, :] + follow**2 / own[:, None]
        change = 0.5 * (weights**2 / own)[:, None] - 0.5 * other_pull**2 / other_rest
        more = costs[:, None, pruned] - costs[:, kept, None]
        change[(more > room[:, None, None]).any(axis=0)] = 0.0
        if change.min() < best:
            out, into = np.unravel_index(int(np.argmin(change)), change.shape)
            move = int(kept[out]), int(pruned[into])
    return move
