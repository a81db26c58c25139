"""A comparison in the submission format of QOBLIB, the Quantum Optimization Benchmarking Library.

Koch et al., arXiv 2504.03832: for each instance a summary with thirty columns, the best solution, and
the incumbents of every run over time. Queue times of devices are left out of all runtimes, as asked there.
"""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.comparison import table
from prunebench.comparison.blocks import entries_of
from prunebench.comparison.request import CompareRequest
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import mask_from_text
from prunebench.log.run_directory import RunDirectory
from prunebench.measures import time_to_solution

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "Problem", "Submitter", "Affiliation", "Date", "Reference", "Best Objective Value", "Optimality Bound",
    "Modeling Approach", "# Decision Variables", "# Binary Variables", "# Integer Variables",
    "# Continuous Variables", "# Non-Zero Coefficients", "Coefficients Type", "Coefficients Range", "Workflow",
    "Algorithm Type", "Paradigm", "# Runs", "# Feasible Runs", "# Successful Runs", "Success Threshold",
    "Hardware Specifications", "Total Runtime", "Time to Solution", "CPU Runtime", "GPU Runtime", "QPU Runtime",
    "Other HW Runtime", "Remarks",
)  # fmt: skip
"""The columns of `INSTANCE_summary.csv`, in the order that the library's checker asks for."""

NOT_AVAILABLE = "N/A"
"""What the format asks for where there is no value."""

QUANTUM_SIMULATORS = ("qaoa", "qaoa-subspace")
"""Solvers that simulate a quantum computer."""
QUANTUM_HARDWARE = ("dwave",)
"""Solvers that run on one."""


def export(directory: Path, out: Path, *, submitter: str, affiliation: str, reference: str = "") -> list[Path]:
    """Write one folder a solver and block below `out`; the folders written.

    Parameters
    ----------
    directory : a comparison's run directory;  out : a folder that does not exist or is empty
    submitter, affiliation, reference : what the summary's columns of that name say

    Raises
    ------
    InvalidInput   no comparison, an unfinished one, or `out` is not empty
    """
    frame = table.read(directory)
    if not (directory / table.FILE).is_file():
        raise InvalidInput(f"{directory} is unfinished; continue it with 'prunebench resume' first")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} exists and is not empty; choose another -o")
    run = RunDirectory.open(directory)
    held = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    when = datetime.fromtimestamp((directory / table.FILE).stat().st_mtime).strftime("%Y-%m-%d %H:%M:%S")
    request = CompareRequest.from_json(run.request, str(directory))
    blocks = {entry.block.hash: entry.block for entry in entries_of(request, directory / "blocks")}
    common = {
        "Submitter": submitter,
        "Affiliation": affiliation,
        "Date": when,
        "Reference": reference or f"prunebench {held['versions']['prunebench']}",
        "Success Threshold": request.target,
        "Hardware Specifications": hardware(held["machine"]),
    }
    folders = []
    solved = frame[frame["skipped"] == ""]
    for (label, digest), rows in solved.groupby(["solver", "block_hash"], sort=False):
        folders.append(write_folder(out, str(label), rows, blocks[str(digest)], common))
    return folders


def write_folder(
    out: Path, label: str, rows: "pandas.DataFrame", block: BlockProblem, common: Mapping[str, Any]
) -> Path:
    """Write what one solver found on one block; the folder.

    rows : one a run, with the columns of a comparison's table;  common : columns of the summary that all share
    """
    name = f"prune_{block.mode}_{block.p}_{block.keep}_{block.hash[:12]}"
    folder = out / re.sub(r"[^A-Za-z0-9_.-]+", "_", label).strip("_") / name
    folder.mkdir(parents=True)
    _write_summary(folder / f"{name}_summary.csv", {**common, "Problem": name, **_row(rows, block)})
    best = rows.sort_values("objective").iloc[0]
    (folder / f"{name}_solution.txt").write_text("\n".join(_bits(best["mask"], block.p)) + "\n", encoding="utf-8")
    series = [_series(row["trace_seconds"], row["trace_objective"]) for _, row in rows.iterrows()]
    (folder / f"{name}_objective_time_series.json").write_text(json.dumps(series) + "\n", encoding="utf-8")
    return folder


def _row(rows: "pandas.DataFrame", block: BlockProblem) -> dict[str, Any]:
    """The columns that depend on the solver's runs on one block."""
    first = rows.iloc[0]
    name, options = str(first["solver_name"]), str(first["options"])
    linear, couplings = block.to_qubo().linear, block.to_qubo().couplings
    pairs = couplings[np.triu_indices(block.p, 1)]
    coefficients = np.abs(np.concatenate([linear[linear != 0], pairs[pairs != 0]]))
    refit = block.mode == "refit"
    spent = np.minimum(rows["seconds"], rows["time_to_target"])
    quantum = name in QUANTUM_SIMULATORS or name in QUANTUM_HARDWARE
    bound = rows["lower_bound"].max()
    queue = float(rows["queue"].mean())
    return {
        "Best Objective Value": repr(float(rows["objective"].min())),
        "Optimality Bound": NOT_AVAILABLE if math.isnan(bound) else repr(float(bound)),
        "Modeling Approach": "Best-subset selection" if refit else "QUBO with one cardinality constraint",
        "# Decision Variables": block.p * (2 if refit else 1),
        "# Binary Variables": block.p,
        "# Integer Variables": 0,
        "# Continuous Variables": block.p if refit else 0,
        "# Non-Zero Coefficients": int(coefficients.size),
        "Coefficients Type": "Continuous",
        "Coefficients Range": f"{coefficients.min():.6g} - {coefficients.max():.6g}" if coefficients.size else "0 - 0",
        "Workflow": f"prunebench solve BLOCK.npz --solver {name}; options {options}",
        "Algorithm Type": "Stochastic" if bool(first["stochastic"]) else "Deterministic",
        "Paradigm": ("Quantum Hardware" if name in QUANTUM_HARDWARE else "Quantum Simulator")
        if quantum
        else "Classical",
        "# Runs": len(rows),
        "# Feasible Runs": len(rows),
        "# Successful Runs": int(rows["success"].sum()),
        "Total Runtime": repr(float(rows["seconds"].mean()) - queue),
        "Time to Solution": _number(time_to_solution(float(spent.mean()), float(rows["success"].mean()))),
        "CPU Runtime": repr(float(rows["cpu_seconds"].mean())),
        "GPU Runtime": NOT_AVAILABLE,
        "QPU Runtime": repr(float(rows["solve"].mean())) if name in QUANTUM_HARDWARE else NOT_AVAILABLE,
        "Other HW Runtime": NOT_AVAILABLE,
        "Remarks": (
            "Runtimes are means over runs, without queues. A run is successful when its gap to the best objective "
            "known, in units of the random mean's, is at most the success threshold. The solution lists one bit a "
            "weight, 1 where it is kept."
        ),
    }


def _write_summary(file: Path, row: Mapping[str, Any]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerow(row)


def _series(seconds: Sequence[float], objectives: Sequence[float]) -> list[dict[str, float]]:
    """One run's incumbents, each with its moment."""
    out: list[dict[str, float]] = []
    for moment, objective in zip(seconds, objectives, strict=True):
        if not out or objective < out[-1]["Incumbent"]:
            out.append({"Time": float(moment), "Incumbent": float(objective)})
    return out


def _bits(packed: str, p: int) -> list[str]:
    return [str(int(kept)) for kept in mask_from_text(packed, p)]


def hardware(machine: Mapping[str, Any]) -> str:
    """A machine in words."""
    return f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else NOT_AVAILABLE
