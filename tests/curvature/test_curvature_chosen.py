"""Which matrices are pruned: chosen by patterns, and told where they are not."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from prunebench.cli import main
from prunebench.core.errors import InvalidInput, UnknownName
from prunebench.core.problem import Selection, make_problem, options_as_json, problem_options, selection
from prunebench.core.registry import PROBLEMS
from prunebench.curvature.reach import (
    nonzero_columns,
    reached_by_gradients,
    reached_by_inputs,
    unreached,
)
from prunebench.networks.chosen import folded, not_pruned, pattern_of, prunable_network, selected
from prunebench.networks.network import Layer, PrunableNetwork
from prunebench.networks.samples import TensorSamples


class Mixed(nn.Module):
    """Matrices of many kinds."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.experts = Experts()
        self.bilinear = nn.Bilinear(2, 3, 2)
        self.lstm = nn.LSTM(4, 3)
        self.raw = nn.Parameter(torch.zeros(2, 5))
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embed.weight

    def get_classifier(self):
        return self.head


class Experts(nn.Module):
    """Three experts in one parameter."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Parameter(torch.zeros(3, 4, 4))


USUAL = tuple(f"blocks.{number}.weight" for number in range(3))


def test_what_is_not_pruned_is_listed_by_kind_most_weights_first():
    network = PrunableNetwork(Mixed(), USUAL[:2])
    groups = {group.kind: (group.matrices, group.weights, group.names) for group in not_pruned(network, Selection())}
    assert groups == {
        "LSTM": (2, 84, ("lstm.weight_ih_l0", "lstm.weight_hh_l0")),
        "Experts (3 axes)": (1, 48, ("experts.stack",)),
        "Embedding": (1, 28, ("embed.weight",)),
        "Linear": (1, 16, ("blocks.*.weight",)),
        "Bilinear": (1, 12, ("bilinear.weight",)),
        "Mixed": (1, 10, ("raw",)),
    }
    sizes = [group.weights for group in not_pruned(network, Selection())]
    assert sizes == sorted(sizes, reverse=True)


def test_matrices_that_are_excluded_are_told_apart_and_so_is_a_head():
    network = PrunableNetwork(Mixed(), USUAL[1:])
    kinds = [group.kind for group in not_pruned(network, Selection(exclude="blocks.0.*"))]
    assert "Linear, excluded" in kinds
    model = Mixed()
    model.head.weight = nn.Parameter(torch.zeros(7, 4))
    kinds = [group.kind for group in not_pruned(PrunableNetwork(model, USUAL), Selection())]
    assert "Linear (output head)" in kinds


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Selection(), USUAL),
        (Selection(exclude="blocks.[02].*"), USUAL[1:2]),
        (Selection(include="blocks.1.weight , *.stack"), (USUAL[1], "experts.stack")),
        (Selection(include="blocks.*", exclude="*.1.*,*.2.*"), USUAL[:1]),
        # A head may be excluded although it is not pruned anyway.
        (Selection(exclude="head.weight"), USUAL),
    ],
)
def test_patterns_choose(chosen, expected):
    assert selected(Mixed(), USUAL, chosen) == expected


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_lists_near_names(option):
    with pytest.raises(InvalidInput, match=rf"{option}=blcks\.0\.weight matches none.* names are blocks\.0\.weight"):
        selected(Mixed(), USUAL, Selection(**{option: "blocks.1.*,blcks.0.weight"}))
    # Biases and norms are no matrices.
    with pytest.raises(InvalidInput, match="matches none of"):
        selected(Mixed(), USUAL, Selection(**{option: "scale"}))


def test_nothing_left_is_refused():
    with pytest.raises(InvalidInput, match=r"exclude=\*\.weight leaves nothing to prune"):
        selected(Mixed(), USUAL, Selection(exclude="*.weight"))


def test_names_are_folded_where_numbers_stand_alone():
    assert folded(["a.0.fc1.weight", "a.1.fc1.weight", "a.10.fc2.weight"]) == ("a.*.fc1.weight", "a.*.fc2.weight")


def test_a_remedy_matches_what_it_is_to_match_and_nothing_else():
    assert pattern_of(["0.weight"], ["0.weight", "2.weight"]) == "0.weight"
    assert pattern_of(["a.0.k.weight", "a.1.k.weight"], ["a.0.q.weight"]) == "a.*.k.weight"
    assert pattern_of(["a.0.k.weight", "a.1.k.weight"], ["a.2.k.weight"]) == "a.0.k.weight,a.1.k.weight"


@pytest.fixture
def foreign():
    """A problem class of another package, which knows nothing of include and exclude."""

    @dataclass(frozen=True, kw_only=True)
    class Foreign:
        """A network that uses what it prunes in part."""

        name: ClassVar[str] = "foreign"
        summary: ClassVar[str] = "of another package"
        requires: ClassVar[tuple[str, ...]] = ()

        width: int = 4
        """Inputs."""

        def missing(self):
            return ""

        def model(self):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return Partly(self.width)

        def prunable(self):
            return ("used.weight", "idle.weight")

        def calibration(self):
            x = torch.linspace(-1, 1, 40 * self.width).reshape(40, self.width).clone()
            x[:, 1] = 0.0
            return TensorSamples(x, torch.arange(40) % 2)

        def validation(self):
            return self.calibration()

        def loss(self, outputs, targets):
            return nn.functional.cross_entropy(outputs, targets, reduction="none")

        def evaluate(self, model):
            samples = self.calibration()
            return {"accuracy": 0.5, "loss": self.loss(model(samples.inputs), samples.targets).mean().item()}

    PROBLEMS.register(Foreign)
    yield Foreign
    del PROBLEMS._classes["foreign"]


class Partly(nn.Module):
    """One layer is used, the other never called."""

    def __init__(self, width):
        super().__init__()
        self.used = nn.Linear(width, 3)
        self.idle = nn.Linear(width, 2)
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        return self.out(torch.tanh(self.used(x)))


def test_every_problem_made_of_a_network_takes_them(foreign):
    assert [option.name for option in problem_options(foreign)] == ["width", "include", "exclude"]
    assert [option.name for option in problem_options(PROBLEMS.get("planted"))] == ["p", "n", "kind", "ridge"]
    problem = make_problem("foreign", {"width": "3", "exclude": "idle.*"})
    assert options_as_json(problem) == {"width": 3, "exclude": "idle.*"}
    assert prunable_network(problem).names == ("used.weight",)
    again = make_problem("foreign", {"include": ["out.weight", "used.*"]})
    assert selection(again).include == "out.weight,used.*"
    assert prunable_network(again).names == ("used.weight", "out.weight")
    assert options_as_json(make_problem("foreign")) == {"width": 4}
    with pytest.raises(UnknownName):
        make_problem("planted", {"exclude": "*"})
    with pytest.raises(InvalidInput, match="give patterns of parameter names"):
        make_problem("foreign", {"exclude": 3})


SAMPLES = ("--samples", "20")


def pruned(capsys, folder, *words):
    code = main(["prune", *words, "--density", "0.5", "--out", str(folder), "--json"])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize(
    ("how", "looked"),
    [
        (("--coordinator", "icbs", "--steps", "1", "--option", "accept_samples=10", *SAMPLES), 20),
        (("--coordinator", "one-shot", "--mode", "select", *SAMPLES), 20),
        (("--coordinator", "multi-stage", "--stages", "1", *SAMPLES, "--option", "held_out=10"), 20),
    ],
)
def test_a_run_tells_what_it_leaves_out_and_what_no_sample_reaches(foreign, capsys, tmp_path, how, looked):
    code, out, err = pruned(capsys, tmp_path / "run", "foreign", "--solver", "magnitude", *how)
    assert code == 0, err
    assert "not pruned: 1 matrix, 6 weights\n  1 matrix of Linear, 6 weights: out.weight" in err
    assert f"none of {looked} samples reaches" in err
    assert err.count("idle.weight") == 1 + ("is not called" in err)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["network"]
    assert [group["names"] for group in facts["not_pruned"]] == [["out.weight"]]
    assert facts["unreached"] == {
        "samples": looked,
        "layers": {"kind": "layer", "matrices": 1, "weights": 8, "names": ["idle.weight"]},
        "weights": {"used.weight": 3},
    }
    assert facts["gradients"]["way"] in ("vectorised", "one by one")
    assert json.loads(out)["total"] == 20


def test_excluded_matrices_are_left_as_they_are_and_the_run_says_so(foreign, capsys, tmp_path):
    words = ("foreign", "--solver", "magnitude", "--coordinator", "layer-wise", "--samples", "20")
    code, out, err = pruned(capsys, tmp_path / "all", *words)
    assert code == 0, err
    assert "left dense: 1 matrix, 8 weights; the density is of the other prunable ones" in err
    assert "1 matrix, 8 weights: idle.weight: is never reached by the samples" in err
    assert json.loads(out)["kept"] == 6
    left = json.loads((tmp_path / "all" / "run.json").read_text())["network"]["left_dense"]
    assert left == [
        {"reason": "is never reached by the samples", "matrices": 1, "weights": 8, "names": ["idle.weight"]}
    ]
    code, out, err = pruned(capsys, tmp_path / "run", *words, "--option", "exclude=idle.weight")
    assert code == 0, err
    told = json.loads(out)
    assert (told["kept"], told["total"]) == (6, 12)
    assert told["options"]["problem.exclude"] == "idle.weight"
    assert "of Linear, excluded" in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["network"]["unreached"]["weights"] == {
        "used.weight": 3
    }
    from safetensors.torch import load_file

    held = load_file(tmp_path / "run" / "weights.safetensors")
    assert torch.equal(held["idle.weight"], foreign().model().idle.weight)
    assert int((held["used.weight"] == 0).sum()) == 6
    code = main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert code == 0
    assert "What was not pruned, and what no sample reached" in page
    assert "Linear, excluded" in page
    assert "used.weight" in page
    code = main(["evaluate", "foreign", "--option", "exclude=nothing.*"])
    assert code == 2
    assert "exclude=nothing.* matches none" in capsys.readouterr().err


def test_a_dense_network_that_is_not_finite_is_refused_with_the_sample(foreign, capsys, tmp_path, monkeypatch):
    broken = foreign().calibration()
    broken.inputs[11] = float("nan")
    monkeypatch.setattr(foreign, "calibration", lambda self: broken)
    code, _, err = pruned(capsys, tmp_path / "run", "foreign", "--solver", "magnitude")
    assert code == 2
    assert "the dense network's loss is NaN or infinite at sample 11: the sample itself holds NaN" in err
    assert not (tmp_path / "run").exists()


def test_what_is_reached_is_the_same_by_gradients_and_by_inputs():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))
        x = torch.rand(300, 2, 3, 3)
    x[:, 1] = 0.0
    with torch.no_grad():
        model[0].weight[2] = -5.0
        model[0].bias[2] = -5.0
    network = PrunableNetwork(model, ("0.weight", "3.weight", "4.weight"))
    samples = TensorSamples(x, torch.zeros(300))
    expected = {"0.weight": 12 + 4, "3.weight": 4 * 4}

    def loss(outputs, _targets):
        return outputs.square().sum(dim=1)

    positions = np.arange(300)
    by_gradients = unreached(network.layers, reached_by_gradients(network, loss, samples, positions), 300)
    assert by_gradients.weights == expected
    assert by_gradients.layers.matrices == 0
    # A unit that is dead behind the layer is not seen at its inputs.
    by_inputs = unreached(network.layers, reached_by_inputs(network, samples, positions), 300)
    assert by_inputs.weights == {"0.weight": 12, "3.weight": 16}
    # The last sample alone lights channel 1 up.
    x[-1, 1] = 1.0
    assert "0.weight" not in unreached(network.layers, reached_by_inputs(network, samples, positions), 300).weights
    reached = reached_by_gradients(network, loss, samples, positions)
    assert unreached(network.layers, reached, 300).weights["0.weight"] < expected["0.weight"]


def test_columns_of_zeros_are_found_across_chunks(monkeypatch):
    from prunebench.core import arrays

    monkeypatch.setattr(arrays, "CHUNK_ELEMENTS", 4)
    factor = np.zeros((5, 4), dtype=np.float32)
    factor[4, 2] = -1e-30
    factor[0, 0] = 1.0
    assert nonzero_columns(factor).tolist() == [True, False, True, False]
    layers = [Layer("a", 0, 2, (1, 2)), Layer("b", 2, 3, (1, 1)), Layer("c", 3, 4, (1, 1))]
    found = unreached(layers, nonzero_columns(factor), 5)
    assert found.layers.names == ("c",)
    assert found.weights == {"a": 1}
