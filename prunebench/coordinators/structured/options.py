"""The options of structured pruning."""

from dataclasses import dataclass
from typing import Literal

from prunebench.core.errors import InvalidInput
from prunebench.curvature.group_scores.names import GATES
from prunebench.structure.latency import Runtime


@dataclass(frozen=True, kw_only=True)
class StructuredOptions:
    """What is pruned, to which budget, and how."""

    structure: str = ""
    """Kinds of families (channels, neurons, heads, kv-heads, query-heads, head-dims, stream, layers) or patterns of
    their names, separated by commas; empty: channels, neurons, heads and kv-heads inside of layers and blocks."""

    budget: Literal["macs", "parameters", "bytes", "latency"] = "macs"
    """What the density is a part of: multiply-accumulates of a sample, parameters, bytes, or measured time."""

    runtime: Runtime = "torch"
    """With budget latency: what runs the network, torch or onnxruntime, on one thread of the processor."""

    latency_batch: int = 16
    """With budget latency: samples at a time."""

    latency_table: str = ""
    """With budget latency: a file of times that another run measured here (its latency.json); empty: measured anew."""

    samples: int = 1000
    """Calibration samples for gates and refit; where they are rows of tokens, no more than option tokens leaves."""

    tokens: int = 65536
    """Where samples are rows of tokens: tokens of all calibration samples together, at most."""

    choice: Literal["auto", "gates", "layers"] = "auto"
    """What says which groups of a family go: gates (or another score), or the error that a layer's refit leaves. auto:
    layers, where they are refitted and the solver is one of group supports."""

    score: str = GATES
    """What says how little a group matters, for the counts and the choice: gates, or a score of the literature (l1, l2,
    bn, group-norm, taylor, taylor-squared, hessian, beta-rank, lrp, spectrum, layer-obs, cka, random)."""

    allocation: Literal["cost", "score", "uniform", "precropping", "measured", "block"] = "cost"
    """How many groups of every family stay: those of least score per cost go, or of least score, from all families
    together; or each keeps the same part, or one after the layers' densities of PreCropping; measured: by what the
    refitted network loses at a few counts of each family; block: the solver chooses counts with the groups."""

    measured_samples: int = 300
    """With allocation measured: calibration samples of its refits, and of its comparisons, at most."""

    calibration: str = ""
    """Samples of gates and refit: empty for the problem's own; noise; or those of another problem, by name."""

    couplings: str = ""
    """Parts of the gates' mutual curvature that blocks count (0 to 1), with commas between; of several, that of least
    loss on held-out samples is taken. Empty: 0 in mode refit and with another score than gates, and
    0,0.1,0.25,0.5,1 in mode select."""

    draws: int = 3
    """Labels that are drawn for every sample, where targets are classes; 0: the data's own targets; -1: every class, as
    much as it is predicted (the Gauss–Newton matrix itself, for a pass backward a class)."""

    temperature: float = 2.0
    """By what the outputs are divided before labels are drawn: more makes a network less sure of them."""

    targets: Literal["dense", "own"] = "dense"
    """What a layer is refitted to: what the dense network has there, or (with choice layers) what the layer as it was
    gives from its present inputs."""

    ridge: float = 0.1
    """How the refit is pulled to the weights as they are, relative to the mean curvature of a layer's inputs."""

    multiple: int = 1
    """Kept channels and neurons are multiples of this, where a family has so many."""

    uniform: bool = False
    """Families of one kind and size keep the same count, as formats with one width for all layers need it."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is pruned, as a list."""
        return tuple(part.strip() for part in self.structure.split(",") if part.strip())

    def taus(self, mode: str) -> tuple[float, ...]:
        """The couplings that are tried.

        Raises
        ------
        InvalidInput   no numbers from 0 to 1
        """
        alone = mode == "refit" or self.score != GATES
        text = self.couplings or ("0" if alone else "0,0.1,0.25,0.5,1")
        try:
            found = tuple(float(part) for part in text.split(",") if part.strip())
        except ValueError:
            found = ()
        if not found or not all(0.0 <= value <= 1.0 for value in found):
            raise InvalidInput(f"couplings is {self.couplings!r}; give numbers from 0 to 1, separated by commas")
        return found
