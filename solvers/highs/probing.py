"""Fixing variables of a select program before another solver sees it, by the branch and bound's relaxation.

A variable whose other value costs at least `cut`, by the safe bound of the relaxation with it, keeps
its value in every better solution. Reduced costs find the cheap ones, solving both children of a
variable the rest (probing: Savelsbergh, "Preprocessing and probing techniques for mixed integer
programming problems", ORSA J. Computing 6, 1994); repeated until nothing more is fixed.
"""

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.stop import StopCheck
from prunebench.kernels.relaxations.programs import HALF_ULP, SelectProgram
from prunebench.kernels.trees.dives import SelectTree
from prunebench.kernels.trees.points import reachable, repair
from prunebench.kernels.trees.select_node import FAST, FREE, Pattern, bound_at, gradient_at
from prunebench.kernels.trees.tableau import follow, optimum, price_at


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def probe(
    matrix: FloatArray,
    linear: FloatArray,
    count: int,
    rounding: float,
    x: FloatArray,
    fixed: Pattern,
    cut: float,
    promise: float,
    order: IndexArray,
) -> tuple[float, int]:
    """Fix what the relaxations allow, in place, from the feasible x. Returns the safe bound with what is fixed,
    and how many variables were fixed; `order` (p,) begins with them, in the order in which they were.

    matrix (p, p), linear (p,): the convexified objective. A bound of `cut` or more: nothing is better.
    A child is solved only where the bound's rise, to second order and without the box, is at least
    `promise` of what it must rise.
    """
    p = linear.size
    variance = np.empty(p)
    grad = np.empty(p)
    slope = np.empty(p)
    reduced = np.empty(p)
    basic = np.zeros(p, np.bool_)
    tableau = np.empty((p + 1, p + 1))
    sweeps = (np.empty((4 * p + 8, p + 1)), np.empty(4 * p + 8, np.int64), np.empty((4 * p + 8, 2)))
    bound = -np.inf
    made = 0
    changed = True
    while changed:
        changed = False
        size, price = optimum(matrix, linear, x, grad, fixed, tableau, sweeps, basic, 1e-9)
        if size == 0:
            return max(bound, bound_at(matrix, linear, x, grad, price, fixed, count, rounding)), made
        bound = max(bound, bound_at(matrix, linear, x, grad, price, fixed, count, rounding))
        if bound >= cut:
            return bound, made
        for i in range(p):
            if fixed[i] == FREE:
                cost = grad[i] - price
                if x[i] == 0.0 and bound + cost >= cut:
                    fixed[i] = 0
                elif x[i] == 1.0 and bound - cost >= cut:
                    fixed[i] = 1
                if fixed[i] != FREE:
                    order[made] = i
                    made += 1
        for i in range(p):
            variance[i] = (-tableau[i + 1, i + 1] if basic[i] else 1.0 / (matrix[i, i] + 1e-300)) + 1e-300
        for j in range(p):
            if fixed[j] != FREE:
                continue
            for side in range(2):
                if x[j] == float(side):
                    # the optimum itself: no bound beyond the node's
                    continue
                move = float(side) - x[j]
                rise = max((grad[j] - price) * move, 0.0) + 0.5 * move * move / variance[j]
                if rise < promise * (cut - bound):
                    continue
                fixed[j] = side
                closed = not reachable(fixed, count)
                if not closed:
                    child = x.copy()
                    reduced[:] = grad - price
                    inside = basic.copy()
                    left, _, state = follow(
                        matrix, child, reduced, fixed, tableau, sweeps, 0, inside, size, j, float(side), np.inf
                    )
                    if state == 1:
                        gradient_at(matrix, linear, child, slope)
                        own = price_at(slope, inside, left)
                        closed = bound_at(matrix, linear, child, slope, own, fixed, count, rounding) >= cut
                fixed[j] = FREE
                if closed:
                    fixed[j] = 1 - side
                    break
            if fixed[j] != FREE:
                changed = True
                order[made] = j
                made += 1
                x[j] = float(fixed[j])
                if not reachable(fixed, count):
                    return np.inf, made
                gradient_at(matrix, linear, x, grad)
                repair(x, fixed, grad, count)
                size, price = optimum(matrix, linear, x, grad, fixed, tableau, sweeps, basic, 1e-9)
                if size == 0:
                    break
                bound = max(bound, bound_at(matrix, linear, x, grad, price, fixed, count, rounding))
                if bound >= cut:
                    return bound, made
    return bound, made


@dataclass(frozen=True, eq=False)
class Fixings:
    """What was fixed of one tree's variables.

    order : int64 (k,), the variables in the order in which they were fixed;  fixed : int8 (p,), FREE, 0 or 1
    """

    tree: SelectTree
    order: IndexArray
    fixed: Pattern


@dataclass(frozen=True, eq=False)
class Reduced:
    """What is left of a select program after fixing.

    program : over the free variables, its constant and rounding with the part of the fixed ones
    free : int64 (f,), their positions;  mask : bool (p,), the fixed weights that are kept
    bound : the relaxation's bound with what is fixed, in the block's units;  closed : nothing is better than `cut`
    cut : what every solution that the fixing excludes costs at least, in the block's units
    shift : (f,) of the relaxation, the free variables' part;  doubt : how far it may be off, in the block's units
    stages : how it was fixed; each stage's tree is over what the stages before left free
    """

    program: SelectProgram
    free: IndexArray
    mask: BoolArray
    bound: float
    cut: float
    closed: bool
    shift: FloatArray
    doubt: float
    stages: tuple[Fixings, ...] = ()

    def lift(self, mask: BoolArray) -> BoolArray:
        """A mask of the free variables as one of all."""
        whole = self.mask.copy()
        whole[self.free] = mask
        return whole

    def then(self, further: "Reduced") -> "Reduced":
        """What `further`, found from this program, leaves of the whole."""
        return replace(
            further,
            free=self.free[further.free],
            mask=self.lift(further.mask),
            bound=max(self.bound, further.bound),
            cut=min(self.cut, further.cut),
            doubt=max(self.doubt, further.doubt),
            stages=self.stages + further.stages,
        )

    @property
    def settled(self) -> bool:
        """Whether at most one mask is left."""
        return self.closed or self.program.count in (0, self.free.size)


def probed(program: SelectProgram, objective: float, stop: StopCheck) -> Reduced:
    """Fix variables against the incumbent's objective: without a shift first, which settles easy blocks in O(p²)
    steps, then with the best shift of what is left.
    """
    p = program.linear.size
    first = reduced(program, SelectTree(program, program.inner(objective), stop, np.zeros(p)), objective)
    if first.settled:
        return first
    return first.then(reduced(
        first.program, SelectTree(first.program, first.program.inner(objective), stop), objective
    ))  # fmt: skip


def reduced(program: SelectProgram, tree: SelectTree, objective: float) -> Reduced:
    """Fix variables against the incumbent's objective; `tree` is the program with a shift."""
    p = program.linear.size
    cut = program.inner(objective) - tree.margin
    point, _, _ = tree.root_proof()
    fixed, order = np.full(p, FREE, np.int8), np.empty(p, np.int64)
    bound, made = probe(tree.matrix, tree.linear, program.count, tree.slack, point, fixed, cut, 0.0, order)
    free, ones = np.flatnonzero(fixed == FREE), fixed == 1
    inner = program.quadratic[:, ones].sum(axis=1)
    linear = program.linear + inner
    offset = float((program.linear + 0.5 * inner)[ones].sum())
    size = float(np.abs(program.quadratic).sum() + np.abs(program.linear).sum())
    left = replace(
        program,
        quadratic=np.ascontiguousarray(program.quadratic[np.ix_(free, free)]),
        linear=linear[free],
        count=program.count - int(ones.sum()),
        constant=program.constant + offset / program.scale,
        rounding=program.rounding + HALF_ULP * ((p + 8) * size + 2.0 * abs(program.constant * program.scale)),
    )
    # with nothing left free one mask is left, which may be better: closed is what the bound alone says
    closed = bound >= cut
    doubt = (tree.margin + tree.slack + 2.0 * left.rounding) / program.scale
    return Reduced(
        left, free, fixed == 0, program.outer(bound), program.outer(cut), closed, tree.shift[free], doubt,
        (Fixings(tree, order[:made], fixed),),
    )  # fmt: skip
