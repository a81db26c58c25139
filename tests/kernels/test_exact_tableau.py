"""The select tree's tableau: sweeps, rows taken through them, and frames of the free variables."""

import numpy as np
import pytest

from prunebench.kernels.trees.frames import put_in, restrict
from prunebench.kernels.trees.select_node import FREE, Records
from prunebench.kernels.trees.select_tree import explore
from prunebench.kernels.trees.tableau import build, diagonal_of, follow, push, row_of, sweep_all, sweep_now

N = 9


def stacks(n, capacity=64):
    return np.empty((capacity, n + 1)), np.empty(capacity, np.int64), np.empty((capacity, 2))


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
    tableau, basic = np.empty((N + 1, N + 1)), inside.copy()
    assert build(matrix, tableau, stacks(N, 1), basic) == 4
    np.testing.assert_allclose(tableau, textbook(matrix, inside), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_rows_and_diagonal_after_sweeps_are_those_of_the_swept_tableau(seed):
    matrix, _ = convex(seed)
    tableau, basic, sweeps = np.empty((N + 1, N + 1)), np.arange(N) < 4, stacks(N)
    build(matrix, tableau, stacks(N, 1), basic)
    made = 0
    for i, sign in ((6, 1.0), (1, -1.0), (8, 1.0), (6, -1.0), (1, 1.0)):
        made = push(tableau, sweeps, made, i + 1, sign, 0.0)
    expected = textbook(matrix, np.isin(np.arange(N), (0, 1, 2, 3, 8)))
    row, diagonal = np.empty(N + 1), np.empty(N + 1)
    for k in range(N + 1):
        row_of(tableau, sweeps, made, k, row)
        np.testing.assert_allclose(row, expected[k], rtol=1e-7, atol=1e-8)
    diagonal_of(tableau, sweeps, made, diagonal)
    np.testing.assert_allclose(diagonal, expected.diagonal(), rtol=1e-7, atol=1e-8)
    free = np.array([0, 1, 2, 3, 5, 8])
    part = np.empty((7, 7))
    restrict(tableau, sweeps, made, free, part)
    kept = np.concatenate([[0], free + 1])
    np.testing.assert_allclose(part, expected[np.ix_(kept, kept)], rtol=1e-7, atol=1e-8)
    sweep_all(tableau, sweeps, made)
    np.testing.assert_allclose(tableau, expected, rtol=1e-7, atol=1e-8)
    sweep_now(tableau, stacks(N, 1), 9, -1.0)
    np.testing.assert_allclose(tableau, textbook(matrix, np.arange(N) < 4), rtol=1e-7, atol=1e-8)


def test_a_sweep_without_room_or_on_a_singular_pivot_is_refused():
    matrix, _ = convex(0)
    tableau, basic = np.empty((N + 1, N + 1)), np.arange(N) < 2
    build(matrix, tableau, stacks(N, 1), basic)
    full = stacks(N, 1)
    assert push(tableau, full, 0, 5, 1.0, 0.0) == 1
    assert push(tableau, full, 1, 6, 1.0, 0.0) == 1
    assert push(tableau, stacks(N), 0, 5, 1.0, 1e9) == 0


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
    tableau = np.empty((N + 1, N + 1))
    fixed = np.full(N, FREE, np.int8)
    build(matrix, tableau, stacks(N, 1), basic.copy())
    fixed[j] = 1
    _, _, state = follow(matrix, x, reduced, fixed, tableau, stacks(N), 0, basic, int(basic.sum()), j, 1.0, np.inf)
    expected = relaxed([(1.0, 1.0) if i == j else (0.0, 1.0) for i in range(N)])
    assert state == 1
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
    room = n + 2 + min(limit, 40)
    out = np.empty((room, n)), np.empty((room, n), np.int8), np.empty((room, 2), np.int64), np.empty(room)
    parents, records = np.empty(room, np.int64), Records.of(0, n)
    best = np.inf
    open_nodes = [(np.full(n, count / n), np.full(n, FREE, np.int8), -1, 0.0, -np.inf)]
    while open_nodes:
        chosen = np.zeros(n)
        node = open_nodes.pop()
        ceiling = node[4] + step if np.isfinite(node[4]) else np.inf
        found, nodes, left, closed, made = explore(
            matrix, linear, count, 1e-9, 1e-8, *node, chosen, best, limit, ceiling, *out, parents, records
        )
        assert (closed, made) == (np.inf, 0)
        assert nodes <= limit
        if found < best:
            assert chosen.sum() == count
            assert found == pytest.approx(0.5 * chosen @ matrix @ chosen + linear @ chosen, abs=1e-9)
            best = found
        points, fixed, branch, bound = out
        for a in range(left):
            assert points[a].sum() == pytest.approx(count)
            assert bound[a] >= node[4]
            assert branch[a, 0] >= 0 or bound[a] >= ceiling
            open_nodes.append((points[a].copy(), fixed[a].copy(), int(branch[a, 0]), float(branch[a, 1]), bound[a]))
    from itertools import combinations

    values = []
    for kept in combinations(range(n), count):
        values.append(0.5 * matrix[np.ix_(kept, kept)].sum() + linear[list(kept)].sum())
    assert best == pytest.approx(min(values), abs=1e-7)
