"""iCBS as a state machine: exact counts, model and truth, selection, acceptance, checkpoints."""

import json

import numpy as np
import pytest

from prunebench import make_problem, make_solver
from prunebench.coordinators.icbs import select
from prunebench.coordinators.icbs.coordinator import ICBS
from prunebench.coordinators.icbs.options import ICBSOptions
from prunebench.coordinators.icbs.step import StepBlock, clip_negative, conflicting, half_of_swaps, joint_change
from prunebench.coordinators.landscape import FormLandscape
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Count
from prunebench.solving import solve
from prunebench.testing.instances import BruteForce, all_masks, instance

OPTIONS = {"steps": 6, "block_size": 12, "samples": 64, "accept_samples": 200}


def planted(kind="sparse", p=24, density=0.5, mode="select", seed=0):
    options = {"p": p, "n": p // 2, "kind": kind, "ridge": 0.3}
    block = make_problem("planted", options).block(density, mode, seed)
    return block, FormLandscape(block.form, block.dense_weights)


def network():
    from prunebench.curvature.landscape import NetworkLandscape
    from prunebench.networks.network import PrunableNetwork

    problem = make_problem("digits-mlp")
    return NetworkLandscape(problem, PrunableNetwork(problem.model(), problem.prunable()))


def run(coordinator, solver, most=10_000):
    """Drive to the end in this process; the moves."""
    moves = []
    while (tasks := coordinator.ask(8)) and len(moves) < most:
        for task in tasks:
            move = coordinator.tell(task, solve(task.block, solver, seed=task.position))
            if move is not None:
                moves.append(move)
    return moves


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_an_exact_block_solver_never_increases_the_objective_and_ends_block_optimal(mode):
    _, landscape = planted(mode=mode)
    options = ICBSOptions(
        steps=400, block_size=10, select="random", fixed_pruned=0.0, fixed_kept=0.0, tabu=0.3, ridge=0.0
    )
    coordinator = ICBS(landscape, 0.5, mode, options, seed=1)
    losses = [landscape.form.value(coordinator.weights)]
    while tasks := coordinator.ask():
        coordinator.tell(tasks[0], solve(tasks[0].block, "exhaustive"))
        losses.append(landscape.form.value(coordinator.weights))
        assert losses[-1] <= losses[-2] + 1e-12 * abs(losses[-2])
    assert losses[-1] < losses[0]
    # Block-optimal: no block of a fresh draw improves on where it ended.
    fresh = ICBS(landscape, 0.5, mode, options, seed=99)
    fresh.load_state_dict(*_with(coordinator, step=0))
    for _ in range(5):
        task = fresh.ask()[0]
        assert solve(task.block, "exhaustive").objective >= -1e-7 * (1 + abs(losses[-1]))
        fresh.tell(task, None)


def _with(coordinator, **changes):
    arrays, info = coordinator.state_dict()
    return arrays, {**info, **changes}


def test_the_planted_optimum_is_found_by_small_exact_blocks():
    problem = make_problem("planted", {"p": 20, "n": 40, "kind": "sparse"})
    block = problem.block(0.5, "select", 3)
    mask, value = problem.optimum(0.5, "select", 3)
    options = ICBSOptions(steps=80, block_size=10, select="random", fixed_pruned=0, fixed_kept=0, ridge=0.0)
    coordinator = ICBS(FormLandscape(block.form, block.dense_weights), 0.5, "select", options, seed=0)
    run(coordinator, make_solver("exhaustive"))
    assert np.array_equal(coordinator.best()[0], mask)
    assert block.form.value(coordinator.best()[1]) == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("scope", ["layer", "network"])
@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_the_number_kept_is_exact_at_every_step(scope, mode, blocks):
    options = ICBSOptions(**OPTIONS, block_scope=scope, blocks_per_step=blocks)
    landscape = network()
    coordinator = ICBS(landscape, 0.2, mode, options, seed=0)
    expected = round(0.2 * landscape.dense_weights.size)
    assert coordinator.mask.sum() == expected
    while tasks := coordinator.ask(8):
        for task in tasks:
            coordinator.tell(task, solve(task.block, "swap", options={"restarts": 1}))
        assert coordinator.mask.sum() == expected
        assert not coordinator.weights[~coordinator.mask].any()
        if mode == "select":
            kept = coordinator.mask
            assert np.array_equal(coordinator.weights[kept], landscape.dense_weights[kept])


def test_within_layers_the_density_of_each_layer_stays():
    coordinator = ICBS(network(), 0.2, "select", ICBSOptions(**OPTIONS), seed=0)
    layers = coordinator.landscape.layers
    before = [int(coordinator.mask[layer.start : layer.stop].sum()) for layer in layers]
    run(coordinator, make_solver("swap"))
    assert [int(coordinator.mask[layer.start : layer.stop].sum()) for layer in layers] == before


def test_doing_nothing_costs_nothing_in_every_block():
    for mode in ("select", "refit"):
        coordinator = ICBS(network(), 0.3, mode, ICBSOptions(**OPTIONS), seed=2)
        for _ in range(3):
            task = coordinator.ask()[0]
            weights = coordinator.weights[task.block.indices]
            assert task.block.form.value(weights) == 0.0
            assert np.array_equal(task.block.start_mask, coordinator.mask[task.block.indices])
            coordinator.tell(task, solve(task.block, "swap"))


def test_the_block_model_is_the_taylor_model_of_the_loss_on_its_batch():
    """Slope against a finite difference of the true loss; curvature against explicit sample gradients."""
    landscape = network()
    rng = np.random.default_rng(0)
    positions = np.arange(40)
    weights = np.where(rng.random(landscape.dense_weights.size) < 0.5, landscape.dense_weights, 0.0)
    landscape.place(weights)
    view = landscape.look(positions)
    indices = np.sort(rng.choice(weights.size, 30, replace=False))
    step = 0.01 * rng.normal(size=30)
    losses = []
    for sign in (1, -1):
        with landscape.moved(indices, weights[indices] + sign * step):
            losses.append(landscape.loss(positions))
    assert losses[0] - losses[1] == pytest.approx(2 * view.gradient[indices] @ step, rel=2e-2)
    from prunebench.curvature.gradients import sample_gradients

    rows = sample_gradients(landscape.network, landscape.loss_of, landscape.calibration, positions)
    assert np.allclose(view.factor(indices), rows[:, indices] / np.sqrt(40), rtol=1e-3, atol=1e-6)
    assert np.allclose(view.gradient, rows.mean(axis=0, dtype=np.float64), rtol=1e-3, atol=1e-6)


def test_acceptance_by_true_loss_never_lets_the_acceptance_loss_rise():
    coordinator = ICBS(network(), 0.1, "select", ICBSOptions(**{**OPTIONS, "steps": 15}), seed=0)
    losses = [move.details["acceptance_loss"] for move in run(coordinator, make_solver("swap"))]
    assert (np.diff(losses) <= 0).all()
    assert losses[-1] < losses[0]


def test_an_adaptive_trust_ridge_grows_after_a_broken_promise_and_falls_when_it_forbade_every_move():
    options = ICBSOptions(**{**OPTIONS, "steps": 12, "samples": 8}, trust="adaptive", ridge=1e-6)
    coordinator = ICBS(network(), 0.1, "select", options, seed=0)
    ridges = [move.details["trust_ridge"] for move in run(coordinator, make_solver("swap"))]
    assert max(ridges) > 1e-6
    coordinator = ICBS(network(), 0.1, "select", options, seed=0)
    coordinator._trust = 1e12
    move = run(coordinator, make_solver("swap"))[0]
    assert move.predicted_change == 0.0
    assert coordinator._trust < 1e12


def test_half_of_a_blocks_swaps_keeps_the_count_and_the_better_half_by_the_model():
    rng = np.random.default_rng(4)
    block = step_block(rng)
    block.dense_weights = np.where(block.mask, block.weights, 1.0)
    block.new_mask = ~block.mask
    block.new_weights = np.where(block.new_mask, block.dense_weights, 0.0)
    half = half_of_swaps(block, 0.1)
    assert half.new_mask.sum() == block.mask.sum()
    assert (half.new_mask != block.mask).sum() == 2
    assert half.predicted == pytest.approx(joint_change([half], 0.1), rel=1e-12)
    assert half_of_swaps(half, 0.1) is None


def test_the_best_state_by_acceptance_loss_is_returned_whatever_is_accepted():
    options = ICBSOptions(**{**OPTIONS, "steps": 15, "samples": 8}, accept="none", evaluate=True)
    coordinator = ICBS(network(), 0.1, "select", options, seed=0)
    moves = run(coordinator, make_solver("swap"))
    losses = [move.details["acceptance_loss"] for move in moves]
    coordinator.landscape.place(coordinator.best()[1])
    final = coordinator.landscape.loss(coordinator._acceptance)
    assert final == pytest.approx(min(losses), rel=1e-9)


def test_the_loss_is_measured_only_where_a_rule_or_the_log_asks_for_it():
    steps = {**OPTIONS, "steps": 4}
    asked = {"accept": "none"}, {"accept": "model"}, {}, {"layers": "gain", "accept": "none"}, {"evaluate": True}
    keys = "true_change", "acceptance_loss", "best_loss", "fit_change"
    for more, known in zip(asked, ((), (), keys[:3], keys[:3], keys), strict=True):
        landscape, calls = network(), []
        loss = landscape.loss
        landscape.loss = lambda positions, calls=calls, loss=loss: calls.append(positions.size) or loss(positions)
        moves = run(ICBS(landscape, 0.1, "select", ICBSOptions(**steps, **more), seed=0), make_solver("swap"))
        assert all(key in move.details for move in moves for key in known)
        assert not any(key in move.details for move in moves for key in keys if key not in known)
        assert bool(calls) is bool(known)


def test_what_is_applied_is_the_same_whether_the_loss_is_measured_or_not():
    runs = []
    for evaluate in (False, True):
        options = ICBSOptions(**{**OPTIONS, "steps": 5}, accept="none", evaluate=evaluate)
        coordinator = ICBS(network(), 0.1, "select", options, seed=0)
        run(coordinator, make_solver("swap"))
        runs.append(coordinator.mask.copy())
    assert np.array_equal(*runs)


def test_predicted_change_is_the_model_recomputed():
    rng = np.random.default_rng(0)
    blocks = [step_block(rng) for _ in range(3)]
    for block in blocks:
        block.new_weights = rng.normal(size=6)
    factor = np.concatenate([block.factor for block in blocks], axis=1)
    move = np.concatenate([block.move for block in blocks])
    slope = np.concatenate([block.slope for block in blocks])
    expected = slope @ move + 0.5 * np.sum((factor @ move) ** 2) + 0.1 * move @ move
    assert joint_change(blocks, 0.1) == pytest.approx(expected, rel=1e-12)


def step_block(rng, b=6, n=4):
    weights = rng.normal(size=b)
    mask = np.arange(b) < b // 2
    return StepBlock(
        "layer", np.arange(b), rng.normal(size=(n, b)), rng.normal(size=b), np.zeros(b), weights,
        np.where(mask, weights, 0.0), mask, Count(b, b // 2),
    )  # fmt: skip


def test_a_block_given_the_others_movement_sees_the_joint_change():
    rng = np.random.default_rng(1)
    first, second = step_block(rng), step_block(rng)
    first.new_weights = rng.normal(size=6)
    given = second.problem("refit", 0.05, first.image, "x")
    probe = rng.normal(size=6)
    second.new_weights = probe
    alone = joint_change([first], 0.05)
    assert given.form.value(probe) == pytest.approx(joint_change([first, second], 0.05) - alone, rel=1e-10)


def test_blocks_that_take_each_others_gain_are_in_conflict():
    rng = np.random.default_rng(2)
    first, second = step_block(rng), step_block(rng)
    second.factor = first.factor
    for block in (first, second):
        block.new_weights = block.weights + np.ones(6)
        block.predicted = -0.1
    assert conflicting([first, second], 0.25) == [0, 1]
    first.new_weights = first.weights
    assert conflicting([first, second], 0.25) == []


def test_several_blocks_a_step_are_disjoint_and_conflicts_are_solved_again():
    options = ICBSOptions(**{**OPTIONS, "steps": 4}, blocks_per_step=4, conflict=0.0)
    coordinator = ICBS(network(), 0.2, "select", options, seed=0)
    tasks = coordinator.ask(8)
    together = np.concatenate([task.block.indices for task in tasks])
    assert len(tasks) == 4
    assert np.unique(together).size == together.size
    positions = set()
    moves = 0
    while tasks:
        for task in tasks:
            assert task.position not in positions
            positions.add(task.position)
            moves += coordinator.tell(task, solve(task.block, "swap", options={"restarts": 1})) is not None
        tasks = coordinator.ask(8)
    assert moves == 4
    assert len(positions) > 16


def test_the_order_of_answers_does_not_matter():
    masks = []
    for turn in (1, -1):
        coordinator = ICBS(network(), 0.2, "select", ICBSOptions(**OPTIONS, blocks_per_step=3), seed=0)
        while tasks := coordinator.ask(8):
            for task in tasks[::turn]:
                coordinator.tell(task, solve(task.block, "swap", seed=task.position))
        masks.append(coordinator.mask)
    assert np.array_equal(*masks)


def test_an_unsolved_block_stays_as_it_is():
    coordinator = ICBS(network(), 0.2, "select", ICBSOptions(**OPTIONS), seed=0)
    before = coordinator.weights.copy()
    move = coordinator.tell(coordinator.ask()[0], None)
    assert not move.accepted
    assert np.array_equal(coordinator.weights, before)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_checkpoint_continues_to_the_same_mask(stop_after):
    def fresh():
        return ICBS(network(), 0.15, "select", ICBSOptions(**OPTIONS, blocks_per_step=2, layers="gain"), seed=7)

    whole, part, rest = fresh(), fresh(), fresh()
    run(whole, make_solver("swap"))
    for _ in range(stop_after):
        for task in part.ask(8):
            part.tell(task, solve(task.block, "swap", seed=task.position))
        while part._blocks:
            for task in part.ask(8):
                part.tell(task, solve(task.block, "swap", seed=task.position))
    part.ask(8)  # a step that was under way when the run was killed
    rest.load_state_dict(*part.state_dict())
    run(rest, make_solver("swap"))
    assert np.array_equal(rest.mask, whole.mask)
    assert np.array_equal(rest.best()[0], whole.best()[0])


@pytest.mark.parametrize("how", ["gradient", "magnitude", "wanda", "random", "cyclic", "coupling"])
def test_every_selection_gives_full_blocks_with_both_groups(how):
    coordinator = ICBS(network(), 0.3, "select", ICBSOptions(**{**OPTIONS, "select": how}), seed=0)
    for _ in range(4):
        task = coordinator.ask()[0]
        assert task.block.p == 12
        assert 0 < task.block.start_mask.sum() < 12
        coordinator.tell(task, solve(task.block, "swap"))


@pytest.mark.parametrize("init", ["magnitude", "gradient", "wanda", "random"])
@pytest.mark.parametrize("scope", ["layer", "row", "network"])
def test_every_first_mask_keeps_the_exact_number(init, scope):
    landscape = network()
    options = ICBSOptions(**{**OPTIONS, "steps": 0}, init=init, init_scope=scope)
    coordinator = ICBS(landscape, 0.25, "select", options, seed=0)
    assert coordinator.mask.sum() == round(0.25 * landscape.dense_weights.size)
    if scope == "row":
        first = landscape.layers[0]
        rows = coordinator.mask[first.start : first.stop].reshape(first.shape).sum(axis=1)
        assert rows.max() - rows.min() <= 1


@pytest.mark.parametrize("density", [0.03, 0.1, 0.5, 0.9])
def test_no_step_is_wasted_by_tabu_lists_that_run_dry(density):
    """The published rule runs out of kept candidates below a density of about 0.18."""
    options = ICBSOptions(**{**OPTIONS, "steps": 40}, accept="none")
    coordinator = ICBS(network(), density, "select", options, seed=0)
    while tasks := coordinator.ask():
        mask = tasks[0].block.start_mask
        assert mask.any()
        assert not mask.all()
        coordinator.tell(tasks[0], None)
    assert coordinator.step == 40


def test_fixed_weights_never_enter_a_block():
    coordinator = ICBS(network(), 0.2, "select", ICBSOptions(**{**OPTIONS, "steps": 20}), seed=0)
    fixed = coordinator._fixed.copy()
    assert fixed.sum() > 0.3 * fixed.size
    while tasks := coordinator.ask():
        assert not fixed[tasks[0].block.indices].any()
        coordinator.tell(tasks[0], None)


def test_the_most_recently_seen_part_waits_group_by_group():
    mask = np.array([True] * 4 + [False] * 4)
    last_seen = np.array([3, 2, 1, -1, 3, 2, 1, -1])
    pool = select.candidates(np.arange(8), mask, np.zeros(8, dtype=bool), last_seen, 0.5)
    assert pool.kept.tolist() == [2, 3]
    assert pool.pruned.tolist() == [6, 7]


def test_the_pick_takes_the_most_contested_of_both_groups():
    pool = select.Candidates(pruned=np.array([0, 1, 2]), kept=np.array([3, 4, 5]))
    scores = np.array([0.1, 0.9, 0.5, 2.0, 1.0, 3.0])
    assert select.pick(pool, scores.take, 4).tolist() == [1, 2, 3, 4]
    assert select.pick(pool, scores.take, 100).size == 6


def test_the_ablation_drops_exactly_the_negative_entries():
    """Against the released rule written out: Q[Q <= 1e-12] = 0 in x = 1 − m."""
    block = instance("cancelling-pairs", 3, "select")
    qubo = block.to_qubo()
    matrix = 0.5 * qubo.couplings - np.diag(qubo.linear + qubo.couplings.sum(axis=1))
    clipped = np.where(matrix > 1e-12, matrix, 0.0)
    other = clip_negative(block)
    for mask in all_masks(block.p, block.keep):
        x = 1.0 - mask
        assert other.evaluate(mask) == pytest.approx(x @ clipped @ x, rel=1e-9, abs=1e-12)
    assert BruteForce.of(other).mask.tolist() != BruteForce.of(block).mask.tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block_size": 1}, "a swap needs 2 weights"),
        ({"samples": 0}, "samples is 0"),
        ({"tabu": 1.0}, "tabu is 1.0"),
        ({"ridge": -1.0}, "ridge is -1.0"),
        ({"select": "gradiant"}, "did you mean 'gradient'"),
        ({"init": "magnitud"}, "did you mean 'magnitude'"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(InvalidInput, match=words):
        ICBSOptions(**options)


def test_more_samples_than_there_are_is_refused():
    with pytest.raises(InvalidInput, match=r"exceed the .* calibration samples"):
        ICBS(network(), 0.5, "select", ICBSOptions(samples=10**6), seed=0)


def test_density_one_has_nothing_to_exchange_and_says_so():
    with pytest.raises(InvalidInput, match=r"no layer .* has both pruned and kept"):
        ICBS(network(), 1.0, "select", ICBSOptions(**OPTIONS), seed=0).ask()


class Watched:
    """A landscape that notes on which samples it is looked at, and on which its loss is taken."""

    def __init__(self, held):
        self.held, self.looked, self.judged = held, [], []

    def __getattr__(self, name):
        return getattr(self.held, name)

    def look(self, positions):
        self.looked.append(positions)
        return self.held.look(positions)

    def loss(self, positions):
        self.judged.append(positions)
        return self.held.loss(positions)


@pytest.mark.parametrize("more", [{}, {"init": "gradient"}, {"samples": 700}, {"accept_samples": 1000}])
def test_no_model_sees_a_sample_that_an_answer_is_accepted_by(more):
    held = Watched(network())
    # enough steps to go through the pool more than once
    options = ICBSOptions(**{**OPTIONS, "steps": 8, "block_size": 12, **more})
    coordinator = ICBS(held, 0.2, "select", options, seed=3)
    run(coordinator, make_solver("magnitude"))
    seen, accepted = np.unique(np.concatenate(held.looked)), held.judged[0]
    assert np.unique(accepted).size == accepted.size == options.accept_samples
    assert np.intersect1d(seen, accepted).size == 0
    batches = {tuple(positions) for positions in held.looked}
    # a loss is taken on the acceptance samples, or on those that the step's model was made from
    assert all(np.array_equal(positions, accepted) or tuple(positions) in batches for positions in held.judged)
    assert all(np.unique(positions).size == positions.size == options.samples for positions in held.looked)


def test_an_epoch_shows_every_pool_sample_at_most_once():
    held = Watched(network())
    run(ICBS(held, 0.2, "select", ICBSOptions(**OPTIONS), seed=1), make_solver("magnitude"))
    epoch = np.concatenate(held.looked[: (len(held.calibration) - 200) // 64])
    assert np.unique(epoch).size == epoch.size


def test_a_resumed_run_has_the_trust_ridge_that_it_had(tmp_path, monkeypatch):
    from prunebench.core.errors import Interrupted
    from prunebench.runs import runner
    from prunebench.runs.prune import PruneRequest, prune, resume

    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(runner, "CHECKPOINT_RATIO", 0.0)
    # a model of few samples and full scale promises too much, so that the ridge grows
    options = {"steps": 8, "block_size": 64, "samples": 20, "accept_samples": 300, "gradient_scale": 1.0}
    options |= {"trust": "adaptive", "ridge": 1e-3, "fixed_pruned": 0.0, "fixed_kept": 0.0, "block_scope": "network"}
    request = PruneRequest(
        problem="digits-mlp", density=0.1, solver="swap", coordinator="icbs", coordinator_options=options, seed=5
    )
    prune(request, out=tmp_path / "whole")
    whole = events_of(tmp_path / "whole")
    ridges = [event["trust_ridge"] for event in whole]
    stop = next(number for number, ridge in enumerate(ridges) if ridge > options["ridge"] and number < len(ridges) - 1)

    def say(line):
        if line.startswith(f"step {stop}/"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prune(request, out=tmp_path / "cut", say=say)
    resume(tmp_path / "cut")
    assert [told(event) for event in events_of(tmp_path / "cut")] == [told(event) for event in whole]


def events_of(path):
    return [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]


def told(event):
    """What an event says, but for the seconds in it."""
    held = {key: value for key, value in event.items() if key not in ("time", "times")}
    return held | {"tasks": [{k: v for k, v in task.items() if k != "timings"} for task in event["tasks"]]}
