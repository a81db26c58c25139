"""Training in the loop: rates, masks trained at once, tickets beside their controls, masks before and after training.

OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/training.py tickets
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.problem import NetworkProblem, make_problem
from prunebench.networks.chosen import prunable_network
from prunebench.networks.network import PrunableNetwork
from prunebench.recovery.training.protocol import Protocol, parse
from prunebench.recovery.training.stacked import Stack
from prunebench.recovery.training.starts import trainer
from runner import Benchmark, Note, Row, cpu_seconds
from training_groups import groups
from training_masks import gradual, masks
from training_tickets import LENET_SEEDS, lenet, tickets

RATES = (
    ("mlpnet-mnist", 0.1, "epochs=3"),
    ("garment-fashion-mnist", 0.05, "epochs=2"),
    ("resnet20-cifar10", 0.2, "epochs=1"),
    ("vit-mnist", 0.3, "epochs=1,samples=8000"),
    ("stories-llama", 0.5, "epochs=1,batch_size=16"),
)
"""Networks, densities of magnitude masks, and how long they are trained."""

MASKS, EPOCHS = 100, 3
"""Masks that are trained at once, and for how long; one by one a tenth of them is."""


PARTS = ("stack", "tickets", "lenet", "gradual")
"""The tables that are made where none is named: within twenty minutes of one processor."""
BY_NAME = ("groups", "rates", "masks")
"""Tables that are made only by their names, so that the others end within that time."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", default="usual", choices=("usual", *PARTS, *BY_NAME), help=f"usual: {', '.join(PARTS)}"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of tickets and groups")
    parser.add_argument("--recipe", help="of the table tickets, the rows of this recipe alone")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    quick, seeds = chosen.quick, 1 if chosen.quick else chosen.seeds
    made: dict[str, Callable[[], Iterator[Row | Note]]] = {
        "stack": stack,
        "tickets": lambda: tickets(seeds, quick, chosen.recipe),
        "lenet": lambda: lenet(min(seeds, LENET_SEEDS)),
        "groups": lambda: groups(seeds, quick),
        "gradual": gradual,
        "rates": lambda: rates(*((RATES[:1], (0.001, 0.005)) if quick else (RATES, (0.001, 0.003, 0.005, 0.01)))),
        "masks": lambda: masks(quick),
    }
    for name in PARTS if chosen.what == "usual" else (chosen.what,):
        yield from made[name]()


def by_magnitude(network: PrunableNetwork, density: float) -> BoolArray:
    """The mask of the largest weights."""
    weights = network.weights()
    mask = np.zeros(weights.size, dtype=np.bool_)
    mask[np.argsort(-np.abs(weights), kind="stable")[: round(density * weights.size)]] = True
    return mask


def reached(problem: NetworkProblem, mask: BoolArray, protocol: Protocol) -> dict[str, float]:
    """What a mask of the dense network reaches after a training, judged on the validation samples."""
    network = prunable_network(problem)
    network.assign(np.where(mask, network.weights(), 0.0))
    training = trainer(problem, network, mask, protocol)
    while not training.done:
        training.epoch()
    training.finish()
    return dict(problem.evaluate(network.model))


def measure(judged: dict[str, float]) -> float:
    return judged.get("accuracy", judged.get("perplexity", judged["loss"]))


def rates(networks: Any, tried: tuple[float, ...]) -> Iterator[Row]:
    """Accuracy, or perplexity, of masks by magnitude after training at several rates, and by distillation."""
    for name, density, length in networks:
        problem = make_problem(name)
        assert isinstance(problem, NetworkProblem)
        mask = by_magnitude(prunable_network(problem), density)
        values: dict[str, Any] = {"network": name, "density": density, "protocol": length}
        values["untrained"] = measure(reached(problem, mask, Protocol(epochs=0)))
        for rate in tried:
            values[f"Adam {rate:g}"] = measure(reached(problem, mask, replace(parse(length), learning_rate=rate)))
        values["SGD 0.05"] = measure(
            reached(problem, mask, replace(parse(length), optimizer="SGD", learning_rate=0.05))
        )
        values["distilled"] = measure(reached(problem, mask, replace(parse(length), distil=0.9)))
        yield Row("rates", values)


def stack() -> Iterator[Row]:
    """CPU seconds of many masks at once and one by one, and how far apart what they come to is."""
    problem = make_problem("digits-mlp")
    assert isinstance(problem, NetworkProblem)
    network = prunable_network(problem)
    weights, rng = network.weights(), np.random.default_rng(0)
    masks = np.zeros((MASKS, weights.size), dtype=np.bool_)
    for mask in masks:
        noisy = np.abs(weights) * np.exp(0.5 * rng.normal(size=weights.size))
        mask[np.argsort(-noisy)[: round(0.1 * weights.size)]] = True
    protocol = Protocol(epochs=EPOCHS, batch_size=64)

    def at_once() -> Stack:
        made = Stack(problem, prunable_network(problem), masks, protocol)
        while not made.done:
            made.epoch()
        return made

    def alone(mask: BoolArray) -> Any:
        held = prunable_network(problem)
        held.assign(np.where(mask, weights, 0.0))
        training = trainer(problem, held, mask, protocol)
        while not training.done:
            training.epoch()
        training.finish()
        return held.weights()

    at_once()
    stacked, seconds = cpu_seconds(at_once)
    singles, one_by_one = cpu_seconds(lambda: [alone(mask) for mask in masks[: MASKS // 10]])
    apart = float(np.abs(stacked.weights()[: MASKS // 10] - np.array(singles)).max())
    yield Row("stack", {
        "masks": MASKS, "epochs": EPOCHS, "CPU s at once": seconds, "CPU s one by one": 10.0 * one_by_one,
        "ratio": 10.0 * one_by_one / seconds, "largest difference": apart,
    })  # fmt: skip


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"what": "stack"})

if __name__ == "__main__":
    BENCHMARK.main()
