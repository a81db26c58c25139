"""The block in Qiskit's words, and back: QuadraticProgram, Ising operator, bit strings and OpenQASM 3.

Qubit and variable i are weight i, 1 where it is kept; Z reads +1 for 0, so mᵢ = (1 − Zᵢ)/2. Qiskit
prints qubit 0 rightmost, and nothing here depends on printed strings.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.registry import require_packages
from prunebench.forms import text_files
from prunebench.forms.program import Units, counts, program, require_select

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_optimization import QuadraticProgram


def quadratic_program(block: BlockProblem, scale: float = 1.0) -> "QuadraticProgram":
    """The select problem with the cardinality, or every group's, as a linear constraint; variables m0, m1, …

    Parameters
    ----------
    block : in mode select
    scale : the objective is multiplied by it; library defaults assume numbers of size one

    Raises
    ------
    InvalidInput     mode refit, which is not quadratic in the mask
    MissingPackage   qiskit-optimization is not installed
    """
    _require_select(block)
    require_packages("a QuadraticProgram", ("qiskit_optimization",), "pip install qiskit-optimization")
    from qiskit_optimization import QuadraticProgram

    qubo = block.to_qubo()
    program = QuadraticProgram(block.problem or "block")
    for i in range(block.p):
        program.binary_var(f"m{i}")
    program.minimize(scale * qubo.constant, scale * qubo.linear, scale * np.triu(qubo.couplings, 1))
    for name, members, count in counts(block):
        program.linear_constraint(members.astype(np.float64), "==", count, name)
    return program


def mask_of(values: npt.ArrayLike) -> BoolArray:
    """The mask in the values of a program's variables, rounded. float (p,) -> bool (p,)"""
    return np.asarray(values, dtype=np.float64) > 0.5


def masks_of_bits(packed: npt.NDArray[np.uint8], p: int) -> BoolArray:
    """The shots of a V2 sampler's BitArray as masks. uint8 (s, bytes), big-endian -> bool (s, p)."""
    bits = np.unpackbits(np.asarray(packed, dtype=np.uint8), axis=-1)
    return bits[..., ::-1][..., :p].astype(np.bool_)


def ising_coefficients(block: BlockProblem) -> tuple[FloatArray, FloatArray, float]:
    """(a, b, offset) with E(m) = offset + Σ aᵢ Zᵢ + Σ_{i<j} bᵢⱼ Zᵢ Zⱼ; b strictly upper. (p,), (p, p), float.

    Raises
    ------
    InvalidInput   mode refit
    """
    _require_select(block)
    qubo = block.to_qubo()
    couplings = np.triu(qubo.couplings, 1) / 4.0
    fields = -qubo.linear / 2.0 - couplings.sum(axis=0) - couplings.sum(axis=1)
    return fields, couplings, qubo.constant + float(qubo.linear.sum()) / 2.0 + float(couplings.sum())


def ising_operator(block: BlockProblem, penalty: float = 0.0) -> "tuple[SparsePauliOp, float]":
    """(operator, offset): the objective plus penalty·(Σm − keep)², of a quota every group's; exact zeros left out.

    The eigenvalue at a basis state plus the offset is E(m) plus the penalty.
    """
    from qiskit.quantum_info import SparsePauliOp

    fields, couplings, offset = ising_coefficients(block)
    for _, members, count in counts(block):
        excess = float(members.sum()) / 2.0 - count
        fields = fields - penalty * excess * members
        couplings = couplings + np.triu(np.outer(members, members) * (penalty / 2.0), 1)
        offset += penalty * (excess**2 + float(members.sum()) / 4.0)
    terms: list[tuple[str, list[int], float]] = [("Z", [i], float(a)) for i, a in enumerate(fields) if a != 0.0]
    terms += [("ZZ", [int(i), int(j)], float(couplings[i, j])) for i, j in np.argwhere(couplings)]
    return SparsePauliOp.from_sparse_list(terms or [("", [], 0.0)], num_qubits=block.p), offset


def qubo_of_ising(operator: "SparsePauliOp", offset: float = 0.0) -> tuple[float, FloatArray, FloatArray]:
    """(constant, linear, couplings) with E(m) = constant + Σ linearᵢ mᵢ + Σ_{i<j} couplingsᵢⱼ mᵢ mⱼ.

    The inverse of `ising_operator` without penalty; couplings strictly upper. float, (p,), (p, p).

    Raises
    ------
    InvalidInput   a term with X or Y, or with more than two Z
    """
    p = int(operator.num_qubits)
    constant, linear, couplings = float(offset), np.zeros(p), np.zeros((p, p))
    for name, qubits, coefficient in operator.to_sparse_list():
        value = float(np.real(coefficient))
        if set(name) - {"Z"} or len(name) > 2:
            raise InvalidInput(f"the operator has the term {name} on {list(qubits)}; expected Z and ZZ only")
        constant += value
        for qubit in qubits:
            linear[qubit] -= 2.0 * value
        if len(name) == 2:
            couplings[min(qubits), max(qubits)] += 4.0 * value
    return constant, linear, couplings


def lp_text(block: BlockProblem) -> str:
    """The quadratic program in CPLEX LP format, every number with all its digits; its objective's units stand on top.

    Raises
    ------
    InvalidInput   mode refit, which `prunebench.forms.text_files` writes with a variable for each weight
    """
    _require_select(block)
    return text_files.lp_text(program(block))


def qasm_text(circuit: "QuantumCircuit") -> str:
    """OpenQASM 3 of a circuit; free parameters become `input` declarations."""
    from qiskit import qasm3

    return str(qasm3.dumps(circuit))


def default_circuit(block: BlockProblem) -> "QuantumCircuit":
    """One layer, complete XY mixer, Dicke start; gamma[0] and beta[0] free, the objective scaled to spread 1.

    The spread is that of E over uniformly random masks with `keep` ones, estimated from 4096 of them
    with a fixed seed, so that the angles of other blocks carry over.

    Raises
    ------
    InvalidInput   mode refit, or a quota: its start and mixer hold one count
    """
    return circuit_and_units(block)[0]


def circuit_and_units(block: BlockProblem) -> "tuple[QuantumCircuit, Units]":
    """The default circuit, and how the operator Σ aᵢ Zᵢ + Σ bᵢⱼ Zᵢ Zⱼ of its phase relates to f.

    Raises
    ------
    InvalidInput   as `default_circuit`
    """
    if not block.keeping.one_count:
        raise InvalidInput(f"{block.name}: the circuit holds one count, not a quota; export qp, or cut a block without")
    from prunebench.forms.circuits import Ansatz

    fields, couplings, offset = ising_coefficients(block)
    order = np.argsort(np.random.default_rng(0).random((4096, block.p)), axis=1)
    spins = np.where(order < block.keep, -1.0, 1.0)
    energies = spins @ fields + np.einsum("sp,sp->s", spins @ couplings, spins)
    spread = float(energies.std()) or 1.0
    circuit = Ansatz(block.p, block.keep, "complete", 1).circuit(fields / spread, couplings / spread)
    return circuit, Units(scale=1.0 / spread, constant=offset)


def _export_qasm(block: BlockProblem, path: Path) -> Units:
    require_packages("OpenQASM export", ("qiskit",), "pip install qiskit")
    circuit, units = circuit_and_units(block)
    version, _, rest = qasm_text(circuit).partition("\n")
    path.write_text(f"{version}\n// qubit i is weight i; {units.text()}\n{rest}", encoding="utf-8", newline="\n")
    return units


EXPORTS: dict[str, Callable[..., Units]] = {"qp": text_files.EXPORTS["lp"], "qasm": _export_qasm}
"""Writers by format name: qp is the quadratic program as LP text, qasm the default circuit."""


def _require_select(block: BlockProblem) -> None:
    require_select(block, "Qiskit's form", "use mode select")
