"""The block as a Pyomo model, and back: every solver that Pyomo knows; and the files .lp, .mps and .nl.

Pyomo is for reach, highspy for speed: the algebraic model of a block of 64 weights takes longer to
build than solver 'branch-and-bound' needs to prove it. pyomo is imported when a model is built.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.registry import require_packages
from prunebench.forms.program import Formulation, Program, Units, budget_rows, program, reach
from prunebench.forms.text_files import write_lp, write_mps

GRID = np.array([sign * 2.0**-step for step in range(8) for sign in (-1.0, 1.0)])
"""Where the squares of the linear refit model are touched, as parts of their reach."""


def build(block: BlockProblem, formulation: Formulation = "miqp", upper: float | None = None) -> Any:
    """A pyomo ConcreteModel with binaries model.keep[i], 1 where weight i is kept; a quota is one constraint a group.

    Budgets are one inequality each.

    Parameters
    ----------
    formulation : "miqp"   select: f(m·w̄) in the binaries; refit: weights model.weight[i] with |w| <= reach·keep
                  "milp"   select: products of pairs as columns, with the count times each variable as rows;
                           refit: squares replaced by GRID tangents from below, so its optimum is a bound only
    upper : float          an objective some mask attains; in mode refit it bounds the weights

    The objective is multiplied by model.scale.value, a power of two that brings it near 1, and
    `unscaled` takes a value back to the block's units.

    Raises
    ------
    InvalidInput   a refit curvature that is not positive definite
    """
    import pyomo.environ as pyo

    model = pyo.ConcreteModel(name=block.problem or "block")
    model.places = pyo.RangeSet(0, block.p - 1)
    model.keep = pyo.Var(model.places, domain=pyo.Binary)
    _constrain(pyo, model, block)
    best = block.evaluate(block.incumbent) if upper is None else upper
    if block.mode == "select":
        _select(pyo, model, block, formulation)
    else:
        _refit(pyo, model, block, best, formulation)
    for i in range(block.p):
        model.keep[i].set_value(int(block.incumbent[i]))
    return model


def _constrain(pyo: Any, model: Any, block: BlockProblem) -> None:
    """The count, the counts of a quota's groups, or the budgets, each divided by its limit."""
    if block.budget is not None:
        model.count = pyo.ConstraintList()
        for row in budget_rows(block):
            unit = row.bound if row.bound > 0.0 else float(row.coefficients.sum())
            terms = (float(c) / unit * model.keep[int(i)] for i, c in zip(row.places, row.coefficients, strict=True))
            model.count.add(pyo.quicksum(terms) <= row.bound / unit)
        return
    sums = [pyo.quicksum(model.keep[i] for i in members.tolist()) == due for members, due in block.keeping.groups()]
    if block.keeping.one_count:
        model.count = pyo.Constraint(expr=sums[0])
        return
    model.count = pyo.ConstraintList()
    for equation in sums:
        model.count.add(equation)


def export(block: BlockProblem, path: Path | str, formulation: Formulation = "miqp") -> Units:
    """Write the block's program to a .lp, .nl or .mps file, and how its objective relates to f.

    An .nl file has no names of its own: they stand beside it, in files that end in .col and .row.

    Raises
    ------
    InvalidInput   another suffix, or what `prunebench.forms.program.program` raises
    """
    target = Path(path)
    if target.suffix not in WRITERS:
        raise InvalidInput(f"{target}: the suffix is {target.suffix!r}; choose one of {', '.join(WRITERS)}")
    made = program(block, formulation)
    WRITERS[target.suffix](made, target)
    return made.units


def algebraic(made: Program) -> Any:
    """A pyomo ConcreteModel of a program, its variables as components of their own names."""
    import pyomo.environ as pyo

    model = pyo.ConcreteModel(name="block")
    held = []
    for place, name in enumerate(made.names):
        bounds = (float(made.lower[place]), float(made.upper[place]))
        domain = pyo.Binary if place < made.binaries else pyo.Reals
        variable = pyo.Var(domain=domain, bounds=bounds, initialize=float(made.start[place]))
        model.add_component(name, variable)
        held.append(variable)
    terms = [float(value) * variable for value, variable in zip(made.linear, held, strict=True)]
    triples = zip(made.quadratic, made.first, made.second, strict=True)
    terms += [float(value) * held[i] * held[j] for value, i, j in triples]
    model.objective = pyo.Objective(expr=pyo.quicksum(terms))
    for row in made.rows:
        body = pyo.quicksum(float(c) * held[i] for i, c in zip(row.places, row.coefficients, strict=True))
        rule = body == row.bound if row.sense == "=" else body <= row.bound
        model.add_component(f"row_{row.name}", pyo.Constraint(expr=rule))
    return model


def write_nl(made: Program, path: Path) -> None:
    """Write AMPL's .nl format, and the names beside it as .col and .row files; units stand in the first line."""
    # Pyomo goes by suffixes, and names its companion files by the stem.
    with TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / "block.nl"
        algebraic(made).write(str(whole), format="nl", io_options={"symbolic_solver_labels": True})
        first, _, rest = whole.read_text(encoding="utf-8").partition("\n")
        head = first.partition("#")[0].rstrip()
        whole.write_text(f"{head}\t# {made.title}; {made.units.text()}\n{rest}", encoding="utf-8", newline="\n")
        for suffix in (".col", ".row"):
            whole.with_suffix(suffix).replace(path.with_suffix(suffix))
        whole.replace(path)


WRITERS: dict[str, Callable[[Program, Path], None]] = {".lp": write_lp, ".mps": write_mps, ".nl": write_nl}
"""Writers of a program by the suffix of the file."""


def _export_nl(block: BlockProblem, path: Path, formulation: Formulation = "miqp") -> Units:
    require_packages("format nl", ("pyomo",), "pip install pyomo")
    made = program(block, formulation)
    write_nl(made, path)
    return made.units


EXPORTS: dict[str, Callable[..., Units]] = {"nl": _export_nl}
"""Writers by format name, (block, path, formulation): the block as a mixed-integer program."""


def mask_of(model: Any, block: BlockProblem) -> BoolArray | None:
    """The mask a solver left in the model, rounded to a feasible one; None if it left none."""
    values = [model.keep[i].value for i in range(block.p)]
    if any(value is None for value in values):
        return None
    found = np.array(values, dtype=np.float64)
    # a budget is met to the solver's tolerance: where it is not met exactly, the least certain weights go
    return block.top_mask(found) if block.budget is None else block.budget.within_reach(found > 0.5, found)


def unscaled(model: Any, value: float) -> float:
    """An objective value of the model, or a bound, in the block's units."""
    return float(value / model.scale.value + model.base.value)


def _select(pyo: Any, model: Any, block: BlockProblem, formulation: Formulation) -> None:
    # x = 1 − m from the dense point: nonnegative terms of the objective's own size, nothing cancels
    dense = block.dense_weights
    base = block.form.value(dense)
    slope = block.form.gradient(dense)
    gram = block.form.gram(np.arange(block.p))
    gram[np.diag_indices(block.p)] -= block.form.ridge
    matrix = gram * dense[:, None] * dense
    linear = 0.5 * block.form.ridge * dense**2 - dense * slope + 0.5 * matrix.diagonal()
    _scale(pyo, model, abs(block.evaluate(block.incumbent) - base), base)
    scale = model.scale.value
    pruned = [1 - model.keep[i] for i in model.places]
    terms = [scale * float(linear[i]) * pruned[i] for i in model.places]
    pairs = [(i, j) for i in range(block.p) for j in range(i + 1, block.p)]
    if formulation == "miqp":
        terms += [scale * float(matrix[i, j]) * pruned[i] * pruned[j] for i, j in pairs if matrix[i, j]]
    else:
        model.pairs = pyo.Set(initialize=pairs, dimen=2)
        model.both = pyo.Var(model.pairs, bounds=(0, 1))
        model.links = pyo.ConstraintList()
        for i, j in pairs:
            model.links.add(model.both[i, j] >= pruned[i] + pruned[j] - 1)
            model.links.add(model.both[i, j] <= pruned[i])
            model.links.add(model.both[i, j] <= pruned[j])
        left = block.p - block.keep
        for i in range(block.p) if block.budget is None else ():
            others = [model.both[min(i, j), max(i, j)] for j in range(block.p) if j != i]
            model.links.add(pyo.quicksum(others) == (left - 1) * pruned[i])
        terms += [scale * float(matrix[i, j]) * model.both[i, j] for i, j in pairs if matrix[i, j]]
    model.objective = pyo.Objective(expr=pyo.quicksum(terms))


def _refit(pyo: Any, model: Any, block: BlockProblem, upper: float, formulation: Formulation) -> None:
    form = block.form
    # everything no worse than `upper` lies in an ellipsoid around the unconstrained optimum
    free, wide, room = reach(block, upper)
    lowest = form.value(free)
    gram = form.gram(np.arange(block.p))
    _scale(pyo, model, room, lowest)
    scale = model.scale.value
    model.weight = pyo.Var(model.places, bounds=lambda _, i: (-float(wide[i]), float(wide[i])))
    model.above = pyo.Constraint(model.places, rule=lambda m, i: m.weight[i] <= float(wide[i]) * m.keep[i])
    model.below = pyo.Constraint(model.places, rule=lambda m, i: m.weight[i] >= -float(wide[i]) * m.keep[i])
    move = [model.weight[i] - float(free[i]) for i in model.places]
    if formulation == "miqp":
        terms = [0.5 * scale * float(gram[i, i]) * move[i] ** 2 for i in model.places]
        terms += [
            scale * float(gram[i, j]) * move[i] * move[j]
            for i in range(block.p)
            for j in range(i + 1, block.p)
            if gram[i, j]
        ]
    else:
        terms = _tangents(pyo, model, scale * gram, move, scale * room)
    model.objective = pyo.Objective(expr=pyo.quicksum(terms))
    start = block.weights_of(block.incumbent)
    for i in range(block.p):
        model.weight[i].set_value(float(np.clip(start[i], -wide[i], wide[i])))


def _tangents(pyo: Any, model: Any, gram: FloatArray, move: list[Any], room: float) -> list[Any]:
    """½ move'gram move from below: a column for each eigenvector's square, above its tangents on a grid."""
    values, vectors = np.linalg.eigh(gram)
    held = np.flatnonzero(values > 1e-12 * values[-1])
    reach = float(np.sqrt(2.0 * room))
    model.rays = pyo.RangeSet(0, held.size - 1)
    model.residual = pyo.Var(model.rays, bounds=(-reach, reach))
    model.square = pyo.Var(model.rays, bounds=(0.0, reach**2))
    model.rows = pyo.ConstraintList()
    for k, at in enumerate(held):
        ray = np.sqrt(values[at]) * vectors[:, at]
        model.rows.add(model.residual[k] == pyo.quicksum(float(ray[i]) * move[i] for i in range(ray.size)))
        for point in reach * GRID:
            model.rows.add(model.square[k] >= 2.0 * float(point) * model.residual[k] - float(point) ** 2)
    return [0.5 * model.square[k] for k in model.rays]


def _scale(pyo: Any, model: Any, size: float, base: float) -> None:
    """A power of two that brings `size` near 1, and the objective's value where the model's is zero."""
    exponent = round(-np.log2(size)) if size > 0.0 and np.isfinite(size) else 0
    model.scale = pyo.Param(initialize=2.0 ** max(-500, min(500, exponent)), within=pyo.Any)
    model.base = pyo.Param(initialize=base, within=pyo.Any)
