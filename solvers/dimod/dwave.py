"""D-Wave hardware, and a mock with the same topology, embedding, chains and timing but no device.

D-Wave Ocean: dwave-system (Apache-2.0). As blocks are fully coupled, the embedding is minorminer's
busclique clique embedding, computed once for each device and block size.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.errors import PrunebenchError
from prunebench.core.solver import Incumbent, Solver, Stop, register

NO_ACCESS = (
    "no access to D-Wave's Leap ({error}); set DWAVE_API_TOKEN or run 'dwave config create', or use solver 'dwave-mock'"
)
"""The message for users without access."""

DEVICES = ("qpu", "hybrid-cqm", "hybrid-nl")
"""Kinds of D-Wave solvers."""


@dataclass(frozen=True, kw_only=True)
class _Device(Solver):
    """Common base of hardware and mock: reads of one annealer, repaired and polished."""

    modes = frozenset({"select"})
    stochastic = True
    requires = ("dwave.system",)
    install = "pip install dwave-system"
    reference = "D-Wave Ocean: dwave-system, https://docs.dwavequantum.com"
    extra_keywords: ClassVar[tuple[str, ...]] = ()
    miniature = False
    simulated: ClassVar[bool] = False

    encoding: Literal["adaptive", "lagrange", "safe"] = "lagrange"
    """How the cardinality enters; lagrange leaves the range of the couplings alone."""

    reads: int = 100
    """Reads of one submission without a limit on seconds."""

    chain_strength: float | None = None
    """Coupling inside a chain in units of the largest bias, in spin variables; none: uniform torque compensation."""

    keywords: tuple[str, ...] = ()
    """Keywords of the sampler as name=value; an unknown one is an error."""

    polish: bool = True
    """End with the shared swap descent, reported apart."""

    keep_samples: int | None = 100
    """Lowest distinct samples kept whole in the details; none: all of them; 0: none of them."""

    patience: float = 3600.0
    """Seconds after which a call without an answer is given up on; with a limit on seconds, 5 s after it."""

    def child(self) -> Any:
        """The annealer itself, without embedding."""
        raise NotImplementedError

    def warm_up(self, block: BlockProblem) -> None:
        """Load the libraries; sends nothing to the sampler."""
        from prunebench.solvers.dimod.timed_run import load

        load(block)

    def refuses(self, block: BlockProblem) -> str:
        """No access, or more weights than the device's largest clique."""
        if self.reads < 1:
            return f"reads is {self.reads}; choose at least 1"
        if self.chain_strength is not None and not self.chain_strength > 0.0:
            return f"chain_strength is {self.chain_strength}; choose a positive one, or none"
        if not self.patience > 0.0:
            return f"patience is {self.patience}; choose a positive number of seconds"
        try:
            child = self.child()
        except ValueError as error:
            return NO_ACCESS.format(error=error)
        if not hasattr(child, "to_networkx_graph"):
            return ""
        largest = _largest_clique(child)
        if block.p > largest:
            return f"the device holds at most {largest} fully coupled weights; set the block size to {largest} or less"
        return ""

    def defaults(self, seed: int, effort: float = 1.0) -> dict[str, Any]:
        """The chain strength if set, and a request to report the embedding."""
        found: dict[str, Any] = {"return_embedding": True}
        if self.chain_strength is not None:
            from dwave.embedding.chain_strength import scaled

            found["chain_strength"] = partial(scaled, prefactor=self.chain_strength)
        return found

    def sampler_for(self, block: BlockProblem) -> Any:
        """The annealer with the clique embedding for the block's size; a hybrid solver needs none."""
        child = self.child()
        if not hasattr(child, "to_networkx_graph"):
            return child
        from dwave.system import FixedEmbeddingComposite

        composite: Any = FixedEmbeddingComposite
        return composite(child, _embedding(child, block.p))

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best sample after repair and polish, or the incumbent if none is better."""
        from prunebench.solvers.dimod.timed_run import sample_block

        return sample_block(self, best, rng)


@register
@dataclass(frozen=True, kw_only=True)
class DWave(_Device):
    """A D-Wave quantum annealer or hybrid solver; needs a Leap token. Results depend on the device."""

    name = "dwave"

    device: Literal["qpu", "hybrid-cqm", "hybrid-nl"] = "qpu"
    """The annealer itself, or a hybrid solver: the cardinality as a constraint, or as the size of a set."""

    def child(self) -> Any:
        """DWaveSampler or a Leap hybrid solver; raises ValueError without a token."""
        import dwave.system as system

        from prunebench.forms.nonlinear import BlockSampler

        if self.device == "hybrid-nl":
            return BlockSampler(_connected(system.LeapHybridNLSampler))
        make: Any = system.DWaveSampler if self.device == "qpu" else system.LeapHybridCQMSampler
        return _connected(make)

    def refuses(self, block: BlockProblem) -> str:
        """Also an unknown device."""
        if self.device not in DEVICES:
            return f"device is {self.device!r}; choose one of {', '.join(DEVICES)}"
        return _Device.refuses(self, block)


@register
@dataclass(frozen=True, kw_only=True)
class DWaveMock(_Device):
    """dwave-system's mock annealer: real topology, embedding and chains; its samples and times are not physics."""

    name = "dwave-mock"
    simulated = True

    topology: Literal["chimera", "pegasus", "zephyr"] = "pegasus"
    """The device's graph."""

    rows: int = 8
    """Its size: pegasus 16 is an Advantage, zephyr 12 an Advantage2."""

    def child(self) -> Any:
        """MockDWaveSampler with that topology."""
        return _mock(self.topology, self.rows)

    def defaults(self, seed: int, effort: float = 1.0) -> dict[str, Any]:
        """As for a device, plus a seed for the mock's substitute sampler, which no device takes."""
        self.child().substitute_kwargs = {"seed": seed}
        return _Device.defaults(self, seed, effort)

    def refuses(self, block: BlockProblem) -> str:
        """Also a topology size below 2."""
        return f"rows is {self.rows}; choose at least 2" if self.rows < 2 else _Device.refuses(self, block)


@lru_cache(maxsize=8)
def _connected(make: Any) -> Any:
    """One connection for all blocks; failures are not cached."""
    return make()


@lru_cache(maxsize=8)
def _mock(topology: str, rows: int) -> Any:
    from dwave.system.testing import MockDWaveSampler

    make: Any = MockDWaveSampler
    shape = [rows, rows, 4] if topology == "chimera" else [rows]
    return make(topology_type=topology, topology_shape=shape, parameter_warnings=False)


_EMBEDDINGS: dict[tuple[str, int], dict[int, tuple[int, ...]]] = {}
"""Clique embeddings by device and block size, shared by blocks of one size."""


def _embedding(child: Any, size: int) -> dict[int, tuple[int, ...]]:
    from minorminer.busclique import find_clique_embedding

    key = (_identity(child), size)
    if key not in _EMBEDDINGS:
        found = find_clique_embedding(size, child.to_networkx_graph())
        if len(found) != size:
            raise PrunebenchError(f"no clique embedding of {size} weights in {key[0]}; choose a smaller block")
        _EMBEDDINGS[key] = found
    return _EMBEDDINGS[key]


def _largest_clique(child: Any) -> int:
    from minorminer.busclique import busgraph_cache

    return len(busgraph_cache(child.to_networkx_graph()).largest_clique())


def _identity(child: Any) -> str:
    properties = child.properties
    return f"{properties.get('chip_id')} {properties.get('topology')} {len(child.nodelist)} {len(child.edgelist)}"
