"""Which masks are feasible: counts, quotas and costs against all masks of a few weights."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Count, Quota


def _masks(keeping):
    """All feasible masks, by trying each of the 2^p."""
    every = (np.array(bits, dtype=bool) for bits in itertools.product((False, True), repeat=keeping.p))
    return [mask for mask in every if _is_feasible(keeping, mask)]


def _is_feasible(keeping, mask):
    if isinstance(keeping, Count):
        return mask.sum() == keeping.keep
    if isinstance(keeping, Quota):
        return all(mask[keeping.group == g].sum() == count for g, count in enumerate(keeping.counts))
    return all(math.fsum(row[mask]) <= limit for row, limit in zip(keeping.costs, keeping.limits, strict=True))


def _drawn(rng, kind, p=7):
    if kind == "count":
        return Count(p, int(rng.integers(0, p + 1)))
    if kind == "quota":
        group = rng.permutation(np.concatenate((np.arange(3), rng.integers(0, 3, p - 3))))
        return Quota(group, rng.integers(0, np.bincount(group) + 1))
    budgets = int(rng.integers(1, 4))
    costs = rng.integers(0, 6, (budgets, p)) if kind == "cost" else rng.random((budgets, p))
    return Cost(costs, costs.sum(axis=1) * rng.uniform(0.0, 1.1, budgets))


KINDS = ["count", "quota", "cost", "decimal cost"]
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(seed=seeds)
def test_feasible_masks_their_number_and_the_share_of_each_weight_are_those_of_all_masks(kind, seed):
    keeping = _drawn(np.random.default_rng(seed), kind)
    masks = _masks(keeping)
    assert [mask.tolist() for mask in masks] == [
        mask.tolist() for mask in map(np.array, itertools.product((False, True), repeat=7)) if keeping.feasible(mask)
    ]
    assert all(keeping.violation(mask) == "" for mask in masks)
    assert keeping.mask_count == len(masks)
    assert keeping.settled == (len(masks) == 1)
    assert keeping.shares == pytest.approx(np.mean(masks, axis=0), abs=1e-12)
    assert max(mask.sum() for mask in masks) <= keeping.most
    if kind != "cost" or keeping.limits.size == 1:
        assert kind == "decimal cost" or max(mask.sum() for mask in masks) == keeping.most


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(seed=seeds)
def test_the_top_mask_is_feasible_and_the_best_where_counts_are_exact(kind, seed):
    rng = np.random.default_rng(seed)
    keeping = _drawn(rng, kind)
    scores = rng.integers(0, 4, 7) * rng.random(7)
    top = keeping.top_mask(scores)
    assert _is_feasible(keeping, top)
    best = max(scores[mask].sum() for mask in _masks(keeping))
    if kind in ("count", "quota"):
        assert scores[top].sum() == pytest.approx(best)
    else:
        assert _is_full(keeping, top)
        if keeping.limits.size == 1:
            assert scores[top].sum() >= 0.5 * best - 1e-12


def _is_full(cost, mask):
    """Whether no pruned weight fits beside the mask."""
    return not any(_is_feasible(cost, mask | (np.arange(cost.p) == place)) for place in np.flatnonzero(~mask))


@settings(max_examples=30)
@given(seed=seeds)
def test_equal_costs_of_one_budget_are_a_count(seed):
    rng = np.random.default_rng(seed)
    keep, scores = int(rng.integers(0, 10)), rng.normal(size=9)
    cost = Cost(np.full((1, 9), 0.1), [0.1 * keep])
    assert np.array_equal(cost.top_mask(scores), Count(9, keep).top_mask(scores))
    assert cost.most == keep
    assert cost.mask_count == sum(math.comb(9, kept) for kept in range(keep + 1))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(seed=seeds)
def test_a_repaired_mask_is_feasible_and_moves_the_lowest_scores_out_and_the_highest_in(kind, seed):
    rng = np.random.default_rng(seed)
    keeping, mask, scores = _drawn(rng, kind), rng.random(7) < rng.random(), rng.normal(size=7)
    repaired = keeping.repair(mask, scores)
    assert _is_feasible(keeping, repaired)
    if _is_feasible(keeping, mask):
        assert not (mask & ~repaired).any()
    if kind in ("count", "quota"):
        group = keeping.group if kind == "quota" else np.zeros(7, dtype=int)
        for inside in (group == g for g in np.unique(group)):
            out, into = inside & mask & ~repaired, inside & ~mask & repaired
            assert not (out.any() and into.any())
            assert not out.any() or scores[out].max() <= scores[inside & repaired].min(initial=np.inf)
            assert not into.any() or scores[into].min() >= scores[inside & ~repaired].max(initial=-np.inf)
    else:
        assert _is_full(keeping, repaired)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(seed=seeds)
def test_any_exchanges_together_keep_a_mask_feasible(kind, seed):
    rng = np.random.default_rng(seed)
    keeping, cost, worth = _drawn(rng, kind), rng.normal(size=7), rng.normal(size=7)
    masks = _masks(keeping)
    mask = masks[rng.integers(len(masks))]
    leaving, entering = keeping.exchanges(mask, cost, worth)
    assert mask[leaving].all()
    assert not mask[entering].any()
    assert np.unique(np.concatenate((leaving, entering))).size == 2 * leaving.size
    gains = worth[entering] - cost[leaving]
    assert (np.diff(gains) <= 1e-12).all()
    for chosen in itertools.product((False, True), repeat=leaving.size):
        moved = mask.copy()
        moved[leaving[list(chosen)]], moved[entering[list(chosen)]] = False, True
        assert _is_feasible(keeping, moved)
    if kind == "count":
        assert leaving.size == min(mask.sum(), 7 - mask.sum())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(seed=seeds)
def test_within_a_part_exactly_the_masks_that_are_feasible_beside_the_others_are(kind, seed):
    rng = np.random.default_rng(seed)
    keeping = _drawn(rng, kind)
    masks = _masks(keeping)
    mask = masks[rng.integers(len(masks))]
    indices = rng.permutation(7)[: rng.integers(1, 7)]
    part = keeping.within(indices, mask)
    assert part.p == indices.size
    for bits in itertools.product((False, True), repeat=indices.size):
        whole = mask.copy()
        whole[indices] = bits
        assert part.feasible(np.array(bits)) == _is_feasible(keeping, whole)


def test_decimal_costs_that_add_up_to_the_limit_in_words_are_within_it_and_whole_numbers_are_exact():
    assert 0.1 + 0.1 + 0.1 > 0.3
    assert Cost([[0.1, 0.1, 0.1]], [0.3]).feasible(np.ones(3, dtype=bool))
    assert not Cost([[0.1, 0.1, 0.1]], [0.3 * (1 - 2e-12)]).feasible(np.ones(3, dtype=bool))
    large = Cost([[2.0**52, 2.0**51]], [2.0**52 + 2.0**51 - 1.0])
    assert not large.feasible(np.ones(2, dtype=bool))
    assert large.most == 1


def test_one_large_score_is_not_left_out_for_a_better_ratio():
    assert Cost([[1.0, 100.0]], [100.0]).top_mask(np.array([2.0, 99.0])).tolist() == [False, True]


def test_many_groups_of_few_costs_are_counted_and_many_different_sums_are_refused():
    costs = np.repeat([3.0, 5.0, 7.0], 100)[None]
    assert Cost(costs, [700.0]).mask_count + _above(costs, 700) == 2**300
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidInput, match="the budgets 0, 1 have more than 200,000 different sums"):
        _ = Cost(rng.random((2, 40)), [10.0, 10.0]).mask_count


def _above(costs, limit):
    """How many masks cost more than `limit`: those whose complement costs less than the rest."""
    return Cost(costs, [costs.sum() - limit - 1.0]).mask_count


@pytest.mark.parametrize(
    ("costs", "limits", "words"),
    [
        ([1.0, 2.0], [1.0], r"shape \(2,\); expected \(k, p\)"),
        ([[1.0, 2.0]], [1.0, 2.0], r"limits has shape \(2,\); expected \(1,\), one entry a budget"),
        ([[1.0, -2.0]], [1.0], "budget 'MACs': weight 1 costs -2; costs are 0 or more"),
        ([[1.0, 2.0]], [-1.0], "budget 'MACs' has the limit -1; choose 0 or more"),
        ([[1.0, np.nan]], [1.0], "costs"),
    ],
)
def test_bad_budgets_are_refused_by_name(costs, limits, words):
    with pytest.raises(InvalidInput, match=words):
        Cost(costs, limits, ("MACs",))


def test_violations_name_the_budget_and_the_count():
    mask = np.array([True, True, False])
    assert Cost([[1, 1, 1], [4, 3, 9]], [2, 6], ("weights", "MACs")).violation(mask) == (
        "spends 7 of budget 'MACs'; its limit is 6"
    )
    assert Count(3, 1).violation(mask) == "keeps 2 weights; its quota is exactly 1"
    with pytest.raises(InvalidInput, match="keep is 4 but there are 3 weights; choose 0 to 3"):
        Count(3, 4)
