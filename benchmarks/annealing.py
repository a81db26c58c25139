"""Annealing against its peers on the same blocks and the same CPU time; gaps raw, repaired and polished.

python benchmarks/annealing.py                    the whole table, hours
python benchmarks/annealing.py --quick            under a minute
python benchmarks/annealing.py --sizes 256 --families z --seeds 2

gap = (f - best) / (mean over random masks - best), with best proved by branch and bound at p = 64
and, above, the best of all runs of this table and of a long anneal from another seed (--reference).
CPU seconds of one thread; compilation is left out.
"""

import argparse
import importlib.util
import math
import statistics
import time
import tracemalloc

import numpy as np
from annealing_blocks import FAMILIES, blocks

from prunebench import BlockProblem, Budget, QuadraticForm, make_solver, solve
from prunebench.core import solution as solution_module

SECONDS = {64: 1.0, 256: 4.0, 1024: 1.0}
SOLVERS = ("anneal", "neal", "tabu", "path-integral", "steepest-descent", "swap")
OPTIMUM = 1e-9
"""A gap up to this counts as the optimum: rounding, not quality."""


def _openjij(name):
    import openjij

    return getattr(openjij, name)()


def contestants():
    """Solver objects by name; openjij's where it is installed."""
    found = {name: make_solver(name, {"restarts": 10**9} if name == "swap" else None) for name in SOLVERS}
    if importlib.util.find_spec("openjij"):
        for name in ("SASampler", "SQASampler"):
            found[f"openjij-{name[:-7].lower()}"] = make_solver("dimod", {"sampler": _openjij(name)})
    return found


def gap(block, objective, best):
    """Where `objective` lies between the best known (0) and a random mask (1)."""
    return (objective - best) / (block.random_mean() - best)


def prove(block):
    """(optimum, CPU seconds) by branch and bound."""
    started = time.process_time()
    found = solve(block, "branch-and-bound")
    assert found.status == "optimal", found.stop_reason
    return found.objective, time.process_time() - started


def stages(found):
    """Objectives raw, after repair and after polish; None where there is none."""
    details = found.details
    before = details.get("objective_before_polish", found.objective)
    return details.get("objective_raw", before), details.get("objective_repaired", before), found.objective


def shown(value):
    """A gap in six characters."""
    return "     -" if value is None else "     0" if value <= OPTIMUM else f"{value:6.0e}"


def comparison(size, arguments):
    """One size: a row per family, keep and solver, medians over blocks and seeds; the worst polished gap last."""
    chosen = list(blocks((size,), arguments.families, range(arguments.blocks)))
    proofs = {}
    if size == 64:
        proofs = {block.problem: prove(block) for block in chosen}
        times = [seconds for _, seconds in proofs.values()]
        print(f"\n{len(proofs)} optima proved, CPU s median {statistics.median(times):.3f} max {max(times):.3f}")
    solvers = contestants()
    runs, known = {}, {block.problem: reference(block, arguments) for block in chosen if not proofs}
    for block in chosen:
        for name, solver in solvers.items():
            for seed in range(arguments.seeds):
                budget = Budget(seconds=arguments.seconds or SECONDS[size])
                started = time.process_time()
                found = solve(block, solver, budget=budget, seed=seed)
                spent = time.process_time() - started - found.timings.get("load", found.timings.get("compile", 0.0))
                runs.setdefault((block.problem, name), []).append((found, spent))
    seconds = arguments.seconds or SECONDS[size]
    print(f"\np = {size}, {seconds:g} CPU s, {arguments.blocks} blocks a group, {arguments.seeds} seeds; medians")
    print("family keep solver            feasible    raw  repair polish  worst  CPU s")
    worse = 0
    for family in arguments.families:
        for keep in (size // 5, size // 2):
            group = [b for b in chosen if b.problem.startswith(f"{family}-") and b.keep == keep]
            polished = {}
            for name in solvers:
                rows, shares, spent = [], [], []
                for block in group:
                    best = min(r.objective for n in solvers for r, _ in runs[block.problem, n])
                    best = proofs[block.problem][0] if proofs else min(best, known[block.problem])
                    for found, seconds in runs[block.problem, name]:
                        rows.append([None if v is None else gap(block, v, best) for v in stages(found)])
                        shares.append(found.details.get("feasible_share") or float(name in ("anneal", "swap")))
                        spent.append(seconds)
                columns = list(zip(*rows, strict=True))
                medians = [None if None in column else statistics.median(column) for column in columns]
                worst = max(columns[2])
                polished[name] = medians[2]
                texts = " ".join(shown(value) for value in (*medians, worst))
                line = f"{family:6} {keep:4d} {name:17} {statistics.mean(shares):8.2f} {texts} {max(spent):6.2f}"
                print(line, flush=True)
            others = min(value for name, value in polished.items() if name != "anneal")
            worse += polished["anneal"] > others + OPTIMUM
    print(f"anneal's median polished gap is above the best other's in {worse} of {2 * len(arguments.families)} groups")


def reference(block, arguments):
    """The objective of a long anneal; inf where none is asked for."""
    if not arguments.reference:
        return math.inf
    return solve(block, "anneal", budget=Budget(seconds=arguments.reference), seed=10**6).objective


def first_time(found, target):
    """CPU seconds at which the run reached `target`; inf where it did not."""
    reached = found.trace[found.trace[:, 1] <= target]
    return float(reached[0, 0]) if len(reached) else math.inf


def time_to_solution(times):
    """min over t of t ln(0.01)/ln(1 - share of runs done by t): restarts until 99 % are sure."""
    ordered = sorted(times)
    shares = (np.arange(len(ordered)) + 0.5) / len(ordered)
    return min(t * max(1.0, math.log(0.01) / math.log(1.0 - s)) for t, s in zip(ordered, shares, strict=True))


def optimum_table(arguments):
    """p = 64: time to gap 1e-3 and to the proved optimum of anneal, and time-to-solution at 99 %."""
    print(f"\np = 64, anneal, {arguments.tts_seeds} seeds of at most 2 CPU s; ms to gap 1e-3 and to the proved optimum")
    print("block             proof ms  1e-3 median  optimum median  reached  TTS99 ms")
    solved = near = easy = total = 0
    for block in blocks((64,), arguments.families, range(arguments.blocks)):
        optimum, proof = prove(block)
        spread = block.random_mean() - optimum
        close, exact = [], []
        for seed in range(arguments.tts_seeds):
            found = until(block, optimum + OPTIMUM * spread, seed)
            close.append(first_time(found, optimum + 1e-3 * spread))
            exact.append(first_time(found, optimum + OPTIMUM * spread))
        reached = sum(t < math.inf for t in exact)
        median = statistics.median(exact)
        total += 1
        solved += median < 2.0
        near += statistics.median(close) < 0.1
        easy += block.problem[0] != "z" and median < 0.005
        print(
            f"{block.problem:16} {1e3 * proof:9.1f} {1e3 * statistics.median(close):12.2f} {1e3 * median:15.2f} "
            f"{reached:4d}/{arguments.tts_seeds:<3d} {1e3 * time_to_solution(exact):9.1f}",
            flush=True,
        )
    print(f"optimum within 2 s on {solved}/{total}; gap 1e-3 within 0.1 s on {near}/{total}")
    print(f"optimum in under 5 ms on {easy} of the t and e blocks")


def until(block, target, seed):
    """One run that stops once the target is reached."""
    reached = []

    def progress(_, objective, __):
        if objective <= target and not reached:
            reached.append(objective)
            raise KeyboardInterrupt

    options = {"polish": False}
    return solve(block, "anneal", options=options, budget=Budget(seconds=2.0), seed=seed, progress=progress)


def large():
    """p = 10,000, n = 200: the time and the memory of one anneal of 100 sweeps on the factor."""
    rng = np.random.default_rng(0)
    p, n = 10_000, 200
    factor, weights = rng.normal(size=(n, p)) / np.sqrt(n), rng.normal(size=p)
    form = QuadraticForm(factor=factor, ridge=0.1, centre=weights)
    options = {"couplings": "factor", "sweeps": 100, "reads": 1, "polish": False}
    for keep in (p // 5, p // 2):
        block = BlockProblem(form, weights, keep, "select")
        started = time.process_time()
        found = solve(block, "anneal", options=options)
        spent = time.process_time() - started
        tracemalloc.start()
        solve(block, "anneal", options=options)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        part = gap(block, found.objective, 0.0)
        print(
            f"p = {p}, n = {n}, keep {keep}: 100 sweeps {spent:.2f} CPU s, {peak:.0f} MB of arrays above the block "
            f"(its factor has {factor.nbytes / 2**20:.0f} MB), f / random {part:.3f}"
        )


def main():
    """Parse, then every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short budgets, families t and z, p = 64")
    parser.add_argument("--sizes", type=int, nargs="*", default=sorted(SECONDS), choices=sorted(SECONDS))
    parser.add_argument("--families", nargs="*", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--blocks", type=int, default=3, help="blocks of each family and keep")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each solver on each block")
    parser.add_argument("--tts-seeds", type=int, default=10, help="runs behind time-to-solution; 0: no such table")
    parser.add_argument("--seconds", type=float, default=None, help="CPU seconds of a run, whatever its size")
    parser.add_argument("--reference", type=float, default=30.0, help="CPU seconds of the long anneal; 0: none")
    parser.add_argument("--no-large", action="store_true", help="leave out p = 10,000")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.blocks, arguments.seeds, arguments.tts_seeds = [64], 1, 1, 3
        arguments.families = ("t", "z")
        arguments.seconds, arguments.reference = 0.15, 1.0
    # equal CPU time on a machine that others use too: the clock of every solve is this process's own
    solution_module.perf_counter = time.process_time
    warm_up()
    if arguments.tts_seeds:
        optimum_table(arguments)
    for size in arguments.sizes:
        comparison(size, arguments)
    if not arguments.no_large:
        print()
        large()


def warm_up():
    """Every solver once, and branch and bound, on a block of eight weights."""
    rng = np.random.default_rng(0)
    form = QuadraticForm(factor=rng.normal(size=(4, 8)), ridge=0.1, centre=np.ones(8))
    block = BlockProblem(form, rng.normal(size=8), 3, "select")
    prove(block)
    for solver in contestants().values():
        solve(block, solver, budget=Budget(seconds=0.01))


if __name__ == "__main__":
    main()
