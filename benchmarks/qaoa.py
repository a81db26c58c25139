"""QAOA on blocks of the digits MLP with known optimum: quality, speed, sizes, and the classical solvers beside it.

    python benchmarks/qaoa.py
    python benchmarks/qaoa.py --quick

The optimum is known by valuing every feasible mask. "uniform" is the same number for uniformly random
feasible masks: a ratio means nothing without it. P is the exact probability of an optimum in one
sample (geometric mean), "x uniform" how many times that is what guessing gives. One thread
(OMP_NUM_THREADS=1), float64; block families as in qaoa_blocks.py.

Plain QAOA has one γ and one β a layer and lowers the mean. The default of qaoa-subspace adds one angle
for each weight and layer and lowers the Gibbs objective. "weight, empty" is its control: the same loop
on the same circuit without the objective in it. Where that does as well, the gain is the loop's.
"""

import argparse
import time

import numpy as np
from qaoa_blocks import FAMILIES, block

from prunebench import Budget, solve
from prunebench.forms.circuits import Ansatz, mixer_pairs
from prunebench.forms.qiskit import ising_coefficients, masks_of_bits
from prunebench.kernels.enumeration import subspace
from prunebench.kernels.enumeration.values import mask_values
from prunebench.solvers.qaoa import starts
from prunebench.solvers.qaoa.objectives import objective
from prunebench.solvers.qaoa.optimizers import minimise
from prunebench.solvers.qaoa.samples import state_statistics
from prunebench.solvers.qaoa.simulator import Simulator, spread

LAYERS, STEPS = 5, 20
PLAIN = {"angles": "layer", "objective": "mean"}
VARIANTS = {
    "weight": {},
    "weight, mean": {"objective": "mean"},
    "weight, empty": None,
    "layer": {"angles": "layer"},
    "layer, mean": PLAIN,
    "layer, rank": {**PLAIN, "energies": "rank"},
}
PENALTY = 0.3
"""Weight of (Σm − keep)² in spreads of the objective; larger ones only make it worse."""


def geometric(values):
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-300)))))


def timed(call, repeats):
    """Least CPU seconds of several calls, compiled before; other work on the machine then counts little."""
    call()
    best = np.inf
    for _ in range(repeats):
        began = time.process_time()
        call()
        best = min(best, time.process_time() - began)
    return best


def penalty_run(problem, reps):
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
        units=starts.units(problem.p, "x", reps), rng=np.random.default_rng(0), stop=lambda _: "",
    )  # fmt: skip
    chances = simulator.probabilities(found.angles)
    share = float(chances[feasible].sum())
    statistics = state_statistics(values[feasible], chances[feasible])
    for name in ("probability_optimum", "enhancement"):
        statistics[name] *= share
    return statistics | {"feasible": share}, time.perf_counter() - began


def empty_run(problem):
    """(statistics, seconds): angles for the weights fitted to the objective by circuits that do not hold it."""
    began = time.perf_counter()
    p = problem.p
    space = subspace.feasible_space(p, problem.keep, mixer_pairs(p, "complete"))
    values = mask_values(problem, space.masks())
    mean, deviation = spread(values)
    energies = (values - mean) / deviation
    simulator, aim = Simulator(space, np.zeros(space.size), weighted=True), objective("gibbs", energies)
    found = minimise(
        lambda angles: simulator.gradient(angles, aim),
        starts.with_weights(starts.ramp(p, "complete", LAYERS), p), method="lbfgs", steps=STEPS,
        units=starts.weighted_units(p, "complete", LAYERS), rng=np.random.default_rng(0), stop=lambda _: "",
    )  # fmt: skip
    return state_statistics(energies, simulator.probabilities(found.angles)), time.perf_counter() - began


def mixers(sizes, seeds, layers):
    print(f"\nMixers and layers; ramp, at most {STEPS} gradient steps, {len(FAMILIES) * len(seeds)} blocks a row")
    print("plain QAOA (one γ and one β a layer, the mean lowered); last rows of a size: qaoa-subspace as it comes")
    print(" p keep  mixer     layers  ratio  uniform  feasible      P %  x uniform  seconds  CPU s (medians)")
    for p, keep in sizes:
        problems = [block(family, p, keep, seed) for family in FAMILIES for seed in seeds]
        for mixer in ("complete", "ring", "grover", "penalty", "default"):
            for reps in layers:
                rows = []
                for problem in problems:
                    processor = time.process_time()
                    if mixer == "penalty":
                        details, seconds = penalty_run(problem, reps)
                    else:
                        options = {"reps": reps} if mixer == "default" else {"mixer": mixer, "reps": reps, **PLAIN}
                        solution = solve(problem, "qaoa-subspace", options=options)
                        details, seconds = solution.details, solution.timings["total"]
                    rows.append((
                        details["approximation_ratio"], details["approximation_ratio_uniform"],
                        details.get("feasible", 1.0), details["probability_optimum"], details["enhancement"],
                        seconds, time.process_time() - processor,
                    ))  # fmt: skip
                ratio, uniform, share, chance, gain, seconds, processor = np.array(rows).T
                print(
                    f"{p:2} {keep:4}  {mixer:9} {reps:6}  {ratio.mean():.3f}  {uniform.mean():7.3f}"
                    f"  {share.mean():8.3f}  {100 * geometric(chance):7.3f}  {geometric(gain):9.1f}"
                    f"  {np.median(seconds):7.3f}  {np.median(processor):5.3f}",
                    flush=True,
                )


def headline(seeds):
    span = f"seeds {seeds[0]}..{seeds[-1]}"
    print(f"\np 16, keep 8, complete, {LAYERS} layers, ramp, at most {STEPS} gradient steps, {span}")
    print(
        "angles         family   ratio  uniform   P % mean   geometric   least   x uniform   seconds   CPU s (medians)"
    )
    for name, options in VARIANTS.items():
        ratios, with_gradient = [], []
        for family in FAMILIES:
            rows = []
            for problem in [block(family, 16, 8, seed) for seed in seeds]:
                began = time.process_time()
                if options is None:
                    details, seconds = empty_run(problem)
                else:
                    solution = solve(problem, "qaoa-subspace", options=options)
                    details, seconds = solution.details, solution.timings["total"]
                rows.append((
                    details["approximation_ratio"], details["approximation_ratio_uniform"],
                    details["probability_optimum"], details["enhancement"], seconds, time.process_time() - began,
                ))  # fmt: skip
            ratio, uniform, chance, gain, seconds, processor = np.array(rows).T
            ratios.extend(ratio)
            if family != "z":
                with_gradient.extend(chance)
            print(
                f"{name:13}  {family:6}  {ratio.mean():.3f}  {uniform.mean():7.3f}  {100 * chance.mean():9.2f}"
                f"  {100 * geometric(chance):10.2f}  {100 * chance.min():6.2f}"
                f"  {geometric(gain):10.0f}  {np.median(seconds):8.3f}  {np.median(processor):6.3f}",
                flush=True,
            )
        print(f"{name:13}  all     {np.mean(ratios):.4f}   t and e: P {100 * np.mean(with_gradient):.2f} %")


def speed(p, keep, layers, repeats):
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

    def sampled():
        shots = sampler.run([(template, bound)], shots=1024).result()[0].data.meas
        return float(mask_values(problem, masks_of_bits(shots.array, p)).mean())

    state = Statevector(template.remove_final_measurements(inplace=False).assign_parameters(bound)).data
    ours = simulator.state(angles)
    theirs = state[space.states]
    overlap = np.vdot(ours, theirs)
    difference = np.abs(theirs * np.conj(overlap / abs(overlap)) - ours).max()
    infidelity = abs(1.0 - abs(overlap) ** 2)
    qiskit, value = timed(sampled, repeats), timed(lambda: simulator.expectation(angles), 9)
    both = timed(lambda: simulator.gradient(angles), 9)
    print(
        f"{p:2} {keep:4} {layers:6}  {1e3 * qiskit:18.1f}  {1e3 * value:9.2f}  {1e3 * both:13.2f}"
        f"  {qiskit / value:9.0f}  {qiskit / both:9.0f}  {difference:11.1e}  {infidelity:10.1e}",
        flush=True,
    )


def speeds(cases):
    print("\nOne evaluation, complete mixer, CPU milliseconds (1024 shots of Qiskit's StatevectorSampler)")
    print(
        " p keep layers  StatevectorSampler   subspace  with gradient  Qiskit/..  ../gradient  difference  1−fidelity"
    )
    for case in cases:
        speed(*case)


def sizes(cases):
    print(f"\nLarger blocks, complete mixer, {LAYERS} layers, at most {STEPS} gradient steps")
    print(" p keep     masks  grad CPU s  whole solve s  CPU s   ratio  uniform       P %  x uniform")
    for p, keep in cases:
        problem = block("t", p, keep, 0)
        space = subspace.feasible_space(p, keep, mixer_pairs(p, "complete"))
        values = mask_values(problem, space.masks())
        mean, deviation = spread(values)
        simulator = Simulator(space, (values - mean) / deviation)
        angles = starts.ramp(p, "complete", LAYERS)
        step = timed(lambda simulator=simulator, angles=angles: simulator.gradient(angles), 2)
        began = time.process_time()
        solution = solve(problem, "qaoa-subspace")
        processor = time.process_time() - began
        details = solution.details
        print(
            f"{p:2} {keep:4}  {space.size:8}  {step:10.3f}  {solution.timings['total']:13.2f}  {processor:5.2f}"
            f"  {details['approximation_ratio']:.3f}  {details['approximation_ratio_uniform']:7.3f}"
            f"  {100 * details['probability_optimum']:8.4f}  {details['enhancement']:9.0f}",
            flush=True,
        )


def beside_others(cases, seeds):
    print("\nThe same blocks at the same time: qaoa-subspace takes what it takes, the others get as long")
    print("gap = (objective − best of all) / (mean of random masks − best of all)")
    print(" p keep  family   solver          seconds   gap mean    gap max   best in")
    for p, keep, options in cases:
        for family in FAMILIES:
            problems = [block(family, p, keep, seed) for seed in seeds]
            rows = {name: [] for name in ("qaoa-subspace", "exhaustive", "anneal", "swap")}
            for problem in problems:
                first = solve(problem, "qaoa-subspace", options=options)
                budget = Budget(seconds=first.timings["total"])
                rows["qaoa-subspace"].append(first)
                for name in ("exhaustive", "anneal", "swap"):
                    try:
                        rows[name].append(solve(problem, name, budget=budget))
                    except ValueError:
                        rows[name].append(None)
            best = [min(row[i].objective for row in rows.values() if row[i]) for i in range(len(problems))]
            for name, found in rows.items():
                if None in found:
                    print(f"{p:2} {keep:4}  {family:6}   {name:14}  refuses blocks of this size")
                    continue
                gaps = np.array([
                    (solution.objective - least) / (problem.random_mean() - least)
                    for solution, least, problem in zip(found, best, problems, strict=True)
                ])  # fmt: skip
                seconds = np.mean([solution.timings["total"] for solution in found])
                print(
                    f"{p:2} {keep:4}  {family:6}   {name:14}  {seconds:7.4f}  {gaps.mean():9.1e}  {gaps.max():9.1e}"
                    f"  {int((gaps < 1e-9).sum()):4}/{len(gaps)}",
                    flush=True,
                )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer blocks, no p = 20, under a minute")
    parser.add_argument("--seeds", type=int, default=4, help="blocks of each family (default 4)")
    quick = parser.parse_args().quick
    count = 1 if quick else parser.parse_args().seeds
    solve(block("t", 8, 4, 0), "qaoa-subspace")
    solve(block("t", 8, 4, 0), "anneal")
    headline(range(100, 102) if quick else range(100, 100 + 3 * count))
    speeds([(12, 6, 5, 2)] if quick else [(12, 6, 5, 3), (16, 8, 5, 2)])
    sizes([(32, 3)] if quick else [(20, 10), (32, 5), (48, 4)])
    small = (12, 6, {})
    parts = (64, 32, {"qubits": 12})
    beside_others([small] if quick else [small, (16, 8, {}), parts], range(100, 100 + count))
    shapes = [(12, 6), (12, 3)] if quick else [(12, 6), (12, 3), (16, 8), (16, 4)]
    mixers(shapes, range(100, 100 + count), (1, 3, 5) if quick else (1, 2, 3, 4, 5))


if __name__ == "__main__":
    main()
