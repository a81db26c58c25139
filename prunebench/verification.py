"""Everything that a solution says of its block, derived again as far as that goes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from prunebench.core import solution_file
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_proof import GroupProof
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.optimality import PROOF_TOLERANCE, is_proved
from prunebench.core.proof import Proof
from prunebench.core.solution import Budget, Solution, Status
from prunebench.kernels.relaxations.bounds import lower_bound
from prunebench.kernels.relaxations.certificate import derive, value_range
from prunebench.proofs.check import proved_bound
from prunebench.proofs.enumeration import can_enumerate, enumerated_bound

VERIFIED, CONSISTENT, REFUTED = "verified", "consistent", "not verified"
"""The three verdicts."""
ROUNDING = 1e-12
"""Two float64 evaluations of one objective may differ by this part of it, beside the width of its interval."""
SAME_COLUMN = 1e-6
"""Gaps are printed for people: they have to agree with objective and bound to this part."""


SECONDS = 30.0
"""Seconds for which a bound is looked for where nothing else gives one: enough for blocks of some 200 weights."""


@dataclass(frozen=True)
class Verdict:
    """What was found about a solution.

    verdict : "verified"; "consistent": nothing is wrong, but the bound rests on a search that was not derived again;
              "not verified": something is wrong
    faults : what is wrong, a sentence each
    status, mode : what the solution says of itself, and of the block
    objective : what the solution says;  interval : holds f(weights) exactly
    lower_bound : what the solution claims; −inf: nothing
    derived_bound : the best bound that was derived here;  rests_on : from what
    claim_rests_on : what the claimed bound rests on
    derived_gap : of the objective to the derived bound; 0: optimal, 1: a random mask
    nodes : of the search, where the solution names it
    """

    verdict: str
    faults: tuple[str, ...]
    status: str | None
    mode: str
    objective: float
    interval: tuple[float, float]
    lower_bound: float
    derived_bound: float
    rests_on: str
    claim_rests_on: str
    derived_gap: float
    nodes: int | None

    @property
    def verified(self) -> bool:
        """Whether nothing is wrong and the bound was derived again."""
        return self.verdict == VERIFIED


@dataclass(frozen=True)
class Support:
    """What a bound was derived from: the bound, in words from what, and what it would be if HiGHS is believed."""

    bound: float
    source: str
    trusted: float


def verify(
    block: BlockProblem | GroupBlock,
    solution: Solution | Mapping[str, Any],
    *,
    proof: Proof | GroupProof | None = None,
    seconds: float = SECONDS,
) -> Verdict:
    """Check a solution against its block: mask, weights, objective, status and gaps, and derive its bound again.

    Parameters
    ----------
    block : the block problem that it answers
    solution : what `prunebench.solve` gave, or the contents of a solution file
    proof : what the solver left of its search (`Solution.proof`, or a proof file)
    seconds : how long a bound is looked for where nothing else gives one

    Raises
    ------
    InvalidInput   the contents are not those of a solution file
    """
    if isinstance(solution, Solution):
        proof = solution.proof if proof is None else proof
    if isinstance(block, GroupBlock) != isinstance(proof, GroupProof) and proof is not None:
        raise InvalidInput("the proof is of another kind of block: groups and single weights have proofs of their own")
    contents = _contents(block, solution)
    if isinstance(block, GroupBlock):
        from prunebench.group_verification import verify_groups

        return verify_groups(block, contents, proof, seconds)  # type: ignore[arg-type]  # checked above
    assert not isinstance(proof, GroupProof)
    return _verified(block, contents, proof, seconds)


def _contents(block: BlockProblem | GroupBlock, solution: Solution | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(solution, Solution):
        summary = solution_file.as_json(block, solution, solver="", options={}, seed=0)
        return solution_file.with_arrays(summary, solution)
    return solution_file.checked(solution, "the solution")


def _verified(block: BlockProblem, contents: dict[str, Any], proof: Proof | None, seconds: float) -> Verdict:
    block = block.in_mode(contents["mode"])
    mask, weights = read_mask(contents, block.p), _weights(contents, block.p)
    wrong = wrong_entries(contents, block, mask, weights)
    faults = list(wrong)
    low, high = value_range(block, weights)
    reported = float(contents["objective"])
    slack = 2.0 * (high - low) + ROUNDING * abs(reported)
    if not low - slack <= reported <= high + slack:
        faults.append(f"the objective is {0.5 * (low + high):.12g}, not {reported:.12g}")
    claimed = contents.get("lower_bound")
    claimed = -math.inf if claimed is None else float(claimed)
    faults += wrong_bound(contents, claimed, reported, high + slack)
    certificate = (contents.get("details") or {}).get("certificate") or {}
    needed = claimed - PROOF_TOLERANCE * abs(reported)
    support, more = _support(block, certificate, proof, needed, seconds)
    faults += more
    derived = is_proved(high, support.bound) if contents.get("status") == Status.OPTIMAL else support.bound >= needed
    verdict, rests = VERIFIED, f"the {support.source}"
    if claimed == -math.inf:
        rests = "nothing: no bound is claimed"
    elif not derived:
        verdict, rests = CONSISTENT, _unchecked(contents, certificate, support, proof, needed)
        if not rests:
            rests = "nothing"
            faults.append(_unsupported(claimed, support, proof))
        elif not wrong:
            faults += _refuted(block, mask, claimed, reported)
    return Verdict(
        verdict=REFUTED if faults else verdict,
        faults=tuple(faults),
        status=contents.get("status"),
        mode=block.mode,
        objective=reported,
        interval=(low, high),
        lower_bound=claimed,
        derived_bound=support.bound,
        rests_on=support.source,
        claim_rests_on=rests,
        derived_gap=block.gap(high, support.bound),
        nodes=certificate.get("nodes"),
    )


def wrong_entries(
    solution: dict[str, Any], block: BlockProblem | GroupBlock, mask: BoolArray, weights: FloatArray
) -> list[str]:
    """What is wrong with everything but objective and bound."""
    faults: list[str] = []
    if solution["block_hash"] != block.hash:
        faults.append("the solution was made for another block: the hashes differ")
    if solution.get("status") not in set(Status):
        faults.append(f"the status is {solution.get('status')!r}; it is one of {', '.join(Status)}")
    # a budget says what is kept by its cost alone, which `evaluate` checks
    kept = block.keep if block.budget is None else int(mask.sum())
    for key, count in (("kept", kept), ("total", block.p)):
        if solution.get(key, count) != count:
            faults.append(f"{key} is {solution[key]}, not {count}")
    stated = solution.get("budgets")
    if stated is not None and block.budget is not None and stated != solution_file.spending(block.budget, mask):
        faults.append("what it says it spends of the budgets is not what its mask costs")
    try:
        block.evaluate(weights, mask)
    except InvalidInput as error:
        faults.append(str(error))
    return faults


def wrong_bound(solution: dict[str, Any], claimed: float, reported: float, most: float) -> list[str]:
    """What is wrong with the bound by itself: where it is, and whether status and gaps agree with it."""
    faults: list[str] = []
    if claimed > most:
        faults.append(f"the lower bound {claimed:.12g} is above the objective {reported:.12g}")
    if solution.get("status") == Status.OPTIMAL and claimed == -math.inf:
        faults.append("it says optimal without a bound")
    elif solution.get("status") == Status.OPTIMAL and not is_proved(reported, claimed):
        faults.append(f"it says optimal but its bound {claimed:.12g} leaves a gap")
    stated = solution.get("relative_gap")
    if stated is not None and claimed > -math.inf and reported:
        actual = (reported - claimed) / abs(reported)
        if abs(float(stated) - actual) > SAME_COLUMN * (abs(actual) + PROOF_TOLERANCE):
            faults.append(f"the relative gap is {actual:.6g}, not {float(stated):.6g}")
    return faults


def _support(
    block: BlockProblem, certificate: dict[str, Any], proof: Proof | None, needed: float, seconds: float
) -> tuple[Support, list[str]]:
    """The best bound that can be derived here, and what is wrong with what the files give for it."""
    faults: list[str] = []
    found: list[Support] = []
    if block.settled:
        found.append(_plain(mask_bound(block, block.incumbent), "only mask"))
    root = _derived(block, certificate, faults)
    if np.isfinite(root):
        found.append(_plain(root, f"certificate, {certificate['formulation']}"))
        stated = certificate.get("root_bound")
        if not _is_number(stated) or stated > root + PROOF_TOLERANCE * abs(root):
            faults.append(f"the certificate's root bound {stated!r} is above the {root:.12g} that its numbers prove")
    if proof is not None:
        try:
            checked = proved_bound(block, proof)
            word = f", {checked.foreign} of them by HiGHS' word" if checked.foreign else ""
            found.append(Support(checked.bound, f"proof's {checked.records} records{word}", checked.trusted))
        except InvalidInput as error:
            faults.append(str(error))
    claimed = needed > -np.inf and not block.settled
    if claimed and all(support.bound < needed for support in found) and can_enumerate(block):
        bound = enumerated_bound(block, needed)
        found.append(_plain(bound, f"enumeration of all {block.mask_count} masks, done here"))
    if not found:
        own = lower_bound(block, seconds)
        found.append(_plain(own.value, f"{own.method}, found here"))
    return max(found, key=lambda support: support.bound), faults


def _derived(block: BlockProblem, certificate: dict[str, Any], faults: list[str]) -> float:
    """The bound of the certificate's own numbers; −inf where it has none."""
    try:
        return derive(block, certificate) if certificate else -np.inf
    except InvalidInput as error:
        faults.append(str(error))
        return -np.inf


def _plain(bound: float, source: str) -> Support:
    return Support(bound, source, bound)


def _unchecked(
    solution: dict[str, Any], certificate: dict[str, Any], support: Support, proof: Proof | None, needed: float
) -> str:
    """What a bound that was not derived rests on; "" where nothing in the files supports it."""
    details = solution.get("details") or {}
    what = "that it is optimal" if solution.get("status") == Status.OPTIMAL else "its bound"
    if proof is not None:
        if support.bound >= needed:
            return f"a bound that the proof misses by a rounding: it proves {support.bound:.17g}"
        return f"HiGHS' word: {what} was not derived again" if support.trusted >= needed else ""
    nodes, masks, enumerated = certificate.get("nodes"), details.get("masks_in_all"), details.get("enumerated")
    highs = str(certificate.get("formulation", "")).startswith("highs")
    # probing settles blocks without a node, and HiGHS' presolve excludes parts without one
    if isinstance(nodes, int) and nodes >= (0 if highs else 1) and _is_number(certificate.get("bound")):
        by = "by probing and HiGHS " if highs else ""
        also = f"and an evaluation of {enumerated} masks that are" if isinstance(enumerated, int) else "that is"
        return f"a search of {nodes} nodes {by}{also} not re-derived: {what} is not checked here"
    if isinstance(masks, int) and masks == details.get("masks"):
        return f"an enumeration of {masks} masks that is not repeated: {what} is not checked here"
    return ""


def _unsupported(claimed: float, support: Support, proof: Proof | None) -> str:
    given = "the proof proves" if proof is not None else "nothing in the file supports it; here is proved"
    return f"the lower bound {claimed:.12g} is not supported: {given} {support.bound:.12g}"


def _refuted(block: BlockProblem, mask: BoolArray, claimed: float, reported: float) -> list[str]:
    """A mask below the bound, where one is found: by enumeration, or by local search from the solution's mask."""
    from prunebench.solving import solve

    solver = "exhaustive" if can_enumerate(block) else "swap"
    better = solve(block.with_start(mask), solver, budget=Budget(evaluations=1e7), seed=0)
    _, top = value_range(block, better.weights)
    if top < claimed - PROOF_TOLERANCE * abs(reported):
        return [f"the bound {claimed:.12g} is false: another mask has the objective {better.objective:.12g}"]
    return []


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_mask(solution: dict[str, Any], size: int) -> BoolArray:
    """The mask, given as 0 and 1 for every weight or as the list of kept positions.

    Raises
    ------
    InvalidInput   neither, a position outside the block or one that repeats
    """
    given = solution["mask"]
    values = read_array("mask", given)
    if values.size and values.dtype.kind not in "iub":
        raise InvalidInput("the solution's mask is not of whole numbers: 0 or 1 a weight, or the kept positions")
    if values.ndim == 1 and values.size == size and ((values == 0) | (values == 1)).all():
        return values.astype(np.bool_)
    if values.ndim != 1 or values.dtype.kind == "b":
        raise InvalidInput(f"the solution's mask has shape {values.shape}; expected ({size},), or the kept positions")
    mask = np.zeros(size, dtype=np.bool_)
    if values.size:
        if values.min() < 0 or values.max() >= size or np.unique(values).size != values.size:
            raise InvalidInput(f"the solution's mask does not fit a block of {size} weights, or a position repeats")
        mask[values] = True
    return mask


def _weights(solution: dict[str, Any], size: int) -> FloatArray:
    values = read_array("weights", solution["weights"])
    if values.dtype.kind not in "iuf" or values.shape != (size,) or not np.isfinite(values).all():
        raise InvalidInput(f"the solution's weights have shape {values.shape}; expected ({size},), all finite numbers")
    return values.astype(np.float64)


def read_array(name: str, given: Any) -> "np.ndarray[Any, Any]":
    """A list of the solution as an array.

    Raises
    ------
    InvalidInput   no list, or not of numbers
    """
    if not isinstance(given, list):
        raise InvalidInput(f"the solution's {name} is no list")
    try:
        return np.asarray(given)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"the solution's {name} is not a list of numbers: {error}") from error
