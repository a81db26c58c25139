"""A block as a graph of couplings: its communities, and whether it embeds in an annealer's topology."""

from typing import Any

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput

TOPOLOGIES = ("chimera", "pegasus", "zephyr")
"""Connections of D-Wave's annealers, by generation."""
SIZES: dict[str, tuple[int, ...]] = {"chimera": (16,), "pegasus": (16,), "zephyr": (12,)}
"""The size of each topology whose clique is looked up: that of the largest device."""
MAX_NODES = 2048
"""Weights of the graph view: beyond, a p×p matrix of couplings and a picture of it help nobody."""


def to_graph(block: BlockProblem, threshold: float = 0.1) -> Any:
    """A networkx.Graph of the weights, an edge where |J| exceeds `threshold` times the largest |J|.

    Raises
    ------
    InvalidInput   a threshold outside [0, 1), or more than 2048 weights
    """
    import networkx

    if not 0.0 <= threshold < 1.0:
        raise InvalidInput(f"threshold is {threshold}; choose a number from 0 up to, not including, 1")
    if block.p > MAX_NODES:
        raise InvalidInput(f"{block.name} has {block.p} weights; the graph view takes at most {MAX_NODES}")
    couplings = block.to_qubo().couplings
    strong = np.argwhere(np.triu(np.abs(couplings) > threshold * float(np.abs(couplings).max()), 1))
    graph = networkx.Graph()
    graph.add_nodes_from(range(block.p))
    graph.add_weighted_edges_from((int(i), int(j), float(couplings[i, j])) for i, j in strong)
    return graph


def communities(graph: Any) -> list[list[int]]:
    """Groups of strongly coupled weights, the largest first: greedy modularity over |J|."""
    import networkx

    plain = networkx.Graph()
    plain.add_nodes_from(graph.nodes)
    plain.add_weighted_edges_from((u, v, abs(data["weight"])) for u, v, data in graph.edges(data=True))
    if not plain.number_of_edges():
        return [[int(v)] for v in plain.nodes]
    found = networkx.algorithms.community.greedy_modularity_communities(plain, weight="weight")
    return [sorted(int(v) for v in group) for group in found]


def largest_clique(topology: str) -> int | None:
    """The most fully coupled weights that the topology holds; None where its packages are not installed.

    Raises
    ------
    InvalidInput   an unknown topology
    """
    if topology not in TOPOLOGIES:
        raise InvalidInput(f"topology is {topology!r}; choose one of {', '.join(TOPOLOGIES)}")
    try:
        import dwave.graphs
        from minorminer.busclique import busgraph_cache
    except ImportError:
        return None
    target = getattr(dwave.graphs, f"{topology}_graph")(*SIZES[topology])
    return len(busgraph_cache(target).largest_clique())


def describe(block: BlockProblem, threshold: float = 0.1, topology: str = "pegasus") -> dict[str, Any]:
    """Nodes, edges above the threshold, communities and embedding, as JSON-able values.

    `embeds` is about all p(p-1)/2 couplings, the ones an annealer needs; None where it cannot be told.
    """
    graph = to_graph(block, threshold)
    clique = largest_clique(topology)
    groups = communities(graph)
    return {
        "nodes": graph.number_of_nodes(),
        "edges": graph.number_of_edges(),
        "threshold": threshold,
        "communities": groups,
        "topology": topology,
        "largest_clique": clique,
        "embeds": None if clique is None else block.p <= clique,
    }


def text(found: dict[str, Any]) -> str:
    """What `describe` found, for people."""
    sizes = ", ".join(str(len(group)) for group in found["communities"][:10])
    if found["embeds"] is None:
        fits = f"not checked for {found['topology']}: pip install dwave-system"
    else:
        verb = "fits" if found["embeds"] else "does not fit"
        fits = f"{verb} {found['topology']} (at most {found['largest_clique']} fully coupled weights)"
    return (
        f"graph: {found['nodes']} weights, {found['edges']} couplings above {found['threshold']:g} of the largest\n"
        f"communities: {len(found['communities'])}, sizes {sizes}\nembedding: {fits}"
    )
