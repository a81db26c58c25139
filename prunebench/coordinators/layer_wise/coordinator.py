"""Layer-wise pruning: layer after layer, using only the Gram matrix of each layer's inputs.

Every layer is to reproduce its outputs, ½‖X (W − W̄)‖²/n + ridge, X being its inputs once all layers before
it are pruned (Frantar et al.: OBC, NeurIPS 2022, and SparseGPT, ICML 2023; Sun et al.: Wanda, ICLR 2024;
Meng et al.: ALPS, NeurIPS 2024). There is no backward pass. Beyond the papers, with target "dense" a layer is
to reproduce the dense network's outputs, ½‖X W − Y W̄‖²/n with Y the dense network's inputs, and so makes up
for the changes by pruning the layers before it.

A layer is one block problem, whose form says that its rows share one Hessian (`RowsForm`). Solvers that decide
over all rows at once (`whole_layers`) take it as it is; for others it is cut into one block per row. Both are
ordinary block problems: hashed, verified, logged and sent to workers, so layers need no second solver
contract.

With `bits`, a pruned layer's kept weights are then put on a grid of levels by the same Gram matrix, before the inputs
of the next layer are gathered (`prunebench.meanings.bits.rounding`).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from prunebench.coordinators.landscape import Layer
from prunebench.coordinators.layer_wise.grid import Grid, uneven
from prunebench.coordinators.layer_wise.options import LayerWiseOptions
from prunebench.coordinators.layer_wise.pace import Pace
from prunebench.coordinators.quotas import NetworkQuota, require_honoured
from prunebench.core import row_products
from prunebench.core.arrays import BoolArray, IndexArray, RealArray, fixed
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.coordinator import (
    Coordinator,
    LeftDense,
    Move,
    Setting,
    Task,
    calibration_seed,
    checked_number,
    checked_state,
    fewer,
    register,
)
from prunebench.core.errors import InvalidInput, PrunebenchError, SolverRefused
from prunebench.core.keeping import Counted, Quota
from prunebench.core.levels import Levels
from prunebench.core.masks import top_mask
from prunebench.core.problem import NetworkProblem, spread
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.recovery import Division, held_out
from prunebench.core.rows import RowsForm
from prunebench.core.shared_hessian import SharedHessian
from prunebench.core.solution import Solution
from prunebench.core.solver import SolverLike, facts

if TYPE_CHECKING:
    from prunebench.curvature.layer_walk import InputGrams


class Walk(Protocol):
    """A network run layer by layer; implemented by `prunebench.curvature.layer_walk.LayerWalk`."""

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Layers by position, those with common inputs grouped, in the order in which they run."""
        ...

    def columns(self, layer: int) -> int:
        """How many inputs an output of a layer has."""
        ...

    def part_rows(self, layer: int) -> tuple[int, ...]:
        """How many rows of a layer's table have the same inputs, part by part."""
        ...

    def places(self, layer: int) -> IndexArray | None:
        """Where in the weight vector the table's weights are; None where they lie in order."""
        ...

    def part_inputs(self, group: int, weights: RealArray) -> "Sequence[InputGrams]":
        """What the inputs of a group say, part by part, with the network at `weights`."""
        ...


@dataclass(frozen=True)
class _Rows:
    """A layer as a table: rows are outputs, whatever axes its parameter has. It answers as a Layer does."""

    name: str
    start: int
    stop: int
    shape: tuple[int, int]


_Asked = tuple[str, str, QuadraticForm, slice, Counted]
"""A block to be solved: its task's label, its own name, the form, which rows of the layer, and what they keep."""


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What the inputs of a group of layers say, in the layers' precision.

    hessian : X'X/n;  apart : X'(X − Y)/n, None where the dense network is not run;  drift : (X − Y)'(X − Y)/n
    """

    hessian: SharedHessian
    apart: RealArray | None
    drift: RealArray

    @staticmethod
    def of(held: "InputGrams", kind: Any) -> "_Inputs":
        """From sums in float64."""
        apart = None if held.apart is None else held.apart.astype(kind, copy=False)
        return _Inputs(SharedHessian.of(fixed(held.gram.astype(kind))), apart, held.drift.astype(kind, copy=False))


@dataclass(frozen=True)
class _Found:
    """What is known of a network before it is pruned.

    positions : the calibration samples whose inputs are gathered;  sources : where they are seen, layer by layer
    unreached : which weights they do not reach, as run.json has it;  left : the layers that are left dense
    """

    positions: IndexArray
    sources: Sequence[Any]
    unreached: Mapping[str, Any]
    left: tuple[LeftDense, ...]


@register
class LayerWise(Coordinator):
    """Asks for a layer's blocks, prunes the layer by their solutions, and goes on to the next.

    Nothing is random but the samples, which the caller draws. Exactly round(density·p) weights are kept, shared
    among the layers by largest remainder.

    Parameters
    ----------
    walk : the network, each layer as the table of its output rows
    layers : the prunable parameters in order
    dense_weights : float (p,), in whose precision all is held and computed; becomes the coordinator's own
    density : share of the weights that is kept
    mode : "select" (kept weights stay) or "refit"
    whole_layers : whether the solver takes a layer as one block
    problem : name for messages

    Raises
    ------
    InvalidInput   a quota N:M that does not fit the density or a layer
    """

    name: ClassVar[str] = "layer-wise"
    summary: ClassVar[str] = "Layer by layer from the Gram matrix of each layer's inputs; no backward pass."
    reference: ClassVar[str] = "Frantar, Alistarh: SparseGPT, ICML 2023; Sun et al.: Wanda, ICLR 2024"
    options_class: ClassVar[type] = LayerWiseOptions
    flags: ClassVar[Mapping[str, str]] = {"target": "WHAT", "bits": "B", "group_size": "N"}
    default_mode: ClassVar[Mode | None] = "refit"
    needs_network: ClassVar[bool] = True
    shares_passes: ClassVar[bool] = True

    def __init__(
        self,
        walk: Walk,
        layers: Sequence[Layer],
        dense_weights: RealArray,
        density: float,
        mode: Mode,
        options: LayerWiseOptions,
        *,
        whole_layers: bool,
        problem: str = "",
    ) -> None:
        self.options, self.mode, self.problem = options, mode, problem
        self.mask: BoolArray = np.ones(dense_weights.size, dtype=np.bool_)
        self.weights: RealArray = np.array(dense_weights)
        """Those of layers that are not done are the dense ones."""
        self._walk = walk
        self._say: Callable[[str], None] = lambda _line: None
        self._whole = whole_layers
        self._layers = [
            _Rows(layer.name, layer.start, layer.stop, ((layer.stop - layer.start) // columns, columns))
            for columns, layer in zip(map(walk.columns, range(len(layers))), layers, strict=True)
        ]
        self._quota = NetworkQuota.of(options.quota_kind, self._layers, density)
        self._grid: Grid | None = None
        if options.bits is not None:
            self._grid = Grid(options.bits, options.group_size, self._layers, self.weights)
        self._order = [(number, layer) for number, group in enumerate(walk.groups) for layer in group]
        tasks = [
            len(walk.part_rows(layer)) if whole_layers else self._layers[layer].shape[0] for _, layer in self._order
        ]
        self._first_task = np.concatenate([[0], np.cumsum(tasks)])
        self._done = 0
        self._held: tuple[int, Sequence[_Inputs]] | None = None
        self._waiting: list[Task] = []
        self._asked: list[Task] = []
        self._answers: dict[int, Solution] = {}
        self._forms: list[RowsForm] = []
        """Of the layer under way, part by part."""
        self._clock = self._gathered = 0.0
        self._pace = Pace(self._order, [layer.shape for layer in self._layers])
        self._under_way: IndexArray = np.zeros(0, dtype=np.int64)
        """Where in the weight vector that layer's weights are, row by row."""
        self._found: _Found | None = None
        """What was found out of the network before."""

    @classmethod
    def require(cls, setting: Setting) -> None:
        """Refuse a quota N:M that differs from the density, and levels in mode select."""
        setting.options.quota_kind.require_density(setting.density)
        if setting.options.bits is not None and setting.mode == "select":
            raise InvalidInput(
                f"coordinator layer-wise: bits={setting.options.bits} moves kept weights to levels, and mode select "
                "keeps their values; use --mode refit"
            )

    @classmethod
    def unmovable(cls, options: LayerWiseOptions) -> str:
        """With bits, weights that move leave their levels."""
        return "" if options.bits is None else f"bits={options.bits}"

    def levels(self) -> Levels | None:
        """Those of the layers that are done, with bits."""
        return None if self._grid is None else self._grid.levels()

    @classmethod
    def division(cls, setting: Setting, total: int) -> Division:
        """`held_out` samples judge recovery."""
        return Division.of(total, setting.seed, setting.options.held_out)

    @classmethod
    def fitted(cls, asked: Mapping[str, Any], total: int, fixed: Collection[str]) -> dict[str, int]:
        """Its samples, and those held out, which leave the larger part to recovery."""
        judging = fewer(LayerWiseOptions, "held_out", asked, held_out(total), fixed)
        return super().fitted(asked, total, fixed) | judging

    @classmethod
    def narrowed(cls, setting: Setting) -> Setting:
        """Without the layers whose inputs are not seen, are zero throughout, or do not fit the quota.

        Raises
        ------
        InvalidInput    more samples than there are, or no layer is left
        SolverRefused   `require_fit`
        """
        from prunebench.curvature import layer_walk

        options: LayerWiseOptions = setting.options
        problem = setting.problem
        assert isinstance(problem, NetworkProblem)
        calibration = problem.calibration()
        if options.samples > len(calibration):
            raise InvalidInput(
                f"coordinator layer-wise: samples is {options.samples} but {setting.name} has {len(calibration)} "
                "calibration samples; ask for fewer"
            )
        positions = spread(len(calibration), options.samples, np.random.default_rng(calibration_seed(setting.seed)))
        size = options.quota_kind.size
        seen = layer_walk.prunable_part(setting.network, calibration, positions, multiple=size)
        require_fit(setting.solver, seen.columns, options)
        found = _Found(positions, seen.sources, seen.unreached.as_json(), seen.left)
        return replace(setting, network=seen.network, left_dense=seen.left, found=found)

    @classmethod
    def begin(cls, setting: Setting) -> "LayerWise":
        """Over a network, whose weights now are the dense ones.

        Raises
        ------
        InvalidInput    as `narrowed`, or a layer that is not seen
        SolverRefused   `require_fit`
        """
        from prunebench.curvature.layer_walk import LayerWalk

        if setting.found is None:
            setting = cls.narrowed(setting)
        options: LayerWiseOptions = setting.options
        network, problem, found = setting.network, setting.problem, setting.found
        assert isinstance(problem, NetworkProblem)
        walk = LayerWalk(
            network, problem.calibration(), found.positions, dense=options.target == "dense", sources=found.sources
        )
        how = f"{walk.blocks} blocks run by themselves" if walk.blocks else "the network run from its inputs each time"
        setting.say(f"{len(network.layers)} layers with {len(walk.groups)} different inputs, {how}")
        made = cls(
            walk,
            network.layers,
            network.weights(network.precision),
            setting.density,
            setting.mode,
            options,
            whole_layers=facts(setting.solver).whole_layers,
            problem=setting.name,
        )
        made._found, made._say = found, setting.say
        if options.bits is not None:
            require_wide(network)
        if options.group_size is not None:
            for line in uneven(made._layers, options.group_size):
                setting.say(line)
        return made

    @classmethod
    def curvature_options(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """--samples and --ridge."""
        for name in ("batch_size", "gradient_scale"):
            if name in given:
                raise InvalidInput(
                    f"--{name.replace('_', '-')} belongs to gradients; coordinator layer-wise computes none"
                )
        return super().curvature_options(given)

    def network_facts(self) -> dict[str, Any]:
        """Which weights the inputs do not reach, and which layers are left dense."""
        from prunebench.networks.chosen import folded

        if self._found is None:
            return {}
        left = [
            {
                "reason": held.reason,
                "matrices": len(held.names),
                "weights": held.weights,
                "names": list(folded(held.names)),
            }
            for held in self._found.left
        ]
        return {"unreached": self._found.unreached, **({"left_dense": left} if left else {})}

    @property
    def total_steps(self) -> int | None:
        """The number of layers."""
        return len(self._order)

    @property
    def seconds_left(self) -> float | None:
        """By the operations of gathering and solving that are left, at the paces of both so far."""
        return self._pace.left(self._done)

    def ask(self, count: int = 1) -> list[Task]:
        """Blocks of the current layer; [] while the last are being solved, and at the end."""
        if self._done == len(self._order):
            return []
        if not self._waiting and not self._asked:
            self._begin()
        now, self._waiting = self._waiting[:count], self._waiting[count:]
        self._asked += now
        return now

    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        """Take a solution; after a layer's last one, write its mask and weights.

        Raises
        ------
        PrunebenchError   there is no solution: no part of a layer can be left out
        """
        if solution is None:
            raise PrunebenchError(f"{task.block.name} was not solved; there is no answer to go on with")
        self._answers[task.position] = solution
        self._asked = [held for held in self._asked if held.position != task.position]
        return None if self._asked or self._waiting else self._finish()

    @property
    def complete(self) -> bool:
        """Whether every layer is done."""
        return self._done == len(self._order)

    def check(self) -> None:
        """Raise PrunebenchError if a finished layer violates the quota, or its weights are on no level."""
        if broken := self._violation(self.mask, self._done):
            raise PrunebenchError(f"quota {self._quota.kind} is broken: {broken}; please report this")
        if self._grid is not None and (wrong := self._grid.levels().wrong(self.weights)):
            raise PrunebenchError(f"{wrong}; please report this")

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Mask, weights and the number of finished layers."""
        held = {} if self._grid is None else self._grid.state()
        return {"mask": self.mask, "weights": self.weights, **held}, {"done": self._done}

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue after the finished layers."""
        if self._done:
            raise PrunebenchError("a coordinator that has pruned layers takes no checkpoint; begin anew")
        mask, weights = checked_state(arrays, self.weights.size)
        done = checked_number(info, "done", most=len(self._order))
        if broken := self._violation(mask, done):
            raise InvalidInput(f"{broken}")
        for number, (_, place) in enumerate(self._order):
            layer = self._layers[place]
            part = slice(layer.start, layer.stop)
            if number >= done and not mask[part].all():
                raise InvalidInput(f"layer {layer.name!r} is not done and already pruned")
            if (number >= done or self.mode == "select") and (
                weights[part] != np.where(mask[part], self.weights[part], 0.0)
            ).any():
                raise InvalidInput(f"layer {layer.name!r} has kept weights other than the dense ones")
        if self._grid is not None:
            places = {place: self._places(place) for _, place in self._order[:done]}
            self._grid.load(arrays, places, weights.astype(self.weights.dtype))
        self.mask, self.weights, self._done = mask.astype(np.bool_), weights.astype(self.weights.dtype), done
        self._held, self._waiting, self._asked, self._answers = None, [], [], {}

    def _violation(self, mask: BoolArray, done: int) -> str:
        """How a mask breaks the quota in the first `done` layers of the order; "" where it keeps it. bool (p,)"""
        for _, number in self._order[:done]:
            if broken := self._quota.of_layer(number).violation(mask[self._places(number)]):
                return f"layer {self._layers[number].name!r} {broken}"
        return ""

    def _places(self, number: int) -> IndexArray:
        """Where in the weight vector a layer's weights are, row by row of its table. int64 (weights,)"""
        held, layer = self._walk.places(number), self._layers[number]
        return np.arange(layer.start, layer.stop) if held is None else held.reshape(-1)

    def _begin(self) -> None:
        """Gather the layer's inputs and prepare its tasks."""
        self._clock = perf_counter()
        group, number = self._order[self._done]
        if self._held is None or self._held[0] != group:
            self._held = None
            self._held = group, self._gather(group, self._layers[number].name)
        self._gathered = perf_counter() - self._clock
        layer, rows = self._layers[number], self._walk.part_rows(number)
        self._under_way = self._places(number)
        tables = np.split(self.weights[self._under_way].reshape(layer.shape), np.cumsum(rows)[:-1])
        self._forms = [self._part_form(table, held) for table, held in zip(tables, self._held[1], strict=True)]
        self._answers = {}
        keeping = self._quota.of_layer(number)
        if self._whole and len(rows) == 1:
            asked: list[_Asked] = [(layer.name, layer.name, self._forms[0], slice(0, layer.shape[0]), keeping)]
        else:
            counts = self._row_counts(keeping)
            asked = list(self._parts_asked(layer, counts) if self._whole else self._rows_asked(layer, counts))
        first = int(self._first_task[self._done])
        self._waiting = [
            Task(first + position, label, self._block(name, form, span, kept))
            for position, (label, name, form, span, kept) in enumerate(asked)
        ]

    def _gather(self, group: int, name: str) -> list[_Inputs]:
        """What the inputs of a group say, part by part, rounded to the layers' precision. name : of its first layer"""
        found = self._walk.part_inputs(group, self.weights)
        self._pace.inputs = sum(part.count for part in found)
        if unpaired := sum(part.unpaired for part in found):
            self._say(
                f"{name} is routed to otherwise than in the dense network: for {unpaired} of {self._pace.inputs} "
                "inputs its own outputs are the target"
            )
        return [_Inputs.of(part, self.weights.dtype) for part in found]

    def _parts_asked(self, layer: _Rows, counts: IndexArray) -> Iterator[_Asked]:
        """A layer's parts, the layer's count shared out among them."""
        start, columns, kind = 0, layer.shape[1], self._quota.kind
        for number, form in enumerate(self._forms):
            span = slice(start, start + form.rows)
            kept: Counted = kind.of_stretch(form.p, int(counts[span].sum()))
            if kind.text == "row" and form.rows > 1:
                kept = Quota.runs(columns, counts[span])
            yield f"{layer.name} part {number}", f"{layer.name}/part {number}", form, span, kept
            start += form.rows

    def _rows_asked(self, layer: _Rows, counts: IndexArray) -> Iterator[_Asked]:
        """A layer's rows, part by part."""
        row = 0
        for form in self._forms:
            for number in range(form.rows):
                kept = self._quota.kind.of_stretch(form.columns, int(counts[row]))
                one, span = form.row(number), slice(row, row + 1)
                yield f"{layer.name} row {row}", f"{layer.name}/row {row}", one, span, kept
                row += 1

    def _row_counts(self, keeping: Counted) -> IndexArray:
        """How many weights each row of the layer under way keeps, where it is not one block. int64 (rows,)"""
        if self._quota.kind.text == "layer":
            return _counts_weighed_together(self._forms, keeping.keep)
        rows = sum(form.rows for form in self._forms)
        return np.asarray(keeping.counts.reshape(rows, -1).sum(axis=1))

    def _block(self, name: str, form: QuadraticForm, rows: slice, keeping: Counted) -> BlockProblem:
        """The block of some rows of the layer under way."""
        columns = self._forms[0].columns
        return BlockProblem(
            form=form,
            dense_weights=form.centre,
            keep=keeping.keep,
            mode=self.mode,
            indices=self._under_way[rows.start * columns : rows.stop * columns],
            problem=f"{self.problem}/{name}" if self.problem else name,
            quota=keeping.quota,
        )

    def _part_form(self, table: RealArray, held: "_Inputs") -> RowsForm:
        """What it costs to change rows of a layer that have the same inputs. table : their dense weights"""
        apart = held.apart is not None
        return RowsForm(
            shared=held.hessian,
            rows=len(table),
            ridge=self.options.ridge * float(held.hessian.matrix.diagonal().mean(dtype=np.float64)),
            linear=(table @ held.apart.T).reshape(-1) if held.apart is not None else None,
            centre=fixed(table.reshape(-1)),
            constant=0.5 * row_products.along(table, held.drift) if apart else 0.0,
        )

    def _finish(self) -> Move:
        number = self._order[self._done][1]
        layer, places = self._layers[number], self._under_way
        ordered = [self._answers[position] for position in sorted(self._answers)]
        mask = np.concatenate([solution.mask for solution in ordered])
        weights = np.concatenate([solution.weights for solution in ordered])
        rounding: dict[str, Any] = {}
        if self._grid is not None:
            clock = perf_counter()
            weights, pruned, grid = self._grid.take(number, self._forms, mask, weights, places)
            rounding = {"bits": self.options.bits, "rounding_change": grid - pruned}
            rounding["rounding_seconds"] = perf_counter() - clock
        self.mask[places], self.weights[places] = mask, weights
        before = sum(form.constant for form in self._forms)
        # a row's form has no constant of its own
        after = sum(solution.objective for solution in ordered) + (0.0 if self._whole else before)
        after += rounding.get("rounding_change", 0.0)
        size = sum(0.5 * row_products.along(form.table(form.centre), form.shared) for form in self._forms)
        self._done += 1
        self._answers, self._forms = {}, []
        seconds = perf_counter() - self._clock
        self._pace.note(self._done - 1, self._gathered, seconds - self._gathered)
        details = {
            "layer": layer.name,
            "density": float(mask.mean()),
            "objective_before": before,
            "objective_after": after,
            "relative_error": after / size if size > 0.0 else 0.0,
            "blocks": len(ordered),
            "inputs_seconds": self._gathered,
            "solve_seconds": seconds - self._gathered - rounding.get("rounding_seconds", 0.0),
            **rounding,
        }
        return Move(True, after - before, int((~mask).sum()), details)


def require_wide(network: Any) -> None:
    """Refuse layers whose numbers do not hold a level times its scale exactly.

    network : a prunebench.networks.network.PrunableNetwork

    Raises
    ------
    InvalidInput   a parameter of half precision
    """
    for layer, parameter in zip(network.layers, network.parameters, strict=True):
        if parameter.element_size() < np.dtype(np.float32).itemsize:
            raise InvalidInput(
                f"layer {layer.name!r} holds {str(parameter.dtype).removeprefix('torch.')}, which rounds a level times "
                "its scale once more; load the network in float32"
            )


def require_fit(solver: SolverLike, columns: Mapping[str, int], options: LayerWiseOptions) -> None:
    """Refuse, before any work, a solver that cannot take the blocks of these layers.

    columns : how many weights an output row of each layer has

    Raises
    ------
    SolverRefused   rows longer than it takes, or a quota N:M that it cannot satisfy
    """
    known = facts(solver)
    if known.whole_layers:
        return
    if options.quota_kind.is_pattern:
        require_honoured(solver, options.quota_kind, "use --quota row")
    largest = known.max_size
    for name, length in columns.items():
        if largest is not None and length > largest:
            raise SolverRefused(
                f"solver {solver.name!r} takes blocks of at most {largest:,} weights and a row of layer {name!r} "
                f"has {length:,}; use --coordinator icbs --block-size {min(largest, 64)}, or another solver"
            )


def _counts_weighed_together(forms: Sequence[RowsForm], keep: int) -> IndexArray:
    """How many weights each row of a layer keeps, given only the total. int64 (rows,)

    Counts the `keep` highest w_j²/[H⁻¹]_jj of the layer at its minimiser, twice the cost of pruning one weight
    alone (Hassibi, Stork, NeurIPS 1992).
    """
    costs = []
    for form in forms:
        inverse = np.linalg.inv(row_products.as_wide(form.shared) + np.diag(form.row_ridge))
        slope = form.table(form.linear - form.product(form.centre))
        costs.append((slope @ inverse) ** 2 / inverse.diagonal())
    best = top_mask(np.concatenate([part.reshape(-1) for part in costs]), keep)
    return np.asarray(best.reshape(-1, forms[0].columns).sum(axis=1))
