"""The contestants of the annealing benchmark, one run of one of them, and the file that runs are kept in.

A run is a JSON line: block and its hash, solver, CPU seconds allowed, seed, objectives raw, repaired
and polished. A file of runs is continued, never overwritten, so that a table can be made in pieces.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np

from prunebench import BlockProblem, Budget, QuadraticForm, make_solver, solve
from prunebench.solvers.dimod import timed_run

NATIVE = ("anneal", "swap")
"""Solvers whose every state keeps the right count."""
FAMILY = ("neal", "tabu", "path-integral", "steepest-descent")
OPENJIJ = ("openjij-sa", "openjij-sqa")
VARIANTS = ("neal-safe-own-range", "neal-own-range")
"""neal with dwave-samplers' own inverse temperatures, which the solver `neal` never uses."""
SWEEPS = 1000


class OwnRange:
    """dwave-samplers' simulated annealing without a `beta_range`, so that the library chooses one."""

    def __init__(self):
        self.parameters = {"num_reads": [], "num_sweeps": [], "seed": []}

    def sample(self, bqm, **keywords):
        """A SampleSet."""
        from dwave.samplers import SimulatedAnnealingSampler

        return SimulatedAnnealingSampler().sample(bqm, **keywords)


class OpenJij:
    """An OpenJij sampler with all its keywords listed, which its own `parameters` do not do.

    Under a seed OpenJij gives the same read num_reads times, so it runs without one. It reads a dimod
    model pair by pair, 5 s at p = 1024, so it gets its own kind of model, made once from an array.
    """

    def __init__(self, name, **given):
        import openjij

        self._sampler, self._given = getattr(openjij, name)(), given
        betas = [] if given else ["beta_min", "beta_max"]
        self.parameters = {name: [] for name in ("num_reads", "num_sweeps", *betas)}
        self._model, self._of = None, None

    def sample(self, bqm, **keywords):
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


def make(name):
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


def missing(name):
    """Why a contestant cannot run here, or ""."""
    if name in OPENJIJ and not importlib.util.find_spec("openjij"):
        return f"{name} skipped: pip install openjij"
    return ""


def warm_up(names):
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
            module.perf_counter = time.process_time


def run(block, name, seconds, seed):
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

    def __init__(self, path=None, stored_only=False):
        self._path = None if path is None else Path(path)
        self.stored_only = stored_only
        self._held = {}
        if self._path is not None and self._path.exists():
            for line in self._path.read_text().splitlines():
                record = json.loads(line)
                self._held[tuple(record["key"])] = record

    def get(self, kind, *key):
        """The record, or None."""
        return self._held.get((kind, *key))

    def all(self, kind):
        """The records of one kind."""
        return [record for key, record in self._held.items() if key[0] == kind]

    def ensure(self, key, compute):
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

    def runs(self, block, name, seconds, seeds):
        """The runs of one contestant on one block, those that are missing made now."""
        made = [
            self.ensure(("run", block.hash, name, seconds, seed), lambda seed=seed: run(block, name, seconds, seed))
            for seed in range(seeds)
        ]
        return [record for record in made if record is not None]
