"""One runner for all benchmarks: tables on the screen, and lines of JSON that say where and of what they were made.

A benchmark is a function from its arguments to rows. Every one takes --quick, which asks for less, and
--out FILE: a first line with benchmark, commit, machine, versions and arguments, a line a row, and a last
line with the seconds it took; where that one is missing, the run was cut short.
"""

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from prunebench.log.machine import machine, versions

ROOT = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What limits threads, and with them what a second means."""

NUMBER_WIDTH, TEXT_WIDTH = 9, 20
"""Least width of a column of numbers and of words: rows are printed as they come, before the longest is known."""

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A line of a table: values by column, in the order in which they are shown."""

    table: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Note:
    """A sentence between rows: what was left out, or what a table shows."""

    text: str


def no_arguments(_parser: argparse.ArgumentParser) -> None:
    """A benchmark that takes none of its own."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark file.

    file, text : its __file__ and __doc__
    rows : yields rows and notes for the arguments
    arguments : adds its own to the parser
    quick : what --quick sets, by the arguments' names, where the command line does not say otherwise
    out : the option that names the file of results, where --out means something else
    """

    file: str
    text: str
    rows: Callable[[argparse.Namespace], Iterable[Row | Note]]
    arguments: Callable[[argparse.ArgumentParser], None] = no_arguments
    quick: Mapping[str, Any] = field(default_factory=dict)
    out: str = "--out"

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return Path(self.file).stem

    def parsed(self, given: Sequence[str]) -> argparse.Namespace:
        """The arguments of a command line."""
        parser = argparse.ArgumentParser(
            prog=f"python benchmarks/{self.name}.py",
            description=self.text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.arguments(parser)
        quick = ", ".join(f"{name}={_shown(value)}" for name, value in self.quick.items())
        parser.add_argument("--quick", action="store_true", help=f"less: {quick}")
        parser.add_argument(self.out, dest="results", type=Path, metavar="FILE", help="lines of JSON, written anew")
        if parser.parse_args(given).quick:
            parser.set_defaults(**self.quick)
        return parser.parse_args(given)

    def main(self, given: Sequence[str] | None = None) -> None:
        """Print the tables for a command line, and write what is asked for."""
        arguments = self.parsed(sys.argv[1:] if given is None else given)
        own = {name: value for name, value in vars(arguments).items() if name not in ("results", "quick")}
        head = {"benchmark": self.name, "quick": arguments.quick, **provenance(), "arguments": own}
        print(f"{self.name}, commit {head['commit']}{' (changed)' if head['changed'] else ''}, {head['date']}")
        print(f"{head['machine']['processor']}, {head['machine']['cores']} cores; {_spelt(head['threads'])}")
        print(_spelt(head["versions"]), flush=True)
        wall, cpu = time.perf_counter(), time.process_time()
        screen = Screen()
        with _lines(arguments.results) as write:
            write(head)
            for item in self.rows(arguments):
                screen.show(item)
                write({"note": item.text} if isinstance(item, Note) else {"table": item.table, **item.values})
            spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
            write(spent)
        print(f"\n{spent['seconds']:.1f} s, {spent['cpu_seconds']:.1f} s of CPU")


class Screen:
    """Prints rows as they come, with a new head where the table or its columns change."""

    def __init__(self) -> None:
        self._table: str | None = None
        self._columns: tuple[str, ...] = ()
        self._widths: list[int] = []

    def show(self, item: Row | Note) -> None:
        """One row or note."""
        if isinstance(item, Note):
            print(item.text, flush=True)
            return
        if (item.table, tuple(item.values)) != (self._table, self._columns):
            if item.table != self._table:
                print(f"\n{item.table}")
            self._table, self._columns = item.table, tuple(item.values)
            self._widths = [
                max(len(name), len(_shown(value)), TEXT_WIDTH if isinstance(value, str) else NUMBER_WIDTH)
                for name, value in item.values.items()
            ]
            print(self._line(self._columns, item.values.values()))
        print(self._line([_shown(value) for value in item.values.values()], item.values.values()), flush=True)

    def _line(self, texts: Iterable[str], values: Iterable[Any]) -> str:
        cells = zip(texts, values, self._widths, strict=True)
        return "  ".join(
            text.ljust(width) if isinstance(value, str) else text.rjust(width) for text, value, width in cells
        ).rstrip()


def provenance() -> dict[str, Any]:
    """Commit, date, machine, threads and versions of what is run."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        # the kernel's release says more of a place than of its speed
        "machine": machine() | {"system": platform.system()},
        "threads": {name: os.environ.get(name, "not limited") for name in THREADS},
        "versions": versions(),
    }


def cpu_seconds(run: Callable[[], T], repeats: int = 3, *, warm: bool = False) -> tuple[T, float]:
    """What `run` gives, and the least CPU seconds of `repeats` runs; of one, where that takes over a second.

    warm : whether a run that is not counted comes first
    """
    if warm:
        run()
    least = math.inf
    for _ in range(repeats):
        start = time.process_time()
        out = run()
        spent = time.process_time() - start
        least = min(least, spent)
        if spent > 1.0:
            break
    return out, least


def spread(values: Sequence[float], scale: float = 1.0) -> tuple[float, float]:
    """Mean and standard deviation of values times `scale`; no deviation, nan, of one."""
    held = [scale * value for value in values]
    return statistics.fmean(held), statistics.stdev(held) if len(held) > 1 else math.nan


@contextmanager
def _lines(path: Path | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Writes values as lines of JSON as they come, to a file or nowhere."""
    if path is None:
        yield lambda _: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:

        def write(value: Mapping[str, Any]) -> None:
            stream.write(json.dumps(_json(value), allow_nan=False) + "\n")
            stream.flush()

        yield write


def _json(value: Any) -> Any:
    """As JSON has it; what is no finite number as a word."""
    if isinstance(value, Mapping):
        return {str(name): _json(item) for name, item in value.items()}
    if isinstance(value, list | tuple | range | set | frozenset):
        return [_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        return f"{float(value):.5g}"
    return ", ".join(_shown(item) for item in value) if isinstance(value, list | tuple | range) else str(value)


def _spelt(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _git(*words: str) -> str | None:
    """What git says, or None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
