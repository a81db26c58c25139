"""Residual branches: what a network adds to a stream, and can do without.

Where a sum takes a shortcut and a branch, the sum without the branch is the shortcut alone. A branch is found by the
graph: it is what only one of the sum's two operands needs, and the other operand is there before it (an identity), or
is at most one product behind what both come from (a projection, which stays).

Whole layers of language models go in "What Matters in Transformers? Not All Attention is Needed" (He et al., 2024) and
of residual networks in "When Layers Play the Lottery" (Jordao et al., 2023); here they are groups as all others.
"""

import copy
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.fx import Graph, GraphModule, Node

from prunebench.structure.walk import Walk, bound, name_of

SUMS = ("add", "add_")
"""Operations that a residual sum may be."""

PROJECTED = 1
"""Products with weights that a shortcut may have of its own: a projection to another width is one convolution."""


@dataclass(frozen=True)
class Branch:
    """A branch that is added to a shortcut.

    base : its label, which no dimension has
    name : the module that its products have in common
    total : the sum;  value : what the branch gives it;  shortcut : what the sum is without it
    inside : the operations and parameters that nothing but the branch needs
    """

    base: int
    name: str
    total: Node
    value: Node
    shortcut: Node
    inside: frozenset[Node] = field(repr=False)


def branches_of(program: GraphModule, walk: Walk) -> tuple[Branch, ...]:
    """All residual branches of a network in the order of their sums; each gets a label of its own in the walk."""
    nodes = list(program.graph.nodes)
    number = {node: k for k, node in enumerate(nodes)}
    before = [0] * len(nodes)
    # what a node needs, as bits of a whole number: sets of all nodes would be a quadratic number of objects
    for k, node in enumerate(nodes):
        for operand in node.all_input_nodes:
            before[k] |= before[number[operand]] | 1 << number[operand]
    products = [k for k, node in enumerate(nodes) if _weights(walk, node)]
    needed = reached(program.graph)
    out = []
    for node in nodes:
        if node not in needed or (pair := _operands(node)) is None:
            continue
        chosen = _branch(walk, nodes, products, pair, [before[number[held]] | 1 << number[held] for held in pair])
        if chosen is None:
            continue
        value, shortcut = chosen
        inside = needed - reached(program.graph, {node: value})
        for held in nodes:
            # checks of sizes and the like, which no output needs
            if held not in needed and not inside.isdisjoint(held.all_input_nodes):
                inside.add(held)
        weights = [name for held in nodes if held in inside for name in _weights(walk, held)]
        if weights:
            (base,) = walk.labels.new(1)
            out.append(Branch(base, _common(weights) or value.name, node, value, shortcut, frozenset(inside)))
    return tuple(out)


def reached(graph: Graph, without: Mapping[Node, Node] | None = None) -> set[Node]:
    """What a graph's outputs need.

    without : by sum, the operand that it does without
    """
    left = dict(without or {})
    waiting = [node for node in graph.nodes if node.op == "output"]
    found: set[Node] = set(waiting)
    while waiting:
        node = waiting.pop()
        for operand in node.all_input_nodes:
            if operand is not left.get(node) and operand not in found:
                found.add(operand)
                waiting.append(operand)
    return found


def masked_program(program: GraphModule, gone: Sequence[Branch]) -> GraphModule:
    """The network with zero in place of what these branches give; its parameters are the program's own."""
    if not gone:
        return program
    graph, made = copied(program)
    for branch in gone:
        total = made[branch.total]
        with graph.inserting_before(total):
            zero = graph.call_function(torch.ops.aten.mul.Tensor, (made[branch.value], 0.0))
        total.replace_input_with(made[branch.value], zero)
    return GraphModule(program, graph)


def take_out(graph: Graph, program: GraphModule, made: Mapping[Node, Node], gone: Sequence[Branch]) -> None:
    """Let sums be their shortcuts in a copy of the program's graph, and remove what nothing needs any more.

    made : by node of the program, that of the copy
    """
    before = {made[node] for node in reached(program.graph) if node in made}
    for branch in gone:
        total = made[branch.total]
        # an earlier sum may be its shortcut already
        shortcut = next(held for held in total.all_input_nodes if held is not made[branch.value])
        if any(name_of(user).endswith("_") for user in total.users):
            # what is changed in place is the sum, and not the shortcut
            with graph.inserting_before(total):
                shortcut = graph.call_function(torch.ops.aten.clone.default, (shortcut,))
        total.replace_all_uses_with(shortcut)
    now = reached(graph)
    dead = {node for node in before if node not in now and node.op != "placeholder"}
    for node in list(graph.nodes):
        # checks of sizes and the like, which no output needs
        if node.op == "call_function" and node not in now and not dead.isdisjoint(node.all_input_nodes):
            dead.add(node)
    for node in reversed(list(graph.nodes)):
        if node in dead:
            graph.erase_node(node)


def copied(program: GraphModule) -> tuple[Graph, dict[Node, Node]]:
    """A copy of a program's graph, with the copy of every node; the way inputs are taken is the same."""
    graph = Graph()
    made: dict[Node, Node] = {}
    graph.graph_copy(program.graph, made)
    # graph_copy leaves the output out; codegen (inputs as a structure) is copied with it
    out = next(node for node in program.graph.nodes if node.op == "output")
    made[out] = graph.output(torch.fx.node.map_arg(out.args[0], lambda node: made[node]))
    graph._codegen = copy.copy(program.graph._codegen)
    return graph, made


def enclosing(branches: Iterable[Branch], nodes: Iterable[Node]) -> tuple[int, ...]:
    """The labels of the branches that have all of these operations and parameters inside."""
    held = set(nodes)
    return tuple(branch.base for branch in branches if held and held <= branch.inside)


def _operands(node: Node) -> tuple[Node, Node] | None:
    """The two values of a plain sum of two of its own shape; None if it is none."""
    if node.op != "call_function" or name_of(node) not in SUMS:
        return None
    a = bound(node)
    one, other = a.get("self"), a.get("other")
    if a.get("alpha", 1) != 1 or not isinstance(one, Node) or not isinstance(other, Node) or one is other:
        return None
    values = [held.meta.get("val") for held in (node, one, other)]
    if not all(isinstance(value, torch.Tensor) for value in values):
        return None
    facts = {(str(tuple(value.shape)), value.dtype) for value in values if value is not None}
    if len(facts) > 1 or any(held.op != "call_function" and held.op != "placeholder" for held in (one, other)):
        return None
    return one, other


def _branch(
    walk: Walk, nodes: Sequence[Node], products: Sequence[int], pair: tuple[Node, Node], needs: Sequence[int]
) -> tuple[Node, Node] | None:
    """Which operand is the branch, and which the shortcut; None if neither is."""
    alone = (needs[0] & ~needs[1], needs[1] & ~needs[0])
    own = [[k for k in products if held >> k & 1] for held in alone]
    both = needs[0] & needs[1]
    # numbers of tokens alone are no stream that both could come from
    if not any(both >> k & 1 and _is_value(node) for k, node in enumerate(nodes)):
        return None
    work = [sum(_work(walk, nodes[k]) for k in held) for held in own]
    # of equal ones the second is the branch, as in x + f(x)
    branch = 0 if work[0] > work[1] else 1
    if not own[branch] or len(own[1 - branch]) > PROJECTED:
        return None
    return pair[branch], pair[1 - branch]


def _is_value(node: Node) -> bool:
    value = node.meta.get("val")
    return node.op != "get_attr" and isinstance(value, torch.Tensor) and value.is_floating_point()


def _weights(walk: Walk, node: Node) -> list[str]:
    """The names of the parameters that a node multiplies with; none if it is no product with weights."""
    if node not in walk.terms:
        return []
    return [str(held.target) for held in node.all_input_nodes if held.op == "get_attr"]


def _work(walk: Walk, node: Node) -> float:
    return sum(many * math.prod(map(len, dims)) for many, dims in walk.terms[node])


def _common(weights: Sequence[str]) -> str:
    """The module that has all of these parameters."""
    modules = [name.rpartition(".")[0].split(".") for name in weights]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*modules, strict=False))
    return ".".join(parts[0] for parts in shared)
