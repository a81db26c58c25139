"""Damaged block files, kind by kind, and what becomes of them: for the tests and for benchmarks.

Each kind turns the contents of a healthy block file into the bytes of a damaged one. A damaged file must be refused
with one line (`InvalidInput`), or be read as the very block it was made from (the same hash), where the change is
one that the format allows: another byte order, another order in memory, compression.
"""

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from prunebench.core import block_file
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Quota
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.rows import RowsForm

Contents = dict[str, Any]
Damage = Callable[[Contents, np.random.Generator], bytes]

VECTORS = ("linear", "centre", "dense_weights")
"""Members of a block file of shape (p,)."""
TERABYTES = 2 * 10**12
"""Elements that a lying header claims: 16 TB of float64."""


@dataclass(frozen=True)
class Fate:
    """What became of a damaged file.

    outcome : "refused", "same" (read as the block it was made from), "accepted" (as another one) or
              "internal error"
    words : the refusal, or the error;  seconds, bytes : what it took, memory at its peak
    """

    outcome: str
    words: str
    seconds: float
    bytes: int


def fate(path: Path, healthy: BlockProblem) -> Fate:
    """Load a damaged file and see."""
    tracemalloc.start()
    started = perf_counter()
    try:
        outcome, words = ("same" if BlockProblem.load(path).hash == healthy.hash else "accepted"), ""
    except InvalidInput as error:
        outcome, words = "refused", str(error)
    except Exception as error:
        outcome, words = "internal error", f"{type(error).__name__}: {error}"
    seconds = perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Fate(outcome, words, seconds, peak)


def healthy_block(seed: int) -> BlockProblem:
    """A small block whose file has every key, by turns with a factor, a hessian and the shared hessian of a layer."""
    rng = np.random.default_rng([seed, 54])
    p, rows = int(rng.integers(3, 9)) * 2, 2
    weights, linear = rng.normal(size=p), rng.normal(size=p)
    kind, refit = seed % 3, bool(seed % 2)
    terms: dict[str, Any] = {"linear": linear, "centre": weights, "constant": 0.3}
    ridge = 0.01 if seed % 4 else rng.uniform(0.01, 0.02, size=p)
    if kind == 0:
        form: QuadraticForm = QuadraticForm(factor=rng.normal(size=(p // 2, p)), ridge=ridge, **terms)
    elif kind == 1:
        columns = rng.normal(size=(p + 3, p))
        form = QuadraticForm(hessian=columns.T @ columns / p, ridge=ridge, **terms)
    else:
        columns = rng.normal(size=(p, p // rows))
        form = RowsForm(shared=columns.T @ columns / p, rows=rows, ridge=ridge, **terms)
    start = np.zeros(p, dtype=np.bool_)
    start[:2] = start[-2:] = True
    return BlockProblem(
        form,
        weights,
        4,
        "refit" if refit else "select",
        start_mask=start,
        indices=rng.permutation(10 * p)[:p],
        layer=np.repeat(["first", "second"], p // 2),
        problem=f"healthy/{seed}",
        quota=Quota(np.arange(p) // (p // 2), np.array([2, 2])),
    )


def contents_of(block: BlockProblem) -> Contents:
    """The arrays of the block's file by key, the format included."""
    return {"format": np.str_(block_file.FORMAT), **block.contents()}


def packed(contents: Mapping[str, Any], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of an `.npz` file with these arrays; bytes as a value stand as they are for a member."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for key, value in contents.items():
            archive.writestr(f"{key}.npy", value if isinstance(value, bytes) else npy(value))
    return out.getvalue()


def npy(value: Any) -> bytes:
    """The bytes of one `.npy` member."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(value), allow_pickle=True)
    return out.getvalue()


def lying(shape: tuple[int, ...], descr: str = "<f8", held: int = 64, version: bytes = b"\x01\x00") -> bytes:
    """An `.npy` member that claims a shape and holds `held` bytes."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + bytes(held)


def damaged(kind: str, seed: int) -> bytes:
    """The bytes of a file of that kind, the same for the same arguments."""
    return KINDS[kind](contents_of(healthy_block(seed)), np.random.default_rng([seed, *kind.encode()]))


def _with(change: Callable[[Contents, np.random.Generator], Mapping[str, Any] | None]) -> Damage:
    """A damage that changes arrays: `change` gives back those it sets."""

    def damage(contents: Contents, rng: np.random.Generator) -> bytes:
        return packed({**contents, **(change(contents, rng) or {})})

    return damage


def _vector(change: Callable[[np.ndarray], Any]) -> Damage:
    """The same change of one of the vectors, drawn."""

    def damage(contents: Contents, rng: np.random.Generator) -> bytes:
        key = str(rng.choice(VECTORS))
        return packed({**contents, key: change(np.array(contents[key]))})

    return damage


def _curvature(change: Callable[[np.ndarray], Any]) -> Damage:
    def damage(contents: Contents, rng: np.random.Generator) -> bytes:
        key = "factor" if "factor" in contents else "hessian"
        return packed({**contents, key: change(np.array(contents[key]))})

    return damage


def _set(**values: Any) -> Damage:
    return _with(lambda _contents, _rng: values)


def _any(choices: list[Any], key: str) -> Damage:
    return _with(lambda _contents, rng: {key: choices[int(rng.integers(len(choices)))]})


def _file(make: Callable[[Contents], bytes]) -> Damage:
    """A damage without choices."""
    return lambda contents, _rng: make(contents)


def _placed(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[array.size // 3] = value
        return array

    return change


def _without(contents: Contents, rng: np.random.Generator) -> bytes:
    key = str(rng.choice([*block_file.REQUIRED, "factor" if "factor" in contents else "hessian", "format"]))
    return packed({name: value for name, value in contents.items() if name != key})


def _renamed(contents: Contents, rng: np.random.Generator) -> bytes:
    key = str(rng.choice(block_file.REQUIRED))
    other = [key.upper(), f"{key}s", f"x/{key}", f" {key}", f"../{key}"][int(rng.integers(5))]
    return packed({other if name == key else name: value for name, value in contents.items()})


def _without_suffix(contents: Contents, rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for key, value in contents.items():
            archive.writestr(key, npy(value))
    return out.getvalue()


def _twice(contents: Contents, rng: np.random.Generator) -> bytes:
    out = io.BytesIO(packed(contents))
    key = str(rng.choice(VECTORS))
    # zipfile warns of what is done here on purpose
    with zipfile.ZipFile(out, "a") as archive:
        info = zipfile.ZipInfo(f"{key}.npx")
        archive.writestr(info, npy(-np.array(contents[key])))
    return out.getvalue().replace(f"{key}.npx".encode(), f"{key}.npy".encode())


def _cut(contents: Contents, rng: np.random.Generator) -> bytes:
    whole = packed(contents)
    return whole[: int(rng.integers(0, len(whole) - 1))]


def _flipped(contents: Contents, rng: np.random.Generator) -> bytes:
    whole = bytearray(packed(contents))
    whole[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
    return bytes(whole)


def _flipped_directory(contents: Contents, rng: np.random.Generator) -> bytes:
    whole = bytearray(packed(contents))
    begin = whole.index(b"PK\x01\x02")
    whole[begin + int(rng.integers(len(whole) - begin))] ^= 1 << int(rng.integers(8))
    return bytes(whole)


def _flipped_packed(contents: Contents, rng: np.random.Generator) -> bytes:
    whole = bytearray(packed(contents, zipfile.ZIP_DEFLATED))
    whole[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
    return bytes(whole)


def _member_cut(contents: Contents, rng: np.random.Generator) -> bytes:
    key = str(rng.choice(VECTORS))
    whole = npy(contents[key])
    return packed({**contents, key: whole[: int(rng.integers(0, len(whole)))]})


def _member_longer(contents: Contents, rng: np.random.Generator) -> bytes:
    key = str(rng.choice(VECTORS))
    return packed({**contents, key: npy(contents[key]) + bytes(8)})


def _claims(contents: Contents, rng: np.random.Generator) -> bytes:
    key = str(rng.choice([*VECTORS, "ridge", "start_mask", "indices"]))
    return packed({**contents, key: lying((TERABYTES,))})


def _claims_all(contents: Contents, rng: np.random.Generator) -> bytes:
    """All arrays agree on the terabytes; only the members are short."""
    lies = {key: lying((TERABYTES,)) for key in VECTORS}
    gone = {"factor", "hessian", "rows", "start_mask", "indices", "layer", "quota_group", "quota_counts"}
    kept = {key: value for key, value in contents.items() if key not in gone}
    return packed({**kept, **lies, "ridge": np.float64(0.1), "factor": lying((1, TERABYTES))})


def _claims_curvature(contents: Contents, rng: np.random.Generator) -> bytes:
    p = contents["dense_weights"].size
    key = "factor" if "factor" in contents else "hessian"
    return packed({**contents, key: lying((TERABYTES, p))})


def _claims_text(contents: Contents, rng: np.random.Generator) -> bytes:
    key = str(rng.choice(["mode", "problem", "format"]))
    return packed({**contents, key: lying((), "<U999999")})


def _long_header(contents: Contents, rng: np.random.Generator) -> bytes:
    member = b"\x93NUMPY\x02\x00" + struct.pack("<I", 3 * 10**8) + b" " * 10**6
    return packed({**contents, str(rng.choice(VECTORS)): member}, zipfile.ZIP_DEFLATED)


def _header_code(contents: Contents, rng: np.random.Generator) -> bytes:
    texts = [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (9**9**9,), }",
        "(" * 900 + ")" * 900,
        "[1, 2",
        "{}",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (4,), }",
        "\xff\xfe",
    ]
    text = texts[int(rng.integers(len(texts)))].encode("latin1")
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(32)
    return packed({**contents, str(rng.choice(VECTORS)): member})


def _bomb(contents: Contents, rng: np.random.Generator) -> bytes:
    """All shapes agree and the bytes are there: 128 MB of zeros in a factor of a file of 130 kB."""
    p = contents["dense_weights"].size
    zeros, times = bytes(p << 16), 2048 // p
    head = lying((times << 13, p), held=0)
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = machine.compress(head) + machine.flush(zlib.Z_FULL_FLUSH)
    crc = zlib.crc32(head)
    # after a full flush a piece does not depend on those before it, so that one can be repeated
    piece = machine.compress(zeros) + machine.flush(zlib.Z_FULL_FLUSH)
    for _ in range(times):
        crc = zlib.crc32(zeros, crc)
    body += piece * times + machine.flush()
    kept = {key: value for key, value in contents.items() if key not in ("factor", "hessian", "rows")}
    return _with_member(packed(kept), "factor.npy", body, len(head) + times * len(zeros), crc)


def _with_member(whole: bytes, name: str, body: bytes, size: int, crc: int) -> bytes:
    """A zip file with one more member, given as deflated bytes."""
    end = whole.rindex(b"PK\x05\x06")
    fields = struct.unpack("<4s4H2LH", whole[end : end + 22])
    at, length, count = fields[6], fields[5], fields[4]
    common = struct.pack("<HHHHHLLLHH", 20, 0, 8, 0, 33, crc, len(body), size, len(name), 0)
    local = b"PK\x03\x04" + common + name.encode() + body
    entry = b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<HHHLL", 0, 0, 0, 0, at) + name.encode()
    directory = whole[at : at + length] + entry
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count + 1, count + 1, len(directory), at + len(local), 0)
    return whole[:at] + local + directory + last


def _nested(contents: Contents, rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("block.npz", packed(contents))
    return out.getvalue()


def _encrypted(contents: Contents, rng: np.random.Generator) -> bytes:
    whole = bytearray(packed(contents))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = whole.find(mark)
        while at >= 0:
            whole[at + offset] |= 1
            at = whole.find(mark, at + 4)
    return bytes(whole)


def _many_members(contents: Contents, rng: np.random.Generator) -> bytes:
    return packed({**contents, **{f"{number}{'x' * 120}": b"" for number in range(7000)}})


def _misfit(contents: Contents, rng: np.random.Generator) -> bytes:
    """One array has another length than the dense weights."""
    key = str(rng.choice([*VECTORS, "start_mask", "indices", "layer", "quota_group"]))
    array = np.array(contents[key])
    return packed({**contents, key: array[:-1] if rng.integers(2) else np.concatenate([array, array[:1]])})


def _as_hessian(change: Callable[[np.ndarray], None]) -> Damage:
    def damage(contents: Contents, rng: np.random.Generator) -> bytes:
        held = np.array(contents["hessian"] if "hessian" in contents else contents["factor"].T @ contents["factor"])
        change(held)
        kept = {key: value for key, value in contents.items() if key not in ("factor", "hessian")}
        # mode select takes indefinite hessians
        return packed({**kept, "hessian": held, "mode": np.str_("refit")})

    return damage


def _asymmetric(hessian: np.ndarray) -> None:
    hessian[0, 1] += 0.5


def _negative(hessian: np.ndarray) -> None:
    hessian[-1, -1] = -1.0


def _scaled_all(contents: Contents, rng: np.random.Generator) -> bytes:
    """No number is too large by itself; their products are."""
    return packed({**contents, **{key: np.array(contents[key]) * 1e100 for key in VECTORS}})


def _quota(**changes: Any) -> Damage:
    def damage(contents: Contents, rng: np.random.Generator) -> bytes:
        key = str(rng.choice(list(changes)))
        value = changes[key][int(rng.integers(len(changes[key])))]
        return packed({**contents, key: value(np.array(contents[key])) if callable(value) else value})

    return damage


def _rows_with_a_factor(contents: Contents, rng: np.random.Generator) -> bytes:
    kept = {key: value for key, value in contents.items() if key != "hessian"}
    return packed({**kept, "rows": np.int64(2), "factor": np.ones((2, contents["dense_weights"].size))})


def _half_a_quota(contents: Contents, rng: np.random.Generator) -> bytes:
    gone = str(rng.choice(["quota_group", "quota_counts"]))
    return packed({key: value for key, value in contents.items() if key != gone})


KINDS: dict[str, Damage] = {
    # how numbers are stored
    "objects": _vector(lambda array: npy(np.array([{"a": 1}] * array.size, dtype=object))),
    "object numbers": _vector(lambda array: array.astype(object)),
    "texts for numbers": _vector(lambda array: array.astype(np.str_)),
    "bytes for numbers": _vector(lambda array: array.astype("S8")),
    "complex": _vector(lambda array: array.astype(np.complex128)),
    "truth values": _vector(lambda array: array > 0),
    "whole numbers": _vector(lambda array: array.astype(np.int64)),
    "half precision": _vector(lambda array: array.astype(np.float16)),
    "long double": _vector(lambda array: array.astype(np.longdouble)),
    "dates": _vector(lambda array: np.zeros(array.size, dtype="datetime64[s]")),
    "records": _vector(lambda array: np.zeros(array.size, dtype=[("a", "<f8")])),
    "raw bytes": _vector(lambda array: np.zeros(array.size, dtype="V8")),
    "whole-number curvature": _curvature(lambda array: (10 * array).astype(np.int32)),
    "complex curvature": _curvature(lambda array: array + 0j),
    "big-endian": _vector(lambda array: array.astype(">f8")),
    "big-endian curvature": _curvature(lambda array: array.astype(">f8")),
    "Fortran order": _curvature(lambda array: np.asfortranarray(array)),
    "format version 2": _vector(lambda array: lying(array.shape, held=0, version=b"\x02\x00") + array.tobytes()),
    "format version 3": _vector(lambda array: lying(array.shape, held=0, version=b"\x03\x00") + array.tobytes()),
    # shapes
    "misfit": _misfit,
    "column": _vector(lambda array: array[:, None]),
    "no dimension": _vector(lambda array: array[0]),
    "empty": _vector(lambda array: array[:0]),
    "empty curvature": _curvature(lambda array: array[:0]),
    "flat curvature": _curvature(lambda array: array.reshape(-1)),
    "cubic curvature": _curvature(lambda array: array[None]),
    "cut curvature": _curvature(lambda array: array[:, :-1]),
    "ridge of one entry": _set(ridge=np.array([0.1])),
    "keep in a list": _set(keep=np.array([4])),
    "constant in a list": _set(constant=np.array([0.3])),
    # values
    "NaN": _vector(_placed(np.nan)),
    "infinity": _vector(_placed(-np.inf)),
    "NaN in the curvature": _curvature(_placed(np.nan)),
    "infinity in the curvature": _curvature(_placed(np.inf)),
    "NaN ridge": _any([np.float64(np.nan), np.float64(np.inf), np.float64(-1e-3), np.str_("0.1")], "ridge"),
    "NaN constant": _any([np.float64(np.nan), np.float64(np.inf), np.str_("nan"), np.bool_(True)], "constant"),
    "1e300": _vector(_placed(1e300)),
    "1e300 in the curvature": _curvature(_placed(-1e300)),
    "products overflow": _scaled_all,
    "asymmetric hessian": _as_hessian(_asymmetric),
    "negative diagonal in mode refit": _as_hessian(_negative),
    "keep of another kind": _any([np.float64(4.0), np.bool_(True), np.str_("4"), np.complex128(4), b""], "keep"),
    "keep out of range": _any([np.int64(-1), np.int64(10**15), np.uint64(2**64 - 1), np.int64(99)], "keep"),
    "mode unknown": _any(
        [np.str_("both"), np.str_(""), np.int64(1), np.bytes_(b"select"), np.str_("select\n")], "mode"
    ),
    "text that is none": _any(
        [
            lying((), "<U2", 0) + b"\xff\xff\xff\x7f\x00\x00\x00\x00",
            lying((), "<U2", 0) + b"\x00\xd8\x00\x00\x41\x00\x00\x00",
            np.str_("a\x1b[2Jb"),
        ],
        "problem",
    ),
    "format of another kind": _any(
        [
            np.str_("prunebench.block/2"),
            np.int64(1),
            np.array(["prunebench.block/1"]),
            np.bytes_(b"prunebench.block/1"),
        ],
        "format",
    ),
    "rows of another kind": _any([np.float64(1.7), np.bool_(True), np.str_("2"), np.array([2])], "rows"),
    "rows out of range": _any([np.int64(10**8), np.int64(0), np.int64(-2), np.uint64(2**64 - 1), np.int64(3)], "rows"),
    "rows with a factor": _rows_with_a_factor,
    "start mask of another kind": _with(
        lambda contents, rng: {
            "start_mask": contents["start_mask"].astype([np.int64, np.float64, np.str_][int(rng.integers(3))])
        }
    ),
    "start mask of another count": _with(
        lambda contents, _rng: {"start_mask": ~contents["start_mask"][:1].repeat(contents["start_mask"].size)}
    ),
    "indices of another kind": _with(
        lambda contents, rng: {
            "indices": [
                contents["indices"] + 0.5,
                contents["indices"] > 0,
                -1 - contents["indices"],
                np.zeros_like(contents["indices"]),
                contents["indices"].astype(np.uint64) + np.uint64(2**63),
            ][int(rng.integers(5))]
        }
    ),
    "layers of another kind": _with(
        lambda contents, rng: {
            "layer": [
                np.arange(contents["layer"].size),
                contents["layer"].astype("S6"),
                lying(contents["layer"].shape, "<U999999"),
            ][int(rng.integers(3))]
        }
    ),
    "quota of another kind": _quota(
        quota_group=[
            lambda group: group + 0.5,
            lambda group: group - 1,
            lambda group: group * 0 + 7,
            lambda group: group.astype(np.uint64) + np.uint64(2**63),
            lambda group: group > 0,
        ],
        quota_counts=[
            np.array([2.0, 2.0]),
            np.array([5, -1]),
            np.array([3, 3]),
            np.array([4]),
            np.array([[2, 2]]),
            np.array([], dtype=np.int64),
            np.array([True, True]),
            np.array([2**63 + 2, 2], dtype=np.uint64),
        ],
    ),
    "half a quota": _half_a_quota,
    "two curvatures": _with(
        lambda contents, _rng: {
            "factor": np.ones((1, contents["dense_weights"].size)),
            "hessian": np.eye(contents["dense_weights"].size),
        }
    ),
    # members and archives
    "missing member": _without,
    "renamed member": _renamed,
    "members without .npy": _without_suffix,
    "member twice": _twice,
    "member cut": _member_cut,
    "member too long": _member_longer,
    "file cut": _cut,
    "flipped bit": _flipped,
    "flipped bit in the table of contents": _flipped_directory,
    "flipped bit, compressed": _flipped_packed,
    "compressed": _file(lambda contents: packed(contents, zipfile.ZIP_DEFLATED)),
    "unusual packing": lambda contents, rng: packed(
        contents, zipfile.ZIP_LZMA if rng.integers(2) else zipfile.ZIP_BZIP2
    ),
    "claims terabytes": _claims,
    "claims terabytes throughout": _claims_all,
    "curvature claims terabytes": _claims_curvature,
    "text claims megabytes": _claims_text,
    "header of 300 MB": _long_header,
    "header is code": _header_code,
    "zip bomb": _bomb,
    "zip in a zip": _nested,
    "encrypted": _encrypted,
    "thousands of members": _many_members,
    "single array": _file(lambda contents: npy(contents["dense_weights"])),
    "pickle": _file(lambda _contents: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94."),
    "text": _file(lambda _contents: "weights: 1 2 3 äöü".encode("latin1")),
    "random bytes": lambda _contents, rng: rng.bytes(int(rng.integers(0, 3000))),
    "junk before": _file(lambda contents: b"junk" * 9 + packed(contents)),
    "junk after": _file(lambda contents: packed(contents) + b"junk" * 9),
}
"""Kinds of damage by name."""
