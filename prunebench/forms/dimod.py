"""The block problem in dimod's words, and the way back: BQM by three encodings, CQM, files, repair.

Three ways to say Σ m = keep to a sampler that knows no constraints: `safe`, the quadratic penalty
that provably makes every optimum feasible; `adaptive`, the smallest penalty that a short anneal
still obeys; `lagrange`, a linear term μ Σ m and no penalty at all. The safe one buries the
objective: its best sample is often worse than a greedy mask. A quota is one constraint a group: a
penalty takes it, a single linear term does not. Budgets are inequalities, which take neither without slack variables:
one linear term prices them all, each as a share of its limit, and samples beyond a budget are repaired.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput
from prunebench.core.import_path import imported, is_import_path
from prunebench.core.keeping import Counted, Keeping
from prunebench.core.stop import StopCheck, never
from prunebench.forms.program import Units, budget_rows, require_select

Draw = Callable[["Encoded"], BoolArray]
"""Samples of an encoded block as masks, bool (s, p)."""

ENCODINGS = ("adaptive", "lagrange", "safe")
"""How the count becomes a penalty: a weight searched by sampling, one linear term, or a weight that is proved large
enough."""

PENALTY_ROUNDS = 8
"""Most samplings in the search for a penalty weight, which narrows an interval."""
MULTIPLIER_ROUNDS = 20
"""Most samplings in the search for a linear multiplier, which narrows an interval."""
FEASIBLE_RANGE = (0.5, 0.98)
"""The feasible share that the adaptive penalty is searched for: below, samples are lost; above, quality is."""
COUNT_TOLERANCE = 0.005
"""The median sample may miss `keep` by this part of p: the repair closes it."""
LAGRANGE_QUOTA = (
    "encoding 'lagrange' has one linear term and cannot hold the counts of several groups; choose adaptive or safe"
)
"""Why a quota refuses the encoding with one linear term."""
BUDGET_SAFE = "encoding 'safe' is a penalty, and a budget is an inequality; choose lagrange or adaptive, which price it"
"""Why a budget refuses the safe penalty."""
MAX_DENSE = 8192
"""Largest p that is written out as p²/2 couplings."""


@dataclass(frozen=True)
class Encoded:
    """A quadratic function of the mask without constraints: offset + linear'm + Σ_{i<j} Jᵢⱼ mᵢ mⱼ.

    linear : float64 (p,);  couplings : float64 (p, p), symmetric, zero diagonal;  offset : float
    keeping : how many ones the block wants, in all or in each group, or what they may cost
    penalty : weight of (Σ m − keep)², with groups of the sum of their own;  multiplier : of (Σ m − keep), or of what
    a mask spends, as shares of the limits
    """

    linear: FloatArray
    couplings: FloatArray
    offset: float
    keeping: Keeping
    penalty: float = 0.0
    multiplier: float = 0.0

    @property
    def keep(self) -> int:
        """How many ones the block wants in all."""
        return self.counted.keep

    @property
    def counted(self) -> Counted:
        """The count or the quota.

        Raises
        ------
        InvalidInput   there is a budget in its place
        """
        if isinstance(self.keeping, Cost):
            raise InvalidInput(BUDGET_SAFE)
        return self.keeping

    def with_penalty(self, weight: float) -> "Encoded":
        """The same objective with `weight`·(Σ m − keep)² added, of every group: feasible masks keep their energy."""
        group, counts = self.counted.group, self.counted.counts
        couplings = self.couplings + 2.0 * weight * (group[:, None] == group)
        np.fill_diagonal(couplings, 0.0)
        linear = self.linear + weight * (1.0 - 2.0 * counts[group])
        offset = self.offset + weight * float(counts @ counts)
        return replace(self, linear=linear, couplings=couplings, offset=offset, penalty=self.penalty + weight)

    def with_multiplier(self, weight: float) -> "Encoded":
        """The same objective with `weight`·(Σ m − keep) added: on feasible masks nothing changes.

        With a budget, `weight` times what the mask spends, as shares of the limits.
        """
        if isinstance(self.keeping, Cost):
            # limits of 0 have no share: what costs anything there is never kept
            unit = np.where(self.keeping.limits > 0.0, self.keeping.limits, 1.0)
            shares = (self.keeping.costs / unit[:, None]).sum(axis=0)
            return replace(self, linear=self.linear + weight * shares, multiplier=self.multiplier + weight)
        offset = self.offset - weight * self.keep
        return replace(self, linear=self.linear + weight, offset=offset, multiplier=self.multiplier + weight)

    def feasible(self, masks: BoolArray) -> BoolArray:
        """Which masks keep the count, or the quota. bool (s, p) -> bool (s,)"""
        return np.array([self.keeping.feasible(mask) for mask in masks], dtype=np.bool_)

    def energies(self, masks: BoolArray) -> FloatArray:
        """bool (s, p) -> float64 (s,)"""
        chosen = np.asarray(masks, dtype=np.float64)
        return np.asarray(
            self.offset + chosen @ self.linear + 0.5 * np.einsum("sp,sp->s", chosen @ self.couplings, chosen)
        )

    def bqm(self) -> Any:
        """A dimod.BinaryQuadraticModel over the variables 0 … p−1, 1 where the weight is kept."""
        import dimod

        model = dimod.BinaryQuadraticModel("BINARY")
        model.add_linear_from_array(self.linear)  # type: ignore[arg-type]  # its annotation leaves arrays out
        model.add_quadratic_from_dense(np.triu(self.couplings, 1))
        model.offset = self.offset
        return model


def encode(block: BlockProblem, unit: float = 1.0) -> Encoded:
    """The block's select objective, unconstrained, divided by `unit`.

    Raises
    ------
    InvalidInput   more weights than can be written out as pairs
    """
    if block.p > MAX_DENSE:
        raise InvalidInput(
            f"{block.name} has {block.p} weights; a binary quadratic model writes out p²/2 couplings and is limited "
            f"to {MAX_DENSE} here: choose a smaller block, or solver 'anneal', which needs none"
        )
    qubo = block.to_qubo()
    return Encoded(qubo.linear / unit, qubo.couplings / unit, qubo.constant / unit, block.constraint)


def swap_unit(encoded: Encoded, rng: np.random.Generator, masks: int = 16, swaps: int = 64) -> float:
    """The mean |change of energy| of random swaps at random masks, with a budget of flips; 1 where there is none."""
    size = encoded.linear.size
    if isinstance(encoded.keeping, Cost):
        drawn = [encoded.keeping.filled(rng.permutation(size)) for _ in range(masks)]
        flips = float(np.mean([np.abs(encoded.linear + encoded.couplings[:, mask].sum(axis=1)) for mask in drawn]))
        return flips if flips > 0.0 else 1.0
    keep = encoded.keep
    if not 0 < keep < size:
        return 1.0
    changes = []
    for _ in range(masks):
        if not encoded.counted.one_count:
            mask = encoded.keeping.top_mask(rng.random(size))
            leaving, entering = encoded.keeping.exchanges(mask, rng.random(size), rng.random(size))
            if leaving.size:
                fields = encoded.linear + encoded.couplings[:, mask].sum(axis=1)
                changes.append(np.abs(fields[entering] - fields[leaving] - encoded.couplings[leaving, entering]).mean())
            continue
        order = rng.permutation(size)
        fields = encoded.linear + encoded.couplings[:, order[:keep]].sum(axis=1)
        i, j = order[rng.integers(0, keep, swaps)], order[rng.integers(keep, size, swaps)]
        changes.append(np.abs(fields[j] - fields[i] - encoded.couplings[i, j]))
    mean = float(np.mean(changes)) if changes else 0.0
    return mean if mean > 0.0 else 1.0


def safe_penalty(encoded: Encoded) -> float:
    """A weight that makes every minimum feasible: no flip can gain more than max(|hᵢ| + Σⱼ |Jᵢⱼ|).

    A flip that brings the count, or one group's, nearer its goal lowers the penalty by at least that.
    """
    return float(np.max(np.abs(encoded.linear) + np.abs(encoded.couplings).sum(axis=1)))


def flip_penalty(encoded: Encoded, mask: BoolArray) -> float:
    """Twice the best gain of a single flip at a good feasible mask: where the adaptive search starts."""
    fields = encoded.linear + encoded.couplings @ mask.astype(np.float64)
    gain = float(np.max(np.where(mask, fields, -fields)))
    floor = 1e-6 * safe_penalty(encoded)
    return max(2.0 * gain, floor, np.finfo(np.float64).tiny)


def search_penalty(encoded: Encoded, start: float, draw: Draw, stop: StopCheck = never) -> tuple[Encoded, float, int]:
    """The adaptive penalty: doubled or cut until FEASIBLE_RANGE of the samples are feasible.

    encoded : without penalty;  start : first weight, from `flip_penalty`
    draw : short samples;  stop : why to settle now for what has been tried, asked before each draw

    Returns
    -------
    the encoding, its feasible share, and the rounds it took. If no weight lands in the range, the
    smallest one tried that lies above it, else the largest tried; `start` where none was tried.
    """
    low, high, weight = 0.0, np.inf, start
    tried: dict[float, float] = {}
    for _ in range(PENALTY_ROUNDS):
        if stop(0.0):
            break
        masks = draw(encoded.with_penalty(weight))
        share = float(np.mean(encoded.feasible(masks))) if len(masks) else 0.0
        tried[weight] = share
        if FEASIBLE_RANGE[0] <= share <= FEASIBLE_RANGE[1]:
            break
        low, high = (max(low, weight), high) if share < FEASIBLE_RANGE[0] else (low, min(high, weight))
        if high == np.inf:
            weight = low * (4.0 if share > 0.0 else 8.0)
        else:
            weight = np.sqrt(low * high) if low > 0.0 else high / 8.0
    if not tried:
        return encoded.with_penalty(start), float("nan"), 0
    inside = [w for w, s in tried.items() if FEASIBLE_RANGE[0] <= s <= FEASIBLE_RANGE[1]]
    above = [w for w, s in tried.items() if s > FEASIBLE_RANGE[1]]
    chosen = min(inside) if inside else min(above) if above else max(tried)
    return encoded.with_penalty(chosen), tried[chosen], len(tried)


def search_multiplier(
    encoded: Encoded, start: float, draw: Draw, stop: StopCheck = never
) -> tuple[Encoded, float, int]:
    """The linear term: μ bracketed, then bisected, until the median sample keeps `keep` weights.

    encoded : without penalty;  start : first step away from zero
    draw : short samples;  stop : why to settle now for what has been tried, asked before each draw

    Returns
    -------
    the encoding, its feasible share, and the rounds it took; no multiplier where none was tried

    Raises
    ------
    InvalidInput   a quota, which one multiplier cannot hold
    """
    if isinstance(encoded.keeping, Cost):
        return _search_price(encoded, start, draw, stop)
    if not encoded.counted.one_count:
        raise InvalidInput(LAGRANGE_QUOTA)
    low, high, step = -np.inf, np.inf, start
    best: tuple[float, float, float] | None = None
    weight, made = 0.0, 0
    for _ in range(MULTIPLIER_ROUNDS):
        if stop(0.0):
            break
        made += 1
        masks = draw(encoded.with_multiplier(weight))
        counts = masks.sum(axis=1) if len(masks) else np.array([0])
        median = float(np.median(counts))
        share = float(np.mean(counts == encoded.keep))
        off = abs(median - encoded.keep)
        if best is None or (off, -share) < (best[1], -best[2]):
            best = (weight, off, share)
        if off <= max(0.5, COUNT_TOLERANCE * encoded.linear.size):
            break
        low, high = (weight, high) if median > encoded.keep else (low, weight)
        if np.isfinite(low) and np.isfinite(high):
            weight = 0.5 * (low + high)
        else:
            weight, step = weight + (step if high == np.inf else -step), 4.0 * step
    if best is None:
        return encoded, float("nan"), 0
    return encoded.with_multiplier(best[0]), best[2], made


def _search_price(encoded: Encoded, start: float, draw: Draw, stop: StopCheck) -> tuple[Encoded, float, int]:
    """The price of the budgets, raised or bisected until FEASIBLE_RANGE of the samples are within them."""
    low, high, weight = 0.0, np.inf, start
    tried: dict[float, float] = {}
    while len(tried) < MULTIPLIER_ROUNDS and not stop(0.0):
        masks = draw(encoded.with_multiplier(weight))
        share = float(np.mean(encoded.feasible(masks))) if len(masks) else 0.0
        tried[weight] = share
        if FEASIBLE_RANGE[0] <= share <= FEASIBLE_RANGE[1]:
            break
        low, high = (weight, high) if share < FEASIBLE_RANGE[0] else (low, weight)
        weight = 4.0 * weight if high == np.inf else 0.5 * (low + high)
    if not tried:
        return encoded.with_multiplier(start), float("nan"), 0
    above = [price for price, share in tried.items() if share >= FEASIBLE_RANGE[0]]
    chosen = min(above) if above else max(tried)
    return encoded.with_multiplier(chosen), tried[chosen], len(tried)


def repair(encoded: Encoded, masks: BoolArray) -> BoolArray:
    """Masks that keep the count, or the quota, by the best single flips; feasible ones stay as they are.

    encoded : the objective without penalty;  masks : bool (s, p)
    """
    out = np.array(masks, dtype=np.bool_)
    if isinstance(encoded.keeping, Cost):
        for row in np.flatnonzero(~encoded.feasible(out)):
            # what keeping each weight gains at this mask
            gains = -(encoded.linear + encoded.couplings @ out[row].astype(np.float64))
            out[row] = encoded.keeping.within_reach(out[row], gains)
        return out
    groups = encoded.counted.groups()
    for row in np.flatnonzero(~encoded.feasible(out)):
        mask = out[row]
        fields = encoded.linear + encoded.couplings @ mask.astype(np.float64)
        for members, count in groups:
            missing = int(count - mask[members].sum())
            for _ in range(abs(missing)):
                inside, own = mask[members], fields[members]
                best = (
                    np.argmin(np.where(inside, np.inf, own))
                    if missing > 0
                    else np.argmax(np.where(inside, own, -np.inf))
                )
                flip = int(members[best])
                fields += encoded.couplings[flip] if missing > 0 else -encoded.couplings[flip]
                mask[flip] = not mask[flip]
    return out


def to_cqm(block: BlockProblem) -> Any:
    """A dimod.ConstrainedQuadraticModel: the objective and the cardinality as one equality, of a quota one a group.

    Of budgets one inequality each, budget0, budget1, …

    Raises
    ------
    InvalidInput   mode refit: dimod multiplies no real variables
    """
    import dimod

    require_select(block, "a CQM", "use lp, mps or nl, or mode select")
    model = encode(block).bqm()
    constrained = dimod.ConstrainedQuadraticModel.from_bqm(model)
    variables = list(model.variables)
    for row in budget_rows(block):
        terms = [(variables[i], float(c)) for i, c in zip(row.places.tolist(), row.coefficients, strict=True)]
        constrained.add_constraint_from_iterable(terms, "<=", rhs=row.bound, label=row.name)
    if block.budget is not None:
        return constrained
    for number, (members, count) in enumerate(block.keeping.groups()):
        label = "cardinality" if block.keeping.one_count else f"group_{number}"
        terms = [(variables[i], 1.0) for i in members.tolist()]
        constrained.add_constraint_from_iterable(terms, "==", rhs=count, label=label)
    return constrained


def to_bqm(block: BlockProblem, encoding: str = "adaptive", seed: int = 0) -> Any:
    """A dimod.BinaryQuadraticModel with Σ m = keep built in by `encoding`: safe, adaptive or lagrange.

    Its energy on feasible masks is the block's objective. Only with safe is its least energy certainly that
    of a feasible mask; adaptive and lagrange are tuned by short runs of dwave-samplers' simulated annealing
    with this seed, for samplers, whose samples are repaired.

    Raises
    ------
    InvalidInput   mode refit, whose objective is no quadratic function of the mask; an unknown encoding
    """
    from prunebench.forms.sampler_calls import tuned

    require_select(block, "a BQM", "use lp, mps or nl, or mode select")
    if block.budget is not None and not block.budget.binds:
        return encode(block).bqm()
    if block.budget is not None:
        raise InvalidInput(
            f"{block.name}: a BQM has no constraints, and a budget is an inequality; use cqm, lp, mps or nl"
        )
    rng = np.random.default_rng(seed)
    unit = swap_unit(encode(block), rng)
    found = tuned(encode(block, unit), encoding, block.incumbent, rng)
    plain = encode(block)
    return plain.with_penalty(found.penalty * unit).with_multiplier(found.multiplier * unit).bqm()


def sampler_of(given: Any) -> Any:
    """A sampler out of an object, a class, a factory, or a text "package.module:Class" or "FILE.py:Class".

    Raises
    ------
    InvalidInput   the path cannot be imported, the factory raises, or what it gives is no sampler
    """
    if isinstance(given, str):
        if not is_import_path(given):
            raise InvalidInput(f"sampler {given!r} is not an import path 'package.module:Class'")
        given = imported(given)
    is_sampler = not isinstance(given, type) and (hasattr(given, "sample") or hasattr(given, "sample_cqm"))
    try:
        made = given if is_sampler or not callable(given) else given()
    except Exception as error:
        raise InvalidInput(f"sampler {given!r} cannot be made: {type(error).__name__}: {error}") from error
    if not (hasattr(made, "sample") or hasattr(made, "sample_cqm")):
        raise InvalidInput(f"sampler {type(made).__name__} has neither 'sample' nor 'sample_cqm'; pass a dimod sampler")
    return made


def _write_bqm(block: BlockProblem, path: Path, encoding: str = "safe") -> Units:
    with to_bqm(block, encoding).to_file() as source:
        path.write_bytes(source.read())
    return Units()


def _write_cqm(block: BlockProblem, path: Path) -> Units:
    with to_cqm(block).to_file() as source:
        path.write_bytes(source.read())
    return Units()


def _write_coo(block: BlockProblem, path: Path, encoding: str = "safe") -> Units:
    # dimod's own writer rounds to six digits, which moves the optimum; its reader takes any number of them, but
    # passes over a line with an exponent without a word
    model = to_bqm(block, encoding)
    units = Units(constant=float(model.offset))
    lines = ["# vartype=BINARY", f"# variable i is weight i, 1 where it is kept; {units.text()}"]
    lines += [f"{v} {v} {_decimal(model.linear[v])}" for v in model.variables]
    lines += [f"{min(u, v)} {max(u, v)} {_decimal(bias)}" for u, v, bias in model.iter_quadratic()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return units


def _write_qs(block: BlockProblem, path: Path, encoding: str = "safe") -> Units:
    # QOBLIB's list of a symmetric matrix, from 1 on: a product stands once and counts twice
    model = to_bqm(block, encoding)
    held = [(v + 1, v + 1, model.linear[v]) for v in model.variables]
    held += [(min(u, v) + 1, max(u, v) + 1, 0.5 * bias) for u, v, bias in model.iter_quadratic()]
    lines = [
        "# variable i is weight i - 1, 1 where it is kept", f"# ObjectiveOffset {float(model.offset)!r}",
        "# Vars Non-zeros", f"{block.p} {len(held)}", *(f"{i} {j} {float(value)!r}" for i, j, value in held),
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return Units()


def _decimal(value: float) -> str:
    """All digits of a number, without an exponent."""
    return np.format_float_positional(float(value), trim="0")


EXPORTS: dict[str, Callable[..., Units]] = {
    "bqm": _write_bqm, "cqm": _write_cqm, "coo": _write_coo, "qs": _write_qs,
}  # fmt: skip
"""Writers by format, (block, path) and, of all but cqm, the encoding. coo has no place for the constant."""
