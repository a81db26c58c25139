"""The convolutional networks of the pruning literature, parameters not initialised: they come from checkpoints."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from prunebench.core.errors import InvalidInput
from prunebench.networks import checkpoints

Shortcut = Literal["pad", "projection"]


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al.: Deep Residual Learning, CVPR 2016, §3.2).

    shortcut "pad" (option A): subsample by 2 and pad channels with zeros on both sides;
    "projection" (option B): a 1×1 convolution with stride 2 and a batch norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 3, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self._padding = (outputs - inputs) // 2
        self._stride = stride
        self.downsample: nn.Module | None = None
        if stride != 1 and shortcut == "projection":
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(s, inputs, h, w) -> (s, outputs, h/stride, w/stride)."""
        inner = torch.relu(self.bn1(self.conv1(images)))
        inner = self.bn2(self.conv2(inner))
        if self.downsample is not None:
            images = self.downsample(images)
        elif self._stride != 1:
            images = nn.functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, self._padding, self._padding))
        return torch.relu(inner + images)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions; the stride is at the 3×3 one, as in torchvision."""

    def __init__(self, inputs: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = _conv(inputs, width, 1, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, outputs, 1, 1), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if project:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(s, inputs, h, w) -> (s, 4·width, h/stride, w/stride)."""
        inner = torch.relu(self.bn1(self.conv1(images)))
        inner = torch.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        return torch.relu(inner + (images if self.downsample is None else self.downsample(images)))


class _Classifier(nn.Module):
    """Stages between a first convolution and a pooled linear head called `fc` or `linear`."""

    def __init__(
        self, stem: "OrderedDict[str, nn.Module]", stages: list[nn.Module], head: str, linear: nn.Module
    ) -> None:
        super().__init__()
        for name, module in stem.items():
            self.add_module(name, module)
        for number, stage in enumerate(stages):
            self.add_module(f"layer{number + 1}", stage)
        self.add_module(head, linear)
        self._order = (*stem, *(f"layer{number + 1}" for number in range(len(stages))))
        self._head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(s, 3, h, w) -> logits (s, classes)."""
        for name in self._order:
            images = self.get_submodule(name)(images)
        logits: torch.Tensor = self.get_submodule(self._head)(images.mean(dim=(2, 3)))
        return logits


def cifar_resnet(blocks: int, shortcut: Shortcut, head: str, classes: int = 10) -> nn.Module:
    """ResNet for 32×32 images, 6·blocks + 2 layers, 16-32-64 channels; blocks 3 is ResNet20."""

    def build() -> nn.Module:
        stages: list[nn.Module] = []
        inputs = 16
        for outputs in (16, 32, 64):
            first = BasicBlock(inputs, outputs, 1 if inputs == outputs else 2, shortcut)
            rest = [BasicBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            inputs = outputs
        stem = OrderedDict[str, nn.Module](conv1=_conv(3, 16, 3, 1), bn1=nn.BatchNorm2d(16), relu=nn.ReLU())
        return _Classifier(stem, stages, head, nn.Linear(64, classes))

    return _uninitialised(build)


def resnet50(classes: int = 1000) -> nn.Module:
    """ResNet50 for 224×224 images with torchvision's parameter names."""

    def build() -> nn.Module:
        stages: list[nn.Module] = []
        inputs = 64
        for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
            first = Bottleneck(inputs, width, 1 if width == 64 else 2, True)
            stages.append(nn.Sequential(first, *(Bottleneck(4 * width, width, 1, False) for _ in range(count - 1))))
            inputs = 4 * width
        stem = OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, stride=2, padding=1),
        )
        return _Classifier(stem, stages, "fc", nn.Linear(2048, classes))

    return _uninitialised(build)


class MobileNetV1(nn.Module):
    """Howard et al.: MobileNets, 2017, table 1: depthwise and pointwise convolutions in turn."""

    LAYERS = (
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
        (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
    )  # fmt: skip

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Sequential(_conv(3, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU())]
        inputs = 32
        for outputs, stride in self.LAYERS:
            depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
            parts.append(
                nn.Sequential(
                    depthwise, nn.BatchNorm2d(inputs), nn.ReLU(),
                    _conv(inputs, outputs, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(),
                )
            )  # fmt: skip
            inputs = outputs
        self.model = nn.Sequential(*parts)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(s, 3, 224, 224) -> logits (s, classes)."""
        logits: torch.Tensor = self.fc(self.model(images).mean(dim=(2, 3)))
        return logits


def mobilenet_v1(classes: int = 1000) -> nn.Module:
    """MobileNetV1 for 224×224 images: `model.N.M` convolutions and batch norms, then `fc`."""
    return _uninitialised(lambda: MobileNetV1(classes))


def prunable_weights(model: nn.Module, *, downsample: bool = True) -> tuple[str, ...]:
    """The weights of all convolutions and linear layers, in order; `downsample` ones may be left out."""
    return tuple(
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and (downsample or ".downsample." not in f".{name}.")
    )


def filled(model: nn.Module, file: Path, problem: str) -> nn.Module:
    """The model with the tensors of a safetensors file, in evaluation mode.

    Raises
    ------
    InvalidInput   a tensor is missing, not known to the network, or has another shape; all are named
    """
    state: dict[str, torch.Tensor] = checkpoints.read_state(file)
    counters: Mapping[str, torch.Tensor] = {
        name: tensor for name, tensor in model.state_dict().items() if name.endswith("num_batches_tracked")
    }
    # many checkpoints come without these counters, which evaluation does not use
    state = {**{name: torch.zeros_like(counter) for name, counter in counters.items()}, **state}
    try:
        checkpoints.load_into(model, state, f"weights file {str(file)!r}")
    except InvalidInput as error:
        raise InvalidInput(f"{problem}: {error}") from error
    return model.eval()


def _conv(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


def _uninitialised(build: Callable[[], nn.Module]) -> nn.Module:
    """The model with memory but no values: constructors would draw from the global random state."""
    with torch.device("meta"):
        model = build()
    empty: nn.Module = model.to_empty(device="cpu")
    return empty.eval()
