"""Drive a coordinator: solve what it asks for, log every step, checkpoint, stop cleanly."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

from prunebench.coordinator.state import Coordinator, task_seed
from prunebench.core.errors import Interrupted
from prunebench.core.solution import Budget, Status
from prunebench.core.solver import Solver, solve
from prunebench.log.run_directory import RunDirectory, resume_line

Say = Callable[[str], None]


def drive(
    coordinator: Coordinator, solver: Solver, run: RunDirectory, *, budget: Budget, seed: int, say: Say
) -> dict[str, Any]:
    """Run a coordinator to its end, continuing from the run directory's checkpoint if there is one.

    Returns
    -------
    dict   seconds by phase and the last task's objective and bound

    Raises
    ------
    Interrupted   Ctrl-C; the steps done are kept and the message says how to resume
    """
    held = run.load_state()
    info: dict[str, Any] = {}
    if held is not None:
        coordinator.load_state_dict(*held)
        info = held[1].get("run", {})
    run.truncate_events(int(info.get("events", 0)))
    seconds_before = float(info.get("seconds", 0.0))
    outcome: dict[str, Any] = dict(info.get("outcome", {}))
    events = int(info.get("events", 0))
    started = perf_counter()
    try:
        while tasks := coordinator.ask(1):
            for task in tasks:
                elapsed = seconds_before + perf_counter() - started
                left = Budget(
                    seconds=max(0.0, budget.seconds - elapsed), evaluations=budget.evaluations, gap=budget.gap
                )
                of = f"/{coordinator.total_tasks}" if coordinator.total_tasks else ""
                say(f"block {task.position + 1}{of} {task.label}: p={task.block.p}, keep={task.block.keep}")
                solution = solve(task.block, solver, budget=left, seed=task_seed(seed, task.position))
                if solution.status is Status.INTERRUPTED:
                    raise KeyboardInterrupt
                move = coordinator.tell(task, solution)
                elapsed = seconds_before + perf_counter() - started
                outcome = {"objective": solution.objective, "lower_bound": solution.lower_bound}
                outcome["status"] = str(solution.status)
                run.event(
                    {
                        "time": elapsed,
                        "step": task.position,
                        "block": task.label,
                        "block_hash": task.block.hash,
                        "p": task.block.p,
                        "solver": solver.name,
                        **outcome,
                        "stop_reason": solution.stop_reason,
                        "predicted_change": move.predicted_change,
                        "accepted": move.accepted,
                        "changed": move.changed,
                        "kept": int(coordinator.mask.sum()),
                        "timings": solution.timings,
                    }
                )
                events += 1
                arrays, state = coordinator.state_dict()
                run.save_state(arrays, {**state, "run": {"events": events, "seconds": elapsed, "outcome": outcome}})
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; the steps done are kept. Resume with: {resume_line(run.path)}") from None
    return {"solve_seconds": seconds_before + perf_counter() - started, **outcome}
