"""Sites that hold samples of their own and make one block together, for curvature is a sum over samples.

Each hands on rows of gradients, or what has the same products: R of a QR decomposition, or the products themselves; or
a sketch, whose products are right in expectation alone. Sites' products add up: Σ_s G_s'G_s is that of all samples.
Nothing of this is private: rows, R and products give the data away (docs/one-form.md).

Qiu et al.: FedTiny, ICDCS 2023 (arXiv 2212.01977) has the setting; its other two pieces are in `site_rounds`.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from prunebench.core import options as option_tools
from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import InvalidInput, NoCurvature, unknown_name
from prunebench.core.masks import keep_count
from prunebench.core.problem import NetworkProblem, Samples, options_as_json, spread
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.rows import RowsForm
from prunebench.core.subset import HANDED_ON
from prunebench.meanings.site_file import Site

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork

MOST_PRODUCTS = 8192
"""Weights of which all products are handed on, at most: 512 MiB."""
MASKS = 50
"""Random masks on which a sketch is compared with what it is a sketch of."""
KEPT = 0.1
"""Part of the weights that such a mask keeps."""


@dataclass(frozen=True, kw_only=True)
class SiteOptions:
    """What a site hands on, and of which weights. All sites choose alike.

    Raises
    ------
    InvalidInput   a value that cannot be, or two that contradict each other
    """

    kind: Literal["rows", "r", "gram", "sketch"] = "rows"
    """What is handed on: `prunebench.meanings.site_file.KINDS`."""

    sketched: int = 0
    """Rows of a sketch."""

    size: int | None = None
    """So many of the network's weights, drawn by the seed; none: all."""

    layer: str = ""
    """With gram: the products of this layer's inputs, in place of gradients; the block then is the whole layer."""

    ridge: float = 0.01
    """Relative to the mean of the pooled curvature's diagonal."""

    def __post_init__(self) -> None:
        option_tools.require_kinds(self)
        if (self.kind == "sketch") != (self.sketched > 0):
            raise InvalidInput("a sketch needs its number of rows, and nothing else has one: --sketch ROWS")
        if self.layer and (self.kind != "gram" or self.size is not None):
            raise InvalidInput("a layer's inputs are handed on as products of all of them: --gram --layer, no --size")
        if self.size is not None and self.size < 1:
            raise InvalidInput(f"size is {self.size}; choose a whole number from 1")
        if not (np.isfinite(self.ridge) and self.ridge >= 0.0):
            raise InvalidInput(f"ridge is {self.ridge!r}; choose a number from 0")


def at_site(
    problem: NetworkProblem, positions: IndexArray | None = None, options: SiteOptions | None = None, *, seed: int = 0
) -> Site:
    """What a site with these samples hands on.

    The network runs in float64, so that a sample's gradient does not depend on the others of its batch.

    Parameters
    ----------
    positions : of calibration samples, int64 (s,); None for all
    seed : of the weights, alike at all sites, and of a sketch, which is drawn anew for every site's data

    Raises
    ------
    InvalidInput   no samples, more weights than there are, or too many for their products; samples that count several
                   observations (tokens), whose rows need the mean of all sites
    NoCurvature    gradients that are zero throughout
    """
    from prunebench.networks.chosen import prunable_network
    from prunebench.networks.samples import row_weight

    options, calibration = options or SiteOptions(), problem.calibration()
    chosen = np.arange(len(calibration)) if positions is None else np.sort(np.asarray(positions, dtype=np.int64))
    if chosen.size == 0:
        raise InvalidInput(f"this site has no samples of {problem.name}; give it some, or leave it out")
    network = prunable_network(problem)
    facts: dict[str, Any] = {
        "samples": int(chosen.size), "problem": problem.name, "ridge": options.ridge,
        "weights": _hash_of_values(network), "preprocessing": _hash_of_samples(problem, calibration),
    }  # fmt: skip
    if options.layer:
        return _layer(network, calibration, chosen, options.layer, facts)
    if row_weight(calibration) != 1.0:
        raise InvalidInput(
            f"samples of {problem.name} count several tokens each, and their rows need the mean of all sites; hand on "
            "layers' inputs (--gram --layer NAME)"
        )
    indices = np.arange(network.total)
    if options.size is not None:
        if options.size > network.total:
            raise InvalidInput(f"size is {options.size}, but {problem.name} has {network.total} weights")
        indices = spread(network.total, options.size, np.random.default_rng([seed, 2]))
    if options.kind == "gram" and indices.size > MOST_PRODUCTS:
        raise InvalidInput(
            f"products of {indices.size} weights are {indices.size**2:,} numbers; hand on rows or r, a layer's inputs "
            f"(--layer NAME), or at most {MOST_PRODUCTS} weights (--size)"
        )
    weights = network.weights()[indices]
    rows = _rows(problem, network, calibration, chosen)[:, indices]
    if not rows.any():
        raise NoCurvature("all gradients at this site are zero, so its samples say nothing about any weight")
    data, error = _handed_on(rows, weights, options, seed)
    return Site(kind=options.kind, data=data, indices=indices, dense_weights=weights, error=error, **facts)


@dataclass(frozen=True)
class Merged:
    """One block of several sites. told : what is to be known of it, in sentences"""

    block: BlockProblem
    told: tuple[str, ...]


def merge(sites: Sequence[Site], *, density: float, mode: Mode = "select", names: Sequence[str] = ()) -> Merged:
    """The block problem of the samples of all sites. The order in which sites are given makes no difference.

    names : of the sites, for messages

    Raises
    ------
    InvalidInput   no sites, a site twice, or sites that differ in network, weights, preprocessing, ridge or kind
    """
    if not sites:
        raise InvalidInput("there are no sites to merge; give the files that 'prunebench site' wrote")
    called = list(names) or [f"site {number + 1}" for number in range(len(sites))]
    _require_alike(sites, called)
    # sums of floating-point numbers depend on their order
    ordered = sorted(sites, key=lambda site: site.hash)
    first, total = ordered[0], sum(site.samples for site in sites)
    keep = keep_count(density, first.indices.size, "the block")
    block = BlockProblem(
        _layer_form(ordered, total) if first.layer else _form(ordered, total),
        first.dense_weights, keep, mode, indices=first.indices, problem=first.problem,
    )  # fmt: skip
    told = [f"{total:,} samples of {len(sites)} sites"]
    if len(sites) == 1:
        told = [f"{total:,} samples", "warning: there is one site only, so nothing was merged"]
    if first.kind == "sketch":
        worst = max(site.error for site in sites)
        told.append(f"sketches: at the worst site, f of {MASKS} random masks is off by up to {100 * worst:.3g} %")
    return Merged(block, tuple(told))


def _require_alike(sites: Sequence[Site], names: Sequence[str]) -> None:
    first = sites[0]
    seen: dict[str, str] = {}
    for site, name in zip(sites, names, strict=True):
        site.require_sound(name)
        if (twin := seen.setdefault(site.hash, name)) is not name:
            raise InvalidInput(f"{twin} and {name} hold the same; give every site once")
        checks = (
            ("problem", site.problem, first.problem, "merge sites of one problem"),
            ("network's weights", site.weights, first.weights, "give all sites the same checkpoint"),
            ("preprocessing of samples", site.preprocessing, first.preprocessing, "use the same options at all sites"),
            ("ridge", site.ridge, first.ridge, "use the same --ridge at all sites"),
            ("layer", site.layer, first.layer, "hand on the same layer at all sites"),
        )
        for what, here, there, remedy in checks:
            if here != there:
                raise InvalidInput(f"{name} and {names[0]} differ in their {what} ({here} and {there}); {remedy}")
        if not np.array_equal(site.indices, first.indices):
            raise InvalidInput(f"{name} and {names[0]} are of other weights; use the same --size and --seed everywhere")
        if (site.kind == "sketch") != (first.kind == "sketch"):
            raise InvalidInput(
                f"{name} handed on {site.kind} and {names[0]} {first.kind}: a sum of both would have the error of the "
                "one and the size of the other; hand on sketches everywhere, or nowhere"
            )
        if (site.kind == "gram") != (first.kind == "gram"):
            raise InvalidInput(
                f"{name} handed on {site.kind} and {names[0]} {first.kind}; hand on products everywhere, or nowhere"
            )


def _form(sites: Sequence[Site], total: int) -> QuadraticForm:
    """The pooled Fisher form. sites : in order"""
    first = sites[0]
    if first.kind == "gram":
        hessian = np.zeros_like(first.data, dtype=np.float64)
        for site in sites:
            hessian += site.data
        hessian /= total
        ridge = first.ridge * float(hessian.diagonal().mean())
        return QuadraticForm(hessian=hessian, ridge=ridge, centre=first.dense_weights)
    factor = np.concatenate([site.data for site in sites]).astype(np.float64) / np.sqrt(total)
    ridge = first.ridge * float(np.einsum("np,np->p", factor, factor).mean())
    return QuadraticForm(factor=factor, ridge=ridge, centre=first.dense_weights)


def _layer_form(sites: Sequence[Site], total: int) -> RowsForm:
    """The form of a whole layer, whose rows share the products of the inputs. sites : in order"""
    first = sites[0]
    shared = np.zeros_like(first.data, dtype=np.float64)
    for site in sites:
        shared += site.data
    shared /= total
    ridge = first.ridge * float(shared.diagonal().mean())
    return RowsForm(shared=shared, rows=first.rows_of_layer, ridge=ridge, centre=first.dense_weights)


def _handed_on(
    rows: npt.NDArray[np.float32], weights: FloatArray, options: SiteOptions, seed: int
) -> tuple[npt.NDArray[Any], float]:
    """What is handed on of rows (n, p), and by how much f of masks then is off."""
    if options.kind == "rows":
        return rows, 0.0
    wide = rows.astype(np.float64)
    if options.kind == "gram":
        return wide.T @ wide, 0.0
    if options.kind == "r":
        triangle: FloatArray = np.asarray(np.linalg.qr(wide, mode="r"))
        return triangle, 0.0
    # another site with the same seed has other rows, and needs other random numbers for its errors to be its own
    own = int.from_bytes(hashlib.sha256(rows.tobytes()).digest()[:8], "little")
    rng = np.random.default_rng([seed, own])
    out = rng.standard_normal((options.sketched, len(wide))) @ wide / np.sqrt(options.sketched)
    moves = np.where(rng.random((MASKS, weights.size)) < KEPT, 0.0, -weights)
    exact = np.square(wide @ moves.T).sum(axis=0)
    found = np.square(out @ moves.T).sum(axis=0)
    return out, float(np.max(np.abs(found - exact) / np.where(exact > 0.0, exact, np.inf)))


class _Wide:
    """Samples in float64: inputs and targets that are floating-point numbers."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        for name in HANDED_ON:
            if hasattr(samples, name):
                setattr(self, name, getattr(samples, name))

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, positions: IndexArray) -> tuple[Any, Any]:
        inputs, targets = self._samples.batch(positions)
        return _double(inputs), _double(targets)


def _double(value: Any) -> Any:
    import torch
    from torch.utils import _pytree as pytree

    def one(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    return pytree.tree_map(one, value)


def _wide(network: "PrunableNetwork") -> "PrunableNetwork":
    """A copy of the network in float64."""
    from prunebench.networks.network import PrunableNetwork

    return PrunableNetwork(copy.deepcopy(network.model).double(), network.names)


def _rows(
    problem: NetworkProblem, network: "PrunableNetwork", samples: Samples, positions: IndexArray
) -> npt.NDArray[np.float32]:
    from prunebench.curvature.gradients import sample_gradients

    return sample_gradients(_wide(network), problem.loss, _Wide(samples), positions)


def _layer(
    network: "PrunableNetwork", samples: Samples, positions: IndexArray, layer: str, facts: dict[str, Any]
) -> Site:
    from prunebench.curvature.activations import layer_inputs

    name = layer if layer.endswith(".weight") else f"{layer}.weight"
    spans = {held.name: held for held in network.layers}
    if name not in spans:
        raise unknown_name("layer", layer, spans)
    found = layer_inputs(_wide(network), layer, _Wide(samples), positions)
    span = spans[name]
    return Site(
        kind="gram", data=found.gram * found.count, indices=np.arange(span.start, span.stop),
        dense_weights=found.weights.reshape(-1), layer=name, rows_of_layer=len(found.weights),
        **{**facts, "samples": found.count},
    )  # fmt: skip


def _hash_of_values(network: "PrunableNetwork") -> str:
    """Of all values of the model, prunable or not."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.double().numpy().tobytes() if tensor.is_floating_point() else tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _hash_of_samples(problem: NetworkProblem, samples: Samples) -> str:
    """Of how samples are made, as far as that can be seen: the problem's options, and a sample's shape and type."""
    inputs, targets = samples.batch(np.zeros(1, dtype=np.int64))
    seen = {
        "options": options_as_json(problem),
        "normalised": [getattr(samples, name, None) for name in ("mean", "std")],
        "inputs": [str(getattr(inputs, "dtype", "")), str(tuple(inputs.shape)[1:])],
        "targets": str(getattr(targets, "dtype", "")),
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True, default=str).encode()).hexdigest()[:16]


def shares(labels: IndexArray, sites: int) -> list[IndexArray]:
    """Positions of as many sites that each have some classes and no others: consecutive ones. int64 (s,) each

    Raises
    ------
    InvalidInput   more sites than classes
    """
    classes = np.unique(labels)
    if not 1 <= sites <= classes.size:
        raise InvalidInput(f"{sites} sites cannot have classes of their own: there are {classes.size}")
    return [np.flatnonzero(np.isin(labels, part)) for part in np.array_split(classes, sites)]
