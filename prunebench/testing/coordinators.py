"""What is asked of every coordinator, as checks that any package can run on its own: `assert_coordinator_conforms`.

A coordinator is run over a tiny network that is drawn (`prunebench.testing.drawn`), and over a quadratic form where it
prunes such problems too.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from prunebench.coordinators.recovered import begin
from prunebench.core import options as option_tools
from prunebench.core.block import Mode
from prunebench.core.coordinator import Coordinator, Move, Setting, task_seed
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.masks import keep_count
from prunebench.core.problem import BlockSetProblem, make_problem
from prunebench.core.recovery import parse
from prunebench.core.solution import Budget
from prunebench.core.solver import SolverLike, make_solver
from prunebench.networks.network import PrunableNetwork
from prunebench.runs.executors import Inline, Job, Workers, answer_job, make_workers
from prunebench.testing.drawn import Drawn

PLANTED = {"p": 40, "n": 20, "ridge": 0.3}
"""The quadratic form that a coordinator is tried on, where it prunes problems without a network."""

CURVATURE = {"samples": 100}
"""For those that take curvature options: fewer samples than the drawn network has."""

MOST_STEPS = 200
"""Steps after which a coordinator is taken not to end: give it options that make it short."""

NOT_TAKEN = (InvalidInput, KeyError, ValueError, TypeError, OverflowError, AttributeError)
"""What a state that is not of this run may raise: a run names the checkpoint then."""

Result = tuple[bytes, bytes]
"""Mask and weights, to the bit."""


@dataclass(frozen=True)
class Case:
    """A coordinator under test, with the options and the solver that it is tried with."""

    kind: type[Coordinator]
    options: Mapping[str, Any] = field(default_factory=dict)
    solver: SolverLike = field(default_factory=lambda: make_solver("swap"))
    mode: Mode = "refit"
    density: float = 0.4
    workers: Workers = field(default_factory=Inline)
    recover: Sequence[str] | None = None
    """Recovery of the network; None: the coordinator's own."""
    network: bool = True
    """Whether it prunes the drawn network, or the quadratic form."""

    @property
    def setting(self) -> Setting:
        """What it begins with, the network made anew."""
        kind = self.kind
        made = None if kind.options_class is None else option_tools.build(kind.options_class, self.options)
        problem: Any = Drawn() if self.network else make_problem("planted", PLANTED)
        asked = kind.default_recovery if self.recover is None else self.recover
        steps = parse(asked) if self.network and self.mode == "refit" else ()
        setting = Setting(
            problem=problem,
            solver=self.solver,
            density=self.density,
            mode=self.mode,
            options=made,
            recovery=steps,
            curvature=CURVATURE if "curvature" in kind.takes else {},
        )
        if self.network:
            return replace(setting, network=PrunableNetwork(problem.model(), problem.prunable()))
        assert isinstance(problem, BlockSetProblem)
        return replace(setting, block=problem.block(self.density, self.mode, 0))

    def begin(self) -> Coordinator:
        """A new coordinator, after what is looked at before work."""
        setting = self.setting
        self.kind.require(setting)
        return begin(self.kind, setting)

    def steps(
        self, coordinator: Coordinator, width: int = 1, *, workers: Workers | None = None, turned: bool = False
    ) -> Iterator[Move]:
        """Run it to its end, step by step.

        width : tasks asked for at a time;  turned : whether they are told in the other order
        """
        workers = workers or Inline()
        for _ in range(MOST_STEPS):
            move = None
            while move is None:
                tasks = coordinator.ask(width)
                if not tasks:
                    move = coordinator.advance()
                    if move is None:
                        return
                    break
                jobs = [Job(task.block, self.solver, Budget(), task_seed(0, task.position)) for task in tasks]
                answers = [given for given, _ in workers.answers(jobs, lambda _line: None, answer_job)]
                for task, given in list(zip(tasks, answers, strict=True))[:: -1 if turned else 1]:
                    told = coordinator.tell(task, given)  # type: ignore[arg-type]  # a solver of ours does not fail
                    move = told or move
            yield move
        raise AssertionError(f"it makes more than {MOST_STEPS} steps; give options that make it short")

    @cached_property
    def expected(self) -> Result:
        """What it ends with."""
        return self.result(self.begin())

    def result(self, coordinator: Coordinator, **how: Any) -> Result:
        """What it ends with from where it stands."""
        for _ in self.steps(coordinator, **how):
            pass
        mask, weights = coordinator.best()
        return mask.tobytes(), np.asarray(weights).tobytes()


Check = Callable[[Case], None]
COORDINATOR_CHECKS: dict[str, Check] = {}
"""The checks by name, in the order in which they are made."""


def _check(function: Check) -> Check:
    COORDINATOR_CHECKS[function.__name__] = function
    return function


def assert_coordinator_conforms(
    kind: type[Coordinator],
    *,
    options: Mapping[str, Any] | None = None,
    solver: str | SolverLike = "swap",
    mode: Mode = "refit",
    workers: Workers | None = None,
    recover: Sequence[str] | None = None,
) -> None:
    """Run every check on a coordinator; it need not be registered.

    Parameters
    ----------
    options : that make it short on a network of 320 weights and 600 samples
    solver, mode : of its blocks
    workers : with which it is compared with a run in this process; two worker processes by default
    recover : recovery of the network in mode refit; the coordinator's own by default

    Raises
    ------
    AssertionError   the first check that fails, by coordinator and check
    """
    own = workers is None
    held = workers or make_workers("local:2")
    case = Case(kind, options or {}, make_solver(solver), mode, workers=held, recover=recover)
    try:
        for name in COORDINATOR_CHECKS:
            run_coordinator_check(name, case)
            if not kind.needs_network:
                run_coordinator_check(name, replace(case, network=False))
    finally:
        if own:
            held.close()


def run_coordinator_check(name: str, case: Case) -> None:
    """Run one check.

    Raises
    ------
    AssertionError   naming coordinator, problem and check
    """
    try:
        COORDINATOR_CHECKS[name](case)
    except (AssertionError, PrunebenchError, NotImplementedError) as error:
        where = "a network" if case.network else "a quadratic form"
        raise AssertionError(f"coordinator {case.kind.name!r} fails {name} on {where}: {error}") from error


@_check
def facts_and_options_are_complete(case: Case) -> None:
    """A name, a summary of one line, a sentence for every option; options come back from JSON; flags are options."""
    kind = case.kind
    assert kind.name, "its name is empty"
    assert kind.summary.strip(), "its summary is empty"
    assert "\n" not in kind.summary, "its summary has more than one line"
    assert kind.takes <= {"scope", "curvature", "start"}, f"it takes {sorted(kind.takes)}"
    if kind.options_class is None:
        assert not kind.flags, "it has flags without options"
        return
    known = {option.name: option for option in option_tools.options_of(kind.options_class)}
    for name, option in known.items():
        assert option.doc, f"option {name} has no sentence: put a string below the field"
    assert set(kind.flags) <= set(known), f"flags {sorted(set(kind.flags) - set(known))} are no options"
    made = option_tools.build(kind.options_class, case.options)
    held = json.loads(json.dumps(option_tools.as_json(made)))
    again = option_tools.build(
        kind.options_class, {name: tuple(value) if isinstance(value, list) else value for name, value in held.items()}
    )
    assert again == made, "its options do not come back from JSON"


@_check
def options_are_refused_by_name(case: Case) -> None:
    """An option that there is not, and a value that is none of its type, are refused by the option's name."""
    cls = case.kind.options_class
    if cls is None:
        return
    wrong = {"no_such_option": 1} | {option.name: object for option in option_tools.options_of(cls)}
    for name, value in wrong.items():
        refusal = ""
        try:
            option_tools.build(cls, {name: value})
        except InvalidInput as error:
            refusal = str(error)
        assert refusal, f"option {name} may be {value!r}"
        assert name in refusal, f"the refusal of option {name} does not name it: {refusal}"


@_check
def every_step_keeps_weights_off_the_mask_at_zero(case: Case) -> None:
    """Mask and weights fit each other and the network after every step, and tasks are counted upwards."""
    coordinator = case.begin()
    size = coordinator.mask.size
    for move in case.steps(coordinator):
        for mask, weights in ((coordinator.mask, coordinator.weights), coordinator.best()):
            assert mask.dtype == np.bool_, f"the mask is {mask.dtype}"
            assert mask.shape == weights.shape == (size,), f"mask {mask.shape}, weights {weights.shape}"
            assert np.isfinite(weights).all(), "weights are NaN or infinite"
            assert not np.any(weights[~mask]), "weights are not zero where the mask is false"
        assert isinstance(move.accepted, bool), f"accepted is {move.accepted!r}"


@_check
def the_end_has_the_count_asked_for(case: Case) -> None:
    """round(density·p) weights are kept, `complete` and `check` agree, and nothing more is asked for.

    Of groups as many are kept as the budget leaves: some, not all, and `check` sees to the budget.
    """
    coordinator = case.begin()
    total = coordinator.total_steps
    made = sum(1 for _ in case.steps(coordinator))
    mask, _ = coordinator.best()
    kept, due = int(mask.sum()), keep_count(case.density, mask.size)
    if case.kind.of_groups:
        assert 0 < kept < mask.size, f"{kept} of {mask.size} groups are kept"
    else:
        assert kept == due, f"{kept} weights are kept instead of {due}"
    assert coordinator.complete, "complete is false at the end"
    coordinator.check()
    assert not coordinator.ask(1), "it asks for more after its end"
    assert coordinator.advance() is None, "it makes a step after its end"
    assert total is None or made <= total, f"it makes {made} steps and said {total}"


@_check
def the_same_seed_gives_the_same_answer(case: Case) -> None:
    """A second coordinator of the same setting ends with the same mask and weights, to the bit."""
    assert case.result(case.begin()) == case.expected, "two runs with one seed differ"


@_check
def tasks_may_be_solved_side_by_side_and_told_in_any_order(case: Case) -> None:
    """Asked for several at a time and told in the other order, it ends with the same."""
    assert case.result(case.begin(), width=3, turned=True) == case.expected, "the order of answers matters"


@_check
def workers_give_the_same_as_this_process(case: Case) -> None:
    """Solved by the workers, its blocks lead to the same mask and weights."""
    found = case.result(case.begin(), width=max(2, case.workers.width), workers=case.workers)
    assert found == case.expected, "another executor gives another answer"


@_check
def a_run_resumes_at_every_step(case: Case) -> None:
    """From the state after any step, written as a checkpoint is, a new coordinator ends with the same."""
    coordinator = case.begin()
    states = [_written(coordinator)] + [_written(coordinator) for _ in case.steps(coordinator)]
    for number, (arrays, info) in enumerate(states):
        again = case.begin()
        again.load_state_dict(arrays, info)
        assert case.result(again) == case.expected, f"resumed after step {number} it ends with something else"


@_check
def states_of_another_run_are_refused(case: Case) -> None:
    """Arrays and values that are missing, cut, of another type or count are refused."""
    coordinator = case.begin()
    next(case.steps(coordinator), None)
    arrays, info = _written(coordinator)
    assert {"mask", "weights"} <= set(arrays), f"the state has arrays {sorted(arrays)}, but no mask and weights"
    mask, weights = arrays["mask"], arrays["weights"]
    forged = {f"without array {name}": ({k: v for k, v in arrays.items() if k != name}, info) for name in arrays}
    forged |= {f"without {name}": (arrays, {k: v for k, v in info.items() if k != name}) for name in info}
    forged |= {f"with {name} cut": ({**arrays, name: array[:-1]}, info) for name, array in arrays.items() if array.ndim}
    forged |= {
        f"with {name} 10^9": (arrays, {**info, name: 10**9})
        for name, value in info.items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    other = mask.copy()
    other[np.argmin(mask) if not mask.all() else 0] ^= True
    forged["with another count"] = ({**arrays, "mask": other, "weights": np.where(other, weights, 0.0)}, info)
    forged["with NaN"] = ({**arrays, "weights": np.full_like(weights, np.nan)}, info)
    for what, (held, said) in forged.items():
        try:
            case.begin().load_state_dict(held, said)
        except NOT_TAKEN:
            continue
        raise AssertionError(f"a state {what} is taken")


@_check
def an_unsolved_task_leaves_a_whole_state(case: Case) -> None:
    """Told that a task was not solved, it raises PrunebenchError or goes on with mask and weights that fit."""
    coordinator = case.begin()
    tasks = coordinator.ask(1)
    assert tasks, "it asks for nothing at its beginning"
    try:
        for _ in range(MOST_STEPS):
            if not tasks or coordinator.tell(tasks[0], None) is not None:
                break
            tasks = coordinator.ask(1)
    except PrunebenchError:
        return
    mask, weights = coordinator.best()
    assert not np.any(np.asarray(weights)[~mask]), "weights are not zero where the mask is false"


@_check
def stages_that_are_recovered_fit(case: Case) -> None:
    """Who recovers between stages says what each keeps, the last the count asked for, and goes on from `take`."""
    if not case.kind.recovers_between:
        return
    coordinator = begin(case.kind, replace(case.setting, recovery=()))
    keeps = list(coordinator.stage_keeps)
    assert keeps[-1] == keep_count(case.density, coordinator.mask.size), f"stages keep {keeps}"
    for _ in case.steps(coordinator):
        if (done := coordinator.stages_done) and int(coordinator.mask.sum()) == keeps[done - 1]:
            mask, moved = coordinator.mask.copy(), np.asarray(coordinator.weights, dtype=np.float64) * 0.5
            coordinator.take(moved)
            assert np.array_equal(coordinator.mask, mask), "take changes the mask"
            assert np.array_equal(coordinator.weights, moved), "take does not take the weights"
    assert coordinator.stages_done == len(keeps), f"{coordinator.stages_done} of {len(keeps)} stages are done"


def _written(coordinator: Coordinator) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state as a checkpoint holds it: copies of the arrays, the rest as JSON."""
    arrays, info = coordinator.state_dict()
    return {name: np.array(array) for name, array in arrays.items()}, json.loads(json.dumps(info))
