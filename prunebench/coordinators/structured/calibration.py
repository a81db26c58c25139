"""Where calibration samples come from if not from the problem itself: noise, or another problem."""

import numpy as np

from prunebench.core.coordinator import Setting
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, Samples, is_program, make_problem, require_data

NOISE = "noise"
"""What stands for inputs drawn from the standard normal distribution."""

NOISE_STREAM = 8
"""The stream of random numbers that noise is drawn from: no other part of a run has it."""


def require_calibration(what: str) -> None:
    """Raise InvalidInput if a text names a program: an option of a run directory must not name code."""
    if what != NOISE and is_program(what):
        raise InvalidInput(f"calibration is {what!r}; name a registered problem, or {NOISE}")


def calibration_samples(setting: Setting, what: str) -> Samples:
    """The calibration samples of a run.

    Parameters
    ----------
    what : "" for the problem's own, "noise", or the name of another problem whose inputs have the same shape

    Raises
    ------
    UnknownName    no such problem
    InvalidInput   it is no network, or its inputs have another shape or kind
    """
    problem = setting.problem
    assert isinstance(problem, NetworkProblem)
    own = problem.calibration()
    if not what:
        return own
    if what == NOISE:
        from prunebench.networks.noise import NoiseSamples

        return NoiseSamples(own, setting.seed, NOISE_STREAM)
    other = make_problem(what)
    if not isinstance(other, NetworkProblem):
        raise InvalidInput(f"calibration: problem {what!r} is no network and has no samples")
    require_data(other)
    samples = other.calibration()
    first = np.zeros(1, dtype=np.int64)
    mine, theirs = own.batch(first)[0], samples.batch(first)[0]
    if (mine.shape, getattr(mine, "dtype", None)) != (theirs.shape, getattr(theirs, "dtype", None)):
        raise InvalidInput(
            f"calibration: inputs of {what!r} are {tuple(theirs.shape[1:])} and those of {setting.name} are "
            f"{tuple(mine.shape[1:])}; name a problem whose inputs have the same shape and type"
        )
    return samples
