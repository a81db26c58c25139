"""Degenerate blocks get an answer or a refusal from every solver: no internal error, no warning, no NaN."""

import warnings
from contextlib import suppress

import numpy as np
import pytest

from prunebench import SOLVERS, BlockProblem, Budget, make_solver, solve
from prunebench.core.errors import InvalidInput
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import missing_packages
from prunebench.core.solver import solvers_of
from prunebench.testing.instances import BruteForce

OPTIONS = {"qaoa": {"reps": 1, "steps": 2, "shots": 64}, "qaoa-subspace": {"reps": 1, "steps": 2, "shots": 64}}
EVALUATIONS = 200
SIZE = 6


def _forms():
    rng = np.random.default_rng(0)
    w, factor = rng.normal(size=SIZE), rng.normal(size=(3, SIZE))
    hessian = factor.T @ factor
    yield "no curvature", {"hessian": np.zeros((SIZE, SIZE)), "ridge": 0.1}, w
    yield "no curvature, no ridge", {"hessian": np.zeros((SIZE, SIZE))}, w
    yield "no curvature, a slope", {"hessian": np.zeros((SIZE, SIZE)), "ridge": 0.1, "linear": w}, w
    yield "zero factor", {"factor": np.zeros((3, SIZE)), "ridge": 0.1}, w
    yield "zero weights", {"factor": factor, "ridge": 0.1}, np.zeros(SIZE)
    yield "equal weights, constant factor", {"factor": np.ones((3, SIZE)), "ridge": 0.1}, np.ones(SIZE)
    yield "zero ridge", {"factor": factor}, w
    yield "zero ridge, definite", {"hessian": hessian + np.eye(SIZE)}, w
    yield "one row", {"factor": factor[:1], "ridge": 0.01}, w
    yield "rank one", {"hessian": np.outer(w, w), "ridge": 0.01}, w
    yield "one column repeated", {"factor": np.repeat(factor[:, :1], SIZE, axis=1), "ridge": 0.01}, w
    yield "float32", {"factor": factor.astype(np.float32), "ridge": 0.01}, w
    for scale in (1e-300, 1e-150, 1e-100, 1e60, 1e150):
        yield f"loss {scale:g}", {"hessian": hessian * scale, "ridge": 0.01 * scale, "linear": w * scale}, w
        yield f"weights {scale:g}", {"hessian": hessian, "ridge": 0.01}, w * scale
        yield f"ridge {scale:g}", {"factor": factor, "ridge": scale}, w
    yield "one weight", {"factor": np.ones((1, 1)), "ridge": 0.1}, np.ones(1)
    yield "one weight, no curvature", {"hessian": np.zeros((1, 1)), "ridge": 0.1}, np.ones(1)


FORMS = {name: (terms, weights) for name, terms, weights in _forms()}


SLOW = {"highs", "branch-and-bound", "pyomo", "qaoa"}
"""Solvers that prove, or write a model or circuit for each block: half of the weights kept is all they get here."""


def _blocks(name, mode):
    for title, (terms, weights) in FORMS.items():
        half = weights.size // 2
        for keep in [half] if name in SLOW else sorted({0, 1, half, weights.size - 1, weights.size}):
            # refused as a block: numbers out of range, or a refit without a minimum
            with suppress(InvalidInput):
                form = QuadraticForm(centre=weights, **terms)
                yield BlockProblem(form, weights, keep, mode, problem=f"{title}, keep {keep}")


def _solvers():
    names = [name for name in solvers_of(QuadraticForm) if not missing_packages(SOLVERS.get(name).requires)]
    return [name for name in names if name not in ("dwave", "dwave-mock", "dimod")]


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("name", _solvers())
def test_every_solver_answers_or_refuses(name, mode):
    solver = make_solver(name, OPTIONS.get(name))
    if mode not in solver.modes:
        pytest.skip(f"{name} does not handle mode {mode} itself")
    answers, refusals = 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for block in _blocks(name, mode):
            try:
                found = solve(block, solver, budget=Budget(evaluations=EVALUATIONS))
            except InvalidInput as error:
                refusals.append(str(error))
                continue
            answers += 1
            assert np.isfinite(found.objective), block.name
            assert np.isfinite(found.weights).all(), block.name
            assert not np.isnan(found.lower_bound), block.name
            assert int(found.mask.sum()) == block.keep
    assert answers > (10 if name in SLOW else 40), f"{answers} answers; refused: {refusals}"


def test_mfac_without_curvature_keeps_the_heaviest_weights():
    weights = np.array([0.5, -3.0, 1.0, 2.0, -0.1])
    form = QuadraticForm(hessian=np.zeros((5, 5)), ridge=0.1, centre=weights)
    block = BlockProblem(form, weights, 2, "select")
    found = solve(block, "mfac")
    assert found.mask.tolist() == [False, True, False, True, False]
    assert found.objective == pytest.approx(BruteForce.of(block).objective)
