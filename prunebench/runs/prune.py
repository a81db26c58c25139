"""Prune a whole problem: prepare what is asked for, run it in a run directory, continue one that was interrupted."""

import dataclasses
from pathlib import Path
from typing import Any

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import ProblemLike, options_as_json
from prunebench.core.subset import OfSubset, whole
from prunebench.core.trust import require_trust
from prunebench.log.run_directory import RunDirectory, file_name, next_free, resume_line
from prunebench.quiet import quiet
from prunebench.runs.execution import execute
from prunebench.runs.executors import leave_import_by_worker
from prunebench.runs.preparation import Prepared, prepare
from prunebench.runs.request import PruneRequest
from prunebench.runs.runner import Progress, Say
from prunebench.signals import terminable

__all__ = ["PruneRequest", "prune", "resume"]


@quiet()
def prune(
    request: PruneRequest,
    *,
    out: Path | None = None,
    say: Say = lambda _line: None,
    problem: ProblemLike | None = None,
    network: Any = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Prune a problem from the start and return the result as JSON-able values (see the command line's documentation).

    Parameters
    ----------
    request : what to do
    out : the run directory; by default runs/PROBLEM-SOLVER-NNN below the working directory
    say : called with one line of progress at a time
    problem : the object, where the request names a network that only a program can make
    network : the problem's, where it is loaded already, dense; it is pruned in place
    progress : takes every step as a value, in place of a line

    Raises
    ------
    InvalidInput   before any work is done or file written, where the request is wrong
    Interrupted    Ctrl-C or SIGTERM; the message says how to resume
    RunFailed      a solver failed, workers died, or nothing was solved: what was lost stands in the error's `result`
                   and in result.json, and resuming solves it again
    WorkersGone    worker processes do not start, or the scheduler is lost
    CannotWrite    a file of the run cannot be written: disk full, read-only
    """
    leave_import_by_worker()
    with terminable():
        prepared = prepare(request, say, problem=problem, network=network, progress=progress)
        try:
            prepared.how.workers.start()
            folder = out or next_free(Path("runs"), f"{file_name(request.problem)}-{request.solver}")
            run = RunDirectory.create(folder, identified(prepared).as_json(), request.seed)
        except BaseException:
            prepared.how.workers.close()
            raise
        try:
            return execute(prepared, run)
        except InvalidInput:
            run.remove_if_unused()
            raise
        finally:
            run.release()


def identified(prepared: Prepared) -> PruneRequest:
    """The request as a run directory holds it: of a user's own network with what tells it from others."""
    held = prepared.setting.problem
    if isinstance(held, OfSubset):
        prepared = dataclasses.replace(
            prepared, request=dataclasses.replace(prepared.request, subset_hash=held.subset.hash)
        )
    problem = whole(held)
    if getattr(problem, "fingerprint", None) is None:
        return prepared.request
    return dataclasses.replace(prepared.request, problem_options=options_as_json(problem))


@quiet()
def resume(
    path: Path,
    *,
    say: Say = lambda _line: None,
    trust: bool = False,
    executor: str | None = None,
    problem: ProblemLike | None = None,
    network: Any = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Continue a run directory to the result an uninterrupted run gives; a finished one returns its result.

    A run that lost blocks goes back to before the first of them.

    Parameters
    ----------
    path : the run directory
    trust : the run directory is the user's own or of somebody trusted: options that name code are followed, and
            a checkpoint without a seal is taken
    executor : where blocks are solved, instead of where the run was asked to; the result is the same
    problem, network, progress : as `prune`

    Raises
    ------
    InvalidInput   not a run directory, somebody else writes to it, it is damaged, or it names code and is not trusted
    Others         as `prune`
    """
    leave_import_by_worker()
    run = RunDirectory.open(path)
    request = PruneRequest.from_json(run.request, path / "run.json")
    done = run.result()
    if done is not None and run.finished:
        run.require_own("mask.safetensors")
        say(f"{path} is finished; nothing is left to do")
        return {**done, "run": str(path)}
    if executor is not None:
        request = dataclasses.replace(request, executor=executor)
    if not trust:
        # An executor given here is the user's own word.
        asked = {**request.as_json(), "executor": request.executor if executor is None else None}
        require_trust(asked, path, f"{resume_line(path)} --trust")
    with terminable():
        run.hold(say)
        try:
            if run.forget_losses():
                say("going back to before the first block that was not solved")
            prepared = prepare(request, say, trust=trust, problem=problem, network=network, progress=progress)
            try:
                prepared.how.workers.start()
                run.withdraw_result()
                return execute(prepared, run)
            finally:
                prepared.how.workers.close()
        finally:
            run.release()
