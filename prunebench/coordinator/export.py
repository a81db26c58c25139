"""A finished run's network as a Hugging Face folder: `from_pretrained` loads it, the masks lie beside it."""

import json
import shutil
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, make_problem, require_data
from prunebench.log.run_directory import RunDirectory

MASK_FILE = "mask.safetensors"
NOTE_FILE = "prunebench.json"
NOTE = (
    "Weights are zero where the mask is false, and stored as dense tensors: unstructured zeros alone make neither the "
    "file smaller nor inference faster without kernels or hardware that skip them."
)


@runtime_checkable
class Exporting(Protocol):
    """A problem whose networks can be written as a Hugging Face folder."""

    def save_pretrained(self, model: Any, folder: Path) -> None:
        """Write the model, its configuration, and what else `from_pretrained` looks for."""
        ...


def export_model(run: Path, folder: Path) -> dict[str, Any]:
    """Write the pruned network of a finished run as a Hugging Face folder.

    Beside the model lie the masks (mask.safetensors: bool, true where kept, by parameter name) and
    prunebench.json (which run, density, zeros).

    Parameters
    ----------
    run : a run directory
    folder : where to; must not exist or be empty

    Returns
    -------
    dict   run, folder, kept, total, zeros (of the prunable weights), bytes, note

    Raises
    ------
    InvalidInput   no run directory or not a finished one, a problem whose networks are not of that
                   kind, a folder that is not empty
    """
    held = RunDirectory.open(run)
    result = held.result()
    if result is None or not (run / MASK_FILE).is_file():
        raise InvalidInput(f"{run} is not a finished run of a network; finish it: prunebench resume {run}")
    problem = make_problem(held.request["problem"], held.request["problem_options"])
    if not isinstance(problem, NetworkProblem) or not isinstance(problem, Exporting):
        raise InvalidInput(
            f"problem {problem.name!r} has no network of transformers or timm; "
            f"its weights are in {run}/weights.safetensors"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} exists and is not empty; choose another folder")
    require_data(problem)
    from prunebench.curvature.checkpoints import read_state
    from prunebench.curvature.network import PrunableNetwork

    network = PrunableNetwork(problem.model(), problem.prunable())
    network.load(run / "weights.safetensors")
    masks = read_state(run / MASK_FILE)
    mask = np.concatenate([masks[name].numpy().reshape(-1) for name in network.names])
    weights = network.weights()
    if (weights[~mask] != 0.0).any():
        raise InvalidInput(f"{run}: weights.safetensors is not zero where {MASK_FILE} is false; the files do not match")
    folder.mkdir(parents=True, exist_ok=True)
    problem.save_pretrained(network.model, folder)
    shutil.copyfile(run / MASK_FILE, folder / MASK_FILE)
    facts = {
        "run": str(run),
        "problem": problem.name,
        "density": result["density"],
        "kept": int(mask.sum()),
        "total": int(mask.size),
        "zeros": int((weights == 0.0).sum()),
        "note": NOTE,
    }
    (folder / NOTE_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {**facts, "folder": str(folder), "bytes": size}
