"""Allocation, robustness, connectivity, plasticity: what they claim, in small, and what they refuse."""

import numpy as np
import pytest
import torch

from helpers import call, refused
from prunebench import make_problem
from prunebench.comparison.cache import AnswerCache
from prunebench.core.errors import InvalidInput
from prunebench.log.run_directory import RunDirectory
from prunebench.networks.chosen import prunable_network
from prunebench.networks.samples import TensorSamples
from prunebench.pruned import Pruned
from prunebench.report.gather import gather
from prunebench.report.rounds import pq_index
from prunebench.runs.executors import Inline
from prunebench.runs.prune import PruneRequest, prune
from prunebench.studies import STUDIES, corruptions, features
from prunebench.studies.allocation import Allocation
from prunebench.studies.connectivity import Connectivity, Line, walked
from prunebench.studies.plasticity import Plasticity
from prunebench.studies.robustness import Robustness
from prunebench.studies.run import study
from prunebench.studies.study import Setting

SMALL = {"hidden": (8,), "epochs": 3}
"""A network that is trained in a second."""
QUICK = {"samples": 100, "protocol": "learning_rate=0.01,batch_size=64"}


@pytest.fixture(scope="module")
def setting():
    problem = make_problem("digits-mlp", SMALL)
    return Setting(problem, prunable_network(problem), Inline(), AnswerCache(None))


def rows(result, key):
    (held,) = [one for one in result["grids"] if one["key"] == key]
    return [dict(zip([name for name, _ in held["columns"]], row, strict=True)) for row in held["rows"]]


# --- allocation --------------------------------------------------------------------------------------------


def test_masks_of_an_allocation_have_the_counts_they_say(tmp_path):
    question = Allocation(density=0.2, solvers=("swap", "admm"), epochs=1, seeds=2, **QUICK)
    result = study(question, "digits-mlp", SMALL, out=tmp_path / "out", cache=False)
    held = result["values"]["masks"]
    assert len({sum(mask["kept"]) for mask in held}) == 1
    by_counts = {}
    for mask in held:
        by_counts.setdefault(mask["counts"], set()).add(tuple(mask["kept"]))
    assert set(by_counts) == {"magnitude", "uniform", "swap", "admm"}
    assert all(len(kept) == 1 for kept in by_counts.values())
    assert by_counts["uniform"] == {(102, 16)}
    choices = {(mask["counts"], mask["choice"]) for mask in held}
    assert {("admm", "shuffled"), ("magnitude", "admm"), ("uniform", "swap"), ("swap", "magnitude")} <= choices
    assert all(len(mask["trained"]) == 2 for mask in held)
    (admm,) = [row for row in rows(result, "worth") if row["method"] == "admm"]
    at = {(mask["counts"], mask["choice"]): np.mean(mask["trained"]) for mask in held}
    assert admm["accuracy"] == pytest.approx(at["admm", "admm"])
    assert admm["shuffled"] == pytest.approx(100 * (at["admm", "shuffled"] - at["admm", "admm"]))
    assert admm["counts of magnitude"] == pytest.approx(100 * (at["magnitude", "admm"] - at["admm", "admm"]))


# --- robustness --------------------------------------------------------------------------------------------


@pytest.fixture
def pixels():
    inputs = torch.rand((20, 64), generator=torch.Generator().manual_seed(0)) * 3.0 - 1.0
    samples = TensorSamples(inputs, torch.zeros(20, dtype=torch.int64))
    return corruptions.Pixels.of(samples, np.arange(20), "test"), samples


def test_images_come_back_as_the_inputs_they_were(pixels):
    made, samples = pixels
    inputs = samples.batch(np.arange(20))[0]
    images = made.images(inputs)
    assert images.shape == (20, 1, 8, 8)
    assert (float(images.min()), float(images.max())) == (0.0, 1.0)
    torch.testing.assert_close(made.inputs(images, inputs), inputs)


def test_what_each_corruption_does():
    image = torch.zeros((1, 1, 28, 28))
    image[0, 0, 10, 10] = 1.0
    draw = torch.Generator().manual_seed(0)
    shifted = corruptions.shift(image, 2, draw)
    assert float(shifted[0, 0, 12, 12]) == pytest.approx(1.0, abs=1e-4)
    blurred = corruptions.blur(image, 1, draw)
    assert float(blurred[0, 0, 11, 9]) == pytest.approx(1.0 / 9.0)
    assert float(blurred.sum()) == pytest.approx(1.0)
    pale = corruptions.contrast(image, 1, draw)
    assert (float(pale.min()), float(pale.max())) == (pytest.approx(0.15), pytest.approx(0.85))
    hidden = corruptions.occlusion(image, 2, draw)
    assert int((hidden == 0.5).sum()) == 7 * 7
    noisy = corruptions.noise(torch.full((1, 1, 100, 100), 0.5), 1, draw)
    assert float(noisy.std()) == pytest.approx(0.15, rel=0.05)


def test_the_same_seed_corrupts_alike_and_another_does_not(pixels):
    made, samples = pixels
    digests = [corruptions.Corrupted(samples, made, "noise", 1, seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_geometry_of_known_features():
    found = features.Features(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), np.array([[3.0, 0.0], [1.0, 1.0]]))
    angle, norm = features.geometry(found, np.array([0.0, 1.0, 0.0]))
    assert (angle, norm) == (pytest.approx(22.5), pytest.approx(1.0))
    assert features.geometry(features.Features(np.zeros((2, 2)), found.directions), np.zeros(2))[0] is None


def test_robustness_of_masks_and_of_a_run(tmp_path, capsys):
    asked = ["--option", "hidden=8", "--option", "epochs=3", "--density", "0.3", "--solver", "magnitude"]
    run = tmp_path / "kept"
    assert call(capsys, "prune", "digits-mlp", *asked, "--out", run, "--quiet")[0] == 0
    question = Robustness(density=0.3, solvers=("magnitude",), runs=(str(run),), epochs=1, **QUICK)
    result = study(question, "digits-mlp", SMALL, out=tmp_path / "out", cache=False)
    table = rows(result, "accuracy")
    assert [(row["mask"], row["epochs"]) for row in table] == [
        ("dense", 0), ("magnitude", 0), ("kept", 0), ("magnitude", 1), ("kept", 1),
    ]  # fmt: skip
    problem = make_problem("digits-mlp", SMALL)
    assert table[0]["clean"] == pytest.approx(problem.evaluate(problem.model())["accuracy"])
    # the same mask and values from both
    for one, other in ((1, 2), (3, 4)):
        assert {**table[one], "mask": ""} == {**table[other], "mask": ""}
    (dense, *_) = result["values"]["networks"]
    assert len(dense["accuracy"]) == 16
    assert dense["accuracy"]["noise 3"] < dense["accuracy"]["clean 0"]
    assert len(result["values"]["digests"]) == 15


# --- connectivity ------------------------------------------------------------------------------------------


def test_a_network_is_connected_with_itself_and_not_with_its_negative(setting):
    state = setting.network.state()
    assert walked(setting, state, state, 5).barrier == 0.0
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(8, generator=rng)
    turned = {**state, "fc1.weight": state["fc1.weight"][order], "fc1.bias": state["fc1.bias"][order],
              "fc2.weight": state["fc2.weight"][:, order]}  # fmt: skip
    line = walked(setting, state, turned, 5)
    # the same function at both ends, with neurons in another order
    assert line.errors[0] == line.errors[-1]
    assert line.barrier > 0.05


def test_a_barrier_is_measured_from_the_line_between_the_ends():
    assert Line(np.array([0.0, 0.5, 1.0]), np.array([0.1, 0.3, 0.2])).barrier == pytest.approx(0.15)
    assert Line(np.array([0.0, 0.5, 1.0]), np.array([0.1, 0.1, 0.2])).barrier == 0.0


def test_cka_knows_no_rotation_and_tells_others_apart():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(50, 4))
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert features.cka(one, 3.0 * one @ rotation + 5.0) == pytest.approx(1.0)
    assert features.cka(one, rng.normal(size=(50, 4))) < 0.5
    assert features.cka(one, np.ones((50, 4))) is None


def test_load_and_temperature(tmp_path):
    question = Connectivity(densities=(0.5, 0.05), dense_epochs=(1, 6), epochs=2, points=3, **QUICK)
    result = study(question, "digits-mlp", SMALL, out=tmp_path / "out")
    table = rows(result, "cells")
    assert [(row["dense epochs"], row["density"]) for row in table] == [
        ("1", 0.5), ("1", 0.05), ("6", 0.5), ("6", 0.05),
    ]  # fmt: skip
    assert table[2]["dense accuracy"] > table[0]["dense accuracy"]
    assert table[2]["error"] < table[3]["error"]
    assert all(row["barrier, points"] >= 0.0 for row in table)
    assert {plot["key"] for plot in result["plots"]} == {"load", "lines-1", "lines-6"}


# --- studies of runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trainings of one mask, another network's run, and one of structured pruning."""
    base = tmp_path_factory.mktemp("runs")
    for name, more in (("one", {"retrain": "epochs=2"}), ("two", {"retrain": "epochs=2,seed=1"}),
                       ("other", {"problem_options": {**SMALL, "epochs": 2}}),
                       ("smaller", {"coordinator": "structured", "solver": "group-swap", "density": 0.5,
                                    "coordinator_options": {"samples": 100}})):  # fmt: skip
        asked = {"problem": "digits-mlp", "density": 0.2, "solver": "magnitude", "problem_options": SMALL, **more}
        prune(PruneRequest(**asked), out=base / name)
    return base


def test_the_line_between_two_runs_is_that_of_their_trained_networks(runs, tmp_path, capsys):
    one, two = str(runs / "one"), str(runs / "two")
    code, out, _ = call(capsys, "study", "connectivity", one, two, "--points", "5", "--out", str(tmp_path / "out"))
    assert code == 0
    assert "Between them" in out
    question = Connectivity(runs=(one, two), points=5)
    found = study(question, "digits-mlp", SMALL, out=tmp_path / "again", cache=False)["values"]
    problem = make_problem("digits-mlp", SMALL)
    held = [Pruned.load(path).retrained.apply(problem.model()) for path in (one, two)]
    assert found["accuracy"] == [pytest.approx(problem.evaluate(model)["accuracy"]) for model in held]
    assert len(found["errors"]) == 5
    assert found["kept_by_both"] == 1.0
    assert 0.0 < found["distance"] < 1.0
    itself = study(Connectivity(runs=(one, one)), "digits-mlp", SMALL, out=tmp_path / "self", cache=False)["values"]
    assert (itself["barrier"], itself["distance"]) == (0.0, 0.0)
    assert itself["cka"] == pytest.approx(1.0)


def test_a_study_of_runs_takes_their_network_and_density(runs, tmp_path, capsys):
    words = ["--epochs", "1", "--samples", "100", "--out", str(tmp_path / "out")]
    assert call(capsys, "study", "allocation", str(runs / "one"), *words)[0] == 0
    request = RunDirectory.open(tmp_path / "out").request
    assert request["problem_options"] == {"hidden": [8], "epochs": 3}
    assert (request["options"]["density"], request["options"]["solvers"]) == (0.2, [])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["connectivity", "one"], "between two runs, and 1"),
        (["connectivity", "one", "other"], "name runs of one network"),
        (["connectivity", "smaller", "smaller"], "of different shapes there is no line"),
        (["connectivity", "one", "two", "--epochs", "3"], "leave it out beside runs"),
        (["oracle", "one"], "not at runs; name a problem"),
        (["robustness", "one", "--runs", "two"], "leave it out"),
        (["robustness", "one", "--option", "hidden=8"], "leave it out"),
    ],
)
def test_runs_that_a_study_cannot_take_are_refused(runs, capsys, words, match):
    err = refused(capsys, "study", *[str(runs / word) if (runs / word).is_dir() else word for word in words])
    assert match in err


def test_several_problems_are_refused(capsys):
    assert "is no run directory" in refused(capsys, "study", "connectivity", "digits-mlp", "mlpnet-mnist")


# --- plasticity --------------------------------------------------------------------------------------------


def test_plasticity_is_accuracy_after_less_before(tmp_path):
    question = Plasticity(parts=(0.0, 1.0), densities=(0.3,), ways=("magnitude", "random"), epochs=1, **QUICK)
    result = study(question, "digits-mlp", SMALL, out=tmp_path / "out")
    table = rows(result, "masks")
    assert [(row["dense training done"], row["by"]) for row in table] == [
        (0.0, "magnitude"), (0.0, "random"), (1.0, "magnitude"), (1.0, "random"),
    ]  # fmt: skip
    for row in table:
        assert row["plasticity"] == pytest.approx(100 * (row["after"] - row["before"]))
        assert row["regeneration adds"] is not None
    problem = make_problem("digits-mlp", SMALL)
    assert table[2]["before"] == pytest.approx(problem.evaluate(problem.model())["accuracy"])
    # from the initialisation training gains, from the end pruning costs
    assert table[0]["plasticity"] > 0 > table[3]["plasticity"]


# --- what is refused, and what is shown --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "options", "words"),
    [
        ("allocation", ["--solvers", "magnitude"], "compared with"),
        ("allocation", ["--epochs", "0"], "choose numbers from 1"),
        ("allocation", ["--masks", "3"], "no option --masks"),
        ("robustness", ["--solvers", "nothing"], "nothing"),
        ("robustness", ["--epochs", "-1"], "choose numbers from 0"),
        ("robustness", ["--runs", "nowhere"], "run.json is missing"),
        ("connectivity", ["--epochs", "1", "2"], "takes one value"),
        ("connectivity", ["--points", "2"], "choose numbers from 3"),
        ("connectivity", ["--densities", "0.5", "0.5"], "twice"),
        ("connectivity", ["--densities", "1.5"], "at most 1"),
        ("connectivity", ["--dense-epochs", "0"], "choose numbers from 1"),
        ("plasticity", ["--parts", "1.5"], "parts from 0 to 1"),
        ("plasticity", ["--ways", "obd"], "choose among magnitude"),
        ("plasticity", ["--protocol", "seed=3"], "study says itself"),
    ],
)
def test_bad_requests_are_refused_before_work(question, options, words, capsys, tmp_path):
    out = tmp_path / "out"
    said = refused(capsys, "study", question, "digits-mlp", *options, "--out", out, "--quiet")
    assert words in said
    assert not (out / "run.json").exists()


def test_a_study_without_masks_and_runs_of_one_name_are_refused():
    with pytest.raises(InvalidInput, match="no mask to look at"):
        Robustness(solvers=())
    with pytest.raises(InvalidInput, match="two runs are called first"):
        Robustness(runs=("a/first", "b/first"))


def test_a_published_checkpoint_has_no_dense_training(capsys, tmp_path):
    said = refused(capsys, "study", "plasticity", "mlpnet-mnist", "--out", tmp_path / "out", "--quiet")
    assert "weights=train" in said


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_of_a_problem_without_a_network_is_refused(name, capsys, tmp_path):
    assert "has none" in refused(capsys, "study", name, "planted", "--out", tmp_path / "out", "--quiet")


def test_the_pq_index_is_drawn_against_the_density_before_each_pruning(tmp_path, capsys):
    out = tmp_path / "rounds"
    asked = ["--option", "hidden=8", "--option", "epochs=3", "--coordinator", "rounds", "--rounds", "3", "--train"]
    command = ["prune", "digits-mlp", "--density", "0.2", *asked, "epochs=1", "--solver", "magnitude"]
    assert call(capsys, *command, "--out", out, "--quiet")[0] == 0
    (run,) = gather([out]).runs
    drawn = pq_index((run,))
    assert len(drawn.figures) == 2
    (series,) = drawn.figures[0].series
    kept = [event["kept"] / 592 for event in run.events if event["kind"] == "prune"]
    np.testing.assert_allclose(series.x, [1.0, *kept[:-1]])
    assert ((series.y > 0.0) & (series.y < 1.0)).all()
    assert pq_index(()) is None
