"""QAOA simulated exactly in the feasible subspace: C(p, keep) masks instead of 2^p states.

Farhi, Goldstone, Gutmann: A quantum approximate optimization algorithm, arXiv 1411.4028; with mixers that
keep the number of ones, Hadfield et al., Algorithms 12 (2019) 34, and Bärtschi, Eidenbenz, QCE 2020.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.core.stop import StopCheck
from prunebench.forms.circuits import MIXERS, mixer_pairs
from prunebench.kernels.enumeration import subspace
from prunebench.kernels.enumeration.values import mask_values
from prunebench.solvers.qaoa import starts
from prunebench.solvers.qaoa.fit import ANGLES, Fit, fit_angles, weighted_by
from prunebench.solvers.qaoa.objectives import OBJECTIVES, fitting_steepness, objective
from prunebench.solvers.qaoa.objectives import Objective as OfProbabilities
from prunebench.solvers.qaoa.optimizers import OPTIMIZERS, Objective
from prunebench.solvers.qaoa.options import LEAST, wrong_option
from prunebench.solvers.qaoa.reduce import Part, eliminate, through_parts
from prunebench.solvers.qaoa.samples import Draws, answer, best_of, state_statistics

if TYPE_CHECKING:
    from prunebench.solvers.qaoa.simulator import Simulator

ENERGIES = ("value", "rank")
"""What the phase of a state is proportional to: its objective, or the objective's rank."""

MOST_STEPS = 20
"""Default steps where few masks make each of them cheap."""
FEWEST_STEPS = 3
"""Least default steps: on 24 blocks of 20 weights the optimum had at least 16,000 times its uniform probability."""
STEPS_TIMES_MASKS = 3e5
"""Between these, the product with the number of feasible masks, so that a solve of 20 weights takes under a second."""


def _shown(count: int) -> str:
    """A count of any size in a few characters: those of large blocks are beyond what a float holds."""
    return f"{count:.3g}" if count < 10**15 else f"10^{math.log10(count):.0f}"


@register
@dataclass(frozen=True, kw_only=True)
class QaoaSubspace(Solver):
    """Prepare the QAOA state exactly, sample it, and answer with the best sampled mask.

    A simulator of an algorithm, not a competitor: it evaluates every feasible mask first, so enumeration
    would be cheaper. It shows what an ideal quantum computer would sample. As the diagonal may be any value
    per mask, it takes refit problems as well as select problems.

    By default every weight has its own phase angle in each layer, which costs a circuit no gate. The loop then
    does most of the work: such angles alone, fitted in the same way without the objective in the circuit, do as
    well. `angles=layer` is plain QAOA.

    Cost N·(1 + pairs)·reps per state with N = C(p, keep), about three times that with its gradient.
    Nothing is proved: the lower bound is −inf.
    """

    name = "qaoa-subspace"
    stochastic = True
    whole_at_limit = True
    requires = ("numba",)
    install = "pip install numba"
    reference = "Farhi et al. 2014, arXiv 1411.4028; Hadfield et al. 2019, arXiv 1709.03489"

    mixer: Literal["complete", "ring", "grover"] = "complete"
    """What moves amplitude between feasible masks: XY exchanges of all pairs, of neighbours on a ring, or Grover's."""
    energies: Literal["value", "rank"] = "value"
    """The diagonal: value, the objective, as a device can do it; rank, the masks' ranks as normal quantiles, where
    the optimum comes out more often, but which no circuit of practical size does."""
    angles: Literal["weight", "layer"] | None = None
    """layer, one γ and one β a layer; weight, besides those one angle for each weight in each layer. None takes
    weight where L-BFGS fits them, else layer."""
    objective: Literal["gibbs", "mean", "cvar"] = "gibbs"
    """What the loop lowers: the Gibbs objective, so steep that all other masks together weigh as much as the best, the
    mean, or the best quarter's mean."""
    reps: int = 5
    """Layers of the circuit."""
    start: Literal["ramp", "transfer", "interpolate"] = "ramp"
    """First angles: a linear ramp, fixed angles fitted on smaller blocks, or grown from one layer by interpolation."""
    optimizer: Literal["lbfgs", "cobyla", "spsa", "fixed"] = "lbfgs"
    """The classical loop: L-BFGS with exact gradients, COBYLA, SPSA, or fixed, which keeps the first angles."""
    steps: int | None = None
    """Iterations of L-BFGS or SPSA, evaluations of COBYLA; a whole loop at each depth when interpolating. None: 20,
    from 15,000 feasible masks on fewer, down to 3 from 100,000 on."""
    shots: int = 1000
    """Samples drawn from the final state; the answer is the best of them."""
    qubits: int = 0
    """Solve a larger block through sub-blocks of at most this many weights; 0 takes the block whole."""
    parts: int = 24
    """How many sub-blocks are solved when the block is larger than `qubits`."""
    recursion: int = 0
    """Recursive QAOA: freeze the most decided weight until this many are free, then try all masks; 0 is off."""
    polish: bool = False
    """End with a swap descent from the best sample; the raw sample stays in the details."""
    memory: float = 4.0
    """Gigabytes that a simulation may take; a block that needs more is refused."""

    def refuses(self, block: BlockProblem) -> str:
        """An option out of range, or more feasible masks than fit the memory."""
        wrong = self._wrong_option()
        if wrong:
            return wrong
        size, keep = block.p, block.keep
        if self.qubits and block.p > self.qubits:
            size, keep = self.qubits, self.qubits // 2
        needed = self._bytes(size, keep)
        if size <= subspace.MAX_BITS and needed <= self.memory * 1e9:
            return ""
        share = keep / size
        fitting = [p for p in range(2, subspace.MAX_BITS) if self._bytes(p, round(share * p)) <= self.memory * 1e9]
        largest = max(fitting, default=0)
        if largest == 0:
            return f"memory is {self.memory:g} GB, too little for any block; raise it"
        what = f"{size} weights with {keep} kept have {_shown(subspace.state_count(size, keep))} feasible masks"
        return (
            f"{what}, {_shown(needed // 10**9)} GB where {self.memory:g} are allowed (at most {subspace.MAX_BITS} "
            f"weights); use --block-size {largest}, or the option qubits={min(largest, 12)} to solve it through "
            "sub-blocks"
        )

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best sampled mask, or the incumbent if that is better."""
        draws = through_parts(
            best, self.qubits, self.parts, rng, lambda part, spent: self._search(part, best, rng, spent=spent)
        )
        return answer(best, draws, polish=self.polish)

    def _search(self, block: BlockProblem, best: Incumbent, rng: np.random.Generator, *, spent: int) -> Draws:
        """Samples of the block's final state, or the single mask that recursion ends with."""
        if block.keep in (0, block.p):
            return Draws(block.incumbent[None], 0, 0, Stop.finished("there is one feasible mask"))
        if not (self.recursion and block.p > self.recursion):
            return self._sample(Part.whole(block), best, rng, spent)[0]
        total = 0
        why: Stop | None = None

        def kept_share(part: Part) -> FloatArray | None:
            nonlocal total, why
            why = best.stop(spent + total)
            if why:
                return None
            draws, share = self._sample(part, best, rng, spent + total)
            total += draws.evaluations
            return share

        part, frozen = eliminate(block, self.recursion, kept_share)
        masks = part.block.incumbent[None]
        if not why:
            rest = subspace.feasible_space(part.free.size, part.keep, mixer_pairs(0, "none")).masks()
            masks = best_of(block, part.expand(rest))[0][:1]
        details = {"frozen": [list(step) for step in frozen]}
        return Draws(
            masks, 0, total, why or Stop.finished(f"froze {len(frozen)} weights, then tried all masks"), details
        )

    def _sample(self, part: Part, best: Incumbent, rng: np.random.Generator, spent: int) -> tuple[Draws, FloatArray]:
        """Samples of the state at the best angles found, with the exact probability that each free weight is kept."""
        from prunebench.solvers.qaoa.simulator import Simulator, gaussian_ranks, spread

        size = part.free.size
        with best.building():
            space = subspace.feasible_space(size, part.keep, mixer_pairs(size, self.mixer))
            masks = space.masks()
            values = mask_values(part.block, part.expand(masks))
            mean, deviation = spread(values)
            energies = (values - mean) / deviation
            simulator = Simulator(
                space, gaussian_ranks(values) if self.energies == "rank" else energies, self.mixer == "grover"
            )
        built = best.seconds
        fit, seen = self._fit(simulator, size, rng, best.stop_after(spent))
        angles = fit.angles
        optimized = best.seconds
        chances, first = seen.lowest, seen.first
        # another optimizer's first value need not be that of the first angles
        if self.optimizer != "lbfgs" or chances is None or first is None:
            chances = replace(simulator, weighted=self._weighted).probabilities(angles)
            first = simulator.probabilities(fit.first)
        drawn = rng.choice(space.size, size=self.shots, p=chances)
        scale = part.block.form.constant + mean
        details: dict[str, Any] = {
            "mixer": self.mixer,
            "energies": self.energies,
            "angles": "weight" if self._weighted else "layer",
            "objective": self.objective,
            "reps": self.reps,
            "feasible_masks": space.size,
            "gammas": angles[: self.reps].tolist(),
            "betas": angles[self.reps : 2 * self.reps].tolist(),
            "weight_angles": angles[2 * self.reps :].reshape(-1, size).tolist(),
            "expectation": scale + deviation * float(energies @ chances),
            "expectation_at_start": scale + deviation * float(energies @ first),
            "uniform_mean": scale,
            "most_probable_objective": part.block.form.constant + float(values[np.argmax(chances)]),
            "uniform_best_objective": part.block.form.constant
            + float(values[rng.integers(space.size, size=self.shots)].min()),
            **state_statistics(energies, chances),
        }
        timings = {"optimize": optimized - built, "sample": best.seconds - optimized}
        stop = fit.stopped or Stop.finished(f"drew {self.shots} samples after {fit.evaluations} evaluations")
        draws = Draws(part.expand(masks[drawn]), self.shots, fit.evaluations, stop, details, timings)
        return draws, np.asarray(chances @ masks)

    def _fit(self, simulator: "Simulator", size: int, rng: np.random.Generator, stop: StopCheck) -> tuple[Fit, "_Seen"]:
        """The angles, with the probabilities that the last loop began and ended with."""
        aim = _Seen(objective(self.objective, simulator.energies, fitting_steepness(simulator.energies)))

        def lowered(weighted: bool) -> Objective:
            aim.forget()
            circuit = replace(simulator, weighted=weighted)
            if self.optimizer == "lbfgs":
                return lambda angles: circuit.gradient(angles, aim)
            return lambda angles: (circuit.expectation(angles, aim), None)

        fit = fit_angles(
            lowered, size, mixer=self.mixer, reps=self.reps, start=self.start, optimizer=self.optimizer,
            weighted=self._weighted, steps=_steps(simulator.space.size) if self.steps is None else self.steps,
            rng=rng, stop=stop,
        )  # fmt: skip
        return fit, aim

    @property
    def _weighted(self) -> bool:
        return weighted_by(self.angles, self.optimizer)

    def _bytes(self, p: int, keep: int) -> int:
        factors = {"complete": p * (p - 1) // 2, "ring": p, "grover": 0}[self.mixer]
        return subspace.memory_needed(p, keep, factors, self.reps)

    def _wrong_option(self) -> str:
        known = {
            "mixer": MIXERS,
            "energies": ENERGIES,
            "angles": ANGLES,
            "objective": OBJECTIVES,
            "start": starts.STARTS,
            "optimizer": OPTIMIZERS,
        }
        return wrong_option(self, known, LEAST)


class _Seen:
    """An objective that keeps the probabilities of its first and of its lowest value: a state costs most of a solve.

    first, lowest : float64 (N,); None before the first value
    """

    def __init__(self, aim: OfProbabilities) -> None:
        self._aim = aim
        self.forget()

    def forget(self) -> None:
        """Another loop begins."""
        self._value = float("inf")
        self.first: FloatArray | None = None
        self.lowest: FloatArray | None = None

    def __call__(self, chances: FloatArray) -> tuple[float, FloatArray]:
        """The value and its derivatives, as the objective gives them."""
        value, slope = self._aim(chances)
        if self.first is None:
            self.first = chances
        if value < self._value:
            self._value, self.lowest = value, chances
        return value, slope


def _steps(masks: int) -> int:
    """The default number of steps for so many feasible masks."""
    return int(min(MOST_STEPS, max(FEWEST_STEPS, STEPS_TIMES_MASKS / masks)))
