"""The blocks of a comparison: cut once, kept as files, the same for every solver."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.comparison.request import CompareRequest
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput, NoCurvature
from prunebench.core.masks import keep_count
from prunebench.core.problem import ProblemLike
from prunebench.runs.cut import cut_block

Say = Callable[[str], None]

DEAD_BLOCKS = 20
"""So many blocks without any gradient may be drawn before one is given up."""

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
            "items": self.block.word,
            "n": rows,
            "keep": self.block.keep,
            "budgets": budget_text(self.block),
            "mode": self.block.mode,
            "block_seed": self.block_seed,
            "block_index": self.index,
            "block_hash": self.block.hash,
            "random_mean": self.block.random_mean(),
            "worst_objective": self.worst,
            "start_objective": self.block.evaluate(self.block.incumbent),
        }


def entries_of(request: CompareRequest, folder: Path, say: Say = lambda _line: None) -> list[Entry]:
    """The blocks of a comparison: those in its folder, and cut now what is missing."""
    return cut_all(request, folder, say) if request.problem else load_given(folder)


def cut_all(request: CompareRequest, folder: Path, say: Say) -> list[Entry]:
    """Cut the blocks of a request, or load those that are in the folder already."""
    folder.mkdir(parents=True, exist_ok=True)
    problem = request.problem_made()
    entries: list[Entry] = []
    for size in request.sizes:
        block_seed = request.seed
        for number in range(request.blocks):
            held = sorted(folder.glob(f"{size}-{number}-seed*.npz"))
            if held:
                whole, block_seed = BlockProblem.load(held[0]), int(held[0].stem.rpartition("seed")[2])
            else:
                say(f"cutting block {number + 1} of {request.blocks} with {size} weights")
                whole, block_seed = _cut(request, problem, size, block_seed, say)
                whole.save(folder / f"{size}-{number}-seed{block_seed}.npz")
            for density in request.densities:
                block = replace(whole, keep=keep_count(density, size, "the block"))
                entries.append(Entry(len(entries), size, density, block_seed, block, worst_objective(block)))
            block_seed += 1
    _require_different(entries)
    return entries


def _cut(request: CompareRequest, problem: ProblemLike, size: int, seed: int, say: Say) -> tuple[BlockProblem, int]:
    """The first block from `seed` on about which the loss says anything, and its seed."""
    for block_seed in range(seed, seed + DEAD_BLOCKS):
        try:
            block = cut_block(
                problem,
                size=size,
                density=request.densities[0],
                select=request.select,
                mode=request.mode,
                curvature=request.curvature,
                seed=block_seed,
            )
        except NoCurvature:
            say(f"seed {block_seed} draws a block whose gradients are all zero (a dead unit); the next seed is taken")
        else:
            return block, block_seed
    raise NoCurvature(
        f"{DEAD_BLOCKS} blocks of {size} weights in a row have no gradients at all; try --select random, a larger "
        "--size, or more --samples"
    )


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


def budget_text(block: BlockProblem) -> str | None:
    """A block's budgets as "name <= limit", with commas between; None where it has none."""
    budget = getattr(block, "budget", None)
    if budget is None:
        return None
    return ", ".join(f"{name} <= {limit:.6g}" for name, limit in zip(budget.names, budget.limits, strict=True))


def worst_objective(block: BlockProblem) -> float:
    """The largest objective over all feasible masks, NaN where there are more than are enumerated."""
    counted = getattr(block, "quota", None) is None and getattr(block, "budget", None) is None
    if not counted or math.comb(block.p, block.keep) > ENUMERATED:
        return math.nan
    from prunebench.kernels.enumeration.subspace import feasible_space
    from prunebench.kernels.enumeration.values import mask_values

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
