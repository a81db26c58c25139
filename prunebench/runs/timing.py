"""How long networks take: medians of calls that take turns, in torch and in onnxruntime."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, thread_time
from typing import Any

from prunebench.core.errors import MissingPackage
from prunebench.core.problem import NetworkProblem

RUNS = 30
"""Timed runs of each network, after WARM_UPS that are not timed: enough for a median on a machine with other work."""
ERRORS = 3
"""The level from which onnxruntime writes to the screen: errors, which it raises too; warnings are of its own graph."""
WARM_UPS = 5
"""Runs of each network that are not timed: memory is allocated and kernels are chosen in the first ones."""


def batch_of(problem: NetworkProblem, batch: int) -> Any:
    """The first samples of a problem, as its network takes them."""
    import numpy as np

    from prunebench.networks.samples import Parts

    samples = problem.calibration()
    given = samples.batch(np.arange(min(batch, len(samples)), dtype=np.int64))[0]
    return given.value if isinstance(given, Parts) else given


def medians(calls: Sequence[Callable[[], Any]], runs: int, threads: int = 1) -> list[float]:
    """Median milliseconds of each call; the calls take turns, so that a busy moment meets all of them.

    threads : with one, the milliseconds are those of the processor, which other programs do not add to
    """
    clock = thread_time if threads == 1 else perf_counter
    for call in calls:
        for _ in range(WARM_UPS):
            call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for held, call in zip(times, calls, strict=True):
            start = clock()
            call()
            held.append(1000.0 * (clock() - start))
    return [statistics.median(held) for held in times]


def torch_call(program: Any, inputs: Any, _: int) -> Callable[[], Any]:
    """Runs an exported program in torch."""
    import torch

    module = program.module(check_guards=False)

    def call() -> Any:
        with torch.inference_mode():
            return module(inputs)

    return call


def onnx_call(program: Any, inputs: Any, threads: int) -> Callable[[], Any]:
    """Runs an exported program in onnxruntime."""
    held, given = session(onnx_bytes(program), inputs, threads)
    return lambda: held.run(None, given)


def session(model: bytes, inputs: Any, threads: int) -> tuple[Any, dict[str, Any]]:
    """A session of onnxruntime on the processor, and the inputs as it takes them."""
    import torch

    runtime = package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS
    held = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    names = [item.name for item in held.get_inputs()]
    return held, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}


def onnx_bytes(program: Any) -> bytes:
    """An exported program as an ONNX model."""
    import contextlib
    import io
    import logging
    import warnings

    import torch

    package("onnx")
    package("onnxscript")
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # torch's exporter warns of its own old names and prints its progress
            warnings.simplefilter("ignore")
            made = torch.onnx.export(program, dynamo=True, verbose=False)
    finally:
        log.setLevel(level)
    assert made is not None
    return bytes(made.model_proto.SerializeToString())


def package(name: str) -> Any:
    """An optional package.

    Raises
    ------
    MissingPackage   it is not installed
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackage(f"{name} is needed for ONNX; pip install 'prunebench[onnx]'") from error


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Inside, torch uses this many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
