"""Initial angles of QAOA: a linear ramp, angles transferred from smaller blocks, or interpolation from lower depth.

Angles are float64 (2·reps,): the phase angles γ, then the mixer angles β, then, if every weight has its own, the
reps·p angles φ. They are for an objective shifted and scaled to mean 0 and deviation 1 over the feasible masks,
which lets fixed angles be used for other blocks. Minimisation with exp(−iγe) and exp(−iβ·mixer) needs γ > 0
and β < 0.
"""

from collections.abc import Callable

import numpy as np

from prunebench.core.arrays import FloatArray

STARTS = ("ramp", "transfer", "interpolate")
"""Values of option `start`."""

_Layers = tuple[tuple[float, ...], tuple[float, ...]]

_TRANSFERRED: dict[str, tuple[_Layers, ...]] = {
    "complete": (
        ((0.926,), (-0.825,)),
        ((0.592, 1.02), (-0.836, -0.483)),
        ((0.628, 1.09, 1.8), (-0.863, -0.591, -0.309)),
        ((0.367, 0.666, 1.21, 1.63), (-0.703, -0.709, -0.487, -0.296)),
        ((0.265, 0.55, 1.01, 1.28, 1.39), (-0.701, -0.768, -0.554, -0.369, -0.249)),
        ((0.253, 0.515, 0.941, 1.15, 1.33, 1.48), (-0.727, -0.832, -0.606, -0.414, -0.348, -0.195)),
        ((0.202, 0.485, 0.871, 1.03, 1.23, 1.34, 1.56), (-0.717, -0.864, -0.648, -0.468, -0.376, -0.29, -0.182)),
        (
            (0.158, 0.396, 0.776, 0.954, 1.12, 1.26, 1.38, 1.51),
            (-0.739, -0.927, -0.738, -0.575, -0.447, -0.351, -0.267, -0.16),
        ),
    ),
    "ring": (
        ((0.858,), (-0.521,)),
        ((0.531, 1.07), (-0.655, -0.394)),
        ((0.318, 0.696, 1.15), (-0.718, -0.749, -0.412)),
        ((0.279, 0.619, 0.997, 1.36), (-0.754, -0.885, -0.638, -0.278)),
        ((0.259, 0.55, 0.87, 1.21, 1.53), (-0.729, -0.866, -0.68, -0.438, -0.212)),
        ((0.208, 0.458, 0.692, 0.914, 1.22, 1.54), (-0.771, -0.966, -0.774, -0.576, -0.403, -0.2)),
        ((0.207, 0.163, 0.506, 0.702, 0.961, 1.31, 1.54), (-0.464, -0.646, -0.809, -0.673, -0.538, -0.364, -0.187)),
        (
            (0.168, 0.15, 0.42, 0.607, 0.775, 1.05, 1.34, 1.46),
            (-0.461, -0.633, -0.83, -0.72, -0.604, -0.471, -0.31, -0.156),
        ),
    ),
    "grover": (
        ((0.712,), (-1.56,)),
        ((0.567, 1.06), (-2.1, -1.13)),
        ((0.503, 0.986, 1.16), (-2.34, -1.69, -0.874)),
        ((0.465, 0.935, 1.1, 1.21), (-2.43, -1.93, -1.39, -0.735)),
        ((0.428, 0.892, 1.07, 1.16, 1.24), (-2.56, -2.1, -1.68, -1.23, -0.652)),
        ((0.416, 0.859, 1.03, 1.12, 1.19, 1.23), (-2.61, -2.25, -1.88, -1.54, -1.15, -0.611)),
        ((0.387, 0.82, 0.977, 1.06, 1.12, 1.17, 1.23), (-2.63, -2.29, -2.01, -1.71, -1.42, -1.05, -0.53)),
        (
            (0.386, 0.806, 0.958, 1.03, 1.08, 1.12, 1.19, 1.26),
            (-2.68, -2.37, -2.12, -1.91, -1.64, -1.34, -0.967, -0.505),
        ),
    ),
}
"""(γ, β in units of `unit`) for 1, 2, … layers, with the least mean objective over 24 blocks of 10 and 12 weights."""


def unit(p: int, mixer: str) -> float:
    """The natural size of β: 2/p for the complete mixer, where a weight has p − 1 exchanges per layer; else 1."""
    return 2.0 / p if mixer == "complete" and p > 2 else 1.0


def units(p: int, mixer: str, reps: int) -> FloatArray:
    """The unit of every angle for the optimizers. float64 (2·reps,).

    The expectation is stiffer in β than in γ; a quarter of β's natural size balances them, worth
    0.3 % of approximation ratio after 20 steps at p = 16 and 5 layers.
    """
    return np.repeat([1.0, 0.25 * unit(p, mixer)], reps)


WEIGHT_UNIT = 0.4
"""The optimizers' unit of a weight's own angle. A larger one gets further in 20 steps on most blocks, but on some
converges beside the optimum: over 18 blocks of 16 weights and 5 layers the least probability of the optimum was
0.4 % with 0.4 and 0.07 % with 1."""


def with_weights(angles: FloatArray, p: int) -> FloatArray:
    """The angles, then a 0 for each weight and layer. float64 (2·reps,) -> float64 (2·reps + reps·p,)."""
    return np.concatenate([angles, np.zeros(angles.size // 2 * p)])


def weighted_units(p: int, mixer: str, reps: int) -> FloatArray:
    """`units`, followed by those of the weights' own angles. float64 (2·reps + reps·p,)."""
    return np.concatenate([units(p, mixer, reps), np.full(reps * p, WEIGHT_UNIT)])


def ramp(p: int, mixer: str, reps: int) -> FloatArray:
    """γ rises linearly to 2 and β falls linearly to 0: an annealing schedule in `reps` steps. float64 (2·reps,)."""
    middle = (np.arange(reps) + 0.5) / reps
    largest = {"complete": 0.7, "ring": 0.7, "grover": 2.8}.get(mixer, 0.7)
    return np.concatenate([2.0 * middle, -largest * unit(p, mixer) * (1.0 - middle)])


def transferred(p: int, mixer: str, reps: int) -> FloatArray:
    """Fixed angles, fitted once on other blocks, that need no optimization. float64 (2·reps,).

    Circuits deeper than the table get its last row, interpolated. Angle transfer: Brandao et al.,
    arXiv 1812.04170; Galda et al., arXiv 2106.07531.

    Raises
    ------
    KeyError   a mixer without fitted angles ("x")
    """
    table = _TRANSFERRED[mixer]
    gammas, betas = (np.array(part) for part in table[min(reps, len(table)) - 1])
    angles = np.concatenate([gammas, betas * unit(p, mixer)])
    for _ in range(len(table), reps):
        angles = deeper(angles)
    return angles


def deeper(angles: FloatArray) -> FloatArray:
    """Angles of one more layer by linear interpolation. float64 (2·r,) -> float64 (2·r + 2,).

    INTERP of Zhou et al.: Quantum approximate optimization algorithm: performance, mechanism and
    implementation on near-term devices, Phys. Rev. X 10 (2020), appendix B.1.
    """
    gammas, betas = np.split(angles, 2)
    share = np.arange(gammas.size + 1) / gammas.size
    stretched = [share * np.append(0.0, part) + (1.0 - share) * np.append(part, 0.0) for part in (gammas, betas)]
    return np.concatenate(stretched)


def first_angles(p: int, mixer: str, reps: int, start: str, improve: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """The initial angles of a loop. float64 (2·reps,).

    start : ramp | transfer | interpolate;  improve : from angles of any depth to better ones of the same
    depth, called once for each depth below `reps` when interpolating.
    """
    if start == "transfer":
        return transferred(p, mixer, reps)
    if start == "ramp":
        return ramp(p, mixer, reps)
    angles = ramp(p, mixer, 1)
    for _ in range(1, reps):
        angles = deeper(improve(angles))
    return angles
