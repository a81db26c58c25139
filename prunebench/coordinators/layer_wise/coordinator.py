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
"""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from prunebench.coordinators.landscape import Layer
from prunebench.coordinators.layer_wise.options import LayerWiseOptions
from prunebench.coordinators.quotas import NetworkQuota, require_honoured
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.coordinator import (
    Coordinator,
    Move,
    Setting,
    Task,
    calibration_seed,
    checked_number,
    checked_state,
    register,
)
from prunebench.core.errors import InvalidInput, PrunebenchError, SolverRefused
from prunebench.core.keeping import Counted
from prunebench.core.masks import top_mask
from prunebench.core.problem import NetworkProblem, spread
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.rows import RowsForm
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

    def inputs(self, group: int, weights: FloatArray) -> "InputGrams":
        """The Gram matrices of a group's inputs, with the network at `weights`."""
        ...


@register
class LayerWise(Coordinator):
    """Asks for a layer's blocks, prunes the layer by their solutions, and goes on to the next.

    Nothing is random but the samples, which the caller draws. Exactly round(density·p) weights are kept, shared
    among the layers by largest remainder.

    Parameters
    ----------
    walk : the network
    layers : the prunable parameters in order;  dense_weights : float (p,)
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
    flags: ClassVar[Mapping[str, str]] = {"target": "WHAT"}
    needs_network: ClassVar[bool] = True

    def __init__(
        self,
        walk: Walk,
        layers: Sequence[Layer],
        dense_weights: FloatArray,
        density: float,
        mode: Mode,
        options: LayerWiseOptions,
        *,
        whole_layers: bool,
        problem: str = "",
    ) -> None:
        self.options, self.mode, self.problem = options, mode, problem
        self.mask: BoolArray = np.ones(dense_weights.size, dtype=np.bool_)
        self.weights: FloatArray = dense_weights.copy()
        self._walk, self._layers, self._dense = walk, layers, dense_weights
        self._whole = whole_layers
        self._quota = NetworkQuota.of(options.quota_kind, layers, density)
        self._order = [(number, layer) for number, group in enumerate(walk.groups) for layer in group]
        tasks = [1 if whole_layers else layers[layer].shape[0] for _, layer in self._order]
        self._first_task = np.concatenate([[0], np.cumsum(tasks)])
        self._done = 0
        self._held: tuple[int, InputGrams] | None = None
        self._waiting: list[Task] = []
        self._asked: list[Task] = []
        self._answers: dict[int, Solution] = {}
        self._form: RowsForm | None = None
        self._clock = self._gathered = 0.0
        self._looked_at: tuple[Setting, IndexArray] | None = None
        """Its setting, and the calibration samples whose inputs are gathered."""

    @classmethod
    def require(cls, setting: Setting) -> None:
        """Refuse a quota N:M that differs from the density."""
        setting.options.quota_kind.require_density(setting.density)

    @classmethod
    def begin(cls, setting: Setting) -> "LayerWise":
        """Over a network, whose present weights are the dense ones.

        Raises
        ------
        InvalidInput    more samples requested than there are
        SolverRefused   see `require_fit`
        """
        from prunebench.curvature.layer_walk import LayerWalk

        options: LayerWiseOptions = setting.options
        network, problem = setting.network, setting.problem
        assert isinstance(problem, NetworkProblem)
        require_fit(setting.solver, network.layers, options)
        calibration = problem.calibration()
        if options.samples > len(calibration):
            raise InvalidInput(
                f"coordinator layer-wise: samples is {options.samples} but {setting.name} has {len(calibration)} "
                "calibration samples; ask for fewer"
            )
        positions = spread(len(calibration), options.samples, np.random.default_rng(calibration_seed(setting.seed)))
        walk = LayerWalk(network, calibration, positions, dense=options.target == "dense")
        how = f"{walk.blocks} blocks run by themselves" if walk.blocks else "the network run from its inputs each time"
        setting.say(f"{len(network.layers)} layers with {len(walk.groups)} different inputs, {how}")
        made = cls(
            walk,
            network.layers,
            network.weights(),
            setting.density,
            setting.mode,
            options,
            whole_layers=facts(setting.solver).whole_layers,
            problem=setting.name,
        )
        made._looked_at = setting, positions
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
        """Which weights no input reaches."""
        from prunebench.curvature import reach

        if self._looked_at is None:
            return {}
        setting, positions = self._looked_at
        assert isinstance(setting.problem, NetworkProblem)
        reached = reach.reached_by_inputs(setting.network, setting.problem.calibration(), positions)
        return {"unreached": reach.unreached(setting.network.layers, reached, positions.size).as_json()}

    @property
    def total_steps(self) -> int | None:
        """The number of layers."""
        return len(self._order)

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
        """Raise PrunebenchError if a finished layer violates the quota."""
        self._quota.require(self.mask, [layer for _, layer in self._order[: self._done]])

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Mask, weights and the number of finished layers."""
        return {"mask": self.mask, "weights": self.weights}, {"done": self._done}

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue after the finished layers."""
        mask, weights = checked_state(arrays, self._dense.size)
        done = checked_number(info, "done", most=len(self._order))
        if broken := self._quota.violation(mask, [layer for _, layer in self._order[:done]]):
            raise InvalidInput(f"{broken}")
        for number, (_, place) in enumerate(self._order):
            layer = self._layers[place]
            part = slice(layer.start, layer.stop)
            if number >= done and not mask[part].all():
                raise InvalidInput(f"layer {layer.name!r} is not done and already pruned")
            if (number >= done or self.mode == "select") and (
                weights[part] != np.where(mask[part], self._dense[part], 0.0)
            ).any():
                raise InvalidInput(f"layer {layer.name!r} has kept weights other than the dense ones")
        self.mask, self.weights, self._done = mask.astype(np.bool_), weights.astype(np.float64), done
        self._held, self._waiting, self._asked, self._answers = None, [], [], {}

    def _begin(self) -> None:
        """Gather the layer's inputs and prepare its tasks."""
        self._clock = perf_counter()
        group, number = self._order[self._done]
        if self._held is None or self._held[0] != group:
            self._held = group, self._walk.inputs(group, self.weights)
        self._gathered = perf_counter() - self._clock
        layer = self._layers[number]
        form = self._form = self._layer_form(layer, self._held[1])
        keeping = self._quota.of_layer(number)
        first = int(self._first_task[self._done])
        self._answers = {}
        if self._whole:
            self._waiting = [Task(first, layer.name, self._block(layer, form, keeping))]
            return
        counts = self._row_counts(form, keeping)
        for row in range(form.rows):
            part = slice(row * form.columns, (row + 1) * form.columns)
            inner = self._quota.kind.of_stretch(form.columns, int(counts[row]))
            block = self._block(layer, form.row(row), inner, part, f"{layer.name}/row {row}")
            self._waiting.append(Task(first + row, f"{layer.name} row {row}", block))

    def _row_counts(self, form: RowsForm, keeping: Counted) -> IndexArray:
        """How many weights each row keeps, for solvers that take single rows. int64 (rows,)"""
        if self._quota.kind.text == "layer":
            return _counts_weighed_together(form, keeping.keep)
        return np.asarray(keeping.counts.reshape(form.rows, -1).sum(axis=1))

    def _block(
        self,
        layer: Layer,
        form: QuadraticForm,
        keeping: Counted,
        part: slice = slice(None),
        label: str = "",
    ) -> BlockProblem:
        label = label or layer.name
        return BlockProblem(
            form=form,
            dense_weights=self._dense[layer.start : layer.stop][part],
            keep=keeping.keep,
            mode=self.mode,
            indices=np.arange(layer.start, layer.stop)[part],
            problem=f"{self.problem}/{label}" if self.problem else label,
            quota=keeping.quota,
        )

    def _layer_form(self, layer: Layer, held: "InputGrams") -> RowsForm:
        dense = self._dense[layer.start : layer.stop]
        table = dense.reshape(layer.shape[0], -1)
        away = table @ (held.gram - held.cross).T
        return RowsForm(
            shared=held.gram,
            rows=layer.shape[0],
            ridge=self.options.ridge * float(held.gram.diagonal().mean()),
            linear=away.reshape(-1),
            centre=dense,
            constant=0.5 * float(np.einsum("ij,ij->", table @ held.drift, table)),
        )

    def _finish(self) -> Move:
        number = self._order[self._done][1]
        layer, form = self._layers[number], self._form
        assert form is not None
        ordered = [self._answers[position] for position in sorted(self._answers)]
        mask = np.concatenate([solution.mask for solution in ordered])
        weights = np.concatenate([solution.weights for solution in ordered])
        self.mask[layer.start : layer.stop], self.weights[layer.start : layer.stop] = mask, weights
        self._done += 1
        self._answers, self._form = {}, None
        dense = self._dense[layer.start : layer.stop]
        before, after = form.value(dense), form.value(weights)
        table = form.table(dense)
        size = 0.5 * float(np.einsum("ij,ij->", table @ form.shared, table))
        seconds = perf_counter() - self._clock
        details = {
            "layer": layer.name,
            "density": float(mask.mean()),
            "objective_before": before,
            "objective_after": after,
            "relative_error": after / size if size > 0.0 else 0.0,
            "blocks": len(ordered),
            "inputs_seconds": self._gathered,
            "solve_seconds": seconds - self._gathered,
        }
        return Move(True, after - before, int((~mask).sum()), details)


def require_fit(solver: SolverLike, layers: Sequence[Layer], options: LayerWiseOptions) -> None:
    """Refuse, before any work, a solver that cannot take the blocks of these layers.

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
    for layer in layers:
        if largest is not None and _columns(layer) > largest:
            raise SolverRefused(
                f"solver {solver.name!r} takes blocks of at most {largest:,} weights and a row of layer {layer.name!r} "
                f"has {_columns(layer):,}; use --coordinator icbs --block-size {min(largest, 64)}, or another solver"
            )


def _columns(layer: Layer) -> int:
    return (layer.stop - layer.start) // layer.shape[0]


def _counts_weighed_together(form: RowsForm, keep: int) -> IndexArray:
    """How many weights each row keeps, given only the total. int64 (rows,)

    Counts the `keep` highest w_j²/[H⁻¹]_jj of the layer at its minimiser, twice the cost of pruning one weight
    alone (Hassibi, Stork, NeurIPS 1992).
    """
    inverse = np.linalg.inv(form.shared + np.diag(form.ridge[: form.columns]))
    slope = form.table(form.linear - form.product(form.centre))
    costs = (slope @ inverse) ** 2 / inverse.diagonal()
    return np.asarray(form.table(top_mask(costs.reshape(-1), keep)).sum(axis=1))
