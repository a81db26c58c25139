"""The blocks of a comparison: cut once, kept as files, the same for every solver."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.comparison.request import CompareRequest
from prunebench.coordinator.cut import cut_block
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import keep_count
from prunebench.core.problem import make_problem

Say = Callable[[str], None]

ENUMERATED = 200_000
"""Blocks with at most so many feasible masks have their best and worst mask enumerated."""


@dataclass(frozen=True)
class Entry:
    """A block of a comparison: where it stands in it, and what is known of it before any solver runs."""

    index: int
    size: int
    density: float
    block_seed: int
    block: BlockProblem
    worst: float
    """The worst feasible objective; NaN where it was not enumerated."""

    @property
    def facts(self) -> dict[str, Any]:
        """The columns that all rows of this block share."""
        form = self.block.form
        rows = form.factor.shape[0] if form.factor is not None else None
        return {
            "density": self.density,
            "p": self.block.p,
            "n": rows,
            "keep": self.block.keep,
            "mode": self.block.mode,
            "block_seed": self.block_seed,
            "block_index": self.index,
            "block_hash": self.block.hash,
            "random_mean": self.block.random_mean(),
            "worst_objective": self.worst,
            "start_objective": self.block.evaluate(self.block.incumbent),
        }


def cut_all(request: CompareRequest, folder: Path, say: Say) -> list[Entry]:
    """Cut the blocks of a request, or load those that are in the folder already."""
    folder.mkdir(parents=True, exist_ok=True)
    problem = make_problem(request.problem, request.problem_options)
    entries: list[Entry] = []
    for size in request.sizes:
        for number in range(request.blocks):
            block_seed = request.seed + number
            whole: BlockProblem | None = None
            for density in request.densities:
                file = folder / f"{size}-{number}-{density:g}.npz"
                if file.is_file():
                    block = BlockProblem.load(file)
                else:
                    if whole is None:
                        say(f"cutting block {number + 1} of {request.blocks} with {size} weights")
                        whole = cut_block(
                            problem,
                            size=size,
                            density=density,
                            select=request.select,
                            mode=request.mode,
                            curvature=request.curvature,
                            seed=block_seed,
                        )
                    block = replace(whole, keep=keep_count(density, size, "the block"))
                    block.save(file)
                entries.append(Entry(len(entries), size, density, block_seed, block, worst_objective(block)))
    _require_different(entries)
    return entries


def given(blocks: Sequence[BlockProblem], folder: Path) -> list[Entry]:
    """Blocks handed in as objects, kept as files so that the comparison can be resumed."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, block in enumerate(blocks):
        block.save(folder / f"given-{number:04d}.npz")
        entries.append(Entry(number, block.p, block.density, number, block, worst_objective(block)))
    _require_different(entries)
    return entries


def load_given(folder: Path) -> list[Entry]:
    """The blocks that `given` kept."""
    files = sorted(folder.glob("given-*.npz"))
    if not files:
        raise InvalidInput(f"{folder}: there are no blocks; start the comparison again")
    blocks = [BlockProblem.load(file) for file in files]
    return [Entry(i, block.p, block.density, i, block, worst_objective(block)) for i, block in enumerate(blocks)]


def worst_objective(block: BlockProblem) -> float:
    """The largest objective over all feasible masks, NaN where there are more than are enumerated."""
    if getattr(block, "quota", None) is not None or math.comb(block.p, block.keep) > ENUMERATED:
        return math.nan
    from prunebench.kernels.subspace import feasible_space
    from prunebench.kernels.subspace_values import mask_values

    masks = feasible_space(block.p, block.keep, np.empty((0, 2), dtype=np.int64)).masks()
    return block.evaluate(masks[int(np.argmax(mask_values(block, masks)))])


def _require_different(entries: Sequence[Entry]) -> None:
    seen: dict[str, Entry] = {}
    for entry in entries:
        twin = seen.setdefault(entry.block.hash, entry)
        if twin is not entry:
            raise InvalidInput(
                f"blocks {twin.index} and {entry.index} are the same ({entry.block.hash[:12]}); ask for fewer blocks, "
                "another size, or another --select"
            )
