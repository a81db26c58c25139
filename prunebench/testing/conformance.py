"""The conformance suite: what every solver must do, shipped so that third parties can test theirs.

from prunebench.testing.conformance import assert_conforms
assert_conforms(MySolver())
"""

import json
import pickle
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from time import perf_counter

import numpy as np

from prunebench.core import options as option_tools
from prunebench.core.arrays import BoolArray
from prunebench.core.block import MODES, BlockProblem, Mode
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput, RefusalKind, SolverFailed, SolverRefused
from prunebench.core.solution import Budget, Solution, Status
from prunebench.core.solver import SolverLike, facts
from prunebench.solving import solve
from prunebench.testing.claims import faults
from prunebench.testing.exact import Exact
from prunebench.testing.hostile import HOSTILE
from prunebench.testing.instances import BUDGETS, FAMILIES, QUOTAS, BruteForce, instance, scaled

SEEDS = range(5)
"""Seeds of the instances of each family."""
QUOTA_SEEDS = range(2)
"""One instance that holds its factor and one that holds its hessian, for every quota."""
BUDGET_SEEDS = range(4)
"""The same for every budget, and two more: with limits, more can go wrong than with counts."""
ACCURACY = 1e-9
"""Objectives agree to this part of the spread between the best and the worst mask."""

OVERRUN_SECONDS = 5.0
"""A budget of zero seconds may be overrun by this much on a slow machine (first compilation excluded)."""


@lru_cache(maxsize=4096)
def _instance(family: str, seed: int, mode: Mode) -> BlockProblem:
    return HOSTILE[family](seed, mode).block if family in HOSTILE else instance(family, seed, mode)


@lru_cache(maxsize=4096)
def _truths(family: str, seed: int, mode: Mode) -> tuple[Exact, Exact | None]:
    """The block in exact arithmetic: as its arrays have it, and as the factor has it that it was made from."""
    if family not in HOSTILE:
        return Exact.of(_instance(family, seed, mode)), None
    hostile = HOSTILE[family](seed, mode)
    return Exact.of(hostile.block), None if hostile.factor is None else Exact.of(hostile.block, hostile.factor)


@lru_cache(maxsize=4096)
def _optimum(family: str, seed: int, mode: Mode) -> BruteForce:
    return BruteForce.of(_instance(family, seed, mode))


@dataclass(frozen=True)
class Case:
    """One solver on one instance; solved once and looked at by many checks."""

    solver: SolverLike
    family: str
    seed: int
    mode: Mode

    @property
    def block(self) -> BlockProblem:
        """The instance."""
        return _instance(self.family, self.seed, self.mode)

    @property
    def optimum(self) -> BruteForce:
        """Its optimum by brute force."""
        return _optimum(self.family, self.seed, self.mode)

    @cached_property
    def solution(self) -> Solution:
        """The solver's answer without a budget."""
        return self.run(self.block)

    def run(self, block: BlockProblem, budget: Budget | None = None) -> Solution:
        """The solver's answer to another block, checked by `solve`."""
        return solve(block, self.solver, budget=budget, seed=self.seed)

    @property
    def tolerance(self) -> float:
        """How far two float64 evaluations of one objective may differ."""
        return ACCURACY * (self.optimum.worst - self.optimum.objective + abs(self.optimum.objective)) + 1e-300


Check = Callable[[Case], None]
CHECKS: dict[str, Check] = {}
"""The checks by name, filled by the decorator below."""


def _check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


@_check
def keeps_exactly_keep(case: Case) -> None:
    """The mask has `keep` ones, in every group its count, or is in budget, and the weights are zero elsewhere."""
    mask, weights = case.solution.mask, case.solution.weights
    assert mask.dtype == np.bool_, mask.dtype
    assert_kept(case.block, mask)
    assert not np.any(weights[~mask])
    assert weights.dtype == np.float64
    assert np.isfinite(weights).all()


@_check
def objective_is_the_blocks_own(case: Case) -> None:
    """The reported objective is what the block evaluates."""
    value = case.block.evaluate(case.solution.weights, case.solution.mask)
    assert abs(value - case.solution.objective) <= case.tolerance


@_check
def bound_is_below_brute_force_is_below_objective(case: Case) -> None:
    """lower bound <= optimum <= objective."""
    assert case.solution.lower_bound <= case.optimum.objective + case.tolerance
    assert case.optimum.objective <= case.solution.objective + case.tolerance


@_check
def exact_solver_proves_the_optimum(case: Case) -> None:
    """An exact solver without a budget ends optimal, at the optimum, with a closed gap."""
    if not facts(case.solver).exact or case.mode not in case.solver.modes:
        return
    assert case.solution.status is Status.OPTIMAL, case.solution.stop_reason
    assert abs(case.solution.objective - case.optimum.objective) <= case.tolerance
    assert case.solution.objective - case.solution.lower_bound <= 1e3 * case.tolerance


@_check
def optimal_is_said_only_of_the_optimum(case: Case) -> None:
    """Status optimal never stands beside a worse objective."""
    if case.solution.status is Status.OPTIMAL:
        assert case.solution.objective <= case.optimum.objective + 1e3 * case.tolerance


@_check
def claims_hold_in_exact_arithmetic(case: Case) -> None:
    """The bound is at most the exact optimum, "optimal" is within the proof's tolerance of it, the objective is f."""
    exact, meant = _truths(case.family, case.seed, case.mode)
    wrong = faults(exact, case.solution, meant)
    assert not wrong, wrong


@_check
def same_seed_same_answer(case: Case) -> None:
    """Two runs with one seed give the same mask."""
    again = case.run(case.block)
    assert np.array_equal(again.mask, case.solution.mask)
    assert again.objective == case.solution.objective


@_check
def global_random_state_is_untouched(case: Case) -> None:
    """Neither numpy's nor Python's global generator is drawn from or seeded."""
    before = global_random_state()
    case.run(case.block)
    assert global_random_state() == before


@_check
def block_is_unchanged(case: Case) -> None:
    """Solving writes nothing into the block's arrays."""
    before = {key: np.array(value) for key, value in case.block.contents().items()}
    case.run(case.block)
    for key, value in case.block.contents().items():
        assert np.array_equal(before[key], value), key


@_check
def solver_and_solution_pickle(case: Case) -> None:
    """Both survive the trip to another process."""
    assert pickle.loads(pickle.dumps(case.solver)) == case.solver
    assert np.array_equal(pickle.loads(pickle.dumps(case.solution)).mask, case.solution.mask)


@_check
def options_round_trip_through_json(case: Case) -> None:
    """The options written as JSON build an equal solver."""
    options = json.loads(json.dumps(option_tools.as_json(case.solver)))
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    assert option_tools.build(type(case.solver), options) == case.solver


@_check
def trace_is_monotone(case: Case) -> None:
    """Seconds and bounds rise, objectives fall, and the last row is the solution."""
    trace = case.solution.trace
    assert trace.ndim == 2
    assert trace.shape[1] == 3
    assert (np.diff(trace[:, 0]) >= 0).all()
    assert (np.diff(trace[:, 1]) <= case.tolerance).all()
    assert (trace[1:, 2] >= trace[:-1, 2]).all()
    assert abs(trace[-1, 1] - case.solution.objective) <= case.tolerance


@_check
def budget_is_respected(case: Case) -> None:
    """With no time, or one evaluation, a feasible answer comes back at once."""
    assert case.solution is not None
    for budget in (Budget(seconds=0.0), Budget(evaluations=1)):
        started = perf_counter()
        answer = case.run(case.block, budget)
        assert_kept(case.block, answer.mask)
        assert perf_counter() - started < OVERRUN_SECONDS


@_check
def never_worse_than_the_start(case: Case) -> None:
    """Started at a random mask, and at the optimum, it does not get worse, whatever the budget."""
    rng = np.random.default_rng(case.seed)
    shuffled = case.block.top_mask(rng.random(case.block.p))
    for start in (shuffled, case.optimum.mask):
        block = case.block.with_start(start)
        for budget in (Budget(), Budget(seconds=0.0)):
            assert case.run(block, budget).objective <= block.evaluate(start) + case.tolerance


@_check
def keeps_nothing_and_everything(case: Case) -> None:
    """keep = 0 and keep = p have one answer each, as have groups that keep none or all, and a budget for nothing."""
    if case.block.budget is not None:
        ones = np.ones_like(case.block.budget.costs)
        block = case.block.with_budget(Cost(ones, np.zeros(ones.shape[0])))
        assert not case.run(block).mask.any()
        block = case.block.with_budget(Cost(ones, np.full(ones.shape[0], float(block.p))))
        answer = case.run(block)
        if facts(case.solver).exact and case.mode in case.solver.modes:
            assert answer.objective <= case.optimum.objective + case.tolerance
        return
    keeping = case.block.keeping
    for keep in (0, case.block.p):
        block = replace(case.block, keep=keep, quota=keeping.with_counts(keeping.sizes * (keep > 0)).quota)
        answer = case.run(block)
        assert int(answer.mask.sum()) == keep
        assert abs(answer.objective - block.evaluate(np.full(block.p, keep > 0))) <= case.tolerance
    settled = keeping.with_counts(np.where(np.arange(keeping.counts.size) % 2, keeping.sizes, 0))
    block = replace(case.block, keep=settled.keep, quota=settled.quota)
    assert np.array_equal(case.run(block).mask, block.incumbent)


@_check
def one_weight(case: Case) -> None:
    """p = 1, kept or not."""
    for keep in (0, 1):
        block = instance("gaussian", case.seed, case.mode, p=1, keep=keep)
        assert int(case.run(block).mask.sum()) == keep


@_check
def units_do_not_matter(case: Case) -> None:
    """With the loss and the weights in units from 1e-12 to 1e12 the answer stays feasible and its bound valid."""
    for loss, weights in ((1e-12, 1.0), (1e12, 1.0), (1e-6, 1e6), (1e6, 1e-6)):
        block = scaled(case.block, loss, weights)
        answer = case.run(block)
        optimum, tolerance = case.optimum.objective * loss, 1e3 * case.tolerance * loss
        assert_kept(block, answer.mask)
        assert answer.lower_bound <= optimum + tolerance
        assert answer.objective >= optimum - tolerance
        if facts(case.solver).exact and case.mode in case.solver.modes:
            assert answer.objective <= optimum + tolerance


def assert_kept(block: BlockProblem, mask: BoolArray) -> None:
    """Assert that a mask is feasible: the count, every group's count, or what the kept weights cost."""
    assert block.budget is not None or int(mask.sum()) == block.keep
    assert block.constraint.feasible(mask), block.constraint.violation(mask)


def global_random_state() -> bytes:
    """The state of Python's and of numpy's global generator."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002  # the legacy generator is what is guarded
    return pickle.dumps((random.getstate(), legacy))


HOSTILE_CHECKS = (
    "keeps_exactly_keep",
    "claims_hold_in_exact_arithmetic",
    "same_seed_same_answer",
    "block_is_unchanged",
)
"""What is asked on blocks where rounding is not small, and other checks' tolerances mean nothing."""
HOSTILE_SEEDS = range(8)
"""Seeds of the instances on which rounding is not small: eight, because faults there are rare."""


def hostile_families(mode: Mode) -> list[str]:
    """The names of the families on which rounding is not small, and of indefinite ones in mode select."""
    return [name for name in HOSTILE if mode == "select" or name != "indefinite"]


def families() -> list[str]:
    """The names of all instance families, the real one last."""
    return [*FAMILIES, "digits"]


def quota_families() -> list[str]:
    """The names of the instance families with quotas."""
    return [f"quota-{name}" for name in QUOTAS]


def budget_families() -> list[str]:
    """The names of the instance families with budgets."""
    return [f"budget-{name}" for name in BUDGETS]


def assert_refuses_budgets(solver: SolverLike, mode: Mode) -> None:
    """A solver that does not take budgets is refused a block with one, by name and with a remedy.

    Raises
    ------
    AssertionError   it was run, or the refusal does not name solver and budget
    """
    for family in budget_families():
        refusal: SolverRefused | None = None
        try:
            solve(instance(family, 0, mode), solver)
        except SolverRefused as error:
            refusal = error
        assert refusal, (
            f"{solver.name} does not say that it takes budgets and takes a block with one ({family}, {mode})"
        )
        assert refusal.kind is RefusalKind.BUDGET, f"{solver.name} refuses a budget as {refusal.kind}: {refusal}"
        message = str(refusal)
        for word in (repr(solver.name), "budget", "choose"):
            assert word in message, f"{solver.name}'s refusal does not hold {word}: {message}"


def assert_refuses_quotas(solver: SolverLike, mode: Mode) -> None:
    """A solver that does not take quotas is refused a block with a quota, by name and with a remedy.

    Raises
    ------
    AssertionError   it was run, or the refusal does not name solver and quota
    """
    for family in quota_families():
        refusal: SolverRefused | None = None
        try:
            solve(instance(family, 0, mode), solver)
        except SolverRefused as error:
            refusal = error
        assert refusal, f"{solver.name} does not say that it takes quotas and takes a block with one ({family}, {mode})"
        assert refusal.kind is RefusalKind.QUOTA, f"{solver.name} refuses a quota as {refusal.kind}: {refusal}"
        message = str(refusal)
        for word in (repr(solver.name), "quota", "choose"):
            assert word in message, f"{solver.name}'s refusal does not hold {word}: {message}"


def run_check(
    name: str, solver: SolverLike, family: str, mode: Mode, seeds: Iterable[int] = SEEDS
) -> InvalidInput | SolverFailed | None:
    """Run one check on one family over several seeds.

    Returns
    -------
    error   None if it passed on at least one seed and failed on none, else what the solver refused every instance
            with, or what the external program behind it gave no answer with

    Raises
    ------
    AssertionError   naming check, solver, family, mode and seed
    """
    refusal: InvalidInput | SolverFailed | None = None
    passed = False
    for seed in seeds:
        case = Case(solver, family, seed, mode)
        where = f"{solver.name} fails {name} on {family}, seed {seed}, mode {mode}"
        try:
            CHECKS[name](case)
            passed = True
        except InvalidInput as error:
            # a hostile block may turn out too ill-conditioned on the way, which the error says
            if family not in HOSTILE and not isinstance(error, SolverRefused):
                raise AssertionError(f"{where}: it raises {type(error).__name__}: {error}") from error
            refusal = error
        except SolverFailed as error:
            # an external program gave up, which is told and no answer: nothing to judge
            refusal = error
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        except Exception as error:  # a solver that is tried may raise anything
            raise AssertionError(f"{where}: it raises {type(error).__name__}: {error}") from error
    return None if passed else refusal


def assert_conforms(solver: SolverLike, *, seeds: Iterable[int] = SEEDS, modes: Iterable[Mode] = MODES) -> None:
    """Run every check on every family in every mode.

    A solver may refuse instances with a reason, but must accept some Gaussian one in a mode it declares,
    and some of every quota if it takes quotas, or say of a mode that it takes no quota there;
    without that fact it must be refused them. The same holds of budgets.

    Raises
    ------
    AssertionError   the first check that fails, with everything needed to repeat it
    """
    chosen = list(seeds)
    for mode in modes:
        if mode == "select" and "select" not in solver.modes:
            continue
        for family in families():
            for name in CHECKS:
                refusal = run_check(name, solver, family, mode, chosen)
                if refusal and family == "gaussian" and mode in solver.modes:
                    raise AssertionError(f"{solver.name} declares mode {mode} but refuses every instance: {refusal}")
        for family in hostile_families(mode):
            for name in HOSTILE_CHECKS:
                run_check(name, solver, family, mode, HOSTILE_SEEDS)
        _assert_quotas(solver, mode, chosen)
        assert_budgets(solver, mode, [seed for seed in BUDGET_SEEDS if seed in chosen])


def _assert_quotas(solver: SolverLike, mode: Mode, seeds: list[int]) -> None:
    if not facts(solver).quotas:
        assert_refuses_quotas(solver, mode)
        return
    for family in quota_families():
        for name in CHECKS:
            refusal = run_check(name, solver, family, mode, [seed for seed in QUOTA_SEEDS if seed in seeds])
            about_quotas = isinstance(refusal, SolverRefused) and refusal.kind is RefusalKind.QUOTA
            if refusal and mode in solver.modes and not about_quotas:
                raise AssertionError(f"{solver.name} takes quotas but refuses every {family} instance: {refusal}")


def assert_budgets(
    solver: SolverLike, mode: Mode, seeds: Iterable[int] = BUDGET_SEEDS, families: Iterable[str] | None = None
) -> None:
    """Run every check on the families with budgets, or see that a solver without that fact is refused them.

    families : of `budget_families`; all of them by default

    Raises
    ------
    AssertionError   the first check that fails, or a solver that takes budgets and refuses every instance of a family,
                     unless it says of the mode that it takes no budget there
    """
    if not facts(solver).budgets:
        assert_refuses_budgets(solver, mode)
        return
    chosen = list(seeds)
    for family in budget_families() if families is None else families:
        for name in CHECKS:
            refusal = run_check(name, solver, family, mode, chosen)
            about_budgets = isinstance(refusal, SolverRefused) and refusal.kind is RefusalKind.BUDGET
            if refusal and mode in solver.modes and not about_budgets:
                raise AssertionError(f"{solver.name} takes budgets but refuses every {family} instance: {refusal}")
