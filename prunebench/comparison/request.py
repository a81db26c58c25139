"""What a comparison is asked for: blocks × solvers × densities × sizes × seeds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunebench.core import options as option_tools
from prunebench.core.block import MODES, Mode
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.core.masks import keep_count
from prunebench.core.registry import SOLVERS
from prunebench.core.solver import Solver

BASELINES = ("random", "greedy", "swap")
"""Random sampling, greedy elimination and multi-start swap descent: rows of every comparison."""


@dataclass(frozen=True)
class SolverChoice:
    """A solver with its options, and the label under which people see it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name, with those options that were given."""
        given = ", ".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{self.name} ({given})" if given else self.name

    @staticmethod
    def parse(text: str) -> "SolverChoice":
        """NAME or NAME:KEY=VALUE,KEY=VALUE.

        Raises
        ------
        InvalidInput   a part without '=', or an option given twice
        """
        name, _, rest = text.partition(":")
        options: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if not equals or not key:
                raise InvalidInput(f"--solver {text}: {part!r} is no option; write NAME:OPTION=VALUE,OPTION=VALUE")
            if key in options:
                raise InvalidInput(f"--solver {text}: option {key} is given twice")
            options[key] = value
        return SolverChoice(name, options)

    @staticmethod
    def of(solver: "str | SolverChoice | Solver") -> "SolverChoice":
        """A choice from a text, a choice, or a solver object (by its name and the options that are not the default).

        Raises
        ------
        InvalidInput   an object of a class that is not registered
        """
        if isinstance(solver, SolverChoice):
            return solver
        if isinstance(solver, str):
            return SolverChoice.parse(solver)
        cls = type(solver)
        if cls.name not in SOLVERS.names():
            raise InvalidInput(
                f"solver {cls.name!r} is not registered, so a comparison could not be resumed; "
                "put @prunebench.register_solver on its class"
            )
        default = option_tools.as_json(cls())
        options = {key: value for key, value in option_tools.as_json(solver).items() if value != default[key]}
        return SolverChoice(cls.name, options)


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """All that a comparison is asked for; JSON-able, so that an interrupted one can be resumed.

    problem : registered name, or "" where the blocks were given as objects
    sizes, densities : every block of every size is solved at every density
    blocks : how many blocks of each size;  seeds : runs of each stochastic solver on each
    select, mode, curvature : how blocks are cut, as in `prunebench.coordinator.cut.cut_block`
    time_limit : seconds of each solve;  target : the gap to best that counts as success
    true_loss : whether answers are written into the network and its loss is measured
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
        for size in self.sizes:
            for density in self.densities:
                keep_count(density, size, f"a block of {size}")
        labels = [choice.label for choice in self.solvers]
        twice = {label for label in labels if labels.count(label) > 1}
        if twice:
            raise InvalidInput(f"solver {sorted(twice)[0]!r} is asked for twice; leave one out")

    def as_json(self) -> dict[str, Any]:
        """The request as JSON-able values, marked as a comparison's."""
        return {"kind": "compare", **dataclasses.asdict(self)}

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
        values["solvers"] = tuple(SolverChoice(**choice) for choice in values["solvers"])
        values["sizes"], values["densities"] = tuple(values["sizes"]), tuple(values["densities"])
        return CompareRequest(**values)


def with_baselines(solvers: Sequence["str | SolverChoice | Solver"]) -> tuple[SolverChoice, ...]:
    """The choices, preceded by those baselines that are not among them."""
    chosen = tuple(SolverChoice.of(solver) for solver in solvers)
    named = {choice.name for choice in chosen}
    return (*(SolverChoice(name) for name in BASELINES if name not in named), *chosen)
