"""What structured pruning gives: a smaller network, what is kept of every family, and what it costs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from prunebench.core.errors import InvalidInput
from prunebench.log import checks
from prunebench.log.run_directory import RunDirectory
from prunebench.networks.checkpoints import read_state
from prunebench.pruned import FILE as PRUNED_FILE
from prunebench.pruned import FORMAT, TRAINED_FILE, Pruned, last_training
from prunebench.runs.start import MASK_FILE, WEIGHTS_FILE
from prunebench.runs.structured import PROGRAM_FILE, STRUCTURE_FILE, TAKES


@dataclass(frozen=True, eq=False)
class Smaller(Pruned):
    """A network without some of its channels, neurons or heads.

    masks : bool tensors by family ("name:kind"), true where a group is kept
    state : all tensors of the smaller network by name, in their new shapes
    structure : what structure.json says: families before and after, costs, errors of the refit
    exported : the smaller network as torch.export has it
    """

    structure: Mapping[str, Any] = None  # type: ignore[assignment]  # always given, after fields with defaults
    exported: Any = None

    @cached_property
    def model(self) -> torch.nn.Module:
        """The smaller network as a module: its graph, which takes batches of any size."""
        held: torch.nn.Module = self.exported.module(check_guards=False)
        # The graph's values are those before any training. It shares them with every module made of it, so that they
        # are replaced and not overwritten.
        here = held.state_dict()
        own = {name: tensor.clone() for name, tensor in self.state.items() if name in here}
        held.load_state_dict(own, strict=False, assign=True)
        return held

    @property
    def costs(self) -> dict[str, tuple[float, float]]:
        """By unit (macs, parameters, bytes): of the dense network, and of the smaller one."""
        return {unit: (pair["dense"], pair["pruned"]) for unit, pair in self.structure["costs"].items()}

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        """A copy of the user's module with the smaller tensors; the module itself is not changed.

        Raises
        ------
        InvalidInput   its own code holds sizes, so that it does not run with smaller tensors; `model` is the graph
        """
        from prunebench.structure.module import resized

        if self.structure["module"] != TAKES:
            raise InvalidInput(
                f"the module cannot take the smaller weights: {self.structure['module']}; use .model, the smaller "
                "network's graph"
            )
        names = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
        if missing := sorted(set(self.state) - names):
            raise InvalidInput(f"this is not the model that was pruned: it has no {missing[0]!r}")
        return resized(model, self.state)

    def as_torch_prune(self, model: torch.nn.Module) -> torch.nn.Module:
        """Not for a smaller network: torch.nn.utils.prune masks weights and makes nothing smaller.

        Raises
        ------
        InvalidInput   always
        """
        raise InvalidInput("a smaller network has no masks of weights; use .model or .apply(model)")

    def save(self, folder: Path | str) -> Path:
        """Write masks, weights, measures and the graph (model.pt2) into a folder, from which `load` reads them."""
        path = super().save(folder)
        (path / STRUCTURE_FILE).write_text(json.dumps(self.structure, indent=1) + "\n", encoding="utf-8")
        torch.export.save(self.exported, path / PROGRAM_FILE)
        return path

    @staticmethod
    def load(folder: Path | str) -> "Smaller":
        """What `save` wrote, or a finished run directory of structured pruning.

        Raises
        ------
        InvalidInput   the folder holds neither, or it is damaged
        """
        path = Path(folder)
        if not (path / PRUNED_FILE).is_file():
            return smaller_from_run(path)
        held = checks.read_object(path / PRUNED_FILE)
        if held.get("format") != FORMAT or not (path / STRUCTURE_FILE).is_file():
            raise InvalidInput(f"{path} holds no smaller network: {STRUCTURE_FILE} is missing or of another format")
        return Smaller(
            read_state(path / MASK_FILE), read_state(path / WEIGHTS_FILE), held["result"], held["fingerprint"],
            tuple(held["notes"]), read_state(path / TRAINED_FILE) if (path / TRAINED_FILE).is_file() else None,
            structure=checks.read_object(path / STRUCTURE_FILE), exported=_read_program(path),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Smaller {self.result['problem']}: {self.kept:,} of {self.total:,} groups kept>"

    def _layers(self) -> list[tuple[str, ...]]:
        rows = super()._layers()
        for unit, (before, after) in self.costs.items():
            rows.append((unit, f"{after:,.0f}", f"{before:,.0f}", f"{after / before:.4f}"))
        return rows


def smaller_from_run(path: Path, notes: tuple[str, ...] = ()) -> Smaller:
    """The result of a finished run directory of structured pruning.

    Raises
    ------
    InvalidInput   it is none, or its files are not what the run wrote
    """
    run = RunDirectory.open(path)
    result = run.result()
    if result is None or not run.finished or not (path / STRUCTURE_FILE).is_file():
        raise InvalidInput(f"{path} is not a finished run of structured pruning")
    for name in (MASK_FILE, WEIGHTS_FILE, STRUCTURE_FILE, PROGRAM_FILE):
        run.require_own(name)
    structure = checks.read_object(path / STRUCTURE_FILE)
    found = RunDirectory.described(path).get("network") or {}
    refused = tuple(
        f"not pruned: {family['kind']} {family['name']}: {family['reason']}"
        for family in found.get("not_pruned_families", ())
        if family["reason"] != "not asked for"
    )
    kept_shape = () if structure["module"] == TAKES else (f"the module itself keeps its shape: {structure['module']}",)
    return Smaller(
        masks=read_state(path / MASK_FILE),
        state=read_state(path / WEIGHTS_FILE),
        result=result,
        fingerprint=str(run.request.get("problem_options", {}).get("fingerprint", "")),
        notes=(*notes, *refused, *kept_shape),
        trained=last_training(run, result),
        structure=structure,
        exported=_read_program(path),
    )


def _read_program(path: Path) -> Any:
    try:
        return torch.export.load(path / PROGRAM_FILE)
    except Exception as error:  # torch raises of many kinds for a damaged file
        raise InvalidInput(f"{path / PROGRAM_FILE} is not readable: {error}") from error
