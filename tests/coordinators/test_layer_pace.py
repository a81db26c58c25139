"""Seconds left of layer-wise pruning: from operations, without what happens once in the first step."""

import pytest

from prunebench.coordinators.layer_wise.pace import DECOMPOSED, PASS, PRODUCTS, ROWS, Pace

ORDER = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4)]
SHAPES = [(8, 6), (4, 6), (6, 8), (20, 6), (6, 20)]
INPUTS = 50
GATHERING, SOLVING = 2e-6, 3e-7
"""Seconds of an operation."""


def work(step):
    """Operations of a step, by hand: of gathering and of solving."""
    rows, columns = SHAPES[step]
    if step == 1:
        return 0.0, ROWS * rows * columns**2
    passed = sum(a * b for (group, _), (a, b) in zip(ORDER, SHAPES, strict=True) if group == ORDER[step][0] - 1)
    gathering = INPUTS * (PASS * passed + PRODUCTS * columns**2)
    return gathering, ROWS * rows * columns**2 + DECOMPOSED * columns**3


def test_what_the_first_step_pays_once_is_not_in_the_estimate():
    pace = Pace(ORDER, SHAPES)
    pace.inputs = INPUTS
    pace.note(0, 1000.0, 1000.0)
    assert pace.left(1) is None
    pace.note(1, 0.0, SOLVING * work(1)[1])
    # no inputs but the first were gathered, so that what gathering takes is not known
    assert pace.left(2) is None
    for step in (2, 3):
        pace.note(step, GATHERING * work(step)[0], SOLVING * work(step)[1])
        ahead = [work(other) for other in range(step + 1, len(ORDER))]
        expected = sum(GATHERING * gathering + SOLVING * solving for gathering, solving in ahead)
        assert pace.left(step + 1) == pytest.approx(expected)
    assert pace.left(len(ORDER)) == 0.0


def test_a_single_layer_is_all_there_is():
    pace = Pace([(0, 0)], [(8, 6)])
    pace.note(0, 1.0, 1.0)
    assert pace.left(1) == 0.0
