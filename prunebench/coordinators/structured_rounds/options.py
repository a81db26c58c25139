"""How rounds of structured pruning and training alternate."""

from dataclasses import dataclass

from prunebench.coordinators import schedules
from prunebench.coordinators.structured.options import StructuredOptions
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.recovery.training.protocol import Protocol, parse


@dataclass(frozen=True, kw_only=True)
class StructuredRoundsOptions(StructuredOptions):
    """How a round prunes, as `StructuredOptions` say, and how rounds follow each other.

    Raises
    ------
    InvalidInput   a count, name or protocol is invalid; the message names it
    """

    train: str = "epochs=1"
    """What is trained after every round but the last: a protocol, K=V,K=V as of 'prunebench retrain'. Its `start` says
    to which values what is left is set back: pruned (not at all), init, step:K, dense, fresh:SEED."""

    train_end: str | None = None
    """The same after the last round; none: as after the others."""

    rounds: int = 4
    """How often the network is pruned."""

    schedule: str = "geometric"
    """How the part of the budget that is kept falls: polynomial, exponential, geometric, linear or constant."""

    start_density: float = 0.8
    """The part that the first of several rounds keeps."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InvalidInput(f"coordinator structured-rounds: rounds is {self.rounds!r}; choose a number from 1")
        if self.schedule not in schedules.SCHEDULES:
            raise unknown_name("schedule", self.schedule, schedules.SCHEDULES)
        _ = self.protocols

    @property
    def protocols(self) -> tuple[Protocol, Protocol]:
        """What is trained after every round but the last, and after the last.

        Raises
        ------
        InvalidInput   a text that says none
        """
        return parse(self.train), parse(self.train if self.train_end is None else self.train_end)
