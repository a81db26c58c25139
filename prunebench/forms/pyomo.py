"""The block as a Pyomo model, and back: every solver that Pyomo knows, and .lp, .nl and .mps files.

Pyomo is for reach, highspy for speed: the algebraic model of a block of 64 weights takes longer to
build than solver 'branch-and-bound' needs to prove it. pyomo is imported when a model is built.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput

Formulation = Literal["miqp", "milp"]
GRID = np.array([sign * 2.0**-step for step in range(8) for sign in (-1.0, 1.0)])
"""Where the squares of the linear refit model are touched, as parts of their reach."""

SUFFIXES = (".lp", ".nl", ".mps")


def build(block: BlockProblem, formulation: Formulation = "miqp", upper: float | None = None) -> Any:
    """A pyomo ConcreteModel with binaries model.keep[i], 1 where weight i is kept; a quota is one constraint a group.

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
    if (quota := block.quota) is None:
        model.count = pyo.Constraint(expr=pyo.quicksum(model.keep[i] for i in model.places) == block.keep)
    else:
        model.count = pyo.ConstraintList()
        for number, count in enumerate(quota.counts.tolist()):
            model.count.add(pyo.quicksum(model.keep[i] for i in quota.members(number).tolist()) == count)
    best = block.evaluate(block.incumbent) if upper is None else upper
    if block.mode == "select":
        _select(pyo, model, block, formulation)
    else:
        _refit(pyo, model, block, best, formulation)
    for i in range(block.p):
        model.keep[i].set_value(int(block.incumbent[i]))
    return model


def export(block: BlockProblem, path: Path | str, formulation: Formulation = "miqp") -> None:
    """Write the model to a .lp, .nl or .mps file.

    Raises
    ------
    InvalidInput   another suffix
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise InvalidInput(f"{target}: the suffix is {target.suffix!r}; choose one of {', '.join(SUFFIXES)}")
    build(block, formulation).write(str(target), io_options={"symbolic_solver_labels": True})


def _exporter(suffix: str) -> Callable[[BlockProblem, Path], None]:
    """A writer of one format under any file name; Pyomo goes by the suffix."""

    def write(block: BlockProblem, path: Path) -> None:
        named = path.with_name(f".{path.name}{suffix}")
        try:
            export(block, named)
            named.replace(path)
        finally:
            named.unlink(missing_ok=True)

    return write


EXPORTS: dict[str, Callable[[BlockProblem, Path], None]] = {"mps": _exporter(".mps"), "nl": _exporter(".nl")}
"""Writers by format name: the block as a mixed-integer quadratic program."""


def mask_of(model: Any, block: BlockProblem) -> BoolArray | None:
    """The mask a solver left in the model, rounded to a feasible one; None if it left none."""
    values = [model.keep[i].value for i in range(block.p)]
    if any(value is None for value in values):
        return None
    return block.top_mask(np.array(values, dtype=np.float64))


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
        for i in range(block.p):
            others = [model.both[min(i, j), max(i, j)] for j in range(block.p) if j != i]
            model.links.add(pyo.quicksum(others) == (left - 1) * pruned[i])
        terms += [scale * float(matrix[i, j]) * model.both[i, j] for i, j in pairs if matrix[i, j]]
    model.objective = pyo.Objective(expr=pyo.quicksum(terms))


def _refit(pyo: Any, model: Any, block: BlockProblem, upper: float, formulation: Formulation) -> None:
    form = block.form
    everything = np.ones(block.p, dtype=np.bool_)
    free = form.refit(everything)
    lowest = form.value(free)
    gram = form.gram(np.arange(block.p))
    try:
        inverse = np.linalg.inv(gram).diagonal()
    except np.linalg.LinAlgError as error:
        raise InvalidInput(f"{block.name}: the curvature is singular; use a positive ridge") from error
    # everything no worse than `upper` lies in the ellipsoid around the unconstrained optimum
    room = max(upper - lowest, 0.0) * 1.001 + 1e-9 * abs(upper)
    reach: FloatArray = np.abs(free) + np.sqrt(2.0 * room * np.maximum(inverse, 0.0))
    _scale(pyo, model, room, lowest)
    scale = model.scale.value
    model.weight = pyo.Var(model.places, bounds=lambda _, i: (-float(reach[i]), float(reach[i])))
    model.above = pyo.Constraint(model.places, rule=lambda m, i: m.weight[i] <= float(reach[i]) * m.keep[i])
    model.below = pyo.Constraint(model.places, rule=lambda m, i: m.weight[i] >= -float(reach[i]) * m.keep[i])
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
        model.weight[i].set_value(float(np.clip(start[i], -reach[i], reach[i])))


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
