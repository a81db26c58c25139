"""Training under a mask: exact counts, resumed to the bit, started and judged as the protocol says, told beside."""

import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import prunebench
from prunebench.cli import main
from prunebench.core.errors import Interrupted, InvalidInput, PrunebenchError
from prunebench.core.problem import make_problem
from prunebench.core.registry import PROBLEMS
from prunebench.log.run_directory import RunDirectory
from prunebench.networks.chosen import prunable_network
from prunebench.networks.samples import TensorSamples
from prunebench.recovery.training.course import SCHEDULES
from prunebench.recovery.training.protocol import Begin, Protocol, as_text, parse
from prunebench.recovery.training.stacked import Stack
from prunebench.recovery.training.starts import initialised, trainer
from prunebench.recovery.training.trainer import Trainer
from prunebench.runs import retraining
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.runs.retraining import retrain
from prunebench.testing.drawn import Drawn, draw, drawn_network

DIGITS = {"hidden": "8", "epochs": "3"}
"""A network of the digits that is trained in a moment."""


class Normed(Drawn):
    """The drawn network with a batch norm and dropout, in float32."""

    name: ClassVar[str] = "normed"

    def model(self):
        first, *rest = super().model()
        with torch.random.fork_rng(devices=[]):
            between = [torch.nn.BatchNorm1d(self.SIZES[1]), torch.nn.ReLU(), torch.nn.Dropout(0.3)]
        return torch.nn.Sequential(first, *between, *rest[1:]).float().eval()

    def prunable(self):
        return ("0.weight", "4.weight", "6.weight")

    def _samples(self, seed, count):
        inputs = torch.tensor(draw(np.random.default_rng([8, seed]), (count, self.SIZES[0])), dtype=torch.float32)
        return TensorSamples(inputs, inputs[:, :4].argmax(dim=1))


@pytest.fixture(autouse=True)
def problems():
    with drawn_network():
        PROBLEMS.register(Normed)
        yield
        PROBLEMS.forget("normed")


def masked(problem, density=0.3):
    """The network at the weights that magnitude keeps, and its mask."""
    network = prunable_network(problem)
    weights = network.weights()
    mask = np.zeros(weights.size, dtype=bool)
    mask[np.argsort(-np.abs(weights))[: round(density * weights.size)]] = True
    network.assign(np.where(mask, weights, 0.0))
    return network, mask


def run_through(problem, text, density=0.3):
    network, mask = masked(problem, density)
    training = trainer(problem, network, mask, parse(text))
    while not training.done:
        training.epoch()
    training.finish()
    return network, mask, training


@pytest.mark.parametrize(
    "text",
    [
        "epochs=2,batch_size=32",
        "steps=7,batch_size=32,optimizer=SGD,learning_rate=0.05,weight_decay=0.01",
        "epochs=2,batch_size=32,start=dense,penalty=0.01,optimizer=AdamW",
        "epochs=2,batch_size=32,distil=0.5,schedule=one-cycle",
        "epochs=2,batch_size=32,batch_norm=re-estimate,schedule=steps,start=fresh:3",
        "epochs=3,batch_size=32,held_out=40,patience=1,samples=100,batch_norm=frozen",
    ],
)
def test_what_is_off_the_mask_stays_zero_and_the_rest_moves(text):
    problem = make_problem("normed")
    before, _ = masked(problem)
    network, mask, training = run_through(problem, text)
    weights = network.weights()
    assert not weights[~mask].any()
    assert np.count_nonzero(weights) == mask.sum()
    assert (weights[mask] != before.weights()[mask]).mean() > 0.5
    assert not torch.equal(network.model[6].bias, before.model[6].bias)
    assert all(np.isfinite(epoch.loss) for epoch in training.epochs)
    assert not network.model.training


def test_what_the_optimizer_remembers_of_pruned_weights_is_zero():
    problem = make_problem("normed")
    for text in ("epochs=1,batch_size=32", "epochs=2,batch_size=32,start=dense,penalty=0.1"):
        network, mask = masked(problem)
        training = trainer(problem, network, mask, parse(text))
        while not training.done:
            training.epoch()
        arrays, _ = training.state()
        kept = mask[: network.layers[0].size].reshape(network.layers[0].shape)
        remembered = [array for name, array in arrays.items() if name.startswith("optimizer.0.") and array.shape]
        assert len(remembered) == 2
        assert all(array[kept].any() and not array[~kept].any() for array in remembered)


def test_the_same_seed_trains_to_the_same_bits_and_another_does_not():
    problem = make_problem("normed")
    states = [run_through(problem, f"epochs=2,batch_size=32,seed={seed}")[0].state() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize(
    "text", ["epochs=4,batch_size=32", "epochs=4,batch_size=32,held_out=50,start=dense,penalty=0.01"]
)
def test_a_training_goes_on_to_the_bit(text):
    problem = make_problem("normed")
    whole, _, straight = run_through(problem, text)
    network, mask = masked(problem)
    training = trainer(problem, network, mask, parse(text))
    for _ in range(2):
        training.epoch()
    arrays, info = training.state()
    info = json.loads(json.dumps(info))
    other, _ = masked(problem)
    continued = trainer(problem, other, mask, parse(text))
    continued.load(arrays, info)
    while not continued.done:
        continued.epoch()
    continued.finish()
    assert continued.epochs == straight.epochs
    assert continued.best == straight.best
    assert all(torch.equal(whole.state()[name], value) for name, value in other.state().items())


def test_the_best_epoch_is_returned_and_patience_ends():
    problem = make_problem("normed")
    network, mask, training = run_through(
        problem, "epochs=30,batch_size=16,learning_rate=0.1,held_out=60,patience=2,schedule=constant"
    )
    judged = [training._first, *(epoch.judged for epoch in training.epochs)]
    assert training.best == int(np.argmin(judged))
    assert len(training.epochs) < 30
    assert training._judged() == min(judged)
    assert np.count_nonzero(network.weights()) == mask.sum()


def test_patience_begins_after_the_cut():
    text = "epochs=8,batch_size=32,start=dense,penalty=0.5,held_out=60,patience=1,learning_rate=0.1,schedule=constant"
    network, mask, training = run_through(make_problem("normed"), text)
    assert len(training.epochs) >= 5
    assert training.best >= 5
    assert not network.weights()[~mask].any()


def test_steps_count_as_epochs_do():
    problem = make_problem("normed")
    size = len(problem.calibration())
    per_epoch = -(-size // 32)
    first, _, _ = run_through(problem, "epochs=2,batch_size=32")
    second, _, training = run_through(problem, f"steps={2 * per_epoch},batch_size=32")
    assert all(torch.equal(first.state()[name], value) for name, value in second.state().items())
    assert training.course.total_epochs == 2
    third = trainer(problem, *masked(problem), parse(f"steps={per_epoch + 1},batch_size=32"))
    assert (third.course.total_epochs, third.course.total_steps) == (2, per_epoch + 1)


def test_schedules_run_from_their_first_to_their_last_rate():
    for name, schedule in SCHEDULES.items():
        rates = [schedule(step / 1000) for step in range(1000)]
        assert max(rates) == pytest.approx(1.0, abs=1e-4)
        assert min(rates) >= 0.0
        if name != "constant":
            assert rates[-1] <= 0.01
    assert SCHEDULES["one-cycle"](0.0) == pytest.approx(1 / 25)


def test_rewound_is_the_end_of_the_dense_schedule():
    problem = make_problem("digits-mlp", DIGITS)
    _, _, training = run_through(problem, "epochs=1,batch_size=64,schedule=rewound")
    first, last = training.course.rate(0), training.course.rate(training.course.total_steps - 1)
    # the dense training is 3 epochs along a cosine from 0.005, of which the last third is repeated
    assert first == pytest.approx(0.005 * 0.5 * (1 + np.cos(np.pi * 2 / 3)))
    assert 0.0 < last < first / 10
    with pytest.raises(InvalidInput, match="not known of problem normed"):
        run_through(make_problem("normed"), "schedule=rewound")


def test_starts_are_those_of_the_dense_training():
    problem = make_problem("digits-mlp", DIGITS)
    dense = problem.trajectory()
    steps = 3 * -(-len(problem.calibration()) // 64)
    assert all(
        torch.equal(dense.at(steps).state_dict()[name], value) for name, value in problem.model().state_dict().items()
    )
    init, mask, _ = run_through(problem, "epochs=0,start=init")
    expected = torch.cat([dense.at(0).state_dict()[name].reshape(-1) for name in init.names]).numpy()
    assert np.array_equal(init.weights(), np.where(mask, expected, 0.0))
    early, _, _ = run_through(problem, "epochs=0,start=step:5")
    late, _, _ = run_through(problem, "epochs=0,start=dense")
    fresh, _, _ = run_through(problem, "epochs=0,start=fresh:1")
    held = [network.weights()[mask] for network in (init, early, late, fresh)]
    assert all((held[i] != held[j]).all() for i in range(4) for j in range(i))
    again = make_problem("digits-mlp", DIGITS | {"seed": "1"}).trajectory().at(0).state_dict()
    assert np.array_equal(held[3], torch.cat([again[name].reshape(-1) for name in fresh.names]).numpy()[mask])
    with pytest.raises(InvalidInput, match=f"beyond the dense training of digits-mlp, which has {steps} steps"):
        run_through(problem, "start=step:1000")


def test_modules_that_do_not_say_how_they_begin_are_named():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

    with pytest.raises(InvalidInput, match="cannot initialise 1: no reset_parameters"):
        initialised(torch.nn.Sequential(torch.nn.Linear(3, 3), Own()), 0)


def test_distillation_needs_no_labels():
    problem = make_problem("digits-mlp", DIGITS)
    network, mask = masked(problem)
    teacher = problem.model()

    class Unlabelled:
        def __len__(self):
            return len(problem.calibration())

        def batch(self, positions):
            inputs, targets = problem.calibration().batch(positions)
            return inputs, torch.zeros_like(targets)

    class Problem:
        name = "unlabelled"
        loss = staticmethod(problem.loss)

        def calibration(self):
            return Unlabelled()

    def apart():
        inputs = problem.validation().batch(np.arange(200))[0]
        with torch.no_grad():
            return float((network.model(inputs) - teacher(inputs)).square().mean())

    before = apart()
    training = Trainer(Problem(), network, mask, parse("epochs=5,distil=1,learning_rate=0.005"), teacher=teacher)
    while not training.done:
        training.epoch()
    assert apart() < 0.5 * before
    # inputs that change are shown to the teacher anew, so nothing of it is held
    images = Trainer(Problem(), network, mask, parse("epochs=1,distil=1,augment=shift"), teacher=teacher)
    images.epoch()
    assert training._aimed is not None
    assert images._aimed is None


def test_texts_say_protocols():
    assert parse("") == Protocol()
    assert as_text(Protocol()) == ""
    for text in ("epochs=2,distil=0.9", "steps=100,momentum=0.5,optimizer=SGD,start=step:10", "held_out=5,patience=2"):
        assert parse(as_text(parse(text))) == parse(text)
    assert parse("start=init").begin == Begin("step", 0)
    assert parse("start=fresh:7").begin == Begin("fresh", 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs=-1", "epochs is -1; choose a whole number from 0"),
        ("epoch=1", "epochs"),
        ("distil=1.5", "choose a number from 0 to 1"),
        ("epochs=0,distil=0.5", "no step is taken"),
        ("start=later", "choose pruned, dense, init, step:K or fresh:SEED"),
        ("penalty=0.1", "choose start=dense"),
        ("patience=2", "give held_out"),
        ("momentum=0.9", "Adam has no option momentum"),
        ("learning_rate=0", "choose a positive number"),
        ("optimizer=LBFGS", "choose one of SGD"),
        ("epochs", "training protocol 'epochs': 'epochs' is not of the form K=V"),
        ("epochs=1,epochs=2", "training protocol 'epochs=1,epochs=2': epochs is given twice"),
    ],
)
def test_protocols_that_cannot_be_are_refused(text, words):
    with pytest.raises(InvalidInput, match=words):
        parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_size=100000", "fewer than a batch"),
        ("held_out=100000", "take fewer"),
        ("batch_size=1", "batches of one sample"),
        ("start=init", "not known of problem normed"),
        ("learning_rate=1e30,optimizer=SGD,batch_size=32", "use a learning_rate below 1e\\+30"),
    ],
)
def test_trainings_that_do_not_fit_are_refused(text, words):
    with pytest.raises(PrunebenchError, match=words):
        run_through(make_problem("normed"), text)


def test_a_published_checkpoint_has_no_beginning(tmp_path):
    file = tmp_path / "w.safetensors"
    file.touch()
    with pytest.raises(InvalidInput, match="train the network here: --option weights=train"):
        make_problem("mlpnet-mnist", {"weights": str(file)}).trajectory()


def asked(**changes):
    return PruneRequest(
        **{"problem": "normed", "density": 0.3, "solver": "magnitude", "retrain": "epochs=3,batch_size=32"} | changes
    )


def test_a_run_is_trained_beside_its_result(tmp_path, capsys, monkeypatch):
    plain = prune(asked(retrain=None), out=tmp_path / "plain")
    result = prune(asked(), out=tmp_path / "run")
    (entry,) = result["retrained"]
    assert {key: result[key] for key in ("loss", "accuracy", "kept")} == {
        key: plain[key] for key in ("loss", "accuracy", "kept")
    }
    assert entry["kept"] == plain["kept"]
    assert len(entry["epochs"]) == entry["best"] == 3
    state, mask = load_file(tmp_path / "run" / entry["file"]), load_file(tmp_path / "run" / "mask.safetensors")
    assert all(not state[name][~kept].any() for name, kept in mask.items())
    again = retrain(tmp_path / "plain", parse("epochs=3,batch_size=32"))
    assert {**again["retrained"][0], "seconds": 0} == {**entry, "seconds": 0}
    second = retrain(tmp_path / "plain", parse("epochs=1,batch_size=32,distil=0.5"))
    assert [held["file"] for held in second["retrained"]] == ["retrained-1.safetensors", "retrained-2.safetensors"]
    assert retrain(tmp_path / "plain", parse("epochs=1,batch_size=32,distil=0.5")) == second
    read = RunDirectory.result
    locked = []
    monkeypatch.setattr(RunDirectory, "result", lambda run: locked.append(run._lock is not None) or read(run))
    retrain(tmp_path / "plain", parse("epochs=1,batch_size=32,distil=0.5"))
    assert locked[-1]
    monkeypatch.undo()
    assert main(["report", str(tmp_path / "plain"), "-o", str(tmp_path / "page.html"), "--quiet"]) == 0
    assert "after retraining" in (tmp_path / "page.html").read_text()
    assert main(["retrain", str(tmp_path / "plain"), "--epochs", "1", "--batch-size", "32", "--quiet"]) == 0
    assert "retrained    accuracy" in capsys.readouterr().out
    (tmp_path / "plain" / "retrained-1.safetensors").write_bytes(b"other")
    with pytest.raises(InvalidInput, match="is not what this run wrote"):
        RunDirectory.open(tmp_path / "plain").require_own("retrained-1.safetensors")


def test_a_stopped_training_goes_on_in_its_run(tmp_path, monkeypatch):
    whole = prune(asked(), out=tmp_path / "whole")
    monkeypatch.setattr(retraining, "SAVE_SECONDS", -1.0)
    real, calls = Trainer.epoch, []

    def stopped(self):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Trainer, "epoch", stopped)
    with pytest.raises(Interrupted, match="prunebench resume"):
        prune(asked(), out=tmp_path / "run")
    assert (tmp_path / "run" / "state" / "retraining.npz").is_file()
    told = []
    result = resume(tmp_path / "run", say=told.append)
    assert "continuing after epoch 2 of training" in told
    assert len(calls) == 4
    assert {**result["retrained"][0], "seconds": 0} == {**whole["retrained"][0], "seconds": 0}
    assert not (tmp_path / "run" / "state" / "retraining.npz").exists()


def test_an_own_network_is_trained_in_its_program(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    inputs = torch.randn(64, 6)
    problem = prunebench.own_network(model, (inputs, inputs[:, :3].argmax(1)), loss="cross_entropy")
    prunebench.prune(problem, density=0.5, solver="magnitude", out=tmp_path / "run", progress=False)
    with pytest.raises(InvalidInput, match="made in a Python program"):
        retrain(tmp_path / "run", parse("epochs=1,batch_size=16"))
    result = retrain(tmp_path / "run", parse("epochs=1,batch_size=16"), problem=problem)
    assert len(result["retrained"]) == 1


def test_the_call_returns_both_networks():
    made = prunebench.prune(
        "normed", density=0.3, solver="magnitude", retrain=Protocol(epochs=2, batch_size=32), progress=False
    )
    assert made.retrained is not None
    assert made.retrained.measures["loss"][1] == made.result["retrained"][0]["loss"]
    assert made.measures["loss"][1] == made.result["loss"]
    assert "trained: epochs=2,batch_size=32" in str(made)
    off = {name: ~mask for name, mask in made.masks.items()}
    assert all(not made.retrained.state[name][which].any() for name, which in off.items())
    assert made.retrained.retrained is None


def test_what_cannot_be_trained_is_refused_before_any_work(tmp_path):
    for problem, words in (("planted", "is no network"), ("normed", "not known of problem normed")):
        with pytest.raises(InvalidInput, match=words):
            prune(asked(problem=problem, retrain="start=init"), out=tmp_path / "run")
    with pytest.raises(InvalidInput, match="of a smaller network none does"):
        prune(asked(coordinator="structured", solver="swap", retrain="start=dense,penalty=1"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text", ["epochs=2", "epochs=2,distil=0.7,optimizer=SGD,learning_rate=0.05", "steps=9,start=init,optimizer=NAdam"]
)
def test_a_stack_is_what_its_masks_are_one_by_one(text):
    problem = make_problem("digits-mlp", DIGITS)
    protocol = parse(text)
    network, _ = masked(problem)
    dense = problem.model().state_dict()
    rng = np.random.default_rng(0)
    masks = rng.random((5, network.total)) < 0.3
    weights = torch.cat([dense[name].reshape(-1) for name in network.names]).double().numpy()
    stack = Stack(problem, network, masks, protocol, weights=weights)
    seen = [stack.epoch() for _ in range(stack.course.total_epochs)]
    found = stack.weights()
    held = np.arange(100)
    for number, mask in enumerate(masks):
        alone = prunable_network(problem)
        alone.assign(np.where(mask, weights, 0.0))
        training = trainer(problem, alone, mask, protocol)
        while not training.done:
            training.epoch()
        training.finish()
        assert np.abs(alone.weights() - found[number]).max() < 1e-6
        assert all(
            float((alone.state()[name] - value).abs().max()) < 1e-6 for name, value in stack.state(number).items()
        )
        assert [epoch.loss for epoch in training.epochs] == pytest.approx([losses[number] for losses in seen], rel=1e-5)
        inputs, targets = problem.calibration().batch(held)
        with torch.no_grad():
            loss = float(problem.loss(alone.model(inputs), targets).mean())
        assert stack.losses(held)[number] == pytest.approx(loss, rel=1e-5)


def test_what_cannot_be_stacked_is_said():
    problem = make_problem("normed")
    network, mask = masked(problem)
    with pytest.raises(InvalidInput, match="BatchNorm1d, Dropout is no part of a plain dense network"):
        Stack(problem, network, mask[None], Protocol(batch_size=32))
    digits = make_problem("digits-mlp", DIGITS)
    network, mask = masked(digits)
    with pytest.raises(InvalidInput, match="held_out look at each network by itself"):
        Stack(digits, network, mask[None], Protocol(held_out=5))
    with pytest.raises(InvalidInput, match="per_density look at each"):
        Stack(digits, network, mask[None], Protocol(per_density=True))
    with pytest.raises(InvalidInput, match="bool \\(masks, 592\\) is expected"):
        Stack(digits, network, mask, Protocol())
