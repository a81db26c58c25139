"""Colour, marker and dash of each solver, the same in every figure and as far as possible in every report.

Colours after Okabe and Ito (Color Universal Design, 2008), without their yellow, which does not show on
white, and extended by dark tones of Tol's palette. Marker and dash differ too, so that no figure needs colour.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B4C9A",
    "#882255", "#117733", "#8C5E2A", "#444444", "#999933", "#332288",
)  # fmt: skip
"""In the order in which series take them."""
MARKERS = (
    "circle", "square", "diamond", "triangle-up", "triangle-down", "plus", "x", "star", "pentagon", "hexagon",
    "hourglass",
)  # fmt: skip
"""In the order in which series take them; each drawing library has its own name for them."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""In the order in which series take them."""
HATCHES = ("", "/", "\\", "x", "-", ".", "+")
"""In the order in which bars take them."""

REFERENCE = "reference"
"""The key of what is no solver: the dense network, a diagonal."""
REFERENCE_COLOUR = "#555555"
"""A grey that no solver has."""

FAMILIAR = (
    "swap", "anneal", "branch-and-bound", "qaoa-subspace", "iht", "random", "greedy", "magnitude", "highs", "neal",
    "exhaustive", "qaoa", "chita", "admm", "cbs", "tabu", "obs", "pyomo", "obd", "woodfisher", "mfac", "exact",
    "steepest-descent", "path-integral", "dwave", "dwave-mock", "chita-bso", "dimod",
)  # fmt: skip
"""Solvers that have a place of their own, so that reports can be laid side by side."""


@dataclass(frozen=True)
class Look:
    """How one series looks. `hatch` is for bars; `filled` says whether markers are."""

    colour: str
    marker: str
    dash: str
    hatch: str
    filled: bool


class Looks:
    """The looks of the keys of one report: distinct in colour with marker and dash."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._places: Mapping[str, int] = _places(keys)

    def of(self, key: str, variant: int = 0) -> Look:
        """The look of a key; a later variant keeps the colour and has other markers, hollow every other time."""
        if key == REFERENCE:
            return Look(REFERENCE_COLOUR, "circle", ("dash", "dot")[variant % 2], "", True)
        place = self._places[key]
        other = place + 3 * variant
        return Look(
            COLOURS[place % len(COLOURS)],
            MARKERS[other % len(MARKERS)],
            DASHES[(place + variant) % len(DASHES)],
            HATCHES[(place + variant) % len(HATCHES)],
            variant % 2 == 0,
        )


def _places(keys: Iterable[str]) -> dict[str, int]:
    """Familiar keys have their own place, all others the next that is free."""
    wanted = sorted(set(keys) - {REFERENCE})
    held = {key: FAMILIAR.index(key) for key in wanted if key in FAMILIAR}
    taken, place = {place % len(COLOURS) for place in held.values()}, 0
    for key in (key for key in wanted if key not in held):
        # Colours that nobody has come first, while there are any.
        while len(taken) < len(COLOURS) and place % len(COLOURS) in taken:
            place += 1
        while place in held.values():
            place += 1
        held[key] = place
        taken.add(place % len(COLOURS))
    return held
