"""Transpiling QAOA circuits once per shape and device; their cost is announced before anything runs."""

import logging
from typing import Any

from prunebench.core.errors import InvalidInput
from prunebench.forms.circuits import Ansatz
from prunebench.solvers.qaoa.devices import Device, cost_of

LOG = logging.getLogger("prunebench.qaoa")
"""The logger that announces a circuit's cost on a device."""

COUNTING_BASIS = ("cx", "rz", "sx", "x")
"""If nothing is transpiled for execution, gates are counted in this basis with all qubits connected."""

CACHED_CIRCUITS = 32
"""Transpiled circuits that are kept: as many as the shapes in one comparison."""

_CIRCUITS: dict[tuple[Any, ...], tuple[Any, dict[str, int], Any]] = {}
"""Transpiled circuits by shape and device, each with its cost and the objects whose identity is in the key."""


def transpiled(
    ansatz: Ansatz, device: Device, sampler: Any, pass_manager: Any, *, level: int, shots: int
) -> tuple[Any, dict[str, int]]:
    """The template circuit of a shape, ready for the device, with its two-qubit gates, depth and qubits.

    Parameters
    ----------
    sampler, pass_manager : as the user gave them; with `level` they identify the device
    shots : for the announcement on devices other than exact simulators

    Raises
    ------
    InvalidInput   the device's pass manager rejects the circuit
    """
    from qiskit.transpiler import generate_preset_pass_manager

    named = isinstance(sampler, str) and pass_manager is None
    key = (ansatz, sampler if named else (id(sampler), id(pass_manager)), level, device.qubits)
    if key not in _CIRCUITS:
        template = ansatz.template()
        manager = device.pass_manager or generate_preset_pass_manager(
            optimization_level=1, basis_gates=list(COUNTING_BASIS), seed_transpiler=0
        )
        try:
            ready = manager.run(template)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InvalidInput(
                f"sampler {device.name!r} rejects the circuit of {ansatz.p} qubits: {lines[0][:300]}; "
                "take fewer layers, a smaller block, another mixer or another device"
            ) from error
        cost = {**cost_of(ready), "qubits": ansatz.p}
        while len(_CIRCUITS) >= CACHED_CIRCUITS:
            del _CIRCUITS[next(iter(_CIRCUITS))]
        _CIRCUITS[key] = (ready if device.pass_manager else template, cost, (sampler, pass_manager))
        if device.kind != "exact":
            LOG.warning(
                "%s: %d two-qubit gates at depth %d on %d qubits, %d shots a circuit",
                device.name, cost["two_qubit_gates"], cost["depth"], ansatz.p, shots,
            )  # fmt: skip
    circuit, cost, _ = _CIRCUITS[key]
    return circuit, cost
