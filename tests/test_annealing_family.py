"""Annealing, the dimod family, the mock annealer, the graph view, and our sampler for dimod's users."""

import json
import subprocess
import sys
import unittest

import numpy as np
import pytest

from prunebench import BlockProblem, Budget, QuadraticForm, make_solver, solve
from prunebench.core.errors import InvalidInput, SolverRefused, UnknownName
from prunebench.testing.instances import BruteForce, all_masks, instance

dimod = pytest.importorskip("dimod")

from dimod.serialization import coo  # noqa: E402
from dimod.testing import assert_sampler_api, load_sampler_bqm_tests  # noqa: E402

from prunebench.forms import dimod as forms  # noqa: E402
from prunebench.forms import graph  # noqa: E402
from prunebench.sampler import PruneSampler  # noqa: E402

NAMES = ("anneal", "neal", "tabu", "steepest-descent", "path-integral", "exact-dimod")


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


@pytest.mark.parametrize("kind", ["bqm", "cqm", "lp", "coo"])
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
        cqm = dimod.CQM.from_file(path.read_bytes()) if kind == "cqm" else dimod.lp.loads(path.read_text())
        model = cqm.objective
    prefix = "m" if kind == "lp" else ""
    values = [model.energy({f"m{i}" if prefix else i: int(v) for i, v in enumerate(m)}) for m in masks]
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


@pytest.mark.parametrize("fault", ["raises", "infeasible", "non-binary", "empty"])
def test_a_broken_sampler_never_loses_the_run(fault):
    block = instance("gaussian", 1, "select")
    found = solve(block, make_solver("dimod", {"sampler": _Bad(fault)}))
    assert found.objective <= block.evaluate(block.incumbent)
    assert ("sampler_failure" in found.details) == (fault != "infeasible")


def test_a_wrong_sampler_keyword_is_an_error_with_the_nearest_match():
    with pytest.raises(UnknownName, match="num_sweeps"):
        solve(instance("gaussian", 1, "select"), "neal", options={"keywords": ("num_sweep=3",)})


def test_the_mock_annealer_is_reached_by_changing_one_word():
    pytest.importorskip("dwave.system")
    found = solve(instance("gaussian", 1, "select"), "dwave-mock", seed=1)
    assert {"programming", "sampling"} <= set(found.timings)


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


def test_a_budget_of_no_seconds_gives_the_incumbent():
    block = instance("gaussian", 1, "select")
    assert np.array_equal(solve(block, "anneal", budget=Budget(seconds=0.0)).mask, block.incumbent)


def test_listing_loads_no_library():
    code = (
        "import sys; from prunebench import SOLVERS; SOLVERS.names(); print([m for m in ('dimod','numba') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
