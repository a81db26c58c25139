"""Drive a coordinator: have its tasks solved, log every step, checkpoint, stop cleanly."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np

from prunebench.core.arrays import RealArray
from prunebench.core.coordinator import Coordinator, Move, Task, task_seed
from prunebench.core.crew import Shared
from prunebench.core.errors import Interrupted, InvalidInput, PrunebenchError, RunFailed, WorkersGone
from prunebench.core.solution import Budget, Solution, Status
from prunebench.core.solver import SolverLike
from prunebench.log import checks
from prunebench.log.run_directory import BEFORE_LOSS, CHECKPOINT, RunDirectory, resume_line
from prunebench.runs.executors import Failed, Inline, Job, Workers, answer_job
from prunebench.signals import deferred

CHECKPOINT_SECONDS, CHECKPOINT_RATIO = 1.0, 50.0
"""A checkpoint is written at most this often, and takes at most one part in this many of the time."""

MOST_LOST = 3
"""Steps in a row without any solved block after which a run ends: the solver fails then, and not a block."""

MOST_REASONS = 20
"""Different reasons of failures that are told one by one."""

KNOWN: Mapping[str, checks.Kind] = {
    "steps": checks.is_whole,
    "seconds": checks.is_number,
    "solved": checks.is_whole,
    "events": checks.is_text,
    "outcome": checks.is_object,
}
"""What a checkpoint says of the run itself."""

SEPARATOR = "  "
"""What stands between the parts of a step's words."""

TRAINING = "training"
"""How the kinds of work are called whose steps are epochs: of a training of what was kept, or of a control."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """A step of a run, for those who show how far it is.

    done, total : steps; total is None where it is open;  words : what became of it
    left : seconds that the others will take, where the coordinator knows what each costs
    work : of which kind of work, "" for the usual; steps of another kind are counted anew
    """

    done: int
    total: int | None
    words: str
    left: float | None = None
    work: str = ""

    @property
    def line(self) -> str:
        """The step as a line of text."""
        name = "epoch" if self.work.startswith(TRAINING) else "step"
        return f"{name} {self.done}{f'/{self.total}' if self.total else ''}  {self.words}"


Progress = Callable[[Step], None]
"""Takes each step once it is logged."""


def shown_by(say: Say, progress: Progress | None) -> Progress:
    """Who takes steps: `progress`, or where there is none `say`, as lines."""
    return (lambda step: say(step.line)) if progress is None else progress


Validate = Callable[[RealArray], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Drive:
    """How a coordinator is driven.

    seed : of the solvers;  seconds : for the whole run;  block_budget : for each block;
    workers : where blocks are solved;  validate : measures of weights, for the log only, every
    `validate_every` steps (its time is not counted);  finish_step : whether Ctrl-C lets the step under
    way end;  blas_threads : for each block's solver, None for what its size pays for;  trust : whether a checkpoint
    without a seal is taken;  progress : takes every step as a value, in place of a line that is said;  shared : who
    computes passes over samples elsewhere, None where nobody does
    """

    seed: int
    seconds: float = float("inf")
    block_budget: Budget = field(default_factory=Budget)
    workers: Workers = field(default_factory=Inline)
    validate: Validate | None = None
    validate_every: int = 0
    finish_step: bool = True
    blas_threads: int | None = 1
    trust: bool = False
    progress: Progress | None = None
    shared: Shared | None = None


def drive(coordinator: Coordinator, solver: SolverLike, run: RunDirectory, how: Drive, say: Say) -> dict[str, Any]:
    """Run a coordinator to its end, continuing from the run directory's checkpoint if there is one.

    A block that is not solved is counted, and the state from before the first such block is kept beside the
    checkpoint: resuming begins there.

    Returns
    -------
    dict   "solve_seconds", "steps", "unsolved" blocks and "failures" (how many by reason), and the objective, bound
           and status of the last task

    Raises
    ------
    Interrupted   Ctrl-C or SIGTERM: the step under way is finished, a second one drops it; the message says how to
                  resume
    RunFailed     the coordinator cannot go on without a block that was not solved, no block of a step was solved and
                  none before or MOST_LOST steps in a row, or the time limit ended the run short of the density
    WorkersGone   there is nobody left to solve blocks; the message says how to resume
    """
    log = _Log(run, say)
    log.open(coordinator, how.trust)
    how = log.granted(how)
    try:
        with deferred(how.finish_step) as interrupted:
            while not interrupted.is_set():
                if how.seconds - log.seconds <= 0.0:
                    say(f"time limit of {how.seconds:g} s reached")
                    break
                tasks = coordinator.ask(max(1, how.workers.width))
                if tasks:
                    _solve(coordinator, solver, tasks, how, log)
                elif not _advance(coordinator, solver, how, log):
                    break
            if interrupted.is_set():
                raise KeyboardInterrupt
            log.save(coordinator)
    except KeyboardInterrupt:
        if not log.telling:
            log.save(coordinator)
        raise Interrupted(f"interrupted; the steps done are kept. Resume with: {log.resume}") from None
    except WorkersGone as error:
        log.save(coordinator)
        raise WorkersGone(f"{error}; the steps done are kept. Resume with: {log.resume}") from error
    if not coordinator.complete:
        log.save(coordinator)
        raise log.failed(
            f"the time limit of {how.seconds:g} s ended the run after {log.steps} of {coordinator.total_steps} steps, "
            f"short of the density; resuming gives it the same time again"
        )
    return {"solve_seconds": log.seconds, "steps": log.steps, **log.losses, **log.outcome}


def _solve(coordinator: Coordinator, solver: SolverLike, tasks: list[Task], how: Drive, log: "_Log") -> None:
    """Have tasks solved and tell the coordinator; with the last of a step, log it."""
    budget = Budget(
        seconds=max(0.0, min(how.seconds - log.seconds, how.block_budget.seconds)),
        evaluations=how.block_budget.evaluations,
        gap=how.block_budget.gap,
    )
    jobs = [Job(task.block, solver, budget, task_seed(how.seed, task.position), how.blas_threads) for task in tasks]
    for task, (given, reason) in zip(tasks, how.workers.answers(jobs, log.say, answer_job), strict=True):
        answer = None if isinstance(given, Failed) else given
        reason = given.reason if isinstance(given, Failed) else reason
        if answer is not None and answer.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        if answer is None:
            log.lose(coordinator, task, reason)
        log.note(task, answer, reason)
        log.telling = True
        try:
            move = coordinator.tell(task, answer)
        except InvalidInput:
            raise
        except PrunebenchError as error:
            raise log.failed(f"{error}: {reason}" if reason else str(error)) from error
        if move is not None:
            log.step(coordinator, solver, move, how)
        log.telling = False


def _advance(coordinator: Coordinator, solver: SolverLike, how: Drive, log: "_Log") -> bool:
    """Let the coordinator make a step that needs no solver, and log it; whether there was one."""
    log.telling = True
    try:
        move = coordinator.advance()
    except InvalidInput:
        raise
    except PrunebenchError as error:
        raise log.failed(str(error)) from error
    if move is not None:
        log.step(coordinator, solver, move, how)
    log.telling = False
    return move is not None


class _Log:
    """The events and checkpoints of one run, and its clock, which continues where the checkpoint stood."""

    def __init__(self, run: RunDirectory, say: Say) -> None:
        self.run, self.say = run, say
        self.steps = 0
        self.outcome: dict[str, Any] = {}
        self.telling = False
        """Whether an answer is being applied or a step made: an interrupt then leaves a state that is no checkpoint."""
        self._before = 0.0
        self._excluded = 0.0
        self._started = perf_counter()
        self._next_save = 0.0
        self._tasks: list[dict[str, Any]] = []
        self._failures: Counter[str] = Counter()
        self._solved = 0
        self._lost_in_a_row = 0

    @property
    def seconds(self) -> float:
        """Seconds of the run so far, validation left out."""
        return self._before + perf_counter() - self._started - self._excluded

    @property
    def resume(self) -> str:
        """The command that continues the run."""
        return resume_line(self.run.path, self.run.request)

    @property
    def losses(self) -> dict[str, Any]:
        """How many blocks were not solved, and how many by reason; beyond MOST_REASONS they are told together."""
        common = self._failures.most_common(MOST_REASONS)
        rest = self._failures.total() - sum(count for _, count in common)
        failures = {**dict(common), **({"other reasons": rest} if rest else {})}
        return {"unsolved": self._failures.total(), "failures": failures}

    def open(self, coordinator: Coordinator, trust: bool) -> None:
        """Load the checkpoint, if any, and drop the events that it does not know of.

        trust : take a checkpoint without a seal

        Raises
        ------
        InvalidInput   the checkpoint or the events are not what this run wrote
        """
        held = self.run.load_state(trust)
        digest = None
        if held is not None:
            arrays, info = held
            try:
                known = info["run"]
                checks.require(known, KNOWN, ("steps", "seconds", "outcome"), "run")
                coordinator.load_state_dict(arrays, info)
            except (KeyError, ValueError, TypeError, OverflowError, AttributeError) as error:
                missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
                raise InvalidInput(
                    f"{self.run.path}/state/{CHECKPOINT} does not fit what run.json asks for: {missing}; to begin "
                    f"anew, remove it, then {self.resume}"
                ) from error
            self.steps, self._before, self.outcome = int(known["steps"]), float(known["seconds"]), known["outcome"]
            self._solved, digest = int(known.get("solved", 0)), known.get("events")
            self.say(f"continuing after step {self.steps}")
        self.run.truncate_events(self.steps, digest)

    def granted(self, how: Drive) -> Drive:
        """The same, with its time over again if all of it is used: a resumed run may take as long once more."""
        return replace(how, seconds=how.seconds + self.seconds) if self._before >= how.seconds else how

    def lose(self, coordinator: Coordinator, task: Task, reason: str) -> None:
        """Note a block that was not solved; the first time, keep the state that resuming begins from."""
        if not self._failures:
            self._write(coordinator, BEFORE_LOSS)
        self._failures[reason] += 1
        self.say(f"{task.block.name} was not solved: {reason}")

    def failed(self, message: str) -> RunFailed:
        """The error of a run that stops here, after writing result.json that says so."""
        words = f"{message}. What is done is kept. Resume with: {self.resume}"
        asked = {name: self.run.request[name] for name in ("problem", "coordinator", "solver", "density", "seed")}
        result = {"outcome": "failed", "error": words, **asked, "steps": self.steps, "seconds": self.seconds}
        result |= {**self.losses, "run": str(self.run.path)}
        self.run.conclude(result)
        return RunFailed(words, result)

    def note(self, task: Task, solution: Solution | None, reason: str) -> None:
        """Remember what the step's event will say of this task."""
        row: dict[str, Any] = {"block": task.label, "block_hash": task.block.hash, "p": task.block.p}
        if solution is None:
            row |= {"status": "unsolved", "stop_reason": reason}
        else:
            self._solved += 1
            self.outcome = {
                "objective": solution.objective,
                "lower_bound": solution.lower_bound,
                "status": str(solution.status),
            }
            row |= {**self.outcome, "stop_reason": solution.stop_reason, "timings": solution.timings}
        self._tasks.append(row)

    def step(self, coordinator: Coordinator, solver: SolverLike, move: Move, how: Drive) -> None:
        """Write the step's event, then the checkpoint."""
        self.steps += 1
        event: dict[str, Any] = {
            "time": self.seconds,
            "step": self.steps,
            "solver": solver.name,
            "accepted": move.accepted,
            "predicted_change": move.predicted_change,
            "changed": move.changed,
            "kept": int(np.count_nonzero(coordinator.mask)),
            **move.details,
            "tasks": self._tasks,
        }
        if how.shared is not None and (spent := how.shared.spent()):
            event["workers"] = spent
        lost = bool(self._tasks) and all(row["status"] == "unsolved" for row in self._tasks)
        self._lost_in_a_row = self._lost_in_a_row + 1 if lost else 0
        reason = str(self._tasks[-1]["stop_reason"]) if lost else ""
        self._tasks = []
        if how.validate is not None and how.validate_every and self.steps % how.validate_every == 0:
            clock = perf_counter()
            event["validation"] = dict(how.validate(coordinator.best()[1]))
            event["validation_seconds"] = perf_counter() - clock
            self._excluded += event["validation_seconds"]
        self.run.event(event)
        self.telling = False
        if perf_counter() >= self._next_save:
            self.save(coordinator)
        self._report(coordinator, move, event, how.progress)
        if lost and (self._solved == 0 or self._lost_in_a_row >= MOST_LOST):
            which = (
                "no block was solved" if self._solved == 0 else f"{self._lost_in_a_row} steps in a row solved nothing"
            )
            raise self.failed(f"{which}: {reason}")

    def save(self, coordinator: Coordinator) -> None:
        """Write the checkpoint; the next one is due when this one's cost is a small part of the time since."""
        started = perf_counter()
        self._write(coordinator, CHECKPOINT)
        cost = perf_counter() - started
        self._next_save = perf_counter() + max(CHECKPOINT_SECONDS, CHECKPOINT_RATIO * cost)

    def _write(self, coordinator: Coordinator, name: str) -> None:
        arrays, state = coordinator.state_dict()
        known = {
            "steps": self.steps,
            "seconds": self.seconds,
            "outcome": self.outcome,
            "solved": self._solved,
            "events": self.run.events_digest,
        }
        self.run.save_state(arrays, {**state, "run": known}, name)

    def _report(self, coordinator: Coordinator, move: Move, event: dict[str, Any], progress: Progress | None) -> None:
        total = coordinator.total_steps
        words = []
        if "kind" in move.details:
            words.append(str(move.details["kind"]))
        if move.predicted_change is not None:
            words.append(f"predicted {move.predicted_change:+.3e}")
        if "true_change" in move.details:
            words.append(f"true {move.details['true_change']:+.3e}")
        words.append(f"{'accepted' if move.accepted else 'rejected'}, {move.changed} changed")
        if "validation" in event:
            words += [f"{name} {value:.4f}" for name, value in event["validation"].items()]
        step = Step(self.steps, total or None, SEPARATOR.join(words), coordinator.seconds_left)
        shown_by(self.say, progress)(step)
