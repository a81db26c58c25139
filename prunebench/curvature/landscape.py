"""A network as the landscape of block coordinate descent: one backward pass serves every block.

For a linear layer the sample gradient of weight (o, i) is Σ_t d_t[o]·a_t[i], with a the layer's
inputs and d the gradients of its outputs, so the columns of a block are gathered from what the one
backward pass has anyway; no gradient of a whole layer is formed per sample.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from prunebench.core.arrays import FloatArray, IndexArray, RealArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, Samples
from prunebench.curvature.finite import first_broken
from prunebench.curvature.gradient_check import (
    Checked,
    Difference,
    difference,
    hardest,
    in_half,
    true_gradients,
)
from prunebench.curvature.gradient_ways import PASSES, way_of
from prunebench.curvature.gradient_work import Loss
from prunebench.curvature.gradients import sample_gradients
from prunebench.curvature.input_norms import input_norms
from prunebench.curvature.layer_sources import chunks_of
from prunebench.curvature.linear_gradients import sample_products
from prunebench.curvature.linear_passes import linear_modules, send, unsuited
from prunebench.curvature.pass_memory import Activations, activations, pass_memory, require_room
from prunebench.curvature.shared_views import PASSES as VIEW_PASSES
from prunebench.curvature.shared_views import SharedLosses, SharedViewPasses, batch_loss
from prunebench.curvature.view import NetworkView, RowsView
from prunebench.curvature.view_passes import Scope
from prunebench.networks.network import Layer, PrunableNetwork
from prunebench.networks.samples import at_once, fetched

EVALUATION_BATCH = 2000
"""Samples that go through the network at a time where they do not say."""

PASS_BYTES = 2**29
"""Activations that a backward pass should keep at a time: fewer samples go through together where they take more. A
matrix product is as fast with some hundred rows as with thousands."""

MOST_CHECKED = 2**26
"""Above this many weights (gradients of 256 MiB a sample) two samples are computed both ways, not three."""

CHECK_BYTES = 2**28
"""Gradients that are held at a time while that is done, where a layer's are not more by themselves. Each portion costs
two passes of those samples, once a run."""


class NetworkLandscape:
    """A trained network and its calibration samples, standing at the weights that were last placed.

    Parameters
    ----------
    problem : NetworkProblem     gives the samples and the loss
    network : PrunableNetwork    its weights are the dense ones; the model is written to by every call
    """

    def __init__(self, problem: NetworkProblem, network: PrunableNetwork) -> None:
        self.network = network
        self.dense_weights: RealArray = network.weights(network.precision)
        self.calibration: Samples = problem.calibration()
        self.loss_of: Loss = problem.loss
        self.linear = linear_modules(network)
        self.device = next(network.model.parameters()).device
        self._activations: dict[torch.Size, Activations] = {}
        self._losses: SharedLosses | None = None
        self.recompute = bool(getattr(problem, "checkpointing", False))
        self.weights: RealArray = self.dense_weights
        """Where it stands, as it was given: moves that are only tried are not in it."""
        self.point = 0
        """The number of the point where it stands, a tried move's included."""
        self._points, self._version = 0, network.version
        self._views = False
        """Whether passes through linear layers give all gradients, so that views can be made of them."""
        self.way: Checked = self._looked_at()
        """How gradients are computed, and what was looked at before."""

    @property
    def layers(self) -> Sequence[Layer]:
        """The prunable parameters in order."""
        return self.network.layers

    @property
    def samples(self) -> int:
        """How many calibration samples there are."""
        return len(self.calibration)

    def place(self, weights: RealArray) -> int:
        """Stand at `weights`, float (p,), all of which are written. -> the point's number

        Raises
        ------
        InvalidInput   wrong shape, NaN or infinity; nothing is written then
        """
        self.network.assign(weights)
        self.weights, self.point, self._version = weights, self._next_point(), self.network.version
        return self.point

    def stands_at(self, point: int) -> bool:
        """Whether that is still the point, and nobody has written to the network since."""
        return self.point == point and self._version == self.network.version

    def write(self, indices: IndexArray, values: RealArray) -> int:
        """Move to where the weights in `indices` have `values`; no others are written. -> the point's number

        The array it was placed with must hold them already: the landscape may come back to that.

        indices : int64 (b,), no repeats;  values : float (b,)

        Raises
        ------
        InvalidInput   a value is NaN or infinite; nothing is written then
        """
        known = self.stands_at(self.point)
        self.network.write(indices, np.asarray(values, dtype=self.dense_weights.dtype))
        self.point = self._next_point()
        # who else wrote before is found out by the version that stays behind
        self._version = self.network.version if known else ()
        return self.point

    @contextmanager
    def moved(self, indices: IndexArray, values: RealArray) -> Iterator[None]:
        """Inside, the weights in `indices` are at `values`, first rounded to the precision in which weights are held.

        No others are written, neither then nor when they are put back. A landscape that is placed elsewhere
        inside stays there.

        indices : int64 (b,), no repeats;  values : float (b,)

        Raises
        ------
        InvalidInput   a value is NaN or infinite; nothing is written then
        """
        network, point, known = self.network, self.point, self.stands_at(self.point)
        before = network.read(indices)
        network.write(indices, np.asarray(values, dtype=self.dense_weights.dtype))
        self.point = tried = self._next_point()
        self._version = network.version
        try:
            yield
        finally:
            if self.point == tried:
                # who else wrote meanwhile, or before, is found out by the version that stays behind
                known = known and self.stands_at(tried)
                network.write(indices, before)
                self.point = point
                self._version = network.version if known else ()

    def look(self, positions: IndexArray) -> NetworkView | RowsView:
        """The loss around the point on the samples at `positions`.

        Raises
        ------
        InvalidInput   a gradient is NaN or infinite; the message names the layer
        """
        if not self._views:
            rows = sample_gradients(self.network, self.loss_of, self.calibration, positions, device=str(self.device))
            return RowsView(self, positions, rows)
        return NetworkView(self, positions)

    def _looked_at(self) -> Checked:
        """Passes through linear layers where they give what the network's own backward pass does, else another way.

        Raises
        ------
        InvalidInput   what `true_gradients` refuses, or rows that are tokens and no passes to take them from
        """
        samples = hardest(self.network, self.loss_of, self.calibration, np.arange(len(self.calibration)))
        if self.network.total > MOST_CHECKED:
            samples = samples[:2]
        reason = unsuited(self.network, self.calibration, self.device)
        if not reason:
            try:
                away = self._away(samples)
            except InvalidInput as error:
                reason = str(error)
            else:
                if away.small:
                    self._views = True
                    return Checked(PASSES, samples.size, away.error)
                reason = str(away)
                warnings.warn(
                    f"gradients by {PASSES} are not those of plain autograd ({reason}); they are computed otherwise",
                    RuntimeWarning,
                    stacklevel=2,
                )
        if getattr(self.calibration, "rows", "sequence") == "token":
            raise InvalidInput(
                f"rows of tokens (sample=token) need passes through the layers, which this network does not allow: "
                f"{reason}; use sample=sequence, or leave the layer out with exclude=NAME"
            )
        way = way_of(self.network, self.loss_of, self.calibration, samples, device=str(self.device))
        # layer passes may do for whole gradients, with convolutions, where they do not for views
        return way if way.way == PASSES else replace(way, rejected={PASSES: reason, **way.rejected})

    def _away(self, positions: IndexArray) -> Difference:
        """By how much gradients from passes differ from those of plain autograd, a few layers at a time."""
        batch = fetched(self.calibration, positions, self.device)
        worst = Difference(0.0, "", float("inf"))
        for names in _portions(self.network.layers, positions.size):
            true = true_gradients(
                self.network, self.loss_of, self.calibration, positions, names, recompute=self.recompute
            )
            found: list[dict[str, torch.Tensor]] = [{} for _ in positions]

            def add(
                name: str, given: torch.Tensor, slopes: torch.Tensor, found: list[dict[str, torch.Tensor]] = found
            ) -> None:
                for sums, product in zip(found, sample_products(self.linear[name], given, slopes), strict=True):
                    sums[name] = sums[name] + product if name in sums else product

            modules = {name: self.linear[name] for name in names}
            send(self.network.model, modules, self.loss_of, batch, add, recompute=self.recompute)
            away = difference(found, true, half=in_half(self.network))
            worst = max(worst, away, key=lambda item: item.error / item.tolerance)
        return worst

    def loss(self, positions: IndexArray) -> float:
        """The mean loss at the point, in evaluation mode, summed in float64.

        Raises
        ------
        InvalidInput   it is NaN or infinite because a sample's is in the dense network; the message names the sample
        """
        batches = chunks_of(positions, at_once(self.calibration, EVALUATION_BATCH))
        sharing = self.network.sharing
        if sharing is not None and sharing.pays(self.network, float(positions.size), 0.0):
            self._losses = self._losses or SharedLosses(sharing, self)
            total = sum(self._losses.sums(batches))
        else:
            total = sum(batch_loss(self.network, self.loss_of, self.batch(batch)) for batch in batches)
        if not math.isfinite(total):
            self._require_sound(positions)
        return total / positions.size

    def _require_sound(self, positions: IndexArray) -> None:
        """Raise InvalidInput where not the weights but a sample makes the loss what it is."""
        with self._dense():
            which, why = first_broken(self.network, self.loss_of, self.calibration, positions)
        if not why.in_backward_pass:
            raise InvalidInput(f"the dense network's loss is NaN or infinite at sample {which}: {why.text}")

    @contextmanager
    def _dense(self) -> Iterator[None]:
        """Inside, the network has its dense weights; afterwards those it had."""
        held = [parameter.detach().clone() for parameter in self.network.parameters]
        self.network.assign(self.dense_weights)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, values in zip(self.network.parameters, held, strict=True):
                    parameter.copy_(values)

    def _next_point(self) -> int:
        self._points += 1
        return self._points

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets where the model is."""
        inputs, targets = self.calibration.batch(positions)
        return inputs.to(self.device), targets.to(self.device)

    def shared(self, batches: Sequence[IndexArray], counts: Sequence[int], scope: Scope) -> SharedViewPasses | None:
        """Passes of a view by workers, None where there are none or this process does them sooner."""
        sharing = self.network.sharing
        if sharing is None:
            return None
        # a step asks for the gradient of the layers that its blocks are drawn from, often one
        result = 4.0 * max(layer.size for layer in self.layers) * min(len(batches), 2 * sharing.width)
        if not sharing.pays(self.network, VIEW_PASSES * scope.samples, result):
            return None
        return SharedViewPasses(sharing, self, batches, counts, scope)

    def at_once(self, positions: IndexArray) -> int:
        """How many of these samples go through forward and backward at a time: what they say, within PASS_BYTES."""
        usual = min(at_once(self.calibration, EVALUATION_BATCH), positions.size)
        inputs, _ = self.batch(positions[:1])
        return max(1, min(usual, PASS_BYTES // max(1, self._kept(inputs).kept(self.recompute))))

    def _kept(self, inputs: torch.Tensor) -> Activations:
        """What a pass of a sample keeps. inputs : its, as a batch of one"""
        if inputs.shape not in self._activations:
            self._activations[inputs.shape] = activations(self.network.model, inputs)
        return self._activations[inputs.shape]

    def require_room(self, batches: Sequence[IndexArray], rows: Sequence[int], columns: int, weights: int) -> None:
        """Raise InvalidInput, with bytes and remedy, unless there is memory for a pass.

        Parameters
        ----------
        batches : int64 (b,) each, the samples that go through together
        rows : of the factor, for each batch
        columns : weights in all blocks together
        weights : how many weights' mean gradient is wanted
        """
        inputs, _ = self.batch(max(batches, key=len)[:1])
        need = pass_memory(
            self._kept(inputs),
            batch=max(map(len, batches)),
            rows=sum(rows),
            batch_rows=max(rows),
            columns=columns,
            weights=weights,
            recompute=self.recompute,
        )
        require_room(need, self.device)

    def input_norms(self, positions: IndexArray) -> list[FloatArray]:
        """The norms of what the weights of each layer multiply in the dense network: `input_norms.input_norms`."""
        with self._dense():
            step = at_once(self.calibration, EVALUATION_BATCH)
            return input_norms(self.network, self.calibration, positions, step)


def _portions(layers: Sequence[Layer], samples: int) -> Iterator[list[str]]:
    """Names of consecutive layers whose float32 gradients, computed in two ways, take CHECK_BYTES together."""
    names: list[str] = []
    size = 0
    for layer in layers:
        bytes_needed = 2 * 4 * samples * layer.size
        if names and size + bytes_needed > CHECK_BYTES:
            yield names
            names, size = [], 0
        names.append(layer.name)
        size += bytes_needed
    yield names
