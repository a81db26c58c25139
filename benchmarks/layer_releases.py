"""The published layer-wise methods, for benchmarks: the releases' own classes, or plain implementations of the papers.

A release is a checkout of its repository: sparsegpt (IST-DASLab), wanda (locuslab), ALPS (mazumder-lab). Their code
asks for a GPU by name; here it gets the CPU.
"""

import contextlib
import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

PATTERNS = {"row": (0, 0), "2:4": (2, 4)}
"""Pruned of how many, by quota; 0 for half of all weights, which the releases of sparsegpt and ALPS choose freely."""
DAMPENING, WIDTH = 0.01, 128
"""SparseGPT's dampening, in units of the mean diagonal, and columns whose mask is chosen at a time, as published."""


def release_of(solver: str, folder: Path | None) -> Any:
    """The release's module for a solver below `folder`, None where there is none."""
    if folder is None or solver == "wanda":
        # Wanda's mask is part of a loop over a whole model in its release; `Wanda` has those lines' operations
        return None
    names = {"sparsegpt": "sparsegpt.py", "alps": "alps.py"}
    found = next((path.parent for path in sorted(folder.rglob(names[solver])) if path.parent.name != "lib"), None)
    if found is None:
        raise SystemExit(f"no {names[solver]} below {folder}")
    sys.path.insert(0, str(found))
    try:
        module = importlib.import_module(names[solver].removesuffix(".py"))
    finally:
        sys.path.pop(0)
    module.dev = "cpu"  # type: ignore[attr-defined]  # what the release calls its device
    return module


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Inside, code that asks for a GPU gets the CPU, and says nothing."""
    to, synchronize = torch.Tensor.to, torch.cuda.synchronize

    def moved(tensor: Any, *given: Any, **named: Any) -> Any:
        places: list[Any] = ["cpu" if isinstance(at, str) and at.startswith("cuda") else at for at in given]
        return to(tensor, *places, **named)

    torch.Tensor.to, torch.cuda.synchronize = moved, lambda *_: None  # type: ignore[method-assign,assignment]  # put back below
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        torch.Tensor.to, torch.cuda.synchronize = to, synchronize  # type: ignore[method-assign]  # as before


class Published:
    """One linear layer by a published method: takes its inputs, batch by batch, then prunes it in place."""

    def __init__(self, solver: str, layer: torch.nn.Linear, quota: str, release: Any, samples: int) -> None:
        self._quota, self._release, self.solver = quota, release, solver
        if release is not None:
            self._held = release.SparseGPT(layer) if solver == "sparsegpt" else release.ALPS_prune(layer, samples, 1)
        else:
            self._held = {"sparsegpt": SparseGPT, "wanda": Wanda}[solver](layer)

    def take(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """(s, t, c), (s, t, r)"""
        self._held.add_batch(inputs, outputs)

    def prune(self) -> None:
        """Half of the weights, by the quota."""
        n, m = PATTERNS[self._quota]
        with on_cpu():
            if self.solver == "alps":
                self._held.ALPS_admm(0.5, nm_n=n, nm_m=m)
            else:
                self._held.fasterprune(0.5, prunen=n, prunem=m)


class SparseGPT:
    """Frantar, Alistarh: SparseGPT, ICML 2023, algorithm 1, as it stands, in torch and float32."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        self._layer, self._gram = layer, torch.zeros(layer.in_features, layer.in_features)

    def add_batch(self, inputs: torch.Tensor, _outputs: torch.Tensor | None) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        self._gram += rows.T @ rows

    def fasterprune(self, share: float, prunen: int = 0, prunem: int = 0) -> None:
        weights, hessian = self._layer.weight.data.clone(), self._gram
        dead = hessian.diagonal() == 0
        hessian[dead, dead] = 1
        weights[:, dead] = 0
        hessian.diagonal().add_(DAMPENING * hessian.diagonal().mean())
        root = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
        columns = weights.shape[1]
        for start in range(0, columns, WIDTH):
            stop = min(start + WIDTH, columns)
            block, errors = weights[:, start:stop].clone(), torch.zeros_like(weights[:, start:stop])
            part = root[start:stop, start:stop]
            away = torch.zeros_like(block, dtype=torch.bool)
            if not prunem:
                scores = (block / part.diagonal()) ** 2
                away = scores <= scores.flatten().sort()[0][int(scores.numel() * share)]
            for j in range(stop - start):
                if prunem and j % prunem == 0:
                    scores = (block[:, j : j + prunem] / part.diagonal()[j : j + prunem]) ** 2
                    away.scatter_(1, j + scores.topk(prunen, dim=1, largest=False)[1], value=True)
                error = torch.where(away[:, j], block[:, j] / part[j, j], 0.0)
                block[:, j:] -= error[:, None] @ part[None, j, j:]
                errors[:, j] = error
            weights[:, start:stop] = block.masked_fill(away, 0.0)
            weights[:, stop:] -= errors @ root[start:stop, stop:]
        self._layer.weight.data = weights


class Wanda:
    """Sun, Liu, Bair, Kolter: Wanda, ICLR 2024, eq. 1: each row's weights sorted by magnitude times input norm."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        self._layer, self._squares = layer, torch.zeros(layer.in_features)

    def add_batch(self, inputs: torch.Tensor, _outputs: torch.Tensor | None) -> None:
        self._squares += inputs.reshape(-1, inputs.shape[-1]).float().T.norm(dim=1) ** 2

    def fasterprune(self, share: float, prunen: int = 0, prunem: int = 0) -> None:
        weights = self._layer.weight.data
        scores = weights.abs() * self._squares.sqrt()
        away = torch.zeros_like(scores, dtype=torch.bool)
        if prunem:
            for j in range(0, scores.shape[1], prunem):
                away.scatter_(1, j + scores[:, j : j + prunem].topk(prunen, dim=1, largest=False)[1], value=True)
        else:
            order = scores.sort(dim=-1, stable=True)[1]
            away.scatter_(1, order[:, : int(scores.shape[1] * share)], value=True)
        weights[away] = 0
