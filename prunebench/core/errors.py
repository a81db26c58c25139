"""Errors that a user can act on: each names the thing, the value, the rule and the remedy."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class PrunebenchError(Exception):
    """The work failed. The command line ends with exit code 1."""


class InvalidInput(PrunebenchError, ValueError):
    """The request is wrong: a shape, a value, a file. The command line ends with exit code 2."""


class NoCurvature(InvalidInput):
    """All gradients of a block are zero, as for a dead unit or input: the loss does not depend on its weights."""


class UnknownName(InvalidInput):
    """There is no solver, problem, option or score of that name."""


class MissingPackage(InvalidInput):
    """An optional package is not installed; the message says what to install."""


class MissingData(InvalidInput):
    """A data set or checkpoint is missing; the message says what to fetch and where to put it."""


class RefusalKind(StrEnum):
    """Which property of a block a solver does not accept."""

    FORM = "form"
    QUOTA = "quota"
    BUDGET = "budget"
    WHOLE_LAYER = "whole-layer"
    MODE = "mode"
    SIZE = "size"
    OPTION = "option"
    NUMERICS = "numerics"
    OTHER = "other"


@dataclass(frozen=True)
class Refusal:
    """Why a solver does not accept a block. reason : includes the remedy;  kind : the property at fault."""

    reason: str
    kind: RefusalKind = RefusalKind.OTHER


class SolverRefused(InvalidInput):
    """The solver does not accept the block.

    The message names solver and block; `reason` is the solver's own text with the remedy, `kind` the property at fault.
    """

    def __init__(self, message: str, reason: str = "", kind: RefusalKind = RefusalKind.OTHER) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.kind = kind


class SolverFault(PrunebenchError):
    """A solver broke its contract: an infeasible mask, weights that do not match the mask, a wrong bound."""


class SolverFailed(PrunebenchError):
    """A third-party solver gave no answer: no licence, a size limit, a crash; the message quotes it."""


class Interrupted(PrunebenchError):
    """The user stopped the work; the message says how to resume."""


class CannotWrite(PrunebenchError):
    """A file of a run cannot be written: disk full or read-only; the message says how to resume."""


class WorkersGone(PrunebenchError):
    """The workers are unavailable: processes do not start, or the scheduler is lost."""


class RunFailed(PrunebenchError):
    """Work of a run was lost: a solver failed, workers died, or nothing was solved; the message says how to resume.

    `result` is the content of result.json. Its "outcome" is "incomplete" if the network is whole and its count exact
    but blocks are unsolved, and "failed" if the run stopped earlier.
    """

    def __init__(self, message: str, result: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.result = result


def unknown_name(kind: str, name: str, known: Iterable[str], remedy: str = "") -> UnknownName:
    """The error for an unknown `name`: suggests the nearest match, or else lists all known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif names:
        hint = f"choose one of {', '.join(names)}"
    else:
        hint = "there is none"
    return UnknownName(f"unknown {kind} {name!r}: {hint}{' ' + remedy if remedy else ''}")
