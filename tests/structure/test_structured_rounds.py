"""Rounds of structured pruning: what is kept, where its values come from, what is refused; and controls of groups."""

import numpy as np
import pytest
import torch
from torch import nn

import prunebench
from helpers import refused
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import make_problem
from prunebench.log.run_directory import RunDirectory
from prunebench.networks.checkpoints import read_state
from prunebench.pruned import Pruned
from prunebench.recovery.training.cut import Cut, Remaining
from prunebench.recovery.training.group_controls import made
from prunebench.recovery.training.protocol import Protocol
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.runs.retraining import retrain
from prunebench.structure.found import find

DIGITS = {"epochs": 4}


def request(**changes):
    options = {"samples": 200, "rounds": 3, "train": "epochs=1", **changes.pop("options", {})}
    asked = {"problem": "digits-mlp", "density": 0.4, "solver": "group-swap", "problem_options": DIGITS}
    return PruneRequest(coordinator="structured-rounds", coordinator_options=options, **{**asked, **changes})


class Net(nn.Module):
    """Two convolutions with batch norms, and a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.other = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.last(torch.relu(self.other(self.second(x))).mean(dim=(2, 3)))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    inputs = torch.tensor(rng.normal(size=(160, 2, 5, 5)), dtype=torch.float32)
    return inputs, (inputs[:, 0].mean(dim=(1, 2)) > 0).long()


def test_every_round_costs_less_and_the_budget_holds(tmp_path):
    result = prune(request(), out=tmp_path / "run")
    events = RunDirectory.open(tmp_path / "run").events()
    parts = [event["part"] for event in events if event["kind"] == "shrink"]
    assert len(parts) == 3
    assert parts == sorted(parts, reverse=True)
    # a neuron of 32 is about 3 % of the multiplications
    assert 0.36 < parts[-1] <= 0.4
    assert [event["kind"] for event in events[-2:]] == ["shrink", "train"]
    assert result["accuracy"] > 0.7
    smaller = Pruned.load(tmp_path / "run")
    problem = make_problem("digits-mlp", DIGITS)
    assert problem.evaluate(smaller.apply(problem.model()))["loss"] == pytest.approx(result["loss"], rel=1e-6)


@pytest.mark.parametrize("start", ["dense", "init", "step:3"])
def test_rewound_values_are_those_of_the_groups_that_are_kept(tmp_path, start):
    prune(request(options={"train": f"epochs=0,start={start}"}), out=tmp_path / "run")
    problem = make_problem("digits-mlp", DIGITS)
    step = {"init": 0, "step:3": 3}.get(start)
    model = problem.model() if step is None else problem.trajectory().at(step)
    kept = read_state(tmp_path / "run" / "mask.safetensors")["fc1:neurons"]
    assert 0 < int(kept.sum()) < kept.numel()
    weights, whole = read_state(tmp_path / "run" / "weights.safetensors"), model.state_dict()
    assert torch.equal(weights["fc1.weight"], whole["fc1.weight"][kept])
    assert torch.equal(weights["fc2.weight"], whole["fc2.weight"][:, kept])
    assert torch.equal(weights["fc1.bias"], whole["fc1.bias"][kept])


def test_without_training_or_refit_rounds_cut_the_dense_network(images):
    """Masks of rounds are put together rightly: what is left has the dense values of the groups that are said to be."""
    dense = Net().eval()
    pruned = prunebench.prune(
        dense, flops=0.3, data=images, loss="cross_entropy", coordinator="structured-rounds", solver="obd",
        mode="select", rounds=3, couplings="0", train="epochs=0", samples=64, progress=False,
    )  # fmt: skip
    state, masks = pruned.state, pruned.masks
    one, two = masks["first:channels"], masks["second:channels"]
    assert int(one.sum()) < 8
    assert torch.equal(state["second.weight"], dense.state_dict()["second.weight"][two][:, one])
    assert torch.equal(state["norm.running_var"], dense.state_dict()["norm.running_var"][one])


def test_networks_with_batch_norms_are_trained_and_reported(images):
    pruned = prunebench.prune(
        Net().eval(), flops=0.4, data=images, loss="cross_entropy", validation=images,
        coordinator="structured-rounds", rounds=2, train="epochs=3,batch_size=32", samples=64,
        controls=["reinit", "random", "shuffle", "one-shot"], progress=False,
    )  # fmt: skip
    assert len(pruned.result["controls"]) == 4
    sizes = {entry["kept"] for entry in pruned.result["controls"]}
    assert sizes == {sum(pruned.state[name].numel() for name in ("first.weight", "second.weight", "last.weight"))}
    assert pruned.result["loss"] < min(entry["loss"] for entry in pruned.result["controls"])


def test_an_interrupted_run_ends_with_the_same(tmp_path):
    from prunebench.core.errors import Interrupted

    whole = prune(request(), out=tmp_path / "whole")

    def say(line):
        if line.startswith("step 5"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prune(request(), out=tmp_path / "stopped", say=say)
    after = resume(tmp_path / "stopped")
    assert (after["loss"], after["kept"]) == (whole["loss"], whole["kept"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"options": {"structure": "layers"}}, "in no shape"),
        ({"options": {"budget": "latency"}}, "times are measured"),
        ({"options": {"start_density": 0.2}}, "below the last"),
        ({"options": {"train": "epochs=1,start=dense,penalty=0.1"}}, "of a smaller network none does"),
        ({"options": {"rounds": 0}}, "rounds is 0"),
        ({"recover": ("distil",)}, "takes no recovery"),
        ({"problem": "mlpnet-mnist", "problem_options": {}, "options": {"train": "start=init"}}, "cannot be had"),
    ],
)
def test_refused_before_any_work(tmp_path, changes, match):
    with pytest.raises(InvalidInput, match=match):
        prune(request(**changes), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_module_that_holds_its_sizes_is_refused_before_it_is_pruned(images):
    class Fixed(Net):
        def forward(self, x):
            return self.last(torch.relu(self.other(self.second(torch.relu(self.norm(self.first(x)))))).mean(
                dim=(2, 3)).reshape(-1, 6))  # fmt: skip

    with pytest.raises(InvalidInput, match="its code holds sizes of its own"):
        prunebench.prune(
            Fixed().eval(),
            flops=0.5,
            data=images,
            loss="cross_entropy",
            coordinator="structured-rounds",
            samples=64,
            progress=False,
        )


def test_groups_and_another_coordinator_do_not_go_together(capsys):
    err = refused(capsys, "prune", "digits-mlp", "--flops", "0.5", "--coordinator", "rounds")
    assert "structured or structured-rounds" in err


# ------------------------------------------------------------ controls


@pytest.fixture(scope="module")
def left():
    """The problem, and what is left of it: ten of 32 neurons."""
    problem = make_problem("digits-mlp", DIGITS)
    found = find(problem.model(), problem.calibration(), ())
    cut, kept = Cut(problem, problem.prunable(), found), [np.arange(32) % 3 == 0]
    return problem, Remaining(cut, kept, 11 / 32)


def control(left, name, protocol=None, seed=0):
    problem, remaining = left
    network = remaining.cut.network(remaining.kept)
    return made(name, problem, network, remaining, protocol or Protocol(epochs=1), seed)


@pytest.mark.parametrize("name", ["reinit", "random", "shuffle", "one-shot", "small-dense"])
def test_controls_have_as_many_groups(left, name):
    held = control(left, name)
    assert held.mask.all()
    assert held.network.model.get_parameter("fc1.weight").shape == (11, 64)
    assert held.network.model.get_parameter("fc2.weight").shape == (10, 11)


def test_what_controls_of_groups_keep_and_where_they_start(left):
    problem, remaining = left
    whole = problem.model().state_dict()["fc1.weight"]
    rows = {tuple(row) for row in whole.numpy().tolist()}
    largest = torch.argsort(-whole.norm(dim=1), stable=True)[:11].sort().values
    assert torch.equal(control(left, "one-shot").network.model.get_parameter("fc1.weight"), whole[largest])
    drawn = control(left, "random")
    assert drawn.protocol.start == "dense"
    assert {tuple(row) for row in drawn.network.model.get_parameter("fc1.weight").tolist()} < rows
    other = control(left, "random", seed=1).network.model.get_parameter("fc1.weight")
    assert not torch.equal(drawn.network.model.get_parameter("fc1.weight"), other)
    shuffled, kept = control(left, "shuffle").network.weights(), remaining.cut.network(remaining.kept).weights()
    assert np.array_equal(np.sort(shuffled[:704]), np.sort(kept[:704]))
    assert not np.array_equal(shuffled, kept)
    init = problem.trajectory().at(0).state_dict()["fc1.weight"]
    begun = control(left, "one-shot", Protocol(epochs=1, start="init"))
    assert torch.equal(begun.network.model.get_parameter("fc1.weight"), init[largest])


def test_a_training_with_as_many_multiplications_is_longer(left):
    protocol = Protocol(epochs=1, start="fresh:1", per_density=True)
    assert control(left, "random", protocol).protocol.epochs == 3


def test_controls_are_added_to_a_finished_run(tmp_path):
    prune(request(options={"rounds": 1}), out=tmp_path / "run")
    first = retrain(tmp_path / "run", Protocol(epochs=1, start="init"), controls=["one-shot", "reinit"])
    assert [entry["control"] for entry in first["controls"]] == ["one-shot", "reinit"]
    assert first["retrained"][0]["protocol"] == "epochs=1,start=init"
    assert [entry["trained_as"] for entry in first["controls"]] == ["epochs=1,start=init"] * 2
