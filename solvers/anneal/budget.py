"""Compiled simulated annealing within budgets: weights are dropped, added where they fit, or exchanged.

Half of the proposals flip one weight, half exchange a kept and a pruned one, which a full budget needs; the Metropolis
rule decides on those that fit (Metropolis et al., J. Chem. Phys. 21, 1953). Every mask on the way is feasible.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.cost import Cost
from prunebench.core.stop import StopCheck
from prunebench.kernels.compiled import compiled
from prunebench.kernels.local_search.budget_descent import fits, move, refresh
from prunebench.solvers.anneal.dense import uniform

State = npt.NDArray[np.uint64]
SLICE_PROPOSALS = 2_000_000
"""Proposals between two looks at the clock, some hundredths of a second."""
UNIT_MASKS = 16
"""Random masks used to measure the unit of temperature."""


@dataclass
class BudgetReads:
    """E(m) = linear'm + ½ m'Jm over masks within budgets.

    couplings : J, float64 (p, p), symmetric, zero diagonal;  linear : float64 (p,)
    unit : the mean |change of E| of flips at random masks
    """

    couplings: FloatArray
    linear: FloatArray
    budget: Cost
    unit: float = 0.0

    def measure(self, seed: np.uint64) -> "BudgetReads":
        """Set the unit of temperature from random masks."""
        rng = np.random.default_rng(int(seed))
        masks = [self.budget.filled(rng.permutation(self.linear.size)) for _ in range(UNIT_MASKS)]
        fields = [np.abs(self.linear + self.couplings[:, mask].sum(axis=1)) for mask in masks]
        self.unit = float(np.mean(fields)) or 1.0
        return self

    def run(
        self, seeds: State, temperatures: FloatArray, stop: StopCheck, start: BoolArray | None = None
    ) -> tuple[BoolArray, FloatArray]:
        """Anneals from random masks, or all from `start`, one a seed; a stop ends the present one early."""
        p = self.linear.size
        masks, energies = [], []
        fields, room = np.empty(p), np.empty(self.budget.limits.size)
        step = max(1, SLICE_PROPOSALS // p)
        for seed in seeds:
            order = np.random.default_rng(int(seed)).permutation(p)
            mask = self.budget.filled(order) if start is None else np.array(start)
            state = np.array([seed], dtype=np.uint64)
            for first in range(0, temperatures.size, step):
                sweeps(
                    self.couplings, self.linear, self.budget.costs, self.budget.safe, mask,
                    temperatures[first : first + step], state, fields, room,
                )  # fmt: skip
                if stop(0.0):
                    break
            chosen = mask.astype(np.float64)
            masks.append(mask)
            energies.append(float(self.linear @ chosen + 0.5 * chosen @ self.couplings @ chosen))
            if stop(0.0):
                break
        return np.array(masks), np.array(energies)


@compiled()
def sweeps(
    couplings: FloatArray,
    linear: FloatArray,
    costs: FloatArray,
    limits: FloatArray,
    mask: BoolArray,
    temperatures: FloatArray,
    state: State,
    fields: FloatArray,
    room: FloatArray,
) -> None:
    """One sweep of p proposals a temperature, in place; fields (p,) and room (k,) are overwritten."""
    p = mask.size
    for t in range(temperatures.size):
        # computed anew each sweep, so that rounding does not add up
        refresh(couplings, linear, costs, limits, mask, fields, room)
        temperature = temperatures[t]
        for _ in range(p):
            first, second = int(uniform(state) * p), -1
            leaving, entering = (first, -1) if mask[first] else (-1, first)
            if uniform(state) < 0.5:
                second = int(uniform(state) * p)
                if mask[second] == mask[first]:
                    continue
                leaving, entering = (first, second) if mask[first] else (second, first)
            change = 0.0
            if leaving >= 0:
                change -= fields[leaving]
            if entering >= 0:
                change += fields[entering]
                if leaving >= 0:
                    change -= couplings[leaving, entering]
            if change > 0.0 and (temperature <= 0.0 or uniform(state) >= np.exp(-change / temperature)):
                continue
            if fits(costs, room, leaving, entering):
                move(couplings, costs, mask, fields, room, leaving, entering)
