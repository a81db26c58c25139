"""Multi-stage pruning, batch-norm statistics, and the networks and loaders they need."""

import itertools
import json

import numpy as np
import pytest
import torch

from prunebench import make_problem
from prunebench.coordinators.multi_stage.coordinator import MultiStageOptions
from prunebench.coordinators.schedules import SCHEDULES, densities
from prunebench.core.errors import Interrupted, InvalidInput, MissingData, UnknownName
from prunebench.core.recovery import Division
from prunebench.networks import checkpoints
from prunebench.networks.classification import cross_entropy
from prunebench.networks.convolutional import cifar_resnet, filled, mobilenet_v1, prunable_weights, resnet50
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples
from prunebench.recovery.batch_norm import reestimate_batch_norm
from prunebench.recovery.movable import MovableNetwork
from prunebench.runs.prune import PruneRequest, prune, resume

QUICK = {"stages": 3, "samples": 300, "held_out": 200}
SETTLED = ("batch-norm", "settle:samples=300,between=1,rounds=2")


def request(**changes):
    options = {**QUICK, **changes.pop("coordinator_options", {})}
    return PruneRequest(
        **{"problem": "digits-mlp", "density": 0.2, "solver": "admm", "coordinator": "multi-stage"}
        | {"recover": SETTLED if changes.get("mode") != "select" else None}
        | changes,
        coordinator_options=options,
    )


def events(path):
    return [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_falls_from_the_first_to_exactly_the_last_density(name):
    found = densities(name, 0.8, 0.1, 6)
    assert len(found) == 6
    assert found[-1] == 0.1
    assert all(a >= b for a, b in itertools.pairwise(found))
    assert found[0] == pytest.approx(0.1 if name == "constant" else 0.8)


def test_a_single_stage_has_the_last_density_alone():
    assert densities("geometric", 0.5, 0.02, 1) == [0.02]


def test_an_unknown_schedule_is_an_error_with_the_nearest_match():
    with pytest.raises(UnknownName, match="polynomial"):
        MultiStageOptions(schedule="polynomal")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": 0}, "stages is 0"),
        ({"start_density": 1.5}, "start_density is 1.5"),
        ({"ridges": (1.0,), "gradient_scales": ()}, "as many of each"),
        ({"ridges": (0.0,), "gradient_scales": (0.0,)}, "ridges"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(InvalidInput, match=words):
        MultiStageOptions(**options)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, prune(request(), out=out)


def test_the_density_asked_for_is_kept_exactly(pruned):
    _, result = pruned
    assert result["kept"] == round(0.2 * result["total"])


def test_every_stage_logs_density_objectives_true_loss_accuracy_and_seconds(pruned):
    for event in events(pruned[0]):
        assert {"density", "true_before", "true_after", "seconds"} <= set(event)
        assert {"accuracy", "loss"} <= set(event["validation"])
        assert ({"model_before", "model_after"} <= set(event)) == (event["kind"] == "prune")


def test_the_model_with_the_lowest_held_out_loss_is_taken(pruned):
    for event in events(pruned[0]):
        if event["kind"] == "prune":
            assert event["true_after"] == min(event["held_out_losses"].values())


def test_settling_never_raises_the_held_out_loss(pruned):
    for event in events(pruned[0]):
        if event["kind"] == "settle" and event["accepted"]:
            assert event["true_after"] < event["true_before"]


def test_it_beats_one_shot_magnitude_pruning(pruned, tmp_path):
    one = prune(PruneRequest(problem="digits-mlp", density=0.2, solver="magnitude"), out=tmp_path / "one")
    assert pruned[1]["accuracy"] > one["accuracy"]


def test_a_run_that_is_interrupted_and_resumed_ends_as_an_uninterrupted_one(pruned, tmp_path, monkeypatch):
    from prunebench.coordinators.multi_stage import coordinator

    finish, calls = coordinator.MultiStage._finish, []

    def interrupted(self, stage, block):
        calls.append(stage)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return finish(self, stage, block)

    monkeypatch.setattr(coordinator.MultiStage, "_finish", interrupted)
    with pytest.raises(Interrupted):
        prune(request(), out=tmp_path / "run")
    monkeypatch.setattr(coordinator.MultiStage, "_finish", finish)
    result = resume(tmp_path / "run")
    assert (result["accuracy"], result["loss"]) == (pruned[1]["accuracy"], pruned[1]["loss"])


FALLING = {"densities": (0.5, 0.3, 0.2)}
FOLLOW = "follow:steps=6,samples=50"


def followed_request(**changes):
    asked = {"coordinator_options": FALLING, "solver": "obd", "mode": "refit", "recover": ("batch-norm", FOLLOW)}
    return request(**asked | changes)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "followed"
    return out, prune(followed_request(validate_every=1), out=out)


def test_small_steps_lower_the_held_out_loss_after_every_stage(followed):
    found = events(followed[0])
    assert [event["kind"] for event in found] == ["prune", "follow"] * 3
    assert [event["density"] for event in found[::2]] == pytest.approx([0.5, 0.3, 0.2], abs=1e-3)
    for pruned, moved in zip(found[::2], found[1::2], strict=True):
        assert moved["true_before"] == pruned["true_after"]
        assert moved["true_after"] <= moved["true_before"]
    assert found[-1]["true_after"] < 0.97 * found[-1]["true_before"]
    assert followed[1]["kept"] == round(0.2 * followed[1]["total"])


def test_small_steps_are_taken_again_as_they_were(followed, tmp_path):
    result = prune(followed_request(), out=tmp_path / "again")
    assert result["loss"] == followed[1]["loss"]


def test_small_steps_are_only_taken_where_they_are_asked_for(tmp_path):
    for number, late in enumerate((f"{FOLLOW},below=0.25", f"{FOLLOW},between=0")):
        prune(followed_request(recover=(late,)), out=tmp_path / str(number))
        assert [event["kind"] for event in events(tmp_path / str(number))] == ["prune", "prune", "prune", "follow"]


@pytest.mark.parametrize(
    ("given", "words"),
    [((0.3, 0.5, 0.2), "at most the one before"), ((0.5, 0.3), "densities end with 0.3"), ((1.2, 0.2), "above 0")],
)
def test_densities_that_rise_or_end_elsewhere_are_refused(given, words, tmp_path):
    with pytest.raises(InvalidInput, match=words):
        prune(request(coordinator_options={"densities": given}), out=tmp_path / "run")


def test_a_select_solver_prunes_in_stages_too(tmp_path):
    result = prune(request(mode="select", solver="obd"), out=tmp_path / "run")
    assert result["kept"] == round(0.2 * result["total"])


def test_fewer_samples_than_asked_for_is_an_error_before_work_begins(tmp_path):
    with pytest.raises(InvalidInput, match="more than the 1347 calibration samples"):
        prune(request(coordinator_options={"samples": 5000}), out=tmp_path / "run")


def test_a_problem_without_a_network_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="is no network"):
        prune(request(problem="planted"), out=tmp_path / "run")


class _Small:
    """Convolution, batch norm and linear layer on random images."""

    name = "small"

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(144, 3),
        )
        for parameter in self.net.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        self.samples = TensorSamples(
            2.0 + torch.randn(60, 3, 8, 8, generator=generator), torch.randint(3, (60,), generator=generator)
        )
        self.loss = staticmethod(cross_entropy)

    def calibration(self):
        return self.samples


def test_reestimated_batch_norm_statistics_are_those_of_the_samples():
    small = _Small()
    small.net.eval()
    positions = np.arange(60)
    reestimate_batch_norm(small.net, small.samples, positions, batch_size=60)
    outputs = small.net[0](small.samples.inputs)
    assert small.net[1].running_mean == pytest.approx(outputs.mean(dim=(0, 2, 3)).detach(), rel=1e-4)
    assert not small.net[1].training
    assert small.net[1].momentum == 0.1


def test_batch_norm_statistics_follow_the_weights_and_stay_where_the_weights_stay():
    small = _Small()
    network = PrunableNetwork(small.net, ("0.weight",))
    given = small.net[1].running_mean.clone()
    stages = MovableNetwork(small, network, Division.of(60, 0))
    stages.track(np.arange(60))
    dense = network.weights()
    stages.place(dense)
    assert small.net[1].running_mean == pytest.approx(given, abs=1e-6)
    stages.place(2.0 * dense)
    assert not torch.allclose(small.net[1].running_mean, given, atol=1e-2)
    stages.place(dense)
    assert small.net[1].running_mean == pytest.approx(given, abs=1e-6)


def test_a_gradient_that_is_not_a_number_names_the_layer():
    small = _Small()
    small.samples.inputs[7, 0, 0, 0] = float("nan")
    stages = MovableNetwork(small, PrunableNetwork(small.net, ("0.weight", "4.weight")), Division.of(60, 0))
    with pytest.raises(InvalidInput, match=r"0\.weight"):
        stages.rows(np.arange(10), 1)


def test_the_networks_have_the_published_numbers_of_prunable_weights():
    def count(model, **options):
        held = dict(model.named_parameters())
        return sum(held[name].numel() for name in prunable_weights(model, **options))

    assert count(cifar_resnet(3, "projection", "fc"), downsample=False) == 268_336
    assert count(cifar_resnet(3, "pad", "linear")) == 268_336
    assert count(mobilenet_v1()) == 4_209_088
    assert count(resnet50()) == 25_502_912


@pytest.mark.parametrize("build", [mobilenet_v1, resnet50])
def test_the_imagenet_networks_give_one_logit_a_class(build):
    model = build(5)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = torch.full_like(tensor, 0.01) if tensor.is_floating_point() else torch.zeros_like(tensor)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 5)


def test_building_a_network_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    cifar_resnet(3, "pad", "linear")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_checkpoint_whose_shapes_do_not_fit_is_named(tmp_path):
    model = cifar_resnet(3, "pad", "linear")
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state["linear.weight"] = torch.zeros(7, 64)
    checkpoints.write_state(tmp_path / "w.safetensors", state)
    with pytest.raises(InvalidInput, match=r"resnet20.*'linear.weight' has shape \(7, 64\)"):
        filled(model, tmp_path / "w.safetensors", "resnet20")


def test_a_checkpoint_without_batch_counters_is_accepted(tmp_path):
    model = cifar_resnet(3, "pad", "linear")
    state = {name: torch.zeros_like(t) for name, t in model.state_dict().items() if "num_batches" not in name}
    checkpoints.write_state(tmp_path / "w.safetensors", state)
    assert float(filled(model, tmp_path / "w.safetensors", "resnet20").conv1.weight.detach().abs().sum()) == 0.0


@pytest.mark.needs_data("resnet20-cifar10")
@pytest.mark.parametrize(("variant", "accuracy"), [("chita", 0.9085), ("akamaster", 0.9164)])
def test_the_published_resnet20_has_its_accuracy(variant, accuracy):
    problem = make_problem("resnet20-cifar10", {"variant": variant})
    assert problem.evaluate(problem.model())["accuracy"] == pytest.approx(accuracy, abs=1e-3)


@pytest.fixture
def imagenet(tmp_path):
    """Two classes of three images each, and a MobileNetV1 for them."""
    image = pytest.importorskip("PIL.Image", reason="reading image files needs pillow: pip install pillow")
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("n01", "n02"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
                image.fromarray(pixels).save(tmp_path / part / label / f"{number}.png")
    model = mobilenet_v1(2)
    state = {n: torch.zeros_like(t) if "mean" in n else torch.ones_like(t) for n, t in model.state_dict().items()}
    checkpoints.write_state(tmp_path / "w.safetensors", state)
    return tmp_path


def test_a_folder_of_images_is_read_in_the_layout_of_torchvision(imagenet):
    problem = make_problem(
        "mobilenetv1-imagenet", {"images": str(imagenet), "weights": str(imagenet / "w.safetensors")}
    )
    inputs, labels = problem.calibration().batch(np.arange(6))
    assert inputs.shape == (6, 3, 224, 224)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert 0.0 <= problem.evaluate(problem.model())["accuracy"] <= 1.0


@pytest.mark.parametrize("name", ["mobilenetv1-imagenet", "resnet50-imagenet"])
def test_what_is_missing_of_imagenet_is_said_with_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEBENCH_DATA", str(tmp_path))
    problem = make_problem(name)
    assert "--option images=DIR" in problem.missing()
    assert "--option weights=FILE" in problem.missing()
    with pytest.raises(MissingData):
        problem.model()
