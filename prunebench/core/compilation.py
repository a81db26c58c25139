"""Who is told that kernels are compiled. Listening loads no compiler."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

COMPILING = "compiling, once"
"""What is said when the first compilation begins; the next process finds the code in the cache."""
SHOWN_SECONDS = 0.5
"""Compilation that takes less is not worth a word at its end."""

Listener = Callable[[bool], None]
"""Called with True when a compilation begins and with False when it ends; those of callees are part of it."""

_listeners: list[Listener] = []


def tell(begins: bool) -> None:
    """Tell all listeners."""
    for listener in tuple(_listeners):
        listener(begins)


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Inside, `listener` is told of compilations in this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def took(seconds: float) -> str:
    """A sentence on compilation that is over."""
    return f"compilation took {seconds:.1f} s, once for this kind of block and machine"


@contextmanager
def said(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, the first compilation is named once, and at the end how long all of them took."""
    spent, since = 0.0, None

    def listen(begins: bool) -> None:
        nonlocal spent, since
        if begins:
            if since is None and spent == 0.0:
                say(COMPILING)
            since = perf_counter()
        elif since is not None:
            spent, since = spent + perf_counter() - since, None

    with heard(listen):
        yield
    if spent > SHOWN_SECONDS:
        say(took(spent))
