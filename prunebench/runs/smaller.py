"""A smaller network out of a run directory: written in other formats, and timed beside the dense one."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, make_problem, require_data
from prunebench.runs.start import WEIGHTS_FILE, finished
from prunebench.runs.structured import PROGRAM_FILE, STRUCTURE_FILE, is_structured
from prunebench.runs.timing import RUNS, batch_of, limited_threads, medians, onnx_bytes, onnx_call, session, torch_call
from prunebench.structure.families import LAYERS
from prunebench.structure.latency import RUNTIMES

Format = Literal["pt2", "onnx", "safetensors"]

TOLERANCE = 1e-4
"""How far outputs of the exported network may be from torch's, relative to the largest: float32 in another order."""


def export_smaller(run: Path, target: Path, form: Format) -> dict[str, Any]:
    """Write the smaller network of a finished run into a file.

    Parameters
    ----------
    run : a run directory of structured pruning;  target : the file;  form : of which format

    Returns
    -------
    dict   run, format, file, bytes, and for onnx "difference" from torch's outputs, relative to the largest

    Raises
    ------
    InvalidInput     no such run, or the file is there
    MissingPackage   onnx, onnxscript or onnxruntime is not installed
    """
    held = finished(run)
    if not is_structured(run):
        raise InvalidInput(f"{run} pruned weights, and its network is as large as before; it has no smaller one")
    for name in (PROGRAM_FILE, WEIGHTS_FILE):
        held.require_own(name)
    if target.exists():
        raise InvalidInput(f"{target} exists; give another file")
    target.parent.mkdir(parents=True, exist_ok=True)
    out: dict[str, Any] = {"run": str(run), "format": form, "file": str(target)}
    if form == "onnx":
        out["difference"] = _write_onnx(run, target)
    else:
        shutil.copyfile(run / (PROGRAM_FILE if form == "pt2" else WEIGHTS_FILE), target)
    return {**out, "bytes": target.stat().st_size}


SIZES = {
    "neurons": ("intermediate_size", "ffn_dim", "n_inner"),
    "heads": ("num_attention_heads", "num_key_value_heads", "n_head"),
    "kv-heads": ("num_key_value_heads", "num_attention_heads"),
}
"""By kind of family, the sizes of a configuration of transformers that go with how many groups are kept."""


def save_smaller(run: Path, folder: Path) -> dict[str, Any]:
    """Write the smaller network of a finished run as a folder of transformers, where all layers have the same widths.

    The configuration gets the new sizes, a model is made from it, and its outputs must be those of the run's network.

    Returns
    -------
    dict   run, format, file (the folder), bytes, difference

    Raises
    ------
    InvalidInput   no such run, a network that is none of transformers, layers of different widths, sizes that the
                   configuration cannot say, or a folder that is not empty
    """
    import torch

    from prunebench.log import checks
    from prunebench.networks.checkpoints import read_state
    from prunebench.runs.export import Exporting
    from prunebench.structure.module import difference

    held = finished(run)
    problem = make_problem(held.request["problem"], held.request.get("problem_options", {}))
    if not isinstance(problem, NetworkProblem) or not isinstance(problem, Exporting):
        raise InvalidInput(
            f"problem {problem.name!r} has no network of transformers; write it as pt2, onnx or safetensors"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} exists and is not empty; choose another folder")
    require_data(problem)
    model = problem.model()
    config = getattr(model, "config", None)
    if config is None:
        raise InvalidInput(
            f"problem {problem.name!r} has no network of transformers; write it as pt2, onnx or safetensors"
        )
    config = _smaller_config(config, checks.read_object(run / STRUCTURE_FILE)["families"])
    inputs = batch_of(problem, 3)
    try:
        made = type(model)(config).eval()
        made.load_state_dict(read_state(run / WEIGHTS_FILE), strict=False)
        with torch.no_grad():
            expected = torch.export.load(run / PROGRAM_FILE).module(check_guards=False)(inputs)
            found = made(inputs, use_cache=False)
        worst = difference(_logits(expected), _logits(found))
    except Exception as error:  # transformers refuses sizes in many ways
        raise InvalidInput(
            f"a {type(model).__name__} cannot have these sizes ({(str(error).splitlines() or [''])[0][:150]}); write "
            "it as pt2, onnx or safetensors"
        ) from error
    if not worst <= TOLERANCE:
        raise InvalidInput(
            f"a {type(model).__name__} of these sizes gives other outputs (by {worst:.1e} of the largest); write it as "
            "pt2, onnx or safetensors"
        )
    folder.mkdir(parents=True, exist_ok=True)
    problem.save_pretrained(made, folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"run": str(run), "format": "hf", "file": str(folder), "bytes": size, "difference": worst}


def _smaller_config(config: Any, families: Sequence[Any]) -> Any:
    """A configuration with the sizes that are left.

    Raises
    ------
    InvalidInput   layers of different widths, or a size that it does not have
    """
    import copy

    made = copy.deepcopy(config)
    by_kind: dict[str, set[tuple[int, int]]] = {}
    gone = [family["name"] for family in families if family["kind"] == LAYERS and not family["after"]]
    if gone:
        raise InvalidInput(
            f"{gone[0]} is gone, and a configuration has all parts of its layers; write the network as pt2, onnx or "
            "safetensors"
        )
    for family in families:
        if family["kind"] == LAYERS:
            continue
        by_kind.setdefault(family["kind"], set()).add((family["before"], family["after"]))
    for kind, widths in by_kind.items():
        if len(widths) > 1:
            counts = ", ".join(str(after) for _, after in sorted(widths))
            raise InvalidInput(
                f"layers keep different numbers of {kind} ({counts}), which a configuration cannot say; prune with "
                "--uniform, or write the network as pt2, onnx or safetensors"
            )
        ((before, after),) = widths
        names = [name for name in SIZES.get(kind, ()) if getattr(made, name, None)]
        if not names:
            raise InvalidInput(f"the configuration has no size for {kind}; write the network as pt2 or onnx")
        if getattr(made, "head_dim", None) is None and kind != "neurons" and hasattr(made, "hidden_size"):
            made.head_dim = made.hidden_size // made.num_attention_heads
        for name in names:
            setattr(made, name, getattr(made, name) * after // before)
    return made


def _logits(outputs: Any) -> Any:
    return outputs.logits if hasattr(outputs, "logits") else outputs["logits"] if isinstance(outputs, dict) else outputs


def time_smaller(
    run: Path, *, runtimes: Sequence[str] = ("torch",), threads: Sequence[int] = (1,), batch: int = 16, runs: int = RUNS
) -> dict[str, Any]:
    """How long a batch takes in the dense network and in the smaller one, run in turns.

    Returns
    -------
    dict   run, batch, "macs" (dense by pruned), and rows of runtime, threads, median milliseconds and the speed-up

    Raises
    ------
    InvalidInput     no such run, or a runtime that is not known
    MissingPackage   onnxruntime is not installed
    """
    import torch

    if unknown := [name for name in runtimes if name not in RUNTIMES]:
        raise InvalidInput(f"runtime {unknown[0]!r} is not known; choose {' or '.join(RUNTIMES)}")
    held = finished(run)
    if not is_structured(run):
        raise InvalidInput(f"{run} pruned weights, and its network is as large as before; it has no smaller one")
    problem = make_problem(held.request["problem"], held.request.get("problem_options", {}))
    if not isinstance(problem, NetworkProblem):
        raise InvalidInput(f"problem {problem.name!r} is no network")
    require_data(problem)
    from prunebench.structure.trace import export

    inputs = batch_of(problem, batch)
    dense = export(problem.model(), inputs)
    smaller = torch.export.load(run / PROGRAM_FILE)
    result = held.result() or {}
    rows = []
    for runtime in runtimes:
        for count in threads:
            with limited_threads(count):
                make = torch_call if runtime == "torch" else onnx_call
                first, second = medians([make(dense, inputs, count), make(smaller, inputs, count)], runs, count)
            rows.append(
                {"runtime": runtime, "threads": count, "dense_ms": first, "pruned_ms": second,
                 "speed_up": first / second}
            )  # fmt: skip
    macs = result["costs"]["macs"]
    return {"run": str(run), "batch": batch, "macs": macs["dense"] / macs["pruned"], "rows": rows}


def _write_onnx(run: Path, target: Path) -> float:
    """Write the smaller network as ONNX, run it, and return how far its outputs are from torch's."""
    import numpy as np
    import torch

    program = torch.export.load(run / PROGRAM_FILE)
    held = finished(run)
    problem = make_problem(held.request["problem"], held.request.get("problem_options", {}))
    assert isinstance(problem, NetworkProblem)
    require_data(problem)
    inputs = batch_of(problem, 5)
    held_session, given = session(onnx_bytes(program), inputs, 1)
    answers = held_session.run(None, given)
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(program.module(check_guards=False)(inputs))
    expected = [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]
    worst = max(
        float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-30))
        for one, other in zip(answers, expected, strict=True)
    )
    if not worst <= TOLERANCE:
        raise InvalidInput(
            f"the ONNX model's outputs differ from torch's by {worst:.1e} of the largest; write it as pt2, and report "
            "this network's kind"
        )
    target.write_bytes(onnx_bytes(program))
    return worst
