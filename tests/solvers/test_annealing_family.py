"""Annealing, the dimod family, the mock annealer, the graph view, and our sampler for dimod's users."""

import json
import threading
import unittest
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import pytest

from prunebench import BlockProblem, Budget, QuadraticForm, make_solver, solve
from prunebench.cli import main
from prunebench.core.errors import InvalidInput, SolverFailed, SolverRefused, UnknownName
from prunebench.core.incumbent import Incumbent
from prunebench.kernels.local_search.descent import swap_descent
from prunebench.testing.instances import BruteForce, all_masks, instance

dimod = pytest.importorskip("dimod")

from dimod.serialization import coo  # noqa: E402
from dimod.testing import assert_sampler_api, load_sampler_bqm_tests  # noqa: E402

from prunebench.dimod_sampler import PruneSampler  # noqa: E402
from prunebench.forms import dimod as forms  # noqa: E402
from prunebench.forms import graph  # noqa: E402
from prunebench.forms.sampler_calls import tuned  # noqa: E402
from prunebench.solvers.dimod import timed_run  # noqa: E402

NAMES = ("anneal", "neal", "tabu", "steepest-descent", "path-integral", "exact")


@load_sampler_bqm_tests(PruneSampler)
class TestPruneSampler(unittest.TestCase):
    def test_it_has_the_api_of_a_dimod_sampler(self):
        assert_sampler_api(PruneSampler())


def test_prune_sampler_keeps_the_cardinality_in_every_read():
    model = forms.encode(instance("gaussian", 1, "select")).bqm()
    samples = PruneSampler().sample(model, cardinality=3, num_reads=7, seed=1)
    assert (samples.record.sample.sum(axis=1) == 3).all()


def test_prune_sampler_refuses_an_unknown_keyword():
    with pytest.raises(InvalidInput, match="num_read"):
        PruneSampler().sample(dimod.BQM("BINARY"), num_read=3)


def test_prune_sampler_refuses_a_bias_that_is_no_number():
    model = dimod.BQM({0: float("nan"), 1: 1.0}, {(0, 1): 1.0}, 0.0, "BINARY")
    with pytest.raises(InvalidInput, match="nan or infinite"):
        PruneSampler().sample(model, cardinality=1)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_finds_the_optimum_of_a_small_block(name):
    block = instance("gaussian", 1, "select")
    found = solve(block, name, options={"reads": 4} if name == "path-integral" else None, seed=3)
    assert found.objective == pytest.approx(BruteForce.of(block).objective)


def test_the_factor_and_the_couplings_give_the_same_optimum():
    block = instance("gaussian", 3, "select")
    dense, factor = (solve(block, "anneal", options={"couplings": kind}, seed=1) for kind in ("dense", "factor"))
    assert dense.objective == pytest.approx(factor.objective)


def test_threads_do_not_change_the_answer():
    block = instance("gaussian", 3, "select", p=12, keep=6)
    one, two = (solve(block, "anneal", options={"threads": n, "reads": 8}, seed=1) for n in (1, 2))
    assert np.array_equal(one.mask, two.mask)


@pytest.mark.parametrize("couplings", ["dense", "factor"])
def test_even_reads_that_never_cool_end_where_no_swap_improves(couplings):
    block = instance("gaussian", 3, "select", p=12, keep=6)
    options = {"hot": 100.0, "cold": 100.0, "reads": 16, "polish": False, "couplings": couplings}
    found = solve(block, "anneal", options=options, seed=1)
    ends = [found.mask, *found.alternatives]
    moves = [swap_descent(block, end, Incumbent(block)).moves for end in ends if (end != block.incumbent).any()]
    assert len(moves) > 1
    assert max(moves) == 0


def test_reads_become_shorter_where_nothing_improves_and_stay_in_the_budget():
    block = instance("gaussian", 3, "select", p=28, keep=14)
    budget = Budget(evaluations=2_000_000)
    one, two = (solve(block, "anneal", budget=budget, seed=1) for _ in range(2))
    assert one.details["reads"] > one.details["evaluations"] / (one.details["sweeps"] * block.p)
    assert one.details["evaluations"] <= budget.evaluations
    assert np.array_equal(one.mask, two.mask)
    assert one.details["reads"] == two.details["reads"]


@pytest.mark.parametrize("encoding", ["with_penalty", "with_multiplier"])
def test_an_encoding_changes_no_feasible_energy(encoding):
    block = instance("gaussian", 1, "select")
    encoded = getattr(forms.encode(block), encoding)(2.5)
    for mask in all_masks(block.p, block.keep):
        energy = encoded.bqm().energy({i: int(v) for i, v in enumerate(mask)})
        assert energy == pytest.approx(block.evaluate(mask))


def test_the_safe_penalty_makes_the_minimum_feasible():
    encoded = forms.encode(instance("gaussian", 1, "select"))
    best = dimod.ExactSolver().sample(encoded.with_penalty(forms.safe_penalty(encoded)).bqm()).first.sample
    assert sum(best.values()) == encoded.keep


def test_repair_gives_the_count_and_leaves_feasible_masks():
    encoded = forms.encode(instance("gaussian", 1, "select"))
    masks = np.random.default_rng(0).random((20, 8)) < 0.5
    fixed = forms.repair(encoded, masks)
    assert (fixed.sum(axis=1) == encoded.keep).all()
    same = masks.sum(axis=1) == encoded.keep
    assert np.array_equal(fixed[same], masks[same])


@pytest.mark.parametrize("kind", ["bqm", "cqm", "coo"])
def test_every_export_reads_back_to_the_same_energies(kind, tmp_path):
    block = instance("gaussian", 1, "select")
    path = tmp_path / "block"
    forms.EXPORTS[kind](block, path)
    masks = list(all_masks(block.p, block.keep))
    if kind == "bqm":
        model = dimod.BQM.from_file(path.read_bytes())
    elif kind == "coo":
        model = coo.loads(path.read_text())
    else:
        model = dimod.CQM.from_file(path.read_bytes()).objective
    values = [model.energy({i: int(v) for i, v in enumerate(m)}) for m in masks]
    shift = values[0] - block.evaluate(masks[0]) if kind == "coo" else 0.0
    assert np.allclose(np.array(values) - shift, [block.evaluate(m) for m in masks])


class _Bad:
    def __init__(self, fault):
        self.fault = fault
        self.parameters = {"num_reads": []}

    def sample(self, bqm, num_reads=1):
        if self.fault == "raises":
            raise RuntimeError("broken")
        value = {"infeasible": 1, "non-binary": 3, "empty": 0}[self.fault]
        rows = 0 if self.fault == "empty" else 2
        return dimod.SampleSet.from_samples(
            (np.full((rows, len(bqm.variables)), value, dtype=np.int8), list(bqm.variables)),
            energy=np.zeros(rows),
            vartype="BINARY",
        )


@pytest.mark.parametrize(
    ("fault", "said"),
    [("raises", "RuntimeError: broken"), ("non-binary", "the value 3"), ("empty", "gave back no samples")],
)
def test_a_sampler_that_fails_is_an_error_in_its_own_words(fault, said):
    with pytest.raises(SolverFailed, match=said):
        solve(instance("gaussian", 1, "select"), make_solver("dimod", {"sampler": _Bad(fault)}))


def test_samples_before_a_failure_are_kept_and_the_failure_is_told():
    class Tires(_Bad):
        def sample(self, bqm, num_reads=1):
            if self.fault == "raises":
                raise RuntimeError("broken")
            self.fault = "raises"
            return dimod.ExactSolver().sample(bqm)

    block = instance("gaussian", 1, "select")
    found = solve(block, make_solver("dimod", {"sampler": Tires("")}), budget=Budget(seconds=2.0))
    assert found.objective == pytest.approx(BruteForce.of(block).objective)
    assert "RuntimeError: broken" in found.stop_reason
    assert "earlier reads" in found.stop_reason


def test_infeasible_samples_are_repaired():
    block = instance("gaussian", 1, "select")
    found = solve(block, make_solver("dimod", {"sampler": _Bad("infeasible")}))
    assert found.objective <= block.evaluate(block.incumbent)
    assert "sampler_failure" not in found.details


def test_samples_of_another_vartype_are_read_as_spins():
    class Spins(_Bad):
        def sample(self, bqm, num_reads=1):
            return dimod.ExactSolver().sample(bqm).change_vartype("SPIN", inplace=False)

    block = instance("gaussian", 1, "select")
    found = solve(block, make_solver("dimod", {"sampler": Spins("")}))
    assert found.objective == pytest.approx(BruteForce.of(block).objective)


def test_a_sampler_that_hangs_is_given_up_on(monkeypatch):
    monkeypatch.setattr(timed_run, "GRACE_SECONDS", 0.2)
    block = instance("gaussian", 1, "select")
    release = threading.Event()

    class Hangs(_Bad):
        def sample(self, bqm, num_reads=1):
            release.wait(30.0)

    for options, budget in (({}, Budget(seconds=0.2)), ({"patience": 0.2}, None)):
        started = perf_counter()
        with pytest.raises(SolverFailed, match="no answer within"):
            solve(block, make_solver("dimod", {"sampler": Hangs(""), **options}), budget=budget)
        assert perf_counter() - started < 10.0
    release.set()


def test_a_sampler_without_a_seed_is_said_to_be_unseeded():
    found = solve(instance("gaussian", 1, "select"), make_solver("dimod", {"sampler": _Bad("infeasible")}))
    assert found.details["seeded"] is False


def test_a_sampler_that_cannot_be_made_is_a_clear_error():
    def factory():
        raise RuntimeError("no licence")

    with pytest.raises(InvalidInput, match="no licence"):
        solve(instance("gaussian", 1, "select"), make_solver("dimod", {"sampler": factory}))


class _Hybrid:
    """What prunebench uses of LeapHybridCQMSampler, solved by enumeration."""

    def __init__(self):
        self.parameters = {"time_limit": [], "label": []}
        self.properties = {"minimum_time_limit_s": 5.0}

    def min_time_limit(self, cqm):
        return 5.0

    def sample_cqm(self, cqm, time_limit=None, **keywords):
        self.asked = time_limit
        found = dimod.ExactCQMSolver().sample_cqm(cqm)
        found.info["timing"] = {"run_time": 5e6, "charge_time": 5e6, "qpu_access_time": 3e4}
        return found


class _HybridSet:
    """What prunebench uses of LeapHybridNLSampler: fills in the states that it is given."""

    def __init__(self, masks):
        self.masks = masks
        self.parameters = {"time_limit": []}

    def estimated_min_time_limit(self, model):
        return 5.0

    def sample(self, model, time_limit=None):
        self.asked = time_limit
        (kept,) = model.iter_decisions()
        with model.lock():
            model.states.resize(len(self.masks))
            for row, mask in enumerate(self.masks):
                kept.set_state(row, np.flatnonzero(mask))
        return SimpleNamespace(result=lambda: SimpleNamespace(model=model, info={"timing": {"run_time": 5e6}}))


def _leap(monkeypatch, name, child):
    system = pytest.importorskip("dwave.system")
    monkeypatch.setattr(system, name, lambda: child)
    return "hybrid-cqm" if "CQM" in name else "hybrid-nl"


@pytest.mark.parametrize(("seconds", "limit"), [(float("inf"), 5.0), (60.0, 57.0)])
def test_the_hybrid_solver_gets_the_cardinality_and_a_time_limit(monkeypatch, seconds, limit):
    block, child = instance("gaussian", 1, "select"), _Hybrid()
    device = _leap(monkeypatch, "LeapHybridCQMSampler", child)
    found = solve(block, "dwave", options={"device": device, "polish": False}, budget=Budget(seconds=seconds))
    assert found.objective == pytest.approx(BruteForce.of(block).objective)
    assert found.timings["run"] == 5.0
    assert found.details["timing_simulated"] is False
    assert limit <= child.asked <= max(limit, seconds)


def test_a_budget_below_the_hybrid_solvers_minimum_submits_nothing(monkeypatch):
    block, child = instance("gaussian", 1, "select"), _Hybrid()
    device = _leap(monkeypatch, "LeapHybridCQMSampler", child)
    found = solve(block, "dwave", options={"device": device}, budget=Budget(seconds=1.0))
    assert not hasattr(child, "asked")
    assert found.objective <= block.evaluate(block.incumbent)


def test_a_cqm_sampler_is_taken_by_object():
    block = instance("gaussian", 1, "select")
    found = solve(block, make_solver("dimod", {"sampler": dimod.ExactCQMSolver(), "polish": False}))
    assert found.details["encoding"] == "constraint"
    assert found.objective == pytest.approx(BruteForce.of(block).objective)


@pytest.mark.parametrize("held", ["factor", "hessian"])
def test_the_nonlinear_model_evaluates_to_the_blocks_objective(held):
    pytest.importorskip("dwave.optimization")
    from prunebench.forms.nonlinear import to_nonlinear

    rng = np.random.default_rng(0)
    factor = rng.normal(size=(5, 8))
    given = {"factor": factor} if held == "factor" else {"hessian": factor.T @ factor}
    form = QuadraticForm(**given, ridge=0.1, centre=np.ones(8), linear=rng.normal(size=8))
    block = BlockProblem(form, rng.normal(size=8), 3, "select")
    masks, model = list(all_masks(8, 3)), to_nonlinear(block)
    (kept,) = model.iter_decisions()
    with model.lock():
        model.states.resize(len(masks))
        for row, mask in enumerate(masks):
            kept.set_state(row, np.flatnonzero(mask))
            value = float(model.objective.state(row)) + block.to_qubo().constant
            assert value == pytest.approx(block.evaluate(mask))


def test_the_nonlinear_hybrid_solvers_states_become_masks(monkeypatch):
    pytest.importorskip("dwave.optimization")
    block = instance("gaussian", 1, "select")
    child = _HybridSet(list(all_masks(block.p, block.keep)))
    device = _leap(monkeypatch, "LeapHybridNLSampler", child)
    found = solve(block, "dwave", options={"device": device, "polish": False})
    assert child.asked == 5.0
    assert found.details["feasible_share"] == 1.0
    assert found.objective == pytest.approx(BruteForce.of(block).objective)


def test_the_chain_strength_is_relative_to_the_largest_bias_in_spin_variables():
    pytest.importorskip("dwave.system")
    block = instance("gaussian", 1, "select")
    options = {"encoding": "safe", "polish": False}
    one, two = (solve(block, "dwave-mock", options={**options, "chain_strength": c}, seed=1) for c in (1.0, 2.0))
    encoded = forms.encode(block)
    spins = encoded.with_penalty(forms.safe_penalty(encoded)).bqm().spin
    largest = max(map(abs, [*spins.linear.values(), *spins.quadratic.values()]))
    assert one.details["chain_strength"] == pytest.approx(largest)
    assert two.details["chain_strength"] == pytest.approx(2.0 * largest)


def test_a_wrong_sampler_keyword_is_an_error_with_the_nearest_match():
    with pytest.raises(UnknownName, match="num_sweeps"):
        solve(instance("gaussian", 1, "select"), "neal", options={"keywords": ("num_sweep=3",)})


def test_the_mock_annealer_is_reached_by_changing_one_word():
    pytest.importorskip("dwave.system")
    found = solve(instance("gaussian", 1, "select"), "dwave-mock", seed=1)
    assert {"queue", "programming", "sampling"} <= set(found.timings)
    assert found.details["timing_simulated"] is True
    assert 0.0 <= found.details["chain_break_fraction"] <= 1.0


def test_blocks_of_one_size_share_their_embedding(monkeypatch):
    busclique = pytest.importorskip("minorminer.busclique")
    found, made = busclique.find_clique_embedding, []
    monkeypatch.setattr(busclique, "find_clique_embedding", lambda *given: made.append(given[0]) or found(*given))
    for seed in range(3):
        solve(instance("gaussian", seed, "select", p=11, keep=4), "dwave-mock", options={"rows": 3})
    assert made == [11]


def test_the_device_refuses_more_than_its_largest_clique_and_names_the_size():
    pytest.importorskip("dwave.system")
    block = instance("gaussian", 1, "select", p=30, keep=10)
    with pytest.raises(SolverRefused, match="set the block size to"):
        solve(block, "dwave-mock", options={"rows": 2})


def test_without_a_token_one_line_says_what_to_do(monkeypatch, tmp_path):
    pytest.importorskip("dwave.system")
    monkeypatch.delenv("DWAVE_API_TOKEN", raising=False)
    empty = tmp_path / "dwave.conf"
    empty.write_text("")
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(empty))
    with pytest.raises(SolverRefused, match="DWAVE_API_TOKEN"):
        solve(instance("gaussian", 1, "select"), "dwave")


def test_the_graph_splits_two_uncoupled_halves():
    half = np.ones((4, 4)) + np.eye(4)
    hessian = np.kron(np.eye(2), half)
    block = BlockProblem(QuadraticForm(hessian=hessian, ridge=0.1, centre=np.ones(8)), np.ones(8), 4, "select")
    found = json.loads(json.dumps(graph.describe(block)))
    assert sorted(map(sorted, found["communities"])) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_command_line_shows_the_graph_when_asked(tmp_path, capsys):
    command = ["block", "planted", "--size", "12", "--density", "0.5", "-o", str(tmp_path / "b.npz"), "--quiet"]
    assert main([*command, "--graph", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["graph"]
    assert found["nodes"] == 12
    assert sum(map(len, found["communities"])) == 12
    assert main([*command, "--graph"]) == 0
    assert "communities: " in capsys.readouterr().out


def test_whether_a_block_embeds_is_told_by_its_size():
    pytest.importorskip("dwave.system")
    small = graph.describe(instance("gaussian", 1, "select"))
    assert small["embeds"] is True
    large = graph.describe(instance("gaussian", 1, "select", p=small["largest_clique"] + 1, keep=9))
    assert large["embeds"] is False


@pytest.mark.parametrize("encoding", ["adaptive", "lagrange"])
def test_tuning_stops_when_its_time_is_over(encoding):
    block = instance("gaussian", 1, "select")
    left = iter([1e-9] * 100)
    found = tuned(forms.encode(block), encoding, block.incumbent, np.random.default_rng(0), lambda: next(left))
    assert found.rounds == 0


def test_a_budget_of_no_seconds_gives_the_incumbent():
    block = instance("gaussian", 1, "select")
    assert np.array_equal(solve(block, "anneal", budget=Budget(seconds=0.0)).mask, block.incumbent)
