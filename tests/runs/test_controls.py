"""Controls of a trained mask: what each keeps, where it starts, and that an interrupted run does none twice."""

from typing import ClassVar

import numpy as np
import pytest
from torch import nn

import prunebench
from prunebench.core.controls import CONTROLS
from prunebench.core.errors import Interrupted, InvalidInput, UnknownName
from prunebench.core.problem import make_problem
from prunebench.core.registry import PROBLEMS
from prunebench.networks.chosen import prunable_network
from prunebench.recovery.training import controls
from prunebench.recovery.training.protocol import Protocol
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.runs.retraining import retrain
from prunebench.testing.drawn import Drawn, drawn_network

ASKED = PruneRequest(
    problem="digits-mlp", density=0.2, solver="magnitude", problem_options={"epochs": 2}, retrain="epochs=1"
)


@pytest.fixture(scope="module")
def kept():
    """The problem, a mask of a fifth of its weights, and the pruned network."""
    problem = make_problem("digits-mlp", {"epochs": 2})
    network = prunable_network(problem)
    weights = network.weights()
    mask = np.abs(weights) >= np.quantile(np.abs(weights), 0.8)
    return problem, mask, np.where(mask, 2.0 * weights, 0.0)


class Own(nn.Linear):
    """A layer that does not say how it is initialised."""

    reset_parameters = property()


class Uninitialised(Drawn):
    """The drawn network with such a layer."""

    name: ClassVar[str] = "uninitialised"

    def model(self):
        held = super().model()
        for module in held.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = Own
        return held


@pytest.fixture
def uninitialised():
    with drawn_network():
        PROBLEMS.register(Uninitialised)
        yield
        PROBLEMS.forget("uninitialised")


def made(kept, name, protocol=None, seed=0):
    problem, mask, weights = kept
    network = prunable_network(problem)
    network.assign(weights)
    return controls.made(name, problem, network, mask, protocol or Protocol(epochs=1), seed)


def counts(control):
    return [int(control.mask[layer.start : layer.stop].sum()) for layer in control.network.layers]


@pytest.mark.parametrize("name", ["reinit", "random", "shuffle", "one-shot"])
def test_every_layer_keeps_as_many_weights(kept, name):
    control = made(kept, name)
    layers = control.network.layers
    assert counts(control) == [int(kept[1][layer.start : layer.stop].sum()) for layer in layers]
    assert np.array_equal(control.mask, kept[1]) == (name in ("reinit", "one-shot"))
    again, other = made(kept, name), made(kept, name, seed=1)
    assert np.array_equal(control.mask, again.mask)
    if name in ("random", "shuffle"):
        assert not np.array_equal(control.mask, other.mask)


def test_where_controls_start(kept):
    dense = prunable_network(kept[0]).weights()
    assert np.array_equal(made(kept, "random").network.weights(), dense)
    assert made(kept, "one-shot").protocol.start == "dense"
    assert not np.array_equal(made(kept, "reinit").network.weights(), dense)
    shuffled = made(kept, "shuffle")
    values = shuffled.network.weights()
    for layer in shuffled.network.layers:
        span = slice(layer.start, layer.stop)
        assert np.array_equal(np.sort(values[span]), np.sort(kept[2][span]))
    assert not values[~shuffled.mask].any()
    init = prunable_network(kept[0], kept[0].trajectory().at(0)).weights()
    assert np.array_equal(made(kept, "random", Protocol(epochs=1, start="init")).network.weights(), init)


def test_the_small_dense_network_is_the_widest_that_fits(kept):
    _problem, mask, _ = kept
    control = made(kept, "small-dense")
    total = control.network.total
    assert control.mask.all()
    # 64 pixels, 10 classes: one more hidden unit adds 74 weights
    assert total == int(mask.sum()) // 74 * 74


def test_controls_stand_in_the_result_and_an_interrupted_run_does_none_twice(tmp_path):
    from dataclasses import replace

    asked = replace(ASKED, controls=("reinit", "random"))
    whole = prune(asked, out=tmp_path / "whole")
    assert [entry["control"] for entry in whole["controls"]] == ["reinit", "random"]
    lines = []

    def say(line):
        lines.append(line)
        if "control random" in line:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prune(asked, out=tmp_path / "stopped", say=say)
    lines.clear()
    after = resume(tmp_path / "stopped", say=lines.append)
    assert [entry["loss"] for entry in after["controls"]] == [entry["loss"] for entry in whole["controls"]]
    assert not any("control reinit" in line for line in lines)
    assert after["retrained"][0]["loss"] == whole["retrained"][0]["loss"]


def test_controls_of_a_finished_run_are_added_once(tmp_path):
    prune(ASKED, out=tmp_path / "run")
    first = retrain(tmp_path / "run", Protocol(epochs=1), controls=["shuffle"])
    again = retrain(tmp_path / "run", Protocol(epochs=1), controls=["shuffle", "one-shot"])
    assert [entry["control"] for entry in first["controls"]] == ["shuffle"]
    assert [entry["control"] for entry in again["controls"]] == ["shuffle", "one-shot"]
    assert again["controls"][0] == first["controls"][0]


def test_rounds_train_controls_by_their_own_last_protocol(tmp_path):
    options = {"rounds": 1, "train": "epochs=1,start=init"}
    asked = PruneRequest(
        problem="digits-mlp", density=0.2, solver="magnitude", coordinator="rounds", problem_options={"epochs": 2},
        coordinator_options=options, controls=("random",),
    )  # fmt: skip
    (entry,) = prune(asked, out=tmp_path / "run")["controls"]
    assert entry["trained_as"] == "epochs=1,start=init"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"retrain": None}, "give --retrain"),
        ({"controls": ("random", "random")}, "asked for twice"),
        ({"retrain": "epochs=0"}, "takes no step"),
        ({"problem": "planted", "problem_options": {}, "retrain": None}, "is no network"),
        ({"density": 0.02, "controls": ("small-dense",)}, "one unit in each hidden layer has 74"),
        ({"problem": "drawn", "problem_options": {}, "controls": ("small-dense",)}, "needs a narrower network"),
        ({"problem": "uninitialised", "problem_options": {}, "controls": ("reinit",)}, "no reset_parameters there"),
        ({"problem": "uninitialised", "problem_options": {}, "retrain": "start=fresh:1"}, "no reset_parameters there"),
    ],
)
def test_refused_before_any_work(tmp_path, changes, match, uninitialised):
    from dataclasses import replace

    with pytest.raises(InvalidInput, match=match):
        prune(replace(ASKED, **{"controls": ("random",), **changes}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_python_call_takes_controls():
    with pytest.raises(InvalidInput, match="give a list of names"):
        prunebench.prune("digits-mlp", density=0.2, retrain="epochs=1", controls="reinit")
    made = prunebench.prune(
        "digits-mlp", density=0.2, solver="magnitude", retrain="epochs=1", controls=["reinit"], progress=False
    )
    assert made.result["controls"][0]["control"] == "reinit"


def test_unknown_controls_have_a_near_match(tmp_path):
    from dataclasses import replace

    with pytest.raises(UnknownName, match="did you mean 'reinit'"):
        prune(replace(ASKED, controls=("reini",)), out=tmp_path / "run")
    assert set(CONTROLS) == {"reinit", "random", "shuffle", "one-shot", "small-dense"}
