"""HiGHS: every formulation proves the same optimum, and stops honestly."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from helpers import gaussian_block, hard_block
from prunebench import BlockProblem, Budget, QuadraticForm, Status, solve
from prunebench.core.errors import SolverRefused
from prunebench.core.keeping import Quota
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.stop import never
from prunebench.kernels.relaxations.certificate import value_range
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram
from prunebench.kernels.relaxations.split import best_split, certified_split
from prunebench.kernels.trees.dives import RefitTree, SelectTree
from prunebench.kernels.trees.select_node import FREE
from prunebench.solvers.highs import parts, solver
from prunebench.solvers.highs.formulations import Ellipsoid, refitted
from prunebench.solvers.highs.model import FEASIBILITY, SAFETY, Model, Rows
from prunebench.solvers.highs.parts import Exclusion, Front, prove_refit, refit_tangents, select_tangents
from prunebench.solvers.highs.points import refit_points, relaxation_points
from prunebench.solvers.highs.probing import probed, reduced
from prunebench.solvers.highs.solver import _widened_refit
from prunebench.testing.claims import attack
from prunebench.testing.exact import Exact
from prunebench.testing.hostile import ill_conditioned
from prunebench.testing.instances import FAMILIES, all_masks, instance

FORMULATIONS = {
    "select": ["pairs", "mccormick", "residuals", "shifted-residuals"],
    "refit": ["perspective", "tangents"],
}


def block_of(mode, p=10, n=6, keep=4, seed=0):
    return gaussian_block(p, keep, seed, mode, n=n, ridge=0.05)


@pytest.mark.parametrize(("mode", "formulation"), [(m, f) for m, names in FORMULATIONS.items() for f in names])
def test_every_formulation_proves_the_optimum(mode, formulation):
    for seed in range(2):
        block = block_of(mode, seed=seed)
        answer = solve(block, "highs", options={"formulation": formulation, "probing": False})
        best = solve(block, "exhaustive").objective
        assert answer.status is Status.OPTIMAL, answer.stop_reason
        assert answer.objective == pytest.approx(best, rel=1e-9)
        assert best * (1 - 1e-4) <= answer.lower_bound <= best * (1 + 1e-12)
        assert answer.details["formulation"] == formulation


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_probing_never_loses_the_optimum(family):
    for seed in range(5):
        block = instance(family, seed, "select", p=12, keep=5)
        answer = solve(block, "highs")
        best = solve(block, "exhaustive").objective
        _, high = value_range(block, solve(block, "exhaustive").weights)
        assert answer.objective == pytest.approx(best, rel=1e-9, abs=1e-12 * abs(block.form.constant))
        assert answer.lower_bound <= high


def test_probing_leaves_an_easy_block_without_free_weights():
    """One weight costs far more than all others together can save: reduced costs decide every weight."""
    weights = np.ones(12)
    form = QuadraticForm(factor=np.diag(np.geomspace(1.0, 4.0**11, 12)), ridge=0.1, centre=weights)
    block = BlockProblem(form, weights, 5, "select")
    answer = solve(block, "highs")
    assert answer.status is Status.OPTIMAL
    assert answer.details["formulation"] == "probing"
    assert answer.mask.tolist() == [False] * 7 + [True] * 5
    assert answer.objective == pytest.approx(solve(block, "exhaustive").objective, rel=1e-9)


def test_what_probing_fixes_is_so_in_every_better_mask():
    fixed = 0
    for seed, best_shift in product(range(10), (False, True)):
        block = block_of("select", p=10, n=4, keep=5, seed=seed)
        values = {kept: block.evaluate(np.isin(np.arange(10), kept)) for kept in combinations(range(10), 5)}
        # an incumbent in the middle: many masks are better, and the fixing must hold for all of them
        upper = sorted(values.values())[6]
        program = SelectProgram.of(block, upper)
        tree = SelectTree(program, program.inner(upper), never, None if best_shift else np.zeros(10))
        left = reduced(program, tree, upper)
        held = np.setdiff1d(np.arange(10), left.free)
        fixed += held.size
        for kept, value in values.items():
            mask = np.isin(np.arange(10), kept)
            if value < left.cut - 1e-9 * abs(upper):
                assert not left.closed
                assert (mask[held] == left.mask[held]).all()
                x = 1.0 - mask[left.free]
                inner = left.program.linear @ x + 0.5 * x @ left.program.quadratic @ x
                assert left.program.constant + inner / left.program.scale == pytest.approx(value, rel=1e-9)
                assert x.sum() == left.program.count
    assert fixed > 20


def tree_of(block, upper):
    program = SelectProgram.of(block, upper)
    return program, SelectTree(program, program.inner(upper), never)


@pytest.mark.parametrize("seed", range(4))
def test_tangents_at_the_leaves_of_a_closed_tree_exclude_every_mask_and_none_lies_above_the_objective(seed):
    p, keep = 12, 6
    block = hard_block(p, seed)
    masks = np.array([np.isin(np.arange(p), kept) for kept in combinations(range(p), keep)])
    values = np.array([block.evaluate(mask) for mask in masks])
    program, tree = tree_of(block, values.min())
    root, _, _ = tree.root_proof()
    cut = program.inner(values.min()) - tree.margin
    points = np.empty((500, p))
    held, closed, branch = relaxation_points(tree.convexified(), root, np.full(p, FREE, np.int8), cut, points)
    assert closed
    assert branch >= 0
    gradients = tree.linear + points[:held] @ tree.matrix
    heights = -0.5 * np.einsum("kp,kp->k", points[:held], points[:held] @ tree.matrix)
    tangents = heights[:, None] + gradients @ (~masks).T
    assert (tangents <= program.inner(values) + tree.slack).all()
    assert (tangents.max(axis=0) >= cut - tree.slack).all()
    # a tree that may not grow says so, and its first point is no proof
    assert not relaxation_points(tree.convexified(), root, np.full(p, FREE, np.int8), cut, np.empty((2, p)))[1]


def test_the_model_of_a_part_is_infeasible_below_the_optimum_and_finds_a_mask_above_it():
    p = 12
    block = hard_block(p)
    best = solve(block, "exhaustive")
    program, tree = tree_of(block, best.objective)
    root, _, _ = tree.root_proof()
    optimum = program.inner(best.objective)

    def tangents_at(points):
        return select_tangents(tree.matrix, tree.linear, 0.0, points)

    tangents = tangents_at(np.array([root, 1.0 - best.mask]))
    above = Exclusion(*tangents, block.keep, tree.slack, optimum + 1.0, 1)
    found = above.model.solve(60.0, None, never, lambda _: None)
    assert found.finished
    assert above.bound_of(found.bound) <= optimum
    # every mask at the optimum's value or above is excluded by its own tangent: the loop ends with a proof
    below = Exclusion(*tangents, block.keep, tree.slack, optimum - tree.margin, 1)
    assert optimum - 1e-3 <= below.proven < optimum
    for _ in range(1000):
        outcome = below.model.solve(60.0, None, never, lambda _: None)
        if outcome.infeasible:
            break
        slopes, constants = tangents_at(1.0 - below.masks(outcome.points)[-1][None, :])
        below.exclude(slopes[0], constants[0])
    assert outcome.infeasible


@pytest.mark.parametrize(("whole", "part"), [(1, 8), (1, 40), (400, 16)])
def test_a_front_of_parts_proves_the_optimum_from_a_poor_incumbent(monkeypatch, whole, part):
    monkeypatch.setattr(parts, "NODES_OF_THE_WHOLE", whole)
    monkeypatch.setattr(parts, "NODES_OF_A_PART", part)
    models = splits = 0
    for seed in range(3):
        block = hard_block(26 if whole == 1 else 18, seed)
        best = solve(block, "exhaustive")
        held = [block.incumbent]

        def offer(mask, block=block, held=held):
            held[0] = min(held[0], mask, key=block.evaluate)
            return block.evaluate(held[0])

        bounds = []
        start = probed(SelectProgram.of(block, offer(held[0])), offer(held[0]), never)
        front = Front(start, offer(held[0]), offer, bounds.append, never, lambda: 60.0)
        front.run()
        models += front.models
        splits += front.splits
        assert front.stopped is None
        assert front.objective == pytest.approx(best.objective, rel=1e-9)
        assert max(bounds) <= best.objective
        assert min(bounds[-1], best.objective) >= front.objective - front.tolerance
    assert (splits > 0) == (whole == 1)
    # the bound alone closes most parts of so small a tree: whether a model is left hangs on the last digits
    assert models > 0 or part == 8


def test_a_front_proves_of_a_part_no_more_than_its_model_proves(monkeypatch):
    block, proven = hard_block(30), []

    class Weaker(Exclusion):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            self.proven -= 1e4
            proven.append(self.proven)

    monkeypatch.setattr(parts, "Exclusion", Weaker)
    best, bounds = solve(block, "branch-and-bound").objective, []
    start = probed(SelectProgram.of(block, best), best, never)
    front = Front(start, best, lambda mask: min(best, block.evaluate(mask)), bounds.append, lambda _: "", lambda: 60.0)
    front.run()
    assert front.models == len(proven) > 0
    assert bounds[-1] == front.program.outer(min(proven))


def test_it_proves_by_parts_what_branch_and_bound_proves():
    block = hard_block()
    answer, exact = solve(block, "highs"), solve(block, "branch-and-bound")
    assert answer.status is Status.OPTIMAL
    assert answer.details["formulation"] == "tangents"
    assert answer.details["parts"] >= 1
    assert answer.objective == pytest.approx(exact.objective, rel=1e-9)
    assert answer.objective * (1 - 1e-4) <= answer.lower_bound <= answer.objective
    assert (np.diff(answer.trace[:, 1]) <= 0).all()
    assert (answer.trace[1:, 2] >= answer.trace[:-1, 2]).all()


def test_interruption_between_parts_keeps_the_incumbent_and_what_is_proved():
    block = hard_block(40)
    calls = []

    def press_ctrl_c(_seconds, _objective, bound):
        calls.append(bound)
        if sum(map(np.isfinite, calls)) > 4:
            raise KeyboardInterrupt

    answer = solve(block, "highs", progress=press_ctrl_c)
    assert answer.status is Status.INTERRUPTED
    assert answer.details["splits"] > 0
    assert 0.0 < answer.lower_bound <= solve(block, "branch-and-bound").objective < answer.objective * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_refit_tangents_exclude_every_mask_and_none_lies_above_the_objective(seed):
    p, keep = 12, 5
    block = block_of("refit", p=p, n=8, keep=keep, seed=seed)
    masks = np.array([np.isin(np.arange(p), kept) for kept in combinations(range(p), keep)])
    values = np.array([block.evaluate(mask) for mask in masks])
    program = RefitProgram.of(block, values.min())
    tree = RefitTree.of(program, program.inner(values.min()), never)
    root = tree.root()
    cut = program.inner(values.min()) - tree.margin
    points = np.empty((500, p))
    held, closed = refit_points(tree.split_off(), root.pattern, root.sign, cut, points)
    assert closed
    slopes, constants = refit_tangents(tree, tree.accuracy, points[:held])
    tangents = constants[:, None] + slopes @ masks.T
    assert (tangents <= program.inner(values) + tree.slack).all()
    # what rounding may take off each is far below what counts as equal
    assert (tangents.max(axis=0) >= cut - 1e-9 * abs(cut)).all()
    upper = program.inner(values.min())
    assert prove_refit(tree, upper, 1, limit=1) is None
    exclusion = Exclusion(slopes, constants, keep, tree.slack, cut, 1)
    assert exclusion.model.solve(60.0, None, never, lambda _: None).infeasible
    assert exclusion.proven < cut
    # a target above the optimum finds the best mask; once it is taken out the rest is proved to cost as much
    proof = prove_refit(tree, upper, 1)
    if proof is None:
        assert exclusion.slack > parts.LOOSE * abs(cut)
        return
    reaching, _ = proof
    assert reaching.proven >= upper
    outcome = reaching.model.solve(60.0, None, never, lambda _: None)
    while not outcome.infeasible:
        for mask in reaching.masks(outcome.points):
            reaching.take_out(mask)
        outcome = reaching.model.solve(60.0, None, never, lambda _: None)


def test_refit_tangents_lie_below_the_exact_values_at_any_conditioning():
    looked_at = 0
    for seed in range(60):
        block = ill_conditioned(seed, "refit").block
        program = RefitProgram.of(block, block.evaluate(block.incumbent))
        tree = RefitTree.of(program, program.inner(block.evaluate(block.incumbent)), never)
        if tree is None or block.form.formed_error > 0.0:
            continue
        masks = list(Exact.of(block).masks())
        points = np.array([refitted(tree.matrix, tree.linear, mask) for mask in masks])
        slopes, constants = refit_tangents(tree, tree.accuracy + 1e-15 * block.p, points)
        exact = Exact.of(block)
        for mask in masks:
            value = (exact.of_mask(mask) - Fraction(program.constant)) * Fraction(program.scale)
            # products with a mask of ones and zeros, in exact arithmetic too
            tangents = [
                Fraction(float(constant)) + sum(Fraction(float(slope)) for slope in row[mask])
                for row, constant in zip(slopes, constants, strict=True)
            ]
            assert max(tangents) <= value + Fraction(program.rounding), block.problem
        looked_at += 1
    assert looked_at > 10


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_tangents_prove_refit_blocks_of_every_family(family):
    for seed in range(3):
        block = instance(family, seed, "refit", p=12, keep=5)
        answer, best = solve(block, "highs"), solve(block, "exhaustive")
        _, high = value_range(block, best.weights)
        assert answer.objective == pytest.approx(best.objective, rel=1e-9, abs=1e-12 * abs(block.form.constant))
        assert answer.lower_bound <= high


def test_a_refit_block_on_which_highs_fails_below_tangents_is_still_proved():
    block = instance("cancelling-pairs", 101, "refit", p=15, keep=6)
    answer, best = solve(block, "highs"), solve(block, "exhaustive")
    assert answer.status is Status.OPTIMAL, answer.stop_reason
    assert answer.objective == pytest.approx(best.objective, rel=1e-9)
    assert answer.lower_bound <= value_range(block, best.weights)[1]


def bound_of(model):
    return model.solve(10.0, None, never, lambda _: None).bound


def test_a_run_that_ends_in_an_error_proves_nothing():
    highspy = pytest.importorskip("highspy")
    model = Model(np.array([1.0, 2.0]), np.zeros(2), np.ones(2), 2, 1)
    rows = Rows()
    rows.add((0, 1), (1.0, 1.0), lower=1.0)
    model.add(rows)
    assert bound_of(model) == 1.0
    model.highs.getModelStatus = lambda: highspy.HighsModelStatus.kSolveError
    outcome = model.solve(10.0, None, never, lambda _: None)
    assert (outcome.bound, outcome.finished) == (-np.inf, False)


def test_an_entry_that_highs_drops_excludes_no_solution():
    # x is binary, y at most 1e9: with y = 1e9 no x is needed, unless y's entry is dropped
    model = Model(np.array([1.0, 0.0]), np.zeros(2), np.array([1.0, 1e9]), 1, 1)
    rows = Rows()
    rows.add((0, 1), (1.0, 5e-10), lower=0.25)
    rows.add((0, 1), (-1.0, -5e-10), upper=-0.25)
    model.add(rows)
    assert bound_of(model) <= 0.0


def test_a_row_of_large_terms_is_as_wide_as_its_sum_may_round():
    rng = np.random.default_rng(0)
    values, at = rng.normal(size=40), 1e8 * rng.normal(size=40)
    model = Model(np.ones(40), -np.abs(at), np.abs(at), 0, 1)
    exact = sum(Fraction(a) * Fraction(b) for a, b in zip(values.tolist(), at.tolist(), strict=True))
    rows = Rows()
    rows.add(range(40), values, float(exact), float(exact))
    model.add(rows)
    held = model.highs.getLp()
    orders = [rng.permutation(40) for _ in range(50)]
    sums = [float(np.cumsum((values * at)[order])[-1]) for order in orders]
    assert max(abs(Fraction(total) - exact) for total in sums) > FEASIBILITY
    assert held.row_lower_[0] <= min(sums)
    assert max(sums) <= held.row_upper_[0]
    # and the bound allows for it: to every row with its multiplier, and to the objective's own sum
    assert model.slack(1.0) >= SAFETY * max(abs(Fraction(total) - exact) for total in sums)
    assert model.slack(0.0) > 0.0


def test_no_bound_of_a_refit_block_is_above_its_optimum_where_highs_ends_in_an_error():
    # its curvatures differ by nine orders of magnitude, at which HiGHS' simplex has given up
    counts = attack(["highs"], 1, 300, families=["ill-conditioned"], modes=["refit"], bounds=False)
    assert (counts.bounded, counts.wrong) == (1, 0), counts.examples


def test_a_refit_block_whose_tree_stays_open_is_left_to_the_perspective_model(monkeypatch):
    monkeypatch.setattr(parts.prove_refit, "__defaults__", (1,))
    answer = solve(block_of("refit"), "highs", options={"formulation": "tangents"})
    assert answer.details["formulation"] == "perspective"
    assert answer.status is Status.OPTIMAL


def test_tangents_without_probing_or_within_a_quota_are_refused():
    with pytest.raises(SolverRefused, match="needs probing in mode select"):
        solve(block_of("select"), "highs", options={"formulation": "tangents", "probing": False})
    block = replace(block_of("select", p=12), quota=Quota.rows(2, 6, 0.5), keep=6)
    with pytest.raises(SolverRefused, match="takes no quota"):
        solve(block, "highs", options={"formulation": "tangents"})


def test_cuts_in_the_mask_alone_bound_the_optimum():
    block = block_of("refit", p=8, n=5, keep=3)
    answer = solve(block, "highs", options={"formulation": "mask-cuts"})
    best = solve(block, "exhaustive").objective
    assert answer.objective == pytest.approx(best, rel=1e-9)
    assert best * 0.99 <= answer.lower_bound <= best * (1 + 1e-12)


def test_it_proves_forty_weights_in_mode_select():
    rng = np.random.default_rng(5)
    weights = rng.normal(size=40)
    factor = rng.normal(size=(20, 40)) / np.sqrt(20)
    block = BlockProblem(QuadraticForm(factor=factor, ridge=0.01, centre=weights), weights, 24, "select")
    answer = solve(block, "highs", budget=Budget(seconds=5.0))
    exact = solve(block, "branch-and-bound")
    assert answer.lower_bound <= exact.objective * (1 + 1e-9)
    assert answer.objective >= exact.objective * (1 - 1e-9)
    assert (np.diff(answer.trace[:, 1]) <= 0).all()
    assert (answer.trace[1:, 2] >= answer.trace[:-1, 2]).all()


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_no_time_gives_the_incumbent(mode):
    answer = solve(block_of(mode), "highs", budget=Budget(seconds=0.0))
    assert answer.status is Status.TIME_LIMIT
    assert int(answer.mask.sum()) == 4


def test_interruption_during_the_run_keeps_the_incumbent():
    def press_ctrl_c(_seconds, _objective, bound):
        if np.isfinite(bound):
            raise KeyboardInterrupt

    answer = solve(block_of("select"), "highs", options={"probing": False}, progress=press_ctrl_c)
    assert answer.status is Status.INTERRUPTED
    assert int(answer.mask.sum()) == 4


def test_a_formulation_of_the_other_mode_is_refused_with_the_right_ones():
    with pytest.raises(SolverRefused, match="choose auto, tangents, pairs"):
        solve(block_of("select"), "highs", options={"formulation": "perspective"})


@pytest.mark.parametrize("seed", range(12))
def test_probing_fixes_no_variable_of_a_better_mask(seed):
    rng = np.random.default_rng(seed)
    p, keep = 9, int(rng.integers(2, 8))
    block = block_of("select", p=p, n=int(rng.integers(2, 12)), keep=keep, seed=seed)
    masks = [mask for mask in (np.array(bits) for bits in product((False, True), repeat=p)) if mask.sum() == keep]
    values = np.array([block.evaluate(mask) for mask in masks])
    fixed = 0
    for share in (0.0, 0.02, 0.1, 0.3):
        # an incumbent that several masks beat: none of them may be lost
        objective = float(np.sort(values)[int(share * len(masks))])
        program = SelectProgram.of(block, objective)
        left = probed(program, objective, never)
        fixed += p - left.free.size
        held = np.ones(p, dtype=bool)
        held[left.free] = False
        for mask, value in zip(masks, values, strict=True):
            if value < left.cut - left.doubt:
                assert not left.closed
                assert (mask == left.mask)[held].all(), (share, value, objective)
    assert fixed > 0


def test_the_ellipsoid_holds_every_better_mask_and_what_its_arrays_are_off_by():
    looked_at = 0
    for seed in range(30):
        block = ill_conditioned(seed, "refit").block
        upper = block.evaluate(block.incumbent)
        program = RefitProgram.of(block, upper)
        split = best_split(program, program.inner(upper))
        delta = None if split is None else certified_split(program, split.delta)
        if delta is None or block.form.formed_error > 0.0:
            continue
        held = Ellipsoid.of(program, delta, program.inner(upper))
        scaled = QuadraticForm(hessian=held.matrix, ridge=1.0, linear=-held.linear)
        exact, arrays = Exact.of(block), Exact.of(replace(block, form=scaled, start_mask=None))
        room = Fraction(held.doubt) + Fraction(program.rounding)
        for mask in exact.masks():
            value = exact.of_mask(mask)
            if value <= Fraction(upper):
                inner = (value - Fraction(program.constant)) * Fraction(program.scale)
                assert abs(arrays.of_mask(mask) - inner) <= room, seed
                weights = refitted(held.matrix, held.linear, mask)
                assert (np.abs(weights) <= held.limit * (1.0 + 1e-6)).all(), seed
        looked_at += 1
    assert looked_at > 5


def test_the_ellipsoid_allows_for_a_centre_that_is_off_the_minimum(monkeypatch):
    block = block_of("refit")
    values = np.array([block.evaluate(mask) for mask in all_masks(block.p, block.keep)])
    upper = float(np.sort(values)[len(values) // 4])
    program = RefitProgram.of(block, upper)
    delta = certified_split(program, best_split(program, program.inner(upper)).delta)
    exact = np.linalg.solve
    monkeypatch.setattr(np.linalg, "solve", lambda system, right: exact(system, right) + 1.0)
    held = Ellipsoid.of(program, delta, program.inner(upper))
    monkeypatch.undo()
    whole = held.matrix + np.eye(block.p)
    assert np.abs(held.free - np.linalg.solve(whole, held.linear)) == pytest.approx(1.0)
    # across the minimum from the centre a point that costs as much as the incumbent is the farthest
    away = np.linalg.solve(whole, held.linear) - held.free
    least = -0.5 * float(held.linear @ np.linalg.solve(whole, held.linear))
    far = held.free + away * (1.0 + np.sqrt(2.0 * (program.inner(upper) - least) / float(away @ whole @ away)))
    assert 0.5 * float(far @ whole @ far) - float(held.linear @ far) == pytest.approx(program.inner(upper))
    assert 0.5 * float((far - held.free) @ (far - held.free)) <= held.room
    assert (np.abs(far) <= held.limit).all()


def test_a_refit_programs_constant_is_off_by_what_forming_its_hessian_rounds():
    beyond = 0
    for seed in range(200):
        hostile = ill_conditioned(seed, "refit")
        block = hostile.block
        if hostile.factor is None:
            continue
        program = RefitProgram.of(block, block.evaluate(block.incumbent))
        meant = Exact.of(block, hostile.factor).value(np.zeros(block.p))
        off = abs(Fraction(program.constant) - meant) * Fraction(program.scale)
        assert off <= Fraction(_widened_refit(block, program).rounding), seed
        beyond += off > Fraction(1e-3 * program.rounding)
    assert beyond > 20


def test_masks_that_are_taken_out_of_a_model_bound_the_optimum_by_their_own(monkeypatch):
    # equal columns: masks that are alike cost the same, and more than one of them has to be taken out
    rng = np.random.default_rng(0)
    half = rng.normal(size=(8, 5))
    weights = np.tile(rng.normal(size=5), 2)
    block = BlockProblem(QuadraticForm(factor=np.hstack([half, half]), ridge=0.1, centre=weights), weights, 4, "refit")
    plain, others = solve(block, "highs"), []

    def own(block, mask):
        if np.array_equal(mask, plain.mask):
            return mask_bound(block, mask)
        others.append(mask)
        return plain.objective - 0.01

    monkeypatch.setattr(solver, "mask_bound", own)
    answer = solve(block, "highs")
    assert answer.details["formulation"] == "tangents"
    assert np.array_equal(answer.mask, plain.mask)
    assert others
    assert answer.lower_bound <= plain.objective - 0.01 < plain.lower_bound
