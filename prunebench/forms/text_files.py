"""A quadratic program as CPLEX LP or MPS text, in the dialect that Gurobi, HiGHS, SCIP and (LP) dimod all read.

What they disagree on is avoided: a number in an LP objective (a variable's name to Gurobi), a sign that
opens it before a number alone (an error to SCIP), `x ^ 2` with two blanks (likewise), names of more
than eight letters in fixed MPS columns. Every number has all its digits.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.forms.program import Formulation, Program, Row, Units, program

TERMS_A_LINE = 6
"""LP readers limit the length of lines, Gurobi to 510 letters."""


def write_lp(program: Program, path: Path) -> None:
    """Write CPLEX LP format; the scale and the constant stand in its first lines."""
    _write(path, _lp_lines(program))


def write_mps(program: Program, path: Path) -> None:
    """Write free MPS format with a QUADOBJ section (½x'Qx); the scale and the constant stand in its first lines."""
    _write(path, _mps_lines(program))


def lp_text(program: Program) -> str:
    """The LP file as a string."""
    return "".join(f"{line}\n" for line in _lp_lines(program))


def _exporter(write: Callable[[Program, Path], None]) -> Callable[..., Units]:
    def export(block: BlockProblem, path: Path, formulation: Formulation = "miqp") -> Units:
        made = program(block, formulation)
        write(made, path)
        return made.units

    return export


EXPORTS: dict[str, Callable[..., Units]] = {"lp": _exporter(write_lp), "mps": _exporter(write_mps)}
"""Writers by format name, (block, path, formulation)."""


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _lp_lines(program: Program) -> Iterator[str]:
    names = program.names
    yield f"\\ {program.title}"
    yield f"\\ {program.units.text()}"
    yield "Minimize"
    yield " objective:"
    # All variables are named here, zero or not, so that a reader has them in their order.
    yield from _wrapped(_terms(program.linear, names))
    if program.quadratic.size:
        yield "   + ["
        yield from _wrapped(_pair_terms(program))
        yield "   ] / 2"
    yield "Subject To"
    for row in program.rows:
        yield f" {row.name}:"
        held = row.coefficients != 0.0
        yield from _wrapped(_terms(row.coefficients[held], [names[i] for i in row.places[held]]))
        yield f"   {row.sense} {row.bound!r}"
    if len(names) > program.binaries:
        yield "Bounds"
        for place in range(program.binaries, len(names)):
            yield f" {float(program.lower[place])!r} <= {names[place]} <= {float(program.upper[place])!r}"
    yield "Binaries"
    yield from _wrapped(iter(names[: program.binaries]))
    yield "End"


def _terms(coefficients: Iterable[float], names: Iterable[str]) -> Iterator[str]:
    for coefficient, name in zip(coefficients, names, strict=True):
        yield f"{_signed(float(coefficient))} {name}"


def _pair_terms(program: Program) -> Iterator[str]:
    names = program.names
    for first, second, value in zip(program.first, program.second, program.quadratic, strict=True):
        product = f"{names[first]}^2" if first == second else f"{names[first]} * {names[second]}"
        yield f"{_signed(2.0 * float(value))} {product}"


def _signed(value: float) -> str:
    return f"- {-value!r}" if value < 0.0 else f"+ {abs(value)!r}"


def _wrapped(terms: Iterator[str]) -> Iterator[str]:
    while line := " ".join(islice(terms, TERMS_A_LINE)):
        yield f"   {line}"


def _mps_lines(program: Program) -> Iterator[str]:
    names = program.names
    yield f"* {program.title}"
    yield f"* {program.units.text()}"
    yield "NAME block"
    yield "ROWS"
    yield " N objective"
    yield from (f" {'E' if row.sense == '=' else 'L'} {row.name}" for row in program.rows)
    yield "COLUMNS"
    entries = _by_column(program.rows, len(names))
    for place, name in enumerate(names):
        if place == 0:
            yield "    MARKER  'MARKER'  'INTORG'"
        if place == program.binaries:
            yield "    MARKER  'MARKER'  'INTEND'"
        yield f" {name} objective {float(program.linear[place])!r}"
        yield from (f" {name} {row} {value!r}" for row, value in entries[place])
    if len(names) == program.binaries:
        yield "    MARKER  'MARKER'  'INTEND'"
    yield "RHS"
    yield from (f" RHS {row.name} {row.bound!r}" for row in program.rows if row.bound)
    yield "BOUNDS"
    yield from (f" BV BOUND {name}" for name in names[: program.binaries])
    for place in range(program.binaries, len(names)):
        yield f" LO BOUND {names[place]} {float(program.lower[place])!r}"
        yield f" UP BOUND {names[place]} {float(program.upper[place])!r}"
    if program.quadratic.size:
        yield "QUADOBJ"
        matrix = program.quadratic * np.where(program.first == program.second, 2.0, 1.0)
        for first, second, value in zip(program.first, program.second, matrix, strict=True):
            yield f" {names[first]} {names[second]} {float(value)!r}"
    yield "ENDATA"


def _by_column(rows: Iterable[Row], size: int) -> list[list[tuple[str, float]]]:
    out: list[list[tuple[str, float]]] = [[] for _ in range(size)]
    for row in rows:
        for place, value in zip(row.places, row.coefficients, strict=True):
            if value:
                out[place].append((row.name, float(value)))
    return out
