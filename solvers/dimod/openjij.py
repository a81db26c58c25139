"""OpenJij's simulated annealing and simulated quantum annealing, as samplers of the dimod family.

OpenJij, https://github.com/OpenJij/OpenJij (Apache-2.0).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from prunebench.core.solver import register
from prunebench.solvers.dimod.solver import DimodSolver, _Annealer, _part


class Reads:
    """One of OpenJij's samplers with a seed of its own for every read.

    Under one seed OpenJij gives the same read `num_reads` times. Given dimod's model it walks through the pairs one by
    one, seconds at a thousand weights, so it gets its own model, made of an array once.
    """

    def __init__(self, name: str, keywords: tuple[str, ...]) -> None:
        import openjij

        self._sampler = getattr(openjij, name)()
        self.parameters: dict[str, list[str]] = {keyword: [] for keyword in ("num_reads", "seed", *keywords)}
        self._model: Any = None
        self._of: Any = None

    def sample(self, bqm: Any, num_reads: int = 1, seed: int = 0, **keywords: Any) -> Any:
        """The reads as one SampleSet."""
        import dimod

        if self._of is not bqm:
            self._model, self._of = _own_model(bqm), bqm
        seeds = np.random.default_rng(seed).integers(2**31, size=num_reads)
        answers = [self._read(int(one), keywords) for one in seeds]
        join: Any = dimod.concatenate
        return join([_plain(answer, bqm) for answer in answers])

    def _read(self, seed: int, keywords: dict[str, Any]) -> Any:
        """One read. OpenJij seeds numpy's global generator by it, which is put back."""
        state = np.random.get_state()  # noqa: NPY002  # it is that one which has to be kept
        try:
            return self._sampler.sample(self._model, num_reads=1, seed=seed, **keywords)
        finally:
            np.random.set_state(state)  # noqa: NPY002  # as it was


def _own_model(bqm: Any) -> Any:
    from openjij import BinaryQuadraticModel

    size = bqm.num_variables
    linear, (first, second, biases), offset = bqm.to_numpy_vectors(range(size))
    matrix = np.diag(linear)
    matrix[np.minimum(first, second), np.maximum(first, second)] = biases
    return BinaryQuadraticModel.from_numpy_matrix(matrix, list(range(size)), offset, "BINARY")


def _plain(answer: Any, bqm: Any) -> Any:
    """OpenJij's answer as dimod's own SampleSet, in the order of the model's variables."""
    import dimod

    make: Any = dimod.SampleSet.from_samples_bqm
    order = np.argsort(np.asarray(list(answer.variables)))
    return make((np.asarray(answer.record.sample)[:, order], range(bqm.num_variables)), bqm)


@dataclass(frozen=True, kw_only=True)
class _OpenJij(_Annealer):
    """Facts of both."""

    requires = ("dimod", "dwave.samplers", "openjij")
    install = "pip install 'prunebench[peers]'"
    reference = "OpenJij, https://github.com/OpenJij/OpenJij"


@register
@dataclass(frozen=True, kw_only=True)
class OpenJij(_OpenJij):
    """OpenJij's simulated annealing by single flips, with temperatures fitted to the block."""

    name = "openjij"

    def make_sampler(self) -> Any:
        """SASampler."""
        return Reads("SASampler", ("num_sweeps", "beta_min", "beta_max"))

    def defaults(self, seed: int, effort: float = 1.0) -> dict[str, Any]:
        """Sweeps, temperatures and a seed."""
        return {
            "num_sweeps": _part(self.sweeps, effort),
            "beta_min": 1.0 / self.hot,
            "beta_max": 1.0 / self.cold,
            "seed": seed,
        }


@register
@dataclass(frozen=True, kw_only=True)
class OpenJijSqa(DimodSolver):
    """OpenJij's simulated quantum annealing: slices of a path integral under a falling transverse field."""

    name = "openjij-sqa"
    requires = ("dimod", "dwave.samplers", "openjij")
    install = "pip install 'prunebench[peers]'"
    reference = "OpenJij, https://github.com/OpenJij/OpenJij"

    sweeps: int = 1000
    """Sweeps a read."""

    slices: int = 8
    """Slices of the path integral."""

    beta: float = 500.0
    """Inverse temperature, in units of the mean energy change of a random swap."""

    gamma: float = 1.0
    """Transverse field at the start, in the same units."""

    def make_sampler(self) -> Any:
        """SQASampler."""
        return Reads("SQASampler", ("num_sweeps", "beta", "gamma", "trotter"))

    def defaults(self, seed: int, effort: float = 1.0) -> dict[str, Any]:
        """Sweeps, slices, temperature, field and a seed."""
        return {
            "num_sweeps": _part(self.sweeps, effort), "trotter": self.slices, "beta": self.beta, "gamma": self.gamma,
            "seed": seed,
        }  # fmt: skip
