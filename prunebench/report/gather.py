"""Read run directories and comparisons into plain records, and say of each that cannot be read why not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.log import checks
from prunebench.log.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas

MASK_FILE = "mask.safetensors"
"""Where a run directory has its mask."""
ASKED = ("coordinator", "solver", "solver_options")
"""Keys of a run's request that a report names."""

DEEPEST = 4
"""Folders are searched for run directories to this depth."""


@dataclass(frozen=True, eq=False)
class Source:
    """What every run directory says of itself: run.json."""

    path: Path
    request: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    finished: bool
    trouble: str = ""
    """Blocks that were not solved, a solver that failed, files that are not what the run wrote."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison: its table, a row for each block, solver and seed."""

    source: Source
    frame: "pandas.DataFrame"


@dataclass(frozen=True)
class LeftOut:
    """Matrices of a network that a run tells of.

    why : "not pruned" or "reached by none of N samples";  kind : of module
    matrices, weights : how many;  names : parameter names, numbers replaced by *
    """

    why: str
    kind: str
    matrices: int
    weights: int
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """A pruning run: its events, its result (None while it is not finished), and its layers' sizes and kept counts."""

    source: Source
    events: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any] | None
    layers: Mapping[str, tuple[int, int]]
    """By layer (kept, size), from the mask; empty while there is none."""
    left_out: "tuple[LeftOut, ...]" = ()
    """Matrices that were not pruned and weights that no sample reached; empty for runs that did not write it down."""
    pictures: "Mapping[str, FloatArray]" = field(default_factory=dict)
    """By layer the share kept of each patch of its mask, float64 (h, w); empty while there is no mask."""
    name: str = ""
    """What figures are to call it, where that was said; else they call it by what was asked for."""

    @property
    def problem(self) -> str:
        """The problem's name."""
        return str(self.source.request["problem"])

    @property
    def density(self) -> float:
        """The density asked for."""
        return float(self.source.request["density"])

    @property
    def of_groups(self) -> bool:
        """Whether whole groups were pruned: its density is then a part of what the network costs."""
        return bool((self.result or {}).get("costs"))

    @property
    def coordinator(self) -> str:
        """The coordinator's name."""
        return str(self.source.request["coordinator"])

    @property
    def solver(self) -> str:
        """The solver with the options that were given, as comparisons label it."""
        given = ", ".join(f"{key}={value}" for key, value in sorted(self.source.request["solver_options"].items()))
        name = str(self.source.request["solver"])
        return f"{name} ({given})" if given else name

    @property
    def look(self) -> str:
        """What its colour belongs to: the solver's bare name."""
        return str(self.source.request["solver"])

    @property
    def mode(self) -> str:
        """select or refit; "" where neither the result nor the request says it."""
        return str((self.result or {}).get("mode") or self.source.request.get("mode") or "")

    @property
    def blocks(self) -> str:
        """What its blocks are, in words: "blocks of 512, 3 a step"; "" where it has none or has not said it."""
        options = (self.result or {}).get("coordinator_options") or self.source.request.get("coordinator_options") or {}
        size = options.get("block_size")
        if size is None:
            size = max((held for event in self.events for held in event.get("block_sizes", ())), default=None)
        if size is None:
            return "a block a layer" if self.source.request.get("scope") == "layer" else ""
        step = str(options.get("blocks_per_step", 1))
        return f"blocks of {size}" + (f", {step} a step" if step != "1" else "")


@dataclass(frozen=True, eq=False)
class Study:
    """A study: what it found, as `prunebench.studies.findings.Findings` writes it."""

    source: Source
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Material:
    """All that a report is about. `unreadable` holds (path, reason)."""

    comparisons: tuple[Comparison, ...] = ()
    runs: tuple[Run, ...] = ()
    studies: tuple[Study, ...] = ()
    unreadable: tuple[tuple[Path, str], ...] = ()
    directories: tuple[Path, ...] = ()

    @property
    def solvers(self) -> tuple[str, ...]:
        """The labels of all solvers, and of all curves of studies, sorted: what has a look of its own."""
        names: set[str] = {run.look for run in self.runs}
        for study in self.studies:
            names |= {curve["name"] for plot in study.result["plots"] for curve in plot["curves"]}
        for comparison in self.comparisons:
            names |= set(comparison.frame["solver"])
        return tuple(sorted(names))


def gather(directories: Sequence[Path | str]) -> Material:
    """Load every run directory and comparison among and below the directories.

    Raises
    ------
    InvalidInput   a directory does not exist, or there is nothing to report in any of them
    """
    given = [Path(directory) for directory in directories]
    if not given:
        raise InvalidInput("no directory is given; name a run directory, or a folder that holds some")
    found: dict[Path, Path] = {}
    for path in given:
        if not path.exists():
            raise InvalidInput(f"{path}: there is no such directory; 'prunebench prune' and 'compare' make some")
        if not path.is_dir():
            raise InvalidInput(f"{path} is a file; give the run directory that it lies in")
        for folder in _run_directories(path, DEEPEST):
            found.setdefault(folder.resolve(), folder)
    comparisons: list[Comparison] = []
    runs: list[Run] = []
    studies: list[Study] = []
    unreadable: list[tuple[Path, str]] = []
    for folder in found.values():
        try:
            read = _load(folder)
        except (ValueError, OSError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
            reason = f"{error.args[0]} is missing in it" if isinstance(error, KeyError) else str(error)
            unreadable.append((folder, reason))
            continue
        if isinstance(read, Comparison):
            comparisons.append(read)
        elif isinstance(read, Study):
            studies.append(read)
        else:
            runs.append(read)
    if not comparisons and not runs and not studies:
        names = ", ".join(str(path) for path in given)
        why = "; ".join(f"{path}: {reason}" for path, reason in unreadable)
        raise InvalidInput(
            f"nothing to report in {names}: "
            + (
                why
                or "no run directory is in there; 'prunebench prune … --out DIR' or 'prunebench compare …' makes one"
            )
        )
    return Material(tuple(comparisons), tuple(runs), tuple(studies), tuple(unreadable), tuple(given))


def of_frame(frame: "pandas.DataFrame") -> Material:
    """A comparison's table alone, as `prunebench.compare` returns it.

    Raises
    ------
    InvalidInput   columns are missing, or there is no row
    """
    _check_columns(frame, "the table")
    directory = frame.attrs.get("directory")
    if directory and (Path(directory) / "run.json").is_file():
        source = _source(RunDirectory.open(Path(directory)))
    else:
        source = Source(Path(directory or "table"), {"kind": "compare"}, 0, {}, {}, finished=True)
    return Material((Comparison(source, frame),))


def _run_directories(path: Path, depth: int) -> Iterable[Path]:
    if (path / "run.json").is_file():
        yield path
        return
    if depth:
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _run_directories(child, depth - 1)


def _load(folder: Path) -> Comparison | Run | Study:
    from prunebench.comparison import table
    from prunebench.comparison.request import CompareRequest

    run = RunDirectory.open(folder)
    source = _source(run)
    if run.request.get("kind") == "compare":
        CompareRequest.from_json(run.request, str(folder))
        frame = table.read(folder)
        _check_columns(frame, str(folder))
        return Comparison(source, frame)
    if run.request.get("kind") == "study":
        found = run.result(sealed=False)
        if found is None:
            raise InvalidInput("the study did not come to its end; ask for it again")
        checks.require(found, checks.STUDY, tuple(checks.STUDY), folder / "result.json")
        return Study(source, found)
    checks.require(run.request, checks.REQUEST, (*checks.REQUEST_NEEDS, *ASKED), folder / "run.json")
    events = tuple(run.events())
    for number, event in enumerate(events, 1):
        line = f"{folder / 'events.jsonl'}, line {number}"
        checks.require(event, checks.EVENT, checks.EVENT_NEEDS, line)
        if event["step"] != number:
            raise InvalidInput(f"{line} is of step {event['step']}; lines were lost, added or changed")
    result = run.result(sealed=False)
    if result is not None and result.get("outcome") == "failed":
        result = None
    if not events and result is None:
        raise InvalidInput(source.trouble or "nothing has happened in it yet: there is neither an event nor a result")
    layers, pictures = _layers(folder, result) if result is not None else ({}, {})
    return Run(source, events, result, layers, _left_out(folder), pictures)


def _source(run: RunDirectory) -> Source:
    held, result = RunDirectory.described(run.path), run.result(sealed=False)
    return Source(
        path=run.path,
        request=held["request"],
        seed=int(held.get("seed", 0)),
        versions=held.get("versions", {}),
        machine=held.get("machine", {}),
        finished=result is not None and result.get("outcome", "finished") == "finished",
        trouble=_trouble(result or {}) or run.doubt("events.jsonl", MASK_FILE),
    )


def _left_out(folder: Path) -> tuple[LeftOut, ...]:
    """What run.json says under "network"."""
    network = RunDirectory.described(folder).get("network", {})
    out = [_group("not pruned", held) for held in network.get("not_pruned", [])]
    out += [
        _group(f"left dense: {held['reason']}", {"kind": "layer", **held}) for held in network.get("left_dense", [])
    ]
    missed = network.get("unreached")
    if missed is not None:
        why = f"reached by none of {int(missed['samples'])} samples"
        if missed["layers"]["matrices"]:
            out.append(_group(why, missed["layers"]))
        out += [LeftOut(why, "weights", 1, int(count), (str(name),)) for name, count in missed["weights"].items()]
    return tuple(out)


def _group(why: str, held: Mapping[str, Any]) -> LeftOut:
    names = tuple(str(name) for name in held["names"])
    return LeftOut(why, str(held["kind"]), int(held["matrices"]), int(held["weights"]), names)


def _trouble(result: Mapping[str, Any]) -> str:
    """What a result says that is not finished; "" for others."""
    if result.get("outcome") == "failed":
        return f"the run failed: {result['error']}"
    if result.get("outcome") == "incomplete":
        failures = "; ".join(f"{count} x {reason}" for reason, count in result.get("failures", {}).items())
        return f"{result.get('unsolved')} blocks were not solved ({failures})"
    return ""


def _layers(folder: Path, result: Mapping[str, Any]) -> "tuple[dict[str, tuple[int, int]], dict[str, FloatArray]]":
    """By layer the kept and all weights, and the mask in patches; both empty where there is no mask."""
    from prunebench.report.patches import patches

    file = folder / MASK_FILE
    if not file.is_file():
        return {}, {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        masks = load_file(file)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error
    if other := [name for name, mask in masks.items() if mask.dtype != bool or not mask.size]:
        raise InvalidInput(f"{file}: {other[0]} is {masks[other[0]].dtype} {masks[other[0]].shape} and no mask")
    # The network's own order, which result.json keeps and the tensor file does not.
    order = [name for name in result.get("kept_per_layer", {}) if name in masks]
    order += [name for name in masks if name not in order]
    counts = {name: (int(masks[name].sum()), int(masks[name].size)) for name in order}
    return counts, {name: patches(masks[name]) for name in order}


def _check_columns(frame: "pandas.DataFrame", source: str) -> None:
    from prunebench.comparison.table import COLUMNS

    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InvalidInput(f"{source}: the table has no column {', '.join(missing)}; it is not a comparison's")
    if frame.empty:
        raise InvalidInput(f"{source}: the table has no row yet")
    _check_kinds(frame, source)


def _check_kinds(frame: "pandas.DataFrame", source: str) -> None:
    """Refuse columns that hold something else than a comparison's."""
    from prunebench.comparison.table import COLUMNS, LISTS, TEXTS

    for name in COLUMNS:
        held = frame[name]
        if name in TEXTS:
            fits = all(isinstance(value, str) for value in held)
        elif name in LISTS:
            fits = all(isinstance(value, (list, tuple, np.ndarray)) for value in held)
        else:
            fits = held.dtype.kind in "biuf" or bool(held.isna().all())
        if not fits:
            raise InvalidInput(f"{source}: column {name} of the table holds {held.dtype}; it is not a comparison's")
