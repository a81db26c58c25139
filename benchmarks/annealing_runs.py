"""The contestants of the annealing benchmark, one run of one of them, and the file that runs are kept in.

A run is a JSON line: block and its hash, solver, CPU seconds allowed, seed, objectives raw, repaired
and polished. A file of runs is continued, never overwritten, so that a table can be made in pieces.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prunebench import BlockProblem, Budget, QuadraticForm, make_solver, solve
from prunebench.core.solver import SolverLike
from prunebench.solvers.dimod import timed_run

NATIVE = ("anneal", "swap")
"""Solvers whose every state keeps the right count."""
FAMILY = ("neal", "tabu", "path-integral", "steepest-descent")
OPENJIJ = ("openjij-sa", "openjij-sqa")
VARIANTS = ("neal-safe-own-range", "neal-own-range")
"""neal with dwave-samplers' own inverse temperatures, which the solver `neal` never uses."""
Record = dict[str, Any]
"""What is kept of a run or a reference, as JSON has it."""


class OwnRange:
    """dwave-samplers' simulated annealing without a `beta_range`, so that the library chooses one."""

    def __init__(self) -> None:
        self.parameters: dict[str, list[str]] = {"num_reads": [], "num_sweeps": [], "seed": []}

    def sample(self, bqm: Any, **keywords: Any) -> Any:
        """A SampleSet."""
        from dwave.samplers import SimulatedAnnealingSampler

        make: Any = SimulatedAnnealingSampler
        return make().sample(bqm, **keywords)


class OpenJij:
    """An OpenJij sampler with all its keywords listed, which its own `parameters` do not do.

    Under a seed OpenJij gives the same read num_reads times, so it runs without one. It reads a dimod
    model pair by pair, 5 s at p = 1024, so it gets its own kind of model, made once from an array.
    """

    def __init__(self, name: str, **given: float) -> None:
        import openjij

        self._sampler, self._given = getattr(openjij, name)(), given
        betas = [] if given else ["beta_min", "beta_max"]
        self.parameters: dict[str, list[str]] = {name: [] for name in ("num_reads", "num_sweeps", *betas)}
        self._model: Any = None
        self._of: Any = None

    def sample(self, bqm: Any, **keywords: Any) -> Any:
        """A SampleSet."""
        if self._of is not bqm:
            from openjij import BinaryQuadraticModel

            linear, (rows, columns, biases), offset = bqm.to_numpy_vectors(range(bqm.num_variables))
            matrix = np.diag(linear)
            matrix[np.minimum(rows, columns), np.maximum(rows, columns)] = biases
            labels = list(range(bqm.num_variables))
            self._model = BinaryQuadraticModel.from_numpy_matrix(matrix, labels, offset, "BINARY")
            self._of = bqm
        return self._sampler.sample(self._model, **self._given, **keywords)


def make(name: str) -> SolverLike:
    """The solver object of a contestant's name."""
    if name == "swap":
        return make_solver("swap", {"restarts": 10**9})
    if name == "openjij-sa":
        return make_solver("dimod", {"sampler": OpenJij("SASampler"), "keep_samples": 0})
    if name == "openjij-sqa":
        # the best of beta 5 to 5000, gamma .1 to 10, 4 and 8 slices on two hard blocks
        sampler = OpenJij("SQASampler", beta=500.0, gamma=1.0, trotter=8)
        return make_solver("dimod", {"sampler": sampler, "keep_samples": 0})
    if name in VARIANTS:
        encoding = "safe" if "safe" in name else "adaptive"
        return make_solver("dimod", {"sampler": OwnRange(), "encoding": encoding, "keep_samples": 0})
    return make_solver(name, {"keep_samples": 0} if name in FAMILY else None)


def missing(name: str) -> str:
    """Why a contestant cannot run here, or ""."""
    if name in OPENJIJ and not importlib.util.find_spec("openjij"):
        return f"{name} skipped: pip install openjij"
    return ""


def warm_up(names: Iterable[str]) -> None:
    """Every contestant once on a block of eight weights; then all clocks count this process's CPU time."""
    rng = np.random.default_rng(0)
    form = QuadraticForm(factor=rng.normal(size=(4, 8)), ridge=0.1, centre=np.ones(8))
    block = BlockProblem(form, rng.normal(size=8), 3, "select")
    for name in names:
        solve(block, make(name), budget=Budget(seconds=0.01))
    # the one limit in wall time: on a busy machine a second of CPU can take many
    timed_run.GRACE_SECONDS = 300.0
    # equal CPU time on a machine that others use too
    for name, module in list(sys.modules.items()):
        if name.startswith("prunebench.") and getattr(module, "perf_counter", None) is time.perf_counter:
            setattr(module, "perf_counter", time.process_time)  # noqa: B010  # a module has no such field to a type checker


def run(block: BlockProblem, name: str, seconds: float, seed: int) -> Record:
    """One run as a JSON-able record."""
    started = time.process_time()
    found = solve(block, make(name), budget=Budget(seconds=seconds), seed=seed)
    spent = time.process_time() - started - found.timings.get("load", found.timings.get("compile", 0.0))
    details = found.details
    if "sampler_failure" in details:
        raise RuntimeError(f"{name} on {block.problem}: {details['sampler_failure']}")
    before = details.get("objective_before_polish", found.objective)
    native = name in NATIVE
    return {
        "block": block.problem,
        "hash": block.hash,
        "solver": name,
        "seconds": seconds,
        "seed": seed,
        "feasible": 1.0 if native else details["feasible_share"],
        "raw": before if native else details["objective_raw"],
        "repaired": before if native else details["objective_repaired"],
        "polished": found.objective,
        "cpu": spent,
        "reads": details.get("reads", details.get("descents")),
    }


class Store:
    """Records by key, in memory and, where a path is given, as lines of that file as they come.

    stored_only : make nothing; what is missing is left out
    """

    def __init__(self, path: Path | None = None, stored_only: bool = False) -> None:
        self._path = path
        self.stored_only = stored_only
        self._held: dict[tuple[Any, ...], Record] = {}
        if self._path is not None and self._path.exists():
            for line in self._path.read_text().splitlines():
                record = json.loads(line)
                self._held[tuple(record["key"])] = record

    def all(self, kind: str) -> list[Record]:
        """The records of one kind."""
        return [record for key, record in self._held.items() if key[0] == kind]

    def ensure(self, key: tuple[Any, ...], compute: Callable[[], Record]) -> Record | None:
        """The record under `key`, computed and written down if there is none; None where nothing is to be made."""
        if key not in self._held:
            if self.stored_only:
                return None
            record = {"key": list(key), **compute()}
            self._held[key] = record
            if self._path is not None:
                with self._path.open("a") as out:
                    out.write(json.dumps(record) + "\n")
        return self._held[key]

    def runs(self, block: BlockProblem, name: str, seconds: float, seeds: int) -> list[Record]:
        """The runs of one contestant on one block, those that are missing made now."""
        made = [
            self.ensure(("run", block.hash, name, seconds, seed), partial(run, block, name, seconds, seed))
            for seed in range(seeds)
        ]
        return [record for record in made if record is not None]
