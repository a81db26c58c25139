"""Layers refitted to their dense outputs: what it costs to remove a weight, and what the others make up for."""

import json

import numpy as np
import pytest
import torch

from prunebench.coordinators.multi_stage.coordinator import MultiStage
from prunebench.core.errors import Interrupted, InvalidInput
from prunebench.curvature.activations import input_rows
from prunebench.curvature.drawn_labels import DrawnLabels
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples
from prunebench.recovery.layer_refit import COST_RIDGE, LayerRefit
from prunebench.recovery.refittable import groups_of, inputs_of, outputs_of, step_of
from prunebench.runs.prune import PruneRequest, prune, resume

OPTIONS = {"densities": (0.5, 0.3, 0.2), "samples": 300, "held_out": 200}


def made(*modules, inputs, names, ridge=1e-8, seed=0):
    """A network with random weights, and its refit on all inputs."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(*modules).eval()
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    network = PrunableNetwork(model, names)
    samples = TensorSamples(inputs, torch.zeros(len(inputs), dtype=torch.int64))
    return network, LayerRefit(network, samples, np.arange(len(inputs)), ridge=ridge)


def gaussian(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def request(**changes):
    options = {**OPTIONS, **changes.pop("coordinator_options", {})}
    return PruneRequest(
        **{"problem": "digits-mlp", "density": 0.2, "solver": "obd", "mode": "refit", "coordinator": "multi-stage"}
        | {"recover": ("batch-norm", "layers:samples=300")}
        | changes,
        coordinator_options=options,
    )


def test_without_pruning_nothing_moves():
    network, refit = made(
        torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3),
        inputs=gaussian(80, 6), names=("0.weight", "2.weight"),
    )  # fmt: skip
    dense = network.weights()
    assert refit.refit(np.ones(network.total, dtype=bool)) == pytest.approx(dense, abs=1e-5)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_kept_weights_take_over_what_a_pruned_copy_of_an_input_did(kind):
    if kind == "linear":
        half = gaussian(60, 3)
        layer = torch.nn.Linear(6, 4)
    else:
        half = gaussian(10, 3, 9, 9)
        layer = torch.nn.Conv2d(6, 4, 3, padding=1, stride=2)
    inputs = torch.cat([half, half], dim=1)
    network, refit = made(layer, inputs=inputs, names=("0.weight",))
    with torch.no_grad():
        outputs = network.model(inputs)
    mask = np.ones(layer.weight.shape, dtype=bool)
    mask[:, 3:] = False
    mask = mask.reshape(-1)
    network.assign(network.weights() * mask)
    weights = refit.refit(mask)
    assert not weights[~mask].any()
    with torch.no_grad():
        assert torch.allclose(network.model(inputs), outputs, atol=1e-3)


def test_a_later_layer_makes_up_for_what_an_earlier_one_lost():
    inputs = gaussian(300, 8)
    network, refit = made(
        torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4), inputs=inputs, names=("0.weight", "2.weight")
    )
    with torch.no_grad():
        outputs = network.model(inputs)
    dense = network.weights()
    mask = np.ones(network.total, dtype=bool)
    mask[np.argsort(np.abs(dense[:48]))[:24]] = False
    network.assign(dense * mask)

    def error():
        with torch.no_grad():
            return float(((network.model(inputs) - outputs) ** 2).mean())

    both = refit.refit(mask)
    with_both = error()
    # the second layer as it was
    network.assign(np.concatenate([both[:48], dense[48:]]))
    assert with_both < 0.9 * error()


def test_the_cost_of_a_weight_is_the_rise_when_its_row_is_refitted_without_it():
    inputs = gaussian(100, 5)
    network, refit = made(torch.nn.Linear(5, 2, bias=False), inputs=inputs, names=("0.weight",))
    weights = network.weights()
    mask = np.array([True] * 7 + [False] + [True] * 2)
    network.assign(weights * mask)
    scales = np.array([3.0, 0.5])
    gram = (inputs.T @ inputs / 100).double().numpy()
    trace = gram.trace()
    ridged = gram + COST_RIDGE * trace / 5 * np.eye(5)
    curvature = np.outer(scales, gram.diagonal()).reshape(-1)
    costs = refit.costs(mask, curvature)
    for row in range(2):
        kept = np.flatnonzero(mask[5 * row : 5 * row + 5])
        for j in kept:
            others = [i for i in kept if i != j]
            # minimum over the others' moves of ½ m'Hm with m_j = −1
            schur = ridged[j, j] - ridged[j, others] @ np.linalg.solve(
                ridged[np.ix_(others, others)], ridged[others, j]
            )
            assert costs[5 * row + j] == pytest.approx(scales[row] * schur, rel=1e-4)
    assert 0.0 < costs[7] < 1e-6 * costs.max()


def test_input_rows_of_every_second_place_belong_to_every_second_output():
    layer = torch.nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False)
    images = gaussian(4, 2, 14, 14)
    with torch.no_grad():
        rows = input_rows(layer, images, step=2) @ layer.weight.reshape(3, -1).T
        outputs = layer(images)[:, :, ::2, ::2].permute(0, 2, 3, 1).reshape(-1, 3)
    assert torch.allclose(rows, outputs, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Conv2d(6, 6, 3, padding=1, groups=6), (20, 3, 9, 9)),
        (torch.nn.Conv2d(6, 4, 3, padding=1, stride=2, groups=2, padding_mode="circular"), (20, 3, 19, 19)),
        (torch.nn.Conv1d(6, 5, 4, padding="same", dilation=2), (20, 3, 80)),
        (torch.nn.Conv3d(6, 4, 2, stride=2), (20, 3, 12, 10, 12)),
    ],
    ids=["depthwise", "grouped, circular", "one dimension", "three dimensions"],
)
def test_rows_and_outputs_of_every_convolution_belong_together(layer, shape):
    images = torch.cat([gaussian(*shape), gaussian(*shape, seed=2)], dim=1)
    with torch.no_grad():
        outputs = layer(images)
        step = step_of(layer, outputs)
        rows, expected = inputs_of(layer, images, step), outputs_of(layer, outputs)
        table = layer.weight.reshape(groups_of(layer), -1, rows.shape[-1])
        bias = layer.bias.reshape(groups_of(layer), 1, -1)
        assert torch.allclose(rows @ table.transpose(1, 2) + bias, expected, atol=1e-4)


def test_a_depthwise_layer_makes_up_for_what_it_lost_and_what_cannot_be_refitted_stays_and_is_told():
    inputs = gaussian(40, 4, 9, 9).cumsum(dim=-1)  # neighbours say nearly the same
    modules = (
        torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.ReLU(), torch.nn.ConvTranspose2d(4, 2, 2), torch.nn.Flatten(),
        torch.nn.Linear(128, 3),
    )  # fmt: skip
    names = ("0.weight", "2.weight", "4.weight")
    network, refit = made(*modules, inputs=inputs, names=names, ridge=0.01)
    (left,) = refit.left
    assert (left.names, left.weights) == (("2.weight",), 32)
    assert "not the weight of a linear layer or a convolution" in left.reason
    dense = network.weights()
    mask = np.ones(dense.size, dtype=bool)
    mask[:36].reshape(4, 9)[:, ::3] = False
    with torch.no_grad():
        before = modules[0](inputs)
        network.assign(dense * mask)
        pruned = float((modules[0](inputs) - before).square().mean())
        weights = refit.refit(mask)
        assert float((modules[0](inputs) - before).square().mean()) < 0.8 * pruned
    assert not weights[~mask].any()
    assert weights[36:68] == pytest.approx(dense[36:68], abs=0)
    curvature = np.linspace(1.0, 2.0, dense.size)
    assert refit.costs(mask, curvature)[36:68] == pytest.approx(curvature[36:68])


class _Twice(torch.nn.Module):
    """A linear layer that is called two times."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, inputs):
        return self.layer(torch.relu(self.layer(inputs)))


def test_a_layer_that_is_used_twice_is_refused():
    with pytest.raises(InvalidInput, match=r"'0.layer.weight' is used twice"):
        made(_Twice(), inputs=gaussian(9, 4), names=("0.layer.weight",))


def test_a_parameter_that_is_no_layers_weight_is_refused():
    with pytest.raises(InvalidInput, match=r"'0.bias' is not the weight"):
        made(torch.nn.Linear(4, 4), inputs=gaussian(9, 4), names=("0.bias",))


def test_inputs_with_nan_name_the_layer():
    network, refit = made(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2), inputs=gaussian(9, 4), names=("1.weight",))
    network.model[0].bias.data[0] = float("nan")
    with pytest.raises(InvalidInput, match=r"'1.weight' hold NaN"):
        refit.refit(np.ones(8, dtype=bool))


@pytest.fixture(scope="module")
def refitted(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "refitted"
    return out, prune(request(), out=out)


def test_a_run_keeps_its_density_and_no_weight_comes_back(refitted):
    events = [json.loads(line) for line in (refitted[0] / "events.jsonl").read_text().splitlines()]
    assert refitted[1]["kept"] == round(0.2 * refitted[1]["total"])
    assert [event["kind"] for event in events] == ["prune", "layers"] * 3
    assert [event["came_back"] for event in events[::2]] == [0, 0, 0]
    assert all(event["true_after"] <= event["true_before"] for event in events[1::2])
    assert events[-1]["true_after"] < 0.9 * events[-1]["true_before"]


def test_the_same_seed_gives_the_same_run(refitted, tmp_path):
    assert prune(request(), out=tmp_path / "again")["loss"] == refitted[1]["loss"]


def test_a_run_that_is_interrupted_and_resumed_refits_to_the_dense_outputs_all_the_same(
    refitted, tmp_path, monkeypatch
):
    finish, calls = MultiStage._finish, []

    def interrupted(self, step, block):
        calls.append(step)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return finish(self, step, block)

    monkeypatch.setattr(MultiStage, "_finish", interrupted)
    with pytest.raises(Interrupted):
        prune(request(), out=tmp_path / "run")
    monkeypatch.setattr(MultiStage, "_finish", finish)
    assert resume(tmp_path / "run")["loss"] == refitted[1]["loss"]


def test_mode_select_and_layer_refits_exclude_each_other(tmp_path):
    with pytest.raises(InvalidInput, match="recovery layers moves weights"):
        prune(request(mode="select"), out=tmp_path / "run")


def test_more_samples_than_there_are_to_refit_on_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="layers: samples is 5000"):
        prune(request(recover=("layers:samples=5000",)), out=tmp_path / "run")


def test_drawn_labels_follow_the_networks_own_predictions():
    network, _ = made(torch.nn.Linear(4, 3), inputs=gaussian(9, 4), names=("0.weight",))
    inputs = gaussian(1, 4).repeat(4000, 1)
    drawn = DrawnLabels(TensorSamples(inputs, torch.zeros(4000)), network, np.random.default_rng(0), 2.0)
    labels = torch.cat([drawn.batch(np.arange(start, start + 500))[1] for start in range(0, 4000, 500)])
    with torch.no_grad():
        shares = torch.softmax(network.model(inputs[:1])[0] / 2.0, dim=0)
    assert torch.bincount(labels, minlength=3) / 4000 == pytest.approx(shares, abs=0.03)
    assert torch.equal(drawn.batch(np.arange(100, 130))[1], labels[100:130])


def test_labels_cannot_be_drawn_from_outputs_that_are_no_logits():
    network, _ = made(torch.nn.Linear(4, 3), inputs=gaussian(9, 4), names=("0.weight",))
    network.model[0].bias.data[0] = float("inf")
    drawn = DrawnLabels(TensorSamples(gaussian(9, 4), torch.zeros(9)), network, np.random.default_rng(0), 1.0)
    with pytest.raises(InvalidInput, match="labels cannot be drawn"):
        drawn.batch(np.arange(9))
