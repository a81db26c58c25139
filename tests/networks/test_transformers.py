"""Language models and vision transformers as problems: samples, gradients through linear layers, measures."""

import math

import numpy as np
import pytest
import torch

from prunebench import make_problem
from prunebench.core.errors import InvalidInput
from prunebench.core.options import as_json, build
from prunebench.core.problem import NetworkProblem
from prunebench.curvature import linear_passes
from prunebench.curvature.landscape import NetworkLandscape
from prunebench.data.language_samples import IGNORED, TokenSamples, pack
from prunebench.networks.language import sequence_loss
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples, centring

pytestmark = pytest.mark.usefixtures("torchvision_imports")


def tiny(folder, **options):
    given = {"model": str(folder), "text": str(folder / "text.json"), "context": 16, "batch": 3}
    return make_problem("causal-lm", {**given, **options})


def seen(problem):
    return NetworkLandscape(problem, PrunableNetwork(problem.model(), problem.prunable()))


def own_gradients(problem, positions):
    """Every sample's gradient by itself, with nothing but torch's backward. float64 (s, p)."""
    model, samples = problem.model(), problem.calibration()
    rows = []
    for position in positions:
        inputs, targets = samples.batch(np.array([position]))
        model.zero_grad(set_to_none=True)
        problem.loss(model(inputs), targets).sum().backward()
        parts = [model.get_parameter(name).grad.reshape(-1) for name in problem.prunable()]
        rows.append(torch.cat(parts).double().numpy())
    return np.array(rows)


def some_blocks(total):
    rng = np.random.default_rng(1)
    return [np.sort(rng.choice(total // 2, 40, replace=False)), total // 2 + rng.permutation(total // 2)[:30]]


# Samples


def test_packed_sequences_are_full_and_begin_with_documents():
    documents = [np.array([1, *range(10 * n, 10 * n + length)]) for n, length in ((1, 3), (2, 4), (3, 20), (4, 2))]
    found = pack(documents, 8, "packed")
    assert all(len(item) == 8 for item in found)
    assert found[0].tolist() == [1, 10, 11, 12, 1, 20, 21, 22]
    assert found[1].tolist() == [1, 30, 31, 32, 33, 34, 35, 36]
    assert found[2].tolist() == [37, 38, 39, 40, 41, 42, 43, 44]
    assert len(found) == 3


def test_documents_are_cut_to_the_context_and_padded_to_the_longest_of_a_batch():
    found = pack([np.arange(1, 20), np.arange(5), np.array([3])], 8, "documents")
    assert [len(item) for item in found] == [8, 5]
    ids, labels = TokenSamples(found).batch(np.array([0, 1]))
    assert ids.shape == labels.shape == (2, 8)
    assert labels[1].tolist() == [0, 1, 2, 3, 4, IGNORED, IGNORED, IGNORED]
    assert TokenSamples.counted(labels)[1].sum() == 5
    assert TokenSamples.predicting(labels).sum(dim=1).tolist() == [7, 4]


def test_padding_changes_neither_a_sequences_loss_nor_its_gradient(tiny_mistral):
    problem = tiny(tiny_mistral, packing="documents")
    model, samples = problem.model(), problem.calibration()
    lengths = np.array([len(item) for item in samples.sequences])
    longest, shortest = int(lengths.argmax()), int(lengths.argmin())
    assert lengths[shortest] <= lengths[longest]
    alone = problem.loss(*_through(model, samples, [shortest]))
    together = problem.loss(*_through(model, samples, [longest, shortest]))
    assert together[1].item() == pytest.approx(alone[0].item(), rel=1e-5)


def _through(model, samples, positions):
    inputs, targets = samples.batch(np.array(positions))
    return model(inputs), targets


def test_the_loss_is_the_mean_over_predicted_tokens_by_hand():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    targets = torch.tensor([[0, 1, 0]])
    expected = (math.log(1 + math.exp(2.0)) + math.log(1 + math.exp(1.0))) / 2
    assert sequence_loss(logits, targets).item() == pytest.approx(expected, rel=1e-6)
    padded = torch.tensor([[0, 1, IGNORED]])
    assert sequence_loss(logits, padded).item() == pytest.approx(math.log(1 + math.exp(2.0)), rel=1e-6)


def test_the_end_of_a_text_file_is_for_validation_only(tiny_mistral):
    problem = tiny(tiny_mistral, packing="documents", validation_packing="documents", validation_documents=20)
    train = {item.tobytes() for item in problem.calibration().sequences}
    held = [item.tobytes() for item in problem.validation().sequences]
    assert len(problem.calibration()) == 100
    assert len(held) == 20
    assert not train & set(held)


# Prunable layers


def test_every_linear_layer_but_the_head_is_prunable(tiny_mistral):
    names = tiny(tiny_mistral).prunable()
    assert len(names) == 2 * 7
    assert not any("lm_head" in name or "embed" in name for name in names)
    chosen = tiny(tiny_mistral, layers=("q_proj", "mlp.down_proj")).prunable()
    assert [name.split(".", 3)[3] for name in chosen] == ["self_attn.q_proj.weight", "mlp.down_proj.weight"] * 2


def test_options_go_round_through_json_although_one_has_the_name_of_a_method(tiny_mistral):
    problem = tiny(tiny_mistral, layers=("q_proj",))
    assert isinstance(problem, NetworkProblem)
    held = as_json(problem)
    assert held["model"] == str(tiny_mistral)
    lists = {name: tuple(value) for name, value in held.items() if isinstance(value, list)}
    assert build(type(problem), {**held, **lists}) == problem


# Gradients through linear layers


@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"packing": "documents"}], ids=str)
def test_columns_of_several_blocks_are_the_samples_own_gradients(tiny_mistral, options):
    problem = tiny(tiny_mistral, weighting="none", **options)
    landscape, positions = seen(problem), np.array([0, 3, 4, 7, 9])
    gradients = own_gradients(problem, positions)
    view = landscape.look(positions)
    blocks = some_blocks(gradients.shape[1])
    scale = np.abs(gradients).max()
    for indices, factor in zip(blocks, view.factors(blocks), strict=True):
        np.testing.assert_allclose(factor * math.sqrt(5), gradients[:, indices], atol=2e-6 * scale)
        np.testing.assert_allclose(view.slope(indices), gradients[:, indices].mean(axis=0), atol=2e-6 * scale)
    np.testing.assert_allclose(view.gradient, gradients.mean(axis=0), atol=2e-6 * scale)
    assert view.loss == pytest.approx(landscape.loss(positions), rel=1e-5)


def test_large_layers_gather_columns_and_small_ones_take_them_from_whole_products(tiny_mistral, monkeypatch):
    from prunebench.curvature import columns

    problem = tiny(tiny_mistral)
    positions, found = np.arange(4), []
    for share in (0, 10**9):
        monkeypatch.setattr(columns, "WHOLE_LAYER_SHARE", share)
        monkeypatch.setattr(columns, "GATHER_ELEMENTS", 100)
        landscape = seen(problem)
        found.append(landscape.look(positions).factor(some_blocks(8000)[0]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5 * np.abs(found[1]).max())


def test_what_a_pass_shows_is_the_same_whether_it_is_kept_or_made_again(tiny_mistral, monkeypatch):
    from prunebench.curvature import view_passes as views

    problem, positions, found = tiny(tiny_mistral), np.arange(7), []
    for limit in (2**40, 0):
        monkeypatch.setattr(views, "KEEP_BYTES", limit)
        landscape = seen(problem)
        view = landscape.look(positions)
        gradient = view.gradient
        # Another point in between must not matter.
        landscape.place(np.zeros_like(gradient))
        found.append((gradient, view.factors(some_blocks(gradient.size))))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for kept, again in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(kept, again)


def test_rows_of_sequences_stand_for_tokens_covariance_and_mean(tiny_mistral):
    problem = tiny(tiny_mistral)
    landscape, positions = seen(problem), np.arange(6)
    gradients = own_gradients(problem, positions)
    indices = some_blocks(gradients.shape[1])[0]
    chosen, tokens = gradients[:, indices], 15
    mean = chosen.mean(axis=0)
    expected = tokens * np.cov(chosen.T, bias=True) + np.outer(mean, mean)
    factor = landscape.look(positions).factor(indices).astype(np.float64)
    np.testing.assert_allclose(factor.T @ factor, expected, atol=1e-5 * np.abs(expected).max())
    assert centring(1.0) == 0.0


def test_one_shot_gradients_are_weighted_the_same_way(tiny_mistral):
    from prunebench.curvature.fisher import FisherOptions, network_form

    problem = tiny(tiny_mistral, layers=("k_proj",))
    landscape = seen(problem)
    count = len(problem.calibration())
    form = network_form(problem, landscape.network, FisherOptions(samples=count, ridge=0.0), np.random.default_rng(0))
    factor = landscape.look(np.arange(count)).factor(np.arange(landscape.network.total))
    np.testing.assert_allclose(form.product(np.ones(form.p)), factor.T @ factor.sum(axis=1), rtol=1e-3, atol=1e-6)


def test_rows_of_tokens_are_the_outer_products_at_each_position(tiny_mistral):
    problem = tiny(tiny_mistral, sample="token", packing="documents")
    landscape, positions = seen(problem), np.array([0, 1])
    indices = np.arange(5, 400)
    view = landscape.look(positions)
    factor = view.factor(indices)
    layer = landscape.layers[0]
    outputs, inputs = np.divmod(indices, layer.shape[1])
    expected, model = [], problem.model()
    module = model.get_submodule(layer.name.removesuffix(".weight"))
    for position in positions:
        held = {}
        hook = module.register_forward_hook(lambda _m, given, out, held=held: held.update(a=given[0], y=out))
        ids, labels = problem.calibration().batch(np.array([position]))
        loss = problem.loss(model(ids), labels).sum()
        hook.remove()
        slopes = torch.autograd.grad(loss, held["y"])[0][0].double().numpy()
        rows = slopes[:, outputs] * held["a"][0].detach().double().numpy()[:, inputs]
        expected.append(rows[:-1] * (ids.shape[1] - 1))
    expected = np.concatenate(expected)
    expected /= math.sqrt(len(expected))
    assert factor.shape == expected.shape
    np.testing.assert_allclose(factor, expected, atol=1e-5 * np.abs(expected).max())
    gradients = own_gradients(problem, positions)
    np.testing.assert_allclose(view.slope(indices), gradients[:, indices].mean(axis=0), atol=1e-6)


def test_more_tokens_than_columns_are_merged_without_changing_the_curvature(tiny_mistral, monkeypatch):
    from prunebench.curvature import view_passes as views

    problem = tiny(tiny_mistral, sample="token")
    landscape, positions = seen(problem), np.arange(10)
    blocks = [np.arange(20), np.arange(3000, 3010)]
    merged = np.hstack(landscape.look(positions).factors(blocks)).astype(np.float64)
    assert merged.shape == (30, 30)
    monkeypatch.setattr(views, "merges", lambda _scope, _columns: False)
    whole = np.hstack(landscape.look(positions).factors(blocks)).astype(np.float64)
    assert whole.shape == (150, 30)
    np.testing.assert_allclose(merged.T @ merged, whole.T @ whole, atol=1e-5 * np.abs(whole.T @ whole).max())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_weights_give_float32_gradients_near_the_exact_ones(tiny_mistral, dtype):
    exact, low = tiny(tiny_mistral, dtype="float32"), tiny(tiny_mistral, dtype=dtype)
    positions = np.arange(4)
    indices = some_blocks(8000)[0]
    expected = own_gradients(exact, positions)[:, indices].mean(axis=0)
    landscape = seen(low)
    assert next(landscape.network.model.parameters()).dtype == getattr(torch, dtype)
    view = landscape.look(positions)
    assert view.factor(indices).dtype == np.float32
    error = np.linalg.norm(view.slope(indices) - expected) / np.linalg.norm(expected)
    assert error < 0.1


class Twice(torch.nn.Module):
    """One linear layer used twice, inside a block that could be recomputed."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(3, 3, bias=False), torch.nn.Identity()])

    def forward(self, inputs):
        return self.blocks[0](torch.tanh(self.blocks[0](inputs)))


def _twice():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Twice()
    samples = TensorSamples(torch.linspace(-1, 1, 12).reshape(4, 3), torch.zeros(4))
    return PrunableNetwork(model, ["blocks.0.weight"]), samples, lambda outputs, _targets: outputs.square().sum(dim=1)


def test_a_layer_used_twice_adds_both_uses():
    network, samples, loss = _twice()
    found = torch.zeros(4, 3, 3)

    def take(_name, inputs, slopes):
        found.add_(slopes[:, :, None] * inputs[:, None, :])

    modules = linear_passes.linear_modules(network)
    linear_passes.send(network.model, modules, loss, samples.batch(np.arange(4)), take)
    for position in range(4):
        inputs, targets = samples.batch(np.array([position]))
        total = loss(network.model(inputs), targets).sum()
        expected = torch.autograd.grad(total, network.model.blocks[0].weight)[0]
        torch.testing.assert_close(found[position], expected)


def test_a_layer_used_twice_is_refused_where_activations_are_recomputed():
    network, samples, loss = _twice()
    with pytest.raises(InvalidInput, match=r"'blocks\.0\.weight' is used more than once.*checkpointing off"):
        linear_passes.send(
            network.model,
            linear_passes.linear_modules(network),
            loss,
            samples.batch(np.arange(4)),
            lambda *_: None,
            recompute=True,
        )


class SequenceFirst(torch.nn.Module):
    """A layer whose inputs have the samples along the second axis."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)

    def forward(self, inputs):
        return self.inner(inputs.transpose(0, 1)).transpose(0, 1)


def test_layers_that_do_not_keep_samples_apart_are_noticed_and_done_otherwise():
    from prunebench.curvature.gradients import sample_gradients

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PrunableNetwork(SequenceFirst(), ["inner.weight"])
        samples = TensorSamples(torch.randn(5, 5, 3), torch.zeros(5))
    assert "for one sample" in linear_passes.unsuited(network, samples, torch.device("cpu"))

    def loss(outputs, _targets):
        return outputs.square().sum(dim=(1, 2))

    rows = sample_gradients(network, loss, samples, np.arange(5))
    for position in range(5):
        inputs, targets = samples.batch(np.array([position]))
        expected = torch.autograd.grad(loss(network.model(inputs), targets).sum(), network.model.inner.weight)[0]
        np.testing.assert_allclose(rows[position], expected.reshape(-1).numpy(), rtol=1e-4, atol=1e-6)


class InPlace(torch.nn.Module):
    """The inputs of the layer are written over after they were used."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 3)

    def forward(self, inputs):
        held = inputs * 1.0
        out = self.inner(held)
        held.mul_(2.0)
        return out


def test_inputs_that_are_written_over_are_refused_rather_than_misread():
    network = PrunableNetwork(InPlace(), ["inner.weight"])
    samples = TensorSamples(torch.ones(2, 3), torch.zeros(2))
    with pytest.raises(InvalidInput, match="written over"):
        linear_passes.send(
            network.model,
            linear_passes.linear_modules(network),
            lambda outputs, _targets: outputs.sum(dim=1),
            samples.batch(np.arange(2)),
            lambda *_: None,
        )


def test_a_pass_leaves_the_model_as_it_was(tiny_mistral):
    problem = tiny(tiny_mistral)
    model, batch = problem.model(), problem.calibration().batch(np.arange(2))
    network = PrunableNetwork(model, problem.prunable())
    model.train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: (item.requires_grad, item.clone()) for name, item in model.named_parameters()}
    linear_passes.send(
        model, linear_passes.linear_modules(network), problem.loss, batch, lambda *_: None, recompute=True
    )
    assert model.training
    assert all(item.grad is None for item in model.parameters())
    for name, item in model.named_parameters():
        assert item.requires_grad == before[name][0]
        assert torch.equal(item, before[name][1])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


def test_input_norms_leave_padding_out(tiny_mistral):
    problem = tiny(tiny_mistral, packing="documents", layers=("q_proj",))
    landscape, positions = seen(problem), np.arange(6)
    norms = landscape.input_norms(positions)
    model, squares = problem.model(), torch.zeros(32, dtype=torch.float64)

    def add(_module, given, _output):
        squares.add_(given[0].double().square().sum(dim=(0, 1)))

    hook = model.model.layers[0].self_attn.q_proj.register_forward_hook(add)
    with torch.no_grad():
        for position in positions:  # one by one there is no padding
            model(problem.calibration().batch(np.array([position]))[0])
    hook.remove()
    np.testing.assert_allclose(norms[0], squares.sqrt().numpy(), rtol=1e-4)


# The small real ones


@pytest.mark.needs_data("vit-mnist")
def test_the_vision_transformer_has_its_published_accuracy():
    problem = make_problem("vit-mnist")
    model = problem.model()
    assert sum(item.numel() for item in model.parameters()) == 213_642
    assert PrunableNetwork(model, problem.prunable()).total == 196_608
    assert problem.evaluate(model)["accuracy"] == pytest.approx(0.9794, abs=1e-9)


@pytest.mark.needs_data("stories-llama")
def test_stories_has_its_perplexity_a_token():
    problem = make_problem("stories-llama")
    model = problem.model()
    measures = problem.evaluate(model)
    assert PrunableNetwork(model, problem.prunable()).total == 226_560
    assert measures["perplexity"] == pytest.approx(3.87, abs=0.005)
    assert measures["loss"] == pytest.approx(math.log(measures["perplexity"]), rel=1e-9)
    assert "accuracy" not in measures


@pytest.mark.needs_data("stories-llama")
def test_magnitude_pruning_of_stories_gives_the_known_perplexities():
    from prunebench.core.masks import top_mask

    problem = make_problem("stories-llama")
    network = PrunableNetwork(problem.model(), problem.prunable())
    dense = network.weights()
    for density, perplexity in ((0.8, 4.16), (0.7, 5.41)):
        parts = [dense[layer.start : layer.stop] for layer in network.layers]
        mask = np.concatenate([top_mask(np.abs(part), round(density * part.size)) for part in parts])
        network.assign(np.where(mask, dense, 0.0))
        assert problem.evaluate(network.model)["perplexity"] == pytest.approx(perplexity, abs=0.05)
