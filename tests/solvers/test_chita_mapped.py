"""Factors in memory-mapped files: the same answers as in memory, from column chunks."""

import json
import tracemalloc

import numpy as np
import pytest

from prunebench import make_problem
from prunebench.cli import main
from prunebench.core import arrays, streaming
from prunebench.core.arrays import is_mapped
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.quadratic import QuadraticForm
from prunebench.curvature.fisher import FisherOptions, fisher_form, network_form
from prunebench.curvature.gradients import mapped_rows, sample_gradients
from prunebench.kernels.linear_algebra import matrix
from prunebench.networks.network import PrunableNetwork
from prunebench.solving import solve

ROWS, SIZE, KEEP = 30, 4000, 900


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks so small that every streamed loop makes many rounds."""
    monkeypatch.setattr(arrays, "CHUNK_ELEMENTS", 100 * ROWS)
    monkeypatch.setattr(streaming, "COPY_BYTES", 0)
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 8 * ROWS * 100)
    monkeypatch.setattr(matrix, "CHUNK_BYTES", 4 * ROWS * 100)


@pytest.fixture
def pair(tmp_path, small_chunks):
    """The same block twice: factor in memory, factor mapped."""
    rng = np.random.default_rng(0)
    rows = mapped_rows(tmp_path / "rows.npy", ROWS, SIZE)
    rows[:] = rng.normal(size=(ROWS, SIZE)) * np.exp(0.5 * rng.normal(size=SIZE)) / np.sqrt(ROWS)
    weights = rng.standard_t(4, size=SIZE)
    linear = 0.01 * rng.normal(size=SIZE)

    def block(factor):
        form = QuadraticForm(factor=factor, ridge=0.05, linear=linear, centre=weights)
        return BlockProblem(form, weights, KEEP, "refit")

    return block(np.array(rows)), block(rows)


def test_a_mapped_factor_stays_on_disk(pair):
    assert is_mapped(pair[1].form.factor)
    assert not is_mapped(pair[0].form.factor)


def test_the_streamed_back_solve_is_that_in_memory(pair):
    inside, mapped = pair
    expected = inside.form.refit(inside.incumbent)
    assert mapped.form.refit(mapped.incumbent) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["chita-bso", "admm", "obs", "woodfisher", "iht"])
def test_a_solver_gives_the_same_mask_on_a_mapped_factor(pair, name):
    options = {"swaps": 0} if name in ("admm", "obs") else {}
    inside, mapped = (solve(block, name, options=options) for block in pair)
    assert int((inside.mask != mapped.mask).sum()) <= 4
    assert mapped.objective == pytest.approx(inside.objective, rel=1e-4)


def test_the_streamed_solve_never_holds_the_support(pair):
    mapped = pair[1]
    mapped.form.refit(mapped.incumbent)
    # vectors of p entries and chunks, but nothing of the size of the support's n·k columns in float64
    assert _peak(mapped) < 8 * ROWS * KEEP + 8 * 8 * SIZE


def _peak(block):
    tracemalloc.start()
    block.form.refit(block.incumbent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_gradients_are_written_into_a_mapped_file(tmp_path):
    problem = make_problem("digits-mlp")
    network = PrunableNetwork(problem.model(), problem.prunable())
    rows = mapped_rows(tmp_path / "g.npy", 20, network.total)
    written = sample_gradients(network, problem.loss, problem.calibration(), np.arange(20), out=rows)
    assert written is rows
    assert np.array_equal(rows, sample_gradients(network, problem.loss, problem.calibration(), np.arange(20)))
    assert is_mapped(fisher_form(rows, network.weights()).factor)


def test_a_form_whose_rows_are_stored_is_that_in_memory(tmp_path):
    problem = make_problem("digits-mlp")
    network = PrunableNetwork(problem.model(), problem.prunable())
    plain, stored = (
        network_form(problem, network, FisherOptions(samples=30, store=store), np.random.default_rng(1))
        for store in ("", str(tmp_path / "rows"))
    )
    assert is_mapped(stored.factor)
    assert not is_mapped(plain.factor)
    assert np.array_equal(stored.factor, plain.factor)


def test_more_rows_than_the_limit_name_the_option_that_helps(tmp_path):
    problem = make_problem("digits-mlp")
    network = PrunableNetwork(problem.model(), problem.prunable())
    rows, rng = 1000, np.random.default_rng(0)
    limit = 4 * rows * network.total
    with pytest.raises(InvalidInput, match="store=FOLDER"):
        network_form(problem, network, FisherOptions(samples=rows), rng, memory_limit=limit)
    stored = FisherOptions(samples=rows, store=str(tmp_path))
    assert is_mapped(network_form(problem, network, stored, rng, memory_limit=limit).factor)


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    problem = make_problem("digits-mlp")
    network = PrunableNetwork(problem.model(), problem.prunable())
    options = FisherOptions(samples=5, store=str(tmp_path / "file"))
    with pytest.raises(InvalidInput, match="is a file"):
        network_form(problem, network, options, np.random.default_rng(0))


@pytest.mark.parametrize("coordinator", ["one-shot", "multi-stage"])
def test_pruning_from_a_store_ends_as_in_memory_and_leaves_nothing(coordinator, tmp_path, capsys):
    store = tmp_path / "rows"
    stages = ["--option", "held_out=100", "--option", "stages=2", "--recover", "follow:steps=1"]
    found = []
    for extra in ([], ["--store", str(store)]):
        line = ["prune", "digits-mlp", "--density", "0.2", "--solver", "chita-bso", "--samples", "60", "--json"]
        line += ["--coordinator", coordinator, "--out", str(tmp_path / f"run{len(extra)}"), *extra]
        assert main([*line, *(stages if coordinator == "multi-stage" else [])]) == 0
        found.append(json.loads(capsys.readouterr().out)["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert store.is_dir()
    assert not list(store.iterdir())


def test_a_store_where_no_gradients_are_held_is_refused(tmp_path, capsys):
    line = ["prune", "digits-mlp", "--density", "0.2", "--coordinator", "icbs", "--store", str(tmp_path)]
    assert main(line) != 0
    assert "--store is nothing that coordinator icbs takes" in capsys.readouterr().err


def test_a_file_of_another_shape_is_refused(tmp_path):
    problem = make_problem("digits-mlp")
    network = PrunableNetwork(problem.model(), problem.prunable())
    with pytest.raises(InvalidInput, match="the gradients need a writeable float32"):
        sample_gradients(
            network, problem.loss, problem.calibration(), np.arange(20), out=np.zeros((3, 4), dtype=np.float32)
        )


def test_a_disk_without_room_is_said_before_the_file_is_made(tmp_path):
    with pytest.raises(InvalidInput, match="on disk"):
        mapped_rows(tmp_path / "huge.npy", 10**6, 10**9)
    assert not (tmp_path / "huge.npy").exists()
