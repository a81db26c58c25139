"""The select tree's tableau: sweeps, rows taken through them, and frames of the free variables."""

import numpy as np
import pytest

from helpers import from_python
from prunebench.kernels.trees import frames, tableau
from prunebench.kernels.trees.select_node import FREE, Point, Program
from prunebench.kernels.trees.select_tree import OpenNode, dive
from prunebench.kernels.trees.tableau import ARRIVED, new_tableau

put_in, restrict = from_python(frames.put_in), from_python(frames.restrict)
build, diagonal_of, follow, push, row_of, sweep_all, sweep_now = (
    from_python(kernel)
    for kernel in (
        tableau.build, tableau.diagonal_of, tableau.follow, tableau.push, tableau.row_of, tableau.sweep_all,
        tableau.sweep_now,
    )
)  # fmt: skip

N = 9


def convex(seed, n=N):
    """A matrix that is positive definite on the plane of equal counts, not elsewhere, and a linear term."""
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((n, n))
    return half @ half.T + 0.1 * np.eye(n) - 0.3 * rng.random() * np.ones((n, n)), rng.standard_normal(n)


def bordered(matrix):
    n = len(matrix)
    whole = np.zeros((n + 1, n + 1))
    whole[0, 1:] = whole[1:, 0] = 1.0
    whole[1:, 1:] = matrix
    return whole


def textbook(matrix, inside):
    """The swept tableau by its definition: −K⁻¹ inside, K⁻¹K across, the Schur complement outside."""
    whole = bordered(matrix)
    swept = np.concatenate([[0], np.flatnonzero(inside) + 1])
    rest = np.setdiff1d(np.arange(len(whole)), swept)
    inverse = np.linalg.inv(whole[np.ix_(swept, swept)])
    across = inverse @ whole[np.ix_(swept, rest)]
    out = np.empty_like(whole)
    out[np.ix_(swept, swept)] = -inverse
    out[np.ix_(swept, rest)] = across
    out[np.ix_(rest, swept)] = across.T
    out[np.ix_(rest, rest)] = whole[np.ix_(rest, rest)] - whole[np.ix_(rest, swept)] @ across
    return out


@pytest.mark.parametrize("seed", range(5))
def test_a_tableau_is_what_its_definition_says(seed):
    matrix, _ = convex(seed)
    inside = np.random.default_rng(seed).permutation(N) < 4
    tableau = new_tableau(N)
    assert build(matrix, tableau, inside.copy()) == 4
    np.testing.assert_allclose(tableau.sheet, textbook(matrix, inside), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_rows_and_diagonal_after_sweeps_are_those_of_the_swept_tableau(seed):
    matrix, _ = convex(seed)
    tableau = new_tableau(N, 64)
    build(matrix, tableau, np.arange(N) < 4)
    made = 0
    for i, sign in ((6, 1.0), (1, -1.0), (8, 1.0), (6, -1.0), (1, 1.0)):
        made = push(tableau, made, i + 1, sign, 0.0)
    expected = textbook(matrix, np.isin(np.arange(N), (0, 1, 2, 3, 8)))
    row, diagonal = np.empty(N + 1), np.empty(N + 1)
    for k in range(N + 1):
        row_of(tableau, made, k, row)
        np.testing.assert_allclose(row, expected[k], rtol=1e-7, atol=1e-8)
    diagonal_of(tableau, made, diagonal)
    np.testing.assert_allclose(diagonal, expected.diagonal(), rtol=1e-7, atol=1e-8)
    free = np.array([0, 1, 2, 3, 5, 8])
    part = np.empty((7, 7))
    restrict(tableau, made, free, part)
    kept = np.concatenate([[0], free + 1])
    np.testing.assert_allclose(part, expected[np.ix_(kept, kept)], rtol=1e-7, atol=1e-8)
    sweep_all(tableau, made)
    np.testing.assert_allclose(tableau.sheet, expected, rtol=1e-7, atol=1e-8)
    sweep_now(tableau, 9, -1.0)
    np.testing.assert_allclose(tableau.sheet, textbook(matrix, np.arange(N) < 4), rtol=1e-7, atol=1e-8)


def test_a_sweep_without_room_or_on_a_singular_pivot_is_refused():
    matrix, _ = convex(0)
    tableau = new_tableau(N)
    build(matrix, tableau, np.arange(N) < 2)
    assert push(tableau, 0, 5, 1.0, 1e9) == 0
    assert push(tableau, 0, 5, 1.0, 0.0) == 1
    assert push(tableau, 1, 6, 1.0, 0.0) == 1


@pytest.mark.parametrize("seed", range(5))
def test_putting_fixed_variables_in_keeps_the_objective(seed):
    matrix, linear = convex(seed)
    rng = np.random.default_rng(seed)
    fixed = np.array([FREE, 1, 0, FREE, FREE, 1, 1, FREE, 0], np.int8)
    free = np.flatnonzero(fixed == FREE)
    part, slope = np.empty((free.size, free.size)), np.empty(free.size)
    constant, kept = put_in(matrix, linear, fixed, free, part, slope)
    assert kept == 3
    for _ in range(8):
        x = (fixed == 1).astype(float)
        x[free] = rng.integers(0, 2, free.size)
        inner = x[free]
        expected = 0.5 * x @ matrix @ x + linear @ x
        assert constant + 0.5 * inner @ part @ inner + slope @ inner == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_a_walk_ends_at_the_optimum_with_the_variable_at_its_target(seed):
    from scipy.optimize import minimize

    matrix, linear = convex(seed)
    count = 4

    def relaxed(bounds):
        out = minimize(
            lambda x: 0.5 * x @ matrix @ x + linear @ x,
            np.full(N, count / N),
            jac=lambda x: matrix @ x + linear,
            bounds=bounds,
            constraints={"type": "eq", "fun": lambda x: x.sum() - count, "jac": lambda x: np.ones(N)},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return out.x

    x = relaxed([(0.0, 1.0)] * N)
    x = np.where(x < 1e-6, 0.0, np.where(x > 1 - 1e-6, 1.0, x))
    basic = (x > 0.0) & (x < 1.0)
    assert basic.sum() >= 2
    j = int(np.flatnonzero(basic)[0])
    gradient = matrix @ x + linear
    reduced = gradient - gradient[basic].mean()
    tableau = new_tableau(N, 64)
    fixed = np.full(N, FREE, np.int8)
    build(matrix, tableau, basic.copy())
    fixed[j] = 1
    program, point = Program(matrix, linear, count, 0.0), Point(x, gradient, reduced, fixed, basic)
    _, _, ended = follow(program, point, tableau, int(basic.sum()), 0, j, 1.0, np.inf)
    expected = relaxed([(1.0, 1.0) if i == j else (0.0, 1.0) for i in range(N)])
    assert ended == ARRIVED
    value = 0.5 * x @ matrix @ x + linear @ x
    assert value == pytest.approx(0.5 * expected @ matrix @ expected + linear @ expected, rel=1e-5, abs=1e-5)
    assert x.sum() == pytest.approx(count)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step", [1e-3, 0.3, np.inf])
@pytest.mark.parametrize("limit", [1, 7, 10**3])
def test_a_search_in_pieces_through_many_frames_finds_the_optimum(seed, limit, step):
    n, count = 14, 7
    matrix, linear = convex(seed, n)
    matrix[np.diag_indices(n)] += 1.0
    linear = linear - 0.5 * count
    program = Program(matrix, linear, count, 1e-9)
    best = np.inf
    open_nodes = [OpenNode(np.full(n, count / n), np.full(n, FREE, np.int8), -1, 0.0, -np.inf, -1)]
    while open_nodes:
        node = open_nodes.pop()
        ceiling = node.bound + step if np.isfinite(node.bound) else np.inf
        found = dive(program, node, best, 1e-8, limit, ceiling, recorded=False)
        assert found.closed == np.inf
        assert found.records.parent.size == 0
        assert found.nodes <= limit
        if found.value < best:
            assert found.x.sum() == count
            assert found.value == pytest.approx(0.5 * found.x @ matrix @ found.x + linear @ found.x, abs=1e-9)
            best = found.value
        for left in found.left:
            assert left.x.sum() == pytest.approx(count)
            assert left.bound >= node.bound
            assert left.branch >= 0 or left.bound >= ceiling
        open_nodes += found.left
    from itertools import combinations

    values = []
    for kept in combinations(range(n), count):
        values.append(0.5 * matrix[np.ix_(kept, kept)].sum() + linear[list(kept)].sum())
    assert best == pytest.approx(min(values), abs=1e-7)
