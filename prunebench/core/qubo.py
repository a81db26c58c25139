"""Mode select as a quadratic function of the mask, for annealers, local search and QAOA."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prunebench.core.arrays import BoolArray, Factor, FloatArray, column_squares, row_chunks, times
from prunebench.core.cost import Cost
from prunebench.core.keeping import Keeping, Quota
from prunebench.core.quadratic import QuadraticForm


@dataclass(frozen=True, eq=False)
class Qubo:
    """E(m) = constant + Σᵢ linearᵢ mᵢ + Σ_{i<j} Jᵢⱼ mᵢ mⱼ with m 1 where the weight is kept.

    E(m) equals f(m·dense_weights) exactly, constant included. Jᵢⱼ = w̄ᵢ Hᵢⱼ w̄ⱼ counts each pair
    once, without a factor of two. For n < p the couplings stay factored, J = C'C off the diagonal
    with C = A diag(w̄); nothing of size p² is formed until `couplings` is called.

    constant : float64;  linear : float64 (p,);  scale : float64 (p,), the dense weights
    factor : float (n, p) or None;  hessian : float64 (p, p) or None, as in the quadratic form
    """

    constant: float
    linear: FloatArray
    scale: FloatArray
    factor: Factor | None
    hessian: FloatArray | None

    @staticmethod
    def from_form(form: QuadraticForm, dense_weights: FloatArray) -> "Qubo":
        """Expand f(m·dense_weights); since mᵢ² = mᵢ the diagonal goes into the linear term."""
        slope = form.linear - form.product(form.centre)
        linear = dense_weights * slope + 0.5 * dense_weights**2 * form.diagonal()
        return Qubo(form.value(np.zeros(form.p)), linear, dense_weights, form.factor, form.hessian)

    @property
    def p(self) -> int:
        """Number of binary variables."""
        return int(self.linear.size)

    @cached_property
    def couplings(self) -> FloatArray:
        """J as a symmetric matrix with zero diagonal, float64 (p, p). Costs 8p² bytes, np² operations."""
        if self.hessian is not None:
            matrix = self.hessian * self.scale[:, None] * self.scale
        else:
            columns = self.scaled_factor()
            matrix = columns.T @ columns
        np.fill_diagonal(matrix, 0.0)
        return np.asarray(matrix)

    def scaled_factor(self) -> FloatArray:
        """C = A diag(w̄), float64 (n, p), for a form that holds a factor."""
        assert self.factor is not None
        return np.asarray(self.factor * self.scale)

    def energy(self, mask: BoolArray) -> float:
        """E(mask). bool (p,) -> float64. Cost 2np."""
        return float(self.energies(np.asarray(mask)[None, :])[0])

    def energies(self, masks: BoolArray) -> FloatArray:
        """E of many masks at once. bool (s, p) -> float64 (s,)."""
        chosen = np.asarray(masks, dtype=np.float64)
        out = self.constant + chosen @ self.linear
        if self.hessian is not None:
            return np.asarray(out + 0.5 * np.einsum("sp,sp->s", chosen @ self.couplings, chosen))
        assert self.factor is not None
        scaled = chosen * self.scale
        if chosen.shape[0] == 1:
            squares = np.array([np.sum(times(self.factor, scaled[0]) ** 2)])
        else:
            squares = np.sum((scaled @ self.factor.T.astype(np.float64, copy=False)) ** 2, axis=1)
        return np.asarray(out + 0.5 * (squares - chosen @ self._own_squares))

    def random_mean(self, keeping: Keeping) -> float:
        """The mean of E over uniformly random feasible masks, in closed form.

        With a budget, over masks that keep every weight independently, with the largest probability at which the
        expected costs are within the limits.
        """
        if isinstance(keeping, Cost):
            share = keeping.random_share
            pairs = 0.5 * (self._along(self.scale) - float(self._own_squares.sum()))
            return self.constant + share * float(self.linear.sum()) + share**2 * pairs
        if isinstance(keeping, Quota):
            return self._mean_within(keeping)
        share = keeping.keep / self.p
        pair_share = share * (keeping.keep - 1) / (self.p - 1) if self.p > 1 else 0.0
        pairs = 0.5 * (self._along(self.scale) - float(self._own_squares.sum()))
        return self.constant + share * float(self.linear.sum()) + pair_share * pairs

    def _mean_within(self, quota: Quota) -> float:
        """Weights of two groups are kept independently; two of one group with probability c(c−1)/(s(s−1))."""
        scaled = self.scale * quota.shares
        own = quota.shares**2 * self._own_squares
        pairs = 0.5 * (self._along(scaled) - float(own.sum()))
        sizes, counts = quota.sizes.astype(np.float64), quota.counts.astype(np.float64)
        share = counts / sizes
        together = share * (counts - 1.0) / np.maximum(sizes - 1.0, 1.0)
        inner = 0.5 * (self._group_squares(quota) - np.bincount(quota.group, self._own_squares))
        within = np.where(sizes > 1.0, together - share**2, 0.0)
        return self.constant + float(quota.shares @ self.linear) + pairs + float(within @ inner)

    def _along(self, move: FloatArray) -> float:
        """move'C move, C being the curvature without the ridge."""
        if self.hessian is not None:
            return float(move @ (self.hessian @ move))
        assert self.factor is not None
        total = times(self.factor, move)
        return float(total @ total)

    def _group_squares(self, quota: Quota) -> FloatArray:
        """w̄'C w̄ within each group, C being the curvature without the ridge. float64 (g,)"""
        starts = quota.offsets[:-1]
        if self.hessian is not None:
            out = np.empty(starts.size)
            for number in range(starts.size):
                members = quota.members(number)
                scale = self.scale[members]
                out[number] = scale @ self.hessian[np.ix_(members, members)] @ scale
            return out
        assert self.factor is not None
        total = np.zeros(starts.size)
        for rows in row_chunks(self.factor):
            ordered = (self.factor[rows].astype(np.float64, copy=False) * self.scale)[:, quota.order]
            total += np.sum(np.add.reduceat(ordered, starts, axis=1) ** 2, axis=0)
        return total

    @cached_property
    def _own_squares(self) -> FloatArray:
        """w̄ᵢ²‖aᵢ‖²: the diagonal of C'C, which J does not have."""
        if self.hessian is not None:
            return np.asarray(self.scale**2 * self.hessian.diagonal())
        assert self.factor is not None
        return np.asarray(self.scale**2 * column_squares(self.factor))
