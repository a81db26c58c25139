"""Passes over samples by a run's workers: set up, and what they took in the end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prunebench import threads
from prunebench.core.coordinator import Setting
from prunebench.core.problem import NetworkProblem
from prunebench.runs.runner import Say

if TYPE_CHECKING:
    from prunebench.curvature.sharing import Sharing
    from prunebench.runs.preparation import Prepared

MEBIBYTE = 2**20
"""Bytes that messages count in."""


@contextmanager
def shared_out(prepared: "Prepared", setting: Setting) -> Iterator["Sharing | None"]:
    """Inside, the run's workers compute passes of its network over samples, where there are any that can.

    setting : with the network
    """
    make = prepared.how.workers.crew
    if make is None:
        yield None
        return
    network, problem = setting.network, setting.problem
    assert isinstance(problem, NetworkProblem)
    if reason := _stays(prepared, network):
        setting.say(f"passes over samples are computed in this process: {reason}")
        yield None
        return
    from prunebench.curvature.sharing import Sharing

    operations = threads.multiply_adds(network.model, problem.calibration())
    sharing = Sharing(make(), network.model, problem.loss, setting.say, operations)
    network.sharing = sharing
    try:
        yield sharing
    finally:
        network.sharing = None
        sharing.close()


def _stays(prepared: "Prepared", network: Any) -> str:
    """Why passes cannot be shared out; "" if they can."""
    if not prepared.kind.shares_passes:
        return f"coordinator {prepared.kind.name} does not share them out, its workers solve blocks"
    devices = {parameter.device.type for parameter in network.model.parameters()}
    if devices != {"cpu"}:
        return f"the network is on {', '.join(sorted(devices))}, and workers compute on processors"
    return ""


def workers_of(events: Sequence[Mapping[str, Any]], asked: bool, say: Say) -> dict[str, dict[str, float]]:
    """What workers did for a run's passes, added up over its steps, which is told; {} where they did nothing.

    asked : whether there are workers that could have
    """
    total: dict[str, float] = {}
    for event in events:
        for name, value in event.get("workers", {}).items():
            total[name] = total.get(name, 0) + value
    if not total:
        if asked:
            say("workers computed no passes over samples: this process takes less time for them")
        return {}
    sent = sum(total[name] for name in ("network_bytes", "changes_bytes", "work_bytes"))
    say(
        f"workers computed {total['jobs']:.0f} shares of passes in {total['worker_cpu_seconds']:.1f} CPU s; "
        f"{sent / MEBIBYTE:.1f} MiB were sent and {total['result_bytes'] / MEBIBYTE:.1f} MiB came back, "
        f"{total['send_seconds']:.1f} s were spent on sending and {total['wait_seconds']:.1f} s on waiting"
        + (f"; deaths of workers, whose shares went to others: {total['deaths']:.0f}" if total["deaths"] else "")
    )
    return {"workers": total}
