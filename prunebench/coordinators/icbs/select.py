"""Which weights enter a block: initial mask, fixed fractions, tabu lists, layers, and the pick itself.

Rosenberg et al.: Scalable iterative pruning of large language and vision models using block
coordinate descent, arXiv 2411.17796 (2024). Here kept and pruned weights have separate tabu lists, so
that a step finds candidates at any density.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.coordinators.landscape import Layer
from prunebench.coordinators.quotas import Scores
from prunebench.core.arrays import BoolArray, Factor, IndexArray, RealArray
from prunebench.core.keeping import Quota
from prunebench.core.masks import top_mask

Keys = Callable[[IndexArray], IndexArray]
"""The group number of each given weight. int64 (b,) -> int64 (b,)"""


def fixed_weights(
    scores: Scores, mask: BoolArray, layers: Sequence[Layer], fixed_pruned: float, fixed_kept: float
) -> BoolArray:
    """True for weights that never enter a block: in each layer the lowest pruned and the highest kept scores."""
    fixed = np.zeros(mask.size, dtype=np.bool_)
    for layer in layers:
        span = np.arange(layer.start, layer.stop)
        pruned, kept = span[~mask[span]], span[mask[span]]
        fixed[pruned[top_mask(-scores(pruned), round(fixed_pruned * pruned.size))]] = True
        fixed[kept[top_mask(scores(kept), round(fixed_kept * kept.size))]] = True
    return fixed


@dataclass(frozen=True)
class Candidates:
    """The weights of one layer, or of the whole network, that may enter a block now.

    keys : the quota's group of each weight, if swaps must stay within groups
    """

    pruned: IndexArray
    kept: IndexArray
    keys: Keys | None = None

    @property
    def usable(self) -> bool:
        """Whether there is any possible swap."""
        if self.keys is None:
            return self.pruned.size > 0 and self.kept.size > 0
        return np.intersect1d(self.keys(self.pruned), self.keys(self.kept)).size > 0


def candidates(
    span: IndexArray,
    mask: BoolArray,
    barred: BoolArray,
    last_seen: npt.NDArray[np.signedinteger[Any]],
    tabu: float,
    keys: Keys | None = None,
) -> Candidates:
    """The weights of `span` that are neither barred nor tabu, kept and pruned separately.

    Of each group, the share `tabu` that was in a block most recently waits; weights never seen do not.
    Separate lists prevent visits to one group from using up the rarer one. If swaps must stay within
    groups and waiting would leave no group with both kinds, none waits.
    """
    free, kept = ~barred[span], mask[span]
    groups = []
    for group in (span[free & ~kept], span[free & kept]):
        seen = last_seen[group]
        waiting = min(int(tabu * group.size), int((seen >= 0).sum()))
        # of weights last seen at the same step, the later positions wait
        groups.append(group[top_mask(-seen.astype(np.float64), group.size - waiting)] if waiting else group)
    found = Candidates(groups[0], groups[1], keys)
    if keys is not None and tabu > 0.0 and not found.usable:
        return candidates(span, mask, barred, last_seen, 0.0, keys)
    return found


def pick(pool: Candidates, scores: Scores, size: int) -> IndexArray:
    """The block: highest-scoring pruned and lowest-scoring kept weights, half each, sorted. int64 (b,).

    If one kind has less than half, the other fills up; if both have, all are taken. If swaps must stay
    within groups, it is made of such swaps, see `_pick_pairs`.
    """
    if pool.keys is not None:
        return _pick_pairs(pool, pool.keys, scores, size)
    from_pruned = min(pool.pruned.size, max(size // 2, size - pool.kept.size))
    from_kept = min(pool.kept.size, size - from_pruned)
    pruned = pool.pruned[top_mask(scores(pool.pruned), from_pruned)]
    kept = pool.kept[top_mask(-scores(pool.kept), from_kept)]
    return np.sort(np.concatenate([pruned, kept]))


def _pick_pairs(pool: Candidates, keys: Keys, scores: Scores, size: int) -> IndexArray:
    """The block from pairs within groups: in each, the r-th highest pruned with the r-th lowest kept weight.

    Pairs whose pruned weight exceeds the kept one most in score come first; with one group these are the
    weights of `pick`. If all pairs fit, the most contested other weights fill up.
    """
    nodes = np.concatenate([pool.pruned, pool.kept])
    is_kept = np.arange(nodes.size) >= pool.pruned.size
    _, group = np.unique(keys(nodes), return_inverse=True)
    quota = Quota(group, np.bincount(group, weights=is_kept).astype(np.int64))
    own = scores(nodes)
    kept, pruned = quota.exchanges(is_kept, own, own)
    taken = np.zeros(nodes.size, dtype=np.bool_)
    taken[kept[: size // 2]] = taken[pruned[: size // 2]] = True
    if kept.size <= size // 2:
        rest = np.flatnonzero(~taken)
        contested = np.where(is_kept[rest], -own[rest], own[rest])
        taken[rest[top_mask(contested, min(rest.size, size - 2 * kept.size))]] = True
    return np.sort(nodes[taken])


def pick_coupled(
    pool: Candidates,
    scores: Scores,
    size: int,
    factor_of: Callable[[IndexArray], Factor],
    weights: RealArray,
    seed: int,
) -> IndexArray:
    """The block as whole communities of the Fisher coupling graph among the most contested weights.

    Nodes are the 4·size (at most 1024) most contested candidates, edges |w̄ᵢ Hᵢⱼ w̄ⱼ| to every node's 8
    strongest partners. Louvain communities with the most coupling between kept and pruned weights come
    first.
    """
    import networkx

    nodes = pick(pool, scores, min(4 * size, max(1024, size)))
    columns = factor_of(nodes).astype(np.float64) * weights[nodes]
    strength = np.abs(columns.T @ columns)
    np.fill_diagonal(strength, 0.0)
    graph = networkx.Graph()
    graph.add_nodes_from(range(nodes.size))
    partners = np.argsort(-strength, axis=1, kind="stable")[:, :8]
    for node, row in enumerate(partners):
        graph.add_weighted_edges_from((node, int(other), float(strength[node, other])) for other in row)
    communities = networkx.community.louvain_communities(graph, weight="weight", seed=seed)
    is_kept = np.isin(nodes, pool.kept)

    def crossing(community: set[int]) -> float:
        members = np.array(sorted(community))
        inside = strength[np.ix_(members[is_kept[members]], members[~is_kept[members]])]
        return float(inside.sum()) / len(members)

    ordered = sorted(communities, key=lambda community: (-crossing(community), min(community)))
    chosen = np.array([node for community in ordered for node in sorted(community)][:size])
    block = Candidates(nodes[chosen[~is_kept[chosen]]], nodes[chosen[is_kept[chosen]]], pool.keys)
    return np.sort(nodes[chosen]) if block.usable else pick(pool, scores, size)
