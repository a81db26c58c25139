"""Proofs of the solver 'highs': what probing and splitting settled is derived again, what HiGHS said is named."""

import json
from itertools import combinations, product

import numpy as np
import pytest

from helpers import gaussian_block, hard_block
from prunebench import Budget, Status, solve
from prunebench.cli import main
from prunebench.core.keeping import Quota
from prunebench.core.optimality import is_proved
from prunebench.proofs.check import proved_bound
from prunebench.proofs.relaxations import Curvature, Tangent
from prunebench.solvers.highs import parts
from prunebench.testing.exact import Exact
from prunebench.testing.hostile import ill_conditioned

PROOF = {"proof": True}


def easy_block(seed, mode="select", p=14, keep=6, rows=5, quota=None):
    return gaussian_block(p, keep, seed, mode, n=rows, ridge=0.02, quota=quota)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "NODES_OF_THE_WHOLE", 1)
    monkeypatch.setattr(parts, "NODES_OF_A_PART", 16)


# --- the checker: relaxations below fixed weights ---


def tangents_below(block, start, shift):
    tangent = Tangent.of(block, Curvature.of(block), shift, 0.0, start)
    added = tangent.matrix.diagonal() - Curvature.of(block).matrix.diagonal() * block.dense_weights**2 - shift
    return tangent, added[start < 0]


@pytest.mark.parametrize("seed", range(6))
def test_tangents_below_fixed_weights_lie_below_every_mask_under_them_and_touch_their_own(seed):
    p, keep = 9, 5
    block = easy_block(seed, p=p, keep=keep, rows=4)
    rng = np.random.default_rng(seed)
    start = np.full(p, -1, np.int8)
    start[rng.choice(p, 4, replace=False)] = [0, 1, 0, 1]
    masks = np.array([np.isin(np.arange(p), kept) for kept in combinations(range(p), keep)])
    masks = masks[((start < 0) | (masks == start)).all(axis=1)]
    exact = [Exact.of(block).of_mask(mask) for mask in masks]
    # a file may say anything of the weights that are fixed: their shift and their entries of a point count for nothing
    shift = np.where(start < 0, rng.normal(size=p), -1e6)
    tangent, _ = tangents_below(block, start, shift)
    points = np.vstack([1.0 - masks, rng.dirichlet(np.ones(p), 5), rng.random((5, p))])
    points[:, start >= 0] = rng.random((points.shape[0], 4))
    costs = tangent.costs(points)
    bounds = (costs.start - costs.doubt)[:, None] + costs.costs @ (~masks).T
    for mask, value in enumerate(exact):
        assert (bounds[:, mask] <= float(value) + 1e-15).all()
        assert bounds[mask, mask] == pytest.approx(float(value), rel=1e-9)


def test_convexity_is_asked_of_the_free_weights_alone():
    block = easy_block(0, p=10, keep=5, rows=6)
    matrix = Curvature.of(block).matrix * block.dense_weights[:, None] * block.dense_weights
    start = np.array([0, 1, 1, -1, -1, -1, -1, -1, 0, -1], np.int8)
    free = np.flatnonzero(start < 0)
    plane = np.linalg.svd(np.ones((1, free.size)))[2][1:]
    lowest = np.linalg.eigvalsh(plane @ matrix[np.ix_(free, free)] @ plane.T)[0]
    enough, short = np.zeros(10), np.zeros(10)
    enough[free], short[free] = -0.5 * lowest, -lowest - 0.1
    assert lowest > 1e-6
    assert tangents_below(block, start, enough)[1] == pytest.approx(0.0, abs=1e-12)
    assert tangents_below(block, start, short)[1].min() >= 0.0
    assert tangents_below(block, start, short)[1].max() > 1e-3
    # of all weights the same shift is too little, since six rows leave a null space
    assert tangents_below(block, np.full(10, -1, np.int8), np.where(start < 0, enough, -lowest))[1].max() > 1e-6


@pytest.mark.parametrize("left", [0, 1])
def test_a_relaxation_may_leave_no_weight_free_or_one(left):
    block = easy_block(1, p=6, keep=3)
    start = np.array([1, 0, 1, 0, 1, 0], np.int8)
    start[:left] = -1
    costs = tangents_below(block, start, np.zeros(6))[0].costs(np.full((1, 6), 0.0))
    pruned = np.array([0, 1, 0, 1, 0, 1])
    bound = costs.start[0] - costs.doubt[0] + costs.costs[0] @ pruned
    assert bound <= float(Exact.of(block).of_mask(pruned == 0))
    assert bound == pytest.approx(block.evaluate(pruned == 0), rel=1e-9)


# --- honest proofs ---


@pytest.mark.parametrize("seed", range(4))
def test_what_probing_settles_is_proved_without_highs(seed):
    block = easy_block(seed)
    answer = solve(block, "highs", options=PROOF)
    checked = proved_bound(block, answer.proof)
    assert answer.status is Status.OPTIMAL
    assert answer.details["formulation"] == "probing"
    assert (checked.foreign, checked.trusted) == (0, checked.bound)
    assert checked.bound <= Exact.of(block).optimum
    assert is_proved(answer.objective, checked.bound)


def test_the_best_shifts_stage_is_proved_below_what_the_first_fixed():
    for seed in range(20):
        block = easy_block(seed, p=24, keep=9, rows=10)
        answer = solve(block, "highs", options=PROOF)
        if answer.details["formulation"] == "probing" and (answer.proof.starts >= 0).any():
            assert is_proved(answer.objective, proved_bound(block, answer.proof).bound)
            return
    pytest.fail("no block needed both stages")


def test_parts_are_proved_apart_from_those_that_highs_closed(small_parts):
    splits = parts = 0
    for p, seed in ((12, 0), (14, 1), (18, 0), (22, 2), (26, 3)):
        block = hard_block(p, seed)
        answer = solve(block, "highs", options=PROOF)
        checked = proved_bound(block, answer.proof)
        models = answer.details.get("parts", 0)
        splits, parts = splits + answer.details.get("splits", 0), parts + models
        assert answer.status is Status.OPTIMAL
        assert checked.bound <= solve(block, "branch-and-bound").objective
        assert is_proved(answer.objective, checked.trusted)
        assert is_proved(answer.objective, checked.bound) or checked.foreign > 0
        assert (checked.foreign > 0) == (models > 0)
    assert splits > 0
    assert parts > 0


@pytest.mark.parametrize("small", [False, True])
def test_a_proofs_bound_is_never_above_the_exact_optimum(monkeypatch, small):
    if small:
        monkeypatch.setattr(parts, "NODES_OF_THE_WHOLE", 1)
        monkeypatch.setattr(parts, "NODES_OF_A_PART", 2)
    proved = foreign = 0
    blocks = [ill_conditioned(seed, "select").block for seed in range(30)] + [hard_block(12, seed) for seed in range(5)]
    for block in blocks:
        answer = solve(block, "highs", options=PROOF)
        if answer.proof is None:
            assert block.settled
            continue
        checked = proved_bound(block, answer.proof)
        assert checked.bound == -np.inf or checked.bound <= Exact.of(block).optimum
        proved += is_proved(answer.objective, checked.bound)
        foreign += checked.foreign
    assert proved >= 10
    assert foreign > 0


@pytest.mark.parametrize(
    ("block", "options"),
    [
        (easy_block(0, p=10, keep=5), {"probing": False}),
        (easy_block(1, p=10, keep=5), {"probing": False, "formulation": "residuals"}),
        (easy_block(2, p=12, keep=6, quota=Quota.rows(2, 6, 0.5)), {}),
        (easy_block(3, "refit", p=10, keep=4), {}),
        (easy_block(4, "refit", p=10, keep=4), {"formulation": "perspective"}),
    ],
)
def test_where_highs_has_the_whole_the_proof_is_one_record_of_its_word(block, options):
    answer = solve(block, "highs", options={**PROOF, **options})
    checked = proved_bound(block, answer.proof)
    assert answer.status is Status.OPTIMAL
    assert (checked.records, checked.foreign, checked.trusted) == (1, 1, np.inf)
    assert -np.inf < checked.bound <= Exact.of(block).optimum


def test_the_option_changes_no_answer(small_parts):
    for block in (easy_block(0), hard_block(22, 2), easy_block(3, "refit", p=10, keep=4)):
        plain, recorded = solve(block, "highs"), solve(block, "highs", options=PROOF)
        assert plain.proof is None
        assert (plain.mask == recorded.mask).all()
        assert (plain.lower_bound, plain.details["nodes"]) == (recorded.lower_bound, recorded.details["nodes"])


@pytest.mark.parametrize("calls", [2, 6, 10])
def test_a_run_that_is_interrupted_leaves_a_proof_of_what_it_claims(small_parts, calls):
    block, seen = hard_block(22, 2), []

    def press_ctrl_c(_seconds, _objective, bound):
        seen.append(bound)
        if sum(map(np.isfinite, seen)) > calls:
            raise KeyboardInterrupt

    answer = solve(block, "highs", options=PROOF, progress=press_ctrl_c)
    checked = proved_bound(block, answer.proof)
    assert answer.status is Status.INTERRUPTED
    assert -np.inf < checked.bound <= solve(block, "branch-and-bound").objective
    assert checked.trusted >= answer.lower_bound - 1e-6 * answer.objective


def test_a_limit_on_evaluations_leaves_a_proof_too(small_parts):
    block = hard_block(22, 2)
    answer = solve(block, "highs", options=PROOF, budget=Budget(evaluations=0.5))
    checked = proved_bound(block, answer.proof)
    assert checked.bound <= solve(block, "branch-and-bound").objective
    assert checked.trusted >= answer.lower_bound - 1e-6 * answer.objective


# --- what verify says ---


def solved(folder, block):
    block.save(folder / "b.npz")
    arguments = ["solve", folder / "b.npz", "--solver", "highs", "-o", folder / "s.json", "--proof", folder / "p.npz"]
    assert main([*map(str, arguments), "--quiet"]) == 0
    return ["verify", *(str(folder / name) for name in ("s.json", "b.npz")), "--proof", str(folder / "p.npz")]


def with_worse_mask(folder, block):
    """Forge the solution: the mask one swap from the best, said to be optimal."""
    contents = json.loads((folder / "s.json").read_text())
    best = np.zeros(block.p, np.bool_)
    best[np.flatnonzero(contents["mask"]) if len(contents["mask"]) == block.p else contents["mask"]] = True
    worse = []
    for out, into in product(np.flatnonzero(best), np.flatnonzero(~best)):
        mask = best.copy()
        mask[out], mask[into] = False, True
        worse.append(mask)
    mask = min(worse, key=block.evaluate)
    value = block.evaluate(mask)
    assert value > contents["objective"] * (1.0 + 1e-4)
    contents |= {
        "mask": mask.astype(int).tolist(), "weights": block.weights_of(mask).tolist(), "objective": value,
        "lower_bound": value, "relative_gap": 0.0, "gap": 0.0,
    }  # fmt: skip
    (folder / "s.json").write_text(json.dumps(contents))


def test_verify_believes_nothing_where_probing_settled_the_block(tmp_path, capsys, small_parts):
    # too many masks to enumerate
    block = hard_block(26, 3)
    arguments = solved(tmp_path, block)
    assert json.loads((tmp_path / "s.json").read_text())["details"]["parts"] == 0
    capsys.readouterr()
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("verified")
    assert "proof's" in out
    assert "HiGHS" not in out
    # without its proof an honest solution is not refuted, although no node was searched
    assert main(arguments[:3]) == 3
    assert "a search of 0 nodes by probing and HiGHS that is not re-derived" in capsys.readouterr().out
    with_worse_mask(tmp_path, block)
    assert main(arguments) == 1
    assert "not supported" in capsys.readouterr().out


def test_verify_names_highs_where_parts_rest_on_it(tmp_path, capsys):
    block = hard_block(26, 3)
    arguments = solved(tmp_path, block)
    capsys.readouterr()
    assert main(arguments) == 3
    out = capsys.readouterr().out
    assert out.startswith("consistent")
    assert "rests on HiGHS' word" in out
    assert "of them by HiGHS' word" in out
    with_worse_mask(tmp_path, block)
    assert main(arguments) == 1
    assert "not verified" in capsys.readouterr().out.lower()
