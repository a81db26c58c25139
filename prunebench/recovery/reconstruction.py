"""A network without some of its groups, refitted layer by layer so that it gives what the dense network gives.

The samples go through the dense network and the pruned one side by side, operation by operation. Every layer whose
inputs have changed, or have lost some of their groups, is a least-squares problem: from the inputs that it has now, the
dense network's values come out again. Where a residual sum follows, its value is the target: what the dense network
has there, less what the other branch gives now (Frantar, Alistarh: Optimal Brain Compression, 2022; Kurtić, Frantar,
Alistarh: ZipLM, 2023; Meng et al.: OSSCAR, 2024).
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.fx import Node

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.recovery.layer_rows import ROWS_PER_INPUT, layer_rows
from prunebench.structure.families import Family
from prunebench.structure.resize import Living, State, masked_state, state_of
from prunebench.structure.trace import Coupling, attribute
from prunebench.structure.walk import bound, name_of

Targets = Literal["dense", "own"]
"""What a layer is to give: what the dense network has there, or what the layer as it was gives from its present inputs.
The latter takes families that are chosen late, whose groups are all still there then."""

FEW = 10
"""Rows of calibration data for each input of a layer below which its refit fits those rows alone."""


@dataclass(frozen=True)
class Layer:
    """A layer that can be refitted.

    node : the product;  weight, bias : names of its parameters, "" for no bias
    norm : the batch norm that follows it alone, None if none does;  total : the sum that follows, None if none does
    other : what else the sum takes
    """

    node: Node
    weight: str
    bias: str
    norm: Node | None
    total: Node | None
    other: Node | None

    @property
    def end(self) -> Node:
        """The operation whose value is the target."""
        return self.total or self.norm or self.node


@dataclass
class Fit:
    """One layer's least-squares problem, in moments. Inputs (p,), of which some are alive, outputs (q,).

    gram, cross : centred second moments, (p, p) and (p, q);  inputs, outputs : means
    constant : by output, half the mean squared target, centred;  rows : how many the moments are of
    """

    layer: Layer
    gram: FloatArray
    cross: FloatArray
    inputs: FloatArray
    outputs: FloatArray
    constant: FloatArray
    rows: int


@dataclass(frozen=True)
class Choice:
    """A layer's problem whose groups are to be chosen: ½ E‖y − W'x‖², x being centred inputs, y centred targets.

    family : its number;  name : of the family;  group : of every input, its group's number in the family
    gram, cross, constant : second moments of inputs, with targets, and half the targets' mean square
    """

    family: int
    name: str
    gram: FloatArray
    cross: FloatArray
    group: IndexArray
    constant: float


@dataclass
class Reconstruction:
    """Walks a network's graph with all samples and refits its layers.

    Parameters
    ----------
    coupling : the network;  families, kept : what goes
    inputs : of all samples
    ridge : pull to the weights as they stand, relative to the mean of the Gram diagonal
    targets : see `Targets`
    seed : of the places in samples that rows are drawn from;  rows : as many for each input of a layer, at most
    chosen_late : families whose groups are chosen when the walk reaches the layer that sums over them: `steps` asks;
        each must feed one layer alone (`single_followers`), and its `kept` counts for nothing until then
    """

    coupling: Coupling
    families: Sequence[Family]
    kept: Sequence[BoolArray]
    inputs: Any
    ridge: float = 1e-3
    seed: int = 0
    rows: int = ROWS_PER_INPUT
    targets: Targets = "dense"
    chosen_late: frozenset[int] = frozenset()
    errors: dict[str, float] = field(default_factory=dict)
    """By layer, the part of its target's variance that is not reached."""
    thin: list[str] = field(default_factory=list)
    """Layers that were refitted from fewer than FEW rows an input."""

    def run(self) -> State:
        """The state of the network with zeros where groups are gone, its layers refitted; nothing is chosen late."""
        steps = self.steps()
        try:
            next(steps)
        except StopIteration as done:
            state: State = done.value
            return state
        raise InvalidInput("groups are to be chosen on the way; go through steps() and send what is kept")

    def steps(self) -> Generator[Choice, BoolArray, State]:
        """Walk the network; for families that are chosen late, yields their layer's problem and takes what is kept."""
        self._masks = [
            np.ones(family.size, dtype=np.bool_) if number in self.chosen_late else np.asarray(mask, dtype=np.bool_)
            for number, (family, mask) in enumerate(zip(self.families, self.kept, strict=True))
        ]
        self._owner = {base: number for number, family in enumerate(self.families) for base in family.groups}
        self._open = set(self.chosen_late)
        self._living = Living(self.coupling, self.families, self._masks)
        self._dense = state_of(self.coupling)
        self._state = masked_state(self.coupling, self._dense, self._living)
        self._sums = {branch.total: branch for branch in self._living.gone}
        self._dead = {node for branch in self._living.gone for node in branch.inside}
        layers = {layer.node: layer for layer in layers_of(self.coupling) if layer.node not in self._dead}
        order = _order(self.coupling, layers)
        last = _last_uses(order, layers)
        end = max((place for place, node in enumerate(order) if node in layers), default=-1)
        now: dict[Node, Any] = {}
        dense: dict[Node, Any] = {}
        given = iter(self.coupling.program.graph.process_inputs(self.inputs))
        with torch.no_grad():
            for place, node in enumerate(order):
                if place > end:
                    break
                if node.op == "placeholder":
                    now[node] = dense[node] = next(given)
                    continue
                if node.op == "get_attr":
                    name = self.coupling.tied.get(str(node.target), str(node.target))
                    dense[node] = self._dense[name] if name in self._dense else attribute(self.coupling.program, name)
                    now[node] = self._state.get(name, dense[node])
                    continue
                yield from self._step(node, layers.get(node), now, dense)
                for done in last.get(place, ()):
                    now.pop(done, None)
                    dense.pop(done, None)
        return masked_state(self.coupling, self._state, self._living)

    def _step(
        self, node: Node, layer: Layer | None, now: dict[Node, Any], dense: dict[Node, Any]
    ) -> Generator[Choice, BoolArray, None]:
        dense[node] = _call(node, dense)
        if node in self._dead:
            return
        if (branch := self._sums.get(node)) is not None:
            # the sum is its shortcut: a copy, as what follows may change it in place
            now[node] = now[branch.shortcut].clone()
            return
        family = None if layer is None else self._family_of(layer)
        same = all(now[operand] is dense[operand] for operand in node.all_input_nodes)
        # a projection whose sum has lost its branch is refitted to the whole sum
        alone = layer is not None and layer.total in self._sums
        if same and family is None and not alone:
            now[node] = dense[node]
            return
        if layer is not None:
            fit = self._moments(layer, now, dense)
            if family is not None:
                kept = yield self._choice(family, fit)
                self._masks[family] = np.asarray(kept, dtype=np.bool_)
                self._open.discard(family)
                self._living = Living(self.coupling, self.families, self._masks)
            self._refit(layer, fit)
            held = layer.norm.all_input_nodes if layer.norm is not None else ()
            for operand in (*node.all_input_nodes, *held):
                if operand.op == "get_attr":
                    now[operand] = self._state[str(operand.target)]
        now[node] = _call(node, now)

    @property
    def masks(self) -> list[BoolArray]:
        """What is kept of every family, as far as it is chosen."""
        return self._masks

    def _family_of(self, layer: Layer) -> int | None:
        """The family, still to be chosen, whose groups the layer sums over."""
        owners = {self._owner.get(base, -1) for label in self._inputs(layer) for base in self._bases(label)}
        return min(owners & self._open, default=None)

    def _choice(self, number: int, fit: Fit) -> Choice:
        """The layer's problem with the groups of a family; inputs of none of them are refitted out of it."""
        window = self._window(fit.layer)
        places = {base: k for k, base in enumerate(self.families[number].groups)}
        owners = [
            next((places[base] for base in self._bases(label) if base in places), -1)
            for label in self._inputs(fit.layer)
        ]
        group = np.repeat(np.array(owners, dtype=np.int64), window)
        if (group < 0).any():
            raise InvalidInput(
                f"{fit.layer.weight} sums over more than the groups of {self.families[number].name}; let its groups be "
                "chosen by gates"
            )
        return Choice(number, self.families[number].name, fit.gram, fit.cross, group, float(fit.constant.sum()))

    def _bases(self, label: int) -> tuple[int, ...]:
        return self.coupling.walk.labels.bases(label)

    def _inputs(self, layer: Layer) -> list[int]:
        dims = self.coupling.parameters[layer.weight]
        return dims[0] if _turned(layer.node) else dims[1]

    def _window(self, layer: Layer) -> int:
        dims = self.coupling.parameters[layer.weight]
        return self._dense[layer.weight].numel() // (len(dims[0]) * len(dims[1]))

    def _refit(self, layer: Layer, fit: Fit) -> None:
        alive = self._live_inputs(layer)
        outs = self._live_outputs(layer)
        if fit.rows < FEW * alive.size:
            self.thin.append(layer.weight)
        weight = _matrix(self._state[layer.weight], layer)
        scale = self._scale(layer)
        pull = (weight * scale[None, :])[np.ix_(alive, outs)]
        gram = fit.gram[np.ix_(alive, alive)]
        lift = self.ridge * float(np.mean(np.diag(gram))) if alive.size else 0.0
        if lift == 0.0:
            return
        cross = fit.cross[np.ix_(alive, outs)] + lift * pull
        found = np.linalg.solve(gram + lift * np.eye(alive.size), cross)
        if not np.isfinite(found).all():
            raise InvalidInput(f"the refit of {layer.weight} gives NaN; take a larger ridge")
        whole = float(fit.constant[outs].sum())
        left = (
            whole - float(np.sum(found * fit.cross[np.ix_(alive, outs)])) + 0.5 * float(np.sum(found * (gram @ found)))
        )
        self.errors[layer.weight] = left / whole if whole > 0.0 else 0.0
        new = np.zeros_like(weight)
        new[np.ix_(alive, outs)] = found
        self._write(layer, new, outs, fit.outputs[outs] - fit.inputs[alive] @ found)

    def _moments(self, layer: Layer, now: dict[Node, Any], dense: dict[Node, Any]) -> Fit:
        """Second moments of what the layer takes now and of what it is to give."""
        goal = self._goal(layer, now, dense)
        operand = now[_operand(layer.node)]
        gram: Any = 0.0
        cross: Any = 0.0
        sums: Any = 0.0
        goals: Any = 0.0
        squares: Any = 0.0
        count = 0
        for x, y in layer_rows(layer.node, operand, goal, self.seed, self.rows):
            gram = gram + (x.T @ x).double()
            cross = cross + (x.T @ y).double()
            sums, goals = sums + x.double().sum(0), goals + y.double().sum(0)
            squares, count = squares + (y.double() ** 2).sum(0), count + len(x)
        mean, aim = (sums / count).cpu().numpy(), (goals / count).cpu().numpy()
        if not self._has_bias(layer):
            mean, aim = np.zeros_like(mean), np.zeros_like(aim)
        return Fit(
            layer,
            (gram / count).cpu().numpy() - np.outer(mean, mean),
            (cross / count).cpu().numpy() - np.outer(mean, aim),
            mean,
            aim,
            0.5 * ((squares / count).cpu().numpy() - aim**2),
            count,
        )

    def _goal(self, layer: Layer, now: dict[Node, Any], dense: dict[Node, Any]) -> torch.Tensor:
        """What is to come out before the sum, places by outputs as the layer has them."""
        held = dict(dense)
        if self.targets == "own":
            # the layer as it was, from its inputs as they are before their groups are chosen
            held[_operand(layer.node)] = now[_operand(layer.node)]
            held[layer.node] = _call(layer.node, held)
        value: torch.Tensor = held[layer.node]
        if layer.norm is not None:
            value = held[layer.norm] = _call(layer.norm, held)
        if layer.total is not None and self.targets == "dense":
            assert layer.other is not None
            if layer.total in self._sums:
                value = value + dense[layer.other]
            elif layer.other in now:
                value = value + (dense[layer.other] - now[layer.other])
        return value

    def _live_inputs(self, layer: Layer) -> np.ndarray:
        """Which rows of the weight, as a matrix inputs by outputs, are alive."""
        alive = np.array([self._living.alive(label) for label in self._inputs(layer)])
        return np.flatnonzero(np.repeat(alive, self._window(layer)))

    def _live_outputs(self, layer: Layer) -> np.ndarray:
        dims = self.coupling.parameters[layer.weight]
        labels = dims[1] if _turned(layer.node) else dims[0]
        return np.flatnonzero([self._living.alive(label) for label in labels])

    def _has_bias(self, layer: Layer) -> bool:
        return bool(layer.bias) or layer.norm is not None

    def _scale(self, layer: Layer) -> FloatArray:
        """What the norm multiplies every output with."""
        outputs = _matrix(self._state[layer.weight], layer).shape[1]
        if layer.norm is None:
            return np.ones(outputs)
        names = _norm_names(layer.norm)
        state = self._state
        scale = 1.0 / torch.sqrt(state[names["running_var"]].double() + bound(layer.norm)["eps"])
        if names["weight"]:
            scale = scale * state[names["weight"]].double()
        return np.asarray(scale.cpu().numpy(), dtype=np.float64)

    def _write(self, layer: Layer, weight: FloatArray, outs: np.ndarray, bias: FloatArray) -> None:
        old = self._state[layer.weight]
        turned = weight if _turned(layer.node) else weight.T
        self._state[layer.weight] = torch.from_numpy(np.ascontiguousarray(turned)).to(old).reshape(old.shape)
        if layer.norm is None:
            if layer.bias:
                self._state[layer.bias] = _filled(self._state[layer.bias], outs, bias)
            return
        # the norm becomes the addition of a bias: what it did is in the weights now
        names = _norm_names(layer.norm)
        eps = float(bound(layer.norm)["eps"])
        zeros = torch.zeros_like(self._state[names["running_mean"]])
        variance = torch.ones_like(self._state[names["running_var"]]) - eps
        self._state[names["running_var"]] = variance
        if layer.bias:
            self._state[layer.bias] = torch.zeros_like(self._state[layer.bias])
        if names["weight"]:
            self._state[names["running_mean"]] = zeros
            self._state[names["weight"]] = _filled(zeros, outs, np.ones(len(outs)))
            self._state[names["bias"]] = _filled(zeros, outs, bias)
        else:
            self._state[names["running_mean"]] = _filled(zeros, outs, -bias)


def single_followers(coupling: Coupling, families: Sequence[Family]) -> frozenset[int]:
    """The families, by number, that feed one layer alone, which sums over nothing else and can be refitted."""
    owner = {base: number for number, family in enumerate(families) for base in family.groups}
    layers = {layer.node for layer in layers_of(coupling)}
    labels = coupling.walk.labels
    out: set[int] = set()
    ruled_out: set[int] = set()
    for product in coupling.walk.products:
        found = [
            {owner[base] for base in labels.bases(label) if base in owner}
            for label in coupling.walk.of(product.operand)[product.dim]
        ]
        touched = set().union(*found)
        alone = product.node in layers and len(touched) == 1 and all(found)
        ruled_out |= touched & out if alone else touched
        out |= touched
    return frozenset(out - ruled_out)


def layers_of(coupling: Coupling) -> Iterator[Layer]:
    """The layers of a network that can be refitted: linear layers and ungrouped convolutions with weights of their own.

    A weight that is used twice, tied, or computed is left as it is.
    """
    uses: dict[str, int] = {}
    for node in coupling.program.graph.nodes:
        if node.op == "get_attr":
            name = coupling.tied.get(str(node.target), str(node.target))
            uses[name] = uses.get(name, 0) + len(node.users)
    trained = {name for name, _ in coupling.program.named_parameters()}
    for node in coupling.program.graph.nodes:
        if node.op != "call_function" or name_of(node) not in ("linear", "conv1d", "conv2d", "addmm"):
            continue
        a = bound(node)
        weight = a["mat2"] if name_of(node) == "addmm" else a["weight"]
        bias = a["self"] if name_of(node) == "addmm" else a["bias"]
        if weight.op != "get_attr" or a.get("groups", 1) != 1 or isinstance(a.get("padding"), str):
            continue
        name = str(weight.target)
        if name not in trained or uses[name] != 1 or (isinstance(bias, Node) and bias.op != "get_attr"):
            continue
        norm = _only_user(node)
        if norm is None or name_of(norm) != "batch_norm" or bound(norm)["training"]:
            norm = None
        total = _only_user(norm or node)
        other = None
        if total is not None and name_of(total) in ("add", "add_"):
            operands = total.all_input_nodes
            other = next((operand for operand in operands if operand is not (norm or node)), None)
        if other is None or other.op == "get_attr":
            total = other = None
        yield Layer(node, name, str(bias.target) if isinstance(bias, Node) else "", norm, total, other)


def _only_user(node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op == "call_function" else None


def _norm_names(norm: Node) -> dict[str, str]:
    a = bound(norm)
    return {
        key: str(a[key].target) if isinstance(a[key], Node) else ""
        for key in ("weight", "bias", "running_mean", "running_var")
    }


def _order(coupling: Coupling, layers: Mapping[Node, Layer]) -> list[Node]:
    """The nodes in an order in which what a layer's sum takes besides comes before the layer, where that can be."""
    nodes = list(coupling.program.graph.nodes)
    place = {node: k for k, node in enumerate(nodes)}
    before: dict[Node, set[Node]] = {}
    for node in nodes:
        found: set[Node] = set()
        for operand in node.all_input_nodes:
            found |= before[operand] | {operand}
        before[node] = found
    out: list[Node] = []
    done: set[Node] = set()
    for node in nodes:
        layer = layers.get(node)
        if layer is not None and layer.other is not None and node not in before[layer.other]:
            wanted = sorted((before[layer.other] | {layer.other}) - done, key=place.__getitem__)
            out += wanted
            done |= set(wanted)
        if node not in done:
            out.append(node)
            done.add(node)
    return out


def _last_uses(order: Sequence[Node], layers: Mapping[Node, Layer]) -> dict[int, list[Node]]:
    """By place in the order, what is not needed after it."""
    last: dict[Node, int] = {}
    for place, node in enumerate(order):
        for operand in node.all_input_nodes:
            last[operand] = place
        if (layer := layers.get(node)) is not None and layer.other is not None:
            last[layer.other] = max(last.get(layer.other, 0), place)
    out: dict[int, list[Node]] = {}
    for node, place in last.items():
        if node.op != "get_attr":
            out.setdefault(place, []).append(node)
    return out


def _call(node: Node, values: Mapping[Node, Any]) -> Any:
    args = torch.fx.node.map_arg(node.args, values.__getitem__)
    kwargs = torch.fx.node.map_arg(node.kwargs, values.__getitem__)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _turned(node: Node) -> bool:
    """Whether the weight is inputs by outputs."""
    return name_of(node) == "addmm"


def _operand(node: Node) -> Node:
    a = bound(node)
    held: Node = a["mat1"] if _turned(node) else a["input"]
    return held


def _matrix(weight: torch.Tensor, layer: Layer) -> FloatArray:
    """The weight as inputs by outputs, float64."""
    held = weight.detach().double().cpu().numpy()
    return held if _turned(layer.node) else held.reshape(held.shape[0], -1).T


def _filled(like: torch.Tensor, places: np.ndarray, values: FloatArray) -> torch.Tensor:
    """Zeros as another tensor, with these values at these places."""
    out = torch.zeros_like(like)
    out[torch.from_numpy(places)] = torch.from_numpy(np.asarray(values)).to(out)
    return out
