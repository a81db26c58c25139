"""The feasible-subspace simulator, its angles and optimizers, and solver qaoa-subspace."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from helpers import gaussian_block
from prunebench import BlockProblem, Budget, QuadraticForm, make_solver, solve
from prunebench.core.errors import InvalidInput, SolverRefused
from prunebench.core.stop import never
from prunebench.forms.circuits import mixer_pairs
from prunebench.kernels.enumeration import subspace
from prunebench.kernels.enumeration.values import mask_values
from prunebench.solvers.qaoa import starts
from prunebench.solvers.qaoa.objectives import OBJECTIVES, STEEPNESS, fitting_steepness, objective, of_samples
from prunebench.solvers.qaoa.optimizers import minimise
from prunebench.solvers.qaoa.reduce import Part, eliminate
from prunebench.solvers.qaoa.samples import state_statistics, uniform_masks
from prunebench.solvers.qaoa.simulator import Simulator, gaussian_ranks, spread
from prunebench.solvers.qaoa.subspace import _steps as default_steps
from prunebench.testing import instances

MIXERS = ("complete", "ring", "grover")


def random_block(p=8, keep=4, seed=0, mode="select", n=20):
    return gaussian_block(p, keep, seed, mode, n=n, ridge=0.1, linear=True)


def simulator(p, keep, mixer, seed=0):
    space = subspace.feasible_space(p, keep, mixer_pairs(p, mixer))
    energies = np.random.default_rng(seed).normal(size=space.size)
    return Simulator(space, energies, mixer == "grover")


@pytest.mark.parametrize(("p", "keep"), [(1, 0), (1, 1), (5, 0), (5, 5), (6, 3), (9, 2)])
def test_the_feasible_states_are_all_masks_with_keep_ones_in_rising_order(p, keep):
    states = subspace.feasible_space(p, keep, mixer_pairs(p, "complete")).states
    expected = sorted(sum(1 << i for i in chosen) for chosen in itertools.combinations(range(p), keep))
    assert states.tolist() == expected


@pytest.mark.parametrize("mixer", ["complete", "ring"])
@pytest.mark.parametrize(("p", "keep"), [(2, 1), (7, 3), (9, 8), (12, 2)])
def test_the_runs_of_pairs_exchange_the_bits_of_each_pair_in_order(mixer, p, keep):
    pairs = mixer_pairs(p, mixer)
    space = subspace.feasible_space(p, keep, pairs)
    met = []
    for one, two, begin, end in space.pairs.runs:
        first = space.states[one + space.pairs.first[begin:end]]
        second = space.states[two + space.pairs.second[begin:end]]
        met += [(given, taken) for given, taken in zip(first & ~second, second & ~first, strict=True)]
    each = math.comb(p - 2, keep - 1)
    assert met == [(1 << one, 1 << two) for one, two in pairs for _ in range(each)]


@pytest.mark.parametrize(("p", "keep"), [(10, 5), (16, 8), (40, 2), (16, 2), (12, 11)])
def test_the_memory_of_a_simulation_is_not_underestimated(p, keep):
    pairs = mixer_pairs(p, "complete")
    space = subspace.feasible_space(p, keep, pairs)
    tables = sum(table.nbytes for table in space.pairs)
    assert tables <= subspace.memory_needed(p, keep, len(pairs)) - subspace.memory_needed(p, keep, 0)


@pytest.mark.parametrize("p", [1, 2, 3, 6, 7, 12])
def test_the_complete_mixer_holds_every_pair_once(p):
    pairs = mixer_pairs(p, "complete")
    assert sorted(map(tuple, pairs.tolist())) == list(itertools.combinations(range(p), 2))


@pytest.mark.parametrize("p", [4, 6, 12])
def test_the_complete_mixer_comes_in_rounds_of_disjoint_pairs(p):
    rounds = mixer_pairs(p, "complete").reshape(p - 1, p)
    assert all(sorted(met) == list(range(p)) for met in rounds.tolist())


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("reps", [1, 3])
def test_the_adjoint_gradient_equals_central_differences(mixer, reps):
    sim = simulator(7, 3, mixer)
    angles = np.random.default_rng(1).normal(size=2 * reps)
    value, gradient = sim.gradient(angles)
    step = 1e-5 * np.eye(2 * reps)
    differences = [(sim.expectation(angles + e) - sim.expectation(angles - e)) / 2e-5 for e in step]
    assert value == pytest.approx(sim.expectation(angles), abs=1e-13)
    assert gradient == pytest.approx(np.array(differences), abs=1e-8)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_of_every_objective_equals_central_differences(mixer, weighted, name):
    sim = replace(simulator(7, 3, mixer), weighted=weighted)
    aim = objective(name, sim.energies)
    angles = np.random.default_rng(2).normal(size=2 * (2 + 7 * weighted))
    value, gradient = sim.gradient(angles, aim)
    step = 1e-5 * np.eye(angles.size)
    differences = [(sim.expectation(angles + e, aim) - sim.expectation(angles - e, aim)) / 2e-5 for e in step]
    assert value == pytest.approx(sim.expectation(angles, aim), abs=1e-13)
    assert gradient == pytest.approx(np.array(differences), abs=1e-7)


@pytest.mark.parametrize("p", [7, 8, 17])
def test_the_weights_own_angles_are_added_to_the_phase_of_the_masks_that_keep_them(p):
    sim = simulator(p, 3, "ring")
    shifts = np.random.default_rng(p).normal(size=p)
    shifted = Simulator(sim.space, 0.7 * sim.energies + sim.space.masks() @ shifts)
    own = replace(sim, weighted=True).state(np.concatenate([[0.7, -0.4], shifts]))
    assert np.abs(own - shifted.state(np.array([1.0, -0.4]))).max() < 1e-14


def test_weights_angles_of_zero_change_nothing():
    sim, angles = simulator(8, 4, "complete"), np.linspace(-1.0, 1.0, 6)
    own = replace(sim, weighted=True).state(starts.with_weights(angles, 8))
    assert np.abs(own - sim.state(angles)).max() < 1e-14


def test_the_objectives_of_known_samples():
    energies = np.array([-2.0, -1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    assert of_samples("mean", energies) == pytest.approx(0.0)
    assert of_samples("cvar", energies) == pytest.approx(-1.5)
    assert of_samples("gibbs", energies) == pytest.approx(-np.log(np.mean(np.exp(-2.0 * energies))))


def test_the_best_quarter_counts_a_sample_on_its_edge_in_part():
    assert of_samples("cvar", np.array([3.0, 0.0, 9.0, 9.0, 9.0, 9.0])) == pytest.approx((0.0 / 6 + 3.0 / 12) / 0.25)


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_state_keeps_its_norm(mixer):
    state = simulator(10, 5, mixer).state(np.linspace(-2.0, 3.0, 10))
    assert np.vdot(state, state).real == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("mixer", MIXERS)
def test_angles_of_zero_leave_the_uniform_superposition(mixer):
    sim = simulator(8, 3, mixer)
    assert sim.probabilities(np.zeros(6)) == pytest.approx(np.full(56, 1 / 56), abs=1e-15)


def test_the_uniform_state_is_an_eigenvector_of_the_grover_mixer():
    sim = simulator(8, 4, "grover")
    assert sim.probabilities(np.array([0.0, 1.3])) == pytest.approx(np.full(70, 1 / 70), abs=1e-14)


def test_the_grover_mixer_gives_equal_energies_equal_amplitudes():
    sim = simulator(8, 4, "grover")
    tied = Simulator(sim.space, np.round(sim.energies), grover=True)
    state = tied.state(np.array([0.7, 1.1, -2.0, -1.0]))
    for level in np.unique(tied.energies):
        assert np.ptp(np.abs(state[tied.energies == level])) < 1e-14


@pytest.mark.parametrize("mode", ["select", "refit"])
@pytest.mark.parametrize("n", [4, 20])
@pytest.mark.parametrize("keep", [0, 1, 4, 8])
def test_the_diagonal_equals_the_blocks_own_objective(mode, n, keep):
    block = random_block(keep=keep, mode=mode, n=n)
    masks = subspace.feasible_space(8, keep, mixer_pairs(8, "none")).masks()
    own = np.array([block.evaluate(mask) for mask in masks]) - block.form.constant
    assert mask_values(block, masks) == pytest.approx(own, rel=1e-9, abs=1e-10)


def test_equal_values_have_spread_one_so_that_nothing_is_divided_by_zero():
    assert spread(np.full(10, 1e12)) == (1e12, 1.0)


def test_gaussian_ranks_keep_order_and_ties_whatever_the_units():
    values = np.array([3.0, -1.0, 3.0, 0.0, 100.0])
    ranks = gaussian_ranks(values)
    assert ranks[0] == ranks[2]
    assert np.argsort(ranks[[1, 3, 0, 4]]).tolist() == [0, 1, 2, 3]
    assert ranks.std() == pytest.approx(1.0)
    assert np.array_equal(ranks, gaussian_ranks(1e-9 * values))


def test_gaussian_ranks_of_equal_values_are_zero():
    assert not gaussian_ranks(np.full(5, 7.0)).any()


def test_rank_energies_depend_on_the_order_of_the_masks_alone():
    values = np.random.default_rng(0).normal(size=252)
    assert gaussian_ranks(np.exp(values)) == pytest.approx(gaussian_ranks(values), abs=1e-12)


def test_rank_energies_leave_the_reported_numbers_in_the_objectives_own_units():
    block = random_block(10, 5, seed=2)
    plain, ranked = (solve(block, "qaoa-subspace", options={"energies": kind}).details for kind in ("value", "rank"))
    assert ranked["uniform_mean"] == plain["uniform_mean"]
    assert ranked["approximation_ratio_uniform"] == plain["approximation_ratio_uniform"]
    assert ranked["raw_objective"] <= ranked["expectation"] < ranked["expectation_at_start"]
    assert ranked["approximation_ratio"] > 0.9


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("reps", [1, 4, 8, 11])
def test_transferred_angles_beat_uniform_sampling_without_any_loop(mixer, reps):
    block = random_block(10, 5, seed=3)
    space = subspace.feasible_space(10, 5, mixer_pairs(10, mixer))
    values = mask_values(block, space.masks())
    mean, deviation = spread(values)
    sim = Simulator(space, (values - mean) / deviation, mixer == "grover")
    assert sim.expectation(starts.transferred(10, mixer, reps)) < -0.4


def test_interpolation_keeps_the_ends_of_a_linear_schedule():
    deeper = starts.deeper(np.array([1.0, 2.0, -2.0, -1.0]))
    assert deeper == pytest.approx([1.0, 1.5, 2.0, -2.0, -1.5, -1.0])


@pytest.mark.parametrize("method", ["lbfgs", "cobyla", "spsa"])
def test_every_optimizer_improves_a_convex_bowl(method):
    centre = np.array([1.0, -0.5, 0.3, 0.2])

    def bowl(angles):
        return float(np.sum((angles - centre) ** 2)), 2.0 * (angles - centre)

    found = minimise(
        bowl, np.zeros(4), method=method, steps=100, units=np.ones(4),
        rng=np.random.default_rng(0), stop=never,
    )  # fmt: skip
    assert found.value < 0.05


@pytest.mark.parametrize("method", ["lbfgs", "cobyla", "spsa"])
def test_every_optimizer_stops_at_the_evaluation_it_is_told_to(method):
    found = minimise(
        lambda angles: (float(np.sum(angles**4)), 4.0 * angles**3), np.ones(4),
        method=method, steps=100, units=np.ones(4), rng=np.random.default_rng(0),
        stop=lambda done: "enough" if done >= 3 else "",
    )  # fmt: skip
    assert (found.evaluations, found.stopped) == (3, "enough")


def test_uniform_sampling_has_enhancement_one():
    energies = np.random.default_rng(0).normal(size=70)
    found = state_statistics(energies, np.full(70, 1 / 70))
    assert found["enhancement"] == pytest.approx(1.0)
    assert found["approximation_ratio"] == pytest.approx(found["approximation_ratio_uniform"])


def test_uniform_masks_keep_exactly_keep():
    assert (uniform_masks(9, 4, 50, np.random.default_rng(0)).sum(axis=1) == 4).all()


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_the_solver_finds_the_optimum_of_a_small_block(mode):
    block = random_block(10, 5, seed=2, mode=mode)
    masks = subspace.feasible_space(10, 5, mixer_pairs(10, "none")).masks()
    best = min(block.evaluate(mask) for mask in masks)
    assert solve(block, "qaoa-subspace").objective == pytest.approx(best, rel=1e-12)


def test_optimized_angles_enhance_the_optimum_over_uniform_sampling():
    details = solve(random_block(10, 5, seed=2), "qaoa-subspace").details
    assert details["enhancement"] > 5.0
    assert details["approximation_ratio"] > 0.9 > details["approximation_ratio_uniform"]


def test_angles_for_the_weights_raise_ratio_and_chance_over_plain_layers():
    block = random_block(12, 6, seed=2)
    own, plain = (solve(block, "qaoa-subspace", options={"angles": name}).details for name in ("weight", "layer"))
    assert own["approximation_ratio"] > max(plain["approximation_ratio"], 0.95)
    assert own["probability_optimum"] > max(plain["probability_optimum"], 0.1)
    assert np.shape(own["weight_angles"]) == (5, 12)
    assert plain["weight_angles"] == []
    assert own["expectation_at_start"] == pytest.approx(plain["expectation_at_start"], rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"optimizer": "spsa"}, {"start": "interpolate"}, {"steps": 0}])
def test_the_expectations_are_those_of_the_first_and_last_angles(options):
    block = random_block(10, 5, seed=2)
    details = solve(block, "qaoa-subspace", options=options).details
    space = subspace.feasible_space(10, 5, mixer_pairs(10, "complete"))
    values = mask_values(block, space.masks())
    mean, deviation = spread(values)
    weighted = details["angles"] == "weight"
    circuit = Simulator(space, (values - mean) / deviation, weighted=weighted)
    last = np.concatenate([details["gammas"], details["betas"], np.ravel(details["weight_angles"])])
    constant = block.form.constant
    assert details["expectation"] == pytest.approx(constant + circuit.probabilities(last) @ values, rel=1e-9)
    if options.get("start") != "interpolate":
        first = replace(circuit, weighted=False).probabilities(starts.ramp(10, "complete", 5))
        assert details["expectation_at_start"] == pytest.approx(constant + first @ values, rel=1e-9)


@pytest.mark.parametrize(("optimizer", "angles"), [("lbfgs", "weight"), ("spsa", "layer"), ("fixed", "layer")])
def test_only_exact_gradients_fit_angles_for_the_weights_unless_told(optimizer, angles):
    details = solve(random_block(), "qaoa-subspace", options={"optimizer": optimizer, "steps": 2}).details
    assert details["angles"] == angles


def test_fixed_angles_ask_for_no_value():
    solution = solve(random_block(), "qaoa-subspace", options={"optimizer": "fixed"})
    assert solution.details["evaluations"] == 0
    assert solution.details["expectation"] == solution.details["expectation_at_start"]


def test_expectation_most_probable_and_best_sampled_are_reported_apart():
    details = solve(random_block(10, 5, seed=2), "qaoa-subspace").details
    assert details["raw_objective"] <= details["most_probable_objective"]
    assert details["raw_objective"] <= details["expectation"] < details["uniform_mean"]
    assert 1 <= details["samples_to_best"] <= 1000


def test_alternatives_are_distinct_feasible_and_exclude_the_answer():
    block = random_block(10, 5, seed=2)
    solution = solve(block, "qaoa-subspace")
    others = solution.alternatives
    assert len(np.unique(others, axis=0)) == len(others) > 3
    assert (others.sum(axis=1) == 5).all()
    assert not (others == solution.mask).all(axis=1).any()


def test_the_raw_sample_stays_in_the_details_when_polished():
    details = solve(random_block(12, 6), "qaoa-subspace", options={"polish": True, "shots": 1}).details
    assert details["polished_objective"] <= details["raw_objective"]


def test_the_classical_loop_stops_at_the_evaluation_budget():
    solution = solve(random_block(), "qaoa-subspace", budget=Budget(evaluations=4))
    assert solution.details["evaluations"] == 4
    assert "evaluation limit" in solution.stop_reason


def test_a_block_too_large_is_refused_with_the_block_size_to_set():
    with pytest.raises(SolverRefused, match=r"use --block-size \d+, or the option qubits=12"):
        solve(random_block(40, 20), "qaoa-subspace")


@pytest.mark.parametrize("option", [{"reps": 0}, {"mixer": "x"}, {"optimizer": "adam"}, {"shots": 0}, {"qubits": 1},
                                    {"angles": "all"}, {"objective": "best"}])  # fmt: skip
def test_an_option_out_of_range_is_refused_with_what_to_choose(option):
    with pytest.raises(InvalidInput, match=r"choose|expected"):
        solve(random_block(), make_solver("qaoa-subspace", option))


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_sub_blocks_improve_a_block_of_64_weights(mode):
    block = random_block(64, 32, n=80, mode=mode)
    solution = solve(block, "qaoa-subspace", options={"qubits": 10, "parts": 12})
    assert solution.objective < block.evaluate(block.incumbent)
    assert solution.details["parts_improved"] >= 1


@pytest.mark.parametrize("mode", ["select", "refit"])
def test_recursion_ends_within_the_best_tenth_of_all_masks(mode):
    block = random_block(10, 5, seed=4, mode=mode)
    values = mask_values(block, subspace.feasible_space(10, 5, mixer_pairs(10, "none")).masks())
    solution = solve(block, "qaoa-subspace", options={"recursion": 6})
    assert len(solution.details["frozen"]) == 4
    assert solution.objective - block.form.constant <= np.quantile(values, 0.1)


def test_elimination_freezes_what_the_count_already_decides():
    part, steps = eliminate(random_block(5, 5), 2, lambda part: None)
    assert part.keep == 2
    assert [kept for _, kept, _ in steps] == [True, True, True]


def test_a_restricted_part_has_the_blocks_objective():
    block = random_block(8, 4)
    part = Part.whole(block).freeze(2, True).freeze(4, False)
    inner = part.restricted(np.where(part.base, block.dense_weights, 0.0))
    mask = np.array([True, True, False, True, False, False])
    assert inner.evaluate(mask) == pytest.approx(block.evaluate(part.expand(mask[None])[0]), rel=1e-12)


@pytest.mark.parametrize("options", [{"start": "transfer", "optimizer": "fixed"}, {"start": "interpolate", "reps": 3},
                                     {"optimizer": "cobyla"}, {"optimizer": "spsa"}, {"mixer": "grover"}])  # fmt: skip
def test_every_start_optimizer_and_mixer_beats_uniform_sampling(options):
    details = solve(random_block(10, 5, seed=2), "qaoa-subspace", options=options).details
    assert details["approximation_ratio"] > details["approximation_ratio_uniform"] + 0.1


@pytest.mark.parametrize("family", sorted(instances.FAMILIES))
def test_the_optimum_is_a_hundred_times_as_likely_as_by_chance(family):
    """Or has nearly all of the probability: small spaces leave no more."""
    columns, weights = instances.FAMILIES[family](np.random.default_rng(1), 20, 12)
    form = QuadraticForm(factor=columns, ridge=0.05, centre=weights)
    found = solve(BlockProblem(form, weights, 6, "select"), "qaoa-subspace").details
    assert found["enhancement"] > 100.0 or found["probability_optimum"] > 0.45


@pytest.mark.parametrize("best", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_fitting_steepness_weighs_the_best_states_as_much_as_all_others(best, scale):
    others = scale * np.random.default_rng(0).uniform(0.5, 3.0, size=5000)
    weights = np.exp(-fitting_steepness(np.append(np.zeros(best), others)) * others)
    assert weights.sum() / best == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("energies", [np.zeros(1), np.zeros(50), np.array([0.0, 5.0])])
def test_the_steepness_stays_what_it_is_where_the_best_states_already_weigh_most(energies):
    assert fitting_steepness(energies) == STEEPNESS


def test_a_mask_that_is_nearly_the_best_does_not_hold_the_loop():
    """Of states with one energy but for a hair, a fixed steepness sees all alike."""
    sim = replace(simulator(10, 5, "complete", seed=3), weighted=True)
    energies = sim.energies.copy()
    energies[np.argsort(energies)[:20]] = energies.min() - 1e-3 * np.arange(20)
    sim = replace(sim, energies=energies)
    best = int(np.argmin(energies))

    def chance(steepness):
        aim = objective("gibbs", energies, steepness)
        found = minimise(
            lambda angles: sim.gradient(angles, aim),
            starts.with_weights(starts.ramp(10, "complete", 5), 10), method="lbfgs", steps=20,
            units=starts.weighted_units(10, "complete", 5), rng=np.random.default_rng(0), stop=never,
        )  # fmt: skip
        return sim.probabilities(found.angles)[best]

    assert chance(fitting_steepness(energies)) > 0.5 > chance(STEEPNESS)


def test_blocks_with_many_masks_get_fewer_steps_by_default():
    assert [default_steps(masks) for masks in (10, 15_000, 30_000, 184_756, 10**7)] == [20, 20, 10, 3, 3]


def test_blocks_with_more_masks_than_a_float_holds_are_refused_with_their_size():
    form = QuadraticForm(factor=np.ones((2, 4096)), ridge=1.0, centre=np.ones(4096))
    said = make_solver("qaoa-subspace").refuses(BlockProblem(form, np.ones(4096), 2048, "select"))
    assert "4096 weights with 2048 kept have 10^1231 feasible masks" in said
    assert "GB where 4 are allowed" in said
