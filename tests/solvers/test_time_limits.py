"""A time limit is time for solving, and one that is not reached changes nothing."""

import json
import os
import subprocess
import sys
import textwrap
from time import sleep

import numpy as np
import pytest

from prunebench import SOLVERS, BlockProblem, Budget, make_solver, solve
from prunebench.core import warm
from prunebench.core.keeping import Quota
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import missing_packages
from prunebench.core.rows import RowsForm
from prunebench.core.solution import Status
from prunebench.core.solver import Incumbent, facts, solvers_of
from prunebench.core.stop import Stop, StopKind
from prunebench.kernels.trees.dives import RefitTree, SelectTree
from prunebench.solvers.highs import parts
from prunebench.solvers.highs.model import Model
from prunebench.solvers.highs.parts import Front
from prunebench.testing.instances import instance

GENEROUS = 1000.0
"""Seconds that nothing here takes."""
OPTIONS = {
    "qaoa": {"reps": 1, "steps": 5, "shots": 128},
    "qaoa-subspace": {"reps": 1, "steps": 5, "shots": 128},
    "random": {"samples": 500},
    "dwave-mock": {"reads": 5},
}
READS_OF_A_SAMPLER = 10
"""Samplers use all of a limit on seconds; with one on reads as well that one comes first."""


def _solvers():
    names = [name for name in solvers_of(QuadraticForm) if not missing_packages(SOLVERS.get(name).requires)]
    return [name for name in names if name not in ("dwave", "dimod")]


def _blocks(name, mode):
    yield instance("gaussian", 1, mode, p=9, keep=4)
    yield instance("duplicate-columns", 2, mode, p=10, keep=5)
    if facts(SOLVERS.get(name)).quotas:
        yield instance("quota-2:4", 1, mode, p=8)


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("name", _solvers())
def test_a_limit_that_is_not_reached_changes_nothing(name, mode):
    if mode not in SOLVERS.get(name).modes:
        pytest.skip(f"{name} does not handle mode {mode} itself")
    sampler = hasattr(SOLVERS.get(name), "extra_keywords") and name != "exact"
    evaluations = READS_OF_A_SAMPLER if sampler else np.inf
    solver = make_solver(name, OPTIONS.get(name))
    for block in _blocks(name, mode):
        if solver.refuses(block):
            assert block.quota is not None
            continue
        free, limited = (
            solve(block, solver, budget=Budget(seconds=seconds, evaluations=evaluations), seed=3)
            for seconds in (np.inf, GENEROUS)
        )
        assert np.array_equal(free.mask, limited.mask)
        assert free.objective == limited.objective
        assert free.status is limited.status
        assert free.stop_reason == limited.stop_reason


def ties(p=11, keep=9):
    """Every mask costs the same: which one comes back tells how a search went."""
    form = QuadraticForm(hessian=np.full((p, p), 3.0), ridge=np.linspace(0.0, 0.03, p), centre=np.ones(p))
    return BlockProblem(form, np.ones(p), keep, "select")


@pytest.mark.parametrize("options", [{}, {"reads": 7}, {"threads": 3}])
def test_anneal_gives_the_same_mask_with_any_limit_that_is_not_reached(options):
    masks = {
        solve(ties(), "anneal", options=options, budget=Budget(seconds=seconds), seed=466).mask.tobytes()
        for seconds in (np.inf, GENEROUS, 1e9, 60.0)
    }
    assert len(masks) == 1


def test_anneal_says_so_where_a_limit_is_too_short_for_a_read(monkeypatch):
    from prunebench.solvers.anneal import reads

    run = reads.DenseReads.run

    def slow(self, *given):
        sleep(0.02)
        return run(self, *given)

    monkeypatch.setattr(reads.DenseReads, "run", slow)
    found = solve(ties(), "anneal", options={"reads": 2}, budget=Budget(seconds=0.2))
    assert found.details["sweeps"] < 1000
    assert found.status is Status.TIME_LIMIT
    assert "time limit" in found.stop_reason


class _Looks:
    """A clock that says stop after some looks, and what is begun after the first that did."""

    why = Stop(StopKind.TIME, "time limit of 1 s")

    def __init__(self, looks):
        self.left, self.late = looks, []

    def stop(self):
        self.left -= 1
        return self.why if self.left < 0 else None

    def watched(self, part):
        def run(*given, **named):
            if self.left < 0:
                self.late.append(part.__qualname__)
            return part(*given, **named)

        return run


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("name", ["branch-and-bound", "highs"])
def test_nothing_new_is_begun_once_a_look_at_the_clock_says_stop(name, mode, monkeypatch):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(24, 24))
    weights = 1.0 / np.linalg.norm(factor, axis=0)
    block = BlockProblem(QuadraticForm(factor=factor, ridge=1e-3, centre=weights), weights, 12, mode)
    stopped = bounded = 0
    for looks in range(0, 40, 2):
        clock = _Looks(looks)
        with monkeypatch.context() as patch:
            patch.setattr(Incumbent, "stop", lambda _, spent=0.0, clock=clock: clock.stop())
            long = [
                (SelectTree, "dive"),
                (RefitTree, "dive"),
                (parts, "prove_refit"),
                (Front, "_take"),
                (Model, "solve"),
            ]
            for owner, part in long:
                patch.setattr(owner, part, clock.watched(getattr(owner, part)))
            found = solve(block, name)
        if clock.left >= 0:
            break
        assert not clock.late, looks
        assert found.stop_reason in (clock.why.text, "proved optimal"), looks
        stopped += found.status is Status.TIME_LIMIT
        bounded += np.isfinite(found.lower_bound)
    assert min(stopped, bounded) >= 2


class _Slow:
    """A solver that has to load for longer than its limit."""

    name = "slow"
    modes = frozenset({"select", "refit"})
    exact = False
    loaded = 0

    def refuses(self, block):
        return ""

    def warm_up(self, block):
        type(self).loaded += 1
        sleep(0.3)

    def solve(self, block, budget, rng, progress=None):
        best = Incumbent(block, budget, progress)
        with best.building():
            sleep(0.3)
        best.begin()
        return best.solution(best.stop() or Stop.finished("done"))


def test_loading_and_building_come_before_the_clock_and_are_told_apart():
    block = instance("gaussian", 1, "select")
    found = solve(block, _Slow(), budget=Budget(seconds=0.2))
    assert found.stop_reason == "done"
    assert found.timings["warm_up"] >= 0.3
    assert found.timings["build"] >= 0.3
    assert found.timings["total"] < 0.3
    assert found.trace[-1, 0] < 0.3


def test_loading_is_done_once_for_each_kind_of_block_and_only_for_a_limit(monkeypatch):
    monkeypatch.setattr(warm, "_done", set())
    monkeypatch.setattr(_Slow, "loaded", 0)
    block = instance("gaussian", 1, "select")
    for budget, loaded in (
        (Budget(), 0),
        (Budget(seconds=0.0), 0),
        (Budget(seconds=5.0), 1),
        (Budget(seconds=5.0), 1),
    ):
        solve(block, _Slow(), budget=budget)
        assert _Slow.loaded == loaded
    solve(block.in_mode("refit"), _Slow(), budget=Budget(seconds=5.0))
    assert _Slow.loaded == 2


def test_a_solver_that_forbids_it_is_given_no_miniature(monkeypatch):
    monkeypatch.setattr(warm, "_done", set())
    asked = []

    class Device(_Slow):
        miniature = False

        def solve(self, block, budget, rng, progress=None):
            asked.append(block.p)
            return super().solve(block, budget, rng, progress)

    solve(instance("gaussian", 1, "select", p=12, keep=3), Device(), budget=Budget(seconds=1.0))
    assert asked == [12]
    assert all(not SOLVERS.get(name).miniature for name in ("dwave", "dwave-mock", "dimod", "neal"))


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_miniature_is_of_the_same_kind(mode, start, dtype):
    rng = np.random.default_rng(0)
    weights, factor = rng.normal(size=40), rng.normal(size=(10, 40)).astype(dtype)
    shared = np.eye(20)
    quota = Quota.n_m(40, 2, 4)
    for form, held in (
        (QuadraticForm(factor=factor, ridge=0.1), None),
        (QuadraticForm(factor=np.asfortranarray(factor), ridge=0.1), quota),
        (QuadraticForm(hessian=np.eye(40), ridge=0.1, linear=weights), quota),
        (RowsForm(shared=shared, rows=2, ridge=0.1), None),
    ):
        block = BlockProblem(form, weights, 20, mode, quota=held)
        small = warm.miniature(block.with_start(block.incumbent) if start else block)
        assert small.p == warm.SIZE
        assert small.mode == mode
        assert (small.quota is None) == (held is None)
        assert (small.start_mask is not None) == start
        assert type(small.form) is type(form)
        assert small.form.linear.any() == form.linear.any()
        if form.factor is not None:
            assert small.form.factor.dtype == dtype
            assert small.form.factor.flags.c_contiguous == form.factor.flags.c_contiguous


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swap", "anneal", "highs", "branch-and-bound", "neal", "chita", "obs", "cbs"])
def test_half_a_second_is_enough_in_a_fresh_process_that_has_to_compile(name, tmp_path):
    script = f"""
        import json
        import numpy as np
        from prunebench import SOLVERS, BlockProblem, Budget, make_solver, solve
        from prunebench.core.quadratic import QuadraticForm
        rng = np.random.default_rng(0)
        weights = rng.normal(size=64)
        form = QuadraticForm(factor=rng.normal(size=(32, 64)) / 6, ridge=0.05, centre=weights)
        mode = "select" if "select" in SOLVERS.get({name!r}).modes else "refit"
        worst = np.abs(weights) <= np.sort(np.abs(weights))[31]
        block = BlockProblem(form, weights, 32, mode, start_mask=worst)
        found = solve(block, {name!r}, budget=Budget(seconds=0.5))
        print(json.dumps([found.objective, block.evaluate(worst)]))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    objective, start = json.loads(out.stdout.strip().splitlines()[-1])
    assert objective < start


@pytest.mark.parametrize("looks", [1, 4])
def test_kicks_look_at_their_limit_between_slices(looks):
    from prunebench.kernels.local_search.iterated import KICKS_TIMES_PAIRS, Iterated

    block = instance("gaussian", 1, "select", p=24, keep=9)
    qubo, made = block.to_qubo(), []

    def stop(kicks):
        made.append(kicks)
        return _Looks.why if len(made) == looks else None

    Iterated(qubo.couplings, qubo.linear, np.uint64(5)).run(block.incumbent, 10**12, stop)
    assert made == [at * (KICKS_TIMES_PAIRS // 24**2) for at in range(1, looks + 1)]


def test_a_root_relaxation_that_does_not_fit_the_limit_is_not_begun_and_a_cheaper_bound_is_told(monkeypatch):
    from prunebench.solvers.branch_and_bound import without_root

    block = instance("gaussian", 1, "select", p=30, keep=9)
    # a first solve would compile on a miniature, whose limits are others
    warm.warm_up(make_solver("branch-and-bound", {}), block)
    looks = 0

    def stop(self, spent=0.0):
        nonlocal looks
        looks += "kicks" in self.objectives
        return self.time_limit() if looks > 2 else None

    monkeypatch.setattr(Incumbent, "stop", stop)
    monkeypatch.setattr(without_root, "seconds_of", lambda p: 2.0 * GENEROUS)
    monkeypatch.setattr(SelectTree, "__init__", None)
    found = solve(block, "branch-and-bound", budget=Budget(seconds=GENEROUS))
    assert found.status is Status.TIME_LIMIT
    assert "did not fit" in found.stop_reason
    assert found.details["certificate"]["formulation"] == "lagrangian dual"
    assert 0.0 < found.lower_bound < found.objective <= block.evaluate(block.incumbent)
