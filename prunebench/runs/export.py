"""A finished run's network as a Hugging Face folder: `from_pretrained` loads it, the masks lie beside it."""

import json
import shutil
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, make_problem, require_data
from prunebench.runs.start import MASK_FILE, finished, load_start
from prunebench.runs.structured import is_structured

NOTE_FILE = "prunebench.json"
"""Written beside an exported model."""
NOTE = (
    "Weights are zero where the mask is false, and stored as dense tensors: unstructured zeros alone make neither the "
    "file smaller nor inference faster without kernels or hardware that skip them."
)
"""What it says of masks and weights."""


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
    held = finished(run)
    if is_structured(run):
        from prunebench.runs.smaller import save_smaller

        return save_smaller(run, folder)
    problem = make_problem(held.request["problem"], held.request.get("problem_options", {}))
    if not isinstance(problem, NetworkProblem) or not isinstance(problem, Exporting):
        raise InvalidInput(
            f"problem {problem.name!r} has no network of transformers or timm; "
            f"its weights are in {run}/weights.safetensors"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} exists and is not empty; choose another folder")
    require_data(problem)
    from prunebench.networks.chosen import prunable_network

    network = prunable_network(problem)
    pruned = load_start(run, network)
    folder.mkdir(parents=True, exist_ok=True)
    problem.save_pretrained(network.model, folder)
    shutil.copyfile(run / MASK_FILE, folder / MASK_FILE)
    facts = {
        "run": str(run),
        "problem": problem.name,
        "density": held.request["density"],
        "kept": int(pruned.mask.sum()),
        "total": int(pruned.mask.size),
        "zeros": int((pruned.weights == 0.0).sum()),
        "note": NOTE,
    }
    (folder / NOTE_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {**facts, "folder": str(folder), "bytes": size}
