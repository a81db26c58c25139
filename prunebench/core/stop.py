"""Why a search stopped, as a value, and the one question that every loop asks: why stop now?"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class StopKind(StrEnum):
    """What ended a search. TIME, EVALUATIONS and GAP are parts of the budget."""

    TIME = "time"
    EVALUATIONS = "evaluations"
    GAP = "gap"
    FINISHED = "finished"
    """The search came to its own end."""
    INTERRUPTED = "interrupted"
    """The user stopped it."""
    FAILED = "failed"
    """Something broke on the way; the best of what came before is kept."""


@dataclass(frozen=True)
class Stop:
    """Why a search stopped. kind : for programs;  text : for people, read by no program."""

    kind: StopKind
    text: str

    @staticmethod
    def finished(text: str) -> "Stop":
        """The search came to its own end."""
        return Stop(StopKind.FINISHED, text)

    @property
    def at_limit(self) -> bool:
        """Whether the time or the evaluations of the budget are used."""
        return self.kind in (StopKind.TIME, StopKind.EVALUATIONS)

    def also(self, words: str) -> "Stop":
        """The same, and something more to say."""
        return Stop(self.kind, f"{self.text}; {words}")


INTERRUPTED = Stop(StopKind.INTERRUPTED, "interrupted")
"""What Ctrl-C is."""

StopCheck = Callable[[float], Stop | None]
"""Given the evaluations made so far, as the caller counts them: why to stop now, or None to go on."""


def never(spent: float = 0.0) -> Stop | None:
    """The check that lets every search run to its own end."""
    return None
