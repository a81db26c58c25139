"""How long a network takes with some of its groups: a table that was measured, with where and how.

A part of the multiplications is not the same part of the time: libraries work in blocks of channels, and sums and
changes of layout stay. So milliseconds are measured, of the whole network with one family at a time at fewer groups,
and added up; no layer is timed alone, since libraries join layers. The sum is not exact, so networks that are chosen by
it are measured too, and their times are kept beside it. Of what was measured only the lower hull counts: a width that
is no faster than a larger one is never taken (Kurtić, Frantar, Alistarh: ZipLM, NeurIPS 2023, §3; Shen et al.: HALP,
NeurIPS 2022).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from prunebench.core.errors import InvalidInput

if TYPE_CHECKING:
    # at start-up this would import torch, and the command line reads the names of runtimes here
    from prunebench.structure.families import Family

Runtime = Literal["torch", "onnxruntime"]
"""What runs the network whose time is meant."""

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
"""All of them."""

FORMAT = "prunebench.latency/1"
"""Name and version of the file's format."""

POINTS = 8
"""Widths of a family that are measured, besides the whole: more cost more networks and are closer than their noise."""

FINE, BLOCK = 4, 8
"""Steps between widths that are more than FINE are multiples of BLOCK, by which libraries lay channels out."""


@dataclass
class LatencyTable:
    """Measured milliseconds of one network.

    facts : where and how: runtime, its version, threads, batch, processor
    sizes : by family's label, its groups
    dense_ms : of the whole network
    curves : by family's label, by kept count: the network's milliseconds with that family alone at that count, as the
        dense network's times the ratio of both, which were run in turns
    networks : other networks that were measured
    """

    facts: Mapping[str, Any]
    sizes: Mapping[str, int]
    dense_ms: float
    curves: Mapping[str, Mapping[int, float]]
    networks: list["Measured"] = field(default_factory=list)

    def hull(self, family: "Family") -> dict[int, float]:
        """By kept count, what it saves of the dense time, in milliseconds: counts that save more than all above."""
        out, most = {family.size: 0.0}, 0.0
        for count, time in sorted(self.curves[family.label].items(), reverse=True):
            saved = self.dense_ms - time
            if count < family.size and saved > most:
                out[count] = most = saved
        return out

    def of(self, families: "Sequence[Family]") -> "LatencyTable":
        """The table of these families alone, in their order; of other families, nothing is known of whole networks."""
        labels = [family.label for family in families]
        networks = self.networks if labels == list(self.sizes) else []
        return LatencyTable(
            self.facts,
            {label: self.sizes[label] for label in labels},
            self.dense_ms,
            {label: self.curves[label] for label in labels},
            list(networks),
        )

    def known(self, counts: Sequence[int]) -> "Measured | None":
        """What was measured of a network with these counts, None if it was not."""
        return next((held for held in self.networks if held.counts == tuple(counts)), None)

    def require(self, facts: Mapping[str, Any], families: "Sequence[Family]", source: str) -> None:
        """Raise InvalidInput unless the table is of this machine, runtime and network.

        source : how the table is named in the error
        """
        for name, here in facts.items():
            if (there := self.facts.get(name)) != here:
                raise InvalidInput(
                    f"{source} was measured with {name} {there}, and here it is {here}; leave the table out to measure "
                    "a new one"
                )
        for family in families:
            if self.sizes.get(family.label) != family.size:
                raise InvalidInput(
                    f"{source} has no {family.kind} {family.name} of {family.size} groups: it is of another network, "
                    "or of other families; leave the table out to measure a new one"
                )

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        held = {
            "format": FORMAT, "facts": dict(self.facts), "sizes": dict(self.sizes), "dense_ms": self.dense_ms,
            "curves": {name: {str(k): ms for k, ms in curve.items()} for name, curve in self.curves.items()},
            "networks": [{"counts": list(item.counts), "dense_ms": item.dense_ms, "ms": item.ms}
                         for item in self.networks],
        }  # fmt: skip
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(held, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)

    @staticmethod
    def read(path: Path) -> "LatencyTable":
        """What `write` wrote.

        Raises
        ------
        InvalidInput   there is no such file, or it holds no table
        """
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["format"] != FORMAT:
                raise ValueError
            made = LatencyTable(
                held["facts"], {name: int(size) for name, size in held["sizes"].items()}, float(held["dense_ms"]),
                {name: {int(k): float(ms) for k, ms in curve.items()} for name, curve in held["curves"].items()},
                [Measured(tuple(map(int, item["counts"])), float(item["dense_ms"]), float(item["ms"]))
                 for item in held["networks"]],
            )  # fmt: skip
        except OSError as error:
            raise InvalidInput(f"the latency table {path} cannot be read: {error.strerror}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(f"{path} holds no latency table ({FORMAT}); give one that a run wrote") from error
        times = [made.dense_ms, *(ms for curve in made.curves.values() for ms in curve.values())]
        times += [ms for item in made.networks for ms in (item.dense_ms, item.ms)]
        if not all(math.isfinite(ms) and ms > 0.0 for ms in times) or set(made.curves) != set(made.sizes):
            raise InvalidInput(f"{path} holds times that are no numbers above 0, or not of all families")
        return made


@dataclass(frozen=True)
class Measured:
    """A network with these kept counts beside the dense one: median milliseconds of both, run in turns."""

    counts: tuple[int, ...]
    dense_ms: float
    ms: float

    @property
    def part(self) -> float:
        """The part of the dense network's time."""
        return self.ms / self.dense_ms


def widths(family: "Family") -> list[int]:
    """The kept counts of a family that are measured, falling, without the whole."""
    step = max(1, -(-family.size // POINTS))
    if step > FINE:
        step = -(-step // BLOCK) * BLOCK
    counts = {*range(step, family.size, step), family.least}
    return sorted((count for count in counts if count < family.size), reverse=True)
