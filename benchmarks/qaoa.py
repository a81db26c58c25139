"""QAOA on blocks of the digits MLP with known optimum: quality, speed, sizes, and the classical solvers beside it.

    python benchmarks/qaoa.py
    python benchmarks/qaoa.py --quick

The optimum is known by valuing every feasible mask. "uniform" is the same number for uniformly random
feasible masks: a ratio means nothing without it. P is the exact probability of an optimum in one
sample (geometric mean), "x uniform" how many times that is what guessing gives. One thread
(OMP_NUM_THREADS=1), float64; block families as in digits_blocks.py.

Plain QAOA has one γ and one β a layer and lowers the mean. The default of qaoa-subspace adds one angle
for each weight and layer and lowers the Gibbs objective. "weight, empty" is its control: the same loop
on the same circuit without the objective in it. Where that does as well, the gain is the loop's.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from digits_blocks import FAMILIES
from digits_blocks import any_layer_block as block
from prunebench import BlockProblem, Budget, Solution, solve
from prunebench.core.arrays import FloatArray
from prunebench.core.stop import never
from prunebench.forms.circuits import Ansatz, mixer_pairs
from prunebench.forms.qiskit import ising_coefficients, masks_of_bits
from prunebench.kernels.enumeration import subspace
from prunebench.kernels.enumeration.values import mask_values
from prunebench.solvers.qaoa import starts
from prunebench.solvers.qaoa.objectives import fitting_steepness, objective
from prunebench.solvers.qaoa.optimizers import minimise
from prunebench.solvers.qaoa.samples import state_statistics
from prunebench.solvers.qaoa.simulator import Simulator, spread
from runner import Benchmark, Row, cpu_seconds

LAYERS, STEPS = 5, 20
PLAIN = {"angles": "layer", "objective": "mean"}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "weight": {},
    "weight, mean": {"objective": "mean"},
    "weight, empty": None,
    "layer": {"angles": "layer"},
    "layer, mean": PLAIN,
    "layer, rank": {**PLAIN, "energies": "rank"},
}
PENALTY = 0.3
"""Weight of (Σm − keep)² in spreads of the objective; larger ones only make it worse."""


Details = Mapping[str, Any]
"""What is told of a final state: ratios, chances."""


def geometric(values: FloatArray) -> float:
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-300)))))


def penalty_run(problem: BlockProblem, reps: int) -> tuple[Details, float]:
    """(statistics, seconds): X mixer and penalty on all 2^p masks; the ratio is that of the feasible samples."""
    began = time.perf_counter()
    space = subspace.whole_space(problem.p)
    masks = space.masks()
    values, counts = mask_values(problem, masks), masks.sum(axis=1)
    feasible = counts == problem.keep
    mean, deviation = spread(values, feasible)
    energies = (values - mean) / deviation + PENALTY * (counts - problem.keep) ** 2
    middle, width = spread(energies)
    simulator = Simulator(space, (energies - middle) / width)
    found = minimise(
        simulator.gradient, starts.ramp(problem.p, "x", reps), method="lbfgs", steps=STEPS,
        units=starts.units(problem.p, "x", reps), rng=np.random.default_rng(0), stop=never,
    )  # fmt: skip
    chances = simulator.probabilities(found.angles)
    share = float(chances[feasible].sum())
    statistics = state_statistics(values[feasible], chances[feasible])
    for name in ("probability_optimum", "enhancement"):
        statistics[name] *= share
    return statistics | {"feasible": share}, time.perf_counter() - began


def empty_run(problem: BlockProblem) -> tuple[Details, float]:
    """(statistics, seconds): angles for the weights fitted to the objective by circuits that do not hold it."""
    began = time.perf_counter()
    p = problem.p
    space = subspace.feasible_space(p, problem.keep, mixer_pairs(p, "complete"))
    values = mask_values(problem, space.masks())
    mean, deviation = spread(values)
    energies = (values - mean) / deviation
    simulator = Simulator(space, np.zeros(space.size), weighted=True)
    aim = objective("gibbs", energies, fitting_steepness(energies))
    found = minimise(
        lambda angles: simulator.gradient(angles, aim),
        starts.with_weights(starts.ramp(p, "complete", LAYERS), p), method="lbfgs", steps=STEPS,
        units=starts.weighted_units(p, "complete", LAYERS), rng=np.random.default_rng(0), stop=never,
    )  # fmt: skip
    return state_statistics(energies, simulator.probabilities(found.angles)), time.perf_counter() - began


def subspace_run(problem: BlockProblem, options: Mapping[str, Any]) -> tuple[Details, float]:
    """(statistics, seconds) of qaoa-subspace."""
    solution = solve(problem, "qaoa-subspace", options=options)
    return solution.details, solution.timings["total"]


def measured(problem: BlockProblem, run: Any) -> tuple[Details, float, float]:
    """(statistics, seconds, CPU seconds) of a run."""
    processor = time.process_time()
    details, seconds = run(problem)
    return details, seconds, time.process_time() - processor


def columns(found: Sequence[tuple[Details, float, float]]) -> dict[str, FloatArray]:
    """The statistics of several blocks by name, seconds among them."""
    rows = [{"feasible": 1.0, **details, "seconds": seconds, "CPU": cpu} for details, seconds, cpu in found]
    names = ("approximation_ratio", "approximation_ratio_uniform", "feasible", "probability_optimum", "enhancement",
             "seconds", "CPU")  # fmt: skip
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}


def mixers(shapes: Sequence[tuple[int, int]], seeds: Sequence[int], layers: Sequence[int]) -> Iterator[Row]:
    """Plain QAOA (one γ and one β a layer, the mean lowered) by mixer; "default" is qaoa-subspace as it comes."""
    count = len(FAMILIES) * len(seeds)
    title = f"mixers and layers; ramp, at most {STEPS} gradient steps, {count} blocks a row; medians of seconds"
    for p, keep in shapes:
        problems = [block(family, p, keep, seed) for family in FAMILIES for seed in seeds]
        for mixer in ("complete", "ring", "grover", "penalty", "default"):
            for reps in layers:
                options = {"reps": reps} if mixer == "default" else {"mixer": mixer, "reps": reps, **PLAIN}
                run = partial(penalty_run, reps=reps) if mixer == "penalty" else partial(subspace_run, options=options)
                held = columns([measured(problem, run) for problem in problems])
                yield Row(title, {
                    "p": p, "keep": keep, "mixer": mixer, "layers": reps,
                    "ratio": held["approximation_ratio"].mean(), "uniform": held["approximation_ratio_uniform"].mean(),
                    "feasible": held["feasible"].mean(), "P %": 100 * geometric(held["probability_optimum"]),
                    "x uniform": geometric(held["enhancement"]), "seconds": np.median(held["seconds"]),
                    "CPU s": np.median(held["CPU"]),
                })  # fmt: skip


def headline(seeds: Sequence[int]) -> Iterator[Row]:
    """Which angles there are and what is lowered, by family and over all three."""
    span = f"seeds {seeds[0]}..{seeds[-1]}"
    title = f"p 16, keep 8, complete mixer, {LAYERS} layers, ramp, at most {STEPS} gradient steps, {span}"
    for name, options in VARIANTS.items():
        run = empty_run if options is None else partial(subspace_run, options=options)
        found = {family: columns([measured(block(family, 16, 8, seed), run) for seed in seeds]) for family in FAMILIES}
        groups = {**found, "all": _together(found.values()), "t and e": _together([found["t"], found["e"]])}
        for family, held in groups.items():
            chance = 100 * held["probability_optimum"]
            yield Row(title, {
                "angles": name, "family": family, "ratio": held["approximation_ratio"].mean(),
                "uniform": held["approximation_ratio_uniform"].mean(), "P % mean": chance.mean(),
                "geometric": geometric(chance), "least": chance.min(), "x uniform": geometric(held["enhancement"]),
                "seconds": np.median(held["seconds"]), "CPU s": np.median(held["CPU"]),
            })  # fmt: skip


def _together(parts: Iterable[Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    held = list(parts)
    return {name: np.concatenate([part[name] for part in held]) for name in held[0]}


def speed(p: int, keep: int, layers: int, repeats: int) -> Row:
    """The subspace simulator against Qiskit's state vector: the same state, and the time of one evaluation."""
    from qiskit.primitives import StatevectorSampler
    from qiskit.quantum_info import Statevector

    problem = block("t", p, keep, 0)
    space = subspace.feasible_space(p, keep, mixer_pairs(p, "complete"))
    values = mask_values(problem, space.masks())
    mean, deviation = spread(values)
    simulator = Simulator(space, (values - mean) / deviation)
    angles = starts.ramp(p, "complete", layers)
    ansatz = Ansatz(p, keep, "complete", layers)
    fields, couplings, _ = ising_coefficients(problem)
    named = ansatz.binding(fields / deviation, couplings / deviation, angles)
    template = ansatz.template()
    bound = [named[parameter.name] for parameter in template.parameters]
    sampler = StatevectorSampler(seed=0)

    def sampled() -> float:
        shots = sampler.run([(template, bound)], shots=1024).result()[0].data.meas
        return float(mask_values(problem, masks_of_bits(shots.array, p)).mean())

    state = Statevector(template.remove_final_measurements(inplace=False).assign_parameters(bound)).data
    ours = simulator.state(angles)
    theirs = state[space.states]
    overlap = np.vdot(ours, theirs)
    _, qiskit = cpu_seconds(sampled, repeats, warm=True)
    _, value = cpu_seconds(lambda: simulator.expectation(angles), 9, warm=True)
    _, both = cpu_seconds(lambda: simulator.gradient(angles), 9, warm=True)
    return Row("one evaluation, complete mixer, CPU milliseconds (1024 shots of Qiskit's StatevectorSampler)", {
        "p": p, "keep": keep, "layers": layers, "StatevectorSampler": 1e3 * qiskit, "subspace": 1e3 * value,
        "with gradient": 1e3 * both, "Qiskit/subspace": qiskit / value, "Qiskit/gradient": qiskit / both,
        "difference": np.abs(theirs * np.conj(overlap / abs(overlap)) - ours).max(),
        "1−fidelity": abs(1.0 - abs(overlap) ** 2),
    })  # fmt: skip


def larger(p: int, keep: int) -> Row:
    """One block that Qiskit's state vector has no room for."""
    problem = block("t", p, keep, 0)
    space = subspace.feasible_space(p, keep, mixer_pairs(p, "complete"))
    values = mask_values(problem, space.masks())
    mean, deviation = spread(values)
    simulator = Simulator(space, (values - mean) / deviation)
    angles = starts.ramp(p, "complete", LAYERS)
    _, step = cpu_seconds(lambda: simulator.gradient(angles), 2, warm=True)
    details, seconds, processor = measured(problem, partial(subspace_run, options={}))
    return Row(f"larger blocks, complete mixer, {LAYERS} layers, gradient steps by default", {
        "p": p, "keep": keep, "masks": space.size, "gradient CPU s": step, "solve s": seconds, "CPU s": processor,
        "ratio": details["approximation_ratio"], "uniform": details["approximation_ratio_uniform"],
        "P %": 100 * details["probability_optimum"], "x uniform": details["enhancement"],
    })  # fmt: skip


def beside_others(p: int, keep: int, options: Mapping[str, Any], seeds: Sequence[int]) -> Iterator[Row]:
    """Other solvers on the same blocks in the time that qaoa-subspace took."""
    title = (
        "the same blocks at the same time: qaoa-subspace takes what it takes, the others get as long; "
        "gap = (objective − best of all) / (mean of random masks − best of all)"
    )
    for family in FAMILIES:
        problems = [block(family, p, keep, seed) for seed in seeds]
        rows: dict[str, list[Solution | None]] = {
            name: [] for name in ("qaoa-subspace", "exhaustive", "anneal", "swap")
        }
        for problem in problems:
            first = solve(problem, "qaoa-subspace", options=options)
            budget = Budget(seconds=first.timings["total"])
            rows["qaoa-subspace"].append(first)
            for name in ("exhaustive", "anneal", "swap"):
                try:
                    rows[name].append(solve(problem, name, budget=budget))
                except ValueError:
                    rows[name].append(None)
        best = [min(row[i].objective for row in rows.values() if row[i]) for i in range(len(problems))]  # type: ignore[union-attr]  # it is there
        for name, found in rows.items():
            solutions = [solution for solution in found if solution is not None]
            cells: dict[str, Any] = {"p": p, "keep": keep, "family": family, "solver": name}
            if len(solutions) < len(problems):
                yield Row(title, {**cells, "seconds": None, "gap mean": None, "gap max": None, "best in": "refuses"})
                continue
            gaps = np.array([
                (solution.objective - least) / (problem.random_mean() - least)
                for solution, least, problem in zip(solutions, best, problems, strict=True)
            ])  # fmt: skip
            seconds = np.mean([solution.timings["total"] for solution in solutions])
            share = f"{int((gaps < 1e-9).sum())}/{len(gaps)}"
            yield Row(
                title, {**cells, "seconds": seconds, "gap mean": gaps.mean(), "gap max": gaps.max(), "best in": share}
            )


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=4, help="blocks of each family (default 4)")


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    quick, count = chosen.quick, chosen.seeds
    solve(block("t", 8, 4, 0), "qaoa-subspace")
    solve(block("t", 8, 4, 0), "anneal")
    yield from headline(range(100, 102) if quick else range(100, 100 + 3 * count))
    for case in [(12, 6, 5, 2)] if quick else [(12, 6, 5, 3), (16, 8, 5, 2)]:
        yield speed(*case)
    for p, keep in [(32, 3)] if quick else [(20, 10), (32, 5), (48, 4)]:
        yield larger(p, keep)
    small: tuple[int, int, dict[str, Any]] = (12, 6, {})
    seeds = range(100, 100 + count)
    for p, keep, options in [small] if quick else [small, (16, 8, {}), (64, 32, {"qubits": 12})]:
        yield from beside_others(p, keep, options, seeds)
    shapes = [(12, 6), (12, 3)] if quick else [(12, 6), (12, 3), (16, 8), (16, 4)]
    yield from mixers(shapes, seeds, (1, 3, 5) if quick else (1, 2, 3, 4, 5))


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"seeds": 1})

if __name__ == "__main__":
    BENCHMARK.main()
