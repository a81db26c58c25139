"""Landscapes: the loss as block coordinate descent sees it, evaluated about any weights."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from prunebench.core.arrays import Factor, FloatArray, IndexArray, RealArray
from prunebench.core.coordinator import Setting
from prunebench.core.problem import NetworkProblem
from prunebench.core.quadratic import QuadraticForm


class Layer(Protocol):
    """The range [start, stop) of the weight vector that one parameter occupies; `shape` starts with its outputs."""

    @property
    def name(self) -> str:
        """The parameter's name."""
        ...

    @property
    def start(self) -> int:
        """Its first weight."""
        ...

    @property
    def stop(self) -> int:
        """One past its last weight."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        ...


@dataclass(frozen=True)
class _Whole:
    """A quadratic form as a single layer."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


class View(Protocol):
    """The loss about the landscape's point, on one batch of samples."""

    @property
    def gradient(self) -> RealArray:
        """The mean gradient. float (p,)."""
        ...

    @property
    def loss(self) -> float:
        """The mean loss on the batch."""
        ...

    def prepare(self, layers: Sequence[str] | None) -> None:
        """Of these layers the mean gradient will be asked for, of all where None: they may be looked at together."""
        ...

    def factor(self, indices: IndexArray) -> Factor:
        """The columns of the curvature's factor for `indices`: sample gradients over sqrt(rows). (n, b)."""
        ...

    def factors(self, blocks: Sequence[IndexArray]) -> list[Factor]:
        """The same for several disjoint blocks, with the same rows for all."""
        ...

    def slope(self, indices: IndexArray) -> FloatArray:
        """The mean gradient of these weights. float64 (b,)."""
        ...

    def ridge(self, indices: IndexArray) -> FloatArray:
        """The exact diagonal curvature of the loss: zero for a network. float64 (b,)."""
        ...


class Landscape(Protocol):
    """A network with its calibration samples, or a quadratic form in its place.

    It has a current point: the dense weights at first, then where it was last placed.
    """

    @property
    def dense_weights(self) -> RealArray:
        """The weights before pruning, in the landscape's precision. float (p,)."""
        ...

    @property
    def layers(self) -> Sequence[Layer]:
        """The prunable parameters in order."""
        ...

    @property
    def samples(self) -> int:
        """Number of calibration samples; 0 if the loss needs none."""
        ...

    def place(self, weights: RealArray) -> int:
        """Move to `weights`, all p of which are written, not copied. -> a number that identifies the point"""
        ...

    def stands_at(self, point: int) -> bool:
        """Whether the landscape is still at that point and nobody has written to the network since."""
        ...

    def write(self, indices: IndexArray, values: RealArray) -> int:
        """Move to where the b weights in `indices` are `values` and all others as they are. -> the point's number

        They must be so already in the array that it was placed with, which it may come back to.
        """
        ...

    def moved(self, indices: IndexArray, values: RealArray) -> AbstractContextManager[None]:
        """A context in which the b weights in `indices` have `values`; restores them at its end. Writes b weights."""
        ...

    def look(self, positions: IndexArray) -> View:
        """The loss about the current point, on the samples at `positions`."""
        ...

    def loss(self, positions: IndexArray) -> float:
        """The mean loss at the current point, on the samples at `positions`."""
        ...

    def input_norms(self, positions: IndexArray) -> Sequence[FloatArray]:
        """For every layer, the norms of what its weights multiply in the dense network. float64 each

        (columns,), the same for all rows of the layer, or one norm per weight.
        """
        ...


class FormLandscape:
    """A quadratic form as the loss: exact about any point, without samples."""

    def __init__(self, form: QuadraticForm, dense_weights: FloatArray) -> None:
        self.form = form
        self.dense_weights: RealArray = dense_weights
        self.layers: Sequence[Layer] = (_Whole("weights", 0, form.p, (1, form.p)),)
        self.samples: int = 0
        self._root = form.square_root()
        self._weights, self._point = np.array(dense_weights, dtype=np.float64), 0

    def place(self, weights: RealArray) -> int:
        """Move to `weights`."""
        self._weights, self._point = np.array(weights, dtype=np.float64), self._point + 1
        return self._point

    def stands_at(self, point: int) -> bool:
        """Whether the landscape is still at that point."""
        return self._point == point

    def write(self, indices: IndexArray, values: RealArray) -> int:
        """Move some weights."""
        self._weights[indices] = values
        self._point += 1
        return self._point

    @contextmanager
    def moved(self, indices: IndexArray, values: RealArray) -> Iterator[None]:
        """A context in which the weights in `indices` have `values`."""
        before = self._weights[indices]
        self._weights[indices] = values
        try:
            yield
        finally:
            self._weights[indices] = before

    def look(self, positions: IndexArray) -> "FormView":
        """The form about the current point."""
        return FormView(self.form, self._root, self._weights)

    def loss(self, positions: IndexArray) -> float:
        """The form's value at the current point."""
        return self.form.value(self._weights)

    def input_norms(self, positions: IndexArray) -> Sequence[FloatArray]:
        """The square root of the curvature's diagonal: the norm of each weight's column."""
        return [np.sqrt(self.form.diagonal() - self.form.ridge)]


class FormView:
    """A quadratic form about one point."""

    def __init__(self, form: QuadraticForm, root: Factor, weights: FloatArray) -> None:
        self.gradient: FloatArray = form.gradient(weights)
        self.loss: float = form.value(weights)
        self._root = root
        self._ridge = form.ridge

    def prepare(self, layers: Sequence[str] | None) -> None:
        """Nothing: the gradient is there."""

    def factor(self, indices: IndexArray) -> Factor:
        """Columns of the form's factor."""
        return self._root[:, indices]

    def factors(self, blocks: Sequence[IndexArray]) -> list[Factor]:
        """The same for several blocks."""
        return [self.factor(indices) for indices in blocks]

    def slope(self, indices: IndexArray) -> FloatArray:
        """The gradient of the form."""
        return np.asarray(self.gradient[indices])

    def ridge(self, indices: IndexArray) -> FloatArray:
        """The form's ridge."""
        return np.asarray(self._ridge[indices])


def landscape_of(setting: Setting) -> Landscape:
    """The landscape of the setting's network, or of its quadratic form."""
    if setting.block is not None:
        return FormLandscape(setting.block.form, setting.block.dense_weights)
    from prunebench.curvature.landscape import NetworkLandscape

    assert isinstance(setting.problem, NetworkProblem)
    return NetworkLandscape(setting.problem, setting.network)
