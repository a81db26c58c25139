"""A user's own network as a problem: nothing of it is changed, and data and losses mean what they say."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from prunebench.core.errors import InvalidInput
from prunebench.curvature.gradients import sample_gradients
from prunebench.networks.chosen import prunable_network
from prunebench.networks.network import call_with
from prunebench.networks.own import own_network
from prunebench.networks.own_copy import plain_copy
from prunebench.networks.own_losses import NAMED
from prunebench.networks.samples import Parts
from prunebench.testing.problems import NETWORK_CHECKS, run_problem_check


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def mlp():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def samples(count=20):
    return torch.randn(count, 6), torch.randint(0, 3, (count,))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 4), nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, first, second):
        return self.out(torch.tanh(self.first(first) + self.second(second)))


def gradients(problem, count=3):
    network = prunable_network(problem)
    return sample_gradients(network, problem.loss, problem.calibration(), np.arange(count))


def all_samples(problem):
    held = problem.calibration()
    return held.batch(np.arange(len(held)))


def test_nothing_of_the_model_is_changed_whatever_it_is_made_of():
    model = nn.Sequential(
        nn.Linear(6, 5),
        nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(5, 4)),
        nn.BatchNorm1d(4),
        parametrizations.spectral_norm(nn.Linear(4, 3)),
    )
    prune.l1_unstructured(model[0], "weight", 0.5)
    model[2].bias.requires_grad_(False)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(8, 6))
    state = copy.deepcopy(model.state_dict())
    facts = [(type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    flags = {name: item.requires_grad for name, item in model.named_parameters()}

    problem = own_network(model, samples(), loss="cross_entropy")
    first, second = problem.model(), problem.model()
    with pytest.raises(InvalidInput):
        own_network(model, (torch.randn(9, 7), torch.zeros(9).long()), loss="cross_entropy")

    assert all(torch.equal(item, state[name]) for name, item in model.state_dict().items())
    assert facts == [(type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    assert flags == {name: item.requires_grad for name, item in model.named_parameters()}
    assert problem.prunable() == ("0.weight", "2.weight", "4.weight")
    inputs, model_outputs = torch.randn(4, 6), model.eval()
    torch.testing.assert_close(first(inputs), model_outputs(inputs))
    first[0].weight.data.zero_()
    assert second[0].weight.any()


def test_copies_of_a_compiled_model_have_the_names_of_the_one_behind_it():
    class Compiled(nn.Module):
        """What torch.compile makes, without its machinery."""

        def __init__(self, model):
            super().__init__()
            self._orig_mod = model

    model = mlp()
    assert set(plain_copy(Compiled(model)).state_dict()) == set(model.state_dict())


class ByName(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        return {"pixels": self.x[place].tolist(), "label": int(self.y[place]), "text": "left out"}


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))


FORMS = {
    "tensors": lambda x, y: (x, y),
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "a data set": TensorDataset,
    "rows by name": ByName,
    "columns": lambda x, y: {"pixels": x, "labels": y},
    "a loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=7),
    "a loader of a stream": lambda x, y: DataLoader(Stream(x, y), batch_size=7),
    "batches": lambda x, y: [(x[:7], y[:7]), (x[7:], y[7:])],
    "a generator": lambda x, y: ((x[i : i + 5], y[i : i + 5]) for i in range(0, len(x), 5)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_samples(form):
    x, y = samples()
    problem = own_network(mlp(), FORMS[form](x, y), loss="cross_entropy", validation=(x, y))
    inputs, targets = all_samples(problem)
    torch.testing.assert_close(inputs, x)
    assert torch.equal(targets, y)


def test_a_shuffling_loader_is_drawn_once_from_the_seed_and_its_own_generator_stays():
    x, y = samples()
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True, generator=generator)
    before, outside = generator.get_state(), torch.get_rng_state()
    first, again = (all_samples(own_network(mlp(), loader, loss="cross_entropy")) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(generator.get_state(), before)
    outside = torch.get_rng_state()
    own_network(mlp().eval(), DataLoader(TensorDataset(x, y), shuffle=True), loss="cross_entropy")
    drawn = torch.get_rng_state()
    torch.set_rng_state(outside)
    mlp()
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_data_set_that_changes_its_samples_is_drawn_once_and_held():
    class Noisy(ByName):
        def __getitem__(self, place):
            return self.x[place] + torch.randn(6), int(self.y[place])

    told = []
    problem = own_network(mlp(), Noisy(*samples()), loss="cross_entropy", say=told.append)
    assert torch.equal(all_samples(problem)[0], all_samples(problem)[0])
    assert any("drawn once and held" in line for line in told)


def test_a_fifth_is_held_out_to_judge_and_told():
    told = []
    problem = own_network(mlp(), samples(50), loss="cross_entropy", say=told.append)
    assert (len(problem.calibration()), len(problem.validation())) == (40, 10)
    assert any("10 of 50 samples are held out" in line for line in told)
    assert set(problem.evaluate(problem.model())) == {"accuracy", "loss"}


def test_inputs_of_several_tensors_have_the_gradients_of_the_same_network_on_one():
    class Joined(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, both):
            return self.inner(both[:, :6], both[:, 6:])

    model, y = TwoInputs(), torch.randint(0, 3, (20,))
    first, second = torch.randn(20, 6), torch.randn(20, 2)
    rows = [
        gradients(own_network(made, data, loss="cross_entropy", validation=data))
        for made, data in (
            (Joined(model), (torch.cat([first, second], 1), y)),
            (model, ((first, second), y)),
            (model, {"second": second, "first": first, "y": y}),
            (model, ({"first": first, "second": second}, y)),
        )
    ]
    for others in rows[1:]:
        np.testing.assert_allclose(others, rows[0], rtol=1e-5, atol=1e-7)


def test_forward_is_called_in_place_of_the_model():
    x, y = samples()
    plain = own_network(mlp(), (x, y), loss="cross_entropy", validation=(x, y))
    model = plain.made.model
    packed = {"x": x.reshape(-1, 2, 3), "y": y}
    problem = own_network(
        model,
        packed,
        loss="cross_entropy",
        validation=packed,
        forward=lambda network, batch: {"logits": network(batch["x"].flatten(1))},
    )
    np.testing.assert_allclose(gradients(problem), gradients(plain), rtol=1e-5, atol=1e-7)


def one_each(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize(
    "loss", [nn.functional.cross_entropy, nn.CrossEntropyLoss(), one_each, nn.CrossEntropyLoss(reduction="sum")]
)
def test_a_loss_that_gives_a_mean_is_applied_to_each_sample(loss):
    data, model = samples(), mlp()
    problem, named = (own_network(model, data, loss=which, validation=data) for which in (loss, "cross_entropy"))
    np.testing.assert_allclose(gradients(problem), gradients(named), rtol=1e-5, atol=1e-7)
    assert problem.evaluate(problem.model())["loss"] == pytest.approx(named.evaluate(named.model())["loss"], rel=1e-6)


def test_a_loss_that_is_no_mean_is_refused_unless_the_user_says_so():
    def total(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="sum")

    with pytest.raises(InvalidInput, match="loss_is_mean=True"):
        own_network(mlp(), samples(), loss=total)
    model, data = mlp(), samples()
    problem = own_network(model, data, loss=total, loss_is_mean=True)
    np.testing.assert_allclose(gradients(problem), gradients(own_network(model, data, loss=one_each)), rtol=1e-5)


def test_a_weighted_loss_of_torch_keeps_its_weights():
    data, model = samples(), mlp()
    problem = own_network(model, data, loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0])), validation=data)
    _, targets = all_samples(problem)
    plain = own_network(model, data, loss="cross_entropy", validation=data)
    factors = np.array([1.0, 2.0, 5.0])[targets[:3].numpy()]
    np.testing.assert_allclose(gradients(problem), factors[:, None] * gradients(plain), rtol=1e-5, atol=1e-7)


def test_losses_by_name_are_the_means_over_each_sample():
    torch.manual_seed(1)
    outputs, targets = torch.randn(3, 4), torch.rand(3, 4)
    for name, one in (("mse", nn.MSELoss()), ("l1", nn.L1Loss()), ("binary_cross_entropy", nn.BCEWithLogitsLoss())):
        expected = torch.stack([one(o, t) for o, t in zip(outputs, targets, strict=True)])
        torch.testing.assert_close(NAMED[name](outputs, targets), expected)
    words, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[0, 3:] = -100
    entropy = nn.CrossEntropyLoss()
    each = torch.stack([entropy(words[i], labels[i]) for i in range(2)])
    torch.testing.assert_close(NAMED["cross_entropy"](words, labels), each)
    torch.testing.assert_close(NAMED["cross_entropy"](words.movedim(-1, 1), labels), each)
    following = torch.stack([entropy(words[i, :-1], labels[i, 1:]) for i in range(2)])
    torch.testing.assert_close(NAMED["next_token"](words, labels), following)


class OwnLoss(nn.Module):
    """Returns a loss that no loss by name gives."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x, y):
        return {"loss": (self.layer(x) - y).square().mean().sqrt()}


def test_a_models_own_loss_is_that_of_each_sample_alone():
    model, x, y = OwnLoss(), torch.randn(10, 6), torch.randn(10, 3)
    problem = own_network(model, (x, y), validation=(x, y))
    network = prunable_network(problem)
    held = problem.calibration()
    assert held.batch_size == 1
    inputs, targets = held.batch(np.arange(4))
    losses = problem.loss(network.model(inputs), targets)
    torch.testing.assert_close(losses, (model.layer(x[:4]) - y[:4]).square().mean(dim=1).sqrt())


@pytest.fixture(scope="module")
def bert(torchvision_imports):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=16,
        num_labels=3,
    )
    return BertForSequenceClassification(config)


def texts(count=12):
    """Sequences of different lengths, one a batch."""
    rng = np.random.default_rng(0)
    for number in range(count):
        ids = torch.from_numpy(rng.integers(1, 30, size=(1, 5 + number % 4)))
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([number % 3])}


def test_a_transformer_with_its_own_loss_pads_its_texts_and_is_judged_as_alone(bert):
    told = []
    problem = own_network(bert, texts(), validation=list(texts()), say=told.append)
    assert problem.loss_name == "cross_entropy"
    assert any("gives the same on 4 samples" in line for line in told)
    assert all("embeddings" not in name for name in problem.prunable())
    inputs, targets = all_samples(problem)
    assert isinstance(inputs, Parts)
    assert inputs.value[0]["input_ids"].shape == (12, 8)
    assert problem.calibration().counted(targets).sum() == sum(5 + number % 4 for number in range(12))
    model = problem.model()
    with torch.no_grad():
        together = problem.loss(model(inputs), targets)
        alone = torch.stack([bert.eval()(**text).loss for text in texts()])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_default_is_what_multiplies_without_embeddings_and_heads():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(11, 6)
            self.places = nn.Parameter(torch.zeros(4, 6))
            self.mix = nn.Parameter(torch.randn(6, 6))
            self.steps = nn.GRU(6, 6, batch_first=True)
            self.head = nn.Linear(6, 11)

        def forward(self, ids):
            return self.head(self.steps((self.words(ids) + self.places) @ self.mix)[0])

    ids = torch.randint(0, 11, (10, 4))
    problem = own_network(Language(), (ids, ids), loss="next_token")
    assert problem.prunable() == ("mix", "steps.weight_ih_l0", "steps.weight_hh_l0")
    assert "perplexity" in problem.evaluate(problem.model())
    assert own_network(mlp(), samples(), loss="cross_entropy", exclude="0.*").prunable() == ("2.weight",)
    assert own_network(mlp(), samples(), loss="cross_entropy", prunable=["2.weight"]).prunable() == ("2.weight",)


def test_own_measures_stand_beside_the_loss_and_see_the_model_as_it_was_given():
    seen = []

    def judge(model):
        seen.append((type(model), model.training, torch.is_grad_enabled()))
        return {"worst": np.float32(0.5)}

    data = ((torch.randn(20, 6), torch.randn(20, 2)), torch.randint(0, 3, (20,)))
    problem = own_network(TwoInputs(), data, loss="cross_entropy", evaluate=judge)
    model = problem.model()
    assert problem.evaluate(model)["worst"] == 0.5
    assert seen == [(TwoInputs, False, False)]
    assert isinstance(model(problem.validation().batch(np.arange(2))[0]), torch.Tensor)


@pytest.mark.parametrize("check", sorted(NETWORK_CHECKS.keys() - {"facts_and_options_are_complete"}))
@pytest.mark.parametrize("kind", ["one input", "two inputs", "its own loss"])
def test_a_network_of_ones_own_does_what_is_asked_of_a_problem(kind, check):
    if kind == "its own loss":
        values = torch.randn(20, 6), torch.randn(20, 3)
        problem = own_network(OwnLoss(), values, evaluate=lambda model: {"accuracy": 0.5})
    elif kind == "two inputs":
        x, y = samples()
        problem = own_network(TwoInputs(), ((x, torch.randn(20, 2)), y), loss="cross_entropy")
    else:
        problem = own_network(mlp(), samples(), loss="cross_entropy")
    run_problem_check(check, problem)


class TokensAhead(torch.nn.Module):
    """Predicts tokens from their own embeddings and, if it looks ahead, the mean of all of them."""

    def __init__(self, ahead):
        super().__init__()
        self.ahead = ahead
        self.embedding, self.layer, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9)

    def forward(self, ids):
        held = self.embedding(ids)
        return self.head(torch.relu(self.layer(held + held.mean(1, keepdim=True) if self.ahead else held)))


@pytest.mark.parametrize("ahead", [True, False])
def test_a_model_that_sees_the_tokens_it_predicts_has_no_perplexity_and_is_told(ahead):
    ids = torch.arange(40).reshape(8, 5) % 9
    problem = own_network(TokensAhead(ahead), (ids, ids), loss="next_token")
    assert ("perplexity" in problem.evaluate(problem.model())) is not ahead
    assert any("gives no perplexity" in line for line in problem.told) is ahead


class Shared(nn.Module):
    """A linear layer and a norm that stand under several names, and a weight that two layers have in common."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.again = nn.ModuleList([nn.Sequential(self.first, self.norm), nn.Sequential(self.first, self.norm)])
        self.last = nn.Linear(8, 8)
        self.last.weight = self.first.weight

    def forward(self, x):
        for part in self.again:
            x = torch.relu(part(x))
        return self.last(x)


def test_a_call_with_other_tensors_leaves_modules_of_several_names_as_they_were():
    """torch's functional_call leaves a plain tensor in such a module, which nothing can be written to."""
    torch.manual_seed(0)
    model = Shared().eval()
    before = {name: id(item) for name, item in model.named_parameters(remove_duplicate=False)}
    before |= {name: id(item) for name, item in model.named_buffers(remove_duplicate=False)}
    x = torch.randn(5, 8)
    tensors = {"first.weight": torch.randn(8, 8), "norm.running_mean": torch.randn(8)}
    found = call_with(model, tensors, x)
    after = {name: id(item) for name, item in model.named_parameters(remove_duplicate=False)}
    after |= {name: id(item) for name, item in model.named_buffers(remove_duplicate=False)}
    assert after == before
    with torch.no_grad():
        model.first.weight.copy_(tensors["first.weight"])
        model.norm.running_mean.copy_(tensors["norm.running_mean"])
        torch.testing.assert_close(found, model(x))


def test_gradients_leave_such_modules_as_parameters():
    torch.manual_seed(0)
    data = (torch.randn(40, 8), torch.arange(40) % 8)
    problem = own_network(Shared().eval(), data, loss="cross_entropy")
    network = prunable_network(problem)
    sample_gradients(network, problem.loss, problem.calibration(), np.arange(10))
    network.assign(np.zeros(network.total))
    assert not network.weights().any()
