"""Recovery: parsed once, taken by every coordinator, judged on samples held out, never moving a mask, resumed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from prunebench.cli import main
from prunebench.core import recovery
from prunebench.core.errors import Interrupted, InvalidInput, UnknownName
from prunebench.core.recovery import Division
from prunebench.core.registry import COORDINATORS, RECOVERIES
from prunebench.recovery.steps.follow import Follow
from prunebench.runs import runner
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.testing.drawn import drawn_network

QUICK = {
    "rounds": {
        "solver": "magnitude",
        "coordinator_options": {
            "rounds": 2,
            "samples": 60,
            "train": "epochs=0,samples=100",
            "train_end": "epochs=1,samples=100,batch_size=64",
        },
    },
    "one-shot": {"solver": "chita", "curvature": {"samples": 100}},
    "icbs": {
        "solver": "swap",
        "coordinator_options": {"steps": 3, "block_size": 24, "samples": 60, "accept_samples": 100},
    },
    "layer-wise": {"solver": "sparsegpt", "coordinator_options": {"samples": 64}},
    "multi-stage": {"solver": "admm", "coordinator_options": {"stages": 3, "samples": 100, "held_out": 120}},
}
ALL = ("batch-norm", "layers:samples=150", "follow:steps=3,samples=40", "settle:rounds=2,between=1,samples=150")


@pytest.fixture(autouse=True, scope="module")
def drawn():
    with drawn_network():
        yield


def request(coordinator, **changes):
    return PruneRequest(
        **{"problem": "drawn", "density": 0.4, "coordinator": coordinator} | QUICK[coordinator] | changes
    )


def weights(run):
    """Mask and weights of a run, as bytes."""
    return [(run / f"{name}.safetensors").read_bytes() for name in ("mask", "weights")]


def events(run):
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_texts_become_dataclasses_and_come_back():
    steps = recovery.parse([*ALL[:3], "settle:ridges=(0.1,2),rounds=3"])
    assert [step.name for step in steps] == ["batch-norm", "layers", "follow", "settle"]
    assert steps[3].ridges == (0.1, 2.0)
    assert (steps[3].rounds, steps[3].between) == (3, 2)
    assert recovery.parse([recovery.as_text(step) for step in steps]) == steps
    assert recovery.parse(["none"]) == recovery.parse([]) == ()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["layer"], "did you mean 'layers'"),
        (["layers:sample=3"], "did you mean 'samples'"),
        (["layers:samples"], "'samples' is not of the form K=V"),
        (["layers:samples=1,samples=2"], "samples is given twice"),
        (["settle", "settle:rounds=2"], "'settle' is given twice"),
        (["none", "settle"], "'none' is given beside others"),
        (["batch-norm:samples=0"], "batch-norm: samples is 0"),
        (["layers:samples=-1"], "layers: samples is -1"),
        (["layers:ridge=0"], "layers: ridge is 0.0"),
        (["layers:temperature=0"], "layers: temperature is 0.0"),
        (["settle:rounds=-1"], "settle: rounds is -1"),
        (["settle:ridges=()"], "settle: ridges are"),
        (["follow:steps=-1"], "follow: steps is -1"),
        (["follow:rate=-1"], "follow: rate is -1.0"),
    ],
)
def test_a_text_that_makes_no_sense_is_refused(texts, words):
    with pytest.raises(InvalidInput) as refusal:
        recovery.parse(texts)
    assert words in str(refusal.value)


def test_every_recovery_says_what_it_does_and_each_option_what_it_is():
    from prunebench.core.options import options_of

    assert RECOVERIES.names() == ["batch-norm", "distil", "follow", "layers", "settle"]
    for name in RECOVERIES.names():
        kind = RECOVERIES.get(name)
        assert kind.summary.endswith(".")
        assert all(option.doc for option in options_of(kind)), name


@pytest.mark.parametrize("name", sorted(COORDINATORS.get("multi-stage").replaced_options))
def test_an_option_of_earlier_versions_is_refused_with_what_takes_its_place(name, tmp_path, capsys):
    said = COORDINATORS.get("multi-stage").replaced_options[name].split()[0].rstrip(",")
    recovery.parse([said.replace("=N", "=3").replace("=X", "=0.5")])
    options = {**QUICK["multi-stage"]["coordinator_options"], name: 1}
    with pytest.raises(InvalidInput) as refusal:
        prune(request("multi-stage", coordinator_options=options), out=tmp_path / "run")
    words = ["prune", "drawn", "--density", "0.4", "--coordinator", "multi-stage", "--option", f"{name}=1"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    for message in (str(refusal.value), capsys.readouterr().err):
        assert f"option {name} is now said by recovery: {said}" in message
    assert not (tmp_path / "run").exists()


def test_what_is_no_network_has_nothing_to_recover(tmp_path):
    for coordinator in ("one-shot", "icbs"):
        with pytest.raises(InvalidInput, match="'planted' is no network, so there is nothing to recover"):
            prune(
                PruneRequest(problem="planted", density=0.5, coordinator=coordinator, recover=("settle",)),
                out=tmp_path / "run",
            )
    assert not (tmp_path / "run").exists()
    planted = PruneRequest(problem="planted", density=0.5, problem_options={"p": 12}, recover=("none",))
    assert prune(planted, out=tmp_path / "run")["kept"] == 6


def test_a_request_with_an_unknown_recovery_is_refused_before_work(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'settle'"):
        prune(request("icbs", recover=("setle",)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("total", [2, 7, 600, 40000])
def test_samples_that_judge_are_none_that_are_learned_from(total):
    division = Division.of(total, 3)
    assert 1 <= division.held.size <= 3000
    assert sorted([*division.held, *division.pool]) == list(range(total))


def test_a_single_sample_cannot_be_divided():
    with pytest.raises(InvalidInput, match="leave none of 1"):
        Division.of(1, 0)


# --- what it does -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every coordinator without recovery, and with all of it."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, {
        (name, which): prune(request(name, recover=recover), out=folder / f"{name}-{which}")
        for name in QUICK
        for which, recover in (("without", ("none",)), ("with", ALL))
        # stages between which weights move prune to other masks; its own tests compare those
        if (name, which) != ("multi-stage", "without")
    }


@pytest.mark.parametrize("name", [name for name in QUICK if name != "multi-stage"])
def test_the_mask_is_the_coordinators_and_only_kept_weights_move(runs, name):
    folder, results = runs
    assert weights(folder / f"{name}-with")[0] == weights(folder / f"{name}-without")[0]
    assert weights(folder / f"{name}-with")[1] != weights(folder / f"{name}-without")[1]
    saved, mask = (load_file(folder / f"{name}-with" / f"{kind}.safetensors") for kind in ("weights", "mask"))
    for layer in mask:
        assert not saved[layer][~mask[layer]].any()
    assert results[name, "with"]["loss"] < results[name, "without"]["loss"]


@pytest.mark.parametrize("name", QUICK)
def test_every_round_is_a_step_of_the_run_and_lowers_the_held_out_loss_or_is_dropped(runs, name):
    folder, results = runs
    found = [event for event in events(folder / f"{name}-with") if event.get("kind") in RECOVERIES.names()]
    kinds = [event["kind"] for event in found]
    for kind in ("layers", "follow", "settle"):
        assert kind in kinds
    assert kinds.index("layers") < kinds.index("follow") < kinds.index("settle")
    assert [event["step"] for event in events(folder / f"{name}-with")] == list(
        range(1, results[name, "with"]["steps"] + 1)
    )
    total = results[name, "with"]["total"]
    for event in found:
        assert event["accepted"] == (event["true_after"] < event["true_before"])
        assert event["changed"] == 0
        assert event["kept"] == round(event["density"] * total)
        assert event["true_after"] == min(event["true_before"], *event["held_out_losses"])


def test_what_was_done_stands_in_the_result(runs):
    for (name, which), result in runs[1].items():
        assert ("recover" in result) == (which == "with"), name
        if which == "with":
            assert recovery.parse(result["recover"]) == recovery.parse(ALL)


@pytest.mark.parametrize("name", QUICK)
def test_a_run_that_is_interrupted_at_any_step_of_recovery_ends_the_same(runs, name, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(runner, "CHECKPOINT_RATIO", 0.0)
    folder, results = runs
    steps = results[name, "with"]["steps"]
    # within each recovery, and for stages between two as well
    for stop in (2, 3, steps - 2) if name == "multi-stage" else (steps - 3, steps - 1):
        with pytest.raises(Interrupted):
            prune(request(name, recover=ALL), out=tmp_path / str(stop), say=stopped_after(stop))
        again = resume(tmp_path / str(stop))
        assert (again["steps"], again["loss"]) == (steps, results[name, "with"]["loss"])
        assert weights(tmp_path / str(stop)) == weights(folder / f"{name}-with")


def stopped_after(number):
    def say(line):
        if line.startswith(f"step {number}/"):
            raise KeyboardInterrupt

    return say


def test_batch_norm_alone_makes_no_step(tmp_path):
    result = prune(request("icbs", recover=("batch-norm",)), out=tmp_path / "run")
    assert result["steps"] == 3


def test_a_recovery_that_moves_weights_off_the_mask_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Follow, "candidates", lambda self, stand: [np.ones_like(stand.weights)])
    with pytest.raises(Exception, match="recovery follow moved weights off the mask"):
        prune(request("one-shot", recover=("follow",)), out=tmp_path / "run")


def test_the_rate_of_small_steps_is_halved_where_they_do_not_help_and_a_checkpoint_cannot_raise_it():
    step = Follow(rate=0.4)
    assert step.learned({}, True) == {"rate": 0.4}
    assert step.learned(step.learned({}, False), False) == {"rate": 0.1}
    step.require_memory({"rate": 0.1})
    for memory in ({"rate": 0.5}, {"rate": 0.0}, {"other": 0.1}):
        with pytest.raises(InvalidInput, match="recovery follow remembers"):
            step.require_memory(memory)


def test_recovery_on_the_command_line(tmp_path, capsys):
    words = ["prune", "drawn", "--density", "0.4", "--coordinator", "layer-wise", "--solver", "sparsegpt"]
    words += ["--samples", "64", "--recover", "layers:samples=150", "--recover", "settle:rounds=1,samples=150"]
    assert main([*words, "--json", "--quiet", "--out", str(tmp_path / "run")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [text.split(":")[0] for text in result["recover"]] == ["layers", "settle"]
    assert result["steps"] == 5
