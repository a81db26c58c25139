"""A second opinion on what goes together: Torch-Pruning finds the same coupled channels in convolutional networks."""

import numpy as np
import pytest
import torch
from torch import nn

from prunebench.curvature.group_scores.evidence import Evidence, split
from prunebench.curvature.group_scores.of_weights import group_norm
from prunebench.networks.convolutional import cifar_resnet
from prunebench.networks.samples import TensorSamples
from prunebench.networks.torchvision_build import make_importable
from prunebench.structure.families import families
from prunebench.structure.trace import couple

make_importable()  # Torch-Pruning imports torchvision
tp = pytest.importorskip("torch_pruning", reason="Torch-Pruning is not installed: pip install torch-pruning")


class Depthwise(nn.Module):
    """Depthwise and pointwise convolutions with batch norms, as in MobileNet."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.deep, self.norm1 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.wide, self.norm2 = nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm0(self.stem(x)))
        x = torch.relu(self.norm1(self.deep(x)))
        return self.head(torch.relu(self.norm2(self.wide(x))).mean((2, 3)))


def plain():
    """As VGG: convolutions and pooling, flattened for two linear layers."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24, 7), nn.ReLU(), nn.Linear(7, 4),
    )  # fmt: skip


def digits():
    """A small network for images of digits: convolutions without norms."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip


NETWORKS = {
    "depthwise": Depthwise,
    "plain": plain,
    "digits": digits,
    "resnet, projected": lambda: cifar_resnet(1, "projection", "linear"),
}


def ours(model, x):
    """By group, what goes with it: {(parameter, dimension, index), ...}."""
    out = set()
    for family in families(couple(model, x))[0]:
        if family.kind == "layers":  # whole branches, which the library has not
            continue
        for k in range(family.size):
            out.add(frozenset((n, d, int(i)) for (n, d), indices in family.members.items() for i in indices[k]))
    return out


def theirs(model, x):
    """The same by Torch-Pruning, which prunes outputs of one layer and follows what depends on them."""
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    names = {module: name for name, module in model.named_modules()}
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    out = set()
    for module in model.modules():
        if module is last or not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        prune = tp.prune_conv_out_channels if isinstance(module, nn.Conv2d) else tp.prune_linear_out_channels
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            continue
        for k in range(module.weight.shape[0]):
            gone = set()
            for dependency, indices in graph.get_pruning_group(module, prune, [k]):
                held, inputs = dependency.target.module, "in_channels" in dependency.handler.__name__
                if held not in names:
                    continue
                for part, tensor in (*held.named_parameters(recurse=False), *held.named_buffers(recurse=False)):
                    if tensor.ndim and not (inputs and tensor.ndim == 1):
                        gone |= {(f"{names[held]}.{part}", int(inputs), int(i)) for i in indices}
            out.add(frozenset(gone))
    return out


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_channels_are_coupled(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    x = torch.randn(3, 3, 8, 8)
    a, b = ours(model, x), theirs(model, x)
    assert len(a) > 5
    assert a == b


def test_inner_channels_agree_where_shortcuts_are_padded():
    """Torch-Pruning follows a padded shortcut without its offset, to channels that are not there; ours shift."""
    torch.manual_seed(0)
    model = cifar_resnet(1, "pad", "linear").eval()
    x = torch.randn(3, 3, 8, 8)
    a, b = ours(model, x), theirs(model, x)
    sizes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {group for group in b if all(i < sizes[n][d] for n, d, i in group)} != b
    inner = {group for group in a if any(n.startswith("layer") and "conv1" in n and d == 0 for n, d, _ in group)}
    assert len(inner) == 16 + 32 + 64
    assert inner <= b
    for k in range(16):
        (stream,) = [group for group in a if ("conv1.weight", 0, k) in group]
        assert {("layer2.0.conv2.weight", 0, k + 8), ("layer3.0.conv2.weight", 0, k + 24)} <= stream


@pytest.mark.parametrize("name", ["plain", "digits", "resnet, projected"])
def test_the_group_norm_is_that_of_the_library(name):
    """Not of depthwise convolutions, whose weights the library leaves out."""
    torch.manual_seed(1)
    model = NETWORKS[name]().eval()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1.0, 1.0)
    x = torch.randn(3, 3, 8, 8)
    coupling = couple(model, x)
    found = tuple(family for family in families(coupling)[0] if family.kind in ("channels", "neurons"))
    at = np.arange(3)
    evidence = Evidence(
        coupling=coupling, families=found, samples=TensorSamples(x, torch.zeros(3)), positions=at, loss=nn.MSELoss()
    )
    mine = split(group_norm(evidence), found)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    for family, scores in zip(found, mine, strict=True):
        layer = model.get_submodule(family.name)
        prune = tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels
        group = graph.get_pruning_group(layer, prune, list(range(family.size)))
        np.testing.assert_allclose(scores, importance(group).numpy(), rtol=1e-5)
