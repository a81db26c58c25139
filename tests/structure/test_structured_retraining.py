"""Smaller networks are trained by the same protocol, from their pruned values or initialised anew."""

import numpy as np
import pytest
import torch

import prunebench
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import make_problem
from prunebench.pruned import Pruned
from prunebench.recovery.training.protocol import Protocol
from prunebench.runs.prune import PruneRequest, prune
from prunebench.runs.retraining import retrain


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that keeps two fifths of the digits' network, trained for an epoch."""
    path = tmp_path_factory.mktemp("structured") / "run"
    asked = PruneRequest(problem="digits-mlp", density=0.4, coordinator="structured", solver="group-swap",
                         problem_options={"epochs": 10}, coordinator_options={"samples": 200},
                         retrain="epochs=2")  # fmt: skip
    return path, prune(asked, out=path)


def test_training_lowers_the_loss_of_the_smaller_network(run):
    path, result = run
    (entry,) = result["retrained"]
    assert entry["loss"] < result["loss"]
    smaller = Pruned.load(path)
    trained = smaller.retrained
    problem = make_problem("digits-mlp", {"epochs": 10})
    assert problem.evaluate(trained.apply(problem.model()))["loss"] == pytest.approx(entry["loss"], rel=1e-6)
    assert problem.evaluate(smaller.apply(problem.model()))["loss"] == pytest.approx(result["loss"], rel=1e-6)
    inputs = problem.validation().batch(np.arange(20))[0]
    for held in (smaller, trained):
        assert torch.allclose(held.model(inputs), held.apply(problem.model())(inputs), atol=1e-5)
    assert not torch.allclose(smaller.model(inputs), trained.model(inputs), atol=1e-3)


def test_a_smaller_network_from_scratch_with_as_many_multiplications(run):
    path, result = run
    fresh = Protocol(epochs=2, start="fresh:3", per_density=True)
    entry = retrain(path, fresh)["retrained"][-1]
    macs = result["costs"]["macs"]
    # 2 epochs divided by the part of the multiplications that is left
    assert len(entry["epochs"]) == -(-2 * macs["dense"] // macs["pruned"])
    assert entry["file"] == "retrained-2.safetensors"


def test_saved_and_loaded_with_its_training(run, tmp_path):
    smaller = Pruned.load(run[0])
    smaller.save(tmp_path / "saved")
    again = Pruned.load(tmp_path / "saved")
    for name, tensor in smaller.retrained.state.items():
        assert torch.equal(again.retrained.state[name], tensor)


def test_a_penalty_is_refused_before_any_work(tmp_path):
    with pytest.raises(InvalidInput, match="of a smaller network none does"):
        prunebench.prune(
            "digits-mlp", flops=0.5, retrain="start=dense,penalty=0.1", out=tmp_path / "run", progress=False
        )
    assert not (tmp_path / "run").exists()
