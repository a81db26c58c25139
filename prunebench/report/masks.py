"""Masks as pictures: what a run kept of each layer, a dot for each weight or for each patch of weights."""

import base64
import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray
from prunebench.report.gather import Run
from prunebench.report.runs import labels

MOST = 48
"""Pictures on one page. More would make it slow, and nobody compares them."""
SHOWN = 256
"""Pixels of a picture's longer side on the screen, about."""


@dataclass(frozen=True)
class Picture:
    """A layer's mask. address : a data: URL; caption : its density and what a dot is; width, height : in pixels"""

    layer: str
    address: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Album:
    """The pictures of one run, and what is to be said of those that are not shown."""

    name: str
    pictures: tuple[Picture, ...]
    note: str


def albums(runs: tuple[Run, ...]) -> list[Album]:
    """The pictures of all runs that have a mask, as many as a page takes, shared out evenly."""
    known = [run for run in runs if run.pictures]
    each = max(1, MOST // max(1, len(known)))
    names = labels(runs)
    out = []
    for run in known[:MOST]:
        shown = list(run.pictures.items())[:each]
        left = len(run.pictures) - len(shown)
        note = f"{left} more layers are not shown; their density is in the figure above." if left else ""
        out.append(Album(names[run][0], tuple(_picture(layer, run, shares) for layer, shares in shown), note))
    if len(known) > MOST:
        last = out[-1]
        out[-1] = replace(last, note=f"{last.note} Masks of {len(known) - MOST} more runs are not shown.".strip())
    return out


def _picture(layer: str, run: Run, shares: FloatArray) -> Picture:
    kept, size = run.layers[layer]
    height, width = shares.shape
    most = float(shares.max()) or 1.0
    whole = shares.size == size
    what = (
        "a dot is a weight" if whole else f"a dot is {size / shares.size:.3g} weights, black where {most:.0%} is kept"
    )
    scale = max(1, SHOWN // max(height, width))
    grey = np.round(255 * (1.0 - shares / most)).astype(np.uint8)
    return Picture(
        layer, f"data:image/png;base64,{base64.b64encode(png(grey)).decode()}",
        f"{kept:,} of {size:,} kept ({100 * kept / size:.3g} %), {what}", scale * width, max(scale * height, 8),
    )  # fmt: skip


def png(grey: npt.NDArray[np.uint8]) -> bytes:
    """A grey picture as a PNG file. uint8 (h, w), 0 is black"""

    def chunk(kind: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))

    height, width = grey.shape
    lines = b"".join(b"\0" + row.tobytes() for row in grey)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
