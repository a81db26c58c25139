"""What a block's hash covers, and every inverse that rankings are made of: faults put there once went unseen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench import BlockProblem
from prunebench.core.block_file import PROBLEM_KEYS
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Count, Quota
from prunebench.core.masks import keep_per_layer
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.qubo import Qubo
from prunebench.core.rows import DIRECT_SIZE, RowsForm
from prunebench.solvers.surgeon import removal
from prunebench.testing.damaged_blocks import healthy_block


@pytest.mark.parametrize("seed", range(6))
def test_the_hash_differs_wherever_what_a_solver_sees_does(seed):
    contents = healthy_block(seed).contents()
    seen = {healthy_block(seed).hash}
    for key in PROBLEM_KEYS:
        changed = {
            "keep": {"keep": np.int64(5), "quota_counts": np.array([2, 3]), "start_mask": None},
            "mode": {"mode": np.str_("select" if str(contents["mode"]) == "refit" else "refit")},
            "start_mask": {"start_mask": None},
            "quota_group": {"quota_group": None, "quota_counts": None},
        }
        if key not in contents or key in ("rows", "quota_counts"):
            continue
        change = changed[key] if key in changed else {key: np.asarray(contents[key]) * 1.25}
        given = {**contents, **change}
        other = BlockProblem.from_contents({name: value for name, value in given.items() if value is not None}, "t")
        assert other.hash not in seen, key
        seen.add(other.hash)


def test_two_quotas_of_the_same_groups_and_count_differ_in_their_hash():
    form = QuadraticForm(hessian=np.eye(4), ridge=0.1)
    blocks = [
        BlockProblem(form, np.ones(4), 2, "select", quota=Quota([0, 0, 1, 1], counts)) for counts in ([1, 1], [2, 0])
    ]
    assert blocks[0].hash != blocks[1].hash


def test_where_a_block_comes_from_is_not_in_its_hash():
    contents = healthy_block(0).contents()
    other = {**contents, "problem": np.str_("elsewhere"), "indices": contents["indices"][::-1]}
    assert BlockProblem.from_contents(other, "t").hash == healthy_block(0).hash


def _forms(seed):
    rng = np.random.default_rng(seed)
    factor, ridge = rng.normal(size=(3, 7)), rng.uniform(0.1, 2.0, size=7)
    wide = rng.normal(size=(9, 7))
    yield QuadraticForm(factor=factor, ridge=ridge), factor.T @ factor + np.diag(ridge)
    yield QuadraticForm(hessian=wide.T @ wide, ridge=ridge), wide.T @ wide + np.diag(ridge)
    yield QuadraticForm(factor=wide, ridge=ridge), wide.T @ wide + np.diag(ridge)


@given(st.integers(0, 10**6))
@settings(max_examples=10, derandomize=True)
def test_the_inverses_that_rank_are_those_of_the_whole_hessian_the_ridge_included(seed):
    right = np.random.default_rng(seed).normal(size=7)
    for form, hessian in _forms(seed):
        inverse = np.linalg.inv(hessian)
        assert removal.inverse_diagonal(form) == pytest.approx(inverse.diagonal(), rel=1e-8)
        assert removal.block_inverse_diagonal(form, 7) == pytest.approx(inverse.diagonal(), rel=1e-8)
        assert removal.recursive_inverse_diagonal(form) == pytest.approx(inverse.diagonal(), rel=1e-8)
        assert removal.inverse_product(form, right) == pytest.approx(inverse @ right, rel=1e-8)


@given(st.integers(0, 10**6))
@settings(max_examples=10, derandomize=True)
def test_a_form_says_its_value_slope_and_curvature_as_written_out(seed):
    rng = np.random.default_rng(seed)
    linear, centre, at = rng.normal(size=(3, 7))
    for plain, hessian in _forms(seed):
        curvature = {"factor": plain.factor} if plain.factor is not None else {"hessian": plain.hessian}
        form = QuadraticForm(**curvature, ridge=plain.ridge, linear=linear, centre=centre, constant=0.7)
        move = at - centre
        assert form.value(at) == pytest.approx(0.7 + linear @ move + 0.5 * move @ hessian @ move)
        assert form.gradient(at) == pytest.approx(linear + hessian @ move)
        assert form.product(at) == pytest.approx(hessian @ at)
        assert form.diagonal() == pytest.approx(hessian.diagonal())
        assert form.gram([1, 4]) == pytest.approx(hessian[np.ix_([1, 4], [1, 4])])
        part = form.restrict([4, 1, 6], at)
        for kept in np.vstack([np.eye(3), rng.normal(size=(2, 3))]):
            whole = at.copy()
            whole[[4, 1, 6]] = kept
            assert part.value(kept) == pytest.approx(form.value(whole))


@given(st.integers(0, 10**6))
@settings(max_examples=10, derandomize=True)
def test_a_layers_form_is_the_plain_form_of_all_its_weights(seed):
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(9, 4))
    terms = {name: rng.normal(size=12) for name in ("linear", "centre")}
    form = RowsForm(shared=samples.T @ samples, rows=3, ridge=rng.uniform(0.1, 1.0, size=12), constant=0.3, **terms)
    plain, at, mask = form.plain(), rng.normal(size=12), rng.random(12) < 0.6
    dense = rng.normal(size=12)
    assert form.value(at) == pytest.approx(plain.value(at))
    assert form.gradient(at) == pytest.approx(plain.gradient(at))
    assert form.refit(mask) == pytest.approx(plain.refit(mask))
    assert form.gram([0, 5, 6]) == pytest.approx(plain.gram([0, 5, 6]))
    assert form.row(1).refit(mask[4:8]) == pytest.approx(plain.refit(mask)[4:8])
    assert form.restrict([2, 9], at).value([1.0, -1.0]) == pytest.approx(plain.restrict([2, 9], at).value([1.0, -1.0]))
    block, other = (BlockProblem(one, dense, int(mask.sum()), "select") for one in (form, plain))
    assert block.to_qubo().energy(mask) == pytest.approx(other.to_qubo().energy(mask))
    for quota in (Quota.n_m(12, 2, 4), Quota([0, 1] * 6, [4, 2])):
        assert block.to_qubo().random_mean(quota) == pytest.approx(other.to_qubo().random_mean(quota))


@given(st.integers(0, 10**6))
@settings(max_examples=10, derandomize=True)
def test_the_random_mean_is_the_mean_over_all_masks(seed):
    from prunebench.testing.instances import all_masks

    rng = np.random.default_rng(seed)
    for form, _ in _forms(seed):
        qubo = Qubo.from_form(form, rng.normal(size=7))
        quota = Quota([0, 1, 0, 1, 1, 0, 2], [1, 2, 1])
        masks = list(all_masks(7, 4))
        inside = [mask for mask in masks if not quota.violation(mask)]
        assert qubo.random_mean(Count(qubo.p, 4)) == pytest.approx(np.mean([qubo.energy(mask) for mask in masks]))
        assert qubo.random_mean(quota) == pytest.approx(np.mean([qubo.energy(mask) for mask in inside]))
        assert qubo.energies(np.array(masks)) == pytest.approx([qubo.energy(mask) for mask in masks])


def test_layers_that_lose_most_by_rounding_get_the_missing_weights():
    assert keep_per_layer(0.5, [3, 3, 5, 1]).tolist() == [2, 2, 2, 0]
    assert keep_per_layer(0.3, [1, 9]).tolist() == [0, 3]


def test_weights_exchanged_within_groups_are_ranked_by_what_they_gain():
    quota = Quota([0, 0, 0, 0, 1, 1], [2, 1])
    mask = np.array([True, True, False, False, True, False])
    cost, worth = np.array([3.0, 1.0, 0, 0, 2.0, 0]), np.array([0, 0, 5.0, 4.0, 0, 9.0])
    leaving, entering = quota.exchanges(mask, cost, worth)
    assert list(zip(leaving.tolist(), entering.tolist(), strict=True)) == [(4, 5), (1, 2), (0, 3)]


def test_the_same_bytes_in_another_precision_are_another_problem():
    # 48 zero bytes each
    narrow, wide = np.zeros((2, 6), dtype=np.float32), np.zeros((1, 6))
    hashes = {
        BlockProblem(QuadraticForm(factor=factor, ridge=0.1), np.ones(6), 3, "select").hash for factor in (narrow, wide)
    }
    assert len(hashes) == 2


def test_a_mask_of_the_right_count_in_the_wrong_groups_is_refused():
    form = QuadraticForm(hessian=np.eye(4), ridge=0.1)
    block = BlockProblem(form, np.ones(4), 2, "select", quota=Quota([0, 0, 1, 1], [1, 1]))
    wrong = np.array([True, True, False, False])
    for use in (block.evaluate, block.weights_of, block.with_start, lambda mask: block.evaluate(mask * 1.0, mask)):
        with pytest.raises(InvalidInput, match="its quota is exactly 1 of 2"):
            use(wrong)


def test_layers_keep_their_own_counts_whatever_their_names():
    quota = Quota.layers(["b"] * 6 + ["a"] * 2, 0.5)
    assert quota.group.tolist() == [0] * 6 + [1] * 2
    assert quota.counts.tolist() == [3, 1]
    # one and a half each: the odd weight goes to the layer that comes first, not to the first by name
    assert Quota.layers(["b"] * 3 + ["a"] * 3, 0.5).counts.tolist() == [2, 1]


def test_a_large_rows_refit_by_gradients_has_no_slope_left():
    rng = np.random.default_rng(0)
    columns = DIRECT_SIZE + 60
    samples = rng.normal(size=(200, columns)) / 14.0
    dense = rng.normal(size=columns)
    form = RowsForm(shared=samples.T @ samples, rows=1, ridge=0.05, centre=dense)
    mask = np.ones(columns, dtype=bool)
    mask[:20] = False
    weights = form.refit(mask)
    left = np.abs(form.gradient(weights)[mask]).max()
    at_start = np.abs(form.gradient(dense * mask)[mask]).max()
    assert left < 1e-8 * at_start
    assert not weights[:20].any()
