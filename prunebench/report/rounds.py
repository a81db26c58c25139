"""Runs of rounds: how compressible the kept weights are, round by round.

Diao et al.: Pruning Deep Neural Networks from a Sparsity Perspective, ICLR 2023, whose figure this is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.report.figure import Drawn, Figure, Series, linear_axis, log_axis
from prunebench.report.gather import Run
from prunebench.report.runs import by_problem, labels

PQ = "Sparsity of what is kept"
"""Title of the figure of PQ indices."""


def pq_index(runs: tuple[Run, ...]) -> Drawn | None:
    """The PQ indices of the weights before every pruning against the density that they had, by p and q.

    None where no run has rounds: other runs lack nothing then.
    """
    figures: list[Figure] = []
    for problem, same in by_problem(runs):
        curves = {run: _curves(run) for run in same}
        known = [run for run in same if curves[run]]
        names = labels(known)
        for powers in dict.fromkeys(key for run in known for key in curves[run]):
            series = tuple(
                Series(names[run][0], run.look, "line", *curves[run][powers], variant=names[run][1])
                for run in known
                if powers in curves[run]
            )
            figures.append(Figure(
                f"pq-{len(figures)}", PQ, PQ, f"{problem}, p, q = {powers.replace(',', ', ')}",
                "The PQ index of the kept weights before every pruning against their density: 0 where all are equally "
                "large, near 1 where a few are all that counts. Rounds go from right to left. It falls while pruning "
                "takes what is small, rises where that no longer does it, and falls at collapse.",
                log_axis("density before the pruning", [one.x for one in series], percent=True),
                linear_axis("PQ index", [one.y for one in series]), series, ("density",),
            ))  # fmt: skip
    return Drawn(tuple(figures)) if figures else None


def _curves(run: Run) -> dict[str, tuple[FloatArray, FloatArray]]:
    """By p and q the densities before every pruning, and the indices there."""
    found: dict[str, list[tuple[float, float]]] = {}
    density = 1.0
    for event in run.events:
        held: Mapping[str, Any] = event.get("pq_index") or {}
        for powers, value in held.items():
            found.setdefault(powers, []).append((density, float(value)))
        density = float(event.get("density", density))
    return {
        powers: (np.array([x for x, _ in points]), np.array([y for _, y in points])) for powers, points in found.items()
    }
