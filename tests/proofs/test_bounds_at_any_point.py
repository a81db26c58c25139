"""Bounds hold wherever they are taken: beside the count's plane, away from the optimum, at arrays that were rounded."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from helpers import from_python
from prunebench import BlockProblem, QuadraticForm, solve
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.masks import top_mask
from prunebench.core.proof import ProofWriter, Signs
from prunebench.core.stop import never
from prunebench.kernels.relaxations.certificate import shift_bound
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram
from prunebench.kernels.trees import refit_node, refit_tree, select_node
from prunebench.kernels.trees.dives import Dive, RefitTree, SelectTree
from prunebench.kernels.trees.select_node import FREE, Program, Records, point_at
from prunebench.kernels.trees.select_tree import OpenNode
from prunebench.proofs import check, enumeration
from prunebench.proofs.check import proved_bound
from prunebench.proofs.relaxations import Costs, Curvature, Tangent, expansion
from prunebench.solvers.branch_and_bound.search import Search
from prunebench.testing.exact import Exact
from prunebench.testing.hostile import ill_conditioned

bound_at, gradient_at = from_python(select_node.bound_at), from_python(select_node.gradient_at)
dual_bound, square_end = from_python(refit_node.dual_bound), from_python(refit_node.square_end)
P, KEEP = 4, 2
OFF_PLANE = np.eye(P) - 2.0
"""Positive definite where entries sum to zero, and far from it along the ones."""


def convex_on_the_plane_alone():
    return BlockProblem(QuadraticForm(hessian=OFF_PLANE), np.ones(P), KEEP, "select")


@pytest.mark.parametrize("point", [np.ones(P), np.zeros(P), np.array([1.0, 1.0, 0.5, 0.0])])
def test_a_proofs_tangent_beside_the_plane_lies_below_every_mask(point):
    block = convex_on_the_plane_alone()
    everything: Signs = np.full(P, -1, np.int8)
    tangent = Tangent.of(block, Curvature.of(block), np.zeros(P), 0.0, everything)
    costs = tangent.costs(point[None, :])
    exact = Exact.of(block)
    for mask in exact.masks():
        assert costs.start[0] - costs.doubt[0] + costs.costs[0] @ ~mask <= exact.of_mask(mask)


@pytest.mark.parametrize("point", [np.ones(P), np.zeros(P), np.array([1.0, 1.0, 0.5, 0.0])])
def test_a_certificates_bound_from_a_point_beside_the_plane_is_below_the_optimum(point):
    block = convex_on_the_plane_alone()
    # the gradient of ½ x'Hx − 1'Hx at the point is the same for all weights that are alike
    price = float((OFF_PLANE @ (point - 1.0)).mean())
    assert shift_bound(block, np.zeros(P), point, price) <= Exact.of(block).optimum
    within = shift_bound(block, np.zeros(P), np.full(P, 0.5), float(-0.5 * OFF_PLANE[0].sum()))
    assert within == pytest.approx(float(Exact.of(block).optimum) - 0.5)


def test_a_nodes_point_is_brought_back_onto_the_plane_before_its_bound_is_taken():
    program, fixed = Program(OFF_PLANE, np.zeros(P), KEEP, 0.0), np.full(P, FREE, np.int8)
    optimum = min(0.5 * x @ OFF_PLANE @ x for x in _binaries())
    for x in (np.full(P, 0.6), np.full(P, 0.3), np.array([0.9, 0.9, 0.9, 0.0])):
        point = point_at(x, fixed)
        gradient_at(program.matrix, program.linear, x, point.grad)
        bound = bound_at(program, point, float(point.grad.mean()))
        assert x.sum() == pytest.approx(KEEP, abs=1e-15)
        assert point.grad == pytest.approx(OFF_PLANE @ x)
        assert -np.inf < bound <= optimum
    point = point_at(np.array([1.0, 1.0, 1.0, 0.0]), fixed)
    point.grad[:] = OFF_PLANE @ point.x
    assert bound_at(program, point, 0.0) == -np.inf


def _binaries():
    return [np.isin(np.arange(P), chosen).astype(np.float64) for chosen in combinations(range(P), KEEP)]


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99, 1.5])
def test_an_enumerations_bounds_hold_where_the_systems_are_solved_badly(monkeypatch, part):
    block = ill_conditioned(5, "refit").block
    exact = Exact.of(block)
    masks = np.array(list(exact.masks()))
    solve = np.linalg.solve
    near = enumeration._refit_bounds(block, masks)
    monkeypatch.setattr(np.linalg, "solve", lambda system, right: part * solve(system, right))
    far = enumeration._refit_bounds(block, masks)
    assert (far < near).all()
    for mask, bound, own in zip(masks, far, near, strict=True):
        assert -np.inf < bound <= own <= exact.of_mask(mask)


def test_a_dual_bound_allows_for_what_the_arrays_are_off_by():
    keep, accuracy = 2, 1e-3
    caught = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        half = rng.normal(size=(6, 5)) * 10.0 ** rng.uniform(-2, 0)
        true, slope = half.T @ half, rng.normal(size=5)
        # a node's arrays have lost what was eliminated: their sizes are far above their entries
        sizes = np.stack((np.sqrt(true.diagonal() + 1.0), np.abs(slope) * 10.0 ** rng.uniform(0, 2)))
        computed = slope * (1.0 - accuracy * sizes[1] / np.abs(slope))
        least = min(
            -0.5 * float(slope[kept] @ np.linalg.solve(true[np.ix_(kept, kept)] + np.eye(keep), slope[kept]))
            for kept in map(list, combinations(range(5), keep))
        )
        fixed = np.full(5, FREE, np.int8)
        for y in (np.zeros(5), rng.normal(size=5)):
            rho = computed - true @ y
            level = float(np.sort(rho**2)[-keep])
            program = refit_node.Program(true, computed, sizes, keep, accuracy)
            assert dual_bound(program, fixed, y, rho, level) <= least
            caught += dual_bound(program._replace(accuracy=0.0), fixed, y, rho, level) > least
    # without what rounding takes it would not hold
    assert caught > 5


def test_a_squares_end_is_the_largest_that_errors_within_their_bounds_make_it():
    rng = np.random.default_rng(0)
    matrix, slope, y = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
    sizes, accuracy = rng.uniform(1.0, 3.0, size=(2, 4)), 1e-2
    rho = slope - matrix @ y
    off = accuracy * np.outer(sizes[0], sizes[0]) * np.sign(y)
    moved = np.abs(rho) + accuracy * sizes[1] + off @ y
    for i in range(4):
        assert square_end(sizes, float(sizes[0] @ np.abs(y)), accuracy, rho, i) == pytest.approx(moved[i] ** 2)


class OneDive:
    """A tree whose only dive hands back what it is given."""

    margin, slack = 0.0, 0.0

    def __init__(self, singles, closed=np.inf):
        self.singles, self.closed = singles, closed

    def root(self):
        return OpenNode(np.zeros(P), np.full(P, FREE, np.int8), -1, 0.0, -np.inf, -1)

    def below(self, node, best):
        return None

    def dive(self, node, best, limit, ceiling=np.inf, recorded=False):
        return Dive(best, None, 1, self, [], self.singles, self.closed, Records.of(0, P), -1)


@pytest.mark.parametrize(("single", "settled", "closed", "proved"), [
    (4.0, 5.0, np.inf, 5.0), (6.0, 5.0, np.inf, 6.0), (4.0, 11.0, np.inf, 10.0), (6.0, 5.0, 3.0, 3.0),
])  # fmt: skip
def test_a_search_proves_no_more_than_rounding_left_of_its_single_masks(single, settled, closed, proved):
    mask = top_mask(np.arange(float(P)), KEEP)
    tree = OneDive([(9.0, mask), (single, mask)], closed)
    settle = iter([9.5, settled])
    search = Search(
        tree, 10.0, mask, lambda mask, value: (mask, value), lambda _: next(settle), lambda *_: None, never,
    )  # fmt: skip
    search.run(10)
    assert search.bound == min(proved, 9.5)


def test_single_masks_for_which_a_dive_has_no_room_lower_what_it_proves(monkeypatch):
    left = 0
    for seed in range(60):
        block = ill_conditioned(seed, "refit").block
        if block.settled or block.quota is not None:
            continue
        upper = block.evaluate(block.incumbent)
        program = RefitProgram.of(block, upper)
        tree = RefitTree.of(program, program.inner(upper), never)
        if tree is None:
            continue
        held = tree.dive(tree.root(), program.inner(upper), 1000)
        monkeypatch.setattr(refit_tree, "SINGLES", 0)
        none = tree.dive(tree.root(), program.inner(upper), 1000)
        monkeypatch.undo()
        assert (none.singles, none.nodes, held.closed) == ([], held.nodes, np.inf)
        assert none.closed == min((bound for bound, _ in held.singles), default=np.inf)
        left += len(held.singles)
    assert left > 5


def test_what_a_nodes_own_tree_is_off_by_is_taken_from_its_bounds():
    rng = np.random.default_rng(0)
    form = QuadraticForm(factor=rng.normal(size=(6, 12)), ridge=0.1, centre=rng.normal(size=12))
    block = BlockProblem(form, form.centre, 5, "refit")
    upper = block.evaluate(block.incumbent)
    program = RefitProgram.of(block, upper)
    tree = RefitTree.of(program, program.inner(upper), never)
    doubt = 0.25
    place = replace(tree.place, doubt=doubt)
    within = RefitTree(program, program.inner(upper), tree.split, tree.delta, place)
    sure, unsure = (own.dive(own.root(), program.inner(upper), 1) for own in (tree, within))
    assert len(sure.left) == len(unsure.left) == 2
    for (bound, _), (lower, _) in zip(sure.left, unsure.left, strict=True):
        assert lower == pytest.approx(bound - doubt, abs=1e-9)


@pytest.mark.parametrize(("mode", "keep", "rows"), [("select", 3, 6), ("select", 7, 3), ("refit", 3, 6)])
def test_reduced_costs_are_added_to_their_own_points_bound_and_not_to_a_better_one_from_above(mode, keep, rows):
    p = 10
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = rng.normal(size=p)
        form = QuadraticForm(factor=rng.normal(size=(rows, p)), ridge=1e-2, centre=weights)
        block = BlockProblem(form, weights, keep, mode)
        best = solve(block, "exhaustive")
        program = (SelectProgram if mode == "select" else RefitProgram).of(block, best.objective * 1.01)
        above, optimum = program.inner(best.objective * 1.001), program.inner(best.objective)
        if mode == "select":
            # without a shift the relaxation is far below, and its zeros are not those of the best mask
            tree = SelectTree(program, above, never, np.zeros(p))
        else:
            tree = RefitTree.of(program, above, never)
        # what is known of all masks, and far above what the root's point proves
        dive = tree.dive(tree.root()._replace(bound=optimum - 0.01 * (above - optimum)), above, 1)
        chosen = (~best.mask if mode == "select" else best.mask).astype(np.int8)
        under = [((node.fixed == FREE) | (node.fixed == chosen)).all() for _, node in dive.left]
        assert any(under) or dive.value < optimum + 1e-6, seed


# --- the checker of proofs ---


def written(block, *records):
    """A proof of (parent, value, branch, what is fixed, point) for each record, of a relaxation without a shift."""
    writer = ProofWriter(block.hash, block.mode, block.p)
    row = writer.relaxation(np.zeros(block.p), np.full(block.p, -1, np.int8))
    for parent, value, branch, fixed, point in records:
        writer.add(
            row, np.array([parent]), np.array([value], np.int8), np.array([branch]), fixed[None].astype(np.int8),
            point[None],
        )  # fmt: skip
    return writer.proof()


def select_block():
    rng = np.random.default_rng(0)
    form = QuadraticForm(factor=rng.normal(size=(8, 6)), ridge=0.1, centre=rng.normal(size=6))
    return BlockProblem(form, form.centre, 3, "select")


def test_what_a_record_fixes_without_a_proof_counts_as_open():
    block = select_block()
    exact = Exact.of(block)
    for mask in exact.masks():
        fixed, i, j = mask.astype(np.int8), mask.argmax(), mask.argmin()
        fixed[[i, j]] = FREE
        below = [fixed.copy(), fixed.copy()]
        below[0][i], below[1][i] = 0, 1
        points = [1.0 - mask, 1.0 - mask]
        points[0][[i, j]] = 1.0, 0.0
        leaves = [(0, value, -1, below[value], points[value]) for value in (0, 1)]
        assert proved_bound(block, written(block, (-1, -1, i, fixed, 1.0 - mask), *leaves)).bound <= exact.optimum


def test_a_record_knows_what_those_above_it_prove():
    block = select_block()
    free, good, bad = np.full(6, -1), np.full(6, 0.5), np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    kept, pruned = free.copy(), free.copy()
    kept[0], pruned[0] = 1, 0
    root = proved_bound(block, written(block, (-1, -1, -1, free, good))).bound
    assert proved_bound(block, written(block, (-1, -1, -1, free, bad))).bound < root
    below = written(block, (-1, -1, 0, free, good), (0, 0, -1, pruned, bad), (0, 1, -1, kept, bad))
    assert proved_bound(block, below).bound >= root


def test_sums_of_costs_are_rounded_down():
    block = convex_on_the_plane_alone()
    free = np.full((1, P), -1, np.int8)
    proof = written(block, (-1, -1, -1, free[0], np.full(P, 0.5)))
    rng = np.random.default_rng(0)
    above = 0
    for _ in range(200):
        costs = Costs(rng.normal(size=1), np.zeros(1), rng.normal(size=(1, P)), kept=bool(rng.random() < 0.5))
        bounds = check._Bounds.unknown(1)
        check._close(block, proof, costs, np.zeros(1, np.int64), free, free, bounds)
        least = Fraction(costs.start[0]) + sum(sorted(Fraction(cost) for cost in costs.costs[0].tolist())[:KEEP])
        assert least - Fraction(1e-13) <= Fraction(bounds.own[0]) <= least
        above += Fraction(float(costs.start[0] + np.sort(costs.costs[0])[:KEEP].sum())) > least
    assert above > 10


@pytest.mark.parametrize("given", ["hessian", "factor"])
def test_a_single_masks_bound_holds_away_from_its_refit_and_whatever_rounding_made_of_the_gradient(monkeypatch, given):
    # with half of the ridge the first curvature is positive definite, and not with less
    rng = np.random.default_rng(0)
    curved = {"hessian": np.diag([-0.49, -0.49, 1.0])} if given == "hessian" else {"factor": np.ones((1, 3))}
    block = BlockProblem(QuadraticForm(**curved, ridge=1.0, centre=rng.normal(size=3)), np.ones(3), 2, "refit")
    exact = Exact.of(block)
    masks = np.array(list(exact.masks()))
    monkeypatch.setattr(BlockProblem, "weights_of", _beside_the_refit(BlockProblem.weights_of))
    near = np.full(len(masks), -np.inf)
    check._close_single_masks(block, masks.astype(np.int8), near)
    monkeypatch.setattr(check, "expansion", _gradient_lost)
    lost = np.full(len(masks), -np.inf)
    check._close_single_masks(block, masks.astype(np.int8), lost)
    for mask, bound, blind in zip(masks, near, lost, strict=True):
        assert -np.inf < blind <= bound <= exact.of_mask(mask)
        assert -np.inf < mask_bound(block, mask) <= exact.of_mask(mask)


def _beside_the_refit(refit):
    """Weights that are off in opposite directions, so that two that are alike feel it by their ridge alone."""

    def moved(block, mask):
        weights = refit(block, mask)
        first, last = np.flatnonzero(mask)[[0, -1]]
        weights[first] += 0.3
        weights[last] -= 0.3
        return weights

    return moved


def _gradient_lost(block, point):
    """f and ∇f with the gradient at zero, which is as far off as its error says."""
    value, value_off, gradient, gradient_off = expansion(block, point)
    return value, value_off, np.zeros_like(gradient), np.abs(gradient) + gradient_off
