"""The penalty encoding by qiskit-optimization's own optimizer: the baseline, used as its manual shows.

With the library's penalty, one plus the range of the objective and far above its spread, and with random
initial angles it samples like uniform guessing. IBM's migration guide names no successor for its
algorithms, so nothing else here depends on it.
"""

from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.registry import require_packages
from prunebench.core.stop import Stop, StopCheck
from prunebench.solvers.qaoa.devices import Device
from prunebench.solvers.qaoa.samples import Draws

FULL_TURN = 2.0 * np.pi
"""Initial angles are drawn between plus and minus this, in radians."""


class _Stop(Exception):
    """The budget is used up inside the library's loop."""


def solve_program(
    program: Any,
    keep: int,
    device: Device,
    *,
    penalty: float | None,
    reps: int,
    steps: int,
    shots: int,
    rng: np.random.Generator,
    stop: StopCheck,
) -> Draws:
    """`MinimumEigenOptimizer(QAOA(sampler, COBYLA(maxiter=steps), reps))` on a QuadraticProgram.

    Parameters
    ----------
    program : QuadraticProgram of p binary variables and one cardinality constraint
    penalty : weight of (Σm − keep)²; None uses the library's
    stop : called with the evaluations so far; a Stop ends the library's loop with nothing sampled

    The start is uniform in ±2π, the library's default, drawn from `rng`.
    """
    require_packages("mixer 'penalty'", ("qiskit_optimization",), "pip install qiskit-optimization")
    from qiskit_optimization.algorithms import MinimumEigenOptimizer
    from qiskit_optimization.minimum_eigensolvers import QAOA
    from qiskit_optimization.optimizers import COBYLA

    done = 0
    stopped: Stop | None = None

    def watch(count: int, *_: Any) -> None:
        nonlocal done, stopped
        done, stopped = count, stop(count)
        if stopped:
            raise _Stop

    start = rng.uniform(-FULL_TURN, FULL_TURN, 2 * reps)
    minimum = QAOA(
        sampler=device.sampler, optimizer=COBYLA(maxiter=steps), reps=reps,
        initial_point=start, callback=watch, pass_manager=device.pass_manager,
    )  # fmt: skip
    nothing = np.empty((0, program.get_num_binary_vars()), dtype=np.bool_)
    try:
        result = MinimumEigenOptimizer(minimum, penalty=penalty).solve(program)
    except _Stop:
        assert stopped is not None
        return Draws(nothing, 0, done, stopped)
    samples: list[Any] = result.raw_samples or []
    states = np.array([sample.x for sample in samples]) > 0.5
    counts = np.rint(shots * np.array([sample.probability for sample in samples])).astype(np.int64)
    drawn: BoolArray = rng.permutation(np.repeat(states, counts, axis=0))
    feasible = drawn[drawn.sum(axis=1) == keep]
    details = {"feasible_share": len(feasible) / max(len(drawn), 1)}
    stop_at = Stop.finished(f"drew {len(drawn)} samples after {done} evaluations")
    return Draws(feasible, len(drawn), done, stop_at, details)
