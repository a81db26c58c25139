"""Cut one block problem out of a trained network, everything else held at its dense weights."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench import threads
from prunebench.coordinators.quotas import QuotaKind, fan_in
from prunebench.core import options as option_tools
from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.coordinator import calibration_seed, fewer
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.core.masks import top_mask
from prunebench.core.problem import BlockSetProblem, NetworkProblem, ProblemLike, make_problem, require_data, spread
from prunebench.core.quadratic import QuadraticForm
from prunebench.quiet import quiet
from prunebench.scores import SCORES, score

SLICE_BYTES = 256 * 2**20
"""Gradients of the whole network that are held at a time while a block's columns are gathered."""


@quiet()
def cut_block(
    problem: "str | ProblemLike",
    *,
    size: int,
    density: float | None = None,
    keep: int | None = None,
    select: str = "random",
    mode: Mode = "select",
    curvature: Mapping[str, Any] | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    quota: str | None = None,
) -> BlockProblem:
    """A block problem of `size` weights out of a problem.

    Parameters
    ----------
    problem : registered name (with its `options`), or a problem object
    size : how many weights; density or keep : how many of them are kept
    select : "random" (uniformly over all prunable weights), "row" (consecutive weights of one random
             output row: one neuron's fan-in, continued in the next row if it is shorter), or a score
             (the `size` highest-scoring weights)
    mode : "select" | "refit"
    curvature : options of FisherOptions by name; its ridge is relative to the block's own mean curvature. Without
                `samples`: all that there are, where these are fewer than usual
    seed : fixes the weights drawn and the calibration samples
    quota : none, "layer" or "row" (every layer or output row of the block keeps the same share), or
            "N:M" (the block is made of whole groups of M consecutive weights along the inputs, each
            keeping N; density and keep may then be left out)

    Raises
    ------
    InvalidInput   a size above the network's, an unknown selection or quota, missing data
    """
    chosen = make_problem(problem, options)
    if size < 1:
        raise InvalidInput(f"size is {size}; a block has at least one weight")
    kind = QuotaKind.parse(quota)
    count = kind.keep_of(size, density, keep)
    if select not in ("random", "row") and select not in SCORES:
        raise unknown_name("selection", select, ["random", "row", *SCORES])
    require_data(chosen)
    rng = np.random.default_rng([seed, 2])
    if isinstance(chosen, NetworkProblem):
        return _from_network(chosen, size, count, select, mode, curvature or {}, seed, rng, kind)
    if isinstance(chosen, BlockSetProblem):
        return _from_block_set(chosen, size, count, select, mode, seed, rng, kind)
    raise InvalidInput(f"problem {chosen.name!r} is neither a network nor a set of blocks")


def _from_block_set(
    problem: BlockSetProblem,
    size: int,
    keep: int,
    select: str,
    mode: Mode,
    seed: int,
    rng: np.random.Generator,
    kind: QuotaKind,
) -> BlockProblem:
    whole = problem.block(0.5, mode, seed)
    _require_size(problem.name, size, whole.p)
    if kind.grouped and not kind.is_pattern:
        raise InvalidInput(f"{problem.name} is a set of blocks without layers and rows; choose a quota N:M, or none")
    if kind.is_pattern:
        starts = np.arange(0, whole.p // kind.size * kind.size, kind.size)
        indices = _groups(
            starts, kind.size, size, select, rng, lambda: score(select, whole.form, whole.dense_weights, rng)
        )
    elif select == "random":
        indices = spread(whole.p, size, rng)
    elif select == "row":
        indices = _consecutive(whole.p, size, rng)
    else:
        indices = np.flatnonzero(top_mask(score(select, whole.form, whole.dense_weights, rng), size))
    return BlockProblem(
        form=whole.form.restrict(indices, whole.dense_weights),
        dense_weights=whole.dense_weights[indices],
        keep=keep,
        mode=mode,
        indices=indices,
        problem=problem.name,
        quota=kind.of_stretch(size, keep).quota,
    )


def _from_network(
    problem: NetworkProblem,
    size: int,
    keep: int,
    select: str,
    mode: Mode,
    curvature: Mapping[str, Any],
    seed: int,
    rng: np.random.Generator,
    kind: QuotaKind,
) -> BlockProblem:
    from prunebench.curvature.fisher import FisherOptions, fisher_form
    from prunebench.networks.chosen import prunable_network
    from prunebench.networks.samples import row_weight

    network, calibration = prunable_network(problem), problem.calibration()
    curvature = {**curvature, **fewer(FisherOptions, "samples", curvature, len(calibration), curvature)}
    options = option_tools.build(FisherOptions, curvature)
    _require_size(problem.name, size, network.total)
    weights = network.weights()
    if options.samples > len(calibration):
        raise InvalidInput(
            f"samples is {options.samples} but {problem.name} has {len(calibration)} calibration samples; ask for fewer"
        )
    positions = spread(len(calibration), options.samples, np.random.default_rng(calibration_seed(seed)))

    def gradients() -> Iterator[npt.NDArray[np.float32]]:
        return _gradient_slices(problem, network, positions, options.batch_size)

    if kind.is_pattern:
        indices = _groups(
            kind.starts(network.layers), kind.size, size, select, rng,
            lambda: _scores(select, gradients(), weights, options.batch_size, rng),
        )  # fmt: skip
    elif select == "random":
        indices = spread(network.total, size, rng)
    elif select == "row":
        indices = _row(network.layers, network.total, size, rng)
    else:
        indices = np.flatnonzero(top_mask(_scores(select, gradients(), weights, options.batch_size, rng), size))
    columns = np.concatenate([part[:, indices] for part in gradients()])
    form = fisher_form(
        columns,
        weights[indices],
        ridge=options.ridge,
        batch_size=options.batch_size,
        gradient_scale=options.gradient_scale,
        row_weight=row_weight(calibration),
    )
    return BlockProblem(
        form=form,
        dense_weights=weights[indices],
        keep=keep,
        mode=mode,
        indices=indices,
        layer=network.layer_names(indices),
        problem=problem.name,
        quota=kind.of_block(network.layers, indices, keep).quota,
    )


def _gradient_slices(
    problem: NetworkProblem, network: Any, positions: IndexArray, batch_size: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Gradients of the whole network, a bounded number of rows at a time. float32 (rows, p) each."""
    from prunebench.curvature.gradients import sample_gradients

    rows = max(1, SLICE_BYTES // (4 * network.total))
    step = rows * batch_size
    samples = problem.calibration()
    one_thread = threads.few(network.model, samples)
    for start in range(0, positions.size - batch_size + 1, step):
        chosen = positions[start : start + step]
        with threads.for_network(one_thread):
            part = sample_gradients(network, problem.loss, samples, chosen, batch_size=batch_size)
        yield part


def _scores(
    name: str,
    slices: Iterator[npt.NDArray[np.float32]],
    weights: FloatArray,
    batch_size: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Scores of all weights from the mean gradient and the curvature's diagonal; the factor is not kept."""
    if name == "random":
        return rng.random(weights.size)
    total, squares, rows = np.zeros(weights.size), np.zeros(weights.size), 0
    for part in slices:
        total += part.sum(axis=0, dtype=np.float64)
        squares += np.einsum("ij,ij->j", part, part, dtype=np.float64)
        rows += part.shape[0]
    one_row = np.sqrt(squares * batch_size / rows)[None, :]
    form = QuadraticForm(factor=one_row, ridge=0.0, linear=total / rows, centre=weights)
    return score(name, form, weights, rng)


def _row(layers: Any, total: int, size: int, rng: np.random.Generator) -> IndexArray:
    """Consecutive weights that begin with a random row of a layer chosen by its size."""
    at = int(rng.integers(total))
    layer = next(layer for layer in layers if layer.start <= at < layer.stop)
    length = fan_in(layer)
    start = layer.start + (at - layer.start) // length * length
    offset = int(rng.integers(max(1, length - size + 1)))
    start = min(start + offset, total - size)
    return np.arange(start, start + size, dtype=np.int64)


def _groups(
    starts: IndexArray,
    group: int,
    size: int,
    select: str,
    rng: np.random.Generator,
    scores: Callable[[], FloatArray],
) -> IndexArray:
    """`size` weights in whole groups: random ones, consecutive ones, or those of the largest total score."""
    count = size // group
    if count > starts.size:
        raise InvalidInput(
            f"size is {size} but whole groups of {group} hold {starts.size * group} weights; choose at most that"
        )
    if select == "random":
        chosen = spread(starts.size, count, rng)
    elif select == "row":
        chosen = _consecutive(starts.size, count, rng)
    else:
        totals = scores()[starts[:, None] + np.arange(group)].sum(axis=1)
        chosen = np.flatnonzero(top_mask(totals, count))
    return np.asarray((starts[chosen][:, None] + np.arange(group)).ravel(), dtype=np.int64)


def _consecutive(total: int, size: int, rng: np.random.Generator) -> IndexArray:
    start = int(rng.integers(total - size + 1))
    return np.arange(start, start + size, dtype=np.int64)


def _require_size(name: str, size: int, total: int) -> None:
    if size > total:
        raise InvalidInput(f"size is {size} but {name} has {total} prunable weights; choose at most {total}")
