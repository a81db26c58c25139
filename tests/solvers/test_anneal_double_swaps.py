"""Double swaps of the annealer: the best one is found, and a descent ends where none is left."""

from itertools import combinations

import numpy as np
import pytest

from prunebench import BlockProblem, Budget, QuadraticForm, solve
from prunebench.core.incumbent import Incumbent
from prunebench.core.stop import Stop
from prunebench.kernels.local_search.descent import swap_descent
from prunebench.solvers.anneal.doubles import descended


def energy(couplings, linear, mask):
    return float(linear @ mask + 0.5 * mask @ couplings @ mask)


def neighbours(mask):
    """All masks that differ by two swaps."""
    for leaving in combinations(np.flatnonzero(mask), 2):
        for entering in combinations(np.flatnonzero(~mask), 2):
            other = mask.copy()
            other[list(leaving)], other[list(entering)] = False, True
            yield other


def sum_block(seed, p):
    """One sample and hardly a ridge: which of the weights sum to a given number."""
    rng = np.random.default_rng(seed)
    factor, weights = rng.normal(size=(1, p)), rng.normal(size=p)
    return BlockProblem(QuadraticForm(factor=factor, ridge=1e-9, centre=weights), weights, p // 2, "select")


@pytest.mark.parametrize("keep", [1, 2, 4, 7, 8])
def test_a_descent_ends_where_no_double_swap_lowers_the_energy(keep):
    rng = np.random.default_rng(keep)
    couplings, linear = rng.normal(size=(9, 9)), rng.normal(size=9)
    couplings = np.triu(couplings, 1) + np.triu(couplings, 1).T
    start = rng.permutation(9) < keep
    mask, value = descended(couplings, linear, start)
    assert mask.sum() == keep
    assert value == pytest.approx(energy(couplings, linear, mask))
    assert value <= energy(couplings, linear, start) + 1e-12
    assert all(energy(couplings, linear, other) >= value - 1e-9 for other in neighbours(mask))


def test_a_stop_ends_a_descent_by_double_swaps():
    rng = np.random.default_rng(0)
    couplings = np.triu(rng.normal(size=(9, 9)), 1)
    couplings, linear, start = couplings + couplings.T, rng.normal(size=9), np.arange(9) < 4
    mask, value = descended(couplings, linear, start, lambda _: Stop.finished("now"))
    assert mask.tolist() == start.tolist()
    assert value == pytest.approx(energy(couplings, linear, start))


def test_double_swaps_go_on_where_single_ones_end():
    gains = 0
    for seed in range(4):
        block = sum_block(seed, 24)
        single = swap_descent(block, block.incumbent, Incumbent(block)).mask
        qubo = block.to_qubo()
        mask, _ = descended(qubo.couplings, np.array(qubo.linear), single)
        gains += block.evaluate(mask) < 0.5 * block.evaluate(single)
    assert gains >= 3


def test_anneal_solves_sums_to_far_below_its_single_swaps():
    block = sum_block(0, 40)
    found = solve(block, "anneal", options={"sweeps": 50, "polish": False}, budget=Budget(evaluations=4e5), seed=0)
    assert found.objective < 1e-8 * block.random_mean()
