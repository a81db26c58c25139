"""Any sampler of the dimod family, given by name, import path or object.

dimod and dwave-samplers (D-Wave, Apache-2.0). The cardinality is built into the model by one of the
encodings of prunebench.forms.dimod, or passed as a constraint to samplers that take one. The libraries'
own penalty, inverse temperatures and single read are never used: each is orders of magnitude off on
blocks of real networks.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import Refusal, RefusalKind
from prunebench.core.keeping import Count, Quota
from prunebench.core.mask_bounds import least_bound
from prunebench.core.optimality import is_proved
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.core.stop import StopKind
from prunebench.core.trust import RUNS_CODE
from prunebench.forms.dimod import BUDGET_SAFE, ENCODINGS, LAGRANGE_QUOTA, MAX_DENSE, sampler_of

MOST_SWEEPS = 10_000_000
"""Most sweeps of a read: its schedule then takes 160 MB."""


@dataclass(frozen=True, kw_only=True)
class DimodSolver(Solver):
    """Batches of reads of one sampler; infeasible samples repaired by single flips, both values kept.

    Proves no bound. `details` holds the feasible share before repair, the best objective raw and
    repaired, the penalty and how it was found, and the lowest samples whole. Without a limit on
    seconds it makes one batch.
    """

    modes = frozenset({"select"})
    stochastic = True
    takes = frozenset({Count, Quota, Cost})
    requires: ClassVar[tuple[str, ...]] = ("dimod", "dwave.samplers")
    install = "pip install dimod dwave-samplers"
    max_size = MAX_DENSE
    reference = "D-Wave Ocean: dimod and dwave-samplers, https://docs.dwavequantum.com"
    extra_keywords: ClassVar[tuple[str, ...]] = ()
    miniature = False
    simulated: ClassVar[bool] = True

    encoding: Literal["adaptive", "lagrange", "safe"] = "adaptive"
    """How the cardinality enters: a tuned penalty, a tuned linear term, or the provably safe penalty. Budgets enter as
    a tuned linear term, whichever of the first two is chosen, or as constraints where the sampler takes them."""

    reads: int = 20
    """Reads without a limit on seconds; with one, batches of as many as fit until it is used."""

    keywords: tuple[str, ...] = ()
    """Keywords of the sampler as name=value; an unknown one is an error."""

    polish: bool = True
    """End with the shared swap descent, reported apart."""

    keep_samples: int | None = 100
    """Lowest distinct samples kept whole in the details; none: all of them; 0: none of them."""

    patience: float = 3600.0
    """Seconds after which a call without an answer is given up on; with a limit on seconds, 5 s after it."""

    def make_sampler(self) -> Any:
        """The dimod sampler object."""
        raise NotImplementedError

    def sampler_for(self, block: BlockProblem) -> Any:
        """The sampler for this block; here the same for all."""
        return self.make_sampler()

    def defaults(self, seed: int, effort: float = 1.0) -> dict[str, Any]:
        """Default keywords, unless the caller sets them; those that the sampler does not accept are dropped.

        effort : in (0, 1], the length of a read; the first reads under a time limit are short
        """
        return {"seed": seed}

    def warm_up(self, block: BlockProblem) -> None:
        """Load the libraries; sends nothing to the sampler."""
        from prunebench.solvers.dimod.timed_run import load

        load(block)

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """Too many weights, or options out of range."""
        if self.max_size is not None and block.p > self.max_size:
            return f"at most {self.max_size} weights; set the block size to {self.max_size} or use solver 'anneal'"
        if self.encoding not in ENCODINGS:
            return f"encoding is {self.encoding!r}; choose one of {', '.join(ENCODINGS)}"
        if block.budget is not None and self.encoding == "safe":
            return Refusal(BUDGET_SAFE, RefusalKind.BUDGET)
        if block.budget is None and not block.keeping.one_count and self.encoding == "lagrange":
            return Refusal(LAGRANGE_QUOTA, RefusalKind.QUOTA)
        if self.reads < 1:
            return f"reads is {self.reads}; choose at least 1"
        if not self.patience > 0.0:
            return f"patience is {self.patience}; choose a positive number of seconds"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best sample after repair and polish, or the incumbent if none is better.

        Raises
        ------
        InvalidInput    a keyword that the sampler does not have
        SamplerFailed   the sampler raised, hung or returned no samples, and none were returned before
        """
        from prunebench.solvers.dimod.timed_run import sample_block

        return sample_block(self, best, rng)


@dataclass(frozen=True, kw_only=True)
class _Annealer(DimodSolver):
    """A sampler with sweeps and inverse temperatures."""

    sweeps: int = 1000
    """Sweeps a read."""

    hot: float = 0.3
    """First temperature, in units of the mean energy change of a random swap."""

    cold: float = 1e-3
    """Last temperature, in the same units."""

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """Also an invalid temperature range."""
        if not 0.0 < self.cold <= self.hot < float("inf") or self.sweeps < 1:
            return f"sweeps is {self.sweeps}, cold {self.cold}, hot {self.hot}; choose 0 < cold <= hot and sweeps >= 1"
        if self.sweeps > MOST_SWEEPS:
            return f"sweeps is {self.sweeps}; choose at most {MOST_SWEEPS:,}: each has an entry in the schedule"
        return DimodSolver.refuses(self, block)


@register
@dataclass(frozen=True, kw_only=True)
class Neal(_Annealer):
    """dwave-samplers' simulated annealing by single flips (dwave-neal is its retired name)."""

    name = "neal"

    def make_sampler(self) -> Any:
        """SimulatedAnnealingSampler."""
        return sampler_of("dwave.samplers:SimulatedAnnealingSampler")

    def defaults(self, seed: int, effort: float = 1.0) -> dict[str, Any]:
        """Sweeps, temperatures fitted to the block, and a seed."""
        betas = (1.0 / self.hot, 1.0 / self.cold)
        return {"num_sweeps": _part(self.sweeps, effort), "beta_range": betas, "seed": seed}


@register
@dataclass(frozen=True, kw_only=True)
class PathIntegral(_Annealer):
    """dwave-samplers' path-integral quantum annealing, with a transverse field (its own default has none)."""

    name = "path-integral"

    sweeps: int = 100
    """Sweeps a read; one costs tens of classical sweeps."""

    extra_keywords = ("Hp_field", "Hd_field", "Gamma")

    def make_sampler(self) -> Any:
        """PathIntegralAnnealingSampler."""
        return sampler_of("dwave.samplers:PathIntegralAnnealingSampler")

    def defaults(self, seed: int, effort: float = 1.0) -> dict[str, Any]:
        """A geometric rise of the problem field and a linear fall of the transverse field."""
        sweeps = _part(self.sweeps, effort)
        return {
            "num_sweeps": sweeps,
            "num_sweeps_per_beta": 1,
            "beta_schedule_type": "custom",
            "Hp_field": np.geomspace(1.0 / self.hot, 1.0 / self.cold, sweeps),
            "Hd_field": np.linspace(1.0, 0.0, sweeps),
            "seed": seed,
        }


@register
@dataclass(frozen=True, kw_only=True)
class Tabu(DimodSolver):
    """dwave-samplers' multi-start tabu search, stopped by restarts and not by the clock, so that seeds repeat."""

    name = "tabu"

    restarts: int = 5
    """Restarts of one read."""

    def make_sampler(self) -> Any:
        """TabuSampler."""
        return sampler_of("dwave.samplers:TabuSampler")

    def defaults(self, seed: int, effort: float = 1.0) -> dict[str, Any]:
        """Moves in proportion to p, no time limit, and a seed."""
        return {**_tabu_moves(self.restarts, effort), "timeout": 2**31 - 1, "seed": seed}


@register
@dataclass(frozen=True, kw_only=True)
class SteepestDescent(DimodSolver):
    """dwave-samplers' steepest descent by single flips from random states."""

    name = "steepest-descent"

    def make_sampler(self) -> Any:
        """SteepestDescentSampler."""
        return sampler_of("dwave.samplers:SteepestDescentSampler")


@register
@dataclass(frozen=True, kw_only=True)
class Exact(DimodSolver):
    """dimod's ExactSolver: every one of the 2^p masks, without any penalty. A test oracle."""

    name = "exact"
    exact = True
    stochastic = False
    max_size = 16

    def make_sampler(self) -> Any:
        """ExactSolver."""
        return sampler_of("dimod:ExactSolver")

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The optimum, proved by enumeration; the incumbent if the budget does not allow enumeration."""
        from prunebench.forms.dimod import encode
        from prunebench.forms.sampler_calls import ask, masks_of
        from prunebench.kernels.enumeration.rounding import select_doubt
        from prunebench.solvers.dimod.pool import Pool

        block = best.block
        plain = encode(block)
        pool = Pool(best, plain, 1.0, self.keep_samples)
        if best.budget.evaluations < 2.0**block.p:
            pool.tell()
            return Stop(StopKind.EVALUATIONS, "enumerating takes 2^p evaluations")
        samples = ask(self.make_sampler(), "sample", plain.bqm(), {}, np.inf)
        masks = masks_of(samples, block.p)
        pool.add(masks, samples)
        pool.tell()
        # dimod adds up fewer than p² terms in its own order, which errs by at most as much again
        doubt = 2.0 * select_doubt(block, plain.offset).fixed
        good = plain.feasible(masks)
        energies = np.asarray(samples.record.energy, dtype=np.float64)
        best.bound(least_bound(block, masks[good & (energies < best.objective + doubt)], best.objective))
        through = Stop.finished(f"enumerated all 2^{block.p} masks")
        proved = is_proved(best.objective, best.lower_bound)
        return through if proved else through.also("rounding leaves this gap")


@register
@dataclass(frozen=True, kw_only=True)
class AnySampler(DimodSolver):
    """Any dimod sampler, composite or CQM sampler: an object, a class, or an import path "package.module:Class"."""

    name = "dimod"
    requires = ("dimod", "dwave.samplers")

    sampler: Any = field(
        default="dwave.samplers:SimulatedAnnealingSampler", metadata={RUNS_CODE: lambda value: isinstance(value, str)}
    )
    """The sampler object, its class or factory, or "package.module:Class"."""

    def make_sampler(self) -> Any:
        """The object itself, or the result of calling the class or factory."""
        return sampler_of(self.sampler)

    def defaults(self, seed: int, effort: float = 1.0) -> dict[str, Any]:
        """All keywords known from samplers of the family; those that this one does not accept are dropped."""
        betas = (1.0 / 0.3, 1.0 / 1e-3)
        return {
            "num_sweeps": _part(1000, effort),
            "beta_range": betas,
            "beta_min": betas[0],
            "beta_max": betas[1],
            **_tabu_moves(5, effort),
            "seed": seed,
        }


def _part(sweeps: int, effort: float) -> int:
    return max(1, round(sweeps * effort))


def _tabu_moves(restarts: int, effort: float) -> dict[str, int]:
    """Moves of one tabu read: 100 p at first and 50 p per restart, at least 1000."""
    names = ("coefficient_z_first", "coefficient_z_restart", "lower_bound_z")
    moves = {name: _part(count, effort) for name, count in zip(names, (100, 50, 1000), strict=True)}
    return {"num_restarts": _part(restarts, effort), **moves}
