"""QAOA in the feasible subspace: exact states, expectations and gradients by the adjoint method.

    |ψ⟩ = Π_l M(β_l) exp(−iγ_l e) |D⟩,   e the values shifted and scaled to mean 0, deviation 1

M is a product of pair rotations exp(−iβ(XX+YY)/2), or Grover's exp(−iβ|D⟩⟨D|). With an angle for every
weight, the phase of layer l is γ_l e + Σᵢ φ_li mᵢ instead: the multi-angle ansatz (Herrman, Lotshaw,
Ostrowski, Humble, Siopsis, Scientific Reports 12 (2022) 6781, arXiv 2109.11455) restricted to the
single-qubit terms, which needs no further gate in a circuit.

The adjoint runs the circuit backwards once with |λ⟩ = ∂F/∂P · |ψ⟩ beside the state, P the probabilities
and F the objective (for the mean, λ = e|ψ⟩): ∂F/∂θ = 2 Im⟨λ|G|ψ⟩ for each factor exp(−iθG) (Jones and
Gacon: Efficient calculation of gradients in classical simulations of variational quantum algorithms,
arXiv 2009.02823, algorithm 1).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray
from prunebench.kernels.enumeration import loops
from prunebench.kernels.enumeration.subspace import Space
from prunebench.solvers.qaoa.objectives import Objective

ComplexArray = npt.NDArray[np.complex128]


def spread(values: FloatArray, feasible: npt.NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """(mean, standard deviation) of the values over the feasible states; the deviation is 1 if all are equal.

    Normalised by these, angles fitted to one block can be used for blocks of any scale.
    """
    chosen = values if feasible is None else values[feasible]
    mean = float(chosen.mean())
    deviation = float(chosen.std())
    rounding = 8.0 * np.finfo(np.float64).eps * float(np.abs(chosen).max(initial=0.0))
    return mean, deviation if deviation > rounding else 1.0


def gaussian_ranks(values: FloatArray) -> FloatArray:
    """The values' ranks as quantiles of the normal distribution, scaled to deviation 1. float64 (N,) -> float64 (N,).

    Order and ties are preserved. Energies of a block are usually skewed, so that the best masks lie close to
    the mean and get nearly the same phases as most others; normal quantiles separate them.
    """
    from scipy.special import ndtri

    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    quantiles = (np.cumsum(counts) - 0.5 * counts) / values.size
    scores = np.asarray(ndtri(quantiles)[place], dtype=np.float64)
    return scores / (float(scores.std()) or 1.0)


@dataclass(frozen=True, eq=False)
class Simulator:
    """The QAOA circuit of one diagonal objective and one mixer, on a `Space`.

    space : Space
    energies : float64 (N,)   the objective at each basis state, normalised by the caller (`spread`)
    grover : bool             the rank-one mixer in place of the space's pair rotations

    weighted : bool           every weight has its own angle in each layer

    Angles are float64 (d,): reps phase angles γ, reps mixer angles β and, if weighted, reps·p angles φ,
    layer by layer. A value costs reps·(N + E·M) steps, a value with its gradient about three times
    that.
    """

    space: Space
    energies: FloatArray
    grover: bool = False
    weighted: bool = False

    def state(self, angles: FloatArray) -> ComplexArray:
        """The final state. float64 (d,) -> complex128 (N,)."""
        return np.ascontiguousarray(self._forward(angles)).view(np.complex128)[:, 0]

    def probabilities(self, angles: FloatArray) -> FloatArray:
        """The probability of each basis state; sums to 1. float64 (d,) -> float64 (N,)."""
        return _probabilities(self._forward(angles))

    def expectation(self, angles: FloatArray, objective: Objective | None = None) -> float:
        """⟨e⟩ in the final state, or another objective of its probabilities."""
        if objective is not None:
            return objective(self.probabilities(angles))[0]
        state = self._forward(angles)
        return float(np.einsum("n,nc,nc->", self.energies, state, state))

    def gradient(self, angles: FloatArray, objective: Objective | None = None) -> tuple[float, FloatArray]:
        """⟨e⟩, or another objective of the probabilities, with its exact gradient. (d,) -> float, float64 (d,)."""
        gammas, betas, shifts = self._parts(angles)
        reps = gammas.size
        both = np.empty((self.space.size, 4))
        factors: list[FloatArray] = []
        both[:, :2] = self._forward(angles, factors)
        if objective is None:
            both[:, 2:] = self.energies[:, None] * both[:, :2]
            value = float(np.einsum("nc,nc->", both[:, :2], both[:, 2:]))
        else:
            value, weights = objective(_probabilities(both[:, :2]))
            both[:, 2:] = weights[:, None] * both[:, :2]
        slopes = np.empty(np.size(angles))
        for layer in range(reps - 1, -1, -1):
            if self.grover:
                slopes[reps + layer] = loops.apply_uniform(both, -betas[layer])
            else:
                slopes[reps + layer] = loops.undo_pairs(both, *self.space.pairs, betas[layer])
            slopes[layer] = loops.phase_slope(both, self.energies)
            if shifts is not None:
                begin = 2 * reps + layer * self.space.p
                slopes[begin : begin + self.space.p] = loops.weight_slopes(both, self.space.states, self.space.p)
            loops.turn(both, factors.pop(), -1.0)
        return value, slopes

    def _parts(self, angles: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray | None]:
        """γ (reps,), β (reps,) and φ (reps, p) or None."""
        given = np.asarray(angles, dtype=np.float64)
        reps = given.size // (2 + self.space.p * self.weighted)
        shifts = given[2 * reps :].reshape(reps, self.space.p) if self.weighted else None
        return given[:reps], given[reps : 2 * reps], shifts

    def _forward(self, angles: FloatArray, used: list[FloatArray] | None = None) -> FloatArray:
        """The state as float64 (N, 2); appends the layers' phase factors to `used`, where a gradient reuses them."""
        gammas, betas, shifts = self._parts(angles)
        state = np.zeros((self.space.size, 2))
        state[:, 0] = self.space.size**-0.5
        for layer, (gamma, beta) in enumerate(zip(gammas, betas, strict=True)):
            if shifts is None:
                factors = loops.phase_factors(self.energies, gamma)
            else:
                factors = loops.weighted_phase_factors(self.energies, gamma, self.space.states, shifts[layer])
            loops.turn(state, factors, 1.0)
            if used is not None:
                used.append(factors)
            if self.grover:
                loops.apply_uniform(state, beta)
            else:
                loops.apply_pairs(state, *self.space.pairs, beta)
        return state


def _probabilities(state: FloatArray) -> FloatArray:
    """Squared lengths of the rows, scaled to sum 1. (N, 2) -> (N,)"""
    chances = np.einsum("nc,nc->n", state, state)
    return np.asarray(chances / chances.sum())
