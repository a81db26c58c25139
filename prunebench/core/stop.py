"""Why a search stopped, as a value, and the stop check that every loop calls."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class StopKind(StrEnum):
    """What ended a search. TIME, EVALUATIONS and GAP are limits of the budget."""

    TIME = "time"
    EVALUATIONS = "evaluations"
    GAP = "gap"
    FINISHED = "finished"
    """The search was complete."""
    INTERRUPTED = "interrupted"
    """The user stopped it."""
    FAILED = "failed"
    """An error ended it; the best answer so far is kept."""


@dataclass(frozen=True)
class Stop:
    """Why a search stopped. kind : for programs;  text : for people; no program reads it."""

    kind: StopKind
    text: str

    @staticmethod
    def finished(text: str) -> "Stop":
        """The stop of a complete search."""
        return Stop(StopKind.FINISHED, text)

    @property
    def at_limit(self) -> bool:
        """Whether the budget's time or evaluations are used up."""
        return self.kind in (StopKind.TIME, StopKind.EVALUATIONS)

    def also(self, words: str) -> "Stop":
        """The same stop with further words in its text."""
        return Stop(self.kind, f"{self.text}; {words}")


INTERRUPTED = Stop(StopKind.INTERRUPTED, "interrupted")
"""The stop after Ctrl-C."""

StopCheck = Callable[[float], Stop | None]
"""Takes the evaluations so far, as the caller counts them; returns why to stop now, or None to go on."""


def never(spent: float = 0.0) -> Stop | None:
    """A stop check that never stops."""
    return None
