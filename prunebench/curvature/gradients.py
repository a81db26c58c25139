"""Sample gradients: one row a calibration sample, or one row the mean of a mini-batch.

Computed chunk by chunk into one float32 array, in the fastest way that was seen to be right for the network
(`gradient_ways`); nothing of the size of the result is held twice.
"""

import contextlib
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature import linear_gradients
from prunebench.curvature.finite import first_broken
from prunebench.curvature.gradient_ways import (
    ONE_BY_ONE,
    VECTORISED,
    expected_way,
    rows_by,
    tell_refused,
    way_of,
)
from prunebench.curvature.gradient_work import GradientWork, Loss
from prunebench.curvature.shared_rows import PASSES, shared_rows
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import checked_positions

Report = Callable[[int, int], None]
"""Called with the rows done and the rows there will be."""

CHUNK_BYTES = 64 * 2**20
"""Working memory that a chunk of samples aims at."""

CHUNK_SAMPLES = 1024
"""More samples at a time bring no speed. In chunks of 256, 1,000 rows of a small classifier take a fifth longer: every
chunk pays for its calls, and for temporaries that the system hands out anew."""


ROOM = 2
"""Rows that would not fit are made to fit into one part in so many of the memory: a form and a solver need some too."""


@dataclass(frozen=True)
class GradientMemory:
    """What sample gradients need, in bytes: the result, and the working memory of one chunk of samples."""

    result: int
    working: int
    chunk: int

    @property
    def total(self) -> int:
        """Result and working memory together."""
        return self.result + self.working


def sample_gradients(
    network: PrunableNetwork,
    loss: Loss,
    samples: Samples,
    positions: npt.ArrayLike | Sequence[int],
    *,
    batch_size: int = 1,
    device: str = "cpu",
    progress: Report | None = None,
    memory_limit: int | None = None,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Gradients of the loss with respect to the prunable weights. float32 (n, p), n = len(positions)//batch_size.

    Parameters
    ----------
    network : PrunableNetwork       taken in evaluation mode; nothing of it is changed
    loss : outputs, targets of s samples -> losses (s,)
    samples : Samples
    positions : int64 (s,)          which samples, in order
    batch_size : 1 for one row a sample; b for mean gradients of b consecutive positions each
                 (the remainder of fewer than b positions is left out)
    device : where the gradients are computed; the model itself is not moved
    progress : called with (rows done, rows) after each chunk
    memory_limit : bytes that may be used; the machine's available memory if None
    out : float32 (n, p), where the rows are written and then returned, for example a memory-mapped
          file (`mapped_rows`) for more rows than fit in memory; a new array if None

    Raises
    ------
    InvalidInput   too few positions, positions outside the samples, more memory needed than there
                   is, a loss that is not one number a sample, or a gradient that is NaN or
                   infinite; the message names the layer and the sample

    Warns
    -----
    RuntimeWarning   a faster way cannot be used for the model, or gives what its own backward pass does
                     not; gradients are then computed in a slower one. Once for each network
    """
    chosen = checked_positions(positions, len(samples))
    rows = _row_count(chosen.size, batch_size)
    chosen = chosen[: rows * batch_size]
    memory = gradient_memory(network, loss, samples, rows, batch_size=batch_size)
    if out is None:
        require_memory(memory, rows, network.total, memory_limit)
        out = np.empty((rows, network.total), dtype=np.float32)
    elif out.shape != (rows, network.total) or out.dtype != np.float32 or not out.flags.writeable:
        raise InvalidInput(
            f"out is {out.dtype} of shape {out.shape}; the gradients need a writeable float32 ({rows}, {network.total})"
        )
    else:
        require_memory(replace(memory, result=0), rows, network.total, memory_limit)
    with evaluation_mode(network.model), torch.random.fork_rng(devices=[]):
        way = way_of(network, loss, samples, chosen, batch_size=batch_size, device=device)
        work = GradientWork(network, loss, samples, torch.device(device))
        held = torch.from_numpy(out)
        if way.rejected and batch_size == 1:
            # It was thought that another way would do, which needs other working memory.
            memory = gradient_memory(network, loss, samples, rows)
            require_memory(replace(memory, result=0), rows, network.total, memory_limit)
        if _shared_out(work, rows, batch_size):
            steps = shared_rows(network.sharing, way, work, chosen, batch_size, memory.chunk, held)
        else:
            steps = rows_by(way.way, work, chosen, batch_size, memory.chunk, held)
        done, refused = 0, ""
        for written in steps:
            if not written.finite:
                _require_finite(held[done : done + written.rows], work, chosen[done * batch_size :], batch_size)
            done, refused = done + written.rows, refused or written.refused
            if progress is not None:
                progress(done, rows)
        if refused:
            tell_refused(refused)
    return out


def mapped_rows(path: Path | str, rows: int, weights: int) -> npt.NDArray[np.float32]:
    """A new memory-mapped .npy file float32 (rows, weights): gradient rows that need not fit in memory.

    Raises
    ------
    InvalidInput   the disk has no room for it
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    need, room = 4 * rows * weights, shutil.disk_usage(file.parent).free
    if need > room:
        raise InvalidInput(
            f"{rows:,} rows of {weights:,} weights need {_mebibytes(need)} on disk and {_mebibytes(room)} are free "
            f"in {str(file.parent)!r}; take fewer rows or another folder"
        )
    return np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(rows, weights))


def stored_rows(folder: str, rows: int, weights: int) -> npt.NDArray[np.float32] | None:
    """`mapped_rows` in a file of its own in `folder`, which goes when the rows do; None without a folder.

    Raises
    ------
    InvalidInput   `folder` is a file, or its disk has no room
    """
    if not folder:
        return None
    place = Path(folder).expanduser()
    if place.is_file():
        raise InvalidInput(f"store is {folder!r}, which is a file; give a folder")
    file = place / f"gradients-{uuid.uuid4().hex}.npy"
    rows_held = mapped_rows(file, rows, weights)
    # where the system allows it the name goes at once, so that nothing is left behind whatever happens
    with contextlib.suppress(OSError):
        file.unlink()
    return rows_held


def gradient_memory(
    network: PrunableNetwork, loss: Loss, samples: Samples, rows: int, *, batch_size: int = 1
) -> GradientMemory:
    """The memory that `sample_gradients` will need for `rows` rows, before anything of that size is allocated.

    One sample is sent through the network to see how much the backward pass keeps of it.
    """
    with evaluation_mode(network.model), torch.random.fork_rng(devices=[]):
        kept = _kept_for_backward(GradientWork(network, loss, samples, torch.device("cpu")))
        products = linear_gradients.working_bytes(network, samples)
    gradient = 4 * network.total
    if batch_size > 1:
        chunk, working = 1, 2 * gradient + 2 * batch_size * kept
    else:
        # Gradients of the activations are made while the kept ones are still there.
        each = 3 * kept
        if expected_way(network, loss, samples) in (VECTORISED, ONE_BY_ONE):
            # The gradients of a chunk, and temporaries of the size of the layer that is being made.
            each += gradient + 2 * 4 * max(layer.size for layer in network.layers)
        else:
            # What the products of one convolution at a time need beside their result.
            each += products
        chunk = max(1, min(rows, CHUNK_SAMPLES, CHUNK_BYTES // each))
        working = chunk * each
    return GradientMemory(result=rows * gradient, working=working, chunk=chunk)


def require_memory(memory: GradientMemory, rows: int, weights: int, limit: int | None = None) -> None:
    """Raise InvalidInput, with the remedy, if the estimate is above the limit or the available memory."""
    allowed = available_memory() if limit is None else limit
    if allowed is not None and memory.total > allowed:
        raise InvalidInput(
            f"{rows:,} sample gradients of {weights:,} weights need {_mebibytes(memory.total)} and "
            f"{_mebibytes(allowed)} are available; take fewer samples, mini-batches (a larger batch_size), "
            "fewer layers at a time, or hold the rows in a file (store=FOLDER, --store FOLDER)"
        )


def fitting_batch(samples: int, batch_size: int, weights: int, limit: int | None = None) -> int:
    """How many samples a row is the mean of: `batch_size`, or more where so many rows of all weights would not fit.

    Parameters
    ----------
    samples : of all rows together
    weights : of a row
    limit : bytes that may be used; the machine's available memory if None
    """
    allowed = available_memory() if limit is None else limit
    row = 4 * weights
    if allowed is None or samples // batch_size * row <= allowed:
        return batch_size
    rows = max(1, allowed // ROOM // row)
    return min(samples, -(-samples // rows))


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, or None where the system does not say (no /proc)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _require_finite(rows: torch.Tensor, work: GradientWork, positions: IndexArray, batch_size: int) -> None:
    """Raise InvalidInput with the layer and the sample if a gradient among these rows is NaN or infinite."""
    # A row's sum shows it without temporaries; it may overflow by itself, hence the second look.
    if bool(torch.isfinite(rows.sum(dim=1)).all()):
        return
    for layer in work.network.layers:
        good = torch.isfinite(rows[:, layer.start : layer.stop]).all(dim=1)
        if not bool(good.all()):
            first = int((~good).nonzero()[0]) * batch_size
            which, why = first_broken(work.network, work.loss, work.samples, positions[first : first + batch_size])
            raise InvalidInput(f"the gradient of layer {layer.name!r} is NaN or infinite at sample {which}: {why.text}")


def _shared_out(work: GradientWork, rows: int, batch_size: int) -> bool:
    """Whether workers compute the rows: there are some, and they are done sooner."""
    network, sharing = work.network, work.network.sharing
    if sharing is None or work.device.type != "cpu":
        return False
    return bool(sharing.pays(network, PASSES * rows * batch_size, 4.0 * rows * network.total))


def _row_count(count: int, batch_size: int) -> int:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidInput(f"batch_size is {batch_size!r}; choose a whole number from 1")
    if count < batch_size:
        raise InvalidInput(f"batch_size is {batch_size} but there are {count} samples; take more samples")
    return count // batch_size


def _kept_for_backward(work: GradientWork) -> int:
    """Bytes that autograd keeps of one sample, parameters not counted."""
    own = {item.untyped_storage().data_ptr() for item in (*work.prunable.values(), *work.fixed.values())}
    sizes: dict[int, int] = {}

    # part of a network may be compiled, and its compiler would go on with this
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs, targets = work.batch(np.zeros(1, dtype=np.int64))
    prunable = work.leaves()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work.losses(prunable, inputs, targets)
    return sum(sizes.values()) + inputs.nbytes


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
