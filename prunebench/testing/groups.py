"""The conformance suite of solvers that choose among groups, for third parties too.

from prunebench.testing.groups import assert_group_solver_conforms
assert_group_solver_conforms(MySolver())
"""

import itertools
import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from time import perf_counter

import numpy as np

from prunebench.core import options as option_tools
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import RefusalKind, SolverRefused
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_form import GroupForm
from prunebench.core.solution import Budget, Solution, Status
from prunebench.core.solver import SolverLike, facts
from prunebench.solving import solve
from prunebench.testing.conformance import OVERRUN_SECONDS, global_random_state
from prunebench.testing.instances import instance

SEEDS = range(3)
"""Seeds of the instances of each family."""
ACCURACY = 1e-9
"""Objectives agree to this part of c, the value with nothing kept: f is c minus what the kept groups explain."""

Drawn = tuple[FloatArray, FloatArray, IndexArray]
"""Inputs X (n, p), outputs Y (n, q), and the group of each input (p,)."""


def _plain(rng: np.random.Generator) -> Drawn:
    inputs = rng.normal(size=(40, 14))
    return inputs, inputs @ rng.normal(size=(14, 3)), np.repeat(np.arange(7), 2)


def _correlated(rng: np.random.Generator) -> Drawn:
    inputs = rng.normal(size=(60, 16)) @ (np.eye(16) + 0.4 * rng.normal(size=(16, 16)))
    return inputs, inputs @ rng.normal(size=(16, 5)) + rng.normal(size=(60, 5)), np.repeat(np.arange(8), 2)


def _unequal(rng: np.random.Generator) -> Drawn:
    group = rng.permutation(np.repeat(np.arange(6), [1, 4, 2, 1, 3, 2]))
    inputs = rng.normal(size=(50, group.size)) @ (np.eye(group.size) + 0.2 * rng.normal(size=(group.size, group.size)))
    return inputs, inputs @ rng.normal(size=(group.size, 2)), group


def _one_output(rng: np.random.Generator) -> Drawn:
    inputs = rng.normal(size=(30, 9)) + rng.normal(size=9)
    return inputs, inputs @ rng.normal(size=(9, 1)), np.repeat(np.arange(9), 1)


def _many_outputs(rng: np.random.Generator) -> Drawn:
    inputs = np.maximum(rng.normal(size=(40, 10)), 0.0)
    return inputs, inputs @ rng.normal(size=(10, 25)), np.arange(10) % 5


def _repeated(rng: np.random.Generator) -> Drawn:
    """Two groups are the same inputs: either may go, both may not."""
    inputs = rng.normal(size=(40, 12))
    inputs[:, 6:8] = inputs[:, 4:6]
    return inputs, inputs @ rng.normal(size=(12, 3)), np.repeat(np.arange(6), 2)


def _dead(rng: np.random.Generator) -> Drawn:
    """Two groups are constant zero."""
    inputs = rng.normal(size=(40, 12))
    inputs[:, :2] = inputs[:, 8:10] = 0.0
    return inputs, inputs @ rng.normal(size=(12, 3)), np.repeat(np.arange(6), 2)


def _few_samples(rng: np.random.Generator) -> Drawn:
    inputs = rng.normal(size=(6, 12))
    return inputs, inputs @ rng.normal(size=(12, 2)), np.repeat(np.arange(6), 2)


def _nothing_to_meet(rng: np.random.Generator) -> Drawn:
    inputs = rng.normal(size=(20, 8))
    return inputs, np.zeros((20, 2)), np.repeat(np.arange(4), 2)


FAMILIES: dict[str, Callable[[np.random.Generator], Drawn]] = {
    "plain": _plain,
    "correlated": _correlated,
    "unequal": _unequal,
    "one-output": _one_output,
    "many-outputs": _many_outputs,
    "repeated": _repeated,
    "dead": _dead,
    "few-samples": _few_samples,
    "nothing-to-meet": _nothing_to_meet,
}
"""Small layers of known structure."""
RIDGE = 1e-2
"""The ridge as a share of the Gram matrix' mean diagonal, as OSSCAR has it: singular layers become definite."""


@lru_cache(maxsize=1024)
def group_instance(family: str, seed: int, keep: int | None = None) -> GroupBlock:
    """A small group block; by default it keeps half of its groups. Odd seeds weigh their outputs."""
    rng = np.random.default_rng([seed, list(FAMILIES).index(family)])
    inputs, outputs, group = FAMILIES[family](rng)
    gram = inputs.T @ inputs / len(inputs)
    weight = rng.random(outputs.shape[1]) + 0.1 if seed % 2 else np.ones(outputs.shape[1])
    constant = 0.5 * float(np.sum(outputs**2 * weight)) / len(inputs)
    ridge = RIDGE * float(np.mean(np.diag(gram)))
    form = GroupForm(gram, inputs.T @ outputs / len(inputs), group, ridge, constant, weight if seed % 2 else None)
    return GroupBlock(form, form.groups // 2 if keep is None else keep, problem=family, layer=str(seed))


@dataclass(frozen=True, eq=False)
class BestGroups:
    """The optimum by trying all sets: mask, objective, and the worst objective of any."""

    mask: BoolArray
    objective: float
    worst: float

    @staticmethod
    def of(block: GroupBlock) -> "BestGroups":
        """The optimum of a small block."""
        masks = []
        for chosen in itertools.combinations(range(block.p), block.keep):
            mask = np.zeros(block.p, dtype=np.bool_)
            mask[list(chosen)] = True
            masks.append(mask)
        values = [block.form.value(mask) for mask in masks]
        best = int(np.argmin(values))
        return BestGroups(masks[best], values[best], max(values))


@lru_cache(maxsize=1024)
def _optimum(family: str, seed: int) -> BestGroups:
    return BestGroups.of(group_instance(family, seed))


@dataclass(frozen=True)
class Case:
    """One solver on one instance; solved once and looked at by many checks."""

    solver: SolverLike
    family: str
    seed: int

    @property
    def block(self) -> GroupBlock:
        """The instance."""
        return group_instance(self.family, self.seed)

    @property
    def optimum(self) -> BestGroups:
        """Its optimum by brute force."""
        return _optimum(self.family, self.seed)

    @cached_property
    def solution(self) -> Solution:
        """The solver's answer without a budget."""
        return self.run(self.block)

    def run(self, block: GroupBlock, budget: Budget | None = None) -> Solution:
        """The solver's answer to another block, checked by `solve`."""
        return solve(block, self.solver, budget=budget, seed=self.seed)

    @property
    def tolerance(self) -> float:
        """How far two float64 evaluations of one objective may differ."""
        return ACCURACY * abs(self.block.form.constant) + 1e-300


Check = Callable[[Case], None]
CHECKS: dict[str, Check] = {}
"""The checks by name, filled by the decorator below."""


def _check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


@_check
def keeps_exactly_keep(case: Case) -> None:
    """The mask has `keep` groups, and the weights of all others are zero."""
    mask, weights = case.solution.mask, case.solution.weights
    assert mask.dtype == np.bool_
    assert mask.shape == (case.block.p,)
    assert int(mask.sum()) == case.block.keep
    assert weights.shape == (case.block.form.p, case.block.form.q)
    assert not weights[~case.block.form.inputs(mask)].any()


@_check
def objective_is_that_of_the_refit(case: Case) -> None:
    """The objective is f of the solution's weights, and no other weights of that mask do better."""
    block, answer = case.block, case.solution
    assert abs(block.evaluate(answer.weights, answer.mask) - answer.objective) <= case.tolerance
    assert abs(block.evaluate(answer.mask) - answer.objective) <= case.tolerance


@_check
def bound_is_below_brute_force_is_below_objective(case: Case) -> None:
    """lower bound <= optimum <= objective."""
    assert case.solution.lower_bound <= case.optimum.objective + case.tolerance
    assert case.optimum.objective <= case.solution.objective + case.tolerance


@_check
def exact_solver_proves_the_optimum(case: Case) -> None:
    """An exact solver without a budget ends at the optimum with a closed gap, optimal where f is not near 0."""
    if not facts(case.solver).exact:
        return
    assert abs(case.solution.objective - case.optimum.objective) <= case.tolerance
    assert case.solution.objective - case.solution.lower_bound <= 1e3 * case.tolerance
    if case.optimum.objective > 1e-3 * case.block.form.constant:
        assert case.solution.status is Status.OPTIMAL, case.solution.stop_reason


@_check
def optimal_is_said_only_of_the_optimum(case: Case) -> None:
    """Status optimal never stands beside a worse objective."""
    if case.solution.status is Status.OPTIMAL:
        assert case.solution.objective <= case.optimum.objective + 1e3 * case.tolerance


@_check
def same_seed_same_answer(case: Case) -> None:
    """Two runs with one seed give the same mask, and no global generator is touched."""
    before = global_random_state()
    again = case.run(case.block)
    assert np.array_equal(again.mask, case.solution.mask)
    assert again.objective == case.solution.objective
    assert global_random_state() == before


@_check
def block_is_unchanged(case: Case) -> None:
    """Solving writes nothing into the block's arrays."""
    before = {key: np.array(value) for key, value in case.block.contents().items()}
    case.run(case.block)
    for key, value in case.block.contents().items():
        assert np.array_equal(before[key], value), key


@_check
def solver_solution_and_options_travel(case: Case) -> None:
    """Solver and solution survive pickling, and the options written as JSON build an equal solver."""
    assert pickle.loads(pickle.dumps(case.solver)) == case.solver
    assert np.array_equal(pickle.loads(pickle.dumps(case.solution)).mask, case.solution.mask)
    options = json.loads(json.dumps(option_tools.as_json(case.solver)))
    assert option_tools.build(type(case.solver), options) == case.solver


@_check
def trace_is_monotone(case: Case) -> None:
    """Seconds and bounds rise, objectives fall, and the last row is the solution."""
    trace = case.solution.trace
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
        assert int(case.run(case.block, budget).mask.sum()) == case.block.keep
        assert perf_counter() - started < OVERRUN_SECONDS


@_check
def never_worse_than_the_start(case: Case) -> None:
    """Started at a random mask, and at the optimum, it does not get worse, whatever the budget."""
    shuffled = case.block.top_mask(np.random.default_rng(case.seed).random(case.block.p))
    for start in (shuffled, case.optimum.mask):
        for budget in (Budget(), Budget(seconds=0.0)):
            answer = case.run(case.block.with_start(start), budget)
            assert answer.objective <= case.block.evaluate(start) + case.tolerance


@_check
def keeps_nothing_everything_and_one(case: Case) -> None:
    """keep = 0 and keep = C have one answer each; keep = 1 is answered."""
    for keep in (0, 1, case.block.p):
        answer = case.run(replace(case.block, keep=keep))
        assert int(answer.mask.sum()) == keep
        if keep != 1:
            assert answer.objective <= case.block.form.value(np.full(case.block.p, keep > 0)) + case.tolerance


@_check
def units_do_not_matter(case: Case) -> None:
    """With loss and inputs in units from 1e-12 to 1e12 the answer stays feasible and its bound valid."""
    form = case.block.form
    for loss, unit in ((1e-12, 1.0), (1e12, 1.0), (1e-6, 1e3)):
        weight = np.ones(form.q) if form.weight is None else form.weight
        other = GroupForm(
            form.gram * unit * unit, form.cross * unit, form.group, form.ridge * unit * unit, form.constant * loss,
            weight * loss,
        )  # fmt: skip
        answer = case.run(GroupBlock(other, case.block.keep))
        tolerance = 1e3 * case.tolerance * loss
        assert answer.lower_bound <= case.optimum.objective * loss + tolerance
        assert answer.objective >= case.optimum.objective * loss - tolerance


def assert_refuses_weights(solver: SolverLike) -> None:
    """A solver that chooses among groups is refused a block of single weights, by name and with a remedy.

    Raises
    ------
    AssertionError   it was run, or the refusal is of another kind
    """
    refusal: SolverRefused | None = None
    try:
        solve(instance("gaussian", 0, "refit"), solver)
    except SolverRefused as error:
        refusal = error
    assert refusal, f"{solver.name} takes a block of single weights"
    assert refusal.kind is RefusalKind.FORM, f"{solver.name} refuses single weights as {refusal.kind}: {refusal}"
    assert repr(solver.name) in str(refusal), refusal


def assert_group_solver_conforms(solver: SolverLike, *, seeds: Iterable[int] = SEEDS) -> None:
    """Run every check on every family.

    Raises
    ------
    AssertionError   the first check that fails, with everything needed to repeat it
    """
    for family in FAMILIES:
        for seed in seeds:
            case = Case(solver, family, seed)
            for name, check in CHECKS.items():
                try:
                    check(case)
                except AssertionError as error:
                    raise AssertionError(f"{solver.name} fails {name} on {family}, seed {seed}: {error}") from error
    assert_refuses_weights(solver)
