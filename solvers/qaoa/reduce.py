"""Blocks larger than the simulator or device: freezing weights one by one (recursive QAOA) or in sub-blocks.

Bravyi, Kliesch, Koenig, Tang: Obstacles to variational quantum optimization from symmetry protection,
Phys. Rev. Lett. 125 (2020), algorithm RQAOA, eliminates the variable pair with the strongest
correlation. As a pruning block has linear terms and one cardinality row, the single weight whose mask
entry is most certain is frozen here (as in Finžgar et al.: Quantum-informed recursive optimization
algorithms, PRX Quantum 5 (2024)); what remains is a block problem of the same kind.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.incumbent import Incumbent
from prunebench.core.stop import Stop, StopCheck
from prunebench.solvers.qaoa.samples import Draws, best_of


@dataclass(frozen=True, eq=False)
class Part:
    """Some weights of a block left free, the others frozen as kept or pruned.

    block : BlockProblem;  free : int64 (q,), ascending;  base : bool (p,), False at the free positions
    """

    block: BlockProblem
    free: IndexArray
    base: BoolArray

    @staticmethod
    def whole(block: BlockProblem) -> "Part":
        """The block with nothing frozen."""
        return Part(block, np.arange(block.p), np.zeros(block.p, dtype=np.bool_))

    @property
    def keep(self) -> int:
        """How many of the free weights are kept."""
        return self.block.keep - int(self.base.sum())

    def expand(self, masks: BoolArray) -> BoolArray:
        """Extend masks of the free weights to the block. bool (s, q) -> bool (s, p)."""
        full = np.repeat(self.base[None], len(masks), axis=0)
        full[:, self.free] = masks
        return full

    def freeze(self, position: int, kept: bool) -> "Part":
        """The part with its free weight number `position` frozen as kept or pruned."""
        base = self.base.copy()
        base[self.free[position]] = kept
        return Part(self.block, np.delete(self.free, position), base)

    def restricted(self, weights: FloatArray, start: BoolArray | None = None) -> BlockProblem:
        """The block problem of the free weights, the others fixed at `weights` (p,); start : bool (q,)."""
        return BlockProblem(
            self.block.form.restrict(self.free, weights),
            self.block.dense_weights[self.free],
            self.keep,
            self.block.mode,
            start_mask=start,
            problem=self.block.problem,
        )


def eliminate(
    block: BlockProblem, cutoff: int, kept_share: Callable[[Part], FloatArray | None]
) -> tuple[Part, list[tuple[int, bool, float]]]:
    """Freeze the most certain weight repeatedly until at most `cutoff` are free.

    Parameters
    ----------
    block : the block, in either mode
    cutoff : most weights left free
    kept_share : the probability that each free weight is kept, float64 (q,); None ends the recursion

    Returns
    -------
    the remaining part, and (weight, kept, confidence) of every step; weights that the count already
    determines are frozen with confidence 1
    """
    part, steps = Part.whole(block), []
    while part.free.size > cutoff:
        if part.keep in (0, part.free.size):
            position, kept, confidence = 0, part.keep > 0, 1.0
        else:
            share = kept_share(part)
            if share is None:
                break
            decided = np.maximum(share, 1.0 - share)
            position = int(np.argmax(decided))
            kept, confidence = bool(share[position] > 0.5), float(decided[position])
        steps.append((int(part.free[position]), kept, confidence))
        part = part.freeze(position, kept)
    return part, steps


@dataclass(frozen=True, eq=False)
class Assembled:
    """A mask assembled from sub-blocks. mask : bool (p,);  solved, improved : how many;  stopped : why early."""

    mask: BoolArray
    solved: int
    improved: int
    stopped: Stop | None


def assemble(
    best: Incumbent,
    qubits: int,
    count: int,
    *,
    solve_part: Callable[[BlockProblem], BoolArray],
    rng: np.random.Generator,
    stop: StopCheck,
) -> Assembled:
    """Improve the best mask by solving sub-blocks of `qubits` weights with the others frozen.

    Exact block coordinate descent in mode select. In mode refit the others are frozen at their
    refitted weights, and a sub-block's mask is accepted only if refitting the whole block improves.

    Parameters
    ----------
    count : how many sub-blocks;  solve_part : from a block problem to a feasible mask (q,)
    stop : called before each sub-block with the number solved
    """
    block, improved = best.block, 0
    for number in range(count):
        if stopped := stop(number):
            return Assembled(best.mask, number, improved, stopped)
        free = _choose(block, best.mask, qubits, rng, guided=number % 2 == 0)
        base = best.mask.copy()
        base[free] = False
        part = Part(block, free, base)
        found = solve_part(part.restricted(block.weights_of(best.mask), best.mask[free]))
        improved += best.offer(part.expand(found[None])[0], "raw")
    return Assembled(best.mask, count, improved, None)


def through_parts(
    best: Incumbent,
    qubits: int,
    count: int,
    rng: np.random.Generator,
    search: Callable[[BlockProblem, int], Draws],
) -> Draws:
    """The samples of a block of at most `qubits` weights; for a larger one, the mask after solving sub-blocks in turn.

    Parameters
    ----------
    qubits : 0 takes any block whole;  count : how many sub-blocks
    search : from (block problem, evaluations spent before) to samples of its circuit
    """
    if not qubits or best.block.p <= qubits:
        return search(best.block, 0)
    spent, shots = 0, 0

    def solve_part(part: BlockProblem) -> BoolArray:
        nonlocal spent, shots
        draws = search(part, spent)
        spent, shots = spent + draws.evaluations, shots + draws.shots
        mask: BoolArray = best_of(part, np.concatenate([draws.masks, part.incumbent[None]]))[0][0]
        return mask

    done = assemble(best, qubits, count, solve_part=solve_part, rng=rng, stop=lambda _: best.stop(spent))
    details = {"parts": done.solved, "parts_improved": done.improved, "part_size": qubits}
    stop = done.stopped or Stop.finished(f"solved {done.solved} sub-blocks of {qubits} weights")
    return Draws(done.mask[None], shots, spent, stop, details)


def _choose(block: BlockProblem, mask: BoolArray, qubits: int, rng: np.random.Generator, *, guided: bool) -> IndexArray:
    """Half kept, half pruned: at random, or mostly those whose single flip costs least. int64 (q,), ascending."""
    form, weights = block.form, block.weights_of(mask)
    slope, bend = form.gradient(weights), form.diagonal()
    dense = block.dense_weights
    if block.mode == "select":
        cost = np.where(mask, -dense * slope, dense * slope) + 0.5 * dense**2 * bend
    else:
        gain = np.divide(slope**2, bend, out=np.zeros_like(slope), where=bend > 0.0)
        cost = np.where(mask, weights**2 * bend, -gain)
    chosen: list[IndexArray] = []
    kept, pruned = np.flatnonzero(mask), np.flatnonzero(~mask)
    from_kept = min(max(qubits // 2, qubits - pruned.size), kept.size)
    for side, wanted in ((kept, from_kept), (pruned, qubits - from_kept)):
        rank = np.argsort(np.argsort(cost[side], kind="stable"), kind="stable") if guided else np.zeros(side.size)
        noise = rng.random(side.size) * (2 * wanted if guided else 1)
        chosen.append(side[np.argsort(rank + noise, kind="stable")[:wanted]])
    return np.sort(np.concatenate(chosen))
