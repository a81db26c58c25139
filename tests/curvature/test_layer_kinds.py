"""Layers of every kind show their inputs: what the Gram matrices say is what the network does, computed plainly."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunebench.core.errors import InvalidInput
from prunebench.curvature.layer_walk import LayerWalk, prunable_part
from prunebench.curvature.repeated import difference_when_repeated
from prunebench.data.language_samples import TokenSamples
from prunebench.networks.chosen import require_running_statistics
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples
from prunebench.runs import network_facts

SAMPLES = 6


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class ByFunction(nn.Module):
    """A weight that is used by function, transposed, and twice."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(draw(4, 3))

    def forward(self, inputs):
        return torch.cat([F.linear(inputs, self.weight), 2.0 * (self.weight @ (inputs + 1.0).mT).mT])


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return torch.cat([self.first(inputs), self.second(inputs - 1.0)])


class Conv1D(nn.Module):
    """As GPT-2 has it: inputs along the first axis."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(draw(3, 5))
        self.bias = nn.Parameter(draw(5))

    def forward(self, inputs):
        return torch.addmm(self.bias, inputs.view(-1, 3), self.weight).view(*inputs.shape[:-1], 5)


class Experts(nn.Module):
    """Fused experts, each with some of the rows; the last two with none. Stored (inputs, outputs) if turned."""

    def __init__(self, turned):
        super().__init__()
        self.weight = nn.Parameter(draw(4, 3, 5) if turned else draw(4, 5, 3))
        self.turned = turned

    def forward(self, inputs):
        rows = inputs.reshape(-1, 3)
        parts = rows.split([len(rows) // 3, len(rows) - len(rows) // 3])
        weights = self.weight.mT if self.turned else self.weight
        return torch.cat([F.linear(part, weight) for part, weight in zip(parts, weights[:2], strict=True)])


class NonContiguous(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.layer.weight = nn.Parameter(draw(3, 5).t())

    def forward(self, inputs):
        return F.linear(inputs, self.layer.weight) + self.layer(inputs) * 3.0


LINEAR = {
    "grouped": (nn.Conv2d(4, 6, (3, 2), groups=2, padding=(1, 0), dilation=(1, 2)), (4, 5, 6)),
    "depthwise": (nn.Conv2d(3, 6, 3, groups=3, stride=2), (3, 7, 7)),
    "circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
    "reflecting": (nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect"), (2, 5, 5)),
    "replicating, same": (nn.Conv1d(2, 3, 4, padding="same", padding_mode="replicate", dilation=2), (2, 9)),
    "1d": (nn.Conv1d(4, 2, 3, stride=2, padding=1, groups=2), (4, 8)),
    "3d": (nn.Conv3d(2, 2, (2, 3, 1), padding=(1, 0, 0)), (2, 4, 4, 3)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 5)),
    "transposed 2d": (nn.ConvTranspose2d(3, 2, (3, 2), stride=(2, 3), padding=(2, 0), dilation=(2, 1)), (3, 4, 4)),
    "transposed 3d": (nn.ConvTranspose3d(2, 2, 2, stride=2), (2, 2, 3, 2)),
    "by function": (ByFunction(), (3,)),
    "tied": (Tied(), (4,)),
    "inputs first": (Conv1D(), (2, 3)),
    "experts": (Experts(False), (2, 3)),
    "turned experts": (Experts(True), (2, 3)),
    "not contiguous": (NonContiguous(), (3,)),
}
"""Networks whose outputs are linear in their only weight, and the shape of a sample."""


def walk_of(model, inputs, names=None, dense=False):
    chosen = names or [name for name, item in model.named_parameters() if item.ndim > 1]
    samples = inputs if isinstance(inputs, TokenSamples) else TensorSamples(inputs, torch.zeros(len(inputs)))
    network = PrunableNetwork(model.double().eval(), chosen)
    return network, LayerWalk(network, samples, np.arange(len(samples)), dense=dense)


def table(walk, vector, layer=0):
    places, columns = walk.places(layer), walk.columns(layer)
    span = walk.network.layers[layer]
    return vector[span.start : span.stop].reshape(-1, columns) if places is None else vector[places]


@pytest.mark.parametrize("name", LINEAR)
def test_a_change_of_the_weights_changes_the_outputs_as_the_gram_matrices_say(name):
    model, shape = LINEAR[name]
    inputs = draw(SAMPLES, *shape, seed=1).double()
    network, walk = walk_of(model, inputs)
    dense = network.weights()
    found = walk.part_inputs(0, dense)
    step = np.random.default_rng(0).normal(size=network.total)
    with torch.no_grad():
        before = model(inputs)
        network.assign(dense + step)
        change = float(((model(inputs) - before) ** 2).sum())
        network.assign(dense)
    rows = np.split(table(walk, step), np.cumsum(walk.part_rows(0))[:-1])
    told = sum(
        held.count * np.einsum("ij,jk,ik->", part, held.gram, part) for part, held in zip(rows, found, strict=True)
    )
    # the second use of ByFunction counts twice in the output, that of NonContiguous three times
    if name == "by function":
        one = (F.linear(inputs, torch.from_numpy(step.reshape(4, 3))) ** 2).sum()
        two = (F.linear(inputs + 1.0, torch.from_numpy(step.reshape(4, 3))) ** 2).sum()
        change = float(one + two)
    if name == "not contiguous":
        change *= (1.0 + 1.0) / (1.0 + 3.0) ** 2
    assert told == pytest.approx(change, rel=1e-9)
    assert sum(walk.part_rows(0)) * walk.columns(0) == network.total


def test_an_expert_without_rows_gets_the_mean_of_the_others():
    network, walk = walk_of(Experts(False), draw(SAMPLES, 2, 3).double())
    found = walk.part_inputs(0, network.weights())
    assert [held.count for held in found] == [4, SAMPLES * 2 - 4, 0, 0]
    np.testing.assert_allclose(found[2].gram, (found[0].gram + found[1].gram) / 2)


def grams(walk, weights, layer):
    group = next(number for number, held in enumerate(walk.groups) if layer in held)
    return walk.part_inputs(group, weights)


def moment(rows):
    rows = rows.detach().reshape(-1, rows.shape[-1]).numpy()
    return rows.T @ rows / len(rows)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_recurrent_layers_show_inputs_and_states(kind):
    model = getattr(nn, kind)(3, 4, batch_first=True)
    inputs = draw(SAMPLES, 5, 3).double()

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, inputs):
            return self.inner(inputs)[0]

    network, walk = walk_of(First(), inputs)
    states = network.model(inputs)
    before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
    np.testing.assert_allclose(grams(walk, network.weights(), 0)[0].gram, moment(inputs), rtol=1e-9)
    np.testing.assert_allclose(grams(walk, network.weights(), 1)[0].gram, moment(before), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("apart", [False, True])
def test_attention_shows_what_its_projections_get(apart):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(4, 2, batch_first=True)
            with torch.no_grad():
                self.inner.out_proj.weight.copy_(torch.eye(4))

        def forward(self, inputs):
            other = inputs.flip(1) + 1.0 if apart else inputs
            return self.inner(inputs, other, other * 2.0 if apart else other)[0]

    inputs = draw(SAMPLES, 5, 4).double()
    network, walk = walk_of(Attention(), inputs)
    found = grams(walk, network.weights(), 0)
    other = inputs.flip(1) + 1.0
    given = [inputs, other, other * 2.0] if apart else [inputs]
    assert len(found) == len(given)
    for held, rows in zip(found, given, strict=True):
        np.testing.assert_allclose(held.gram, moment(rows), rtol=1e-9)
    # the projection of the outputs is the identity, so the outputs are its inputs
    np.testing.assert_allclose(grams(walk, network.weights(), 1)[0].gram, moment(network.model(inputs)), rtol=1e-9)


def test_an_embedding_counts_its_tokens():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)

        def forward(self, tokens):
            return self.embed(tokens)

    tokens = torch.tensor([[0, 1, 1], [3, 1, 0]])
    network, walk = walk_of(Head(), tokens)
    held = walk.part_inputs(0, network.weights())[0]
    np.testing.assert_allclose(held.gram, np.diag([2, 3, 0, 1, 0]) / 6)
    np.testing.assert_array_equal(table(walk, network.weights()), network.model.embed.weight.detach().numpy().T)


def test_the_dense_networks_inputs_are_had_beside():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 2, 2, groups=2)

        def forward(self, inputs):
            return self.second(torch.relu(self.first(inputs)))

    inputs = draw(SAMPLES, 2, 8).double()
    network, walk = walk_of(Two(), inputs, dense=True)
    weights = network.weights()
    dense = torch.relu(network.model.first(inputs)).unfold(2, 2, 1).permute(0, 2, 1, 3).detach()
    weights[: network.layers[0].stop : 2] = 0.0
    found = grams(walk, weights, 1)
    now = torch.relu(network.model.first(inputs)).unfold(2, 2, 1).permute(0, 2, 1, 3).detach()
    for group, held in enumerate(found):
        mine, other = (part[:, :, 2 * group : 2 * group + 2].reshape(-1, 4).numpy() for part in (now, dense))
        np.testing.assert_allclose(held.apart, mine.T @ (mine - other) / len(mine), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(held.drift, (mine - other).T @ (mine - other) / len(mine), rtol=1e-9)


class Awkward(nn.Module):
    """One layer that is pruned, and one of each reason against it."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Linear(4, 4)
        self.scaled = nn.Parameter(draw(4, 4))
        self.idle = nn.Linear(4, 4)
        self.zeros = nn.Linear(4, 4)
        self.both = nn.Parameter(draw(4, 4))

    def forward(self, inputs):
        held = F.linear(self.fine(inputs), self.scaled / self.scaled.norm())
        held = held @ self.both + held @ self.both.t()
        return held + self.zeros(torch.zeros_like(held))


def test_what_shows_no_inputs_is_left_dense_with_the_reason():
    network = PrunableNetwork(Awkward(), ("fine.weight", "scaled", "idle.weight", "zeros.weight", "both"))
    part = prunable_part(network, TensorSamples(draw(5, 4), torch.zeros(5)), np.arange(5))
    assert part.network.names == ("fine.weight",)
    reasons = {held.names[0]: held.reason for held in part.left}
    assert "otherwise than as a factor of a product (by aten." in reasons["scaled"]
    assert "never reached" in reasons["idle.weight"]
    assert "nothing but zeros" in reasons["zeros.weight"]
    assert "along different axes" in reasons["both"]
    assert all(held.weights == 16 for held in part.left)
    alone = PrunableNetwork(Awkward(), ("scaled", "idle.weight"))
    with pytest.raises(InvalidInput, match=r"no layer whose inputs are seen.*'scaled' is used otherwise"):
        prunable_part(alone, TensorSamples(draw(5, 4), torch.zeros(5)), np.arange(5))


class Speaker(nn.Module):
    """Tokens through a layer of GPT-2's kind, and through a recurrent one."""

    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.steps = nn.Embedding(9, 3), Conv1D(), nn.RNN(3, 3, batch_first=True)

    def forward(self, tokens):
        held = self.embed(tokens)
        return self.inner(held).sum() + self.steps(held)[0].sum()


class CopiedForEach(nn.Module):
    """A matrix for each of two halves, broadcast over the samples: torch copies it where there are several."""

    def __init__(self):
        super().__init__()
        self.weight, self.out = nn.Parameter(draw(2, 5, 3)), nn.Linear(10, 2)

    def forward(self, inputs):
        halves = inputs.reshape(len(inputs), 2, 3, 1).transpose(0, 1)
        return self.out((self.weight[:, None] @ halves).transpose(0, 1).flatten(1))


def test_a_weight_that_is_copied_for_each_sample_is_left_dense_with_the_reason():
    """One sample alone would show a product, and all of them none."""
    network = PrunableNetwork(CopiedForEach(), ("weight", "out.weight"))
    part = prunable_part(network, TensorSamples(draw(SAMPLES, 6), torch.zeros(SAMPLES)), np.arange(SAMPLES))
    assert [layer.name for layer in part.network.layers] == ["out.weight"]
    (left,) = part.left
    assert left.names == ("weight",)
    assert "used otherwise than as a factor of a product" in left.reason


def test_padding_is_left_out_where_it_is_seen_and_the_layer_left_dense_where_not():
    samples = TokenSamples([np.array([1, 2, 3, 4]), np.array([5, 6]), np.array([7, 1, 2])])
    names = ("inner.weight", "steps.weight_ih_l0", "steps.weight_hh_l0")
    network = PrunableNetwork(Speaker().eval(), names)
    part = prunable_part(network, samples, np.arange(3))
    assert part.network.names == ("inner.weight",)
    assert "padding" in part.left[0].reason
    walk = LayerWalk(part.network, samples, np.arange(3), dense=False)
    held = walk.part_inputs(0, part.network.weights())[0]
    rows = network.model.embed(torch.tensor([1, 2, 3, 4, 5, 6, 7, 1, 2])).double()
    np.testing.assert_allclose(held.gram, moment(rows), rtol=1e-5, atol=1e-7)


class Blocks(nn.Module):
    """A chain of blocks that share a weight."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(3))
        self.blocks[2][2].weight = self.blocks[0][2].weight

    def forward(self, inputs):
        for block in self.blocks:
            inputs = block(inputs)
        return inputs


def test_a_weight_that_blocks_share_has_the_inputs_of_all_its_uses():
    inputs = draw(SAMPLES, 4).double()
    network, walk = walk_of(Blocks(), inputs)
    assert walk.blocks == 3
    model, shared = network.model, network.names.index("blocks.0.2.weight")
    first = model.blocks[0][:2](inputs)
    last = model.blocks[2][:2](model.blocks[1](model.blocks[0](inputs)))
    held = grams(walk, network.weights(), shared)[0]
    np.testing.assert_allclose(held.gram, moment(torch.cat([first, last])), rtol=1e-9)


class Noisy(nn.Module):
    """Dropout by function, which evaluation mode does not switch off."""

    def __init__(self, training):
        super().__init__()
        self.inner, self.training_wanted = nn.Linear(4, 4), training

    def forward(self, inputs):
        return F.dropout(self.inner(inputs), 0.5, self.training_wanted)


def test_dropout_left_on_by_function_is_seen():
    samples = TensorSamples(draw(5, 4), torch.zeros(5))
    noisy = PrunableNetwork(Noisy(True), ("inner.weight",))
    assert difference_when_repeated(noisy, samples) > 0.1
    assert difference_when_repeated(PrunableNetwork(Noisy(False), ("inner.weight",)), samples) == 0.0
    (line,) = network_facts.lines({"not_pruned": [], "unrepeatable": 0.5})
    assert "by 50 % of the largest: something is random in evaluation mode" in line


def test_a_batch_norm_without_running_statistics_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(InvalidInput, match=r"the BatchNorm1d '1' keeps no running statistics"):
        require_running_statistics(model)
    require_running_statistics(nn.Sequential(nn.Linear(3, 3), nn.InstanceNorm1d(3), nn.BatchNorm1d(3)))


def test_tied_weights_are_told_with_their_other_names():
    (line,) = network_facts.lines({"not_pruned": [], "tied": {"a.weight": ["b.weight"]}})
    assert line == "pruned once, in all their uses: 1 matrix: a.weight (also b.weight)"
