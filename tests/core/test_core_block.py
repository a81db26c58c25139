"""The block problem: feasibility, both modes, the QUBO, the file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench import BlockProblem, QuadraticForm
from prunebench.core import definite
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import keep_count, keep_per_layer, top_mask
from prunebench.core.rows import RowsForm
from prunebench.testing.instances import FAMILIES, all_masks, instance

families = st.sampled_from(list(FAMILIES))
seeds = st.integers(0, 50)


def small(mode="select", **changes):
    arguments = {
        "form": QuadraticForm(factor=np.arange(6.0).reshape(2, 3), ridge=0.1, centre=[1.0, -2.0, 3.0]),
        "dense_weights": [1.0, -2.0, 3.0],
        "keep": 2,
        "mode": mode,
    }
    return BlockProblem(**{**arguments, **changes})


@settings(max_examples=40, deadline=None)
@given(families, seeds)
def test_qubo_energy_equals_the_quadratic_form_on_every_mask(family, seed):
    block = instance(family, seed, "select")
    qubo = block.to_qubo()
    masks = np.array([mask for keep in range(block.p + 1) for mask in all_masks(block.p, keep)])
    values = np.array([block.form.value(mask * block.dense_weights) for mask in masks])
    scale = np.abs(values).max()
    assert np.allclose(qubo.energies(masks), values, rtol=1e-9, atol=1e-12 * scale)
    assert qubo.energy(masks[-1]) == pytest.approx(values[-1], rel=1e-9, abs=1e-12 * scale)


@settings(max_examples=40, deadline=None)
@given(families, seeds)
def test_couplings_count_each_pair_once(family, seed):
    block = instance(family, seed, "select")
    qubo = block.to_qubo()
    mask = np.random.default_rng(seed).random(block.p) < 0.5
    pairs = sum(qubo.couplings[i, j] for i in range(block.p) for j in range(i + 1, block.p) if mask[i] and mask[j])
    expected = qubo.constant + qubo.linear @ mask + pairs
    assert block.form.value(mask * block.dense_weights) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(families, seeds)
def test_the_random_mean_is_the_mean_over_all_masks(family, seed):
    block = instance(family, seed, "select")
    values = [block.evaluate(mask) for mask in all_masks(block.p, block.keep)]
    assert block.random_mean() == pytest.approx(np.mean(values), rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(families, seeds)
def test_refit_never_costs_more_than_select(family, seed):
    select, refit = instance(family, seed, "select"), instance(family, seed, "refit")
    for mask in all_masks(select.p, select.keep):
        value = select.evaluate(mask)
        assert refit.evaluate(mask) <= value + 1e-9 * abs(value)


def test_predicted_change_of_a_move_equals_the_recomputed_change():
    block = instance("cancelling-pairs", 3, "select")
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, block.p))
    form = block.form
    step = after - before
    predicted = form.gradient(before) @ step + 0.5 * step @ form.product(step)
    assert predicted == pytest.approx(form.value(after) - form.value(before), rel=1e-9)


def test_the_gap_is_zero_at_the_bound_and_one_at_the_random_mean():
    block = small()
    assert block.gap(block.random_mean(), -1.0) == pytest.approx(1.0)
    assert block.gap(-1.0, -1.0) == 0.0
    assert block.gap(0.0, -np.inf) == np.inf


def test_evaluate_refuses_what_is_not_feasible():
    block = small()
    with pytest.raises(InvalidInput, match="must keep exactly 2"):
        block.evaluate(np.array([True, False, False]))
    with pytest.raises(InvalidInput, match="3 weights are not zero but keep is 2"):
        block.evaluate(np.array([1.0, -2.0, 3.0]))
    with pytest.raises(InvalidInput, match="a kept weight must have its dense value"):
        block.evaluate(np.array([1.0, -2.5, 0.0]))
    with pytest.raises(InvalidInput, match="1 pruned weights are not zero"):
        small("refit").evaluate(np.array([1.0, -2.0, 3.0]), np.array([True, True, False]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep": 4}, "keep is 4 but the block has 3 weights; choose 0 to 3"),
        ({"keep": -1}, "keep is -1"),
        ({"keep": 1.5}, "keep is 1.5; expected a whole number"),
        ({"mode": "both"}, "mode is 'both'; choose one of select, refit"),
        ({"dense_weights": [1.0, 2.0]}, "dense_weights has shape \\(2,\\); expected \\(3,\\)"),
        ({"dense_weights": [1.0, np.nan, 2.0]}, "dense_weights holds nan"),
        ({"start_mask": [True, False, False]}, "start_mask keeps 1 weights; it must keep exactly 2"),
        ({"indices": [1, 2]}, "indices have dtype int64 and shape \\(2,\\)"),
        ({"layer": ["a"]}, "layer has shape \\(1,\\)"),
    ],
)
def test_wrong_input_is_named(changes, words):
    with pytest.raises(InvalidInput, match=words):
        small(**changes)


def test_refit_with_a_zero_ridge_and_singular_curvature_is_refused():
    with pytest.raises(InvalidInput, match="mode refit needs a positive ridge"):
        small("refit", form=QuadraticForm(factor=np.ones((2, 3)), ridge=0.0))
    with pytest.raises(InvalidInput, match="mode refit needs a positive ridge"):
        small("refit", form=QuadraticForm(hessian=np.ones((3, 3)), ridge=0.0))


def test_refit_with_a_zero_ridge_and_positive_definite_curvature_is_accepted():
    assert small("refit", form=QuadraticForm(hessian=np.eye(3), ridge=0.0)).p == 3


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_block_survives_its_file(tmp_path, mode, seed):
    block = instance("gaussian", seed, mode)
    block = block.with_start(block.incumbent)
    block.save(tmp_path / "b.npz")
    again = BlockProblem.load(tmp_path / "b.npz")
    assert again.hash == block.hash
    assert again.evaluate(block.incumbent) == block.evaluate(block.incumbent)
    assert again.problem == block.problem


def test_the_hash_tells_problems_apart_and_ignores_where_they_come_from():
    block = small()
    assert small(problem="elsewhere").hash == block.hash
    assert small(keep=1).hash != block.hash
    assert small(mode="refit").hash != block.hash
    assert small(dense_weights=[1.0, -2.0, 3.5]).hash != block.hash
    assert small(start_mask=[True, True, False]).hash != block.hash


def write_file(path, **changes):
    contents = {"format": "prunebench.block/1", **small().contents(), **changes}
    np.savez(path, **{key: value for key, value in contents.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ridge": None}, "the key 'ridge' is missing"),
        ({"format": "other/1"}, "format is 'other/1'"),
        ({"format": None}, "format is None"),
        ({"factor": np.ones((2, 3)), "hessian": np.eye(3)}, "the curvature must stand once"),
        ({"linear": np.zeros(2)}, "linear has shape \\(2,\\)"),
        ({"constant": np.zeros(2)}, "constant has shape \\(2,\\)"),
        ({"mode": "neither"}, "mode is 'neither'"),
        ({"keep": 9}, "keep is 9 but the block has 3 weights"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(tmp_path, changes, words):
    path = tmp_path / "wrong.npz"
    write_file(path, **changes)
    with pytest.raises(InvalidInput, match=words) as caught:
        BlockProblem.load(path)
    assert "wrong.npz" in str(caught.value)


def test_extra_keys_are_ignored(tmp_path):
    write_file(tmp_path / "b.npz", note="kept for later")
    assert BlockProblem.load(tmp_path / "b.npz").hash == small().hash


def test_truncated_foreign_and_missing_files_are_named(tmp_path):
    good = tmp_path / "good.npz"
    small().save(good)
    whole = good.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 3):
        broken = tmp_path / "broken.npz"
        broken.write_bytes(whole[:cut])
        with pytest.raises(InvalidInput, match=r"broken\.npz: not a readable block problem file"):
            BlockProblem.load(broken)
    text = tmp_path / "text.npz"
    text.write_text("weights 1 2 3")
    with pytest.raises(InvalidInput, match="truncated or foreign"):
        BlockProblem.load(text)
    with pytest.raises(InvalidInput, match="there is no such file"):
        BlockProblem.load(tmp_path / "none.npz")


def test_a_pickle_in_the_file_is_not_executed(tmp_path):
    write_file(tmp_path / "b.npz", factor=np.array([object()], dtype=object))
    with pytest.raises(InvalidInput, match="factor holds Python objects"):
        BlockProblem.load(tmp_path / "b.npz")


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.inf]), min_size=1, max_size=12), st.data())
def test_the_top_mask_keeps_the_count_whatever_the_ties(scores, data):
    keep = data.draw(st.integers(0, len(scores)))
    mask = top_mask(np.array(scores), keep)
    assert mask.sum() == keep
    if 0 < keep < len(scores):
        assert np.array(scores)[mask].min() >= np.array(scores)[~mask].max()


def test_among_equal_scores_the_lower_position_wins():
    assert top_mask(np.ones(4), 2).tolist() == [True, True, False, False]


def test_the_keep_count_is_rounded_not_floored():
    assert keep_count(1 - 0.8, 30000) == 6000


@given(st.floats(0.05, 1.0), st.lists(st.integers(1, 5000), min_size=1, max_size=8))
def test_the_layers_keep_counts_sum_to_the_total(density, sizes):
    total = round(density * sum(sizes))
    if total == 0:
        return
    counts = keep_per_layer(density, sizes)
    assert counts.sum() == total
    assert (counts >= 0).all()
    assert (counts <= sizes).all()
    assert (np.abs(counts - density * np.array(sizes)) < 1.0 + 1e-6).all()


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, np.nan])
def test_an_impossible_density_is_refused(density):
    with pytest.raises(InvalidInput, match="density is"):
        keep_count(density, 10)


def _indefinite(ridge=0.01):
    return QuadraticForm(
        hessian=[[1.0, 3.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]], ridge=ridge, centre=[1.0, -1.0, 0.5]
    )


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_an_indefinite_hessian_is_refused_in_refit_with_its_eigenvalue_and_taken_in_select(keep):
    with pytest.raises(InvalidInput, match=r"lowest eigenvalue is -1.99, .* raise the ridge by more than 1.99, or use"):
        BlockProblem(_indefinite(), np.ones(3), keep, "refit")
    assert BlockProblem(_indefinite(2.1), np.ones(3), keep, "refit").keep == keep
    assert BlockProblem(_indefinite(), np.ones(3), keep, "select").keep == keep


def test_a_negative_diagonal_is_taken_in_select_and_refused_in_refit():
    form = QuadraticForm(hessian=np.diag([-1.0, 2.0]), ridge=0.5)
    assert BlockProblem(form, np.ones(2), 1, "select").p == 2
    with pytest.raises(InvalidInput, match=r"lowest eigenvalue is -0.5"):
        BlockProblem(form, np.ones(2), 1, "refit")


@pytest.mark.parametrize("p", [20, 100])
def test_a_gram_matrix_indefinite_by_rounding_alone_is_taken_with_a_ridge_that_lifts_it(p):
    factor = np.random.default_rng(p).normal(size=(p // 2, p)).astype(np.float32)
    gram = factor.T @ factor
    values = np.linalg.eigvalsh(gram.astype(np.float64))
    assert -1e-6 < values[0] / values[-1] < 0.0
    lifted = QuadraticForm(hessian=gram, ridge=-1.5 * values[0])
    assert BlockProblem(lifted, np.ones(p), 2, "refit").p == p
    with pytest.raises(InvalidInput, match=r"positive definite|lifts the curvature"):
        BlockProblem(lifted.with_terms(ridge=-0.5 * values[0]), np.ones(p), 2, "refit")


def test_a_whole_layer_with_an_indefinite_hessian_is_refused_in_refit():
    rows = {"shared": _indefinite().hessian, "rows": 2}
    with pytest.raises(InvalidInput, match=r"lowest eigenvalue is -1.99"):
        BlockProblem(RowsForm(**rows, ridge=np.r_[np.full(3, 5.0), np.full(3, 0.01)]), np.ones(6), 3, "refit")
    form = RowsForm(**rows, ridge=5.0)
    assert BlockProblem(form, np.ones(6), 3, "refit").p == 6
    assert np.isfinite(form.lower_bound())
    assert RowsForm(**rows, ridge=0.01).lower_bound() == -np.inf


def test_the_proof_of_definiteness_is_made_once_for_all_rows_of_a_layer(monkeypatch):
    made = []
    monkeypatch.setattr(definite, "proved_semidefinite", lambda *_given, **_named: made.append(1) or True)
    form = RowsForm(shared=np.eye(3), rows=5, ridge=np.linspace(0.1, 0.2, 15))
    BlockProblem(form, np.ones(15), 3, "refit")
    for row in range(5):
        BlockProblem(form.row(row), np.ones(3), 1, "refit")
    assert len(made) == 1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_pruned_weights_are_positive_zeros_and_kept_ones_unchanged_to_the_last_bit(kind):
    dense = np.array([-1.5, 0.1, -0.0, 3e-39, -2.5, 7.0], dtype=kind)
    kept = np.array([True, True, True, True, False, False])
    form = RowsForm(shared=np.eye(3, dtype=kind), rows=2, ridge=0.1, centre=dense)
    weights = BlockProblem(form, dense, 4, "select").weights_of(kept)
    assert weights.dtype == kind
    assert weights[kept].tobytes() == dense[kept].tobytes()
    assert weights[~kept].tobytes() == np.zeros(2, kind).tobytes()
