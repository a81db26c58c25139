"""A landscape stands at one point: a tried move writes the weights that move, and no others."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from prunebench.coordinators.icbs.coordinator import ICBS
from prunebench.coordinators.icbs.options import ICBSOptions
from prunebench.core.errors import InvalidInput
from prunebench.curvature.landscape import NetworkLandscape
from prunebench.curvature.linear_passes import send
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples
from prunebench.solving import solve

SAMPLES = 30


class Problem:
    """What a landscape needs of a problem."""

    name = "squares"

    def __init__(self, shape):
        made = torch.Generator().manual_seed(1)
        self.samples = TensorSamples(torch.randn(SAMPLES, *shape, generator=made), torch.zeros(SAMPLES))

    def calibration(self):
        return self.samples

    @staticmethod
    def loss(outputs, _targets):
        return outputs.flatten(1).square().mean(dim=1)


class Writes(TorchDispatchMode):
    """Counts the elements that are written to a network's prunable parameters."""

    def __init__(self, network):
        super().__init__()
        self.storages = {parameter.untyped_storage().data_ptr() for parameter in network.parameters}
        self.elements = 0

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name.endswith("_") and args[0].untyped_storage().data_ptr() in self.storages:
            self.elements += args[2].numel() if name == "index_put_" else args[0].numel()
        return out


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(240, 250), nn.ReLU(), nn.Linear(250, 160, bias=False))
    return NetworkLandscape(Problem((240,)), PrunableNetwork(model, ("0.weight", "2.weight")))


@pytest.fixture
def landscape(made):
    """100,000 weights in two layers, at their dense values."""
    made.place(made.dense_weights)
    return made


def convolutional(dtype):
    """Weights that do not lie in memory in the order in which they are counted."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)).to(dtype=dtype)
    model[0].to(memory_format=torch.channels_last)
    return PrunableNetwork(model, ("0.weight", "2.weight"))


def test_a_tried_move_writes_as_many_weights_as_move_and_puts_them_back(landscape):
    network, positions = landscape.network, np.arange(SAMPLES)
    before, loss = network.weights(), landscape.loss(positions)
    with Writes(network) as placed:
        landscape.place(landscape.dense_weights)
    assert placed.elements == network.total == 100_000
    indices = np.random.default_rng(0).choice(network.total, 1000, replace=False)
    with Writes(network) as written, landscape.moved(indices, np.zeros(1000)):
        assert landscape.loss(positions) < loss
    assert written.elements == 2 * 1000
    np.testing.assert_array_equal(network.weights(), before)
    assert landscape.loss(positions) == loss


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_some_weights_are_written_as_all_would_be(dtype):
    some, whole = convolutional(dtype), convolutional(dtype)
    rng = np.random.default_rng(3)
    indices, values = rng.choice(some.total, 50, replace=False), rng.standard_normal(50)
    everything = whole.weights()
    everything[indices] = values
    whole.assign(everything)
    before = some.read(indices)
    some.write(indices, values)
    for changed, assigned in zip(some.parameters, whole.parameters, strict=True):
        assert torch.equal(changed, assigned)
    some.write(indices, before)
    for restored, given in zip(some.parameters, convolutional(dtype).parameters, strict=True):
        assert torch.equal(restored, given)


def test_weights_that_cannot_be_written_are_refused_before_any_is():
    network = convolutional(torch.float32)
    before = network.weights()
    for indices, values, error in [
        ([0, 1], [1.0, np.nan], InvalidInput),
        ([0, 1], [1.0], InvalidInput),
        ([0, network.total], [1.0, 1.0], IndexError),
        ([-1, 0], [1.0, 1.0], IndexError),
    ]:
        with pytest.raises(error):
            network.write(np.array(indices), np.array(values))
    np.testing.assert_array_equal(network.weights(), before)


def test_a_move_that_is_tried_is_undone_even_if_it_fails(landscape):
    before = landscape.network.weights()

    with pytest.raises(KeyboardInterrupt), landscape.moved(np.arange(9), np.ones(9)):
        raise KeyboardInterrupt
    np.testing.assert_array_equal(landscape.network.weights(), before)
    assert landscape.stands_at(landscape.point)


def test_a_landscape_that_somebody_wrote_to_does_not_stand_where_it_stood(landscape):
    def by_whole():
        landscape.network.assign(landscape.dense_weights)

    def inside_a_move():
        with landscape.moved(np.arange(3), np.ones(3)):
            by_whole()

    def before_a_move():
        by_whole()
        with landscape.moved(np.arange(3), np.ones(3)):
            pass

    def by_torch():
        with torch.no_grad():
            landscape.network.model[0].weight[0, 0] += 1.0

    for disturb in (by_whole, inside_a_move, before_a_move, by_torch):
        point = landscape.place(landscape.dense_weights)
        assert landscape.stands_at(point)
        disturb()
        assert not landscape.stands_at(point)


def begun(landscape, **more):
    options = ICBSOptions(steps=3, samples=8, accept_samples=8, block_size=32, blocks_per_step=2, **more)
    return ICBS(landscape, 0.5, "select", options, seed=0)


def step(coordinator, between=lambda: None):
    for task in coordinator.ask(2):
        between()
        move = coordinator.tell(task, solve(task.block, "swap", seed=0))
    between()
    return move


def test_a_step_whose_answers_are_rejected_writes_what_it_tried_and_no_more(landscape, monkeypatch):
    coordinator, losses = begun(landscape), []

    def rising(positions):
        losses.append(1e6 + len(losses))
        return losses[-1]

    monkeypatch.setattr(landscape, "loss", rising)
    for _ in range(2):
        with Writes(landscape.network) as written:
            move = step(coordinator)
        assert move.predicted_change < 0.0
        assert not move.accepted
        # both blocks, one of them, and its swaps halved three times
        assert 2 * 2 * 32 < written.elements <= 2 * (2 * 32 + 4 * 32)


def test_an_answer_that_is_applied_writes_its_own_weights_and_the_next_step_none(landscape):
    coordinator = begun(landscape, accept="none")
    step(coordinator)
    with Writes(landscape.network) as written:
        step(coordinator)
    assert 0 < written.elements <= 2 * 32
    np.testing.assert_array_equal(landscape.network.weights(np.float32), coordinator.weights)


def test_a_view_makes_passes_for_the_layers_it_is_asked_for_and_no_others(landscape, monkeypatch):
    passes = []

    def noted(model, modules, *rest, **more):
        passes.append(sorted(modules))
        return send(model, modules, *rest, **more)

    whole = landscape.look(np.arange(SAMPLES)).gradient
    monkeypatch.setattr("prunebench.curvature.view_passes.send", noted)
    view = landscape.look(np.arange(SAMPLES))
    second = landscape.layers[1]
    inside, across = np.arange(second.start, second.stop), np.array([7, second.start, 3])
    np.testing.assert_array_equal(view.slope(inside), whole[inside])
    columns = view.factors([inside[:40]])[0]
    assert passes == [["2.weight"]]
    np.testing.assert_array_equal(view.slope(across), whole[across])
    assert passes == [["2.weight"], ["0.weight"]]
    np.testing.assert_array_equal(view.gradient, whole)
    assert len(passes) == 2
    np.testing.assert_array_equal(landscape.look(np.arange(SAMPLES)).factors([inside[:40]])[0], columns)


def test_fewer_samples_go_through_together_where_activations_would_not_fit(landscape, monkeypatch):
    positions = np.arange(SAMPLES)
    whole = landscape.look(positions)
    monkeypatch.setattr("prunebench.curvature.landscape.PASS_BYTES", 20_000)
    assert 1 < landscape.at_once(positions) < SAMPLES
    parts = landscape.look(positions)
    np.testing.assert_allclose(parts.gradient, whole.gradient, rtol=1e-4, atol=1e-9)
    columns = np.arange(0, landscape.network.total, 999)
    np.testing.assert_allclose(parts.factor(columns), whole.factor(columns), rtol=1e-4, atol=1e-9)


def test_what_others_write_between_and_within_steps_changes_no_step(landscape):
    def disturb():
        landscape.network.assign(np.zeros(landscape.network.total))

    runs = []
    for between in (lambda: None, disturb):
        coordinator = begun(landscape, evaluate=True)
        moves = [step(coordinator, between) for _ in range(3)]
        runs.append([(move.accepted, move.details["true_change"], move.details["fit_change"]) for move in moves])
    assert runs[0] == runs[1]
    assert any(accepted for accepted, *_ in runs[0])
