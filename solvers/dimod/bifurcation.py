"""Simulated bifurcation, by the package of that name, as a sampler of the dimod family.

Goto et al.: High-performance combinatorial optimization based on classical mechanics, Science Advances 2021 (the
ballistic and discrete variants); package simulated-bifurcation (MIT).
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.errors import Refusal
from prunebench.core.solver import register
from prunebench.solvers.dimod.solver import DimodSolver, _part

MOST_STEPS = 10_000_000
"""Most steps of a read."""


class Agents:
    """The package's `minimize` as a sampler: reads are agents, which run at once; steps are sweeps."""

    def __init__(self, mode: str, heated: bool) -> None:
        self._mode, self._heated = mode, heated
        self.parameters: dict[str, list[str]] = {keyword: [] for keyword in ("num_reads", "num_sweeps", "seed")}

    def sample(self, bqm: Any, num_reads: int = 1, num_sweeps: int = 1000, seed: int = 0) -> Any:
        """The agents' last states as one SampleSet."""
        import dimod
        import simulated_bifurcation
        import torch

        size = bqm.num_variables
        linear, (first, second, biases), offset = bqm.to_numpy_vectors(range(size))
        matrix = np.zeros((size, size))
        matrix[first, second] = biases
        # the package draws from torch's own generator, which is put back
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # said of every read whose agents have not come to rest; their states count all the same
            warnings.filterwarnings("ignore", message="No agent has converged|Some agents have not converged")
            torch.manual_seed(seed)
            states, _ = simulated_bifurcation.minimize(
                matrix, np.asarray(linear), float(offset), domain="binary", dtype=torch.float64, agents=num_reads,
                max_steps=num_sweeps, best_only=False, mode=self._mode, heated=self._heated, verbose=False,
            )  # fmt: skip
        make: Any = dimod.SampleSet.from_samples_bqm
        rows = np.rint(states.numpy().reshape(num_reads, size)).astype(np.int8)
        return make((rows, range(size)), bqm)


@register
@dataclass(frozen=True, kw_only=True)
class Bifurcation(DimodSolver):
    """Simulated bifurcation: agents that follow classical mechanics past a bifurcation into one state a weight."""

    name = "simulated-bifurcation"
    requires = ("dimod", "dwave.samplers", "simulated_bifurcation")
    install = "pip install 'prunebench[peers]'"
    reference = "Goto et al., Science Advances 2021"

    steps: int = 1000
    """Steps of a read; agents that have come to rest stop before."""

    variant: Literal["ballistic", "discrete"] = "discrete"
    """Which of the two variants."""

    heated: bool = False
    """Whether positions are heated."""

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """Also too few or too many steps."""
        if not 1 <= self.steps <= MOST_STEPS:
            return f"steps is {self.steps}; choose 1 to {MOST_STEPS:,}"
        return DimodSolver.refuses(self, block)

    def make_sampler(self) -> Any:
        """The agents."""
        return Agents(self.variant, self.heated)

    def defaults(self, seed: int, effort: float = 1.0) -> dict[str, Any]:
        """Steps and a seed."""
        return {"num_sweeps": _part(self.steps, effort), "seed": seed}
