"""What "optimal" asks of a bound: within a millionth of the objective, and no number of it is negotiable."""

import math

import pytest

from prunebench.core.optimality import is_proved


@pytest.mark.parametrize("scale", [1e-200, 1.0, -3.0, 1e200])
def test_a_bound_proves_an_objective_to_a_millionth(scale):
    assert is_proved(scale, scale - 0.9e-6 * abs(scale))
    assert not is_proved(scale, scale - 1.1e-6 * abs(scale))


def test_no_bound_and_no_objective_prove_nothing():
    assert not is_proved(1.0, -math.inf)
    assert not is_proved(math.inf, math.inf)
    assert is_proved(0.0, -5e-324)
    assert not is_proved(0.0, -1e-200)
