"""Which weights enter a block: initial mask, fixed fractions, tabu, layers, and the pick itself.

Rosenberg et al.: Scalable iterative pruning of large language and vision models using block
coordinate descent, arXiv 2411.17796 (2024). Here the tabu lists of kept and pruned weights are
apart, so that at no density a step finds no candidates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prunebench.coordinator.landscape import Layer
from prunebench.core.arrays import BoolArray, Factor, FloatArray, IndexArray
from prunebench.core.masks import keep_count, keep_per_layer, top_mask

INIT_SCOPES = ("layer", "row", "network")


def initial_mask(scores: FloatArray, density: float, layers: Sequence[Layer], scope: str) -> BoolArray:
    """Keep the highest scores: round(density·p) in all, shared out per layer, per output row, or not at all."""
    keep = keep_count(density, scores.size)
    if scope == "network":
        return top_mask(scores, keep)
    mask = np.zeros(scores.size, dtype=np.bool_)
    counts = keep_per_layer(density, [layer.stop - layer.start for layer in layers])
    for layer, count in zip(layers, counts, strict=True):
        part = scores[layer.start : layer.stop]
        if scope == "layer":
            mask[layer.start : layer.stop] = top_mask(part, int(count))
            continue
        rows = part.reshape(layer.shape[0], -1)
        shares = np.full(layer.shape[0], int(count) // layer.shape[0])
        shares[: int(count) - int(shares.sum())] += 1
        kept = [top_mask(row, int(share)) for row, share in zip(rows, shares, strict=True)]
        mask[layer.start : layer.stop] = np.concatenate(kept)
    return mask


def fixed_weights(
    scores: FloatArray, mask: BoolArray, layers: Sequence[Layer], fixed_pruned: float, fixed_kept: float
) -> BoolArray:
    """True for the weights that never enter a block: per layer the lowest pruned and the highest kept ones."""
    fixed = np.zeros(mask.size, dtype=np.bool_)
    for layer in layers:
        span = np.arange(layer.start, layer.stop)
        pruned, kept = span[~mask[span]], span[mask[span]]
        fixed[pruned[top_mask(-scores[pruned], round(fixed_pruned * pruned.size))]] = True
        fixed[kept[top_mask(scores[kept], round(fixed_kept * kept.size))]] = True
    return fixed


@dataclass(frozen=True)
class Candidates:
    """The weights of one layer, or of the whole network, that may enter a block now."""

    pruned: IndexArray
    kept: IndexArray

    @property
    def usable(self) -> bool:
        """Whether there is something to swap."""
        return self.pruned.size > 0 and self.kept.size > 0


def candidates(span: IndexArray, mask: BoolArray, barred: BoolArray, last_seen: IndexArray, tabu: float) -> Candidates:
    """The weights of `span` that are not barred and not tabu, kept and pruned apart.

    Of each group the `tabu` part that was in a block most recently waits; never-seen weights do
    not. The two lists are apart, so the rarer group is never used up by the other's visits.
    """
    free = span[~barred[span]]
    groups = []
    for group in (free[~mask[free]], free[mask[free]]):
        waiting = min(int(tabu * group.size), int((last_seen[group] >= 0).sum()))
        order = np.argsort(last_seen[group], kind="stable")
        groups.append(np.sort(group[order[: group.size - waiting]]))
    return Candidates(groups[0], groups[1])


def pick(pool: Candidates, scores: FloatArray, size: int) -> IndexArray:
    """The block: highest-scoring pruned against lowest-scoring kept weights, half and half, sorted. int64 (b,).

    Where one group is smaller than half, the other fills up; where both are, all are taken.
    """
    from_pruned = min(pool.pruned.size, max(size // 2, size - pool.kept.size))
    from_kept = min(pool.kept.size, size - from_pruned)
    pruned = pool.pruned[top_mask(scores[pool.pruned], from_pruned)]
    kept = pool.kept[top_mask(-scores[pool.kept], from_kept)]
    return np.sort(np.concatenate([pruned, kept]))


def pick_coupled(
    pool: Candidates,
    scores: FloatArray,
    size: int,
    factor_of: Callable[[IndexArray], Factor],
    weights: FloatArray,
    seed: int,
) -> IndexArray:
    """The block out of whole communities of the Fisher coupling graph among the most contested weights.

    Nodes are the 4·size (at most 1024) most contested candidates, edges |w̄ᵢ Hᵢⱼ w̄ⱼ| for every
    node's 8 strongest partners; Louvain communities, those with the most coupling between kept and
    pruned weights first.
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
    if is_kept[chosen].all() or not is_kept[chosen].any():
        return pick(pool, scores, size)
    return np.sort(nodes[chosen])
