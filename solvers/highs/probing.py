"""Fixing variables of a select program before another solver sees it, by branch and bound's relaxation.

If fixing a variable to one value gives a safe bound of at least `cut`, it has the other value in every
better solution. Reduced costs find the cheap cases; the others need both children of a variable solved
(probing: Savelsbergh, "Preprocessing and probing techniques for mixed integer programming problems",
ORSA J. Computing 6, 1994). Repeated until nothing more is fixed.
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
"""Space for sweeps per variable on the way to a child's optimum, which takes a few; longer walks are given up."""
MORE_SWEEPS = 8
"""Additional space for sweeps, for programs of few variables."""


def probe(program: Program, x: FloatArray, fixed: Pattern, cut: float, promise: float) -> tuple[float, IndexArray]:
    """Fix variables by the relaxation, in place, from the feasible x (p,), which becomes its optimum.

    A returned bound of at least `cut` means that nothing is better. A child is solved only if the estimated rise of
    the bound, to second order and ignoring the box, is at least `promise` of the rise needed.
    Returns the safe bound with all that is fixed, and the fixed variables in order.
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
    """child : space for a point, with the same `fixed`. Returns the bound and the number of entries in `order`."""
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
    """Fix variables at a bound whose other value would cost `cut` by reduced costs; appends them to `order`."""
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
    """Inverse curvatures of the variables, with the others following; for a variable at a bound, of itself alone."""
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
    """The only value that variable j can have in a better solution; −1: both may be possible.

    at : (number of basic variables, price of the count, bound, cut-off)
    """
    size, price, bound, cut = at
    value = -1
    for side in range(2):
        # a child in which x_j is there already has the node's own optimum and bound
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
    """A safe bound of the node with x_j fixed to `side`; inf if it has no mask, −inf if the walk gives up."""
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
    """The variables fixed in one tree.

    order : int64 (k,), the variables in the order in which they were fixed;  fixed : int8 (p,), FREE, 0 or 1
    """

    tree: SelectTree
    order: IndexArray
    fixed: Pattern


@dataclass(frozen=True, eq=False)
class Reduced:
    """The rest of a select program after fixing.

    program : over the free variables, including the fixed ones' constant and rounding
    free : int64 (f,), their positions;  mask : bool (p,), the weights fixed as kept
    bound : the relaxation's bound after fixing, in the block's units;  closed : whether nothing is better than `cut`
    cut : lower bound on every solution that the fixing excludes, in the block's units
    shift : (f,) of the relaxation, for the free variables;  doubt : its error bound, in the block's units
    stages : how variables were fixed; each stage's tree is over those left free by earlier stages
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
        """A mask of the free variables, extended to all."""
        whole = self.mask.copy()
        whole[self.free] = mask
        return whole

    def then(self, further: "Reduced") -> "Reduced":
        """This result followed by `further`, which was found from this program."""
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
    """Fix variables against the incumbent's objective: first without a shift, which settles easy blocks in O(p²) steps,
    then with the best shift of the remaining program.
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
    # without free variables one mask is left, which may be better, so only the bound decides
    closed = bound >= cut
    doubt = (tree.margin + tree.slack + 2.0 * left.rounding) / program.scale
    return Reduced(
        left, free, fixed == 0, program.outer(bound), program.outer(cut), closed, tree.shift[free], doubt,
        (Fixings(tree, order, fixed),),
    )  # fmt: skip
