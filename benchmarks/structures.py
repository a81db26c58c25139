"""What of many networks can be pruned as a whole: families found, checked and refused, architecture by architecture.

    OMP_NUM_THREADS=1 python benchmarks/structures.py language
    OMP_NUM_THREADS=1 python benchmarks/structures.py torchvision [--part 1/4] [--heaviest 700000000]

The networks of torchvision are the 85 that Torch-Pruning names in its examples (MIT, github.com/VainF/Torch-Pruning,
examples/torchvision_models/readme.md): it prunes 77 and fails on raft_large, three swins and four shufflenets. Of
detection networks the heads' raw scores are the outputs, as boxes are no function of the weights that can be followed.

Networks have random weights and the smallest inputs they take. A family is checked if it is of a usual kind (channels,
neurons, heads) and no operation crosses it: a random quarter of its groups is removed, and the smaller network must
give what zeros in their place give. Counted are networks with at least one sound family, those with none, and those
whose structure cannot be found, with the reason. Needs transformers or torchvision; nothing is downloaded.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import architectures
import vision_networks as vision
from prunebench.core.errors import InvalidInput
from prunebench.networks.torchvision_build import make_importable
from prunebench.quiet import quiet
from prunebench.structure.check import check
from prunebench.structure.families import USUAL, families
from prunebench.structure.trace import couple
from runner import Benchmark, Note, Row


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TOKENS, LENGTH = 60, 12
"""Token numbers of the example are below this, and so long are its rows: all vocabularies here are larger."""

LISTED = _words("""
    ssdlite320_mobilenet_v3_large ssd300_vgg16 fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2
    fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_mobilenet_v3_large_fpn fcos_resnet50_fpn keypointrcnn_resnet50_fpn
    maskrcnn_resnet50_fpn_v2 retinanet_resnet50_fpn_v2 alexnet vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14
    convnext_tiny convnext_small convnext_base convnext_large densenet121 densenet169 densenet201 densenet161
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
    efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l googlenet inception_v3 mnasnet0_5 mnasnet0_75
    mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_y_400mf regnet_y_800mf
    regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf regnet_y_32gf regnet_y_128gf resnet18 resnet34 resnet50
    resnet101 resnet152 resnext50_32x4d resnext101_32x8d wide_resnet50_2 wide_resnet101_2 fcn_resnet50 fcn_resnet101
    deeplabv3_resnet50 deeplabv3_resnet101 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large squeezenet1_0
    squeezenet1_1 vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn raft_large swin_t swin_s swin_b
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
""")
"""Torch-Pruning's own list, in its order."""

Made = Callable[[], tuple[torch.nn.Module, Any]]
"""Makes a network and inputs of three samples."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("language", "torchvision"), nargs="?", default="language")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="these only")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="the K-th of N parts (default: all)")
    parser.add_argument("--heaviest", type=int, default=700_000_000, metavar="N", help="networks of more weights are "
                        "named and left out")  # fmt: skip


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    make_importable()
    number, _, parts = chosen.part.partition("/")
    counts: Counter[str] = Counter()
    for name, make in list(_networks(chosen))[int(number) - 1 :: int(parts)]:
        facts = found(make, chosen.heaviest)
        counts[facts["outcome"]] += 1
        yield Row(chosen.kind, {"network": name, **facts})
    yield Note(", ".join(f"{outcome}: {count}" for outcome, count in counts.most_common()))


def _networks(chosen: argparse.Namespace) -> Iterator[tuple[str, Made]]:
    if chosen.kind == "language":
        import transformers

        configs = architectures.language_configs(transformers)
        for name in chosen.networks or configs:
            yield name, partial(_language, transformers, name, configs[name])
        return
    for name in chosen.networks or LISTED:
        yield name, partial(_vision, name)


def _language(library: Any, name: str, config: Callable[[], Any]) -> tuple[torch.nn.Module, Any]:
    model = architectures.language_model(library, name, config()).eval()
    return model, torch.randint(3, TOKENS, (3, LENGTH))


def _vision(name: str) -> tuple[torch.nn.Module, Any]:
    held = vision.given("torchvision", name)
    model: torch.nn.Module = (
        held.model
        if held.forward is None
        else Called(held.model, _scores if held.forward is vision.raw_scores else held.forward)
    )
    several = isinstance(held.inputs, tuple)
    inputs = tuple(_third(item) for item in held.inputs) if several else _third(held.inputs)
    for module in held.model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0.0, 0.1)
    return model.eval(), inputs


def _scores(model: Any, images: torch.Tensor) -> Any:
    """What the heads of a detection network say: of a two-stage one, of one box a sample in its finest map.

    No number of samples is taken as a plain number here, which would make a graph of that many alone.
    """
    maps = model.backbone(images)
    levels = list(maps.values()) if isinstance(maps, dict) else [maps]
    if not hasattr(model, "roi_heads"):
        return _heads(model, levels)
    # after make_importable: where torchvision is built for another torch, its import fails before
    from torchvision.ops import roi_align  # type: ignore[import-untyped]  # no type hints

    heads, side = model.roi_heads, float(images.shape[-1])
    number = torch.arange(images.shape[0], dtype=images.dtype)[:, None]
    boxes = torch.cat([number, number * 0.0, number * 0.0, number * 0.0 + side / 2, number * 0.0 + side / 2], dim=1)

    def pooled(pool: Any) -> torch.Tensor:
        found: torch.Tensor = roi_align(levels[0], boxes, pool.output_size, levels[0].shape[-1] / side, 2)
        return found

    found = [model.rpn.head(levels), heads.box_predictor(heads.box_head(pooled(heads.box_roi_pool)))]
    if heads.has_mask():
        found.append(heads.mask_predictor(heads.mask_head(pooled(heads.mask_roi_pool))))
    if heads.has_keypoint():
        # its predictor resizes to a size that it computes; what it resizes is taken
        shared = heads.keypoint_head(pooled(heads.keypoint_roi_pool))
        found.append(heads.keypoint_predictor.kps_score_lowres(shared))
    return found


def _heads(model: Any, levels: list[torch.Tensor]) -> list[torch.Tensor]:
    """The scores of a one-stage network before they are put in order by numbers of samples."""
    head, found = model.head, []
    for name in ("classification_head", "regression_head"):
        part = getattr(head, name)
        for number, level in enumerate(levels):
            if hasattr(part, "module_list"):
                found.append(part.module_list[number](level))
                continue
            features = part.conv(level)
            last = ("cls_logits", "bbox_reg", "bbox_ctrness")
            found += [getattr(part, name)(features) for name in last if hasattr(part, name)]
    return found


def _third(inputs: torch.Tensor) -> torch.Tensor:
    """One sample more: with two, a size of the network may be taken for that of the batch."""
    return torch.cat([inputs, inputs[:1]])


class Called(torch.nn.Module):
    """A network that is called in its own way: scores of a detection network, two images of an optical flow."""

    def __init__(self, model: torch.nn.Module, forward: Any) -> None:
        super().__init__()
        self.model = model
        self._way = forward

    def forward(self, inputs: Any) -> Any:
        return self._way(self.model, inputs)


def found(make: Made, heaviest: int) -> dict[str, Any]:
    """What is found of one network."""
    start = time.process_time()
    empty = {"families": 0, "checked": 0, "sound": 0, "kinds": "", "reason": "", "operations without a rule": ""}
    try:
        with quiet():
            model, example = make()
            if sum(item.numel() for item in model.parameters()) > heaviest:
                return {"outcome": "too heavy", **empty, "CPU s": 0.0}
            coupling = couple(model, example)
            every, _ = families(coupling)
            usual = [family for family in every if family.kind in USUAL and not family.crossed_by]
            checked = check(coupling, usual)
    except vision.DoesNotRun as error:
        return {"outcome": "not run", **empty, "reason": str(error), "CPU s": time.process_time() - start}
    except InvalidInput as error:
        return {"outcome": "refused", **empty, "reason": str(error)[:200], "CPU s": time.process_time() - start}
    kinds = Counter(family.kind for family in every)
    sound = [result for result in checked if not result.reason]
    return {
        "outcome": "can be pruned" if sound else "nothing to prune", "families": len(every), "checked": len(checked),
        "sound": len(sound), "kinds": ", ".join(f"{kind} {count}" for kind, count in kinds.items()),
        "reason": next((result.reason[:120] for result in checked if result.reason), ""),
        "operations without a rule": ", ".join(coupling.walk.unknown), "CPU s": time.process_time() - start,
    }  # fmt: skip


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"networks": ["gpt2"]})

if __name__ == "__main__":
    BENCHMARK.main()
