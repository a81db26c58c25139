"""Colour, marker and dash of each solver, looked up by its bare name: the same in every figure, page and notebook.

Colours after Okabe and Ito (Color Universal Design, 2008), without their yellow, which does not show on
white, and extended by dark tones of Tol's palette. Marker and dash differ too, so that no figure needs colour.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prunebench.core.errors import unknown_name

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B4C9A",
    "#882255", "#117733", "#8C5E2A", "#444444", "#999933", "#332288",
)  # fmt: skip
"""On white, in the order in which series take them."""
ON_DARK = (
    "#4DA8E8", "#FF8A3D", "#2CC79A", "#E79AC6", "#F2B84B", "#8CCBF2", "#A98BE0",
    "#D9628F", "#57B86B", "#C99A5B", "#BBBBBB", "#CCCC66", "#8A7BE8",
)  # fmt: skip
"""The same hues for a dark page, one for each of COLOURS."""
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
REFERENCE_ON_DARK = "#AAAAAA"
"""The same on a dark page."""

FAMILIAR = (
    "swap", "anneal", "branch-and-bound", "qaoa-subspace", "iht", "random", "greedy", "magnitude", "highs", "neal",
    "exhaustive", "qaoa", "chita", "admm", "cbs", "tabu", "obs", "pyomo", "obd", "woodfisher", "mfac", "exact",
    "steepest-descent", "path-integral", "dwave", "dwave-mock", "chita-bso", "dimod", "alps", "obc", "osscar",
    "sparsegpt", "wanda", "group-swap", "group-greedy", "group-exact", "scip", "gurobi", "cp-sat", "openjij",
    "openjij-sqa", "simulated-bifurcation", "beam",
)  # fmt: skip
"""Solvers that have a place of their own: every built-in one, so that reports can be laid side by side."""


def bare(label: str) -> str:
    """The solver's name without its options: "anneal (sweeps=50)" and "anneal:sweeps=50" are "anneal"."""
    return label.split(" (")[0].split(":")[0]


@dataclass(frozen=True)
class Look:
    """How one series looks. `hatch` is for bars; `filled` says whether markers are; `on_dark` is for dark pages."""

    colour: str
    marker: str
    dash: str
    hatch: str
    filled: bool
    on_dark: str = REFERENCE_ON_DARK


class Looks:
    """The looks of the solvers of one report. Labels of one solver share its colour.

    keys : labels, solvers' names with or without options
    """

    def __init__(self, keys: Iterable[str]) -> None:
        labels: dict[str, list[str]] = {}
        for key in sorted(set(keys) - {REFERENCE}):
            labels.setdefault(bare(key), []).append(key)
        self._places: Mapping[str, int] = _places(labels)
        # a label without options is the first variant, whatever else there is
        self._variants = {
            key: number for name, held in labels.items() for number, key in enumerate(sorted(held, key=name.__ne__))
        }

    def of(self, key: str, variant: int = 0) -> Look:
        """The look of a label; a later variant keeps the colour and has other markers, hollow every other time."""
        if key == REFERENCE:
            return Look(REFERENCE_COLOUR, "circle", ("dash", "dot")[variant % 2], "", True)
        place, other = self._places[bare(key)], variant + self._variants.get(key, 0)
        # another round through the colours begins with another marker and dash
        turn = place // len(COLOURS)
        return Look(
            COLOURS[place % len(COLOURS)],
            MARKERS[(place + turn + 3 * other) % len(MARKERS)],
            DASHES[(place + turn + other) % len(DASHES)],
            HATCHES[(place + turn + other) % len(HATCHES)],
            other % 2 == 0,
            ON_DARK[place % len(COLOURS)],
        )


def colour(label: str) -> str:
    """The colour of a built-in solver, as "#RRGGBB": what every figure and page draws it in.

    label : its name, with or without options

    Raises
    ------
    UnknownName   no built-in solver has the name; the message names the nearest
    """
    name = bare(label)
    if name not in FAMILIAR:
        raise unknown_name("solver", name, FAMILIAR)
    return COLOURS[FAMILIAR.index(name) % len(COLOURS)]


def _places(names: Iterable[str]) -> dict[str, int]:
    """Familiar names have their own place, all others the next that is free."""
    wanted = list(names)
    held = {name: FAMILIAR.index(name) for name in wanted if name in FAMILIAR}
    taken, place = {place % len(COLOURS) for place in held.values()}, 0
    for name in (name for name in wanted if name not in held):
        # Colours that nobody has come first, while there are any.
        while len(taken) < len(COLOURS) and place % len(COLOURS) in taken:
            place += 1
        while place in held.values():
            place += 1
        held[name] = place
        taken.add(place % len(COLOURS))
    return held
