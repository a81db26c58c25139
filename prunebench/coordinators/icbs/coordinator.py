"""iCBS: block coordinate descent over a whole network, as a state machine.

Rosenberg et al.: Scalable iterative pruning of large language and vision models using block
coordinate descent, arXiv 2411.17796 (2024). Beyond the paper: several blocks per step, refitting of kept
weights (mode refit), acceptance by the true loss on samples that the model did not see, an optionally
adaptive trust ridge, and tabu lists that never leave a step without candidates.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from prunebench.coordinators.icbs import select
from prunebench.coordinators.icbs.accept import Rule, adapted_trust, judge
from prunebench.coordinators.icbs.options import BY_GRADIENT, ICBSOptions
from prunebench.coordinators.icbs.step import StepBlock, clip_negative, conflicting, joint_change
from prunebench.coordinators.landscape import Landscape, View, landscape_of
from prunebench.coordinators.quotas import (
    NetworkCount,
    NetworkQuota,
    QuotaKind,
    Scores,
    network_keeping,
    require_honoured,
)
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray, RealArray
from prunebench.core.block import Mode
from prunebench.core.coordinator import (
    Coordinator,
    Move,
    Setting,
    Start,
    Task,
    calibration_seed,
    checked_array,
    checked_number,
    checked_state,
    count_of,
    fewer,
    register,
)
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import keep_count
from prunebench.core.problem import spread
from prunebench.core.solution import Solution

ACCEPT_SAMPLES = 2000
"""Default number of calibration samples that decide on acceptance; at most a quarter of all."""
_NOWHERE = -1
"""No point of a landscape has this number; it marks that the landscape must be placed again."""


def accept_apart(total: int) -> int:
    """Default number of calibration samples that decide on acceptance, out of `total`."""
    return max(1, min(ACCEPT_SAMPLES, total // 4))


@register
class ICBS(Coordinator):
    """Block coordinate descent: asks for a step's blocks, is told their solutions, until all steps are done.

    The number of kept weights is exact at every step, as every block keeps as many as before; with a
    quota, of every group's weights. Mask and weights are changed in place, the weights in the landscape's
    precision. Measured times go to the log only.

    Parameters
    ----------
    landscape : Landscape
    density : share of the weights that is kept
    mode : "select" (published) or "refit" (the kept weights of a block are re-optimised)
    options : ICBSOptions
    seed : of all randomness
    problem : name for messages and logs
    start : mask and weights to begin from, instead of a mask by the init score

    Raises
    ------
    InvalidInput   invalid options, sample counts or start
    """

    name: ClassVar[str] = "icbs"
    summary: ClassVar[str] = "Block coordinate descent over the network."
    reference: ClassVar[str] = "Rosenberg et al.: Scalable iterative pruning, arXiv 2411.17796 (2024)"
    options_class: ClassVar[type] = ICBSOptions
    flags: ClassVar[Mapping[str, str]] = {
        "init": "SCORE",
        "select": "SCORE",
        "block_size": "P",
        "steps": "N",
        "accept": "RULE",
        "ablation": "NAME",
    }
    takes: ClassVar[frozenset[str]] = frozenset({"start"})
    shares_passes: ClassVar[bool] = True
    default_mode: ClassVar[Mode] = "select"

    def __init__(
        self,
        landscape: Landscape,
        density: float,
        mode: Mode,
        options: ICBSOptions,
        *,
        seed: int,
        problem: str = "",
        start: Start | None = None,
    ) -> None:
        if options.ablation and mode != "select":
            raise InvalidInput("coordinator icbs: the ablation clip-negative exists in mode select only")
        self.landscape = landscape
        self.options = options
        self.mode: Mode = mode
        self.problem = problem
        self.seed = seed
        self.step = 0
        self._dense = landscape.dense_weights
        self._keeping = network_keeping(options.quota_kind, landscape.layers, density)
        self._pool, self._acceptance = self._split_samples()
        self._trust = options.ridge
        # the shortest integer type that counts the steps; -1 means never
        self._last_seen = np.full(self._dense.size, -1, dtype=np.min_scalar_type(-max(1, options.steps)))
        self._loss: float | None = None
        self._best_loss: float | None = None
        self._fit_loss: float | None = None
        self._gains: FloatArray = np.full(len(landscape.layers), np.inf)
        self._norms: Sequence[FloatArray] | None = None
        self._blocks: list[StepBlock] = []
        self._waiting: list[Task] = []
        self._outcomes: dict[int, Solution | None] = {}
        self._expected = 0
        self._again: list[int] = []
        self._times: dict[str, float] = {}
        self._started = 0.0
        self._begin(density, start)

    @classmethod
    def require(cls, setting: Setting) -> None:
        """Refuse a quota that the density or the solver rules out."""
        options: ICBSOptions = setting.options
        options.quota_kind.require_density(setting.density)
        # a block within one layer keeps the layer's count by itself
        inside = options.quota_kind.text == "layer" and options.block_scope == "layer"
        if not inside:
            require_honoured(setting.solver, options.quota_kind, "leave the quota out")

    @classmethod
    def begin(cls, setting: Setting) -> "ICBS":
        """Over a network's loss or a quadratic form."""
        # before the start is loaded, since the landscape takes its dense weights from the network as it is now
        landscape = landscape_of(setting)
        return cls(
            landscape,
            setting.density,
            setting.mode,
            setting.options,
            seed=setting.seed,
            problem=setting.name,
            start=None if setting.load_start is None else setting.load_start(setting.network),
        )

    @classmethod
    def curvature_options(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options but --batch-size, as each row is one sample."""
        if "batch_size" in given:
            raise InvalidInput("--batch-size belongs to one-shot pruning; coordinator icbs takes one row a sample")
        return super().curvature_options(given)

    @classmethod
    def fitted(cls, asked: Mapping[str, Any], total: int, fixed: Collection[str]) -> dict[str, int]:
        """If reduced, the acceptance samples go to at most their default number, and a step's samples to the rest."""
        apart, samples = (count_of(ICBSOptions, name, asked) for name in ("accept_samples", "samples"))
        if apart is None:
            return fewer(ICBSOptions, "samples", asked, total - accept_apart(total), fixed)
        if samples is None or samples + apart <= total:
            return {}
        out = fewer(ICBSOptions, "accept_samples", asked, min(apart, accept_apart(total)), fixed)
        return out | fewer(ICBSOptions, "samples", asked, total - out.get("accept_samples", apart), fixed)

    def network_facts(self) -> dict[str, Any]:
        """How gradients are computed, and which weights a first batch of samples does not reach."""
        from prunebench.curvature import reach
        from prunebench.curvature.landscape import NetworkLandscape

        landscape = self.landscape
        if not isinstance(landscape, NetworkLandscape):
            return {}
        rng = np.random.default_rng(calibration_seed(self.seed))
        looked = spread(landscape.samples, self.options.samples, rng)
        landscape.place(landscape.dense_weights)
        view = landscape.look(looked)
        view.prepare(None)
        reached = np.concatenate([view.slope(np.arange(layer.start, layer.stop)) != 0.0 for layer in landscape.layers])
        missed = reach.unreached(landscape.layers, reached, looked.size)
        return {"gradients": asdict(landscape.way), "unreached": missed.as_json()}

    @property
    def total_steps(self) -> int | None:
        """The requested number of steps."""
        return self.options.steps

    def best(self) -> tuple[BoolArray, RealArray]:
        """The mask and weights with the lowest acceptance loss of the run; the last ones where it is not measured."""
        return self._best_mask, self._best_weights

    def ask(self, count: int = 1) -> list[Task]:
        """Up to `count` blocks of the step that are not out yet; a new step once all solutions are in."""
        if not self._blocks and self.step < self.options.steps:
            self._open_step()
        given, self._waiting = self._waiting[:count], self._waiting[count:]
        return given

    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        """Take a solution, in any order; after the step's last one, judge and apply. None means unsolved."""
        self._outcomes[task.position] = solution
        if len(self._outcomes) < self._expected:
            return None
        self._lap("solve")
        self._take_outcomes()
        if self._next_in_turn():
            return None
        return self._close_step()

    @property
    def complete(self) -> bool:
        """Always true: the first mask has the count, and every step preserves it."""
        return True

    def check(self) -> None:
        """Raise PrunebenchError if the returned mask violates the count or quota."""
        self._keeping.require(self._best_mask)

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """The state between steps; an unfinished step is started again."""
        arrays = {
            "mask": self.mask,
            "weights": self.weights,
            "last_seen": self._last_seen,
            "fixed": self._fixed,
            "gains": self._gains,
        }
        if self._best_mask is not self.mask:
            arrays |= {"best_mask": self._best_mask, "best_weights": self._best_weights}
        scalars = {"step": self.step, "trust": self._trust}
        if self._loss is not None and self._best_loss is not None:
            scalars |= {"loss": self._loss, "best_loss": self._best_loss}
        return arrays, scalars

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        mask, weights = self._checked(arrays)
        best_mask, best_weights = mask, weights
        if "best_mask" in arrays or "best_weights" in arrays:
            best_mask, best_weights = self._checked(arrays, "best_")
        last_seen = checked_array(arrays, "last_seen", (self._dense.size,), "i").astype(self._last_seen.dtype)
        fixed = checked_array(arrays, "fixed", (self._dense.size,), "b").astype(np.bool_)
        gains = checked_array(arrays, "gains", self._gains.shape, "f").astype(np.float64)
        names = ("trust", "loss", "best_loss") if self.options.needs_loss else ("trust",)
        for name in names:
            if isinstance(info.get(name), bool) or not isinstance(info.get(name), (int, float)):
                raise InvalidInput(f"{name} is {info.get(name)!r} where a number is expected")
        self.step = checked_number(info, "step", most=self.options.steps)
        self.mask, self.weights, self._best_mask, self._best_weights = mask, weights, best_mask, best_weights
        self._last_seen, self._fixed, self._gains = last_seen, fixed, gains
        self._trust = float(info["trust"])
        if self.options.needs_loss:
            self._loss, self._best_loss = float(info["loss"]), float(info["best_loss"])
        self._blocks, self._waiting, self._outcomes = [], [], {}
        self._point = _NOWHERE

    def _checked(self, arrays: Mapping[str, npt.NDArray[Any]], of: str = "") -> tuple[BoolArray, RealArray]:
        """Mask and weights of a checkpoint, checked against the run's count and quota."""
        mask, weights = checked_state(arrays, self._dense.size, f"{of}mask", f"{of}weights")
        if (kept := int(mask.sum())) != (due := int(self.mask.sum())):
            raise InvalidInput(f"{of}mask keeps {kept} weights where {due} are asked for")
        if broken := self._keeping.violation(mask):
            raise InvalidInput(f"{of}mask breaks the quota: {broken}")
        weights = weights.astype(self._dense.dtype)
        if self.mode == "select" and (weights != np.where(mask, self._dense, self._dense.dtype.type(0))).any():
            raise InvalidInput(f"{of}weights are not the dense ones where kept, which mode select does not change")
        return mask.astype(np.bool_), weights

    # --- the beginning -------------------------------------------------------------------------

    def _begin(self, density: float, start: Start | None) -> None:
        """Set the first mask, the fixed weights, and the initial loss."""
        options, layers = self.options, self.landscape.layers
        scores = self._init_scores()
        if start is None:
            self.mask = self._first_keeping(density).top_mask(scores)
            self.weights = np.where(self.mask, self._dense, self._dense.dtype.type(0))
        else:
            self._require_start(start, density)
            self.mask, self.weights = start.mask.copy(), start.weights.astype(self._dense.dtype)
        self._fixed = select.fixed_weights(scores, self.mask, layers, options.fixed_pruned, options.fixed_kept)
        self._point = self.landscape.place(self.weights)
        self._loss = self.landscape.loss(self._acceptance) if options.needs_loss else None
        self._best_mask, self._best_weights, self._best_loss = self.mask, self.weights, self._loss

    def _first_keeping(self, density: float) -> NetworkCount | NetworkQuota:
        """The constraint of the first mask: the quota if there is one, else by init_scope."""
        if self.options.quota_kind.grouped or self.options.init_scope == "network":
            return self._keeping
        return NetworkQuota.of(QuotaKind.parse(self.options.init_scope), self.landscape.layers, density)

    def _require_start(self, start: Start, density: float) -> None:
        kind = self.options.quota_kind
        keep, kept = keep_count(density, self._dense.size), int(start.mask.sum())
        if kept != keep:
            raise InvalidInput(f"coordinator icbs: the start keeps {kept} weights and density {density:g} needs {keep}")
        if broken := self._keeping.violation(start.mask):
            raise InvalidInput(f"coordinator icbs: the start breaks quota {kind}: {broken}; give another")
        if self.mode == "select" and (start.weights != np.where(start.mask, self._dense, 0.0)).any():
            raise InvalidInput(
                "coordinator icbs: mode select keeps the dense values of weights and the start has changed them; "
                "use mode refit"
            )

    def _init_scores(self) -> Scores:
        gradient = None
        if self.options.init == "gradient":
            self.landscape.place(self._dense)
            gradient = self.landscape.look(self._batch(-1)).gradient.__getitem__
        return self._scores(self.options.init, gradient, self._rng(0, "init"))

    def _scores(
        self, name: str, gradient: Callable[[IndexArray], RealArray] | None, rng: np.random.Generator
    ) -> Scores:
        """Scores (high = worth keeping) of the dense weights, not the current ones; computed only where requested."""
        salt = rng.integers(2**64, dtype=np.uint64)

        def scores(indices: IndexArray) -> FloatArray:
            if name == "random":
                return scattered(indices, salt)
            size = np.abs(self._dense[indices]).astype(np.float64)
            if name == "wanda":
                return size * self._input_norms(indices)
            return size if gradient is None else size * np.abs(gradient(indices))

        return scores

    def _split_samples(self) -> tuple[IndexArray, IndexArray]:
        """Calibration samples for fitting, and those held out for acceptance."""
        total, options = self.landscape.samples, self.options
        nothing = np.zeros(0, dtype=np.int64)
        if total == 0:
            return nothing, nothing
        apart = options.accept_samples or accept_apart(total)
        if options.samples + apart > total:
            raise InvalidInput(
                f"coordinator icbs: samples {options.samples} and accept_samples {apart} together "
                f"exceed the {total} calibration samples of {self.problem or 'the problem'}; choose fewer"
            )
        order = self._rng(0, "samples").permutation(total)
        acceptance = np.sort(order[:apart])
        # the pool is the rest, so that no model sees a sample that judges its solution
        return np.setdiff1d(np.arange(total), acceptance), acceptance

    # --- one step ------------------------------------------------------------------------------

    def _open_step(self) -> None:
        self._times, self._started = {}, perf_counter()
        self._stand()
        view = self.landscape.look(self._batch(self.step))
        scores = self._selection_scores(view)
        self._lap("gradients")
        chosen = self._choose_blocks(view, scores)
        self._lap("select")
        scale = self.options.gradient_scale if self.landscape.samples else 1.0
        factors = view.factors([indices for _, indices in chosen])
        self._lap("gradients")
        for (label, indices), factor in zip(chosen, factors, strict=True):
            self._blocks.append(
                StepBlock(
                    label=label,
                    indices=indices,
                    factor=factor,
                    slope=scale * view.slope(indices),
                    ridge=view.ridge(indices),
                    dense_weights=self._dense[indices].astype(np.float64),
                    weights=self.weights[indices].astype(np.float64),
                    mask=self.mask[indices],
                    keeping=self._keeping.within(indices, self.mask[indices]),
                )
            )
        self._fit_loss = view.loss if self.options.evaluate else None
        self._waiting = [self._task(position, None) for position in range(len(self._blocks))]
        self._expected, self._outcomes, self._again = len(self._waiting), {}, []
        self._lap("build")

    def _choose_blocks(self, view: View, scores: Scores) -> list[tuple[str, IndexArray]]:
        """The step's disjoint blocks, with labels."""
        options, layers = self.options, self.landscape.layers
        rng = self._rng(self.step, "layers")
        orders = [[("network", 0, self._dense.size)]] * options.blocks_per_step
        if options.block_scope == "layer":
            drawn = [self._draw_layers(rng) for _ in orders]
            orders = [[(layers[i].name, layers[i].start, layers[i].stop) for i in order] for order in drawn]
        if options.select in BY_GRADIENT:
            view.prepare([spans[0][0] for spans in orders] if options.block_scope == "layer" else None)
        chosen: list[tuple[str, IndexArray]] = []
        # the weights of a step's earlier blocks are barred like the fixed ones, until all are chosen
        barred = self._fixed
        try:
            for spans in orders:
                for label, start, stop in spans:
                    span, keys = np.arange(start, stop), self._keeping.keys
                    pool = select.candidates(span, self.mask, barred, self._last_seen, options.tabu, keys)
                    if not pool.usable:
                        continue
                    if options.select == "coupling":
                        seed = int(rng.integers(2**31))
                        indices = select.pick_coupled(pool, scores, options.block_size, view.factor, self._dense, seed)
                    else:
                        indices = select.pick(pool, scores, options.block_size)
                    chosen.append((label, indices))
                    barred[indices] = True
                    break
        finally:
            for _, indices in chosen:
                barred[indices] = False
        if not chosen:
            raise InvalidInput(
                f"coordinator icbs: no layer of {self.problem or 'the problem'} has both pruned and kept weights that "
                "may be exchanged; use a density below 1 or smaller fixed fractions"
            )
        return chosen

    def _selection_scores(self, view: View) -> Scores:
        name = self.options.select
        if name == "cyclic":
            return self._cyclic
        gradient = view.slope if name in BY_GRADIENT else None
        return self._scores(name, gradient, self._rng(self.step, "pick"))

    def _cyclic(self, indices: IndexArray) -> FloatArray:
        """Scores that pick the weights unseen longest, pruned and kept: high for pruned weights, low for kept ones."""
        age = (self.step - self._last_seen[indices].astype(np.int64)).astype(np.float64)
        return np.where(self.mask[indices], -age, age)

    def _draw_layers(self, rng: np.random.Generator) -> IndexArray:
        """All layers in random order, more probable ones tending to come first; without samples all alike."""
        layers = self.landscape.layers
        if self.landscape.samples == 0:
            return rng.permutation(len(layers))
        share = np.log10(np.array([layer.stop - layer.start for layer in layers], dtype=np.float64) + 1.0)
        if self.options.layers == "gain":
            known = self._gains[np.isfinite(self._gains)]
            hope = float(known.max()) if known.size else 1.0
            share = np.where(np.isfinite(self._gains), self._gains, hope) + 0.05 * hope + 1e-300
        # sorting exponential variates over shares samples without replacement in proportion to the shares
        return np.argsort(rng.exponential(size=share.size) / share, kind="stable")

    def _task(self, position: int, others: FloatArray | None) -> Task:
        block = self._blocks[position]
        again = len(self._blocks) if others is not None else 0
        name = f"{self.problem}/{block.label}/{self.step}" if self.problem else f"{block.label}/{self.step}"
        problem = block.problem(self.mode, self._trust, others, name)
        if self.options.ablation == "clip-negative":
            problem = clip_negative(problem)
        number = 2 * self.options.blocks_per_step * self.step + again + position
        return Task(number, block.label, problem)

    def _take_outcomes(self) -> None:
        """Store the solutions in their blocks; an unsolved block stays unchanged."""
        base = 2 * self.options.blocks_per_step * self.step
        for number, solution in self._outcomes.items():
            block = self._blocks[(number - base) % len(self._blocks)]
            if solution is None:
                continue
            block.new_mask = np.array(solution.mask)
            block.new_weights = np.array(solution.weights)
            if self.options.ablation:
                block.new_weights = np.where(block.new_mask, block.dense_weights, 0.0)
            block.predicted = joint_change([block], self._trust)
        self._outcomes = {}

    def _next_in_turn(self) -> bool:
        """After the first solutions, solve conflicting blocks again one by one, given the others' moves."""
        if self._expected == len(self._blocks) and len(self._blocks) > 1 and not self._again:
            self._again = conflicting(self._blocks, self.options.conflict)
            self._expected = 1
        if not self._again:
            return False
        position = self._again.pop(0)
        images = [block.image for other, block in enumerate(self._blocks) if other != position]
        self._blocks[position].new_weights = self._blocks[position].weights
        self._blocks[position].new_mask = self._blocks[position].mask
        self._waiting = [self._task(position, np.sum(images, axis=0))]
        return True

    def _close_step(self) -> Move:
        """Accept or reject, advance to the next step, and report the outcome."""
        proposed = [block for block in self._blocks if np.any(block.new_weights != block.weights)]
        proposed.sort(key=lambda block: block.predicted)
        predicted = joint_change(proposed, self._trust)
        rule = Rule(self.options.accept, halve_swaps=self.mode == "select")
        verdict = judge(proposed, predicted, rule, self._loss_after, self._loss, self._trust)
        accepted, before = verdict.accepted, self._loss
        changed = sum(int((block.new_mask != block.mask).sum()) for block in accepted)
        measured: dict[str, float] = {}
        if self._fit_loss is not None:
            after = self._loss_with(accepted, self._batch(self.step)) if accepted else self._fit_loss
            measured["fit_change"] = after - self._fit_loss
        self._apply(accepted, verdict.loss)
        for block in self._blocks:
            self._last_seen[block.indices] = self.step
        self._note_gains(before)
        self._lap("evaluate")
        if self._loss is not None and self._best_loss is not None and verdict.true_change is not None:
            measured |= {
                "true_change": verdict.true_change,
                "acceptance_loss": self._loss,
                "best_loss": self._best_loss,
            }
        details = {
            "blocks": [block.label for block in self._blocks],
            "block_sizes": [int(block.indices.size) for block in self._blocks],
            "blocks_accepted": len(accepted),
            "predicted_each": [block.predicted for block in self._blocks],
            **measured,
            "trust_ridge": self._trust,
            "kept_per_layer": {
                layer.name: np.count_nonzero(self.mask[layer.start : layer.stop]) for layer in self.landscape.layers
            },
            "times": self._times,
        }
        if self.options.trust == "adaptive" and verdict.true_change is not None and rule.accept == "true-loss":
            self._trust = adapted_trust(self._trust, self.options.ridge, predicted, verdict.true_change)
        self._blocks, self._waiting = [], []
        self.step += 1
        return Move(bool(accepted), predicted, changed, details)

    def _loss_after(self, blocks: list[StepBlock]) -> float:
        """The acceptance loss with the moves of `blocks` applied."""
        return self._loss_with(blocks, self._acceptance)

    def _loss_with(self, blocks: list[StepBlock], positions: IndexArray) -> float:
        """The loss with the moves of `blocks` applied temporarily; only their weights are written."""
        self._stand()
        indices = np.concatenate([block.indices for block in blocks])
        with self.landscape.moved(indices, np.concatenate([block.new_weights for block in blocks])):
            return self.landscape.loss(positions)

    def _stand(self) -> None:
        """Place the landscape at the current weights, unless it is already there."""
        if not self.landscape.stands_at(self._point):
            self._point = self.landscape.place(self.weights)

    def _apply(self, accepted: list[StepBlock], loss: float | None) -> None:
        """Write the accepted blocks in place, the landscape's weights too; copies the best state if this is worse."""
        if not accepted:
            return
        best = self._best_loss
        if loss is not None and best is not None and loss >= best and self._best_mask is self.mask:
            self._best_mask, self._best_weights = self.mask.copy(), self.weights.copy()
        stands = self.landscape.stands_at(self._point)
        for block in accepted:
            self.mask[block.indices] = block.new_mask
            self.weights[block.indices] = block.new_weights
        self._point = _NOWHERE
        if stands:
            indices = np.concatenate([block.indices for block in accepted])
            self._point = self.landscape.write(indices, self.weights[indices])
        self._loss = loss
        if loss is not None and best is not None and loss < best:
            self._best_mask, self._best_weights, self._best_loss = self.mask, self.weights, loss

    def _note_gains(self, before: float | None) -> None:
        """Update the layers' gains: half this step's improvement, half the previous value."""
        if before is None or self._loss is None:
            return
        names = {block.label for block in self._blocks}
        gain = max(0.0, before - self._loss) / max(1, len(names))
        for position, layer in enumerate(self.landscape.layers):
            if layer.name in names:
                held = self._gains[position]
                self._gains[position] = gain if not np.isfinite(held) else 0.5 * (held + gain)

    # --- samples, seeds, times -----------------------------------------------------------------

    def _batch(self, step: int) -> IndexArray:
        """The fit samples of a step: the pool, reshuffled each epoch, without replacement within it."""
        count = self.options.samples
        if self._pool.size == 0:
            return self._pool
        if step < 0:
            return np.sort(self._rng(0, "first").permutation(self._pool)[:count])
        per_epoch = self._pool.size // count
        epoch, place = divmod(step, per_epoch)
        order = self._rng(epoch, "epoch").permutation(self._pool)
        return np.sort(order[place * count : (place + 1) * count])

    def _rng(self, number: int, purpose: str) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(3, number, *purpose.encode())))

    def _input_norms(self, indices: IndexArray) -> FloatArray:
        """The norm of the input feature that each weight multiplies. int64 (b,) -> float64 (b,)."""
        if self._norms is None:
            self._norms = self.landscape.input_norms(self._acceptance)
        starts = np.array([layer.start for layer in self.landscape.layers])
        lengths = np.array([norms.size for norms in self._norms])
        layer = np.searchsorted(starts, indices, side="right") - 1
        before = np.cumsum(lengths) - lengths
        return np.asarray(np.concatenate(self._norms)[before[layer] + (indices - starts[layer]) % lengths[layer]])

    def _lap(self, phase: str) -> None:
        now = perf_counter()
        self._times[phase] = self._times.get(phase, 0.0) + now - self._started
        self._started = now


def scattered(indices: IndexArray, salt: np.uint64) -> FloatArray:
    """A uniform number in [0, 1) for each position, independent of the other positions. int64 (b,) -> (b,)

    Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014 (SplitMix64's mix).
    """
    z = indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + salt
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53)
