"""Gradient rows by workers: each computes those of whole pieces of the samples, as this process would."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import IndexArray
from prunebench.curvature.gradient_check import Checked
from prunebench.curvature.gradient_ways import ONE_BY_ONE, rows_by
from prunebench.curvature.gradient_work import GradientWork
from prunebench.curvature.layer_sources import chunks_of
from prunebench.curvature.linear_gradients import Written
from prunebench.curvature.sent import Piece, SentSamples, pieces_of
from prunebench.curvature.share_worker import Held, given_loss
from prunebench.curvature.sharing import Job, Sharing, spans
from prunebench.networks.network import PrunableNetwork, evaluation_mode

PASSES = 3.0
"""Forward passes that a row is worth: one forward, and two backward, for the inputs and for the weights."""

JOB_BYTES = 2**28
"""Rows that a worker sends at a time: they are held here until those before them are written."""


def shared_rows(
    sharing: Sharing,
    way: Checked,
    work: GradientWork,
    positions: IndexArray,
    batch_size: int,
    chunk: int,
    out: torch.Tensor,
) -> Iterator[Written]:
    """As `gradient_ways.rows_by`, by workers.

    Parameters
    ----------
    positions : as many as there are rows, times batch_size;  chunk : samples that go through together
    """
    single = batch_size > 1 or way.way == ONE_BY_ONE
    batches = chunks_of(positions, batch_size if single else chunk)
    rows = [1 if single else held.size for held in batches]
    total = 4 * work.network.total * sum(rows)
    parts = spans(len(batches), max(sharing.width, -(-total // JOB_BYTES)))
    loss = sharing.dumped(work.loss)

    def job(share: int, part: range) -> Job:
        def given() -> tuple[object, ...]:
            return loss, pieces_of(work.samples, [batches[i] for i in part]), way, batch_size, chunk

        return Job(share, _rows, given)

    # in turn, so that rows come in about the order in which they are written
    jobs = [job(number % sharing.width, part) for number, part in enumerate(parts)]
    done = 0
    for found, finite, refused in sharing.results(work.network, jobs):
        held = torch.from_numpy(found)
        out[done : done + len(held)].copy_(held)
        done += len(held)
        yield Written(len(held), finite, refused)


def _rows(
    held: Held,
    network: PrunableNetwork,
    loss: bytes,
    pieces: list[Piece],
    way: Checked,
    batch_size: int,
    chunk: int,
) -> tuple[npt.NDArray[np.float32], bool, str]:
    """The rows of some pieces, on a worker, float32 (n, p), and of them what `Written` says."""
    samples = SentSamples(pieces)
    network.ways = {None: way}
    positions = np.concatenate(samples.positions)
    out = np.empty((positions.size // batch_size, network.total), dtype=np.float32)
    with evaluation_mode(network.model), torch.random.fork_rng(devices=[]):
        work = GradientWork(network, given_loss(held, loss), samples, torch.device("cpu"))
        finite, refused = True, ""
        for step in rows_by(way.way, work, positions, batch_size, chunk, torch.from_numpy(out)):
            finite, refused = finite and step.finite, refused or step.refused
    return out, finite, refused
