"""A proven lower bound for any block, which shows how far from optimal a heuristic's answer can be.

Blocks of up to a thousand or two get the root relaxation of branch and bound, as strong as a semidefinite program;
large ones the Lagrangian dual of the factor (mathematics, §3), which needs two products with it per step. The returned
bound is derived from the dual data by interval arithmetic, so stopping early or rounding can only make it
weaker. Masks that satisfy a quota also satisfy its total count, so every bound for the count holds; dual and
split also rank within the groups. With a budget, the best ranking is replaced by the fractional knapsack.
"""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Counted
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.rows import RowsForm
from prunebench.core.stop import Stop, StopCheck, StopKind
from prunebench.kernels.relaxations.certificate import BUDGET_SHIFT, LAGRANGIAN, SHIFT, SPLIT, certificate, derive
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram
from prunebench.kernels.relaxations.shift import plane_shift
from prunebench.kernels.relaxations.split import best_split

UNCONSTRAINED = "unconstrained minimum"
"""Name of the formulation in certificates: the minimum without a count constraint."""
DENSE_SIZE: dict[str, int] = {"select": 1024, "refit": 2048}
"""Up to this p the mode's dense relaxation is solved: up to eighty iterations of O(p³) operations, a dearer one in mode
select, and some ten matrices of p² numbers, a third of a gigabyte at 2048."""
QUICK_SIZE = 600
"""Above this p the dense relaxation takes seconds and may not finish, so the Lagrangian dual is tried first."""


@dataclass(frozen=True)
class Bound:
    """A proven lower bound.

    value : float       at most the block's optimum, rounding included; −inf if nothing is proved
    method : str        the relaxation that gave it
    details : dict      seconds, and under "certificate" the data from which `prunebench verify` derives it again
    """

    value: float
    method: str
    details: dict[str, Any] = field(default_factory=dict)


def lower_bound(block: BlockProblem, seconds: float = 60.0) -> Bound:
    """The best bound found in about `seconds`, in the block's units.

    Blocks of up to 1024 weights in mode select, 2048 in mode refit: the diagonal shift (select) or split (refit)
    that maximises the root relaxation. Above 600 weights: the Lagrangian dual too, O(np) a step and nothing of
    size p² or n²; the better of the two. A whole layer (`RowsForm`): the unconstrained minimum only.
    """
    started = perf_counter()
    if isinstance(block.form, RowsForm):
        # the relaxations need one Hessian of size p, which a layer's form does not hold
        return Bound(block.form.lower_bound(), UNCONSTRAINED, {"seconds": perf_counter() - started})

    def stop(spent: float) -> Stop | None:
        return Stop(StopKind.TIME, f"{seconds:g} s") if perf_counter() - started > seconds else None

    if block.settled:
        return Bound(mask_bound(block, block.incumbent), "one mask", {"seconds": perf_counter() - started})
    found: list[tuple[float, dict[str, Any]]] = []
    convex = block.form.strong_convexity is not None
    if convex and block.p > QUICK_SIZE:
        found.append(lagrangian(block, stop))
    if block.p <= DENSE_SIZE[block.mode] and not stop(0.0) and (block.budget is not None or 0 < block.keep < block.p):
        proof = _shift(block, stop) if block.mode == "select" else _split(block, stop)
        if proof:
            found.append((derive(block, proof), proof))
    counted = block.budget is None and block.keeping.one_count
    if convex and block.p <= QUICK_SIZE and (not found or not np.isfinite(found[0][0]) or not counted):
        found.append(lagrangian(block, stop))
    # for an indefinite Hessian, possible in mode select only, the shift gives the only bound
    found.append((block.form.lower_bound(), {"formulation": UNCONSTRAINED}))
    value, proof = max(found, key=lambda pair: pair[0])
    details: dict[str, Any] = {"seconds": perf_counter() - started}
    if np.isfinite(value):
        rest = {key: entry for key, entry in proof.items() if key != "formulation"}
        details["certificate"] = certificate(
            proof["formulation"], root_bound=value, bound=value, tolerance=0.0, nodes=0, **rest
        )
    return Bound(value, proof["formulation"], details)


def lagrangian(block: BlockProblem, stop: StopCheck) -> tuple[float, dict[str, Any]]:
    """The Lagrangian dual's bound, and its dual data; the Hessian is positive definite. `stop` is asked every O(np)."""
    proof: dict[str, Any] = {"formulation": LAGRANGIAN, "dual": _dual(block, stop)}
    return derive(block, proof), proof


def _shift(block: BlockProblem, stop: StopCheck) -> dict[str, Any]:
    """Dual data of the shift relaxation: the shift, and the point on Σx = count where its value is attained.

    With a budget, the point is the relaxation's solution within it.
    """
    if block.budget is not None:
        from prunebench.kernels.relaxations.budget_relaxation import root_of

        program, root = root_of(block, block.budget, stop)
        return {"formulation": BUDGET_SHIFT, **root.proof(program.scale)}
    upper = block.evaluate(block.incumbent)
    program = SelectProgram.of(block, upper)
    shift = plane_shift(program.quadratic, program.linear, program.count, program.inner(upper), 1e-4, stop).diagonal
    p = block.p
    system = np.ones((p + 1, p + 1))
    system[p, p] = 0.0
    system[:p, :p] = program.quadratic
    system[np.arange(p), np.arange(p)] += shift
    right = np.append(0.5 * shift - program.linear, program.count)
    try:
        solved = np.linalg.solve(system, right)
    except np.linalg.LinAlgError:
        solved = np.append(np.full(p, program.count / p), 0.0)
    if not np.isfinite(solved).all():
        return {}
    return {
        "formulation": SHIFT,
        "shift": shift / program.scale,
        "point": solved[:p],
        "price": float(-solved[p] / program.scale),
    }


def _split(block: BlockProblem, stop: StopCheck) -> dict[str, Any]:
    """Dual data of the split relaxation: the split and its optimum."""
    upper = block.evaluate(block.incumbent)
    program = RefitProgram.of(block, upper)
    split = best_split(program, program.inner(upper), stop=stop)
    if split is None:
        return {}
    return {
        "formulation": SPLIT,
        "split": split.delta / program.scale,
        "point": split.point.y * np.sqrt(program.scale / split.delta) / np.sqrt(program.scale),
    }


class _Stopped(Exception):
    """Raised inside the optimiser when time is up."""


def _dual(block: BlockProblem, stop: StopCheck) -> FloatArray:
    """A good dual point: L-BFGS on the dual, with the ranking smoothed less and less (Nesterov 2005, (2.5))."""
    from scipy.optimize import minimize

    factor = block.form.square_root()
    dual = _Dual(block, factor)
    best = factor.astype(np.float64, copy=False) @ (block.weights_of(block.incumbent) - block.form.centre)
    best_value = dual.value(best, 0.0)[0]
    if dual.value(np.zeros_like(best), 0.0)[0] > best_value:
        best = np.zeros_like(best)
        best_value = dual.value(best, 0.0)[0]
    if block.budget is not None:
        # the smoothed ranking below is by counts
        return best if block.form.hessian is None else dual.weights(best) - block.form.centre
    if not np.isfinite(best_value):
        raise InvalidInput(f"{block.name}: the Lagrangian bound needs a positive ridge in mode refit")
    scale = max(abs(block.evaluate(block.incumbent) - best_value), 1e-300)
    root = np.sqrt(scale)

    def watched(point: FloatArray, smoothing: float) -> tuple[float, FloatArray]:
        nonlocal best, best_value
        if stop(0.0):
            raise _Stopped
        value, slope, sharp = dual.value(point * root, smoothing)
        if sharp > best_value:
            best, best_value = point * root, sharp
        return -value / scale, -slope * (root / scale)

    try:
        for part in (1.0, 0.1, 0.1, 0.01, 0.01, 1e-3):
            spread = float(np.abs(dual.gains(best)).mean())
            minimize(
                watched,
                best / root,
                args=(part * spread,),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 400, "maxcor": 20, "ftol": 1e-10, "gtol": 1e-9},
            )
    except _Stopped:
        pass
    if block.form.hessian is None:
        return best
    return dual.weights(best) - block.form.centre


class _Dual:
    """The Lagrangian dual D(z) of `certificate.lagrangian_bound` in floating point, with its gradient."""

    def __init__(self, block: BlockProblem, factor: Any) -> None:
        self.block, self.factor, self.form = block, factor, block.form

    def value(self, dual: FloatArray, smoothing: float) -> tuple[float, FloatArray, float]:
        """The smoothed value, its gradient, and the value with exact ranking."""
        form = self.form
        pull = self._pull(dual)
        gains = self._gains(pull)
        share = self._share(gains, smoothing)
        budget = self.block.budget
        best = float(gains[self.block.top_mask(gains)].sum()) if budget is None else budget.most_gain(gains)
        base = form.constant - 0.5 * float(dual @ dual) + float((0.5 * form.ridge * form.centre - pull) @ form.centre)
        smooth = base - float(share @ gains) + 0.5 * smoothing * float(share @ share)
        move = self._weights(pull, share) - form.centre
        slope = np.asarray(self.factor @ move.astype(self.factor.dtype), dtype=np.float64) - dual
        return smooth, slope, base - best

    def gains(self, dual: FloatArray) -> FloatArray:
        """The saving from keeping each weight, at z."""
        return self._gains(self._pull(dual))

    def weights(self, dual: FloatArray) -> FloatArray:
        """The weights that minimise the Lagrangian at z; the best `keep` of them are kept."""
        pull = self._pull(dual)
        return self._weights(pull, self._share(self._gains(pull), 0.0))

    def _share(self, gains: FloatArray, smoothing: float) -> FloatArray:
        if self.block.budget is not None:
            return self.block.top_mask(gains).astype(np.float64)
        return _capped_share(gains, self.block.keeping, smoothing)

    def _pull(self, dual: FloatArray) -> FloatArray:
        return np.asarray(dual.astype(self.factor.dtype) @ self.factor, dtype=np.float64) + self.form.linear

    def _gains(self, pull: FloatArray) -> FloatArray:
        form = self.form
        if self.block.mode == "select":
            dense = self.block.dense_weights
            return np.asarray(dense * (form.ridge * form.centre - pull) - 0.5 * form.ridge * dense * dense)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(0.5 * (form.ridge * form.centre - pull) ** 2 / form.ridge)

    def _weights(self, pull: FloatArray, share: FloatArray) -> FloatArray:
        if self.block.mode == "select":
            return np.asarray(share * self.block.dense_weights)
        return np.asarray(share * (self.form.centre - pull / self.form.ridge))


def _capped_share(gains: FloatArray, keeping: Counted, smoothing: float) -> FloatArray:
    """argmax of share'gains − ½ smoothing ‖share‖² over 0 <= share <= 1 with every count exact, by bisection on the
    price of each group."""
    if smoothing <= 0.0 or keeping.settled:
        return keeping.top_mask(gains).astype(np.float64)
    low = np.full(keeping.counts.size, float(gains.min()) - smoothing)
    high = np.full(keeping.counts.size, float(gains.max()))
    for _ in range(60):
        price = 0.5 * (low + high)
        above = keeping.totals(np.clip((gains - keeping.spread(price)) / smoothing, 0.0, 1.0)) > keeping.counts
        low, high = np.where(above, price, low), np.where(above, high, price)
    return np.clip((gains - keeping.spread(0.5 * (low + high))) / smoothing, 0.0, 1.0)
