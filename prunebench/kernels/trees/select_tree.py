"""The select tree's loop: prune, fix, round, branch; leaves what it did not finish as open nodes."""

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
"""A frame is opened where at most this share of the variables of the one around it is free: it then costs a quarter
to go over its matrix."""
PENDING = 0.25
"""A frame is also opened after more sweeps than this share of its variables: taking rows through more of them would
cost more than making the tableau anew."""
LEAST_PENDING = 4
"""And after more sweeps than this: a frame of few variables costs more than they do."""
TOLERANCE = 1e-8
"""Up to which violation a reduced cost counts as an optimum's, as a part of the gap at the dive's root: it costs a
bound next to nothing."""
LEAST_TOLERANCE = 1e-9
"""The least such violation, in the units of the scaled program: the incumbent is about 1000 from its constant."""
EXCESS = 1e-7
"""By which part of a node's way to the cut-off a walk must be sure to exceed it before it stops: more than rounding."""


class OpenNode(NamedTuple):
    """A node of the whole program that a dive begins from or left.

    x : float64 (p,), its parent's optimum, or a feasible point;  fixed : int8 (p,), FREE, 0 or 1
    branch, target : the variable that becomes `target`, not yet fixed; −1: none, x is the node's own point
    bound : a safe bound of it, −inf where none is known
    record : the row of its parent in a proof, of this dive or of all; −1: see Dive
    """

    x: FloatArray
    fixed: Pattern
    branch: int
    target: float
    bound: float
    record: int


class OpenNodes(NamedTuple):
    """Room for the open nodes that a dive leaves, one row each: x, fixed, (branch, target), bound, record."""

    x: FloatArray
    fixed: Pattern
    branch: IndexArray
    bound: FloatArray
    record: IndexArray


class Stack(NamedTuple):
    """The second children that wait, one row each, in the variables of their frame: Point's arrays and NODE's fields.

    p + 1 rows: each level of the tree fixes a variable.
    """

    x: FloatArray
    reduced: FloatArray
    fixed: Pattern
    basic: npt.NDArray[np.bool_]
    nodes: npt.NDArray[np.void]


SEARCH = np.dtype(
    [
        ("rounding", np.float64),  # of the objective at any point, and of putting fixed variables in
        ("margin", np.float64),  # a node is pruned once its safe bound is at least the incumbent's value less this
        ("ceiling", np.float64),  # a node whose bound is not below this is handed back
        ("limit", np.int64),  # how many nodes may be looked at
        ("room", np.int64),  # how many numbers the matrix and the tableau of any frame take at most
        ("best", np.float64),  # the incumbent's value
        ("cut", np.float64),  # the cut-off: that less the margin
        ("closed", np.float64),  # the smallest bound of a mask that was left for good although it is below the cut-off
        ("tolerance", np.float64),  # of reduced costs
        ("nodes", np.int64),  # looked at so far
        ("depth", np.int64),  # how many nodes wait on the stack
        ("open", np.int64),  # how many were handed back
        ("records", np.int64),  # how many records were made
    ],
    align=True,
)
"""What a dive may do, and what it counts."""
NODE = np.dtype(
    [
        ("frame", np.int64),  # the frame that its variables are counted in
        ("constant", np.float64),  # what the variables that are fixed outside add to its values
        ("made", np.int64),  # sweeps that count, after the frame's tableau
        ("size", np.int64),  # how many variables are basic
        ("branch", np.int64),  # the variable that goes to `target`, then the one that is branched on; −1: none
        ("target", np.float64),
        ("value", np.int64),  # what the branching variable was fixed to, −1: there was none
        ("price", np.float64),  # of the count
        ("bound", np.float64),  # the best safe bound, of its parent or its own
        ("current", np.float64),  # the safe bound at its point
        ("record", np.int64),  # the row of its parent in the records, then its own
        ("solved", np.bool_),  # whether it was bounded
        ("own", np.bool_),  # whether its tableau is the spare one
    ],
    align=True,
)
"""The node at hand, beside its point."""


class Scratch(NamedTuple):
    """Room for what a node needs for a while; p variables in all.

    tableau : float64 ((p + 1)²,), the matrix of a tableau of the node's own;  single : room for one sweep of it
    trial, slope : float64 (p,), a binary point and the gradient there;  diagonal : float64 (p + 1,), a tableau's
    kept : int64 (p,), the variables that a new frame keeps
    """

    tableau: FloatArray
    single: Sweeps
    trial: FloatArray
    slope: FloatArray
    diagonal: FloatArray
    kept: IndexArray


class Workspace(NamedTuple):
    """What a dive of a program of p variables works in.

    search, node : SEARCH (1,), NODE (1,);  point : the node's, in the variables of its frame
    stack : the nodes that wait
    frames : the open frames;  sheets : float64, their matrices and tableaus one after another
    sweeps : those of all frames, one after another
    scratch : what a node needs for a while
    best : float64 (p,), the incumbent, in all variables, where the dive has found one
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
"""Room for so many frames of the whole program's size at first: most are smaller. It doubles when it may not do."""
SWEEPS = 8
"""Room for so many sweeps a variable, those of all open frames. Where it is used up a walk gives up, and its node opens
a frame."""
MORE_SWEEPS = 64
"""Room for so many sweeps more, for programs of a few variables."""


def workspace(program: Program, root: OpenNode, search: npt.NDArray[np.void]) -> Workspace:
    """The workspace of a dive at its beginning: the node at hand is the root, in the frame of the whole program."""
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
    """What a dive found.

    value, x : the incumbent's value; x (p,) is its point where the dive has improved it
    nodes : how many were looked at;  left : the open nodes, where no record but −1 is the dive's root
    closed : the smallest bound of a mask that was left for good although it is below the cut-off; inf as a rule
    records : as many as were made
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
    """Search below one open node, at most `limit` nodes, only where bounds are below `ceiling`.

    best : the incumbent's value;  margin : a node is pruned once its safe bound is at least best − margin
    recorded : whether to record what a proof needs of every node that was bounded
    """
    p = program.linear.size
    search = np.zeros(1, SEARCH)
    search["rounding"], search["margin"], search["ceiling"], search["limit"] = program.rounding, margin, ceiling, limit
    search["room"], search["best"], search["closed"] = room(p), best, np.inf
    search["tolerance"] = max(LEAST_TOLERANCE, TOLERANCE * (best - root.bound) if np.isfinite(root.bound) else 0.0)
    rows = p + 2 + (limit if np.isfinite(ceiling) else 0)
    out = OpenNodes(
        np.empty((rows, p)), np.empty((rows, p), np.int8), np.empty((rows, 2), np.int64), np.empty(rows),
        np.empty(rows, np.int64),
    )  # fmt: skip
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


@compiled()
def explore(out: OpenNodes, records: Records, work: Workspace) -> bool:
    """Search below the node at hand, or go on with it. False: only once the sheets, as they are, have more room.

    out : receives the nodes that are left open
    records : receive what a proof needs of every node that was bounded, if they have room
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
        if going:
            node.branch = fractional(tableau, point, node, scratch)
            found = mask_nearby(program, point, search, node, scratch)
            if found < search.best:
                search.best, search.cut = found, found - search.margin
                lift(frames, node.frame, scratch.trial, best)
            going = branches(point.fixed, search, node)
        if going:
            fix_by_costs(point, node, search.cut)
            # nothing better is left where the reduced costs leave no feasible point
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
            # the first child is handed over as an open node too
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
    """The gradient, the tableau and the reduced costs at the root's point, where anything is free."""
    gradient_at(program.matrix, program.linear, point.x, point.grad)
    if start(point):
        node.size = build(program.matrix, Tableau(tableau.sheet, single), point.basic)
    if node.size > 0:
        node.price = price_at(point.grad, point.basic, node.size)
        reduce_at(point, node.price)


@merged
def bounded(program: Program, tableau: Tableau, point: Point, search: Row, node: Row, scratch: Scratch) -> bool:
    """Take the point from the parent's optimum to the node's, and bound it there. False: the node is cut off."""
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
    """The safe bound at the point, which becomes the node's if it is the better one."""
    node.current = node.constant + bound_at(program, point, node.price)
    node.solved = True
    if node.current > node.bound:
        node.bound = node.current


@merged
def walk(program: Program, tableau: Tableau, point: Point, search: Row, node: Row) -> int:
    """Follow the optimum to the node's value of its variable. GAVE_UP, ARRIVED, or CUT_OFF, proved by a safe bound."""
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
    """The node's optimum with its gradient and price: where the walk's end is none, on a tableau of the node's own."""
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
    """The tableau of a node's own, of n variables."""
    return Tableau(scratch.tableau[: (n + 1) * (n + 1)].reshape((n + 1, n + 1)), scratch.single)


@merged
def fractional(tableau: Tableau, point: Point, node: Row, scratch: Scratch) -> int:
    """The fractional variable to branch on; −1: the point is binary."""
    source, made = tableau, node.made
    if node.own:
        source, made = own_tableau(scratch, point.x.size), 0
    diagonal_of(source, made, scratch.diagonal)
    j = branching_variable(point, scratch.diagonal, source, made)
    # on a block that is singular to rounding a fixed variable can be left between its values
    if j >= 0 and point.fixed[j] != FREE:
        j = -1
    return j


@merged
def mask_nearby(program: Program, point: Point, search: Row, node: Row, scratch: Scratch) -> float:
    """Round the point, to `trial`: at some nodes, followed by descent, and where it is binary. Its value, or inf."""
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
    """Whether the node is still to be branched; without a fractional variable it is on the first free one."""
    if node.bound >= search.cut:
        return False
    if node.branch < 0:
        for i in range(fixed.size):
            if fixed[i] == FREE:
                node.branch = i
                break
    if node.branch < 0:
        # one mask, with its value below its bound by no more than rounding
        search.closed = min(search.closed, node.bound)
    some: bool = node.branch >= 0
    return some


@merged
def fix_by_costs(point: Point, node: Row, cut: float) -> None:
    """Fix the variables at a bound, but for the branching one, whose reduced costs say that the other costs `cut`."""
    x, reduced, fixed, branch = point.x, point.reduced, point.fixed, node.branch
    # the node's bound may be the parent's, the reduced costs are those of the point
    current = node.current
    for i in range(x.size):
        if fixed[i] == FREE and i != branch:
            if x[i] == 0.0 and current + reduced[i] >= cut:
                fixed[i] = 0
            elif x[i] == 1.0 and current - reduced[i] >= cut:
                fixed[i] = 1


@merged
def leave_basis(source: Tableau, point: Point, node: Row) -> bool:
    """Take the fixed variables out of the basis. True where one has to stay: its pivot is zero, or it is the last."""
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
    """How many variables a frame of the free ones has; all where the basis holds a fixed one."""
    free = 0
    for i in range(fixed.size):
        free += stuck or fixed[i] == FREE
    return free


@merged
def positions(fixed: Pattern, stuck: bool, out: IndexArray) -> IndexArray:
    """Those variables, as the part of `out` (n,) that they are written to."""
    size = 0
    for i in range(fixed.size):
        if stuck or fixed[i] == FREE:
            out[size] = i
            size += 1
    return out[:size]


@merged
def worth_a_frame(free: int, stuck: bool, n: int, node: Row) -> bool:
    """Whether the node opens a frame: it must where its tableau is its own."""
    few = not stuck and free <= SHRINK * n
    return node.own or few or node.made > max(PENDING * n, LEAST_PENDING)


@merged
def add_frame(frames: Frames, size: int, search: Row, node: Row, stack: Stack) -> None:
    """The row of a frame of `size` variables below the node's."""
    outer, row = frames.rows[node.frame], frames.rows[node.frame + 1]
    row.size, row.at, row.end = size, outer.end, outer.end + size * size + (size + 1) * (size + 1)
    row.sweeps = outer.sweeps
    if search.depth > 0:
        # the sweeps up to the node that waits last, if it is of this frame, are still needed
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
    """Put the variables that are not kept in, move the node into the frame that was added, and return that."""
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
    """The node's arrays, and which variables are whose, in the frame of the variables `kept` below the node's."""
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
    """Let the second child wait, and turn the node into the first, whose value is the nearer one."""
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
    """The point of a node that has waited."""
    x, reduced, fixed, basic = stack.x[at], stack.reduced[at], stack.fixed[at], stack.basic[at]
    for i in range(point.x.size):
        point.x[i], point.reduced[i], point.fixed[i], point.basic[i] = x[i], reduced[i], fixed[i], basic[i]


@compiled(inner=True)
def lift(frames: Frames, at: int, x: FloatArray, out: FloatArray) -> None:
    """A point of a frame as one of the whole program."""
    fixed, index = frames.fixed[at], frames.variables[at]
    for i in range(out.size):
        out[i] = 1.0 if fixed[i] == 1 else 0.0
    for i in range(frames.rows[at].size):
        out[index[i]] = x[i]


@compiled(inner=True)
def lift_fixed(frames: Frames, at: int, fixed: Pattern, out: Pattern) -> None:
    """What is fixed at a node of a frame, of the whole program's variables."""
    index = frames.variables[at]
    copy(frames.fixed[at], out)
    for i in range(frames.rows[at].size):
        out[index[i]] = fixed[i]


@merged
def write_record(records: Records, search: Row, node: Row, point: Point, frames: Frames, onward: bool) -> None:
    """Record a node that was bounded; `onward` where it is branched on. It becomes the parent of what follows."""
    at = search.records
    lift(frames, node.frame, point.x, records.point[at])
    lift_fixed(frames, node.frame, point.fixed, records.fixed[at])
    records.parent[at], records.value[at] = node.record, node.value
    records.branch[at] = frames.variables[node.frame, node.branch] if onward else -1
    node.record = at
    search.records += 1


@compiled(inner=True)
def write_open(out: OpenNodes, at: int, x: FloatArray, fixed: Pattern, frames: Frames, node: Row) -> None:
    """Hand a node over as an open one; x, fixed in the variables of its frame."""
    lift(frames, node.frame, x, out.x[at])
    lift_fixed(frames, node.frame, fixed, out.fixed[at])
    out.branch[at, 0], out.branch[at, 1] = -1, -1
    if node.branch >= 0:
        out.branch[at, 0], out.branch[at, 1] = frames.variables[node.frame, node.branch], int(node.target)
    out.bound[at], out.record[at] = node.bound, node.record


@merged
def write_waiting(out: OpenNodes, search: Row, stack: Stack, frames: Frames) -> bool:
    """Hand over the nodes that still wait: the dive is through."""
    for a in range(search.depth):
        write_open(out, search.open + a, stack.x[a], stack.fixed[a], frames, stack.nodes[a])
    search.open += search.depth
    return True
