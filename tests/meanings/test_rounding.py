"""Levels of pruned rows: exact products, the published order as an oracle, groups, and rows of every length."""

import itertools

import numpy as np
import pytest

from prunebench.core.levels import LayerLevels, Levels, group_count, spread_scales
from prunebench.core.rows import RowsForm
from prunebench.meanings.bits import rounding
from prunebench.meanings.bits.grids import largest_level, rounded_scale
from prunebench.meanings.bits.packing import Packed, pack, unpack
from prunebench.meanings.bits.rounding import rounded


def _form(rows=3, columns=6, seed=0, slope=False):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(4 * columns, columns)) @ rng.normal(size=(columns, columns))
    linear = rng.normal(size=rows * columns) if slope else None
    return RowsForm(
        shared=inputs.T @ inputs / len(inputs), rows=rows, ridge=0.01, linear=linear,
        centre=rng.normal(size=rows * columns),
    )  # fmt: skip


def _mask(rows, columns, counts, seed=1):
    rng = np.random.default_rng(seed)
    mask = np.zeros((rows, columns), dtype=bool)
    for row, count in enumerate(counts):
        mask[row, rng.permutation(columns)[:count]] = True
    return mask


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group_size", [None, 4, 5, 100])
def test_weights_are_levels_times_scales_to_the_last_bit(bits, group_size):
    form, mask = _form(columns=12, slope=True), _mask(3, 12, (7, 0, 12))
    found = rounded(form, mask, bits, group_size)
    scales = spread_scales(found.scales, 12, group_size)
    assert found.scales.shape == (3, group_count(12, group_size))
    assert (np.abs(found.levels) <= largest_level(bits)).all()
    assert not found.levels[~mask].any()
    assert (found.scales == rounded_scale(found.scales)).all()
    product = found.levels.astype(np.float32) * scales.astype(np.float32)
    assert (product.astype(np.float64) == found.values).all()
    assert found.values[mask].any()


def _locked(hessian, weights, j, value):
    """The minimiser of the weights' form with weight j at a value, and what that costs."""
    inverse = np.linalg.inv(hessian)
    step = (value - weights[j]) / inverse[j, j]
    return weights + step * inverse[:, j], 0.5 * step * step * inverse[j, j]


def test_without_search_and_moves_it_is_the_published_order(monkeypatch):
    monkeypatch.setattr(rounding, "TRIALS", (1.0,))
    monkeypatch.setattr(rounding, "MOVES", 0)
    form, mask = _form(rows=1, columns=7, slope=True), _mask(1, 7, (5,))
    found = rounded(form, mask, 3)
    kept = np.flatnonzero(mask[0])
    kept = kept[np.argsort(-form.shared.diagonal()[kept])]
    weights = form.refit(mask.reshape(-1))[kept]
    hessian = form.gram(kept)
    scale = float(rounded_scale(np.abs(weights).max() / 3))
    left, out, cost = np.arange(kept.size), np.zeros(kept.size), 0.0
    for j in range(kept.size):
        out[j] = scale * np.clip(np.rint(weights[0] / scale), -3, 3)
        weights, price = _locked(hessian[np.ix_(left, left)], weights, 0, out[j])
        weights, left, cost = weights[1:], left[1:], cost + price
    assert found.scales[0, 0] == scale
    assert found.values[0, kept] == pytest.approx(out, abs=1e-12)
    # what every weight cost once the others made up for it adds up to what rounding cost
    change = form.value(found.values.reshape(-1)) - form.value(form.refit(mask.reshape(-1)))
    assert change == pytest.approx(cost, rel=1e-9)


@pytest.mark.parametrize("own", [2048, 0])
def test_no_single_level_moved_by_one_is_better(own, monkeypatch):
    monkeypatch.setattr(rounding, "OWN_INVERSES", own)
    form, mask = _form(rows=2, columns=9, seed=4), _mask(2, 9, (5, 8))
    found = rounded(form, mask, 3)
    least = form.value(found.values.reshape(-1))
    for row, column in zip(*np.nonzero(mask), strict=True):
        for sign in (-1, 1):
            if abs(found.levels[row, column] + sign) <= 3:
                moved = found.values.copy()
                moved[row, column] += sign * found.scales[row, 0]
                assert form.value(moved.reshape(-1)) >= least * (1 - 1e-9)


def test_it_is_between_the_best_levels_at_its_scale_and_rounding_the_refit():
    form, mask = _form(rows=1, columns=6, seed=2), _mask(1, 6, (4,))
    found = rounded(form, mask, 2)
    kept, scale = np.flatnonzero(mask[0]), found.scales[0, 0]
    best = np.inf
    for levels in itertools.product((-1, 0, 1), repeat=4):
        weights = np.zeros(6)
        weights[kept] = np.array(levels) * scale
        best = min(best, form.value(weights))
    refit = form.refit(mask.reshape(-1))
    reach = np.abs(refit).max()
    plain = min(
        form.value(np.clip(np.rint(refit / step), -1, 1) * step)
        for step in rounded_scale(reach * np.array(rounding.TRIALS))
    )
    assert best * (1 - 1e-12) <= form.value(found.values.reshape(-1)) <= plain


def test_many_bits_leave_what_the_refit_leaves():
    form, mask = _form(rows=4, columns=10, seed=3, slope=True), _mask(4, 10, (5, 6, 5, 9))
    refit = form.refit(mask.reshape(-1))
    found = rounded(form, mask, 8)
    assert np.abs(found.values.reshape(-1) - refit).max() < 0.02 * np.abs(refit).max()


def test_rows_are_rounded_alike_whatever_they_are_rounded_with(monkeypatch):
    form, mask = _form(rows=6, columns=10, seed=6), _mask(6, 10, (5, 6, 5, 9, 1, 6))
    together = rounded(form, mask, 4)
    monkeypatch.setattr(rounding, "CHUNK", 1)
    alone = rounded(form, mask, 4)
    assert (together.levels == alone.levels).all()
    assert (together.scales == alone.scales).all()


def test_a_smaller_scale_is_found_where_one_weight_is_far_larger_than_the_others():
    columns = 8
    centre = np.full(columns, 0.3)
    centre[0] = 1.0
    form = RowsForm(shared=np.eye(columns), rows=1, ridge=0.01, centre=centre)
    found = rounded(form, np.ones((1, columns), dtype=bool), 2)
    assert found.scales[0, 0] < 0.6


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("columns", [1, 7, 8, 33])
def test_packed_levels_lie_one_after_another_in_each_row(bits, columns):
    most = largest_level(bits)
    levels = np.random.default_rng(bits).integers(-most - 1, most + 1, size=(3, columns)).astype(np.int8)
    words = pack(levels, bits)
    assert words.dtype == np.int32
    assert words.shape == (3, -(-columns * bits // 32))
    assert (unpack(words, bits, columns) == levels).all()
    for row in range(3):
        number = sum((int(word) & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words[row]))
        for column in range(columns):
            assert (number >> (bits * column)) % 2**bits == int(levels[row, column]) + 2 ** (bits - 1)
        assert number >> (bits * columns) == 0


def test_groups_that_do_not_divide_the_columns_are_written_as_smaller_ones():
    scales = np.array([[1.0, 2.0, 3.0]])
    packed = Packed.of(np.zeros((1, 20), dtype=np.int8), scales, 4, 8)
    assert packed.group_size == 4
    assert (np.repeat(packed.scales, 4, axis=1) == spread_scales(scales, 20, 8)).all()


def test_packed_bytes_are_those_of_the_arrays_that_are_written():
    rng = np.random.default_rng(0)
    for columns, group_size in ((48, 32), (100, 32), (64, 32), (40, None)):
        levels = rng.integers(-7, 8, size=(3, columns)).astype(np.int8)
        scales = rng.uniform(0.1, 1.0, size=(3, group_count(columns, group_size)))
        layer = LayerLevels("a", np.arange(levels.size).reshape(levels.shape), levels, scales)
        told = Levels(4, group_size, (layer,), np.zeros(levels.size)).bytes(levels.size, 4, 0)["packed"]
        written = Packed.of(levels, scales, 4, group_size)
        assert told == written.words.nbytes + written.scales.nbytes
