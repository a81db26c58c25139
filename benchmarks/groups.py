"""Choosing channels of ResNet20's layers with the rest refitted: f as a share of f with nothing kept, and CPU seconds.

Of every residual block the second convolution, whose input channels are the groups (nine inputs each); the inputs are
those of the dense network on `--images` training images, centred, the outputs those of the convolution with its batch
norm, and half of the channels stay. L1 keeps the filters of the largest norm. "root bound" and "bound" are those of
group-exact after its root and at its limit of CPU seconds; "perspective" is the bound with the least eigenvalue as the
split, which group-exact's relaxation stands in place of. Needs the data under $PRUNEBENCH_DATA.

    OMP_NUM_THREADS=1 python benchmarks/groups.py --limit 60
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from prunebench import Budget, make_problem, solve
from prunebench.core.arrays import FloatArray
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_form import GroupForm
from prunebench.core.incumbent import Incumbent
from prunebench.core.stop import Stop
from prunebench.proofs.groups import proved_group_bound
from runner import Benchmark, Note, Row

POSITIONS = 9
RIDGE = 0.003


class Layer(NamedTuple):
    """A layer's name, its group form, and the L1 norm of each channel's weights."""

    name: str
    form: GroupForm
    norms: FloatArray


def layers(images: int, wanted: int) -> Iterator[Layer]:
    """The first `wanted` layers."""
    import torch

    torch.set_num_threads(1)
    problem: Any = make_problem("resnet20-cifar10", {"variant": "akamaster"})
    model, samples = problem.model().eval(), problem.samples("train")
    modules = dict(model.named_modules())
    names = [name for name in modules if name.endswith("conv2")][:wanted]
    sums: dict[str, list[Any]] = {name: [0.0] * 6 for name in names}

    def hook(name: str) -> Any:
        norm = modules[name.replace("conv2", "bn2")]

        def add(_module: Any, inputs: Any, output: Any) -> None:
            step = 2 if output.shape[2] >= 16 else 1
            rows = torch.nn.functional.unfold(inputs[0], 3, padding=1, stride=step).transpose(1, 2)
            x = rows.reshape(-1, rows.shape[2])
            y = norm(output)[:, :, ::step, ::step].permute(0, 2, 3, 1).reshape(-1, output.shape[1])
            parts = (x.T @ x, x.T @ y, x.sum(0), y.sum(0), torch.tensor(float(len(x))), (y * y).sum())
            sums[name] = [held + part.double() for held, part in zip(sums[name], parts, strict=True)]

        return add

    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    chosen = np.random.default_rng(1).permutation(len(samples))[:images]
    with torch.no_grad():
        for start in range(0, images, 50):
            model(samples.batch(chosen[start : start + 50])[0])
    for handle in handles:
        handle.remove()
    for name in names:
        gram, cross, x, y, count, squares = (np.asarray(part) for part in sums[name])
        gram = gram / count - np.outer(x, x) / count**2
        cross = cross / count - np.outer(x, y) / count**2
        constant = 0.5 * float(squares / count - (y**2).sum() / count**2)
        channels = gram.shape[0] // POSITIONS
        form = GroupForm(
            gram, cross, np.repeat(np.arange(channels), POSITIONS), RIDGE * float(np.mean(np.diag(gram))), constant
        )
        weight = modules[name].weight.detach().double().numpy()
        yield Layer(name, form, np.abs(weight).sum((0, 2, 3)))


def perspective(form: GroupForm, keep: int) -> float:
    """The bound with Δ = λ·blockdiag(A): min over z of c − ½ tr(Eᵀ(A − Δ + Δ/z)⁻¹E), by its own dual."""
    from scipy.linalg import eigh

    matrix, right, n = form.parts.matrix, form.parts.right, POSITIONS
    blocks = np.where(np.equal.outer(form.group, form.group), matrix, 0.0)
    split = 0.95 * eigh(matrix, blocks, eigvals_only=True, subset_by_index=[0, 0])[0] * blocks
    share, best = np.full(form.groups, keep / form.groups), -np.inf
    for _ in range(200):
        weights = np.linalg.solve(matrix - split + split / share[form.group][:, None], right)
        parts = np.einsum("ij,ij->i", weights, split @ weights).reshape(-1, n).sum(axis=1)
        smooth = float(np.einsum("ij,ij->", weights, (matrix - split) @ weights))
        bound = form.constant - 0.5 * smooth - 0.5 * float(np.sort(parts / share**2)[-keep:].sum())
        best = max(best, bound)
        size = np.sqrt(np.maximum(parts, 1e-300))
        low, high = 0.0, 1.0 / np.sort(size)[-keep]
        for _ in range(80):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if np.minimum(middle * size, 1.0).sum() < keep else (low, middle)
        share = np.clip(high * size, 1e-6, 1.0)
    return best


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    for layer in layers(chosen.images, chosen.layers):
        form, keep = layer.form, layer.form.groups // 2
        block = GroupBlock(form, keep, problem="resnet20-cifar10", layer=layer.name)
        cells: dict[str, Any] = {"layer": layer.name, "C": block.p}
        cells["L1"] = form.value(block.top_mask(layer.norms)) / form.constant
        seconds: dict[str, Any] = {}
        for solver in ("group-greedy", "osscar", "group-swap"):
            began = time.process_time()
            answer = solve(block, solver)
            cells[solver] = answer.objective / form.constant
            seconds[f"{solver} s"] = time.process_time() - began
        exact = solve_for(block, chosen.limit)
        cells["group-exact"] = exact.objective / form.constant
        cells["perspective"] = perspective(form, keep) / exact.objective
        cells["root bound"] = exact.details["root_bound"] / exact.objective
        cells["bound"] = exact.lower_bound / exact.objective
        cells["status"] = str(exact.status)
        cells["nodes"] = exact.details["nodes"]
        began = time.process_time()
        checked = proved_group_bound(block, exact.proof)
        seconds |= {"group-exact s": exact.details["cpu"], "check s": time.process_time() - began}
        if checked < exact.lower_bound:
            yield Note(f"{layer.name}: the proof gives {checked:.12g}, below the bound {exact.lower_bound:.12g}")
        yield Row("f / f(nothing kept); bounds / f of group-exact", cells)
        yield Row("CPU seconds", {"layer": layer.name, "C": block.p, **seconds})
        print(layer.name, file=sys.stderr, flush=True)


def solve_for(block: GroupBlock, limit: float) -> Any:
    """group-exact with a limit of CPU seconds, which other work on the machine does not use up."""
    began = time.process_time()
    plain = Incumbent.stop

    def stop(self: Incumbent, spent: float = 0.0) -> Stop | None:
        return self.time_limit() if time.process_time() - began >= limit else plain(self, spent)

    Incumbent.stop = stop  # type: ignore[method-assign]  # the benchmark's clock in place of the solver's
    try:
        answer = solve(block, "group-exact", options={"proof": True}, budget=Budget(seconds=1e9))
    finally:
        Incumbent.stop = plain  # type: ignore[method-assign]
    return replace(answer, details={**answer.details, "cpu": time.process_time() - began})


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=300, help="training images whose inputs are taken")
    parser.add_argument("--layers", type=int, default=9, help="how many of the nine layers, from the first")
    parser.add_argument("--limit", type=float, default=60.0, help="CPU seconds of group-exact a layer")


QUICK = {"layers": 3, "limit": 5.0, "images": 100}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
