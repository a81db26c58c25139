"""Do a study: load the network, run it, and leave what it found in a run directory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from prunebench import threads
from prunebench.comparison.cache import AnswerCache
from prunebench.core.errors import Interrupted
from prunebench.core.problem import make_problem
from prunebench.log.run_directory import RunDirectory, file_name, next_free, require_free
from prunebench.quiet import quiet
from prunebench.runs.executors import make_workers
from prunebench.runs.runner import Step
from prunebench.signals import terminable
from prunebench.studies.study import Request, Say, Setting, Study


@quiet()
def study(
    question: Study,
    problem: str,
    problem_options: Mapping[str, Any] | None = None,
    *,
    out: Path | str | None = None,
    executor: str | None = None,
    cache: bool = True,
    say: Say = lambda _line: None,
    progress: Callable[[Step], None] = lambda _step: None,
) -> dict[str, Any]:
    """Do a study of a network and write what it finds into a run directory.

    Parameters
    ----------
    question : such as prunebench.studies.oracle.Oracle(density=0.1)
    problem, problem_options : a registered network with labels, or FILE.py:FUNCTION that makes one
    out : the directory; by default runs/STUDY-PROBLEM-NNN below the working directory
    executor : where blocks are solved: inline (the default), local:N or dask:ADDRESS
    cache : whether answers of earlier studies and comparisons are taken for the same blocks
    say, progress : take lines, and how far the work is

    Returns
    -------
    dict   the contents of result.json: values, grids (tables), plots, notes, seconds; and "run", the directory

    Raises
    ------
    InvalidInput   before any work is lost: the study has no meaning for this network, or an option cannot be
    Interrupted    Ctrl-C; nothing is kept, since a study is short
    """
    request = Request(question, problem, dict(problem_options or {}), executor, cache)
    made = question.require(make_problem(problem, request.problem_options))
    workers = make_workers(executor)
    folder = Path(out) if out is not None else next_free(Path("runs"), f"{question.name}-{file_name(problem)}")
    require_free(folder)
    from prunebench.networks.chosen import prunable_network

    run = RunDirectory.create(folder, request.as_json(), question.seed)
    began = perf_counter()

    def told(words: str, done: int, total: int) -> None:
        progress(Step(done, total, words, work=words))

    try:
        with terminable():
            network = prunable_network(made)
            answers = AnswerCache.of_user(say) if cache else AnswerCache(None)
            setting = Setting(made, network, workers, answers, say, told)
            with threads.for_network(threads.few(network.model, made.validation())):
                found = question.run(setting)
        run.conclude({
            "kind": "study", "study": question.name, "problem": problem, "question": question.summary,
            "reference": question.reference, "seconds": perf_counter() - began, **found.as_json(),
        })  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; nothing of study {question.name} is kept: ask for it again") from None
    finally:
        workers.close()
        run.release()
        run.remove_if_unused()
    return {**(run.result() or {}), "run": str(folder)}
