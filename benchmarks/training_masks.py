"""Whether the better mask is still the better one after training: one protocol for the masks of several methods."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prunebench.core.block import Mode
from prunebench.log.run_directory import RunDirectory
from prunebench.pruning import prune
from runner import Note, Row, cpu_seconds

METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("magnitude", {"recipe": "magnitude"}),
    ("chita", {"recipe": "chita"}),
    ("chita-bso", {"coordinator": "one-shot", "solver": "chita-bso", "curvature": {"samples": 1000}}),
    ("icbs", {"recipe": "icbs", "steps": 30}),
)
"""Whose masks are trained. iCBS makes a third of the published 90 steps."""

NETWORKS = (
    ("mlpnet-mnist", (0.1, 0.05), "epochs=10"),
    ("garment-fashion-mnist", (0.05,), "epochs=4"),
    ("resnet20-cifar10", (0.2,), "epochs=2"),
)
"""Networks, densities and lengths of training: a tenth, or less, of the 100 epochs for which CHITA trains."""

GRADUAL = (0.3, 0.02)
"""Densities between which ResNet20 is pruned gradually, by a geometric schedule."""
ROUNDS = 5
"""Prunings of it, an epoch after each."""


def masks(quick: bool) -> Iterator[Row | Note]:
    """Accuracy of masks before and after the same training."""
    for name, densities, protocol in NETWORKS[:1] if quick else NETWORKS:
        for density in densities[:1] if quick else densities:
            for method, asked in METHODS[:1] if quick else METHODS:
                pruned, cost = cpu_seconds(partial(
                    prune, name, density=density, retrain=protocol, progress=False, **asked,
                ))  # fmt: skip
                yield Row("masks", {
                    "network": name, "density": density, "mask": method, "protocol": protocol,
                    "pruned": 100.0 * pruned.result["accuracy"],
                    "after training": 100.0 * pruned.result["retrained"][0]["accuracy"], "CPU s": cost,
                })  # fmt: skip
    yield Note("accuracy in per cent on the validation samples, one seed")


def gradual() -> Iterator[Row | Note]:
    """ResNet20 pruned gradually by magnitude and by the solver for whole networks, with equal epochs."""
    kinds: tuple[tuple[str, Mode, int], ...] = (("magnitude", "select", 64), ("chita-bso", "refit", 500))
    for solver, mode, samples in kinds:
        with TemporaryDirectory() as folder:
            place = Path(folder) / "run"
            _, cost = cpu_seconds(partial(
                prune, "resnet20-cifar10", density=GRADUAL[1], coordinator="rounds", solver=solver, mode=mode,
                rounds=ROUNDS, schedule="geometric", start_density=GRADUAL[0], train="epochs=1", samples=samples,
                progress=False, out=place,
            ))  # fmt: skip
            steps = RunDirectory.open(place).events()
        for pruned, trained in zip(steps[::2], steps[1::2], strict=True):
            yield Row("gradual", {
                "solver": solver, "density": pruned["density"], "pruned": 100.0 * pruned["validation"]["accuracy"],
                "after an epoch": 100.0 * trained["validation"]["accuracy"],
                "CPU s of all rounds": cost if trained is steps[-1] else None,
            })  # fmt: skip
    yield Note(
        f"ResNet20, {ROUNDS} prunings from {GRADUAL[0]:g} to {GRADUAL[1]:g}, an epoch of 8,068 images after each"
    )
