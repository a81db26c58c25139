"""Certificates: the data from which a root bound can be derived again, and the derivation.

A certificate names a formulation and gives its dual data; `derive` turns them into a bound with
midpoint-radius arithmetic and verified Cholesky factorisations, without using the solver that made
them. Wrong data give a weaker bound, never a wrong one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray, vector
from prunebench.core.balls import TINY, UNIT, Ball, image, largest_sum, transposed_image
from prunebench.core.block import BlockProblem
from prunebench.core.definite import proved_semidefinite
from prunebench.core.errors import InvalidInput
from prunebench.core.incumbent import Incumbent
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.optimality import is_proved
from prunebench.core.stop import Stop

SHIFT = "select: diagonal shift"
"""Name of the formulation in certificates."""
BUDGET_SHIFT = "select: diagonal shift within budgets"
"""Name of the formulation in certificates."""
SPLIT = "refit: diagonal split"
"""Name of the formulation in certificates."""
LAGRANGIAN = "lagrangian dual"
"""Name of the formulation in certificates."""


def certificate(
    formulation: str, *, root_bound: float, bound: float, tolerance: float, nodes: int, **proof: Any
) -> dict[str, Any]:
    """A JSON-able certificate, in the block's own units.

    formulation : SHIFT (proof: shift, point, price), BUDGET_SHIFT (proof: shift, point, prices), SPLIT
                  (proof: split, point), LAGRANGIAN (proof: dual), or another name, which proves nothing by itself
    root_bound  : the bound of the relaxation that `proof` describes
    bound       : what the search proved;  tolerance : the search's margin and rounding, for information
    nodes       : number of nodes of the search tree
    """
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in proof.items()}
    return {
        "formulation": formulation,
        "root_bound": root_bound,
        "bound": bound,
        "tolerance": tolerance,
        "nodes": nodes,
        **plain,
    }


def settle(best: Incumbent) -> Stop:
    """Bound the only feasible mask, which `best` holds, and write its certificate."""
    best.bound(mask_bound(best.block, best.mask))
    best.details["certificate"] = certificate(
        "one mask", root_bound=best.lower_bound, bound=best.lower_bound, tolerance=0.0, nodes=0
    )
    if is_proved(best.objective, best.lower_bound):
        return Stop.finished("only one mask")
    return Stop.finished("only one mask, but rounding leaves this gap")


def derive(block: BlockProblem, proof: Mapping[str, Any]) -> float:
    """The root bound that a certificate proves, −inf if none. O(p³) with a shift or split.

    Raises
    ------
    InvalidInput   a number or array of the certificate is missing or has the wrong shape
    """
    formulation = proof.get("formulation")
    if formulation == BUDGET_SHIFT and block.mode == "select":
        if block.budget is None:
            raise InvalidInput(f"{block.name} has no budget, of which the certificate's formulation speaks")
        prices = _held(proof, "prices", block.budget.limits.size)
        return budget_shift_bound(block, _held(proof, "shift", block.p), _held(proof, "point", block.p), prices)
    if formulation == SHIFT and block.mode == "select" and block.budget is None:
        return shift_bound(
            block, _held(proof, "shift", block.p), _held(proof, "point", block.p), _number(proof, "price")
        )
    if formulation == SPLIT and block.mode == "refit":
        return split_bound(block, _held(proof, "split", block.p), _held(proof, "point", block.p))
    if formulation == LAGRANGIAN:
        size = block.p if block.form.factor is None else block.form.factor.shape[0]
        return lagrangian_bound(block, _held(proof, "dual", size))
    return -np.inf


def shift_bound(block: BlockProblem, shift: FloatArray, point: FloatArray, price: float) -> float:
    """Bound by the select relaxation with diagonal `shift`, linearised at `point`; `price` multiplies the count.

    With x = 1 − m, w = (1 − x)·w̄ and F(x) = f(w) + ½ Σ (sᵢ − ρᵢw̄ᵢ²)(xᵢ² − xᵢ), which is f on binaries
    and convex on the count's plane: f >= F(x) − ∇F'x + price·Σx + Σ min(0, ∇Fᵢ − price).
    """
    added, largest_row = _missing_convexity(block, shift)
    start, gradient = _tangent(block, shift + added, point)
    reduced = gradient - price
    clipped = Ball.of(np.minimum(reduced.lower(), 0.0)).total()
    bound = start + Ball.of(np.float64(price)) * np.float64(block.p - block.keep) + clipped
    # M is convex on the plane only: off it by t·1, M costs t·1'Md and ½t²·1'M1 for a mask at distance d
    beside = abs(float(Ball.of(point).total().mid) - (block.p - block.keep)) * (1.0 + 4.0 * UNIT)
    beside += 2.0 * UNIT * (block.p + float(np.abs(point).sum()))
    reach = 1.0 + float(np.abs(point).max())
    astray = beside * largest_row * (reach + beside) * (1.0 + 1e-6)
    return float((bound - astray).lower())


def budget_shift_bound(block: BlockProblem, shift: FloatArray, point: FloatArray, prices: FloatArray) -> float:
    """Bound by the select relaxation with diagonal `shift`, linearised at `point`, over all masks within the budgets.

    As `shift_bound`, but F is made convex everywhere, and the linearisation's minimum is that of a fractional knapsack:
    f >= F(x) − ∇F'x + Σ∇F − max over feasible m of ∇F'm. The prices (k,) of the budgets bound that maximum.
    """
    added, _ = _missing_convexity(block, shift, everywhere=True)
    start, gradient = _tangent(block, shift + added, point)
    return float((start + gradient.total() - largest_sum(gradient, block.constraint, prices)).lower())


def _tangent(block: BlockProblem, shift: FloatArray, point: FloatArray) -> tuple[Ball, Ball]:
    """F(x) − ∇F'x and ∇F of `shift_bound` at `point`."""
    form, dense = block.form, block.dense_weights
    left = Ball.of(np.ones(block.p)) - point
    value, slope = form.enclosure(left * dense)
    extra = Ball.of(shift) - Ball.of(form.ridge) * dense * dense
    gradient = extra * (Ball.of(point) - 0.5) - slope * dense
    start = value + (extra * (Ball.of(point) * point - point) * 0.5).total() - (gradient * point).total()
    return start, gradient


def split_bound(block: BlockProblem, split: FloatArray, point: FloatArray) -> float:
    """Bound by the perspective relaxation of mode refit with diagonal split Δ, from its dual at v = `point`.

    f >= f(v) − ∇f'v + ½ ΣΔv² − ½ (sum of the keep largest (Δv − ∇f)²/Δ; with a quota, of every group's),
    valid for any v once H − diag(Δ) is proved positive semidefinite; Δ is shrunk until it is.
    """
    if (split <= 0.0).any():
        return -np.inf
    factor = _convex_share(block, split)
    if factor == 0.0:
        return -np.inf
    split = factor * split
    value, slope = block.form.enclosure(point)
    rest = Ball.of(split) * point - slope
    gains = (rest * rest).over(split) * 0.5
    start = value - (slope * point).total() + (Ball.of(split) * point * point).total() * 0.5
    return float((start - largest_sum(gains, block.constraint)).lower())


def lagrangian_bound(block: BlockProblem, dual: FloatArray) -> float:
    """Bound in either mode without matrices: ½‖Ad‖² >= z'Ad − ½‖z‖², then separately per weight, and by ranking.

    dual : z (n,) if the form holds a factor, else v (p,) with z'A replaced by v'C, C = A'A
    """
    form = block.form
    ridge = Ball.of(form.ridge)
    if form.factor is not None:
        pull = transposed_image(form.factor, dual) + form.linear
        paid = (Ball.of(dual) * dual).total() * 0.5
    else:
        assert form.hessian is not None
        # add half the ridge to the curvature, so that a hessian singular to rounding is provably convex
        if not proved_semidefinite(form.hessian + np.diag(0.5 * form.ridge), _entry_doubt(block)):
            return -np.inf
        ridge = ridge * 0.5
        product = image(form.hessian, dual) + ridge * dual
        pull = product + form.linear
        paid = (product * dual).total() * 0.5
    centre = Ball.of(form.centre)
    pruned = ridge * centre * centre * 0.5 - pull * centre
    if block.mode == "select":
        move = Ball.of(block.dense_weights) - centre
        gains = pruned - pull * move - ridge * move * move * 0.5
    else:
        if (ridge.mid <= 0.0).any():
            return -np.inf
        rest = ridge * centre - pull
        gains = (rest * rest).over(ridge.mid) * (0.5 + 4.0 * UNIT)
    bound = pruned.total() + form.constant - paid - largest_sum(gains, block.constraint)
    return float(bound.lower())


def value_range(block: BlockProblem, weights: FloatArray) -> tuple[float, float]:
    """An interval that contains the exact f(weights)."""
    value, _ = block.form.enclosure(weights)
    return float(value.lower()), float(value.upper())


def _missing_convexity(block: BlockProblem, shift: FloatArray, everywhere: bool = False) -> tuple[float, float]:
    """How much to add to every entry of `shift` until the relaxation is proved convex on the count's plane.

    everywhere : off the plane too, as budgets need it. Also returns the largest row sum of absolute entries after the
    addition.
    """
    dense = block.dense_weights
    gram = block.form.gram(np.arange(block.p))
    norms = np.sqrt(block.form.entry_sizes**2 + block.form.ridge)
    gram[np.diag_indices(block.p)] -= block.form.ridge
    matrix = gram * dense[:, None] * dense
    matrix[np.diag_indices(block.p)] += shift
    largest = float(np.linalg.norm(matrix))
    doubt = _entry_doubt(block) * float((dense * norms) @ (dense * norms)) + 8.0 * UNIT * float(np.abs(shift).max())
    rotated = matrix
    if not everywhere:
        normal = np.full(block.p, 1.0 / np.sqrt(block.p))
        normal[0] += 1.0
        normal /= np.linalg.norm(normal)
        # error of reflecting a symmetric matrix from both sides: Higham (2002), Lemma 19.3
        doubt += 40.0 * UNIT * (block.p + 4) * largest
        half = matrix @ normal
        update = 2.0 * (half - float(normal @ half) * normal)
        rotated = (matrix - np.outer(normal, update) - np.outer(update, normal))[1:, 1:]
    added, step = 0.0, max(2.0 * doubt, TINY)
    for _ in range(60):
        if proved_semidefinite(rotated + added * np.eye(rotated.shape[0]), doubt):
            return added, float(np.abs(matrix).sum(axis=1).max()) + added + doubt
        added, step = added + step, 4.0 * step
    raise InvalidInput(f"{block.name}: the certificate's shift does not make the block convex")


def _convex_share(block: BlockProblem, split: FloatArray) -> float:
    """The largest share of `split` tried that leaves H − diag(split) proved positive semidefinite; 0: none."""
    gram = block.form.gram(np.arange(block.p))
    unit = 1.0 / np.sqrt(gram.diagonal())
    matrix = gram * unit[:, None] * unit
    share = split * unit * unit
    doubt = block.p * (_entry_doubt(block) + 8.0 * UNIT)
    for factor in (1.0, 1.0 - 1e-12, 1.0 - 1e-10, 1.0 - 1e-8, 1.0 - 1e-6, 1.0 - 1e-4, 0.99, 0.9, 0.5, 0.1, 1e-2, 1e-3):
        if proved_semidefinite(matrix - np.diag(factor * share), doubt):
            return factor
    return 0.0


def _entry_doubt(block: BlockProblem) -> float:
    """Relative error of a computed curvature entry, as a share of √(H_ii H_jj)."""
    return (block.form.entry_error + 12.0 * UNIT) * 1.01


def _held(proof: Mapping[str, Any], key: str, size: int) -> FloatArray:
    if key not in proof:
        raise InvalidInput(f"the certificate has no {key!r}; its formulation {proof.get('formulation')!r} needs it")
    try:
        held = np.asarray(proof[key], dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"the certificate's {key} is no list of numbers: {error}") from error
    return vector(f"the certificate's {key}", held, size)


def _number(proof: Mapping[str, Any], key: str) -> float:
    """A finite number of the certificate, 0 if absent.

    Raises
    ------
    InvalidInput   it is not a finite number
    """
    value = proof.get(key, 0.0)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < np.inf:
        raise InvalidInput(f"the certificate's {key} is {value!r}; expected a finite number")
    return float(value)
