"""Layer-wise relevance propagation through a network's graph, and the relevance of its groups.

Rule LRP-0: of what a product gives, each input gets the part that it contributed, R_i = Σ_j x_i w_ij R_j / z_j, with
the bias in z (Bach et al.: On Pixel-Wise Explanations, 2015; Yeom et al.: Pruning by Explaining, 2021). Relevance over
value is then carried back as a gradient is, through linear operations, sums and maxima as usual, and through an
activation y(z) by y/z, which for relu is the gradient.
"""

from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter, Node

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.curvature.gates import Gate, Gated
from prunebench.curvature.group_scores.evidence import Evidence
from prunebench.structure.walk import name_of


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACTIVATIONS = _names("""
    relu relu_ relu6 relu6_ leaky_relu leaky_relu_ gelu gelu_ silu silu_ elu elu_ celu selu selu_ mish mish_ hardswish
    hardswish_ hardtanh hardtanh_ tanh tanh_ softplus threshold threshold_ clamp clamp_ clamp_min
""")
"""Operations on one value that pass its relevance on as it is."""

LINEAR = _names("""
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear addmm batch_norm
    _native_batch_norm_legit_no_training add add_ sub sub_ neg cat stack concat mean sum
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
    flatten view reshape _unsafe_view unflatten permute transpose t squeeze unsqueeze expand slice select index narrow
    split split_with_sizes chunk unbind getitem pad constant_pad_nd contiguous clone alias detach to _to_copy dropout
    dropout_ feature_dropout movedim roll flip channel_shuffle pixel_shuffle pixel_unshuffle type_as
""")
"""Operations that are linear in what they take, up to constants, or that choose among it."""

SCALED = _names("mul mul_ div div_")
"""Linear where only one of both factors depends on the samples."""


def require_rules(evidence: Evidence, score: str) -> None:
    """Raise InvalidInput if the network has an operation that relevance has no rule for here, with its name."""
    moving: set[Node] = set()
    for node in evidence.coupling.program.graph.nodes:
        taken = [operand for operand in node.all_input_nodes if operand in moving]
        if node.op == "placeholder":
            moving.add(node)
        if node.op != "call_function" or not taken:
            continue
        name = name_of(node)
        if not isinstance(node.meta.get("val"), torch.Tensor | tuple | list):
            continue
        moving.add(node)
        known = name in ACTIVATIONS or name in LINEAR or (name in SCALED and len(taken) == 1)
        if name.startswith("conv") or name in ("linear", "addmm"):
            known = known and len(taken) == 1
        if not known:
            raise InvalidInput(
                f"score {score}: relevance has no rule for {name} of {node.name}; take another score, such as taylor"
            )


class Relevant(Gated):
    """A network that is computed so that what autograd carries back is relevance over value.

    factors : ones that everything a group feeds is multiplied with, by place: relevance is the gradient by them
    """

    def __init__(self, evidence: Evidence, samples: int) -> None:
        device = next(evidence.coupling.program.parameters()).device
        super().__init__(evidence.coupling, evidence.families, torch.ones(samples, evidence.groups, device=device))
        self.factors: list[tuple[Gate, torch.Tensor]] = []

    def run_node(self, n: Node) -> Any:
        """One operation; activations pass relevance on."""
        if n.op != "call_function" or name_of(n) not in ACTIVATIONS:
            return super().run_node(n)
        value = self.env[n.args[0]]  # type: ignore[index]  # their first argument is what they are of
        self.env[n.args[0]] = value.clone()  # type: ignore[index]
        result = super().run_node(n).detach()
        part = torch.where(value == 0.0, torch.zeros_like(value), result / torch.where(value == 0.0, 1.0, value))
        out = value * part.detach()
        # an operation in place has changed what others read
        self.env[n.args[0]] = out if name_of(n).endswith("_") else value  # type: ignore[index]
        return out

    def _through(self, place: Gate, value: torch.Tensor) -> torch.Tensor:
        ones = torch.ones_like(value, requires_grad=True)
        self.factors.append((place, ones))
        return value * ones


def relevances(evidence: Evidence, inputs: Any, labels: torch.Tensor, *, absolute: bool) -> FloatArray:
    """The relevance of every group for the output of every sample's label. float64 (s, groups)

    absolute : relevances of all places of a group are added as absolute values; otherwise they are added as they are,
        and in a network without biases those of a whole layer come to the output

    Raises
    ------
    InvalidInput   outputs are not one row of classes a sample
    """
    net = Relevant(evidence, len(inputs))
    with torch.enable_grad():
        outputs = net.run(inputs)
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or labels.ndim != 1:
            raise InvalidInput("score lrp: relevance begins at a class's output; take another score for this network")
        begun = outputs.gather(1, labels[:, None].long()).sum()
        found = torch.autograd.grad(begun, [ones for _, ones in net.factors])
    total = torch.zeros(len(inputs), evidence.groups + 1, dtype=torch.float64)
    for (place, _), relevance in zip(net.factors, found, strict=True):
        held = (relevance.abs() if absolute else relevance).double().cpu()
        held = held.movedim((place.batch, place.dim), (0, 1))
        held = held.flatten(2).sum(2) if held.ndim > 2 else held
        held = held.reshape(len(inputs), -1, held.shape[1]).sum(1)
        for factor in place.numbers.cpu().T:
            total.index_add_(1, factor, held)
    return np.asarray(total[:, :-1].numpy())


def lrp(evidence: Evidence) -> FloatArray:
    """Absolute relevance of all places of a group for the label's output, summed over samples (Yeom et al., 2021; rule
    LRP-0). Relevance begins as the output itself; batch norms count as part of the layer before. float64 (groups,)

    Raises
    ------
    InvalidInput   outputs that are no classes, or an operation without a rule, by name
    """
    require_rules(evidence, "lrp")
    total = np.zeros(evidence.groups)
    for inputs, targets, chosen in evidence.batches():
        with torch.no_grad():
            outputs = Interpreter(evidence.coupling.program).run(inputs)
        for labels in evidence.labels(outputs, targets, chosen):
            if not isinstance(labels, torch.Tensor):
                raise InvalidInput("score lrp: targets must be one class a sample; take another score")
            total += relevances(evidence, inputs, labels, absolute=True).sum(0)
    return total
