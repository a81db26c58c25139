"""The oracle study: statistics, enumerations against plain evaluation, the command, and what it refuses."""

import json

import numpy as np
import pytest
from scipy.stats import kendalltau

from helpers import call, refused
from prunebench import make_problem
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.curvature.fisher import FisherOptions, network_form
from prunebench.networks.chosen import prunable_network
from prunebench.recovery.training import many
from prunebench.recovery.training.halving import rungs_of, successive_halving
from prunebench.recovery.training.protocol import Protocol
from prunebench.recovery.training.starts import trainer
from prunebench.report import write_report
from prunebench.studies import correlation, enumeration
from prunebench.studies.oracle import Oracle
from prunebench.studies.run import study

SMALL = {"hidden": (8,), "epochs": 3}
"""A network that is trained in a second."""


@pytest.fixture(scope="module")
def dense():
    problem = make_problem("digits-mlp", SMALL)
    return problem, prunable_network(problem)


@pytest.fixture(scope="module")
def enumerated(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "neurons"
    question = Oracle(enumerate="neurons:4/8", masks=24, epochs=(1, 2), samples=200)
    return study(question, "digits-mlp", SMALL, out=out), out


def grid(result, key):
    (held,) = [one for one in result["grids"] if one["key"] == key]
    return [dict(zip([name for name, _ in held["columns"]], row, strict=True)) for row in held["rows"]]


@pytest.mark.parametrize("levels", [1000, 4])
def test_tau_is_scipys_and_its_interval_is_about_it(levels):
    rng = np.random.default_rng(levels)
    x = rng.integers(0, levels, 60).astype(float)
    y = x + rng.integers(0, levels, 60)
    found = correlation.tau(x, y, np.random.default_rng(0))
    assert found.value == pytest.approx(kendalltau(x, y)[0])
    drawn = [rng.integers(0, 60, 60) for _ in range(400)]
    low, high = np.quantile([kendalltau(x[part], y[part])[0] for part in drawn], [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))


def test_an_order_without_differences_has_no_tau():
    assert correlation.tau(np.ones(12), np.arange(12.0), np.random.default_rng(0)).value is None


def test_many_masks_have_no_interval():
    found = correlation.tau(np.arange(2000.0), -np.arange(2000.0), np.random.default_rng(0))
    assert (found.value, found.low) == (-1.0, None)


@pytest.mark.parametrize("text", ["neurons:4/8", "weights:3/6"])
def test_objectives_of_an_enumeration_are_those_of_its_masks(dense, text):
    problem, network = dense
    form = network_form(problem, network, FisherOptions(samples=100), np.random.default_rng(0))
    form = form.with_terms(linear=np.random.default_rng(1).normal(size=form.p))
    weights, asked = network.weights(), enumeration.parse(text, "oracle")
    if asked.kind == "neurons":
        every = enumeration.neurons(network.layers, asked, "oracle")
    else:
        within = np.abs(weights) > np.quantile(np.abs(weights), 0.8)
        every = enumeration.weights_of(form, weights, within, asked, "oracle")
    masks = every.masks(slice(None))
    assert masks.shape[0] == asked.count == np.unique(masks, axis=0).shape[0]
    plain = [BlockProblem(form, weights, int(mask.sum()), "select").evaluate(mask) for mask in masks]
    np.testing.assert_allclose(every.objectives(form, weights), plain, rtol=1e-9)


def test_masks_of_neurons_keep_whole_neurons(dense):
    _, network = dense
    every = enumeration.neurons(network.layers, enumeration.parse("neurons:4/8", "oracle"), "oracle")
    for number in (0, 35, 69):
        mask = every.masks(np.array([number]))[0]
        first, second = (mask[layer.start : layer.stop].reshape(layer.shape) for layer in network.layers)
        np.testing.assert_array_equal(first, np.repeat(every.kept[number][:, None], 64, axis=1))
        np.testing.assert_array_equal(second, np.repeat(every.kept[number][None], 10, axis=0))


def test_the_oracle_of_an_enumeration_is_the_best_of_all_masks(enumerated):
    result, _ = enumerated
    (model,) = grid(result, "model")
    assert model["masks"] == 70
    assert model["lowest loss"] == result["values"]["enumerated"]["true pruned loss"]["lowest"]
    held = [mask["true pruned loss"] for mask in result["values"]["masks"]]
    assert min(held) == pytest.approx(model["lowest loss"])
    assert model["rank of its best"] >= 1
    chosen = grid(result, "chosen")
    oracle = [row for row in chosen if row["mask"].startswith("oracle")]
    assert [row["epochs"] for row in oracle] == [0, 1, 2]
    assert all(row["rank by pruned loss"] == 1 for row in oracle)
    assert any(row["mask"] == "optimum of the model" for row in chosen)


def test_links_are_apart_and_below_the_ceiling(enumerated):
    result, _ = enumerated
    rows = {(row["epochs"], row["known"]): row["validation loss"][0] for row in grid(result, "links")}
    known = {"model", "true pruned loss", "another order of samples"}
    assert {name for _, name in rows} == known | {"after 1 epoch"}
    for epochs in (1, 2):
        assert rows[epochs, "another order of samples"] >= rows[epochs, "true pruned loss"]


def test_what_is_trained_is_what_training_alone_gives(dense, enumerated):
    problem, network = dense
    result, _ = enumerated
    every = enumeration.neurons(network.layers, enumeration.parse("neurons:4/8", "oracle"), "oracle")
    name = result["values"]["masks"][5]["name"]
    mask = every.masks(np.array([int(name.removeprefix("mask "))]))[0]
    alone = prunable_network(problem)
    alone.assign(np.where(mask, alone.weights(), 0.0))
    training = trainer(problem, alone, mask, Protocol(epochs=2, seed=1))
    while not training.done:
        training.epoch()
    training.finish()
    expected = problem.evaluate(alone.model)
    second = result["values"]["trained"]["2"][1]
    assert second["loss"][5] == pytest.approx(expected["loss"], rel=1e-5)
    assert second["accuracy"][5] == pytest.approx(expected["accuracy"])


def test_a_population_has_solvers_noise_and_random_masks_of_one_density(tmp_path):
    question = Oracle(masks=20, epochs=(1,), seeds=1, density=0.2, samples=100, solvers=("magnitude", "admm"))
    result = study(question, "digits-mlp", SMALL, out=tmp_path / "out", cache=False)
    assert len(result["values"]["masks"]) == 20
    families = {row["masks"]: row["how many"] for row in grid(result, "families")}
    assert sum(families.values()) == 20
    assert {"admm", "magnitude", "obd", "swap, noisy start", "random"} <= families.keys()
    again = study(question, "digits-mlp", SMALL, out=tmp_path / "again", cache=False)
    assert again["values"] == result["values"]
    # one order of the samples: no ceiling
    assert {row["known"] for row in grid(result, "links")} == {
        "model", "model, refitted", "true pruned loss", "true loss after refit",
    }  # fmt: skip


def test_masks_within_a_run(tmp_path, capsys):
    asked = ["digits-mlp", "--option", "hidden=8", "--option", "epochs=3"]
    run = tmp_path / "run"
    assert call(capsys, "prune", *asked, "--density", "0.2", "--solver", "magnitude", "--out", run, "--quiet")[0] == 0
    code, out, _ = call(
        capsys, "study", "oracle", *asked, "--enumerate", "weights:3/6", "--within", run, "--masks", "12", "--epochs",
        "1", "--json", "--quiet", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    names = [row["model"] for row in grid(json.loads(out), "model")]
    assert names == ["model", "model about the pruned network"]


def test_the_page_and_the_figures_of_a_study(enumerated, tmp_path, capsys):
    result, out = enumerated
    page = write_report([out], tmp_path / "page.html").read_text()
    assert "Study oracle: digits-mlp" in page
    assert "there is no pruning run" not in page
    assert "--enumerate=neurons:4/8" in page
    figures = tmp_path / "figures"
    assert call(capsys, "report", out, "--figures", figures)[0] == 0
    assert {file.stem for file in figures.iterdir()} == {f"study-0-{plot['key']}" for plot in result["plots"]}


def test_a_damaged_study_is_named(enumerated, tmp_path):
    _, out = enumerated
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text((out / "run.json").read_text())
    held = json.loads((out / "result.json").read_text())
    held["grids"][0]["rows"][0].append(1)
    (broken / "result.json").write_text(json.dumps(held))
    with pytest.raises(InvalidInput, match="grids"):
        write_report([broken], tmp_path / "page.html")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--masks", "9"], "9 masks say nothing"),
        (["--density", "0"], "choose a number above 0"),
        (["--epochs", "1", "1"], "twice"),
        (["--epochs", "0"], "epochs is"),
        (["--enumerate", "filters:1/2"], "write neurons"),
        (["--enumerate", "neurons:8/8"], "leaves no choice"),
        (["--enumerate", "neurons:20/40"], "500,000"),
        (["--enumerate", "neurons:8/16"], "hidden dense layer has 16"),
        (["--within", "run"], "within is the network"),
        (["--solvers", "sawp"], "swap"),
        (["--solvers", "swap", "swap"], "twice"),
        (["--protocol", "epochs=3"], "study says itself"),
        (["--protocol", "learning_rate=x"], "learning_rate"),
    ],
)
def test_bad_options_are_refused_before_work(options, words, capsys, tmp_path):
    out = tmp_path / "out"
    said = refused(
        capsys, "study", "oracle", "digits-mlp", "--option", "hidden=8", "--option", "epochs=3", *options, "--out", out,
        "--quiet",
    )  # fmt: skip
    assert words in said
    assert not (out / "run.json").exists()


def test_studies_and_problems_without_a_meaning_are_refused(capsys, tmp_path):
    assert "did you mean" in refused(capsys, "study", "oracel", "digits-mlp", "--quiet")
    assert "has none" in refused(capsys, "study", "oracle", "planted", "--quiet", "--out", tmp_path / "out")


def test_a_study_is_not_resumed(enumerated, capsys):
    _, out = enumerated
    assert "ask for it again" in refused(capsys, "resume", out)


def test_rungs_cost_alike_and_end_with_the_whole_training():
    assert rungs_of(100, 20, 4.0) == [(100, 0), (25, 5), (7, 20)]
    assert rungs_of(100, 20, 2.0) == [(100, 0), (50, 5), (25, 10), (13, 20)]
    assert rungs_of(3, 1, 4.0) == [(3, 0), (1, 1)]


def test_halving_ranks_as_training_does(dense):
    problem, network = dense
    rng, weights = np.random.default_rng(0), network.weights()
    noisy = np.abs(weights) * np.exp(np.linspace(0.0, 6.0, 16)[:, None] * rng.normal(size=(16, weights.size)))
    masks = noisy > np.quantile(noisy, 0.8, axis=1, keepdims=True)
    before = network.weights()
    found = successive_halving(problem, network, masks, Protocol(epochs=4), shrink=4.0)
    np.testing.assert_array_equal(network.weights(), before)
    assert [(rung.epochs, rung.positions.size) for rung in found.rungs] == [(0, 16), (1, 4), (4, 1)]
    assert sorted(found.order) == list(range(16))
    pruned = found.rungs[0].losses
    assert list(found.order[4:]) == list(np.argsort(pruned, kind="stable")[4:])
    one = found.rungs[1]
    assert found.order[0] == one.positions[np.argmin(one.losses)]


def test_masks_that_cannot_be_stacked_are_trained_alone_to_the_same(dense, monkeypatch):
    problem, network = dense
    size = np.abs(network.weights())
    masks = np.array([size > np.quantile(size, part) for part in (0.5, 0.8)])
    values = 1.1 * network.weights() * masks
    protocol, told = Protocol(epochs=2), []
    at_once = many.reached(problem, network, masks, protocol, weights=values)
    monkeypatch.setattr(many, "why_not", lambda _network, _protocol: "it is not plain")
    alone = many.reached(
        problem, network, masks, protocol, weights=values, told=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)]
    np.testing.assert_allclose(alone.training.loss, at_once.training.loss, rtol=1e-5)
    np.testing.assert_allclose(alone.validation.accuracy, at_once.validation.accuracy, atol=1e-9)
    np.testing.assert_array_equal(np.abs(network.weights()), size)


@pytest.mark.parametrize(
    ("protocol", "shrink"), [(Protocol(epochs=0), 4.0), (Protocol(steps=3), 4.0), (Protocol(), 1.0)]
)
def test_halving_refuses_what_it_cannot_do(dense, protocol, shrink):
    problem, network = dense
    masks = np.ones((4, network.total), dtype=bool)
    with pytest.raises(InvalidInput):
        successive_halving(problem, network, masks, protocol, shrink=shrink)
