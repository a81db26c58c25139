"""The instances of the suite: what each is cut out of, how, and what its file holds."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import suite_networks as networks
from prunebench.suite import drawn

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """One instance before it is made.

    name, mode, keep, about : as in the catalogue
    recipe : without its ridge;  ridge : in units of the mean diagonal of the curvature
    own : makes the arrays of the instance's own file, from those of its data and the factor of all its columns
    """

    name: str
    mode: str
    keep: int
    origin: str
    about: str
    recipe: dict[str, Any]
    ridge: float
    own: Callable[[Arrays], Arrays]


def nothing(_held: Arrays) -> Arrays:
    """No arrays of its own."""
    return {}


def _gradients(held: Arrays, samples: int) -> Any:
    """Sample gradients of every weight of a layer. (n, a·b)"""
    left, right = held["left"][:samples].astype(np.float64), held["right"][:samples].astype(np.float64)
    return (left[:, :, None] * right[:, None, :] * held["unit"]).reshape(len(left), -1)


def of_layer(
    data: str, p: int, keep: int, mode: str, *, draw: str = "random", gradient: bool = False, samples: int = 256,
    ridge: float = 1e-2, seed: int = 0, extra: Callable[[int], Arrays] = lambda _p: {}, note: str = "",
) -> Spec:  # fmt: skip
    """Weights of a layer, with the curvature of sample gradients. draw : random, row, fisher (highest scores), all"""

    def own(held: Arrays) -> Arrays:
        rows = _gradients(held, samples)
        sums, weights = np.square(rows).sum(axis=0), held["weights"].ravel().astype(np.float64)
        moved = np.flatnonzero(sums > 0.0)
        rng = np.random.default_rng([networks.SEED, p, seed])
        if draw == "all":
            chosen = np.arange(weights.size)
        elif draw == "row":
            wide = held["right"].shape[1]
            best = np.argsort(-sums.reshape(-1, wide).sum(axis=1), kind="stable")[seed]
            chosen = np.arange(best * wide, best * wide + wide)[:p]
        elif draw == "fisher":
            chosen = np.sort(np.argsort(-sums * weights**2, kind="stable")[:p])
        else:
            chosen = np.sort(rng.choice(moved, p, replace=False))
        out = {} if draw == "all" else {"chosen": chosen.astype(np.uint16)}
        if gradient:
            out["linear"] = rows[:, chosen].mean(axis=0).astype(np.float32)
        return out | extra(p)

    words = {
        "random": "weights drawn at random",
        "row": "the inputs of one unit",
        "fisher": "the weights of the highest Fisher scores",
        "all": "the whole layer",
    }[draw]
    name = f"{mode}-{data}-{'gradient' if gradient else draw}-{p}-{keep}"
    recipe = {"kind": "outer", "data": data, "scale": 1.0 / math.isqrt(samples)}
    if samples != 256:
        recipe["samples"] = samples
        name += f"-n{samples}"
    about = f"{words}, {samples} sample gradients{', with the mean gradient' if gradient else ''}{note}"
    name += "-quota" if note and "quota" in note else "-budget" if note else ""
    return Spec(name, mode, keep, data.partition("-")[0], about, recipe, ridge, own)


def of_columns(
    data: str, name: str, keep: int, mode: str, about: str, *, p: int = 0, row: Callable[[], Any] | None = None,
    samples: int = 256, ridge: float = 1e-2, extra: Callable[[int], Arrays] = lambda _p: {},
) -> Spec:  # fmt: skip
    """One row of a layer with its inputs' curvature, or gradients that the file holds. p : so many of them, drawn"""

    def own(held: Arrays) -> Arrays:
        out: Arrays = {} if row is None else {"weights": np.asarray(row()).astype(np.float32)}
        if p and p < held["columns"].shape[1]:
            rng = np.random.default_rng([networks.SEED, p])
            out["chosen"] = np.sort(rng.choice(held["columns"].shape[1], p, replace=False)).astype(np.uint16)
            if row is not None:
                out["weights"] = out["weights"][out["chosen"]]
        return out | extra(p)

    recipe = {"kind": "columns", "data": data, "scale": 1.0 / math.isqrt(samples)}
    if samples != 256:
        recipe["samples"] = samples
    return Spec(f"{mode}-{name}-{keep}", mode, keep, data.partition("-")[0], about, recipe, ridge, own)


def of_samples(samples: int, keep: int) -> Spec:
    """Which samples have the mean features of all."""

    def own(_held: Arrays) -> Arrays:
        return {
            "chosen": np.arange(samples, dtype=np.uint16), "weights": np.full(samples, 1.0 / keep, dtype=np.float32),
            "centre": np.full(samples, 1.0 / samples, dtype=np.float32),
        }  # fmt: skip

    about = f"{keep} of {samples} digits whose mean hidden features are those of all"
    recipe = {"kind": "columns", "data": "digits-samples", "scale": 1.0, "samples": 32}
    return Spec(f"select-digits-samples-{samples}-{keep}", "select", keep, "digits", about, recipe, 1e-6, own)


def of_slices(data: str, count: int, keep: int) -> Spec:
    """Weights as a base of 4 bits and a refinement of 4 more, each kept or not: pruning and bits in one choice."""

    def own(held: Arrays) -> Arrays:
        moved = np.flatnonzero(np.square(_gradients(held, 256)).sum(axis=0) > 0.0)
        chosen = np.sort(np.random.default_rng([networks.SEED, count]).choice(moved, count, replace=False))
        dense = held["weights"].ravel()[chosen].astype(np.float64)
        step = 2.0 ** math.floor(math.log2(np.abs(dense).max() / 7.0))
        base = np.rint(dense / step) * step
        fine = np.rint((dense - base) / (step / 16.0)) * (step / 16.0)
        # a slice of nothing would make masks alike
        fine = np.where(fine == 0.0, step / 16.0, fine)
        base = np.where(base == 0.0, step, base)
        return {
            "chosen": np.concatenate([chosen, chosen]).astype(np.uint16),
            "weights": np.concatenate([base, fine]).astype(np.float32),
            "centre": np.concatenate([dense, np.zeros(count)]).astype(np.float32),
        }

    about = f"{count} weights as bases of 4 bits and refinements of 4 more, {keep} of these slices kept"
    recipe = {"kind": "outer", "data": data, "scale": 1.0 / 16.0}
    return Spec(f"select-{data}-slices-{2 * count}-{keep}", "select", keep, "digits", about, recipe, 1e-6, own)


def of_seed(family: str, n: int, p: int, keep: int, mode: str, seed: int = 1, ridge: float = 1e-2) -> Spec:
    """A drawn instance."""
    recipe = {"kind": "drawn", "family": family, "seed": seed, "n": n, "p": p}
    about = " ".join((drawn.FAMILIES[family].__doc__ or "").split())
    return Spec(f"{mode}-drawn-{family}-{p}-{keep}", mode, keep, "drawn", about, recipe, ridge, nothing)


def of_groups(data: str, groups: int, keep: int, about: str) -> Spec:
    """A layer over groups of its inputs."""
    return Spec(f"groups-{data}-{groups}-{keep}", "refit", keep, data.partition("-")[0], about,
                {"kind": "groups", "data": data}, 0.0, nothing)  # fmt: skip


def two_of_four(p: int) -> Arrays:
    """Of every four neighbours two."""
    return {"quota_group": (np.arange(p) // 4).astype(np.uint16), "quota_counts": np.full(p // 4, 2, dtype=np.uint16)}


def quarters(p: int) -> Arrays:
    """Four groups that keep an eighth, a quarter, a half and five eighths of their weights."""
    size = p // 4
    counts = np.array([size // 8, size // 4, size // 2, 5 * size // 8])
    return {"quota_group": (np.arange(p) % 4).astype(np.uint16), "quota_counts": counts.astype(np.uint16)}


def byte_costs(p: int) -> Arrays:
    """Whole costs of 1 to 8, and a limit of a half of their sum."""
    costs = (np.arange(p) * 5 % 8 + 1).astype(np.float32)
    return {"budget_costs": costs[None], "budget_limits": np.array([np.floor(0.5 * costs.sum())], dtype=np.float32)}


def specs() -> Iterator[Spec]:
    """All instances, in the catalogue's order: select, refit, groups; each from small to large."""
    yield from _select()
    yield from _refit()
    yield of_groups("digits-channels", 16, 8, "the 16 channels that a 3 × 3 convolution reads")
    yield of_groups("text-heads", 32, 16, "32 groups of four inputs of an attention's output projection")
    yield of_groups("text-inputs", 64, 16, "64 pairs of inputs of an attention's queries")
    yield of_groups("fashion-neurons", 128, 32, "the 128 neurons before the last layer")


def _select() -> Iterator[Spec]:
    first, mode = "digits-first", "select"
    yield of_layer("wine-first", 16, 8, mode, samples=64)
    yield of_layer(first, 16, 8, mode)
    yield of_seed("uniform", 16, 20, 10, mode)
    yield of_layer(first, 32, 16, mode)
    yield of_layer("wine-first", 32, 16, mode, samples=64)
    yield of_seed("cancelling", 64, 48, 24, mode)
    yield of_layer(first, 64, 32, mode)
    yield of_layer(first, 64, 13, mode)
    yield of_layer(first, 64, 32, mode, gradient=True)
    yield of_layer(first, 64, 32, mode, draw="fisher")
    yield of_layer(first, 64, 32, mode, draw="row", extra=two_of_four, note=", a quota of two in four")
    yield of_layer(
        first, 64, 44, mode, seed=1, extra=byte_costs, note=", a budget of unequal costs in place of a count"
    )
    yield of_seed("partition", 4, 64, 32, mode)
    yield of_layer(first, 128, 64, mode)
    yield of_layer(first, 128, 26, mode)
    yield of_layer(first, 128, 64, mode, draw="fisher")
    yield of_slices(first, 64, 64)
    yield of_seed("uniform", 64, 128, 64, mode)
    yield of_layer(first, 256, 128, mode)
    yield of_layer(first, 256, 51, mode)
    yield of_layer(first, 256, 128, mode, gradient=True)
    yield of_samples(256, 32)
    yield of_layer("digits-second", 256, 96, mode, seed=1, extra=quarters, note=", a quota of four unequal groups")
    yield of_columns("digits-convolution", "digits-convolution-256", 128, mode,
                     "weights of a convolution drawn at random, 64 sample gradients", p=256, samples=64)  # fmt: skip
    yield of_seed("partition", 16, 256, 128, mode)
    yield of_layer(first, 512, 256, mode)
    yield of_slices(first, 256, 256)
    yield of_columns("digits-convolution", "digits-convolution-512", 102, mode,
                     "weights of a convolution drawn at random, 64 sample gradients", samples=64)  # fmt: skip
    yield of_seed("duplicates", 64, 512, 256, mode)
    yield of_columns("fashion-pixels", "fashion-row-784", 392, mode, "one unit over 784 pixels, 256 images",
                     row=lambda: networks.fashion_row(0, 3))  # fmt: skip
    yield of_layer(first, 1024, 512, mode)
    yield of_layer(first, 1024, 204, mode)
    yield of_layer("digits-early", 1024, 512, mode, gradient=True)
    yield of_samples(1024, 64)
    yield of_layer("fashion-first", 1024, 512, mode, draw="fisher")
    yield of_layer("fashion-first", 2048, 1024, mode)
    yield of_layer("digits-wide", 4096, 2048, mode, draw="all")
    yield of_layer("fashion-first", 4096, 410, mode, draw="fisher")


def _refit() -> Iterator[Spec]:
    first, mode = "digits-first", "refit"
    yield of_layer(first, 16, 4, mode)
    yield of_layer("wine-first", 32, 8, mode, samples=64)
    yield of_seed("correlated", 64, 32, 8, mode)
    yield of_layer(first, 64, 32, mode, ridge=1e-3)
    yield of_layer(first, 64, 13, mode, ridge=1e-3)
    yield of_layer(first, 64, 13, mode, draw="fisher", ridge=1e-3)
    yield of_seed("planted", 64, 64, 8, mode)
    yield of_layer(first, 128, 64, mode, ridge=1e-3)
    yield of_layer(first, 128, 26, mode, ridge=1e-3)
    yield of_columns("text-attention", "text-queries-128", 64, mode, "one row of an attention's queries, 256 places",
                     row=lambda: networks.text_row("qkv", 7))  # fmt: skip
    yield of_columns("text-attention", "text-queries-128", 13, mode, "the same row, a tenth kept",
                     row=lambda: networks.text_row("qkv", 7))  # fmt: skip
    yield of_columns("text-attention", "text-values-128-quota", 64, mode,
                     "one row of an attention's values, a quota of two in four",
                     row=lambda: networks.text_row("qkv", 300), extra=lambda _p: two_of_four(128))  # fmt: skip
    yield of_columns("fashion-last", "fashion-last-128", 32, mode, "one row of the last layer, 256 images",
                     row=lambda: networks.fashion_row(4, 2))  # fmt: skip
    yield of_columns("digits-patches", "digits-kernel-144", 36, mode, "one kernel of a convolution, 256 patches",
                     row=networks.convolution_row)  # fmt: skip
    yield of_layer(first, 256, 51, mode, ridge=1e-3)
    yield of_columns("fashion-hidden", "fashion-hidden-256", 64, mode, "one row of the second layer, 256 images",
                     row=lambda: networks.fashion_row(2, 9))  # fmt: skip
    yield of_seed("planted", 64, 256, 16, mode)
    yield of_columns("text-down", "text-down-512", 128, mode, "one row of a perceptron's second matrix, 256 places",
                     row=lambda: networks.text_row("down", 11))  # fmt: skip
    yield of_layer(first, 512, 128, mode, ridge=1e-3)
    yield of_columns("fashion-pixels", "fashion-row-784", 78, mode, "one unit over 784 pixels, a tenth kept",
                     row=lambda: networks.fashion_row(0, 3))  # fmt: skip
    yield of_layer(first, 1024, 204, mode, ridge=1e-3)
    yield of_seed("planted", 256, 1024, 64, mode)
    yield of_layer("fashion-first", 2048, 205, mode, ridge=1e-3)
    yield of_seed("planted", 256, 4096, 128, mode)
