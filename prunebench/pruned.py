"""What pruning a network gives: masks, weights, measures, and how to put them into the model."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import parametrize, prune

from prunebench.core.errors import InvalidInput
from prunebench.core.solution_file import plain
from prunebench.log import checks
from prunebench.log.run_directory import RunDirectory, trainings
from prunebench.networks.checkpoints import read_state, write_state
from prunebench.networks.own_copy import fingerprint, is_normed, plain_copy, uncompiled
from prunebench.runs import network_facts
from prunebench.runs.start import LEVELS_FILE, MASK_FILE, WEIGHTS_FILE
from prunebench.runs.structured import STRUCTURE_FILE

FORMAT = "prunebench.pruned/1"
"""Name and version of the format of a saved folder, as pruned.json states it."""

FILE = "pruned.json"
"""What a saved folder holds beside masks and weights."""

MEASURES = ("accuracy", "perplexity", "loss")
"""Measures in the order in which they are shown; others follow by name."""

TRAINED_FILE = "retrained.safetensors"
"""Where a saved folder has the network's tensors after its last training."""

DENSE = "dense_"
"""What the names of the dense network's measures begin with."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned network.

    masks : bool tensors by parameter name, true where a weight is kept
    state : all tensors of the pruned network by name, whether they were pruned or not
    result : what the run's result.json says
    fingerprint : of the dense network, "" for a registered problem
    notes : what was found out and told on the way
    trained : all tensors after the last training of what was kept, None where there was none
    levels : of weights on levels, each parameter's NAME.levels and NAME.scales as in levels.safetensors; else None
    """

    masks: Mapping[str, torch.Tensor]
    state: Mapping[str, torch.Tensor]
    result: Mapping[str, Any]
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    trained: Mapping[str, torch.Tensor] | None = None
    levels: Mapping[str, torch.Tensor] | None = None

    @property
    def retrained(self) -> "Pruned | None":
        """The network after its last training, with the measures it reached; None where it was not trained."""
        done = trainings(self.result)
        if self.trained is None or not done:
            return None
        reached = {name: done[-1][name] for name in self.measures if name in done[-1]}
        result = {**self.result, **reached, "retrained": []}
        return replace(self, state=self.trained, result=result, trained=None, levels=None)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the pruned parameters by name, zero where they are pruned."""
        return {name: self.state[name] for name in self.masks}

    @property
    def kept(self) -> int:
        """How many weights are kept."""
        return int(self.result["kept"])

    @property
    def total(self) -> int:
        """How many there were."""
        return int(self.result["total"])

    @property
    def measures(self) -> dict[str, tuple[float | None, float | None]]:
        """Measures by name: of the dense network, and of the pruned one."""
        names = [name.removeprefix(DENSE) for name in self.result if name.startswith(DENSE)]
        order = {name: place for place, name in enumerate(MEASURES)}
        names.sort(key=lambda name: order.get(name, len(order)))
        return {name: (self.result[DENSE + name], self.result.get(name)) for name in names}

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        """Put the pruned weights into the model, in place, with all else that recovery changed. -> the model

        In modules of `torch.nn.utils.prune` the mask is replaced as well.

        Raises
        ------
        InvalidInput   it is not the model that was pruned, or computes weights by a parametrization; nothing is written
        """
        self._require(model)
        with torch.no_grad():
            for name, tensor in self.state.items():
                _write(model, name, tensor, self.masks.get(name))
        return model

    def as_torch_prune(self, model: torch.nn.Module) -> torch.nn.Module:
        """Put the masks into the model as `torch.nn.utils.prune` does: `weight_orig` and `weight_mask`. -> the model

        `weight_orig` has the pruned network's values where weights are kept and the dense ones elsewhere.

        Raises
        ------
        InvalidInput   as `apply`
        """
        self._require(model)
        with torch.no_grad():
            for name, tensor in self.state.items():
                mask = self.masks.get(name)
                module, leaf = _place(model, name)
                if mask is not None and leaf in module._parameters:
                    held = module.get_parameter(leaf)
                    kept = mask.to(held.device)
                    held.copy_(torch.where(kept, tensor.to(held.device), held))
                    prune.custom_from_mask(module, leaf, kept)  # type: ignore[no-untyped-call]
                else:
                    _write(model, name, tensor, mask)
        return model

    def save(self, folder: Path | str) -> Path:
        """Write masks, weights and measures into a folder, from which `load` and `prunebench.runs.start` read them.

        Raises
        ------
        InvalidInput   the folder holds something else
        """
        path = Path(folder)
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / FILE).is_file())):
            raise InvalidInput(f"{path} exists and holds something else; give another folder")
        path.mkdir(parents=True, exist_ok=True)
        write_state(path / MASK_FILE, self.masks)
        write_state(path / WEIGHTS_FILE, self.state)
        for name, tensors in ((TRAINED_FILE, self.trained), (LEVELS_FILE, self.levels)):
            if tensors is not None:
                write_state(path / name, tensors)
        held = {
            "format": FORMAT, "fingerprint": self.fingerprint, "layers": list(self.masks), "notes": self.notes,
            "result": self.result,
        }  # fmt: skip
        (path / FILE).write_text(json.dumps(plain(held), indent=1) + "\n", encoding="utf-8")
        return path

    @staticmethod
    def load(folder: Path | str) -> "Pruned":
        """What `save` wrote, or a finished run directory; a `Smaller` where whole groups were pruned.

        Raises
        ------
        InvalidInput   the folder holds neither, or it is damaged
        """
        path = Path(folder)
        if (path / STRUCTURE_FILE).is_file():
            from prunebench.pruned_structure import Smaller

            return Smaller.load(path)
        if not (path / FILE).is_file():
            if (path / "run.json").is_file():
                return from_run(path)
            raise InvalidInput(f"{path} holds no pruned network: neither {FILE} nor run.json is there")
        held = checks.read_object(path / FILE)
        if held.get("format") != FORMAT:
            raise InvalidInput(f"{path / FILE}: format is {held.get('format')!r}; expected {FORMAT!r}")
        texts = checks.lists_of(checks.is_text)
        needs = {"result": checks.is_object, "fingerprint": checks.is_text, "layers": texts, "notes": texts}
        checks.require(held, needs, tuple(needs), path / FILE)
        pruned = Pruned(
            read_state(path / MASK_FILE), read_state(path / WEIGHTS_FILE), held["result"], held["fingerprint"],
            tuple(held["notes"]), *(_read_if_there(path / name) for name in (TRAINED_FILE, LEVELS_FILE)),
        )  # fmt: skip
        return pruned.in_order(held["layers"])

    def in_order(self, names: Sequence[str]) -> "Pruned":
        """The same with the masks in the order of `names`, those of other names after them."""
        place = {name: number for number, name in enumerate(names)}
        order = sorted(self.masks, key=lambda name: place.get(name, len(place)))
        return replace(self, masks={name: self.masks[name] for name in order})

    def __repr__(self) -> str:
        return f"<Pruned {self.result['problem']}: {self.kept:,} of {self.total:,} weights kept>"

    def __str__(self) -> str:
        layers = [("layer", "kept", "of", "density"), *self._layers()]
        measures = self._measures()
        lines = [*_aligned(layers), "", *_aligned(measures), "", self._way()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        layers = _html([("layer", "kept", "of", "density"), *self._layers()])
        measures = _html(self._measures())
        words = "".join(f"<p>{html.escape(line)}</p>" for line in (self._way(), *self.notes))
        return f"<div>{layers}{measures}{words}</div>"

    def _layers(self) -> list[tuple[str, ...]]:
        counts = [(name, int(mask.sum()), mask.numel()) for name, mask in self.masks.items()]
        counts.append(("all", self.kept, self.total))
        return [(name, f"{kept:,}", f"{size:,}", f"{kept / size:.4f}") for name, kept, size in counts]

    def _measures(self) -> list[tuple[str, ...]]:
        """A head, and a line for each measure; a column more for each training."""
        done = trainings(self.result)
        head = ("", "dense", "pruned", *(f"trained: {entry['protocol'] or 'as usual'}" for entry in done))
        rows = [
            (name, *map(_number, (*values, *(entry.get(name) for entry in done))))
            for name, values in self.measures.items()
            if values != (None, None)
        ]
        return [head, *rows]

    def _way(self) -> str:
        result = self.result
        held = result.get("bits")
        levels = "" if held is None else f"{held['bits']} bits a weight, packed {held['bytes']['packed']:,} bytes, "
        return (
            f"{result['problem']}: {result['coordinator']} with {result['solver']}, mode {result['mode']}, {levels}"
            f"{result['seconds']:.1f} s"
        )

    def _require(self, model: torch.nn.Module) -> None:
        """Raise InvalidInput unless the model is the one that was pruned, or what became of it."""
        if not isinstance(model, torch.nn.Module):
            raise InvalidInput(f"a {type(model).__name__} is no model; give the torch.nn.Module that was pruned")
        held = plain_copy(model).state_dict()
        for name, tensor in self.state.items():
            if name not in held or held[name].shape != tensor.shape:
                found = f"has shape {tuple(held[name].shape)}" if name in held else "is not there"
                raise InvalidInput(
                    f"this is not the model that was pruned: {name!r} {found}, and {tuple(tensor.shape)} is expected"
                )
        if extra := [name for name in held if name not in self.state]:
            raise InvalidInput(f"this is not the model that was pruned: it has {extra[0]!r}, which that one has not")
        known = (self.fingerprint, fingerprint(self.state))
        if self.fingerprint and fingerprint(held) not in known:
            raise InvalidInput(
                "this is not the model that was pruned: its names and shapes are the same, but its values are others "
                "(another checkpoint, or trained since)"
            )
        for module in uncompiled(model).modules():
            if parametrize.is_parametrized(module) or is_normed(module):
                raise InvalidInput(
                    f"a {type(module).__name__} of the model computes its weight by a parametrization, which no mask "
                    "survives; take it off first: torch.nn.utils.parametrize.remove_parametrizations"
                )


def from_run(path: Path, notes: Sequence[str] = ()) -> Pruned:
    """The result of a finished run directory.

    Raises
    ------
    InvalidInput   it is none, or its files are not what the run wrote
    """
    run = RunDirectory.open(path)
    result = run.result()
    if result is None or not run.finished:
        raise InvalidInput(f"{path} is not a finished run")
    for name in (MASK_FILE, WEIGHTS_FILE, LEVELS_FILE):
        run.require_own(name)
    options = run.request.get("problem_options", {})
    found = RunDirectory.described(path).get("network")
    return Pruned(
        masks=read_state(path / MASK_FILE),
        state=read_state(path / WEIGHTS_FILE),
        result=result,
        fingerprint=str(options.get("fingerprint", "")),
        notes=(*notes, *(network_facts.lines(found) if found else ())),
        trained=last_training(run, result),
        levels=_read_if_there(path / LEVELS_FILE),
    )


def _read_if_there(file: Path) -> dict[str, torch.Tensor] | None:
    """The tensors of a file; None without one."""
    return read_state(file) if file.is_file() else None


def last_training(run: RunDirectory, result: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """All tensors after the last training of a finished run, None where there was none.

    Raises
    ------
    InvalidInput   the file is not what the run wrote
    """
    done = trainings(result)
    if not done:
        return None
    run.require_own(done[-1]["file"])
    return read_state(run.path / done[-1]["file"])


def _place(model: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    """The module that holds a tensor, and the tensor's name in it."""
    owner, _, leaf = name.rpartition(".")
    return uncompiled(model).get_submodule(owner), leaf


def _write(model: torch.nn.Module, name: str, tensor: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Put one tensor into the model, in the place, on the device and of the type that it has there."""
    module, leaf = _place(model, name)
    held: Any = module._parameters.get(leaf)
    if held is None:
        held = module._buffers.get(leaf)
    if held is not None:
        held.copy_(tensor)
        return
    original, kept = module.get_parameter(f"{leaf}_orig"), module.get_buffer(f"{leaf}_mask")
    original.copy_(tensor)
    if mask is not None:
        kept.copy_(mask)
    # What the module holds until its hook computes it again.
    setattr(module, leaf, original * kept)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    out = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        out.append("  ".join(cells).rstrip())
    return out


def _html(rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
