"""QUBOs and graphs as lists of triples: COO, qbsolv's .qubo, the .qs of QOBLIB, and Max-Cut lists.

- COO, as dimod writes it: `# vartype=BINARY` (or SPIN), then `u v bias`, of which u = v is linear.
- .qubo (D-Wave, qbsolv): `c` comments, `p qubo 0 maxNodes nNodes nCouplers`, then `i j bias` from 0 on.
- .qs (Zimpl, QOBLIB): `# ObjectiveOffset c`, `n m`, then `i j q` from 1 on of a symmetric matrix Q in c + x'Qx, its
  upper triangle, so that a product of two variables counts 2q.
- Max-Cut (rudy, Gset): `n m`, then `i j weight` from 1 on, the weight 1 where there is none.
"""

from collections.abc import Iterator
from pathlib import Path

from prunebench.core.errors import InvalidInput
from prunebench.forms.foreign.model import ForeignModel
from prunebench.forms.foreign.text import MOST_VARIABLES, at, lines_of, real, short, whole
from prunebench.forms.foreign.units import stated

OFFSET = "# ObjectiveOffset"
"""What begins the line of the constant in a .qs file."""


def read_coo(path: Path) -> ForeignModel:
    """COO text as dimod writes it; a constant that prunebench's own export states is read too.

    Raises
    ------
    InvalidInput   no such file, or no COO
    """
    model, spin, told = ForeignModel(str(path)), False, False
    model.units = stated(path)
    for number, line in lines_of(path):
        words = line.split()
        if not words:
            continue
        if words[0].startswith("#"):
            if "vartype=" in line.replace(" ", ""):
                kind = line.replace(" ", "").partition("vartype=")[2].upper()
                if kind not in ("BINARY", "SPIN"):
                    raise InvalidInput(f"{at(path, number)}: vartype is {short(kind)}; expected BINARY or SPIN")
                spin, told = kind == "SPIN", True
            continue
        i, j, value = _triple(path, number, words, 0, MOST_VARIABLES)
        for place in (i, j):
            if place >= len(model.names):
                model.binaries(place + 1 - len(model.names), len(model.names))
        _add(model, i, j, value, spin)
    if not told:
        model.notes.append("no line says the vartype; BINARY is assumed")
    return model


def read_qubo(path: Path) -> ForeignModel:
    """qbsolv's .qubo.

    Raises
    ------
    InvalidInput   no such file, no .qubo, or fewer or more terms than it announces
    """
    model, announced, found = ForeignModel(str(path)), -1, 0
    for number, line in lines_of(path):
        words = line.split()
        if not words or words[0].startswith("c"):
            continue
        if words[0] == "p":
            if len(words) != 6 or words[1] != "qubo" or announced >= 0:
                raise InvalidInput(f"{at(path, number)}: expected one line 'p qubo 0 maxNodes nNodes nCouplers'")
            model.binaries(whole(at(path, number), words[3], 1, MOST_VARIABLES))
            announced = sum(whole(at(path, number), word, 0, 1 << 40) for word in words[4:])
            continue
        if announced < 0:
            raise InvalidInput(
                f"{at(path, number)}: a term stands before the line 'p qubo 0 maxNodes nNodes nCouplers'"
            )
        i, j, value = _triple(path, number, words, 0, len(model.names))
        _add(model, i, j, value, spin=False)
        found += 1
    _require_all(path, found, announced, "a line 'p qubo 0 maxNodes nNodes nCouplers'")
    return model


def read_qs(path: Path) -> ForeignModel:
    """The .qs of QOBLIB; off the diagonal every entry counts twice.

    Raises
    ------
    InvalidInput   no such file, no .qs, or fewer or more entries than it announces
    """
    model, announced, found = ForeignModel(str(path)), -1, 0
    for number, line in lines_of(path):
        if line.startswith(OFFSET):
            model.constant = real(at(path, number), line.removeprefix(OFFSET).strip(" :"))
    for number, words in _data(path):
        if announced < 0:
            announced = _header(path, number, words, model)
            continue
        i, j, value = _triple(path, number, words, 1, len(model.names))
        _add(model, i, j, value if i == j else 2.0 * value, spin=False)
        found += 1
    _require_all(path, found, announced, "a line with the numbers of variables and entries")
    return model


def read_cut(path: Path) -> ForeignModel:
    """A Max-Cut list; f is minus the weight of the edges between those that are kept and those that are not.

    Raises
    ------
    InvalidInput   no such file, no list of edges, a loop, or fewer or more edges than it announces
    """
    model, announced, found = ForeignModel(str(path), flipped=True), -1, 0
    for number, words in _data(path):
        if announced < 0:
            announced = _header(path, number, words, model)
            continue
        i, j, value = _triple(path, number, [*words, "1"] if len(words) == 2 else words, 1, len(model.names))
        if i == j:
            raise InvalidInput(
                f"{at(path, number)}: vertex {i + 1} has an edge to itself, which no cut separates; is this a QUBO "
                "(format qs)?"
            )
        model.linear[i] -= value
        model.linear[j] -= value
        model.product(i, j, 2.0 * value)
        found += 1
    _require_all(path, found, announced, "a line with the numbers of vertices and edges")
    return model


def _data(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The words of all lines that are no comments."""
    for number, line in lines_of(path):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words


def _header(path: Path, number: int, words: list[str], model: ForeignModel) -> int:
    """Add the variables of a line "n m", and return m."""
    if len(words) != 2:
        raise InvalidInput(f"{at(path, number)}: expected two numbers, of variables and of entries, not {len(words)}")
    count = whole(at(path, number), words[0], 1, MOST_VARIABLES)
    model.binaries(count, first=1)
    return whole(at(path, number), words[1], 0, 1 << 40)


def _triple(path: Path, number: int, words: list[str], first: int, count: int) -> tuple[int, int, float]:
    """Two places, from 0 on, and a value. first : how the file numbers the first of `count` variables"""
    where = at(path, number)
    if len(words) != 3:
        raise InvalidInput(f"{where}: expected 'i j value', not {len(words)} words")
    i, j = (whole(where, word, first, first + count - 1) - first for word in words[:2])
    return i, j, real(where, words[2])


def _add(model: ForeignModel, i: int, j: int, value: float, spin: bool) -> None:
    """Add a term; a spin is 2m − 1 where m is 1 if it is up."""
    if i == j and spin:
        model.linear[i] += 2.0 * value
        model.constant -= value
    elif i == j:
        model.linear[i] += value
    elif spin:
        model.product(i, j, 4.0 * value)
        model.linear[i] -= 2.0 * value
        model.linear[j] -= 2.0 * value
        model.constant += value
    else:
        model.product(i, j, value)


def _require_all(path: Path, found: int, announced: int, header: str) -> None:
    if announced < 0:
        raise InvalidInput(f"{path}: {header} is missing")
    if found != announced:
        raise InvalidInput(f"{path}: {announced} terms are announced and {found} found; the file is cut or damaged")
