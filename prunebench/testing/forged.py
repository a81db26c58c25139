"""Forged solution files, kind by kind: each says something false that `prunebench verify` must not verify."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from prunebench.core.block import BlockProblem

Contents = dict[str, Any]
Forgery = Callable[[Contents, BlockProblem, np.random.Generator], None]

CLEARLY_WORSE = 1e-4
"""A forged mask is worse by at least this part of the objective: a hundred times what "optimal" leaves open."""


def forged(kind: str, honest: Contents, block: BlockProblem, rng: np.random.Generator) -> Contents:
    """The contents of an honest solution file, called optimal, with something false in it."""
    contents = copy.deepcopy(honest)
    FORGERIES[kind](contents, block, rng)
    return contents


def _put(contents: Contents, block: BlockProblem, mask: np.ndarray) -> None:
    """Another mask with its own weights and objective, called optimal."""
    weights = block.weights_of(mask)
    value = block.evaluate(weights, mask)
    contents |= {
        "mask": mask.astype(int).tolist(), "weights": weights.tolist(), "objective": value, "lower_bound": value,
        "gap": 0.0, "relative_gap": 0.0, "status": "optimal",
    }  # fmt: skip


def _worse(contents: Contents, block: BlockProblem, rng: np.random.Generator, swaps: int) -> np.ndarray:
    """A mask some swaps away from the solution's, clearly worse than it."""
    best = np.array(contents["mask"], dtype=np.bool_)
    while True:
        mask = best.copy()
        kept, pruned = np.flatnonzero(best), np.flatnonzero(~best)
        count = min(swaps, kept.size, pruned.size)
        mask[rng.choice(kept, count, replace=False)] = False
        mask[rng.choice(pruned, count, replace=False)] = True
        value = block.evaluate(block.weights_of(mask), mask)
        if value > contents["objective"] + CLEARLY_WORSE * abs(contents["objective"]):
            return mask


def _worse_mask(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    _put(contents, block, _worse(contents, block, rng, 1))


def _random_mask(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    _put(contents, block, _worse(contents, block, rng, block.p))


def _without_certificate(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    _put(contents, block, _worse(contents, block, rng, 1))
    contents["details"] = {}


def _with_tolerance(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    bound = contents["lower_bound"]
    _put(contents, block, _worse(contents, block, rng, block.p))
    contents["lower_bound"] = bound
    contents["details"]["certificate"]["tolerance"] = 1e9


def _other_search(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    mask = _worse(contents, block, rng, 2)
    _put(contents, block, mask)
    contents["details"] = {"masks": 10**9, "masks_in_all": 10**9, "nodes": 10**6}
    contents["details"]["certificate"] = {
        "formulation": "highs: tangents", "root_bound": contents["objective"], "bound": contents["objective"],
        "tolerance": 0.0, "nodes": 10**6,
    }  # fmt: skip


def _one_mask(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    _put(contents, block, _worse(contents, block, rng, 1))
    contents["details"]["certificate"] = {
        "formulation": "one mask", "root_bound": contents["objective"], "bound": contents["objective"], "nodes": 0
    }  # fmt: skip


def _root_bound(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    _put(contents, block, _worse(contents, block, rng, 1))
    contents["details"]["certificate"]["root_bound"] = contents["objective"]
    contents["details"]["certificate"]["bound"] = contents["objective"]


def _scaled_dual(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    """The certificate's arrays scaled, and points moved off the plane, so that a careless check proves too much."""
    _put(contents, block, _worse(contents, block, rng, 1))
    certificate = contents["details"]["certificate"]
    for key in ("shift", "split", "point"):
        if key in certificate:
            certificate[key] = (np.array(certificate[key]) * float(rng.choice([-3.0, 0.0, 7.0]))).tolist()
    certificate["root_bound"] = contents["objective"]


def _better_objective(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    contents["objective"] -= 1e-3 * abs(contents["objective"])
    contents["lower_bound"] = contents["objective"]


def _far_bound(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    contents["lower_bound"] -= 0.1 * abs(contents["objective"])


def _bound_above(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    contents["lower_bound"] = contents["objective"] + 0.1 * abs(contents["objective"])


def _feasible_with_bound(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    """Not called optimal, but with a bound that is above the optimum."""
    mask = _worse(contents, block, rng, 2)
    _put(contents, block, mask)
    contents["status"] = "feasible"


def _gap(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    contents["status"] = "feasible"
    contents["lower_bound"] -= 0.5 * abs(contents["objective"])
    contents["relative_gap"] = 0.0


def _entry(key: str, value: Any) -> Forgery:
    def change(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
        contents[key] = value

    return change


def _more_kept(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    mask = np.array(contents["mask"], dtype=np.bool_)
    mask[np.flatnonzero(~mask)[0]] = True
    contents |= {"mask": mask.astype(int).tolist(), "kept": int(mask.sum())}


def _fewer_counted(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    contents["kept"] -= 1


def _weight_changed(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    """A kept weight with another value; mode refit: also the objective that goes with it."""
    at = int(np.flatnonzero(contents["mask"])[0])
    contents["weights"][at] = 2.0 * contents["weights"][at] + 1.0
    if block.mode == "refit":
        value = block.form.value(np.array(contents["weights"]))
        contents |= {"objective": value, "lower_bound": value, "relative_gap": 0.0}


def _pruned_weight(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    contents["weights"][contents["mask"].index(0)] = 1.0


def _position_twice(contents: Contents, block: BlockProblem, rng: np.random.Generator) -> None:
    kept = np.flatnonzero(contents["mask"]).tolist()
    contents["mask"] = [*kept, kept[0]]


FORGERIES: dict[str, Forgery] = {
    "a worse mask": _worse_mask,
    "a random mask": _random_mask,
    "a worse mask without a certificate": _without_certificate,
    "a large tolerance": _with_tolerance,
    "a search that was not made": _other_search,
    "one mask of many": _one_mask,
    "a root bound that is not": _root_bound,
    "dual data scaled": _scaled_dual,
    "a better objective": _better_objective,
    "optimal with a gap": _far_bound,
    "a bound above the objective": _bound_above,
    "a bound above the optimum": _feasible_with_bound,
    "a gap that is not": _gap,
    "an infinite objective": _entry("objective", float("inf")),
    "no number": _entry("objective", float("nan")),
    "an infinite bound": _entry("lower_bound", float("inf")),
    "no bound": _entry("lower_bound", None),
    "an invented status": _entry("status", "globally optimal"),
    "no status": _entry("status", None),
    "another block": _entry("block_hash", "0" * 64),
    "another total": _entry("total", 7),
    "one more kept": _more_kept,
    "another count": _fewer_counted,
    "another weight": _weight_changed,
    "a pruned weight": _pruned_weight,
    "a position twice": _position_twice,
    "positions outside": _entry("mask", [0, 10**6]),
    "text for weights": _entry("weights", ["a"]),
    "a mask of fractions": _entry("mask", [0.5]),
    "details that are none": _entry("details", [1]),
}
"""What is false, and how a file is made to say it."""
