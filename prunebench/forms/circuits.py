"""QAOA circuits that never leave the masks with exactly `keep` ones: Dicke start, XY and Grover mixers.

Conventions: qubit i is weight i and reads 1 where the weight is kept; |D⟩ is the uniform superposition
of the feasible masks; with the objective's Ising form e = Σ aᵢ Zᵢ + Σ bᵢⱼ Zᵢ Zⱼ, one layer is
exp(−iγe) followed by the mixer at angle β.

Bärtschi, Eidenbenz: Deterministic preparation of Dicke states, FCT 2019, arXiv 1904.07358 (Dicke states);
Hadfield et al., Algorithms 12 (2019) (XY mixers); Bärtschi, Eidenbenz: Grover mixers for QAOA, QCE 2020.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prunebench.core.arrays import FloatArray, IndexArray

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

Mixer = Literal["complete", "ring", "grover", "x"]
MIXERS: tuple[Mixer, ...] = ("complete", "ring", "grover")
"""The mixers that keep the number of ones; "x" is the transverse field, which does not."""


def mixer_pairs(p: int, mixer: str) -> IndexArray:
    """The qubit pairs of an XY mixer, in the order in which circuit and simulator apply them. int64 (E, 2).

    complete : all p(p−1)/2 pairs as the rounds of a tournament (circle method): p−1 rounds of disjoint
               pairs for even p, so the depth is p−1 pair gates and not p(p−1)/2
    ring : even pairs, odd pairs, then the pair that closes the ring
    others : none
    """
    pairs: list[tuple[int, int]] = []
    if mixer == "complete":
        seats = list(range(p + p % 2))
        for _ in range(len(seats) - 1):
            met = zip(seats[: len(seats) // 2], reversed(seats[len(seats) // 2 :]), strict=True)
            pairs += [(min(one, two), max(one, two)) for one, two in met if max(one, two) < p]
            seats = [seats[0], seats[-1], *seats[1:-1]]
    elif mixer == "ring":
        pairs = [(i, i + 1) for start in (0, 1) for i in range(start, p - 1, 2)]
        if p > 2:
            pairs.append((0, p - 1))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class Ansatz:
    """The shape of a circuit; blocks of one shape share one transpiled circuit.

    p, keep : qubits, ones;  mixer : complete | ring | grover | x;  reps : layers, at least 1
    """

    p: int
    keep: int
    mixer: str
    reps: int

    @property
    def pairs(self) -> IndexArray:
        """All qubit pairs i < j in lexicographic order: the terms ZᵢZⱼ. int64 (p(p−1)/2, 2)."""
        return np.stack(np.triu_indices(self.p, 1), axis=1).astype(np.int64)

    def template(self) -> "QuantumCircuit":
        """The measured circuit with one free parameter a gate, so that it serves every block of this shape.

        Parameters are named phase[t], reps·(p + p(p−1)/2) of them, and beta[l]; `binding` gives values.
        """
        from qiskit.circuit import ParameterVector

        terms = self.p + len(self.pairs)
        phase = ParameterVector("phase", self.reps * terms)
        beta = ParameterVector("beta", self.reps)
        circuit = self._build(lambda layer, term: phase[layer * terms + term], lambda layer: beta[layer])
        circuit.measure_all()
        return circuit

    def binding(self, fields: FloatArray, couplings: FloatArray, angles: FloatArray) -> dict[str, float]:
        """Values of the template's parameters by name.

        Parameters
        ----------
        fields : float64 (p,)         aᵢ of e = Σ aᵢ Zᵢ + Σ_{i<j} bᵢⱼ Zᵢ Zⱼ
        couplings : float64 (p, p)    bᵢⱼ above the diagonal
        angles : float64 (2·reps,)    the γ, then the β; or (2·reps + reps·p,): then the φ, layer by layer,
                                      which add exp(−i Σ φᵢ mᵢ) to a layer's phase and no gate to the circuit
        """
        given = np.asarray(angles, dtype=np.float64)
        gammas, betas, own = np.split(given, [self.reps, 2 * self.reps])
        coefficients = np.concatenate([fields, couplings[np.triu_indices(self.p, 1)]])
        turns = 2.0 * gammas[:, None] * coefficients
        # m = (1 − Z)/2, so that φ·m is −φ/2·Z up to a global phase.
        turns[:, : self.p] -= own.reshape(-1, self.p) if own.size else 0.0
        phases = turns.ravel()
        named = {f"phase[{t}]": float(value) for t, value in enumerate(phases)}
        return named | {f"beta[{layer}]": float(value) for layer, value in enumerate(betas)}

    def circuit(self, fields: FloatArray, couplings: FloatArray, *, measure: bool = True) -> "QuantumCircuit":
        """The circuit of one block with the 2·reps angles gamma[l], beta[l] left free; e as in `binding`."""
        from qiskit.circuit import ParameterVector

        gamma, beta = ParameterVector("gamma", self.reps), ParameterVector("beta", self.reps)
        coefficients = np.concatenate([fields, couplings[np.triu_indices(self.p, 1)]])
        circuit = self._build(
            lambda layer, term: 2.0 * float(coefficients[term]) * gamma[layer], lambda layer: beta[layer]
        )
        if measure:
            circuit.measure_all()
        return circuit

    def _build(self, phase_angle: Callable[[int, int], Any], mixer_angle: Callable[[int], Any]) -> "QuantumCircuit":
        from qiskit import QuantumCircuit

        circuit = QuantumCircuit(self.p)
        if self.mixer == "x":
            circuit.h(range(self.p))
        else:
            circuit.compose(dicke_state(self.p, self.keep), inplace=True)
        for layer in range(self.reps):
            for qubit in range(self.p):
                circuit.rz(phase_angle(layer, qubit), qubit)
            for term, (one, two) in enumerate(self.pairs, start=self.p):
                circuit.rzz(phase_angle(layer, term), int(one), int(two))
            self._mix(circuit, mixer_angle(layer))
        return circuit

    def _mix(self, circuit: "QuantumCircuit", beta: Any) -> None:
        """Append exp(−iβX) on every qubit, Π exp(−iβ(XX+YY)/2) on the pairs, or exp(−iβ|D⟩⟨D|)."""
        from qiskit.circuit.library import XXPlusYYGate

        if self.mixer == "x":
            circuit.rx(2.0 * beta, range(self.p))
        elif self.mixer == "grover":
            dicke = dicke_state(self.p, self.keep)
            circuit.compose(dicke.inverse(), inplace=True)
            circuit.x(range(self.p))
            _phase_on_ones(circuit, -beta)
            circuit.x(range(self.p))
            circuit.compose(dicke, inplace=True)
        else:
            for one, two in mixer_pairs(self.p, self.mixer):
                circuit.append(XXPlusYYGate(2.0 * beta), [int(one), int(two)])


def dicke_state(p: int, keep: int) -> "QuantumCircuit":
    """|0…0⟩ to the uniform superposition of the states with `keep` ones, in O(p·keep) two-qubit gates.

    Bärtschi and Eidenbenz, theorem 1 with the gates of figures 2 and 3; for keep > p/2 the zeros are
    distributed instead of the ones.
    """
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(p)
    ones = min(keep, p - keep)
    if ones:
        circuit.x(range(p - ones, p))
    for last in range(p - 1, 0, -1):
        for move in range(1, min(ones, last) + 1):
            _split(circuit, last, move)
    if ones < keep:
        circuit.x(range(p))
    return circuit


def _phase_on_ones(circuit: "QuantumCircuit", angle: Any) -> None:
    """Multiply |1…1⟩ by exp(i·angle) up to a global phase, one qubit split off at a time.

    x·C = (x + C − x⊕C)/2 for x a bit and C an AND of others. Not Qiskit's multi-controlled phase gate,
    nor phase gates: with a free parameter, the transpiler collects their global phases in one nested
    expression, which takes minutes at eight qubits and three layers.
    """
    for target in range(circuit.num_qubits - 1, 0, -1):
        angle = 0.5 * angle
        circuit.rz(angle, target)
        circuit.mcx(list(range(target)), target)
        circuit.rz(-angle, target)
        circuit.mcx(list(range(target)), target)
    circuit.rz(angle, 0)


def _split(circuit: "QuantumCircuit", last: int, move: int) -> None:
    """Split & cyclic shift on qubits 0…last: of `move` ones at the end, the one at `last` moves to `last − move`.

    A rotation by 2·arccos √(move/(last+1)), controlled by `last` and, from the second move on, by its
    neighbour; two controls take four CX as a multiplexed RY.
    """
    target, angle = last - move, 2.0 * np.arccos(np.sqrt(move / (last + 1)))
    circuit.cx(target, last)
    if move == 1:
        circuit.cry(angle, last, target)
    else:
        for sign, control in ((1, last), (-1, target + 1), (1, last), (-1, target + 1)):
            circuit.ry(sign * angle / 4.0, target)
            circuit.cx(control, target)
    circuit.cx(target, last)
