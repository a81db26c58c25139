"""Best-first search with dives: a pool of open nodes, ordered by bound, each explored by a compiled dive.

A dive is a depth-first search from the open node with the smallest bound. It ends after a fixed number
of nodes and returns those still open to the pool. So the incumbent improves as fast as in depth-first
search while the smallest bound in the pool, which is the proof, rises. As deep nodes are cheap, this is
the fastest way to complete a tree. In a tree too large to complete, the smallest bound would hardly rise.
After a while some dives therefore stay where bounds are small and return all other nodes. Each thread
takes the next best node; compiled dives release the interpreter lock.
"""

import heapq
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.proof import ProofWriter
from prunebench.core.stop import Stop, StopCheck
from prunebench.kernels.trees.dives import Dive, Node, Tree

PROOF_WORK = 8e9
"""Work, in nodes times p², during which every dive is deep: about ten seconds."""
BOUND_SHARE = 0.3
"""Share of the later work spent on dives that raise the bound."""
BOUND_STEP = 0.2
"""How far such a dive may exceed the smallest bound, as a share of the gap; it returns nodes with larger bounds."""
RESTART = 13.0
"""Fixed cost of a dive, in nodes of a deep dive."""
SHALLOW = 2.0
"""Cost of a node near the root, in nodes of a deep dive: more of its variables are free."""
SPLIT_COST = 100
"""Cost of a node's own tree, in nodes."""
SPLIT_SHARE = 0.5
"""Largest share of all work for making such trees."""
POOL_BYTES = 2**28
"""While the open nodes take less memory than this, some dives raise the bound."""


def _dive(
    tree: Tree, node: Node, best: float, limit: int, ceiling: float, own: bool, recorded: bool
) -> tuple[Dive, bool]:
    """A dive from the node's own tree if allowed and possible, else from `tree`; and whether it had its own."""
    below = tree.below(node, best) if own else None
    tree, node = below or (tree, node)
    return tree.dive(node, best, limit, ceiling, recorded), below is not None


@dataclass
class Search:
    """The pool of open nodes. `value`, `mask` : the incumbent;  `bound` : proved;  `stopped` : why it ended early.

    settle : called with each single mask that rounding leaves below the cut-off; returns a lower bound on it
    improved : called with each better mask; may polish it and returns the mask and its value
    watch : told between dives what is proved, and how many nodes were processed
    stop : called then with the number of nodes; returns why to stop now, or None
    writer : takes the records of a proof, if one is requested
    look : called once where the first dive leaves nodes open; returns a mask that may be better, and its value
    closed : the smallest bound below the cut-off among nodes dropped for good because of rounding
    """

    tree: Tree
    value: float
    mask: BoolArray
    improved: Callable[[BoolArray, float], tuple[BoolArray, float]]
    settle: Callable[[BoolArray], float]
    watch: Callable[[float, int], None]
    stop: StopCheck
    threads: int = 1
    nodes: int = 0
    bound: float = -np.inf
    stopped: Stop | None = None
    splits: int = 0
    writer: ProofWriter | None = None
    look: Callable[[], tuple[BoolArray, float]] | None = None
    closed: float = np.inf
    _heap: list[tuple[float, int, Tree, Node]] = field(default_factory=list)
    _count: int = 0
    _deep: float = 0.0
    _shallow: float = 0.0
    """Work so far of dives for the proof and of dives for the bound, in nodes of the former."""
    _trees: dict[int, tuple[Tree, int]] = field(default_factory=dict)
    """The trees with records in the proof and their rows there, by id."""

    def run(self, limit: int) -> None:
        """Search until the bound meets the incumbent or `stop` says why to end."""
        self._push(-np.inf, self.tree, self.tree.root())
        self.watch(self.bound, self.nodes)
        self.stopped = self.stop(self.nodes)
        with ThreadPoolExecutor(self.threads) as pool:
            running: dict[Future[tuple[Dive, bool]], tuple[float, bool]] = {}
            while True:
                while self._heap and len(running) < self.threads and not self.stopped:
                    start, _, tree, node = heapq.heappop(self._heap)
                    if start < self.value - self.tree.margin:
                        ceiling = self._ceiling(start, node)
                        own = self.splits * SPLIT_COST <= SPLIT_SHARE * self.nodes
                        recorded = self.writer is not None and not self.writer.full
                        dive = pool.submit(_dive, tree, node, self.value, limit, ceiling, own, recorded)
                        running[dive] = start, bool(np.isfinite(ceiling))
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    _, shallow = running.pop(future)
                    self._take(*future.result(), shallow)
                if self.look is not None and self._heap and not self.stop(self.nodes):
                    mask, value = self.look()
                    if value < self.value:
                        self.mask, self.value = mask, value
                    self.look = None
                self._raise_bound([start for start, _ in running.values()])
                self.watch(self.bound, self.nodes)
                self.stopped = self.stopped or self.stop(self.nodes)
        if not self._heap:
            self.bound = min(self.closed, self.value - self.tree.margin)

    def _ceiling(self, start: float, node: Node) -> float:
        """The bound up to which the next dive goes, from the node with the smallest one."""
        size, held = self.mask.size, sum(part.nbytes for part in node if isinstance(part, np.ndarray))
        early = self._deep * size**2 < PROOF_WORK or self._shallow > BOUND_SHARE * (self._deep + self._shallow)
        if early or not np.isfinite(start) or len(self._heap) * held > POOL_BYTES:
            return float("inf")
        return start + BOUND_STEP * (self.value - self.tree.margin - start)

    def _take(self, dive: Dive, fresh: bool, shallow: bool) -> None:
        self.nodes += dive.nodes
        self.splits += fresh
        if shallow:
            self._shallow += RESTART + SHALLOW * dive.nodes
        else:
            self._deep += RESTART + dive.nodes
        if dive.mask is not None and dive.value < self.value:
            self.mask, self.value = self.improved(dive.mask, dive.value)
        self.closed = min(self.closed, dive.closed)
        for bound, mask in dive.singles:
            self.mask, self.value = self.improved(mask, self.value)
            self.closed = min(self.closed, max(bound, self.settle(mask)))
        first = self._write(dive)
        for bound, node in dive.left:
            self._push(bound, dive.tree, node._replace(record=first + node.record))

    def _write(self, dive: Dive) -> int:
        """Add a dive's records to the proof. Returns the number of the first."""
        if self.writer is None or dive.records.parent.size == 0:
            return 0
        # the tree is kept, so that no other one gets its id
        row = self._trees.setdefault(id(dive.tree), (dive.tree, -1))[1]
        if row < 0:
            row = self.writer.relaxation(*dive.tree.relaxation())
            self._trees[id(dive.tree)] = dive.tree, row
        records = dive.tree.written(dive.records)
        parent = np.where(records.parent < 0, dive.parent, self.writer.records + records.parent)
        return self.writer.add(row, parent, records.value, records.branch, records.fixed, records.point)

    def _push(self, bound: float, tree: Tree, node: Node) -> None:
        if bound < self.value - self.tree.margin:
            self._count += 1
            heapq.heappush(self._heap, (bound, self._count, tree, node))

    def _raise_bound(self, running: list[float]) -> None:
        while self._heap and self._heap[0][0] >= self.value - self.tree.margin:
            heapq.heappop(self._heap)
        lowest = min([*running, *([self._heap[0][0]] if self._heap else [])], default=np.inf)
        proved = self.value - self.tree.margin
        self.bound = max(self.bound, min(lowest, proved, self.closed))
