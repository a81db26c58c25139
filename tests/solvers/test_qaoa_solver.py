"""Solver qaoa: samplers by name and as objects, wrong ones, failures, and what a solution reports apart."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import gaussian_block
from prunebench import Budget, make_solver, solve
from prunebench.core import registry
from prunebench.core.errors import InvalidInput, MissingPackage, PrunebenchError, SolverRefused
from prunebench.testing.instances import BruteForce

pytest.importorskip("qiskit")

from qiskit import primitives
from qiskit.providers.fake_provider import GenericBackendV2

ONE_LAYER = {"reps": 1, "steps": 5, "shots": 200}


def random_block(p=6, keep=3, seed=0, mode="select"):
    return gaussian_block(p, keep, seed, mode, n=20, ridge=0.1, linear=True)


class Remote:
    """A device double: a V2 sampler that counts its jobs and answers like the state vector, or as `bits` says."""

    def __init__(self, bits=None):
        self.jobs = []
        self.bits = bits

    def run(self, pubs, *, shots=None):
        self.jobs.append((pubs, shots))
        inner = primitives.StatevectorSampler(seed=1).run(pubs, shots=shots)
        if self.bits is None:
            return inner
        bits = SimpleNamespace(array=np.full((shots, 1), self.bits, dtype=np.uint8))
        result = [SimpleNamespace(data={"meas": bits})]
        return SimpleNamespace(done=lambda: True, result=lambda: result)


class Raising:
    def run(self, pubs, *, shots=None):
        raise RuntimeError("the device is being calibrated\nand a second line")


class Hanging:
    """A sampler whose job never ends."""

    def __init__(self):
        self.cancelled = 0

    def run(self, pubs, *, shots=None):
        return SimpleNamespace(done=lambda: False, running=lambda: False, cancel=self._cancel)

    def _cancel(self):
        self.cancelled += 1


class Rejecting:
    """A pass manager of a device that lacks what the circuit needs."""

    def run(self, circuit):
        raise ValueError("gate xx_plus_yy is not supported\nand a second line")


def qaoa(sampler="statevector", **options):
    return bare(sampler, **{**ONE_LAYER, **options})


def bare(sampler, **options):
    """The solver with only the sampler given: everything else is its default for that kind of sampler."""
    return type(make_solver("qaoa"))(sampler=sampler, **options)


class OldSampler(getattr(primitives, "BaseSamplerV1", object)):
    def _run(self, circuits, parameter_values, **options):
        raise NotImplementedError


@pytest.mark.skipif(not hasattr(primitives, "BaseSamplerV1"), reason="this Qiskit has no V1 primitives left")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_v1_sampler_is_refused_by_its_name_with_the_one_to_pass():
    with pytest.raises(InvalidInput, match=r"OldSampler is a V1 sampler; pass a V2 one.*StatevectorSampler"):
        solve(random_block(), qaoa(OldSampler()))


def test_an_estimator_is_refused_because_samples_are_needed():
    with pytest.raises(InvalidInput, match="StatevectorEstimator is an estimator; QAOA needs samples"):
        solve(random_block(), qaoa(primitives.StatevectorEstimator()))


def test_a_backend_in_place_of_a_sampler_is_refused_with_how_to_wrap_it():
    with pytest.raises(InvalidInput, match=r"is a backend; wrap it: qiskit.primitives.BackendSamplerV2"):
        solve(random_block(), qaoa(GenericBackendV2(6, seed=0)))


@pytest.mark.parametrize("sampler", [3, "staevector", "fake"])
def test_what_is_no_sampler_is_refused_with_the_names_there_are(sampler):
    with pytest.raises(InvalidInput, match="choose one of statevector, aer, noisy"):
        solve(random_block(), qaoa(sampler))


def test_a_sampler_that_raises_becomes_one_line():
    with pytest.raises(PrunebenchError, match="sampler 'Raising' failed: RuntimeError: the device is being") as caught:
        solve(random_block(), qaoa(Raising()))
    assert "\n" not in str(caught.value)


def test_a_job_that_takes_longer_than_the_timeout_is_cancelled():
    sampler = Hanging()
    with pytest.raises(PrunebenchError, match=r"gave nothing within 0.05 s; raise the option timeout"):
        solve(random_block(), qaoa(sampler, timeout=0.05))
    assert sampler.cancelled == 1


def test_a_job_is_cancelled_when_the_budget_runs_out_and_the_incumbent_stands():
    sampler, block = Hanging(), random_block()
    began = time.perf_counter()
    solution = solve(block, qaoa(sampler), budget=Budget(seconds=0.1))
    assert sampler.cancelled == 1
    assert time.perf_counter() - began < 5.0
    assert np.array_equal(solution.mask, block.incumbent)
    assert "time" in solution.stop_reason
    assert solution.details["answer"] == "incumbent"


def test_a_device_that_rejects_the_circuit_is_named_with_what_to_change():
    with pytest.raises(
        InvalidInput, match=r"rejects the circuit of 6 qubits: gate xx.*supported; take fewer"
    ) as caught:
        solve(random_block(), qaoa(Remote(), pass_manager=Rejecting()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["aer", "noisy", "fake:torino"])
def test_without_qiskit_aer_the_samplers_that_need_it_say_what_to_install(monkeypatch, name):
    installed = registry._installed
    monkeypatch.setattr(registry, "_installed", lambda package: package != "qiskit_aer" and installed(package))
    with pytest.raises(MissingPackage, match=rf"{name}' needs qiskit_aer.*run: pip install qiskit-aer"):
        solve(random_block(), qaoa(name))


def test_without_an_ibm_account_one_line_says_how_to_save_one(monkeypatch):
    runtime = pytest.importorskip("qiskit_ibm_runtime")
    from qiskit_ibm_runtime.accounts import AccountNotFoundError

    def service():
        raise AccountNotFoundError("Unable to find account.")

    monkeypatch.setattr(runtime, "QiskitRuntimeService", service)
    with pytest.raises(InvalidInput, match=r"'ibm' is not available: Unable to find account.*save_account") as caught:
        solve(random_block(), qaoa("ibm"))
    assert "\n" not in str(caught.value)


def test_more_qubits_than_memory_holds_are_refused_before_anything_is_allocated():
    with pytest.raises(SolverRefused, match=r"40 qubits need .* GB on sampler 'statevector'.*use --block-size \d+"):
        solve(random_block(40, 20), qaoa())


def test_more_qubits_than_the_device_has_are_refused_with_its_number():
    sampler = primitives.BackendSamplerV2(backend=GenericBackendV2(5, seed=0))
    with pytest.raises(SolverRefused, match=r"has 5 qubits but the block has 6 weights; use --block-size 5"):
        solve(random_block(), qaoa(sampler))


@pytest.mark.parametrize("keep", [0, 6])
def test_keeping_nothing_or_everything_runs_no_circuit(keep):
    sampler = Remote()
    solution = solve(random_block(6, keep), qaoa(sampler))
    assert solution.mask.sum() == keep
    assert sampler.jobs == []


@pytest.mark.parametrize("option", [{"mixer": "x"}, {"optimizer": "adam"}, {"reps": 0}, {"shots": 0}, {"timeout": -1}])
def test_an_option_out_of_range_is_refused_with_what_to_choose(option):
    with pytest.raises(InvalidInput, match="choose"):
        solve(random_block(), bare("statevector", **option))


def test_an_unknown_device_gets_one_layer_fixed_angles_and_one_job():
    sampler = Remote()
    details = solve(random_block(), bare(sampler)).details
    assert len(sampler.jobs) == 1
    assert details["kind"] == "hardware"
    assert details["reps"] == 1
    assert details["angles_from"] == "fixed"
    assert details["evaluations"] == 1
    assert details["shots"] == 1024


def test_exact_simulators_default_to_three_layers_and_exact_gradients():
    details = solve(random_block(), bare("statevector", shots=100)).details
    assert details["reps"] == 3
    assert details["angles_from"] == "exact simulation"


def test_gates_and_depth_are_announced_before_the_first_job(caplog):
    with caplog.at_level("WARNING", logger="prunebench.qaoa"), pytest.raises(PrunebenchError):
        solve(random_block(), qaoa(Raising()))
    assert any("two-qubit gates at depth" in line.getMessage() for line in caplog.records)


def test_the_plan_tells_the_cost_and_submits_nothing():
    sampler = Remote()
    plan = bare(sampler).plan(random_block())
    assert sampler.jobs == []
    assert plan["two_qubit_gates"] > 0 < plan["depth"]
    assert (plan["reps"], plan["shots"], plan["kind"]) == (1, 1024, "hardware")


def test_what_is_reported_apart_is_all_there_and_in_order():
    block = random_block(8, 4, seed=2)
    solution = solve(block, bare("statevector", reps=2, shots=300, polish=True))
    details, best = solution.details, BruteForce.of(block)
    assert details["polished_objective"] <= details["raw_objective"] <= details["most_probable_objective"]
    assert best.objective <= details["raw_objective"] * (1 + 1e-12) < details["expectation"]
    assert 1 <= details["samples_to_best"] <= 300 == details["shots"]
    assert details["probability_optimum_uniform"] == pytest.approx(1 / math.comb(8, 4))
    assert details["enhancement"] == pytest.approx(details["probability_optimum"] * math.comb(8, 4))
    assert details["approximation_ratio"] > details["approximation_ratio_uniform"]
    assert details["two_qubit_gates"] > 0 < details["depth"]
    assert {"transpile", "queue", "execute", "optimize", "polish"} <= set(solution.timings)


def test_random_sampling_and_swap_descent_stand_beside_a_devices_result():
    block = random_block(seed=3)
    details = solve(block, bare(Remote(), shots=64)).details
    best = BruteForce.of(block).objective
    assert details["random_objective"] >= best - 1e-12
    assert details["swap_descent_objective"] >= best - 1e-12


@pytest.mark.parametrize("bits", [0b000000, 0b111111])
def test_infeasible_samples_are_repaired_and_never_mixed_with_raw_ones(bits):
    block = random_block()
    solution = solve(block, bare(Remote(bits)))
    assert solution.details["feasible_share"] == 0.0
    assert "raw_objective" not in solution.details
    assert "samples_to_best" not in solution.details
    assert solution.details["repaired_objective"] >= BruteForce.of(block).objective - 1e-12
    assert solution.mask.sum() == 3


def test_bit_i_of_a_sample_is_weight_i():
    block = random_block()
    solution = solve(block, bare(Remote(0b001011)))
    sampled = np.array([True, True, False, True, False, False])
    assert solution.details["raw_objective"] == pytest.approx(block.evaluate(sampled))


@pytest.mark.parametrize("name", ["statevector", "aer", "noisy"])
def test_samplers_are_swapped_by_the_option_alone(name):
    if name != "statevector":
        pytest.importorskip("qiskit_aer")
    block = random_block(5, 2)
    solution = solve(block, "qaoa", options={**ONE_LAYER, "sampler": name})
    details = solution.details
    assert details["sampler"] == name
    assert details["kind"] == ("noisy" if name == "noisy" else "exact")
    assert details["feasible_share"] > (0.4 if name == "noisy" else 0.999)
    assert solution.objective <= block.evaluate(block.incumbent)


def test_one_shape_is_transpiled_once(monkeypatch):
    calls = []

    class Counting:
        def run(self, circuit):
            calls.append(circuit)
            return circuit

    solver = qaoa(Remote(), pass_manager=Counting())
    for seed in range(3):
        solve(random_block(seed=seed), solver)
    assert len(calls) == 1


def test_the_same_seed_gives_the_same_samples():
    runs = [solve(random_block(8, 4), qaoa(shots=20), seed=5).details["expectation"] for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("optimizer", ["cobyla", "spsa"])
def test_a_loop_on_samples_counts_all_its_shots(optimizer):
    sampler = Remote()
    details = solve(random_block(), qaoa(sampler, optimizer=optimizer, steps=4)).details
    assert details["angles_from"] == "samples"
    assert details["shots"] == 200 * len(sampler.jobs) == 200 * details["evaluations"]


def test_interpolation_on_samples_runs_circuits_of_every_depth():
    sampler = Remote()
    solve(random_block(), qaoa(sampler, optimizer="cobyla", start="interpolate", reps=2, steps=8))
    sizes = [len(circuit.parameters) for ((circuit, _),), _ in sampler.jobs]
    assert sorted(set(sizes)) == [22, 44]
    assert sizes == sorted(sizes)


def test_the_circuit_samples_what_the_simulator_predicts_for_the_same_fit():
    block, options = random_block(8, 4, seed=2), {"reps": 2, "shots": 4000}
    drawn = solve(block, "qaoa", options=options).details
    exact = solve(block, "qaoa-subspace", options=options).details
    assert drawn["weight_angles"] == exact["weight_angles"]
    assert drawn["probability_optimum"] == pytest.approx(exact["probability_optimum"], abs=0.05)
    assert exact["probability_optimum"] > 0.2


def test_the_loop_on_samples_obeys_the_evaluation_budget():
    sampler = Remote()
    solve(random_block(), qaoa(sampler, optimizer="spsa", steps=50), budget=Budget(evaluations=5))
    assert len(sampler.jobs) <= 6


def test_a_large_block_goes_through_sub_blocks():
    block = random_block(24, 12)
    solution = solve(block, qaoa(qubits=6, parts=6))
    assert solution.details["parts"] == 6
    assert solution.objective <= block.evaluate(block.incumbent)


def test_recursion_freezes_weights_until_few_are_left():
    solution = solve(random_block(7, 3), qaoa(recursion=5))
    assert len(solution.details["frozen"]) == 2


def test_the_penalty_baseline_runs_through_qiskit_optimization():
    pytest.importorskip("qiskit_optimization")
    details = solve(random_block(5, 2), qaoa(mixer="penalty", steps=6)).details
    assert details["mixer"] == "penalty"
    assert 0.0 < details["feasible_share"] < 1.0


def test_refit_blocks_get_the_mask_of_the_select_problem_refitted():
    block = random_block(mode="refit")
    assert solve(block, qaoa()).objective <= block.evaluate(block.incumbent)
