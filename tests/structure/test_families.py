"""Groups found in graphs: for every family a random part goes, and zeros give what absence gives."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from prunebench.core.errors import InvalidInput, UnknownName
from prunebench.structure.check import TOLERANCE, check, checked, difference
from prunebench.structure.cost import UNITS, cost_of
from prunebench.structure.families import chosen, families
from prunebench.structure.labels import Labels
from prunebench.structure.resize import Living, shrunk_program, state_of
from prunebench.structure.trace import couple


class Net(nn.Module):
    """A network of a few modules and a function that runs them."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def padded(m, x):
    first = functional.relu(m.norm(m.first(x)))
    wider = functional.pad(first[:, :, ::2, ::2], (0, 0, 0, 0, 2, 4))
    return m.last((functional.relu(m.second(first)) + wider).mean((2, 3)))


def packed(m, x):
    q, k, v = m.qkv(x).reshape(x.shape[0], 5, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
    return m.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 5, 24))


def by_hand(m, x):
    q, k, v = (f(x).view(x.shape[0], 5, heads, 6).transpose(1, 2) for f, heads in ((m.q, 4), (m.k, 2), (m.v, 2)))
    k, v = (t[:, :, None].expand(-1, 2, 2, 5, 6).reshape(x.shape[0], 4, 5, 6) for t in (k, v))
    share = (q @ k.transpose(-1, -2) * 0.4).softmax(-1)
    return m.out((share @ v).transpose(1, 2).flatten(2))


def shuffled(m, x):
    one, other = m.first(x).chunk(2, dim=1)
    both = torch.cat([one, functional.relu(m.deep(other))], dim=1)
    both = both.view(both.shape[0], 2, 4, 6, 6).transpose(1, 2).reshape(both.shape[0], 8, 6, 6)
    return m.last(both).mean((2, 3))


def dense(m, x):
    a = functional.relu(m.a(x))
    b = functional.relu(m.b(torch.cat([x, a], 1)))
    return m.c(torch.cat([x, a, b], 1)).amax((2, 3))


def squeezed(m, x):
    y = functional.silu(m.norm(m.wide(x)))
    y = functional.silu(m.each(y))
    return m.narrow(y * torch.sigmoid(m.up(functional.relu(m.down(y.mean((2, 3), keepdim=True)))))).flatten(1)


def gated(m, x):
    return m.down(functional.silu(m.gate(x)) * m.up(x))


class Windowed(nn.Module):
    """Attention with a bias of positions, chosen from a table, and a mask that is written into a constant."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)
        self.table = nn.Parameter(torch.randn(9, 4))
        self.register_buffer("place", torch.arange(5)[:, None] - torch.arange(5)[None] + 4)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(x.shape[0], 5, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
        mask = x.new_zeros((5, 5))
        mask[2:, :2].fill_(-3.0)
        bias = self.table[self.place.view(-1)].view(5, 5, 4).permute(2, 0, 1)
        share = (q @ k.transpose(-1, -2) * 0.4 + bias + mask).softmax(-1)
        return self.out((share @ v).transpose(1, 2).flatten(2))


def has_boxes():
    """Whether torchvision's compiled operators are there."""
    import torchvision  # noqa: F401  # registers its operators

    return hasattr(torch.ops.torchvision, "roi_align")


class Boxed(nn.Module):
    """Boxes cut out of a map of channels."""

    def __init__(self):
        super().__init__()
        self.first, self.last = conv(4, 6), nn.Linear(24, 3)

    def forward(self, x):
        from torchvision.ops import roi_align

        number = torch.arange(x.shape[0], dtype=x.dtype)[:, None]
        boxes = torch.cat([number, number * 0, number * 0, number * 0 + 4, number * 0 + 4], dim=1)
        return self.last(roi_align(self.first(x), boxes, 2).flatten(1))


def conv(inputs, outputs, size=3, groups=1, stride=1):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, stride=stride)


IMAGE, TOKENS = (3, 4, 6, 6), (3, 5, 24)
NETWORKS = {
    "padded shortcut": (
        lambda: Net(padded, first=conv(4, 6), norm=nn.BatchNorm2d(6), second=conv(6, 12, stride=2),
                    last=nn.Linear(12, 3)),
        IMAGE, {"stream", "layers"},
    ),
    "packed attention": (lambda: Net(packed, qkv=nn.Linear(24, 72), out=nn.Linear(24, 24)), TOKENS,
                         {"heads", "head-dims"}),
    "grouped queries": (
        lambda: Net(by_hand, q=nn.Linear(24, 24), k=nn.Linear(24, 12), v=nn.Linear(24, 12), out=nn.Linear(24, 24)),
        TOKENS, {"kv-heads", "query-heads", "head-dims"},
    ),
    "shuffle": (lambda: Net(shuffled, first=conv(4, 8), deep=conv(4, 4), last=conv(8, 3)), IMAGE, {"channels"}),
    "concatenation": (lambda: Net(dense, a=conv(4, 5), b=conv(9, 7), c=conv(16, 3)), IMAGE, {"channels"}),
    "depthwise and squeeze": (
        lambda: Net(squeezed, wide=conv(4, 8, 1), norm=nn.BatchNorm2d(8), each=conv(8, 8, groups=8),
                    down=conv(8, 4, 1), up=conv(4, 8, 1), narrow=conv(8, 2, 1)),
        IMAGE, {"channels"},
    ),
    "groups of channels": (
        lambda: nn.Sequential(conv(4, 12), nn.ReLU(), conv(12, 8, groups=4), nn.ReLU(), conv(8, 3)), IMAGE,
        {"channels"},
    ),
    "attention with a bias of positions": (Windowed, TOKENS, {"heads", "head-dims"}),
    "boxes": (Boxed, IMAGE, {"channels"}),
    "gated neurons": (lambda: Net(gated, gate=nn.Linear(24, 9), up=nn.Linear(24, 9), down=nn.Linear(9, 24)), TOKENS,
                      {"neurons"}),
    "sum with itself": (
        lambda: Net(lambda m, x: m.down((y := m.up(x)) * torch.tanh(y + y**3)), up=nn.Linear(24, 9),
                    down=nn.Linear(9, 24)),
        TOKENS, {"neurons"},
    ),
    "transposed": (
        lambda: nn.Sequential(conv(4, 6), nn.ReLU(), nn.ConvTranspose2d(6, 5, 2, 2), nn.ReLU(), conv(5, 2)), IMAGE,
        {"channels"},
    ),
    "group norm": (
        lambda: nn.Sequential(conv(4, 8), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 2)), IMAGE, {"channels"},
    ),
    "flattened": (
        lambda: nn.Sequential(conv(4, 6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 7), nn.ReLU(),
                              nn.Linear(7, 3)),
        IMAGE, {"channels", "neurons"},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _torchvision(torchvision_imports):
    """Boxes are cut out by torchvision."""


def made(name):
    if name == "boxes" and not has_boxes():
        pytest.skip("torchvision's compiled operators do not load beside this build of torch")
    torch.manual_seed(0)
    build, shape, kinds = NETWORKS[name]
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.bias)
    return model, torch.randn(shape), kinds


@pytest.mark.parametrize("name", NETWORKS)
def test_zeros_give_what_absence_gives(name):
    model, x, kinds = made(name)
    coupling = couple(model, x)
    found, _ = families(coupling)
    assert {family.kind for family in found} == kinds
    good = [family for family, result in zip(found, check(coupling, found), strict=True) if not result.reason]
    assert good
    rng = np.random.default_rng(1)
    for _ in range(3):
        kept = [rng.random(family.size) < 0.6 for family in good]
        kept = [mask if mask.any() else np.arange(mask.size) == 0 for mask in kept]
        assert difference(coupling, good, kept) < TOLERANCE
        # what it costs is what the smaller network has
        living = Living(coupling, good, kept)
        smaller = shrunk_program(coupling, state_of(coupling), living)
        counts = [int(mask.sum()) for mask in kept]
        predicted = cost_of(coupling, good, "parameters").total(counts)
        assert sum(p.numel() for p in smaller.parameters()) == round(predicted)
        assert smaller(torch.cat([x, x])).shape[0] == 2 * len(x)


@pytest.mark.parametrize("name", ["padded shortcut", "grouped queries", "depthwise and squeeze", "transposed"])
def test_multiply_accumulates_are_those_of_torch(name):
    from torch.utils.flop_counter import FlopCounterMode

    model, x, _ = made(name)
    coupling = couple(model, x)
    every, _ = families(coupling)
    found = [family for family, result in zip(every, check(coupling, every), strict=True) if not result.reason]
    for share in (1.0, 0.5):
        kept = [np.arange(family.size) < max(1, round(share * family.size)) for family in found]
        smaller = shrunk_program(coupling, state_of(coupling), Living(coupling, found, kept))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            smaller(x)
        predicted = cost_of(coupling, found, "macs").total([int(mask.sum()) for mask in kept])
        assert counter.get_total_flops() == 2 * len(x) * round(predicted)


def test_tied_weights_are_one():
    def run(m, x):
        return functional.linear(functional.relu(m.first(x)), m.first.weight.T)

    coupling = couple(Net(run, first=nn.Linear(24, 9, bias=False)), torch.randn(TOKENS))
    (family,) = families(coupling)[0]
    assert family.size == 9
    assert not check(coupling, [family])[0].reason


def test_what_nothing_reads_is_left_out():
    model = Net(lambda m, x: m.last(functional.relu(m.first(x))), first=nn.Linear(24, 9), last=nn.Linear(9, 4),
                training_head=nn.Linear(9, 30))  # fmt: skip
    coupling = couple(model, torch.randn(TOKENS))
    found, _ = families(coupling)
    assert [family.name for family in found] == ["first"]
    smaller = shrunk_program(coupling, state_of(coupling), Living(coupling, found, [np.arange(9) < 5]))
    assert {name for name, _ in smaller.named_parameters()} == {
        "first.weight", "first.bias", "last.weight", "last.bias"
    }  # fmt: skip


def test_a_norm_across_is_refused_with_its_name():
    coupling = couple(nn.Sequential(nn.Linear(24, 8), nn.LayerNorm(8), nn.Linear(8, 3)).eval(), torch.randn(TOKENS))
    (family,) = families(coupling)[0]
    assert family.crossed_by == "layer_norm"
    assert "layer_norm mixes its groups" in check(coupling, [family])[0].reason


def test_an_operation_without_a_rule_freezes():
    model = Net(lambda m, x: m.last(torch.linalg.qr(m.first(x))[0]), first=nn.Linear(24, 5), last=nn.Linear(5, 3))
    coupling = couple(model, torch.randn(TOKENS))
    found, frozen = families(coupling)
    assert found == ()
    assert coupling.walk.unknown == {"linalg_qr": 1}
    assert any("linalg_qr" in item.why for item in frozen)


def test_a_wrong_rule_is_caught():
    """The check is what makes it safe: a label that is forgotten changes outputs."""
    coupling = couple(nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(TOKENS))
    (family,) = families(coupling)[0]
    # as if the bias of the first layer were no part of the groups, and were added after it
    wrong = Net(lambda m, x: m.last(m.first(x) @ m.mixed), first=nn.Linear(24, 8), last=nn.Linear(8, 3))
    wrong.mixed = nn.Parameter(torch.randn(8, 8))
    other = couple(wrong, torch.randn(TOKENS))
    broken = next(item for item in families(other)[0] if item.kind == "neurons")
    other.walk.labels.unite_all(other.parameters["mixed"][0], other.parameters["mixed"][1])
    joined = families(other)[0]
    assert not check(coupling, [family])[0].reason
    # uniting more than is coupled stays right: more goes together
    assert all(not checked(other, [item], np.arange(item.size)[None] > 0).reason for item in joined)
    assert broken.size == 8


def test_names_and_kinds_choose():
    model, x, _ = made("flattened")
    found, _ = families(couple(model, x))
    assert {family.kind for family in chosen(found, ())} == {"channels", "neurons"}
    assert [family.name for family in chosen(found, ("0",))] == ["0"]
    with pytest.raises(UnknownName, match="did you mean 'channels'"):
        chosen(found, ("chanels",))
    with pytest.raises(InvalidInput, match="there are: channels, neurons"):
        chosen(found, ("heads",))


def test_a_network_that_cannot_be_followed_is_refused_in_a_line():
    def run(m, x):
        return m.first(x) if float(x.sum()) > 0 else x

    with pytest.raises(InvalidInput, match=r"torch\.export stops with"):
        couple(Net(run, first=nn.Linear(24, 24)), torch.randn(TOKENS))
    with pytest.raises(InvalidInput, match=r"take x\.shape\[0\] there"):
        couple(Net(lambda m, x: m.first(x.reshape(len(x), -1)), first=nn.Linear(120, 3)), torch.randn(TOKENS))


def test_labels_of_products():
    labels = Labels()
    heads, width = labels.new(2), labels.new(3)
    flat = [labels.product(head, place) for head in heads for place in width]
    other = labels.new(6)
    labels.unite_all(other, flat)
    assert labels.bases(other[4]) == (heads[1], width[1])
    labels.freeze([other[0]], "a test")
    assert labels.why_frozen(labels.bases(other[1])[0]) == "a test"
    assert labels.why_frozen(heads[1]) == ""
    assert set(UNITS) == {"macs", "parameters", "bytes"}
