"""Circuits, Ising and program forms: equal to mathematics, to each other and to the subspace simulator."""

import itertools
import math

import numpy as np
import pytest

from helpers import gaussian_block
from prunebench.core.errors import InvalidInput
from prunebench.forms import qiskit as forms
from prunebench.forms.circuits import Ansatz, dicke_state, mixer_pairs
from prunebench.kernels.enumeration import subspace
from prunebench.solvers.qaoa.simulator import Simulator

pytest.importorskip("qiskit")

ALL_MIXERS = ("complete", "ring", "grover", "x")


def random_block(p=6, keep=3, seed=0, mode="select"):
    return gaussian_block(p, keep, seed, mode, n=9, ridge=0.1, linear=True, problem="test")


def all_masks(p):
    return np.array(list(itertools.product([False, True], repeat=p)))


@pytest.mark.parametrize("p", range(1, 8))
def test_the_dicke_circuit_prepares_equal_amplitudes_on_the_right_states(p):
    from qiskit.quantum_info import Statevector

    ones = np.array([state.bit_count() for state in range(2**p)])
    for keep in range(p + 1):
        amplitudes = Statevector(dicke_state(p, keep)).data
        assert amplitudes == pytest.approx(np.where(ones == keep, math.comb(p, keep) ** -0.5, 0.0), abs=1e-13)


def test_the_dicke_circuit_takes_of_the_order_p_keep_gates():
    counts = dicke_state(12, 6).decompose().count_ops()
    assert counts["cx"] < 6 * 12 * 6


@pytest.mark.parametrize("mixer", ALL_MIXERS)
@pytest.mark.parametrize(("p", "keep"), [(2, 1), (6, 3), (7, 2), (8, 6)])
def test_the_circuit_and_the_subspace_simulator_give_one_state(mixer, p, keep):
    from qiskit.quantum_info import Statevector

    rng = np.random.default_rng(p)
    fields, couplings = rng.normal(size=p), np.triu(rng.normal(size=(p, p)), 1)
    angles = rng.normal(size=6)
    whole = mixer == "x"
    space = subspace.whole_space(p) if whole else subspace.feasible_space(p, keep, mixer_pairs(p, mixer))
    spins = 1.0 - 2.0 * space.masks()
    energies = spins @ fields + np.einsum("sp,sp->s", spins @ couplings, spins)
    ours = Simulator(space, energies, mixer == "grover").state(angles)

    ansatz = Ansatz(p, keep, mixer, 3)
    circuit = ansatz.template()
    circuit.remove_final_measurements()
    values = ansatz.binding(fields, couplings, angles)
    theirs = Statevector(circuit.assign_parameters([values[name.name] for name in circuit.parameters])).data
    overlap = np.vdot(ours, theirs[space.states])
    assert np.abs(theirs[space.states] * overlap.conj() / abs(overlap) - ours).max() < 1e-12


def test_angles_for_the_weights_give_circuit_and_simulator_one_state():
    from qiskit.quantum_info import Statevector

    rng = np.random.default_rng(0)
    fields, couplings = rng.normal(size=6), np.triu(rng.normal(size=(6, 6)), 1)
    angles = rng.normal(size=2 * (2 + 6))
    space = subspace.feasible_space(6, 3, mixer_pairs(6, "complete"))
    spins = 1.0 - 2.0 * space.masks()
    energies = spins @ fields + np.einsum("sp,sp->s", spins @ couplings, spins)
    ours = Simulator(space, energies, weighted=True).state(angles)

    ansatz = Ansatz(6, 3, "complete", 2)
    circuit = ansatz.template()
    circuit.remove_final_measurements()
    values = ansatz.binding(fields, couplings, angles)
    theirs = Statevector(circuit.assign_parameters([values[name.name] for name in circuit.parameters])).data
    overlap = np.vdot(ours, theirs[space.states])
    assert np.abs(theirs[space.states] * overlap.conj() / abs(overlap) - ours).max() < 1e-12


def test_the_free_angle_circuit_equals_the_template():
    from qiskit.quantum_info import Statevector

    rng = np.random.default_rng(0)
    fields, couplings, angles = rng.normal(size=5), np.triu(rng.normal(size=(5, 5)), 1), rng.normal(size=4)
    ansatz = Ansatz(5, 2, "complete", 2)
    free = ansatz.circuit(fields, couplings, measure=False)
    named = dict(zip(["gamma[0]", "gamma[1]", "beta[0]", "beta[1]"], angles, strict=True))
    first = Statevector(free.assign_parameters([named[name.name] for name in free.parameters]))
    template = ansatz.template()
    template.remove_final_measurements()
    values = ansatz.binding(fields, couplings, angles)
    second = Statevector(template.assign_parameters([values[name.name] for name in template.parameters]))
    assert abs(first.inner(second)) == pytest.approx(1.0, abs=1e-12)


def test_the_ising_coefficients_give_the_objective_of_every_mask():
    block = random_block()
    fields, couplings, offset = forms.ising_coefficients(block)
    for mask in all_masks(6):
        spins = 1.0 - 2.0 * mask
        assert offset + spins @ fields + spins @ couplings @ spins == pytest.approx(
            block.to_qubo().energy(mask), rel=1e-12
        )


def test_the_operators_diagonal_is_the_objective_plus_the_penalty():
    block = random_block()
    operator, offset = forms.ising_operator(block, penalty=2.5)
    diagonal = operator.to_matrix().diagonal().real + offset
    for state in range(64):
        mask = (state >> np.arange(6)) & 1 == 1
        expected = block.to_qubo().energy(mask) + 2.5 * (mask.sum() - 3) ** 2
        assert diagonal[state] == pytest.approx(expected, rel=1e-12)


def test_the_operator_converts_back_to_the_qubo():
    block = random_block()
    constant, linear, couplings = forms.qubo_of_ising(*forms.ising_operator(block))
    qubo = block.to_qubo()
    assert constant == pytest.approx(qubo.constant, rel=1e-12)
    assert linear == pytest.approx(qubo.linear, rel=1e-12)
    assert couplings == pytest.approx(np.triu(qubo.couplings, 1), rel=1e-12)


def test_an_operator_with_another_pauli_is_refused():
    from qiskit.quantum_info import SparsePauliOp

    with pytest.raises(InvalidInput, match="expected Z and ZZ only"):
        forms.qubo_of_ising(SparsePauliOp("XZ"))


def test_the_quadratic_program_has_the_objective_and_the_constraint():
    pytest.importorskip("qiskit_optimization")
    block = random_block()
    program = forms.quadratic_program(block)
    for mask in all_masks(6):
        assert program.objective.evaluate(mask.astype(float)) == pytest.approx(block.to_qubo().energy(mask), rel=1e-12)
        assert program.is_feasible(mask.astype(float)) == (mask.sum() == 3)
    assert (forms.mask_of(np.array([1.0, 0.0, 0.999])) == [True, False, True]).all()


def test_dimod_reads_the_lp_text_back_without_loss():
    dimod = pytest.importorskip("dimod")
    block = random_block()
    model = dimod.lp.loads(forms.lp_text(block))
    for mask in all_masks(6):
        sample = {f"m{i}": int(value) for i, value in enumerate(mask)}
        assert model.check_feasible(sample) == (mask.sum() == 3)
        if mask.sum() == 3:
            assert model.objective.energy(sample) == pytest.approx(block.to_qubo().energy(mask), rel=1e-12)


def test_the_exports_write_lp_and_openqasm(tmp_path):
    for name, beginning in (("qp", "\\ test"), ("qasm", "OPENQASM 3")):
        forms.EXPORTS[name](random_block(), tmp_path / name)
        assert (tmp_path / name).read_text().startswith(beginning)


def test_openqasm_reads_back_as_the_same_circuit():
    pytest.importorskip("qiskit_qasm3_import")
    from qiskit import qasm3
    from qiskit.quantum_info import Statevector

    circuit = forms.default_circuit(random_block())
    again = qasm3.loads(forms.qasm_text(circuit))
    states = []
    for one in (circuit, again):
        bare = one.remove_final_measurements(inplace=False)
        angles = {name: 0.7 if "gamma" in name.name else -0.4 for name in bare.parameters}
        states.append(Statevector(bare.assign_parameters(angles)))
    assert abs(states[0].inner(states[1])) == pytest.approx(1.0, abs=1e-12)


def test_packed_shots_become_masks_with_bit_i_at_position_i():
    packed = np.array([[0b00000010, 0b00000101]], dtype=np.uint8)
    assert np.flatnonzero(forms.masks_of_bits(packed, 10)[0]).tolist() == [0, 2, 9]


@pytest.mark.parametrize("form", [forms.quadratic_program, forms.ising_coefficients, forms.lp_text])
def test_a_refit_block_is_refused_as_not_quadratic_in_the_mask(form):
    with pytest.raises(InvalidInput, match="use mode select"):
        form(random_block(mode="refit"))
