"""The search around the compiled trees: a pool of open nodes by bound, dived into one after another.

Each dive is depth first from the open node with the smallest bound and ends after a fixed number of
nodes, what it left open goes back to the pool: the incumbent improves as fast as in a depth-first
search while the pool's smallest bound, the proof, rises. Deep nodes are the cheap ones, so this is
the fastest way to the end of a tree. Of a tree that is too large for that, it says little: the
smallest bound hardly rises. So a search that has gone on for a while also makes dives that stay
where bounds are small and hand the rest back. With several threads each takes the next best node;
the compiled dives run without the interpreter lock.
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
"""Work, in nodes times p², during which every dive is deep: ten seconds or so."""
BOUND_SHARE = 0.3
"""The share of the later work that goes to dives which raise the bound."""
BOUND_STEP = 0.2
"""The part of the gap by which such a dive may go above the smallest bound: deeper nodes are handed back."""
RESTART = 13.0
"""What a dive costs before its first node, in nodes of a deep dive."""
SHALLOW = 2.0
"""What a node near the root costs, in nodes of a deep dive: more of its variables are free."""
SPLIT_COST = 100
"""What a tree of a node's own costs, in nodes."""
SPLIT_SHARE = 0.5
"""The share of all work that may go to making such trees."""
POOL_BYTES = 2**28
"""As long as the open nodes hold less than this, some dives raise the bound."""


def _dive(
    tree: Tree, node: Node, best: float, limit: int, ceiling: float, own: bool, recorded: bool
) -> tuple[Dive, bool]:
    """A dive, from a tree of the node's own if it may have one and can; and whether it has."""
    below = tree.below(node, best) if own else None
    tree, node = below or (tree, node)
    return tree.dive(node, best, limit, ceiling, recorded), below is not None


@dataclass
class Search:
    """The pool. `value` and `mask` are the incumbent, `bound` what is proved; `stopped` why it ended early, if it did.

    settle : called with each single mask that rounding leaves below the cut-off: its own lower bound
    improved : called with each better mask, gives back its value after whatever polish it does
    watch : told between dives what is proved, and how many nodes were looked at
    stop : asked then, given the nodes, why to stop now
    writer : takes the records of a proof, if one is wanted
    closed : the smallest bound of what was left for good below the cut-off, since rounding leaves no better one
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
    closed: float = np.inf
    _heap: list[tuple[float, int, Tree, Node]] = field(default_factory=list)
    _count: int = 0
    _deep: float = 0.0
    _shallow: float = 0.0
    """Work so far of the dives for the proof and of those for the bound, in nodes of the first."""
    _trees: dict[int, tuple[Tree, int]] = field(default_factory=dict)
    """The trees that records were made of and their rows in the proof, by id."""

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
                self._raise_bound([start for start, _ in running.values()])
                self.watch(self.bound, self.nodes)
                self.stopped = self.stopped or self.stop(self.nodes)
        if not self._heap:
            self.bound = min(self.closed, self.value - self.tree.margin)

    def _ceiling(self, start: float, node: Node) -> float:
        """Up to which bound the next dive goes, below the node with the smallest one."""
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
        """Add a dive's records to the proof. Returns the number of its first."""
        if self.writer is None or dive.records.parent.size == 0:
            return 0
        # the tree is held, so that no other one gets its id
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
