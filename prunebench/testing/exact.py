"""A tiny block's objective and optimum in exact arithmetic: what every proof is measured against.

float64 numbers are whole numbers times powers of two, so f of given weights, and of every mask, is a
rational number that can be had without any rounding. The refit of a support S costs f(0) − ½ s'H_SS⁻¹s with
s = Hw0 − g, a quotient of two determinants of whole numbers, which fraction-free elimination gives
(Bareiss, Math. Comp. 22, 1968). A block of 8 weights takes some milliseconds.

Shares nothing with the solvers and the bounds but the block's arrays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem
from prunebench.testing.instances import feasible_masks

Table = list[list[int]]


class Unbounded(ArithmeticError):
    """A refit has no unique minimum: the Hessian is not positive definite on the support."""


@dataclass(frozen=True, eq=False)
class Exact:
    """f, its value at masks, and the optimum of a block, as fractions.

    hessian : (p, p) whole numbers, H·2^shift, the ridge included
    dense, centre, linear, constant : fractions
    """

    block: BlockProblem
    hessian: Table
    shift: int
    dense: list[Fraction]
    centre: list[Fraction]
    linear: list[Fraction]
    constant: Fraction

    @staticmethod
    def of(block: BlockProblem, factor: npt.NDArray[np.floating[Any]] | None = None) -> "Exact":
        """The block as its arrays have it, or with the curvature of the `factor` that its form was made from.

        A form that was given a factor with n >= p holds the rounded Hessian: `factor` says what was meant.
        """
        form = block.plain().form
        if factor is None:
            factor = form.factor
        if factor is not None:
            columns, exponent = _whole(np.asarray(factor, dtype=np.float64).T)
            curvature = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in columns] for x in columns]
            shift = 2 * exponent
        else:
            assert form.hessian is not None
            curvature, shift = _whole(form.hessian)
        (ridge,), ridge_shift = _whole(form.ridge[None, :])
        common = max(shift, ridge_shift)
        hessian = [[entry << (common - shift) for entry in row] for row in curvature]
        for i, entry in enumerate(ridge):
            hessian[i][i] += entry << (common - ridge_shift)
        return Exact(
            block,
            hessian,
            common,
            [Fraction(x) for x in block.dense_weights.tolist()],
            [Fraction(x) for x in form.centre.tolist()],
            [Fraction(x) for x in form.linear.tolist()],
            Fraction(form.constant),
        )

    def value(self, weights: npt.NDArray[np.float64]) -> Fraction:
        """f(weights), exactly."""
        return self._value([Fraction(x) for x in weights.tolist()])

    def gradient(self, weights: npt.NDArray[np.float64]) -> list[Fraction]:
        """The gradient of f at `weights`, exactly."""
        move = [Fraction(x) - a for x, a in zip(weights.tolist(), self.centre, strict=True)]
        return [a + b for a, b in zip(self._times(move), self.linear, strict=True)]

    def of_mask(self, mask: BoolArray) -> Fraction:
        """What the mask costs: f(m·dense weights) in mode select, the minimum over its weights in mode refit.

        Raises
        ------
        Unbounded   mode refit, and the Hessian is not positive definite on the mask
        """
        support = np.flatnonzero(mask).tolist()
        if self.block.mode == "select":
            total = self._at_zero + sum((self._scaled[0][i] for i in support), Fraction(0))
            pairs = sum(self._scaled[1][i][j] for i in support for j in support if j < i)
            return total + pairs
        return self._at_zero - self._saved(support)

    def masks(self) -> Iterator[BoolArray]:
        """Every feasible mask."""
        return feasible_masks(self.block)

    @cached_property
    def optimum(self) -> Fraction:
        """The block's optimum."""
        return min(self.of_mask(mask) for mask in self.masks())

    @cached_property
    def _at_zero(self) -> Fraction:
        return self._value([Fraction(0)] * len(self.centre))

    @cached_property
    def _scaled(self) -> tuple[list[Fraction], list[list[Fraction]]]:
        """Select mode as f(0) + Σ linear_i m_i + Σ_{i<j} coupling_ij m_i m_j."""
        unit = Fraction(1, 1 << self.shift)
        pair = [
            [entry * unit * self.dense[i] * self.dense[j] for j, entry in enumerate(row)]
            for i, row in enumerate(self.hessian)
        ]
        single = [self.dense[i] * -self._pull[i] + pair[i][i] / 2 for i in range(len(self.dense))]
        return single, pair

    @cached_property
    def _pull(self) -> list[Fraction]:
        """s = Hw0 − g, minus the gradient at zero."""
        image = self._times(self.centre)
        return [a - b for a, b in zip(image, self.linear, strict=True)]

    @cached_property
    def _whole_pull(self) -> tuple[list[int], int]:
        """s as whole numbers over a common denominator."""
        common = max(entry.denominator for entry in self._pull)
        return [entry.numerator * (common // entry.denominator) for entry in self._pull], common

    def _saved(self, support: Sequence[int]) -> Fraction:
        """½ s'H_SS⁻¹s."""
        pull, common = self._whole_pull
        rows = [[self.hessian[i][j] for j in support] + [pull[i]] for i in support]
        rows.append([pull[i] for i in support] + [0])
        before = 1
        for k in range(len(support)):
            pivot = rows[k][k]
            if pivot <= 0:
                raise Unbounded(f"{self.block.name}: the Hessian is not positive definite on {list(support)}")
            for i in range(k + 1, len(rows)):
                head = rows[i][k]
                rows[i] = [(a * pivot - head * b) // before for a, b in zip(rows[i], rows[k], strict=True)]
            before = pivot
        # the last entry is the determinant bordered by s, minus det(H_SS) s'H_SS⁻¹s
        return Fraction(-rows[-1][-1] << self.shift, 2 * before * common * common)

    def _times(self, vector: list[Fraction]) -> list[Fraction]:
        unit = Fraction(1, 1 << self.shift)
        return [unit * sum(a * b for a, b in zip(row, vector, strict=True)) for row in self.hessian]

    def _value(self, weights: list[Fraction]) -> Fraction:
        move = [a - b for a, b in zip(weights, self.centre, strict=True)]
        image = self._times(move)
        slope = sum((a * b for a, b in zip(self.linear, move, strict=True)), Fraction(0))
        return self.constant + slope + sum((a * b for a, b in zip(image, move, strict=True)), Fraction(0)) / 2


def _whole(matrix: npt.NDArray[np.float64]) -> tuple[Table, int]:
    """The matrix times 2^exponent as whole numbers, and the least exponent >= 0 that does it."""
    ratios = [[entry.as_integer_ratio() for entry in row] for row in matrix.tolist()]
    exponent = max((bottom.bit_length() - 1 for row in ratios for _, bottom in row), default=0)
    return [[top << (exponent - bottom.bit_length() + 1) for top, bottom in row] for row in ratios], exponent
