"""Blocks of slices: f of kept slices is f of the stored weights, bits are counted, and bad budgets are named."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from helpers import call, gaussian_block, refused
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.items import Items
from prunebench.meanings.bits.slices import checked_bits, sliced, stored
from prunebench.solving import solve


def _weights(p=4, layer=None):
    """All p weights of a block with a linear term and a ridge that differs from weight to weight."""
    block = gaussian_block(p, p, seed=5, n=6, ridge=0.1, linear=True, constant=0.7)
    form = block.form.with_terms(ridge=np.linspace(0.1, 0.4, p))
    return replace(block, form=form, layer=layer, indices=np.arange(10, 10 + p))


@pytest.mark.parametrize("bits", [(0, 4, 8), (0, 2, 4, 6), (0, 3, 8), (0, 5)])
def test_f_of_kept_slices_is_f_of_the_weights_they_store(bits):
    whole = _weights()
    block = sliced(whole, bits, 2.5 if bits == (0, 5) else 2.0)
    for kept in itertools.product((False, True), repeat=block.p):
        mask = np.array(kept)
        if block.constraint.violation(mask):
            continue
        held = stored(block, mask)
        assert block.evaluate(mask) == pytest.approx(whole.form.value(held.values), rel=1e-12)
        assert held.bits.sum() == block.items.columns["bits"][mask].sum() <= 2.5 * whole.p
        assert (held.values == held.levels * held.steps).all()


def test_all_slices_together_are_the_weight_to_within_half_of_the_finest_step():
    whole = _weights(p=8)
    held = stored(sliced(whole, (0, 4, 8), 8.0), np.ones(16, dtype=bool))
    # the largest refinement is one step short of half a step of the base
    assert (np.abs(held.values - whole.dense_weights) <= held.steps * (1.0 + 1e-12)).all()
    assert np.median(np.abs(held.values - whole.dense_weights) / held.steps) <= 0.5
    assert (np.abs(held.levels) <= 127).all()
    assert (held.places == np.arange(10, 18)).all()


def test_layers_have_steps_of_their_own():
    whole = replace(_weights(), layer=np.array(["a", "a", "b", "b"]))
    whole = replace(whole, dense_weights=whole.dense_weights * np.array([1.0, 1.0, 100.0, 100.0]))
    step = sliced(whole, (0, 4), 4.0).items.columns["step"]
    assert step[0] == step[1]
    assert step[2] == step[3] != step[0]


def test_a_layer_of_zeros_makes_slices_of_zero():
    block = sliced(replace(_weights(), dense_weights=np.zeros(4)), (0, 4, 8), 2.0)
    assert not block.dense_weights.any()
    assert not stored(block, block.incumbent).values.any()


def test_the_joint_optimum_is_proved_and_is_below_every_choice_of_weights_first():
    whole = _weights(p=6)
    block = sliced(whole, (0, 4, 8), 2.0)
    best = solve(block, "branch-and-bound")
    assert str(best.status) == "optimal"
    least = min(
        block.evaluate(mask)
        for chosen in itertools.combinations(range(12), 3)
        if (mask := np.isin(np.arange(12), chosen)) is not None
    )
    assert best.objective == pytest.approx(least, rel=1e-9)


def test_a_file_keeps_what_the_items_are_and_the_hash_does_not_say_it(tmp_path):
    block = sliced(_weights(), (0, 4, 8), 2.0)
    block.save(tmp_path / "q.npz")
    again = BlockProblem.load(tmp_path / "q.npz")
    assert again.word == "slices"
    assert {name: list(column) for name, column in again.items.columns.items()} == {
        name: list(column) for name, column in block.items.columns.items()
    }
    assert again.hash == block.hash == replace(block, items=None).hash
    assert BlockProblem.load(_saved(_weights(), tmp_path)).word == "weights"


def _saved(block, folder):
    block.save(folder / "weights.npz")
    return folder / "weights.npz"


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        ((4, 8), "begin with 0"),
        ((), "begin with 0"),
        ((0,), "keep nothing"),
        ((0, 9), "from 2 to 8"),
        ((0, 1, 4), "from 2 to 8"),
        ((0, 8, 4), "do not rise"),
        ((0, 4, 4), "do not rise"),
    ],
)
def test_bits_that_cannot_be_are_named(bits, words):
    with pytest.raises(InvalidInput, match=words):
        checked_bits(bits)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (1.5, r"no multiple of 4.*choose 1.0 \(4 bits\) or 2.0 \(8 bits\)"),
        (0.5, "one slice has 4; choose at least 1"),
        (9.0, "choose at most 8"),
        (float("nan"), "finite"),
    ],
)
def test_budgets_that_cannot_be_are_named_with_those_that_can(budget, words):
    with pytest.raises(InvalidInput, match=words):
        sliced(_weights(), (0, 4, 8), budget)


def test_blocks_whose_weights_move_or_that_have_a_quota_are_refused():
    whole = _weights()
    with pytest.raises(InvalidInput, match="mode select"):
        sliced(whole.in_mode("refit"), (0, 4), 4.0)
    with pytest.raises(InvalidInput, match="quota"):
        sliced(replace(whole, keep=2, quota=(((0, 1), 1), ((2, 3), 1))), (0, 4), 4.0)
    with pytest.raises(InvalidInput, match="none of slices"):
        stored(whole, np.ones(4, dtype=bool))


@pytest.mark.parametrize(
    ("columns", "word", "words"),
    [({"bits": np.ones(3)}, "slices", "3 entries"), ({"bits": np.array(["a"] * 4)}, "slices", "numbers"),
     ({"Bits": np.ones(4)}, "slices", "column"), ({}, "two words", "lower-case")],
)  # fmt: skip
def test_items_that_do_not_fit_are_named(columns, word, words):
    with pytest.raises(InvalidInput, match=words):
        replace(_weights(), items=Items(word, columns))


def test_a_file_with_columns_and_no_word_for_them_is_refused(tmp_path):
    contents = _weights().contents() | {"item_bits": np.ones(4), "format": np.str_("prunebench.block/1")}
    np.savez(tmp_path / "b.npz", **contents)
    with pytest.raises(InvalidInput, match="needs 'items'"):
        BlockProblem.load(tmp_path / "b.npz")


def test_the_command_line_cuts_solves_and_verifies_a_block_of_slices(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(capsys, "block", "planted", "--size", "8", "--bits", "0,4,8", "--budget", "2.0", "-o", "q.npz")
    said = call(capsys, "solve", "q.npz", "--solver", "branch-and-bound", "-o", "s.json")[1]
    assert "kept         4 of 16 slices" in said
    assert "bits         16 for 8 weights, 2 each" in said
    held = json.loads((tmp_path / "s.json").read_text())
    assert held["items"] == "slices"
    assert np.array_equal(np.array(held["stored"]["levels"]) * held["stored"]["steps"], held["stored"]["values"])
    assert "verified" in call(capsys, "verify", "s.json", "q.npz")[1]


def test_a_comparison_of_a_block_file_says_slices(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(capsys, "block", "planted", "--size", "8", "--bits", "0,4,8", "--budget", "2.0", "-o", "q.npz")
    said = call(capsys, "compare", "q.npz", "--solver", "exhaustive", "--time-limit", "1", "--out", "c")[1]
    assert "p counts slices" in said
    assert "p counts slices" in (tmp_path / "c" / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--bits", "0,4,8"), "--budget is missing"),
        (("--budget", "2"), "--bits is missing"),
        (("--bits", "0,4,8", "--budget", "2", "--density", "0.5"), "--density says how much is kept"),
        (("--bits", "0,four", "--budget", "2"), "no list of whole numbers"),
        (("--bits", "4,8", "--budget", "2"), "begin with 0"),
        (("--bits", "0,4", "--budget", "2", "--mode", "refit"), "leave --mode out"),
        (("--bits", "0,4", "--budget", "1.1"), "no multiple of 4"),
    ],
)
def test_what_the_command_line_cannot_do_is_said(capsys, tmp_path, given, words):
    assert words in refused(capsys, "block", "planted", "--size", "8", *given, "-o", str(tmp_path / "q.npz"))
    assert not (tmp_path / "q.npz").exists()
