"""A finished run's levels as a folder of packed tensors, which compressed-tensors reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import OWN, NetworkProblem, make_problem, require_data
from prunebench.log.run_directory import RunDirectory
from prunebench.meanings.bits.packing import FORMAT, Packed, configuration
from prunebench.runs.start import LEVELS_FILE, MASK_FILE, WEIGHTS_FILE, finished

if TYPE_CHECKING:
    import torch

MODEL_FILE = "model.safetensors"
"""The tensors of a packed folder."""
NOTE_FILE = "prunebench.json"
"""What says of a folder where it comes from."""
CONFIG_FILE = "config.json"
"""A transformers model's configuration."""
NOTE = (
    "Levels of all weights are packed, the zeros of pruned ones too: mask.safetensors says which weights are kept, a "
    "bit a weight, the lowest first."
)
"""What it says of the packed levels."""


def export_packed(run: Path, folder: Path) -> dict[str, Any]:
    """Write levels packed, scales, and all other tensors as they are; of a transformers model with its configuration.

    A parameter NAME becomes NAME_packed (int32), NAME_scale (float32) and NAME_shape: its output rows and their inputs.

    Parameters
    ----------
    run : a finished run directory, of a pruning with bits
    folder : where to; must not exist or be empty

    Returns
    -------
    dict   run, folder, format, bits, kept, total, bytes (of model.safetensors), quantization_config, note

    Raises
    ------
    InvalidInput   no finished run, or its weights are on no levels; a folder that is not empty; or a model that is
                   saved under other names
    """
    held = finished(run)
    said = (held.result() or {}).get("bits")
    if said is None:
        raise InvalidInput(
            f"the weights of {run} are plain floats, which have no levels to pack; prune with --bits 4, then export"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} exists and is not empty; choose another folder")
    for name in (LEVELS_FILE, WEIGHTS_FILE, MASK_FILE):
        held.require_own(name)
    layers = _layers(run, int(said["bits"]), said["group_size"])
    from prunebench.networks.checkpoints import write_state

    folder.mkdir(parents=True, exist_ok=True)
    state = _state(held, run, folder, list(layers))
    tensors, groups = _packed(state, layers)
    write_state(folder / MODEL_FILE, tensors, {"format": "pt"})
    config = configuration(groups, int(said["bits"]))
    if (folder / CONFIG_FILE).is_file():
        known = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        text = json.dumps({**known, "quantization_config": config}, indent=2)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    kept = _write_masks(run, folder)
    facts = {
        "run": str(run), "problem": held.request["problem"], "format": FORMAT, "bits": int(said["bits"]), **kept,
        "bytes": (folder / MODEL_FILE).stat().st_size, "quantization_config": config, "note": NOTE,
    }  # fmt: skip
    (folder / NOTE_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return {**facts, "folder": str(folder)}


def _layers(run: Path, bits: int, group_size: int | None) -> dict[str, Packed]:
    """The rounded layers of a run by parameter, packed."""
    from safetensors.numpy import load_file

    held = load_file(run / LEVELS_FILE)
    if apart := [key.removesuffix(".places") for key in held if key.endswith(".places")]:
        raise InvalidInput(
            f"{run}: layer {apart[0]!r} is a table of weights that do not lie as in its parameter, which the packed "
            "layout cannot say; export it as plain floats"
        )
    names = [key.removesuffix(".levels") for key in held if key.endswith(".levels")]
    return {
        name: Packed.of(held[f"{name}.levels"], held[f"{name}.scales"].astype(np.float64), bits, group_size)
        for name in names
    }


def _state(held: RunDirectory, run: Path, folder: Path, names: list[str]) -> dict[str, "torch.Tensor"]:
    """The network's tensors under the names by which they are saved; of a transformers model, its files in the folder.

    Raises
    ------
    InvalidInput   a rounded parameter is saved under another name
    """
    from prunebench.networks.checkpoints import read_state
    from prunebench.runs.export import Exporting

    name = str(held.request["problem"])
    if name.startswith(OWN):
        # made in a Python program, and none of transformers' for this command
        return dict(read_state(run / WEIGHTS_FILE))
    problem = make_problem(name, held.request.get("problem_options", {}))
    if not isinstance(problem, NetworkProblem) or not isinstance(problem, Exporting):
        return dict(read_state(run / WEIGHTS_FILE))
    require_data(problem)
    from prunebench.networks.chosen import prunable_network

    network = prunable_network(problem)
    network.load(run / WEIGHTS_FILE)
    problem.save_pretrained(network.model, folder)
    state = dict(read_state(folder / MODEL_FILE)) if (folder / MODEL_FILE).is_file() else {}
    if missing := [name for name in names if name not in state]:
        raise InvalidInput(
            f"{run}: parameter {missing[0]!r} is saved under another name in {folder / MODEL_FILE}, so its levels have "
            "no place there; export the model with --format hf"
        )
    return state


def _packed(
    state: Mapping[str, "torch.Tensor"], layers: Mapping[str, Packed]
) -> tuple[dict[str, "torch.Tensor"], dict[int | None, list[str]]]:
    """All tensors, packed ones in place of the rounded; and the modules by the size of their groups."""
    import torch

    out = {name: tensor.contiguous() for name, tensor in state.items() if name not in layers}
    groups: dict[int | None, list[str]] = {}
    for name, layer in layers.items():
        out[f"{name}_packed"] = torch.from_numpy(layer.words)
        out[f"{name}_scale"] = torch.from_numpy(layer.scales)
        rows, columns = len(layer.words), state[name].numel() // len(layer.words)
        out[f"{name}_shape"] = torch.tensor([rows, columns])
        groups.setdefault(layer.group_size, []).append(name.removesuffix(".weight"))
    return out, groups


def _write_masks(run: Path, folder: Path) -> dict[str, int]:
    """Write the masks, a bit a weight. -> how many are kept, of how many"""
    from safetensors.numpy import load_file, save_file

    masks = load_file(run / MASK_FILE)
    packed = {name: np.packbits(mask.reshape(-1), bitorder="little") for name, mask in masks.items()}
    save_file(packed, folder / MASK_FILE)
    return {
        "kept": sum(int(mask.sum()) for mask in masks.values()),
        "total": sum(mask.size for mask in masks.values()),
    }
