"""Transformers and timm where torchvision is installed for another build of torch than the one beside it."""

import importlib.util

import torch

OPERATORS = ("nms", "qnms")
"""The compiled operators that torchvision describes to torch when it is imported."""
_held: list[torch.library.Library] = []
"""Declarations last as long as their library object."""


def make_importable() -> None:
    """Let torchvision be imported where its compiled operators do not load.

    Transformers and timm import torchvision if it is installed. PyPI's torchvision is built against
    PyPI's CUDA build of torch: beside the CPU build its operators do not load, and the import fails
    where it describes two of them. Nothing here calls these two (non-maximum suppression of detection
    boxes), so they are declared without an implementation: a call of them raises, everything else
    works. Where the builds match, or torchvision is absent, nothing is done.

    Raises
    ------
    RuntimeError, ImportError   torchvision fails for another reason
    """
    if _held or importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # type: ignore[import-untyped]
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in OPERATORS:
            signature = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(signature)  # type: ignore[no-untyped-call]
        _held.append(library)
        import torchvision  # noqa: F401
