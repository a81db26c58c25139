"""Points of the select tree: binary points by descent and rounding, feasible points by repair."""

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.kernels.compiled import compiled, fill, sort_positions
from prunebench.kernels.trees.select_node import FREE, Pattern, gradient_at


@compiled(fast=True, inner=True)
def value_at(linear: FloatArray, x: FloatArray, grad: FloatArray) -> float:
    """½x'Mx + g'x from the gradient at x."""
    total = 0.0
    for i in range(linear.size):
        total += 0.5 * x[i] * (linear[i] + grad[i])
    return total


@compiled()
def descend(matrix: FloatArray, linear: FloatArray, chosen: FloatArray, grad: FloatArray, passes: int) -> float:
    """Descent by the best 1-swap on a binary point, in place. Returns its value."""
    p = linear.size
    gradient_at(matrix, linear, chosen, grad)
    for _ in range(passes):
        best = -1e-9 * (1e-300 + abs(value_at(linear, chosen, grad)))
        into = -1
        out = -1
        low = np.inf
        for k in range(p):
            if chosen[k] == 0.0:
                low = min(low, grad[k] + 0.5 * matrix[k, k])
        for i in range(p):
            if chosen[i] == 1.0:
                row = matrix[i]
                base = 0.5 * row[i] - grad[i]
                for k in range(p):
                    if chosen[k] == 0.0:
                        change = base + grad[k] + 0.5 * matrix[k, k] - row[k]
                        if change < best:
                            best = change
                            into = k
                            out = i
        if into < 0:
            break
        chosen[into] = 1.0
        chosen[out] = 0.0
        for k in range(p):
            grad[k] += matrix[into, k] - matrix[out, k]
    gradient_at(matrix, linear, chosen, grad)
    return value_at(linear, chosen, grad)


@compiled(allocates=True)
def rounded(x: FloatArray, fixed: Pattern, count: int, chosen: FloatArray) -> None:
    """The binary point with 1 at the `count` largest entries of x; variables fixed to 1 come first."""
    p = x.size
    key = np.empty(p)
    for i in range(p):
        key[i] = -x[i] if fixed[i] == FREE else (-2.0 if fixed[i] == 1 else 2.0)
    order = np.empty(p, np.int64)
    sort_positions(key, order)
    fill(chosen, 0.0)
    for a in range(count):
        chosen[order[a]] = 1.0


@compiled(allocates=True)
def repair(x: FloatArray, fixed: Pattern, grad: FloatArray, count: int) -> None:
    """Make Σx = count by raising or lowering free variables, the cheapest first."""
    missing = float(count)
    for i in range(x.size):
        missing -= x[i]
    order = np.empty(x.size, np.int64)
    sort_positions(grad, order)
    for a in range(x.size):
        i = order[a] if missing > 0.0 else order[x.size - 1 - a]
        if fixed[i] != FREE or missing == 0.0:
            continue
        move = min(missing, 1.0 - x[i]) if missing > 0.0 else max(missing, -x[i])
        x[i] += move
        missing -= move


@compiled()
def reachable(fixed: Pattern, count: int) -> bool:
    """Whether the free variables can bring the sum to `count`."""
    kept = 0
    free = 0
    for i in range(fixed.size):
        kept += fixed[i] == 1
        free += fixed[i] == FREE
    return kept <= count <= kept + free
