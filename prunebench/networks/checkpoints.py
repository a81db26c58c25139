"""Network states in safetensors files: read with checks, written whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prunebench.core.errors import InvalidInput, MissingData


def read_state(path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name, on the CPU.

    Raises
    ------
    MissingData    there is no such file
    InvalidInput   the file is truncated or not a safetensors file
    """
    file = Path(path)
    if not file.is_file():
        raise MissingData(f"weights file {str(file)!r} does not exist; give the path of a safetensors file")
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise InvalidInput(
            f"weights file {str(file)!r} cannot be read ({error}); it is truncated or not a safetensors file"
        ) from error


def write_state(path: Path | str, state: Mapping[str, torch.Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write the tensors as a safetensors file, whole or not at all.

    Parameters
    ----------
    path : where to; the folder is made when it is not there, an existing file is replaced
    state : tensors by name
    notes : texts by name, kept in the file's header
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    tensors: dict[str, torch.Tensor] = {}
    held: set[int] = set()
    for name, item in state.items():
        tensor = item.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        # Tensors that share memory are refused by the format, hence the copies.
        if storage.data_ptr() in held or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        held.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    try:
        save_file(tensors, temporary, dict(notes) if notes else None)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def load_into(model: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Put the tensors of `state` into the model, in place, after checking all of them.

    Parameters
    ----------
    model : torch.nn.Module
    state : tensors by name, the names of model.state_dict()
    source : what messages call the state, for example its path

    Raises
    ------
    InvalidInput   a tensor is missing, not known to the model, or has another shape
    """
    expected = model.state_dict()
    missing = [f"{name} {tuple(expected[name].shape)}" for name in expected if name not in state]
    if missing:
        raise InvalidInput(f"{source} lacks {', '.join(missing)}; it belongs to another network")
    extra = [name for name in state if name not in expected]
    if extra:
        raise InvalidInput(f"{source} holds {', '.join(extra)}, which the network does not have")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise InvalidInput(
                f"{source}: tensor {name!r} has shape {tuple(state[name].shape)}; "
                f"the network needs {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise InvalidInput(
                f"{source}: tensor {name!r} holds {state[name].dtype}; the network has {tensor.dtype} there"
            )
    _require_finite(expected, state, source)
    model.load_state_dict(dict(state))


def _require_finite(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse NaN and infinity, but for what the network itself has (a mask of attention scores as a buffer)."""
    for name, tensor in expected.items():
        held = state[name]
        if not held.is_floating_point() or bool(torch.isfinite(held).all()):
            continue
        bad = int((~torch.isfinite(held) & torch.isfinite(tensor).to(held.device)).sum())
        if bad:
            raise InvalidInput(
                f"{source}: tensor {name!r} holds {bad} values that are NaN or infinite; give weights of a network "
                "that did not diverge"
            )
