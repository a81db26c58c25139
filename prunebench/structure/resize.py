"""A network's graph without some of its groups: parameters cut, and sizes in operations counted again."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from prunebench.core.arrays import BoolArray
from prunebench.structure.branches import Branch, copied, take_out
from prunebench.structure.families import Family
from prunebench.structure.trace import Coupling, attribute
from prunebench.structure.walk import Dims, bound, name_of

State = dict[str, torch.Tensor]
"""Parameters and buffers by name."""


class Living:
    """Which indices live, where some groups are gone.

    dead : the base labels that are gone
    """

    def __init__(self, coupling: Coupling, families: Sequence[Family], kept: Sequence[BoolArray]) -> None:
        self._labels = coupling.walk.labels
        self._branches = coupling.branches
        self.dead = {
            base
            for family, mask in zip(families, kept, strict=True)
            for base, keeps in zip(family.groups, mask, strict=True)
            if not keeps
        }

    @property
    def gone(self) -> tuple[Branch, ...]:
        """The residual branches that are gone as a whole."""
        return tuple(branch for branch in self._branches if branch.base in self.dead)

    def alive(self, label: int) -> bool:
        """Whether all bases of a label live."""
        return self.dead.isdisjoint(self._labels.bases(label))

    def count(self, labels: Sequence[int]) -> int:
        """How many of these live."""
        return sum(map(self.alive, labels))

    def positions(self, labels: Sequence[int]) -> torch.Tensor:
        """Where the living ones are. int64"""
        return torch.tensor([k for k, label in enumerate(labels) if self.alive(label)], dtype=torch.long)

    def touches(self, labels: Sequence[int]) -> bool:
        """Whether one of these is gone."""
        return bool(self.dead) and not all(map(self.alive, labels))


def state_of(coupling: Coupling) -> State:
    """What the network's graph reads: parameters and buffers, tied ones under one name; not copies."""
    program = coupling.program
    named = {**dict(program.named_parameters(remove_duplicate=False)), **dict(program.named_buffers())}
    return {
        name: tensor.detach()
        for name, tensor in named.items()
        if name in coupling.parameters and name not in coupling.tied
    }


def masked_state(coupling: Coupling, state: Mapping[str, torch.Tensor], living: Living) -> State:
    """A state with zeros where groups are gone; shapes as before. Only changed tensors are copied."""
    out = dict(state)
    for name, dims in coupling.parameters.items():
        if name not in state:
            continue
        for dim, labels in enumerate(dims):
            if living.touches(labels):
                gone = torch.tensor([k for k, label in enumerate(labels) if not living.alive(label)])
                out[name] = out[name].index_fill(dim, gone.to(out[name].device), 0.0)
    return out


def shrunk_state(coupling: Coupling, state: Mapping[str, torch.Tensor], living: Living) -> State:
    """A state with groups cut out."""
    out = dict(state)
    for name, dims in coupling.parameters.items():
        if name not in state:
            continue
        for dim, labels in enumerate(dims):
            if living.touches(labels):
                out[name] = out[name].index_select(dim, living.positions(labels).to(out[name].device))
    return {name: tensor.contiguous() for name, tensor in out.items()}


def grown_state(
    coupling: Coupling, state: Mapping[str, torch.Tensor], smaller: Mapping[str, torch.Tensor], living: Living
) -> State:
    """The inverse of `shrunk_state`: the smaller tensors where groups live, zeros where they are gone.

    state : of the shapes that come out;  smaller : tensors by the same names; those not there are the state's
    """
    out = dict(state)
    for name, dims in coupling.parameters.items():
        if name not in state or name not in smaller:
            continue
        value = smaller[name].detach()
        for dim, labels in enumerate(dims):
            if living.touches(labels):
                shape = [*value.shape[:dim], len(labels), *value.shape[dim + 1 :]]
                value = value.new_zeros(shape).index_copy(dim, living.positions(labels).to(value.device), value)
        out[name] = value.clone()
    return out


def shrunk_program(
    coupling: Coupling, state: Mapping[str, torch.Tensor], living: Living, *, share: bool = False
) -> GraphModule:
    """The graph without the groups that are gone: a module of its own, with smaller parameters.

    Parameters
    ----------
    state : of the whole network, as `state_of` gives it, with the values that the smaller one takes over
    share : tensors that nothing is cut from are the state's own, not copies
    """
    smaller = shrunk_state(coupling, state, living)
    program = coupling.program
    graph, made = copied(program)
    for node in program.graph.nodes:
        if node.op == "call_function" and (resize := RESIZES.get(name_of(node))) is not None:
            change = resize(coupling, living, node, bound(node))
            if change:
                # what is computed in the graph is of the old one
                moved = torch.fx.node.map_arg(dict(change), made.__getitem__)
                _replace(made[node], node, moved)
    take_out(graph, program, made, living.gone)
    if not share:
        smaller = {name: tensor.clone() for name, tensor in smaller.items()}
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    root = _root(program, graph, smaller, coupling.tied)
    return GraphModule(root, graph)


Change = Mapping[str, Any]
"""New values of arguments by name; under "target", another operation with just these arguments."""


def _replace(new: Node, old: Node, change: Change) -> None:
    if "target" in change:
        new.target = change["target"]
        new.args, new.kwargs = (new.args[0], *change["arguments"]), {}
        return
    names = [argument.name for argument in old.target._schema.arguments]  # type: ignore[union-attr]
    args, kwargs = list(new.args), dict(new.kwargs)
    for name, value in change.items():
        place = names.index(name)
        if place < len(args):
            args[place] = value
        else:
            kwargs[name] = value
    new.args, new.kwargs = tuple(args), kwargs


def _root(program: GraphModule, graph: torch.fx.Graph, state: State, tied: Mapping[str, str]) -> torch.nn.Module:
    """A module that holds what the graph reads, under the same names as in the program."""
    root = torch.nn.Module()
    parameters = dict(program.named_parameters(remove_duplicate=False))
    made: dict[str, torch.nn.Parameter] = {}
    for node in graph.nodes:
        if node.op != "get_attr":
            continue
        name = str(node.target)
        holder, _, last = name.rpartition(".")
        place = _place(root, holder)
        if hasattr(place, last):
            continue
        if name in parameters:
            first = tied.get(name, name)
            if first not in made:
                made[first] = torch.nn.Parameter(state[first], requires_grad=parameters[name].requires_grad)
            place.register_parameter(last, made[first])
        elif name in state:
            place.register_buffer(last, state[name])
        else:
            setattr(place, last, attribute(program, name))
    return root


def _place(root: torch.nn.Module, name: str) -> torch.nn.Module:
    place = root
    for part in name.split(".") if name else ():
        if not hasattr(place, part):
            place.add_module(part, torch.nn.Module())
        place = getattr(place, part)
    return place


# ---------------------------------------------------------------- operations that hold sizes

Resize = Callable[[Coupling, Living, Node, Mapping[str, Any]], Change]


def _dims(coupling: Coupling, node: Any) -> Dims:
    value = coupling.walk.dims[node]
    assert isinstance(value, list)
    return value


def _sizes(coupling: Coupling, living: Living, node: Node, asked: Sequence[Any]) -> list[Any]:
    """Sizes of a result: numbers are counted again, -1 and what is computed stays."""
    dims = _dims(coupling, node)
    return [
        living.count(dims[k]) if isinstance(size, int) and size >= 0 and living.touches(dims[k]) else size
        for k, size in enumerate(asked)
    ]


def _viewed(coupling: Coupling, living: Living, node: Node, a: Mapping[str, Any]) -> Change:
    name = next(key for key in ("size", "shape", "sizes") if key in a)
    return {name: _sizes(coupling, living, node, a[name])}


def _unflattened(coupling: Coupling, living: Living, node: Node, a: Mapping[str, Any]) -> Change:
    dims, dim = _dims(coupling, node), a["dim"] % len(_dims(coupling, a["self"]))
    return {
        "sizes": [
            living.count(dims[dim + k]) if isinstance(size, int) and size >= 0 else size
            for k, size in enumerate(a["sizes"])
        ]
    }


def _sliced(coupling: Coupling, living: Living, node: Node, a: Mapping[str, Any]) -> Change:
    before, after = _dims(coupling, a["self"]), _dims(coupling, node)
    dim = a["dim"] % len(before)
    if not living.touches(before[dim]):
        return {}
    start = a["start"] or 0
    start += len(before[dim]) if start < 0 else 0
    first = living.count(before[dim][:start])
    if "length" in a:
        return {"start": first, "length": living.count(after[dim])}
    return {"start": first, "end": first + living.count(after[dim])}


def _split(coupling: Coupling, living: Living, node: Node, a: Mapping[str, Any]) -> Change:
    before = _dims(coupling, a["self"])
    dim = a["dim"] % len(before)
    if not living.touches(before[dim]):
        return {}
    parts = coupling.walk.dims[node]
    assert isinstance(parts, tuple)
    sizes = [living.count(part[dim]) for part in parts if part is not None]
    return {"target": torch.ops.aten.split_with_sizes.default, "arguments": (sizes, dim)}


def _padded(coupling: Coupling, living: Living, node: Node, a: Mapping[str, Any]) -> Change:
    dims, widths = _dims(coupling, node), list(a["pad"])
    for k in range(len(widths) // 2):
        labels = dims[len(dims) - 1 - k]
        before, after = widths[2 * k], widths[2 * k + 1]
        widths[2 * k] = living.count(labels[:before])
        widths[2 * k + 1] = living.count(labels[len(labels) - after :])
    return {"pad": widths}


def _convolved(coupling: Coupling, living: Living, node: Node, a: Mapping[str, Any]) -> Change:
    if a["groups"] == 1:
        return {}
    inner = _dims(coupling, a["input"])[1]
    return {"groups": _groups(living, inner, a["groups"])}


def _group_normed(coupling: Coupling, living: Living, node: Node, a: Mapping[str, Any]) -> Change:
    return {"num_groups": _groups(living, _dims(coupling, a["input"])[1], a["num_groups"])}


def _shuffled(coupling: Coupling, living: Living, node: Node, a: Mapping[str, Any]) -> Change:
    return {"groups": _groups(living, _dims(coupling, a["self"])[1], a["groups"])}


def _groups(living: Living, labels: Sequence[int], groups: int) -> int:
    """How many of the groups that these channels fall into have one that lives."""
    own = len(labels) // groups
    return sum(any(map(living.alive, labels[k * own : (k + 1) * own])) for k in range(groups))


def _normed(coupling: Coupling, living: Living, node: Node, a: Mapping[str, Any]) -> Change:
    dims = _dims(coupling, a["input"])
    many = len(a["normalized_shape"])
    return {"normalized_shape": [living.count(labels) for labels in dims[-many:]]}


def _attended(coupling: Coupling, living: Living, node: Node, a: Mapping[str, Any]) -> Change:
    """The scale is that of the whole head: it belongs to the trained weights."""
    query = _dims(coupling, a["query"])[-1]
    if a["scale"] is not None or not living.touches(query):
        return {}
    return {"scale": 1.0 / math.sqrt(len(query))}


RESIZES: dict[str, Resize] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "expand", "broadcast_to"), _viewed),
    **dict.fromkeys(("slice", "narrow"), _sliced),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"), _split),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolved),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolved),
    **dict.fromkeys(("layer_norm", "rms_norm"), _normed),
    "unflatten": _unflattened,
    "group_norm": _group_normed,
    "channel_shuffle": _shuffled,
    "native_channel_shuffle": _shuffled,
    "scaled_dot_product_attention": _attended,
}
"""By operation, which of its arguments change with the sizes."""
