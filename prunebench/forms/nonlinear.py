"""The block problem as a nonlinear model of dwave-optimization: a decision that is a set of `keep` weights.

With C = A diag(w̄) the energy is linear'm − ½ Σ mᵢ‖cᵢ‖² + ½‖C m‖², so the model holds p·n numbers and no
couplings, and every state is feasible. The model's constant is left out of its objective.
"""

from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput


def to_nonlinear(block: BlockProblem) -> Any:
    """A dwave.optimization.Model whose one decision is the set of kept weights.

    Its objective plus `block.to_qubo().constant` is the block's objective.

    Raises
    ------
    InvalidInput   a quota, which one set cannot hold
    """
    if not block.keeping.one_count:
        raise InvalidInput(f"{block.name}: the nonlinear model holds one count, not a quota; use a CQM sampler instead")
    from dwave.optimization.model import Model

    linear, columns = _linear_and_columns(block)
    make: Any = Model
    model = make()
    kept = model.set(block.p, block.keep, block.keep)
    residual = model.constant(columns)[kept, :].sum(axis=0)
    own = model.constant(linear)[kept].sum()
    model.minimize(own + model.constant(0.5) * (residual * residual).sum())
    return model


class BlockSampler:
    """LeapHybridNLSampler, or what acts like it, behind the one method that prunebench calls.

    child : has `sample(model, time_limit=...)` and fills the model's states
    """

    def __init__(self, child: Any) -> None:
        self.child = child
        self.parameters = {"time_limit": [], **getattr(child, "parameters", {})}

    def min_time_limit(self, block: BlockProblem) -> float:
        """The shortest run that the child accepts for the block's model, in seconds."""
        return float(self.child.estimated_min_time_limit(to_nonlinear(block)))

    def sample_block(self, block: BlockProblem, **keywords: Any) -> Any:
        """The model's states as a dimod.SampleSet over 0 … p−1."""
        import dimod

        model = to_nonlinear(block)
        answer = self.child.sample(model, **keywords)
        answer = answer.result() if hasattr(answer, "result") else answer
        (kept,) = model.iter_decisions()
        with model.lock():
            count = model.states.size()
            masks = np.zeros((count, block.p), dtype=np.int8)
            for row in range(count):
                masks[row, np.asarray(kept.state(row), dtype=np.int64)] = 1
            energies = np.array([float(model.objective.state(row)) for row in range(count)])
        make: Any = dimod.SampleSet.from_samples
        return make(masks, energy=energies, vartype="BINARY", info=dict(getattr(answer, "info", {})))


def _linear_and_columns(block: BlockProblem) -> tuple[FloatArray, FloatArray]:
    """linear − ½‖cᵢ‖² (p,) and the rows cᵢ (p, n)."""
    qubo = block.to_qubo()
    if qubo.factor is not None:
        columns = qubo.scaled_factor().T
    else:
        assert qubo.hessian is not None
        matrix = qubo.hessian * qubo.scale[:, None] * qubo.scale
        values, vectors = np.linalg.eigh(matrix)
        columns = vectors * np.sqrt(np.maximum(values, 0.0))
    columns = np.ascontiguousarray(columns)
    return np.asarray(qubo.linear - 0.5 * np.sum(columns**2, axis=1)), columns
