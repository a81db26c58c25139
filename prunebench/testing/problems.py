"""What is asked of every problem, as checks that any package can run on its own: `assert_problem_conforms`.

A problem is looked at through a few samples. That two parts share no sample is seen only of those compared.
"""

import json
import math
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from prunebench.core import options as option_tools
from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import keep_count
from prunebench.core.problem import BlockSetProblem, NetworkProblem, ProblemLike, Samples
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import tensors_in
from prunebench.testing.conformance import global_random_state

FEW = 4
"""Samples that go through the network, and the densities' seeds of a set of blocks."""

COMPARED = 2000
"""Samples of each part whose contents are compared: all of a small set, evenly spread ones of a large one."""

COMPANY = 1e-2
"""Relative difference that company may make to a sample's loss: rounding in half precision, no more."""

UNLIKELY = 811_237_461
"""A seed that no problem is likely to use for a global generator, whatever it seeds."""

DENSITIES = (0.1, 0.37, 0.5, 1.0)
"""Of the blocks that a set of blocks is asked for."""


@dataclass(frozen=True)
class Case:
    """A problem under test; what several checks need is made once."""

    problem: Any

    @cached_property
    def model(self) -> torch.nn.Module:
        """The trained network."""
        model: torch.nn.Module = self.problem.model()
        return model

    @property
    def parts(self) -> dict[str, Samples]:
        """Calibration and validation samples, made anew."""
        return {"calibration": self.problem.calibration(), "validation": self.problem.validation()}

    def batch(self, samples: Samples, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets where the model is."""
        device = next(self.model.parameters()).device
        inputs, targets = samples.batch(positions)
        return inputs.to(device), targets.to(device)


Check = Callable[[Case], None]

NETWORK_CHECKS: dict[str, Check] = {}
"""Asked of a network with its samples."""

BLOCK_CHECKS: dict[str, Check] = {}
"""Asked of a problem that is a quadratic form by itself."""


def _network(check: Check) -> Check:
    NETWORK_CHECKS[check.__name__] = check
    return check


def _blocks(check: Check) -> Check:
    BLOCK_CHECKS[check.__name__] = check
    return check


def assert_problem_conforms(problem: ProblemLike, *, evaluate: bool = True) -> None:
    """Run every check on a problem whose data are there.

    evaluate : whether `evaluate` is looked at as well, which goes through all validation samples three times

    Raises
    ------
    AssertionError   the first check that fails, by problem and check; or data are missing, and which
    """
    is_network = isinstance(problem, NetworkProblem)
    assert is_network or isinstance(problem, BlockSetProblem), (
        f"{problem!r} has neither the methods of a NetworkProblem nor block() of a BlockSetProblem"
    )
    for name in NETWORK_CHECKS if is_network else BLOCK_CHECKS:
        if evaluate or not name.startswith("evaluate"):
            run_problem_check(name, problem)


def run_problem_check(name: str, problem: ProblemLike) -> None:
    """Run one check, by its name in NETWORK_CHECKS or BLOCK_CHECKS.

    Raises
    ------
    AssertionError   naming problem and check
    """
    check = (NETWORK_CHECKS | BLOCK_CHECKS)[name]
    try:
        # a library that is imported the first time may draw from Python's generator
        left_alone = _leaves_random_state(check, problem) or _leaves_random_state(check, problem)
        assert left_alone, "it draws from a global random state, or seeds one"
    except (AssertionError, InvalidInput) as error:
        raise AssertionError(f"problem {problem.name!r} fails {name}: {error}") from error


@_blocks
@_network
def facts_and_options_are_complete(case: Case) -> None:
    """A name, a summary of one line, a sentence for every option; as JSON and pickled the options come back."""
    problem = case.problem
    assert isinstance(problem.name, str), f"its name is {problem.name!r}"
    assert problem.name, "its name is empty"
    assert problem.summary.strip(), "its summary is empty"
    assert "\n" not in problem.summary, "its summary has more than one line"
    for option in option_tools.options_of(type(problem)):
        assert option.doc, f"option {option.name} has no sentence: put a string below the field"
    options = json.loads(json.dumps(option_tools.as_json(problem)))
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    assert option_tools.build(type(problem), options) == problem, "its options do not come back from JSON"
    assert pickle.loads(pickle.dumps(problem)) == problem, "it does not come back from a pickle"


@_blocks
@_network
def nothing_is_missing(case: Case) -> None:
    """`missing` is one line of text, and empty here: what is missing cannot be looked at."""
    missing = case.problem.missing()
    assert isinstance(missing, str), f"missing() gives {missing!r}; it should be text"
    assert "\n" not in missing, "missing() gives more than one line"
    assert not missing, missing


@_network
def two_models_are_equal_and_apart(case: Case) -> None:
    """`model()` gives the same weights every time, in evaluation mode, in memory of its own."""
    first, second = case.model, case.problem.model()
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys(), "two models have different tensors"
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), f"{name} differs between two models"
        shared = tensor.numel() > 0 and tensor.data_ptr() == states[1][name].data_ptr()
        assert not shared, f"{name} of two models is the same memory: pruning one would prune the other"
    training = [name for name, module in first.named_modules() if module.training]
    assert not training, f"the model is in training mode ({training[0] or 'all of it'}); call eval()"


@_network
def prunable_parameters_are_matrices(case: Case) -> None:
    """Every prunable name is that of a finite parameter with two axes or more, the same names every time."""
    names = case.problem.prunable()
    assert isinstance(names, tuple), f"prunable() gives {type(names).__name__}; it should be a tuple"
    assert names == case.problem.prunable(), "prunable() gives other names the second time"
    network = PrunableNetwork(case.model, names)
    network.require_finite()
    for layer in network.layers:
        assert len(layer.shape) >= 2, f"{layer.name} has shape {layer.shape}, which is no matrix"


@_network
def batches_repeat_and_follow_the_positions(case: Case) -> None:
    """The same positions give the same samples, in the order asked for, from samples made anew as well."""
    for (name, samples), again in zip(case.parts.items(), case.parts.values(), strict=True):
        assert len(samples) > 0, f"there are no {name} samples"
        assert len(samples) == len(again), f"there are other {name} samples the second time"
        positions = _spread(len(samples), FEW)
        first = samples.batch(positions)
        for which, tensor in zip(("inputs", "targets"), first, strict=True):
            assert len(tensor) == positions.size, f"{len(tensor)} {name} {which} for {positions.size} positions"
        for other, turned in ((samples.batch(positions), False), (again.batch(positions[::-1].copy()), True)):
            for which, tensor, repeated in zip(("inputs", "targets"), first, other, strict=True):
                back = np.arange(len(repeated))[::-1].copy() if turned else np.arange(len(repeated))
                same = map(torch.equal, tensors_in(tensor), tensors_in(repeated[torch.from_numpy(back)]))
                assert all(same), f"{name} {which} differ between two batches of the same positions"


@_network
def every_sample_has_a_finite_loss_of_its_own(case: Case) -> None:
    """`loss` is one finite number a sample, whatever others are in the batch, and depends on prunable weights."""
    for name, samples in case.parts.items():
        positions = _spread(len(samples), FEW)
        with evaluation_mode(case.model), torch.no_grad():
            losses, *alone = (
                case.problem.loss(case.model(inputs), targets).detach()
                for inputs, targets in (case.batch(samples, part) for part in (positions, *positions[:, None]))
            )
        shape = tuple(losses.shape)
        assert shape == (positions.size,), f"{positions.size} {name} samples have losses of shape {shape}"
        assert bool(torch.isfinite(losses).all()), f"a {name} sample's loss is NaN or infinite"
        away = float((losses - torch.cat(alone)).abs().max()) / max(1e-6, float(losses.abs().max()))
        assert away <= COMPANY, f"a {name} sample's loss depends on the others in its batch"
    inputs, targets = case.batch(samples, positions)
    with evaluation_mode(case.model), torch.enable_grad():
        total = case.problem.loss(case.model(inputs), targets).sum()
    parameters = [case.model.get_parameter(name).requires_grad_() for name in case.problem.prunable()]
    gradients = torch.autograd.grad(total, parameters, allow_unused=True) if total.requires_grad else ()
    reached = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
    assert reached, "no prunable weight has a gradient"


@_network
def calibration_and_validation_share_no_sample(case: Case) -> None:
    """None of the validation inputs that are compared is, to the byte, among the calibration inputs compared."""
    contents = [_contents(samples) for samples in case.parts.values()]
    both = len(contents[0] & contents[1])
    assert not both, f"{both} validation samples are calibration samples too"


@_network
def evaluate_measures_and_leaves_the_model(case: Case) -> None:
    """`evaluate` gives the same finite numbers twice, an accuracy being a fraction, and changes nothing."""
    model = case.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measures = case.problem.evaluate(model)
    assert "loss" in measures, f"evaluate gives {sorted(measures)} and no loss"
    assert {"accuracy", "perplexity"} & measures.keys(), f"evaluate gives {sorted(measures)} and no accuracy"
    for name, value in measures.items():
        assert isinstance(value, float), f"{name} is {value!r}, no float"
        assert math.isfinite(value), f"{name} is {value}"
    assert 0.0 <= measures.get("accuracy", 0.0) <= 1.0, f"accuracy is {measures['accuracy']}, no fraction"
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert not changed, f"evaluate changes {changed[0]}"
    assert not any(module.training for module in model.modules()), "evaluate leaves the model in training mode"
    model.train()
    again = case.problem.evaluate(model)
    left = all(module.training for module in model.modules())
    model.eval()
    assert left, "evaluate takes a model out of training mode for good"
    assert again == measures, f"evaluate gives {measures}, then {again}"


@_blocks
def blocks_repeat_with_the_seed(case: Case) -> None:
    """The same density, mode and seed give the same block, by its hash."""
    for mode in ("select", "refit"):
        for seed in range(FEW):
            hashes = {case.problem.block(0.5, mode, seed).hash for _ in range(2)}
            assert len(hashes) == 1, f"seed {seed} gives two different blocks in mode {mode}"


@_blocks
def blocks_keep_what_the_density_says(case: Case) -> None:
    """A block keeps round(density·p) weights, has the mode asked for, and values any mask with a finite number."""
    for mode in ("select", "refit"):
        for density in DENSITIES:
            block = case.problem.block(density, mode, 0)
            due = keep_count(density, block.p)
            assert block.mode == mode, f"asked for mode {mode}, it gives {block.mode}"
            assert block.keep == due, f"density {density} of {block.p} weights keeps {block.keep}, not {due}"
            assert math.isfinite(block.evaluate(block.incumbent)), "the incumbent's objective is not finite"


def _spread(total: int, count: int) -> IndexArray:
    """At most `count` positions out of `total`, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).astype(np.int64))


def _contents(samples: Samples) -> set[bytes]:
    """The inputs of the samples compared, as bytes."""
    out: set[bytes] = set()
    positions = _spread(len(samples), COMPARED)
    for start in range(0, positions.size, 100):
        inputs, _ = samples.batch(positions[start : start + 100])
        rows = [tensor.reshape(len(tensor), -1).contiguous().cpu() for tensor in tensors_in(inputs)]
        out |= {b"".join(row.view(torch.uint8).numpy().tobytes() for row in parts) for parts in zip(*rows, strict=True)}
    return out


def _leaves_random_state(check: Check, problem: ProblemLike) -> bool:
    """Run a check from states that nobody would seed; whether it leaves them. The states are put back."""
    python, legacy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002  # what is guarded
    with torch.random.fork_rng(devices=[]):
        random.seed(UNLIKELY)
        np.random.seed(UNLIKELY)  # noqa: NPY002
        torch.manual_seed(UNLIKELY)
        before = global_random_state(), torch.random.get_rng_state().numpy().tobytes()
        try:
            check(Case(problem))
        finally:
            after = global_random_state(), torch.random.get_rng_state().numpy().tobytes()
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
    return after == before
