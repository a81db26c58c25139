"""The block as a mixed-integer quadratic program with named variables: what .lp, .mps, .nl and Qiskit's files hold.

One convention for all of them. Weight i is kept where the binary variable `mi` is 1; in mode refit its
value is the continuous variable `wi`. The objective of the file is

    value = scale · (f − constant)

for every mask that keeps the count. A reader's own tolerances are absolute or relative to the value
(integrality 1e-5, gap 1e-4, Hessian entries below 1e-9 left out by HiGHS), so the scale is 1 only where
f's differences between masks lie in their range, and the constant is 0 only where f's level does not
drown those differences. f(0) is spread over the masks' own variables (Σ m = keep), since Gurobi takes a
number in an LP objective for a variable's name.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput

Formulation = Literal["miqp", "milp"]
FORMULATIONS: tuple[Formulation, ...] = ("miqp", "milp")
"""Products in the objective, or a column for every pair."""

SAMPLED_MASKS = 256
"""Random masks whose spread is taken as the size of f's differences; drawn with a fixed seed."""

UNIT_RANGE = (2.0**-4, 2.0**10)
"""A spread in here is written as it is: absolute tolerances of solvers are 1e-6 and finer, 2e-5 of the least."""

UNIT_EXPONENT = 4
"""Another spread is brought to about 2 to this power: far above 1e-9, which HiGHS leaves out, and not so large that
SCIP, whose feasibility of 1e-6 is absolute, branches on rounding in mode refit."""

WEIGHT_RANGE = (2.0**-4, 2.0**4)
"""Bounds on the weights whose largest lies in here are written as they are; another is brought near 1."""

LEVEL = 100.0
"""A mean of f above this many spreads is subtracted: a relative gap of 1e-4 would be 1 % of a spread or more."""


@dataclass(frozen=True)
class Units:
    """How an exported objective relates to f: value = scale·(f − constant); a weight is `wi`/weight_scale."""

    scale: float = 1.0
    constant: float = 0.0
    weight_scale: float = 1.0

    def objective(self, value: float) -> float:
        """f of a value in the file."""
        return value / self.scale + self.constant

    def text(self) -> str:
        """The relation on one line, every number with all its digits."""
        out = f"value = scale * (f - constant), scale = {self.scale!r}, constant = {self.constant!r}"
        return out if self.weight_scale == 1.0 else f"{out}; weights are w / weight_scale, {self.weight_scale!r}"


@dataclass(frozen=True)
class Row:
    """A linear constraint Σ coefficients·variables `sense` bound. sense : "=" or "<="."""

    name: str
    places: IndexArray
    coefficients: FloatArray
    sense: str
    bound: float


@dataclass(frozen=True, eq=False)
class Program:
    """Minimise linear'x + Σ quadratic[k]·x[first[k]]·x[second[k]] under rows and bounds.

    names : of the v variables, the binaries m0 … first
    binaries : how many of them are binary;  lower, upper : float64 (v,)
    linear : float64 (v,);  first, second : int64 (t,), first <= second;  quadratic : float64 (t,), no zeros
    start : float64 (v,), the block's incumbent
    """

    title: str
    names: tuple[str, ...]
    binaries: int
    lower: FloatArray
    upper: FloatArray
    linear: FloatArray
    first: IndexArray
    second: IndexArray
    quadratic: FloatArray
    rows: tuple[Row, ...]
    start: FloatArray
    units: Units

    def value(self, point: FloatArray) -> float:
        """The objective at a point. float (v,) -> float64"""
        x = np.asarray(point, dtype=np.float64)
        return float(self.linear @ x + self.quadratic @ (x[self.first] * x[self.second]))


def program(block: BlockProblem, formulation: Formulation = "miqp") -> Program:
    """The block's problem in its own mode, a quota as one row a group, budgets as one row each.

    formulation : "miqp" with products in the objective; "milp", of mode select, with a column `bi_j` for
                  each product mi·mj, for readers that solve no quadratic program in integers (HiGHS, CBC, GLPK)

    Raises
    ------
    InvalidInput   mode refit with a curvature that is not positive definite beyond rounding: no bound on
                   the weights follows from it; or mode refit as a milp, which it is not
    """
    if formulation == "milp":
        require_select(block, "a linear program", "leave the formulation at miqp")
        return _without_products(_select(block), block)
    return _select(block) if block.mode == "select" else _refit(block)


def require_select(block: BlockProblem, what: str, instead: str) -> None:
    """Raise InvalidInput for a block in mode refit, whose objective is no quadratic function of the mask."""
    if block.mode != "select":
        raise InvalidInput(
            f"{block.name}: in mode {block.mode} the objective is not a quadratic function of the mask, which is all "
            f"that {what} holds; {instead}"
        )


def counts(block: BlockProblem) -> list[tuple[str, BoolArray, int]]:
    """The rows of the count, or of every group of a quota: name, members as bool (p,), how many are kept.

    A block with a budget has none: its rows are `budget_rows`.
    """
    if block.budget is not None:
        return []
    keeping = block.keeping
    names = ["keep"] if keeping.one_count else [f"keep{g}" for g in range(keeping.counts.size)]
    return [(name, keeping.group == g, int(keeping.counts[g])) for g, name in enumerate(names)]


def reach(block: BlockProblem, upper: float) -> tuple[FloatArray, FloatArray, float]:
    """(free, reach, room): every w with f(w) <= `upper` has |wᵢ| <= reachᵢ; f(free) = `upper` − room is the least f.

    The set is an ellipsoid around the unconstrained optimum `free`, its half-width √(2·room·(H⁻¹)ᵢᵢ).

    Raises
    ------
    InvalidInput   H is not positive definite beyond the rounding of its eigenvalues
    """
    form = block.form
    values, vectors = np.linalg.eigh(form.gram(np.arange(block.p)))
    # Eigenvalues are known to a few times eps·‖H‖: what is left below that could be zero.
    values = values - 4.0 * block.p * float(np.finfo(np.float64).eps) * float(np.abs(values).max(initial=0.0))
    if not (values > 0.0).all():
        raise InvalidInput(
            f"{block.name}: the curvature is singular to rounding, so that no bound on the weights follows from it; "
            "use a larger ridge"
        )
    free = form.refit(np.ones(block.p, dtype=np.bool_))
    lowest = form.value(free)
    room = max(upper - lowest, 0.0) * 1.001 + 1e-9 * abs(upper)
    width = np.sqrt(2.0 * room * ((vectors**2) @ (1.0 / values)))
    return free, np.abs(free) + width, room


def _select(block: BlockProblem) -> Program:
    qubo = block.to_qubo()
    units = _units(_spread(block), block.random_mean())
    first, second = np.triu_indices(block.p, 1)
    pairs = units.scale * qubo.couplings[first, second]
    linear, units = _spread_constant(block, units.scale * qubo.linear, qubo.constant, units)
    held = pairs != 0.0
    return Program(
        title=_title(block),
        names=tuple(f"m{i}" for i in range(block.p)),
        binaries=block.p,
        lower=np.zeros(block.p),
        upper=np.ones(block.p),
        linear=linear,
        first=first[held],
        second=second[held],
        quadratic=pairs[held],
        rows=tuple(_count_rows(block)),
        start=block.incumbent.astype(np.float64),
        units=units,
    )


def _refit(block: BlockProblem) -> Program:
    form, p = block.form, block.p
    best = block.evaluate(block.incumbent)
    _, wide, room = reach(block, best)
    largest = float(wide.max(initial=0.0))
    # With bounds near 1, a mask variable that is off by a solver's 1e-5 lets no more than that of a weight through.
    stretch = 1.0 if WEIGHT_RANGE[0] <= largest <= WEIGHT_RANGE[1] or not largest else _power(1.0 / largest)
    units = _units(room, best)
    units = Units(units.scale, units.constant, stretch)
    origin = np.zeros(p)
    first, second = np.triu_indices(p)
    squares = form.gram(np.arange(p))[first, second] * np.where(first == second, 0.5, 1.0)
    squares = units.scale * squares / stretch**2
    masks, units = _spread_constant(block, np.zeros(p), form.value(origin), units)
    held, wide, places = squares != 0.0, wide * stretch, np.arange(p)
    rows = _count_rows(block)
    for i in range(p):
        pair = np.array([p + i, i])
        rows.append(Row(f"above{i}", pair, np.array([1.0, -wide[i]]), "<=", 0.0))
        rows.append(Row(f"below{i}", pair, np.array([-1.0, -wide[i]]), "<=", 0.0))
    return Program(
        title=_title(block),
        names=tuple(f"{kind}{i}" for kind in "mw" for i in places),
        binaries=p,
        lower=np.concatenate([np.zeros(p), -wide]),
        upper=np.concatenate([np.ones(p), wide]),
        linear=np.concatenate([masks, units.scale * form.gradient(origin) / stretch]),
        first=p + first[held],
        second=p + second[held],
        quadratic=squares[held],
        rows=tuple(rows),
        start=np.concatenate([block.incumbent, block.weights_of(block.incumbent) * stretch]),
        units=units,
    )


def _without_products(quadratic: Program, block: BlockProblem) -> Program:
    """The program with its products as columns between 0 and 1, exact where the masks are integral."""
    v, pairs = len(quadratic.names), quadratic.quadratic.size
    columns = v + np.arange(pairs)
    rows = list(quadratic.rows)
    for column, i, j in zip(columns, quadratic.first, quadratic.second, strict=True):
        name = f"{i}_{j}"
        rows.append(Row(f"both{name}", np.array([i, j, column]), np.array([1.0, 1.0, -1.0]), "<=", 1.0))
        rows.append(Row(f"first{name}", np.array([column, i]), np.array([1.0, -1.0]), "<=", 0.0))
        rows.append(Row(f"second{name}", np.array([column, j]), np.array([1.0, -1.0]), "<=", 0.0))
    if block.budget is None and block.keeping.one_count and pairs == v * (v - 1) // 2:
        # Implied by the count in integers, and not in fractions: it makes the relaxation far tighter.
        for i in range(v):
            at = np.append(columns[(quadratic.first == i) | (quadratic.second == i)], i)
            rows.append(Row(f"times{i}", at, np.append(np.ones(at.size - 1), 1.0 - block.keep), "=", 0.0))
    both = quadratic.start[quadratic.first] * quadratic.start[quadratic.second]
    none = np.empty(0, dtype=np.int64)
    return replace(
        quadratic,
        names=(*quadratic.names, *(f"b{i}_{j}" for i, j in zip(quadratic.first, quadratic.second, strict=True))),
        lower=np.concatenate([quadratic.lower, np.zeros(pairs)]),
        upper=np.concatenate([quadratic.upper, np.ones(pairs)]),
        linear=np.concatenate([quadratic.linear, quadratic.quadratic]),
        first=none,
        second=none,
        quadratic=np.empty(0),
        rows=tuple(rows),
        start=np.concatenate([quadratic.start, both]),
    )


def _title(block: BlockProblem) -> str:
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in block.problem or "block")
    kept = (
        f"keep {block.keep}" if block.budget is None else f"budgets {' '.join(_plain(n) for n in block.budget.names)}"
    )
    return f"{plain}: {block.p} weights, {kept}, mode {block.mode}; m is 1 where the weight is kept"


def _plain(name: str) -> str:
    """A budget's name in letters, digits and underscores."""
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name)


def _count_rows(block: BlockProblem) -> list[Row]:
    return [
        Row(name, np.flatnonzero(members), np.ones(int(members.sum())), "=", float(count))
        for name, members, count in counts(block)
    ] + budget_rows(block)


def budget_rows(block: BlockProblem) -> list[Row]:
    """One row costs·m <= limit a budget, the limit with its slack; none for a block with counts."""
    if block.budget is None:
        return []
    budget = block.budget
    return [
        Row(f"budget{k}", np.flatnonzero(row), row[row != 0.0], "<=", float(most))
        for k, (row, most) in enumerate(zip(budget.costs, budget.allowed, strict=True))
        if row.any()
    ]


def _spread_constant(
    block: BlockProblem, linear: FloatArray, constant: float, units: Units
) -> tuple[FloatArray, Units]:
    """(linear, units) with the scaled constant in the masks' linear terms, exact where Σ m = keep."""
    if block.keep == 0 or block.budget is not None:
        return linear, Units(units.scale, constant, units.weight_scale)
    return linear + units.scale * (constant - units.constant) / block.keep, units


def _spread(block: BlockProblem) -> float:
    """The standard deviation of f over random feasible masks; where that is 0, the largest term of f."""
    rng = np.random.default_rng(0)
    masks = np.array([block.top_mask(rng.random(block.p)) for _ in range(SAMPLED_MASKS)])
    qubo = block.to_qubo()
    spread = float(qubo.energies(masks).std())
    # Below the rounding of the sums there is nothing to measure: one mask, or a constant objective.
    size = max(float(np.abs(qubo.linear).max(initial=0.0)), float(np.abs(qubo.couplings).max(initial=0.0)))
    return spread if spread > 1e-12 * size else size


def _units(spread: float, level: float) -> Units:
    scale = 1.0 if UNIT_RANGE[0] <= spread <= UNIT_RANGE[1] else _power(2.0**UNIT_EXPONENT / spread if spread else 1.0)
    return Units(scale, level if abs(level) > LEVEL * spread else 0.0)


def _power(wanted: float) -> float:
    """The power of two nearest to `wanted` > 0: multiplying by it rounds nothing."""
    return float(2.0 ** int(np.clip(np.round(np.log2(wanted)), -500, 500)))
