"""Convexified programs and their compiled dives, from which branch and bound is built.

In mode refit, an open node with a tenth of its weights fixed gets a tree of its own: pruned weights leave
the program, kept ones are eliminated, and a few Newton steps from the present split give the free ones more
of the diagonal. As this costs as much as a hundred nodes (p = 128: 10 ms), only nodes that a dive left
open far from the cut-off get one.

What was tried and left out: docs/decisions/select-trees.md and refit-trees.md.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.optimality import PROOF_TOLERANCE
from prunebench.core.stop import StopCheck, never
from prunebench.kernels.relaxations.programs import HALF_ULP, RefitProgram, SelectProgram
from prunebench.kernels.relaxations.shift import certified_shift, plane_shift
from prunebench.kernels.relaxations.split import RelaxedPoint, Split, best_split, certified_split
from prunebench.kernels.trees import refit_node as refit
from prunebench.kernels.trees import refit_tree, select_tree
from prunebench.kernels.trees import select_node as select
from prunebench.kernels.trees.select_node import Pattern, Records

Node = Any
"""An open node of either tree, a NamedTuple with at least `bound` and `record`."""
RELATIVE_TOLERANCE = 1e-10
"""Share of the objective by which a mask must be better to be searched for: far below PROOF_TOLERANCE."""
FIXED = 0.1
"""Share of fixed variables from which a node may get a tree of its own: fewer leave little to gain."""
LEAST_FIXED = 4
"""Least number of fixed variables for that."""
OPEN = 0.3
"""A node whose bound is in this last share of the gap gets none, as cheaper dives end soon there."""
ITERATIONS = 60
"""Most pattern iterations of a root's relaxation, plus four per weight; the split is judged by its result."""
SPLIT_STEPS = 8
"""Most Newton steps for the split of a node's own tree, starting from the present split."""
SPLIT_ACCURACY = 0.3
"""Accuracy of that split, as a share of the node's gap: a split as good as the root's takes four to nine times as long
and did not pay."""
WIDER = 30.0
"""A node's tree is given up if its rounding exceeds this many times the whole tree's margin."""
WIDEST = 0.3
"""Share of the tolerance of "optimal" that the margin may use, so that a complete search still proves optimality."""


@dataclass
class Dive:
    """The result of one dive: its best mask and value, how many nodes it took, and those left open in `tree`.

    singles : masks whose bound is below the cut-off because of rounding, with that bound
    closed : the smallest bound below the cut-off among nodes that were dropped; normally inf
    records : for a proof, in the tree's own variables; empty unless requested
    parent : the record, in the whole proof, of the node that the dive began from

    If there are records, `record` of an open node is the row, in this dive, of the record above it.
    """

    value: float
    mask: BoolArray | None
    nodes: int
    tree: "Tree"
    left: list[tuple[float, Node]]
    singles: list[tuple[float, BoolArray]]
    closed: float
    records: Records
    parent: int


class Tree(Protocol):
    """A convexified program and its compiled dive. Values and bounds are in the units of the whole program.

    Only the tree itself knows the content of its nodes.
    """

    margin: float
    slack: float

    def root(self) -> Node:
        """The node with nothing fixed."""
        ...

    def dive(self, node: Node, best: float, limit: int, ceiling: float = np.inf, recorded: bool = False) -> Dive:
        """Search below a node, but not where bounds reach `ceiling`; `recorded`: keep the records of a proof."""
        ...

    def relaxation(self) -> tuple[FloatArray, Pattern]:
        """For a proof, in the whole program's variables: the diagonal, and what is fixed (1 kept, 0 pruned, −1)."""
        ...

    def written(self, records: Records) -> Records:
        """A dive's records in the whole program's variables, with 1 for kept and 0 for pruned."""
        ...

    def below(self, node: Node, best: float) -> "tuple[Tree, Node] | None":
        """An open node as the root of a tree of its own with better bounds; None if that promises little."""
        ...


class SelectTree:
    """Mode select: the program with its diagonal shift, proved convex on the count's plane."""

    def __init__(self, program: SelectProgram, upper: float, stop: StopCheck, shift: FloatArray | None = None) -> None:
        """Uses `shift`, by default the best one."""
        p = program.linear.size
        point = np.full(p, program.count / p)
        if shift is None:
            found = plane_shift(program.quadratic, program.linear, program.count, upper, stop=stop)
            shift, point = found.diagonal, found.point
        self.shift = certified_shift(program.quadratic, shift)
        self.program, self.count, self.scale = program, program.count, program.scale
        self.matrix = np.array(program.quadratic)
        self.matrix[np.diag_indices(p)] += self.shift
        self.linear = program.linear - 0.5 * self.shift
        rows = np.abs(self.matrix).sum(axis=1)
        size = float(np.abs(self.linear).sum() + rows.sum() + np.abs(self.shift).sum())
        # rounding of evaluation, and at most three times as much for substituting fixed variables; a point misses
        # Σx = count by at most p² half ulps, each costing up to a row's sum
        self.slack = 4.0 * HALF_ULP * (p + 8) * size + 2.0 * HALF_ULP * p * p * float(rows.max())
        self.margin = max(RELATIVE_TOLERANCE * abs(upper), 2.0 * self.slack)
        self._point = _rounded_off(point, self.count)

    def root(self) -> Node:
        """A point near the root relaxation's optimum with nothing fixed."""
        free = np.full(self.linear.size, select.FREE, np.int8)
        return select_tree.OpenNode(self._point.copy(), free, -1, 0.0, -np.inf, -1)

    def dive(self, node: Node, best: float, limit: int, ceiling: float = np.inf, recorded: bool = False) -> Dive:
        """Search below a node, but not where bounds reach `ceiling`; `recorded`: keep the records of a proof."""
        found = select_tree.dive(self.convexified(), node, best, self.margin, limit, ceiling, recorded)
        mask = found.x < 0.5 if found.value < best else None
        left = [(open_node.bound, open_node) for open_node in found.left]
        return Dive(found.value, mask, found.nodes, self, left, [], found.closed, found.records, node.record)

    def convexified(self) -> select.Program:
        """The program with its shift, from which all relaxations are made."""
        return select.Program(self.matrix, self.linear, self.count, self.slack)

    def relaxation(self) -> tuple[FloatArray, Pattern]:
        """The shift, in the block's units, with nothing fixed."""
        return self.shift / self.scale, np.full(self.shift.size, select.FREE, np.int8)

    def written(self, records: Records) -> Records:
        """The records with kept and pruned exchanged, since 1 means pruned in this tree."""
        fixed, value = records.fixed, records.value
        return records._replace(
            fixed=np.where(fixed < 0, fixed, 1 - fixed), value=np.where(value < 0, value, 1 - value)
        )

    def below(self, node: Node, best: float) -> "tuple[Tree, Node] | None":
        """None: shifts of nodes did not pay for their time."""
        return None

    def root_proof(self) -> tuple[FloatArray, float, float]:
        """The root relaxation's point, the price of the count, and the safe bound there."""
        root = self.root()
        price, bound = self.optimum(root.x, root.fixed)
        self._point = root.x
        return root.x, price, bound

    def optimum(self, point: FloatArray, fixed: Pattern) -> tuple[float, float]:
        """Move a feasible point, in place, to the relaxation's optimum given what is fixed.

        Returns the price of the count and the safe bound there.
        """
        return select_tree.optimum_of(self.convexified(), point, fixed)


@dataclass(frozen=True, eq=False)
class Place:
    """A tree's part of the whole program: its variables, the weights kept outside, and how much higher its values are.

    doubt : error bound of that difference;  margin : the whole tree's, the least that is used
    """

    index: IndexArray
    kept: BoolArray
    higher: float
    doubt: float
    margin: float


class RefitTree:
    """Mode refit: the program with its diagonal split, proved convex, scaled so that the split is 1.

    A node far enough below the root can have its own tree: pruned weights leave the program, kept ones
    are eliminated, and the free ones get a new split.
    """

    def __init__(
        self,
        program: RefitProgram,
        upper: float,
        split: Split,
        delta: FloatArray,
        place: Place | None = None,
        stop: StopCheck = never,
    ) -> None:
        """Takes a proved split. place : given for a part of the program;  stop : ends the search for nodes' splits"""
        root = 1.0 / np.sqrt(delta)
        p = delta.size
        self.program, self.delta, self.keep, self.split = program, delta, program.keep, split
        matrix = np.array(program.hessian)
        matrix[np.diag_indices(p)] -= delta
        self.matrix = np.ascontiguousarray(matrix * root[:, None] * root)
        self.linear = program.slope * root
        self.sizes = np.stack((program.reach * root, program.height * root))
        self.accuracy = program.relative + HALF_ULP * (2 * p + 24)
        weights = np.abs(split.point.y)
        self.slack = self.accuracy * (float(self.sizes[0] @ weights) ** 2 + 2.0 * float(weights @ self.sizes[1]))
        objective = abs(upper + program.constant * program.scale)
        margin = max(RELATIVE_TOLERANCE * objective, min(2.0 * self.slack, WIDEST * PROOF_TOLERANCE * objective))
        self.place = place or Place(np.arange(p), np.zeros(p, np.bool_), 0.0, 0.0, margin)
        self.margin = self.place.margin
        self._stop = stop
        self._root_bound = -np.inf

    @staticmethod
    def of(program: RefitProgram, upper: float, stop: StopCheck) -> "RefitTree | None":
        """The tree with the best split; None if the curvature is not positive definite in floating point."""
        split = best_split(program, upper, compiled_relaxation, accuracy=3e-2, stop=stop)
        delta = None if split is None else certified_split(program, split.delta)
        return None if split is None or delta is None else RefitTree(program, upper, split, delta, stop=stop)

    def root(self) -> Node:
        """The pattern at which the split was found, with nothing fixed; from afar the iterations may not converge."""
        p, point = self.linear.size, self.split.point
        pattern = np.full(p, refit.OUT, np.int8)
        pattern[point.tied], pattern[point.inside] = refit.TIED, refit.IN
        sign, free = np.where(point.rho < 0.0, -1.0, 1.0), np.full(p, select.FREE, np.int8)
        return refit_tree.OpenNode(pattern, sign, free, -1, -1, -np.inf, -1)

    def dive(self, node: Node, best: float, limit: int, ceiling: float = np.inf, recorded: bool = False) -> Dive:
        """Search below a node, but not where bounds reach `ceiling`; `recorded`: keep the records of a proof."""
        # with the doubt added, a value of at least `best` here is one in the whole program too
        higher = self.place.higher + self.place.doubt
        found = refit_tree.dive(self.split_off(), node, best + higher, self.margin, limit, ceiling + higher, recorded)
        return Dive(
            found.value - self.place.higher, self._mask(found.mask) if found.value < best + higher else None,
            found.nodes, self, [(left.bound - higher, left) for left in found.left],
            [(bound - higher, self._mask(mask)) for bound, mask in found.singles], found.closed - higher,
            found.records, node.record,
        )  # fmt: skip

    def split_off(self) -> refit.Program:
        """The program with its split, from which all relaxations are made."""
        return refit.Program(self.matrix, self.linear, self.sizes, self.keep, self.accuracy)

    def _mask(self, chosen: Pattern) -> BoolArray:
        """The mask of the whole program given by IN and OUT of this tree's variables."""
        mask = self.place.kept.copy()
        mask[self.place.index[chosen == refit.IN]] = True
        return mask

    def relaxation(self) -> tuple[FloatArray, Pattern]:
        """The free weights' split, in the block's units and 0 elsewhere, and the weights fixed outside."""
        place = self.place
        start = np.where(place.kept, 1, 0).astype(np.int8)
        start[place.index] = select.FREE
        split = np.zeros(start.size)
        split[place.index] = self.delta / self.program.scale
        return split, start

    def written(self, records: Records) -> Records:
        """The records including the weights fixed outside, and with w in place of y = √Δ w."""
        place = self.place
        rows = records.parent.size
        _, start = self.relaxation()
        fixed, point = np.tile(start, (rows, 1)), np.zeros((rows, start.size))
        fixed[:, place.index] = records.fixed
        point[:, place.index] = records.point / np.sqrt(self.delta)
        branch = np.where(records.branch < 0, -1, place.index[records.branch])
        return records._replace(fixed=fixed, point=point, branch=branch)

    def below(self, node: Node, best: float) -> "tuple[Tree, Node] | None":
        """An open node as the root of a tree of its own, with a better split of its free weights.

        None if too few weights are fixed, the bound is near the cut-off, or rounding would take many times the
        whole tree's margin.
        """
        place, whole = self.place, best + self.place.higher
        fixed = np.array(node.fixed)
        if node.branch >= 0:
            fixed[node.branch] = node.target
        free, kept = np.flatnonzero(fixed == select.FREE), np.flatnonzero(fixed == 1)
        cut = whole - self.margin
        if fixed.size - free.size < max(LEAST_FIXED, FIXED * fixed.size) or not 0 < self.keep - kept.size < free.size:
            return None
        if node.bound > cut - OPEN * (cut - self._bound()):
            return None
        found = self.program.below(kept, free)
        if found is None:
            return None
        program, higher, doubt = found
        split = best_split(
            program, whole + higher, compiled_relaxation, accuracy=SPLIT_ACCURACY, stop=self._stop,
            start=self.delta[free], steps=SPLIT_STEPS,
        )  # fmt: skip
        delta = None if split is None else certified_split(program, split.delta)
        if split is None or delta is None:
            return None
        mask = place.kept.copy()
        mask[place.index[kept]] = True
        part = Place(place.index[free], mask, place.higher + higher, place.doubt + doubt, place.margin)
        tree = RefitTree(program, whole + higher, split, delta, part, self._stop)
        if 2.0 * (tree.slack + part.doubt) > WIDER * part.margin:
            return None
        # in a proof the new root carries the value of its parent's branching weight
        return tree, tree.root()._replace(target=node.target, record=node.record)

    def root_proof(self) -> tuple[FloatArray, float]:
        """The root relaxation's point and the safe bound there."""
        root = self.root()
        found = refit_tree.relaxed(self.split_off(), root.pattern, root.sign, ITERATIONS + 4 * self.linear.size)
        return found.node.y / np.sqrt(self.delta), found.bound

    def _bound(self) -> float:
        if not np.isfinite(self._root_bound):
            self._root_bound = self.root_proof()[1]
        return self._root_bound


def _rounded_off(point: FloatArray, count: int) -> FloatArray:
    """A point of the box with Σ = count, with entries near 0 and 1 rounded to them so that few are fractional."""
    clipped = np.clip(np.where(point < 0.02, 0.0, np.where(point > 0.98, 1.0, point)), 0.0, 1.0)
    inner = (clipped > 0.0) & (clipped < 1.0)
    left = count - float((clipped == 1.0).sum())
    total = float(clipped[inner].sum())
    if not inner.any() or not 0.0 < left < inner.sum() or not np.isfinite(total):
        return np.full(point.size, count / point.size)
    # move towards 0 or 1 in proportion to the distance, which keeps every entry inside
    if left <= total:
        clipped[inner] *= left / total
    else:
        clipped[inner] = 1.0 - (1.0 - clipped[inner]) * (inner.sum() - left) / (inner.sum() - total)
    return clipped


def compiled_relaxation(
    matrix: FloatArray, linear: FloatArray, keep: int, start: RelaxedPoint | None = None
) -> RelaxedPoint:
    """prunebench.kernels.relaxations.split.relaxation, compiled and with rank-one updates."""
    p = linear.size
    matrix = np.ascontiguousarray(matrix)
    pattern = np.full(p, refit.OUT, np.int8)
    if start is None:
        pattern[np.argsort(-np.abs(linear), kind="stable")[:keep]] = refit.IN
        sign = np.where(linear < 0.0, -1.0, 1.0)
    else:
        pattern[start.tied], pattern[start.inside] = refit.TIED, refit.IN
        sign = np.where(start.rho < 0.0, -1.0, 1.0)
    sizes = np.stack((np.sqrt(matrix.diagonal() + 1.0), np.abs(linear)))
    program = refit.Program(matrix, linear, sizes, keep, 0.0)
    node, level, _, best = refit_tree.relaxed(program, pattern, sign, ITERATIONS + 4 * p)
    pattern = node.system.pattern
    return RelaxedPoint(node.y, node.rho, float(np.sqrt(level)), pattern == refit.TIED, pattern == refit.IN, best)
