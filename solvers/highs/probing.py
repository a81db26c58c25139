"""Fixing variables of a select program before another solver sees it, by the branch and bound's relaxation.

A variable whose other value costs at least `cut`, by the safe bound of the relaxation with it, keeps
its value in every better solution. Reduced costs find the cheap ones, solving both children of a
variable the rest (probing: Savelsbergh, "Preprocessing and probing techniques for mixed integer
programming problems", ORSA J. Computing 6, 1994); repeated until nothing more is fixed.
"""

from dataclasses import dataclass, replace

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.stop import StopCheck
from prunebench.kernels.compiled import ZERO, compiled, copy, merged
from prunebench.kernels.relaxations.programs import HALF_ULP, SelectProgram
from prunebench.kernels.trees.dives import SelectTree
from prunebench.kernels.trees.points import reachable, repair
from prunebench.kernels.trees.select_node import FREE, Pattern, Point, Program, bound_at, gradient_at, point_at
from prunebench.kernels.trees.select_tree import LEAST_TOLERANCE
from prunebench.kernels.trees.tableau import ARRIVED, Tableau, follow, new_tableau, optimum, price_at

SWEEPS = 4
"""Room for so many sweeps a variable on the way to a child's optimum, which takes a few: a walk that needs more is
given up."""
MORE_SWEEPS = 8
"""Room for so many sweeps more, for programs of a few variables."""


def probe(program: Program, x: FloatArray, fixed: Pattern, cut: float, promise: float) -> tuple[float, IndexArray]:
    """Fix what the relaxations allow, in place, from the feasible x (p,), which becomes their optimum.

    A bound of `cut` or more: nothing is better. A child is solved only where the bound's rise, to second order and
    without the box, is at least `promise` of what it must rise.
    Returns the safe bound with what is fixed, and which variables were fixed, in their order.
    """
    p = x.size
    order = np.empty(p, np.int64)
    bound, made = _probe(
        program, point_at(x, fixed), point_at(np.empty(p), fixed), new_tableau(p, SWEEPS * p + MORE_SWEEPS), cut,
        promise, order,
    )  # fmt: skip
    return float(bound), order[:made]


@compiled(fast=True, allocates=True)
def _probe(
    program: Program, point: Point, child: Point, tableau: Tableau, cut: float, promise: float, order: IndexArray
) -> tuple[float, int]:
    """child : room for a point, with the same `fixed`. Returns the bound, and how many entries `order` has."""
    x, fixed = point.x, point.fixed
    variance = np.empty(x.size)
    bound = -np.inf
    made = 0
    changed = True
    while changed:
        changed = False
        size, price = optimum(program, point, tableau, LEAST_TOLERANCE)
        bound = max(bound, bound_at(program, point, price))
        if size == 0 or bound >= cut:
            return bound, made
        made = fix_cheap(point, price, bound, cut, order, made)
        variances(program.matrix, point, tableau, variance)
        for j in range(x.size):
            if fixed[j] != FREE:
                continue
            value = only_value(program, point, child, tableau, (size, price, bound, cut), promise, variance, j)
            if value < 0:
                continue
            fixed[j] = value
            changed = True
            order[made] = j
            made += 1
            x[j] = float(value)
            if not reachable(fixed, program.ones):
                return np.inf, made
            gradient_at(program.matrix, program.linear, x, point.grad)
            repair(x, fixed, point.grad, program.ones)
            size, price = optimum(program, point, tableau, LEAST_TOLERANCE)
            if size == 0:
                break
            bound = max(bound, bound_at(program, point, price))
            if bound >= cut:
                return bound, made
    return bound, made


@merged
def fix_cheap(point: Point, price: float, bound: float, cut: float, order: IndexArray, made: int) -> int:
    """Fix the variables at a bound whose reduced costs say that the other costs `cut`; `order` goes on with them."""
    x, fixed = point.x, point.fixed
    for i in range(x.size):
        if fixed[i] == FREE:
            cost = point.grad[i] - price
            if x[i] == 0.0 and bound + cost >= cut:
                fixed[i] = 0
            elif x[i] == 1.0 and bound - cost >= cut:
                fixed[i] = 1
            if fixed[i] != FREE:
                order[made] = i
                made += 1
    return made


@merged
def variances(matrix: FloatArray, point: Point, tableau: Tableau, out: FloatArray) -> None:
    """The inverse of each variable's curvature while the others follow; at a bound, of its own."""
    for i in range(out.size):
        own = -tableau.sheet[i + 1, i + 1] if point.basic[i] else 1.0 / (matrix[i, i] + 1e-300)
        out[i] = own + 1e-300


@merged
def only_value(
    program: Program,
    point: Point,
    child: Point,
    tableau: Tableau,
    at: tuple[int, float, float, float],
    promise: float,
    variance: FloatArray,
    j: int,
) -> int:
    """The one value that variable j can have in a better solution; −1: it may have both, for all that is known.

    at : how many variables are basic, the price of the count, the bound and the cut-off
    """
    size, price, bound, cut = at
    value = -1
    for side in range(2):
        # where x_j is there already, the optimum itself has no bound beyond the node's
        if value < 0 and point.x[j] != float(side):
            move = float(side) - point.x[j]
            rise = max((point.grad[j] - price) * move, 0.0) + 0.5 * move * move / variance[j]
            if rise >= promise * (cut - bound):
                point.fixed[j] = side
                if child_bound(program, point, child, tableau, size, price, j, side) >= cut:
                    value = 1 - side
                point.fixed[j] = FREE
    return value


@merged
def child_bound(
    program: Program, point: Point, child: Point, tableau: Tableau, size: int, price: float, j: int, side: int
) -> float:
    """A safe bound of the node with x_j fixed to `side`; inf where it holds no mask, −inf where the walk gives up."""
    bound = np.inf
    if reachable(point.fixed, program.ones):
        bound = -np.inf
        copy(point.x, child.x)
        copy(point.basic, child.basic)
        for i in range(child.x.size):
            child.reduced[i] = point.grad[i] - price
        left, _, ended = follow(program, child, tableau, size, ZERO, j, float(side), np.inf)
        if ended == ARRIVED:
            gradient_at(program.matrix, program.linear, child.x, child.grad)
            bound = bound_at(program, child, price_at(child.grad, child.basic, left))
    return bound


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
    fixed = np.full(p, FREE, np.int8)
    bound, order = probe(tree.convexified(), point, fixed, cut, 0.0)
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
        (Fixings(tree, order, fixed),),
    )  # fmt: skip
