"""Gradual pruning: exact under its mask after every epoch, resumed to the bit wherever it stops, said in words."""

import itertools
import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from prunebench.cli import main
from prunebench.core.errors import Interrupted, InvalidInput, RunFailed
from prunebench.core.registry import PROBLEMS
from prunebench.networks.samples import TensorSamples
from prunebench.runs import runner
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.testing.drawn import Drawn, draw, drawn_network

OPTIONS = {"prunings": 2, "epochs_between": 2, "epochs_end": 3, "samples": 60, "train_samples": 130}


class Noisy(Drawn):
    """As the drawn network, with batch norm and dropout, in float32: what is not pruned changes, and draws."""

    name: ClassVar[str] = "noisy"

    def model(self):
        first, *rest = super().model()
        with torch.random.fork_rng(devices=[]):
            between = [torch.nn.BatchNorm1d(self.SIZES[1]), torch.nn.ReLU(), torch.nn.Dropout(0.3)]
        return torch.nn.ModuleDict({"all": torch.nn.Sequential(first, *between, *rest[1:])})["all"].float().eval()

    def prunable(self):
        return ("0.weight", "4.weight", "6.weight")

    def _samples(self, seed, count):
        inputs = torch.tensor(draw(np.random.default_rng([8, seed]), (count, self.SIZES[0])), dtype=torch.float32)
        return TensorSamples(inputs, inputs[:, :4].argmax(dim=1))


@pytest.fixture(autouse=True)
def problems(monkeypatch):
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(runner, "CHECKPOINT_RATIO", 0.0)
    with drawn_network():
        PROBLEMS.register(Noisy)
        yield
        PROBLEMS.forget("noisy")


def request(**changes):
    options = {**OPTIONS, **changes.pop("coordinator_options", {})}
    asked = {"problem": "noisy", "density": 0.3, "solver": "obd", "coordinator": "gradual"} | changes
    return PruneRequest(**asked, coordinator_options=options)


def events(run):
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def stopped_after(number):
    def say(line):
        if line.startswith(f"step {number}/"):
            raise KeyboardInterrupt

    return say


def test_prunings_and_epochs_are_steps_and_the_density_falls_as_the_schedule_says(tmp_path):
    result = prune(request(problem="drawn"), out=tmp_path / "run")
    found = events(tmp_path / "run")
    assert [(event["kind"], event.get("epoch")) for event in found] == [
        ("prune", None), ("train", 1), ("train", 2), ("prune", None), ("train", 1), ("train", 2), ("train", 3)
    ]  # fmt: skip
    total = result["total"]
    assert [event["kept"] for event in found] == [round(0.5 * total)] * 3 + [round(0.3 * total)] * 4
    assert all({"accuracy", "loss"} <= set(event["validation"]) for event in found)


def test_weights_off_the_mask_stay_zero_and_training_lowers_the_loss(tmp_path):
    result = prune(request(coordinator_options={"epochs_end": 6, "learning_rate": 0.1}), out=tmp_path / "run")
    saved, mask = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("weights", "mask"))
    for layer in mask:
        assert not saved[layer][~mask[layer]].any()
    assert sum(int(part.sum()) for part in mask.values()) == result["kept"] == round(0.3 * result["total"])
    last = [event for event in events(tmp_path / "run") if event["stage"] == 2]
    assert last[-1]["validation"]["loss"] < last[0]["validation"]["loss"]
    losses = [event["training_loss"] for event in last if event["kind"] == "train"]
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize(
    ("options", "stops"),
    [({"momentum": 0.9}, range(1, 7)), ({"optimizer": "Adam", "learning_rate": 0.003}, (2, 5))],
    ids=["SGD with momentum", "Adam"],
)
def test_a_run_that_stops_after_any_step_ends_with_the_same_bits(tmp_path, options, stops):
    asked = request(coordinator_options=options)
    whole = prune(asked, out=tmp_path / "whole")
    assert whole["steps"] == 7
    for stop in stops:
        with pytest.raises(Interrupted):
            prune(asked, out=tmp_path / str(stop), say=stopped_after(stop))
        assert resume(tmp_path / str(stop))["loss"] == whole["loss"]
        for name in ("mask", "weights"):
            one, other = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", str(stop)))
            for key in one:
                assert np.array_equal(one[key], other[key]), f"{name} {key} after step {stop}"


def test_a_run_that_stops_within_a_solve_or_an_epoch_repeats_it(tmp_path, monkeypatch):
    from prunebench.coordinators.gradual import Gradual
    from prunebench.recovery.fine_tune import Tuner

    asked = request()
    whole = prune(asked, out=tmp_path / "whole")
    for kind, name in ((Gradual, "tell"), (Tuner, "_step")):
        right, calls = getattr(kind, name), itertools.count()

        def broken(self, *given, right=right, calls=calls):
            if next(calls) == 1:
                raise KeyboardInterrupt
            return right(self, *given)

        with monkeypatch.context() as patch:
            patch.setattr(kind, name, broken)
            with pytest.raises(Interrupted):
                prune(asked, out=tmp_path / name)
        assert resume(tmp_path / name)["loss"] == whole["loss"]


def test_training_leaves_the_global_random_state_alone(tmp_path):
    before = torch.random.get_rng_state()
    prune(request(coordinator_options={"prunings": 1, "epochs_end": 1}), out=tmp_path / "run")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_loss_that_stops_being_finite_is_told_with_the_remedy(tmp_path):
    with pytest.raises(RunFailed, match="use a smaller learning rate"):
        prune(
            request(problem="drawn", coordinator_options={"prunings": 1, "learning_rate": 1e200}), out=tmp_path / "run"
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prunings": 0}, "prunings is 0"),
        ({"epochs_end": -1}, "epochs_end is -1"),
        ({"train_batch": 0}, "train_batch is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"schedule": "polynomal"}, "did you mean 'polynomial'"),
        ({"optimizer": "sgd"}, "choose one of SGD"),
        ({"optimizer": "Adam", "momentum": 0.9}, "optimizer Adam does not take"),
        ({"start_density": 0.2}, "the first density is 0.2, below the last"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_no_folder(tmp_path, changes, words):
    with pytest.raises(InvalidInput) as refusal:
        prune(request(coordinator_options=changes), out=tmp_path / "run")
    assert words in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_gradual_pruning_on_the_command_line(tmp_path, capsys):
    words = ["prune", "drawn", "--density", "0.4", "--coordinator", "gradual", "--solver", "magnitude"]
    words += ["--prunings", "1", "--samples", "50", "--learning-rate", "0.02", "--option", "epochs_end=1"]
    assert main([*words, "--json", "--quiet", "--out", str(tmp_path / "run")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["mode"]) == (2, "refit")
    assert result["coordinator_options"]["learning_rate"] == 0.02
