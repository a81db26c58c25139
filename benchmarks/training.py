"""Training in the loop: rates of the usual protocol, masks trained at once, and tickets beside their controls.

OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/training.py tickets
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from prunebench.coordinators.rounds.amounts import layer_counts
from prunebench.coordinators.rounds.options import RoundsOptions
from prunebench.core.arrays import BoolArray
from prunebench.core.problem import NetworkProblem, make_problem
from prunebench.networks.chosen import prunable_network
from prunebench.networks.network import PrunableNetwork
from prunebench.pruning import prune
from prunebench.recovery.training.protocol import Protocol, parse
from prunebench.recovery.training.stacked import Stack
from prunebench.recovery.training.starts import trainer
from runner import Benchmark, Note, Row, cpu_seconds

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

TICKET_DENSITIES = (0.18, 0.05)
"""Where published tickets differ little, and much, from the same masks initialised anew."""

RECIPES = ("lottery", "lottery-late", "learning-rate-rewinding", "gmp", "granet", "sap", "global-mp", "scratch-e")
"""Recipes of `rounds` that are compared."""

TRAINED_HERE = {"weights": "train"}
"""MLPNet as it is trained here: its initialisation is known."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="all", choices=("all", "rates", "stack", "tickets"))
    parser.add_argument("--seeds", type=int, default=3, help="seeds of tickets")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    if chosen.what in ("all", "rates"):
        yield from rates(
            RATES[:1] if chosen.quick else RATES, (0.001, 0.005) if chosen.quick else (0.001, 0.003, 0.005, 0.01)
        )
    if chosen.what in ("all", "stack"):
        yield from stack()
    if chosen.what in ("all", "tickets"):
        yield from tickets(chosen)


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


def tickets(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    """Recipes of `rounds` on MLPNet as it is trained here, and the controls of the ticket of every seed."""
    densities = TICKET_DENSITIES[:1] if chosen.quick else TICKET_DENSITIES
    recipes = RECIPES[:1] if chosen.quick else RECIPES
    for density in densities:
        found: dict[str, list[float]] = {}
        seconds: dict[str, list[float]] = {}
        for seed in range(1 if chosen.quick else chosen.seeds):
            for recipe in recipes:
                pruned, cost = cpu_seconds(partial(
                    prune, "mlpnet-mnist", density=density, recipe=recipe, problem_options=TRAINED_HERE, seed=seed,
                    validate_every=0, progress=False,
                ))  # fmt: skip
                found.setdefault(recipe, []).append(100.0 * pruned.result["accuracy"])
                seconds.setdefault(recipe, []).append(cost)
                if recipe == "lottery":
                    for name, value in controls(pruned, density, seed).items():
                        found.setdefault(name, []).append(100.0 * value)
        for name, values in found.items():
            cost_of = float(np.mean(seconds[name])) if name in seconds else None
            yield Row("tickets", {
                "density": density, "what": name, "accuracy": float(np.mean(values)), "least": min(values),
                "most": max(values), "seeds": len(values), "CPU s": cost_of,
            })  # fmt: skip
    yield Note("accuracy in per cent on MNIST's test images; the dense network's is in the log of every run")


def controls(ticket: Any, density: float, seed: int) -> dict[str, float]:
    """What the ticket's last training gives from other values, and of other masks of the same counts."""
    problem = make_problem("mlpnet-mnist", TRAINED_HERE)
    assert isinstance(problem, NetworkProblem)
    network = prunable_network(problem)
    mask = np.concatenate([ticket.masks[layer.name].numpy().reshape(-1) for layer in network.layers])
    rng, last = np.random.default_rng(seed), parse("epochs=3,start=init")
    shuffled = mask.copy()
    for layer in network.layers:
        shuffled[layer.start : layer.stop] = rng.permutation(mask[layer.start : layer.stop])
    once = np.zeros_like(mask)
    options = RoundsOptions(counts="layer", last_layer=0.47)
    for layer, count in zip(network.layers, layer_counts(options, network.layers, int(mask.sum())), strict=True):
        part = np.abs(network.weights()[layer.start : layer.stop])
        once[layer.start + np.argsort(-part, kind="stable")[:count]] = True
    fresh = replace(last, start=f"fresh:{seed + 100}")
    return {
        "ticket, initialised anew": reached(problem, mask, fresh)["accuracy"],
        "ticket, shuffled in its layers": reached(problem, shuffled, last)["accuracy"],
        "one-shot ticket": reached(problem, once, last)["accuracy"],
        "ticket, dense values": reached(problem, mask, replace(last, start="dense"))["accuracy"],
    }


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"what": "stack"})

if __name__ == "__main__":
    BENCHMARK.main()
