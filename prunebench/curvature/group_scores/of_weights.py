"""Scores that need no samples: norms of filters, scales of norms, spectra of weight matrices."""

from collections.abc import Callable

import numpy as np
import torch

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.curvature.group_scores.evidence import Evidence, along, filters, norms, per_group
from prunebench.structure.families import Family

DRAWS = 100
"""Random halves of a matrix's rows whose spectra are compared: each row is in some fifty of them."""

SPECTRA = 1
"""The stream of random numbers that halves are drawn from; no other score has it."""


def l1(evidence: Evidence) -> FloatArray:
    """Sum of the absolute weights of a group's filters, biases left out (Li et al., 2017, §3.1). float64 (groups,)"""
    return _each(evidence, lambda family: _filters(evidence, family, "l1", torch.abs))


def l2(evidence: Evidence) -> FloatArray:
    """Euclidean norm of a group's filters, biases left out (He et al., 2018, eq. 2). float64 (groups,)"""
    return np.sqrt(_each(evidence, lambda family: _filters(evidence, family, "l2", torch.square)))


def batch_norm_scale(evidence: Evidence) -> FloatArray:
    """|γ| of the batch norm that scales a group, summed where there are several (Liu et al., 2017). float64 (groups,)

    Raises
    ------
    InvalidInput   a family whose groups no batch norm scales
    """
    scales = {name for name, kind in norms(evidence.coupling).items() if "batch_norm" in kind}
    state = evidence.state()

    def of(family: Family) -> FloatArray:
        found = [member for member in family.members if member[0] in scales]
        if not found:
            raise InvalidInput(
                f"score bn: no batch norm scales the groups of {family.label}; take another score, or leave the family "
                "out of --structure"
            )
        return _total(family, [(member, state[member[0]].detach().double().abs().cpu().numpy()) for member in found])

    return _each(evidence, of)


def group_norm(evidence: Evidence) -> FloatArray:
    """Squared weights of all that goes with a group, filters and what reads them and norms' scales, as a mean over
    these; then relative to the family's mean (Fang et al., 2023, eq. 8, as their library normalises). float64 (groups,)
    """
    scales, state = norms(evidence.coupling), evidence.state()

    def of(family: Family) -> FloatArray:
        found = [
            (name, dim) for name, dim in family.members if len(evidence.coupling.parameters[name]) > 1 or name in scales
        ]
        if not found:
            raise InvalidInput(f"score group-norm: the groups of {family.label} have no weights; take another score")
        sums = [((name, dim), along(state[name], dim).square().sum(1).cpu().numpy()) for name, dim in found]
        total = _total(family, sums) / len(sums)
        mean = float(total.mean())
        return total / mean if mean > 0.0 else total

    return _each(evidence, of)


def spectrum(evidence: Evidence) -> FloatArray:
    """How well the singular values of a matrix of filters survive with a row of it. float64 (groups,)

    PruneNet learns a policy that says which rows stay; its reward is 1/D, D being the Kolmogorov–Smirnov distance
    between the singular values of the whole matrix and of the rows that stay (Sengupta et al., 2025). Here the policy
    is the uniform one that learning begins from: of `DRAWS` random halves, a row's score is the mean reward of those
    that have it, less the least of its family. The network that generalises a policy over layers is not trained.
    (Removing one row at a time says nothing: singular values interlace, and the distance is about one over the number
    of rows whichever it is.)
    """
    state = evidence.state()
    rng = np.random.default_rng(np.random.SeedSequence(evidence.seed, spawn_key=(SPECTRA,)))

    def of(family: Family) -> FloatArray:
        total = np.zeros(family.size)
        for name, dim in filters(evidence.coupling, family, "spectrum"):
            matrix = along(state[name], dim).cpu().numpy()
            total += _survival(matrix, family.members[name, dim], rng)
        return np.asarray(total - total.min())

    return _each(evidence, of)


def _survival(matrix: FloatArray, rows: tuple[np.ndarray, ...], rng: np.random.Generator) -> FloatArray:
    from scipy.stats import ks_2samp

    groups, half = len(rows), max(1, len(rows) // 2)
    whole = np.linalg.svd(matrix, compute_uv=False)
    rewards, often = np.zeros(groups), np.zeros(groups)
    for _ in range(DRAWS):
        chosen = rng.choice(groups, size=half, replace=False)
        part = np.linalg.svd(matrix[np.concatenate([rows[k] for k in chosen])], compute_uv=False)
        distance = float(ks_2samp(whole, part).statistic)
        # the distance of two samples is a multiple of 1/(n m): half of that stands for 0
        rewards[chosen] += 1.0 / max(distance, 0.5 / (whole.size * part.size))
        often[chosen] += 1.0
    return np.asarray(rewards / np.maximum(often, 1.0))


def _each(evidence: Evidence, of: Callable[[Family], FloatArray]) -> FloatArray:
    return np.concatenate([of(family) for family in evidence.families])


def _filters(
    evidence: Evidence, family: Family, score: str, size: Callable[[torch.Tensor], torch.Tensor]
) -> FloatArray:
    state = evidence.state()
    found = filters(evidence.coupling, family, score)
    return _total(family, [((n, d), size(along(state[n], d)).sum(1).cpu().numpy()) for n, d in found])


def _total(family: Family, sums: list[tuple[tuple[str, int], FloatArray]]) -> FloatArray:
    out = np.zeros(family.size)
    for member, values in sums:
        out += per_group(values, family.members[member])
    return out
