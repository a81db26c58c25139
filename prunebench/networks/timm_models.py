"""Vision transformers of timm: built, filled from a file or the hub, and what of them is prunable."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from prunebench.core.errors import InvalidInput, MissingPackage, unknown_name
from prunebench.networks import checkpoints
from prunebench.networks.hub import cached, fetched
from prunebench.networks.torchvision_build import make_importable


def load(network: str, file: Path | None, classes: int) -> torch.nn.Module:
    """A network of timm in evaluation mode.

    Parameters
    ----------
    network : timm's name
    file : a safetensors file with its weights; None for the pretrained ones, from the hub or its cache
    classes : how many outputs the head has to have

    Raises
    ------
    MissingPackage   timm cannot be loaded
    UnknownName      timm knows no such network
    MissingData      the pretrained weights cannot be had
    InvalidInput     the weights have another shape, or the pretrained head another number of classes
    """
    timm = _timm(network)
    if file is not None:
        # Constructors draw from the global random state.
        with torch.random.fork_rng(devices=[]):
            made: torch.nn.Module = timm.create_model(network, num_classes=classes)
        checkpoints.load_into(made, checkpoints.read_state(file), f"weights file {str(file)!r}")
        return made.eval()
    config = timm.get_pretrained_cfg(network)
    if config is None or not config.hf_hub_id:
        raise InvalidInput(f"timm has no pretrained weights of {network!r} on the hub; give a file with weights=FILE")
    if config.num_classes != classes:
        raise InvalidInput(
            f"the pretrained {network!r} tells {config.num_classes} classes apart and the images have {classes}; "
            "give weights of your own with weights=FILE"
        )

    def create() -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            built: torch.nn.Module = timm.create_model(network, pretrained=True)
        return built

    held = cached(config.hf_hub_id, "model.safetensors")
    return (create() if held else fetched("network", config.hf_hub_id, create)).eval()


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write a network as a folder in the hub's layout for timm: safetensors and configuration.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it, and so does
    AutoModelForImageClassification.from_pretrained of transformers.
    """
    from timm.models import save_for_hf

    save_for_hf(model, str(folder), safe_serialization=True)
    # The number of classes stands in the configuration itself; transformers refuses to be told twice.
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config.get("model_args", {}).pop("num_classes", None)
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@lru_cache(maxsize=8)
def linear_layers(network: str) -> tuple[str, ...]:
    """The weights of a network's linear layers but the head, by name. Loads no weights.

    Raises
    ------
    MissingPackage, UnknownName   as `load`
    InvalidInput                  there is none
    """
    timm = _timm(network)
    with torch.device("meta"):
        skeleton = timm.create_model(network)
    head = skeleton.get_classifier()
    heads = head if isinstance(head, tuple) else (head,)
    found = tuple(
        f"{name}.weight"
        for name, module in skeleton.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(module is one for one in heads)
    )
    if not found:
        raise InvalidInput(f"network {network!r} has no linear layer but its head; choose a vision transformer")
    return found


def _timm(network: str) -> Any:
    try:
        make_importable()
        import timm
    except (ImportError, RuntimeError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MissingPackage(
            f"timm cannot be loaded ({first}); run: pip install 'prunebench[timm]', with the build of torchvision "
            "that belongs to torch's (same index)"
        ) from error
    if not timm.is_model(network):
        raise unknown_name("network of timm", network, timm.list_models())
    return timm
