"""Rounds of pruning and training: exact under the mask after every epoch, resumed to the bit wherever they stop."""

import itertools
import json
import re
from importlib import resources
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import prunebench
from prunebench.cli import main
from prunebench.coordinators.rounds import RoundsOptions
from prunebench.core.errors import Interrupted, InvalidInput, RunFailed
from prunebench.core.registry import PROBLEMS
from prunebench.networks.samples import TensorSamples
from prunebench.runs import runner
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.testing.drawn import Drawn, draw, drawn_network

SGD = "samples=130,batch_size=64,optimizer=SGD,momentum=0,learning_rate=0.01,schedule=constant"
OPTIONS = {"rounds": 2, "train": f"epochs=2,{SGD}", "train_end": f"epochs=3,{SGD}", "samples": 60}


def a_layer(start, stop, shape):
    return SimpleNamespace(start=start, stop=stop, shape=shape)


FASTER = SGD.replace("0.01", "0.1")


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
    asked = {"problem": "noisy", "density": 0.3, "solver": "obd", "coordinator": "rounds"} | changes
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
    result = prune(request(coordinator_options={"train": f"epochs=6,{FASTER}"}), out=tmp_path / "run")
    saved, mask = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("weights", "mask"))
    for layer in mask:
        assert not saved[layer][~mask[layer]].any()
    assert sum(int(part.sum()) for part in mask.values()) == result["kept"] == round(0.3 * result["total"])
    last = [event for event in events(tmp_path / "run") if event["stage"] == 2]
    assert last[-1]["validation"]["loss"] < last[0]["validation"]["loss"]
    losses = [event["training_loss"] for event in last if event["kind"] == "train"]
    assert min(losses[2:]) < max(losses[:2])


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        ({}, range(1, 7)),
        ({"train": "epochs=2,samples=130,batch_size=64", "train_end": "epochs=3,distil=0.5,batch_size=64"}, (2, 5)),
        (
            {
                "train": "epochs=2,start=dense,penalty=0.01,batch_size=64,samples=130",
                "regrow": 0.3,
                "train_end": "epochs=3,held_out=60,batch_size=64,start=fresh:2",
            },
            (1, 2, 3, 5, 6),
        ),
    ],
    ids=["SGD", "Adam, distilled", "regrown, pulled and judged"],
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
    from prunebench.coordinators.rounds import Rounds
    from prunebench.recovery.training.trainer import Trainer

    asked = request()
    whole = prune(asked, out=tmp_path / "whole")
    for kind, name in ((Rounds, "tell"), (Trainer, "_step")):
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
    prune(request(coordinator_options={"rounds": 1, "train_end": "epochs=1,batch_size=64"}), out=tmp_path / "run")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_loss_that_stops_being_finite_is_told_with_the_remedy(tmp_path):
    with pytest.raises(RunFailed, match="use a learning_rate below"):
        prune(
            request(
                problem="drawn",
                coordinator_options={"rounds": 1, "train_end": "learning_rate=1e200,optimizer=SGD,batch_size=64"},
            ),
            out=tmp_path / "run",
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"train_end": "epochs=-1"}, "epochs is -1"),
        ({"train": "batch_size=0"}, "batch_size is 0"),
        ({"train": "learning_rate=0"}, "learning_rate is 0"),
        ({"schedule": "polynomal"}, "did you mean 'polynomial'"),
        ({"train": "optimizer=sgd"}, "choose one of SGD"),
        ({"train": "start=init"}, "needs the dense training, which is not known of problem noisy"),
        ({"train": "batch_size=5000"}, "fewer than a batch of 5000"),
        ({"share": 1.0}, "share is 1.0"),
        ({"pq": (2.0, 1.0)}, "choose 0 < p < q"),
        ({"last_layer": 0.5}, "last_layer is of counts=layer"),
        ({"least": 0.2}, "choose a smaller least"),
        ({"regrow": 1.0}, "regrow is 1.0"),
        ({"start_density": 0.2}, "the first density is 0.2, below the last"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_no_folder(tmp_path, changes, words):
    with pytest.raises(InvalidInput) as refusal:
        prune(request(coordinator_options=changes), out=tmp_path / "run")
    assert words in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_rounds_on_the_command_line(tmp_path, capsys):
    words = ["prune", "drawn", "--density", "0.4", "--coordinator", "rounds", "--solver", "magnitude"]
    words += ["--rounds", "1", "--samples", "50", "--train", "epochs=1,learning_rate=0.02,batch_size=64"]
    assert main([*words, "--json", "--quiet", "--out", str(tmp_path / "run")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["mode"]) == (2, "refit")
    assert result["coordinator_options"]["train"] == "epochs=1,learning_rate=0.02,batch_size=64"


def test_a_share_of_what_is_kept_goes_each_round_and_stays_away(tmp_path):
    options = {
        "amount": "share",
        "share": 0.4,
        "back": False,
        "train": "epochs=1,start=fresh:1,samples=64,batch_size=32",
    }
    result = prune(request(solver="magnitude", mode="select", coordinator_options=options), out=tmp_path / "run")
    prunings = [event for event in events(tmp_path / "run") if event["kind"] == "prune"]
    total, kept = result["total"], [event["kept"] for event in prunings]
    expected = [total]
    while expected[-1] > round(0.3 * total):
        expected.append(max(round(0.3 * total), round(0.6 * expected[-1])))
    assert kept == expected[1:]
    # what is changed is what goes: nothing comes back
    assert [event["changed"] for event in prunings] == [a - b for a, b in itertools.pairwise(expected)]
    assert all(set(event["pq_index"]) == {"0.5,1", "1,2"} for event in prunings)


def test_the_pq_index_is_that_of_its_formula():
    from prunebench.coordinators.rounds.amounts import kept_by_pq, pq_index

    assert pq_index(np.full(7, -0.3), 0.5, 1.0) == pytest.approx(0.0, abs=1e-12)
    one = np.zeros(100)
    one[3] = 1e-200
    assert pq_index(one, 1.0, 2.0) == pytest.approx(1 - 100.0 ** (1 / 2 - 1))
    weights = np.random.default_rng(0).normal(size=50)
    norms = [(np.abs(weights) ** power).sum() ** (1 / power) for power in (0.5, 1.0)]
    assert pq_index(weights, 0.5, 1.0) == pytest.approx(1 - 50 ** (1 / 1.0 - 1 / 0.5) * norms[0] / norms[1])
    index = pq_index(weights, 1.0, 2.0)
    options = RoundsOptions(amount="pq")
    assert kept_by_pq(weights, options, 1) == 50 - int(50 * (1 - (1 - index) ** 2))
    assert kept_by_pq(np.ones(50), options, 1) == 49
    assert kept_by_pq(weights, options, 45) == 45


def test_rounds_by_the_pq_index_end_at_the_density(tmp_path):
    options = {"amount": "pq", "back": False, "train": "epochs=1,samples=64,batch_size=32"}
    asked = request(solver="magnitude", mode="select", coordinator_options=options, density=0.2)
    result = prune(asked, out=tmp_path / "whole")
    assert result["kept"] == round(0.2 * result["total"])
    with pytest.raises(Interrupted):
        prune(asked, out=tmp_path / "run", say=lambda line: stop(line, "step 3"))
    assert resume(tmp_path / "run")["loss"] == result["loss"]


def stop(line, beginning):
    if line.startswith(beginning):
        raise KeyboardInterrupt


def test_layers_keep_what_their_rule_says():
    from prunebench.coordinators.rounds.amounts import layer_counts

    layers = [a_layer(0, 600, (20, 30)), a_layer(600, 800, (10, 20)), a_layer(800, 830, (3, 10))]
    for keep in (40, 83, 400, 830):
        even = layer_counts(RoundsOptions(counts="layer", last_layer=0.5), layers, keep)
        erk = layer_counts(RoundsOptions(counts="erk"), layers, keep)
        assert even.sum() == erk.sum() == keep
        assert (even <= (600, 200, 30)).all()
        assert (erk <= (600, 200, 30)).all()
    even = layer_counts(RoundsOptions(counts="layer", last_layer=0.5), layers, 83)
    assert even[0] / 600 == pytest.approx(even[1] / 200, abs=0.005)
    assert even[2] / 30 == pytest.approx(np.sqrt(even[0] / 600), abs=0.03)
    erk = layer_counts(RoundsOptions(counts="erk"), layers, 83)
    assert (erk[0] / 600) / (erk[1] / 200) == pytest.approx((50 / 600) / (30 / 200), rel=0.05)


def test_layers_keep_no_more_than_is_left_of_them():
    from prunebench.coordinators.rounds.amounts import layer_counts

    layers = [a_layer(0, 600, (20, 30)), a_layer(600, 800, (10, 20)), a_layer(800, 830, (3, 10))]
    for kind in ("layer", "erk"):
        options = RoundsOptions(counts=kind)
        left = np.array([600, 200, 30])
        for keep in range(829, 3, -7):
            counts = layer_counts(options, layers, keep, left)
            assert counts.sum() == keep
            assert (counts <= left).all()
            left = counts


def test_no_layer_keeps_fewer_than_its_floor():
    from prunebench.coordinators.rounds.amounts import with_least

    rng = np.random.default_rng(0)
    layers = [a_layer(0, 700, (70, 10)), a_layer(700, 950, (50, 5)), a_layer(950, 1000, (5, 10))]
    worth = rng.random(1000)
    worth[700:] *= 0.1
    mask = np.zeros(1000, dtype=bool)
    mask[np.argsort(-worth)[:200]] = True
    allowed = np.ones(1000, dtype=bool)
    allowed[950:990] = False
    found = with_least(mask, worth, layers, 0.02, allowed)
    assert found.sum() == 200
    assert [int(found[layer.start : layer.stop].sum()) for layer in layers] == [170, 20, 10]
    assert not found[950:990].any()
    # of a layer the best are added, of the others the worst given up
    assert worth[700:950][found[700:950]].min() > np.sort(worth[700:950])[-21]
    assert not found[:700][worth[:700] < np.sort(worth[:700])[-170]].any()
    assert np.array_equal(with_least(mask, worth, layers, 0.0, allowed), mask)


@pytest.mark.parametrize("by", ["gradient", "quadratic", "random"])
def test_what_grows_is_what_is_worth_most(by, tmp_path):
    options = {"regrow": 0.5, "regrow_by": by, "rounds": 1, "train_end": "epochs=0"}
    plain = prune(
        request(solver="magnitude", mode="select", coordinator_options=options | {"regrow": 0.0}), out=tmp_path / "a"
    )
    result = prune(request(solver="magnitude", mode="select", coordinator_options=options), out=tmp_path / "b")
    masks = [load_file(tmp_path / run / "mask.safetensors") for run in "ab"]
    assert result["kept"] == plain["kept"]
    for name, before in masks[0].items():
        assert before.sum() == masks[1][name].sum()
        assert int((masks[1][name] & ~before).sum()) == min(int(0.5 * before.sum()), int((~before).sum()))
    weights = load_file(tmp_path / "b" / "weights.safetensors")
    assert all(not weights[name][masks[1][name] & ~before].any() for name, before in masks[0].items())
    assert events(tmp_path / "b")[0]["grown"] > 0


def test_growth_is_scored_before_the_round_prunes(tmp_path, monkeypatch):
    from prunebench.coordinators.rounds import regrowth

    seen, scores = [], regrowth.scores

    def watched(problem, network, *more):
        seen.append(int(np.count_nonzero(network.weights())))
        return scores(problem, network, *more)

    monkeypatch.setattr(regrowth, "scores", watched)
    options = {"regrow": 0.5, "rounds": 2, "start_density": 0.6, "train": "epochs=0"}
    prune(request(solver="magnitude", mode="select", coordinator_options=options), out=tmp_path / "run")
    kept = [event["kept"] for event in events(tmp_path / "run") if event["kind"] == "prune"]
    assert seen[0] > kept[0]
    # what grew in the first round is still zero, since nothing was trained
    assert kept[1] < seen[1] <= kept[0]


def test_scores_of_growth_are_gradients():
    from prunebench.coordinators.rounds.regrowth import exchanged, part_of, scores
    from prunebench.core.problem import make_problem
    from prunebench.networks.chosen import prunable_network

    problem = make_problem("drawn")
    network = prunable_network(problem)
    count = len(problem.calibration())
    found = scores(problem, network, "gradient", count, np.random.default_rng(0))
    inputs, targets = problem.calibration().batch(np.arange(count // 32 * 32 if count % 32 else count))
    parameters = [network.model.get_parameter(name).requires_grad_(True) for name in network.names]
    used = problem.loss(network.model(inputs), targets).mean()
    exact = torch.cat([part.reshape(-1) for part in torch.autograd.grad(used, parameters)]).abs().numpy()
    assert np.corrcoef(found, exact)[0, 1] > 0.9
    mask = np.zeros(network.total, dtype=bool)
    mask[::3] = True
    after = exchanged(mask, network.weights(), found, network.layers, 0.2)
    grown, dropped = after & ~mask, mask & ~after
    for layer in network.layers:
        span = slice(layer.start, layer.stop)
        assert grown[span].sum() == dropped[span].sum() == int(0.2 * mask[span].sum())
        assert found[span][grown[span]].min() >= found[span][~mask[span] & ~grown[span]].max()
    assert [part_of(0.5, number, 5) for number in (0, 4)] == pytest.approx([0.5, 0.005])


def test_names_of_earlier_versions_say_what_became_of_them(tmp_path):
    with pytest.raises(InvalidInput, match="coordinator 'gradual' is coordinator rounds now"):
        prune(request(coordinator="gradual"), out=tmp_path / "run")


@pytest.mark.parametrize(
    "name",
    [
        "lottery",
        "lottery-late",
        "learning-rate-rewinding",
        "gmp",
        "global-mp",
        "granet",
        "sap",
        "scratch-e",
        "scratch-b",
    ],
)
def test_every_recipe_of_rounds_runs(name, tmp_path):
    recipe = tmp_path / "mine.toml"
    text = (resources.files("prunebench.recipes") / "own" / f"{name}.toml").read_text()
    shorter = re.sub(r"(epochs|steps)=\d+", "epochs=1", text).replace("step:200", "step:5")
    shorter = shorter.replace("share = 0.2", "share = 0.6")
    recipe.write_text(shorter.replace("samples = 1000", "samples = 64"))
    options = {"hidden": "8", "epochs": "2"}
    made = prunebench.prune("digits-mlp", density=0.3, recipe=str(recipe), problem_options=options, progress=False)
    assert made.kept == round(0.3 * made.total)
    assert made.result["coordinator"] == "rounds"
    assert made.measures["accuracy"][1] > 0.12
