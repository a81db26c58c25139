"""The networks of torchvision and timm at random weights, with what `prunebench.prune` takes beside them.

Every kind of task is called as its users would: images for classes, frames for videos, pairs of images for optical
flow. Detection networks give boxes and no loss in evaluation mode, so their heads' raw scores are taken.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

SIDES = (32, 64, 96, 128, 160, 224, 256, 384)
"""Sides of square inputs that are tried, in pixels."""

SAMPLES, CLASSES, FRAMES = 2, 10, 8
"""Random images, classes, and frames of a video: enough for a loss and a mask, not for an accuracy."""

SCORES = 4096
"""Raw scores of a detection network that its loss looks at, a sample: there are some hundred thousand."""

Forward = Callable[[torch.nn.Module, Any], Any]


@dataclass(frozen=True)
class Given:
    """A network with what `prunebench.prune` takes.

    side : of its inputs, the smallest that it takes
    """

    model: torch.nn.Module
    side: int
    inputs: Any
    targets: torch.Tensor
    loss: Any
    forward: Forward | None

    @property
    def weights(self) -> int:
        """How many parameters the network has."""
        return sum(item.numel() for item in self.model.parameters())


class DoesNotRun(Exception):
    """The network runs on no input that is tried; the message says why."""


def given(library: str, name: str) -> Given:
    """A network with inputs of the smallest side that it takes.

    Raises
    ------
    DoesNotRun   there is none
    """
    why, model = "", None
    for side in SIDES:
        try:
            if model is None or _sized(library, name):
                model = made(library, name, side)
            found = _of_task(_task(library, name), name, model, side)
            with torch.no_grad():
                (found.forward or _plainly)(found.model, found.inputs)
        except Exception as error:  # whatever a library's network says of a size
            why = next(iter(str(error).splitlines()), type(error).__name__)
            continue
        return found
    raise DoesNotRun(why)


def names(library: str) -> list[str]:
    """The networks of a library: all that torchvision registers, or timm's own test networks and those of SMALL."""
    if library == "torchvision":
        import torchvision  # type: ignore[import-untyped]

        return list(torchvision.models.list_models())
    import timm

    return [*timm.list_models("test_*"), *(name for name in SMALL if timm.is_model(name))]


def family(library: str, name: str) -> str:
    """The file of the library that defines the network."""
    import torchvision

    if library == "torchvision":
        return str(torchvision.models.get_model_builder(name).__module__).rpartition(".")[2]
    from timm.models import model_entrypoint

    return str(model_entrypoint(name).__module__).rpartition(".")[2]


def made(library: str, name: str, side: int) -> torch.nn.Module:
    """A network at random weights in evaluation mode; one whose size follows its inputs is made for a side."""
    torch.manual_seed(0)
    if library == "timm":
        import timm

        try:
            model = timm.create_model(name, pretrained=False, num_classes=CLASSES, img_size=side)
        except TypeError:
            model = timm.create_model(name, pretrained=False, num_classes=CLASSES)
        return model.eval()
    import torchvision

    more: dict[str, Any] = {"weights": None}
    task = _task(library, name)
    if task in ("segmentation", "detection"):
        more["weights_backbone"] = None
    if task != "optical_flow":
        more["num_classes"] = CLASSES
    if name.startswith("vit_"):
        more["image_size"] = side
    if re.search("googlenet|inception_v3", name):
        more["init_weights"] = False
    held: torch.nn.Module = torchvision.models.get_model(name, **more)
    return held.eval()


def _sized(library: str, name: str) -> bool:
    """Whether a network is made for a side."""
    return library == "timm" or name.startswith("vit_")


def _task(library: str, name: str) -> str:
    if library == "timm":
        return "classification"
    import torchvision

    path = str(torchvision.models.get_model_builder(name).__module__).split(".")
    return path[2] if path[2] in ("segmentation", "detection", "video", "optical_flow") else "classification"


def _of_task(task: str, name: str, model: torch.nn.Module, side: int) -> Given:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn((SAMPLES, 3, side, side), generator=draw)
    classes = torch.arange(SAMPLES) % CLASSES
    if task == "segmentation":
        places = classes.reshape(-1, 1, 1).expand(SAMPLES, side, side).contiguous()
        return Given(model, side, images, places, "cross_entropy", lambda held, x: held(x)["out"])
    if task == "detection":
        return Given(model, side, images, classes, _square, raw_scores)
    if task == "video":
        frames = torch.randn(
            (SAMPLES, 3, 2 * FRAMES if name.startswith(("s3d", "mvit")) else FRAMES, side, side), generator=draw
        )
        return Given(model, side, frames, classes, "cross_entropy", None)
    if task == "optical_flow":
        flow = torch.zeros((SAMPLES, 2, side, side))
        return Given(model, side, (images, images.flip(0)), flow, "l1", _last_flow)
    return Given(model, side, images, classes, "cross_entropy", None)


def _plainly(model: torch.nn.Module, inputs: Any) -> Any:
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _last_flow(model: torch.nn.Module, inputs: Any) -> torch.Tensor:
    found: torch.Tensor = model(*inputs, num_flow_updates=2)[-1]
    return found


def _square(outputs: torch.Tensor, _targets: torch.Tensor) -> torch.Tensor:
    return outputs.square().mean(dim=1)


def raw_scores(model: Any, images: torch.Tensor) -> torch.Tensor:
    """What the heads of a detection network say of a batch, one row a sample, every so many of its numbers.

    Two-stage networks look at one box a sample, the middle of the image.
    """
    count, side = len(images), images.shape[-1]
    maps = model.backbone(images)
    features = dict(maps) if isinstance(maps, dict) else {"0": maps}
    levels = list(features.values())
    if not hasattr(model, "roi_heads"):
        return _thinned(_tensors(model.head(levels)), count)
    found = list(_tensors(model.rpn.head(levels)))
    heads, sizes = model.roi_heads, [(side, side)] * count
    box = torch.tensor([[side / 4, side / 4, 3 * side / 4, 3 * side / 4]])
    boxes = [box] * count
    found += _tensors(heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, sizes))))
    if heads.has_mask():
        found += _tensors(heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, sizes))))
    if heads.has_keypoint():
        pooled = heads.keypoint_roi_pool(features, boxes, sizes)
        found += _tensors(heads.keypoint_predictor(heads.keypoint_head(pooled)))
    return _thinned(found, count)


def _thinned(tensors: Sequence[torch.Tensor] | Iterator[torch.Tensor], count: int) -> torch.Tensor:
    whole = torch.cat([item.reshape(count, -1) for item in tensors], dim=1)
    return whole[:, :: max(1, math.ceil(whole.shape[1] / SCORES))]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


SMALL = (
    "starnet_s050", "mobilenetv4_conv_small_035", "lcnet_035", "tinynet_e", "mobilenetv3_small_050", "dla46_c",
    "mobilevit_xxs", "edgenext_xx_small", "mobilevitv2_050", "dla46x_c", "efficientvit_m0", "repghostnet_050",
    "ghostnet_050", "mnasnet_small", "regnetx_002", "xcit_nano_12_p16_224", "regnety_002", "efficientvit_b0",
    "convnext_atto", "convnextv2_atto", "pvt_v2_b0", "fastvit_t8", "inception_next_atto", "mobileone_s0",
    "semnasnet_075", "spnasnet_100", "fbnetc_100", "hardcorenas_a", "mixnet_s", "rexnet_100", "skresnet18",
    "tf_efficientnet_lite0", "ghostnetv2_100", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "tiny_vit_5m_224",
    "resnet10t", "repvgg_a0", "levit_128s", "densenet121", "selecsls42", "hrnet_w18_small", "ese_vovnet19b_slim",
    "pit_ti_224", "crossvit_tiny_240", "convit_tiny", "visformer_tiny", "cait_xxs24_224", "coat_lite_tiny",
    "gmixer_12_224", "mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224", "poolformerv2_s12", "repvit_m0_9",
    "swiftformer_xs", "shvit_s1", "mambaout_femto", "efficientformer_l1", "efficientformerv2_s0", "hgnetv2_b0",
    "resnet18", "seresnet18", "resnetv2_18", "nf_regnet_b0", "eca_nfnet_l0", "darknet17", "cspdarknet53",
    "res2net50_14w_8s", "xception41", "inception_v3", "vgg11", "nest_tiny", "twins_svt_small", "twins_pcpvt_small",
    "maxvit_pico_rw_256", "coatnet_pico_rw_224", "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224",
    "focalnet_tiny_srf", "davit_tiny", "hiera_tiny_224", "sequencer2d_s", "tnt_s_legacy_patch16_224", "volo_d1_224",
    "beit_base_patch16_224", "eva02_tiny_patch14_224", "rdnet_tiny", "nextvit_small", "mvitv2_tiny", "gcvit_xxtiny",
    "edgenext_x_small", "bat_resnext26ts", "botnet26t_256", "halonet26t", "lambda_resnet26t", "gcresnext26ts",
    "eca_resnext26ts", "seresnext26t_32x4d", "regnetz_005", "ecaresnet26t", "dpn48b", "hardcorenas_b", "resnest14d",
    "convmixer_768_32", "cpubone_nano", "csatv2", "cspnext_tiny", "deepseek_vit_412m", "efficientvim_m1",
    "fasternet_t0", "gemma4_vit_167m", "sam2_hiera_tiny", "iformer_t", "inception_resnet_v2", "inception_v4",
    "lcnetv2_small", "lowformer_b0", "mobilenetv5_base", "naflexvit_base_patch16_gap", "nasnetalarge", "pnasnet5large",
    "qwen3_vit_88m", "legacy_seresnet18", "swinv2_tiny_window8_256", "tresnet_m", "vit_tiny_r_s16_p8_224",
    "samvit_base_patch16_224", "vitamin_small_224", "legacy_xception",
)  # fmt: skip
"""Small networks of timm, at least one of each of the files that define its families."""
