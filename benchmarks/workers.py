"""Passes over samples by workers: the same bits as in one process, what is sent, and what many workers would take.

A random Llama (nothing is learnt, costs are those of trained ones) is pruned by a process alone and by the workers of a
dask cluster on this machine's loopback, once as it is and once with a worker killed in the middle. The constants of the
formula in docs/beyond-one-machine.md are measured, the formula is held against the run, and it is asked for another
size: --weights, --workers.
"""

import argparse
import math
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from prunebench import threads
from prunebench.curvature import sharing
from prunebench.curvature.layer_passes import product
from prunebench.networks.network import evaluation_mode
from prunebench.runs.crews import DaskCrew
from prunebench.runs.prune import PruneRequest, prune
from random_networks import LlamaShape, random_llama, stories_for
from runner import Benchmark, Note, Row, cpu_seconds

ECHO_BYTES = 2**25
"""Sent to a worker and back, to see how many bytes a second pass."""

GRAM_ROWS, GRAM_COLUMNS = 1024, 1024
"""Of a product X'Y as the walk makes it, in float32, to see how many multiply-adds a second it makes."""

MODELS = 2
"""Networks that are run in a layer-wise walk, each decoder layer once: the pruned one, and the dense one beside it."""

PRODUCTS = 2.0
"""Products that a walk makes of each token, in multiply-adds an entry of a Gram matrix: X'(X − Y) has one, X'X and
(X − Y)'(X − Y) half of one each, as one triangle is enough."""

MATRICES = 3
"""Gram matrices of the same size that come back, in float64: X'X, X'(X − Y), (X − Y)'(X − Y)."""

GIB = 2**30
"""Bytes that tables count in."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layers", type=int, default=4, help="decoder layers of the random Llama")
    parser.add_argument("--hidden", type=int, default=256, help="its hidden size")
    parser.add_argument("--inner", type=int, default=688, help="its inner size")
    parser.add_argument("--sequences", type=int, default=64, help="calibration sequences of 128 tokens")
    parser.add_argument("--workers", type=int, default=64, help="workers that the estimate is for")
    parser.add_argument("--weights", type=float, default=7e9, help="prunable weights that the estimate is for")


def echo(given: bytes) -> bytes:
    """What a worker is sent."""
    return given


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    from distributed import Client

    # the network here is small, and it is the way that is shown
    sharing.START_SECONDS = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shape = LlamaShape(chosen.layers, chosen.hidden, chosen.inner, 4)
        problem = stories_for(random_llama(folder / "model", shape), chosen.sequences)
        for coordinator, solver, options in (
            ("layer-wise", "wanda", {"samples": chosen.sequences}),
            ("icbs", "magnitude", {"steps": 4, "samples": chosen.sequences // 2,
                                   "accept_samples": chosen.sequences // 4, "block_size": 256}),
        ):  # fmt: skip
            with _cluster() as cluster:
                yield from _runs(problem, (coordinator, solver, options), folder, cluster)
        with _cluster() as cluster, Client(cluster.scheduler_address, set_as_default=False) as client:
            constants = _constants(problem, client)
    yield from (Row("constants", {"what": name, "value": value}) for name, value in constants.items())
    size = Size.of(shape, chosen.sequences, 128, 2)
    yield from _estimate(f"{shape.prunable:,} weights, 2 workers (as run above)", size, constants)
    yield from _estimate(
        f"{chosen.weights:.3g} weights, {chosen.workers} workers", Size.llama(chosen.weights, chosen.workers), constants
    )


def _cluster() -> Any:
    """A scheduler and two workers on loopback."""
    from distributed import LocalCluster

    return LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50)


def _runs(problem: Any, asked: tuple[str, str, dict[str, int]], folder: Path, cluster: Any) -> Iterator[Row]:
    """One coordinator alone, by two workers, and by two of whom one is killed after the second step."""
    coordinator, solver, options = asked
    masks = {}
    for how in ("alone", "2 workers", "2 workers, one killed"):
        killed: list[str] = []

        def say(line: str, how: str = how, killed: list[str] = killed) -> None:
            if how.endswith("killed") and line.startswith("step 2") and not killed:
                os.kill(next(iter(cluster.workers.values())).process.pid, signal.SIGKILL)
                killed.append(line)

        request = PruneRequest(
            problem=problem.name, density=0.5, solver=solver, coordinator=coordinator, mode="select",
            coordinator_options=options,
            executor=None if how == "alone" else f"dask:{cluster.scheduler_address}",
        )  # fmt: skip
        started, own, out = perf_counter(), process_time(), folder / f"{coordinator} {how}"
        result = prune(request, out=out, problem=problem, say=say)
        masks[how] = (out / "mask.safetensors").read_bytes() + (out / "weights.safetensors").read_bytes()
        spent = result.get("workers", {})
        yield Row(
            coordinator,
            {
                "how": how, "seconds": perf_counter() - started, "own CPU s": process_time() - own,
                "same bits": masks[how] == masks["alone"], "deaths": spent.get("deaths", 0),
                **{name.replace("_", " "): spent.get(name, 0) for name in (
                    "jobs", "network_bytes", "changes_bytes", "work_bytes", "result_bytes", "setup_seconds",
                    "send_seconds", "wait_seconds", "worker_cpu_seconds",
                )},
            },
        )  # fmt: skip


def _constants(problem: Any, client: Any) -> dict[str, float]:
    """Bytes a second to a worker and back, and multiply-adds a second of passes and of products."""
    crew = DaskCrew(client)
    member = crew.members[0]
    payload = bytes(ECHO_BYTES)
    seconds = []
    for _ in range(3):
        started = perf_counter()
        crew.first({member: crew.send(member, echo, payload)})
        seconds.append(perf_counter() - started)
    model, samples = problem.model(), problem.calibration()
    operations = threads.multiply_adds(model, samples)
    inputs, _ = samples.batch(np.arange(8))
    with evaluation_mode(model), torch.no_grad():
        passes = min(cpu_seconds(lambda: model(inputs))[1] for _ in range(3))
    first, second = torch.randn(2, GRAM_ROWS, GRAM_COLUMNS)
    total = torch.zeros(GRAM_COLUMNS, GRAM_COLUMNS, dtype=torch.float64)
    spent = min(cpu_seconds(lambda: total.add_(product(first, second)))[1] for _ in range(3))
    return {
        "bytes/s to a worker or back": 2 * ECHO_BYTES / min(seconds),
        "multiply-adds/s of passes": len(inputs) * operations / passes,
        "multiply-adds/s of X'Y": GRAM_ROWS * GRAM_COLUMNS**2 / spent,
    }


class Size:
    """What a layer-wise run is made of.

    weights, blocks, hidden, inner : of the network;  tokens : of all samples;  workers : how many
    """

    def __init__(self, weights: float, shape: tuple[int, int, int], tokens: int, workers: int) -> None:
        self.weights, self.tokens, self.workers = weights, tokens, workers
        self.blocks, self.hidden, self.inner = shape

    @staticmethod
    def of(shape: LlamaShape, sequences: int, context: int, workers: int) -> "Size":
        """Of a run here."""
        return Size(shape.prunable, (shape.layers, shape.hidden, shape.inner), sequences * context, workers)

    @staticmethod
    def llama(weights: float, workers: int) -> "Size":
        """Of a Llama with so many weights in Llama-2-7B's proportions, 128 sequences of 2,048 tokens."""
        scale = (weights / 6.5e9) ** 0.5
        return Size(weights, (32, round(4096 * scale), round(11008 * scale)), 128 * 2048, workers)

    @property
    def grams(self) -> float:
        """Entries of the Gram matrices of all layers' inputs: three of the hidden size and one of the inner a block."""
        return float(self.blocks * (3 * self.hidden**2 + self.inner**2))


def _estimate(name: str, size: Size, constants: dict[str, float]) -> Iterator[Row | Note]:
    speed, passes, products = constants.values()
    computed = {
        "passes": MODELS * size.tokens * size.weights / passes,
        "products": PRODUCTS * size.tokens * size.grams / products,
    }
    sent = {"network": 4.0 * size.weights, "changes": 4.0 * size.weights, "results": 8.0 * MATRICES * size.grams}
    for what, seconds in computed.items():
        yield Row(name, {"what": what, "GiB": 0.0, "seconds": seconds / size.workers})
    for what, count in sent.items():
        total = count * size.workers
        yield Row(name, {"what": what, "GiB": total / GIB, "seconds": total / speed})
    best = math.sqrt(sum(computed.values()) * speed / sum(sent.values()))
    yield Note(
        f"{name}: {sum(computed.values()) / size.workers:,.0f} s of computing beside "
        f"{sum(sent.values()) * size.workers / speed:,.0f} s of sending; alone {sum(computed.values()):,.0f} s; "
        f"least with {best:,.0f} workers"
    )


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"layers": 2, "hidden": 64, "inner": 128, "sequences": 24})

if __name__ == "__main__":
    BENCHMARK.main()
