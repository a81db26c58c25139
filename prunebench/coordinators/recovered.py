"""Adds recovery to any coordinator: after its last step, and between stages if it supports that."""

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray, RealArray
from prunebench.core.coordinator import Coordinator, Move, Setting, Task, checked_number, checked_state
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.levels import Levels
from prunebench.core.masks import keep_count
from prunebench.core.problem import NetworkProblem
from prunebench.core.recovery import Recovery, Stand, reserved
from prunebench.core.solution import Solution

MOST_NUMBER = 2**53
"""Step numbers are below this, so that JSON represents them exactly."""


def begin(kind: type[Coordinator], setting: Setting) -> Coordinator:
    """A new coordinator with the setting's recovery.

    Raises
    ------
    InvalidInput   a request that can only be refused once the network is loaded
    """
    if setting.network is None or not (setting.recovery or kind.recovers_between):
        return kind.begin(setting)
    from prunebench.recovery.movable import MovableNetwork

    problem = setting.problem
    assert isinstance(problem, NetworkProblem)
    # before the coordinator begins, since recoveries look at the dense network
    division = kind.division(setting, len(problem.calibration()))
    setting = replace(setting, movable=MovableNetwork(problem, setting.network, division, setting.recovery))
    inner = kind.begin(setting)
    return Recovered(inner, setting) if setting.recovery else inner


class Recovered(Coordinator):
    """Wraps a coordinator and recovers its network: each round of a recovery is a step that needs no solver.

    The mask stays the inner coordinator's. A round's best candidate is accepted if the loss on the held-out samples
    falls; once a round does not help, the recovery's other rounds after that stage are skipped. A round's random
    draws depend on the seed and on step numbers that count skipped rounds too.

    Parameters
    ----------
    inner : is recovered between its stages if it supports that, else once it has no work left
    setting : with the recovery and the movable network
    """

    def __init__(self, inner: Coordinator, setting: Setting) -> None:
        self._inner, self._network, self._seed = inner, setting.movable, setting.seed
        self._steps: list[Recovery] = [step for step in setting.recovery if step.moves]
        self._size = inner.mask.size
        self._stages = list(inner.stage_keeps) or [keep_count(setting.density, self._size)]
        self._number = self._first = self._recovered = 0
        self._queue: list[tuple[int, int]] = []
        """Rounds still to be made: (which recovery, number of the round)."""
        self._memory: dict[str, Mapping[str, float]] = {}
        self._final: FloatArray | None = None
        """The weights, once recovery runs after the inner coordinator's end; None before."""
        self._judged: tuple[FloatArray, float] | None = None
        """Weights whose loss on the held-out samples is known from the round before, and that loss."""
        self._look()

    @classmethod
    def begin(cls, setting: Setting) -> "Recovered":
        """Not available: this class is not registered; see the function `begin`."""
        raise NotImplementedError

    @property
    def total_steps(self) -> int | None:
        """The inner coordinator's steps and all rounds; fewer are made if recovery stops helping."""
        inner = self._inner.total_steps
        return None if inner is None else inner + sum(len(self._rounds(stage)) for stage in range(len(self._stages)))

    def ask(self, count: int = 1) -> list[Task]:
        """The inner coordinator's tasks; [] while rounds are to be made."""
        while not self._queue and self._inner.stages_done > self._recovered:
            self._plan()
        return [] if self._queue or self._final is not None else self._inner.ask(count)

    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        """Passes the solution to the inner coordinator."""
        return self._counted(self._inner.tell(task, solution))

    def advance(self) -> Move | None:
        """Make a round, or a step of the inner coordinator."""
        if not self._queue and self._final is None:
            move = self._counted(self._inner.advance())
            if move is not None:
                return move
            if not self._inner.recovers_between:
                self._final = np.array(self._inner.best()[1], dtype=np.float64)
                self._plan()
        return self._round() if self._queue else None

    def levels(self) -> Levels | None:
        """Those of the inner coordinator: where it has any, no recovery that moves weights is taken."""
        return self._inner.levels()

    def network_facts(self) -> dict[str, Any]:
        """Those of the inner coordinator, and which layers are not refitted."""
        from prunebench.networks.chosen import folded

        found = dict(self._inner.network_facts())
        held = self._network.layers
        if held is not None and held.left:
            found["not_refitted"] = [
                {
                    "reason": part.reason,
                    "matrices": len(part.names),
                    "weights": part.weights,
                    "names": list(folded(part.names) if len(part.names) > 1 else part.names),
                }
                for part in held.left
            ]
        return found

    def place(self, network: Any, weights: RealArray) -> None:
        """By the movable network, unless the inner coordinator still places weights itself."""
        if self._final is None and not self._inner.recovers_between:
            self._inner.place(network, weights)
        else:
            self._network.place(np.asarray(weights, dtype=np.float64))

    def best(self) -> tuple[BoolArray, RealArray]:
        """The inner coordinator's mask, with the recovered weights."""
        mask, weights = self._inner.best()
        return mask, weights if self._final is None else self._final

    @property
    def complete(self) -> bool:
        """As for the inner coordinator, since recovery changes no count."""
        return self._inner.complete

    def check(self) -> None:
        """Check the inner coordinator."""
        self._inner.check()

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """The inner coordinator's state, the rounds to be made, and the weights after its end."""
        arrays, info = self._inner.state_dict()
        if self._final is not None:
            arrays = {**arrays, "recovered": self._final}
        held = {
            "number": self._number,
            "first": self._first,
            "stages": self._recovered,
            "queue": [list(due) for due in self._queue],
            "memory": {name: dict(values) for name, values in self._memory.items()},
        }
        return arrays, {**info, "recovery": held}

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue with the remaining rounds, or with the inner coordinator."""
        held = info["recovery"]
        self._inner.load_state_dict(arrays, info)
        number, first = (checked_number(held, name, most=MOST_NUMBER) for name in ("number", "first"))
        recovered = checked_number(held, "stages", most=len(self._stages))
        queue = [(int(which), int(at)) for which, at in held["queue"]]
        stage = max(0, recovered - 1)
        if (queue and not recovered) or not set(queue) <= set(self._rounds(stage)):
            raise InvalidInput(f"the rounds {queue} of recovery are none that are due after stage {recovered}")
        memory: dict[str, Mapping[str, float]] = {
            str(name): {key: float(v) for key, v in values.items()} for name, values in held["memory"].items()
        }
        for step in self._steps:
            step.require_memory(memory.get(step.name, {}))
        final = None
        if "recovered" in arrays:
            mask = self._inner.best()[0]
            final = checked_state({**arrays, "mask": mask}, mask.size, weights_name="recovered")[1].astype(np.float64)
        if self._inner.recovers_between != (final is None) and recovered:
            raise InvalidInput("the recovered weights do not fit the stages done")
        self._number, self._first, self._recovered, self._queue = number, first, recovered, queue
        self._memory, self._final = memory, final
        self._look()

    def _look(self) -> None:
        self.mask, self.weights = (self._inner.mask, self._inner.weights) if self._final is None else self.best()

    def _counted(self, move: Move | None) -> Move | None:
        if move is not None:
            self._number += 1
            self._look()
        return move

    def _rounds(self, stage: int) -> list[tuple[int, int]]:
        """All rounds after a stage, in order."""
        keep, last = self._stages[stage], stage == len(self._stages) - 1
        return [
            (which, at)
            for which, step in enumerate(self._steps)
            for at in range(step.rounds_after(keep, self._size, last))
        ]

    def _plan(self) -> None:
        """Schedule the rounds after the next stage."""
        stage = self._recovered
        self._queue, self._first, self._recovered = self._rounds(stage), max(0, self._number - 1), stage + 1
        self._number += reserved(self._steps, self._stages[stage], self._size, stage == len(self._stages) - 1)
        self._look()

    def _round(self) -> Move:
        """Make the next round, and accept its best candidate if the held-out loss falls."""
        clock = perf_counter()
        which, at = self._queue.pop(0)
        step, network, mask = self._steps[which], self._network, self.best()[0]
        weights = np.array(self.best()[1], dtype=np.float64)
        network.place(weights)
        known = self._judged
        if known is None or not np.array_equal(known[0], weights):
            known = (weights, network.held_out_loss())
        before = loss = known[1]
        seed = np.random.SeedSequence(entropy=self._seed, spawn_key=step.spawn_key(self._first, at))
        last = self._recovered == len(self._stages)
        memory = self._memory.get(step.name, {})
        losses, taken = [], weights
        for candidate in step.candidates(Stand(network, weights, mask, last, np.random.default_rng(seed), memory)):
            if candidate.shape != mask.shape or candidate[~mask].any():
                raise PrunebenchError(f"recovery {step.name} moved weights off the mask; please report this")
            network.place(candidate)
            losses.append(network.held_out_loss())
            if losses[-1] < loss:
                loss, taken = losses[-1], candidate
        accepted = taken is not weights
        self._judged = (taken, loss)
        self._memory[step.name] = step.learned(memory, accepted)
        if not accepted:
            self._queue = [due for due in self._queue if due[0] != which]
        elif self._inner.recovers_between:
            self._inner.take(taken)
        else:
            self._final = taken
        self._look()
        details = {
            "stage": self._recovered,
            "kind": step.name,
            "density": float(mask.mean()),
            "true_before": before,
            "true_after": loss,
            "true_change": loss - before,
            "held_out_losses": losses,
            "seconds": perf_counter() - clock,
        }
        return Move(accepted, None, 0, details)
