"""The smaller network that a run of structured pruning left, as something to be trained."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.log import checks
from prunebench.log.run_directory import RunDirectory
from prunebench.recovery.training.protocol import Begin, Protocol
from prunebench.runs.start import MASK_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork
    from prunebench.recovery.training.controls import Control
    from prunebench.recovery.training.cut import Remaining


class SmallerTraining:
    """The smaller network of a run directory, its values and those of others of its shapes.

    Parameters
    ----------
    problem : of the network;  path, request : the run directory, and what it asked for
    result : what the run measured: `costs`, of which the part of the multiply-accumulates is taken

    Raises
    ------
    InvalidInput   the module's code holds sizes of its own, so that only a graph has the smaller shapes; or files that
                   the run did not write
    """

    def __init__(
        self, problem: NetworkProblem, path: Path, request: Mapping[str, Any], result: Mapping[str, Any]
    ) -> None:
        from prunebench.networks.checkpoints import read_state
        from prunebench.recovery.training.cut import smaller_of
        from prunebench.runs.structured import STRUCTURE_FILE, TAKES
        from prunebench.structure.module import resized

        for name in (MASK_FILE, WEIGHTS_FILE, STRUCTURE_FILE):
            RunDirectory.open(path).require_own(name)
        facts = checks.read_object(path / STRUCTURE_FILE)
        if facts["module"] != TAKES:
            raise InvalidInput(
                f"the smaller network of {path} is a graph, which is not trained: the module keeps its shape "
                f"({facts['module']}). Train while pruning: --recover distil"
            )
        self._problem, self._path, self._request = problem, path, request
        macs = result["costs"]["macs"]
        self.part = float(macs["pruned"] / macs["dense"])
        """Of the dense network's multiply-accumulates."""
        self._names = problem.prunable()
        self.network: PrunableNetwork = smaller_of(
            self._names, resized(problem.model(), read_state(path / WEIGHTS_FILE))
        )
        """It, with its pruned values at first."""

    @cached_property
    def left(self) -> "Remaining":
        """What of the dense network is left, found anew: only values of other networks need it.

        Raises
        ------
        InvalidInput   the groups that are found are not those of the run
        """
        from prunebench.coordinators.structured import StructuredOptions
        from prunebench.networks.checkpoints import read_state
        from prunebench.recovery.training.cut import Cut, Remaining
        from prunebench.structure.found import find

        kinds = StructuredOptions(structure=str(self._request.get("coordinator_options", {}).get("structure", "")))
        found = find(self._problem.model(), self._problem.calibration(), kinds.kinds)
        masks, kept = read_state(self._path / MASK_FILE), []
        for family in found.families:
            mask = masks.get(family.label)
            if mask is None or tuple(mask.shape) != (family.size,):
                raise InvalidInput(f"{self._path / MASK_FILE} has no {family.size} groups of {family.label}")
            kept.append(mask.numpy().astype(bool))
        return Remaining(Cut(self._problem, self._names, found), kept, self.part)

    def put(self, begin: Begin) -> None:
        """Put the values that a training starts from into the network."""
        if begin.kind != "pruned":
            self.left.cut.place(self.network, self.left.kept, begin)

    def control(self, name: str, protocol: Protocol, seed: int) -> "Control":
        """A control of the network, which has its pruned values."""
        from prunebench.recovery.training import group_controls

        return group_controls.made(name, self._problem, self.network, self.left, protocol, seed)
