"""What a comparison is asked for: blocks × solvers × densities × sizes × seeds."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from prunebench.core import options as option_tools
from prunebench.core.block import MODES, Mode
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.core.import_path import IMPORT_PATH
from prunebench.core.masks import keep_count
from prunebench.core.problem import ProblemLike, make_problem
from prunebench.core.registry import SOLVERS
from prunebench.core.solver import SolverLike, is_sampler, is_solver, make_solver
from prunebench.log import checks

_COMMAS_OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
"""Where options of a solver are parted: "anneal[reads=4,sweeps=100],swap" is two solvers."""

_OWN = re.compile(rf"(?P<path>{IMPORT_PATH.pattern})(:(?P<rest>.*))?")
"""An import path, and options behind it."""

Which = Literal["all", "halving"]
"""Which answers are trained in full: all of them, or those that successive halving leaves."""

BASELINES = ("random", "greedy", "swap")
"""Random sampling, greedy elimination and multi-start swap descent: rows of every comparison."""


@dataclass(frozen=True)
class SolverChoice:
    """A solver with its options, and the label under which people see it.

    given : the solver itself where an option of it is an object that no file can hold, such as a dimod sampler
    is_object : whether it was such a one; a comparison read from its directory has lost the object
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    is_object: bool = False
    given: SolverLike | None = field(default=None, compare=False, repr=False)

    @property
    def label(self) -> str:
        """The name, with those options that were given."""
        given = ", ".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{self.name} ({given})" if given else self.name

    def make(self) -> SolverLike:
        """The solver.

        Raises
        ------
        InvalidInput     an unknown name or option, or an object that the directory of a comparison does not hold
        MissingPackage   the solver's own library is not installed
        """
        if self.given is not None:
            return self.given
        if self.is_object:
            raise InvalidInput(
                f"solver {self.label} was given as an object, which no file holds; a comparison with it cannot be "
                "resumed: start it again from Python"
            )
        return make_solver(self.name, self.options)

    @staticmethod
    def parse(text: str) -> "SolverChoice":
        """NAME or NAME:KEY=VALUE,KEY=VALUE; a value that is a list stands in brackets, KEY=[1,2].

        NAME may be module:Object or FILE.py:Object.

        Raises
        ------
        InvalidInput   a part without '=', or an option given twice
        """
        own = _OWN.fullmatch(text)
        name, _, rest = text.partition(":")
        if own is not None and name not in SOLVERS.names():
            name, rest = own["path"], own["rest"] or ""
        options: dict[str, Any] = {}
        for part in filter(None, _COMMAS_OUTSIDE_BRACKETS.split(rest)):
            key, equals, value = part.partition("=")
            if not equals or not key:
                raise InvalidInput(f"--solver {text}: {part!r} is no option; write NAME:OPTION=VALUE,OPTION=VALUE")
            if key in options:
                raise InvalidInput(f"--solver {text}: option {key} is given twice")
            options[key] = value
        return SolverChoice(name, options)

    @staticmethod
    def of(solver: "str | SolverChoice | SolverLike | Any") -> "SolverChoice":
        """A choice from a text, a choice, a solver object or class, or a dimod sampler, its class or factory.

        A solver object is named by its class and the options that are not the default. Where its class is not
        registered, no file can hold it: the comparison cannot be resumed.

        Raises
        ------
        InvalidInput   neither
        """
        if isinstance(solver, SolverChoice):
            return solver._checked()
        if isinstance(solver, str):
            return SolverChoice.parse(solver)
        if isinstance(solver, type) and is_solver(solver):
            cls: type[Any] = solver
            return SolverChoice(cls.name) if _is_registered(cls) else SolverChoice._of_object(cls())
        if is_solver(solver):
            return SolverChoice._of_object(solver)
        if is_sampler(solver):
            return SolverChoice._of_object(make_solver("dimod", {"sampler": solver}))
        raise InvalidInput(
            f"{solver!r} is no solver; give a name such as 'anneal:sweeps=50', a solver object of prunebench, or a "
            "dimod sampler, its class or an object of it"
        )

    @staticmethod
    def _of_object(solver: SolverLike) -> "SolverChoice":
        cls: type[Any] = type(solver)
        if not _is_registered(cls):
            # a name that another class has would be taken for that one
            name = _described(solver) if solver.name in SOLVERS.names() else solver.name
            given = {
                key: value for key, value in option_tools.as_json(solver).items() if value != _default(cls).get(key)
            }
            return SolverChoice(name, given, is_object=True, given=solver)
        default = cls()
        held = {option_tools.option_name(item): item.name for item in dataclasses.fields(cls) if item.init}
        values = {option: getattr(solver, field) for option, field in held.items()}
        standard = option_tools.as_json(default)
        plain = option_tools.as_json(solver)
        options = {option: plain[option] for option in held if plain[option] != standard[option]}
        objects = {option: _described(value) for option, value in values.items() if not portable(value)}
        if objects:
            return SolverChoice(cls.name, {**options, **objects}, is_object=True, given=solver)
        return SolverChoice(cls.name, options)

    def _checked(self) -> "SolverChoice":
        """The choice itself, its objects made part of it as `of` does."""
        if self.given is not None or self.is_object or all(map(portable, self.options.values())):
            return self
        return SolverChoice._of_object(make_solver(self.name, self.options))


def _is_registered(cls: type[Any]) -> bool:
    """Whether the registry holds this very class under its name."""
    return cls.name in SOLVERS.names() and SOLVERS.get(cls.name) is cls


def _default(cls: type[Any]) -> dict[str, Any]:
    """The options of an object of the class as they are if none is given; none where it cannot be made so."""
    try:
        return option_tools.as_json(cls())
    except TypeError:
        return {}


def portable(value: Any) -> bool:
    """Whether an option's value, or every option of a solver, is plain: what a text or JSON holds, no object."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(portable(getattr(value, item.name)) for item in dataclasses.fields(value))
    if isinstance(value, (tuple, list)):
        return all(map(portable, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _described(value: Any) -> str:
    """An object by the name of its class, as rows and messages show it."""
    cls = value if isinstance(value, type) else type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """All that a comparison is asked for; JSON-able, so that an interrupted one can be resumed.

    problem : registered name, or "" where the blocks were given as objects
    sizes, densities : every block of every size is solved at every density
    blocks : how many blocks of each size;  seeds : runs of each stochastic solver on each
    select, mode, curvature : how blocks are cut, as in `prunebench.runs.cut.cut_block`
    time_limit : seconds of each solve;  target : the gap to best that counts as success
    true_loss : whether answers are written into the network and its loss is measured
    retrain : train the network under every answer's mask by the protocol that this text says
              (`prunebench.recovery.training.protocol.parse`; "" is the usual one) and measure it; None: do not
    finalists : which answers are trained in full: "all", or with "halving" those that successive halving over the
              protocol leaves (`prunebench.recovery.training.halving`)
    cache : whether answers are taken from and kept in the user's cache
    seed : of the blocks; block b of a size is cut with seed + b
    """

    problem: str
    solvers: tuple[SolverChoice, ...]
    problem_options: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] = (64,)
    densities: tuple[float, ...] = (0.5,)
    blocks: int = 3
    seeds: int = 3
    select: str = "random"
    mode: Mode = "select"
    curvature: Mapping[str, Any] = field(default_factory=dict)
    time_limit: float = 5.0
    target: float = 1e-3
    executor: str | None = None
    true_loss: bool = True
    retrain: str | None = None
    finalists: Which = "all"
    cache: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for what, value in (("blocks", self.blocks), ("seeds", self.seeds)):
            if value < 1:
                raise InvalidInput(f"{what} is {value}; a comparison needs at least 1")
        if not self.sizes or not self.densities:
            raise InvalidInput("a comparison needs at least one size and one density")
        if self.mode not in MODES:
            raise unknown_name("mode", self.mode, MODES)
        if not (self.time_limit > 0.0 and math.isfinite(self.time_limit)):
            raise InvalidInput(f"time limit is {self.time_limit}; every solve needs a finite limit above 0 seconds")
        if not self.target >= 0.0:
            raise InvalidInput(f"target is {self.target}; expected a gap of at least 0")
        if self.finalists not in get_args(Which):
            raise unknown_name("finalists", self.finalists, get_args(Which))
        if self.finalists != "all" and self.retrain is None:
            raise InvalidInput(f"finalists={self.finalists} ranks answers by training: say how, by retrain=PROTOCOL")
        for size in self.sizes:
            for density in self.densities:
                keep_count(density, size, f"a block of {size}")
        labels = [choice.label for choice in self.solvers]
        twice = {label for label in labels if labels.count(label) > 1}
        if twice:
            raise InvalidInput(f"solver {sorted(twice)[0]!r} is asked for twice; leave one out")

    def problem_made(self) -> ProblemLike:
        """The problem.

        Raises
        ------
        InvalidInput   an unknown name or option, or a network that only its own program can make
        """
        held: ProblemLike | None = getattr(self, "_held", None)
        return make_problem(self.problem, self.problem_options) if held is None else held

    def holding(self, problem: ProblemLike | None) -> "CompareRequest":
        """The request itself, with a problem for which no name stands, since a program made it; no file holds it."""
        object.__setattr__(self, "_held", problem)
        return self

    def as_json(self) -> dict[str, Any]:
        """The request as JSON-able values, marked as a comparison's."""
        held = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        solvers: list[dict[str, Any]] = []
        for choice in self.solvers:
            solvers.append({"name": choice.name, "options": dict(choice.options)})
            if choice.is_object:
                solvers[-1]["is_object"] = True
        held |= {
            "solvers": solvers,
            "problem_options": dict(self.problem_options),
            "curvature": dict(self.curvature),
        }
        return {"kind": "compare", **held}

    @staticmethod
    def from_json(held: Mapping[str, Any], source: str) -> "CompareRequest":
        """The request of a run directory.

        Raises
        ------
        InvalidInput   not a comparison, or keys that this version does not know
        """
        values = dict(held)
        if values.pop("kind", None) != "compare":
            raise InvalidInput(f"{source} holds no comparison; 'prunebench compare … --out DIR' makes one")
        unknown = set(values) - {item.name for item in dataclasses.fields(CompareRequest)}
        if unknown:
            raise InvalidInput(f"{source}/run.json asks for {', '.join(sorted(unknown))}, unknown to this version")
        checks.require(values, checks.COMPARISON, checks.COMPARISON_NEEDS, f"{source}/run.json")
        values["solvers"] = tuple(SolverChoice(**choice) for choice in values["solvers"])
        values["sizes"], values["densities"] = tuple(values["sizes"]), tuple(values["densities"])
        return CompareRequest(**values)


def with_baselines(solvers: Sequence["str | SolverChoice | SolverLike"]) -> tuple[SolverChoice, ...]:
    """The choices, preceded by those baselines that are not among them."""
    chosen = _told_apart([SolverChoice.of(solver) for solver in solvers])
    named = {choice.name for choice in chosen}
    return (*(SolverChoice(name) for name in BASELINES if name not in named), *chosen)


def _told_apart(choices: Sequence[SolverChoice]) -> tuple[SolverChoice, ...]:
    """The choices; two objects of one class, whose labels say the same, are numbered."""
    out: list[SolverChoice] = []
    for choice in choices:
        twins = sum(other.is_object and other.name == choice.name for other in out)
        if choice.is_object and any(other.label == choice.label for other in out):
            choice = dataclasses.replace(choice, options={**choice.options, "object": twins + 1})
        out.append(choice)
    return tuple(out)
