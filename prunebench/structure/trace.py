"""The graph of a network, found by torch.export, with the labels of all its values: no architecture is known here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from prunebench.core.errors import InvalidInput
from prunebench.structure import rules
from prunebench.structure.branches import Branch, branches_of
from prunebench.structure.walk import Dims, Walk, shape

EXAMPLES = 3
"""Samples of an example batch: more than two, so that no size of the network is taken for that of the batch."""


@dataclass(frozen=True)
class Coupling:
    """A network's graph and what goes together in it.

    program : the graph as a module, its parameters those of the network under the same names (not copies)
    walk : labels, products and costs of its values
    parameters : by name, the labels of every dimension;  tied names of one tensor have the same
    example : the inputs that it was found with
    """

    program: GraphModule
    walk: Walk
    parameters: dict[str, Dims]
    example: Any
    tied: dict[str, str] = field(default_factory=dict)
    """By name of a parameter that is the same tensor as an earlier one: that one's name."""
    branches: tuple[Branch, ...] = ()
    """The residual branches, which can go as a whole."""

    def reads(self) -> dict[str, list[Node]]:
        """By name of a parameter or buffer, where the graph reads it, under that name or one tied to it."""
        out: dict[str, list[Node]] = {}
        for node in self.program.graph.nodes:
            if node.op == "get_attr":
                name = str(node.target)
                out.setdefault(self.tied.get(name, name), []).append(node)
        return out


def couple(model: torch.nn.Module, example: Any) -> Coupling:
    """Find what goes together in a network.

    Parameters
    ----------
    model : in evaluation mode; it is not changed
    example : inputs of a few samples (EXAMPLES at least), the samples along the first axis

    Raises
    ------
    InvalidInput   torch.export cannot follow the network; the message has its reason
    """
    program = exported(model, example)
    walk = Walk()
    parameters: dict[str, Dims] = {}
    tied: dict[str, str] = {}
    seen: dict[tuple[int, tuple[int, ...]], str] = {}
    trained = {name for name, _ in program.named_parameters(remove_duplicate=False)}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            walk.dims[node] = _inputs(walk, node)
        elif node.op == "get_attr":
            name = str(node.target)
            tensor = attribute(program, name)
            # what nothing reads, such as a head for training, is no part of what is pruned
            if not isinstance(tensor, torch.Tensor) or not node.users:
                continue
            key = (tensor.data_ptr(), tuple(tensor.shape))
            if tensor.numel() and key in seen and seen[key] in parameters:
                tied[name] = seen[key]
                parameters[name] = parameters[seen[key]]
            else:
                seen[key] = name
                follows = name in trained or name.rpartition(".")[2] in ("running_mean", "running_var")
                why = "" if follows else f"the constant {name}"
                parameters[name] = [walk.labels.new(size, why) for size in tensor.shape]
            walk.dims[node] = parameters[name]
        elif node.op == "call_function":
            walk.dims[node] = None if node.target in rules.SCALARS else rules.apply(walk, node)
        elif node.op == "output":
            walk.freeze_inputs(node, "an output of the network")
        else:
            walk.freeze_inputs(node, f"a {node.op}")
            walk.dims[node] = walk.fresh(node, f"a {node.op}")
    return Coupling(program, walk, parameters, example, tied, branches_of(program, walk))


def exported(model: torch.nn.Module, example: Any) -> GraphModule:
    """The network's graph as a module with a batch of any size.

    Raises
    ------
    InvalidInput   it cannot be followed
    """
    program = export(model, example).module(check_guards=False)
    assert isinstance(program, GraphModule)
    return program


def export(model: torch.nn.Module, example: Any) -> torch.export.ExportedProgram:
    """What torch.export makes of a network, with a batch of any size, and rows of tokens of any length.

    Raises
    ------
    InvalidInput   it cannot be followed
    """
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for tensor in torch.utils._pytree.tree_leaves(example):
        if isinstance(tensor, torch.Tensor) and tensor.ndim:
            # rows of tokens may be of any length as well
            free = 2 if tensor.ndim > 1 and not tensor.is_floating_point() else 1
            shapes[tensor] = dict.fromkeys(range(free), torch.export.Dim.AUTO)
    try:
        with _without_cache(model):
            held = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever the network's own code and torch raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InvalidInput(
            f"the network's structure cannot be found: torch.export stops with {type(error).__name__}: {reason}; "
            "give a network whose forward takes the same steps for all inputs"
        ) from error
    given = {item.arg.name for item in held.graph_signature.input_specs if item.kind.name == "USER_INPUT"}
    for node in held.graph.nodes:
        value = node.meta.get("val")
        if node.name in given and isinstance(value, torch.Tensor) and value.ndim and is_concrete_int(value.shape[0]):
            raise InvalidInput(
                f"the network's graph is of {int(value.shape[0])} samples alone: its code takes their number as a "
                "plain number, as len(x) or int(x.shape[0]) do; take x.shape[0] there"
            )
    return held


@contextmanager
def _without_cache(model: torch.nn.Module) -> Iterator[None]:
    """Inside, models of transformers answer without the cache of their keys and values, which is no tensor."""
    held: list[Any] = [
        module.config
        for module in model.modules()
        if getattr(getattr(module, "config", None), "use_cache", None) is True
    ]
    for config in held:
        config.use_cache = False
    try:
        yield
    finally:
        for config in held:
            config.use_cache = True


def _inputs(walk: Walk, node: Node) -> Dims | None:
    sizes = shape(node)
    if sizes is None:
        return None
    dims = [walk.labels.new(size, f"the input {node.name}") for size in sizes]
    if dims:
        walk.batched.update(dims[0])
    return dims


def attribute(program: GraphModule, name: str) -> Any:
    """What a program holds under a dotted name."""
    value: Any = program
    for part in name.split("."):
        value = getattr(value, part)
    return value
