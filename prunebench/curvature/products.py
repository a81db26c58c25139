"""Where a network multiplies by its parameters, and what by: seen at the products, whichever code makes them.

Every operation of a forward pass goes by here. A parameter that reaches a matrix product or a convolution,
possibly as a view (transposed, a slice, one of several experts), is a matrix there whose inputs are the other
operand; a parameter that reaches anything else is used otherwise, and its inputs do not say what it does. So
layers of any kind show their inputs exactly: attention's own projections, recurrent steps, fused experts, a weight
that is used by function or in two places.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prunebench.core.arrays import IndexArray

SLICE_ELEMENTS = 2**25
"""Numbers that a convolution's windows, or an embedding's one-hot rows, hold at a time: 128 MiB of float32."""

MOST_COLUMNS = 16_384
"""Inputs of one output at most: their Gram matrix in float64 takes 2 GiB, and no solver takes longer rows."""

aten = torch.ops.aten


@dataclass(frozen=True)
class Part:
    """A matrix within a parameter as a product sees it: the first axis counts outputs, the others are inputs.

    name : of the parameter
    sizes, strides, offset : of the view, in elements of the parameter's storage
    """

    name: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def rows(self) -> int:
        """How many outputs."""
        return self.sizes[0]

    @property
    def columns(self) -> int:
        """How many inputs each output is a weighted sum of."""
        return math.prod(self.sizes[1:])

    def storage_places(self) -> IndexArray:
        """Where in the storage each weight is. int64 (rows, columns)"""
        places = np.full((), self.offset, dtype=np.int64)
        for size, stride in zip(self.sizes, self.strides, strict=True):
            places = places[..., None] + stride * np.arange(size, dtype=np.int64)
        return places.reshape(self.rows, -1)


Take = Callable[[Part, torch.Tensor, bool], None]
"""Called with a part, rows of its inputs (n, columns), and whether they are in the order of samples and positions."""

Foreign = Callable[[str, str], None]
"""Called with a parameter's name and the operation that uses it otherwise."""

Factors = Iterator[tuple[torch.Tensor, torch.Tensor, bool]]
"""The parameter's view (outputs, ...), its inputs (n, ...), and whether these are in order."""


class _NotAFactor(Exception):
    """The operation uses the parameter otherwise than as one factor of a product."""


class ProductWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """While it is entered, tells every product by a parameter, and every other use.

    Parameters
    ----------
    parameters : by name; no two of them may share memory
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], take: Take, foreign: Foreign) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._take, self._foreign = take, foreign
        self._held: dict[int, list[tuple[int, int, str]]] = {}
        for name, tensor in parameters.items():
            first, last = _span(tensor)
            self._held.setdefault(tensor.untyped_storage().data_ptr(), []).append((first, last, name))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at one operation, and let it run."""
        given = kwargs or {}
        owners = {name for tensor in _tensors((*args, *given.values())) for name in self._owners(tensor)}
        if owners and not func.is_view:
            self._tell(func, args, given, owners)
        return func(*args, **given)

    def _owners(self, tensor: torch.Tensor) -> list[str]:
        """The parameters whose memory a tensor shows."""
        if tensor.layout != torch.strided or tensor.numel() == 0:
            return []
        held = self._held.get(tensor.untyped_storage().data_ptr())
        if held is None:
            return []
        first, last = _span(tensor)
        return [name for start, stop, name in held if first <= stop and start <= last]

    def _tell(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], owners: set[str]) -> None:
        factors = FACTORS.get(str(func))
        try:
            if factors is None:
                raise _NotAFactor
            for view, inputs, ordered in factors(self._is_held, *args, **kwargs):
                names = self._owners(view)
                if len(names) != 1 or set(names) != owners:
                    raise _NotAFactor
                part = Part(names[0], tuple(view.shape), _strides(view), int(view.storage_offset()))
                self._take(part, inputs.reshape(len(inputs), part.columns), ordered)
        except _NotAFactor:
            for name in sorted(owners):
                self._foreign(name, str(func).removesuffix(".default"))

    def _is_held(self, tensor: Any) -> bool:
        return isinstance(tensor, torch.Tensor) and bool(self._owners(tensor))


@contextmanager
def watching(parameters: Mapping[str, torch.Tensor], take: Take, foreign: Foreign) -> Iterator[None]:
    """Inside, products by the parameters are told: `ProductWatch`. Nothing is watched where there are none.

    Fused kernels for attention and recurrent layers are off, so that their products are seen.
    """
    if not parameters:
        yield
        return
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        with warnings.catch_warnings():
            # torch speaks here of TF32 on a GPU of another maker
            warnings.simplefilter("ignore", UserWarning)
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(ProductWatch(parameters, take, foreign))
        yield


def windows(
    inputs: torch.Tensor,
    kernel: Iterable[int],
    *,
    stride: Iterable[int],
    padding: Iterable[int],
    dilation: Iterable[int],
) -> torch.Tensor:
    """What each output place of a convolution sees, in any number of dimensions.

    inputs : (s, channels, places...)

    Returns
    -------
    tensor (s·outputs, channels, window)   windows in the order of the kernel's axes
    """
    held = torch.nn.functional.pad(inputs, [side for amount in reversed(list(padding)) for side in (amount, amount)])
    return _unfolded(held, kernel, stride, dilation)


def transposed_windows(
    inputs: torch.Tensor,
    kernel: Iterable[int],
    *,
    stride: Iterable[int],
    padding: Iterable[int],
    dilation: Iterable[int],
    output_padding: Iterable[int],
) -> torch.Tensor:
    """The same of a transposed convolution: between inputs that lie `stride` apart an output sees zeros."""
    sizes, strides, steps = list(kernel), list(stride), list(dilation)
    places = [(size - 1) * step + 1 for size, step in zip(inputs.shape[2:], strides, strict=True)]
    spread = inputs.new_zeros((*inputs.shape[:2], *places))
    between: tuple[Any, ...] = (..., *(slice(None, None, step) for step in strides))
    spread[between] = inputs
    sides: list[int] = []
    for size, step, amount, more in zip(sizes, steps, padding, output_padding, strict=True):
        reach = step * (size - 1) - amount
        sides = [reach, reach + more, *sides]
    found = _unfolded(torch.nn.functional.pad(spread, sides), sizes, [1] * len(sizes), steps)
    # an input meets the kernel from its far end
    table = found.reshape(*found.shape[:2], *sizes)
    return table.flip(tuple(range(2, table.ndim))).reshape(found.shape)


def _unfolded(
    inputs: torch.Tensor, kernel: Iterable[int], stride: Iterable[int], dilation: Iterable[int]
) -> torch.Tensor:
    held = inputs
    axes = inputs.ndim - 2
    for axis, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True)):
        held = held.unfold(2 + axis, (size - 1) * apart + 1, step)[..., ::apart]
    order = (0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
    return held.permute(order).reshape(-1, inputs.shape[1], math.prod(held.shape[2 + axes :]))


def _mm(held: Callable[[Any], bool], first: torch.Tensor, second: torch.Tensor) -> Factors:
    if held(second):
        yield second.t(), first, True
    else:
        yield first, second.t(), True


def _mv(held: Callable[[Any], bool], matrix: torch.Tensor, vector: torch.Tensor) -> Factors:
    if held(vector):
        yield vector.unsqueeze(0), matrix, True
    else:
        yield matrix, vector.unsqueeze(0), True


def _addmm(
    held: Callable[[Any], bool], bias: Any, first: torch.Tensor, second: torch.Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Factors:
    if held(bias) or alpha != 1:
        raise _NotAFactor
    yield from _mm(held, first, second)


def _linear(held: Callable[[Any], bool], inputs: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> Factors:
    if held(bias) or held(inputs):
        raise _NotAFactor
    yield weight, inputs.reshape(-1, inputs.shape[-1]), True


def _bmm(held: Callable[[Any], bool], first: torch.Tensor, second: torch.Tensor) -> Factors:
    if not held(second):
        first, second = second.transpose(1, 2), first.transpose(1, 2)
    # one matrix for all of the batch, or one for each
    if second.stride(0) == 0 or len(second) == 1:
        yield second[0].t(), first.reshape(-1, first.shape[-1]), True
        return
    for inputs, weight in zip(first, second, strict=True):
        yield weight.t(), inputs, False


def _baddbmm(
    held: Callable[[Any], bool], bias: Any, first: torch.Tensor, second: torch.Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Factors:
    if held(bias) or alpha != 1:
        raise _NotAFactor
    yield from _bmm(held, first, second)


def _grouped_mm(
    held: Callable[[Any], bool], first: torch.Tensor, second: torch.Tensor, offs: Any = None, bias: Any = None, *_: Any
) -> Factors:
    if held(first) or held(bias) or second.ndim != 3:
        raise _NotAFactor
    if first.ndim == 3:
        for inputs, weight in zip(first, second, strict=True):
            yield weight.t(), inputs, False
        return
    start = 0
    for weight, stop in zip(second, offs.tolist(), strict=True):
        yield weight.t(), first[start:stop], False
        start = stop


def _convolution(
    held: Callable[[Any], bool],
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Factors:
    if held(inputs) or held(bias):
        raise _NotAFactor
    kernel, channels = weight.shape[2:], inputs.shape[1] // groups
    geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    each = max(1, inputs[0].numel() * math.prod(kernel))
    for batch in torch.split(inputs, max(1, SLICE_ELEMENTS // each)):
        seen = (
            transposed_windows(batch, kernel, output_padding=output_padding, **geometry)
            if transposed
            else windows(batch, kernel, **geometry)
        )
        for group, part in enumerate(weight.chunk(groups)):
            view = part.transpose(0, 1) if transposed else part
            yield view, seen[:, group * channels : (group + 1) * channels], False


def _embedding(held: Callable[[Any], bool], weight: torch.Tensor, indices: torch.Tensor, *_: Any) -> Factors:
    """A row of the table is its transpose times a one-hot vector."""
    if len(weight) > MOST_COLUMNS:
        raise _NotAFactor
    for chosen in torch.split(indices.reshape(-1), max(1, SLICE_ELEMENTS // len(weight))):
        yield weight.t(), torch.nn.functional.one_hot(chosen, len(weight)).float(), True


FACTORS: Mapping[str, Callable[..., Factors]] = {
    "aten.mm.default": _mm,
    "aten.mv.default": _mv,
    "aten.addmm.default": _addmm,
    "aten.linear.default": _linear,
    "aten.bmm.default": _bmm,
    "aten.baddbmm.default": _baddbmm,
    "aten._grouped_mm.default": _grouped_mm,
    "transformers.grouped_mm_fallback.default": _grouped_mm,
    "aten.convolution.default": _convolution,
    "aten.embedding.default": _embedding,
}
"""The operations in which a parameter is a factor, and which of their operands are its inputs."""


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _strides(view: torch.Tensor) -> tuple[int, ...]:
    """Strides that are the same for views of the same elements: along an axis of one element any would do."""
    return tuple(stride if size > 1 else 0 for size, stride in zip(view.shape, view.stride(), strict=True))


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The first and last element of its storage that a tensor shows."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset()), int(tensor.storage_offset() + reach)
