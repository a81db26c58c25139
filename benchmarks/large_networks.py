"""What large networks cost: iCBS steps on a Llama of 85 million prunable weights, one-shot pruning of a ResNet50.

    python benchmarks/large_networks.py icbs resnet50 --folder FOLDER

Random weights (`random_networks`), so nothing is said of quality. Each part runs in a process of its own. CPU seconds
are set against plain forward and backward passes of the same samples, whose gradients of all weights autograd sums up;
memory is the most that was resident, also in units of the network's weights. Of rows in a file it is the most without
pages of files, which the system takes back when others need them, seen fifty times a second.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from prunebench.core.problem import ProblemLike
from prunebench.core.problem import register as register_problem
from prunebench.runs.prune import PruneRequest, prune
from random_networks import LlamaShape, RandomResnet50, random_llama, stories_for
from runner import Benchmark, Row

GIB = 2**30
CONTEXT = 128
"""Tokens of a sequence."""


def resident(what: str) -> int:
    """Bytes of this process that are resident now (VmRSS; RssAnon without pages of files), or were at most (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {what}")


class OwnMemory:
    """The most bytes without pages of files that this process holds while the context is open."""

    def __init__(self) -> None:
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "OwnMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, resident("RssAnon"))


def apart(run: Callable[..., Any], *given: Any) -> Any:
    """What `run` returns in a new process, whose memory nobody else has used."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, given)


def plain(problem: Any, samples: int, batch: int, repeats: int) -> dict[str, float]:
    """Forward and backward passes of the first samples: CPU seconds of all of them, peak memory."""
    model = problem.model()
    size = sum(item.nbytes for item in model.parameters())
    data, seconds = problem.calibration(), []
    for _ in range(repeats):
        begin = time.process_time()
        for parameter in model.parameters():
            parameter.grad = None
        for start in range(0, samples, batch):
            inputs, targets = data.batch(np.arange(start, min(samples, start + batch)))
            (problem.loss(model(inputs), targets).sum() / samples).backward()
        seconds.append(time.process_time() - begin)
    return {"seconds": statistics.median(seconds), "bytes": size, "peak": resident("VmHWM")}


def icbs_steps(folder: Path, samples: int, steps: int, accept: str) -> dict[str, Any]:
    """CPU seconds of each step after the first, and peak memory."""
    stamps: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        result = prune(
            PruneRequest(
                problem="stories-llama", problem_options={"source": str(folder)}, density=0.5, solver="swap",
                solver_options={"restarts": 1}, coordinator="icbs",
                coordinator_options={"steps": steps, "samples": samples, "accept_samples": samples, "accept": accept},
            ),
            out=Path(out) / "run",
            problem=cast(ProblemLike, stories_for(folder, 2 * samples, CONTEXT)),
            progress=lambda _: stamps.append(time.process_time()),
        )  # fmt: skip
    return {"seconds": np.diff(stamps).tolist(), "peak": resident("VmHWM"), "kept": result["kept"]}


def icbs(chosen: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """iCBS as published but for the samples, on the Llama."""
    model = apart(random_llama, folder / "llama")
    reference = apart(plain_llama, model, chosen.samples, chosen.repeats)
    for accept in ("true-loss", "none"):
        found = apart(icbs_steps, model, chosen.samples, chosen.steps, accept)
        step = statistics.median(found["seconds"])
        yield Row(f"iCBS, Llama of {LlamaShape().prunable:,} prunable weights, {chosen.samples} sequences; CPU s", {
            "accept": accept, "steps": chosen.steps, "a step s": step, "mean s": statistics.mean(found["seconds"]),
            "plain pass s": reference["seconds"], "ratio": step / reference["seconds"],
            "peak GiB": found["peak"] / GIB, "of the model": found["peak"] / reference["bytes"],
            "plain peak GiB": reference["peak"] / GIB, "kept": found["kept"],
        })  # fmt: skip


def plain_llama(model: Path, samples: int, repeats: int) -> dict[str, float]:
    """`plain` of the Llama."""
    problem = stories_for(model, 2 * samples, CONTEXT)
    return plain(problem, samples, problem.batch, repeats)


def one_shot(images: int, size: int, store: str) -> dict[str, Any]:
    """One-shot `chita-bso` with a row an image, in a file below `store`."""
    register_problem(RandomResnet50)
    begin = time.process_time()
    with tempfile.TemporaryDirectory(dir=store) as out, OwnMemory() as memory:
        result = prune(
            PruneRequest(
                problem=RandomResnet50.name, density=0.1, solver="chita-bso", coordinator="one-shot",
                curvature={"samples": images, "store": out, "batch_size": 1},
            ),
            out=Path(out) / "run",
            problem=RandomResnet50(images=images, size=size),
        )  # fmt: skip
    return {"cpu": time.process_time() - begin, "own": memory.most, "peak": resident("VmHWM"), **result}


def plain_resnet50(images: int, size: int, batch: int) -> dict[str, float]:
    """`plain` of the ResNet50, once."""
    return plain(RandomResnet50(images=images, size=size), images, batch, 1)


def resnet50(chosen: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """One-shot pruning with rows in a file."""
    reference = apart(plain_resnet50, chosen.images, chosen.size, 10)
    found = apart(one_shot, chosen.images, chosen.size, str(folder))
    yield Row(f"one-shot chita-bso, ResNet50, {chosen.images} rows in a file; CPU s", {
        "weights": found["total"], "kept": found["kept"], "image": chosen.size,
        "rows GB": 4 * chosen.images * found["total"] / 1e9, "whole run s": found["cpu"],
        "plain pass s": reference["seconds"], "ratio": found["cpu"] / reference["seconds"],
        "build s (clock)": found["timings"]["build"], "solve s (clock)": found["timings"]["solve"],
        "own GiB": found["own"] / GIB, "peak GiB": found["peak"] / GIB, "plain peak GiB": reference["peak"] / GIB,
    })  # fmt: skip


PARTS = {"icbs": icbs, "resnet50": resnet50}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", nargs="*", default=["icbs"], help="icbs, resnet50 (writes 51 GB into the folder)")
    parser.add_argument("--folder", type=Path, default=None, help="for the network and the rows; a temporary one")
    parser.add_argument("--samples", type=int, default=16, help="sequences of a step, and as many for acceptance")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3, help="plain passes")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--size", type=int, default=224, help="height and width of an image")


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for name in chosen.parts:
            yield from PARTS[name](chosen, Path(folder))


QUICK = {"samples": 4, "steps": 3, "repeats": 1, "images": 10, "size": 64}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
