"""Scores by what samples make of a group: gradients and curvature by gates, what layers see, and likeness."""

from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter, Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.curvature.gates import Gated, gate_rows
from prunebench.curvature.group_scores.evidence import Evidence, along, filters, per_group, split, summed
from prunebench.curvature.products import windows
from prunebench.structure.families import Family
from prunebench.structure.walk import Product, bound, name_of

MINIBATCH = 32
"""Samples whose gradients are averaged before they are squared in taylor-squared: a usual batch of training."""

PROBES = 16
"""Random vectors of ±1 that estimate a diagonal; families of no more groups together are computed exactly."""

PROBE_STREAM = 2
"""The stream of random numbers that probes are drawn from; no other score has it."""

DAMPING = 0.01
"""What is added to the diagonal of a layer's inputs' second moments, relative to its mean, as SparseGPT has it."""


def rows(evidence: Evidence) -> FloatArray:
    """The gradient of every sample's loss by every gate, for every draw of labels. float64 (draws·n, groups)"""
    return gate_rows(evidence.coupling, evidence.families, evidence.samples, evidence.positions, evidence.roots)


def taylor(evidence: Evidence) -> FloatArray:
    """Mean over samples of |∂loss/∂gate|, which is |Σ activation·gradient|; each family's norm is 1 (Molchanov et al.,
    2017, eq. 8 and §2.2; their division by the number of places cancels). float64 (groups,)
    """
    return np.concatenate([_unit(part) for part in split(np.abs(rows(evidence)).mean(axis=0), evidence.families)])


def taylor_squared(evidence: Evidence) -> FloatArray:
    """Mean over minibatches of (∂loss/∂gate)², the loss being the minibatch's mean. float64 (groups,)

    Molchanov et al., 2019, §3.1 and §3.2, with gates behind the norm.
    """
    found = rows(evidence)
    parts = np.array_split(found, max(1, round(len(found) / MINIBATCH)))
    return np.asarray(np.mean([part.mean(axis=0) ** 2 for part in parts], axis=0))


def hessian(evidence: Evidence) -> FloatArray:
    """½ ∂²loss/∂gate², negative ones as 0: the second-order rise of the loss (LeCun et al., 1989). float64 (groups,)

    The diagonal is the mean of v∘Hv over random signs v (Bekas et al., 2007); with no more groups than `PROBES`, it is
    exact.
    """
    groups = evidence.groups
    if groups <= PROBES:
        probes = np.eye(groups)
    else:
        rng = np.random.default_rng(np.random.SeedSequence(evidence.seed, spawn_key=(PROBE_STREAM,)))
        probes = rng.choice([-1.0, 1.0], size=(PROBES, groups))
    total, losses = np.zeros(groups), 0
    with sdpa_kernel(SDPBackend.MATH):
        for inputs, targets, chosen in evidence.batches():
            gates = torch.ones(groups, device=next(evidence.coupling.program.parameters()).device, requires_grad=True)
            outputs = Gated(evidence.coupling, evidence.families, gates.expand(len(inputs), -1)).run(inputs)
            for loss in evidence.losses(outputs, targets, chosen):
                losses += len(loss)
                (slope,) = torch.autograd.grad(loss.sum(), gates, create_graph=True)
                for probe in probes:
                    held = torch.from_numpy(probe).to(slope)
                    (curved,) = torch.autograd.grad(slope @ held, gates, retain_graph=True)
                    total += probe * curved.double().cpu().numpy()
    scale = losses * (1 if groups <= PROBES else PROBES)
    return np.maximum(0.5 * total / scale, 0.0)


class Watch(Interpreter):
    """Runs a network's graph and shows some operations' operand and result before anything changes them."""

    def __init__(self, program: Any, wanted: dict[Node, Product]) -> None:
        super().__init__(program)
        self._wanted = wanted
        self.take: Any = None

    def run_node(self, n: Node) -> Any:
        """One operation."""
        product = self._wanted.get(n)
        operand = None if product is None else self.env[product.operand]
        out = super().run_node(n)
        if product is not None:
            self.take(n, operand, out)
        return out


def beta_rank(evidence: Evidence) -> FloatArray:
    """A filter's absolute weights times β, the spread of what it gives over that of what it takes. float64 (groups,)

    At every place of the output, the standard deviation over samples of the output is divided by that of all that the
    filter sees there; the mean over places is β. Each layer's scores are moved to 0 to 1, and several layers of a
    family are added (Homayounfar et al.: Beta-Rank, 2023). Their formula divides the spreads of two neighbouring
    layers; which of them is above is taken from their published program.

    Raises
    ------
    InvalidInput   a family whose groups no convolution or linear layer makes
    """
    products = {product.node: (member[0], product) for member, product in summed(evidence.coupling).items()}
    made = {name for family in evidence.families for name, _ in filters(evidence.coupling, family, "beta-rank")}
    wanted = {node: p for node, (name, p) in products.items() if name in made and _patches_known(node)}
    sums: dict[Node, list[torch.Tensor]] = {}

    def take(node: Node, operand: torch.Tensor, out: torch.Tensor) -> None:
        x, y = _patches(node, operand), _places(node, out)
        found = [x.sum((0, 2)), x.square().sum((0, 2)), y.sum(0), y.square().sum(0)]
        sums[node] = [a + b for a, b in zip(sums[node], found, strict=True)] if node in sums else found

    watch = Watch(evidence.coupling.program, wanted)
    watch.take = take
    with torch.no_grad():
        for inputs, _, _ in evidence.batches():
            watch.run(inputs)
    spread: dict[str, FloatArray] = {}
    for node, (x, xx, y, yy) in sums.items():
        name = products[node][0]
        n = evidence.positions.size
        seen = n * (evidence.state()[name].numel() // y.shape[1])
        into = (xx / seen - (x / seen) ** 2).clamp(min=0.0).sqrt()
        outof = (yy / n - (y / n) ** 2).clamp(min=0.0).sqrt()
        quotient = (outof / into[:, None])[into > 0.0]
        spread[name] = quotient.mean(0).cpu().numpy() if len(quotient) else np.zeros(outof.shape[1])
    return np.concatenate([_beta_of(evidence, family, spread) for family in evidence.families])


def _beta_of(evidence: Evidence, family: Family, spread: dict[str, FloatArray]) -> FloatArray:
    state, total, found = evidence.state(), np.zeros(family.size), False
    for name, dim in filters(evidence.coupling, family, "beta-rank"):
        if name in spread:
            found = True
            sizes = along(state[name], dim).abs().sum(1).cpu().numpy()
            values = per_group(sizes * spread[name], family.members[name, dim])
            width = float(np.ptp(values))
            total += (values - values.min()) / width if width > 0.0 else 0.0
    if not found:
        raise InvalidInput(f"score beta-rank: no convolution or linear layer makes {family.label}; take another score")
    return total


def layer_obs(evidence: Evidence) -> FloatArray:
    """What the layers that sum over a group lose at least if it goes. float64 (groups,)

    Of a layer with weights W (inputs by outputs) and second moments H of its inputs, ½ tr(W_g' [(H⁻¹)_gg]⁻¹ W_g): half
    the mean squared error once all other weights have moved to make up for the group's (Hassibi, Stork, 1993, for one
    weight; Dong et al., 2017, layer by layer; Kurtić et al.: ZipLM, 2023, for groups). Layers are added.
    Structurally Prune Anything (Wang et al., 2024) prunes by such costs after training; how it adds them up is its own.

    Raises
    ------
    InvalidInput   a family whose groups no linear layer or ungrouped convolution sums over
    """
    read = summed(evidence.coupling)
    wanted: dict[Node, Product] = {}
    for family in evidence.families:
        found = {read[member].node: read[member] for member in family.members if member in read}
        usable = {node: product for node, product in found.items() if _patches_known(node)}
        if not usable:
            raise InvalidInput(
                f"score layer-obs: no linear layer or ungrouped convolution reads {family.label}; take another score"
            )
        wanted |= usable
    moments: dict[Node, torch.Tensor] = {}
    counts: dict[Node, int] = {}

    def take(node: Node, operand: torch.Tensor, _out: torch.Tensor) -> None:
        x = _patches(node, operand).flatten(0, 1)
        moments[node] = moments.get(node, 0.0) + x.T @ x
        counts[node] = counts.get(node, 0) + len(x)

    watch = Watch(evidence.coupling.program, wanted)
    watch.take = take
    with torch.no_grad():
        for inputs, _, _ in evidence.batches():
            watch.run(inputs)
    state = evidence.state()
    out = []
    for family in evidence.families:
        total = np.zeros(family.size)
        for (name, dim), indices in family.members.items():
            product = read.get((name, dim))
            if product is not None and product.node in moments:
                gram = (moments[product.node] / counts[product.node]).cpu().numpy()
                weight = along(state[name], dim).cpu().numpy()
                total += _losses(gram, state[name], dim, weight, indices)
        out.append(total)
    return np.concatenate(out)


def _losses(
    gram: FloatArray, tensor: torch.Tensor, dim: int, matrix: FloatArray, indices: tuple[np.ndarray, ...]
) -> FloatArray:
    """½ tr(W_g' [(H⁻¹)_gg]⁻¹ W_g) of every group.

    gram : (inputs·window, inputs·window);  tensor : the weight;  matrix : the same, rows by inputs
    """
    outputs = tensor.shape[1 - dim]
    window = gram.shape[0] // tensor.shape[dim]
    # rows by inputs and places of the window, columns by outputs
    weight = matrix.reshape(tensor.shape[dim], outputs, window).transpose(0, 2, 1).reshape(-1, outputs)
    lift = DAMPING * float(np.mean(np.diag(gram)))
    if lift <= 0.0:
        return np.zeros(len(indices))
    inverse = np.linalg.inv(gram + lift * np.eye(len(gram)))
    out = []
    for index in indices:
        places = (index[:, None] * window + np.arange(window)).ravel()
        held = weight[places]
        out.append(0.5 * float(np.sum(held * np.linalg.solve(inverse[np.ix_(places, places)], held))))
    return np.array(out)


def cka(evidence: Evidence) -> FloatArray:
    """1 − linear CKA between the inputs of the last layer with and without a group. float64 (groups,)

    One forward pass a group: meant for whole layers and heads. (Pons et al., 2024, for layers.)
    """
    last = evidence.coupling.walk.products[-1]
    whole = _representation(evidence, last.operand, None)
    return np.array([max(0.0, 1.0 - linear_cka(whole, _representation(evidence, last.operand, g)))
                     for g in range(evidence.groups)])  # fmt: skip


def linear_cka(first: FloatArray, second: FloatArray) -> float:
    """Likeness of two representations of the same samples, 0 to 1: ‖X'Y‖²/(‖X'X‖ ‖Y'Y‖), X and Y centred.

    Kornblith et al.: Similarity of Neural Network Representations Revisited, ICML 2019, eq. 5. It does not change with
    rotation or scale. Of a residual branch whose input and output are alike, little is lost where it goes.

    Parameters
    ----------
    first, second : (n, p) and (n, q)

    Returns
    -------
    float   1 where one of them does not vary and neither does the other, 0 where only one does not
    """
    x = np.asarray(first, dtype=np.float64) - np.mean(first, axis=0, dtype=np.float64)
    y = np.asarray(second, dtype=np.float64) - np.mean(second, axis=0, dtype=np.float64)
    # in samples rather than features: the same number, and the smaller matrices here
    one, other = x @ x.T, y @ y.T
    size = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    if 0.0 in size:
        return 1.0 if size[0] == size[1] else 0.0
    return float(np.sum(one * other)) / (size[0] * size[1])


def _representation(evidence: Evidence, node: Node, closed: int | None) -> FloatArray:
    """What a node gives for all samples, a row each, with one gate closed."""
    parts = []
    for inputs, _, _ in evidence.batches():
        device = next(evidence.coupling.program.parameters()).device
        gates = torch.ones(len(inputs), evidence.groups, device=device)
        if closed is not None:
            gates[:, closed] = 0.0
        with torch.no_grad():
            parts.append(_Until(evidence, gates, node).value(inputs).flatten(1).double().cpu().numpy())
    return np.concatenate(parts)


class _Until(Gated):
    """A gated network that keeps what one operation takes, gates applied."""

    def __init__(self, evidence: Evidence, gates: torch.Tensor, node: Node) -> None:
        super().__init__(evidence.coupling, evidence.families, gates)
        self.garbage_collect_values = False
        self._node = node
        self._last = evidence.coupling.walk.products[-1]

    def value(self, inputs: Any) -> torch.Tensor:
        """The operand of the last product, before its own gates."""
        self.run(inputs)
        held: torch.Tensor = self.env[self._node]
        for place in self._places.get(self._last.node, ()):
            held = self._through(place, held)
        return held


def _unit(values: FloatArray) -> FloatArray:
    size = float(np.linalg.norm(values))
    return values / size if size > 0.0 else values


def _patches_known(node: Node) -> bool:
    """Whether the rows of inputs of a product can be laid out: linear layers, ungrouped convolutions."""
    if name_of(node) in ("linear", "addmm"):
        return True
    a = bound(node)
    return name_of(node) in ("conv1d", "conv2d", "conv3d") and a["groups"] == 1 and not isinstance(a["padding"], str)


def _patches(node: Node, operand: torch.Tensor) -> torch.Tensor:
    """What each place of a product's output sees. float64 (samples, places, inputs·window)"""
    held = operand.double()
    if name_of(node) in ("linear", "addmm"):
        return held.reshape(len(held), -1, held.shape[-1])
    a = bound(node)
    kernel = [int(size) for size in a["weight"].meta["val"].shape[2:]]
    found = windows(held, kernel, stride=a["stride"], padding=a["padding"], dilation=a["dilation"])
    return found.flatten(1).reshape(len(held), -1, found.shape[1] * found.shape[2])


def _places(node: Node, out: torch.Tensor) -> torch.Tensor:
    """What a product gives. float64 (samples, places, outputs)"""
    held = out.double()
    if name_of(node) in ("linear", "addmm"):
        return held.reshape(len(held), -1, held.shape[-1])
    return held.flatten(2).transpose(1, 2)
