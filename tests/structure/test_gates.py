"""Gates: their gradients are those of the weights behind them, and the refit is least squares."""

import numpy as np
import pytest
import torch
from torch import nn

from prunebench.curvature.gates import Gated, gate_rows
from prunebench.networks.samples import TensorSamples
from prunebench.recovery.reconstruction import Reconstruction, layers_of, single_followers
from prunebench.structure.budget import Steps, allocate, losses_of
from prunebench.structure.cost import Cost, Term, cost_of
from prunebench.structure.families import Family, chosen, families
from prunebench.structure.resize import state_of
from prunebench.structure.trace import couple


class Block(nn.Module):
    """A residual block with batch norms, and a head."""

    def __init__(self):
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.two, self.norm2 = nn.Conv2d(6, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        inner = self.norm2(self.two(torch.relu(self.norm1(self.one(x)))))
        return self.head(torch.relu(inner + x).mean((2, 3)))


@pytest.fixture(scope="module")
def block():
    torch.manual_seed(0)
    model = Block().eval()
    for norm in (model.norm1, model.norm2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(40, 3, 5, 5)
    coupling = couple(model, x[:3])
    return model, coupling, chosen(families(coupling)[0], ("channels",)), x


def losses(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def test_a_gate_has_the_gradient_of_its_followers_weights(block):
    model, coupling, found, x = block
    samples = TensorSamples(x, torch.arange(40) % 4)
    rows = gate_rows(coupling, found, samples, np.arange(12), lambda *given: [losses(*given[:2])], batch_size=5)
    assert rows.shape == (12, 6)
    for number in range(3):
        model.zero_grad()
        losses(model(x[number : number + 1]), torch.tensor([number % 4])).sum().backward()
        by_weights = (model.two.weight.grad * model.two.weight).sum((0, 2, 3)).detach().numpy()
        np.testing.assert_allclose(rows[number], by_weights, rtol=1e-4, atol=1e-6)


def test_a_closed_gate_is_the_group_gone(block):
    model, coupling, found, x = block
    gates = torch.ones(len(x), 6)
    gates[:, [1, 4]] = 0.0
    with torch.no_grad():
        closed = Gated(coupling, found, gates).run(x)
        weight = model.two.weight.clone()
        model.two.weight[:, [1, 4]] = 0.0
        gone = model(x)
        model.two.weight.copy_(weight)
    torch.testing.assert_close(closed, gone)


def test_the_refit_of_everything_is_the_network_itself(block):
    _, coupling, found, x = block
    walk = Reconstruction(coupling, found, [np.ones(6, dtype=bool)], x)
    state = walk.run()
    assert all(torch.equal(state[name], tensor) for name, tensor in state_of(coupling).items())
    assert walk.errors == {}


def test_the_refit_reaches_the_residual_sum_as_least_squares_do(block):
    model, coupling, found, x = block
    kept = np.array([1, 1, 0, 1, 0, 1], dtype=bool)
    walk = Reconstruction(coupling, found, [kept], x, ridge=1e-9)
    state = walk.run()
    with torch.no_grad():
        inner = torch.relu(model.norm1(model.one(x)))
        goal = model.norm2(model.two(inner)).permute(0, 2, 3, 1).reshape(-1, 3)
        held = inner * torch.from_numpy(kept)[None, :, None, None]
        patches = nn.functional.unfold(held, 3, padding=1).transpose(1, 2).reshape(-1, 54)
    keep = np.flatnonzero(np.repeat(kept, 9))
    design = np.column_stack([patches.numpy()[:, keep], np.ones(len(patches))]).astype(np.float64)
    best = np.linalg.lstsq(design, goal.numpy().astype(np.float64), rcond=None)[0]
    left = ((design @ best - goal.numpy()) ** 2).sum() / ((goal - goal.mean(0)) ** 2).sum().item()
    assert walk.errors["two.weight"] == pytest.approx(left, rel=1e-3)
    found_weights = state["two.weight"].flatten(1).T.numpy()
    np.testing.assert_allclose(found_weights[keep], best[:-1], rtol=2e-2, atol=2e-3)
    assert not found_weights[np.setdiff1d(np.arange(54), keep)].any()


def test_late_choices_are_asked_for_with_their_moments(block):
    _, coupling, found, x = block
    assert single_followers(coupling, found) == {0}
    assert [layer.weight for layer in layers_of(coupling)] == ["one.weight", "two.weight", "head.weight"]
    walk = Reconstruction(coupling, found, [np.ones(6, dtype=bool)], x, ridge=1e-3, chosen_late=frozenset({0}))
    steps = walk.steps()
    choice = next(steps)
    assert (choice.family, choice.name, choice.gram.shape, choice.cross.shape) == (0, "one", (54, 54), (54, 3))
    assert list(choice.group) == [k // 9 for k in range(54)]
    kept = np.array([0, 1, 1, 1, 0, 1], dtype=bool)
    with pytest.raises(StopIteration) as done:
        steps.send(kept)
    early = Reconstruction(coupling, found, [kept], x, ridge=1e-3).run()
    with torch.no_grad():
        one, other = (torch.func.functional_call(coupling.program, state, (x,)) for state in (done.value.value, early))
    torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_targets_of_its_own_leave_alone_what_loses_nothing(block):
    """With all groups kept a layer gives its own outputs already, whatever reaches it; to dense targets it is moved."""
    _, coupling, found, x = block
    kept = np.array([1, 1, 0, 1, 0, 1], dtype=bool)
    states = {}
    for targets in ("own", "dense"):
        walk = Reconstruction(coupling, found, [kept], x, ridge=1e-4, targets=targets, chosen_late=frozenset({0}))
        steps = walk.steps()
        next(steps)
        with pytest.raises(StopIteration) as done:
            steps.send(kept)
        states[targets] = done.value.value
    # the head's inputs have drifted: its own outputs ask for the weights that it has
    head = state_of(coupling)["head.weight"]
    torch.testing.assert_close(states["own"]["head.weight"], head, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(states["dense"]["head.weight"], head, rtol=1e-3, atol=1e-4)


def family(name, size, kind="channels"):
    return Family(name, kind, tuple(range(size)), {})


def test_allocation_is_the_best_of_all_where_costs_are_constant():
    rng = np.random.default_rng(0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sizes = (3, 4, 2)
        found = [family(str(k), size) for k, size in enumerate(sizes)]
        scores = [np.sort(rng.random(size)) for size in sizes]
        cost = Cost("macs", sizes, tuple(Term(str(k), 1.0, ((((k,), float(sizes[k])),),)) for k in range(3)))
        limit = float(rng.integers(3, 9))
        counts = allocate(cost, found, losses_of(scores), limit)
        assert cost.total(counts) <= limit
        lost = sum(s[: len(s) - c].sum() for s, c in zip(scores, counts, strict=True))
        best = min(
            sum(s[: len(s) - c].sum() for s, c in zip(scores, tried, strict=True))
            for tried in np.ndindex(*(size for size in sizes))
            for tried in [tuple(t + 1 for t in tried)]
            if cost.total(tried) <= limit
        )
        assert lost == pytest.approx(best)


def test_budgets_are_never_exceeded_and_counts_are_multiples(block):
    _, coupling, _, _ = block
    every = [item for item in families(coupling)[0] if item.kind != "layers"]
    cost = cost_of(coupling, every, "macs")
    scores = [np.arange(1.0, item.size + 1) for item in every]
    for share in (0.9, 0.7, 0.5, 0.3):
        counts = allocate(cost, every, losses_of(scores), share * cost.total())
        assert cost.total(counts) <= share * cost.total() * (1 + 1e-9)
        assert min(counts) >= 1
    counts = allocate(cost, every, losses_of(scores), 0.6 * cost.total(), Steps(multiple=2))
    assert [count % 2 for count, item in zip(counts, every, strict=True) if item.kind == "channels"] == [0]
    with pytest.raises(ValueError, match="cannot be reached: with the least that every pruned family keeps"):
        allocate(cost, every, losses_of(scores), 0.001 * cost.total())


def test_uniform_families_keep_the_same_count():
    found = [family("a", 4), family("b", 4), family("c", 2)]
    cost = Cost("macs", (4, 4, 2), tuple(Term(str(k), 1.0, ((((k,), float(n)),),)) for k, n in enumerate((4, 4, 2))))
    counts = allocate(cost, found, losses_of([np.ones(4), np.full(4, 9.0), np.full(2, 5.0)]), 6.0, Steps(uniform=True))
    assert counts[0] == counts[1]


def test_an_own_network_gets_smaller(tmp_path):
    """The call, from a network of two hidden layers to one that a fresh graph and the module itself agree on."""
    import prunebench
    from prunebench.pruned_structure import Smaller

    torch.manual_seed(0)
    x = torch.randn(300, 12)
    y = (x[:, :3] @ torch.randn(3, 3)).argmax(1)
    model = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3))
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = prunebench.prune(
        model, (x, y), loss="cross_entropy", structure="neurons", flops=0.4, samples=150, progress=False
    )
    assert isinstance(small, Smaller)
    dense, pruned = small.costs["macs"]
    assert 0.3 < pruned / dense <= 0.4
    assert set(small.masks) == {"0:neurons", "2:neurons"}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    module = small.apply(model)
    assert module[0].out_features == int(small.masks["0:neurons"].sum())
    torch.testing.assert_close(module(x), small.model(x))
    assert small.measures["accuracy"][1] > 0.8
    assert "macs" in str(small)
    small.save(tmp_path / "out")
    from prunebench.pruned import Pruned

    again = Pruned.load(tmp_path / "out")
    assert isinstance(again, Smaller)
    torch.testing.assert_close(again.model(x[:7]), small.model(x[:7]))


def test_every_label_gives_what_drawn_labels_estimate(block):
    from prunebench.curvature.drawn_labels import EveryLabel
    from prunebench.curvature.group_scores.evidence import Evidence
    from prunebench.curvature.group_scores.of_samples import rows

    model, coupling, found, x = block
    every, positions = EveryLabel(2.0), np.arange(8)
    evidence = Evidence(
        coupling=coupling, families=found, samples=TensorSamples(x, torch.arange(40) % 4), positions=positions,
        loss=every.loss(losses), labels=lambda outputs, *_: every.labels(outputs), shares=every.shares,
    )  # fmt: skip
    held = rows(evidence)
    classes = 4
    assert held.shape == (classes * 8, 6)
    gates = torch.ones(8, 6)
    jacobian = torch.autograd.functional.jacobian(lambda g: Gated(coupling, found, g).run(x[:8]), gates)
    expected = np.zeros((6, 6))
    for k in range(8):
        j = jacobian[k, :, k].numpy() / 2.0
        p = torch.softmax(model(x[k : k + 1])[0] / 2.0, 0).detach().numpy()
        expected += j.T @ (np.diag(p) - np.outer(p, p)) @ j / 8
    np.testing.assert_allclose(held.T @ held / len(held), expected, rtol=1e-3, atol=1e-7)
