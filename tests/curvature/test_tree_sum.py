"""A sum that several make of their parts must be the sum that one makes, to the last bit."""

from itertools import pairwise

import numpy as np
import pytest

from prunebench.curvature.tree_sum import TreeSum


def add(left, right):
    return left + right


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13, 64])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_of_any_length_give_the_same_bits(count, parts):
    terms = np.random.default_rng(count).normal(size=(count, 3)) * 10.0 ** np.arange(3)
    whole = TreeSum(add)
    for number, term in enumerate(terms):
        whole.term(number, term)
    summed = TreeSum(add)
    edges = np.unique(np.linspace(0, count, parts + 1).astype(int))
    for start, stop in pairwise(edges):
        share = TreeSum(add)
        for number in range(start, stop):
            share.term(number, terms[number])
        summed.take(share.nodes)
    assert np.array_equal(summed.total(), whole.total())
    assert np.allclose(whole.total(), terms.sum(axis=0), rtol=1e-12)


def test_few_partial_sums_are_held():
    summed = TreeSum(add)
    for number in range(1000):
        summed.term(number, 1.0)
        assert len(summed.nodes) <= 10
    assert summed.total() == 1000.0
