"""PruneSampler: our swap annealer as a dimod.Sampler, with the cardinality as a parameter."""

from typing import Any

import dimod
import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.errors import InvalidInput
from prunebench.core.stop import never

_Sampler: Any = dimod.Sampler  # type: ignore[attr-defined]  # dimod exports it by a star import


class PruneSampler(_Sampler):  # type: ignore[misc]  # dimod's base class is untyped
    """Swap-move simulated annealing of any binary quadratic model, exactly `cardinality` ones if asked for.

    Without a cardinality p idle variables are added and p of the 2p are chosen, which is the
    unconstrained problem: a swap of a real with an idle variable is a single flip.
    """

    @property
    def parameters(self) -> dict[str, list[str]]:
        """The keywords of `sample`."""
        return {name: [] for name in ("cardinality", "num_reads", "num_sweeps", "hot", "cold", "seed")}

    @property
    def properties(self) -> dict[str, Any]:
        """None."""
        return {}

    def sample(
        self,
        bqm: Any,
        *,
        cardinality: int | None = None,
        num_reads: int = 10,
        num_sweeps: int = 1000,
        hot: float = 0.3,
        cold: float = 3e-5,
        seed: int | None = None,
        **unknown: Any,
    ) -> Any:
        """A dimod.SampleSet of `num_reads` anneals.

        cardinality : how many variables are 1, exactly; none: any number
        hot, cold : temperatures in units of a random swap's mean energy change

        Raises
        ------
        InvalidInput   an unknown keyword, or numbers out of range
        """
        if unknown:
            raise InvalidInput(
                f"PruneSampler has no keyword {next(iter(unknown))!r}; it has {', '.join(self.parameters)}"
            )
        size = bqm.num_variables
        if cardinality is not None and not 0 <= cardinality <= size:
            raise InvalidInput(f"cardinality is {cardinality} but the model has {size} variables; choose 0 to {size}")
        if num_reads < 1 or num_sweeps < 1 or not 0.0 < cold <= hot:
            raise InvalidInput("num_reads and num_sweeps must be at least 1 and temperatures 0 < cold <= hot")
        binary = bqm.change_vartype("BINARY", inplace=False)
        labels = list(binary.variables)
        masks = np.zeros((num_reads, size), dtype=np.bool_)
        if size:
            masks = _masks(binary, cardinality, num_reads, (hot, cold, num_sweeps), np.random.default_rng(seed))
        values = masks.astype(np.int8)
        make: Any = dimod.SampleSet.from_samples_bqm
        found = make((values, labels), binary)
        return found.change_vartype(bqm.vartype, inplace=False)


def _masks(
    bqm: Any, cardinality: int | None, reads: int, schedule: tuple[float, float, int], rng: np.random.Generator
) -> BoolArray:
    """Anneal the model's arrays. -> bool (reads, p)"""
    from prunebench.solvers.anneal.reads import DenseReads

    size = bqm.num_variables
    total = size if cardinality is not None else 2 * size
    keep = cardinality if cardinality is not None else size
    if keep in (0, total):
        return np.full((reads, size), keep > 0, dtype=np.bool_)
    vectors = bqm.to_numpy_vectors(list(bqm.variables))
    linear, couplings = np.zeros(total), np.zeros((total, total))
    linear[:size] = vectors.linear_biases
    np.add.at(couplings, (vectors.quadratic.row_indices, vectors.quadratic.col_indices), vectors.quadratic.biases)
    couplings += couplings.T
    if not (np.isfinite(linear).all() and np.isfinite(couplings).all()):
        raise InvalidInput("the model holds a bias that is nan or infinite; all biases must be finite")
    seeds = rng.integers(1, 2**63, size=reads + 1, dtype=np.uint64)
    source = DenseReads(couplings, linear, keep).measure(seeds[0])
    hot, cold, sweeps = schedule
    found, _ = source.run(seeds[1:], source.unit * np.geomspace(hot, cold, sweeps), never)
    return found[:, :size]
