"""Exact solvers on the same real blocks, one thread each: CPU seconds to proof, or the gap that is left.

    python benchmarks/exact.py                      # every table: hours
    python benchmarks/exact.py --quick              # a few kinds of small blocks: a minute or two
    python benchmarks/exact.py select 64 --problem digits-mlp --limit 60 --rivals gurobi scip
    python benchmarks/exact.py refit 128 --kinds fisher "one row" --anytime

Without a mode, size or problem all of them are run; without --rivals, those that are installed and
that each size is for. The rivals are development extras (pip install gurobipy pyscipopt) on the same
program in the same run: the quadratic objective over binaries in mode select, with big-M bounds on
the weights in mode refit, scaled like ours so that their tolerances mean the same. Gaps are relative,
(objective − bound)/|objective|, as MIP solvers print them. Limits are wall seconds; on a busy machine
--cpu stops branch-and-bound and highs by their CPU seconds instead. Set OPENBLAS_NUM_THREADS=1.
"""

import argparse
import importlib.util
import os
import statistics
from time import process_time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from prunebench import Budget, Status, solve
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram
from prunebench.runs.cut import cut_block


def kinds(problem, size, mode):
    """The thirteen kinds of block: n, keep, ridge, how the weights are drawn, the linear term, the seed."""
    half, fifth = 0.5, 0.2
    rows = {}
    for n in (32, 128, 512):
        for density in (half, fifth):
            rows[f"n={n} keep={round(density * size)}"] = {"samples": n, "density": density}
    rows["ridge 1e-4"] = {"ridge": 1e-4}
    rows["ridge 1e-2"] = {"ridge": 1e-2}
    rows["one row"] = {"select": "row"}
    rows["gradient"] = {"gradient_scale": 1.0}
    rows["seed 1"] = {"seed": 1}
    rows["seed 2"] = {"seed": 2}
    rows["fisher"] = {"select": "obd"}
    for name, given in rows.items():
        curvature = {
            "samples": given.get("samples", 128),
            "ridge": given.get("ridge", 1e-3),
            "gradient_scale": given.get("gradient_scale", 0.0),
        }
        try:
            yield (
                name,
                cut_block(
                    problem,
                    size=size,
                    density=given.get("density", half),
                    select=given.get("select", "random"),
                    mode=mode,
                    curvature=curvature,
                    seed=given.get("seed", 0),
                ),
            )
        except ValueError as error:
            print(f"{name:15s} skipped: {error}")


class Clock:
    """Stops a solve by Ctrl-C's way once it has used its CPU seconds; wall seconds may be WALL times as many."""

    cpu = False
    WALL = 8.0

    def __init__(self, limit):
        self.begin, self.limit = process_time(), limit
        self.budget = Budget(seconds=limit * self.WALL if self.cpu else limit)

    def __call__(self, seconds, objective, bound):
        if self.cpu and process_time() - self.begin > self.limit:
            raise KeyboardInterrupt


def ours(block, limit, solver="branch-and-bound", **options):
    clock = Clock(limit)
    answer = solve(block, solver, options=options, budget=clock.budget, progress=clock)
    return process_time() - clock.begin, answer.status is Status.OPTIMAL, answer.objective, answer.lower_bound


def program_of(block):
    best = solve(block, "swap").objective
    if block.mode == "select":
        return SelectProgram.of(block, best)
    lowest = block.form.lower_bound()
    return RefitProgram.of(block, best, lowest if np.isfinite(lowest) else None)


def reach_of(program, upper):
    """Bounds on the weights of everything no worse than `upper`: the ellipsoid around the unconstrained optimum."""
    free = np.linalg.solve(program.hessian, program.slope)
    room = max(upper + 0.5 * program.slope @ free, 0.0) * 1.001 + 1e-6
    return free, np.abs(free) + np.sqrt(2.0 * room * np.linalg.inv(program.hessian).diagonal())


def gurobi(block, limit):
    import gurobipy as gp

    program = program_of(block)
    begin = process_time()
    with gp.Env(params={"OutputFlag": 0}) as env, gp.Model(env=env) as model:
        model.Params.Threads, model.Params.TimeLimit, model.Params.MIPGap = 1, limit, 1e-8
        if block.mode == "select":
            x = model.addMVar(block.p, vtype="B")
            model.addConstr(x.sum() == program.count)
            model.setObjective(program.linear @ x + 0.5 * x @ program.quadratic @ x)
            base = 0.0
        else:
            free, reach = reach_of(program, program.inner(solve(block, "swap").objective))
            m = model.addMVar(block.p, vtype="B")
            w = model.addMVar(block.p, lb=-reach, ub=reach)
            model.addConstr(m.sum() == program.keep)
            model.addConstr(w <= reach * m)
            model.addConstr(w >= -reach * m)
            # around the unconstrained optimum nothing cancels
            base = -0.5 * program.slope @ free
            half = program.hessian @ free
            model.setObjective(0.5 * w @ program.hessian @ w - half @ w - base)
        model.optimize()
        proved = model.Status == gp.GRB.OPTIMAL
        low = model.ObjBound + (0.0 if block.mode == "select" else base)
        high = model.ObjVal + (0.0 if block.mode == "select" else base)
    outer = lambda v: program.constant + v / program.scale  # noqa: E731
    return process_time() - begin, proved, outer(high), outer(low)


def scip(block, limit):
    import pyscipopt

    program = program_of(block)
    begin = process_time()
    model = pyscipopt.Model()
    model.hideOutput()
    model.setParam("limits/time", limit)
    p = block.p
    if block.mode == "select":
        x = [model.addVar(vtype="B") for _ in range(p)]
        model.addCons(pyscipopt.quicksum(x) == program.count)
        matrix, linear = program.quadratic, program.linear
    else:
        _, reach = reach_of(program, program.inner(solve(block, "swap").objective))
        m = [model.addVar(vtype="B") for _ in range(p)]
        x = [model.addVar(lb=-float(reach[i]), ub=float(reach[i])) for i in range(p)]
        model.addCons(pyscipopt.quicksum(m) == program.keep)
        for i in range(p):
            model.addCons(x[i] <= float(reach[i]) * m[i])
            model.addCons(x[i] >= -float(reach[i]) * m[i])
        matrix, linear = program.hessian, -program.slope
    level = model.addVar(lb=None)
    terms = [float(linear[i]) * x[i] + 0.5 * float(matrix[i, i]) * x[i] * x[i] for i in range(p)]
    terms += [float(matrix[i, j]) * x[i] * x[j] for i in range(p) for j in range(i + 1, p) if matrix[i, j]]
    model.addCons(level >= pyscipopt.quicksum(terms))
    model.setObjective(level)
    model.optimize()
    proved = model.getStatus() == "optimal"
    high = model.getObjVal() if model.getNSols() else np.inf
    outer = lambda v: program.constant + v / program.scale  # noqa: E731
    return process_time() - begin, proved, outer(high), outer(model.getDualbound())


def mccormick(block, limit):
    """The textbook linearisation in HiGHS: three rows a pair, no strengthening and no starting point."""
    from prunebench.solvers.highs.formulations import Pairs

    program = program_of(block)
    begin = process_time()
    formulation = Pairs(program, 1, plain=True)
    outcome = formulation.model.solve(limit, None, lambda: False, lambda _: None)
    outer = lambda v: program.constant + v / program.scale  # noqa: E731
    values = [block.evaluate(np.argsort(np.argsort(-point[: block.p])) < block.keep) for point in outcome.points]
    best = min(values, default=np.inf)
    return process_time() - begin, outcome.finished, best, outer(outcome.bound + formulation.offset)


RIVALS = {
    "gurobi": gurobi,
    "scip": scip,
    "mccormick": mccormick,
    "highs": lambda block, limit: ours(block, limit, "highs"),
    "2-threads": lambda block, limit: ours(block, limit, threads=2),
}
PACKAGES = {"gurobi": "gurobipy", "scip": "pyscipopt"}
MODES, SIZES = ("select", "refit"), (32, 64, 128, 256)
PROBLEMS = ("digits-mlp", "mlpnet-mnist", "garment-fashion-mnist")
QUICK = ("n=32 keep=16", "n=128 keep=16", "n=128 keep=32", "fisher")
STOPS = (1.0, 5.0, 20.0)


def rivals_for(mode, size):
    """The rivals that are installed and have a chance: Gurobi's free licence ends at 2,000 variables and rows."""
    names = []
    if size <= 128:
        names += [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
    if size <= 64:
        names.append("highs")
    if size <= 32 and mode == "select":
        names.append("mccormick")
    return names


def cell(seconds, proved, high, low):
    if proved:
        return f"{seconds:.3f}"
    return f"gap {(high - low) / abs(high):.2g}" if np.isfinite(low) and np.isfinite(high) else "no bound"


def table(problem, mode, size, names, limit, rivals):
    """One line a kind; the ratio is the rival's seconds, or its limit, over ours."""
    print(f"\n{problem}, mode {mode}, p = {size}, CPU seconds to proof (limit {limit:g}), one thread")
    print(f"{'kind':15s} {'branch-and-bound':>17s}" + "".join(f"{name:>12s}" for name in rivals), "  ratio")
    times, proofs, ratios = [], 0, {name: [] for name in rivals}
    for name, block in kinds(problem, size, mode):
        if names and name not in names:
            continue
        mine = ours(block, limit)
        proofs += mine[1]
        times.append(mine[0] if mine[1] else np.inf)
        line = f"{name:15s} {cell(*mine):>17s}"
        last = ""
        for rival in rivals:
            try:
                other = RIVALS[rival](block, limit)
            except Exception as error:
                line += f"{type(error).__name__[:11]:>12s}"
                continue
            line += f"{cell(*other):>12s}"
            ratios[rival].append((other[0] if other[1] else max(other[0], limit)) / mine[0])
            last += f" {ratios[rival][-1]:.1f}"
            if mine[1] and other[3] > mine[2] + 1e-5 * abs(mine[2]):
                line += " (bound above our optimum)"
            if other[1] and mine[3] > other[2] + 1e-5 * abs(other[2]):
                line += " (OUR BOUND ABOVE ITS OPTIMUM)"
        print(line, last, flush=True)
    if not times:
        return
    print(f"proved {proofs} of {len(times)}; median {statistics.median(times):.3f} s", end="")
    for rival, held in ratios.items():
        if held:
            print(f"; median ratio to {rival} {statistics.median(held):.1f}", end="")
    print()


def anytime(problem, mode, size, names):
    """The incumbent and the bound of runs that were stopped, and whether their traces are monotone."""
    print(f"\n{problem}, mode {mode}, p = {size}: branch-and-bound stopped after wall seconds")
    print(f"{'kind':15s} {'stop':>5s} {'objective':>13s} {'bound':>13s} {'gap':>8s}  trace")
    for name, block in kinds(problem, size, mode):
        if name not in (names or ("fisher",)):
            continue
        for seconds in STOPS:
            answer = solve(block, "branch-and-bound", budget=Budget(seconds=seconds))
            trace = answer.trace
            monotone = (np.diff(trace[:, 1]) <= 0.0).all() and (trace[1:, 2] >= trace[:-1, 2]).all()
            gap = (answer.objective - answer.lower_bound) / abs(answer.objective)
            print(
                f"{name:15s} {seconds:5.0f} {answer.objective:13.6g} {answer.lower_bound:13.6g} {gap:8.4f}  "
                f"{len(trace)} rows, {'monotone' if monotone else 'NOT MONOTONE'}, {answer.status.value}",
                flush=True,
            )
            if answer.status is Status.OPTIMAL:
                break


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", nargs="?", choices=MODES)
    parser.add_argument("size", nargs="?", type=int)
    parser.add_argument("--problem", nargs="+", default=PROBLEMS)
    parser.add_argument("--kinds", nargs="+", default=(), help="only these kinds, by their names in the table")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a solve")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS)
    parser.add_argument("--anytime", action="store_true", help="also print runs that are stopped after 1, 5 and 20 s")
    parser.add_argument("--cpu", action="store_true", help="our limits in CPU seconds, for busy machines")
    parser.add_argument("--quick", action="store_true", help="p = 32 of digits-mlp, four kinds, 5 s a solve")
    arguments = parser.parse_args()
    Clock.cpu = arguments.cpu
    problems, names, limit = arguments.problem, arguments.kinds, arguments.limit
    modes = [arguments.mode] if arguments.mode else MODES
    sizes = [arguments.size] if arguments.size else SIZES
    if arguments.quick:
        problems, sizes, limit = PROBLEMS[:1], sizes[:1], min(limit, 5.0)
        names = names or QUICK
    everything = not arguments.mode and not arguments.quick
    for mode in modes:
        # compiled before anything is timed
        warm = next((block for _, block in kinds(problems[0], 16, mode)), None)
        if warm is None:
            parser.error(f"problem {problems[0]} has no blocks here, for the reason above")
        ours(warm, 60.0)
        ours(warm, 60.0, "highs")
        for problem in problems:
            for size in sizes:
                rivals = rivals_for(mode, size) if arguments.rivals is None else arguments.rivals
                table(problem, mode, size, names, limit, rivals)
        if arguments.anytime or everything or arguments.quick:
            anytime(problems[0], mode, 64 if arguments.quick else max(sizes[:3]), names)


if __name__ == "__main__":
    main()
