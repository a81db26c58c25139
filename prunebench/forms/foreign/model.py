"""A quadratic program as a foreign file has it, and how it becomes a block.

A block minimises a quadratic function of a mask under one of three constraints: how many weights are kept, how many
of each of several groups that share none, or what the kept ones may cost. A program that says anything else is
refused with what was found: nothing is left out of it, and nothing added.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput
from prunebench.core.items import Items
from prunebench.core.keeping import Quota
from prunebench.core.quadratic import QuadraticForm
from prunebench.forms.dimod import MAX_DENSE
from prunebench.forms.program import Units

FREE = "any number"
"""Name of the budget of a block without a constraint: it costs 1 to keep a weight, and all may be kept."""
WHOLE = 1e-9
"""A count, the quotient of a row's sides, may differ from a whole number by this much."""
NAMED = 3
"""Names that a message lists."""


@dataclass(frozen=True, eq=False)
class Range:
    """A linear constraint least <= Σ coefficients·variables <= most; sides may be infinite."""

    name: str
    places: IndexArray
    coefficients: FloatArray
    least: float
    most: float


@dataclass(eq=False)
class ForeignModel:
    """Minimise constant + linear'x + Σ products under rows and bounds; a reader fills it term by term.

    names : of the variables, in the order of the file, with their places
    lower, upper : bounds by place;  whole : whether a variable takes whole numbers only
    linear : coefficients by place;  products : coefficients by pairs of places (i <= j)
    flipped : whether the file maximises: all coefficients here are those of the file times −1
    units : how the file's value relates to f, where its first lines say so
    """

    source: str
    names: dict[str, int] = field(default_factory=dict)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    linear: list[float] = field(default_factory=list)
    products: dict[tuple[int, int], float] = field(default_factory=dict)
    constant: float = 0.0
    rows: list[Range] = field(default_factory=list)
    flipped: bool = False
    units: Units = Units()  # noqa: RUF009  # a frozen value
    notes: list[str] = field(default_factory=list)

    def variable(self, name: str, lower: float = 0.0, upper: float = 1.0, whole: bool = True) -> int:
        """The place of a variable, added if it is new: binary, unless bounds and kind say otherwise."""
        place = self.names.setdefault(name, len(self.names))
        if place == len(self.lower):
            self.lower.append(lower)
            self.upper.append(upper)
            self.whole.append(whole)
            self.linear.append(0.0)
        return place

    def binaries(self, count: int, first: int = 0) -> None:
        """Add that many binary variables, named by their numbers from `first` on."""
        for number in range(first, first + count):
            self.variable(str(number))

    def product(self, i: int, j: int, value: float) -> None:
        """Add `value` times the product of two variables."""
        pair = (i, j) if i <= j else (j, i)
        self.products[pair] = self.products.get(pair, 0.0) + value

    def flip(self) -> None:
        """Turn a maximisation into the minimisation of −value."""
        self.flipped = not self.flipped
        self.linear = [-value for value in self.linear]
        self.products = {pair: -value for pair, value in self.products.items()}
        self.constant = -self.constant


@dataclass(frozen=True)
class Imported:
    """A block made of a foreign problem. The problem's own value is scale·(f − constant) on every feasible mask.

    block : mode select; `block.names` are the variables' names, in their order
    scale, constant : relate the two; −1 and 0 where the file maximises
    fixed : values of variables that bounds fix, which are no part of the block
    notes : what was understood or assumed, a sentence each
    """

    block: BlockProblem
    scale: float
    constant: float
    fixed: dict[str, float]
    notes: tuple[str, ...]

    def value(self, objective: float) -> float:
        """The problem's own value of an objective of the block."""
        return self.scale * (objective - self.constant)


def block_of(model: ForeignModel, keep: int | None = None) -> Imported:
    """The block of a program.

    keep : how many variables are 1, where the program does not say

    Raises
    ------
    InvalidInput   the program is no block, with what was found in it; or `keep` beside constraints of its own
    """
    fixed = {
        name: model.lower[place] for name, place in model.names.items() if model.lower[place] == model.upper[place]
    }
    names = [name for name in model.names if name not in fixed]
    _require_binary(model, names)
    values = np.zeros(len(model.names))
    values[[model.names[name] for name in fixed]] = list(fixed.values())
    places = np.full(len(model.names), -1)
    places[[model.names[name] for name in names]] = np.arange(len(names))
    form = _form(model, places, values)
    notes = list(model.notes)
    if fixed:
        notes.append(f"{len(fixed)} fixed variables are substituted: {_listed(list(fixed))}")
    kept = _constraint(model, _substituted(model, places, values), keep, len(names), notes)
    units, sign = model.units, -1.0 if model.flipped else 1.0
    block = BlockProblem(
        form=form, dense_weights=np.ones(len(names)), mode="select", problem=_printable(model.source),
        names=np.array([_printable(name) for name in names]), items=Items("variables"), **kept,
    )  # fmt: skip
    return Imported(block, sign * units.scale, units.constant, fixed, tuple(notes))


def _require_binary(model: ForeignModel, names: Sequence[str]) -> None:
    """Refuse variables other than binary ones, with how many there are of which kind."""
    if not names:
        raise InvalidInput(
            f"{model.source}: there is no variable to choose; is the file truncated or of another format?"
        )
    others: dict[str, list[str]] = {}
    for name in names:
        place = model.names[name]
        if not model.whole[place]:
            others.setdefault("continuous", []).append(name)
        elif (model.lower[place], model.upper[place]) != (0.0, 1.0):
            others.setdefault("general integer", []).append(name)
    if others:
        found = "; ".join(f"{len(held)} {kind} ({_listed(held)})" for kind, held in others.items())
        raise InvalidInput(
            f"{model.source}: of {len(names)} variables, these are not binary: {found}; a block chooses a mask, so "
            "every variable that is not fixed must be 0 or 1"
        )
    if len(names) > MAX_DENSE:
        raise InvalidInput(
            f"{model.source}: {len(names)} variables; a block that is imported holds all products of two and takes at "
            f"most {MAX_DENSE}"
        )


def _form(model: ForeignModel, places: IndexArray, values: FloatArray) -> QuadraticForm:
    """f over the variables that are not fixed, in the units of the block."""
    count = int((places >= 0).sum())
    linear, hessian, constant = np.zeros(count), np.zeros((count, count)), model.constant
    for place, value in enumerate(model.linear):
        if places[place] >= 0:
            linear[places[place]] += value
        else:
            constant += value * values[place]
    for (i, j), value in model.products.items():
        a, b = places[i], places[j]
        if a >= 0 and b >= 0 and a != b:
            hessian[a, b] += value
            hessian[b, a] += value
        elif a >= 0 and b >= 0:
            # a binary variable is its own square
            linear[a] += value
        elif max(a, b) >= 0:
            linear[max(a, b)] += value * values[j if a >= 0 else i]
        else:
            constant += value * values[i] * values[j]
    scale = model.units.scale
    with np.errstate(over="ignore"):
        held: dict[str, Any] = {"hessian": hessian / scale, "linear": linear / scale}
    try:
        return QuadraticForm(ridge=0.0, constant=constant / scale + model.units.constant, **held)
    except InvalidInput as error:
        raise InvalidInput(f"{model.source}: {error}") from error


def _substituted(model: ForeignModel, places: IndexArray, values: FloatArray) -> list[Range]:
    """The rows over the variables that are not fixed; repeated terms added up."""
    out = []
    for row in model.rows:
        held = places[row.places] >= 0
        shift = float(row.coefficients[~held] @ values[row.places[~held]])
        found, inverse = np.unique(places[row.places[held]], return_inverse=True)
        coefficients = np.bincount(inverse, row.coefficients[held], minlength=found.size)
        used = coefficients != 0.0
        out.append(Range(row.name, found[used], coefficients[used], row.least - shift, row.most - shift))
    return out


def _constraint(
    model: ForeignModel, rows: Iterable[Range], keep: int | None, size: int, notes: list[str]
) -> dict[str, Any]:
    """The arguments of a block that say what it keeps."""
    binding: list[Range] = []
    for row in rows:
        low = float(np.minimum(row.coefficients, 0.0).sum())
        high = float(np.maximum(row.coefficients, 0.0).sum())
        if row.least > high or row.most < low:
            raise InvalidInput(f"{model.source}: no mask is feasible: row {row.name!r} cannot be satisfied")
        if row.least <= low and high <= row.most:
            notes.append(f"row {row.name!r} holds for every mask and is left out")
        elif row.least == row.most:
            binding.append(row)
        else:
            least = row.least if row.least > low else -np.inf
            binding.append(replace(row, least=least, most=row.most if row.most < high else np.inf))
    equal = [row for row in binding if row.least == row.most]
    other = [row for row in binding if row.least != row.most]
    if keep is not None and binding:
        raise InvalidInput(f"{model.source}: row {binding[0].name!r} constrains the variables already; leave keep out")
    if equal and other:
        raise InvalidInput(
            f"{model.source}: row {equal[0].name!r} is an equation and row {other[0].name!r} an inequality; a block "
            "has counts or budgets, not both"
        )
    if equal:
        return _counts(model, equal, size, notes)
    if other:
        return _budgets(model, other, size, notes)
    if keep is not None:
        return {"keep": keep}
    notes.append(
        "nothing says how many variables are 1, so any number may be: the block has a budget that never binds, which "
        "solvers without budgets refuse; give keep for exactly so many"
    )
    return {"keep": size, "budget": Cost(np.ones((1, size)), np.array([float(size)]), (FREE,))}


def _counts(model: ForeignModel, rows: Sequence[Range], size: int, notes: list[str]) -> dict[str, Any]:
    """A count, or a quota, out of equations."""
    group = np.full(size, -1)
    counts: list[int] = []
    for row in rows:
        first = float(row.coefficients[0])
        if (row.coefficients != first).any():
            raise InvalidInput(
                f"{model.source}: row {row.name!r} is an equation with different coefficients ({first:g}, "
                f"{row.coefficients[row.coefficients != first][0]:g}); a block's equations count variables"
            )
        count = row.least / first
        if abs(count - round(count)) > WHOLE:
            raise InvalidInput(f"{model.source}: no mask is feasible: row {row.name!r} asks for {count:g} variables")
        if (group[row.places] >= 0).any():
            raise InvalidInput(
                f"{model.source}: row {row.name!r} counts a variable that an earlier row counts; groups share none"
            )
        group[row.places] = len(counts)
        counts.append(round(count))
    if (group < 0).any():
        raise InvalidInput(
            f"{model.source}: the equations count {int((group >= 0).sum())} of {size} variables; a block's counts are "
            "of all, in one row or in one for each group"
        )
    what = "exactly that many variables are 1" if len(counts) == 1 else f"{len(counts)} groups have counts of their own"
    notes.append(f"{what}, by {'row' if len(rows) == 1 else 'rows'} {_listed([row.name for row in rows])}")
    keep = int(sum(counts))
    return {"keep": keep} if len(counts) == 1 else {"keep": keep, "quota": Quota(group, np.array(counts))}


def _budgets(model: ForeignModel, rows: Sequence[Range], size: int, notes: list[str]) -> dict[str, Any]:
    """Budgets out of inequalities."""
    costs, limits = np.zeros((len(rows), size)), np.zeros(len(rows))
    for number, row in enumerate(rows):
        below, above = bool(np.isfinite(row.most)), bool(np.isfinite(row.least))
        sign = 1.0 if below else -1.0
        charge, limit = sign * row.coefficients, row.most if below else -row.least
        if (below and above) or charge.min() < 0.0:
            raise InvalidInput(
                f"{model.source}: row {row.name!r} is no budget: keeping a variable may cost nothing or something in "
                "Σ costs·x <= limit, but nothing can be demanded, and no cost is negative"
            )
        costs[number, row.places], limits[number] = charge, limit
    budget = Cost(costs, limits, tuple(_printable(row.name) for row in rows))
    notes.append(f"what is kept is limited by {'row' if len(rows) == 1 else 'rows'} {_listed([r.name for r in rows])}")
    return {"keep": budget.most, "budget": budget}


def _listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(_printable(name) for name in names[:NAMED])}{rest}"


def _printable(text: str) -> str:
    """A text with its characters that do not print replaced, and cut to what a block file holds."""
    return "".join(c if c.isprintable() else "?" for c in text)[:1024]
