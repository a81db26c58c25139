"""iCBS and multi-stage pruning under quotas: exact in every group at every step, resumed alike, refused by name."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from prunebench import make_problem
from prunebench.cli import main
from prunebench.coordinators.icbs import select
from prunebench.coordinators.icbs.coordinator import ICBS
from prunebench.coordinators.icbs.options import ICBSOptions
from prunebench.coordinators.icbs.step import StepBlock, half_of_swaps
from prunebench.coordinators.landscape import FormLandscape
from prunebench.coordinators.multi_stage.coordinator import MultiStage
from prunebench.coordinators.quotas import NetworkQuota, QuotaKind
from prunebench.core.errors import Interrupted, InvalidInput, PrunebenchError, SolverRefused
from prunebench.core.keeping import Quota
from prunebench.core.masks import keep_per_layer
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.solving import solve

DENSITY = {"2:4": 0.5, "1:4": 0.25, "row": 0.3, "layer": 0.3}
OPTIONS = {"steps": 5, "block_size": 40, "samples": 64, "accept_samples": 200}


class Part:
    """A layer of a made-up network."""

    def __init__(self, name, start, shape):
        self.name, self.start, self.shape = name, start, shape
        self.stop = start + int(np.prod(shape))


LAYERS = (Part("first", 0, (6, 8)), Part("second", 48, (3, 12)))


def network(name="digits-mlp", options=None):
    from prunebench.curvature.landscape import NetworkLandscape
    from prunebench.networks.network import PrunableNetwork

    problem = make_problem(name, options)
    return NetworkLandscape(problem, PrunableNetwork(problem.model(), problem.prunable()))


def kept_in_groups(mask, layers, kind):
    """Kept weights of every group, counted without the code under test: one array a layer."""
    parts = [mask[layer.start : layer.stop] for layer in layers]
    if kind == "layer":
        return [np.array([part.sum()]) for part in parts]
    if kind == "row":
        return [part.reshape(layer.shape[0], -1).sum(axis=1) for part, layer in zip(parts, layers, strict=True)]
    return [part.reshape(-1, int(kind.split(":")[1])).sum(axis=1) for part in parts]


def assert_held(mask, layers, kind, density):
    counts = kept_in_groups(mask, layers, kind)
    if ":" in kind:
        assert all((part == int(kind.split(":")[0])).all() for part in counts)
        return
    due = keep_per_layer(density, [layer.stop - layer.start for layer in layers])
    assert [int(part.sum()) for part in counts] == due.tolist()
    assert all(part.max() - part.min() <= 1 for part in counts)


@pytest.mark.parametrize("kind", list(DENSITY))
@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("select", {}),
        ("refit", {"blocks_per_step": 3, "select": "magnitude"}),
        ("select", {"block_scope": "network", "select": "random", "blocks_per_step": 2, "accept": "model"}),
        ("select", {"select": "coupling", "init": "wanda"}),
    ],
)
def test_the_quota_is_exact_at_every_step(kind, mode, more):
    landscape = network()
    coordinator = ICBS(landscape, DENSITY[kind], mode, ICBSOptions(**OPTIONS, **more, quota=kind), seed=1)
    first = coordinator.mask
    assert_held(first, landscape.layers, kind, DENSITY[kind])
    changed = steps = 0
    while tasks := coordinator.ask(8):
        for task in tasks:
            block = task.block
            assert block.p == 40
            own = coordinator._keeping.keys(block.indices)
            for group in np.unique(own):
                kept = coordinator.mask[block.indices[own == group]].sum()
                held = kept if block.quota is None else block.quota.counts[block.quota.group[own == group]][0]
                assert kept == held
            move = coordinator.tell(task, solve(block, "swap", seed=task.position))
            if move is not None:
                changed += move.changed
                steps += 1
                assert_held(coordinator.mask, landscape.layers, kind, DENSITY[kind])
                assert not coordinator.weights[~coordinator.mask].any()
    assert steps == 5
    assert changed > 0
    coordinator.check()
    assert_held(coordinator.best()[0], landscape.layers, kind, DENSITY[kind])


@pytest.mark.usefixtures("torchvision_imports")
def test_a_language_model_keeps_its_pattern_at_every_step(tiny_mistral):
    options = {"model": str(tiny_mistral), "text": str(tiny_mistral / "text.json"), "context": 16, "batch": 8}
    landscape = network("causal-lm", options)
    for kind, scope in (("2:4", "layer"), ("row", "network")):
        held = ICBSOptions(
            steps=3, block_size=64, samples=8, accept_samples=24, quota=kind, block_scope=scope, blocks_per_step=3
        )
        coordinator = ICBS(landscape, 0.5, "refit", held, seed=0)
        while tasks := coordinator.ask(8):
            for task in tasks:
                if coordinator.tell(task, solve(task.block, "swap", seed=task.position)) is not None:
                    assert_held(coordinator.mask, landscape.layers, kind, 0.5)


def test_the_whole_network_is_one_block_of_whole_groups():
    landscape = network()
    options = ICBSOptions(
        steps=2, block_size=10**6, block_scope="network", samples=64, accept_samples=200, quota="2:4",
        fixed_pruned=0.0, fixed_kept=0.0, tabu=0.0, select="magnitude", ridge=1.0,
    )  # fmt: skip
    coordinator = ICBS(landscape, 0.5, "refit", options, seed=0)
    before = landscape.loss(coordinator._acceptance)
    while tasks := coordinator.ask():
        assert tasks[0].block.p == landscape.dense_weights.size
        assert (tasks[0].block.quota.counts == 2).all()
        assert (tasks[0].block.quota.sizes == 4).all()
        coordinator.tell(tasks[0], solve(tasks[0].block, "obd"))
        assert_held(coordinator.mask, landscape.layers, "2:4", 0.5)
    landscape.place(coordinator.best()[1])
    assert landscape.loss(coordinator._acceptance) < before


def test_an_unsolved_block_and_a_quadratic_form_keep_the_pattern():
    block = make_problem("planted", {"p": 48, "n": 24, "ridge": 0.3}).block(0.5, "select", 0)
    landscape = FormLandscape(block.form, block.dense_weights)
    options = ICBSOptions(steps=8, block_size=12, quota="2:4", fixed_pruned=0.0, fixed_kept=0.0, ridge=0.0)
    coordinator = ICBS(landscape, 0.5, "select", options, seed=3)
    losses = [landscape.form.value(coordinator.weights)]
    for step in range(8):
        task = coordinator.ask()[0]
        coordinator.tell(task, None if step == 2 else solve(task.block, "exhaustive"))
        losses.append(landscape.form.value(coordinator.weights))
        assert (coordinator.mask.reshape(-1, 4).sum(axis=1) == 2).all()
    assert losses[3] == losses[2]
    assert losses[-1] < losses[0]


def test_a_broken_pattern_is_an_error_that_names_layer_and_group():
    held = NetworkQuota.of(QuotaKind.parse("2:4"), LAYERS, 0.5)
    mask = held.top_mask(np.arange(84.0).take)
    held.require(mask)
    mask[[52, 55]] = True
    mask[[53, 54]] = False
    held.require(mask)
    mask[[52, 60]] = False, True
    with pytest.raises(PrunebenchError, match=r"quota 2:4 is broken: layer 'second' keeps 1 weights of group 1"):
        held.require(mask)
    held.require(mask, [0])
    whole = NetworkQuota.of(QuotaKind.parse("layer"), LAYERS, 0.5)
    mask[0] = not mask[0]
    with pytest.raises(PrunebenchError, match=r"layer 'first' keeps 2[35] weights; its quota is exactly 24"):
        whole.require(mask)


@pytest.mark.parametrize("kind", ["2:4", "row", "layer"])
def test_groups_of_indices_are_those_of_the_layers(kind):
    held = NetworkQuota.of(QuotaKind.parse(kind), LAYERS, 0.5)
    keys = held.keys(np.arange(84))
    mask = held.top_mask(np.random.default_rng(0).random(84).take)
    expected = np.concatenate(kept_in_groups(mask, LAYERS, kind))
    firsts, counts = np.unique(keys, return_counts=True)
    assert firsts.size == expected.size
    assert [mask[keys == first].sum() for first in firsts] == expected.tolist()
    whole = held.whole()
    assert whole.counts.tolist() == expected.tolist()
    assert whole.sizes.tolist() == counts.tolist()
    some = np.array([3, 5, 6, 50, 51, 83])
    part = held.within(some, mask[some])
    assert part.violation(mask[some]) == ""
    assert part.counts.size == np.unique(keys[some]).size


def test_the_pick_pairs_contested_weights_within_groups_and_the_rest_fills_up():
    scores = np.array([9.0, 1.0, 5.0, 2.0, 0.5, 0.1, 8.0, 7.0, 3.0, 4.0])
    is_kept = np.array([1, 1, 0, 0, 1, 1, 0, 0, 0, 0], dtype=bool)
    group = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    pool = select.Candidates(np.flatnonzero(~is_kept), np.flatnonzero(is_kept), lambda indices: group[indices])
    assert pool.usable
    assert select.pick(pool, scores.take, 2).tolist() == [5, 6]
    assert select.pick(pool, scores.take, 5).tolist() == [4, 5, 6, 7]
    assert select.pick(pool, scores.take, 6).tolist() == [1, 2, 4, 5, 6, 7]
    assert select.pick(pool, scores.take, 9).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    assert select.pick(pool, scores.take, 100).tolist() == list(range(10))
    apart = select.Candidates(np.array([8, 9]), np.array([0, 1]), lambda indices: group[indices])
    assert not apart.usable


def test_without_groups_pairs_are_what_the_plain_pick_takes():
    rng = np.random.default_rng(2)
    scores, mask = rng.random(60), rng.random(60) < 0.3
    plain = select.Candidates(np.flatnonzero(~mask), np.flatnonzero(mask))
    one = select.Candidates(plain.pruned, plain.kept, lambda indices: np.zeros(indices.size, dtype=np.int64))
    for size in (2, 10, 24, 44, 59, 80):
        assert np.array_equal(select.pick(one, scores.take, size), select.pick(plain, scores.take, size))


def test_tabu_gives_way_where_it_leaves_no_group_with_both():
    mask = np.array([1, 0, 1, 0], dtype=bool)
    seen = np.array([5, -1, -1, 5])
    pairs = np.array([0, 0, 1, 1])
    arguments = (np.arange(4), mask, np.zeros(4, dtype=bool), seen, 0.5)
    assert not (set(pairs[select.candidates(*arguments).pruned]) & set(pairs[select.candidates(*arguments).kept]))
    pool = select.candidates(*arguments, lambda indices: pairs[indices])
    assert (pool.pruned.tolist(), pool.kept.tolist()) == ([1, 3], [0, 2])


def test_half_of_the_swaps_is_made_of_whole_swaps_within_groups():
    rng = np.random.default_rng(0)
    mask = np.tile([True, True, False, False], 5)
    dense = rng.normal(size=20)
    block = StepBlock(
        label="layer", indices=np.arange(20), factor=rng.normal(size=(8, 20)), slope=rng.normal(size=20),
        ridge=np.zeros(20), dense_weights=dense, weights=np.where(mask, dense, 0.0), mask=mask,
        keeping=Quota.n_m(20, 2, 4),
    )  # fmt: skip
    block.new_mask = np.array([0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1], dtype=bool)
    block.new_weights = np.where(block.new_mask, dense, 0.0)
    half = half_of_swaps(block, 0.1)
    assert block.keeping.violation(half.new_mask) == ""
    assert (half.new_mask & ~mask).sum() == 3
    assert np.array_equal(half.new_weights, np.where(half.new_mask, dense, 0.0))


def request(**changes):
    options = {"quota": "2:4", **OPTIONS, **changes.pop("coordinator_options", {})}
    return PruneRequest(
        **{"problem": "digits-mlp", "density": 0.5, "solver": "swap", "coordinator": "icbs"} | changes,
        coordinator_options=options,
    )


def stages(quota, **changes):
    options = {"stages": 3, "samples": 200, "held_out": 200, "batch_size": 1, "quota": quota}
    options |= changes.pop("coordinator_options", {})
    return PruneRequest(
        **{"problem": "digits-mlp", "density": DENSITY[quota], "solver": "obd", "coordinator": "multi-stage"} | changes,
        coordinator_options=options,
    )


@pytest.mark.parametrize(("kind", "scope"), [("2:4", "layer"), ("row", "network"), ("layer", "network")])
def test_a_killed_run_resumes_to_the_same_mask(tmp_path, monkeypatch, kind, scope):
    asked = request(density=DENSITY[kind], coordinator_options={"quota": kind, "block_scope": scope})
    whole = prune(asked, out=tmp_path / "whole")
    told = ICBS.tell

    def stop_after_three(self, task, solution):
        move = told(self, task, solution)
        if self.step == 3:
            raise KeyboardInterrupt
        return move

    monkeypatch.setattr(ICBS, "tell", stop_after_three)
    with pytest.raises(Interrupted):
        prune(asked, out=tmp_path / "cut")
    monkeypatch.setattr(ICBS, "tell", told)
    assert resume(tmp_path / "cut")["loss"] == whole["loss"]
    for name in ("weights.safetensors", "mask.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("kind", ["2:4", "row", "layer"])
@pytest.mark.parametrize("mode", ["select", "refit"])
def test_multi_stage_pruning_keeps_a_quota_at_every_stage(tmp_path, monkeypatch, kind, mode):
    seen = []
    finished = MultiStage._finish

    def note(self, step, block):
        move = finished(self, step, block)
        self.check()
        seen.append((step, self.mask.copy(), self._network.network.layers))
        return move

    monkeypatch.setattr(MultiStage, "_finish", note)
    more = None if mode == "select" else ("settle:rounds=1,between=1,size=1000000,samples=200",)
    result = prune(stages(kind, mode=mode, recover=more), out=tmp_path / "run")
    assert result["steps"] == (3 if mode == "select" else 6)
    saved = load_file(tmp_path / "run" / "mask.safetensors")
    assert np.array_equal(np.concatenate([part.ravel() for part in saved.values()]), seen[-1][1])
    for step, mask, layers in seen:
        assert mask.sum() == step.keep
        assert_held(mask, layers, step.keeping.kind.text, step.keep / mask.size)
    if kind == "2:4":
        kinds = [step.keeping.kind.text for step, _, _ in seen]
        assert kinds == ["4:4", "3:4", "2:4"]


def test_the_command_line_prunes_to_a_pattern_without_a_density(tmp_path, capsys):
    words = ["prune", "digits-mlp", "--coordinator", "icbs", "--quota", "2:4", "--steps", "2", "--samples", "64"]
    assert main([*words, "--block-size", "64", "--quiet", "--json", "--out", str(tmp_path / "run")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["density"] == 0.5
    assert result["coordinator_options"]["quota"] == "2:4"
    with safe_open(tmp_path / "run" / "mask.safetensors", "numpy") as masks:
        for name in ("fc1.weight", "fc2.weight"):
            assert (masks.get_tensor(name).reshape(-1, 4).sum(axis=1) == 2).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--coordinator", "icbs", "--quota", "row"], "--density is missing"),
        (["--coordinator", "icbs"], "--density is missing"),
        (["--density", "0.3", "--coordinator", "icbs", "--quota", "2:4"], "say --density 0.5"),
        (["--density", "0.3", "--coordinator", "multi-stage", "--quota", "2:4"], "say --density 0.5"),
        (["--coordinator", "icbs", "--quota", "3:6"], "layer 'fc1.weight' has 64 inputs, no multiple of 6"),
        (["--density", "0.5", "--coordinator", "icbs", "--quota", "column"], "unknown quota 'column'"),
        (["--coordinator", "icbs", "--quota", "2:4", "--solver", "qaoa"], "solver 'qaoa' does not honour quotas"),
        (["--coordinator", "one-shot", "--quota", "2:4"], "coordinator 'one-shot' has no options, but quota"),
    ],
)
def test_what_cannot_be_kept_is_one_line_and_no_folder(tmp_path, capsys, words, message):
    assert main(["prune", "digits-mlp", *words, "--quiet", "--out", str(tmp_path / "run")]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_solver_without_quotas_is_refused_before_work_unless_blocks_stay_in_layers(tmp_path):
    for changes in ({}, {"coordinator_options": {"quota": "layer", "block_scope": "network"}}):
        with pytest.raises(SolverRefused, match="solver 'qaoa' does not honour quotas"):
            prune(request(solver="qaoa", **changes), out=tmp_path / "run")
    with pytest.raises(SolverRefused, match="solver 'greedy' does not honour quotas"):
        prune(stages("2:4", solver="greedy"), out=tmp_path / "run")
    free = {"quota": "layer", "block_size": 12, "steps": 1}
    result = prune(request(solver="greedy", density=0.3, coordinator_options=free), out=tmp_path / "run")
    assert list(result["kept_per_layer"].values()) == keep_per_layer(0.3, [2048, 320]).tolist()


def test_layer_wise_and_icbs_share_one_reading_of_quotas():
    for kind, keep in (("row", 20), ("2:4", 24), ("layer", 20)):
        held = QuotaKind.parse(kind).of_layer(LAYERS[0], keep)
        assert held.keep == keep
        assert held.counts.size == {"row": 6, "2:4": 12, "layer": 1}[kind]
    with pytest.raises(InvalidInput, match=r"quota 2:4 keeps 0\.5"):
        NetworkQuota.of(QuotaKind.parse("2:4"), LAYERS, 0.4)


def test_a_start_must_keep_the_quota(tmp_path):
    layer_wise = {
        "problem": "digits-mlp", "density": 0.5, "solver": "wanda", "coordinator": "layer-wise", "mode": "select"
    }  # fmt: skip
    for quota, name in (("2:4", "kept"), ("row", "other")):
        prune(PruneRequest(**layer_wise, coordinator_options={"quota": quota, "samples": 50}), out=tmp_path / name)
    with pytest.raises(InvalidInput, match=r"the start breaks quota 2:4: layer 'fc1\.weight' keeps"):
        prune(request(start=str(tmp_path / "other")), out=tmp_path / "run")
    result = prune(request(start=str(tmp_path / "kept")), out=tmp_path / "run")
    with safe_open(tmp_path / "run" / "mask.safetensors", "numpy") as masks:
        for name in ("fc1.weight", "fc2.weight"):
            assert (masks.get_tensor(name).reshape(-1, 4).sum(axis=1) == 2).all()
    assert result["kept"] == result["total"] // 2
