"""Tickets, regrowth and their controls on MLPNet as it is trained here, and on the widths of LeNet-300-100."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from prunebench.core.controls import CONTROLS
from prunebench.core.problem import NetworkProblem, make_problem
from prunebench.networks.chosen import prunable_network
from prunebench.pruning import prune
from prunebench.recovery.training import controls
from prunebench.recovery.training.protocol import Protocol, parse
from prunebench.recovery.training.trainer import Trainer
from runner import Note, Row, cpu_seconds

TRAINED_HERE = {"weights": "train"}
"""MLPNet as it is trained here: its initialisation is known."""

ALL = tuple(CONTROLS)
"""Every control."""

RUNS: tuple[tuple[float, str, dict[str, Any], tuple[str, ...]], ...] = (
    (0.18, "lottery", {}, ALL),
    (0.18, "lottery-late", {}, ()),
    (0.05, "lottery", {}, ("reinit", "random", "one-shot")),
    (0.05, "gmp", {}, ()),
    (0.05, "granet", {}, ()),
    (0.05, "granet", {"regrow": 0.5}, ()),
    (0.05, "granet", {"regrow_by": "quadratic"}, ()),
    (0.05, "bip", {}, ()),
    (0.07, "sap", {}, ()),
    (0.01, "global-mp", {}, ()),
    (0.01, "global-mp", {"least": 0.0}, ()),
)
"""Density, recipe of `rounds`, its options, and the controls that are trained beside it."""

LENET = {"weights": "train", "hidden": (300, 100)}
"""Widths of LeNet-300-100 in the paper on lottery tickets, here without biases."""
LENET_DENSITY = 0.21
"""Where the paper compares how fast ticket and re-initialised network learn."""
LENET_SEEDS = 2
"""Seeds of them, at most: each takes two minutes."""
STEPS = (400, 800, 2800)
"""Lengths of trainings at a constant rate, of which each is the beginning of the next."""
CONSTANT = "schedule=constant,learning_rate=0.0012,start=init"
"""Their protocol."""


def tickets(seeds: int, quick: bool, alone: str | None = None) -> Iterator[Row | Note]:
    """Accuracy of recipes and controls, in per cent, over seeds. alone : a recipe, whose rows alone are made"""
    for density, recipe, options, wanted in RUNS[:1] if quick else RUNS:
        if alone not in (None, recipe):
            continue
        found: dict[str, list[float]] = {}
        least, rounds, seconds = [], [], []
        name = " ".join([recipe, *(f"{key}={value}" for key, value in options.items())])
        for seed in range(seeds):
            pruned, cost = cpu_seconds(partial(
                prune, "mlpnet-mnist", density=density, recipe=recipe, problem_options=TRAINED_HERE, seed=seed,
                controls=wanted or None, validate_every=0, progress=False, **options,
            ))  # fmt: skip
            found.setdefault(name, []).append(100.0 * pruned.result["accuracy"])
            for entry in pruned.result.get("controls", []):
                found.setdefault(f"{name}, {entry['control']}", []).append(100.0 * entry["accuracy"])
            least.append(min(pruned.result["kept_per_layer"].values()))
            rounds.append(pruned.result["steps"])
            seconds.append(cost)
        for what, values in found.items():
            yield Row("tickets", {
                "density": density, "what": what, "accuracy": float(np.mean(values)), "least": min(values),
                "most": max(values), "seeds": len(values), "fewest of a layer": min(least) if what == name else None,
                "steps": float(np.mean(rounds)) if what == name else None,
                "CPU s": float(np.mean(seconds)) if what == name else None,
            })  # fmt: skip
    yield Note("accuracy in per cent on MNIST's test images; steps are prunings and epochs")


def lenet(seeds: int) -> Iterator[Row | Note]:
    """Accuracy of a ticket and of the same mask initialised anew, and after how many steps each is as good as dense."""
    problem = make_problem("mlpnet-mnist", LENET)
    assert isinstance(problem, NetworkProblem)
    dense = 100.0 * problem.evaluate(problem.model())["accuracy"]
    for seed in range(seeds):
        ticket, cost = cpu_seconds(partial(
            prune, "mlpnet-mnist", density=LENET_DENSITY, recipe="lottery", problem_options=LENET, seed=seed,
            controls=("reinit",), validate_every=0, progress=False,
        ))  # fmt: skip
        network = prunable_network(problem)
        mask = np.concatenate([ticket.masks[layer.name].numpy().reshape(-1) for layer in network.layers])
        aim = 100.0 * float(ticket.result["controls"][0]["accuracy"])
        values: dict[str, Any] = {
            "seed": seed, "dense": dense, "ticket": 100.0 * ticket.result["accuracy"], "initialised anew": aim,
        }  # fmt: skip
        for name, anew in (("ticket", False), ("anew", True)):
            values[f"steps of {name}"], best = None, 0.0
            for steps, reached in learning(problem, mask, anew, parse(CONSTANT)):
                best = max(best, reached)
                if reached >= aim:
                    values[f"steps of {name}"] = steps
                    break
            values[f"best of {name}"] = best
        yield Row("LeNet-300-100", {**values, "CPU s": cost})
    yield Note(
        f"density {LENET_DENSITY:g}; steps at a constant rate of Adam until the accuracy of the mask that is "
        "initialised anew and trained by the recipe's protocol is reached"
    )


def learning(problem: NetworkProblem, mask: Any, anew: bool, protocol: Protocol) -> Iterator[tuple[int, float]]:
    """Accuracy in per cent after each of STEPS, of the ticket itself or of its mask initialised anew."""
    for steps in STEPS:
        network, length = prunable_network(problem), replace(protocol, steps=steps)
        if anew:
            made = controls.made("reinit", problem, network, mask, length, 0)
            training = controls.training_of(made, problem, None, None)
        else:
            network.load_state(problem.trajectory().at(0).state_dict())  # type: ignore[attr-defined]  # MLPNet has it
            training = Trainer(problem, network, mask, length)
        while not training.done:
            training.epoch()
        training.finish()
        yield steps, 100.0 * problem.evaluate(network.model)["accuracy"]
