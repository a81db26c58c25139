"""Processes that stay and keep what they are sent: passes over samples are shared out among them."""

import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

Work = Callable[[bytes], bytes]
"""What a member does: a function of a module, from the bytes it is sent to the bytes it answers."""


class MemberGone(Exception):
    """A member of a crew died, and what it held with it."""


class Crew(Protocol):
    """Processes by name. They are told apart because each keeps a network and a share of the samples."""

    pickler: type[pickle.Pickler]
    """Makes the bytes that a member can read."""
    bytes_a_second: float
    """Of answers that come back from members, about."""

    @property
    def members(self) -> tuple[str, ...]:
        """The names of those that live, which are started where they are not yet; a new process has a new name.

        Raises
        ------
        WorkersGone   there is none
        """
        ...

    @property
    def size(self) -> int:
        """How many members there are to be; starts none.

        Raises
        ------
        WorkersGone   there is none
        """
        ...

    def send(self, member: str, work: Work, given: bytes) -> "Future[bytes]":
        """Have a member do something, one thing at a time.

        Raises
        ------
        MemberGone   it died
        """
        ...

    def first(self, waiting: "Mapping[str, Future[bytes]]") -> tuple[str, bytes | None]:
        """Wait for the first of some members to be done: its name and answer, None where it died instead.

        Raises
        ------
        Exception   what the work raised
        """
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class Shared(Protocol):
    """What a run knows of the passes that others compute: for its log."""

    def spent(self) -> dict[str, Any]:
        """Bytes, seconds by phase and deaths since this was last asked; {} where nothing was shared out."""
        ...

    def close(self) -> None:
        """End those that compute."""
        ...
