"""Density schedules: how the density falls from stage to stage to the requested one."""

from collections.abc import Callable, Mapping, Sequence

from prunebench.core.errors import InvalidInput, unknown_name

Schedule = Callable[[float, float, int, int], float]
"""First density, last density, stage (from 0), stages (at least 2) -> density of the stage."""


def polynomial(first: float, last: float, stage: int, stages: int) -> float:
    """The cubic of Zhu and Gupta: To prune, or not to prune, 2017: falls fast at first, slowly at the end."""
    return last + (first - last) * (1.0 - stage / (stages - 1)) ** 3


def exponential(first: float, last: float, stage: int, stages: int) -> float:
    """The distance to the last density halves at every stage (the "exp" of CHITA's program)."""
    whole = 2.0 ** (stages - 1)
    return first + (last - first) * (whole / (whole - 1.0)) * (1.0 - 2.0 ** (-stage))


def geometric(first: float, last: float, stage: int, stages: int) -> float:
    """Every stage prunes the same share of the remaining weights (M-FAC)."""
    return float(first * (last / first) ** (stage / (stages - 1)))


def linear(first: float, last: float, stage: int, stages: int) -> float:
    """Every stage prunes the same number of weights."""
    return first + (last - first) * stage / (stages - 1)


def constant(first: float, last: float, stage: int, stages: int) -> float:
    """The last density from the first stage on: later stages prune again from new gradients."""
    return last


SCHEDULES: Mapping[str, Schedule] = {
    "polynomial": polynomial,
    "exponential": exponential,
    "geometric": geometric,
    "linear": linear,
    "constant": constant,
}
"""The schedules by name."""


def checked_list(values: Sequence[float], last: float) -> list[float]:
    """A given list of densities, which must not rise and must end at `last`.

    Raises
    ------
    InvalidInput   one of them rises, is not above 0 and at most 1, or the last one differs from `last`
    """
    for value, before in zip(values, (1.0, *values), strict=False):
        if not 0.0 < value <= before:
            raise InvalidInput(f"densities are {tuple(values)}; each must be above 0 and at most the one before it")
    if values[-1] != last:
        raise InvalidInput(f"densities end with {values[-1]} but the density asked for is {last}; make them agree")
    return list(values)


def densities(name: str, first: float, last: float, stages: int) -> list[float]:
    """The densities of all stages; the last one, or the only one, is exactly `last`.

    Raises
    ------
    UnknownName    no schedule of that name
    InvalidInput   the first density is below the last
    """
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    if first < last:
        raise InvalidInput(f"the first density is {first}, below the last, {last}; choose {last} to 1")
    if stages == 1:
        return [last]
    return [*(SCHEDULES[name](first, last, stage, stages) for stage in range(stages - 1)), last]
