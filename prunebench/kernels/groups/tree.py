"""Best-first branch and bound over groups, with the relaxation of `kernels.groups.relaxation` at every node."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_proof import GroupProofWriter, GroupRelaxation
from prunebench.core.stop import Stop, StopCheck
from prunebench.kernels.groups.relaxation import Reduced, Relaxed, relax

ROOT_STEPS = 40
"""Steps of the root's relaxation: its bound is the one that is told if the search is cut short."""
STEPS = 8
"""Most steps of any other node's relaxation; a node that cannot be excluded stops at the first that shows it."""
FEW_MASKS = 20
"""A node with at most so many masks is parted without a relaxation: its masks one by one take less time."""
LEAST_SHARE = 1e-3
"""Shares that the node above hands on are kept this far from 0 and 1, so that nothing is excluded by it."""

Certify = Callable[[BoolArray, BoolArray, GroupRelaxation | None], float]
"""A proved lower bound on f below a node: kept, dropped, relaxation -> bound."""
Offer = Callable[[BoolArray], float]
"""Takes a mask (C,) into account; the best objective so far."""


@dataclass(order=True)
class Node:
    """A node that waits: its bound from above and the record it is from, its own record, what is fixed, and moments."""

    bound: float
    record: int
    source: int = field(compare=False)
    kept: BoolArray = field(compare=False)
    dropped: BoolArray = field(compare=False)
    moments: FloatArray | None = field(compare=False, default=None)


@dataclass
class Tree:
    """The search.

    block : the group block;  certify, offer : see above
    tolerance : a node is excluded if its bound is within this share of the best objective
    proof : takes the records
    start : bool (C,), a good mask, from whose moments the root begins
    """

    block: GroupBlock
    certify: Certify
    offer: Offer
    tolerance: float
    proof: GroupProofWriter
    start: BoolArray
    nodes: int = 0
    root_bound: float = -np.inf
    closed: float = np.inf
    """The least bound of excluded nodes."""
    waiting: list[Node] = field(default_factory=list)
    active: Node | None = None
    """The node that is bounded now."""
    used: set[int] = field(default_factory=set)
    """The records by which nodes were excluded."""

    @property
    def bound(self) -> float:
        """A lower bound on the optimum: the least over all nodes that are excluded or wait."""
        at_work = np.inf if self.active is None else self.active.bound
        return min(self.closed, at_work, self.waiting[0].bound if self.waiting else np.inf)

    @property
    def needed(self) -> set[int]:
        """The records whose relaxations the bound rests on."""
        return self.used | {node.source for node in self.waiting} | ({self.active.source} if self.active else set())

    def search(self, best: float, stop: StopCheck, told: Callable[[float], object]) -> Stop | None:
        """Search until every node is excluded, or `stop` says so with the nodes so far; why it was cut short.

        best : the best objective so far;  told : called with the bound as it rises
        """
        none = np.zeros(self.block.p, dtype=np.bool_)
        self.waiting = [Node(-np.inf, self.proof.add(-1, -1), -1, none, none)]
        while self.waiting:
            if self.nodes and (stopped := stop(float(self.nodes))):
                return stopped
            # named before it leaves the queue, so that an interrupted search does not forget it
            self.active = self.waiting[0]
            node = heapq.heappop(self.waiting)
            best = self._process(node, best)
            self.active = None
            told(self.bound)
        return None

    def cutoff(self, best: float) -> float:
        """From which bound on a node is excluded."""
        return best - self.tolerance * abs(best)

    def _process(self, node: Node, best: float) -> float:
        """Bound a node, and branch on it unless it is excluded. Returns the best objective."""
        if node.bound >= self.cutoff(best):
            self._exclude(node.bound, node.source)
            return best
        self.nodes += 1
        kept, dropped = node.kept, node.dropped
        if self._settled(kept, dropped):
            mask = kept if int(kept.sum()) == self.block.keep else ~dropped
            best = self.offer(mask)
            self._exclude(max(node.bound, self.certify(kept, dropped, None)), node.source)
            return best
        reduced = Reduced.of(self.block.form, self.block.keep, kept, dropped)
        few = math.comb(reduced.free.size, reduced.count) <= FEW_MASKS
        found = None if few else self._relaxed(node, reduced, best)
        bound, source = node.bound, node.source
        if found is not None:
            own = self.certify(kept, dropped, found.record)
            if own > bound:
                bound, source = own, node.record
                self.proof.relax(node.record, found.record)
            best = min(best, self.offer(self._rounded(reduced, kept, found.share)))
        if node.record == 0:
            self.root_bound = bound
        if bound >= self.cutoff(best):
            self._exclude(bound, source)
            return best
        self._branch(node, reduced, found, bound, source)
        return best

    def _exclude(self, bound: float, source: int) -> None:
        self.closed = min(self.closed, bound)
        self.used.add(source)

    def _relaxed(self, node: Node, reduced: Reduced, best: float) -> Relaxed | None:
        root = node.record == 0
        known = [] if node.moments is None else [node.moments]
        if root:
            known.append(np.outer(~self.start, ~self.start).astype(np.float64))
        return relax(reduced, known, self.cutoff(best), ROOT_STEPS if root else STEPS, thorough=root)

    def _settled(self, kept: BoolArray, dropped: BoolArray) -> bool:
        return int(kept.sum()) == self.block.keep or self.block.p - int(dropped.sum()) == self.block.keep

    def _rounded(self, reduced: Reduced, kept: BoolArray, share: FloatArray) -> BoolArray:
        """The mask that drops the free groups of the largest shares."""
        mask = kept.copy()
        mask[reduced.free[np.argsort(share, kind="stable")[: reduced.free.size - reduced.count]]] = True
        return mask

    def _branch(self, node: Node, reduced: Reduced, found: Relaxed | None, bound: float, source: int) -> None:
        at = reduced.free.size // 2
        if found is not None:
            at = int(np.argmax(found.share * (1.0 - found.share) * found.weights))
        group = int(reduced.free[at])
        for value, record in zip((1, 0), self.proof.branch(node.record, group), strict=True):
            kept, dropped = node.kept.copy(), node.dropped.copy()
            (kept if value else dropped)[group] = True
            moments = None if found is None else _conditioned(found.moments, at, value == 0)
            heapq.heappush(self.waiting, Node(bound, record, source, kept, dropped, moments))


def _conditioned(moments: FloatArray, at: int, leaves: bool) -> FloatArray:
    """Second moments of the other groups once one leaves or stays, as for normal variables. (m, m) -> (m−1, m−1)"""
    share = np.clip(moments.diagonal(), LEAST_SHARE, 1.0 - LEAST_SHARE)
    spread = moments - np.outer(moments.diagonal(), moments.diagonal())
    variance = max(float(spread[at, at]), LEAST_SHARE)
    moved = share + spread[at] / variance * ((1.0 if leaves else 0.0) - share[at])
    others = np.arange(share.size) != at
    spread = (spread - np.outer(spread[at], spread[at]) / variance)[np.ix_(others, others)]
    mean = np.clip(moved[others], LEAST_SHARE, 1.0 - LEAST_SHARE)
    # variances of binaries are those of their means, so the covariances are brought to that size
    size = np.sqrt(mean * (1.0 - mean) / np.maximum(spread.diagonal(), LEAST_SHARE * LEAST_SHARE))
    out = np.outer(mean, mean) + spread * np.outer(size, size)
    out[np.diag_indices(mean.size)] = mean
    return np.asarray(out)
