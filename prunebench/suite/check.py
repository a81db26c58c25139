"""Check files of results by evaluating their masks, and the catalogue by evaluating its masks and its proofs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_proof import GroupProof
from prunebench.core.masks import mask_from_text
from prunebench.core.optimality import PROOF_TOLERANCE, is_proved
from prunebench.core.proof import Proof
from prunebench.core.solution import Status
from prunebench.proofs.check import proved_bound
from prunebench.proofs.groups import proved_group_bound
from prunebench.suite import instances
from prunebench.suite.catalogue import Catalogue, Instance
from prunebench.suite.results import Results, Row

ACCURACY = 1e-9
"""Part of the distance to a random mask, and of the value, by which two machines may differ on one mask's value."""


@dataclass(frozen=True)
class Checked:
    """What was found about a file of results.

    answers : rows with an answer;  faults : what is wrong, a sentence each
    better : instances whose best known value it improves on, with how much, in units of the gap
    proved : instances that the catalogue leaves open and that it says to have proved; bounds are not derived again
    """

    answers: int
    faults: tuple[str, ...]
    better: tuple[tuple[str, float], ...]
    proved: tuple[str, ...]


def check_results(held: Results, catalogue: Catalogue) -> Checked:
    """Evaluate every mask of a file, and compare what else it says with it and with what is proved."""
    faults: list[str] = []
    if held.suite.get("digest") != catalogue.digest:
        faults.append(
            f"it is of version {held.suite.get('version')!r} of the suite with digest "
            f"{str(held.suite.get('digest'))[:12]}…; here is {catalogue.version!r}, {catalogue.digest[:12]}…"
        )
    known = {item.name: item for item in catalogue.instances}
    better: dict[str, float] = {}
    proved: list[str] = []
    for row in held.rows:
        item = known.get(row.instance)
        if item is None or item.hash != row.hash:
            faults.append(f"{row.instance}: the suite has no such instance of this hash")
            continue
        if not row.solved:
            continue
        wrong, value = _row(row, item)
        faults += [f"{row.instance}, seed {row.seed}: {words}" for words in wrong]
        if not wrong and value < item.best - _rounding(item):
            better[item.name] = max(better.get(item.name, 0.0), (item.best - value) / (item.scale - item.best))
        if not wrong and row.status == Status.OPTIMAL and not item.proved:
            proved.append(item.name)
    answers = sum(row.solved for row in held.rows)
    return Checked(answers, tuple(faults), tuple(better.items()), tuple(dict.fromkeys(proved)))


def _row(row: Row, item: Instance) -> tuple[list[str], float]:
    """What is wrong with a row, and the value of its mask."""
    assert row.objective is not None
    try:
        mask = mask_from_text(row.mask, item.p)
        value = float(instances.load(item).evaluate(mask))
    except InvalidInput as error:
        return [str(error)], math.inf
    faults = []
    rounding, slack = _rounding(item), _slack(item)
    if not abs(value - row.objective) <= rounding:
        faults.append(f"its mask is worth {value:.12g}, not {row.objective:.12g}")
    if item.bound is not None and value < item.bound - slack:
        faults.append(f"its mask is worth {value:.12g}, below the proven bound {item.bound:.12g}")
    if row.lower_bound is not None and row.lower_bound > min(value, item.best) + slack:
        faults.append(f"its lower bound {row.lower_bound:.12g} is above a mask of {min(value, item.best):.12g}")
    if row.status == Status.OPTIMAL and (row.lower_bound is None or not is_proved(value, row.lower_bound + rounding)):
        faults.append("it says optimal without a bound that proves it")
    return faults + list(_trace_faults(row, value - rounding)), value


def _trace_faults(row: Row, least: float) -> Iterator[str]:
    """What cannot be of a trace: times and values that rise and fall the wrong way, or better than the answer."""
    trace = np.asarray(row.trace, dtype=np.float64).reshape(-1, 2)
    if not trace.size:
        yield "it has no trace"
        return
    if (np.diff(trace[:, 0]) < 0.0).any() or trace[0, 0] < 0.0:
        yield "the seconds of its trace do not rise"
    if (np.diff(trace[:, 1]) > 0.0).any():
        yield "the values of its trace do not fall"
    if trace[-1, 1] < least:
        yield "its trace ends below the value of its mask"


def _rounding(item: Instance) -> float:
    """By how much two machines may differ on a value."""
    return ACCURACY * (abs(item.best) + abs(item.scale - item.best))


def _slack(item: Instance) -> float:
    """The same for bounds, which prove an optimum to a tolerance."""
    return _rounding(item) + PROOF_TOLERANCE * abs(item.best)


def check_catalogue(chosen: Sequence[Instance]) -> Iterator[tuple[Instance, list[str], str]]:
    """Each instance with what is wrong with its entry, and what was checked: its hash, best mask and proof.

    A bound without a proof file is compared with the best value only: 'benchmarks/suite.py' derives it again.
    """
    for item in chosen:
        block = instances.load(item)
        value = float(block.evaluate(item.best_mask))
        faults = []
        if abs(value - item.best) > _rounding(item):
            faults.append(f"its best mask is worth {value:.12g}, not {item.best:.12g}")
        if item.bound is not None and item.bound > item.best:
            faults.append(f"its bound {item.bound:.12g} is above its best value {item.best:.12g}")
        told = "mask"
        proof = instances.proof_of(item)
        if proof is not None and item.bound is not None:
            bound = _derived(block, proof)
            told = "mask and proof"
            if bound < item.bound - _slack(item):
                faults.append(f"its proof gives the bound {bound:.12g}, not {item.bound:.12g}")
        yield item, faults, told


def _derived(block: BlockProblem | GroupBlock, proof: Proof | GroupProof) -> float:
    if isinstance(block, GroupBlock):
        assert isinstance(proof, GroupProof)
        return proved_group_bound(block, proof)
    assert isinstance(proof, Proof)
    return float(proved_bound(block, proof).bound)
