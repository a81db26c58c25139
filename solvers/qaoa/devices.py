"""Where QAOA circuits run: a sampler primitive by name or as an object, its transpiler, and jobs with a deadline.

Any V2 sampler works: it takes (circuit, values) and returns bits. The names are

    statevector            Qiskit's reference simulator, no transpilation
    aer                    qiskit-aer, exact
    noisy                  a made-up device of the block's size with noise (GenericBackendV2, on qiskit-aer)
    fake:NAME              a snapshot of a real device with its noise, for example fake:torino
    ibm, ibm:NAME          IBM Quantum, the least busy device or the named one
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import InvalidInput, MissingPackage, PrunebenchError, SolverRefused
from prunebench.core.registry import require_packages
from prunebench.core.stop import Stop, StopCheck

NAMES = ("statevector", "aer", "noisy", "fake:NAME", "ibm", "ibm:NAME")
"""Values of option `sampler`."""

Kind = Literal["exact", "noisy", "hardware"]

QUOTES = "'\""
"""Quotation marks stripped from an error's message."""

AER = "pip install qiskit-aer"
"""How to install Aer."""
RUNTIME = "pip install qiskit-ibm-runtime"
"""How to install IBM's runtime."""


@dataclass(frozen=True, eq=False)
class Device:
    """A sampler with all that is needed to use it.

    name : for messages;  kind : exact simulator, noisy simulator or hardware
    sampler : the V2 primitive;  pass_manager : transpiles circuits for it, or None if not needed
    qubits : number of qubits, or None;  backend : that the pass manager was made for, or None
    """

    name: str
    kind: Kind
    sampler: Any
    pass_manager: Any
    qubits: int | None
    backend: Any = None


def kind_of(sampler: Any) -> Kind:
    """The kind of a named or given sampler, without opening it; an unknown object counts as hardware."""
    if isinstance(sampler, str):
        if sampler in ("statevector", "aer"):
            return "exact"
        return "hardware" if sampler == "ibm" or sampler.startswith("ibm:") else "noisy"
    if type(sampler).__name__ == "StatevectorSampler":
        return "exact"
    backend = _backend_of(sampler)
    if type(backend).__name__ == "AerSimulator":
        return "exact" if getattr(backend.options, "noise_model", None) is None else "noisy"
    is_local = "fake" in type(backend).__name__.lower() or type(backend).__name__ == "GenericBackendV2"
    return "noisy" if is_local else "hardware"


def open_device(sampler: Any, pass_manager: Any, p: int, level: int, rng: np.random.Generator) -> Device:
    """The device of a name or an object, able to hold p qubits.

    Parameters
    ----------
    sampler : one of NAMES, or a V2 sampler primitive
    pass_manager : used unchanged if given, else made for the sampler's backend at optimization `level`
    rng : seeds the simulators

    Raises
    ------
    InvalidInput     an unknown name, a V1 primitive, an estimator, a backend, no account
    MissingPackage   the name needs a package that is not installed
    SolverRefused    the device has fewer than p qubits
    """
    seed = int(rng.integers(2**31))
    if isinstance(sampler, str):
        name, kind, primitive, backend = sampler, kind_of(sampler), *_named(sampler, p, seed)
    else:
        _require_sampler_v2(sampler)
        name, kind, primitive, backend = type(sampler).__name__, kind_of(sampler), sampler, _backend_of(sampler)
    qubits = getattr(backend, "num_qubits", None)
    if isinstance(qubits, int) and qubits < p:
        raise SolverRefused(
            f"sampler {name!r} has {qubits} qubits but the block has {p} weights; "
            f"use --block-size {qubits}, or the option qubits={qubits} to solve it through sub-blocks"
        )
    if pass_manager is None and backend is not None:
        from qiskit.transpiler import generate_preset_pass_manager

        pass_manager = generate_preset_pass_manager(optimization_level=level, backend=backend, seed_transpiler=0)
    return Device(name, kind, primitive, pass_manager, qubits if isinstance(qubits, int) else None, backend)


def cost_of(circuit: Any) -> dict[str, int]:
    """Two-qubit gates, depth and qubits of a circuit of CX and single-qubit gates, or as transpiled for a device."""
    return {
        "two_qubit_gates": int(sum(len(step.qubits) == 2 for step in circuit.data)),
        "depth": int(circuit.depth()),
        "qubits": int(circuit.num_qubits),
    }


@dataclass(frozen=True, eq=False)
class Shots:
    """A finished job. packed : uint8 (s, bytes), big-endian as in BitArray;  queue, execute : seconds."""

    packed: npt.NDArray[np.uint8]
    queue: float
    execute: float


def run(device: Device, circuit: Any, values: list[float], shots: int, timeout: float, stop: StopCheck) -> Shots | Stop:
    """Run one circuit and wait for it, or return why waiting ended: a used-up budget cancels the job.

    Raises
    ------
    PrunebenchError   the primitive raised, cancelled, or took longer than `timeout` seconds
    """
    began = time.perf_counter()
    started: float | None = None
    pause = 2e-4
    try:
        job = device.sampler.run([(circuit, values)] if values else [(circuit,)], shots=shots)
        while not _finished(job):
            now = time.perf_counter()
            if started is None and _running(job):
                started = now
            stopped = stop(0.0)
            if stopped or now - began > timeout:
                job.cancel()
                if stopped:
                    return stopped
                raise PrunebenchError(
                    f"sampler {device.name!r} gave nothing within {timeout:g} s; raise the option timeout, "
                    "take fewer shots, or another sampler"
                )
            time.sleep(pause)
            pause = min(1.3 * pause, 1.0)
        result = job.result()
        register = next(iter(result[0].data.values()))
        packed = np.asarray(register.array, dtype=np.uint8).reshape(-1, register.array.shape[-1])
    except PrunebenchError:
        raise
    except Exception as error:  # whatever a foreign primitive raises becomes one clear line
        lines = str(error).strip().splitlines() or [""]
        raise PrunebenchError(
            f"sampler {device.name!r} failed: {type(error).__name__}: {lines[0][:300]}; "
            "check that it is a V2 sampler that accepts a transpiled circuit with bound parameters"
        ) from error
    ended = time.perf_counter()
    started = min(started or began, ended)
    return Shots(packed, started - began, ended - started)


def _finished(job: Any) -> bool:
    check = getattr(job, "in_final_state", None) or job.done
    return bool(check())


def _running(job: Any) -> bool:
    check = getattr(job, "running", None)
    return check is None or bool(check())


def _named(name: str, p: int, seed: int) -> tuple[Any, Any]:
    """(primitive, backend) of a sampler name; the backend is None if circuits need no transpilation."""
    from qiskit.primitives import BackendSamplerV2, StatevectorSampler

    if name == "statevector":
        return StatevectorSampler(seed=np.random.default_rng(seed)), None
    if name == "aer":
        require_packages("sampler 'aer'", ("qiskit_aer",), AER)
        from qiskit_aer import AerSimulator
        from qiskit_aer.primitives import SamplerV2

        return SamplerV2(seed=seed), AerSimulator()
    if name == "noisy":
        require_packages("sampler 'noisy'", ("qiskit_aer",), AER)
        from qiskit.providers.fake_provider import GenericBackendV2

        backend = GenericBackendV2(max(p, 2), seed=0)
        return BackendSamplerV2(backend=backend, options={"seed_simulator": seed}), backend
    if name.startswith("fake:"):
        require_packages(f"sampler {name!r}", ("qiskit_aer",), AER)
        require_packages(f"sampler {name!r}", ("qiskit_ibm_runtime",), RUNTIME)
        backend = _fake_backend(name.removeprefix("fake:"))
        return BackendSamplerV2(backend=backend, options={"seed_simulator": seed}), backend
    if name == "ibm" or name.startswith("ibm:"):
        require_packages(f"sampler {name!r}", ("qiskit_ibm_runtime",), RUNTIME)
        return _ibm(name.removeprefix("ibm").removeprefix(":"), p)
    raise InvalidInput(f"sampler is {name!r}; choose one of {', '.join(NAMES)}, or pass a V2 sampler primitive")


def _fake_backend(name: str) -> Any:
    from qiskit_ibm_runtime import fake_provider

    held = {
        key.removeprefix("Fake").removesuffix("V2").lower(): key
        for key in dir(fake_provider)
        if key.startswith("Fake") and "Provider" not in key
    }
    if name.lower() not in held:
        raise InvalidInput(f"sampler is 'fake:{name}'; qiskit-ibm-runtime has {', '.join(sorted(held))}")
    return getattr(fake_provider, held[name.lower()])()


def _ibm(name: str, p: int) -> tuple[Any, Any]:
    import qiskit_ibm_runtime as runtime

    try:
        from qiskit_ibm_runtime.executor_sampler import Sampler
    except ImportError:  # releases before 0.50 have only the sampler that later ones deprecate
        Sampler = runtime.SamplerV2
    try:
        service = runtime.QiskitRuntimeService()
        backend = (
            service.backend(name) if name else service.least_busy(operational=True, simulator=False, min_num_qubits=p)
        )
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InvalidInput(
            f"sampler 'ibm{':' + name if name else ''}' is not available: {lines[0].strip(QUOTES)} "
            "Save an account once with QiskitRuntimeService.save_account(token=..., instance=...), "
            "or use a simulator: --option sampler=statevector"
        ) from error
    return Sampler(mode=backend), backend


def _backend_of(sampler: Any) -> Any:
    """The backend behind a sampler object, or None."""
    for attribute in ("backend", "_backend"):
        found = getattr(sampler, attribute, None)
        if callable(found) and not hasattr(found, "num_qubits"):
            try:
                found = found()
            except Exception:
                continue
        if found is not None and hasattr(found, "num_qubits"):
            return found
    return None


def _require_sampler_v2(sampler: Any) -> None:
    """Refuse common wrong arguments, each with its remedy."""
    from qiskit import primitives

    what = type(sampler).__name__
    for base, message in (
        ("BaseSamplerV1", "is a V1 sampler; pass a V2 one, for example qiskit.primitives.StatevectorSampler()"),
        ("BaseEstimatorV1", "is an estimator; QAOA needs samples: pass a V2 sampler"),
        ("BaseEstimatorV2", "is an estimator; QAOA needs samples: pass a V2 sampler"),
    ):
        known = getattr(primitives, base, None)
        if known is not None and isinstance(sampler, known):
            raise InvalidInput(f"sampler {what} {message}")
    if isinstance(sampler, primitives.BaseSamplerV2):
        return
    if hasattr(sampler, "target") and hasattr(sampler, "num_qubits"):
        raise InvalidInput(f"sampler {what} is a backend; wrap it: qiskit.primitives.BackendSamplerV2(backend=...)")
    if not callable(getattr(sampler, "run", None)):
        raise InvalidInput(f"sampler is a {what}; choose one of {', '.join(NAMES)}, or pass a V2 sampler primitive")


__all__ = ["NAMES", "Device", "Kind", "MissingPackage", "Shots", "cost_of", "kind_of", "open_device", "run"]
