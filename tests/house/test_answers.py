"""Answers for a given seed stay: twenty small blocks a solver and three runs a coordinator, against a record.

The record, answers.json, was made by `python tests/house/test_answers.py --record`. Make it again only where answers
are meant to change, and say so. What is recorded must not depend on the machine: the blocks' numbers are exact whatever
the order of summation, without ties and well-conditioned, and the networks are drawn, not trained, in float64.
"""

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest

from prunebench import SOLVERS, BlockProblem, Budget, QuadraticForm, Quota, make_solver, solve
from prunebench.core.registry import missing_packages
from prunebench.core.rows import RowsForm
from prunebench.core.solver import solvers_of
from prunebench.testing.drawn import UNIT, Drawn, draw, drawn_network

RECORD = Path(__file__).with_name("answers.json")
BLOCKS = 20
"""Blocks that every solver is given."""
OBJECTIVE_ACCURACY, LOSS_ACCURACY = 1e-9, 1e-6
"""Parts of an objective and of a network's loss by which sums in another order may differ."""

LEFT_OUT = {
    "dwave": "needs an account and a device",
    "dwave-mock": "its embedding is a heuristic of minorminer, not ours",
    "pyomo": "drives another program, whose answers are not ours",
    **dict.fromkeys(
        ("cp-sat", "gurobi", "openjij", "openjij-sqa", "scip", "simulated-bifurcation"),
        "another program, whose answers are not ours and which need not be installed",
    ),
}
"""Registered solvers without recorded answers, and why."""
SELECT_ONLY = [
    "anneal",
    "beam",
    "dimod",
    "exact",
    "greedy",
    "neal",
    "path-integral",
    "qaoa",
    "random",
    "steepest-descent",
    "tabu",
]
REFIT_ONLY = ["admm", "alps", "chita", "chita-bso", "obc", "obs", "sparsegpt"]
BOTH_MODES = [
    "branch-and-bound",
    "cbs",
    "exhaustive",
    "highs",
    "iht",
    "magnitude",
    "mfac",
    "obd",
    "qaoa-subspace",
    "swap",
    "wanda",
    "woodfisher",
]
PLAIN_COUNT_ONLY = ["beam", "greedy", "qaoa", "qaoa-subspace", "random"]
WHOLE_LAYERS = ["alps", "magnitude", "obc", "sparsegpt", "wanda"]
TINY = ["highs", "qaoa", "qaoa-subspace"]
"""What is slow beyond a few weights: programs of HiGHS, and simulators, whose time grows with the number of masks."""
QUICK = {"qaoa": {"reps": 1, "steps": 4, "shots": 32}, "qaoa-subspace": {"reps": 1, "steps": 4, "shots": 32}}
"""Options that make a solver quick; all others have their defaults, but for one block in three."""
HASTY = {
    "admm": {"steps": 5, "swaps": 0},
    "alps": {"steps": 5, "swaps": False},
    "anneal": {"sweeps": 2, "reads": 1, "hot": 0.5, "polish": False},
    "beam": {"width": 1},
    "chita": {"steps": 2, "back_solve": False},
    "dimod": {"reads": 1, "keywords": ("num_sweeps=1",), "polish": False},
    "greedy": {"direction": "forward"},
    "iht": {"steps": 2, "swaps": 0},
    "magnitude": {"score": "random"},
    "mfac": {"rounds": 2, "update": "published"},
    "neal": {"reads": 1, "sweeps": 1, "polish": False},
    "obs": {"rounds": 2, "swaps": 0},
    "path-integral": {"reads": 1, "sweeps": 1, "polish": False},
    "qaoa": {"reps": 1, "shots": 2, "optimizer": "fixed"},
    "qaoa-subspace": {"reps": 1, "shots": 2, "optimizer": "spsa", "steps": 3},
    "random": {"samples": 5},
    "steepest-descent": {"reads": 1, "polish": False},
    "swap": {"restarts": 1},
    "tabu": {"reads": 1, "restarts": 0, "polish": False},
    "woodfisher": {"block_size": 4, "update": "published"},
}
"""Options for one block in three: a thorough search finds the optimum of a small block whatever numbers it draws."""
SIZES, QUOTA_SIZES, TINY_SIZES = (6, 14, 9, 24, 17), (8, 12, 16, 20, 24), (6, 7, 8)
LARGEST = {"exact": 12, "exhaustive": 16}
"""Weights of a block for those that enumerate states."""


class Spec(NamedTuple):
    """One block of the record, and how it is solved."""

    number: int
    mode: str
    p: int
    kind: str
    """rows, factor or hessian: how the curvature is held."""
    quota: str
    start: bool
    evaluations: int | None

    @property
    def name(self):
        """How the record calls it."""
        begun = "start" if self.start else ""
        return " ".join(filter(None, (f"{self.number:02}", self.mode, f"p{self.p}", self.kind, self.quota, begun)))


def spec(solver, number):
    """The block that a solver gets under a number: what the solver takes decides about mode, quota, rows and size."""
    modes = ["refit"] * 2 if solver in REFIT_ONLY else ["select", "refit"]
    # A solver that only chooses masks is refitted; that, too, is recorded.
    refits = number % 10 in (4, 7) if solver in SELECT_ONLY else number // 2 % 2 == 1
    kind = "rows" if solver in WHOLE_LAYERS and number % 5 == 4 else ("hessian", "factor")[number % 2]
    quota, sizes = "", TINY_SIZES if solver in TINY else SIZES
    unable = solver in PLAIN_COUNT_ONLY or (solver == "branch-and-bound" and refits)
    if number % 3 == 2 and not unable:
        even = solver == "sparsegpt" or kind == "rows"
        quota = ("rows", "2:4", "rows" if even else "uneven")[number // 3 % 3]
        sizes = (8,) if solver in TINY else QUOTA_SIZES
    p = 24 if kind == "rows" else min(sizes[number % len(sizes)], LARGEST.get(solver, 24))
    evaluations = 30 if number in (6, 13) else None
    return Spec(number, modes[refits], p, kind, quota, number % 5 == 3 or number % 7 == 5, evaluations)


@cache
def block(held):
    """The block of a Spec; multiples of 3 have a linear term and a constant."""
    rng = np.random.default_rng([2026, *held.name.encode()])
    p = held.p
    weights = rng.integers(2**18, 2**20, size=p) * rng.choice([-1, 1], size=p) * UNIT
    terms = {"ridge": 0.0625, "centre": weights}
    if held.number % 3 == 0:
        terms |= {"linear": draw(rng, p) / 8, "constant": 1.5}
    if held.kind == "rows":
        columns = draw(rng, (24, 8))
        form = RowsForm(shared=columns.T @ columns / 16, rows=3, **terms)
    elif held.kind == "factor":
        form = QuadraticForm(factor=draw(rng, (p // 2 + 1, p)), **terms)
    else:
        columns = draw(rng, (2 * p, p))
        form = QuadraticForm(hessian=columns.T @ columns / 16, **terms)
    quota = quota_of(held, rng)
    keep = int(rng.integers(p // 3, p // 2 + 1)) if quota is None else quota.keep
    scores = rng.random(p)
    start = None
    if held.start:
        start = quota.top_mask(scores) if quota is not None else np.argsort(np.argsort(scores)) < keep
    return BlockProblem(form, weights, keep, held.mode, start_mask=start, problem=held.name, quota=quota)


def quota_of(held, rng):
    rows = 3 if held.kind == "rows" else 2
    if held.quota == "rows":
        return Quota.rows(rows, held.p // rows, 0.5)
    if held.quota == "2:4":
        return Quota.n_m(held.p, 2, 4)
    if held.quota == "uneven":
        group = rng.permutation(np.repeat(np.arange(4), (1, 2, 2, held.p - 5)))
        return Quota(group, np.array([1, 0, 1, (held.p - 5) // 2 + 1]))
    return None


def packed(mask):
    """A mask as text."""
    return np.packbits(np.asarray(mask, dtype=np.bool_)).tobytes().hex()


def answers(solver):
    """For each block its hash, the mask, the objective, the status, and whether the bound is finite."""
    out = {}
    for number in range(BLOCKS):
        held = spec(solver, number)
        budget = None if held.evaluations is None else Budget(evaluations=held.evaluations)
        options = HASTY.get(solver) if number % 3 == 1 else QUICK.get(solver)
        found = solve(block(held), solver, options=options, budget=budget, seed=number)
        bound = "bounded" if np.isfinite(found.lower_bound) else "unbounded"
        out[held.name] = [block(held).hash, packed(found.mask), found.objective, found.status.value, bound]
    return out


# --- a network that is drawn, and runs of coordinators over it -------------------------------------------------------


ICBS = {"block_size": 24, "samples": 80, "accept_samples": 150}
STAGES = {"stages": 3, "samples": 200, "held_out": 150}
RUNS = {
    "one-shot 0": {"solver": "chita", "density": 0.4, "curvature": {"samples": 150}},
    "one-shot 1": {"solver": "swap", "density": 0.3, "scope": "layer", "curvature": {"samples": 100}, "mode": "select"},
    "one-shot 2": {"solver": "anneal", "density": 0.5, "curvature": {"samples": 200}},
    "icbs 0": {"solver": "swap", "density": 0.4, "coordinator_options": {**ICBS, "steps": 8}},
    "icbs 1": {
        "solver": "iht",
        "density": 0.5,
        "mode": "refit",
        "coordinator_options": {**ICBS, "steps": 6, "quota": "2:4", "ridge": 0.1, "select": "magnitude"},
    },
    "icbs 2": {
        "solver": "anneal",
        "density": 0.25,
        "coordinator_options": {
            **ICBS, "steps": 5, "blocks_per_step": 2, "block_scope": "network", "quota": "row", "trust": "adaptive"
        },
    },
    "icbs planted": {
        "problem": "planted",
        "problem_options": {"p": 48, "n": 24, "kind": "sparse", "ridge": 0.3},
        "solver": "branch-and-bound",
        "density": 0.5,
        "coordinator_options": {"steps": 6, "block_size": 14, "select": "random"},
    },
    "multi-stage 0": {
        "solver": "admm",
        "density": 0.3,
        "coordinator_options": STAGES,
        "recover": ["batch-norm", "settle:rounds=2,samples=200"],
    },
    "multi-stage 1": {
        "solver": "chita",
        "density": 0.5,
        "coordinator_options": {**STAGES, "quota": "2:4", "schedule": "polynomial"},
        "recover": ["batch-norm", "layers:samples=200", "settle:samples=200"],
    },
    "multi-stage 2": {
        "solver": "swap",
        "density": 0.4,
        "mode": "select",
        "coordinator_options": STAGES,
    },
    "layer-wise 0": {"solver": "sparsegpt", "density": 0.5, "coordinator_options": {"target": "own"}},
    "layer-wise 1": {
        "solver": "wanda",
        "density": 0.5,
        "mode": "refit",
        "coordinator_options": {"quota": "2:4", "target": "own"},
    },
    "layer-wise 2": {
        "solver": "swap",
        "density": 0.4,
        "coordinator_options": {"quota": "row", "target": "dense", "samples": 96},
    },
}  # fmt: skip
"""What each run of a coordinator is asked for, beside the seed, which is its place here."""


def run(name, folder):
    """A hash of the mask, how many are kept of how many weights, and the loss."""
    from prunebench.runs.prune import PruneRequest, prune

    asked = {"problem": Drawn.name, "coordinator": name.split()[0], **RUNS[name]}
    result = prune(PruneRequest(**asked, seed=list(RUNS).index(name)), out=folder / "run")
    return [fingerprint(mask_of(folder / "run")), result["kept"], result["total"], result["loss"]]


TRAINING = "samples=128,optimizer=SGD,momentum=0,learning_rate=0.02,schedule=constant"
ROUNDS = {"rounds": 3, "samples": 150, "train": f"epochs=1,{TRAINING}", "train_end": f"epochs=2,{TRAINING}"}
"""Of gradual pruning with training between."""


def run_rounds(seed, folder):
    """The same of rounds of pruning and training."""
    from prunebench.runs.prune import PruneRequest, prune

    solver = ("admm", "swap", "chita")[seed]
    asked = {"density": 0.3, "coordinator": "rounds", "solver": solver, "coordinator_options": ROUNDS}
    result = prune(PruneRequest(problem=Drawn.name, seed=seed, **asked), out=folder / "run")
    return [fingerprint(mask_of(folder / "run")), result["kept"], result["total"], result["loss"]]


def mask_of(run):
    """The mask that a run wrote, layer after layer."""
    from safetensors.numpy import load_file

    spans = load_file(run / "mask.safetensors")
    return np.concatenate([spans[layer].ravel() for layer in sorted(spans)])


def fingerprint(mask):
    return hashlib.sha256(np.packbits(mask.astype(np.bool_)).tobytes()).hexdigest()


# --- the comparison ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORD.read_text())


@pytest.fixture
def drawn():
    with drawn_network():
        yield


@pytest.mark.parametrize("solver", sorted(SELECT_ONLY + REFIT_ONLY + BOTH_MODES))
def test_the_answers_of_a_solver_are_those_recorded(solver, recorded):
    if lacking := missing_packages(SOLVERS.get(solver).requires):
        pytest.skip(f"{', '.join(lacking)} is not installed")
    found, expected = answers(solver), recorded["answers"][solver]
    assert len(found) == BLOCKS
    assert exact_part(found) == exact_part(expected)
    for name, answer in found.items():
        assert answer[2] == pytest.approx(expected[name][2], rel=OBJECTIVE_ACCURACY), name


def exact_part(rows):
    """All but the objectives: the hash of the block, mask, status and whether there is a bound."""
    return {name: [*row[:2], *row[3:]] for name, row in rows.items()}


@pytest.mark.parametrize("name", RUNS)
def test_the_runs_of_a_coordinator_end_as_recorded(name, recorded, drawn, tmp_path):
    agree(run(name, tmp_path), recorded["runs"][name])


@pytest.mark.parametrize("seed", range(3))
def test_rounds_end_as_recorded(seed, recorded, drawn, tmp_path):
    agree(run_rounds(seed, tmp_path), recorded["runs"][f"rounds {seed}"])


def agree(found, expected):
    assert found[:3] == expected[:3]
    assert found[3] == pytest.approx(expected[3], rel=LOSS_ACCURACY)


# --- recording --------------------------------------------------------------------------------------------------------


def record():
    """Write the record of what the code that is installed answers."""
    solvers = sorted(SELECT_ONLY + REFIT_ONLY + BOTH_MODES)
    forgotten = set(solvers_of(QuadraticForm)) ^ {*solvers, *LEFT_OUT}
    if forgotten:
        raise SystemExit(f"solvers {', '.join(sorted(forgotten))}: name them in one of the lists of {__file__}")
    # A record without the solvers whose packages are missing would compare nothing of them.
    for solver in solvers:
        make_solver(solver)
    runs = {}
    for name in RUNS:
        with TemporaryDirectory() as folder, drawn_network():
            runs[name] = run(name, Path(folder))
    for seed in range(3):
        with TemporaryDirectory() as folder, drawn_network():
            runs[f"rounds {seed}"] = run_rounds(seed, Path(folder))
    parts = [f'"runs": {table(runs)}']
    tables = [f"{json.dumps(solver)}: {table(answers(solver))}" for solver in solvers]
    parts.append('"answers": {\n' + ",\n".join(tables) + "\n}")
    RECORD.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def table(rows):
    """A JSON object with one line a key."""
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()) + "\n}"


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        raise SystemExit("usage: python tests/house/test_answers.py --record")
    record()
