"""Scores of groups, each against a computation of its own on tiny networks."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from helpers import call
from prunebench.core.errors import InvalidInput, UnknownName
from prunebench.curvature.group_scores import of_samples, of_weights
from prunebench.curvature.group_scores.evidence import Evidence
from prunebench.curvature.group_scores.names import SCORES
from prunebench.curvature.group_scores.relevance import lrp, relevances
from prunebench.curvature.group_scores.table import FUNCTIONS, scored
from prunebench.networks.samples import TensorSamples
from prunebench.structure.families import chosen, families
from prunebench.structure.trace import couple

SAMPLES = 40


def losses(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def evidence_of(model, x, structure=("channels", "neurons")):
    coupling = couple(model, x[:3])
    return Evidence(
        coupling=coupling,
        families=chosen(families(coupling)[0], structure),
        samples=TensorSamples(x, torch.arange(len(x)) % 4),
        positions=np.arange(len(x)),
        loss=losses,
        seed=3,
    )


@pytest.fixture(scope="module")
def mlp():
    """Six neurons, a bias, four classes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    x = torch.randn(SAMPLES, 5)
    return model, x, evidence_of(model, x)


@pytest.fixture(scope="module")
def conv():
    """Convolutions without biases, a batch norm, and pooling; activations in place as users write them."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(inplace=True),
        nn.Conv2d(5, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4, 4, bias=False),
    ).eval()  # fmt: skip
    for norm in (model[1], model[4]):
        norm.running_var.uniform_(0.5, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(SAMPLES, 2, 6, 6)
    return model, x, evidence_of(model, x)


def test_every_score_is_listed_and_computed(conv):
    assert list(FUNCTIONS) == list(SCORES)
    for name in SCORES:
        found = scored(name, conv[2])
        assert found.shape == (9,), name
        assert (found >= 0.0).all(), name
        assert np.ptp(found) > 0.0, name
        np.testing.assert_array_equal(found, scored(name, conv[2]), err_msg=name)


def test_an_unknown_score_is_refused_with_the_nearest(conv, capsys):
    with pytest.raises(UnknownName, match="unknown score 'tailor': did you mean 'taylor'"):
        scored("tailor", conv[2])
    assert "'taylor'" in refused_line(capsys, "--score", "tailor")


def refused_line(capsys, *arguments):
    code, _, err = call(capsys, "prune", "digits-mlp", "--structure", "neurons", "--flops", "0.5", *arguments)
    assert code == 2
    return err.splitlines()[-1]


def test_norms_are_those_of_the_filters(conv):
    model, _, evidence = conv
    one, two = model[0].weight.detach().double(), model[3].weight.detach().double()
    by_hand = np.concatenate([one.abs().sum((1, 2, 3)), two.abs().sum((1, 2, 3))])
    np.testing.assert_allclose(of_weights.l1(evidence), by_hand, rtol=1e-12)
    by_hand = np.concatenate([one.square().sum((1, 2, 3)).sqrt(), two.square().sum((1, 2, 3)).sqrt()])
    np.testing.assert_allclose(of_weights.l2(evidence), by_hand, rtol=1e-12)
    scales = torch.cat([model[1].weight, model[4].weight]).detach().double().abs()
    np.testing.assert_array_equal(of_weights.batch_norm_scale(evidence), scales)


def test_a_family_without_a_batch_norm_has_no_scale(mlp):
    with pytest.raises(InvalidInput, match="no batch norm scales the groups of 0:neurons"):
        of_weights.batch_norm_scale(mlp[2])


def test_the_group_norm_counts_filters_scales_and_readers(conv):
    model, _, evidence = conv
    one, two = model[0].weight.detach().double(), model[3].weight.detach().double()
    first = (one.square().sum((1, 2, 3)) + model[1].weight.detach().double() ** 2 + two.square().sum((0, 2, 3))) / 3.0
    np.testing.assert_allclose(of_weights.group_norm(evidence)[:5], first / first.mean(), rtol=1e-12)


def test_taylor_is_the_gradient_times_the_weights_that_read(mlp):
    model, x, evidence = mlp
    by_weights = []
    for k in range(SAMPLES):
        model.zero_grad()
        losses(model(x[k : k + 1]), torch.tensor([k % 4])).sum().backward()
        by_weights.append((model[2].weight.grad * model[2].weight).sum(0).detach().numpy())
    rows = np.array(by_weights, dtype=np.float64)
    mean = np.abs(rows).mean(0)
    np.testing.assert_allclose(of_samples.taylor(evidence), mean / np.linalg.norm(mean), rtol=1e-4)
    (one,) = [rows]  # forty samples are one minibatch
    np.testing.assert_allclose(of_samples.taylor_squared(evidence), one.mean(0) ** 2, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(scored("gates", evidence), 0.5 * (rows**2).mean(0), rtol=1e-4)


def test_the_hessian_is_that_of_the_readers_weights(mlp):
    model, x, evidence = mlp
    inner = torch.relu(model[0](x)).detach().double()
    last, bias = model[2].weight.detach().double(), model[2].bias.detach().double()
    targets = torch.arange(SAMPLES) % 4

    def mean_loss(gates):
        return losses((inner * gates) @ last.T + bias, targets).mean()

    exact = torch.autograd.functional.hessian(mean_loss, torch.ones(6, dtype=torch.float64)).diagonal()
    np.testing.assert_allclose(of_samples.hessian(evidence), 0.5 * exact, rtol=1e-4, atol=1e-8)


def test_random_signs_estimate_the_diagonal(mlp, monkeypatch):
    exact = of_samples.hessian(mlp[2])
    monkeypatch.setattr(of_samples, "PROBES", 5)  # fewer than the six groups
    rough = of_samples.hessian(mlp[2])
    assert not np.allclose(rough, exact)
    # all sign vectors together give the diagonal itself
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=6)))

    class All:
        def choice(self, _values, size):
            assert size == (5, 6)
            return signs

    monkeypatch.setattr(np.random, "default_rng", lambda _seed: All())
    np.testing.assert_allclose(of_samples.hessian(mlp[2]) * 5 / 64, exact, rtol=1e-3, atol=1e-8)


def test_relevance_of_a_layer_comes_to_the_output(conv):
    model, x, evidence = conv
    unbiased = [model[1].bias, model[4].bias, model[1].running_mean, model[4].running_mean]
    assert not any(part.detach().any() for part in unbiased)
    labels = torch.arange(SAMPLES) % 4
    found = relevances(evidence, x, labels, absolute=False)
    output = model(x).gather(1, labels[:, None]).detach().double().numpy()[:, 0]
    np.testing.assert_allclose(found[:, :5].sum(1), output, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[:, 5:].sum(1), output, rtol=1e-4, atol=1e-5)
    assert (lrp(evidence) + 1e-9 >= np.abs(found).sum(0)).all()


def test_relevance_passes_activations_as_the_rule_says():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 4)).eval()
    x = torch.randn(6, 3)
    labels = torch.arange(6) % 4
    found = relevances(evidence_of(model, x), x, labels, absolute=False)
    with torch.no_grad():
        one = model[1](model[0](x))
        z = model[2](one)
        two = model[3](z)
        last = two * model[4].weight[labels]
        # what a unit gives on, by the part that each input has in its sum, bias included
        first = (one[:, None, :] * model[2].weight[None] / z[:, :, None] * last[:, :, None]).sum(1)
    np.testing.assert_allclose(found[:, 4:], last, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[:, :4], first, rtol=1e-3, atol=1e-5)


def test_relevance_without_a_rule_is_refused_by_name():
    class Gating(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.two = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.two(nn.functional.silu(self.one(x)) * self.other(x))

    with pytest.raises(InvalidInput, match="relevance has no rule for mul"):
        lrp(evidence_of(Gating().eval(), torch.randn(6, 3)))


def test_beta_rank_by_loops(conv):
    model, x, evidence = conv
    weight = model[0].weight.detach().double()
    padded = nn.functional.pad(x.double(), (1, 1, 1, 1))
    out = nn.functional.conv2d(padded, weight)
    quotients = np.zeros((5, 36))
    for place, (i, j) in enumerate(itertools.product(range(6), range(6))):
        seen = padded[:, :, i : i + 3, j : j + 3].numpy().std()
        quotients[:, place] = out[:, :, i, j].numpy().std(axis=0) / seen
    raw = weight.abs().sum((1, 2, 3)).numpy() * quotients.mean(1)
    np.testing.assert_allclose(of_samples.beta_rank(evidence)[:5], (raw - raw.min()) / np.ptp(raw), atol=1e-6)


def test_layer_obs_is_what_is_lost_after_the_others_made_up_for_it(conv):
    model, x, evidence = conv
    with torch.no_grad():
        inner = torch.relu(model[1](model[0](x))).double()
    patches = nn.functional.unfold(inner, 3, stride=2).transpose(1, 2).reshape(-1, 45).numpy()
    weight = model[3].weight.detach().double().reshape(4, 45).T.numpy()
    gram = patches.T @ patches / len(patches)
    gram += of_samples.DAMPING * np.mean(np.diag(gram)) * np.eye(45)
    by_hand = []
    for k in range(5):
        kept = np.setdiff1d(np.arange(45), np.arange(9 * k, 9 * k + 9))
        best = np.zeros_like(weight)
        best[kept] = np.linalg.solve(gram[np.ix_(kept, kept)], (gram @ weight)[kept])
        by_hand.append(0.5 * np.sum((weight - best) * (gram @ (weight - best))))
    np.testing.assert_allclose(of_samples.layer_obs(evidence)[:5], by_hand, rtol=1e-6)


def test_likeness_does_not_see_rotation_and_scale():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 6))
    turned = 3.0 * x @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 1.0
    assert of_samples.linear_cka(x, turned) == pytest.approx(1.0)
    y = rng.normal(size=(30, 4))
    centred = x - x.mean(0), y - y.mean(0)
    by_features = np.linalg.norm(centred[0].T @ centred[1]) ** 2 / (
        np.linalg.norm(centred[0].T @ centred[0]) * np.linalg.norm(centred[1].T @ centred[1])
    )
    assert of_samples.linear_cka(x, y) == pytest.approx(by_features)
    assert of_samples.linear_cka(np.ones((5, 2)), np.ones((5, 3))) == 1.0
    assert of_samples.linear_cka(np.ones((5, 2)), rng.normal(size=(5, 3))) == 0.0


def test_cka_closes_one_group_at_a_time(mlp):
    model, x, evidence = mlp
    inner = torch.relu(model[0](x)).detach().numpy()
    by_hand = []
    for k in range(6):
        without = inner.copy()
        without[:, k] = 0.0
        by_hand.append(1.0 - of_samples.linear_cka(inner, without))
    np.testing.assert_allclose(of_samples.cka(evidence), by_hand, atol=1e-6)


def test_whole_branches_take_scores_by_gates():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 4)

        def forward(self, x):
            x = x + torch.relu(self.one(x))
            return self.head(x + torch.relu(self.two(x)))

    torch.manual_seed(4)
    model, x = Residual().eval(), torch.randn(SAMPLES, 5)
    evidence = evidence_of(model, x, ("layers",))
    assert evidence.groups == 2
    for name in ("gates", "taylor", "hessian", "cka", "random"):
        assert scored(name, evidence).shape == (2,), name
    with torch.no_grad():
        first = x + torch.relu(model.one(x))
        whole = first + torch.relu(model.two(first))
        rest = x + torch.relu(model.two(x)), first
    by_hand = [1.0 - of_samples.linear_cka(whole.numpy(), held.numpy()) for held in rest]
    np.testing.assert_allclose(of_samples.cka(evidence), by_hand, atol=1e-6)
    for name in ("l1", "group-norm", "layer-obs"):
        with pytest.raises(InvalidInput, match="take another score"):
            scored(name, evidence)


def test_the_spectrum_is_the_mean_reward_of_halves(mlp):
    model, _, evidence = mlp
    matrix = model[0].weight.detach().double().numpy()
    whole = np.linalg.svd(matrix, compute_uv=False)
    rng = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(of_weights.SPECTRA,)))
    rewards = [[] for _ in range(6)]
    for _ in range(of_weights.DRAWS):
        rows = rng.choice(6, size=3, replace=False)
        part = np.linalg.svd(matrix[rows], compute_uv=False)
        distance = max(abs(np.mean(whole <= t) - np.mean(part <= t)) for t in (*whole, *part))
        for k in rows:
            rewards[k].append(1.0 / distance)
    mean = np.array([np.mean(held) for held in rewards])
    np.testing.assert_allclose(of_weights.spectrum(evidence), mean - mean.min(), rtol=1e-9, atol=1e-12)


def test_couplings_are_of_gates_alone(capsys):
    line = refused_line(capsys, "--score", "l1", "--option", "couplings=0.5")
    assert "score l1 says nothing of two groups together" in line
