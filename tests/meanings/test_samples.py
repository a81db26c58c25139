"""Which samples: the objective, choices in pruning and training, the scores to beat, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import prunebench
from helpers import call, refused
from prunebench.commands.samples import SCORES as names_of_the_command
from prunebench.core.errors import InvalidInput, UnknownName
from prunebench.core.problem import make_problem
from prunebench.core.subset import OfSubset, SampleSubset, load_subset, subset_of, whole
from prunebench.curvature.gradients import sample_gradients
from prunebench.meanings import sample_scores as scoring
from prunebench.meanings.samples import SampleOptions, block_of_features, choose_samples, of_end, sample_block
from prunebench.networks.chosen import prunable_network
from prunebench.recovery.training.course import Course
from prunebench.recovery.training.protocol import Protocol, as_text, parse
from prunebench.recovery.training.stacked import Stack
from prunebench.recovery.training.starts import trainer
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.runs.retraining import retrain

DIGITS = 1347


@pytest.fixture(scope="module")
def digits():
    return make_problem("digits-mlp")


def features(count=14, size=5, seed=0):
    return np.random.default_rng(seed).standard_normal((count, size))


def test_the_objective_is_half_the_squared_distance_of_the_means():
    rows = features()
    block = block_of_features(rows, 4)
    for seed in range(20):
        mask = block.top_mask(np.random.default_rng(seed).random(14))
        apart = rows[mask].mean(axis=0) - rows.mean(axis=0)
        assert block.evaluate(mask) == pytest.approx(0.5 * apart @ apart, rel=1e-9)


def test_within_classes_every_class_has_its_own_mean():
    rows, labels = features(), np.arange(14) % 2
    block = block_of_features(rows, 4, labels=labels, within=True)
    mask = block.start_mask
    parts = [rows[mask & (labels == c)].sum(axis=0) / 4 - rows[labels == c].sum(axis=0) / 14 for c in range(2)]
    assert block.evaluate(mask) == pytest.approx(0.5 * sum(part @ part for part in parts), rel=1e-9)
    assert [int(mask[labels == c].sum()) for c in range(2)] == [2, 2]


def test_a_choice_of_samples_can_be_proved_like_any_block():
    block = block_of_features(features(), 4)
    best = prunebench.solve(block, "exhaustive")
    proved = prunebench.solve(block, "branch-and-bound")
    assert proved.objective == pytest.approx(best.objective, rel=1e-9)
    assert proved.lower_bound == pytest.approx(best.objective, rel=1e-6)


def test_block_and_choice_are_one_file(tmp_path):
    block = block_of_features(features(), 4, problem="own", labels=np.arange(14) % 2)
    block.save(tmp_path / "s.npz")
    held = load_subset(tmp_path / "s.npz")
    assert held.positions.tolist() == np.flatnonzero(block.start_mask).tolist()
    assert held.weights is None
    again = prunebench.BlockProblem.load(tmp_path / "s.npz")
    assert again.word == "samples"
    assert again.items.columns["label"].tolist() == (np.arange(14) % 2).tolist()


def test_the_ridge_of_a_refitted_choice_is_about_equal_weights_of_the_kept():
    rows = features()
    block = block_of_features(rows, 4, mode="refit", ridge=0.5)
    values = np.where(block.start_mask, np.random.default_rng(1).random(14), 0.0)
    apart = values @ rows - rows.mean(axis=0)
    ridge = 0.5 * (rows**2).sum(axis=1).mean()
    expected = 0.5 * apart @ apart + 0.5 * ridge * ((values - 0.25)[block.start_mask] ** 2).sum()
    assert block.evaluate(values) == pytest.approx(expected, rel=1e-9)
    assert block.random_mean() == pytest.approx(block_of_features(rows, 4).random_mean(), rel=1e-9)


def test_weights_of_a_refitted_choice_have_mean_one_and_follow_the_refit():
    block = block_of_features(features(seed=3) + 3.0, 4, mode="refit", ridge=1.0)
    subset = subset_of(block)
    values = block.weights_of(block.start_mask)[block.start_mask]
    assert subset.weights.mean() == pytest.approx(1.0)
    assert subset.weights == pytest.approx(values / values.mean())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keep": 15}, "keep is 15, but there are 14 samples"),
        ({"keep": 2, "labels": np.arange(14) % 3}, "leaves class"),
        ({"keep": 4, "labels": np.arange(14) % 2 * 2}, "class 1 of 0 to 2 has no samples"),
        ({"keep": 4, "rows": np.ones((14, 3))}, "features of all samples are equal"),
        ({"keep": 4, "rows": np.full((14, 3), np.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_chosen_is_refused(arguments, words):
    rows = arguments.pop("rows", features())
    with pytest.raises(InvalidInput, match=words):
        block_of_features(rows, **arguments)


def test_the_least_count_that_gives_every_class_one_is_told():
    labels = np.repeat([0, 1], [10, 90])
    with pytest.raises(InvalidInput, match=r"keep at least (\d+)") as refusal:
        block_of_features(features(100), 2, labels=labels)
    least = int(str(refusal.value).split("keep at least ")[1].split(",")[0])
    block_of_features(features(100), least, labels=labels)
    with pytest.raises(InvalidInput):
        block_of_features(features(100), least - 1, labels=labels)


def test_samples_that_would_count_less_than_nothing_are_refused():
    rows = features(30, 4, 1)
    block = block_of_features(rows, 12, mode="refit", ridge=1e-6)
    with pytest.raises(InvalidInput, match=r"weight below zero.*raise the ridge"):
        subset_of(block)


def test_a_file_of_weights_is_no_subset(tmp_path):
    prunebench.cut_block("planted", size=8, density=0.5).save(tmp_path / "b.npz")
    with pytest.raises(InvalidInput, match=r"b\.npz.* is of weights"):
        load_subset(tmp_path / "b.npz")


@pytest.mark.parametrize("kind", ["gradient", "embedding", "mmd"])
def test_every_kind_of_features_makes_a_block_that_swap_lowers(digits, kind):
    block = sample_block(digits, 40, SampleOptions(features=kind, per_class=True), seed=1)
    assert block.p == DIGITS
    found = prunebench.solve(block, "swap")
    assert found.objective < 0.5 * block.random_mean()
    labels = block.items.columns["label"]
    assert np.bincount(labels[found.mask]).tolist() == [4] * 10


def test_the_command_chooses_and_pruning_sees_no_other_samples(capsys, tmp_path, digits):
    file, out = tmp_path / "s.npz", tmp_path / "run"
    told = printed(capsys, "samples", "digits-mlp", "--keep", "60", "--per-class", "-o", file)
    assert (told["kept"], told["total"], told["items"]) == (60, DIGITS, "samples")
    assert told["objective"] < told["random_mean"]
    result = printed(
        capsys, "prune", "digits-mlp", "--density", "0.2", "--coordinator", "one-shot", "--solver", "magnitude",
        "--option", "score=obd", "--subset", file, "--out", out, "--quiet", "--retrain", "epochs=1,batch_size=100",
    )  # fmt: skip
    assert result["subset"]["samples"] == 60
    # what is trained on is the protocol's own matter: 60 samples would be fewer than a batch
    assert result["retrained"][0]["epochs"]
    network, positions = prunable_network(digits), load_subset(file).positions
    rows = sample_gradients(network, digits.loss, digits.calibration(), positions).astype(np.float64)
    worth = network.weights() ** 2 * ((rows**2).mean(axis=0) + 0.01 * (rows**2).mean())
    mask = read_mask(out, network)
    assert worth[mask].min() >= worth[~mask].max() * (1.0 - 1e-5)
    # another choice under the same name is not what the run began with
    block = prunebench.BlockProblem.load(file)
    block.with_start(block.top_mask(np.arange(DIGITS, dtype=np.float64))).save(file)
    assert "other samples than when this run began" in refused(capsys, "resume", unfinished(out), "--quiet")


def test_a_block_of_weights_has_as_many_rows_as_there_are_chosen_samples(capsys, tmp_path):
    printed(capsys, "samples", "digits-mlp", "--keep", "40", "--by", "random", "-o", tmp_path / "s.npz")
    given = ("--size", "90", "--density", "0.5", "--subset", tmp_path / "s.npz", "-o", tmp_path / "b.npz")
    assert printed(capsys, "block", "digits-mlp", *given)["rows"] == 40


def test_the_command_names_the_scores_that_there_are():
    assert set(names_of_the_command) == set(scoring.SCORES)


def printed(capsys, *arguments):
    """What a command prints as JSON."""
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def read_mask(run, network):
    spans = load_file(run / "mask.safetensors")
    return np.concatenate([spans[name].reshape(-1) for name in network.names]).astype(bool)


def unfinished(run):
    """The run as it was before its end."""
    (run / "result.json").unlink()
    return run


def test_training_takes_the_chosen_samples_and_no_others(tmp_path, digits):
    block = block_of_features(features(DIGITS), 50, problem="digits-mlp")
    block.save(tmp_path / "s.npz")
    course = Course(
        Protocol(epochs=2, batch_size=20, subset=str(tmp_path / "s.npz"), held_out=10), "digits-mlp", DIGITS
    )
    seen = np.concatenate([positions for _, positions in course.batches(0)[0]])
    chosen = np.flatnonzero(block.start_mask)
    assert sorted([*seen, *course.division.judging]) == chosen.tolist()
    with pytest.raises(InvalidInput, match="subset is of problem digits-mlp, not of vit-mnist"):
        Course(Protocol(subset=str(tmp_path / "s.npz")), "vit-mnist", DIGITS)


def test_weighted_samples_count_in_training_alike_one_by_one_and_stacked(tmp_path, digits):
    block = block_of_features(features(DIGITS, 3), 40, problem="digits-mlp", mode="refit", ridge=10.0)
    block.save(tmp_path / "s.npz")
    plain = replace(block, mode="select")
    plain.save(tmp_path / "plain.npz")
    assert load_subset(tmp_path / "s.npz").weights.std() > 0.0
    network = prunable_network(digits)
    mask = np.ones((1, network.total), dtype=np.bool_)
    ends = []
    for name in ("s.npz", "plain.npz"):
        protocol = Protocol(epochs=2, batch_size=20, subset=str(tmp_path / name), distil=0.5)
        stack = Stack(digits, prunable_network(digits), mask, protocol)
        while not stack.done:
            stack.epoch()
        alone = prunable_network(digits)
        training = trainer(digits, alone, mask[0], protocol)
        while not training.done:
            training.epoch()
        assert np.abs(stack.weights()[0] - alone.weights()).max() < 1e-5
        ends.append(alone.weights())
    assert np.abs(ends[0] - ends[1]).max() > 1e-4


def test_scores_are_what_their_papers_say(digits):
    early = scoring.Early(networks=1, epochs=1)
    network = scoring.early_network(digits, 1, 7)
    inputs, targets = digits.calibration().batch(np.arange(DIGITS))
    with torch.no_grad():
        found = torch.softmax(network.model(inputs), dim=1)
    apart = (found - torch.nn.functional.one_hot(targets, 10)).norm(dim=1).numpy()
    assert scoring.sample_scores(digits, "el2n", early=early, seed=7) == pytest.approx(apart, abs=1e-5)
    both = scoring.sample_scores(digits, "error-uncertainty", early=early, seed=7)
    error = -torch.log(found[torch.arange(DIGITS), targets])
    entropy = -(found * torch.log(found)).sum(dim=1)
    assert both == pytest.approx((error * entropy).numpy(), abs=1e-4)
    forgotten = scoring.sample_scores(digits, "forgetting", early=early)
    assert forgotten.max() <= 10
    assert (forgotten == np.round(forgotten)).all()
    assert scoring.sample_scores(digits, "prototype").min() >= 0.0
    with pytest.raises(UnknownName, match="el2n"):
        scoring.sample_scores(digits, "el2")


def test_ends_of_a_score():
    scores = np.array([0.0, 1.0, 2.0, 10.0])
    assert np.argmax(of_end(scores, "hard")) == 3
    assert np.argmax(of_end(scores, "easy")) == 0
    assert np.argmax(of_end(scores, "middle")) in (1, 2)


def test_samples_without_classes_or_distances_are_refused():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    data = [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(3)]
    own = prunebench.own_network(model, data, loss=lambda found, aimed: (found - aimed).square().mean(dim=1))
    with pytest.raises(InvalidInput, match="no classes"):
        choose_samples(own, 4, options=SampleOptions(per_class=True))
    assert choose_samples(own, 4).block.start_mask.sum() == 4


def test_commands_that_contradict_themselves_are_refused(capsys, tmp_path):
    base = ("samples", "digits-mlp", "-o", str(tmp_path / "s.npz"))
    assert "a score or a solver" in refused(capsys, *base, "--keep", "9", "--by", "el2n", "--solver", "swap")
    assert "--end is of a score" in refused(capsys, *base, "--keep", "9", "--end", "easy")
    assert "there are 1347 samples" in refused(capsys, *base, "--keep", "2000")
    assert "leaves class" in refused(capsys, *base, "--keep", "5", "--per-class")
    assert "is no network" in refused(capsys, "samples", "planted", "--keep", "5", "-o", str(tmp_path / "s.npz"))


def test_a_problem_of_a_subset_is_the_problem_in_all_else(digits):
    held = OfSubset(digits, SampleSubset(np.array([3, 5]), "digits-mlp"))
    assert whole(held) is digits
    assert held.name == "digits-mlp"
    assert len(held.calibration()) == 2
    assert len(held.validation()) == len(digits.validation())
    with pytest.raises(InvalidInput, match="outside the 2 samples"):
        held.calibration().batch(np.array([2]))


def some_samples(seed):
    """Fifty digits at random, as a file of samples has them."""
    block = block_of_features(features(DIGITS), 50, problem="digits-mlp")
    return block.with_start(block.top_mask(np.random.default_rng(seed).random(DIGITS)))


def test_a_training_knows_the_samples_it_was_asked_for_and_not_only_their_file(tmp_path, digits):
    file, run = tmp_path / "s.npz", tmp_path / "run"
    first, second = some_samples(1), some_samples(2)
    first.save(file)
    protocol = Protocol(epochs=1, batch_size=25, subset=str(file))
    request = PruneRequest(
        problem="digits-mlp", coordinator="one-shot", solver="obd", density=0.2, seed=3, retrain=as_text(protocol)
    )
    prune(request, out=run)
    done = retrain(run, protocol)["retrained"]
    assert [entry["options"]["subset_hash"] for entry in done] == [load_subset(file).hash]

    second.save(file)
    entries = retrain(run, protocol)["retrained"]
    hashes = [entry["options"]["subset_hash"] for entry in entries]
    assert hashes == [done[0]["options"]["subset_hash"], load_subset(file).hash]
    assert hashes[0] != hashes[1]
    with pytest.raises(InvalidInput, match="other samples than when this training was asked for"):
        resume(unfinished(run))


def test_rounds_train_on_the_samples_they_began_with(tmp_path):
    file, run = tmp_path / "s.npz", tmp_path / "run"
    some_samples(1).save(file)
    train = f"epochs=1,batch_size=25,subset={file}"
    request = PruneRequest(
        problem="digits-mlp", coordinator="rounds", solver="magnitude", density=0.2, seed=3,
        coordinator_options={"train": train, "rounds": 1, "start_density": 0.2},
    )  # fmt: skip
    prune(request, out=run)
    asked = json.loads((run / "run.json").read_text())["request"]["coordinator_options"]["train"]
    assert parse(asked).subset_hash == load_subset(file).hash

    some_samples(2).save(file)
    with pytest.raises(InvalidInput, match="other samples than when this training was asked for"):
        resume(unfinished(run))
