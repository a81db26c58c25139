"""A run of part of a network that stops before chosen layers, so that they can be pruned before it goes on.

So a decoder layer is run once for all its prunable layers, in place of once for each with other inputs. The run has a
thread of its own, since a forward pass cannot be left and entered again otherwise; only one of the two threads works
at any time.
"""

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch


class _Closed(BaseException):
    """Ends a run that nobody waits for."""


class OutOfOrder(Exception):
    """A layer was called before one that was to come first."""


class PausedRun:
    """A forward pass that is taken from stop to stop.

    Parameters
    ----------
    run : the pass, without gradients
    stops : modules by the number of the stop before their first call; numbers rise in the order of the calls
    """

    def __init__(self, run: Callable[[], Any], stops: Mapping[torch.nn.Module, int]) -> None:
        self._run = run
        self._wanted = -1
        self._at: tuple[int, torch.Tensor] | None = None
        self._passed: set[int] = set()
        self._result: Any = None
        self._error: BaseException | None = None
        self._closing = self._ended = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._main, daemon=True, name="a paused run")
        self._hooks = [module.register_forward_pre_hook(self._hook(number)) for module, number in stops.items()]
        self._thread.start()

    def until(self, stop: int) -> torch.Tensor | None:
        """What the first module of a stop is called with, before it is called; None where none is. Stops in order.

        Raises
        ------
        OutOfOrder   the pass came to a later stop first; it is of no more use
        """
        self._wanted = stop
        if self._at is None or self._at[0] < stop:
            self._resume()
        if self._at is None:
            return None
        if self._at[0] != stop:
            self.close()
            raise OutOfOrder
        return self._at[1]

    def result(self) -> Any:
        """What the pass gives, once it has run to its end."""
        self._wanted = 1 << 62
        while not self._ended:
            self._resume()
        return self._result

    def close(self) -> None:
        """Give the pass up."""
        self._closing = True
        # an interpreter that ends has ended its other threads, and would wait for this one for ever
        if not self._ended and not sys.is_finalizing():
            self._resume()

    def _resume(self) -> None:
        if self._ended:
            self._at = None
            return
        self._at = None
        self._go.release()
        self._back.acquire()
        if self._error is not None and not isinstance(self._error, _Closed):
            raise self._error

    def _hook(self, number: int) -> Callable[..., None]:
        def pause(_module: Any, inputs: tuple[Any, ...]) -> None:
            # the network may be run by others while this run stands still
            if threading.current_thread() is not self._thread or number in self._passed:
                return
            self._passed.add(number)
            if number < self._wanted:
                return
            self._at = number, inputs[0].detach()
            self._back.release()
            self._go.acquire()
            if self._closing:
                raise _Closed

        return pause

    def _main(self) -> None:
        self._go.acquire()
        try:
            if not self._closing:
                with torch.no_grad():
                    self._result = self._run()
        except BaseException as error:  # told to whoever waits
            self._error = error
        finally:
            self._ended = True
            for hook in self._hooks:
                hook.remove()
            self._back.release()
