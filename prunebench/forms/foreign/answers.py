"""Masks that were found elsewhere: lists, arrays, solution files of solvers, dimod sample sets.

A mask is taken as it stands: nothing is repaired, and the block alone says what it is worth. Values are rounded to 0
or 1 where they are within 1e-4 of it, which is above the integer tolerance of any solver by default.
"""

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock
from prunebench.forms.foreign.dimod_models import DAMAGED
from prunebench.forms.foreign.text import beginning, lines_of, opened, require_file, require_unpacked, short

INTEGRAL = 1e-4
"""How far from 0 or 1 a value may be: solvers' tolerances are 1e-5 and finer."""
MOST_BYTES = 1 << 28
"""Largest JSON, XML or array file that is read: it is held in memory at once."""
STATED = ("objective value:", "objective value =", "objective value", "=obj=", "objvar", "objective")
"""What stands before the objective in solution files, longest first."""
CBC = "optimal - objective value"
"""How CBC begins a solution file."""


@dataclass(frozen=True)
class Answers:
    """Masks out of a file, not judged.

    masks : bool (s, p), in the order of the file
    stated : the objective that the file states, in its own units; None where it states none
    kind : what the file was taken for
    ignored : names in the file that are no variables of the block
    """

    masks: BoolArray
    stated: float | None
    kind: str
    ignored: int = 0


def read_answers(path: Path, block: BlockProblem | GroupBlock) -> Answers:
    """The masks of a file for a block.

    A list of 0 and 1 as text, JSON or .npy, of one mask or of one a row; as JSON also the kept positions, a solution
    file of prunebench, values by name, or a dimod SampleSet (`to_serializable`); solution files (.sol, .mst) of HiGHS,
    Gurobi, SCIP and CBC, and CPLEX' XML.

    Raises
    ------
    InvalidInput   no such file, another format, masks of another size, values that are not 0 or 1, missing variables
    """
    require_file(path, "a file with a mask")
    begins = beginning(path).lstrip()
    if begins.startswith(b"\x93NUMPY"):
        return Answers(_array(path, block.p), None, "array")
    if begins[:1] in (b"[", b"{"):
        return _json(path, block)
    if begins.startswith(b"<"):
        return _named(path, block, *_cplex(path), kind="CPLEX solution", complete=True)
    lines = [line.strip() for _, line in lines_of(path)]
    if (masks := _bits(path, lines, block.p)) is not None:
        return Answers(masks, _stated(lines), "list")
    values, kind, complete = _solution(path, lines)
    return _named(path, block, values, _stated(lines), kind=kind, complete=complete)


def best_of(answers: Answers, block: BlockProblem | GroupBlock, source: object) -> BoolArray:
    """The feasible mask with the least objective.

    Raises
    ------
    InvalidInput   none is feasible; the message says why the first is not
    """
    feasible = [mask for mask in answers.masks if block.constraint.feasible(mask)]
    if not feasible:
        raise InvalidInput(f"{source}: no mask is feasible; the first {block.constraint.violation(answers.masks[0])}")
    return min(feasible, key=block.evaluate)


def _whole(path: Path) -> bytes:
    try:
        with opened(path) as stream:
            data = stream.read(MOST_BYTES + 1)
    except DAMAGED as error:
        raise InvalidInput(f"{path}: it cannot be read ({error})") from error
    if len(data) > MOST_BYTES:
        raise InvalidInput(f"{path}: it holds more than {MOST_BYTES:,} bytes, too much for masks")
    return data


def _array(path: Path, size: int) -> BoolArray:
    """The masks of an .npy file, (p,) or (s, p)."""
    try:
        require_unpacked(path, "an array")
        # mapped, an array that claims more than the file holds is an error before any memory is taken
        held = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise InvalidInput(f"{path}: it cannot be read as an array: {error}") from error
    if held.ndim not in (1, 2) or held.shape[-1] != size or held.dtype.kind not in "biuf" or held.shape[0] == 0:
        raise InvalidInput(
            f"{path}: the array has shape {held.shape}; expected ({size},) or (masks, {size}) of 0 and 1"
        )
    return _rounded(path, np.atleast_2d(held).astype(np.float64))


def _rounded(path: Path, values: Any, names: Sequence[str] = ()) -> BoolArray:
    """Values near 0 and 1 as bits. (s, p)"""
    values = np.asarray(values, dtype=np.float64)
    off = ~((np.abs(values) <= INTEGRAL) | (np.abs(values - 1.0) <= INTEGRAL))
    if off.any():
        row, place = np.argwhere(off)[0]
        name = names[place] if names else place
        raise InvalidInput(f"{path}: variable {name} is {float(values[row, place])!r}; in a mask every value is 0 or 1")
    return np.asarray(values > 0.5)


def _bits(path: Path, lines: Sequence[str], size: int) -> BoolArray | None:
    """Masks as 0 and 1: one a line, with or without blanks between, or one number a line. None: something else."""
    rows = [line.replace(",", " ").split() for line in lines if line and not line.startswith("#")]
    if not rows or not all(set("".join(row)) <= {"0", "1"} for row in rows):
        return None
    flat = [list("".join(row)) for row in rows]
    if size > 1 and len(rows) > 1 and all(len(row) == 1 for row in flat):
        flat = [[row[0] for row in flat]]
    for row in flat:
        if len(row) != size:
            raise InvalidInput(f"{path}: a mask has {len(row)} entries; the block has {size}")
    return np.asarray(np.array(flat) == "1", dtype=np.bool_)


def _json(path: Path, block: BlockProblem | GroupBlock) -> Answers:
    try:
        held = json.loads(_whole(path).decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: it is no JSON: {error}") from error
    if isinstance(held, Mapping) and held.get("type") == "SampleSet":
        return Answers(_samples(path, block, held), None, "dimod SampleSet")
    if isinstance(held, Mapping) and "mask" in held:
        return Answers(_listed(path, held["mask"], block.p), _number(str(held.get("objective"))), "solution file")
    if isinstance(held, Mapping):
        values = {str(name): value for name, value in held.items() if _is_real(value)}
        return _named(path, block, values, None, kind="values by name", complete=True)
    return Answers(_listed(path, held, block.p), None, "list")


def _listed(path: Path, held: Any, size: int) -> BoolArray:
    """A list of 0 and 1, a list of such lists, or the kept positions."""
    rows = held if isinstance(held, list) and held and all(isinstance(row, list) for row in held) else [held]
    out = np.zeros((len(rows), size), dtype=np.bool_)
    for number, row in enumerate(rows):
        if not isinstance(row, list) or not all(_is_real(value) or isinstance(value, bool) for value in row):
            raise InvalidInput(f"{path}: expected a list of 0 and 1, of such lists, or of the kept positions")
        if len(row) == size and set(row) <= {0, 1}:
            out[number] = row
            continue
        whole = all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size for value in row)
        if not whole or len(set(row)) != len(row):
            raise InvalidInput(
                f"{path}: mask {number} of {len(row)} entries is neither 0 and 1 for each of {size} nor positions "
                f"from 0 to {size - 1}, each once"
            )
        out[number, row] = True
    return out


def _samples(path: Path, block: BlockProblem | GroupBlock, held: Mapping[str, Any]) -> BoolArray:
    import dimod

    read: Any = dimod.SampleSet.from_serializable
    try:
        found = read(held)
        columns = {str(label): place for place, label in enumerate(found.variables)}
        values = np.asarray(found.record.sample, dtype=np.float64)
        spin = found.vartype.name == "SPIN"
    except DAMAGED as error:
        raise InvalidInput(f"{path}: it is no dimod SampleSet: {type(error).__name__}: {error}") from error
    names = _names(block, set(columns))
    missing = [name for name in names if name not in columns]
    if missing or not len(values):
        what = (
            f"lacks {len(missing)} of {len(names)} variables, the first being {missing[0]!r}" if missing else "is empty"
        )
        raise InvalidInput(f"{path}: the SampleSet {what}")
    chosen = values[:, [columns[name] for name in names]]
    return _rounded(path, 0.5 * (chosen + 1.0) if spin else chosen, names)


def _names(block: BlockProblem | GroupBlock, found: set[str]) -> list[str]:
    """What the block's variables are called in a file: their own names, `m0` … as in exports, or their numbers."""
    own = getattr(block, "names", None)
    if own is not None:
        return [str(name) for name in own]
    exported = [f"m{place}" for place in range(block.p)]
    return exported if found & set(exported) else [str(place) for place in range(block.p)]


def _named(
    path: Path, block: BlockProblem | GroupBlock, values: Mapping[str, float], stated: float | None, *,
    kind: str, complete: bool,
) -> Answers:  # fmt: skip
    """The mask of values by name. complete : whether what is missing is an error, or else 0"""
    names = _names(block, set(values))
    missing = [name for name in names if name not in values]
    if len(missing) == len(names) or (missing and complete):
        raise InvalidInput(
            f"{path}: taken as {kind}, it lacks {len(missing)} of {len(names)} variables, the first being "
            f"{missing[0]!r}"
        )
    mask = _rounded(path, [[values.get(name, 0.0) for name in names]], names)
    return Answers(mask, stated, kind, len(set(values) - set(names)))


def _solution(path: Path, lines: Sequence[str]) -> tuple[dict[str, float], str, bool]:
    """Values by name of a solution file, what it is, and whether it lists zeros too."""
    low = [line.lower() for line in lines if line]
    if any(line.startswith("model status") for line in low[:2]):
        return _highs(path, lines)
    scip = any(line.startswith(("solution status:", "objective value:", "=obj=", "objvar")) for line in low[:3])
    cbc = any(CBC in line for line in low[:1])
    values: dict[str, float] = {}
    for line in lines:
        words = line.split()
        if not words or words[0] == "#" or line.startswith("#") or _is_heading(line):
            continue
        named = words[1:3] if cbc else words[:2]
        if len(named) == 2 and (value := _number(named[1])) is not None:
            values[named[0]] = value
            continue
        raise InvalidInput(f"{path}: {short(line)} is neither a name and a value nor a mask of 0 and 1")
    return values, "CBC solution" if cbc else "SCIP solution" if scip else "solution", not (cbc or scip)


def _is_heading(line: str) -> bool:
    low = line.lower()
    return low.startswith(("solution status", *STATED[:5])) or CBC in low


def _highs(path: Path, lines: Sequence[str]) -> tuple[dict[str, float], str, bool]:
    """The columns of HiGHS' own solution file; a negative number of them stands for those that are not zero."""
    starts = [place for place, line in enumerate(lines) if line.lower().startswith("# columns")]
    if not starts:
        raise InvalidInput(f"{path}: HiGHS found no solution: the file has no columns")
    count = _number(lines[starts[0]].split()[-1]) or 0.0
    values: dict[str, float] = {}
    for line in lines[starts[0] + 1 : starts[0] + 1 + int(min(abs(count), len(lines)))]:
        name, _, text = line.rpartition(" ")
        if (value := _number(text)) is None or not name:
            raise InvalidInput(f"{path}: {short(line)} is no name and value of a column")
        values[name.strip()] = value
    return values, "HiGHS solution", count >= 0


def _cplex(path: Path) -> tuple[dict[str, float], float | None]:
    """Values by name of CPLEX' XML. Nothing that expands is read: a document type is refused."""
    data = _whole(path)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise InvalidInput(f"{path}: it declares a document type, which no solution file has")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise InvalidInput(f"{path}: it is no XML: {error}") from error
    values = {}
    for held in root.iter("variable"):
        name, value = held.get("name"), _number(held.get("value") or "")
        if name is None or value is None:
            raise InvalidInput(f"{path}: a variable has no name or no value")
        values[name] = value
    header = root.find("header")
    return values, None if header is None else _number(header.get("objectiveValue") or "")


def _stated(lines: Sequence[str]) -> float | None:
    """The objective that a text file states among its first lines."""
    for line in lines[:12]:
        low = line.lower().lstrip("# ")
        for words in (CBC, *STATED):
            if low.startswith(words) and (value := _number(low.removeprefix(words).split("(")[0].strip())) is not None:
                return value
    return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
