"""dimod's models, as objects and as files, and LP files, which dimod reads.

dimod's LP reader keeps every digit and every term. It takes a file that ends anywhere for a whole one, so the word
`End` is looked for here; and it turns a maximisation into the minimisation of −value without a word, which is told.
"""

import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from prunebench.core.errors import InvalidInput
from prunebench.forms.foreign.apart import require_readable
from prunebench.forms.foreign.model import ForeignModel, Range
from prunebench.forms.foreign.text import MOST_BYTES, PACKED, lines_of, opened, require_file, require_unpacked
from prunebench.forms.foreign.units import stated

LARGEST = 1e30
"""What dimod writes for an infinite bound."""
PACKED_RATIO, PACKED_BYTES = 100, 64_000_000
"""A .cqm that unpacks to more than this many times its size, and to more than so many bytes, is refused as a bomb."""
DAMAGED = (
    OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError,
    RuntimeError, NotImplementedError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
"""What dimod's readers raise on truncated and modified files."""


def read_lp(path: Path) -> ForeignModel:
    """An LP file.

    Raises
    ------
    InvalidInput   no such file, no LP, one without its end, or what `of_cqm` refuses
    """
    last, maximises = "", False
    for _, line in lines_of(path):
        words = line.partition("\\")[0].lower().split()
        if words:
            maximises = maximises or (not last and words[0] in ("maximize", "maximise", "maximum", "max"))
            last = words[-1]
    if last != "end":
        raise InvalidInput(f"{path}: its last word is not 'End': the file is cut, or no LP file")
    with TemporaryDirectory() as folder:
        plain = path
        if path.suffix.lower() in PACKED:
            plain = Path(folder) / "model.lp"
            with opened(path) as stream, plain.open("wb") as out:
                while piece := stream.read(1 << 20):
                    out.write(piece)
        model = _dimod(path, "an LP file with a quadratic objective", lambda: of_cqm(_lp(plain), str(path)))
    model.flipped, model.units = maximises, stated(path)
    return model


def _lp(path: Path) -> Any:
    from dimod import lp

    return lp.load(str(path))


def read_bqm(path: Path) -> ForeignModel:
    """A binary quadratic model, as `BinaryQuadraticModel.to_file` writes it, or its `to_serializable` as JSON.

    Raises
    ------
    InvalidInput   no such file, or no such model
    """
    require_file(path, "a dimod BQM file")
    require_unpacked(path, "a BQM")
    require_readable(path, "bqm")
    return bqm_of(path)


def bqm_of(path: Path) -> ForeignModel:
    """The same in this process, which some damaged files end."""
    import dimod

    def make() -> Any:
        with path.open("rb") as stream:
            if stream.read(1) == b"{":
                return dimod.BinaryQuadraticModel.from_serializable(json.loads(path.read_text(encoding="utf-8")))
            stream.seek(0)
            return dimod.BinaryQuadraticModel.from_file(stream)

    return _dimod(path, "a dimod BQM file", lambda: of_bqm(make(), str(path)))


def read_cqm(path: Path) -> ForeignModel:
    """A constrained quadratic model, as `ConstrainedQuadraticModel.to_file` writes it.

    Raises
    ------
    InvalidInput   no such file, no such model, or what `of_cqm` refuses
    """
    require_file(path, "a dimod CQM file")
    require_unpacked(path, "a CQM")
    require_readable(path, "cqm")
    return cqm_of(path)


def cqm_of(path: Path) -> ForeignModel:
    """The same in this process, which some damaged files end."""
    import dimod

    def make() -> Any:
        with path.open("rb") as stream:
            with zipfile.ZipFile(stream) as archive:
                total = sum(info.file_size for info in archive.infolist())
            if total > min(MOST_BYTES, max(PACKED_BYTES, PACKED_RATIO * path.stat().st_size)):
                raise InvalidInput(f"{path}: it unpacks to {total:,} bytes, as zip bombs do")
            stream.seek(0)
            return dimod.ConstrainedQuadraticModel.from_file(stream)

    return _dimod(path, "a dimod CQM file", lambda: of_cqm(make(), str(path)))


def of_bqm(bqm: Any, source: str) -> ForeignModel:
    """A dimod.BinaryQuadraticModel; a spin is 2m − 1 where m is 1 if it is up."""
    binary = bqm.change_vartype("BINARY", inplace=False) if bqm.vartype.name == "SPIN" else bqm
    model = ForeignModel(source)
    for label in binary.variables:
        model.linear[model.variable(_name(label, model))] = float(binary.get_linear(label))
    places = {label: place for place, label in enumerate(binary.variables)}
    for u, v, bias in binary.iter_quadratic():
        model.product(places[u], places[v], float(bias))
    model.constant = float(binary.offset)
    return _finite(model)


def of_cqm(cqm: Any, source: str) -> ForeignModel:
    """A dimod.ConstrainedQuadraticModel.

    Raises
    ------
    InvalidInput   quadratic or soft constraints
    """
    if any(cqm.vartype(label).name == "SPIN" for label in cqm.variables):
        cqm = cqm.spin_to_binary(inplace=False)
    model = ForeignModel(source)
    places = {}
    for label in cqm.variables:
        kind = cqm.vartype(label).name
        lower, upper = (_open(float(value)) for value in (cqm.lower_bound(label), cqm.upper_bound(label)))
        places[label] = model.variable(_name(label, model), lower, upper, kind in ("BINARY", "INTEGER"))
    for label in cqm.objective.variables:
        model.linear[places[label]] = float(cqm.objective.get_linear(label))
    for u, v, bias in cqm.objective.iter_quadratic():
        model.product(places[u], places[v], float(bias))
    model.constant = float(cqm.objective.offset)
    for name, held in cqm.constraints.items():
        if held.lhs.num_interactions:
            raise InvalidInput(f"{source}: row {name!r} is quadratic; a block's constraints are linear")
        if held.lhs.is_soft():
            raise InvalidInput(f"{source}: row {name!r} is soft: it may be violated at a price, which no block can say")
        side = float(held.rhs) - float(held.lhs.offset)
        least, most = {"==": (side, side), "<=": (-math.inf, side), ">=": (side, math.inf)}[held.sense.value]
        used = list(held.lhs.variables)
        coefficients = np.array([float(held.lhs.get_linear(label)) for label in used])
        at = np.array([places[label] for label in used], dtype=np.int64)
        model.rows.append(Range(str(name), at, coefficients, _open(least), _open(most)))
    return _finite(model)


def _dimod(path: Path, what: str, read: Callable[[], ForeignModel]) -> ForeignModel:
    """What dimod reads, its errors told as ours."""
    try:
        return read()
    except InvalidInput:
        raise
    except DAMAGED as error:
        raise InvalidInput(f"{path}: dimod cannot read it as {what}: {type(error).__name__}: {error}") from error


def _name(label: Any, model: ForeignModel) -> str:
    """A label as text, made different from those before it."""
    name = str(label)
    return name if name not in model.names else f"{name} ({type(label).__name__})"


def _open(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else value


def _finite(model: ForeignModel) -> ForeignModel:
    """The model itself.

    Raises
    ------
    InvalidInput   NaN or infinity among its numbers
    """
    held: Iterable[tuple[str, Any]] = (
        ("linear terms", model.linear), ("products", list(model.products.values())), ("constant", [model.constant]),
        *((f"row {row.name!r}", row.coefficients) for row in model.rows),
    )  # fmt: skip
    for what, values in held:
        if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
            raise InvalidInput(f"{model.source}: its {what} hold a number that is not finite")
    if any(math.isnan(side) for row in model.rows for side in (row.least, row.most)):
        raise InvalidInput(f"{model.source}: a row has a side that is no number")
    return model
