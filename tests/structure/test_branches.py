"""Residual branches as groups: found, taken out, counted, gated, refitted."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers import call, refused
from prunebench.curvature.gates import as_measured, branch_rises, gate_rows
from prunebench.networks.samples import TensorSamples
from prunebench.recovery.reconstruction import Reconstruction
from prunebench.runs.prune import PruneRequest, prune
from prunebench.structure.budget import Steps, allocate, losses_of
from prunebench.structure.check import TOLERANCE, check, difference
from prunebench.structure.cost import cost_of
from prunebench.structure.families import chosen, families
from prunebench.structure.resize import Living, shrunk_program, state_of
from prunebench.structure.trace import couple


def conv(inputs, outputs, size=3, stride=1):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, stride=stride)


class Residual(nn.Module):
    """A block with an identity, one with a projection, and one whose sum is changed in place."""

    def __init__(self):
        super().__init__()
        self.stem = conv(2, 6)
        self.one = nn.Sequential(conv(6, 4), nn.ReLU(), conv(4, 6))
        self.two = nn.Sequential(conv(6, 5, stride=2), nn.BatchNorm2d(5), nn.ReLU(), conv(5, 8))
        self.across = conv(6, 8, 1, stride=2)
        self.three = nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        x = functional.relu(x + self.one(x))
        x = functional.relu(self.across(x) + self.two(x))
        early = x
        x = self.three(x)
        x += early
        return self.head(functional.relu_(x).mean((2, 3)) * early.amax((2, 3)))


class Decoder(nn.Module):
    """Attention and neurons behind norms, each added to the stream; the second block has both in one branch."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(12) for _ in range(4))
        self.qkv = nn.ModuleList(nn.Linear(12, 36) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(12, 12) for _ in range(2))
        self.up, self.down = (
            nn.ModuleList(nn.Linear(12, 20) for _ in range(2)),
            nn.ModuleList(nn.Linear(20, 12) for _ in range(2)),
        )
        self.place = nn.Parameter(torch.randn(5, 12))

    def attend(self, k, x):
        q, key, v = self.qkv[k](x).reshape(x.shape[0], 5, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out[k](functional.scaled_dot_product_attention(q, key, v).transpose(1, 2).flatten(2))

    def forward(self, x):
        x = x + self.place
        x = x + self.attend(0, self.norms[0](x))
        x = x + self.down[0](functional.gelu(self.up[0](self.norms[1](x))))
        inner = self.norms[2](x)
        inner = inner + self.attend(1, inner)
        return x + self.down[1](functional.gelu(self.up[1](self.norms[3](inner))))


def made(kind, shape):
    torch.manual_seed(0)
    model = kind().eval()
    return couple(model, torch.randn(shape))


IMAGE, TOKENS = (3, 2, 6, 6), (3, 5, 12)


@pytest.mark.parametrize(
    ("kind", "shape", "names"),
    [(Residual, IMAGE, ["one", "two", "three"]), (Decoder, TOKENS, ["", "", "", ""])],
)
def test_every_branch_can_go_and_nothing_else_is_one(kind, shape, names):
    coupling = made(kind, shape)
    found, _ = families(coupling)
    layers = [family for family in found if family.kind == "layers"]
    assert len(layers) == len(names)
    assert all(not name or family.name == name for family, name in zip(layers, names, strict=True))
    assert [result.reason for result in check(coupling, layers)] == [""] * len(layers)
    inner = [family for family in found if family.kind in ("channels", "neurons", "heads")]
    rng = np.random.default_rng(0)
    for bits in range(2 ** len(layers)):
        kept = [np.array([bool(bits >> k & 1)]) for k in range(len(layers))]
        kept += [np.arange(family.size) < rng.integers(1, family.size + 1) for family in inner]
        both = [*layers, *inner]
        assert difference(coupling, both, kept) < TOLERANCE
        # what it costs is what the smaller network has
        program = shrunk_program(coupling, state_of(coupling), Living(coupling, both, kept))
        parameters = sum(item.numel() for item in program.parameters())
        counts = [int(mask.sum()) for mask in kept]
        assert cost_of(coupling, both, "parameters").total(counts) == parameters


def test_what_is_inside_of_a_branch_that_goes_counts_as_gone():
    coupling = made(Residual, IMAGE)
    found = [family for family in families(coupling)[0] if family.kind in ("layers", "channels")]
    inside = {family.name: family.within for family in found if family.kind == "channels"}
    bases = {family.name: family.groups for family in found if family.kind == "layers"}
    assert inside == {"one.0": bases["one"], "two.0": bases["two"], "three.0": bases["three"]}
    # the branch costs least for what it saves, and its channels are dear
    scores = [np.full(family.size, 1e-9 if family.name == "three" else 1.0) for family in found]
    cost = cost_of(coupling, found, "macs")
    counts = dict(
        zip(
            [family.label for family in found],
            allocate(cost, found, losses_of(scores), 0.72 * cost.total()),
            strict=True,
        )
    )
    assert counts["three:layers"] == counts["three.0:channels"] == 0
    assert counts["one:layers"] == counts["two:layers"] == 1
    assert min(counts["one.0:channels"], counts["two.0:channels"]) > 0


def test_what_a_branch_has_lost_inside_is_not_lost_twice():
    coupling = made(Residual, IMAGE)
    names = ("three", "three.0")
    found = [family for family in families(coupling)[0] if family.name in names]
    cost = cost_of(coupling, found, "macs")
    # all channels but one go first, then the branch for the rest of what it is worth
    scores = [np.full(family.size, 2.0 if family.kind == "layers" else 0.1) for family in found]
    least = cost.total([0 for _ in found])
    assert allocate(cost, found, losses_of(scores), least) == [0, 0]
    assert allocate(cost, found, losses_of(scores), least, Steps(uniform=True)) == [0, 0]
    some = cost.total([1 if family.kind == "layers" else 3 for family in found])
    assert allocate(cost, found, losses_of(scores), some) == [1 if family.kind == "layers" else 3 for family in found]


def test_a_gate_at_zero_is_the_network_without_the_branch():
    coupling = made(Residual, IMAGE)
    found = [family for family in families(coupling)[0] if family.kind in ("layers", "channels")]
    x, y = torch.randn(7, 2, 6, 6), torch.randn(7, 3)
    samples, positions = TensorSamples(x, y), np.arange(7)

    def losses(outputs, targets, _positions, _dense=None):
        return [((outputs - targets) ** 2).sum(1)]

    rises = branch_rises(coupling, found, samples, positions, losses, batch_size=4)
    with torch.no_grad():
        before = float(((coupling.program(x) - y) ** 2).sum(1).mean())
        for number, family in enumerate(found):
            if family.kind != "layers":
                continue
            kept = [np.full(item.size, item is not family) for item in found]
            program = shrunk_program(coupling, state_of(coupling), Living(coupling, found, kept))
            gate = sum(item.size for item in found[:number])
            assert rises[gate] == pytest.approx(float(((program(x) - y) ** 2).sum(1).mean()) - before, rel=1e-4)
    rows = gate_rows(coupling, found, samples, positions, losses)
    scaled = as_measured(rows / np.sqrt(7), rises)
    for gate, rise in rises.items():
        assert 0.5 * np.sum(scaled[:, gate] ** 2) == pytest.approx(max(rise, 0.0))
    plain = [gate for gate in range(rows.shape[1]) if gate not in rises]
    np.testing.assert_array_equal(scaled[:, plain], (rows / np.sqrt(7))[:, plain])


def test_a_projection_whose_branch_is_gone_is_refitted_to_the_whole_sum():
    coupling = made(Residual, IMAGE)
    found = [family for family in families(coupling)[0] if family.name == "two"]
    x = torch.randn(60, 2, 6, 6)
    kept = [np.zeros(1, dtype=bool)]
    walk = Reconstruction(coupling, found, kept, x, ridge=1e-6)
    state = walk.run()
    assert "across.weight" in walk.errors
    assert "two.0.weight" not in walk.errors
    living = Living(coupling, found, kept)
    with torch.no_grad():
        dense = coupling.program(x)
        plain = shrunk_program(coupling, state_of(coupling), living)(x)
        refitted = shrunk_program(coupling, state, living)(x)
    assert float(((refitted - dense) ** 2).mean()) < 0.5 * float(((plain - dense) ** 2).mean())


def test_layers_of_a_language_model_go_and_no_folder_says_so(tiny_mistral, tmp_path, capsys):
    path = tmp_path / "run"
    result = prune(
        PruneRequest(
            problem="causal-lm", density=0.8, coordinator="structured", solver="obd",
            problem_options={"model": str(tiny_mistral), "text": str(tiny_mistral / "text.json"), "context": 16,
                             "sequences": 20},
            coordinator_options={"samples": 10, "budget": "parameters", "structure": "layers"},
        ),
        out=path,
    )  # fmt: skip
    gone = [name for name, kept in result["kept_per_layer"].items() if not kept]
    assert gone
    assert result["kept"] == result["total"] - len(gone)
    assert result["costs"]["parameters"]["pruned"] <= 0.8 * result["costs"]["parameters"]["dense"]
    facts = json.loads((path / "structure.json").read_text())
    assert "which is gone" in facts["module"]
    assert "is gone, and a configuration has all parts" in refused(
        capsys, "export-model", path, "-o", tmp_path / "folder"
    )


def test_a_pattern_means_branches_where_it_names_nothing_else():
    found, _ = families(made(Residual, IMAGE))
    assert {item.label for item in chosen(found, ["o*"])} == {"one.0:channels"}
    assert {item.label for item in chosen(found, ["one"])} == {"one:layers"}
    assert {item.kind for item in chosen(found, [])} == {"channels"}
    assert [item.name for item in chosen(found, ["layers"])] == ["one", "two", "three"]


def test_a_network_without_branches_has_none(capsys):
    code, _, err = call(capsys, "prune", "digits-mlp", "--structure", "layers", "--flops", "0.5")
    assert (code, "no family of layers can be pruned; there are: neurons" in err) == (2, True)
