"""A legend's little picture of a series, as inline SVG: the same colour, dash and marker as in the plot."""

import math

from prunebench.report.figure import Series
from prunebench.report.style import Look

WIDTH = 44
"""Width of a swatch in pixels."""
HEIGHT = 18
"""Height of a swatch in pixels."""
RADIUS = 5.5
"""Half the size of its marker in pixels."""
DASH_ARRAYS = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "11 4"}
"""SVG's dash array for each dash of report.style."""


def swatch(series: Series, look: Look) -> str:
    """An <svg> element; hidden from screen readers, since the name follows it."""
    parts = []
    middle = HEIGHT / 2
    paint = "currentColor"
    if series.kind == "bar":
        parts.append(f'<rect x="10" y="2" width="24" height="14" fill="{paint}"/>')
        parts += [
            f'<path d="{path}" class="paper-line" stroke-width="1.5" fill="none"/>'
            for path in _hatching(look.hatch)
            if path
        ]
    elif series.kind != "points":
        dash = f' stroke-dasharray="{DASH_ARRAYS[look.dash]}"' if DASH_ARRAYS[look.dash] else ""
        ends = f'x1="1" y1="{middle}" x2="{WIDTH - 1}" y2="{middle}"'
        parts.append(f'<line {ends} stroke="{paint}" stroke-width="2.5"{dash}/>')
    if series.kind not in ("bar", "rule"):
        fill = paint if look.filled else "var(--paper)"
        place = f'transform="translate({WIDTH / 2} {middle})"'
        parts.append(f'<path d="{outline(look.marker)}" {place} fill="{fill}" stroke="{paint}" stroke-width="1.5"/>')
    colours = f"--light:{look.colour};--dark:{look.on_dark}"
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg {box} class="s" style="{colours}" aria-hidden="true">{"".join(parts)}</svg>'


def _hatching(hatch: str) -> tuple[str, ...]:
    rising, falling = "M10 16L24 2M18 16L32 2M26 16L34 8M10 9L17 2", "M34 16L20 2M26 16L12 2M18 16L10 8M34 9L27 2"
    lying, standing = "M10 6H34M10 12H34", "M16 2V16M22 2V16M28 2V16"
    return {
        "/": (rising,), "\\": (falling,), "x": (rising, falling), "-": (lying,), "+": (lying, standing),
        ".": ("M14 6h2M20 6h2M26 6h2M17 12h2M23 12h2M29 12h2",),
    }.get(hatch, ("",))  # fmt: skip


def outline(name: str) -> str:
    """The outline of a marker about the origin, as the data of an SVG path."""
    r = RADIUS
    if name == "circle":
        return f"M{-r} 0a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"
    third = r * 0.4
    plus = [(-third, -r), (third, -r), (third, -third), (r, -third), (r, third), (third, third),
            (third, r), (-third, r), (-third, third), (-r, third), (-r, -third), (-third, -third)]  # fmt: skip
    outlines = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "diamond": [(0, -1.25 * r), (1.25 * r, 0), (0, 1.25 * r), (-1.25 * r, 0)],
        "triangle-up": [(0, -1.1 * r), (1.2 * r, r), (-1.2 * r, r)],
        "triangle-down": [(0, 1.1 * r), (1.2 * r, -r), (-1.2 * r, -r)],
        "plus": plus,
        "x": [((x - y) * 0.75, (x + y) * 0.75) for x, y in plus],
        "star": [_polar(r * (1.3 if i % 2 == 0 else 0.55), i * math.pi / 5) for i in range(10)],
        "pentagon": [_polar(1.1 * r, i * 2 * math.pi / 5) for i in range(5)],
        "hexagon": [_polar(1.1 * r, (i + 0.5) * math.pi / 3) for i in range(6)],
        "hourglass": [(-r, -r), (r, -r), (-r, r), (r, r)],
    }
    points = [f"{x:.2f} {y:.2f}" for x, y in outlines[name]]
    return "M" + "L".join(points) + "Z"


def _polar(radius: float, angle: float) -> tuple[float, float]:
    return radius * math.sin(angle), -radius * math.cos(angle)
