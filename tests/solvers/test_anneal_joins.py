"""Good masks that anneal joins: what they agree on stays, and none is worse than all it was made of."""

import numpy as np
import pytest

from prunebench import BlockProblem, QuadraticForm
from prunebench.core.stop import never
from prunebench.solvers.anneal.elites import LEAST_OPEN, joined


def block(p, keep, seed):
    rng = np.random.default_rng(seed)
    form = QuadraticForm(factor=rng.normal(size=(p // 3, p)) * rng.lognormal(size=p), ridge=1e-3)
    return BlockProblem(form, rng.normal(size=p), keep, "select")


@pytest.mark.parametrize("seed", range(6))
def test_joined_masks_keep_what_all_agree_on_and_are_as_good_as_one_of_them(seed):
    made = block(40, 17, seed)
    rng = np.random.default_rng(seed)
    masks = np.array([made.top_mask(rng.random(40) + np.arange(40) / 15.0) for _ in range(6)])
    qubo = made.to_qubo()
    linear = np.array(qubo.linear)
    found, swaps = joined(qubo.couplings, linear, masks, np.random.default_rng(seed), never)
    again, _ = joined(qubo.couplings, linear, masks, np.random.default_rng(seed), never)
    assert np.array_equal(found, again)
    assert swaps > 0
    assert found.sum() == 17
    assert (found >= masks.all(axis=0)).all()
    assert (found <= masks.any(axis=0)).all()
    assert made.evaluate(found) < max(made.evaluate(mask) for mask in masks)


def test_masks_that_differ_in_a_pair_are_not_joined():
    made = block(12, 5, 0)
    first = np.arange(12) < 5
    second = first.copy()
    second[[0, 11]] = ~second[[0, 11]]
    assert LEAST_OPEN > 2
    qubo = made.to_qubo()
    found, swaps = joined(qubo.couplings, qubo.linear, np.array([first, second]), np.random.default_rng(0), never)
    assert found is None
    assert swaps == 0.0
