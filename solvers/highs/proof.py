"""The records of solver 'highs' for a proof: what was fixed, in order, and how the rest was split.

Each fixing divides the present masks in two: those with the variable's other value get a final record with the
optimum of their relaxation, the others go on. The relaxations are solved again here, afterwards, so that
searches without a proof lose no time. What HiGHS closed is marked as its statement.
"""

from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.proof import Proof, ProofWriter, Signs
from prunebench.core.stop import StopCheck
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram
from prunebench.kernels.trees.dives import RefitTree, SelectTree
from prunebench.kernels.trees.points import reachable, repair
from prunebench.kernels.trees.select_node import FREE, Pattern

if TYPE_CHECKING:
    from prunebench.solvers.highs.probing import Reduced

End = tuple[int, int]
"""Masks without a record yet: the record above them, and the value of its branching weight, −1 without one."""
ROOT: End = (-1, -1)
"""All masks, before the first record."""


class Trail:
    """Writes the records of one solve. Variables and values are the current tree's, where 1 means pruned.

    Without a block, or once the proof is too large, nothing is recorded.
    """

    def __init__(self, block: BlockProblem | None = None) -> None:
        self._writer = None if block is None else ProofWriter(block.hash, block.mode, block.p)
        # by open end, what is fixed among all weights: 1 kept, 0 pruned
        self._open: dict[End, Signs] = {} if block is None else {ROOT: np.full(block.p, FREE, np.int8)}
        # by record, the best bound of it and its ancestors, in the block's units
        self._bounds: list[float] = []
        self._tree: SelectTree
        self._row = -1

    @property
    def entered(self) -> bool:
        """Whether there is a relaxation to take points from."""
        return self._row >= 0

    @property
    def _off(self) -> bool:
        return self._writer is None or self._writer.full

    def enter(self, tree: SelectTree) -> End:
        """Continue in a tree over the variables that the only open end leaves free. Returns that end."""
        if self._writer is None or self._writer.full:
            return ROOT
        ((end, start),) = self._open.items()
        if self.entered:
            # if time was short, the next tree's shift may be worse, so record this one's bound
            end = (self._add(end), -1)
            self._open[end] = start
        self._tree, self._free, self._near = tree, np.flatnonzero(start == FREE), tree.root().x
        shift = np.zeros(start.size)
        shift[self._free] = tree.shift / tree.scale
        self._row = self._writer.relaxation(shift, start)
        return end

    def enter_whole(self, block: BlockProblem, objective: float, stop: StopCheck) -> None:
        """Record the root relaxation of a block that HiGHS solved as a whole; nothing if the curvature allows none."""
        assert self._writer is not None
        if block.mode == "select":
            program = SelectProgram.of(block, objective)
            self.enter(SelectTree(program, program.inner(objective), stop))
            return
        refit = RefitProgram.of(block, objective)
        tree = RefitTree.of(refit, refit.inner(objective), stop)
        if tree is not None:
            self._row = self._writer.relaxation(*tree.relaxation())
            self._write(ROOT, self._open.pop(ROOT), tree.root_proof()[0], foreign=True)

    def follow(self, left: "Reduced") -> None:
        """Record what probing fixed, stage by stage."""
        for stage in left.stages:
            end = self.fix(self.enter(stage.tree), stage.order, stage.fixed)
        if left.settled:
            self.close(end)

    def fix(self, end: End, order: IndexArray, fixed: Pattern) -> End:
        """Record variables fixed one after another, since their other values allow nothing better."""
        for i in order:
            ends = self.split(end, int(i))
            self.close(ends[1 - fixed[i]])
            end = ends[fixed[i]]
        return end

    def split(self, end: End, i: int) -> tuple[End, End]:
        """Divide an end at variable i. Returns the ends where it is 0 and where it is 1."""
        if self._off:
            return ROOT, ROOT
        weight, above = self._free[i], self._open[end]
        record = self._add(end, branch=weight)
        for kept in (0, 1):
            below = above.copy()
            below[weight] = kept
            self._open[record, kept] = below
        return (record, 1), (record, 0)

    def close(self, end: End, foreign: bool = False) -> None:
        """Close an end: by the relaxation's bound, as one mask is left, or (`foreign`) by HiGHS' statement."""
        if self._off:
            return
        if reachable(self._of_tree(self._open[end]), self._tree.count):
            self._add(end, foreign=foreign)
        else:
            del self._open[end]

    def finished(self, needed: float) -> Proof | None:
        """The proof. Ends still open rest on HiGHS' statement if the records' bounds do not reach `needed`."""
        if self._writer is None:
            return None
        for end in list(self._open) if self.entered else []:
            self._add(end, needed=needed)
        return self._writer.proof()

    def _of_tree(self, fixed: Signs) -> Pattern:
        """What is fixed, restricted to the current tree and in its convention."""
        own = fixed[self._free]
        return np.where(own == FREE, own, 1 - own).astype(np.int8)

    def _optimum(self, fixed: Signs) -> tuple[FloatArray, float]:
        """The relaxation's optimum given what is fixed: a point of all weights, and its bound in the block's units."""
        tree, own = self._tree, self._of_tree(fixed)
        x = np.where(own == FREE, self._near, own)
        repair(x, own, tree.linear + tree.matrix @ x, tree.count)
        _, bound = tree.optimum(x, own)
        self._near = x
        point = (fixed == 0).astype(np.float64)
        point[self._free] = x
        return point, tree.program.outer(bound)

    def _add(self, end: End, branch: int = -1, foreign: bool = False, needed: float = -np.inf) -> int:
        """Write the record of an open end; foreign also if its bound is below `needed`. Returns its number."""
        fixed = self._open.pop(end)
        point, bound = self._optimum(fixed)
        bound = max(bound, self._bounds[end[0]] if end[0] >= 0 else -np.inf)
        self._bounds.append(bound)
        return self._write(end, fixed, point, branch, foreign or bound < needed)

    def _write(self, end: End, fixed: Signs, point: FloatArray, branch: int = -1, foreign: bool = False) -> int:
        assert self._writer is not None
        parent, value, at = np.array([end[0]]), np.array([end[1]], np.int8), np.array([branch])
        return self._writer.add(self._row, parent, value, at, fixed[None], point[None], foreign)
