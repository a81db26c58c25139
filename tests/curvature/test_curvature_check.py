"""Networks that use a weight otherwise than by calling its layer: gradients are right, layer inputs are refused."""

import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from prunebench.core.errors import InvalidInput
from prunebench.curvature.activations import counted_rows, layer_inputs
from prunebench.curvature.gradient_check import own_gradients
from prunebench.curvature.gradient_ways import ONE_BY_ONE, PASSES, way_of
from prunebench.curvature.gradients import sample_gradients
from prunebench.curvature.landscape import NetworkLandscape
from prunebench.curvature.layer_walk import LayerWalk
from prunebench.curvature.module_use import used_otherwise
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples
from prunebench.recovery.layer_refit import LayerRefit

COUNT = 7


class Tied(nn.Module):
    """An autoencoder that decodes by the encoder's weight."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(6, 4)

    def forward(self, x):
        return F.linear(torch.tanh(self.enc(x)), self.enc.weight.t())


class Held(nn.Module):
    """The same through a list, where no module names the weight."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(6, 4)
        self.out = nn.Linear(6, 6)
        self.held = [self.enc.weight]

    def forward(self, x):
        return self.out(F.linear(torch.tanh(self.enc(x)), self.held[0].t()))


class Attention(nn.Module):
    """torch's attention, with a mask of -inf: out_proj is never called."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))

    def forward(self, x):
        tokens = self.inner(x.reshape(len(x), 2, 3))
        return self.attn(tokens, tokens, tokens, attn_mask=self.mask, need_weights=False)[0].flatten(1)


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return self.inner(torch.tanh(self.inner(x)))


class Scaled(nn.Linear):
    """A linear layer in name, with a forward of its own."""

    def forward(self, x):
        return F.linear(x, self.weight - self.weight.mean(dim=1, keepdim=True), self.bias)


class Reused(nn.Module):
    """A convolution whose kernel is used once more by function, behind a batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 2, padding=1)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x):
        inner = F.dropout(self.norm(self.conv(x.reshape(len(x), 1, 2, 3))), 0.5, self.training)
        return F.conv2d(torch.tanh(inner), self.conv.weight).flatten(1)


class Head(nn.Module):
    """A word embedding that is the output head by function as well."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.mix = nn.Linear(4, 4)

    def forward(self, x):
        return F.linear(torch.tanh(self.mix(self.embed((x.abs() * 9).long() % 5).mean(dim=1))), self.embed.weight)


class Normed(nn.Module):
    """A weight that is a function of two parameters."""

    def __init__(self):
        super().__init__()
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))

    def forward(self, x):
        return torch.tanh(self.inner(x))


class Recurrent(nn.Module):
    """An LSTM and a linear layer."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        return self.out(self.lstm(x.reshape(len(x), 3, 2))[0][:, -1])


class Recomputed(nn.Module):
    """A function that is computed again in the backward pass, with a second use of the weight inside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        def inside(y):
            return F.linear(torch.relu(self.inner(y)), self.inner.weight)

        return checkpoint(inside, x, use_reentrant=False)


class Shared(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Convolved(nn.Module):
    """A plain convolution and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 3, 2), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(torch.tanh(self.conv(x.reshape(len(x), 1, 2, 3))).flatten(1))


class Unusual(nn.Module):
    """Grouped, transposed and three-dimensional weights, one of them frozen, one with its axes turned in memory."""

    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv1d(2, 4, 2, groups=2, padding=1, padding_mode="circular")
        self.transposed = nn.ConvTranspose1d(4, 2, 2, stride=2)
        self.experts = nn.Parameter(torch.randn(3, 4, 20).transpose(1, 2))
        self.grouped.weight.requires_grad_(False)

    def forward(self, x):
        held = torch.tanh(self.transposed(self.grouped(x.reshape(len(x), 2, 3)))).flatten(1)
        held = torch.cat([held, held[:, :4]], dim=1)
        which = (x[:, 0] > 0).long()
        return sum((which == number)[:, None] * (held @ self.experts[number]) for number in range(3))


ZOO = {
    "shared": (Shared, ("first.weight",), {"first"}),
    "convolved": (Convolved, ("conv.weight", "out.weight"), set()),
    "unusual": (Unusual, ("grouped.weight", "transposed.weight", "experts"), set()),
    "tied": (Tied, ("enc.weight",), {"enc"}),
    "held": (Held, ("enc.weight", "out.weight"), {"enc"}),
    "attention": (Attention, ("inner.weight", "attn.out_proj.weight"), {"attn.out_proj"}),
    "twice": (Twice, ("inner.weight",), set()),
    "scaled": (lambda: nn.Sequential(Scaled(6, 4), nn.Tanh()), ("0.weight",), {"0"}),
    "reused": (Reused, ("conv.weight",), {"conv"}),
    "head": (Head, ("embed.weight", "mix.weight"), set()),
    "normed": (Normed, ("inner.parametrizations.weight.original1",), set()),
    "recurrent": (Recurrent, ("lstm.weight_hh_l0", "out.weight"), set()),
    "recomputed": (Recomputed, ("inner.weight",), {"inner"}),
    "plain": (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), ("0.weight", "2.weight"), set()),
}
FOREIGN = [name for name, (_, _, foreign) in ZOO.items() if foreign]


def loss_of(outputs, _targets):
    return (outputs.float() ** 2 + outputs.float()).mean(dim=1)


class Problem:
    """What a landscape needs of a problem."""

    def __init__(self, samples):
        self.samples = samples

    def calibration(self):
        return self.samples

    loss = staticmethod(loss_of)


def made(name, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = ZOO[name][0]().to(dtype).train()
        x = torch.randn(COUNT, 6).to(dtype)
    return PrunableNetwork(model, ZOO[name][1]), TensorSamples(x, torch.zeros(COUNT))


def truth(network, samples):
    """One backward pass a sample through the model as it is. (n, p)"""
    model = network.model
    flags = [parameter.requires_grad for parameter in network.parameters]
    model.eval().requires_grad_(True)
    rows = []
    for i in range(COUNT):
        inputs, targets = samples.batch(np.array([i]))
        total = loss_of(model(inputs), targets)[0]
        parts = torch.autograd.grad(total, [model.get_parameter(n) for n in network.names], materialize_grads=True)
        rows.append(torch.cat([part.float().reshape(-1) for part in parts]).numpy())
    model.train()
    for parameter, flag in zip(network.parameters, flags, strict=True):
        parameter.requires_grad_(flag)
    return np.stack(rows)


def quietly(work):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return work()


def close(found, expected, part=1e-4):
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, atol=part * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", ZOO)
def test_sample_gradients_are_those_of_plain_autograd_however_a_weight_is_used(name):
    network, samples = made(name)
    flags = [parameter.requires_grad for parameter in network.model.parameters()]
    found = quietly(lambda: sample_gradients(network, loss_of, samples, np.arange(COUNT)))
    assert [parameter.requires_grad for parameter in network.model.parameters()] == flags
    close(found, truth(network, samples))


@pytest.mark.parametrize("name", ["tied", "held", "attention"])
def test_so_are_those_of_mini_batches(name):
    network, samples = made(name)
    rows = sample_gradients(network, loss_of, samples, np.arange(COUNT), batch_size=3)
    expected = truth(network, samples)[:6].reshape(2, 3, -1).mean(axis=1)
    close(rows, expected)


@pytest.mark.parametrize("name", ZOO)
def test_block_coordinate_descent_sees_the_same_columns(name):
    network, samples = made(name)
    landscape = quietly(lambda: NetworkLandscape(Problem(samples), network))
    view = quietly(lambda: landscape.look(np.arange(COUNT)))
    expected = truth(network, samples)
    close(view.factor(np.arange(network.total)) * np.sqrt(COUNT), expected)
    close(view.gradient, expected.mean(axis=0))
    assert (landscape.way.way == PASSES) == (name in ("twice", "plain", "convolved"))


def test_a_way_that_is_wrong_is_told_once_with_the_layer_and_by_how_much():
    network, samples = made("tied")
    with pytest.warns(RuntimeWarning, match=r"layer passes are not those of plain autograd \(off by .* % in 'enc"):
        sample_gradients(network, loss_of, samples, np.arange(COUNT))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_gradients(network, loss_of, samples, np.arange(COUNT))
    way = way_of(network, loss_of, samples, np.arange(COUNT))
    assert way.samples == 3
    assert list(way.rejected) == [PASSES]
    assert way.error < 1e-4


def test_a_weight_that_no_module_names_needs_the_models_own_backward_pass():
    network, samples = made("held")
    way = quietly(lambda: way_of(network, loss_of, samples, np.arange(COUNT)))
    assert way.way == ONE_BY_ONE
    assert "off by" in way.rejected["vectorised"]


def test_a_use_in_the_loss_is_seen_as_well():
    network, samples = made("plain")
    weight = network.model[0].weight

    def penalised(outputs, _targets):
        return outputs.square().mean(dim=1) + 0.5 * weight.square().sum()

    # The way that is right for one loss is not taken for another.
    unpenalised = sample_gradients(network, lambda outputs, _t: outputs.square().mean(dim=1), samples, np.arange(2))
    found = quietly(lambda: sample_gradients(network, penalised, samples, np.arange(2)))
    extra = np.concatenate([weight.detach().numpy().ravel(), np.zeros(8)])
    close(found, unpenalised + extra)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["tied", "twice", "plain"])
def test_other_precisions_are_checked_and_kept_apart_from_wrong_ways(name, dtype):
    network, samples = made(name, dtype)
    found = quietly(lambda: sample_gradients(network, loss_of, samples, np.arange(COUNT)))
    close(found, truth(network, samples), 0.05 if dtype == torch.bfloat16 else 1e-4)
    assert bool(way_of(network, loss_of, samples, np.arange(COUNT)).rejected) == (name == "tied")


def test_a_sure_network_is_not_taken_for_a_wrong_way():
    # Gradients of the sure samples are rounding; those of the unsure ones decide.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        x = torch.randn(60, 6)
    with torch.no_grad():
        model[2].weight.mul_(40)
    labels = model(x).argmax(dim=1)
    labels[17] = (labels[17] + 1) % 3
    network = PrunableNetwork(model, ("0.weight", "2.weight"))

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        way = way_of(network, loss, TensorSamples(x, labels), np.arange(60))
    assert way.error < 1e-3


def state_of(model):
    return (
        [module.training for module in model.modules()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        [(item.requires_grad, item.grad is None, item.data_ptr()) for item in model.parameters()],
        {name: item.clone() for name, item in model.state_dict().items()},
        torch.get_rng_state(),
    )


def same(before, after):
    assert before[:3] == after[:3]
    assert all(torch.equal(before[3][name], after[3][name]) for name in before[3])
    assert torch.equal(before[4], after[4])


@pytest.mark.parametrize("name", ZOO)
def test_looking_at_a_network_leaves_it_and_the_random_state_as_they_were(name):
    network, samples = made(name)
    model = network.model
    next(model.parameters()).requires_grad_(False)
    before = state_of(model)
    quietly(lambda: NetworkLandscape(Problem(samples), network))
    quietly(lambda: way_of(network, loss_of, samples, np.arange(COUNT)))
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    used_otherwise(model, linear, lambda: model(samples.inputs[:2]))
    same(before, state_of(model))


class Counting(nn.Module):
    """A network that counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_buffer_that_the_network_writes_to_is_left_as_it_was(batch_size):
    network = PrunableNetwork(Counting(), ("inner.weight",))
    samples = TensorSamples(torch.ones(COUNT, 6), torch.zeros(COUNT))
    way = way_of(network, loss_of, samples, np.arange(COUNT))
    before = float(network.model.calls)
    own_gradients(network, loss_of, samples.batch(np.arange(2)), network.names)
    assert float(network.model.calls) == before
    assert way.error < 1e-4
    rows = sample_gradients(network, loss_of, samples, np.arange(COUNT), batch_size=batch_size)
    assert np.isfinite(rows).all()


def test_padding_is_left_out_whichever_axes_a_layer_gets():
    counted = torch.tensor([[True, True, False], [True, False, False]])
    inputs = torch.arange(2 * 2 * 3 * 4.0).reshape(2, 2, 3, 4)  # samples, heads, positions, features
    rows = counted_rows("a", inputs, counted)
    expected = torch.stack([inputs[s, h, t] for s, t in ((0, 0), (0, 1), (1, 0)) for h in (0, 1)])
    assert torch.equal(rows, expected)
    flat = inputs[:, 0].reshape(6, 4)
    assert torch.equal(counted_rows("a", flat, counted), flat[[0, 1, 3]])
    assert len(counted_rows("a", torch.zeros(5, 4), torch.ones(2, 3, dtype=torch.bool))) == 5
    with pytest.raises(InvalidInput, match=r"'a' gets inputs of shape \(5, 4\) for \(2, 3\) tokens.*packing=packed"):
        counted_rows("a", torch.zeros(5, 4), counted)


def test_and_so_does_a_look_that_ends_in_an_exception():
    network, samples = made("tied")
    model = network.model
    before = state_of(model)
    calls = []

    def breaks(outputs, targets):
        calls.append(1)
        if len(calls) > 1:
            raise ArithmeticError("on purpose")
        return loss_of(outputs, targets)

    with pytest.raises(ArithmeticError):
        way_of(network, breaks, samples, np.arange(COUNT))

    def forward():
        if bool(torch.isnan(model.enc.weight).any()):
            raise ArithmeticError("on purpose")
        return model(samples.inputs)

    with pytest.raises(ArithmeticError):
        used_otherwise(model, {"enc": model.enc}, forward)
    same(before, state_of(model))


@pytest.mark.parametrize("name", ZOO)
def test_layers_whose_weights_are_used_otherwise_are_found(name):
    network, samples = made(name)
    model = network.model
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    linear = {n: m for n, m in linear.items() if f"{n}.weight" in network.names}
    assert set(used_otherwise(model, linear, lambda: model(samples.inputs[:2]))) == ZOO[name][2]


@pytest.mark.parametrize("name", FOREIGN)
def test_their_inputs_are_refused_by_name_where_only_calls_show_them(name):
    network, samples = made(name)
    (layer,) = ZOO[name][2]
    words = rf"'{re.escape(layer)}' is used otherwise .*exclude={re.escape(layer)}\.weight, or"
    with pytest.raises(InvalidInput, match=words):
        layer_inputs(network, layer, samples, np.arange(COUNT))
    # a refit leaves such a layer as it is pruned and names it; alone in a network it is refused
    found = left_by_refit(network, samples)
    assert found == [f"{layer}.weight"] or f"no layer that can be refitted: '{layer}.weight' is used otherwise" in found


def left_by_refit(network, samples):
    """The layers that a refit leaves alone, or what it says where there is no other."""
    try:
        refit = LayerRefit(network, samples, np.arange(COUNT), ridge=0.01)
    except InvalidInput as error:
        return str(error)
    return [name for held in refit.left for name in held.names]


BY_PRODUCTS = {"attention": 2, "reused": 12 + 6, "recomputed": 2, "shared": 2}
"""Networks whose products show the inputs of that layer, and how many each sample has of them."""


@pytest.mark.parametrize("name", FOREIGN)
def test_they_are_seen_at_the_products_where_the_weight_is_a_factor_of_them_alone(name):
    network, samples = made(name)
    (layer,) = ZOO[name][2]
    landscape = quietly(lambda: NetworkLandscape(Problem(samples), network))
    if name not in BY_PRODUCTS:
        words = rf"{re.escape(layer)}' is used (along different axes|otherwise than as a factor)"
        with pytest.raises(InvalidInput, match=words):
            LayerWalk(network, samples, np.arange(COUNT), dense=False)
        with pytest.raises(InvalidInput, match=rf"'{re.escape(layer)}'.*it is used"):
            landscape.input_norms(np.arange(COUNT))
        return
    walk = LayerWalk(network, samples, np.arange(COUNT), dense=False)
    number = network.names.index(f"{layer}.weight")
    group = next(place for place, members in enumerate(walk.groups) if number in members)
    held = walk.inputs(group, network.weights())
    assert held.count == COUNT * BY_PRODUCTS[name]
    norms = landscape.input_norms(np.arange(COUNT))[number]
    np.testing.assert_allclose(norms[: len(held.gram)] ** 2, held.count * held.gram.diagonal(), rtol=1e-4)


def test_rows_of_tokens_are_refused_where_layers_do_not_show_them():
    network, samples = made("tied")
    samples.rows = "token"
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(InvalidInput, match=r"sample=token.*off by.*use sample=sequence"),
    ):
        NetworkLandscape(Problem(samples), network)


def test_rows_of_sequences_weigh_the_same_whichever_way_they_are_computed():
    views = []
    for recomputed in ("twice", "scaled"):
        network, samples = made(recomputed)
        samples.row_weight = 5.0
        landscape = quietly(lambda network=network, samples=samples: NetworkLandscape(Problem(samples), network))
        factor = landscape.look(np.arange(COUNT)).factor(np.arange(network.total))
        rows = truth(network, samples)
        mean = rows.mean(axis=0)
        expected = 5.0 * np.cov(rows.T, bias=True) + np.outer(mean, mean)
        views.append(landscape.way.way)
        close(factor.T.astype(np.float64) @ factor, expected)
    assert views[0] == PASSES != views[1]


# What is not finite, or empty


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_sample_that_is_not_finite_is_named(batch_size):
    network, samples = made("plain")
    samples.inputs[4] = float("nan")
    with pytest.raises(InvalidInput, match=r"'0\.weight'.* at sample 4: the sample itself holds NaN or infinity"):
        sample_gradients(network, loss_of, samples, np.arange(COUNT), batch_size=batch_size)
    with pytest.raises(InvalidInput, match="at sample 4: the sample itself"):
        NetworkLandscape(Problem(samples), network)


class Rooted(nn.Module):
    """The root of what may be negative."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.root = Root()

    def forward(self, x):
        return self.root(self.first(x).sum(dim=1, keepdim=True) + 100 * x[:, :1])


class Root(nn.Module):
    """The square root."""

    def forward(self, x):
        return torch.sqrt(x)


def test_the_module_whose_outputs_are_the_first_that_are_not_finite_is_named():
    x = torch.ones(COUNT, 6)
    x[5, 0] = -5.0
    samples = TensorSamples(x, torch.zeros(COUNT))
    network = PrunableNetwork(Rooted(), ("first.weight",))
    with pytest.raises(InvalidInput, match=r"'first\.weight'.* sample 5: the outputs of module 'root' are the first"):
        sample_gradients(network, loss_of, samples, np.arange(COUNT))


def test_a_backward_pass_that_overflows_is_told_apart_from_the_forward_pass():
    x = torch.ones(COUNT, 6)
    network = PrunableNetwork(nn.Sequential(nn.Linear(6, 1, bias=False), Root()), ("0.weight",))
    with torch.no_grad():
        network.model[0].weight.zero_()
    with pytest.raises(InvalidInput, match=r"at sample \d: its loss is finite and the backward pass is not"):
        sample_gradients(network, lambda outputs, _t: outputs[:, 0], TensorSamples(x, x), np.arange(COUNT))


def test_a_loss_of_the_dense_network_that_is_not_finite_names_the_sample():
    network, samples = made("plain")
    landscape = NetworkLandscape(Problem(samples), network)
    samples.inputs[6] = float("inf")
    landscape.place(0.5 * landscape.dense_weights)
    with pytest.raises(InvalidInput, match="dense network's loss is NaN or infinite at sample 6"):
        landscape.loss(np.arange(COUNT))
    np.testing.assert_array_equal(network.weights(np.float32), 0.5 * landscape.dense_weights)
    with pytest.raises(InvalidInput, match="holds NaN or infinity at sample 6: the sample itself"):
        _ = landscape.look(np.arange(COUNT)).gradient


def test_weights_that_overflow_by_themselves_are_no_fault_of_a_sample():
    network, samples = made("plain")
    landscape = NetworkLandscape(Problem(samples), network)
    landscape.place(np.full_like(landscape.dense_weights, 1e30))
    assert not np.isfinite(landscape.loss(np.arange(COUNT)))


@pytest.mark.parametrize("shape", [(COUNT, 0), (COUNT, 6, 0)])
def test_an_empty_sample_is_named(shape):
    samples = TensorSamples(torch.zeros(shape), torch.zeros(COUNT))
    network = PrunableNetwork(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), ("1.weight",))
    with pytest.raises(InvalidInput, match=r"sample 0 has inputs of shape .*none empty"):
        sample_gradients(network, loss_of, samples, np.arange(COUNT))
    with pytest.raises(InvalidInput, match=r"sample 0 has inputs of shape .*none empty"):
        NetworkLandscape(Problem(samples), network)
