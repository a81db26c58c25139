"""What rules of operations work with: the labels of every value of a graph, and where dimensions are summed over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from prunebench.structure.labels import Labels

Dims = list[list[int]]
"""The labels of a tensor: by dimension, by index."""

Value = Dims | tuple[Dims | None, ...] | None
"""What a node gives: a tensor, several, or no tensor."""


WINDOW = "the window of a convolution"
"""Why the labels of a kernel's window are frozen: nobody would think of removing them, and they are not told of."""


@dataclass(frozen=True)
class Product:
    """A place where a dimension is summed over, so that what is zero there is the same as what is absent.

    node : the operation;  operand : the value whose dimension it is, never a parameter
    dim : which one;  weight : the parameter that it is multiplied with, "" if it is another activation or a plain sum
    """

    node: Node
    operand: Node
    dim: int
    weight: str = ""


@dataclass
class Walk:
    """What is known while the graph is walked.

    labels : of every index;  dims : by node, the labels of its value
    products : where dimensions are summed over
    terms : by node, the multiply-accumulates of one sample, a sum: (coefficient, the dimensions whose live indices it
        is multiplied with)
    unknown : operations without a rule, with how often they occur
    """

    labels: Labels = field(default_factory=Labels)
    dims: dict[Node, Value] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    terms: dict[Node, list[tuple[float, tuple[tuple[int, ...], ...]]]] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    batched: set[int] = field(default_factory=set)
    """Labels of the batch: they are counted once in costs."""

    def of(self, node: Any) -> Dims:
        """The labels of a tensor that a rule needs.

        Raises
        ------
        LookupError   it is no tensor of this graph
        """
        value = self.dims.get(node) if isinstance(node, Node) else None
        if not isinstance(value, list):
            raise LookupError(f"{node} is no tensor")
        return value

    def fresh(self, node: Node, why: str) -> Value:
        """New labels for all that a node gives, frozen."""
        made = [None if size is None else [self.labels.new(k, why) for k in size] for size in shapes(node)]
        return made[0] if not isinstance(node.meta.get("val"), tuple | list) else tuple(made)

    def freeze_inputs(self, node: Node, why: str) -> None:
        """All labels of what a node takes must stay."""
        for operand in node.all_input_nodes:
            value = self.dims.get(operand)
            for dims in value if isinstance(value, tuple) else (value,):
                for labels in dims or ():
                    self.labels.freeze(labels, why)

    def sum_over(self, node: Node, operand: Node, dim: int, weight: Any = None) -> None:
        """Note that a dimension is summed over there."""
        name = str(weight.target) if isinstance(weight, Node) and weight.op == "get_attr" else ""
        self.products.append(Product(node, operand, dim % len(self.of(operand)), name))

    def cost(self, node: Node, coefficient: float, dims: Sequence[Sequence[int]]) -> None:
        """Note the multiply-accumulates of a node; dimensions of the batch are left out."""
        counted = tuple(tuple(labels) for labels in dims if not (labels and labels[0] in self.batched))
        self.terms.setdefault(node, []).append((coefficient, counted))


def shapes(node: Node) -> list[tuple[int, ...] | None]:
    """The shapes of what a node gives, symbolic sizes as they were in the example; None for what is no tensor."""
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else (value,)
    return [tuple(hint(k) for k in item.shape) if isinstance(item, torch.Tensor) else None for item in values]


def shape(node: Node) -> tuple[int, ...] | None:
    """The shape of the tensor that a node gives."""
    return shapes(node)[0]


def hint(size: Any) -> int:
    """A size as it was in the example."""
    return size if isinstance(size, int) else int(size.node.hint)


def bound(node: Node) -> Mapping[str, Any]:
    """The arguments of an operation by name, defaults filled in; positions as names where it has no schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(k): value for k, value in enumerate(node.args)} | dict(node.kwargs)
    out: dict[str, Any] = {}
    for k, argument in enumerate(schema.arguments):
        if k < len(node.args):
            out[argument.name] = node.args[k]
        else:
            out[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return out


def name_of(node: Node) -> str:
    """The bare name of the operation, as conv2d."""
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        return str(schema.name.split("::")[-1])
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]
