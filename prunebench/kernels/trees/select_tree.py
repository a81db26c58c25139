"""The search loop of the select tree: bound, fix, round, branch; unfinished nodes are returned as open nodes."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.compiled import Row, compiled, copy, copy_square, merged
from prunebench.kernels.trees.branching import branching_variable
from prunebench.kernels.trees.frames import Frames, frame_at, new_frames, put_in, restrict, room
from prunebench.kernels.trees.points import descend, reachable, repair, rounded, value_at
from prunebench.kernels.trees.select_node import (
    FREE,
    ROUND_EVERY,
    ROUND_FIRST,
    Pattern,
    Point,
    Program,
    Records,
    bound_at,
    gradient_at,
    point_at,
    reduce_at,
)
from prunebench.kernels.trees.tableau import (
    ARRIVED,
    CUT_OFF,
    GAVE_UP,
    Sweeps,
    Tableau,
    build,
    diagonal_of,
    follow,
    new_sweeps,
    optimal,
    optimum,
    price_at,
    push,
    refine,
    start,
    sweep_all,
    sweep_now,
)

SHRINK = 0.5
"""A frame is opened if at most this share of the enclosing frame's variables is free: passes over its matrix then
cost a quarter."""
PENDING = 0.25
"""A frame is also opened after more sweeps than this share of its variables: taking rows through more sweeps would
cost more than a new tableau."""
LEAST_PENDING = 4
"""At least this many sweeps are allowed: a frame of few variables costs more than they do."""
TOLERANCE = 1e-8
"""Violation of a reduced cost that counts as optimal, as a share of the gap at the dive's root: it hardly lowers a
bound."""
LEAST_TOLERANCE = 1e-9
"""Least value of that tolerance, in the scaled program's units, where the incumbent is about 1000 from the constant."""
EXCESS = 1e-7
"""Share of a node's distance to the cut-off by which a walk must surely exceed it before it stops; above rounding."""


class OpenNode(NamedTuple):
    """A node of the whole program from which a dive begins, or which a dive left open.

    x : float64 (p,), its parent's optimum, or a feasible point;  fixed : int8 (p,), FREE, 0 or 1
    branch, target : the variable still to be fixed to `target`; −1: none, and x is the node's own point
    bound : a safe bound, −inf if none is known
    record : its parent's row in a proof, of this dive or of all; −1: see Dive
    """

    x: FloatArray
    fixed: Pattern
    branch: int
    target: float
    bound: float
    record: int


class OpenNodes(NamedTuple):
    """Space for the nodes that a dive leaves open, one per row: x, fixed, (branch, target), bound, record."""

    x: FloatArray
    fixed: Pattern
    branch: IndexArray
    bound: FloatArray
    record: IndexArray

    @staticmethod
    def of(rows: int, p: int) -> "OpenNodes":
        """Space for `rows` nodes of p variables."""
        return OpenNodes(
            np.empty((rows, p)), np.empty((rows, p), np.int8), np.empty((rows, 2), np.int64), np.empty(rows),
            np.empty(rows, np.int64),
        )  # fmt: skip


class Stack(NamedTuple):
    """The waiting second children, one per row, in their frame's variables: Point's arrays and NODE's fields.

    p + 1 rows, as each level of the tree fixes a variable.
    """

    x: FloatArray
    reduced: FloatArray
    fixed: Pattern
    basic: npt.NDArray[np.bool_]
    nodes: npt.NDArray[np.void]


SEARCH = np.dtype(
    [
        ("rounding", np.float64),  # of the objective at any point, and of substituting fixed variables
        ("margin", np.float64),  # a node is pruned if its safe bound is at least best − margin
        ("ceiling", np.float64),  # a node with at least this bound is left open
        ("limit", np.int64),  # most nodes to be processed; 0: the root is bounded, and that is all
        ("room", np.int64),  # most numbers in the matrix and tableau of any frame
        ("best", np.float64),  # the incumbent's value
        ("cut", np.float64),  # the cut-off: best − margin
        ("closed", np.float64),  # the smallest bound below the cut-off among dropped masks
        ("tolerance", np.float64),  # of reduced costs
        ("nodes", np.int64),  # processed so far
        ("depth", np.int64),  # nodes waiting on the stack
        ("open", np.int64),  # nodes left open
        ("records", np.int64),  # records made
    ],
    align=True,
)
"""Limits and counters of a dive."""
NODE = np.dtype(
    [
        ("frame", np.int64),  # the frame to which its variables refer
        ("constant", np.float64),  # contribution of the variables fixed outside the frame
        ("made", np.int64),  # sweeps made since the frame's tableau
        ("size", np.int64),  # number of basic variables
        ("branch", np.int64),  # the variable to be fixed to `target`, later the one to branch on; −1: none
        ("target", np.float64),
        ("value", np.int64),  # the value to which the branching variable was fixed, −1: none
        ("price", np.float64),  # multiplier of the count
        ("bound", np.float64),  # the best safe bound, its own or its parent's
        ("current", np.float64),  # the safe bound at its point
        ("record", np.int64),  # its parent's row in the records, later its own
        ("solved", np.bool_),  # whether it has been bounded
        ("own", np.bool_),  # whether its tableau is the spare one in Scratch
    ],
    align=True,
)
"""The current node, apart from its point."""


class Scratch(NamedTuple):
    """Temporary arrays of a node, for p variables.

    tableau : float64 ((p + 1)²,), matrix of a node's own tableau;  single : space for one sweep of it
    trial, slope : float64 (p,), a binary point and the gradient there;  diagonal : float64 (p + 1,), of a tableau
    kept : int64 (p,), the variables that a new frame keeps
    """

    tableau: FloatArray
    single: Sweeps
    trial: FloatArray
    slope: FloatArray
    diagonal: FloatArray
    kept: IndexArray


class Workspace(NamedTuple):
    """All that a dive of a program of p variables works in.

    search, node : SEARCH (1,), NODE (1,);  point : the node's, in its frame's variables
    stack : the waiting nodes
    frames : the open frames;  sheets : float64, their matrices and tableaus one after another
    sweeps : of all frames, one after another
    scratch : temporary arrays of a node
    best : float64 (p,), the incumbent, in all variables, if the dive has found one
    """

    search: npt.NDArray[np.void]
    node: npt.NDArray[np.void]
    point: Point
    stack: Stack
    frames: Frames
    sheets: FloatArray
    sweeps: Sweeps
    scratch: Scratch
    best: FloatArray


SHEETS = 4
"""Initial space, in frames of the whole program's size; most are smaller. It is doubled when too small."""
SWEEPS = 8
"""Space for sweeps of all open frames, per variable. When it is used up, a walk gives up and its node opens a
frame."""
MORE_SWEEPS = 64
"""Additional space for sweeps, for programs of few variables."""


def workspace(program: Program, root: OpenNode, search: npt.NDArray[np.void]) -> Workspace:
    """The workspace at the beginning of a dive: the current node is the root, in the frame of the whole program."""
    p = program.linear.size
    node = np.zeros(1, NODE)
    node["branch"], node["target"], node["bound"], node["record"] = root.branch, root.target, root.bound, -1
    sheets = np.empty(SHEETS * room(p))
    sheets[: p * p] = program.matrix.ravel()
    rows = p + 1
    stack = Stack(
        np.empty((rows, p)), np.empty((rows, p)), np.empty((rows, p), np.int8), np.empty((rows, p), np.bool_),
        np.zeros(rows, NODE),
    )  # fmt: skip
    scratch = Scratch(
        np.empty(rows * rows), new_sweeps(p, 1), np.empty(p), np.empty(p), np.empty(rows), np.empty(p, np.int64)
    )
    return Workspace(
        search, node, point_at(root.x.copy(), root.fixed.copy()), stack, new_frames(program, root.fixed), sheets,
        new_sweeps(p, SWEEPS * p + MORE_SWEEPS), scratch, np.zeros(p),
    )  # fmt: skip


class Dived(NamedTuple):
    """The result of a dive.

    value : of the incumbent;  x : (p,), the incumbent if the dive improved it
    nodes : how many were processed;  left : open nodes, with record −1 if the dive's root has none
    closed : the smallest bound below the cut-off among dropped masks; normally inf
    records : those made
    """

    value: float
    x: FloatArray
    nodes: int
    left: list[OpenNode]
    closed: float
    records: Records


def dive(
    program: Program, root: OpenNode, best: float, margin: float, limit: int, ceiling: float, recorded: bool
) -> Dived:
    """Search below one open node, at most `limit` nodes, but not where bounds reach `ceiling`.

    best : the incumbent's value;  margin : a node is pruned if its safe bound is at least best − margin
    recorded : whether to record, for a proof, every bounded node
    """
    p = program.linear.size
    search = np.zeros(1, SEARCH)
    search["rounding"], search["margin"], search["ceiling"], search["limit"] = program.rounding, margin, ceiling, limit
    search["room"], search["best"], search["closed"] = room(p), best, np.inf
    search["tolerance"] = max(LEAST_TOLERANCE, TOLERANCE * (best - root.bound) if np.isfinite(root.bound) else 0.0)
    rows = p + 2 + (limit if np.isfinite(ceiling) else 0)
    out = OpenNodes.of(rows, p)
    records = Records.of(limit + 1 if recorded else 0, p)
    work = workspace(program, root, search)
    while not explore(out, records, work):
        work = work._replace(sheets=np.concatenate((work.sheets, np.empty_like(work.sheets))))
    done = search[0]
    left = [
        OpenNode(
            out.x[a].copy(), out.fixed[a].copy(), int(out.branch[a, 0]), float(out.branch[a, 1]), float(out.bound[a]),
            int(out.record[a]),
        )
        for a in range(int(done["open"]))
    ]  # fmt: skip
    return Dived(
        float(done["best"]), work.best, int(done["nodes"]), left, float(done["closed"]),
        records.first(int(done["records"])),
    )  # fmt: skip


def optimum_of(program: Program, x: FloatArray, fixed: Pattern) -> tuple[float, float]:
    """Move the feasible x (p,), in place, to the relaxation's optimum given what is fixed.

    Returns the price of the count and the safe bound there.
    """
    search = np.zeros(1, SEARCH)
    search["rounding"], search["best"], search["ceiling"] = program.rounding, np.inf, np.inf
    search["room"], search["tolerance"] = room(x.size), LEAST_TOLERANCE
    work = workspace(program, OpenNode(x, fixed, -1, 0.0, -np.inf, -1), search)
    explore(OpenNodes.of(0, x.size), Records.of(0, x.size), work)
    x[:] = work.point.x
    return float(work.node[0]["price"]), float(work.node[0]["current"])


@compiled()
def explore(out: OpenNodes, records: Records, work: Workspace) -> bool:
    """Search below the current node; can be called again to continue. False if the sheets are too small to go on.

    out : receives open nodes
    records : receive every bounded node, for a proof, if they have space
    """
    search, node, sheets, scratch, best = work.search[0], work.node[0], work.sheets, work.scratch, work.best
    stack, frames, sweeps = work.stack, work.frames, work.sweeps
    program, tableau, point = frame_at(frames, node.frame, sheets, sweeps, work.point, search.rounding)
    if search.nodes == 0:
        begin(program, tableau, point, node, scratch.single)
    while frames.rows[node.frame].end + search.room <= sheets.size:
        search.nodes += 1
        search.cut = search.best - search.margin
        going = bounded(program, tableau, point, search, node, scratch)
        if search.limit == 0:
            return True
        if going:
            node.branch = fractional(tableau, point, node, scratch)
            found = mask_nearby(program, point, search, node, scratch)
            if found < search.best:
                search.best, search.cut = found, found - search.margin
                lift(frames, node.frame, scratch.trial, best)
            going = branches(point.fixed, search, node)
        if going:
            fix_by_costs(point, node, search.cut)
            # stop if the reduced costs leave no feasible point
            going = reachable(point.fixed, program.ones)
        handed_back = going and search.nodes > 1 and node.bound >= search.ceiling
        handed_back = handed_back and search.open < out.bound.size - best.size - 2
        if node.solved and records.parent.size > 0:
            write_record(records, search, node, point, frames, going and not handed_back)
        if handed_back:
            node.branch = -1
            write_open(out, search.open, point.x, point.fixed, frames, node)
            search.open += 1
        elif going:
            source = own_tableau(scratch, point.x.size) if node.own else tableau
            stuck = leave_basis(source, point, node)
            free = count_free(point.fixed, stuck)
            if worth_a_frame(free, stuck, point.x.size, node):
                add_frame(frames, free, search, node, stack)
                kept = positions(point.fixed, stuck, scratch.kept)
                program, tableau, point = open_frame(program, source, point, kept, node, frames, sheets, sweeps)
            push_second(point, search, node, stack)
            if search.nodes < search.limit:
                continue
            # the first child is left open as well
            wait(point, search, node, stack)
            return write_waiting(out, search, stack, frames)
        while search.depth > 0 and stack.nodes[search.depth - 1].bound >= search.best - search.margin:
            search.depth -= 1
        if search.depth == 0 or search.nodes >= search.limit:
            return write_waiting(out, search, stack, frames)
        search.depth -= 1
        frame = node.frame
        work.node[0] = stack.nodes[search.depth]
        if node.frame != frame:
            program, tableau, point = frame_at(frames, node.frame, sheets, sweeps, work.point, search.rounding)
        restore(point, search.depth, stack)
    return False


@merged
def begin(program: Program, tableau: Tableau, point: Point, node: Row, single: Sweeps) -> None:
    """Compute gradient, tableau and reduced costs at the root's point, if any variable is free."""
    gradient_at(program.matrix, program.linear, point.x, point.grad)
    if start(point):
        node.size = build(program.matrix, Tableau(tableau.sheet, single), point.basic)
    if node.size > 0:
        node.price = price_at(point.grad, point.basic, node.size)
        reduce_at(point, node.price)


@merged
def bounded(program: Program, tableau: Tableau, point: Point, search: Row, node: Row, scratch: Scratch) -> bool:
    """Take the point from the parent's optimum to the node's, and bound the node. False: it is cut off."""
    node.solved, node.own = False, False
    node.current = -np.inf
    node.value = -1
    if node.branch >= 0:
        node.value = 1 if node.target > 0.5 else 0
    ended = CUT_OFF
    if node.bound < search.cut:
        if node.branch >= 0:
            point.fixed[node.branch] = node.value
        if node.branch < 0 or reachable(point.fixed, program.ones):
            ended = walk(program, tableau, point, search, node)
    if ended == CUT_OFF:
        return False
    settle(program, tableau, point, search, node, scratch, ended)
    raise_bound(program, point, node)
    reduce_at(point, node.price)
    going: bool = node.bound < search.cut
    return going


@compiled(inner=True)
def raise_bound(program: Program, point: Point, node: Row) -> None:
    """Compute the safe bound at the point and keep it if it is better than the node's."""
    node.current = node.constant + bound_at(program, point, node.price)
    node.solved = True
    if node.current > node.bound:
        node.bound = node.current


@merged
def walk(program: Program, tableau: Tableau, point: Point, search: Row, node: Row) -> int:
    """Follow the optimum to the branching variable's target. GAVE_UP, ARRIVED, or CUT_OFF, proved by a safe bound."""
    if node.size == 0:
        return GAVE_UP
    if node.branch < 0:
        return ARRIVED
    way = search.cut - node.bound
    excess = way + 2.0 * program.rounding + EXCESS * abs(way)
    node.size, node.made, ended = follow(
        program, point, tableau, node.size, node.made, node.branch, node.target, excess
    )
    if ended == CUT_OFF:
        gradient_at(program.matrix, program.linear, point.x, point.grad)
        node.price = price_at(point.grad, point.basic, node.size)
        raise_bound(program, point, node)
        if node.bound < search.cut:
            node.size, node.made, ended = follow(
                program, point, tableau, node.size, node.made, node.branch, node.target, np.inf
            )
    return ended


@merged
def settle(
    program: Program,
    tableau: Tableau,
    point: Point,
    search: Row,
    node: Row,
    scratch: Scratch,
    ended: int,
) -> None:
    """Compute the node's optimum with gradient and price; on a tableau of its own if the walk did not reach it."""
    if ended == GAVE_UP and node.branch >= 0:
        point.x[node.branch] = node.target
        gradient_at(program.matrix, program.linear, point.x, point.grad)
        repair(point.x, point.fixed, point.grad, program.ones)
    gradient_at(program.matrix, program.linear, point.x, point.grad)
    if ended == ARRIVED:
        node.price = price_at(point.grad, point.basic, node.size)
        reduce_at(point, node.price)
        if optimal(point, search.tolerance):
            return
    node.own = True
    n = point.x.size
    own = own_tableau(scratch, n)
    if ended == ARRIVED:
        copy_square(tableau.sheet, own.sheet, n + 1)
        sweep_all(Tableau(own.sheet, tableau.sweeps), node.made)
        node.size, converged = refine(program, point, own, node.size, search.tolerance, 10 * n + 50)
        if converged:
            node.price = price_at(point.grad, point.basic, node.size)
            return
    node.size, node.price = optimum(program, point, own, search.tolerance)


@compiled(inner=True)
def own_tableau(scratch: Scratch, n: int) -> Tableau:
    """The node's own tableau, of n variables."""
    return Tableau(scratch.tableau[: (n + 1) * (n + 1)].reshape((n + 1, n + 1)), scratch.single)


@merged
def fractional(tableau: Tableau, point: Point, node: Row, scratch: Scratch) -> int:
    """The fractional variable to branch on; −1: the point is binary."""
    source, made = tableau, node.made
    if node.own:
        source, made = own_tableau(scratch, point.x.size), 0
    diagonal_of(source, made, scratch.diagonal)
    j = branching_variable(point, scratch.diagonal, source, made)
    # on a block singular to rounding, a fixed variable can stay between its bounds
    if j >= 0 and point.fixed[j] != FREE:
        j = -1
    return j


@merged
def mask_nearby(program: Program, point: Point, search: Row, node: Row, scratch: Scratch) -> float:
    """Round the point to `trial`: at some nodes, with descent, and whenever it is binary. Its value, or inf."""
    found = np.inf
    descends = search.nodes % ROUND_EVERY == ROUND_FIRST
    if descends or node.branch < 0:
        trial, slope = scratch.trial[: point.x.size], scratch.slope[: point.x.size]
        rounded(point.x, point.fixed, program.ones, trial)
        if descends:
            found = node.constant + descend(program.matrix, program.linear, trial, slope, trial.size)
        else:
            gradient_at(program.matrix, program.linear, trial, slope)
            found = node.constant + value_at(program.linear, trial, slope)
    return found


@merged
def branches(fixed: Pattern, search: Row, node: Row) -> bool:
    """Whether to branch on the node; without a fractional variable, the first free one is taken."""
    if node.bound >= search.cut:
        return False
    if node.branch < 0:
        for i in range(fixed.size):
            if fixed[i] == FREE:
                node.branch = i
                break
    if node.branch < 0:
        # one mask, whose value is below its bound by rounding only
        search.closed = min(search.closed, node.bound)
    some: bool = node.branch >= 0
    return some


@merged
def fix_by_costs(point: Point, node: Row, cut: float) -> None:
    """Fix variables at a bound whose other value would raise the bound to `cut`; the branching variable stays free."""
    x, reduced, fixed, branch = point.x, point.reduced, point.fixed, node.branch
    # the node's bound may be its parent's, while the reduced costs belong to the point
    current = node.current
    for i in range(x.size):
        if fixed[i] == FREE and i != branch:
            if x[i] == 0.0 and current + reduced[i] >= cut:
                fixed[i] = 0
            elif x[i] == 1.0 and current - reduced[i] >= cut:
                fixed[i] = 1


@merged
def leave_basis(source: Tableau, point: Point, node: Row) -> bool:
    """Remove fixed variables from the basis. True if one must stay: its pivot is zero, or it is the last."""
    fixed, basic = point.fixed, point.basic
    stuck = False
    for i in range(fixed.size):
        if basic[i] and fixed[i] != FREE:
            before = node.made
            if node.size > 1 and node.own:
                sweep_now(source, i + 1, -1.0)
            elif node.size > 1:
                node.made = push(source, node.made, i + 1, -1.0, 0.0)
            if node.size > 1 and (node.own or node.made > before):
                basic[i] = False
                node.size -= 1
            else:
                stuck = True
    return stuck


@merged
def count_free(fixed: Pattern, stuck: bool) -> int:
    """Number of variables for a frame of the free ones; all of them if the basis holds a fixed one."""
    free = 0
    for i in range(fixed.size):
        free += stuck or fixed[i] == FREE
    return free


@merged
def positions(fixed: Pattern, stuck: bool, out: IndexArray) -> IndexArray:
    """Those variables, written to `out` (n,); returns the part used."""
    size = 0
    for i in range(fixed.size):
        if stuck or fixed[i] == FREE:
            out[size] = i
            size += 1
    return out[:size]


@merged
def worth_a_frame(free: int, stuck: bool, n: int, node: Row) -> bool:
    """Whether the node opens a frame; it must if its tableau is its own."""
    few = not stuck and free <= SHRINK * n
    return node.own or few or node.made > max(PENDING * n, LEAST_PENDING)


@merged
def add_frame(frames: Frames, size: int, search: Row, node: Row, stack: Stack) -> None:
    """Add the row of a frame of `size` variables below the node's frame."""
    outer, row = frames.rows[node.frame], frames.rows[node.frame + 1]
    row.size, row.at, row.end = size, outer.end, outer.end + size * size + (size + 1) * (size + 1)
    row.sweeps = outer.sweeps
    if search.depth > 0:
        # the sweeps up to the last waiting node, if it is in this frame, are still needed
        last = stack.nodes[search.depth - 1]
        if last.frame == node.frame:
            row.sweeps += last.made


@merged
def open_frame(
    program: Program,
    source: Tableau,
    point: Point,
    kept: IndexArray,
    node: Row,
    frames: Frames,
    sheets: FloatArray,
    sweeps: Sweeps,
) -> tuple[Program, Tableau, Point]:
    """Substitute the variables that are not in `kept`, move the node into the new frame, and return the frame."""
    outer, row = frames.rows[node.frame], frames.rows[node.frame + 1]
    part, tableau, _ = frame_at(frames, node.frame + 1, sheets, sweeps, point, program.rounding)
    made = node.made
    if node.own:
        made = 0
    restrict(source, made, kept, tableau.sheet)
    row.count, row.constant = outer.count, outer.constant
    if kept.size < point.x.size:
        added, ones = put_in(program.matrix, program.linear, point.fixed, kept, part.matrix, part.linear)
        row.count -= ones
        row.constant += added
    else:
        copy_square(program.matrix, part.matrix, kept.size)
        copy(program.linear, part.linear)
    narrow(frames, kept, point, node)
    node.frame, node.constant, node.made = node.frame + 1, row.constant, 0
    return frame_at(frames, node.frame, sheets, sweeps, point, program.rounding)


@merged
def narrow(frames: Frames, kept: IndexArray, point: Point, node: Row) -> None:
    """Move the node's arrays, and the variables' numbers, into the frame of the variables `kept`."""
    outer, n = node.frame, frames.rows[node.frame].size
    within, index = frames.variables[outer + 1], frames.variables[outer]
    fixed = frames.fixed[outer + 1]
    copy(frames.fixed[outer], fixed)
    if kept.size < n:
        for i in range(n):
            fixed[index[i]] = point.fixed[i]
    branch = node.branch
    for a in range(kept.size):
        i = kept[a]
        within[a] = index[i]
        point.x[a], point.reduced[a] = point.x[i], point.reduced[i]
        point.basic[a], point.fixed[a] = point.basic[i], point.fixed[i]
        if i == branch:
            node.branch = a


@merged
def push_second(point: Point, search: Row, node: Row, stack: Stack) -> None:
    """Put the second child on the stack and turn the node into the first, at the nearer value."""
    first = 1.0 if point.x[node.branch] > 0.5 else 0.0
    node.target = 1.0 - first
    wait(point, search, node, stack)
    node.target = first


@compiled(inner=True)
def wait(point: Point, search: Row, node: Row, stack: Stack) -> None:
    """Put the node on the stack."""
    at = search.depth
    copy(point.x, stack.x[at])
    copy(point.reduced, stack.reduced[at])
    copy(point.fixed, stack.fixed[at])
    copy(point.basic, stack.basic[at])
    stack.nodes[at] = node
    search.depth += 1


@merged
def restore(point: Point, at: int, stack: Stack) -> None:
    """Restore the point of a waiting node."""
    x, reduced, fixed, basic = stack.x[at], stack.reduced[at], stack.fixed[at], stack.basic[at]
    for i in range(point.x.size):
        point.x[i], point.reduced[i], point.fixed[i], point.basic[i] = x[i], reduced[i], fixed[i], basic[i]


@compiled(inner=True)
def lift(frames: Frames, at: int, x: FloatArray, out: FloatArray) -> None:
    """Convert a frame's point to one of the whole program."""
    fixed, index = frames.fixed[at], frames.variables[at]
    for i in range(out.size):
        out[i] = 1.0 if fixed[i] == 1 else 0.0
    for i in range(frames.rows[at].size):
        out[index[i]] = x[i]


@compiled(inner=True)
def lift_fixed(frames: Frames, at: int, fixed: Pattern, out: Pattern) -> None:
    """Convert what is fixed at a frame's node to the whole program's variables."""
    index = frames.variables[at]
    copy(frames.fixed[at], out)
    for i in range(frames.rows[at].size):
        out[index[i]] = fixed[i]


@merged
def write_record(records: Records, search: Row, node: Row, point: Point, frames: Frames, onward: bool) -> None:
    """Record a bounded node, the parent of the records to follow. onward : whether it is branched on"""
    at = search.records
    lift(frames, node.frame, point.x, records.point[at])
    lift_fixed(frames, node.frame, point.fixed, records.fixed[at])
    records.parent[at], records.value[at] = node.record, node.value
    records.branch[at] = frames.variables[node.frame, node.branch] if onward else -1
    node.record = at
    search.records += 1


@compiled(inner=True)
def write_open(out: OpenNodes, at: int, x: FloatArray, fixed: Pattern, frames: Frames, node: Row) -> None:
    """Return a node as an open one; x and fixed are in its frame's variables."""
    lift(frames, node.frame, x, out.x[at])
    lift_fixed(frames, node.frame, fixed, out.fixed[at])
    out.branch[at, 0], out.branch[at, 1] = -1, -1
    if node.branch >= 0:
        out.branch[at, 0], out.branch[at, 1] = frames.variables[node.frame, node.branch], int(node.target)
    out.bound[at], out.record[at] = node.bound, node.record


@merged
def write_waiting(out: OpenNodes, search: Row, stack: Stack, frames: Frames) -> bool:
    """Return the waiting nodes as open ones at the end of the dive."""
    for a in range(search.depth):
        write_open(out, search.open + a, stack.x[a], stack.fixed[a], frames, stack.nodes[a])
    search.open += search.depth
    return True
