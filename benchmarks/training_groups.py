"""Whole groups: rounds of structured pruning and training, rewinding, and controls, on MLPNet as it is trained here."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from prunebench.core.controls import GROUPS
from prunebench.pruning import prune
from runner import Note, Row, cpu_seconds
from training_tickets import TRAINED_HERE

PARTS = (0.5, 0.25)
"""Of the multiplications, which are kept."""

ROUNDS = 4
"""Prunings of a run in rounds."""

RUNS: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("at once", {"coordinator": "structured", "retrain": "epochs=6"}, ()),
    ("gradual", {"coordinator": "structured-rounds", "rounds": ROUNDS, "train": "epochs=1", "train_end": "epochs=3"},
     ()),
    ("rewound", {"coordinator": "structured-rounds", "rounds": ROUNDS, "train": "epochs=3,start=init"}, tuple(GROUPS)),
)  # fmt: skip
"""Name, how, and the controls that are trained beside it. The first two train for six epochs; a rewound network for
three at last, after nine of networks that are thrown away."""


def groups(seeds: int, quick: bool) -> Iterator[Row | Note]:
    """Accuracy of smaller networks and controls, in per cent, over seeds."""
    for part in PARTS[1:] if quick else PARTS:
        for name, how, wanted in RUNS:
            found: dict[str, list[float]] = {}
            seconds, kept = [], []
            for seed in range(seeds):
                pruned, cost = cpu_seconds(partial(
                    prune, "mlpnet-mnist", flops=part, problem_options=TRAINED_HERE, seed=seed,
                    controls=wanted or None, progress=False, **how,
                ))  # fmt: skip
                trained = pruned.result.get("retrained", [pruned.result])[0]
                found.setdefault(name, []).append(100.0 * trained["accuracy"])
                for entry in pruned.result.get("controls", []):
                    found.setdefault(f"{name}, {entry['control']}", []).append(100.0 * entry["accuracy"])
                seconds.append(cost)
                kept.append("-".join(map(str, pruned.result["kept_per_layer"].values())))
            for what, values in found.items():
                yield Row("groups", {
                    "part": part, "what": what, "accuracy": float(np.mean(values)), "least": min(values),
                    "most": max(values), "seeds": len(values),
                    "kept": ", ".join(sorted(set(kept))) if what == name else "",
                    "CPU s": float(np.mean(seconds)) if what == name else None,
                })  # fmt: skip
    yield Note("accuracy in per cent on MNIST's test images; kept are neurons of both hidden layers, of 40 and 20")
