"""A run that begins where a finished one ended."""

import json

import numpy as np
import pytest

from helpers import call
from prunebench import make_problem
from prunebench.coordinators.icbs.coordinator import ICBS
from prunebench.coordinators.icbs.options import ICBSOptions
from prunebench.core.errors import InvalidInput
from prunebench.runs.start import load_start

WHOLE = ["--option", "block_scope=network", "--block-size", 10**6, "--option", "tabu=0", "--samples", 300]
FREE = ["--option", "fixed_pruned=0", "--option", "fixed_kept=0", "--gradient-scale", 1, "--ridge", 0.1]


def prune(capsys, out, *arguments):
    code, text, err = call(capsys, "prune", "digits-mlp", "--out", out, "--quiet", "--json", *arguments)
    assert code == 0, err
    return json.loads(text)


@pytest.fixture
def begun(capsys, tmp_path):
    """A finished refit run at density 0.1."""
    folder = tmp_path / "begun"
    prune(capsys, folder, "--density", 0.1, "--solver", "chita-bso", "--samples", 200)
    return folder


def landscape():
    from prunebench.curvature.landscape import NetworkLandscape
    from prunebench.networks.network import PrunableNetwork

    problem = make_problem("digits-mlp")
    return NetworkLandscape(problem, PrunableNetwork(problem.model(), problem.prunable()))


def test_the_coordinator_begins_at_the_runs_mask_weights_and_loss(begun):
    held = landscape()
    start = load_start(begun, held.network)
    coordinator = ICBS(held, 0.1, "refit", ICBSOptions(steps=1), seed=0, start=start)
    assert np.array_equal(coordinator.mask, start.mask)
    assert np.array_equal(coordinator.weights, start.weights)
    assert (start.weights != np.where(start.mask, held.dense_weights, 0.0)).any()
    plain = ICBS(held, 0.1, "refit", ICBSOptions(steps=1), seed=0)
    assert coordinator.state_dict()[1]["loss"] < plain.state_dict()[1]["loss"]


def test_a_second_run_improves_on_the_first(capsys, begun, tmp_path):
    first = json.loads((begun / "result.json").read_text())
    asked = ["--density", 0.1, "--solver", "obd", "--mode", "refit", "--coordinator", "icbs", "--steps", 3]
    second = prune(capsys, tmp_path / "second", *asked, *WHOLE, *FREE, "--start", begun)
    assert second["kept"] == first["kept"]
    assert second["loss"] < 0.9 * first["loss"]
    request = json.loads((tmp_path / "second" / "run.json").read_text())["request"]
    assert request["start"] == str(begun)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--density", 0.2, "--coordinator", "icbs", "--mode", "refit"], ["density 0.1", "0.2"]),
        (["--density", 0.1, "--coordinator", "icbs"], ["mode select", "use mode refit"]),
        (["--density", 0.1, "--coordinator", "multi-stage"], ["coordinator icbs", "leave it out"]),
    ],
)
def test_a_start_that_does_not_fit_is_refused_in_one_line(capsys, begun, tmp_path, asked, words):
    code, out, err = call(capsys, "prune", "digits-mlp", *asked, "--start", begun, "--quiet", "--out", tmp_path / "new")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert all(word in err for word in words), err
    assert not (tmp_path / "new").exists()


def test_a_start_of_other_files_is_refused(begun, tmp_path):
    from safetensors.numpy import load_file, save_file

    masks = load_file(begun / "mask.safetensors")
    save_file({name: ~mask for name, mask in masks.items()}, begun / "mask.safetensors")
    with pytest.raises(InvalidInput, match="files do not match"):
        load_start(begun, landscape().network)
    with pytest.raises(InvalidInput, match="not a run"):
        load_start(tmp_path / "nothing", landscape().network)
