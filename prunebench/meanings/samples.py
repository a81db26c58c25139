"""Which k of n samples: those whose features have the mean of all, as a block problem.

With features φ of samples, f(m) = ½‖(1/k) Σ m_i φ_i − (1/n) Σ φ_i‖²: a quadratic form with factor Φᵀ (d, n), centre 1/n
and weights 1/k, of which `keep` = k are kept. A quota keeps the classes' shares. In mode refit the kept samples get
weights of their own, drawn to 1/k by a ridge: GradMatch's problem (Killamsetty et al., ICML 2021) without its bound
at 0.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prunebench.core import options as option_tools
from prunebench.core.arrays import FloatArray, IndexArray, column_squares, whole_number
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import InvalidInput
from prunebench.core.items import Items
from prunebench.core.keeping import Quota
from prunebench.core.masks import keep_per_layer
from prunebench.core.problem import NetworkProblem, ProblemLike, make_problem, require_data
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Budget
from prunebench.core.solver import SolverLike, make_solver
from prunebench.core.subset import SAMPLES
from prunebench.solving import solve

End = Literal["hard", "easy", "middle"]
ENDS: tuple[End, ...] = ("hard", "easy", "middle")
"""Which samples a score keeps: those of its high values, its low ones, or those next to its median."""

LEAST_OF_CLASS = 80
"""Features that every class has at least, where classes have features of their own: fewer tell kernels badly apart."""

STILL = 1e-6
"""Features whose spread is below this part of their size are equal: float32 has no more digits."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Which features samples have, and what is kept equal.

    Raises
    ------
    InvalidInput   a value that cannot be
    """

    features: Literal["gradient", "mmd", "embedding"] = "mmd"
    """gradient: of the loss by the last prunable matrix; embedding: what that matrix is multiplied with; mmd: features
    of a Gaussian kernel, so that not only means are compared."""

    of: Literal["embedding", "inputs"] = "embedding"
    """For mmd: whose distances count, those of the embedding or those of the inputs, such as pixels."""

    dimensions: int = 400
    """Features in all, at most; where every class has its own, at least 80 each."""

    width: float = 0.7
    """For mmd: the kernel's length as a part of the median distance of two samples."""

    epochs: int = 0
    """0: the problem's own network; otherwise one that is initialised anew and trained for so many epochs, to which
    more samples are still hard."""

    per_class: bool = False
    """Keep the classes' shares by a quota; mmd and embedding then compare means within every class."""

    mode: Mode = "select"
    """select: all chosen samples count alike; refit: each gets a weight."""

    ridge: float = 0.01
    """In mode refit, relative to the mean of the curvature's diagonal: it draws all weights together."""

    def __post_init__(self) -> None:
        option_tools.require_kinds(self)
        for name, least in (("dimensions", 2), ("epochs", 0)):
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; choose a whole number from {least}")
        if not (np.isfinite(self.width) and self.width > 0.0):
            raise InvalidInput(f"width is {self.width!r}; choose a positive number")
        if not (np.isfinite(self.ridge) and self.ridge >= 0.0):
            raise InvalidInput(f"ridge is {self.ridge!r}; choose a number from 0")


def sample_block(
    problem: NetworkProblem, keep: int, options: SampleOptions | None = None, *, seed: int = 0
) -> BlockProblem:
    """The block of choosing `keep` calibration samples of a problem; its start mask is a random choice.

    seed : of the random choice, and of random features

    Raises
    ------
    InvalidInput   as `block_of_features`, and where the network or its samples have no such features
    """
    from prunebench.meanings import features, sample_scores
    from prunebench.networks.chosen import prunable_network

    options = options or SampleOptions()
    total = len(problem.calibration())
    _require_count(keep, total)
    labels = features.labels_of(problem.calibration()) if options.per_class else None
    classes = 1 if labels is None else require_classes(labels, keep).size
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(9,)))
    if options.epochs:
        network = sample_scores.early_network(problem, options.epochs, seed)
    else:
        network = prunable_network(problem)
    own = options.per_class and options.features != "gradient"
    count = max(LEAST_OF_CLASS, options.dimensions // classes) if own else options.dimensions
    rows = features.features(
        problem, network, options.features, of=options.of, dimensions=count, width=options.width, rng=rng
    )
    return block_of_features(
        rows, keep, labels=labels, within=own, mode=options.mode, ridge=options.ridge, seed=seed, problem=problem.name
    )


@dataclass(frozen=True)
class Chosen:
    """A block of samples with its choice as the start mask, and how it was come by.

    objective : f of the choice;  random_mean : f of a random choice, in expectation;  how : in words
    """

    block: BlockProblem
    objective: float
    random_mean: float
    how: str


def choose_samples(
    problem: "str | ProblemLike", keep: int, *, solver: "str | SolverLike" = "swap", score: str | None = None,
    end: End = "hard", options: SampleOptions | None = None, seed: int = 0, budget: Budget | None = None,
) -> Chosen:  # fmt: skip
    """Choose `keep` of a problem's calibration samples.

    Parameters
    ----------
    problem : registered name, or a problem object
    solver, budget : who solves the block, by name or as an object, and until when
    score : in place of a solver, one of `prunebench.meanings.sample_scores.SCORES`: those of one end are kept
    end : hard keeps the highest scores, easy the lowest, middle those next to the median
    options : of the block;  seed : of everything random

    Raises
    ------
    InvalidInput   before any work where a name or count is wrong, and as `sample_block`
    """
    from prunebench.meanings import sample_scores

    if score is not None:
        sample_scores.require_known(score)
    made = make_problem(problem)
    if not isinstance(made, NetworkProblem):
        raise InvalidInput(f"problem {made.name!r} is no network and has no samples to choose")
    runnable = make_solver(solver)
    require_data(made)
    block = sample_block(made, keep, options, seed=seed)
    if score is not None:
        values = sample_scores.sample_scores(made, score, seed=seed)
        mask, how = block.top_mask(of_end(values, end)), score if score == "random" else f"{score}, {end}"
    else:
        answer = solve(block, runnable, budget=budget, seed=seed)
        mask, how = answer.mask, f"{runnable.name}: {answer.stop_reason}"
    return Chosen(block.with_start(mask), block.evaluate(mask), block.random_mean(), how)


def of_end(scores: FloatArray, end: End) -> FloatArray:
    """What is highest for samples of one end of the scores. float64 (n,)"""
    if end == "middle":
        return np.asarray(-np.abs(scores - np.median(scores)))
    return scores if end == "hard" else -scores


def block_of_features(
    rows: npt.NDArray[Any], keep: int, *, labels: IndexArray | None = None, within: bool = False,
    mode: Mode = "select", ridge: float = 0.01, seed: int = 0, problem: str = "",
) -> BlockProblem:  # fmt: skip
    """The block of choosing `keep` of n samples by features of one's own.

    Parameters
    ----------
    rows : (n, d), float32 or float64
    labels : classes, int64 (n,): their shares are kept; None without
    within : whether every class has its own mean to keep (d times the classes features)
    mode, ridge : as `SampleOptions`;  seed : of the random choice in the start mask;  problem : name

    Raises
    ------
    InvalidInput   more samples than there are, fewer than one a class, a class without samples, features that are equal
    """
    total = len(rows)
    _require_count(keep, total)
    if not np.isfinite(rows).all():
        raise InvalidInput("features hold NaN or infinity; look for a broken sample or network")
    spread = float(rows.std(axis=0, dtype=np.float64).max(initial=0.0))
    if spread <= STILL * float(np.abs(rows).max(initial=0.0)):
        raise InvalidInput("the features of all samples are equal, so any choice is as good; choose other features")
    quota, factor = None, np.ascontiguousarray(rows.T)
    if labels is not None:
        sizes = require_classes(labels, keep)
        quota = Quota(labels, _shares(sizes, keep))
        if within:
            factor = _within(rows, labels, sizes.size)
    added = ridge * float(column_squares(factor).mean()) if mode == "refit" else 0.0
    linear, constant = _drawn(added, keep, total)
    items = Items(SAMPLES, {} if labels is None else {"label": labels})
    block = BlockProblem(
        QuadraticForm(
            factor=factor, ridge=added, centre=np.full(total, 1.0 / total), linear=np.full(total, linear),
            constant=constant,
        ),
        np.full(total, 1.0 / keep), keep, mode,
        indices=np.arange(total), problem=problem, quota=quota, items=items,
    )  # fmt: skip
    return block.with_start(block.top_mask(np.random.default_rng(seed).random(total)))


def _drawn(ridge: float, keep: int, total: int) -> tuple[float, float]:
    """Linear term and constant by which a form's ridge, about 1/n, is ridge/2 Σ (w − 1/k)² over the kept samples."""
    apart = 1.0 / keep - 1.0 / total
    of_pruned = 0.5 * ridge / total**2 + ridge * apart / total
    return -ridge * apart, 0.5 * keep * ridge * apart**2 - (total - keep) * of_pruned


def classes_of(labels: IndexArray) -> IndexArray:
    """How many samples each class has. int64 (classes,)

    Raises
    ------
    InvalidInput   a class without samples, or labels below 0
    """
    if labels.min() < 0:
        raise InvalidInput(f"a sample has class {labels.min()}; classes are whole numbers from 0")
    sizes = np.bincount(labels)
    if empty := np.flatnonzero(sizes == 0).tolist():
        raise InvalidInput(
            f"class {empty[0]} of 0 to {sizes.size - 1} has no samples; number the classes without gaps, or leave "
            "per_class out"
        )
    return sizes


def require_classes(labels: IndexArray, keep: int) -> IndexArray:
    """How many samples each class has; refuse counts that leave a class none. int64 (n,) -> int64 (classes,)

    Raises
    ------
    InvalidInput   with the least count that gives every class one
    """
    sizes = classes_of(labels)
    if (_shares(sizes, keep) == 0).any():
        rare = int(np.argmin(sizes))
        enough = next(count for count in range(keep + 1, labels.size + 1) if (_shares(sizes, count) > 0).all())
        raise InvalidInput(
            f"keep is {keep}, which leaves class {rare} ({sizes[rare]} of {labels.size} samples) none of {sizes.size} "
            f"classes; keep at least {enough}, or leave per_class out"
        )
    return sizes


def _shares(sizes: IndexArray, keep: int) -> IndexArray:
    """How many of each class are kept: their shares, by largest remainder."""
    return np.asarray(keep_per_layer(keep / int(sizes.sum()), [int(size) for size in sizes]), dtype=np.int64)


def _within(rows: npt.NDArray[Any], labels: IndexArray, classes: int) -> npt.NDArray[Any]:
    """The factor of features that every class has its own of: those of other classes are 0. -> (classes·d, n)"""
    count, size = rows.shape
    out = np.zeros((classes * size, count), dtype=rows.dtype)
    for number in range(classes):
        chosen = np.flatnonzero(labels == number)
        out[number * size : (number + 1) * size, chosen] = rows[chosen].T
    return out


def _require_count(keep: int, total: int) -> None:
    keep = whole_number("keep", keep, 1)
    if keep > total:
        raise InvalidInput(f"keep is {keep}, but there are {total} samples; choose at most {total}")
