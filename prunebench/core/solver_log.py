"""Who hears what an outside solver says of itself. Nobody by default: it is kept quiet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], None]
"""Called with one line at a time, from whichever thread the solver works in."""

_listener: ContextVar[Listener | None] = ContextVar("solver_log", default=None)


def listener() -> Listener | None:
    """Who is told; None where the solver should be quiet."""
    return _listener.get()


@contextmanager
def heard(listen: Listener | None) -> Iterator[None]:
    """Inside, solvers with a log of their own (`Solver.logs`) tell it to `listen`; None: to nobody."""
    token = _listener.set(listen)
    try:
        yield
    finally:
        _listener.reset(token)
