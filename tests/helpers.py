"""What several test files need: random blocks, and the command line as a function.

pytest puts this folder on the path (`pythonpath` in pyproject.toml), so that test files write `from helpers import …`.
"""

import inspect

import numpy as np
from numba import njit

from prunebench import BlockProblem, QuadraticForm
from prunebench.cli import main


def gaussian_block(p, keep, seed=0, mode="select", *, n, ridge, linear=False, constant=0.0, quota=None, problem=""):
    """A block of Gaussian gradients (n, p) and weights, expanded about the dense weights."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=p)
    factor = rng.normal(size=(n, p))
    slope = rng.normal(size=p) if linear else None
    form = QuadraticForm(factor=factor, ridge=ridge, linear=slope, centre=weights, constant=constant)
    return BlockProblem(form, weights, keep, mode, quota=quota, problem=problem)


def hard_block(p=26, seed=3):
    """Weights whose pruning costs nearly the same: relaxations decide little."""
    factor = np.random.default_rng(seed).normal(size=(p, p))
    weights = 1.0 / np.linalg.norm(factor, axis=0)
    return BlockProblem(QuadraticForm(factor=factor, ridge=1e-4, centre=weights), weights, p // 2, "select")


def from_python(kernel):
    """A kernel that only compiled code calls, as a function for Python."""
    arguments = ", ".join(inspect.signature(kernel.py_func).parameters)
    scope = {"kernel": kernel}
    exec(f"def entry({arguments}):\n    return kernel({arguments})", scope)
    return njit(scope["entry"])


def call(capsys, *arguments):
    """Exit code, standard output and standard error of a command line."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *arguments, code=2):
    """The one line on standard error of a command line that is refused."""
    found, out, err = call(capsys, *arguments)
    assert (found, out, err.count("\n")) == (code, "", 1), (found, out, err)
    assert err.startswith("prunebench: error: ")
    assert "--debug" not in err, err
    return err
