"""The run directory: run.json, events.jsonl, state/, and the resulting mask and weights."""

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import CannotWrite, InvalidInput
from prunebench.core.solution_file import plain
from prunebench.core.trust import named_code
from prunebench.log import archive, checks
from prunebench.log.lock import Lock
from prunebench.log.machine import machine, versions

if TYPE_CHECKING:
    import pandas

FORMAT = "prunebench.run/1"
"""Name and version of the format, as run.json states it."""

CHECKPOINT = "checkpoint.npz"
"""Name of the checkpoint in state/."""
BEFORE_LOSS = "before-loss.npz"
"""In the state folder: the checkpoint from before the first block that could not be solved, where there was one."""

RETRAINED = "retrained-{number}.safetensors"
"""Where a run directory has the state of its network after a training, by the training's number from 1."""

SEALED = (
    "events.jsonl", "mask.safetensors", "weights.safetensors", "results.parquet", "structure.json", "model.pt2",
    "latency.json", "levels.safetensors",
)  # fmt: skip
"""Files whose digests stand in result.json, beside those of networks that were trained."""


class RunDirectory:
    """One execution on disk. Files are written whole and renamed; events are flushed as they happen.

    Who writes holds the directory's lock: `create` takes it, `hold` does for a directory that is there.
    """

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        self.path = path
        self.request = request
        self._lock: Lock | None = None
        self._digest = hashlib.sha256()

    @staticmethod
    def create(path: Path, request: Mapping[str, Any], seed: int) -> "RunDirectory":
        """A new run directory with its run.json, locked.

        Raises
        ------
        InvalidInput   the folder exists and is not empty, or cannot be made
        """
        require_free(path)
        run = RunDirectory(path, plain(request))
        try:
            (path / "state").mkdir(parents=True, exist_ok=True)
            run.hold()
            if any(child.name != "state" for child in path.iterdir()):
                raise _occupied(path)
            run._write_json(
                "run.json",
                {
                    "format": FORMAT,
                    "request": run.request,
                    "seed": seed,
                    "versions": versions(),
                    "machine": machine(),
                },
            )
        except (OSError, CannotWrite) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidInput(f"{path} cannot be made: {reason}; choose another --out") from error
        return run

    @staticmethod
    def open(path: Path) -> "RunDirectory":
        """An existing run directory.

        Raises
        ------
        InvalidInput   there is no readable run.json of this format
        """
        return RunDirectory(path, dict(RunDirectory.described(path)["request"]))

    @staticmethod
    def described(path: Path) -> dict[str, Any]:
        """All of run.json: request, seed, versions, machine.

        Raises
        ------
        InvalidInput   there is no readable run.json of this format
        """
        file = path / "run.json"
        if not file.is_file():
            raise InvalidInput(f"{path} is not a run directory: run.json is missing")
        held = checks.read_object(file)
        if held.get("format") != FORMAT:
            raise InvalidInput(f"{file}: format is {held.get('format')!r}; expected {FORMAT!r}")
        kinds = {
            "request": checks.is_object,
            "seed": checks.is_whole,
            "versions": checks.is_object,
            "machine": checks.is_object,
        }
        checks.require(held, kinds, ("request",), file)
        return held

    def hold(self, say: Callable[[str], None] = lambda _line: None) -> None:
        """Take the lock, if it is not held yet.

        Raises
        ------
        InvalidInput   somebody else holds it
        CannotWrite    its file cannot be written
        """
        if self._lock is None:
            with self.writes("state/lock"):
                (self.path / "state").mkdir(exist_ok=True)
                self._lock = Lock.take(self.path / "state", self.path)
        if self._lock.missing:
            say(f"{self.path} is not locked, because {self._lock.missing}: let no other prunebench write to it")

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def describes_network(self) -> bool:
        """Whether run.json says what was found out of the network."""
        return "network" in self.described(self.path)

    def describe_network(self, facts: Mapping[str, Any]) -> None:
        """Add what was found out of the network to run.json, under "network"."""
        held = self.described(self.path)
        self._write_json("run.json", {**held, "network": plain(facts)})

    def remove_if_unused(self) -> None:
        """Take the directory away again if nothing has happened in it: the request turned out to be wrong."""
        names = ("events.jsonl", f"state/{CHECKPOINT}", f"state/{BEFORE_LOSS}", "result.json")
        if not any((self.path / name).is_file() and (self.path / name).stat().st_size for name in names):
            shutil.rmtree(self.path, ignore_errors=True)

    # --- events ----------------------------------------------------------------------------------

    def event(self, record: Mapping[str, Any]) -> None:
        """Append one line to events.jsonl and flush it."""
        line = (json.dumps(plain(record), allow_nan=False) + "\n").encode()
        with self.writes("events.jsonl"), (self.path / "events.jsonl").open("ab") as stream:
            stream.write(line)
            stream.flush()
        self._digest.update(line)

    def events(self) -> list[dict[str, Any]]:
        """All whole events; a line cut off by a crash is left out.

        Raises
        ------
        InvalidInput   a line is no JSON object; the message names it
        """
        out = []
        for number, line in enumerate(self._lines(), 1):
            source = f"{self.path / 'events.jsonl'}, line {number}"
            try:
                held = checks.load_json(line.decode(), source)
            except UnicodeDecodeError as error:
                raise InvalidInput(f"{source} is not readable: {error}") from error
            if not isinstance(held, dict):
                raise InvalidInput(f"{source}: a JSON object is expected, not {type(held).__name__}")
            out.append(held)
        return out

    def truncate_events(self, count: int, digest: str | None = None) -> None:
        """Drop events after the first `count`: those that the checkpoint does not know of.

        digest : what `events_digest` was after those, if it is known

        Raises
        ------
        InvalidInput   there are fewer, or others than those of which the digest was taken
        """
        kept = self._lines()[:count]
        held = hashlib.sha256(b"".join(kept))
        if len(kept) < count or digest not in (None, held.hexdigest()):
            raise InvalidInput(
                f"{self.path / 'events.jsonl'} does not hold the {count} steps that the checkpoint follows: it was "
                f"changed or lost; {self._anew()}"
            )
        self._digest = held
        self._write_bytes("events.jsonl", b"".join(kept))

    @property
    def events_digest(self) -> str:
        """SHA-256 of events.jsonl as far as it was written through this object."""
        return self._digest.hexdigest()

    def _lines(self) -> list[bytes]:
        """The whole lines, each with its end."""
        file = self.path / "events.jsonl"
        if not file.exists():
            return []
        try:
            lines = file.read_bytes().split(b"\n")
        except OSError as error:
            raise InvalidInput(f"{file} is not readable: {error.strerror}") from error
        return [line + b"\n" for line in lines[:-1]]

    # --- checkpoints -----------------------------------------------------------------------------

    def save_state(
        self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any], name: str = CHECKPOINT
    ) -> None:
        """Replace the checkpoint by (arrays, info), in one step, sealed."""
        values = plain(info)
        held = {**arrays, "info": np.array(json.dumps(values))}
        held["seal"] = np.array(archive.seal(self.request, arrays, values))
        with self.writes(f"state/{name}"):
            archive.write(self.path / "state" / name, held)

    def load_state(
        self, trust: bool = False, name: str = CHECKPOINT
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]] | None:
        """The latest checkpoint as (arrays, info), or None before the first.

        trust : take a checkpoint without a seal, as older versions wrote them

        Raises
        ------
        InvalidInput   the file is damaged, of another run or request, or has no seal; the message says what to do
        """
        file = self.path / "state" / name
        if not file.exists():
            return None
        try:
            arrays = archive.read(file)
            info = checks.load_json(str(arrays.pop("info")), "its info")
        except (ValueError, KeyError) as error:
            raise InvalidInput(f"{file} is damaged: {error}; {self._anew(name)}") from error
        sealed = arrays.pop("seal", None)
        if sealed is None and not trust:
            raise InvalidInput(
                f"{file} has no seal, so nothing says that it belongs to this run and is whole (older versions wrote "
                f"none); take it as it is: {resume_line(self.path)} --trust; or {self._anew(name)}"
            )
        if sealed is not None and str(sealed) != archive.seal(self.request, arrays, info):
            raise InvalidInput(
                f"{file} is not what this run wrote: its seal does not fit its contents and run.json, so it is "
                f"damaged, changed, or of another run; put the run's own back, or {self._anew(name)}"
            )
        if not isinstance(info, dict):
            raise InvalidInput(f"{file} is damaged: its info is no JSON object; {self._anew(name)}")
        return arrays, info

    def withdraw_result(self) -> None:
        """Take result.json away: the run goes on."""
        with self.writes("result.json"):
            (self.path / "result.json").unlink(missing_ok=True)

    def forget_losses(self) -> bool:
        """Go back to before the first block that could not be solved; whether there was one."""
        before = self.path / "state" / BEFORE_LOSS
        if not before.is_file():
            return False
        with self.writes(f"state/{CHECKPOINT}"):
            before.replace(self.path / "state" / CHECKPOINT)
        return True

    def _anew(self, name: str = CHECKPOINT) -> str:
        state = self.path / "state" / name
        return f"begin anew: remove {state}, then {resume_line(self.path)}"

    # --- results ---------------------------------------------------------------------------------

    def save_tensors(self, name: str, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write a safetensors file of that name, whole."""
        from safetensors.numpy import save_file

        temporary = self.path / f".{name}.tmp"
        with self.writes(name):
            save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, temporary)
            temporary.replace(self.path / name)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the events as results.parquet, then result.json."""
        import pandas

        self.finish_table(pandas.json_normalize(self.events()), result)

    def finish_table(self, table: "pandas.DataFrame", result: Mapping[str, Any]) -> None:
        """Write a table as results.parquet, then result.json, which marks the run as finished if that is its status."""
        temporary = self.path / ".results.parquet.tmp"
        with self.writes("results.parquet"):
            table.to_parquet(temporary, index=False)
            temporary.replace(self.path / "results.parquet")
        self.conclude(result)

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Write result.json alone, sealed, with the digests of the files beside it."""
        names = [*SEALED, *sorted(file.name for file in self.path.glob(RETRAINED.format(number="*")))]
        files = {name: file_digest(self.path / name) for name in names if (self.path / name).is_file()}
        held = {**plain(result), "files": files}
        self._write_json("result.json", {**held, "seal": archive.seal(self.request, {}, held)})

    def result(self, sealed: bool = True) -> dict[str, Any] | None:
        """What `finish` or `conclude` wrote, or None before.

        sealed : False takes a result whose seal does not fit, for those who show it and say so (`doubt`)

        Raises
        ------
        InvalidInput   result.json is damaged, changed, or of another run
        """
        file = self.path / "result.json"
        if not file.exists():
            return None
        held = checks.read_object(file)
        seal = held.pop("seal", None)
        if sealed and seal is not None and seal != archive.seal(self.request, {}, held):
            raise InvalidInput(
                f"{file} is not what this run wrote: its seal does not fit its contents and run.json, so it is "
                f"damaged, changed, or of another run; remove it, then {resume_line(self.path)}"
            )
        if self.request.get("kind") not in ("compare", "study"):
            needs = checks.RESULT_NEEDS if held.get("outcome") != "failed" else ("error", "steps")
            checks.require(held, checks.RESULT, needs, file)
        return held

    @property
    def finished(self) -> bool:
        """Whether result.json is there and says that nothing is left to do."""
        held = self.result()
        return held is not None and held.get("outcome", "finished") == "finished"

    def require_own(self, name: str) -> None:
        """Check that a file is the one of which result.json has the digest; runs of older versions have none.

        Raises
        ------
        InvalidInput   it is missing or another
        """
        held = (self.result() or {}).get("files", {})
        file = self.path / name
        if name in held and (not file.is_file() or file_digest(file) != held[name]):
            raise InvalidInput(
                f"{file} is not what this run wrote: the files do not match (its digest in result.json is another), so "
                f"it is damaged, changed, or of another run; remove result.json, then {resume_line(self.path)}"
            )

    def doubt(self, *names: str) -> str:
        """Why result.json, or one of these files, is not what the run wrote; "" where it is, or nothing tells."""
        try:
            for name in names:
                self.require_own(name)
            self.result()
        except InvalidInput as error:
            return str(error)
        return ""

    # --- writing ---------------------------------------------------------------------------------

    @contextmanager
    def writes(self, name: str) -> Iterator[None]:
        """Turn what keeps a file from being written into one error that says how to go on.

        Raises
        ------
        CannotWrite
        """
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CannotWrite(
                f"{self.path / name} cannot be written: {reason}; make room, or allow writing there. "
                f"What is done up to the last checkpoint is kept. Resume with: {resume_line(self.path, self.request)}"
            ) from error

    def _write_json(self, name: str, contents: Mapping[str, Any]) -> None:
        self._write_bytes(name, (json.dumps(contents, indent=1, allow_nan=False) + "\n").encode())

    def _write_bytes(self, name: str, contents: bytes) -> None:
        temporary = self.path / f".{name}.tmp"
        with self.writes(name):
            temporary.write_bytes(contents)
            temporary.replace(self.path / name)


def trainings(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a result says of trainings of what was kept: one entry each, as `prunebench.runs.retraining.trained`."""
    held = result.get("retrained", [])
    return [dict(entry) for entry in held] if isinstance(held, list) else []


def _occupied(path: Path) -> InvalidInput:
    return InvalidInput(f"{path} exists and is not empty; choose another --out, or continue it: {resume_line(path)}")


def file_digest(file: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_name(problem: str) -> str:
    """A problem's name as part of a folder's: of FILE.py:FUNCTION both names, without folders."""
    return re.sub(r"[^\w.-]+", "-", Path(problem).name.replace(".py:", "-"))


def require_free(path: Path) -> None:
    """Raise InvalidInput where a folder for a new run exists and is not empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise _occupied(path)


def resume_line(path: Path, request: Mapping[str, Any] | None = None) -> str:
    """The command that continues a run.

    request : of the run, where its writer is the user: "--trust" is added where it names code
    """
    trusted = " --trust" if request is not None and named_code(request) else ""
    return f"prunebench resume {shlex.quote(str(path))}{trusted}"


def next_free(parent: Path, stem: str) -> Path:
    """parent/stem-001, or the first number that is free."""
    number = 1
    while (parent / f"{stem}-{number:03d}").exists():
        number += 1
    return parent / f"{stem}-{number:03d}"
