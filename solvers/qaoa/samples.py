"""From sampled masks to an answer: the best sample, its cost, and what uniform sampling would give."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.incumbent import START, Incumbent
from prunebench.core.stop import Stop
from prunebench.kernels.enumeration.values import mask_values

ALTERNATIVES = 16
"""Most distinct sampled masks in a solution beside its own."""

SAME = 1e-9
"""Values within this share of the spread over the feasible masks count as one optimum."""


@dataclass(frozen=True, eq=False)
class Draws:
    """The samples of one or several circuits.

    masks : bool (s, p)    feasible masks in the order they were drawn
    repaired : bool (t, p) infeasible ones corrected to the right count, or None
    shots : int            circuit executions, including infeasible ones
    evaluations : int      objective values requested from the simulator or the device
    stop : Stop            why there are no more
    details, timings       further measurements
    """

    masks: BoolArray
    shots: int
    evaluations: int
    stop: Stop
    details: dict[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    repaired: BoolArray | None = None


def state_statistics(energies: FloatArray, chances: FloatArray) -> dict[str, float]:
    """Compares an exact distribution over the feasible masks with the uniform one.

    energies, chances : float64 (N,). Gives the approximation ratio (max − ⟨e⟩)/(max − min), that of uniform
    sampling, which is far from 0, the probability of an optimum, and its ratio to the uniform one.
    """
    lowest, highest = float(energies.min()), float(energies.max())
    width = highest - lowest
    optimal = energies <= lowest + SAME * (float(energies.std()) or 1.0)
    uniform = float(optimal.mean())
    probability = float(chances[optimal].sum() / chances.sum())
    mean = float(energies @ chances / chances.sum())
    return {
        "approximation_ratio": (highest - mean) / width if width > 0.0 else 1.0,
        "approximation_ratio_uniform": (highest - float(energies.mean())) / width if width > 0.0 else 1.0,
        "probability_optimum": probability,
        "probability_optimum_uniform": uniform,
        "enhancement": probability / uniform,
        "most_probable": float(chances.max() / chances.sum()),
    }


def sample_statistics(block: BlockProblem, masks: BoolArray, values: FloatArray | None) -> dict[str, Any]:
    """Statistics of a circuit's shots, including infeasible ones, before any repair.

    Parameters
    ----------
    masks : bool (s, p)      one row per shot
    values : float64 (N,)    the values of all feasible masks minus the form's constant, or None if they are
                             too many: then nothing is said about the true optimum
    """
    feasible = masks[masks.sum(axis=1) == block.keep]
    out: dict[str, Any] = {
        "feasible_share": len(feasible) / max(len(masks), 1),
        "feasible_share_uniform": float(np.exp2(np.log2(float(math.comb(block.p, block.keep))) - block.p)),
    }
    if not len(feasible):
        return out
    drawn = mask_values(block, feasible)
    distinct, counts = np.unique(feasible, axis=0, return_counts=True)
    out["expectation"] = block.form.constant + float(drawn.mean())
    out["most_probable_objective"] = block.evaluate(distinct[int(np.argmax(counts))])
    if values is not None:
        lowest, width = float(values.min()), float(values.max() - values.min())
        near = SAME * (float(values.std()) or 1.0)
        uniform = float((values <= lowest + near).mean())
        hits = int((drawn <= lowest + near).sum())
        out["probability_optimum"] = hits / len(masks)
        out["probability_optimum_uniform"] = uniform
        out["enhancement"] = hits / len(masks) / uniform
        if width > 0.0:
            out["approximation_ratio"] = (float(values.max()) - float(drawn.mean())) / width
            out["approximation_ratio_uniform"] = (float(values.max()) - float(values.mean())) / width
    return out


def best_of(block: BlockProblem, masks: BoolArray) -> tuple[BoolArray, FloatArray]:
    """The distinct masks, best first, and their values up to the form's constant. (s, p) -> (t, p), (t,)"""
    distinct = np.unique(masks, axis=0)
    values = mask_values(block, distinct)
    order = np.argsort(values, kind="stable")
    return distinct[order], values[order]


def answer(best: Incumbent, draws: Draws, *, polish: bool) -> Stop:
    """Offer the best sampled mask, repaired or polished by swap descent if that is better.

    The details hold the raw, repaired and polished results separately, whatever the answer.
    """
    block = best.block
    details = best.details = {**draws.details, "shots": draws.shots, "evaluations": draws.evaluations}
    best.timings = dict(draws.timings)

    def offer(mask: BoolArray, kind: str) -> None:
        best.offer(mask, kind)
        details[f"{kind}_objective"] = best.objectives[kind]

    others = samples = np.empty((0, block.p), dtype=np.bool_)
    if len(draws.masks):
        others, _ = best_of(block, draws.masks)
        samples = others[:1]
        offer(others[0], "raw")
        details["samples_to_best"] = 1 + int(np.argmax((draws.masks == others[0]).all(axis=1)))
        details["distinct_masks"] = len(others)
    if draws.repaired is not None and len(draws.repaired):
        repaired = best_of(block, draws.repaired)[0][:1]
        samples = np.concatenate([samples, repaired])
        offer(repaired[0], "repaired")
    if polish and len(samples):
        from prunebench.kernels.local_search.descent import swap_descent

        before = best.seconds
        offer(swap_descent(block, best_of(block, samples)[0][0], best).mask, "polished")
        best.timings["polish"] = best.seconds - before
    details["answer"] = "incumbent" if best.source == START else best.source
    best.alternatives = others[(others != best.mask).any(axis=1)][:ALTERNATIVES]
    return draws.stop


def uniform_masks(p: int, keep: int, count: int, rng: np.random.Generator) -> BoolArray:
    """Uniformly random feasible masks, for the baseline `random(shots)`. bool (count, p)."""
    order = np.argsort(rng.random((count, p)), axis=1)
    masks = np.zeros((count, p), dtype=np.bool_)
    np.put_along_axis(masks, order[:, :keep], True, axis=1)
    return masks


def baselines(block: BlockProblem, shots: int, rng: np.random.Generator) -> dict[str, float]:
    """The best of as many uniform samples, and of swap descent from the first ten of them."""
    from prunebench.kernels.local_search.descent import SwapDescent

    masks = uniform_masks(block.p, block.keep, max(shots, 1), rng)
    best, _ = best_of(block, masks)
    descent = SwapDescent(block)
    ends = [block.evaluate(descent.run(mask, Incumbent(block)).mask) for mask in masks[:10]]
    return {"random_objective": block.evaluate(best[0]), "swap_descent_objective": min(ends)}
