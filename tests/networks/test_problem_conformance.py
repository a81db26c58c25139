"""Every problem conforms; and each check of the suite fails on a problem that is broken in just that way."""

import importlib
import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prunebench import PROBLEMS, make_problem
from prunebench.core.problem import Problem
from prunebench.networks.classification import Classification
from prunebench.networks.samples import TensorSamples
from prunebench.testing import problems as suite
from prunebench.testing.problems import BLOCK_CHECKS, NETWORK_CHECKS, assert_problem_conforms, run_problem_check

README = Path(__file__).resolve().parents[2] / "problems" / "README.md"

SLOW_TO_EVALUATE = {"garment-fashion-mnist", "resnet20-cifar10", "resnet56-cifar10", "vit-mnist", "stories-llama"}
"""Their evaluation goes through thousands of samples and is looked at by the tests of their own."""
OF_THE_USER = {"causal-lm", "deit-imagenet", "mistral-c4", "mobilenetv1-imagenet", "resnet50-imagenet"}
"""Models or images of the user's own: nothing is there to look at."""


@pytest.mark.parametrize("name", [
    "digits-mlp",
    "planted",
    *(pytest.param(name, marks=pytest.mark.needs_data(name)) for name in ("mlpnet-mnist", *sorted(SLOW_TO_EVALUATE))),
])  # fmt: skip
def test_every_problem_whose_data_are_there_conforms(name, monkeypatch):
    if name != "digits-mlp":
        monkeypatch.setattr(suite, "COMPARED", 300)
    assert_problem_conforms(make_problem(name), evaluate=name not in SLOW_TO_EVALUATE)


def test_no_problem_is_left_out():
    assert {"digits-mlp", "planted", "mlpnet-mnist"} | SLOW_TO_EVALUATE | OF_THE_USER == set(PROBLEMS.names())


def test_a_language_model_of_the_users_own_conforms(tiny_mistral):
    options = {"model": str(tiny_mistral), "text": str(tiny_mistral / "text.json"), "context": 16, "sequences": 20}
    assert_problem_conforms(make_problem("causal-lm", options))


def test_the_problem_of_the_readme_conforms_as_it_stands_there(tmp_path, monkeypatch):
    example, check = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
    assert "assert_problem_conforms(make_problem(" in check
    (tmp_path / "my_problem.py").write_text(example.replace("@register\n", ""))
    monkeypatch.syspath_prepend(tmp_path)
    assert_problem_conforms(importlib.import_module("my_problem").Mine())


# Problems that are broken, each in one way


@dataclass(frozen=True, kw_only=True)
class Sound(Classification):
    """Nothing is wrong with it."""

    name = "sound"
    summary = "a small network"

    hidden: int = 6
    """Width."""

    def model(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = torch.nn.Linear(5, self.hidden), torch.nn.Dropout(0.5), torch.nn.Linear(self.hidden, 3)
        return torch.nn.Sequential(*layers).eval()

    def prunable(self):
        return ("0.weight", "2.weight")

    def samples(self, part):
        inputs = torch.randn(40, 5, generator=torch.Generator().manual_seed(len(part)))
        return TensorSamples(inputs, inputs[:, :3].argmax(dim=1))


class NoSummary(Sound):
    summary = " "


@dataclass(frozen=True, kw_only=True)
class Undocumented(Sound):
    depth: int = 2


@dataclass(frozen=True, kw_only=True)
class NoJson(Sound):
    def __post_init__(self):
        object.__setattr__(self, "hidden", self.hidden + 1)


class Missing(Sound):
    def missing(self):
        return "the checkpoint is not there: fetch it"


class TwoLines(Sound):
    def missing(self):
        return "the checkpoint is not there\nfetch it"


class Trained(Sound):
    def model(self):
        return super().model().train()


class Shared(Sound):
    held = Sound().model()

    def model(self):
        return self.held


class Drawn(Sound):
    def model(self):
        model = super().model()
        with torch.no_grad():
            model[0].weight.copy_(torch.from_numpy(np.random.default_rng().normal(size=(6, 5))))
        return model


class Seeding(Sound):
    def model(self):
        torch.manual_seed(1)
        return super().model()


class Misnamed(Sound):
    def prunable(self):
        return ("0.weights",)


class Vector(Sound):
    def prunable(self):
        return ("0.weight", "0.bias")


class Twice(Sound):
    def prunable(self):
        return ("0.weight", "0.weight")


class Restless(Sound):
    counter = itertools.count()

    def prunable(self):
        return ("0.weight",) if next(self.counter) % 2 else ("2.weight",)


def _samples(change):
    class Changed(TensorSamples):
        def batch(self, positions):
            return change(self, positions, *super().batch(positions))

    def samples(self, part):
        held = Sound().samples(part)
        return Changed(held.inputs, held.targets)

    return samples


class Noisy(Sound):
    noise = np.random.default_rng()
    samples = _samples(lambda _, __, x, y: (x + torch.tensor(Noisy.noise.normal(size=x.shape), dtype=x.dtype), y))


class Sorted(Sound):
    samples = _samples(lambda held, positions, _, __: (held.inputs[np.sort(positions)], held.targets[positions]))


class Short(Sound):
    samples = _samples(lambda _, __, x, y: (x, y[:1]))


class Endless(Sound):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets) / 0.0


class Mean(Sound):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets).mean()


class Company(Sound):
    def loss(self, outputs, targets):
        losses = super().loss(outputs, targets)
        return losses - 0.5 * losses.mean()


class Detached(Sound):
    def loss(self, outputs, targets):
        return super().loss(outputs.detach(), targets)


class Elsewhere(Sound):
    def loss(self, outputs, targets):
        return (targets * 1.0).requires_grad_()


class Leaking(Sound):
    def samples(self, part):
        train, test = super().samples("train"), super().samples("test")
        if part == "test":
            test.inputs[7] = train.inputs[31]
        return train if part == "train" else test


class Percent(Sound):
    def evaluate(self, model):
        measures = super().evaluate(model)
        return measures | {"accuracy": 100.0 * measures["accuracy"]}


class Lossless(Sound):
    def evaluate(self, model):
        return {"accuracy": super().evaluate(model)["accuracy"]}


class Unlike(Sound):
    def evaluate(self, model):
        return super().evaluate(model) | {"loss": torch.tensor(1.0)}


class Pruning(Sound):
    def evaluate(self, model):
        measures = super().evaluate(model)
        with torch.no_grad():
            model[0].weight[0] = 0.0
        return measures


class Training(Sound):
    def evaluate(self, model):
        measures = super().evaluate(model)
        model.train()
        return measures


class Settling(Sound):
    def evaluate(self, model):
        measures = super().evaluate(model)
        model.eval()
        return measures


class AsItComes(Sound):
    def evaluate(self, model):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            inputs, targets = self.validation().batch(np.arange(40))
            outputs = model(inputs)
        right = outputs.argmax(dim=1) == targets
        return {"accuracy": float(right.float().mean()), "loss": float(self.loss(outputs, targets).mean())}


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (NoSummary, "facts_and_options_are_complete", "summary is empty"),
        (Undocumented, "facts_and_options_are_complete", "depth has no sentence"),
        (NoJson, "facts_and_options_are_complete", "do not come back from JSON"),
        (Missing, "nothing_is_missing", "fetch it"),
        (TwoLines, "nothing_is_missing", "more than one line"),
        (Trained, "two_models_are_equal_and_apart", "training mode"),
        (Shared, "two_models_are_equal_and_apart", "same memory"),
        (Drawn, "two_models_are_equal_and_apart", "differs between two models"),
        (Seeding, "two_models_are_equal_and_apart", "global random state"),
        (Misnamed, "prunable_parameters_are_matrices", "did you mean '0.weight'"),
        (Vector, "prunable_parameters_are_matrices", "no matrix"),
        (Twice, "prunable_parameters_are_matrices", "named twice"),
        (Restless, "prunable_parameters_are_matrices", "other names"),
        (Noisy, "batches_repeat_and_follow_the_positions", "differ between two batches"),
        (Sorted, "batches_repeat_and_follow_the_positions", "differ between two batches"),
        (Short, "batches_repeat_and_follow_the_positions", "1 calibration targets for 4"),
        (Endless, "every_sample_has_a_finite_loss_of_its_own", "NaN or infinite"),
        (Mean, "every_sample_has_a_finite_loss_of_its_own", r"losses of shape \(\)"),
        (Company, "every_sample_has_a_finite_loss_of_its_own", "depends on the others"),
        (Detached, "every_sample_has_a_finite_loss_of_its_own", "no prunable weight has a gradient"),
        (Elsewhere, "every_sample_has_a_finite_loss_of_its_own", "no prunable weight has a gradient"),
        (Leaking, "calibration_and_validation_share_no_sample", "1 validation samples"),
        (Percent, "evaluate_measures_and_leaves_the_model", "no fraction"),
        (Lossless, "evaluate_measures_and_leaves_the_model", "no loss"),
        (Unlike, "evaluate_measures_and_leaves_the_model", "no float"),
        (Pruning, "evaluate_measures_and_leaves_the_model", "evaluate changes 0.weight"),
        (Training, "evaluate_measures_and_leaves_the_model", "leaves the model in training mode"),
        (Settling, "evaluate_measures_and_leaves_the_model", "out of training mode"),
        (AsItComes, "evaluate_measures_and_leaves_the_model", "then"),
    ],
)  # fmt: skip
def test_a_network_that_is_broken_fails_the_check_for_it(cls, check, words):
    run_problem_check(check, Sound())
    with pytest.raises(AssertionError, match=f"problem 'sound' fails {check}: .*{words}"):
        run_problem_check(check, cls())
    with pytest.raises(AssertionError, match="problem 'sound' fails"):
        assert_problem_conforms(cls())


class Blocks(Problem):
    name = "blocks"
    summary = "planted blocks"

    def block(self, density, mode, seed):
        return make_problem("planted", {"p": 20, "n": 8}).block(density, mode, seed)


class Unseeded(Blocks):
    counter = itertools.count()

    def block(self, density, mode, seed):
        return super().block(density, mode, next(self.counter))


class OneMore(Blocks):
    def block(self, density, mode, seed):
        block = super().block(density, mode, seed)
        return replace(block, keep=min(block.p, block.keep + 1))


class Selecting(Blocks):
    def block(self, density, mode, seed):
        return super().block(density, "select", seed)


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (Unseeded, "blocks_repeat_with_the_seed", "two different blocks"),
        (OneMore, "blocks_keep_what_the_density_says", "keeps 3, not 2"),
        (Selecting, "blocks_keep_what_the_density_says", "mode refit, it gives select"),
    ],
)
def test_a_set_of_blocks_that_is_broken_fails_the_check_for_it(cls, check, words):
    assert_problem_conforms(Blocks())
    with pytest.raises(AssertionError, match=f"problem 'blocks' fails {check}: .*{words}"):
        assert_problem_conforms(cls())


def test_every_check_is_seen_to_fail():
    tests = (
        test_a_network_that_is_broken_fails_the_check_for_it,
        test_a_set_of_blocks_that_is_broken_fails_the_check_for_it,
    )
    seen = {case[1] for test in tests for case in test.pytestmark[0].args[1]}
    assert seen == NETWORK_CHECKS.keys() | BLOCK_CHECKS.keys()


def test_what_is_no_problem_at_all_is_told():
    with pytest.raises(AssertionError, match="neither the methods of a NetworkProblem nor block"):
        assert_problem_conforms(Problem())
