"""The search loop of the refit tree: bound, fix, round, branch; unfinished nodes are returned as open nodes."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.compiled import Row, compiled, copy, copy_square, fill, merged, sort_positions
from prunebench.kernels.trees.branching import tied_branching_variable
from prunebench.kernels.trees.refit_node import (
    IN,
    OUT,
    TIED,
    Node,
    Program,
    System,
    build,
    change_pattern,
    dual_bound,
    legal,
    node_of,
    one_mask_point,
    pattern_point,
    reach_of,
    sign_ties,
    solve_node,
    square_end,
)
from prunebench.kernels.trees.select_node import FREE, ROUND_EVERY, ROUND_FIRST, Pattern, Records

ITERATIONS: Any = np.int64(40)
"""Most pattern iterations at a node: few need ten, and the bound is valid after any number."""
SINGLES = 64
"""How many masks a dive can return because rounding leaves their bounds below the cut-off. Few do."""
LEVEL_DOUBT = 1e-6
"""Relative increase of a single mask's threshold, so that rounding lifts no free weight's |ρ| above it."""


class OpenNode(NamedTuple):
    """A node from which a dive begins, or which a dive left open.

    pattern, sign : int8 and float64 (p,), of its parent's point;  fixed : int8 (p,), FREE, 0 or 1
    branch, target : the weight still to be fixed as pruned (0) or kept (1); −1: none
    bound : a safe bound, −inf if none is known
    record : its parent's row in a proof, of this dive or of all; −1: see Dive
    """

    pattern: Pattern
    sign: FloatArray
    fixed: Pattern
    branch: int
    target: int
    bound: float
    record: int


class OpenNodes(NamedTuple):
    """Space for the nodes that a dive leaves open, one per row, branch and target together, and for single masks.

    single : int8 (SINGLES, p), IN or OUT;  single_bound : float64 (SINGLES,)
    """

    pattern: Pattern
    sign: FloatArray
    fixed: Pattern
    branch: IndexArray
    bound: FloatArray
    record: IndexArray
    single: Pattern
    single_bound: FloatArray

    @staticmethod
    def of(rows: int, p: int, singles: int) -> "OpenNodes":
        """Space for nodes of p weights, and for single masks."""
        return OpenNodes(
            np.empty((rows, p), np.int8), np.empty((rows, p)), np.empty((rows, p), np.int8),
            np.empty((rows, 2), np.int64), np.empty(rows), np.empty(rows, np.int64),
            np.empty((singles, p), np.int8), np.empty(singles),
        )  # fmt: skip


SEARCH = np.dtype(
    [
        ("margin", np.float64),  # a node is pruned if its safe bound is at least best − margin
        ("ceiling", np.float64),  # a node with at least this bound is left open
        ("limit", np.int64),  # most nodes to be processed; 0: the root is bounded, and that is all
        ("iterations", np.int64),  # most pattern iterations at a node
        ("reached", np.float64),  # the best bound of all iterates at the node
        ("best", np.float64),  # the incumbent's value
        ("cut", np.float64),  # the cut-off: best − margin
        ("closed", np.float64),  # the smallest bound of a single mask that found no space
        ("nodes", np.int64),  # processed so far
        ("depth", np.int64),  # nodes waiting on the stack
        ("open", np.int64),  # nodes left open
        ("singles", np.int64),  # single masks returned
        ("records", np.int64),  # records made
    ],
    align=True,
)
"""Limits and counters of a dive."""
STATE = np.dtype(
    [
        ("size", np.int64),  # number of members of the pattern
        ("branch", np.int64),  # the weight to be fixed to `target`, later the one to branch on; −1: none
        ("target", np.int64),
        ("bound", np.float64),  # the best safe bound, its own or its parent's
        ("current", np.float64),  # the safe bound at its point
        ("level", np.float64),  # the squared threshold at its point
        ("tied", np.int64),  # number of ties in its pattern
        ("kept", np.int64),  # number of weights fixed as kept
        ("free", np.int64),  # number of weights not fixed
        ("packed", np.int64),  # offset of its parent's inverse among the packed ones
        ("record", np.int64),  # its parent's row in the records, later its own
    ],
    align=True,
)
"""The current node, apart from its point and system."""


class Stack(NamedTuple):
    """The waiting second children, one per row: the arrays of Node and System, and STATE.

    p + 1 rows, as each level of the tree fixes a weight.
    """

    pattern: Pattern
    sign: FloatArray
    fixed: Pattern
    members: IndexArray
    states: npt.NDArray[np.void]


class Workspace(NamedTuple):
    """All that a dive of a program of p weights works in.

    search, state : SEARCH (1,), STATE (1,);  node : the current one;  stack : the waiting nodes
    packed : float64, the inverses of the waiting nodes, one after another
    trial, mask : a system and int8 (p,), IN or OUT, for masks that are tried
    numbers, order : float64 (p,) and int64 (p,), overwritten where a mask is tried
    best : int8 (p,), IN or OUT, the incumbent if the dive has found one
    """

    search: npt.NDArray[np.void]
    state: npt.NDArray[np.void]
    node: Node
    stack: Stack
    packed: FloatArray
    trial: System
    mask: Pattern
    numbers: FloatArray
    order: IndexArray
    best: Pattern


PACKED = 1 << 16
"""Initial space for the waiting nodes' inverses, in float64 numbers: half a megabyte. It is doubled when too small."""


def workspace(root: OpenNode, search: npt.NDArray[np.void]) -> Workspace:
    """The workspace at the beginning of a dive; the current node is the root."""
    p = root.pattern.size
    state, rows = np.zeros(1, STATE), p + 1
    state["branch"], state["target"], state["bound"], state["record"] = root.branch, root.target, root.bound, -1
    stack = Stack(
        np.empty((rows, p), np.int8), np.empty((rows, p)), np.empty((rows, p), np.int8), np.empty((rows, p), np.int64),
        np.zeros(rows, STATE),
    )  # fmt: skip
    trial = System(np.empty(p, np.int8), np.empty((p, p)), np.empty(p, np.int64))
    node = node_of(root.pattern, root.sign, root.fixed)
    packed = np.empty(max(PACKED, p * p))
    return Workspace(
        search, state, node, stack, packed, trial, np.empty(p, np.int8), np.empty(p), np.empty(p, np.int64),
        np.zeros(p, np.int8),
    )  # fmt: skip


class Dived(NamedTuple):
    """The result of a dive.

    value : of the incumbent;  mask : int8 (p,), IN or OUT, the incumbent if the dive improved it
    nodes : how many were processed;  left : open nodes, with record −1 if the dive's root has none
    singles : masks, IN or OUT, whose bounds are below the cut-off because of rounding, with those bounds
    closed : the smallest bound of such a mask that found no space; normally inf
    records : those made
    """

    value: float
    mask: Pattern
    nodes: int
    left: list[OpenNode]
    singles: list[tuple[float, Pattern]]
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
    search["margin"], search["ceiling"], search["limit"], search["iterations"] = margin, ceiling, limit, ITERATIONS
    search["best"], search["closed"] = best, np.inf
    rows = p + 2 + (limit if np.isfinite(ceiling) else 0)
    out = OpenNodes.of(rows, p, SINGLES)
    records = Records.of(limit + 1 if recorded else 0, p)
    work = workspace(root, search)
    while not explore(program, out, records, work):
        work = work._replace(packed=np.concatenate((work.packed, np.empty_like(work.packed))))
    done = search[0]
    left = [
        OpenNode(
            out.pattern[a].copy(), out.sign[a].copy(), out.fixed[a].copy(), int(out.branch[a, 0]),
            int(out.branch[a, 1]), float(out.bound[a]), int(out.record[a]),
        )
        for a in range(int(done["open"]))
    ]  # fmt: skip
    singles = [(float(out.single_bound[a]), out.single[a]) for a in range(int(done["singles"]))]
    return Dived(
        float(done["best"]), work.best, int(done["nodes"]), left, singles, float(done["closed"]),
        records.first(int(done["records"])),
    )  # fmt: skip


class Relaxed(NamedTuple):
    """A relaxation solved by itself.

    node : its point and pattern;  level : the squared threshold
    bound : the safe bound at the point;  best : that of all iterates
    """

    node: Node
    level: float
    bound: float
    best: float


def relaxed(program: Program, pattern: Pattern, sign: FloatArray, iterations: int) -> Relaxed:
    """The relaxation with nothing fixed, from a pattern and its ties' signs, in at most so many iterations."""
    p, search = sign.size, np.zeros(1, SEARCH)
    search["best"], search["ceiling"], search["iterations"] = np.inf, np.inf, iterations
    work = workspace(OpenNode(pattern, sign, np.full(p, FREE, np.int8), -1, -1, -np.inf, -1), search)
    explore(program, OpenNodes.of(0, p, 0), Records.of(0, p), work)
    state = work.state[0]
    return Relaxed(work.node, float(state["level"]), float(state["current"]), float(search[0]["reached"]))


@compiled()
def explore(program: Program, out: OpenNodes, records: Records, work: Workspace) -> bool:
    """Search below the current node; can be called again to continue. False if `packed` is too small to go on.

    out : receives open nodes and single masks
    records : receive every bounded node, for a proof, if they have space
    """
    search, state, node, stack = work.search[0], work.state[0], work.node, work.stack
    writes, packed = records.parent.size > 0, work.packed
    if search.nodes == 0:
        state.size = build(program.matrix, node.system)
    while place(search.depth, stack) + work.best.size**2 <= packed.size:
        search.nodes += 1
        search.cut = search.best - search.margin
        solved = state.bound < search.cut
        going = False
        if solved:
            if writes:
                records.parent[search.records], records.value[search.records] = state.record, state.target
            going = bounded(program, search, node, state)
        if search.limit == 0:
            return True
        if going and one_mask(program.keep, state):
            settle_mask(program, out, search, state, work)
            going = False
        if going:
            going = rounded_below(program, search, state, work)
        state.branch = -1
        if going:
            state.branch = branching(program, node, state)
            fix_by_levels(program, node, state, search.cut)
            count_fixed(node.fixed, state)
            # stop if the reduced costs leave no feasible mask
            going = state.kept <= program.keep <= state.kept + state.free
        handed_back = going and search.nodes > 1 and state.bound >= search.ceiling
        handed_back = handed_back and search.open < out.bound.size - work.best.size - 2
        if solved and writes:
            write_record(records, search, node, state, going and not handed_back)
        if handed_back:
            state.branch, state.target = -1, -1
            write_open(out, search.open, node.system.pattern, node.sign, node.fixed, state)
            search.open += 1
        elif going:
            state.packed = place(search.depth, stack)
            pack(node.system.inverse, packed, state)
            push_second(program.keep, search, node, state, stack)
            if search.nodes < search.limit:
                continue
            # the first child is left open as well
            wait(search, node, state, stack)
            return write_waiting(out, search, stack)
        while search.depth > 0 and stack.states[search.depth - 1].bound >= search.best - search.margin:
            search.depth -= 1
        if search.depth == 0 or search.nodes >= search.limit:
            return write_waiting(out, search, stack)
        search.depth -= 1
        work.state[0] = stack.states[search.depth]
        restore(node, search.depth, stack)
        unpack(packed, node.system.inverse, state)
        pattern_point(program, node, state.size)
    return False


@merged
def bounded(program: Program, search: Row, node: Node, state: Row) -> bool:
    """Take the pattern from the parent's to the node's own, and bound the node. False: it is cut off."""
    inherited = state.bound
    if state.branch >= 0:
        take_target(program, node, state)
    state.size, state.bound, state.level, _, state.tied = solve_node(
        program, node, state.size, state.bound, search.cut, search.iterations
    )
    search.reached = state.bound
    if state.bound >= search.cut:
        return False
    # the bound at the last point; an earlier point may have given a better bound but is gone
    state.current = dual_bound(program, node.fixed, node.y, node.rho, state.level)
    state.bound = max(inherited, state.current)
    count_fixed(node.fixed, state)
    return True


@merged
def take_target(program: Program, node: Node, state: Row) -> None:
    """Fix the node's branching weight and make the pattern consistent with it."""
    node.fixed[state.branch] = state.target
    copy(node.system.pattern, node.wanted)
    node.wanted[state.branch] = IN if state.target == 1 else OUT
    legal(program.keep, node.fixed, node.wanted, node.rho)
    sign_ties(node)
    state.size = change_pattern(program.matrix, node.system, node.wanted, state.size)


@compiled(inner=True)
def count_fixed(fixed: Pattern, state: Row) -> None:
    """Count the weights fixed as kept and the free ones."""
    free, kept = 0, 0
    for i in range(fixed.size):
        free += fixed[i] == FREE
        kept += fixed[i] == 1
    state.free, state.kept = free, kept


@merged
def one_mask(keep: int, state: Row) -> bool:
    """Whether only one mask is left at the node."""
    single: bool = state.kept == keep or state.kept + state.free == keep
    return single


@merged
def settle_mask(program: Program, out: OpenNodes, search: Row, state: Row, work: Workspace) -> None:
    """Evaluate and bound a node with one mask; return it in `out` if rounding leaves its bound below the cut-off."""
    node, keep, mask = work.node, program.keep, work.mask
    for i in range(mask.size):
        mask[i] = IN if node.fixed[i] == 1 or (node.fixed[i] == FREE and state.kept < keep) else OUT
    state.size = change_pattern(program.matrix, node.system, mask, state.size)
    found = one_mask_point(program, node, state.size)
    level = 0.0
    for i in range(mask.size):
        if node.fixed[i] == FREE and state.kept == keep:
            level = max(level, node.rho[i] * node.rho[i])
    level *= 1.0 + LEVEL_DOUBT
    state.bound = max(state.bound, dual_bound(program, node.fixed, node.y, node.rho, level))
    offer(search, found, mask, work.best)
    if not state.bound >= search.cut and search.singles < out.single_bound.size:
        copy(mask, out.single[search.singles])
        out.single_bound[search.singles] = state.bound
        search.singles += 1
    elif not state.bound >= search.cut:
        search.closed = min(search.closed, state.bound)


@compiled(inner=True)
def offer(search: Row, value: float, mask: Pattern, best: Pattern) -> None:
    """Take a mask as the incumbent if it is better."""
    if value < search.best:
        search.best = value
        search.cut = value - search.margin
        copy(mask, best)


@merged
def rounded_below(program: Program, search: Row, state: Row, work: Workspace) -> bool:
    """Round the point to a mask at some nodes, and whenever it has no ties. False: that mask cuts the node off."""
    if search.nodes % ROUND_EVERY == ROUND_FIRST or state.tied == 0:
        offer(search, rounded_value(program, state.size, work), work.mask, work.best)
    below: bool = state.bound < search.cut
    return below


@merged
def rounded_value(program: Program, size: int, work: Workspace) -> float:
    """The value of the mask with the largest shares; `work.mask` receives it as IN and OUT, `work.trial` its system.

    inf if the mask's system is singular to rounding.
    """
    largest_shares(program.keep, work)
    system, trial = work.node.system, work.trial
    copy(system.pattern, trial.pattern)
    copy(system.members, trial.members)
    copy_square(system.inverse, trial.inverse, size)
    held = change_pattern(program.matrix, trial, work.mask, size)
    if held != program.keep:
        return np.inf
    members, inverse, linear = trial.members, trial.inverse, program.linear
    kept = work.numbers
    for a in range(held):
        kept[a] = 0.0
        for b in range(held):
            kept[a] += inverse[a, b] * linear[members[b]]
    # evaluate at these weights; −½h'y would be too good with a drifted inverse
    value = 0.0
    for a in range(held):
        row = program.matrix[members[a]]
        slope = kept[a]
        for b in range(held):
            slope += row[members[b]] * kept[b]
        value += kept[a] * (0.5 * slope - linear[members[a]])
    return value


@merged
def largest_shares(keep: int, work: Workspace) -> None:
    """`work.mask` as that, IN or OUT, with the `keep` largest shares m; weights fixed as kept come first."""
    node, mask, key, order = work.node, work.mask, work.numbers, work.order
    pattern = node.system.pattern
    for i in range(mask.size):
        if pattern[i] == IN:
            key[i] = -1e300 if node.fixed[i] == 1 else -1e200
        elif pattern[i] == TIED:
            key[i] = -node.sign[i] * node.y[i]
        else:
            key[i] = 1e300 if node.fixed[i] == 0 else 1e200
    sort_positions(key, order)
    fill(mask, OUT)
    for a in range(keep):
        mask[order[a]] = IN


@merged
def branching(program: Program, node: Node, state: Row) -> int:
    """The weight to branch on: the tie with the best score, any tie, or the free weight nearest the threshold."""
    pattern, rho, fixed, tau = node.system.pattern, node.rho, node.fixed, np.sqrt(state.level)
    j = -1
    if state.tied > 0:
        j = tied_branching_variable(program, node, state.size, tau)
    if j < 0:
        for i in range(fixed.size):
            if fixed[i] == FREE and pattern[i] == TIED:
                return i
        for i in range(fixed.size):
            if fixed[i] == FREE and (j < 0 or abs(abs(rho[i]) - tau) < abs(abs(rho[j]) - tau)):
                j = i
    return j


@merged
def fix_by_levels(program: Program, node: Node, state: Row, cut: float) -> None:
    """Fix weights whose other value would raise the bound to `cut` (reduced costs); the branching weight stays free."""
    pattern, fixed = node.system.pattern, node.fixed
    span = reach_of(program.sizes, node.y)
    for i in range(fixed.size):
        if fixed[i] == FREE and i != state.branch:
            reduced = 0.5 * (state.level - square_end(program.sizes, span, program.accuracy, node.rho, i))
            if pattern[i] == OUT and state.current + max(reduced, 0.0) >= cut:
                fixed[i] = 0
            elif pattern[i] == IN and state.current + max(-reduced, 0.0) >= cut:
                fixed[i] = 1


@merged
def push_second(keep: int, search: Row, node: Node, state: Row, stack: Stack) -> None:
    """Put the second child on the stack and turn the node into the first, at the nearer value.

    A child whose count cannot be met has no mask; it becomes the second, with an infinite bound.
    """
    j = state.branch
    share = 0.0
    if node.system.pattern[j] == IN:
        share = 1.0
    elif node.system.pattern[j] == TIED:
        share = node.sign[j] * node.y[j] / (np.sqrt(state.level) + 1e-300)
    first = 1 if share > 0.5 else 0
    only = False
    if state.kept + 1 > keep:
        first, only = 0, True
    if state.kept + state.free - 1 < keep:
        first, only = 1, True
    bound = state.bound
    state.target, state.bound = 1 - first, np.inf if only else bound
    wait(search, node, state, stack)
    state.target, state.bound = first, bound


@compiled(inner=True)
def wait(search: Row, node: Node, state: Row, stack: Stack) -> None:
    """Put the node on the stack."""
    at = search.depth
    copy(node.system.pattern, stack.pattern[at])
    copy(node.sign, stack.sign[at])
    copy(node.fixed, stack.fixed[at])
    copy(node.system.members, stack.members[at])
    stack.states[at] = state
    search.depth += 1


@merged
def restore(node: Node, at: int, stack: Stack) -> None:
    """Restore pattern, signs, fixed weights and members of a waiting node."""
    copy(stack.pattern[at], node.system.pattern)
    copy(stack.sign[at], node.sign)
    copy(stack.fixed[at], node.fixed)
    copy(stack.members[at], node.system.members)


@compiled(inner=True)
def place(depth: int, stack: Stack) -> int:
    """Offset among the packed inverses for the node at `depth`: after those below it on the stack."""
    if depth == 0:
        return 0
    below = stack.states[depth - 1]
    return below.packed + below.size * below.size  # type: ignore[no-any-return]  # numba's own types


@merged
def pack(inverse: FloatArray, packed: FloatArray, state: Row) -> None:
    """Store the inverse of a node that will wait."""
    at = state.packed
    for a in range(state.size):
        for b in range(state.size):
            packed[at] = inverse[a, b]
            at += 1


@merged
def unpack(packed: FloatArray, inverse: FloatArray, state: Row) -> None:
    """Restore the inverse of a waiting node."""
    at = state.packed
    for a in range(state.size):
        for b in range(state.size):
            inverse[a, b] = packed[at]
            at += 1


@merged
def write_record(records: Records, search: Row, node: Node, state: Row, onward: bool) -> None:
    """Record a bounded node, the parent of the records to follow. onward : whether it is branched on"""
    at = search.records
    copy(node.y, records.point[at])
    copy(node.fixed, records.fixed[at])
    records.branch[at] = state.branch if onward else -1
    state.record = at
    search.records += 1


@compiled(inner=True)
def write_open(out: OpenNodes, at: int, pattern: Pattern, sign: FloatArray, fixed: Pattern, state: Row) -> None:
    """Return a node as an open one."""
    copy(pattern, out.pattern[at])
    copy(sign, out.sign[at])
    copy(fixed, out.fixed[at])
    out.branch[at, 0], out.branch[at, 1] = state.branch, state.target
    out.bound[at], out.record[at] = state.bound, state.record


@merged
def write_waiting(out: OpenNodes, search: Row, stack: Stack) -> bool:
    """Return the waiting nodes as open ones at the end of the dive."""
    for a in range(search.depth):
        write_open(out, search.open + a, stack.pattern[a], stack.sign[a], stack.fixed[a], stack.states[a])
    search.open += search.depth
    return True
