"""QAOA on Qiskit's V2 samplers: state vector, Aer, noisy and fake devices, IBM Quantum.

Farhi, Goldstone, Gutmann: A quantum approximate optimization algorithm, arXiv 1411.4028; Hadfield et al.,
Algorithms 12 (2019) 34 (mixers that keep the number of ones); Brandao et al., arXiv 1812.04170 (fixed angles).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.solver import Facts, Incumbent, Solver, Stop, facts, register
from prunebench.core.stop import StopCheck
from prunebench.forms import qiskit as forms
from prunebench.forms.circuits import MIXERS, Ansatz, mixer_pairs
from prunebench.forms.dimod import encode, repair
from prunebench.kernels.enumeration import subspace
from prunebench.kernels.enumeration.values import mask_values
from prunebench.solvers.qaoa import devices, reference, starts, transpile
from prunebench.solvers.qaoa.fit import ANGLES, Fit, fit_angles, weighted_by
from prunebench.solvers.qaoa.objectives import OBJECTIVES, fitting_steepness, objective, of_samples
from prunebench.solvers.qaoa.optimizers import OPTIMIZERS, Objective
from prunebench.solvers.qaoa.options import LEAST, wrong_option
from prunebench.solvers.qaoa.reduce import Part, eliminate, through_parts
from prunebench.solvers.qaoa.samples import (
    Draws,
    answer,
    baselines,
    best_of,
    sample_statistics,
    uniform_masks,
)

ENUMERABLE = 200_000
"""Most feasible masks for which the exact spread, exact gradients and the true optimum are computed too."""


@register
@dataclass(frozen=True, kw_only=True)
class Qaoa(Solver):
    """Run a QAOA circuit on a sampler and answer with the best sampled mask.

    Dicke start and a mixer that preserves the number of ones, or the penalty encoding of
    qiskit-optimization as the baseline. On noisy simulators and hardware the default is one layer with
    fixed angles and no classical loop. Proves nothing. Compare `probability_optimum` with
    `probability_optimum_uniform` in the details before believing in an advantage.
    """

    name = "qaoa"
    modes = frozenset({"select"})
    stochastic = True
    whole_at_limit = True
    requires = ("qiskit", "numba")
    install = "pip install 'qiskit>=2' numba"
    reference = "Farhi et al. 2014, arXiv 1411.4028; Hadfield et al. 2019, arXiv 1709.03489"

    sampler: Any = "statevector"
    """Where circuits run: statevector, aer, noisy, fake:NAME, ibm, ibm:NAME, or a V2 sampler primitive."""
    pass_manager: Any = None
    """A pass manager that transpiles for the sampler; none makes a preset one for the sampler's backend."""
    mixer: Literal["complete", "ring", "grover", "penalty"] = "complete"
    """XY exchanges of all pairs, of neighbours on a ring, Grover's, or penalty: the baseline by qiskit-optimization."""
    reps: int | None = None
    """Layers; none takes 3 on exact simulators and 1 on noisy ones and hardware."""
    angles: Literal["weight", "layer"] | None = None
    """layer, one γ and one β a layer; weight, besides those one angle for each weight in each layer, at no gate.
    None takes weight where L-BFGS fits them, else layer."""
    objective: Literal["gibbs", "mean", "cvar"] = "gibbs"
    """What the loop lowers: the Gibbs objective, which looks at the low end (with exact gradients so steep that all
    other masks together weigh as much as the best), the mean, or the best quarter's mean."""
    start: Literal["ramp", "transfer", "interpolate"] | None = None
    """First angles: ramp, transfer or interpolate; none takes ramp, and transfer on noisy simulators and hardware."""
    optimizer: Literal["lbfgs", "cobyla", "spsa", "fixed"] | None = None
    """The loop: lbfgs takes exact gradients from the subspace simulator, cobyla and spsa take samples from the
    sampler; fixed keeps the first angles. None takes lbfgs, and fixed on noisy simulators and hardware."""
    steps: int = 20
    """Iterations of L-BFGS or SPSA, evaluations of COBYLA."""
    shots: int = 1024
    """Circuit executions for each sampling."""
    penalty: float | None = None
    """For the penalty mixer, its weight in spreads of the objective; none takes qiskit-optimization's default."""
    level: int = 3
    """Optimization level of the preset pass manager for devices, 0 to 3."""
    timeout: float = 3600.0
    """Seconds to wait for one job before giving up on the sampler."""
    qubits: int = 0
    """Solve a larger block through sub-blocks of at most this many weights; 0 takes the block whole."""
    parts: int = 24
    """How many sub-blocks are solved when the block is larger than `qubits`."""
    recursion: int = 0
    """Recursive QAOA: freeze the most decided weight until this many are free, then try all masks; 0 is off."""
    polish: bool = False
    """End with a swap descent from the best sample; the raw sample stays in the details."""
    memory: float = 4.0
    """Gigabytes that a local simulation may take; a block that needs more is refused."""

    @property
    def facts(self) -> Facts:
        """The class's facts, but no small circuit is run before the clock starts on a device, where runs cost money."""
        return facts(type(self))._replace(miniature=devices.kind_of(self.sampler) != "hardware")

    def refuses(self, block: BlockProblem) -> str:
        """An option out of range, or more qubits than the memory can simulate."""
        wrong = self._wrong_option()
        if wrong:
            return wrong
        size = min(block.p, self.qubits) if self.qubits else block.p
        largest = self._largest()
        if largest is not None and size > largest:
            return (
                f"{size} qubits need {self._bytes(size) / 1e9:.3g} GB on sampler {self.sampler!r} where "
                f"{self.memory:g} are allowed; use --block-size {largest}, the option qubits={min(largest, 12)} "
                "to solve it through sub-blocks, or solver qaoa-subspace"
            )
        return ""

    def plan(self, block: BlockProblem) -> dict[str, Any]:
        """What would be submitted for this block, without submitting it: qubits, layers, shots, gates, depth."""
        device = self._device(block, np.random.default_rng(0))
        _, cost = self._circuit(Ansatz(block.p, block.keep, self.mixer, self._reps), device)
        return {"sampler": device.name, "kind": device.kind, "reps": self._reps, "shots": self.shots, **cost}

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best sampled mask, or the incumbent if that is better."""
        draws = through_parts(
            best, self.qubits, self.parts, rng, lambda part, spent: self._search(part, best, rng, spent=spent)
        )
        if devices.kind_of(self.sampler) != "exact":
            draws.details.update(baselines(best.block, self.shots, rng))
        return answer(best, draws, polish=self.polish)

    def _search(self, block: BlockProblem, best: Incumbent, rng: np.random.Generator, *, spent: int) -> Draws:
        """Samples of the block's circuit, or the single mask that recursion ends with."""
        if block.keep in (0, block.p):
            return Draws(block.incumbent[None], 0, 0, Stop.finished("there is one feasible mask"))
        if not (self.recursion and block.p > self.recursion):
            return self._sample(block, best, rng, spent)
        total, shots = 0, 0
        why: Stop | None = None

        def kept_share(part: Part) -> FloatArray | None:
            nonlocal total, shots, why
            weights = np.where(part.base, block.dense_weights, 0.0)
            draws = self._sample(part.restricted(weights), best, rng, spent + total)
            total, shots = total + draws.evaluations, shots + draws.shots
            why = best.stop(spent + total)
            if why or not len(draws.masks):
                why = why or Stop.finished("no feasible sample was drawn")
                return None
            return np.asarray(draws.masks.mean(axis=0))

        part, frozen = eliminate(block, self.recursion, kept_share)
        masks = block.incumbent[None]
        if not why:
            rest = subspace.feasible_space(part.free.size, part.keep, mixer_pairs(0, "none")).masks()
            masks = best_of(block, part.expand(rest))[0][:1]
        details = {"frozen": [list(step) for step in frozen]}
        return Draws(
            masks, shots, total, why or Stop.finished(f"froze {len(frozen)} weights, then tried all masks"), details
        )

    def _sample(self, block: BlockProblem, best: Incumbent, rng: np.random.Generator, spent: int) -> Draws:
        """Build, transpile, find angles, run: the shots of the last circuit, with all measurements."""
        with best.building():
            device = self._device(block, rng)
            values = self._exact_values(block)
            reference = values
            if reference is None:
                reference = mask_values(block, uniform_masks(block.p, block.keep, 4096, rng))
        mean, deviation = float(reference.mean()), float(reference.std()) or 1.0
        if self.mixer == "penalty":
            return self._reference(block, device, deviation, best, rng, spent, values)
        before = best.built
        with best.building():
            ansatz = Ansatz(block.p, block.keep, self.mixer, self._reps)
            circuit, cost = self._circuit(ansatz, device)
            fields, couplings, _ = forms.ising_coefficients(block)
        transpiling, transpiled = best.built - before, best.seconds
        waits = {"queue": 0.0, "execute": 0.0}

        def draw(angles: FloatArray) -> BoolArray | Stop:
            depth = min(self._reps, angles.size // 2)
            shape = replace(ansatz, reps=depth)
            ran = circuit if depth == self._reps else self._circuit(shape, device)[0]
            named = shape.binding(fields / deviation, couplings / deviation, angles)
            bound = [named[parameter.name] for parameter in ran.parameters]
            shots = devices.run(device, ran, bound, self.shots, self.timeout, best.stop)
            if isinstance(shots, Stop):
                return shots
            waits["queue"] += shots.queue
            waits["execute"] += shots.execute
            return forms.masks_of_bits(shots.packed, block.p)

        def sampled(angles: FloatArray) -> tuple[float, FloatArray | None]:
            masks = draw(angles)
            if isinstance(masks, Stop):
                return float("inf"), None
            feasible = masks[masks.sum(axis=1) == block.keep]
            if not len(feasible):
                return 0.0, None
            return of_samples(self.objective, (mask_values(block, feasible) - mean) / deviation), None

        energies = None if values is None else (values - mean) / deviation
        fit = self._fit(block, energies, sampled, rng, best.stop_after(spent))
        angles, evaluations, stopped = fit.angles, fit.evaluations, fit.stopped
        optimized = best.seconds
        last = draw(angles)
        masks = np.empty((0, block.p), dtype=np.bool_) if isinstance(last, Stop) else last
        feasible = masks[masks.sum(axis=1) == block.keep]
        loop_samples = self._optimizer in ("cobyla", "spsa")
        details: dict[str, Any] = {
            "sampler": device.name,
            "kind": device.kind,
            "mixer": self.mixer,
            "angles": "weight" if self._weighted else "layer",
            "objective": self.objective,
            "reps": self._reps,
            "gammas": angles[: self._reps].tolist(),
            "betas": angles[self._reps : 2 * self._reps].tolist(),
            "weight_angles": angles[2 * self._reps :].reshape(-1, block.p).tolist(),
            "angles_from": "samples" if loop_samples else "exact simulation" if evaluations else "fixed",
            **cost,
            **sample_statistics(block, masks, values),
        }
        timings = {
            "transpile": transpiling,
            "optimize": optimized - transpiled,
            "queue": waits["queue"],
            "execute": waits["execute"],
        }
        total = evaluations + (not isinstance(last, Stop))
        drawn = Stop.finished(f"drew {len(masks)} samples after {total} evaluations")
        stop = last if isinstance(last, Stop) else stopped or drawn
        shots = self.shots * (total if loop_samples else 1)
        repaired = repair(encode(block), np.unique(masks[masks.sum(axis=1) != block.keep], axis=0))
        return Draws(feasible, shots, total, stop, details, timings, repaired)

    def _fit(
        self, block: BlockProblem, energies: FloatArray | None, sampled: Objective,
        rng: np.random.Generator, stop: StopCheck,
    ) -> Fit:  # fmt: skip
        """Fit by exact gradients of the simulator, which needs all energies (N,), or by sampled values."""

        def lowered(weighted: bool) -> Objective:
            return sampled

        if self._optimizer == "lbfgs":
            if energies is None:
                raise InvalidInput(
                    f"{block.name}: exact gradients need at most {ENUMERABLE} feasible masks; "
                    "use the option optimizer=fixed with start=transfer, or optimizer=spsa"
                )
            from prunebench.solvers.qaoa.simulator import Simulator

            space = subspace.feasible_space(block.p, block.keep, mixer_pairs(block.p, self.mixer))
            simulator = Simulator(space, energies, self.mixer == "grover")
            aim = objective(self.objective, energies, fitting_steepness(energies))

            def lowered(weighted: bool) -> Objective:
                return partial(replace(simulator, weighted=weighted).gradient, objective=aim)

        return fit_angles(
            lowered, block.p, mixer=self.mixer, reps=self._reps,
            start=self.start or ("ramp" if self._exact_device else "transfer"), optimizer=self._optimizer,
            weighted=self._weighted, steps=self.steps, rng=rng, stop=stop,
        )  # fmt: skip

    def _reference(
        self,
        block: BlockProblem,
        device: devices.Device,
        deviation: float,
        best: Incumbent,
        rng: np.random.Generator,
        spent: int,
        values: FloatArray | None,
    ) -> Draws:
        """qiskit-optimization's own path; with its default penalty on the objective itself, else on a scaled one."""
        program = forms.quadratic_program(block, 1.0 if self.penalty is None else 1.0 / deviation)
        draws = reference.solve_program(
            program, block.keep, device,
            penalty=self.penalty, reps=self._reps, steps=self.steps, shots=self.shots, rng=rng,
            stop=best.stop_after(spent),
        )  # fmt: skip
        measured = sample_statistics(block, draws.masks, values)
        details = {"sampler": device.name, "kind": device.kind, "mixer": self.mixer, "reps": self._reps}
        return Draws(draws.masks, draws.shots, draws.evaluations, draws.stop, {**details, **measured, **draws.details})

    def _device(self, block: BlockProblem, rng: np.random.Generator) -> devices.Device:
        return devices.open_device(self.sampler, self.pass_manager, block.p, self.level, rng)

    def _circuit(self, ansatz: Ansatz, device: devices.Device) -> tuple[Any, dict[str, int]]:
        return transpile.transpiled(ansatz, device, self.sampler, self.pass_manager, level=self.level, shots=self.shots)

    def _exact_values(self, block: BlockProblem) -> FloatArray | None:
        """The values of all feasible masks in the simulator's order; None if there are too many."""
        if block.p > subspace.MAX_BITS or subspace.state_count(block.p, block.keep) > ENUMERABLE:
            return None
        return mask_values(block, subspace.feasible_space(block.p, block.keep, mixer_pairs(0, "none")).masks())

    @property
    def _exact_device(self) -> bool:
        return devices.kind_of(self.sampler) == "exact"

    @property
    def _reps(self) -> int:
        return self.reps if self.reps is not None else 3 if self._exact_device else 1

    @property
    def _optimizer(self) -> str:
        return self.optimizer or ("lbfgs" if self._exact_device else "fixed")

    @property
    def _weighted(self) -> bool:
        return weighted_by(self.angles, self._optimizer)

    def _bytes(self, p: int) -> float:
        """Measured for the state vector, whose sampler labels every state; noisy simulators hold a density matrix."""
        kind = devices.kind_of(self.sampler)
        # enough to be refused, and no overflow
        p = min(p, 500)
        if kind == "exact":
            return 2.0**p * (5200.0 if self.sampler == "statevector" else 64.0)
        return 16.0 * 4.0**p

    def _largest(self) -> int | None:
        """The largest block that fits the memory, or None for hardware, which checks for itself."""
        if devices.kind_of(self.sampler) == "hardware" or not isinstance(self.sampler, str):
            return None
        return max((p for p in range(1, 40) if self._bytes(p) <= self.memory * 1e9), default=0)

    def _wrong_option(self) -> str:
        known = {
            "mixer": (*MIXERS, "penalty"),
            "start": (None, *starts.STARTS),
            "optimizer": (None, *OPTIMIZERS),
            "angles": ANGLES,
            "objective": OBJECTIVES,
        }
        return wrong_option(self, known, {**LEAST, "level": 0, "timeout": 0})
