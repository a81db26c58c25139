import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench import PROBLEMS, make_problem, make_solver, solve
from prunebench.core.errors import InvalidInput, MissingData, UnknownName
from prunebench.core.options import as_json, options_of
from prunebench.core.problem import BlockSetProblem, NetworkProblem
from prunebench.networks.checkpoints import write_state
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.training import dense_network

NETWORKS = ("digits-mlp", "mlpnet-mnist", "garment-fashion-mnist")
TOTALS = {"digits-mlp": 64 * 32 + 32 * 10, "mlpnet-mnist": 32_360, "garment-fashion-mnist": 668_672}
QUICK = {"epochs": 2, "hidden": (8,)}


def all_masks(p, keep):
    masks = ((np.arange(2**p)[:, None] >> np.arange(p)) & 1).astype(bool)
    return masks[masks.sum(axis=1) == keep]


def test_the_four_problems_are_registered():
    assert {*NETWORKS, "planted"} <= set(PROBLEMS.names())


@pytest.mark.parametrize("name", [*NETWORKS, "planted"])
def test_every_problem_is_complete_and_every_option_documented(name):
    problem = make_problem(name)
    assert isinstance(problem, BlockSetProblem if name == "planted" else NetworkProblem)
    assert all(option.doc for option in options_of(type(problem)))
    assert type(problem)(**as_json(problem)) == problem
    assert pickle.loads(pickle.dumps(problem)) == problem


# The digits MLP


def test_digits_mlp_is_as_accurate_as_the_held_out_images_allow():
    problem = make_problem("digits-mlp")
    measures = problem.evaluate(problem.model())
    assert measures["accuracy"] > 0.96
    assert measures["loss"] < 0.15


def test_digits_split_keeps_the_share_of_every_digit_and_shares_no_image():
    problem = make_problem("digits-mlp")
    (train, train_labels), (test, test_labels) = (
        samples.batch(np.arange(len(samples))) for samples in (problem.calibration(), problem.validation())
    )
    assert (len(train), len(test)) == (1347, 450)
    shares = np.bincount(test_labels) / (np.bincount(test_labels) + np.bincount(train_labels))
    assert np.abs(shares - 0.25).max() < 0.01
    assert train.max() <= 1.0
    assert len({row.tobytes() for row in train.numpy()} & {row.tobytes() for row in test.numpy()}) == 0


def test_digits_training_repeats_exactly_whatever_the_global_seed_and_the_threads(monkeypatch, tmp_path):
    states = []
    threads = torch.get_num_threads()
    for attempt in range(2):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(attempt)))
        torch.manual_seed(attempt)
        torch.set_num_threads(1 + attempt)
        states.append(make_problem("digits-mlp", QUICK).model().state_dict())
        assert torch.get_num_threads() == 1 + attempt
    torch.set_num_threads(threads)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_digits_training_leaves_the_global_random_state_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = torch.random.get_rng_state()
    make_problem("digits-mlp", QUICK).model()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_cached_network_is_the_trained_one_and_each_call_gives_a_new_copy(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    problem = make_problem("digits-mlp", QUICK)
    trained, cached = problem.model(), problem.model()
    assert all(torch.equal(tensor, cached.state_dict()[name]) for name, tensor in trained.state_dict().items())
    assert trained is not cached
    assert not cached.training
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_every_option_that_changes_the_network_has_its_own_cache_entry(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for change in ({}, {"seed": 1}, {"epochs": 1}, {"hidden": (9,)}):
        make_problem("digits-mlp", QUICK | change).model()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4


def test_a_broken_cache_entry_says_to_delete_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    problem = make_problem("digits-mlp", QUICK)
    problem.model()
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InvalidInput, match="delete this file of the cache"):
        problem.model()


def test_digits_prunable_parameters_are_the_weight_matrices_in_order():
    problem = make_problem("digits-mlp", {"hidden": "9, 8", "epochs": "1"})
    assert problem.prunable() == ("fc1.weight", "fc2.weight", "fc3.weight")
    assert PrunableNetwork(problem.model(), problem.prunable()).total == 64 * 9 + 9 * 8 + 8 * 10


@pytest.mark.parametrize("options", [{"hidden": (0,)}, {"epochs": 0}, {"seed": -1}, {"hidden": "32,x"}])
def test_digits_options_that_make_no_sense_are_refused(options):
    with pytest.raises(InvalidInput, match="digits-mlp"):
        make_problem("digits-mlp", options)


def test_a_misspelt_option_gets_the_nearest_match():
    with pytest.raises(UnknownName, match="did you mean 'hidden'"):
        make_problem("digits-mlp", {"hiden": "3"})


# Networks with published checkpoints


@pytest.mark.needs_data("mlpnet-mnist")
def test_mlpnet_has_its_published_accuracy():
    problem = make_problem("mlpnet-mnist")
    assert problem.evaluate(problem.model())["accuracy"] == pytest.approx(0.9397, abs=1e-9)


@pytest.mark.needs_data("garment-fashion-mnist")
def test_garment_has_its_published_accuracy_and_loss():
    problem = make_problem("garment-fashion-mnist")
    measures = problem.evaluate(problem.model())
    assert measures["accuracy"] == pytest.approx(0.8619, abs=1e-9)
    assert measures["loss"] == pytest.approx(0.3846, abs=5e-5)


@pytest.mark.needs_data("mlpnet-mnist", "garment-fashion-mnist")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_number_of_prunable_weights(name):
    problem = make_problem(name)
    assert PrunableNetwork(problem.model(), problem.prunable()).total == TOTALS[name]


@pytest.mark.needs_data("mlpnet-mnist")
def test_mlpnet_can_be_trained_without_the_checkpoint():
    problem = make_problem("mlpnet-mnist", {"weights": "train"})
    assert problem.evaluate(problem.model())["accuracy"] > 0.95


@pytest.mark.needs_data("mlpnet-mnist")
def test_evaluation_counts_what_the_network_gets_right():
    problem = make_problem("mlpnet-mnist")
    constant = dense_network((784, 10), ("fc1",))
    with torch.no_grad():
        constant.fc1.weight.zero_()
        constant.fc1.bias.copy_(torch.eye(10)[7])
    measures = problem.evaluate(constant)
    assert measures["accuracy"] == pytest.approx(0.1028, abs=1e-9)  # 1,028 of the test images are sevens
    assert measures["loss"] == pytest.approx(np.log(9 + np.e) - 0.1028, rel=1e-6)


@pytest.mark.parametrize("name", ["mlpnet-mnist", "garment-fashion-mnist"])
def test_missing_data_name_the_files_and_the_remedies_in_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEBENCH_DATA", str(tmp_path))
    text = make_problem(name).missing()
    for part in ("train-images-idx3-ubyte.gz", ".safetensors", "--data", "--option weights=train", "(10, "):
        assert part in text
    assert "\n" not in text
    assert not list(tmp_path.iterdir())


def test_a_missing_checkpoint_names_the_file_and_the_shapes(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEBENCH_DATA", str(tmp_path))
    with pytest.raises(MissingData, match=r"mlpnet_mnist_784.*fc1\.weight \(40, 784\).*--option weights=train"):
        make_problem("mlpnet-mnist").model()


def test_a_network_trained_here_does_not_miss_the_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEBENCH_DATA", str(tmp_path))
    assert "safetensors" not in make_problem("mlpnet-mnist", {"weights": "train"}).missing()


def test_weights_of_the_users_own_are_loaded_by_path(tmp_path):
    own = dense_network((784, 40, 20, 10), ("fc1", "fc2", "fc3"), bias=False)
    for parameter in own.parameters():
        torch.nn.init.constant_(parameter, 0.25)
    write_state(tmp_path / "own.safetensors", own.state_dict())
    model = make_problem("mlpnet-mnist", {"weights": str(tmp_path / "own.safetensors")}).model()
    assert all(bool((parameter == 0.25).all()) for parameter in model.parameters())


def test_weights_of_another_shape_name_the_tensor_and_both_shapes(tmp_path):
    other = dense_network((784, 41, 20, 10), ("fc1", "fc2", "fc3"), bias=False)
    write_state(tmp_path / "other.safetensors", {name: torch.zeros_like(t) for name, t in other.state_dict().items()})
    with pytest.raises(InvalidInput, match=r"mlpnet-mnist.*'fc1\.weight' has shape \(41, 784\).*\(40, 784\)"):
        make_problem("mlpnet-mnist", {"weights": str(tmp_path / "other.safetensors")}).model()


# Planted optima


@st.composite
def planted(draw):
    options = {
        "p": draw(st.integers(2, 9)),
        "n": draw(st.integers(1, 9)),
        "kind": draw(st.sampled_from(["cancel", "sparse"])),
    }
    keep = draw(st.integers(1, options["p"]))
    return make_problem("planted", options), keep / options["p"], draw(st.integers(0, 1000))


@settings(deadline=None)
@given(drawn=planted(), mode=st.sampled_from(["select", "refit"]))
def test_no_mask_is_better_than_the_planted_one(drawn, mode):
    problem, density, seed = drawn
    block = problem.block(density, mode, seed)
    mask, value = problem.optimum(density, mode, seed)
    assert block.evaluate(mask) == pytest.approx(value, rel=1e-9, abs=1e-12)
    best = min(block.evaluate(candidate) for candidate in all_masks(block.p, block.keep))
    assert best == pytest.approx(value, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(planted())
def test_a_planted_block_repeats_with_the_seed(drawn):
    problem, density, seed = drawn
    assert problem.block(density, "select", seed).hash == problem.block(density, "select", seed).hash


def test_another_seed_draws_another_planted_block():
    problem = make_problem("planted")
    assert problem.block(0.5, "select", 0).hash != problem.block(0.5, "select", 1).hash


def test_the_exhaustive_solver_finds_the_planted_optimum():
    problem = make_problem("planted", {"p": 12, "n": 6})
    solution = solve(problem.block(0.5, "select", 3), make_solver("exhaustive"))
    assert solution.objective == pytest.approx(problem.optimum(0.5, "select", 3)[1], rel=1e-9)


def test_a_large_planted_block_keeps_its_optimal_value_to_rounding():
    problem = make_problem("planted", {"p": 2000, "n": 100})
    block = problem.block(0.1, "select", 0)
    mask, value = problem.optimum(0.1, "select", 0)
    assert block.evaluate(mask) == pytest.approx(value, rel=1e-12)
    assert value == pytest.approx(0.5 * 0.01 * 1800)


@pytest.mark.parametrize("options", [{"p": 0}, {"n": "0"}, {"kind": "other"}, {"ridge": 0.0}, {"ridge": float("nan")}])
def test_planted_options_that_make_no_sense_are_refused(options):
    with pytest.raises(InvalidInput, match="planted"):
        make_problem("planted", options)


def test_a_density_that_keeps_nothing_is_refused():
    with pytest.raises(InvalidInput, match="keeps none"):
        make_problem("planted").block(0.001, "select", 0)
