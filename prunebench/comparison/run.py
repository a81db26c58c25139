"""Run a comparison: every solver on the same blocks, each cell once, resumable."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from prunebench.comparison import table
from prunebench.comparison.blocks import Entry, entries_of, given
from prunebench.comparison.cache import AnswerCache
from prunebench.comparison.request import CompareRequest, SolverChoice, with_baselines
from prunebench.comparison.retrained import Retrained
from prunebench.comparison.true_loss import TrueLoss
from prunebench.comparison.work import Outcome, attempt, failure, reason_of
from prunebench.comparison.writing import Judge, Writer, whole_blocks
from prunebench.core.block import BlockProblem
from prunebench.core.errors import Interrupted, InvalidInput, MissingPackage
from prunebench.core.group_block import GroupBlock
from prunebench.core.problem import NetworkProblem, ProblemLike, options_as_json, require_data
from prunebench.core.registry import PROBLEMS
from prunebench.core.solution import Budget
from prunebench.core.solver import SolverLike, facts
from prunebench.core.trust import require_trust
from prunebench.log.run_directory import RunDirectory, file_name, next_free, resume_line
from prunebench.recovery.training.halving import require_ranking
from prunebench.recovery.training.protocol import parse
from prunebench.runs.executors import Job, Workers, make_workers
from prunebench.runs.retraining import require_trainable
from prunebench.signals import terminable
from prunebench.solving import native_or_refit

if TYPE_CHECKING:
    import pandas

Say = Callable[[str], None]

TOLD_SECONDS = 2.0
"""Progress is told at most this often."""


@dataclass(frozen=True)
class Cell:
    """One solver on one block with one seed."""

    entry: Entry
    choice: SolverChoice
    solver: SolverLike | None
    seed: int
    missing: str = ""
    """Why the solver cannot be made, where it cannot."""

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells this cell from all others of the comparison."""
        return (self.entry.block.hash, self.choice.label, self.seed)


def compare(
    problem: "str | ProblemLike | Sequence[BlockProblem]",
    solvers: "Sequence[str | SolverChoice | SolverLike | Any]" = (),
    *,
    out: Path | str | None = None,
    say: Say = lambda _line: None,
    **wanted: Any,
) -> "pandas.DataFrame":
    """Let solvers compete for the same blocks and return one table.

    Parameters
    ----------
    problem : registered name (with `problem_options`), a registered problem object, a network of your own
              (`prunebench.own_network`, or FILE.py:FUNCTION that makes one), or block problems
    solvers : names ("anneal", "anneal:sweeps=50"), `SolverChoice`s, solver objects or classes, dimod samplers
              or their classes; random sampling, greedy elimination and multi-start swap descent are added.
              A comparison with an object that no file holds (a sampler) is not cached and cannot be resumed
    out : the run directory; by default runs/compare-PROBLEM-NNN below the working directory
    say : called with one line of progress at a time
    wanted : the other fields of `prunebench.comparison.request.CompareRequest`: sizes, densities, blocks,
             seeds, select, mode, curvature, time_limit, target, executor, true_loss, retrain, cache, seed

    Returns
    -------
    DataFrame   a row for each block, solver and seed (`prunebench.comparison.table.COLUMNS`); its
                `attrs["directory"]` names the run directory, `attrs["skipped"]` counts rows without an answer,
                `attrs["failed"]` those of them whose solver failed

    Raises
    ------
    InvalidInput   before any work is done, where the request is wrong
    Interrupted    Ctrl-C; the message says how to resume
    """
    blocks, made = None, None
    options = dict(wanted.pop("problem_options", {}))
    if isinstance(problem, str):
        name = problem
    elif isinstance(problem, Sequence):
        name, blocks = "", list(cast("Sequence[BlockProblem]", problem))
        if not blocks:
            raise InvalidInput("there are no blocks to compare on; give at least one")
        if any(isinstance(block, GroupBlock) for block in blocks):
            raise InvalidInput(
                "a comparison is of blocks of single weights; solve group blocks one by one with prunebench.solve, or "
                "take benchmarks/groups.py as a pattern"
            )
        wanted |= {"sizes": tuple(sorted({block.p for block in blocks})), "blocks": len(blocks), "true_loss": False}
        wanted.setdefault("mode", blocks[0].mode)
    else:
        name, options = problem.name, options_as_json(problem)
        if getattr(problem, "fingerprint", None) is None:
            PROBLEMS.get(name)
        else:
            made = problem
    for key in ("sizes", "densities"):
        if key in wanted:
            wanted[key] = tuple(wanted[key])
    request = CompareRequest(problem=name, solvers=with_baselines(solvers), problem_options=options, **wanted)
    request.holding(made)
    checked = _check(request)
    folder = Path(out) if out is not None else next_free(Path("runs"), f"compare-{file_name(name or 'blocks')}")
    run = RunDirectory.create(folder, request.as_json(), request.seed)
    try:
        with terminable():
            entries = _entries(request, run, say, blocks)
            return _execute(request, run, entries, checked, say)
    except InvalidInput:
        run.remove_if_unused()
        raise
    finally:
        run.release()


def resume(path: Path, *, say: Say = lambda _line: None, trust: bool = False) -> "pandas.DataFrame":
    """Continue an interrupted comparison; what is solved is not solved again. A finished one gives its table.

    trust : the directory is the user's own or of somebody trusted: options that name code are followed

    Raises
    ------
    InvalidInput   not a comparison's run directory, somebody else writes to it, it is damaged, or it names code and
                   is not trusted
    """
    run = RunDirectory.open(path)
    request = CompareRequest.from_json(run.request, str(path))
    if run.result() is not None:
        say(f"{path} is finished; nothing is left to do")
        return table.read(path)
    if not trust:
        require_trust(run.request, path, f"{resume_line(path)} --trust")
    run.hold(say)
    try:
        with terminable():
            return _execute(request, run, _entries(request, run, say, None), _check(request), say)
    finally:
        run.release()


def _check(request: CompareRequest) -> Workers:
    """Refuse what can be refused before any work: unknown names and options, missing data, a wrong executor."""
    for choice in request.solvers:
        try:
            choice.make()
        except MissingPackage:
            continue
    if request.problem:
        require_data(request.problem_made())
    if request.retrain is not None:
        if not request.problem:
            raise InvalidInput(
                "blocks that are given belong to no network, so nothing can be trained; leave retrain out"
            )
        problem, protocol = request.problem_made(), parse(request.retrain)
        require_trainable(problem, protocol, of_groups=False)
        if request.finalists == "halving":
            assert isinstance(problem, NetworkProblem)
            require_ranking(problem, protocol)
    return make_workers(request.executor)


def _entries(
    request: CompareRequest, run: RunDirectory, say: Say, blocks: Sequence[BlockProblem] | None
) -> list[Entry]:
    folder = run.path / "blocks"
    if blocks is not None:
        return given(blocks, folder)
    return entries_of(request, folder, say)


def _cells(request: CompareRequest, entries: Sequence[Entry]) -> Iterator[Cell]:
    """Block by block, seed by seed, so that an unfinished comparison has whole blocks to show."""
    made: list[tuple[SolverChoice, SolverLike | None, str]] = []
    for choice in request.solvers:
        try:
            made.append((choice, choice.make(), ""))
        except MissingPackage as error:
            made.append((choice, None, str(error)))
    for entry in entries:
        for seed in range(request.seeds):
            for choice, solver, missing in made:
                if seed and (solver is None or not facts(solver).stochastic):
                    continue
                yield Cell(entry, choice, solver, seed, missing)


def _execute(
    request: CompareRequest, run: RunDirectory, entries: Sequence[Entry], workers: Workers, say: Say
) -> "pandas.DataFrame":
    cells = list(_cells(request, entries))
    # A killed run may have left half a line, to which the next one would be appended.
    run.truncate_events(
        len(run.events())
        if request.finalists == "all"
        else whole_blocks(_rows(run, entries), [cell.entry for cell in cells])
    )
    done = {(row["block_hash"], row["solver"], row["seed"]) for row in _rows(run, entries)}
    waiting = [cell for cell in cells if cell.key not in done]
    say(f"{len(cells)} solves on {len(entries)} blocks, {len(cells) - len(waiting)} of them done before")
    cache = AnswerCache.of_user(say) if request.cache else AnswerCache(None)
    failures = _Failures(say)
    judge, retrained = _judge(request), _retrained(request)
    writer = Writer(request, run, judge, retrained, waiting)
    began = told = perf_counter()
    finished = 0
    try:
        queue = iter(waiting)
        while batch := list(islice(queue, max(1, workers.width))):
            for cell, outcome, cached in _solve(batch, request, workers, cache, say):
                failures.note(cell.choice.label, outcome)
                writer.take(cell, outcome, cached)
                finished += 1
            if perf_counter() - told >= TOLD_SECONDS:
                told = perf_counter()
                rest = (told - began) / finished * (len(waiting) - finished)
                last = batch[-1]
                say(
                    f"{len(cells) - len(waiting) + finished}/{len(cells)}  block {last.entry.index} "
                    f"(p={last.entry.block.p}, keep={last.entry.block.keep})  {last.choice.label}  "
                    f"about {rest:.0f} s left"
                )
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; the {len(done) + writer.written} solves done are kept{writer.whole}. Resume with: "
            f"{resume_line(run.path, run.request)}"
        ) from None
    finally:
        workers.close()
    rows = run.events()
    frame = table.finished(rows, request.time_limit, request.target)
    failed = int(frame["failed"].sum())
    if failed:
        say(f"{failed} of {len(rows)} solves failed; their rows say why")
    run.finish_table(frame, {"kind": "compare", "rows": len(rows), "failed": failed, "seconds": perf_counter() - began})
    return table.read(run.path)


class _Failures:
    """Tells each solver's failure once, as it happens."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._told: set[tuple[str, str]] = set()

    def note(self, label: str, outcome: Outcome) -> None:
        """Take in what became of a solve."""
        if outcome.failed and (label, outcome.skipped) not in self._told:
            self._told.add((label, outcome.skipped))
            self._say(f"solver {label} {outcome.skipped}")


def _rows(run: RunDirectory, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The rows that are there already.

    Raises
    ------
    InvalidInput   events.jsonl holds something else, or rows of blocks that are not the comparison's
    """
    known = {entry.block.hash for entry in entries}
    rows = table.rows_of(run)
    for number, row in enumerate(rows, 1):
        if row["block_hash"] not in known:
            raise InvalidInput(
                f"{run.path / 'events.jsonl'}, line {number}, is of a block that is not in {run.path / 'blocks'}: one "
                "was changed or is of another comparison; put the run's own back, or remove events.jsonl to solve all "
                "anew"
            )
    return rows


def _solve(
    batch: Sequence[Cell], request: CompareRequest, workers: Workers, cache: AnswerCache, say: Say
) -> Iterator[tuple[Cell, Outcome, bool]]:
    """The outcomes of some cells, in their order: refused at once, from the cache, or solved."""
    held: dict[int, tuple[Outcome, bool]] = {}
    keys: dict[int, str] = {}
    for i, cell in enumerate(batch):
        reason = cell.missing or _refusal(cell)
        if reason or cell.solver is None:
            held[i] = Outcome(None, reason), False
            continue
        keys[i] = cache.key(cell.entry.block, cell.solver, cell.seed, request.time_limit)
        answer = cache.get(keys[i], cell.entry.block)
        if answer is not None:
            held[i] = answer, True
    rest = [i for i in range(len(batch)) if i not in held]
    budget = Budget(seconds=request.time_limit)
    jobs = [Job(batch[i].entry.block, s, budget, batch[i].seed) for i in rest if (s := batch[i].solver) is not None]
    for i, (outcome, reason) in zip(rest, workers.answers(jobs, say, attempt), strict=True):
        held[i] = outcome or failure(reason), False
        cache.put(keys[i], batch[i].entry.block, held[i][0])
    for i, cell in enumerate(batch):
        yield cell, *held[i]


def _refusal(cell: Cell) -> str:
    """Why a solver does not take a block, "" if it does; asked here so that no worker is bothered."""
    assert cell.solver is not None
    try:
        native_or_refit(cell.solver, cell.entry.block)
    except InvalidInput as error:
        return reason_of(error)
    return ""


def _judge(request: CompareRequest) -> Judge | None:
    """How an answer's true change of loss is measured; None where there is no network or it is not wanted."""
    if not request.true_loss or not request.problem:
        return None
    problem = request.problem_made()
    return TrueLoss(problem).change if isinstance(problem, NetworkProblem) else None


def _retrained(request: CompareRequest) -> Retrained | None:
    """Who trains the network under an answer's mask; None where that is not wanted."""
    if request.retrain is None:
        return None
    problem = request.problem_made()
    assert isinstance(problem, NetworkProblem)
    return Retrained(problem, parse(request.retrain))
