"""Curves of measured rises: between, above and below what was measured."""

import numpy as np

from prunebench.recovery.measured_curves import curve, levels


def test_a_curve_goes_through_what_was_measured_and_never_rises_with_the_count():
    counts, rises = [12, 8, 4, 1], [0.01, 0.1, 0.05, 0.8]
    found = curve(16, counts, rises)
    assert found.shape == (17,)
    # a rise below that of a larger count is noise: the larger one stands
    np.testing.assert_allclose(found[counts], [0.01, 0.1, 0.1, 0.8])
    assert found[16] == 0.0
    assert (np.diff(found) <= 1e-15).all()
    np.testing.assert_allclose(found[14], 0.01 / 4)
    np.testing.assert_allclose(found[10], np.sqrt(0.01 * 0.1))
    # below the least, as between the last two: eight times in three groups
    np.testing.assert_allclose(found[0], 0.8 * 2.0)
    assert (curve(1, [], []) == 0.0).all()


def test_levels_are_multiples_within_the_family():
    assert levels(64, 1, 1) == [48, 32, 16, 4]
    assert levels(64, 8, 8) == [48, 32, 16, 8]
    assert levels(2, 1, 1) == [1]
    assert levels(1, 1, 1) == []
