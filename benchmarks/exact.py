"""Exact solvers on the same real blocks, one thread each: CPU seconds to proof, or the gap that is left.

    python benchmarks/exact.py                      # every table: hours
    python benchmarks/exact.py --quick              # a few kinds of small blocks: a minute or two
    python benchmarks/exact.py select 64 --problem digits-mlp --limit 60 --rivals gurobi scip
    python benchmarks/exact.py refit 128 --kinds fisher "one row" --anytime
    python benchmarks/exact.py refit 128 --hard --limit 60 --cpu --rivals

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
from collections.abc import Callable, Iterator, Sequence
from time import process_time
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from prunebench import BlockProblem, Budget, Status, solve
from prunebench.core.arrays import FloatArray
from prunebench.core.block import MODES, Mode
from prunebench.core.stop import never
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram
from prunebench.runs.cut import cut_block
from runner import Benchmark, Note, Row


class Outcome(NamedTuple):
    """CPU seconds, whether the optimum was proved, the best objective and the bound."""

    seconds: float
    proved: bool
    high: float
    low: float

    def cell(self) -> str:
        if self.proved:
            return f"{self.seconds:.3f}"
        finite = np.isfinite(self.low) and np.isfinite(self.high)
        return f"gap {(self.high - self.low) / abs(self.high):.2g}" if finite else "no bound"


HARD_KINDS = "hard kinds"
"""Stands for a problem: the blocks of HARD, which come from several."""
HARD: dict[Mode, dict[str, dict[str, Any]]] = {
    "refit": {
        **{
            f"{problem} n={n} keep p/{round(1 / density)}": {"problem": problem, "samples": n, "density": density}
            for problem in ("digits-mlp", "mlpnet-mnist") for n in (128, 512) for density in (0.2, 0.05)
        },
        **{
            f"row of a Llama n=32 keep p/{round(1 / density)}": {
                "problem": "stories-llama", "samples": 32, "density": density, "select": "row",
            }
            for density in (0.2, 0.05)
        },
    },
    "select": {
        f"row of a convolution n={n} seed {seed}": {
            "problem": "resnet20-cifar10", "samples": n, "density": 0.5, "select": "row", "seed": seed,
        }
        for n in (128, 512) for seed in range(3)
    },
}  # fmt: skip
"""The kinds that were open or slow: few kept weights in mode refit, rows of convolutions in mode select."""


def hard_kinds(size: int, mode: Mode) -> Iterator[tuple[str, BlockProblem | str]]:
    """The blocks of HARD; the reason where there is none."""
    for name, given in HARD[mode].items():
        curvature = {"samples": given["samples"], "ridge": 1e-3, "gradient_scale": 0.0}
        try:
            block = cut_block(
                given["problem"], size=size, density=given["density"], select=given.get("select", "random"),
                mode=mode, curvature=curvature, seed=given.get("seed", 0),
            )  # fmt: skip
        except ValueError as error:
            yield name, str(error)
        else:
            yield name, block


def kinds(problem: str, size: int, mode: Mode) -> Iterator[tuple[str, BlockProblem | str]]:
    """The thirteen kinds of block, by n, keep, ridge, draw, linear term and seed; the reason where there is none.

    Of problem HARD_KINDS: the blocks of HARD.
    """
    if problem == HARD_KINDS:
        yield from hard_kinds(size, mode)
        return
    half, fifth = 0.5, 0.2
    rows: dict[str, dict[str, Any]] = {}
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
            block = cut_block(
                problem,
                size=size,
                density=given.get("density", half),
                select=given.get("select", "random"),
                mode=mode,
                curvature=curvature,
                seed=given.get("seed", 0),
            )
        except ValueError as error:
            yield name, str(error)
        else:
            yield name, block


class Clock:
    """Stops a solve by Ctrl-C's way once it has used its CPU seconds; wall seconds may be WALL times as many."""

    cpu = False
    WALL = 8.0

    def __init__(self, limit: float) -> None:
        self.begin, self.limit = process_time(), limit
        self.budget = Budget(seconds=limit * self.WALL if self.cpu else limit)

    def __call__(self, seconds: float, objective: float, bound: float) -> None:
        if self.cpu and process_time() - self.begin > self.limit:
            raise KeyboardInterrupt


def ours(block: BlockProblem, limit: float, solver: str = "branch-and-bound", **options: Any) -> Outcome:
    clock = Clock(limit)
    answer = solve(block, solver, options=options, budget=clock.budget, progress=clock)
    spent = process_time() - clock.begin
    return Outcome(spent, answer.status is Status.OPTIMAL, answer.objective, answer.lower_bound)


def select_program(block: BlockProblem) -> SelectProgram:
    return SelectProgram.of(block, solve(block, "swap").objective)


def refit_program(block: BlockProblem) -> RefitProgram:
    lowest = block.form.lower_bound()
    return RefitProgram.of(block, solve(block, "swap").objective, lowest if np.isfinite(lowest) else None)


def reach_of(program: RefitProgram, upper: float) -> tuple[FloatArray, FloatArray]:
    """Bounds on the weights of everything no worse than `upper`: the ellipsoid around the unconstrained optimum."""
    free = np.linalg.solve(program.hessian, program.slope)
    room = max(upper + 0.5 * float(program.slope @ free), 0.0) * 1.001 + 1e-6
    reach = np.abs(free) + np.sqrt(2.0 * room * np.linalg.inv(program.hessian).diagonal())
    return np.asarray(free, dtype=np.float64), np.asarray(reach, dtype=np.float64)


def gurobi(block: BlockProblem, limit: float) -> Outcome:
    import gurobipy as gp

    select = select_program(block) if block.mode == "select" else None
    refit = refit_program(block) if select is None else None
    begin = process_time()
    with gp.Env(params={"OutputFlag": 0}) as env, gp.Model(env=env) as model:
        model.Params.Threads, model.Params.TimeLimit, model.Params.MIPGap = 1, limit, 1e-8
        base = 0.0
        if select is not None:
            x = model.addMVar(block.p, vtype="B")
            model.addConstr(x.sum() == select.count)
            model.setObjective(select.linear @ x + 0.5 * x @ select.quadratic @ x)
        if refit is not None:
            free, reach = reach_of(refit, refit.inner(solve(block, "swap").objective))
            m = model.addMVar(block.p, vtype="B")
            w = model.addMVar(block.p, lb=-reach, ub=reach)
            model.addConstr(m.sum() == refit.keep)
            model.addConstr(w <= reach * m)
            model.addConstr(w >= -reach * m)
            # around the unconstrained optimum nothing cancels
            base = -0.5 * float(refit.slope @ free)
            half = refit.hessian @ free
            model.setObjective(0.5 * w @ refit.hessian @ w - half @ w - base)
        model.optimize()
        proved = model.Status == gp.GRB.OPTIMAL
        low, high = model.ObjBound + base, model.ObjVal + base
    return Outcome(process_time() - begin, proved, outer(select or refit, high), outer(select or refit, low))


def outer(program: SelectProgram | RefitProgram | None, value: float) -> float:
    """A program's value in the units of the block."""
    assert program is not None
    return float(program.constant + value / program.scale)


def scip(block: BlockProblem, limit: float) -> Outcome:
    import pyscipopt

    program: SelectProgram | RefitProgram
    model = pyscipopt.Model()
    model.hideOutput()
    model.setParam("limits/time", limit)
    p = block.p
    if block.mode == "select":
        program = select = select_program(block)
        begin = process_time()
        x = [model.addVar(vtype="B") for _ in range(p)]
        model.addCons(pyscipopt.quicksum(x) == select.count)
        matrix, linear = select.quadratic, select.linear
    else:
        program = refit = refit_program(block)
        begin = process_time()
        _, reach = reach_of(refit, refit.inner(solve(block, "swap").objective))
        m = [model.addVar(vtype="B") for _ in range(p)]
        x = [model.addVar(lb=-float(reach[i]), ub=float(reach[i])) for i in range(p)]
        model.addCons(pyscipopt.quicksum(m) == refit.keep)
        for i in range(p):
            model.addCons(x[i] <= float(reach[i]) * m[i])
            model.addCons(x[i] >= -float(reach[i]) * m[i])
        matrix, linear = refit.hessian, -refit.slope
    level = model.addVar(lb=None)
    terms = [float(linear[i]) * x[i] + 0.5 * float(matrix[i, i]) * x[i] * x[i] for i in range(p)]
    terms += [float(matrix[i, j]) * x[i] * x[j] for i in range(p) for j in range(i + 1, p) if matrix[i, j]]
    model.addCons(level >= pyscipopt.quicksum(terms))
    model.setObjective(level)
    model.optimize()
    proved = model.getStatus() == "optimal"
    high = model.getObjVal() if model.getNSols() else np.inf
    return Outcome(process_time() - begin, proved, outer(program, high), outer(program, model.getDualbound()))


def mccormick(block: BlockProblem, limit: float) -> Outcome:
    """The textbook linearisation in HiGHS: three rows a pair, no strengthening and no starting point."""
    from prunebench.solvers.highs.formulations import Pairs

    program = select_program(block)
    begin = process_time()
    formulation = Pairs(program, 1, plain=True)
    outcome = formulation.model.solve(limit, None, never, lambda _: None)
    values = [block.evaluate(np.argsort(np.argsort(-point[: block.p])) < block.keep) for point in outcome.points]
    best = min(values, default=np.inf)
    bound = outer(program, outcome.bound + formulation.offset)
    return Outcome(process_time() - begin, outcome.finished, best, bound)


RIVALS: dict[str, Callable[[BlockProblem, float], Outcome]] = {
    "gurobi": gurobi,
    "scip": scip,
    "mccormick": mccormick,
    "highs": lambda block, limit: ours(block, limit, "highs"),
    "2-threads": lambda block, limit: ours(block, limit, threads=2),
}
PACKAGES = {"gurobi": "gurobipy", "scip": "pyscipopt"}
SIZES = (32, 64, 128, 256)
PROBLEMS = ("digits-mlp", "mlpnet-mnist", "garment-fashion-mnist")
QUICK_KINDS = ("n=32 keep=16", "n=128 keep=16", "n=128 keep=32", "fisher")
STOPS = (1.0, 5.0, 20.0)


def rivals_for(mode: Mode, size: int) -> list[str]:
    """The rivals that are installed and have a chance: Gurobi's free licence ends at 2,000 variables and rows."""
    names = []
    if size <= 128:
        names += [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
    if size <= 64:
        names.append("highs")
    if size <= 32 and mode == "select":
        names.append("mccormick")
    return names


def doubts(mine: Outcome, other: Outcome) -> str:
    """What cannot be true of two outcomes together."""
    if other.proved and mine.low > other.high + 1e-5 * abs(other.high):
        return "OUR BOUND ABOVE ITS OPTIMUM"
    if mine.proved and other.low > mine.high + 1e-5 * abs(mine.high):
        return "its bound above our optimum"
    return ""


def table(
    problem: str, mode: Mode, size: int, names: Sequence[str], limit: float, rivals: Sequence[str]
) -> Iterator[Row | Note]:
    """One line a kind; the ratio is the rival's seconds, or its limit, over ours."""
    title = f"{problem}, mode {mode}, p = {size}, CPU seconds to proof (limit {limit:g}), one thread"
    times: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in rivals}
    for name, block in kinds(problem, size, mode):
        if names and name not in names:
            continue
        if isinstance(block, str):
            yield Note(f"{name} skipped: {block}")
            continue
        mine = ours(block, limit)
        times.append(mine.seconds if mine.proved else np.inf)
        cells = {"kind": name, "branch-and-bound": mine.cell()}
        found: dict[str, float | None] = {}
        remarks = []
        for rival in rivals:
            try:
                other = RIVALS[rival](block, limit)
            except Exception as error:
                cells[rival], found[f"{rival}/ours"] = type(error).__name__, None
                continue
            cells[rival] = other.cell()
            ratio = (other.seconds if other.proved else max(other.seconds, limit)) / mine.seconds
            ratios[rival].append(ratio)
            found[f"{rival}/ours"] = ratio
            remarks.append(doubts(mine, other))
        yield Row(title, {**cells, **found, "remark": ", ".join(filter(None, remarks))})
    if times:
        medians = {f"{name}/ours": statistics.median(held) for name, held in ratios.items() if held}
        solved = sum(np.isfinite(time) for time in times)
        total = {"of": title.partition(", CPU")[0], "blocks": len(times), "proved": solved}
        yield Row("medians", {**total, "CPU s": statistics.median(times), **medians})


def anytime(problem: str, mode: Mode, size: int, names: Sequence[str]) -> Iterator[Row]:
    """The incumbent and the bound of runs that were stopped, and whether their traces are monotone."""
    for name, block in kinds(problem, size, mode):
        if isinstance(block, str) or name not in (names or ("fisher",)):
            continue
        for seconds in STOPS:
            answer = solve(block, "branch-and-bound", budget=Budget(seconds=seconds))
            trace = answer.trace
            yield Row(f"{problem}, mode {mode}, p = {size}: branch-and-bound stopped after wall seconds", {
                "kind": name, "stop": seconds, "objective": answer.objective, "bound": answer.lower_bound,
                "gap": (answer.objective - answer.lower_bound) / abs(answer.objective), "rows": len(trace),
                "monotone": bool((np.diff(trace[:, 1]) <= 0.0).all() and (trace[1:, 2] >= trace[:-1, 2]).all()),
                "status": answer.status.value,
            })  # fmt: skip
            if answer.status is Status.OPTIMAL:
                break


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mode", nargs="?", choices=MODES)
    parser.add_argument("size", nargs="?", type=int)
    parser.add_argument("--problem", nargs="+", default=PROBLEMS)
    parser.add_argument("--kinds", nargs="+", default=(), help="only these kinds, by their names in the table")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a solve")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS)
    parser.add_argument("--anytime", action="store_true", help="also runs that are stopped after 1, 5 and 20 s")
    parser.add_argument("--hard", action="store_true", help="blocks that were open or slow instead of the kinds")
    parser.add_argument("--cpu", action="store_true", help="our limits in CPU seconds, for busy machines")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    Clock.cpu = chosen.cpu
    modes: Sequence[Mode] = [chosen.mode] if chosen.mode else MODES
    sizes = [chosen.size] if chosen.size else SIZES[:1] if chosen.quick else SIZES
    for mode in modes:
        # compiled before anything is timed
        warm = next((block for _, block in kinds(chosen.problem[0], 16, mode)), "no kinds")
        if isinstance(warm, str):
            raise SystemExit(f"problem {chosen.problem[0]} has no blocks here: {warm}")
        ours(warm, 60.0)
        if chosen.rivals is None or "highs" in chosen.rivals:
            ours(warm, 60.0, "highs")
        for problem in [HARD_KINDS] if chosen.hard else chosen.problem:
            for size in sizes:
                rivals = rivals_for(mode, size) if chosen.rivals is None else chosen.rivals
                yield from table(problem, mode, size, chosen.kinds, chosen.limit, rivals)
        if chosen.hard:
            continue
        if chosen.anytime or chosen.quick or not chosen.mode:
            yield from anytime(chosen.problem[0], mode, 64 if chosen.quick else max(sizes[:3]), chosen.kinds)


QUICK = {"problem": PROBLEMS[:1], "kinds": QUICK_KINDS, "limit": 5.0}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
