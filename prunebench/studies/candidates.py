"""Masks for a study: those that solvers find, those of finished runs, and noisy ones between good and random."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunebench.comparison.request import SolverChoice
from prunebench.comparison.work import Outcome, attempt, failure
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Quota
from prunebench.core.masks import top_mask
from prunebench.core.problem import NetworkProblem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Budget, Status
from prunebench.core.solver import facts
from prunebench.log.run_directory import RunDirectory
from prunebench.runs.executors import Job
from prunebench.runs.start import load_start
from prunebench.scores import score
from prunebench.studies.study import Setting

NOISES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Standard deviations of the logarithm of a score's noise: from masks that hardly differ to almost random ones."""

START_NOISE = 0.4
"""The same for the masks from which a descent starts: they differ in a quarter of what they keep."""


@dataclass(frozen=True)
class Candidate:
    """A mask, and where it comes from.

    name : of this one;  family : of all that were made alike;  mask : bool (p,);  weights : float (p,), the values
    that come with it, zero off the mask
    """

    name: str
    family: str
    mask: BoolArray
    weights: FloatArray


def require_solvers(texts: Sequence[str]) -> tuple[SolverChoice, ...]:
    """The solvers that texts NAME:OPTION=VALUE,… name.

    Raises
    ------
    InvalidInput     an unknown name or option, or one given twice
    MissingPackage   a solver's own library is not installed
    """
    choices = tuple(SolverChoice.parse(text) for text in texts)
    if len({choice.label for choice in choices}) < len(choices):
        raise InvalidInput(f"solvers {', '.join(texts)}: one is named twice; leave it out once")
    for choice in choices:
        choice.make()
    return choices


def require_some(study: str, solvers: Sequence[str], runs: Sequence[str]) -> None:
    """Refuse a study that compares no mask, unknown solvers, and runs of the same folder name.

    Raises
    ------
    InvalidInput   with the remedy
    """
    choices = require_solvers(solvers)
    if not choices and not runs:
        raise InvalidInput(f"study {study} has no mask to look at; name solvers, or runs")
    names = [Path(text).name for text in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InvalidInput(f"study {study}: two runs are called {', '.join(sorted(twice))}; rename one")


@dataclass(frozen=True)
class Asked:
    """What every solver is asked: the model, the dense weights (p,) and how many to keep; seconds and seed of each."""

    form: QuadraticForm
    dense: FloatArray
    keep: int
    seconds: float
    seed: int


def solved(
    setting: Setting, choices: Sequence[SolverChoice], asked: Asked, *,
    quota: Quota | None = None, start: BoolArray | None = None, words: str = "",
) -> tuple[list[Candidate], list[str]]:  # fmt: skip
    """What solvers keep of a whole network; and why some gave nothing.

    Each is asked in the mode that it prefers, else in select, whose objective is that of masks with dense values.

    Parameters
    ----------
    asked, quota, start : of the block and of every solver;  words : put after solvers' names
    """
    jobs: dict[str, Job] = {}
    outcomes: dict[str, Outcome] = {}
    keys: dict[str, str] = {}
    for choice in choices:
        solver = choice.make()
        mode = facts(solver).preferred_mode or ("select" if "select" in solver.modes else "refit")
        block = BlockProblem(asked.form, asked.dense, asked.keep, mode, problem=setting.problem.name, quota=quota)
        if start is not None:
            block = block.with_start(start)
        jobs[choice.label] = Job(block, solver, Budget(seconds=asked.seconds), asked.seed)
        keys[choice.label] = setting.cache.key(block, solver, asked.seed, asked.seconds)
        known = setting.cache.get(keys[choice.label], block)
        if known is not None:
            outcomes[choice.label] = known
    waiting = [label for label in jobs if label not in outcomes]
    answers = setting.workers.answers([jobs[label] for label in waiting], setting.say, attempt) if waiting else []
    for label, (found, reason) in zip(waiting, answers, strict=True):
        outcomes[label] = found or failure(reason)
        setting.cache.put(keys[label], jobs[label].block, outcomes[label])
    notes: list[str] = []
    out = [one for label in jobs for one in _candidates(label, words, outcomes[label], notes, asked.seconds)]
    return out, notes


def _candidates(label: str, words: str, outcome: Outcome, notes: list[str], seconds: float) -> list[Candidate]:
    solution = outcome.solution
    if solution is None:
        notes.append(f"{label}{words} gives no mask: {outcome.skipped}")
        return []
    if solution.status is Status.TIME_LIMIT:
        notes.append(f"{label}{words} was stopped after {seconds:g} s: another machine may find another mask")
    return [Candidate(f"{label}{words}", label, solution.mask, solution.weights)]


def of_runs(setting: Setting, paths: Sequence[str], keep: int) -> list[Candidate]:
    """The masks and weights of finished runs of the same network, named by their folders. The network is moved.

    Raises
    ------
    InvalidInput   no finished run, one of another network or options, or one that keeps another number of weights
    """
    base, out = setting.network.state(), []
    for text in paths:
        require_run(text, setting.problem.name)
        found = load_start(Path(text), setting.network)
        setting.network.load_state(base)
        if int(found.mask.sum()) != keep:
            raise InvalidInput(
                f"{text} keeps {int(found.mask.sum())} weights, and the study asks for {keep}; give its density, "
                f"density={found.mask.mean():.6g}"
            )
        out.append(Candidate(Path(text).name, "runs", found.mask, found.weights))
    return out


def require_run(text: str, problem: str) -> None:
    """Refuse a run directory of another problem.

    Raises
    ------
    InvalidInput   it is none, or of another
    """
    asked = RunDirectory.open(Path(text)).request.get("problem")
    if asked != problem:
        raise InvalidInput(f"{text} is a run of {asked!r}, and the study is of {problem!r}; leave it out")


def require_runs(problem: NetworkProblem, paths: Sequence[str]) -> NetworkProblem:
    """Refuse run directories of other problems. -> the problem"""
    for path in paths:
        require_run(path, problem.name)
    return problem


def noisy(
    form: QuadraticForm, dense: FloatArray, keep: int, number: int, rng: np.random.Generator
) -> tuple[str, BoolArray]:
    """The mask of a number: by magnitude and by OBD in turns, with ever more noise, then random. -> family, (p,)"""
    level, kind = divmod(number, 2)
    step = level % (len(NOISES) + 1)
    if step == len(NOISES):
        return "random", top_mask(rng.random(dense.size), keep)
    drawn = NOISES[step] * rng.standard_normal(dense.size)
    if kind == 0:
        return "magnitude, noisy", top_mask(np.abs(dense) * np.exp(drawn), keep)
    # a saliency goes with the square of the weight, and so does its noise
    return "obd, noisy", top_mask(score("obd", form, dense) * np.exp(2.0 * drawn), keep)
