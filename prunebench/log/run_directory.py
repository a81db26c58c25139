"""The run directory: run.json, events.jsonl, state/, and the resulting mask and weights."""

import json
import os
import platform
import shlex
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import InvalidInput
from prunebench.core.solution_file import plain

if TYPE_CHECKING:
    import pandas

FORMAT = "prunebench.run/1"
LIBRARIES = ("prunebench", "numpy", "scipy", "numba", "torch")
ARRAYS_FILE = "checkpoint.npz"


class RunDirectory:
    """One execution on disk. Files are written whole and renamed; events are flushed as they happen."""

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        self.path = path
        self.request = request

    @staticmethod
    def create(path: Path, request: Mapping[str, Any], seed: int) -> "RunDirectory":
        """A new run directory with its run.json.

        Raises
        ------
        InvalidInput   the folder exists and is not empty, or cannot be made
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InvalidInput(
                f"{path} exists and is not empty; choose another --out, or continue it: {resume_line(path)}"
            )
        try:
            (path / "state").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"{path} cannot be made: {error.strerror}; choose another --out") from error
        run = RunDirectory(path, plain(request))
        run._write_json(
            "run.json",
            {
                "format": FORMAT,
                "request": run.request,
                "seed": seed,
                "versions": {name: _version(name) for name in LIBRARIES},
                "machine": {
                    "python": platform.python_version(),
                    "system": platform.platform(),
                    "processor": _processor(),
                    "cores": os.cpu_count(),
                },
            },
        )
        return run

    @staticmethod
    def open(path: Path) -> "RunDirectory":
        """An existing run directory.

        Raises
        ------
        InvalidInput   there is no readable run.json of this format
        """
        file = path / "run.json"
        if not file.is_file():
            raise InvalidInput(f"{path} is not a run directory: run.json is missing")
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InvalidInput(f"{file} is not readable: {error}") from error
        if held.get("format") != FORMAT:
            raise InvalidInput(f"{file}: format is {held.get('format')!r}; expected {FORMAT!r}")
        return RunDirectory(path, held["request"])

    def describes_network(self) -> bool:
        """Whether run.json says what was found out of the network."""
        return "network" in json.loads((self.path / "run.json").read_text(encoding="utf-8"))

    def describe_network(self, facts: Mapping[str, Any]) -> None:
        """Add what was found out of the network to run.json, under "network"."""
        held = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        self._write_json("run.json", {**held, "network": plain(facts)})

    def remove_if_unused(self) -> None:
        """Take the directory away again if nothing has happened in it: the request turned out to be wrong."""
        if not self.events() and self.load_state() is None:
            shutil.rmtree(self.path)

    def event(self, record: Mapping[str, Any]) -> None:
        """Append one line to events.jsonl and flush it."""
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain(record), allow_nan=False) + "\n")
            stream.flush()

    def events(self) -> list[dict[str, Any]]:
        """All whole events; a line cut off by a crash is left out."""
        file = self.path / "events.jsonl"
        if not file.is_file():
            return []
        lines = file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def truncate_events(self, count: int) -> None:
        """Drop events after the first `count`: those that the checkpoint does not know of."""
        kept = self.events()[:count]
        self._write_text("events.jsonl", "".join(json.dumps(record) + "\n" for record in kept))

    def save_state(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Replace the checkpoint by (arrays, info), in one step."""
        file = self.path / "state" / ARRAYS_FILE
        temporary = file.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            held: dict[str, Any] = {**arrays, "info": np.array(json.dumps(plain(info)))}
            np.savez(stream, **held)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)

    def load_state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]] | None:
        """The latest checkpoint as (arrays, info), or None before the first."""
        file = self.path / "state" / ARRAYS_FILE
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files if name != "info"}
            return arrays, json.loads(str(held["info"]))

    def save_tensors(self, name: str, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write a safetensors file of that name, whole."""
        from safetensors.numpy import save_file

        temporary = self.path / f".{name}.tmp"
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, temporary)
        temporary.replace(self.path / name)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json and the events as results.parquet."""
        import pandas

        self.finish_table(pandas.json_normalize(self.events()), result)

    def finish_table(self, table: "pandas.DataFrame", result: Mapping[str, Any]) -> None:
        """Write a table as results.parquet, then result.json, which marks the run as finished."""
        temporary = self.path / ".results.parquet.tmp"
        table.to_parquet(temporary, index=False)
        temporary.replace(self.path / "results.parquet")
        self._write_json("result.json", plain(result))

    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote, or None while the run is not done."""
        file = self.path / "result.json"
        held: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        return held

    def _write_json(self, name: str, contents: Mapping[str, Any]) -> None:
        self._write_text(name, json.dumps(contents, indent=1, allow_nan=False) + "\n")

    def _write_text(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)


def resume_line(path: Path) -> str:
    """The command that continues a run."""
    return f"prunebench resume {shlex.quote(str(path))}"


def next_free(parent: Path, stem: str) -> Path:
    """parent/stem-001, or the first number that is free."""
    number = 1
    while (parent / f"{stem}-{number:03d}").exists():
        number += 1
    return parent / f"{stem}-{number:03d}"


def _processor() -> str:
    """The processor's model where the system tells it: times mean nothing without."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
