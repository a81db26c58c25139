"""Exact solvers on the same real blocks, one thread each: CPU seconds to proof, or the gap that is left.

    python benchmarks/exact.py select 64 --problem digits-mlp --limit 60 --rivals gurobi scip

The rivals are development extras (pip install gurobipy pyscipopt) on the same program in the same
run: the quadratic objective over binaries in mode select, with big-M bounds on the weights in mode
refit, scaled like ours so that their tolerances mean the same. Gaps are relative, (objective −
bound)/|objective|, as MIP solvers print them. Set OPENBLAS_NUM_THREADS=1.
"""

import argparse
import os
import statistics
from time import process_time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from prunebench import Budget, Status, solve
from prunebench.coordinator.cut import cut_block
from prunebench.core.programs import RefitProgram, SelectProgram


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


def ours(block, limit, solver="branch-and-bound", **options):
    begin = process_time()
    answer = solve(block, solver, options=options, budget=Budget(seconds=limit))
    seconds = process_time() - begin
    return seconds, answer.status is Status.OPTIMAL, answer.objective, answer.lower_bound


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
    from prunebench.kernels.highs_formulations import Pairs

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


def cell(seconds, proved, high, low):
    if proved:
        return f"{seconds:.3f}"
    return f"gap {(high - low) / abs(high):.2g}" if np.isfinite(low) and np.isfinite(high) else "no bound"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("select", "refit"))
    parser.add_argument("size", type=int)
    parser.add_argument("--problem", default="digits-mlp")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a solve")
    parser.add_argument("--rivals", nargs="*", default=[], choices=RIVALS)
    arguments = parser.parse_args()
    ours(next(kinds(arguments.problem, 16, arguments.mode))[1], 10.0)
    print(f"{arguments.problem}, mode {arguments.mode}, p = {arguments.size}, CPU seconds to proof, one thread")
    print(f"{'kind':15s} {'branch-and-bound':>17s}" + "".join(f"{name:>12s}" for name in arguments.rivals), "  ratio")
    times, proofs, ratios = [], 0, {name: [] for name in arguments.rivals}
    for name, block in kinds(arguments.problem, arguments.size, arguments.mode):
        mine = ours(block, arguments.limit)
        proofs += mine[1]
        times.append(mine[0] if mine[1] else np.inf)
        line = f"{name:15s} {cell(*mine):>17s}"
        last = ""
        for rival in arguments.rivals:
            try:
                other = RIVALS[rival](block, arguments.limit)
            except Exception as error:
                line += f"{type(error).__name__[:11]:>12s}"
                continue
            line += f"{cell(*other):>12s}"
            ratios[rival].append((other[0] if other[1] else max(other[0], arguments.limit)) / mine[0])
            last += f" {ratios[rival][-1]:.1f}"
            if mine[1] and other[3] > mine[2] + 1e-5 * abs(mine[2]):
                line += " (bound above our optimum)"
        print(line, last, flush=True)
    print(f"proved {proofs} of {len(times)}; median {statistics.median(times):.3f} s", end="")
    for rival, held in ratios.items():
        if held:
            print(f"; median ratio to {rival} {statistics.median(held):.1f}", end="")
    print()


if __name__ == "__main__":
    main()
