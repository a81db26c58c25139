"""What the base class, the incumbent and the registry do for every solver."""

import pickle
import subprocess
import sys
from dataclasses import dataclass, fields

import numpy as np
import pytest

from prunebench import Incumbent, Refit, Solver, Stop, StopKind, make_solver, solve
from prunebench.core.errors import Refusal, RefusalKind, SolverRefused
from prunebench.core.registry import Registry
from prunebench.core.solution import Budget, Status
from prunebench.core.solver import Facts, facts
from prunebench.testing.instances import BruteForce, instance


@dataclass(frozen=True, kw_only=True)
class Given(Solver):
    """Offers the masks it is given, in turn."""

    name = "given"

    masks: tuple = ()
    ends: object = None
    """What search does last: an exception to raise, or a Stop."""

    def search(self, best, rng):
        for number, mask in enumerate(self.masks):
            best.details["offered"] = number + 1
            best.offer(mask, f"mask {number}")
            if stop := best.stop(number + 1):
                return stop
        if isinstance(self.ends, BaseException):
            raise self.ends
        return self.ends or Stop.finished("all were offered")


class Baseline(Given):
    name = "baseline"
    baseline = True


def block(**changes):
    return instance("gaussian", 3, "select", p=8, keep=4, **changes)


def worst(held):
    """A mask that is worse than magnitude pruning."""
    masks = [np.roll(np.arange(8) < 4, shift) for shift in range(8)]
    mask = max(masks, key=held.evaluate)
    assert held.evaluate(mask) > held.evaluate(held.incumbent)
    return mask


def test_the_best_mask_comes_back_with_who_proposed_it():
    held = block()
    optimum = BruteForce.of(held)
    found = solve(held, Given(masks=(worst(held), optimum.mask, worst(held))))
    assert np.array_equal(found.mask, optimum.mask)
    assert found.details["best_from"] == "mask 1"
    assert found.details["objectives"]["mask 0"] == found.details["objectives"]["mask 2"] == held.evaluate(worst(held))
    assert found.stop == Stop(StopKind.FINISHED, "all were offered")
    assert found.stop_reason == "all were offered"
    assert found.status is Status.FEASIBLE
    assert found.bridges == ()


def test_a_worse_mask_leaves_the_start():
    held = block()
    assert np.array_equal(solve(held, Given(masks=(worst(held),))).mask, held.incumbent)


def test_a_baselines_own_answer_comes_back_and_a_better_start_is_told():
    held = block()
    assert np.array_equal(solve(held, Baseline(masks=(worst(held),))).mask, worst(held))
    started = held.with_start(held.incumbent)
    found = solve(started, Baseline(masks=(worst(held),)))
    assert np.array_equal(found.mask, held.incumbent)
    assert found.stop_reason == "all were offered; the start mask was better"


def test_ctrl_c_gives_the_best_so_far_and_what_was_measured():
    held = block()
    optimum = BruteForce.of(held).mask
    found = solve(held, Given(masks=(optimum,), ends=KeyboardInterrupt()))
    assert np.array_equal(found.mask, optimum)
    assert found.stop.kind is StopKind.INTERRUPTED
    assert found.status is Status.INTERRUPTED
    assert found.details["offered"] == 1


def test_ctrl_c_before_any_mask_gives_the_start_also_of_a_baseline():
    held = block()
    for cls in (Given, Baseline):
        assert np.array_equal(solve(held, cls(ends=KeyboardInterrupt())).mask, held.incumbent)


@pytest.mark.parametrize(
    ("budget", "kind", "text"),
    [
        (Budget(seconds=0.0), StopKind.TIME, "time limit of 0 s"),
        (Budget(evaluations=0), StopKind.EVALUATIONS, "evaluation limit of 0"),
    ],
)
def test_a_budget_that_is_used_up_gives_the_start_before_any_search(budget, kind, text):
    held = block()
    for cls in (Given, Baseline):
        found = solve(held, cls(masks=(BruteForce.of(held).mask,)), budget=budget)
        assert found.stop == Stop(kind, text)
        assert found.status is Status.TIME_LIMIT
        assert np.array_equal(found.mask, held.incumbent)


def test_evaluations_are_counted_as_the_solver_counts_them():
    held = block()
    found = solve(held, Given(masks=(worst(held),) * 5), budget=Budget(evaluations=2))
    assert found.stop.kind is StopKind.EVALUATIONS
    assert found.details["offered"] == 2


def test_a_limit_leaves_a_whole_answer_where_the_solver_says_so():
    class Sampling(Given):
        whole_at_limit = True

    held = block()
    found = solve(held, Sampling(masks=(worst(held),) * 5), budget=Budget(evaluations=2))
    assert found.stop.kind is StopKind.EVALUATIONS
    assert found.status is Status.FEASIBLE


@pytest.mark.parametrize("keep", [0, 8])
def test_a_settled_block_is_never_searched(keep):
    found = solve(instance("gaussian", 0, "select", p=8, keep=keep), Given(ends=RuntimeError("searched")))
    assert found.stop.kind is StopKind.FINISHED
    assert int(found.mask.sum()) == keep


def test_a_gap_that_is_proved_ends_the_search():
    held = block()
    best = Incumbent(held, Budget(gap=0.1))
    best.begin()
    best.bound(0.5 * best.objective)
    assert best.stop() is None
    best.bound(0.95 * best.objective)
    stop = best.stop()
    assert stop is not None
    assert stop.kind is StopKind.GAP
    assert best.solution(stop).status is Status.FEASIBLE


def test_a_tie_keeps_the_earlier_mask_and_a_bound_stops_at_the_objective():
    held = block()
    best = Incumbent(held)
    assert best.offer(held.incumbent, "first")
    assert not best.offer(held.incumbent, "second")
    assert best.source == "first"
    assert best.bound(2.0 * abs(best.objective) + best.objective)
    assert best.lower_bound == best.objective
    assert not best.bound(best.objective - 1.0)
    assert best.solution(Stop.finished("")).status is Status.OPTIMAL


def test_progress_is_told_at_every_improvement():
    held, told = block(), []
    solve(held, Given(masks=(worst(held), BruteForce.of(held).mask)), progress=lambda *row: told.append(row))
    assert [objective for _, objective, _ in told] == [held.evaluate(held.incumbent), BruteForce.of(held).objective]


# --- facts -----------------------------------------------------------------------------------------------------------


class _Plain:
    """No Solver, and says as little as may be."""

    name = "plain"
    modes = frozenset({"select"})


def test_what_a_solver_does_not_say_has_the_base_class_default():
    known = facts(_Plain())
    assert known == facts(_Plain)
    assert known.name == "plain"
    assert known.modes == {"select"}
    for field in set(Facts._fields) - {"name", "modes"}:
        assert getattr(known, field) == getattr(Solver, field)


def test_a_solver_whose_facts_depend_on_its_options_says_them_itself():
    assert facts(make_solver("qaoa")).miniature
    assert not facts(make_solver("qaoa", {"sampler": "ibm"})).miniature
    refit = facts(Refit(make_solver("exhaustive")))
    assert (refit.name, refit.modes, refit.exact, refit.quotas) == ("exhaustive+refit", {"refit"}, False, True)


def test_no_fact_becomes_an_option():
    @dataclass(frozen=True, kw_only=True)
    class Mine(Solver):
        name = "mine"
        exact = True
        max_size = 4

        share: float = 0.5

    assert [field.name for field in fields(Mine)] == ["share"]


# --- refusals and bridges --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "held", "kind", "words"),
    [
        ("greedy", instance("quota-2:4", 0, "select"), RefusalKind.QUOTA, "does not honour"),
        ("admm", instance("gaussian", 0, "select"), RefusalKind.MODE, "handles mode refit only"),
        ("exact", instance("gaussian", 0, "select", p=40, keep=2), RefusalKind.OTHER, "at most 16 weights"),
    ],
)
def test_a_refusal_has_a_kind_and_its_own_words(solver, held, kind, words):
    with pytest.raises(SolverRefused, match=words) as caught:
        solve(held, solver)
    again = pickle.loads(pickle.dumps(caught.value))
    for error in (caught.value, again):
        assert error.kind is kind
        assert words in error.reason
        assert error.reason in str(error)
        assert "refuses" not in error.reason


def test_a_solver_may_say_what_its_refusal_is_about():
    class Choosy(Given):
        def refuses(self, block):
            return Refusal("too many weights; choose fewer", RefusalKind.SIZE)

    with pytest.raises(SolverRefused, match=r"refuses .*\(p=8, keep=4\): too many weights; choose fewer") as caught:
        solve(block(), Choosy())
    assert caught.value.kind is RefusalKind.SIZE
    assert caught.value.reason == "too many weights; choose fewer"


def test_a_solution_says_over_which_bridge_it_came():
    held = instance("gaussian", 0, "refit")
    assert solve(held, "greedy").bridges == ("refit",)
    assert solve(held, "swap").bridges == ()


# --- entry points of modules and packages ----------------------------------------------------------------------------


class _Point:
    """An entry point, as importlib.metadata has them."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def load(self):
        return __import__(self.value)


MODULE = """
from prunebench.core.solver import Solver


class Base(Solver):
    pass


class {first}(Base):
    name = "{first}"


class {second}(Base):
    name = "{second}"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lone_module.py").write_text(MODULE.format(first="alpha", second="beta"))
    package = tmp_path / "family_package"
    package.mkdir()
    (package / "inner.py").write_text(MODULE.format(first="gamma", second="delta"))
    (package / "__init__.py").write_text("from family_package.inner import delta, gamma\n")
    (tmp_path / "nothing_here.py").write_text("from prunebench.core.solver import Solver\n")
    yield tmp_path
    for name in ("lone_module", "family_package", "family_package.inner", "nothing_here"):
        sys.modules.pop(name, None)


def test_an_entry_point_may_name_a_module_or_a_package(folder, monkeypatch):
    points = [_Point(name, name) for name in ("lone_module", "family_package", "nothing_here")]
    monkeypatch.setattr("prunebench.core.registry.entry_points", lambda group: points)
    registry = Registry("solver", "prunebench.solvers")
    assert {"alpha", "beta", "gamma", "delta"} <= set(registry.names())
    assert registry.failures == {"nothing_here": "entry point 'nothing_here' holds no class with a name"}


ONE_NAME = """
import sys
from prunebench.core.errors import InvalidInput
from prunebench.core import registry

class Mine:
    name = sys.argv[1]

class Point:
    name, value = "mine", "mine:Mine"
    load = staticmethod(lambda: Mine)

registry.entry_points = lambda group: [Point] if group == "prunebench.solvers" else []
try:
    found = registry.SOLVERS.get(sys.argv[2])
except InvalidInput as error:
    print(error)
else:
    print(found.__name__, "prunebench.solvers.qaoa.solver" in sys.modules)
"""


@pytest.mark.parametrize(
    ("mine", "asked", "printed"),
    [
        ("mine", "swap", "Swap False"),
        ("mine", "iht", "Iht True"),
        ("mine", "mine", "Mine True"),
        ("swap", "swap", "two solvers are named 'swap'"),
        ("iht", "iht", "two solvers are named 'iht'"),
    ],
)
def test_one_solver_is_found_without_loading_the_others_and_an_entry_point_takes_no_name(mine, asked, printed):
    done = subprocess.run([sys.executable, "-c", ONE_NAME, mine, asked], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(printed)
