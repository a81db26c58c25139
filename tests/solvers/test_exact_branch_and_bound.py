"""Branch and bound: agreement with enumeration, honest statuses, and relaxations checked against HiGHS."""

import numpy as np
import pytest

from helpers import from_python
from prunebench import BlockProblem, Budget, QuadraticForm, Status, solve
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.stop import never
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram
from prunebench.suite import catalogue, instances
from prunebench.testing.instances import FAMILIES, instance


def gradient_block(p, n, keep, mode, seed=0, ridge=1e-3):
    """A block whose columns are correlated as sample gradients are: few directions, weights of all sizes."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n, max(2, p // 3))) @ rng.normal(size=(max(2, p // 3), p)) / np.sqrt(n)
    factor += 0.3 * rng.normal(size=(n, p)) * rng.gamma(1.0, size=p) / np.sqrt(n)
    weights = rng.laplace(size=p)
    form = QuadraticForm(factor=factor, ridge=ridge * float((factor**2).sum(0).mean()), centre=weights)
    return BlockProblem(form, weights, keep, mode)


def agree(block):
    exact = solve(block, "branch-and-bound")
    brute = solve(block, "exhaustive")
    spread = abs(brute.objective) + abs(block.random_mean() - brute.objective)
    assert exact.status is Status.OPTIMAL
    assert abs(exact.objective - brute.objective) <= 1e-9 * spread
    assert exact.lower_bound <= brute.objective + 1e-12 * spread


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_it_agrees_with_enumeration_on_every_family(family, mode):
    for seed in range(5):
        for p, keep in ((5, 2), (9, 4), (12, 3), (12, 7)):
            agree(instance(family, seed, mode, p=p, keep=keep))


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_it_agrees_with_enumeration_on_structured_blocks_of_up_to_18_weights(mode):
    for seed in range(10):
        for p, keep in ((14, 7), (16, 3), (18, 9)):
            agree(gradient_block(p, 4 + 3 * seed, keep, mode, seed))


@pytest.mark.parametrize(("mode", "p"), [("select", 64), ("refit", 48)])
def test_it_proves_blocks_far_beyond_enumeration(mode, p):
    block = gradient_block(p, 128, p // 2, mode)
    answer = solve(block, "branch-and-bound")
    assert answer.status is Status.OPTIMAL
    assert answer.objective <= solve(block, "swap").objective * (1 + 1e-12)
    assert block.gap(answer.objective, answer.lower_bound) < 1e-8


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_two_threads_prove_the_same_optimum(mode):
    block = gradient_block(40, 20, 12, mode, seed=3)
    one = solve(block, "branch-and-bound")
    two = solve(block, "branch-and-bound", options={"threads": 2})
    assert two.status is Status.OPTIMAL
    assert two.objective == pytest.approx(one.objective, rel=1e-9)


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_a_run_that_is_stopped_has_a_monotone_trace_and_a_valid_bound(mode):
    block = gradient_block(96, 300, 20, mode, seed=1)
    answer = solve(block, "branch-and-bound", budget=Budget(evaluations=500))
    assert answer.status in (Status.TIME_LIMIT, Status.OPTIMAL)
    assert np.isfinite(answer.lower_bound)
    assert answer.lower_bound <= answer.objective
    assert (np.diff(answer.trace[:, 1]) <= 0).all()
    assert (answer.trace[1:, 2] >= answer.trace[:-1, 2]).all()


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_a_longer_run_never_knows_less(mode):
    """Equal columns in all directions: no run of these finishes, each goes the way of the shorter one further."""
    rng = np.random.default_rng(4)
    factor = rng.normal(size=(100, 110)) / 10.0
    form = QuadraticForm(factor=factor, ridge=1e-3, centre=np.ones(110))
    block = BlockProblem(form, np.ones(110), 55, mode)
    best, proved = np.inf, -np.inf
    for nodes in (20, 60, 180):
        answer = solve(block, "branch-and-bound", budget=Budget(evaluations=nodes))
        assert answer.status is Status.TIME_LIMIT
        trace = answer.trace
        assert (np.diff(trace[:, 0]) >= 0).all()
        assert (np.diff(trace[:, 1]) <= 0).all()
        assert (trace[1:, 2] >= trace[:-1, 2]).all()
        assert trace[-1, 1] == answer.objective <= best
        assert trace[-1, 2] == answer.lower_bound >= proved
        best, proved = answer.objective, answer.lower_bound
    assert -np.inf < proved < best


@pytest.mark.parametrize("seed", range(5))
def test_the_shifts_interior_point_needs_few_iterations(seed):
    """A predictor and a corrector an iteration: about as many as other codes need on semidefinite programs."""
    from prunebench.kernels.relaxations.shift import plane_shift

    block = gradient_block(60, (20, 60, 200)[seed % 3], 20, "select", seed=seed)
    upper = block.evaluate(block.incumbent)
    program = SelectProgram.of(block, upper)
    found = plane_shift(program.quadratic, program.linear, program.count, program.inner(upper), 1e-4)
    assert found.iterations <= 30
    assert found.value < program.inner(upper)


def test_kicks_never_lose_the_start_and_keep_the_count():
    from prunebench.kernels.local_search.iterated import Iterated

    block = gradient_block(30, 15, 11, "select")
    qubo = block.to_qubo()

    def kicked(kicks):
        return Iterated(qubo.couplings, qubo.linear, np.uint64(7)).run(block.incumbent, kicks)

    mask = kicked(50)
    assert int(mask.sum()) == 11
    assert block.evaluate(mask) <= block.evaluate(kicked(0)) <= block.evaluate(block.incumbent)
    assert (kicked(50) == mask).all()


@pytest.mark.parametrize("seed", range(5))
def test_kicks_end_in_a_mask_that_no_swap_improves(seed):
    from prunebench.kernels.local_search.iterated import Iterated
    from prunebench.kernels.local_search.select_kernel import swap_changes

    block = gradient_block(40, (5, 20, 60)[seed % 3], 13, "select", seed)
    qubo = block.to_qubo()
    mask = Iterated(qubo.couplings, qubo.linear, np.uint64(1 + seed)).run(block.incumbent, 200)
    assert swap_changes(qubo.couplings, qubo.linear, mask).min() >= -1e-12 * block.random_mean()


def test_no_time_gives_the_incumbent_and_no_bound():
    answer = solve(gradient_block(30, 10, 10, "select"), "branch-and-bound", budget=Budget(seconds=0.0))
    assert answer.status is Status.TIME_LIMIT
    assert answer.lower_bound == -np.inf


def test_interruption_keeps_the_incumbent_and_the_bound_so_far():
    def press_ctrl_c(_seconds, _objective, bound):
        if np.isfinite(bound):
            raise KeyboardInterrupt

    block = gradient_block(40, 60, 12, "select")
    answer = solve(block, "branch-and-bound", progress=press_ctrl_c)
    assert answer.status is Status.INTERRUPTED
    assert np.isfinite(answer.lower_bound)
    assert int(answer.mask.sum()) == 12


def test_indefinite_curvature_is_still_exact_in_mode_select():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(9, 9))
    matrix = matrix + matrix.T
    matrix[np.diag_indices(9)] = np.abs(matrix.diagonal())
    block = BlockProblem(QuadraticForm(hessian=matrix, centre=np.ones(9)), np.ones(9), 4, "select")
    answer = solve(block, "branch-and-bound")
    masks = [np.isin(np.arange(9), kept) for kept in _subsets(9, 4)]
    assert answer.status is Status.OPTIMAL
    assert answer.objective == pytest.approx(min(block.evaluate(mask) for mask in masks), rel=1e-9)


@pytest.mark.parametrize(("mode", "sizes"), [("select", (64, 20, 30)), ("refit", (48, 30, 20))])
@pytest.mark.parametrize("seed", range(3))
def test_a_search_that_cares_for_the_bound_proves_the_same_and_knows_more_when_stopped(monkeypatch, mode, sizes, seed):
    from prunebench.solvers.branch_and_bound import search

    block = gradient_block(*sizes, mode, seed=seed)
    proved = solve(block, "branch-and-bound")
    monkeypatch.setattr("prunebench.solvers.branch_and_bound.solver.WORK_OF_A_DIVE", 20.0 * sizes[0] ** 2)
    deep = [solve(block, "branch-and-bound", budget=Budget(evaluations=n)).lower_bound for n in (60, 120, 240)]
    monkeypatch.setattr(search, "PROOF_WORK", 0.0)
    monkeypatch.setattr(search, "BOUND_SHARE", 1.0)
    shallow = [solve(block, "branch-and-bound", budget=Budget(evaluations=n)).lower_bound for n in (60, 120, 240)]
    answer = solve(block, "branch-and-bound")
    assert answer.status is proved.status is Status.OPTIMAL
    assert answer.objective == pytest.approx(proved.objective, rel=1e-9)
    assert max(shallow) <= answer.objective
    assert sum(shallow) > sum(deep)


@pytest.mark.parametrize(("mode", "room"), [("select", "SHEETS"), ("refit", "PACKED")])
def test_a_dive_whose_workspace_has_to_grow_finds_the_same(monkeypatch, mode, room):
    from prunebench.kernels.trees import refit_tree, select_tree

    block = gradient_block(40, 20, 15, mode)
    plenty = solve(block, "branch-and-bound")
    tree = select_tree if mode == "select" else refit_tree
    calls = []
    explore = tree.explore
    monkeypatch.setattr(tree, room, 2 if mode == "select" else 0)
    monkeypatch.setattr(tree, "explore", lambda *given: calls.append(explore(*given)) or calls[-1])
    scarce = solve(block, "branch-and-bound")
    assert False in calls
    assert (scarce.details["nodes"], scarce.lower_bound) == (plenty.details["nodes"], plenty.lower_bound)
    assert (scarce.mask == plenty.mask).all()


def test_the_select_root_is_the_optimum_that_highs_finds():
    from prunebench.kernels.trees.dives import SelectTree

    block = gradient_block(40, 25, 16, "select")
    upper = block.evaluate(block.incumbent)
    program = SelectProgram.of(block, upper)
    tree = SelectTree(program, program.inner(upper), never)
    point, _, bound = tree.root_proof()
    found = _quadratic(tree.matrix, tree.linear, np.zeros(40), np.ones(40), np.ones(40), float(program.count))
    assert bound == pytest.approx(0.5 * point @ tree.matrix @ point + tree.linear @ point, rel=1e-6)
    assert bound == pytest.approx(found, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_refit_branching_takes_a_variable_whose_fixing_raises_the_relaxation_both_ways(seed):
    """Against the relaxation's own values with each tied variable fixed: the cheaper way is among the dearest."""
    from prunebench.kernels.trees import branching
    from prunebench.kernels.trees import refit_node as refit
    from prunebench.kernels.trees.dives import RefitTree
    from prunebench.kernels.trees.select_node import FREE

    tied_branching_variable, legal = from_python(branching.tied_branching_variable), from_python(refit.legal)
    build, solve_node = from_python(refit.build), from_python(refit.solve_node)
    block = gradient_block(40, 25, 12, "refit", seed=seed)
    upper = block.evaluate(block.incumbent)
    program = RefitProgram.of(block, upper)
    tree = RefitTree.of(program, program.inner(upper), never)
    p = block.p

    def relaxed(fixed):
        root = tree.root()
        root.pattern[fixed == 0], root.pattern[fixed == 1] = refit.OUT, refit.IN
        legal(tree.keep, fixed, root.pattern, tree.split.point.rho)
        node = refit.node_of(root.pattern, root.sign, fixed)
        size = build(tree.matrix, node.system)
        size, bound, level, _, _ = solve_node(tree.split_off(), node, size, -np.inf, np.inf, 500)
        return bound, node, size, np.sqrt(level)

    free = np.full(p, FREE, np.int8)
    root, node, size, tau = relaxed(free)
    ties = np.flatnonzero(node.system.pattern == refit.TIED)
    assert ties.size > 3
    chosen = tied_branching_variable(tree.split_off(), node, size, tau)
    rises = {}
    for i in ties:
        ways = []
        for value in (0, 1):
            fixed = free.copy()
            fixed[i] = value
            # where the pattern iterations do not settle, the bound of any of them holds
            ways.append(max(relaxed(fixed)[0] - root, 0.0))
        rises[i] = min(ways) + 0.2 * max(ways)
    assert rises[chosen] >= np.quantile(list(rises.values()), 0.7)
    node.fixed[ties] = 1
    assert tied_branching_variable(tree.split_off(), node, size, tau) == -1


def test_the_refit_root_is_the_optimum_that_highs_finds():
    """The perspective optimum is bounded by that of the box relaxation from below and by any mask from above."""
    from prunebench.kernels.trees.dives import RefitTree

    block = gradient_block(30, 45, 10, "refit")
    upper = block.evaluate(block.incumbent)
    program = RefitProgram.of(block, upper)
    tree = RefitTree.of(program, program.inner(upper), never)
    assert tree is not None
    _, bound = tree.root_proof()
    free = _quadratic(program.hessian, -program.slope, np.full(30, -np.inf), np.full(30, np.inf), None, 0.0)
    assert free - 1e-6 * abs(free) <= bound <= program.inner(upper)


@pytest.mark.parametrize("kept", [[], [3], [3, 7, 1, 9]])
def test_eliminated_weights_follow_the_free_ones(kept):
    block = gradient_block(16, 25, 7, "refit", seed=2)
    program = RefitProgram.of(block, block.evaluate(block.incumbent))
    free = np.array([0, 2, 4, 5, 8, 11, 13])
    part, higher, doubt = program.below(np.array(kept, dtype=np.int64), free)
    assert part.keep == 7 - len(kept)
    assert 0.0 <= doubt < 1e-8

    def least(of, chosen):
        return -0.5 * float(of.slope[chosen] @ np.linalg.solve(of.hessian[np.ix_(chosen, chosen)], of.slope[chosen]))

    for chosen in _subsets(free.size, 3):
        whole = least(program, np.concatenate((free[list(chosen)], kept)).astype(np.int64))
        assert least(part, np.array(chosen)) - higher == pytest.approx(whole, rel=1e-12, abs=doubt)


def test_weights_are_not_eliminated_where_rounding_decides():
    rng = np.random.default_rng(0)
    column = rng.normal(size=(40, 1))
    form = QuadraticForm(
        factor=np.hstack((column, column + 1e-7 * rng.normal(size=(40, 1)), rng.normal(size=(40, 6)))), ridge=1e-14
    )
    block = BlockProblem(form, rng.normal(size=8), 4, "refit")
    program = RefitProgram.of(block, block.evaluate(block.incumbent))
    assert program.below(np.array([0, 1]), np.arange(2, 8)) is None
    assert program.below(np.array([0]), np.arange(2, 8)) is not None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("equal", [False, True])
def test_nodes_with_trees_of_their_own_prove_the_optimum(monkeypatch, seed, equal):
    """Every node that may has one: bounds hold, masks come back in the whole block's numbering."""
    from prunebench.kernels.trees import dives
    from prunebench.kernels.trees.dives import RefitTree
    from prunebench.solvers.branch_and_bound import search
    from prunebench.solvers.branch_and_bound.search import Search

    monkeypatch.setattr(dives, "FIXED", 0.0)
    monkeypatch.setattr(dives, "LEAST_FIXED", 1)
    monkeypatch.setattr(dives, "OPEN", 0.0)
    monkeypatch.setattr(search, "SPLIT_COST", 0)
    block = gradient_block(18, 9, 6, "refit", seed=seed, ridge=1e-3)
    if equal:
        factor = np.asarray(block.form.factor)[:, np.arange(18) // 2]
        form = QuadraticForm(factor=factor, ridge=block.form.ridge[0], centre=block.dense_weights[np.arange(18) // 2])
        block = BlockProblem(form, form.centre, 6, "refit")
    best = solve(block, "exhaustive").objective
    worst = np.zeros(18, bool)
    worst[:6] = True
    program = RefitProgram.of(block, block.evaluate(worst))
    upper = program.inner(block.evaluate(worst))
    tree = RefitTree.of(program, upper, never)
    bounds = []

    def watch(bound, nodes):
        bounds.append(bound)

    def improved(mask, value):
        assert program.inner(block.evaluate(mask)) == pytest.approx(value, rel=1e-7)
        return mask, value

    def settle(mask):
        return program.inner(mask_bound(block, mask))

    search = Search(tree, upper, worst, improved, settle, watch, never)
    search.run(20)
    assert search.splits > 0
    assert block.evaluate(search.mask) == pytest.approx(best, rel=1e-9)
    assert max(bounds) <= program.inner(best) + 1e-9 * abs(program.inner(best))
    assert search.bound >= search.value - tree.margin - 2.0 * tree.slack


def _quadratic(matrix, linear, lower, upper, row, level):
    """min ½x'Mx + g'x over a box and one equality, by HiGHS."""
    import highspy

    size = linear.size
    model = highspy.HighsModel()
    model.lp_.num_col_, model.lp_.num_row_ = size, 0 if row is None else 1
    model.lp_.col_cost_, model.lp_.col_lower_, model.lp_.col_upper_ = linear, lower, upper
    model.lp_.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    if row is not None:
        model.lp_.row_lower_ = model.lp_.row_upper_ = np.array([level])
        model.lp_.a_matrix_.start_ = np.array([0, size])
        model.lp_.a_matrix_.index_, model.lp_.a_matrix_.value_ = np.arange(size), row
    columns = [np.arange(j, size) for j in range(size)]
    model.hessian_.dim_ = size
    model.hessian_.format_ = highspy.HessianFormat.kTriangular
    model.hessian_.start_ = np.cumsum([0, *(c.size for c in columns)])
    model.hessian_.index_ = np.concatenate(columns)
    model.hessian_.value_ = np.concatenate([matrix[c, j] for j, c in enumerate(columns)])
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.passModel(model)
    highs.run()
    assert highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return highs.getInfo().objective_function_value


def _subsets(size, count):
    from itertools import combinations

    return combinations(range(size), count)


def test_beams_over_the_roots_shift_find_what_the_first_dives_do_not(monkeypatch):
    item = catalogue.catalogue().get("select-drawn-uniform-128-64")
    block, few = instances.load(item), Budget(evaluations=6000)
    found = solve(block, "branch-and-bound", budget=few)
    assert found.objective == pytest.approx(item.best, rel=1e-9)
    assert found.details["best_from"] == "beam"
    assert found.lower_bound < found.objective
    monkeypatch.setattr("prunebench.solvers.branch_and_bound.solver.Beams.following", lambda *_: None)
    assert solve(block, "branch-and-bound", budget=few).objective > found.objective * (1.0 + 1e-6)
