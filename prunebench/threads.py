"""How many threads arithmetic gets, by the size of its work: decided here and nowhere else.

Threads share each product and wait for the last of them at its end. On idle cores that wait takes microseconds;
where other processes want the cores it takes a slice of the scheduler's, some ten milliseconds, for every product.
Networks of small products therefore run on one thread. Who sets OMP_NUM_THREADS says how many there are, and is left
alone.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.group_form import GroupForm
from prunebench.core.rows import RowsForm

PASS_PAYS = 250_000_000
"""Multiply-adds of one sample's forward pass from which a network gets all threads. Those measured below it, up to the
132 million of stories-llama, took 1.2 to 6 times longer with two threads than with one on two shared cores; networks
for ImageNet are above it (MobileNetV1: 570 million)."""

BLOCK_PAYS = 100_000_000
"""Entries of a block's curvature from which its solver gets all threads. There a product with it took as long with two
threads as with one on two shared cores, and with 30 million entries twice as long."""

SAID_BY_USER = "OMP_NUM_THREADS"
"""The environment variable by which users say how many threads torch and BLAS have."""

_unlimited: ContextVar[int | None] = ContextVar("BLAS threads outside of a network's limit", default=None)


def few(model: Any, samples: Any) -> bool:
    """Whether a network's work is so small that it should have one thread.

    Parameters
    ----------
    model : torch.nn.Module;  samples : of which one is sent through it
    """
    return not os.environ.get(SAID_BY_USER) and multiply_adds(model, samples) < PASS_PAYS


@contextmanager
def for_network(one: bool) -> Iterator[None]:
    """Inside, torch and BLAS have one thread if `few` said so; afterwards as many as before."""
    if not one:
        yield
        return
    import torch
    from threadpoolctl import ThreadpoolController

    # Made anew, so that libraries which were loaded since the last time are limited too.
    controller = ThreadpoolController()
    before, held = torch.get_num_threads(), _unlimited.set(_blas_threads(controller))
    with controller.limit(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            _unlimited.reset(held)


@contextmanager
def for_block(block: BlockProblem, threads: int | None) -> Iterator[None]:
    """Inside, a solver has as many threads as are said, or as the block's size pays for; afterwards as many as before.

    threads : None for what the size pays for: one, or all that there are outside of a network's limit
    """
    if threads is None:
        threads = _unlimited.get() if _entries(block) >= BLOCK_PAYS or os.environ.get(SAID_BY_USER) else 1
    with _controller().limit(limits=threads):
        yield


def _entries(block: BlockProblem) -> int:
    """Entries of the matrix that a block's curvature is held in."""
    form: Any = block.form
    if isinstance(form, RowsForm):
        return int(form.shared.size)
    if isinstance(form, GroupForm):
        return int(form.gram.size)
    return int(form.factor.size) if form.factor is not None else block.p**2


def multiply_adds(model: Any, samples: Any) -> int:
    """Multiply-adds of one sample's forward pass; PASS_PAYS where it cannot be sent through, which others will tell."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from prunebench.networks.network import evaluation_mode
    from prunebench.networks.samples import fetched

    counter = FlopCounterMode(display=False)
    try:
        inputs, _ = fetched(samples, np.zeros(1, dtype=np.int64), next(model.parameters()).device)
        with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]), counter:
            model(inputs)
    except Exception:  # the user's code may raise anything
        return PASS_PAYS
    return int(counter.get_total_flops()) // 2


def of_blas() -> int:
    """How many threads BLAS has here and now."""
    return _blas_threads(_controller())


def _blas_threads(controller: Any) -> int:
    return max((held["num_threads"] for held in controller.info() if held["user_api"] == "blas"), default=1)


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
