"""How far a run is: as a bar in a terminal, in a notebook and in a pipe, or for commands in a pipe as plain lines.

Compilation is named while it lasts and left out of the bar's estimate, for it happens once.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from prunebench.core.compilation import COMPILING, SHOWN_SECONDS, heard, took
from prunebench.runs.runner import Step

PIPE_SECONDS = 10.0
"""Where standard error is no terminal, the bar is written anew at most this often: every state of it is a line."""

TERMINAL_SECONDS = 0.1
"""The same in a terminal or a notebook."""


class Lines:
    """Shows every step of a run as a line on standard error, with the seconds that the others will take."""

    def __init__(self) -> None:
        self._compiled = 0.0
        self._first: Step | None = None
        self._since = 0.0

    def say(self, line: str) -> None:
        """A line."""
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def step(self, step: Step) -> None:
        """The run is at this step."""
        if self._first is not None and step.work != self._first.work:
            self._first = None
        left = self.estimate(step)
        if self._first is None:
            # Loading and building are over: from here on steps are what takes time.
            self._first, self._since = step, perf_counter() - self._compiled
        self.say(step.line + ("" if left is None else f"  {left:.0f} s to go"))

    def estimate(self, step: Step) -> float | None:
        """Seconds to the last step: as the step says, else at the pace of those since the first; None where open.

        Compilation is left out of the pace.
        """
        if step.left is not None:
            return step.left if step.total is None or step.done < step.total else None
        if self._first is None or step.total is None or step.done >= step.total:
            return None
        spent = perf_counter() - self._compiled - self._since
        return spent / (step.done - self._first.done) * (step.total - step.done)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Around a compilation: named the first time, its time taken out of the estimate."""
        if not self._compiled:
            self.say(COMPILING)
        started = perf_counter()
        try:
            yield
        finally:
            self._compiled += perf_counter() - started

    def close(self) -> None:
        """The run is over."""
        if self._compiled > SHOWN_SECONDS:
            self.say(took(self._compiled))


class Bar:
    """Shows lines and steps of a run on standard error."""

    def __init__(self, verb: str = "pruning") -> None:
        self._verb = verb
        self._bar: Any = None
        self._work = verb
        self._compiled = 0.0

    def say(self, line: str) -> None:
        """A line above the bar."""
        from tqdm.auto import tqdm

        tqdm.write(line, file=sys.stderr)

    def step(self, step: Step) -> None:
        """The run is at this step."""
        if self._bar is not None and (step.work or self._verb) != self._work:
            self._bar.close()
            self._bar = None
        self._work = step.work or self._verb
        bar = self._shown(step.done - 1)
        if step.total is not None and bar.total != step.total:
            bar.total = step.total
        left = "" if step.left is None else f", {step.left:.0f} s to go"
        if left:
            # steps differ, so the pace of those done says little of the others
            bar.bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        bar.set_description_str(self._work, refresh=False)
        bar.set_postfix_str(step.words + left, refresh=False)
        bar.update(step.done - bar.n)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Around a compilation: named in the bar, its time taken out of the estimate."""
        bar = self._shown(0)
        bar.set_description_str(COMPILING)
        started = perf_counter()
        try:
            yield
        finally:
            self.exclude(perf_counter() - started)
            bar.set_description_str(self._work)

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
            self.say(took(self._compiled))

    def _shown(self, done: int) -> Any:
        """The bar; made when there is something to show, since a run that is refused needs none."""
        if self._bar is None:
            from tqdm.auto import tqdm

            often = TERMINAL_SECONDS if _is_watched() else PIPE_SECONDS
            # Without smoothing the estimate is that of all steps, from which compilation can be taken out.
            self._bar = tqdm(desc=self._work, unit=" steps", initial=done, smoothing=0.0, mininterval=often)
        return self._bar


@contextmanager
def shown(
    wanted: bool, *, lines: bool = False, verb: str = "pruning"
) -> Iterator[tuple[Callable[[str], None], Callable[[Step], None]]]:
    """What takes a run's lines and steps: a bar, or what drops them all.

    lines : where nobody watches, in a pipe, lines in place of the bar;  verb : what the bar says is being done
    """
    if not wanted:
        yield lambda _line: None, lambda _step: None
        return
    display = Lines() if lines and not _is_watched() else Bar(verb)
    with _watched(display):
        try:
            yield display.say, display.step
        finally:
            display.close()


def _is_watched() -> bool:
    """Whether standard error is a terminal or a notebook, where a bar moves."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def _watched(display: Bar | Lines) -> Iterator[None]:
    """Inside, the display is told of compilations in this process."""
    at: Any = None

    def listen(begins: bool) -> None:
        nonlocal at
        if begins:
            at = display.compiling()
            at.__enter__()
        else:
            at.__exit__(None, None, None)

    with heard(listen):
        yield
