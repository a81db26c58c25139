"""Damaged block files and wrong arrays are refused with one line, or read as what they were made from."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench import BlockProblem
from prunebench.cli import main
from prunebench.core.block_file import REQUIRED
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Quota
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.rows import RowsForm
from prunebench.testing.damaged_blocks import KINDS, contents_of, damaged, fate, healthy_block, packed

ALLOWED = {"big-endian", "big-endian curvature", "Fortran order", "format version 2", "compressed"}
ALLOWED |= {"junk before", "junk after"}
"""Changes that leave the numbers as they are."""
FLIPPED = {"flipped bit", "flipped bit in the table of contents", "flipped bit, compressed"}
"""Some bits of an archive say nothing, such as those of a member's date."""
MOST_BYTES = 100_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_in_one_line_or_read_as_the_same_block(kind, tmp_path):
    @settings(derandomize=True, max_examples=30 if kind in FLIPPED or kind == "random bytes" else 4, database=None)
    @given(st.integers(0, 10**6))
    def check(seed):
        path = tmp_path / "damaged.npz"
        path.write_bytes(damaged(kind, seed))
        found = fate(path, healthy_block(seed))
        assert found.bytes < MOST_BYTES
        if kind in ALLOWED:
            assert found.outcome == "same", found.words
        elif kind not in FLIPPED or found.outcome != "same":
            assert found.outcome == "refused", found.words
            assert found.words.startswith(str(path))
            assert len(found.words.splitlines()) == 1

    check()


@pytest.mark.parametrize("key", [*REQUIRED, "factor", "start_mask", "indices", "layer", "quota_group", "quota_counts"])
def test_a_refusal_names_the_key_and_what_was_expected(key, tmp_path):
    path = tmp_path / "damaged.npz"
    path.write_bytes(packed({**contents_of(healthy_block(0)), key: np.zeros((2, 3, 4))}))
    with pytest.raises(InvalidInput, match=f"{key} has .*; expected "):
        BlockProblem.load(path)


@pytest.mark.parametrize(
    "kind", ["NaN", "zip bomb", "rows out of range", "header is code", "text", "quota of another kind"]
)
def test_every_command_that_reads_a_block_refuses_it_with_exit_code_two(kind, tmp_path, capsys):
    path, solution = tmp_path / "damaged.npz", tmp_path / "s.json"
    path.write_bytes(damaged(kind, 0))
    solution.write_text(json.dumps({"mask": [True], "weights": [1.0], "objective": 0.0}))
    for command in (
        ["solve", path],
        ["solve", path, "--solver", "exhaustive", "--bound"],
        ["export", path, "--format", "lp", "-o", tmp_path / "out.lp"],
        ["verify", solution, path],
    ):
        code = main([str(part) for part in command])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "out.lp").exists()


def test_what_is_no_regular_file_is_named_as_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "a device or a pipe"),
        (tmp_path / "loop", "no such file"),
        (tmp_path / "none.npz", "no such file"),
        (tmp_path / ("x" * 300), "not a readable"),
    ):
        with pytest.raises(InvalidInput, match=words):
            BlockProblem.load(path)


def test_a_symbolic_link_to_a_block_file_is_read(tmp_path):
    healthy_block(0).save(tmp_path / "b.npz")
    (tmp_path / "link.npz").symlink_to(tmp_path / "b.npz")
    assert BlockProblem.load(tmp_path / "link.npz").hash == healthy_block(0).hash


@pytest.mark.parametrize("seed", range(6))
def test_a_healthy_file_is_read_as_it_was_written(seed, tmp_path):
    block = healthy_block(seed)
    block.save(tmp_path / "b.npz")
    again = BlockProblem.load(tmp_path / "b.npz")
    assert again.hash == block.hash
    assert again.problem == block.problem
    assert np.array_equal(again.indices, block.indices)
    assert np.array_equal(again.layer, block.layer)


def small(**changes):
    terms = {"hessian": np.eye(4), "ridge": 0.1, "linear": np.ones(4), "centre": np.ones(4), "constant": 0.0}
    return QuadraticForm(**{**terms, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"hessian": np.full((4, 4), 1e300)},
        {"hessian": np.eye(4, dtype=bool)},
        {"hessian": [[1.0, 0.0], [0.0]]},
        {"hessian": None, "factor": np.full((6, 4), 1e100)},
        {"hessian": None, "factor": np.zeros((0, 4))},
        {"linear": np.full(4, 1e200)},
        {"linear": ["a"] * 4},
        {"centre": np.full(4, 1j)},
        {"centre": [None] * 4},
        {"ridge": -1.0},
        {"ridge": True},
        {"constant": "0"},
        {"constant": np.nan},
        {"constant": 1e300},
    ],
)
def test_a_form_refuses_wrong_numbers(changes):
    with pytest.raises(InvalidInput):
        small(**changes)


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize(
    "changes",
    [
        {"linear": np.full(4, 1e100), "centre": np.full(4, 1e100)},
        {"centre": np.full(4, 1e100)},
        {"hessian": 1e100 * np.eye(4), "centre": np.full(4, 1e50)},
    ],
)
def test_a_block_refuses_numbers_whose_products_overflow(mode, changes):
    with pytest.raises(InvalidInput, match="rescale"):
        BlockProblem(small(**changes), np.ones(4), 2, mode)


def test_a_refit_block_refuses_a_ridge_that_lets_the_weights_overflow():
    form = small(hessian=np.zeros((4, 4)), ridge=1e-150)
    with pytest.raises(InvalidInput, match="raise the ridge"):
        BlockProblem(form, np.ones(4), 2, "refit")
    assert BlockProblem(form, np.ones(4), 2, "select").keep == 2


def test_weights_on_which_the_objective_overflows_are_refused():
    with pytest.raises(InvalidInput, match="rescale"):
        small(hessian=1e100 * np.eye(4)).value(np.full(4, 1e120))


@pytest.mark.parametrize("rows", [1.7, 2.0, True, "2", 0, -1, None, 10**30, [2]])
def test_a_layer_refuses_rows_that_are_no_count(rows):
    with pytest.raises(InvalidInput, match="rows"):
        RowsForm(shared=np.eye(2), rows=rows)


def test_a_layer_of_a_hundred_million_rows_is_refused_before_anything_of_its_size_is_made():
    with pytest.raises(InvalidInput, match=r"linear has shape \(4,\); expected \(200000000,\)"):
        RowsForm(shared=np.eye(2), rows=10**8, linear=np.ones(4))


@pytest.mark.parametrize(
    "changes",
    [
        {"form": "a form"},
        {"keep": True},
        {"keep": 2.0},
        {"keep": -1},
        {"keep": 10**30},
        {"mode": None},
        {"mode": ["select"]},
        {"dense_weights": np.full(4, np.nan)},
        {"dense_weights": [True] * 4},
        {"dense_weights": [[1.0], [1.0, 2.0]]},
        {"start_mask": [1, 1, 0, 0]},
        {"start_mask": [True, True, True, False]},
        {"indices": [0, 1, 2, -3]},
        {"indices": [0, 1, 2, 2]},
        {"indices": [0.0, 1.0, 2.0, 3.0]},
        {"indices": np.array([0, 1, 2, 2**63], dtype=np.uint64)},
        {"quota": "2:4"},
        {"quota": 3},
        {"quota": [([0, 1], 1.0), ([2, 3], 1)]},
    ],
)
def test_a_block_refuses_arguments_of_the_wrong_kind(changes):
    with pytest.raises(InvalidInput):
        BlockProblem(**{"form": small(), "dense_weights": np.ones(4), "keep": 2, "mode": "select", **changes})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Quota(np.array([0, 1, 2**63], dtype=np.uint64), [1, 1]),
        lambda: Quota([0, 0, 1], np.array([1, 2**63], dtype=np.uint64)),
        lambda: Quota([True, False], [1]),
        lambda: Quota([[0, 1]], [1, 1]),
        lambda: Quota([0, 1], [0.5, 1]),
        lambda: Quota.rows(2.5, 4, 0.5),
        lambda: Quota.rows(2, True, 0.5),
        lambda: Quota.rows(2, 4, np.nan),
        lambda: Quota.rows(2, 4, "half"),
        lambda: Quota.n_m(8, 2.0, 4),
        lambda: Quota.n_m(8, 5, 4),
        lambda: Quota.n_m(8, 2, 0),
    ],
)
def test_a_quota_refuses_arguments_of_the_wrong_kind(make):
    with pytest.raises(InvalidInput):
        make()
