"""Budgets on masks: weights or groups have costs, such as FLOPs, parameters or milliseconds, and each has a limit.

Greedy order for several budgets: Toyoda: A simplified algorithm for obtaining approximate solutions to zero-one
programming problems, Management Science 21 (1975). Comparison with the best single item, which guarantees half of
the optimum for one budget: Kellerer, Pferschy, Pisinger: Knapsack Problems, Springer 2004, §2.1.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from prunebench.core.arrays import LARGEST, BoolArray, FloatArray, IndexArray, frozen, numeric, require_finite, vector
from prunebench.core.errors import InvalidInput

SLACK = 1e-12
"""Share of its limit by which a budget with fractional costs may be exceeded: decimal costs such as 0.1 are no
float64 numbers, and three of them add up to more than 0.3."""
UNIT = float(np.finfo(np.float64).eps)
"""Bound on the relative error of one float64 addition: twice the unit roundoff."""
EXACT_WHOLE = float(2**53)
"""Whole numbers up to here add up in float64 without rounding."""
COUNTED_SUMS = 200_000
"""Masks are counted by their distinct sums of costs, of which at most this many: about a second and 50 MB."""

PRICE_ROUNDS = 20
"""Rounds in which the multipliers of several budgets are improved one after another; more gain nothing visible."""


@dataclass(frozen=True, eq=False)
class Cost:
    """A mask is feasible if, for each of k budgets, the costs of the kept weights add up to at most the limit.

    costs : float64 (k, p)   cost of keeping each weight (or group of weights), 0 or more
    limits : float64 (k,)    0 or more
    names : k words, such as "MACs", for messages
    slack : float64 (k,), optional
                             by how much a sum may exceed its limit. By default 0 for a budget whose costs are whole
                             numbers that add up to at most 2^53, else 1e-12 of its limit

    Sums are those of `math.fsum`, correctly rounded, so feasibility does not depend on the order of addition.
    As costs are never negative, pruning keeps a mask feasible, and the empty mask always is.

    Raises
    ------
    InvalidInput   wrong shapes, NaN, a negative cost or limit
    """

    costs: FloatArray
    limits: FloatArray
    names: tuple[str, ...] = ()
    slack: FloatArray | None = None

    def __post_init__(self) -> None:
        costs = numeric("the budgets' costs", self.costs)
        if costs.ndim != 2 or 0 in costs.shape:
            raise InvalidInput(f"the budgets' costs have shape {costs.shape}; expected (k, p), one row a budget")
        require_finite("the budgets' costs", costs)
        limits = vector("the budgets' limits", self.limits, costs.shape[0], "budget")
        costs = costs.astype(np.float64)
        names = self.names or tuple(str(number) for number in range(limits.size))
        if len(names) != limits.size:
            raise InvalidInput(f"there are {len(names)} names for {limits.size} budgets; give one each")
        for name, row, limit in zip(names, costs, limits, strict=True):
            if row.min() < 0.0:
                at = int(np.argmin(row))
                raise InvalidInput(f"budget {name!r}: weight {at} costs {row[at]:g}; costs are 0 or more")
            if row.sum() > LARGEST:
                raise InvalidInput(f"budget {name!r}: the costs add up to {row.sum():g}; at most {LARGEST:g} is added")
            if limit < 0.0:
                raise InvalidInput(f"budget {name!r} has the limit {limit:g}; choose 0 or more")
        object.__setattr__(self, "costs", frozen(costs))
        object.__setattr__(self, "limits", limits)
        object.__setattr__(self, "names", tuple(str(name) for name in names))
        if self.slack is not None:
            slack = vector("the budgets' slack", self.slack, limits.size, "budget")
            if (slack < 0.0).any():
                raise InvalidInput(f"the budgets' slack holds {slack.min():g}; choose 0 or more")
            object.__setattr__(self, "slack", slack)

    @property
    def p(self) -> int:
        """How many weights there are."""
        return int(self.costs.shape[1])

    @cached_property
    def allowed(self) -> FloatArray:
        """The largest accepted sums: limits plus slack. float64 (k,)"""
        if self.slack is not None:
            return np.asarray(self.limits + self.slack)
        return np.where(self._whole, self.limits, self.limits * (1.0 + SLACK))

    @cached_property
    def safe(self) -> FloatArray:
        """Limits for sums of costs added in any order: a mask within them is feasible. float64 (k,)"""
        return np.where(self._whole, self.allowed, self.allowed * (1.0 - 2.0 * self.p * UNIT))

    @cached_property
    def unsafe(self) -> FloatArray:
        """Limits that every feasible mask keeps, in whichever order its costs are added. float64 (k,)"""
        return np.where(self._whole, self.allowed, self.allowed * (1.0 + 2.0 * self.p * UNIT))

    @cached_property
    def _whole(self) -> BoolArray:
        """Which budgets have whole costs whose sums are exact. bool (k,)"""
        return np.asarray((self.costs == np.rint(self.costs)).all(axis=1) & (self.costs.sum(axis=1) <= EXACT_WHOLE))

    @cached_property
    def most(self) -> int:
        """An upper bound on the number of kept weights: how many of the cheapest the tightest budget allows.

        With one budget some mask attains it; with several there may be none.
        """
        return min(_affordable(np.sort(row), float(most)) for row, most in zip(self.costs, self.allowed, strict=True))

    @property
    def settled(self) -> bool:
        """Whether only the empty mask is feasible: every single weight exceeds a budget."""
        return not self._affordable.any()

    @cached_property
    def _affordable(self) -> BoolArray:
        """Which weights may be kept alone; no feasible mask keeps any other. bool (p,)"""
        return np.asarray((self.costs <= self.allowed[:, None]).all(axis=0))

    @cached_property
    def binds(self) -> bool:
        """Whether some mask is infeasible: all weights together exceed a budget."""
        return not self.feasible(np.ones(self.p, dtype=np.bool_))

    @cached_property
    def random_share(self) -> float:
        """The largest probability at which masks that keep weights independently meet every limit on average.

        One half where no budget binds: all masks are feasible, and this is what a random one keeps.
        """
        if not self.binds:
            return 0.5
        totals = self.costs.sum(axis=1)
        priced = totals > 0.0
        return float(min(1.0, *(self.limits[priced] / totals[priced]), 1.0))

    def spent(self, mask: BoolArray) -> FloatArray:
        """The cost of a mask. bool (p,) -> float64 (k,), correctly rounded sums"""
        kept = np.flatnonzero(mask)
        return np.array([math.fsum(row[kept]) for row in self.costs])

    def violation(self, mask: BoolArray) -> str:
        """Which budget a mask exceeds first, with cost and limit; "" if it exceeds none."""
        spent = self.spent(mask)
        over = np.flatnonzero(spent > self.allowed)
        if over.size == 0:
            return ""
        first = int(over[0])
        return f"spends {spent[first]:.12g} of budget {self.names[first]!r}; its limit is {self.limits[first]:.12g}"

    def feasible(self, mask: BoolArray) -> bool:
        """Whether a mask stays within every budget."""
        return bool((self.spent(mask) <= self.allowed).all())

    def top_mask(self, scores: FloatArray) -> BoolArray:
        """A maximal mask by greedy choice: weights are kept by descending score per cost as long as they fit.

        A weight's cost is the sum of its shares of the limits. Weights of score 0 or less come last, the highest
        score first. A second greedy mask starts from the weight with the highest score, and the one with the larger
        sum of scores wins: for one budget and scores >= 0, at least half of the largest possible sum. (p,) -> bool (p,)
        """
        scores = np.asarray(scores, dtype=np.float64)
        greedy = self._filled(np.zeros(self.p, dtype=np.bool_), scores)
        if self.settled:
            return greedy
        single = np.zeros(self.p, dtype=np.bool_)
        single[np.argmax(np.where(self._affordable, scores, -np.inf))] = True
        other = self._filled(single, scores)
        return other if math.fsum(scores[other]) > math.fsum(scores[greedy]) else greedy

    def repair(self, mask: BoolArray, scores: FloatArray) -> BoolArray:
        """Drop weights of the lowest score per cost while a budget is exceeded, then add those that fit.

        Costs count in the exceeded budgets only. No further weight fits the result. bool (p,), (p,) -> bool (p,)
        """
        scores = np.asarray(scores, dtype=np.float64)
        held = mask & self._affordable
        while (over := self.spent(held) > self.allowed).any():
            charge = self._shares_of_limits(over)
            kept = np.flatnonzero(held & (charge > 0.0))
            order = kept[_by_worth(scores[kept], charge[kept])[::-1]]
            spent = self.spent(held)
            left = spent[:, None] - np.cumsum(self.costs[:, order], axis=1)
            held[order[: 1 + int(np.argmax((left <= self.allowed[:, None])[over].any(axis=0)))]] = False
        return self._filled(held, scores)

    def filled(self, order: IndexArray, mask: BoolArray | None = None) -> BoolArray:
        """A feasible mask (the empty one by default) plus the weights of `order`, one by one, that still fit.

        int64 (n,), bool (p,) -> bool (p,)
        """
        held = np.zeros(self.p, dtype=np.bool_) if mask is None else mask.copy()
        spent = self.spent(held)
        for place in order[~held[order] & self._affordable[order]]:
            ahead = spent + self.costs[:, place]
            held[place] = True
            # running sums may have rounded that much, so one this near its limit is summed exactly
            if (np.abs(ahead - self.allowed) <= self.p * UNIT * self.allowed).any():
                ahead = self.spent(held)
            if (ahead <= self.allowed).all():
                spent = ahead
            else:
                held[place] = False
        return held

    def within_reach(self, mask: BoolArray, scores: FloatArray) -> BoolArray:
        """The mask itself if it is feasible, else repaired; nothing is added to it. bool (p,), (p,) -> bool (p,)"""
        return mask if self.feasible(mask) else self.repair(mask, scores) & mask

    def _filled(self, mask: BoolArray, scores: FloatArray) -> BoolArray:
        """A feasible mask plus every pruned weight that still fits, the highest score per cost first. bool (p,)"""
        return self.filled(_by_worth(scores, self._shares_of_limits(self.limits >= 0.0)), mask)

    def _shares_of_limits(self, budgets: BoolArray) -> FloatArray:
        """Each weight's cost as shares of the limits, summed over some budgets. bool (k,) -> float64 (p,)"""
        chosen = budgets & (self.allowed > 0.0)
        return np.asarray((self.costs[chosen] / self.allowed[chosen, None]).sum(axis=0))

    def prices(self, gains: FloatArray) -> FloatArray:
        """Multipliers λ >= 0 of the budgets that nearly minimise Σ max(0, gains − λ'costs) + λ'allowed. (p,) -> (k,)

        For one budget the minimum itself: the ratio of gain to cost at which the fractional knapsack is full (Dantzig,
        Operations Research 5, 1957). For several, one budget at a time.
        """
        out = np.zeros(self.limits.size)
        for _ in range(1 if self.limits.size == 1 else PRICE_ROUNDS):
            for k, row in enumerate(self.costs):
                rest = gains - out @ self.costs + out[k] * row
                wanted = np.flatnonzero((rest > 0.0) & (row > 0.0))
                ratios = rest[wanted] / row[wanted]
                order = np.argsort(-ratios, kind="stable")
                over = np.cumsum(row[wanted][order]) > self.allowed[k]
                out[k] = ratios[order][int(np.argmax(over))] if over.any() else 0.0
        return out

    def most_gain(self, gains: FloatArray, prices: FloatArray | None = None) -> float:
        """An upper bound on the sum of the gains of any feasible mask, rounding included. (p,) -> float

        prices : float64 (k,), multipliers to try beside `prices(gains)`; any of 0 or more give a bound
        """
        own = self._priced(gains, self.prices(gains))
        return own if prices is None else min(own, self._priced(gains, np.maximum(prices, 0.0)))

    def _priced(self, gains: FloatArray, prices: FloatArray) -> float:
        left = np.array(gains, dtype=np.float64)
        size = np.abs(left)
        for price, row in zip(prices, self.costs, strict=True):
            left -= price * row
            size += price * row
        # every product and difference rounds once; a correctly rounded sum may hide half a unit in the last place
        left += (2 * prices.size + 2) * UNIT * size
        paid = [
            price * np.nextafter(most, np.inf) * (1.0 + UNIT) for price, most in zip(prices, self.allowed, strict=True)
        ]
        return math.nextafter(math.fsum([*np.maximum(left, 0.0) * (1.0 + UNIT), *paid]), math.inf)

    def exchanges(self, mask: BoolArray, cost: FloatArray, worth: FloatArray) -> tuple[IndexArray, IndexArray]:
        """Pairs (leaving, entering), the largest worth − cost first; any subset of them stays within the budgets.

        In the order of their worth, entering weights take the cheapest kept weight whose exchange fits what earlier
        pairs left. A pair that lowers the cost frees no room for later ones. O(p²k).
        """
        room = np.maximum(self.limits - self.spent(mask), 0.0)
        kept, pruned = np.flatnonzero(mask), np.flatnonzero(~mask & self._affordable)
        kept = kept[np.argsort(cost[kept], kind="stable")]
        leaving, entering = [], []
        for enter in pruned[np.argsort(-worth[pruned], kind="stable")]:
            more = np.maximum(self.costs[:, enter, None] - self.costs[:, kept], 0.0)
            fits = (more <= room[:, None]).all(axis=0)
            if fits.any():
                first = int(np.argmax(fits))
                room = room - more[:, first]
                leaving.append(kept[first])
                entering.append(enter)
                kept = np.delete(kept, first)
        out, into = np.array(leaving, dtype=np.int64), np.array(entering, dtype=np.int64)
        best_first = np.argsort(cost[out] - worth[into], kind="stable")
        return out[best_first], into[best_first]

    def within(self, indices: IndexArray, mask: BoolArray) -> "Cost":
        """The budgets of the weights `indices` if all others are fixed as in the feasible `mask` (p,).

        The others' costs are subtracted from the limits in float64, so a sum at its limit may round either way.
        """
        others = mask.copy()
        others[indices] = False
        left = self.allowed - self.spent(others)
        if (left < 0.0).any():
            raise InvalidInput(f"the mask {self.violation(others)}, by the weights that stay; repair it first")
        limits = np.minimum(left, np.maximum(self.limits - self.spent(others), 0.0))
        return Cost(self.costs[:, indices], limits, self.names, left - limits)

    @cached_property
    def mask_count(self) -> int:
        """How many masks are feasible, exactly, counted by their distinct sums of costs.

        Raises
        ------
        InvalidInput   there are more than 200,000 such sums
        """
        return self._counted(np.zeros(self.p, dtype=np.bool_))

    @cached_property
    def shares(self) -> FloatArray:
        """The probability that a random feasible mask keeps each weight; counted as in `mask_count`. float64 (p,)"""
        shares = np.empty(self.p)
        _, classes = np.unique(self.costs, axis=1, return_inverse=True)
        for number in range(int(classes.max()) + 1):
            members = np.flatnonzero(classes.ravel() == number)
            kept = np.zeros(self.p, dtype=np.bool_)
            kept[members[0]] = True
            shares[members] = float(Fraction(self._counted(kept), self.mask_count))
        return shares

    def _counted(self, kept: BoolArray) -> int:
        """How many feasible masks keep all of `kept`. Costs are scaled to whole numbers by a power of two."""
        if not self.feasible(kept):
            return 0
        scales = [_denominator(row) for row in self.costs]
        sums = {tuple(_scaled(row[kept], scale) for row, scale in zip(self.costs, scales, strict=True)): 1}
        columns, sizes = np.unique(self.costs[:, ~kept], axis=1, return_counts=True)
        # a quotient of whole numbers rounds once, as fsum does
        limits = list(zip(scales, self.allowed.tolist(), strict=True))
        for column, size in zip(columns.T, sizes.tolist(), strict=True):
            step = [_scaled(np.array([value]), scale) for value, scale in zip(column, scales, strict=True)]
            following: dict[tuple[int, ...], int] = {}
            for total, ways in sums.items():
                for chosen in range(size + 1):
                    ahead = tuple(value + chosen * more for value, more in zip(total, step, strict=True))
                    if any(value / scale > most for value, (scale, most) in zip(ahead, limits, strict=True)):
                        break
                    following[ahead] = following.get(ahead, 0) + ways * math.comb(size, chosen)
                if len(following) > COUNTED_SUMS:
                    raise InvalidInput(
                        f"the masks of {self.p} weights within the budgets {', '.join(self.names)} have more than "
                        f"{COUNTED_SUMS:,} different sums of costs and are not counted; round the costs to fewer values"
                    )
            sums = following
        return sum(sums.values())


def _affordable(ascending: FloatArray, most: float) -> int:
    """How many of the cheapest weights a budget allows. (p,)"""
    count = int(np.searchsorted(np.cumsum(ascending), most * (1.0 + ascending.size * UNIT), side="right"))
    while math.fsum(ascending[:count]) > most:
        count -= 1
    return count


def _by_worth(scores: FloatArray, charge: FloatArray) -> IndexArray:
    """Positions by score per charge, free ones first; then those of score 0 or less by descending score. (n,)"""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(scores > 0.0, scores / charge, -np.inf)
    return np.lexsort((np.arange(scores.size), -scores, -ratio))


def _denominator(row: FloatArray) -> int:
    """The smallest power of two that makes every entry a whole number. (p,)"""
    return max(float(value).as_integer_ratio()[1] for value in row)


def _scaled(values: FloatArray, scale: int) -> int:
    """scale · Σ values, exactly. (n,)"""
    return sum(int(Fraction(float(value)) * scale) for value in values)
