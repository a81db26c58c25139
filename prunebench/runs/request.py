"""What a pruning run is asked for."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunebench.core.block import Mode
from prunebench.core.errors import InvalidInput
from prunebench.log import checks

SCOPES = ("network", "layer")
"""What one block is made of: the whole network, or a layer."""


@dataclass(frozen=True, kw_only=True)
class PruneRequest:
    """All that a pruning run is asked for; JSON-able, so that a run directory can be resumed from it.

    mode None means the coordinator's usual one (`default_mode`: refit for layer-wise, select for icbs); where it has
    none, the solver's: `preferred_mode` where it names one, else refit if it handles it.
    scope "network" solves the whole network as one block, "layer" one block a layer.
    `curvature` holds options of `prunebench.curvature.fisher.FisherOptions` by name, for coordinators that take
    "curvature", `coordinator_options` those of the coordinator (its `options_class`).
    `seconds` limits the whole run, `block_seconds` each block. `executor` says where blocks are solved:
    inline, local:N, dask:ADDRESS.
    The network is judged on its validation samples every `validate_every` steps, for the log.
    """

    problem: str
    density: float
    solver: str = "swap"
    problem_options: Mapping[str, Any] = field(default_factory=dict)
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    coordinator: str = "one-shot"
    mode: Mode | None = None
    scope: str = "network"
    curvature: Mapping[str, Any] = field(default_factory=dict)
    coordinator_options: Mapping[str, Any] = field(default_factory=dict)
    executor: str | None = None
    seconds: float | None = None
    block_seconds: float | None = None
    validate_every: int = 0
    recover: Sequence[str] | None = None
    """What is done to the network after the last step, and between stages where the coordinator offers that: texts
    like "batch-norm" or "layers:samples=500", `prunebench.core.recovery.parse`. None: the coordinator's own;
    ("none",): nothing."""

    retrain: str | None = None
    """Train what was kept once pruning is over, by the protocol that this text says, such as "epochs=2,distil=0.9"
    (`prunebench.recovery.training.protocol.parse`; "" is the usual one), and note beside the pruned network what that
    reaches. None: do not."""

    controls: Sequence[str] | None = None
    """Train controls of what was kept as well, by `retrain` or else by the coordinator's own last training: names of
    `prunebench.core.controls.CONTROLS`."""

    seed: int = 0
    start: str | None = None
    """A finished run of the same problem and density to begin from, for coordinators that take "start"."""

    subset: str | None = None
    """A file of 'prunebench samples': its samples are the run's only calibration samples. None: all of the problem.
    What `retrain` trains on is said by its own protocol."""

    subset_hash: str | None = None
    """Of the samples in that file, so that a run goes on with the same; for the record alone."""

    recipe: str | None = None
    """The recipe that the other fields come from, "auto:NAME" where the rules chose it; for the record alone."""

    effort: str | None = None
    """The effort that the recipe was taken at; for the record alone."""

    @staticmethod
    def from_json(held: Mapping[str, Any], source: object) -> "PruneRequest":
        """The request of a run directory.

        source : what messages call it

        Raises
        ------
        InvalidInput   a key is missing or unknown to this version, or a value is of another kind
        """
        if unknown := set(held) - {item.name for item in dataclasses.fields(PruneRequest)}:
            raise InvalidInput(f"{source} asks for {', '.join(sorted(unknown))}, which this version does not know")
        checks.require(held, checks.REQUEST, checks.REQUEST_NEEDS, source)
        return PruneRequest(**held)

    def as_json(self) -> dict[str, Any]:
        """The request as JSON-able values."""
        return dataclasses.asdict(self)
