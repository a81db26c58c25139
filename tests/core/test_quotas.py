"""Quotas: groups with counts of their own, honoured by every solver that says so and refused by the others."""

import json
from dataclasses import replace

import numpy as np
import pytest

from prunebench import SOLVERS, Budget, make_solver, solve
from prunebench.cli import main
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput, RefusalKind
from prunebench.core.incumbent import Incumbent
from prunebench.core.keeping import Quota
from prunebench.core.masks import top_mask
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import missing_packages
from prunebench.core.solver import facts, solvers_of
from prunebench.forms.dimod import encode, repair, safe_penalty, to_cqm
from prunebench.forms.nonlinear import to_nonlinear
from prunebench.forms.qiskit import ising_operator, lp_text
from prunebench.kernels.local_search.descent import SwapDescent
from prunebench.kernels.relaxations.bounds import lower_bound
from prunebench.kernels.relaxations.certificate import derive
from prunebench.runs.cut import cut_block
from prunebench.solvers.highs.solver import FORMULATIONS, TANGENTS
from prunebench.testing.conformance import CHECKS, QUOTA_SEEDS, assert_refuses_quotas, quota_families, run_check
from prunebench.testing.instances import BruteForce, all_masks

NARROW = {("branch-and-bound", "refit"), ("sparsegpt", "refit")}
"""Solvers that honour quotas in the other mode, or some kinds of quota, and say so of the rest."""


ENDLESS = {"scip"}
"""Solvers that without a limit search for minutes on blocks of some units; they have one in test_peers.py."""


def _solvers(quotas):
    held = [(name, SOLVERS.get(name)) for name in solvers_of(QuadraticForm)]
    return [
        name
        for name, cls in held
        if facts(cls).quotas == quotas and not missing_packages(cls.requires) and name not in ENDLESS
    ]


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("family", quota_families())
@pytest.mark.parametrize("name", _solvers(True))
def test_a_solver_that_declares_quotas_passes_every_check_on_them(name, family, mode):
    solver = make_solver(name)
    if mode == "select" and "select" not in solver.modes:
        pytest.skip(f"{name} handles mode refit only")
    for check in CHECKS:
        refusal = run_check(check, solver, family, mode, QUOTA_SEEDS)
        if (name, mode) in NARROW:
            assert not refusal or refusal.kind is RefusalKind.QUOTA
        else:
            assert not (refusal and mode in solver.modes), refusal


@pytest.mark.parametrize("name", _solvers(False))
def test_a_solver_that_does_not_is_refused_by_name_with_a_remedy(name):
    solver = make_solver(name)
    for mode in ("select", "refit"):
        if mode == "refit" or "select" in solver.modes:
            assert_refuses_quotas(solver, mode)


def _block(rng, p, quota, mode, n=40, hessian=False, linear=True):
    rows = rng.normal(size=(n, p)) @ np.diag(0.2 + rng.random(p)) / np.sqrt(n)
    weights = rng.normal(size=p)
    slope = 0.05 * rng.normal(size=p) if linear else None
    curvature = {"hessian": rows.T @ rows} if hessian else {"factor": rows}
    form = QuadraticForm(**curvature, ridge=0.02, linear=slope, centre=weights)
    return BlockProblem(form, weights, quota.keep, mode, quota=quota)


def _uneven(rng, p, groups):
    """Groups of random sizes, scattered over the positions, with random counts."""
    group = np.concatenate((np.arange(groups), rng.integers(0, groups, p - groups)))
    group = rng.permutation(group)
    sizes = np.bincount(group)
    return Quota(group, rng.integers(0, sizes + 1))


def _masks(quota):
    return [mask for mask in all_masks(quota.p, quota.keep) if not quota.violation(mask)]


@pytest.mark.parametrize("groups", [3, 40])
@pytest.mark.parametrize("even", [True, False])
def test_the_top_mask_is_that_of_each_group_by_itself(groups, even):
    rng = np.random.default_rng(groups)
    quota = Quota(np.arange(groups * 6) % groups, rng.integers(0, 7, groups)) if even else _uneven(rng, 200, groups)
    scores = rng.integers(0, 4, quota.p).astype(float)
    mask = quota.top_mask(scores)
    for number in range(groups):
        members = quota.members(number)
        assert np.array_equal(mask[members], top_mask(scores[members], int(quota.counts[number])))


def test_groups_are_numbered_as_they_first_appear_so_that_names_do_not_change_the_hash():
    weights = np.arange(1.0, 7.0)
    form = QuadraticForm(factor=np.eye(6), ridge=0.1, centre=weights)
    one = BlockProblem(form, weights, 3, "select", quota=Quota(np.array([2, 2, 0, 0, 1, 1]), np.array([0, 1, 2])))
    other = BlockProblem(form, weights, 3, "select", quota=(([4, 5], 1), ([0, 1], 2), ([3, 2], 0)))
    assert one.quota.counts.tolist() == [2, 0, 1]
    assert one.hash == other.hash


def test_one_group_is_the_plain_problem_with_its_hash():
    weights = np.arange(1.0, 7.0)
    form = QuadraticForm(factor=np.eye(6), ridge=0.1, centre=weights)
    plain = BlockProblem(form, weights, 2, "select")
    whole = BlockProblem(form, weights, 2, "select", quota=((range(6), 2),))
    assert whole.quota is None
    assert whole.hash == plain.hash
    assert BlockProblem(form, weights, 2, "select", quota=Quota.n_m(6, 1, 3)).hash != plain.hash


@pytest.mark.parametrize(
    ("quota", "words"),
    [
        ((([0, 1, 2], 1), ([2, 3, 4, 5], 1)), "weight 2 in group 0 and in group 1"),
        ((([0, 1, 2], 1), ([4, 5], 1)), "leaves 1 weights in no group, the first is 3"),
        ((([0, 1, 2], 1), ([3, 4, 5, 6], 1)), "group 1 holds the position 6; the block has weights 0 to 5"),
        ((([0, 1, 1], 1), ([2, 3, 4, 5], 1)), "group 0 holds a position twice"),
        ((([0, 1], 3), ([2, 3, 4, 5], 1)), "group 0 keeps 3 but has 2 weights; choose 0 to 2"),
        ((([0, 1], -1), ([2, 3, 4, 5], 3)), "group 0 keeps -1"),
        ((([0, 1], 1.5), ([2, 3, 4, 5], 1)), "group 0 keeps 1.5; expected a whole number"),
        ((([0.5, 1], 1), ([2, 3, 4, 5], 1)), "group 0's indices has dtype float64"),
        ((([0, 1], 1), ([2, 3, 4, 5], 2)), "keep is 2 but the quota's counts add up to 3"),
        ((([], 0), ([0, 1, 2, 3, 4, 5], 2)), "group 0 has no weights; leave it out"),
        (((0, 1, 2),), "group 0 is .0, 1, 2.; expected .indices, count."),
        ((), "the quota is empty"),
        (Quota.n_m(8, 1, 4), "over 8 weights; the block has 6"),
    ],
)
def test_a_quota_that_does_not_fit_is_refused_with_the_group_named(quota, words):
    form = QuadraticForm(factor=np.eye(6), ridge=0.1, centre=np.ones(6))
    with pytest.raises(InvalidInput, match=words):
        BlockProblem(form, np.ones(6), 2, "select", quota=quota)


def test_a_mask_and_weights_that_break_the_quota_are_refused_with_the_group_named():
    weights = np.arange(1.0, 9.0)
    block = BlockProblem(
        QuadraticForm(factor=np.eye(8), ridge=0.1, centre=weights), weights, 4, "select", quota=Quota.n_m(8, 2, 4)
    )
    mask = np.array([True, True, True, False, True, False, False, False])
    words = r"keeps 3 weights of group 0 \(the one of weight 0\); its quota is exactly 2 of 4"
    with pytest.raises(InvalidInput, match=words):
        block.evaluate(mask)
    with pytest.raises(InvalidInput, match=words):
        block.evaluate(np.where(mask, weights, 0.0))
    with pytest.raises(InvalidInput, match="start_mask keeps 3 weights of group 0"):
        block.with_start(mask)


def test_the_constructors_give_rows_layers_and_n_of_m():
    assert Quota.rows(3, 4, 0.5).counts.tolist() == [2, 2, 2]
    assert Quota.n_m(8, 2, 4).group.tolist() == [0] * 4 + [1] * 4
    layers = Quota.layers(["b", "b", "b", "a", "a", "b", "a"], 0.5)
    assert layers.keep == 4
    assert layers.group.tolist() == [0, 0, 0, 1, 1, 0, 1]
    with pytest.raises(InvalidInput, match="2:4 needs a multiple of 4 weights but there are 10; choose 8"):
        Quota.n_m(10, 2, 4)


@pytest.mark.parametrize("hessian", [True, False])
def test_the_random_mean_is_the_mean_over_the_feasible_masks(hessian):
    rng = np.random.default_rng(3)
    for _ in range(4):
        block = _block(rng, 9, _uneven(rng, 9, 4), "select", n=5, hessian=hessian)
        mean = np.mean([block.evaluate(mask) for mask in _masks(block.quota)])
        assert block.random_mean() == pytest.approx(mean, rel=1e-10)
        assert block.mask_count == len(_masks(block.quota))


def test_a_block_file_carries_the_quota_and_copies_keep_it(tmp_path):
    rng = np.random.default_rng(0)
    block = _block(rng, 12, Quota.n_m(12, 2, 4), "select")
    block.save(tmp_path / "block.npz")
    read = BlockProblem.load(tmp_path / "block.npz")
    assert read.hash == block.hash
    assert np.array_equal(read.quota.counts, block.quota.counts)
    assert block.in_mode("refit").quota is block.quota
    assert block.with_start(block.incumbent).quota is block.quota
    contents = dict(np.load(tmp_path / "block.npz"))
    del contents["quota_counts"]
    np.savez(tmp_path / "half.npz", **contents)
    with pytest.raises(InvalidInput, match="needs both 'quota_group'"):
        BlockProblem.load(tmp_path / "half.npz")


def test_the_quota_of_a_part_keeps_what_the_mask_keeps_there():
    quota = Quota.n_m(12, 2, 4)
    mask = quota.top_mask(np.arange(12.0))
    part = quota.within(np.array([2, 3, 4, 11]), mask)
    assert part.group.tolist() == [0, 0, 1, 2]
    assert part.counts.tolist() == [2, 0, 1]


def _best_change(block, mask):
    """The lowest objective that one exchange inside a group reaches, by evaluating all of them."""
    best = np.inf
    for i in np.flatnonzero(mask):
        for j in np.flatnonzero(~mask & (block.quota.group == block.quota.group[i])):
            other = mask.copy()
            other[i], other[j] = False, True
            best = min(best, block.evaluate(other))
    return best


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("hessian", [True, False])
def test_swap_descent_ends_where_no_exchange_inside_a_group_improves(mode, hessian):
    rng = np.random.default_rng(1)
    block = _block(rng, 36, _uneven(rng, 36, 5), mode, n=20, hessian=hessian)
    result = SwapDescent(block).run(block.quota.top_mask(rng.random(36)), Incumbent(block))
    assert result.locally_optimal
    assert result.moves > 0
    value = block.evaluate(result.mask)
    assert _best_change(block, result.mask) >= value - 1e-9 * abs(value)


@pytest.mark.parametrize("quota", [Quota.n_m(1600, 2, 4), Quota.rows(2, 800, 0.4)], ids=["2:4", "rows"])
def test_swaps_on_a_factor_prove_that_no_exchange_inside_a_group_improves(quota):
    rng = np.random.default_rng(2)
    block = _block(rng, 1600, quota, "select")
    result = SwapDescent(block).run(block.incumbent, Incumbent(block))
    assert result.locally_optimal
    assert block.evaluate(result.mask) < block.evaluate(block.incumbent)
    form = block.form
    gram = QuadraticForm(hessian=form.factor.T @ form.factor, ridge=0.02, linear=form.linear, centre=form.centre)
    dense, value = replace(block, form=gram), block.evaluate(result.mask)
    again = SwapDescent(dense).run(result.mask, Incumbent(block))
    assert dense.evaluate(again.mask) >= value - 1e-9 * abs(value)


@pytest.mark.parametrize("name", ["swap", "iht", "admm", "obs", "mfac", "woodfisher", "chita", "cbs"])
def test_large_refit_blocks_keep_the_quota_and_beat_magnitude(name):
    rng = np.random.default_rng(4)
    block = _block(rng, 2400, Quota.n_m(2400, 2, 4), "refit", n=60, linear=False)
    solution = solve(block, name, budget=Budget(seconds=5.0))
    assert not block.quota.violation(solution.mask)
    # mfac and woodfisher only rank, and cbs looks at the select objective
    if name not in ("mfac", "woodfisher", "cbs"):
        assert solution.objective < block.evaluate(block.incumbent)


@pytest.mark.parametrize("couplings", ["dense", "factor"])
def test_annealing_within_groups_finds_the_optimum_and_repeats(couplings):
    rng = np.random.default_rng(5)
    block = _block(rng, 16, _uneven(rng, 16, 4), "select", n=9)
    options = {"couplings": couplings, "polish": False, "sweeps": 200}
    solution = solve(block, "anneal", options=options, seed=1)
    assert solution.objective == pytest.approx(solve(block, "exhaustive").objective, rel=1e-12)
    assert np.array_equal(solution.mask, solve(block, "anneal", options=options, seed=1).mask)
    assert np.array_equal(solution.mask, solve(block, "anneal", options={**options, "threads": 2}, seed=1).mask)


@pytest.mark.parametrize("seed", range(6))
def test_bounds_within_groups_are_valid_and_at_least_those_of_the_count(seed):
    rng = np.random.default_rng(seed)
    mode = ("select", "refit")[seed % 2]
    block = _block(rng, 10, _uneven(rng, 10, 3), mode, n=6, hessian=seed % 3 == 0)
    best = BruteForce.of(block).objective
    bound = lower_bound(block, 5.0)
    assert bound.value <= best + 1e-12 * abs(best)
    assert derive(block, bound.details["certificate"]) == bound.value
    assert bound.value >= lower_bound(replace(block, quota=None), 5.0).value - 1e-6 * abs(best)


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_highs_proves_what_enumeration_finds_in_every_formulation(mode):
    rng = np.random.default_rng(8)
    block = _block(rng, 12, _uneven(rng, 12, 4), mode, n=7)
    best = solve(block, "exhaustive").objective
    for formulation in set(FORMULATIONS[mode]) - {TANGENTS}:
        solution = solve(block, "highs", options={"formulation": formulation})
        # the cuts in the mask alone end at a gap of HiGHS' tolerances, as they do without a quota
        assert solution.status == "optimal" or formulation == "mask-cuts", formulation
        assert solution.lower_bound <= best + 1e-9 * abs(best), formulation
        assert solution.lower_bound >= best - 1e-4 * abs(best), formulation
        assert solution.objective == pytest.approx(best, rel=1e-9), formulation


@pytest.mark.parametrize("seed", range(6))
def test_branch_and_bound_proves_what_enumeration_finds_within_groups(seed):
    rng = np.random.default_rng(seed)
    quota = (Quota.n_m(20, 2, 4), _uneven(rng, 20, 3), Quota.rows(2, 10, 0.4))[seed % 3]
    block = _block(rng, 20, quota, "select", n=(8, 30)[seed % 2], hessian=seed > 3)
    solution, best = solve(block, "branch-and-bound"), solve(block, "exhaustive")
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(best.objective, rel=1e-9)
    assert solution.lower_bound >= best.objective - 1e-6 * abs(best.objective)


def test_the_penalty_of_every_group_leaves_feasible_energies_and_lifts_the_others():
    rng = np.random.default_rng(6)
    block = _block(rng, 9, _uneven(rng, 9, 3), "select", n=5)
    plain = encode(block)
    safe = plain.with_penalty(safe_penalty(plain))
    masks = np.array([list(map(bool, map(int, f"{code:09b}"))) for code in range(512)])
    feasible = plain.feasible(masks)
    assert feasible.sum() == block.mask_count
    assert np.allclose(safe.energies(masks[feasible]), [block.evaluate(mask) for mask in masks[feasible]])
    assert safe.energies(masks[~feasible]).min() >= safe.energies(masks[feasible]).min()
    assert safe.bqm().energy({i: int(kept) for i, kept in enumerate(masks[77])}) == pytest.approx(
        safe.energies(masks[77:78])[0]
    )
    assert plain.feasible(repair(plain, masks)).all()


def test_a_constrained_model_has_one_row_a_group_and_lagrange_is_refused():
    rng = np.random.default_rng(7)
    block = _block(rng, 12, Quota.n_m(12, 2, 4), "select", n=5)
    model = to_cqm(block)
    assert len(model.constraints) == 3
    assert all(row.rhs == 2 for row in model.constraints.values())
    assert model.check_feasible({i: int(kept) for i, kept in enumerate(block.incumbent)})
    assert lp_text(block).count("keep") >= 3
    with pytest.raises(InvalidInput, match="one linear term"):
        solve(block, "neal", options={"encoding": "lagrange"})
    with pytest.raises(InvalidInput, match="holds one count, not a quota"):
        to_nonlinear(block)


def test_the_ising_operator_penalises_every_group():
    rng = np.random.default_rng(9)
    block = _block(rng, 6, Quota.n_m(6, 1, 3), "select", n=5)
    operator, offset = ising_operator(block, penalty=10.0)
    diagonal = np.real(operator.to_matrix().diagonal()) + offset
    for code in range(64):
        mask = np.array([bool(code >> i & 1) for i in range(6)])
        excess = block.quota.kept_of(mask) - block.quota.counts
        assert diagonal[code] == pytest.approx(block.to_qubo().energy(mask) + 10.0 * float(excess @ excess))


@pytest.mark.parametrize("select", ["random", "row", "magnitude"])
def test_a_cut_block_with_n_of_m_is_made_of_whole_groups_along_the_inputs(select):
    block = cut_block("digits-mlp", size=48, quota="2:4", select=select, curvature={"samples": 64}, seed=3)
    assert block.keep == 24
    assert (block.indices.reshape(-1, 4)[:, 0] % 4 == 0).all()
    assert (np.diff(block.indices.reshape(-1, 4), axis=1) == 1).all()
    assert block.quota.counts.tolist() == [2] * 12


def test_a_cut_block_can_have_a_quota_a_layer_or_a_row():
    block = cut_block("digits-mlp", size=60, density=0.3, quota="layer", curvature={"samples": 64}, seed=1)
    for name in np.unique(block.layer):
        share = block.incumbent[block.layer == name].mean()
        assert abs(share - 0.3) < 1.0 / (block.layer == name).sum()
    block = cut_block("digits-mlp", size=150, density=0.4, quota="row", select="row", curvature={"samples": 64}, seed=1)
    assert block.quota.counts.size > 1
    assert block.keep == 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quota", "2:4", "--density", "0.4"], "choose density 0.5 or leave it out"),
        (["--quota", "2:7"], "needs whole groups of 7 and size is 60"),
        (["--quota", "collumn", "--density", "0.5"], "unknown quota 'collumn'"),
        (["--quota", "5:4"], "quota 5:4 is no pattern"),
        (["--quota", "row"], "--density is missing"),
    ],
)
def test_the_command_line_refuses_a_wrong_quota(arguments, words, tmp_path, capsys):
    out = ["-o", str(tmp_path / "block.npz")]
    assert main(["block", "digits-mlp", "--size", "60", *arguments, *out]) == 2
    assert words in capsys.readouterr().err


def test_the_command_line_cuts_solves_and_verifies_a_block_with_a_quota(tmp_path, capsys):
    file, answer = str(tmp_path / "block.npz"), str(tmp_path / "answer.json")
    assert main(["block", "digits-mlp", "--size", "16", "--quota", "2:4", "--samples", "64", "-o", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quota_groups"] == 4
    for solver in ("exhaustive", "highs"):
        assert main(["solve", file, "--solver", solver, "-o", answer, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["status"] == "optimal"
        assert main(["verify", answer, file]) == 0
        capsys.readouterr()
    assert main(["solve", file, "--solver", "qaoa"]) == 2
    assert "quota of 4 groups" in capsys.readouterr().err
