"""Every registered solver passes the conformance suite, and so does a solver installed by a third party."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from prunebench import SOLVERS, Budget, Solution, Status, make_solver
from prunebench.bridges.refit import Refit
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import Registry, missing_packages
from prunebench.core.solver import solvers_of, verified
from prunebench.solvers.dimod.solver import DimodSolver
from prunebench.solving import solve
from prunebench.testing.conformance import (
    CHECKS,
    HOSTILE_CHECKS,
    HOSTILE_SEEDS,
    SEEDS,
    assert_budgets,
    assert_conforms,
    families,
    hostile_families,
    run_check,
)
from prunebench.testing.instances import BruteForce, instance

QUICK_OPTIONS: dict[str, dict[str, object]] = {
    "qaoa": {"reps": 1, "steps": 5, "shots": 128},
    "dwave-mock": {"reads": 10, "rows": 3},
}
"""Options that make a solver quick on tiny instances without changing what it is."""

FEW_SEEDS = {"highs": 3, "pyomo": 3, "dwave-mock": 2, "cp-sat": 1, "gurobi": 1, "scip": 1, "simulated-bifurcation": 2}
"""Seeds of each family for solvers that take a second a block: a model is built, or a graph embedded."""


CLAIM_NOTHING = {"cp-sat", "gurobi", "scip"}
"""Programs of others, whose bounds are told as their claims only: no claim of theirs can be wrong here."""
TOO_SLOW = {"scip"}
"""Solvers that take seconds on eight weights: some hundred of them are too many here; `test_peers.py` has a few."""


def _solvers():
    return [name for name in solvers_of(QuadraticForm) if not missing_packages(SOLVERS.get(name).requires)]


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("name", _solvers())
def test_every_solver_passes_every_check(name, family, mode):
    solver = make_solver(name, QUICK_OPTIONS.get(name))
    if mode == "select" and "select" not in solver.modes:
        pytest.skip(f"{name} handles mode refit only")
    if name in TOO_SLOW:
        pytest.skip(f"{name} takes seconds on every block")
    for check in CHECKS:
        refusal = run_check(check, solver, family, mode, SEEDS[: FEW_SEEDS.get(name, len(SEEDS))])
        if "no access" in str(refusal):
            pytest.skip(str(refusal))
        assert not (refusal and family == "gaussian" and mode in solver.modes), refusal


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("name", [name for name in _solvers() if name not in CLAIM_NOTHING])
def test_every_claim_holds_in_exact_arithmetic_where_rounding_is_not_small(name, mode):
    solver = make_solver(name, QUICK_OPTIONS.get(name))
    if mode == "select" and "select" not in solver.modes:
        pytest.skip(f"{name} handles mode refit only")
    for family in hostile_families(mode):
        for check in HOSTILE_CHECKS:
            run_check(check, solver, family, mode, HOSTILE_SEEDS)


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("name", _solvers())
def test_every_solver_stays_within_budgets_or_is_refused_them_by_name(name, mode):
    solver = make_solver(name, QUICK_OPTIONS.get(name))
    if mode == "select" and "select" not in solver.modes:
        pytest.skip(f"{name} handles mode refit only")
    slow = name in FEW_SEEDS or issubclass(type(solver), DimodSolver)
    # the modes differ little where a bridge refits, and a slow solver sees one instance of each kind of cost
    families = ["budget-two"] if slow or mode == "refit" else None
    assert_budgets(solver, mode, range(1 if slow else 2), families)


class _Broken:
    """A solver that does one thing wrong."""

    name = "broken"
    modes = frozenset({"select"})
    exact = False

    def __init__(self, fault):
        self.fault = fault

    def refuses(self, block):
        return ""

    def solve(self, block, budget, rng, progress=None):
        mask = block.incumbent.copy()
        if self.fault == "worse":
            mask = ~mask if mask.sum() * 2 == mask.size else np.roll(mask, 1)
        good = Solution.from_mask(block, mask, status=Status.FEASIBLE, stop_reason="done")
        changes = {
            "count": {"mask": np.zeros(block.p, dtype=bool)},
            "weights": {"weights": np.ones(block.p)},
            "objective": {"objective": good.objective - 1.0},
            "objective by a little": {"objective": good.objective * (1.0 - 1e-9)},
            "bound": {"lower_bound": good.objective + 1.0},
            "bound by a little": {"lower_bound": good.objective * (1.0 + 1e-9)},
            "bound from a mask": {
                "lower_bound": Solution.from_mask(
                    block, mask, status=Status.OPTIMAL, stop_reason="", lower_bound=good.objective + 1.0
                ).lower_bound
            },
            "optimal": {"status": Status.OPTIMAL},
            "optimal with a gap": {"status": Status.OPTIMAL, "lower_bound": good.objective * (1.0 - 1e-5)},
            "worse": {},
        }[self.fault]
        held = {name: getattr(good, name) for name in good.__dataclass_fields__}
        return Solution(**{**held, **changes})


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("count", "infeasible answer"),
        ("weights", "infeasible answer"),
        ("objective", "reports objective"),
        ("objective by a little", "reports objective"),
        ("bound", "above its objective"),
        ("bound by a little", "above its objective"),
        ("bound from a mask", "above its objective"),
        ("optimal", "optimal without a proven bound"),
        ("optimal with a gap", "an answer without a proof is feasible"),
    ],
)
def test_a_solver_that_breaks_the_contract_is_found_out(fault, words):
    with pytest.raises(Exception, match=words):
        solve(instance("gaussian", 0, "select"), _Broken(fault))


def test_an_answer_worse_than_the_start_is_found_out():
    block = instance("gaussian", 0, "select", keep=4)
    best = BruteForce.of(block).mask
    with pytest.raises(Exception, match="worse than its start"):
        solve(block.with_start(best), _Broken("worse"))


def test_verified_lowers_a_bound_that_rounding_put_above_the_objective():
    block = instance("gaussian", 0, "select")
    good = Solution.from_mask(block, block.incumbent, status=Status.FEASIBLE, stop_reason="")
    held = {name: getattr(good, name) for name in good.__dataclass_fields__}
    nudged = Solution(**{**held, "lower_bound": good.objective * (1 + 1e-14)})
    assert verified(block, nudged, "nudged").lower_bound <= good.objective


def test_refit_of_a_mask_solver_never_says_optimal():
    block = instance("gaussian", 1, "refit")
    answer = solve(block, Refit(make_solver("exhaustive")))
    assert answer.status is Status.FEASIBLE
    assert answer.lower_bound <= BruteForce.of(block).objective


def test_a_refused_block_is_named_with_reason_and_remedy():
    with pytest.raises(ValueError, match=r"refuses block 'gaussian/0' \(p=60, keep=30\)"):
        solve(instance("gaussian", 0, "select", p=60, keep=30), "exhaustive")


def test_two_solvers_of_one_name_are_an_error_that_names_both():
    registry = Registry("solver", "prunebench.solvers")
    first = registry.register(type("First", (), {"name": "same"}))
    with pytest.raises(ValueError, match=r"two solvers are named 'same': .*First and .*Second"):
        registry.register(type("Second", (), {"name": "same"}))
    assert registry.register(first) is first


def test_passing_an_object_instead_of_a_name_works():
    block = instance("gaussian", 0, "select")
    by_name = solve(block, "swap", options={"restarts": 2})
    assert np.array_equal(solve(block, make_solver("swap", {"restarts": 2})).mask, by_name.mask)


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="seconds is -1"):
        Budget(seconds=-1)


THIRD_PARTY = '''
"""Keep the heaviest weights: a solver of somebody else, in one file."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunebench import Solution, Status
from prunebench.core.masks import top_mask


@dataclass(frozen=True, kw_only=True)
class Heaviest:
    """Keep the heaviest weights, or the start if that is better."""

    name: ClassVar[str] = "heaviest"
    modes: ClassVar[frozenset] = frozenset({"select", "refit"})
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    requires: ClassVar[tuple] = ()
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = ""

    power: float = 2.0
    """The exponent of the weight; any positive one gives the same mask."""

    def refuses(self, block):
        return "" if self.power > 0 else f"power is {self.power}; choose a positive one"

    def solve(self, block, budget, rng, progress=None):
        masks = [block.incumbent, top_mask(np.abs(block.dense_weights) ** self.power, block.keep)]
        best = min(masks, key=block.evaluate)
        return Solution.from_mask(block, best, status=Status.FEASIBLE, stop_reason="ranked")
'''


@pytest.fixture
def third_party(tmp_path):
    """A folder on which the package is installed, with its entry point: what pip leaves behind."""
    (tmp_path / "heaviest.py").write_text(THIRD_PARTY)
    info = tmp_path / "heaviest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: heaviest\nVersion: 1.0\n")
    points = "[prunebench.solvers]\nheaviest = heaviest:Heaviest\nlost = no_such_module:Lost\n"
    (info / "entry_points.txt").write_text(points)
    return tmp_path


def _run(folder, code):
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False
    )


def test_a_third_party_solver_is_found_by_its_entry_point_and_passes_the_suite(third_party):
    done = _run(
        third_party,
        """
        from prunebench import SOLVERS, make_solver
        from prunebench.testing.conformance import assert_conforms
        assert "heaviest" in SOLVERS.names()
        assert_conforms(make_solver("heaviest", {"power": "3"}))
        print("conforms")
        """,
    )
    assert done.stdout.strip() == "conforms", done.stderr


def test_an_entry_point_that_cannot_be_loaded_is_named_and_harms_no_other(third_party):
    done = _run(third_party, "from prunebench.cli import main; main(['solvers', '--json'])")
    listed = json.loads(done.stdout)
    assert "No module named 'no_such_module'" in listed["failed"]["lost"]
    assert {"heaviest", "swap"} <= {row["name"] for row in listed["solvers"]}
    done = _run(third_party, "import sys; from prunebench.cli import main; sys.exit(main(['solvers', 'lost']))")
    assert done.returncode == 1
    assert "solver 'lost' cannot be loaded" in done.stderr


def test_the_suite_fails_a_third_party_solver_that_cheats(third_party, monkeypatch):
    spec = importlib.util.spec_from_file_location("heaviest", third_party / "heaviest.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "heaviest", module)
    spec.loader.exec_module(module)

    def random_answer(self, block, budget, rng, progress=None):
        mask = np.random.default_rng().permutation(block.incumbent)
        return Solution.from_mask(block, mask, status=Status.FEASIBLE, stop_reason="guessed")

    monkeypatch.setattr(module.Heaviest, "solve", random_answer)
    with pytest.raises(AssertionError, match="heaviest fails"):
        assert_conforms(module.Heaviest(), seeds=range(2))
