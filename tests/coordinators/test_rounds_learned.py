"""Scores that are learned: exact counts, quotas, the same bits when resumed, and masks better than their start."""

import json

import numpy as np
import pytest

from prunebench import prune as prune_network
from prunebench.coordinators.rounds.learned import Choice
from prunebench.core.errors import Interrupted, InvalidInput
from prunebench.core.keeping import Quota
from prunebench.runs import runner
from prunebench.runs.prune import PruneRequest, prune, resume

DIGITS = {"hidden": (16,), "epochs": 10}
OPTIONS = {"scores": "learned", "rounds": 2, "train": "epochs=0", "score_steps": 60}


def request(**changes):
    options = {**OPTIONS, **changes.pop("coordinator_options", {})}
    asked = {"problem": "digits-mlp", "density": 0.1, "solver": "magnitude", "coordinator": "rounds",
             "problem_options": DIGITS} | changes  # fmt: skip
    return PruneRequest(**asked, coordinator_options=options)


def test_choices_keep_what_is_due_and_only_what_is_allowed():
    allowed = np.array([True, True, True, False, True, True])
    owner = np.array([0, 0, 0, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 9.0, 0.0, 0.05])
    assert Choice(allowed, 3, None).mask(scores).tolist() == [True, True, True, False, False, False]
    quota = Quota(owner, np.array([1, 2]))
    assert Choice(allowed, 3, quota).mask(scores).tolist() == [False, False, True, False, True, True]


def test_learned_masks_and_weights_are_better_than_those_of_magnitude(tmp_path):
    said = []
    learned = prune(request(mode="refit"), out=tmp_path / "learned", say=said.append)
    magnitude = prune(request(mode="select", coordinator_options={"scores": "solver"}), out=tmp_path / "magnitude")
    assert learned["kept"] == magnitude["kept"] == round(0.1 * learned["total"])
    assert learned["loss"] < 0.5 * magnitude["loss"]
    assert any("so solver magnitude is not asked" in line for line in said)
    first = json.loads((tmp_path / "learned" / "events.jsonl").read_text().splitlines()[0])
    assert first["scores"]["last_loss"] < first["scores"]["first_loss"]
    assert first["tasks"] == []


def test_a_run_that_stops_between_rounds_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    whole = prune(request(mode="refit"), out=tmp_path / "whole")

    def say(line):
        if line.startswith("step 1/"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prune(request(mode="refit"), out=tmp_path / "stopped", say=say)
    assert resume(tmp_path / "stopped")["loss"] == whole["loss"]


def test_layers_keep_their_counts(tmp_path):
    options = {"counts": "layer", "rounds": 1, "polarise": 0.01}
    result = prune(request(coordinator_options=options), out=tmp_path / "run")
    assert result["kept_per_layer"] == {"fc1.weight": 102, "fc2.weight": 16}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scores": "solver", "polarise": 0.1}, "polarise is of scores=learned"),
        ({"score_steps": 0}, "score_steps"),
        ({"score_rate": 0.0}, "score_rate"),
        ({"polarise": -1.0}, "polarise"),
    ],
)
def test_refused_before_any_work(tmp_path, options, match):
    with pytest.raises(InvalidInput, match=match):
        prune(request(coordinator_options=options), out=tmp_path / "run")


def test_the_recipe_runs():
    made = prune_network("digits-mlp", density=0.2, recipe="bip", score_steps=20, train="epochs=1", progress=False)
    assert made.result["kept"] == 474
