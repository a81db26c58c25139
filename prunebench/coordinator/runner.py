"""Drive a coordinator: have its tasks solved, log every step, checkpoint, stop cleanly."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from prunebench.coordinator.executors import Inline, Job, Workers
from prunebench.coordinator.state import Coordinator, Move, Task, task_seed
from prunebench.core.arrays import RealArray
from prunebench.core.errors import Interrupted
from prunebench.core.solution import Budget, Solution, Status
from prunebench.core.solver import Solver
from prunebench.log.run_directory import RunDirectory, resume_line

CHECKPOINT_SECONDS, CHECKPOINT_RATIO = 1.0, 50.0
"""A checkpoint is written at most this often, and takes at most one part in this many of the time."""

Say = Callable[[str], None]
Validate = Callable[[RealArray], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Drive:
    """How a coordinator is driven.

    seed : of the solvers;  seconds : for the whole run;  block_budget : for each block;
    workers : where blocks are solved;  validate : measures of weights, for the log only, every
    `validate_every` steps (its time is not counted);  finish_step : whether Ctrl-C lets the step under
    way end;  blas_threads : for each block's solver, None for all
    """

    seed: int
    seconds: float = float("inf")
    block_budget: Budget = field(default_factory=Budget)
    workers: Workers = field(default_factory=Inline)
    validate: Validate | None = None
    validate_every: int = 0
    finish_step: bool = True
    blas_threads: int | None = 1


def drive(coordinator: Coordinator, solver: Solver, run: RunDirectory, how: Drive, say: Say) -> dict[str, Any]:
    """Run a coordinator to its end, continuing from the run directory's checkpoint if there is one.

    Returns
    -------
    dict   "solve_seconds", and the objective, bound and status of the last task

    Raises
    ------
    Interrupted   Ctrl-C: the step under way is finished, a second one drops it; the message says how to resume
    """
    log = _Log(run, say)
    log.open(coordinator)
    try:
        with _interrupts(how.finish_step) as interrupted:
            while not interrupted.is_set():
                left = how.seconds - log.seconds
                if left <= 0.0:
                    say(f"time limit of {how.seconds:g} s reached")
                    break
                tasks = coordinator.ask(max(1, how.workers.width))
                if not tasks:
                    break
                budget = Budget(
                    seconds=min(left, how.block_budget.seconds),
                    evaluations=how.block_budget.evaluations,
                    gap=how.block_budget.gap,
                )
                jobs = [
                    Job(task.block, solver, budget, task_seed(how.seed, task.position), how.blas_threads)
                    for task in tasks
                ]
                for task, (solution, reason) in zip(tasks, how.workers.answers(jobs, say), strict=True):
                    if solution is not None and solution.status is Status.INTERRUPTED:
                        raise KeyboardInterrupt
                    log.note(task, solution, reason)
                    move = coordinator.tell(task, solution)
                    if move is not None:
                        log.step(coordinator, solver, move, how)
            if interrupted.is_set():
                raise KeyboardInterrupt
            log.save(coordinator)
    except KeyboardInterrupt:
        log.save(coordinator)
        raise Interrupted(f"interrupted; the steps done are kept. Resume with: {resume_line(run.path)}") from None
    return {"solve_seconds": log.seconds, "steps": log.steps, **log.outcome}


class _Log:
    """The events and checkpoints of one run, and its clock, which continues where the checkpoint stood."""

    def __init__(self, run: RunDirectory, say: Say) -> None:
        self.run, self.say = run, say
        self.steps = 0
        self.outcome: dict[str, Any] = {}
        self._before = 0.0
        self._excluded = 0.0
        self._started = perf_counter()
        self._next_save = 0.0
        self._tasks: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        """Seconds of the run so far, validation left out."""
        return self._before + perf_counter() - self._started - self._excluded

    def open(self, coordinator: Coordinator) -> None:
        """Load the checkpoint, if any, and drop the events that it does not know of."""
        held = self.run.load_state()
        if held is not None:
            coordinator.load_state_dict(*held)
            known = held[1]["run"]
            self.steps, self._before, self.outcome = int(known["steps"]), float(known["seconds"]), known["outcome"]
            self.say(f"continuing after step {self.steps}")
        self.run.truncate_events(self.steps)

    def note(self, task: Task, solution: Solution | None, reason: str) -> None:
        """Remember what the step's event will say of this task."""
        row: dict[str, Any] = {"block": task.label, "block_hash": task.block.hash, "p": task.block.p}
        if solution is None:
            row |= {"status": "unsolved", "stop_reason": reason}
        else:
            self.outcome = {
                "objective": solution.objective,
                "lower_bound": solution.lower_bound,
                "status": str(solution.status),
            }
            row |= {**self.outcome, "stop_reason": solution.stop_reason, "timings": solution.timings}
        self._tasks.append(row)

    def step(self, coordinator: Coordinator, solver: Solver, move: Move, how: Drive) -> None:
        """Write the step's event, then the checkpoint."""
        self.steps += 1
        event: dict[str, Any] = {
            "time": self.seconds,
            "step": self.steps,
            "solver": solver.name,
            "accepted": move.accepted,
            "predicted_change": move.predicted_change,
            "changed": move.changed,
            "kept": int(coordinator.mask.sum()),
            **move.details,
            "tasks": self._tasks,
        }
        self._tasks = []
        if how.validate is not None and how.validate_every and self.steps % how.validate_every == 0:
            clock = perf_counter()
            event["validation"] = dict(how.validate(coordinator.best()[1]))
            event["validation_seconds"] = perf_counter() - clock
            self._excluded += event["validation_seconds"]
        self.run.event(event)
        if perf_counter() >= self._next_save:
            self.save(coordinator)
        self._report(coordinator, move, event)

    def save(self, coordinator: Coordinator) -> None:
        """Write the checkpoint; the next one is due when this one's cost is a small part of the time since."""
        started = perf_counter()
        arrays, state = coordinator.state_dict()
        known = {"steps": self.steps, "seconds": self.seconds, "outcome": self.outcome}
        self.run.save_state(arrays, {**state, "run": known})
        cost = perf_counter() - started
        self._next_save = perf_counter() + max(CHECKPOINT_SECONDS, CHECKPOINT_RATIO * cost)

    def _report(self, coordinator: Coordinator, move: Move, event: dict[str, Any]) -> None:
        total = coordinator.total_steps
        of = f"/{total}" if total else ""
        words = [f"step {self.steps}{of}", f"predicted {move.predicted_change:+.3e}"]
        if "true_change" in move.details:
            words.append(f"true {move.details['true_change']:+.3e}")
        words.append(f"{'accepted' if move.accepted else 'rejected'}, {move.changed} changed")
        if "validation" in event:
            words += [f"{name} {value:.4f}" for name, value in event["validation"].items()]
        if total and self.steps < total:
            words.append(f"{self.seconds / self.steps * (total - self.steps):.0f} s to go")
        self.say("  ".join(words))


@contextmanager
def _interrupts(finish_step: bool) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second interrupts at once. Only the main thread can listen."""
    asked = threading.Event()
    if not finish_step or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(_number: int, _frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
