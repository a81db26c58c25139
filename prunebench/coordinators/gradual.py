"""Gradual pruning: pruning to a rising sparsity, interleaved with fine-tuning under the mask.

Zhu, Gupta: To prune, or not to prune, 2017; the setting of WoodFisher, M-FAC and CHITA, whose steps
prune by a solver instead of by magnitude. Any torch optimizer will do; pruned weights stay zero.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.coordinators import schedules
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.masks import keep_count
from prunebench.core.problem import NetworkProblem
from prunebench.core.solver import Solver, make_solver, solve

if TYPE_CHECKING:
    import torch

    from prunebench.networks.network import PrunableNetwork

OptimizerFactory = Callable[[Any], Any]
"""Parameters -> a torch optimizer; called anew after every pruning, so that its momentum starts from zero."""


@dataclass(frozen=True, kw_only=True)
class GradualOptions:
    """How pruning and fine-tuning alternate.

    density, start_density : of the last and the first pruning;  prunings : how many;
    epochs_between, epochs_end : fine-tuning after each pruning but the last, and after the last;
    batch_size : samples of a fine-tuning step;  samples, rows_batch, ridge : the quadratic form's;
    train_samples : calibration samples of an epoch, None for all;  seed : of everything random
    """

    density: float
    start_density: float = 0.5
    schedule: str = "polynomial"
    prunings: int = 7
    epochs_between: int = 1
    epochs_end: int = 2
    batch_size: int = 128
    samples: int = 1000
    rows_batch: int = 1
    ridge: float = 0.01
    train_samples: int | None = None
    seed: int = 0
    solver: str = "admm"
    solver_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("prunings", 1), ("epochs_between", 0), ("epochs_end", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidInput(f"gradual pruning: {name} is {value!r}; choose a whole number from {least}")


@dataclass(frozen=True)
class GradualRow:
    """One pruning, counted from 0: its density, and the measures before it, after it and after fine-tuning."""

    pruning: int
    density: float
    before: Mapping[str, float]
    pruned: Mapping[str, float]
    tuned: Mapping[str, float]


def prune_gradually(
    problem: NetworkProblem,
    options: GradualOptions,
    optimizer: OptimizerFactory,
    say: Callable[[str], None] = lambda _line: None,
) -> tuple["PrunableNetwork", BoolArray, list[GradualRow]]:
    """Prune a problem's network in steps with fine-tuning between them.

    Returns
    -------
    the network with its final weights, its mask bool (p,) with round(density·p) ones, and one row a pruning

    Raises
    ------
    InvalidInput      options that make no sense
    PrunebenchError   the loss stopped being finite
    """
    from prunebench.curvature.fisher import FisherOptions, network_form
    from prunebench.networks.chosen import prunable_network

    network = prunable_network(problem)
    solver: Solver = make_solver(options.solver, options.solver_options)
    fisher = FisherOptions(samples=options.samples, batch_size=options.rows_batch, ridge=options.ridge)
    rng = np.random.default_rng(options.seed)
    parts = schedules.densities(options.schedule, options.start_density, options.density, options.prunings)
    mask: BoolArray = np.ones(network.total, dtype=np.bool_)
    rows = []
    for number, part in enumerate(parts):
        before = problem.evaluate(network.model)
        weights = network.weights()
        form = network_form(problem, network, fisher, rng)
        block = BlockProblem(form, weights, keep_count(part, network.total), "refit", problem=problem.name)
        solution = solve(block, solver, seed=options.seed + number)
        mask = solution.mask
        network.assign(solution.weights)
        pruned = problem.evaluate(network.model)
        last = number == len(parts) - 1
        epochs = options.epochs_end if last else options.epochs_between
        fine_tune(problem, network, mask, optimizer, epochs, options, rng)
        tuned = problem.evaluate(network.model)
        rows.append(GradualRow(number, part, before, pruned, tuned))
        say(
            f"pruning {number + 1}/{len(parts)}  density {part:.4f}  accuracy {before['accuracy']:.4f} -> "
            f"{pruned['accuracy']:.4f}, tuned {tuned['accuracy']:.4f}"
        )
    return network, mask, rows


def fine_tune(
    problem: NetworkProblem,
    network: "PrunableNetwork",
    mask: BoolArray,
    optimizer: OptimizerFactory,
    epochs: int,
    options: GradualOptions,
    rng: np.random.Generator,
) -> None:
    """Train the network in place for some epochs; weights off the mask are zero after every step.

    All parameters are trained, prunable or not; the model is left in evaluation mode.

    Raises
    ------
    PrunebenchError   the loss of a batch is not finite
    """
    import torch

    if epochs == 0:
        return
    model, samples = network.model, problem.calibration()
    parameters = list(model.parameters())
    masks = _mask_tensors(network, mask)
    tuner = optimizer(parameters)
    count = len(samples) if options.train_samples is None else min(options.train_samples, len(samples))
    for parameter in parameters:
        parameter.requires_grad_(True)
    model.train()
    with torch.enable_grad():
        for _ in range(epochs):
            order = rng.permutation(len(samples))[:count]
            for start in range(0, count, options.batch_size):
                inputs, targets = samples.batch(order[start : start + options.batch_size])
                tuner.zero_grad(set_to_none=True)
                loss = problem.loss(model(inputs), targets).mean()
                if not bool(torch.isfinite(loss)):
                    raise PrunebenchError(
                        "the loss stopped being finite while fine-tuning; use a smaller learning rate"
                    )
                loss.backward()
                tuner.step()
                with torch.no_grad():
                    for parameter, kept in masks:
                        parameter.mul_(kept)
    model.zero_grad(set_to_none=True)
    model.eval()


def _mask_tensors(network: "PrunableNetwork", mask: BoolArray) -> "list[tuple[torch.nn.Parameter, torch.Tensor]]":
    import torch

    out = []
    for layer in network.layers:
        parameter = network.model.get_parameter(layer.name)
        kept: FloatArray = mask[layer.start : layer.stop].reshape(layer.shape).astype(np.float64)
        out.append((parameter, torch.from_numpy(kept).to(dtype=parameter.dtype, device=parameter.device)))
    return out
