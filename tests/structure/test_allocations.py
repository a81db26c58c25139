"""Counts by every score and allocation stay within the budget; densities of weights; noise as calibration."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers import call
from prunebench.core.errors import InvalidInput
from prunebench.curvature.group_scores.names import SCORES
from prunebench.curvature.synflow import LEAST, ROUNDS, flow_densities
from prunebench.log.run_directory import RunDirectory
from prunebench.networks.noise import NoiseSamples
from prunebench.networks.samples import TensorSamples
from prunebench.pruning import prune as prune_own
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.structure.budget import Steps, allocate, losses_of
from prunebench.structure.cost import cost_of
from prunebench.structure.families import chosen, families
from prunebench.structure.shares import by_shares, density_shares, uniform_shares
from prunebench.structure.trace import couple


@pytest.fixture(scope="module")
def chain():
    """Three families in a row, the weights between two of them costing the product of both."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 10), nn.ReLU(),
        nn.Linear(10, 4),
    ).eval()  # fmt: skip
    coupling = couple(model, torch.randn(3, 1, 8, 8))
    found = chosen(families(coupling)[0], ())
    return model, coupling, found, cost_of(coupling, found, "macs")


def within(cost, counts, part):
    return cost.total(counts) <= part * cost.total() * (1.0 + 1e-9)


@pytest.mark.parametrize("steps", [Steps(), Steps(multiple=4), Steps(uniform=True)])
@pytest.mark.parametrize("part", [0.25, 0.5, 0.77])
def test_no_allocation_exceeds_the_budget(chain, part, steps):
    _, coupling, found, cost = chain
    rng = np.random.default_rng(0)
    scores = [rng.random(family.size) for family in found]
    limit = part * cost.total()
    ways = [
        allocate(cost, found, losses_of(scores), limit, steps),
        allocate(cost, found, losses_of(scores), limit, replace(steps, per_cost=False)),
        by_shares(cost, found, uniform_shares(found), limit, steps),
        by_shares(cost, found, density_shares(found, flow_densities(coupling)), limit, steps),
    ]
    for counts in ways:
        assert within(cost, counts, part), counts
        assert all(1 <= count <= family.size for count, family in zip(counts, found, strict=True))
        assert cost.total(counts) > 0.5 * limit, counts
        for count, family in zip(counts, found, strict=True):
            assert count % steps.multiple == 0 or family.size % steps.multiple or count == family.size


def test_a_uniform_allocation_keeps_one_part_of_each(chain):
    _, _, found, cost = chain
    counts = by_shares(cost, found, uniform_shares(found), 0.3 * cost.total())
    parts = [count / family.size for count, family in zip(counts, found, strict=True)]
    assert max(parts) - min(parts) <= 1.0 / min(family.size for family in found)
    # nothing more fits that rounding took away
    assert not within(cost, [min(count + 1, family.size) for count, family in zip(counts, found, strict=True)], 0.3)


def test_a_threshold_takes_the_least_scores_whatever_they_cost(chain):
    _, _, found, cost = chain
    scores = [np.full(family.size, 1.0 + k) for k, family in enumerate(found)]
    counts = allocate(cost, found, losses_of(scores), 0.9 * cost.total(), Steps(per_cost=False))
    assert counts[0] < found[0].size
    assert counts[1:] == [family.size for family in found[1:]]


def test_parts_give_weights_their_densities(chain):
    _, _, found, _ = chain
    parts = np.array([0.5, 0.25, 0.8])
    densities = {"0.weight": 0.5, "2.weight": 0.125, "5.weight": 0.2, "7.weight": 0.8}
    (share,) = list(density_shares(found, [densities]))
    np.testing.assert_allclose(share, parts, rtol=1e-9)


def test_synaptic_flow_by_hand():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    steps = list(flow_densities(couple(model, torch.randn(3, 4))))
    assert len(steps) == ROUNDS + 1
    assert steps[0] == {"0.weight": 1.0, "2.weight": 1.0}
    sizes = {"0.weight": 20, "2.weight": 15}
    for k, step in enumerate(steps):
        left = sum(step[name] * size for name, size in sizes.items())
        assert left == pytest.approx(max(1, round(35 * LEAST ** (k / ROUNDS))))
    # the first removal, by products of absolute weights along paths: biases carry flow too
    one, two = (model[k].weight.detach().double().abs() for k in (0, 2))
    bias = model[0].bias.detach().double().abs()
    into, out = one.sum(1) + bias, two.sum(0)
    flows = torch.cat([(one * out[:, None]).flatten(), (two * into[None]).flatten()])
    gone = next(k for k in range(1, len(steps)) if steps[k] != steps[0])
    kept = max(1, round(35 * LEAST ** (gone / ROUNDS)))
    alive = set(torch.argsort(flows, descending=True)[:kept].tolist())
    assert steps[gone]["0.weight"] == pytest.approx(sum(k < 20 for k in alive) / 20)


def test_noise_depends_on_position_and_seed_alone():
    samples = TensorSamples(torch.zeros(6, 2, 3), torch.arange(6))
    noise = NoiseSamples(samples, 5, 8)
    x, y = noise.batch(np.array([4, 1]))
    assert x.shape == (2, 2, 3)
    assert y.tolist() == [4, 1]
    torch.testing.assert_close(noise.batch(np.array([1]))[0][0], x[1])
    assert not torch.equal(NoiseSamples(samples, 6, 8).batch(np.array([4]))[0][0], x[0])
    with pytest.raises(InvalidInput, match="one tensor of real numbers"):
        NoiseSamples(TensorSamples(torch.zeros(6, 2, dtype=torch.long), torch.arange(6)), 5, 8)


def test_another_problem_lends_its_inputs_where_they_fit(monkeypatch):
    from prunebench.coordinators.structured import calibration
    from prunebench.core.coordinator import Setting
    from prunebench.core.problem import make_problem
    from prunebench.core.solver import make_solver

    problem = make_problem("digits-mlp")
    setting = Setting(problem=problem, solver=make_solver("obd"), density=0.5, mode="refit", options=None)
    at = np.arange(2)
    own = calibration.calibration_samples(setting, "")
    torch.testing.assert_close(calibration.calibration_samples(setting, "digits-mlp").batch(at)[0], own.batch(at)[0])

    class Larger(type(problem)):
        def calibration(self):
            return TensorSamples(torch.zeros(5, 65), torch.arange(5))

    monkeypatch.setattr(calibration, "make_problem", lambda _name: Larger())
    with pytest.raises(InvalidInput, match=r"inputs of 'larger' are \(65,\) and those of digits-mlp are \(64,\)"):
        calibration.calibration_samples(setting, "larger")


def request(**options):
    return PruneRequest(
        problem="digits-mlp", density=0.5, coordinator="structured", solver="obd", mode="select",
        coordinator_options={"samples": 60, "draws": 1, **options},
    )  # fmt: skip


@pytest.mark.parametrize("score", [name for name in SCORES if name not in ("gates", "bn", "spectrum")])
def test_every_score_chooses_within_the_budget(score, tmp_path):
    result = prune(request(score=score, allocation="score"), out=tmp_path / "run")
    assert (result["kept"], result["score"]) == (16, score)
    assert result["costs"]["macs"] == {"dense": 2368.0, "pruned": 1184.0}
    kinds = [event["kind"] for event in RunDirectory.open(tmp_path / "run").events()]
    assert kinds == [f"score {score}, coupling 0", "masked"]


def test_a_run_says_its_score_and_resumes_to_the_same(tmp_path, monkeypatch):
    from prunebench.coordinators.structured import Structured
    from prunebench.core.errors import Interrupted

    asked = request(score="taylor", calibration="noise", allocation="uniform")
    said = []
    result = prune(asked, out=tmp_path / "one", say=said.append)
    assert any("score taylor of 32 groups" in line and "60 samples of noise, 1 drawn" in line for line in said)
    facts = json.loads((tmp_path / "one" / "structure.json").read_text())
    assert (facts["score"], facts["allocation"], facts["calibration"]) == ("taylor", "uniform", "noise")
    whole = Structured._pruned

    def stop(self, kept):
        raise KeyboardInterrupt

    monkeypatch.setattr(Structured, "_pruned", stop)
    with pytest.raises(Interrupted):
        prune(asked, out=tmp_path / "two")
    monkeypatch.setattr(Structured, "_pruned", whole)
    monkeypatch.setattr(Structured, "_gather", stop)
    again = resume(tmp_path / "two")
    for key in ("kept", "accuracy", "loss", "objective", "costs"):
        assert again[key] == result[key], key


def test_own_networks_take_scores():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    data = (torch.randn(80, 6), torch.arange(80) % 3)
    small = prune_own(
        model, data, loss="cross_entropy", structure="neurons", flops=0.5, score="l1", mode="select", progress=False
    )
    order = model[0].weight.detach().abs().sum(1).argsort(descending=True)
    assert sorted(order[:4].tolist()) == small.masks["0:neurons"].nonzero()[:, 0].tolist()


def test_samples_that_do_not_fit_are_refused(capsys):
    def line(*arguments):
        code, _, err = call(capsys, "prune", "digits-mlp", "--structure", "neurons", "--flops", "0.5", *arguments)
        assert code == 2
        return err.splitlines()[-1]

    assert "did you mean 'mlpnet-mnist'" in line("--calibration", "mlpnet-mnits")
    assert "name a registered problem, or noise" in line("--calibration", "file.py:made")
    assert "labels are drawn for classes" in line("--calibration", "noise", "--option", "draws=0")
    held = line("--calibration", "noise", "--mode", "select")
    assert "held-out samples of the problem, which calibration is to do without" in held
    assert "allocation is 'even'" in line("--allocation", "even")
