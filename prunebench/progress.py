"""How far a run is, as a bar: in a terminal, in a pipe, and in a notebook.

Compilation is named while it lasts and left out of the bar's estimate, for it happens once.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from prunebench.runs.runner import Step

PIPE_SECONDS = 10.0
"""Where standard error is no terminal, the bar is written anew at most this often: every state of it is a line."""

TERMINAL_SECONDS = 0.1
"""The same in a terminal or a notebook."""

COMPILE_EVENT = "numba:compile"
"""What numba calls its event of compiling a function."""

SHOWN_SECONDS = 0.5
"""Compilation that takes less is not worth a word."""


class Bar:
    """Shows lines and steps of a run on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._compiled = 0.0

    def say(self, line: str) -> None:
        """A line above the bar."""
        from tqdm.auto import tqdm

        tqdm.write(line, file=sys.stderr)

    def step(self, step: Step) -> None:
        """The run is at this step."""
        bar = self._shown(step.done - 1)
        if step.total is not None and bar.total != step.total:
            bar.total = step.total
        bar.set_description_str("pruning", refresh=False)
        bar.set_postfix_str(step.words, refresh=False)
        bar.update(step.done - bar.n)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Around a compilation: named in the bar, its time taken out of the estimate."""
        bar = self._shown(0)
        bar.set_description_str("compiling")
        started = perf_counter()
        try:
            yield
        finally:
            self.exclude(perf_counter() - started)
            bar.set_description_str("pruning")

    def exclude(self, seconds: float) -> None:
        """Leave this much time out of the estimate."""
        self._compiled += seconds
        bar = self._shown(0)
        bar.start_t += seconds
        bar.last_print_t = max(bar.last_print_t, bar.start_t)

    def close(self) -> None:
        """The run is over."""
        if self._bar is not None:
            self._bar.close()
        if self._compiled > SHOWN_SECONDS:
            self.say(f"compilation took {self._compiled:.1f} s, once for this kind of block and machine")

    def _shown(self, done: int) -> Any:
        """The bar; made when there is something to show, since a run that is refused needs none."""
        if self._bar is None:
            from tqdm.auto import tqdm

            often = TERMINAL_SECONDS if sys.stderr.isatty() or "ipykernel" in sys.modules else PIPE_SECONDS
            # Without smoothing the estimate is that of all steps, from which compilation can be taken out.
            self._bar = tqdm(desc="pruning", unit=" steps", initial=done, smoothing=0.0, mininterval=often)
        return self._bar


@contextmanager
def shown(wanted: bool) -> Iterator[tuple[Callable[[str], None], Callable[[Step], None]]]:
    """What takes a run's lines and steps: a bar, or what drops them all."""
    if not wanted:
        yield lambda _line: None, lambda _step: None
        return
    bar = Bar()
    with _watched(bar):
        try:
            yield bar.say, bar.step
        finally:
            bar.close()


@contextmanager
def _watched(bar: Bar) -> Iterator[None]:
    """Inside, the bar is told of compilations in this process."""
    from numba.core import event

    class Outermost(event.Listener):
        """Functions that a function calls are compiled while it is: only the outermost counts."""

        def __init__(self) -> None:
            self.depth = 0
            self.at: Any = None

        def on_start(self, event: Any) -> None:
            self.depth += 1
            if self.depth == 1:
                self.at = bar.compiling()
                self.at.__enter__()

        def on_end(self, event: Any) -> None:
            self.depth -= 1
            if self.depth == 0:
                self.at.__exit__(None, None, None)

    with event.install_listener(COMPILE_EVENT, Outermost()):
        yield
