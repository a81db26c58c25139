"""The block problem: everything a solver gets to see."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from prunebench.core import block_file, definite
from prunebench.core.arrays import LARGEST, BoolArray, FloatArray, frozen, numeric
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput
from prunebench.core.gap import gap
from prunebench.core.items import WEIGHTS, Items
from prunebench.core.keeping import Count, Counted, Keeping, Quota
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.qubo import Qubo
from prunebench.core.rows import RowsForm
from prunebench.core.rows_qubo import RowsQubo

Mode = Literal["select", "refit"]
PIECE = 1 << 18
"""Weights compared at a time: a piece and what is made of it stay in the cache."""
MODES: tuple[Mode, ...] = ("select", "refit")
"""select: only the mask is chosen;  refit: the kept weights are free too."""


@dataclass(frozen=True, eq=False)
class BlockProblem:
    """minimise f(w) subject to Σ m = keep and, in mode select, w = m·dense_weights; in mode refit, w = 0 off m.

    A block with a `budget` has costs·m <= limits in place of Σ m = keep.

    Parameters
    ----------
    form : QuadraticForm over p weights
    dense_weights : float (p,)      the block's weights before pruning; stored as float64, or in the precision of a
                                    whole layer's form, without a copy where they cannot change
    keep : int                      how many weights are kept, 0 to p, exactly; with a budget its `most`, the
                                    largest number that it can allow
    mode : "select" | "refit"       only the mask is chosen, or the kept weights are free too
    start_mask : bool (p,), optional    the incumbent; a solver never returns anything worse
    indices : int64 (p,), optional  the block's positions among the network's prunable weights
    layer : str (p,), optional      the layer of each weight
    names : str (p,), optional      the variables' names in the file that the block was imported from
    problem : str                   name of the problem the block was cut from, for messages
    quota : Quota or ((indices, count), …), optional
                                    how many weights each group of a partition keeps, `keep` in total;
                                    stored as a Quota, or as None if there is only one group
    budget : Cost, optional         what the kept weights may cost; there is then no count and no quota
    items : Items, optional         what the "weights" are where they are something else, such as slices of bits

    Raises
    ------
    InvalidInput   wrong shapes, NaN, numbers whose products overflow float64, a keep count out of range, a
                   quota or a budget that does not fit, an infeasible start mask, or in mode refit a Hessian that with
                   its ridge is not positive definite. Mode select accepts indefinite Hessians, such as
                   those of Max-Cut problems.
    """

    form: QuadraticForm
    dense_weights: FloatArray
    keep: int
    mode: Mode
    start_mask: BoolArray | None = None
    indices: npt.NDArray[np.int64] | None = None
    layer: npt.NDArray[np.str_] | None = None
    problem: str = ""
    quota: Quota | None = None
    budget: Cost | None = None
    items: Items | None = None
    names: npt.NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.form, QuadraticForm):
            raise InvalidInput(f"the block's form is a {type(self.form).__name__}; expected a QuadraticForm")
        size = self.form.p
        set_field = object.__setattr__
        try:
            set_field(self, "dense_weights", self.form.as_vector("dense_weights", self.dense_weights))
        except InvalidInput as error:
            raise InvalidInput(f"{self.name}: {error}") from error
        keep = np.asarray(self.keep)
        if keep.shape != () or keep.dtype.kind not in "iu":
            raise InvalidInput(f"{self.name}: keep is {self.keep!r}; expected a whole number")
        set_field(self, "keep", int(keep))
        if not 0 <= self.keep <= size:
            raise InvalidInput(
                f"{self.name}: keep is {self.keep} but the block has {size} {self.word}; "
                f"choose 0 to {size}, or a density up to 1"
            )
        if self.mode not in MODES:
            raise InvalidInput(f"{self.name}: mode is {self.mode!r}; choose one of {', '.join(MODES)}")
        if self.budget is not None:
            self._require_budget(self.budget)
        if self.quota is not None:
            set_field(self, "quota", self._checked_quota(self.quota))
        if self.start_mask is not None:
            set_field(self, "start_mask", frozen(self._checked_mask(self.start_mask, "start_mask").copy()))
        if self.indices is not None:
            set_field(self, "indices", frozen(self._checked_positions(self.indices)))
        for what in ("layer", "names"):
            if (given := getattr(self, what)) is not None:
                words = np.asarray(given, dtype=np.str_)
                if words.shape != (size,):
                    raise InvalidInput(f"{self.name}: {what} has shape {words.shape}; expected ({size},)")
                set_field(self, what, frozen(words))
        if self.items is not None:
            self.items.require_size(size)
        self._require_range()
        if self.mode == "refit" and self.keep > 0:
            self._require_unique_refit()

    @property
    def p(self) -> int:
        """How many weights the block has."""
        return self.form.p

    @property
    def name(self) -> str:
        """The block's name in messages."""
        return f"block {self.problem!r}" if self.problem else "the block"

    @property
    def word(self) -> str:
        """What the block chooses among, in the plural."""
        return WEIGHTS if self.items is None else self.items.word

    @property
    def density(self) -> float:
        """keep / p."""
        return self.keep / self.p

    @cached_property
    def incumbent(self) -> BoolArray:
        """The mask every search starts from: `start_mask`, else magnitude pruning. bool (p,)."""
        if self.start_mask is not None:
            return self.start_mask
        return cast(BoolArray, frozen(self.top_mask(np.abs(self.dense_weights))))

    @property
    def settled(self) -> bool:
        """Whether only one mask is feasible."""
        return self.constraint.settled

    @cached_property
    def constraint(self) -> Keeping:
        """Which masks are feasible: the budget or the quota where there is one, else the count `keep`."""
        return self.keeping if self.budget is None else self.budget

    @cached_property
    def keeping(self) -> Counted:
        """How many weights are kept: the quota where there is one, else the count `keep`.

        Raises
        ------
        InvalidInput   the block has a budget, and no count: code for both reads `constraint`
        """
        if self.budget is not None:
            raise InvalidInput(
                f"{self.name} has a budget and no keep count; choose a solver or a format that takes budgets"
            )
        return Count(self.p, self.keep) if self.quota is None else self.quota

    @property
    def mask_count(self) -> int:
        """How many masks are feasible, exactly."""
        return self.constraint.mask_count

    def top_mask(self, scores: FloatArray) -> BoolArray:
        """The feasible mask with the highest scores; with a quota, in each group; with a budget, by score per cost.

        (p,) -> bool (p,)
        """
        return self.constraint.top_mask(scores)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything a solver can see; equal hashes mean the same problem."""
        digest = hashlib.sha256(b"prunebench.block/1")
        for name, array in block_file.problem_arrays(self.contents()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def weights_of(self, mask: npt.ArrayLike) -> FloatArray:
        """The weights of `mask`: m·dense_weights in mode select, refitted in mode refit. bool (p,) -> float64 (p,)."""
        kept = self._checked_mask(mask, "mask")
        if self.mode == "select":
            dense = self.dense_weights
            out = np.empty(dense.shape, dense.dtype)
            # as whole numbers: negative weights become 0, not -0, in a tenth of the time that a condition takes
            bits = np.dtype(f"i{dense.itemsize}")
            np.multiply(dense.view(bits), kept, out=out.view(bits))
            return out
        return self.form.refit(kept)

    def evaluate(self, candidate: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
        """f of a mask or of given weights, in float64. Every objective in prunebench comes from here.

        Parameters
        ----------
        candidate : bool (p,) mask, or float (p,) weights
        mask : bool (p,), optional     the mask of given weights, needed if a kept weight is zero

        Raises
        ------
        InvalidInput   the mask does not keep exactly `keep` weights, or exceeds a budget; weights are not zero where
                       pruned; in select mode, a kept weight differs from its dense value
        """
        array = np.asarray(candidate)
        if array.dtype == np.bool_:
            return self.form.value(self.weights_of(array))
        weights = self.form.as_vector("weights", array)
        if mask is None:
            support = weights != 0.0
            if self.budget is None and int(support.sum()) > self.keep:
                raise InvalidInput(
                    f"{self.name}: {int(support.sum())} weights are not zero but keep is {self.keep}; prune the rest"
                )
            exceeded = self.budget is not None or (self.keeping.kept_of(support) > self.keeping.counts).any()
            if exceeded and (violation := self.constraint.violation(support)):
                raise InvalidInput(f"{self.name}: the weights {violation}; prune the rest")
            kept = support
        else:
            kept = self._checked_mask(mask, "mask")
            if stray := _differing(weights, None, kept, where=False):
                raise InvalidInput(f"{self.name}: {stray} pruned weights are not zero")
        if self.mode == "select" and _differing(weights, self.dense_weights, kept, where=True):
            raise InvalidInput(f"{self.name}: in mode select a kept weight must have its dense value")
        return self.form.value(weights)

    def rounding_of(self, weights: npt.ArrayLike) -> float:
        """A bound on the rounding of `evaluate(weights)`. float (p,)"""
        return self.form.rounding_of(weights)

    def to_qubo(self) -> Qubo:
        """The select objective as a function of the mask (mathematics: E(m) = f(m·dense_weights))."""
        return self._qubo

    def random_mean(self) -> float:
        """The expected f(m·dense_weights) over uniformly random feasible masks: the gap's scale.

        With a budget, over masks that keep every weight independently with the largest probability at which no
        budget is exceeded on average (mathematics, §3).
        """
        return self._qubo.random_mean(self.constraint)

    def gap(self, objective: float, lower_bound: float) -> float:
        """(objective − lower bound)/(random mean − lower bound): 0 is proved optimal, 1 is a random mask.

        inf where no bound is known.
        """
        return float(gap(objective, lower_bound, self.random_mean()))

    def in_mode(self, mode: Mode) -> "BlockProblem":
        """The same block in another mode."""
        return self if mode == self.mode else replace(self, mode=mode)

    def with_start(self, mask: npt.ArrayLike) -> "BlockProblem":
        """The same block with `mask` as its incumbent."""
        return replace(self, start_mask=np.asarray(mask))

    def with_budget(self, budget: Cost) -> "BlockProblem":
        """The same block with a budget in place of its count or quota, without its start mask."""
        return replace(self, budget=budget, keep=budget.most, quota=None, start_mask=None)

    def plain(self) -> "BlockProblem":
        """The same block with an explicit p×p Hessian if its form is a whole layer's (`RowsForm`).

        Raises
        ------
        InvalidInput   the layer is too large for one Hessian
        """
        return replace(self, form=self.form.plain()) if isinstance(self.form, RowsForm) else self

    def contents(self) -> dict[str, Any]:
        """The arrays of the block problem file, by key."""
        form = self.form
        curvature: dict[str, Any] = {"factor": form.factor} if form.factor is not None else {"hessian": form.hessian}
        if isinstance(form, RowsForm):
            curvature = {"hessian": form.shared, "rows": np.int64(form.rows)}
        words = {"layer": self.layer, "names": self.names}
        optional = {"start_mask": self.start_mask, "indices": self.indices, **words}
        return {
            **curvature,
            "ridge": form.ridge,
            "linear": form.linear,
            "centre": form.centre,
            "constant": np.float64(form.constant),
            "dense_weights": self.dense_weights,
            # readers that know no budgets need `keep`, so they refuse a block that has a budget
            **({"keep": np.int64(self.keep)} if self.budget is None else _budget_arrays(self.budget)),
            "mode": np.str_(self.mode),
            **{key: value for key, value in optional.items() if value is not None},
            **({} if self.quota is None else {"quota_group": self.quota.group, "quota_counts": self.quota.counts}),
            "problem": np.str_(self.problem),
            **({} if self.items is None else self.items.contents()),
        }

    def save(self, path: Path | str) -> None:
        """Write the block problem file (`.npz`, no pickles) atomically."""
        block_file.write(Path(path), self.contents())

    @staticmethod
    def load(path: Path | str) -> "BlockProblem":
        """Read a block problem file.

        Raises
        ------
        InvalidInput   the file is missing, truncated, foreign, or a key is missing or mis-shaped
        """
        return BlockProblem.from_contents(block_file.read(Path(path)), str(path))

    @staticmethod
    def from_contents(contents: Mapping[str, Any], source: str) -> "BlockProblem":
        """The block problem from the arrays that `contents` returns; `source` names them in errors."""
        try:
            terms = {name: contents[name] for name in ("ridge", "linear", "centre", "constant")}
            if "rows" in contents:
                form: QuadraticForm = RowsForm(shared=contents["hessian"], rows=int(contents["rows"]), **terms)
            else:
                form = QuadraticForm(factor=contents.get("factor"), hessian=contents.get("hessian"), **terms)
            budget = _budget_of(contents)
            return BlockProblem(
                form=form,
                dense_weights=contents["dense_weights"],
                keep=contents["keep"] if budget is None else budget.most,
                mode=cast(Mode, str(contents["mode"])),
                start_mask=contents.get("start_mask"),
                indices=contents.get("indices"),
                layer=contents.get("layer"),
                names=contents.get("names"),
                problem=str(contents.get("problem", "")),
                quota=Quota(contents["quota_group"], contents["quota_counts"]) if "quota_group" in contents else None,
                budget=budget,
                items=Items.of(contents),
            )
        except InvalidInput as error:
            raise InvalidInput(f"{source}: {error}") from error

    @cached_property
    def _qubo(self) -> Qubo:
        if isinstance(self.form, RowsForm):
            return RowsQubo.of(self.form, self.dense_weights)
        return Qubo.from_form(self.form, self.dense_weights)

    def _checked_mask(self, mask: npt.ArrayLike, what: str) -> BoolArray:
        array = np.asarray(mask)
        if array.dtype != np.bool_ or array.shape != (self.p,):
            raise InvalidInput(
                f"{self.name}: {what} has dtype {array.dtype} and shape {array.shape}; expected bool ({self.p},)"
            )
        kept = int(np.count_nonzero(array))
        if self.budget is None and kept != self.keep:
            raise InvalidInput(f"{self.name}: {what} keeps {kept} weights; it must keep exactly {self.keep}")
        if violation := self.constraint.violation(array):
            raise InvalidInput(f"{self.name}: {what} {violation}")
        return array

    def _require_budget(self, budget: Any) -> None:
        if not isinstance(budget, Cost):
            raise InvalidInput(f"{self.name}: the budget is a {type(budget).__name__}; expected a Cost")
        if self.quota is not None:
            raise InvalidInput(f"{self.name}: a block has a quota or a budget, not both; leave one out")
        if budget.p != self.p:
            raise InvalidInput(f"{self.name}: the budget is over {budget.p} weights; the block has {self.p}")
        if self.keep != budget.most:
            raise InvalidInput(
                f"{self.name}: keep is {self.keep}, but the budget says how much is kept: give keep=budget.most, here "
                f"{budget.most}"
            )

    def _checked_quota(self, quota: Any) -> Quota | None:
        try:
            checked = quota if isinstance(quota, Quota) else Quota.of(self.p, quota)
        except InvalidInput as error:
            raise InvalidInput(f"{self.name}: {error}") from error
        if checked.p != self.p:
            raise InvalidInput(f"{self.name}: the quota is over {checked.p} weights; the block has {self.p}")
        if checked.keep != self.keep:
            raise InvalidInput(
                f"{self.name}: keep is {self.keep} but the quota's counts add up to {checked.keep}; make them agree"
            )
        return checked if checked.counts.size > 1 else None

    def _checked_positions(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        positions = numeric("indices", indices)
        if positions.shape != (self.p,) or positions.dtype.kind not in "iu":
            raise InvalidInput(
                f"{self.name}: indices have dtype {positions.dtype} and shape {positions.shape}; "
                f"expected int64 ({self.p},)"
            )
        if int(positions.min()) < 0 or int(positions.max()) > np.iinfo(np.int64).max:
            wrong = positions.min() if int(positions.min()) < 0 else positions.max()
            raise InvalidInput(f"{self.name}: indices hold {wrong}; positions among the network's weights begin at 0")
        if np.unique(positions).size != self.p:
            raise InvalidInput(f"{self.name}: indices repeat; every weight of the network may stand once in a block")
        return positions.astype(np.int64)

    def _require_range(self) -> None:
        """Refuse a block whose f, gradient or refitted weights could overflow float64.

        Uses the largest entries only: |gradient| <= |linear| + p·|H|·|w|, |f| <= |constant| + p·|gradient|·|w|,
        and a refit moves no weight by more than |gradient| / ridge.
        """
        form = self.form
        curvature = form.largest_curvature + float(form.ridge.max())
        weight = max(_reach(self.dense_weights), _reach(form.centre))
        linear = _reach(form.linear)
        slope = linear + self.p * curvature * weight
        least = float(form.ridge.min())
        reach = max(weight, slope / least) if self.mode == "refit" and self.keep > 0 and least > 0.0 else weight
        value = abs(form.constant) + self.p * slope * reach
        if max(slope, reach, value) > LARGEST:
            raise InvalidInput(
                f"{self.name}: its objective can reach {value:.3g}, where {LARGEST:g} is the most that is computed "
                f"with (curvature up to {curvature:.3g}, ridge from {least:.3g}, linear up to {linear:.3g}, weights up "
                f"to {weight:.3g}); rescale the loss or the weights, or raise the ridge"
            )

    def _require_unique_refit(self) -> None:
        """Refuse a refit whose minimiser need not be unique: the Hessian is not positive definite."""
        ridge = self.form.ridge
        floor = self.form.row_convexity if isinstance(self.form, RowsForm) else self.form.strong_convexity
        if floor is not None and (floor > 0.0).all():
            return
        lacks = f"it is zero for {int((ridge == 0.0).sum())} weights and the curvature is singular"
        advice = "use for example 1e-3 of the mean of the curvature's diagonal"
        shared = self.form.shared if isinstance(self.form, RowsForm) else self.form.hessian
        if shared is None:
            raise InvalidInput(f"{self.name}: mode refit needs a positive ridge: {lacks}; {advice}")
        least = self.form.row_ridge if isinstance(self.form, RowsForm) else ridge
        if shared.shape[0] <= definite.EXACT_SIZE:
            if definite.exactly_definite(shared, least):
                return
            lowest, rounding = definite.lowest_eigenvalue(shared, least)
        else:
            lowest, rounding = definite.lowest_eigenvalue(shared, least)
            if lowest > rounding:
                return
        if lowest >= -rounding:
            lacks = lacks if (ridge == 0.0).any() else "it does not lift the curvature, which is singular to rounding"
            raise InvalidInput(f"{self.name}: mode refit needs a positive ridge: {lacks}; {advice}")
        below = float(np.linalg.eigvalsh(shared + np.diag(least))[0])
        raise InvalidInput(
            f"{self.name}: mode refit needs a positive definite Hessian, but with the ridge its lowest eigenvalue is "
            f"{below:.3g}, so some weights lower the objective without end; use A'A with A the sample gradients, "
            f"raise the ridge by more than {-below:.3g}, or use mode select"
        )


def _differing(weights: FloatArray, others: FloatArray | None, mask: BoolArray, *, where: bool) -> int:
    """How many weights differ from others, or from zero, where the mask is `where`. A piece at a time: no copies."""
    found = 0
    for start in range(0, weights.size, PIECE):
        part = slice(start, start + PIECE)
        differs = weights[part] != (0.0 if others is None else others[part])
        found += int(np.count_nonzero(differs & (mask[part] if where else ~mask[part])))
    return found


def _reach(values: FloatArray) -> float:
    """The largest absolute value."""
    return max(float(values.max()), -float(values.min()))


def _budget_arrays(budget: Cost) -> dict[str, Any]:
    """The arrays of a budget in the block problem file; the slack only where it was given."""
    slack = {} if budget.slack is None else {"budget_slack": np.asarray(budget.slack, dtype=np.float64)}
    return {
        "budget_costs": budget.costs, "budget_limits": budget.limits, **slack, "budget_names": np.array(budget.names),
    }  # fmt: skip


def _budget_of(contents: Mapping[str, Any]) -> Cost | None:
    """The budget that the arrays hold, or None."""
    if "budget_costs" not in contents:
        return None
    names = tuple(str(name) for name in contents.get("budget_names", ()))
    return Cost(contents["budget_costs"], contents["budget_limits"], names, contents.get("budget_slack"))
