"""What the report's figures draw, from made-up tables and runs whose numbers are known."""

import json
import math

import numpy as np
import pytest

from prunebench.comparison.table import finished
from prunebench.core.errors import InvalidInput
from prunebench.report import anytime, exports, masks, model, run_verdict, runs, sizes, style, tables, verdict
from prunebench.report.chart import plot_json
from prunebench.report.contents import draw
from prunebench.report.figure import Series, log_axis, thinned
from prunebench.report.gather import Comparison, Material, Run, Source, gather, of_frame
from prunebench.report.glossary import GLOSSARY
from prunebench.report.style import COLOURS, FAMILIAR, Looks
from prunebench.report.swatch import swatch


def row(solver, block="a", seed=0, *, objective=1.0, bound=None, trace=((0.01, 1.0),), skipped="", **more):
    """One answer; the random mean is 1, so that gaps to a best of 0 are the objectives themselves."""
    held = {
        "problem": "digits-mlp", "select": "row", "density": 0.5, "p": 16, "n": 4, "keep": 8, "mode": "select",
        "block_seed": 0, "block_index": 0, "block_hash": block, "random_mean": 1.0, "worst_objective": None,
        "start_objective": 0.5, "solver": solver, "solver_name": solver.split(" ")[0], "options": "{}",
        "stochastic": solver in ("anneal", "neal"), "seed": seed, "time_limit": 1.0, "version": "v",
        "skipped": skipped, "cached": False,
    }  # fmt: skip
    if skipped:
        return held | more
    return {
        **held, "status": "feasible", "stop_reason": "done", "objective": objective, "lower_bound": bound,
        "seconds": trace[-1][0], "cpu_seconds": 0.0, "feasible_before_repair": None, "model_change": objective - 0.5,
        "true_change": 2 * (objective - 0.5), "mask": "00", "trace_seconds": [t for t, _ in trace],
        "trace_objective": [f for _, f in trace], "trace_bound": [None for _ in trace],
        **more,
    }  # fmt: skip


def source(request, path="somewhere", done=True):
    from pathlib import Path

    return Source(Path(path), request, 0, {"prunebench": "0"}, {"cores": 2}, done)


def comparison(rows, target=1e-3):
    return Comparison(source({"kind": "compare", "target": target}), finished(rows, 1.0, target))


def icbs(events, *, solver="swap", density=0.1, done=True, result=None, layers=None, seed=0, **coordinator_options):
    request = {
        "problem": "digits-mlp", "density": density, "solver": solver, "solver_options": {}, "coordinator": "icbs",
        "coordinator_options": coordinator_options, "seed": seed,
    }  # fmt: skip
    return Run(source(request, f"{solver}-{density}-{seed}", done), tuple(events), result, layers or {})


def step(number, predicted, true, *, accepted=True, fit=None, loss=1.0, **more):
    return {
        "time": 0.1 * number, "step": number, "accepted": accepted, "predicted_change": predicted,
        "true_change": true, "fit_change": true if fit is None else fit, "acceptance_loss": loss, "kept": 10,
        "predicted_each": [predicted], **more,
    }  # fmt: skip


def only(drawn):
    assert drawn.absent is None
    assert len(drawn.figures) == 1
    return drawn.figures[0]


def named(figure):
    return {series.name: series for series in figure.series}


def test_the_anytime_curve_is_the_mean_gap_and_one_before_the_first_incumbent():
    rows = [
        row("anneal", seed=0, objective=0.0, trace=((0.01, 0.5), (0.1, 0.0))),
        row("anneal", seed=1, objective=0.2, trace=((0.02, 0.2),)),
    ]
    curve = named(only(anytime.quality_against_time((comparison(rows),))))["anneal"]
    for moment, gap in ((0.005, 1.0), (0.015, 0.75), (0.05, 0.35)):
        assert curve.y[np.searchsorted(curve.x, moment, side="right") - 1] == pytest.approx(gap)
    assert curve.y[-1] == pytest.approx(0.1)
    assert np.isnan(curve.upper).all()


def test_the_band_is_drawn_from_three_blocks_on_and_stays_within_what_was_measured():
    gaps = dict(zip("abc", (0.0, 0.3, 0.6), strict=True))
    rows = [row("anneal", block, objective=gap, trace=((0.01, gap),)) for block, gap in gaps.items()]
    rows += [row("swap", block, objective=0.0, trace=((0.01, 0.0),)) for block in gaps]
    curve = named(only(anytime.quality_against_time((comparison(rows),))))["anneal"]
    # of 27 draws of three blocks one has 0 three times and one 0.6 three times: each more often than 2.5 %
    assert (curve.lower[-1], curve.y[-1], curve.upper[-1]) == pytest.approx((anytime.GAP_FLOOR, 0.3, 0.6))


def test_a_gap_of_zero_is_drawn_at_the_stated_floor():
    figure = only(anytime.quality_against_time((comparison([row("swap", objective=0.0, trace=((0.1, 0.0),))]),)))
    assert figure.series[0].y[-1] == anytime.GAP_FLOOR
    assert "10⁻⁶" in figure.caption
    assert figure.y.ticks[0] == (anytime.GAP_FLOOR, "≤ 10⁻⁶")


def test_sizes_and_densities_have_anytime_figures_of_their_own():
    rows = [row("swap", block="a"), row("swap", block="b", p=32), row("swap", block="c", density=0.25)]
    figures = anytime.quality_against_time((comparison(rows),)).figures
    assert [figure.subtitle for figure in figures] == [
        "digits-mlp, row blocks, 16 weights, density 0.25, mode select",
        "digits-mlp, row blocks, 16 weights, density 0.5, mode select",
        "digits-mlp, row blocks, 32 weights, density 0.5, mode select",
    ]
    assert len({figure.id for figure in figures}) == 3


def test_runs_that_the_time_limit_ended_are_marked():
    figure = only(anytime.quality_against_time((comparison([row("anneal", status="time_limit"), row("swap")]),)))
    assert set(named(figure)) == {"anneal†", "swap"}
    assert "† 1 of 2" in figure.note


def test_gaps_to_the_best_known_are_marked_with_an_asterisk_and_those_to_a_bound_are_not():
    figure = only(sizes.gap_against_size((comparison([row("swap", objective=0.3), row("anneal", objective=0.2)]),)))
    assert set(named(figure)) == {"swap*", "anneal*"}
    assert "* at p = 16" in figure.note
    proved = [row("swap", objective=0.3), row("highs", objective=0.1, bound=0.1, status="optimal")]
    figure = only(sizes.gap_against_size((comparison(proved),)))
    assert set(named(figure)) == {"swap", "highs"}
    assert named(figure)["swap"].y[0] == pytest.approx((0.3 - 0.1) / 0.9)
    assert named(figure)["highs"].y[0] == anytime.GAP_FLOOR


def test_the_profile_counts_a_skipped_block_as_not_solved_and_a_seedless_solver_for_every_seed():
    rows = [
        row("swap", "a", objective=0.0, trace=((0.02, 0.0),)),
        row("swap", "b", objective=0.0, trace=((0.02, 0.0),)),
        row("anneal", "a", 0, objective=0.0, trace=((0.01, 0.0),)),
        row("anneal", "a", 1, objective=0.0, trace=((0.04, 0.0),)),
        row("anneal", "b", 0, skipped="too large"),
        row("anneal", "b", 1, skipped="too large"),
    ]
    profile = named(only(anytime.performance_profile((comparison(rows),))))
    swap, anneal = profile["swap"], profile["anneal"]
    # Of the instances (a, 0), (a, 1), (b, 0): swap is fastest in the last two, anneal in the first.
    assert swap.y[0] == pytest.approx(75.0)
    assert swap.y[swap.x >= 2.0][0] == pytest.approx(100.0)
    assert anneal.y[0] == pytest.approx(25.0)
    assert anneal.y[-1] == pytest.approx(50.0)


def test_a_solver_that_never_reaches_the_target_is_drawn_at_never():
    rows = [
        row("anneal", "a", 0, objective=0.0),
        row("neal", "a", 0, objective=0.5),
        row("neal", "a", 1, objective=0.6),
    ]
    figure = only(sizes.time_to_solution((comparison(rows),)))
    height = named(figure)["neal"].y[0]
    assert (height, "never") in figure.y.ticks
    assert "never" in named(figure)["neal"].text[0]
    assert named(figure)["anneal"].y[0] == pytest.approx(0.01)


def test_hovering_tells_the_value_and_not_where_a_point_is_drawn_for_want_of_room():
    rows = [row("swap", objective=0.0, bound=0.0), row("greedy", objective=0.25)]
    figure = only(sizes.gap_against_size((comparison(rows),)))
    drawn = json.loads(plot_json(figure, Looks(["swap", "greedy"])))
    assert not drawn["x"]["exact"]
    assert not drawn["y"]["exact"]
    assert named(figure)["swap"].text[0].startswith("p = 16, gap 0 to the best bound")
    assert named(figure)["greedy"].text[0].startswith("p = 16, gap 0.25 to the best bound")


def test_success_is_the_share_of_runs_within_the_target():
    rows = [row("anneal", "a", seed, objective=0.0 if seed < 3 else 0.5) for seed in range(4)]
    series = named(only(sizes.success_probability((comparison(rows),))))["anneal"]
    assert series.y[0] == pytest.approx(75.0)
    assert np.isnan(series.lower[0])
    more = [row("anneal", block, seed, objective=0.0 if seed < 3 else 0.5) for seed in range(4) for block in "abc"]
    series = named(only(sizes.success_probability((comparison(more),))))["anneal"]
    assert series.lower[0] < 75.0 < series.upper[0]


def test_feasibility_is_drawn_only_where_it_was_measured():
    assert sizes.feasibility((comparison([row("swap")]),)).absent is not None
    rows = [row("swap"), row("neal", feasible_before_repair=0.25), row("neal", seed=1, feasible_before_repair=0.75)]
    figure = only(sizes.feasibility((comparison(rows),)))
    assert set(named(figure)) == {"neal"}
    assert figure.series[0].y[0] == pytest.approx(50.0)


def test_points_of_one_block_size_stand_aside_of_each_other_but_inside_the_axis():
    rows = [row(name, block=f"{p}", p=p) for p in (16, 32) for name in ("a", "b", "c", "d")]
    figure = only(sizes.gap_against_size((comparison(rows),)))
    assert len({series.x[0] for series in figure.series}) == 4
    low, high = figure.x.limits
    assert all(low < x < high for series in figure.series for x in series.x)
    assert max(s.x[0] for s in figure.series) < min(s.x[1] for s in figure.series)
    assert [text for _, text in figure.x.ticks] == ["16", "32"]


def test_the_model_is_compared_with_the_truth_and_the_correlation_printed():
    rows = [row("swap", f"{i}", objective=0.1 * i) for i in range(5)]
    figure = only(model.answers((comparison(rows),)))
    assert "r = 1.00, 5 points" in figure.note
    assert named(figure)["swap"].y == pytest.approx(2 * named(figure)["swap"].x)
    diagonal = named(figure)["predicted = true"]
    assert np.array_equal(diagonal.x, diagonal.y)


def test_steps_of_which_only_a_part_was_accepted_are_not_compared_on_the_fitted_samples():
    events = [step(1, -0.2, -0.1), step(2, -0.3, 0.05, accepted=True), step(3, -0.1, 0.2, accepted=False, fit=0.0)]
    fit, seen = model.steps((icbs(events),)).figures
    assert fit.series[0].x.tolist() == [-0.2]
    assert seen.series[0].x.tolist() == [-0.2, -0.3, -0.1]
    always = model.steps((icbs(events, accept="none"),)).figures[0]
    assert always.series[0].x.tolist() == [-0.2, -0.3]


def test_correlation_is_not_claimed_for_two_points_or_for_a_constant():
    assert math.isnan(model.correlation(np.array([0.0, 1.0]), np.array([0.0, 1.0])))
    assert math.isnan(model.correlation(np.ones(5), np.arange(5.0)))
    assert model.correlation(np.arange(5.0), -np.arange(5.0)) == pytest.approx(-1.0)


def result(accuracy, *, kept=10, build=0.5, solve=1.0):
    return {
        "accuracy": accuracy, "loss": 1.0, "kept": kept, "total": 100, "dense_accuracy": 0.97, "status": "feasible",
        "timings": {"build": build, "solve": solve},
    }  # fmt: skip


def test_a_run_is_drawn_against_the_seconds_of_building_and_solving_and_a_baseline_is_one_point():
    events = [step(1, -0.1, -0.1, validation={"accuracy": 0.6}), step(2, -0.1, -0.1, validation={"accuracy": 0.8})]
    stepped = icbs(events, result=result(0.8, solve=0.2))
    baseline = icbs([], solver="magnitude", result=result(0.4))
    figure = only(runs.quality_against_time((stepped, baseline)))
    assert named(figure)["icbs · swap"].x == pytest.approx([0.6, 0.7])
    assert named(figure)["icbs · swap"].y == pytest.approx([60.0, 80.0])
    assert named(figure)["icbs · magnitude"].kind == "points"
    assert named(figure)["icbs · magnitude"].x == pytest.approx([1.5])
    assert named(figure)["dense network"].y == pytest.approx([97.0, 97.0])


def test_a_run_without_logged_accuracy_is_named_with_the_remedy():
    drawn = runs.quality_against_time((icbs([step(1, -0.1, -0.1)], done=False), icbs([], result=result(0.4), seed=1)))
    assert "--validate-every" in drawn.notes[0]


def test_an_unfinished_run_is_shown_from_its_events_and_called_so():
    run = icbs([step(1, -0.1, -0.1, validation={"accuracy": 0.6})], done=False)
    assert set(named(only(runs.quality_against_time((run,))))) == {"icbs · swap (unfinished)"}
    texts = [cell.text for cell in tables.pruning([run])[0].rows[0]]
    assert "unfinished after 1 steps" in texts
    assert "60.00 %" in texts


def test_runs_of_one_solver_are_told_apart_by_what_was_asked():
    same = (icbs([], result=result(0.4), steps=10), icbs([], result=result(0.5), steps=20))
    series = only(runs.quality_against_time(same)).series[:2]
    assert [s.name for s in series] == ["icbs · swap (steps 10)", "icbs · swap (steps 20)"]
    looks = Looks(["swap"])
    first, second = (looks.of(s.key, s.variant) for s in series)
    assert first.colour == second.colour
    assert (first.marker, first.dash) != (second.marker, second.dash)


def test_densities_of_one_way_of_pruning_make_a_curve_and_seeds_a_mean():
    held = [
        icbs([], density=0.1, result=result(0.5)),
        icbs([], density=0.1, result=result(0.7), seed=1),
        icbs([], density=0.2, result=result(0.9, kept=20)),
    ]
    series = named(only(runs.accuracy_against_density(tuple(held))))["icbs · swap"]
    assert series.x == pytest.approx([0.1, 0.2])
    assert series.y == pytest.approx([60.0, 90.0])
    assert series.lower[0] < 60.0 < series.upper[0]


def test_layers_show_the_share_kept_and_the_whole_network():
    run = icbs([], result=result(0.5), layers={"fc1": (5, 50), "fc2": (5, 10)})
    figure = only(runs.density_per_layer((run,)))
    assert named(figure)["icbs · swap"].y == pytest.approx([10.0, 50.0])
    assert [text for _, text in figure.x.ticks] == ["fc1", "fc2"]
    assert named(figure)["whole network"].y == pytest.approx([10.0, 10.0])


def test_an_unfinished_run_takes_its_layers_sizes_from_a_finished_one():
    going = icbs([step(1, -0.1, -0.1, kept_per_layer={"fc1": 10, "fc2": 2})], done=False, seed=1)
    whole = icbs([], result=result(0.5), layers={"fc1": (5, 50), "fc2": (5, 10)})
    figure = only(runs.density_per_layer((whole, going)))
    assert named(figure)["icbs · swap (seed 1, unfinished)"].y == pytest.approx([20.0, 20.0])


def test_language_models_are_judged_by_perplexity():
    run = icbs([], result={**result(None), "perplexity": 20.0, "dense_perplexity": 10.0})
    figure = only(runs.quality_against_time((run,)))
    assert figure.y.title == "perplexity"
    assert figure.series[0].y == pytest.approx([20.0])
    assert named(figure)["dense network"].y == pytest.approx([10.0, 10.0])


def test_what_was_skipped_is_grouped_by_reason():
    rows = [row("swap"), row("qaoa", skipped="needs 30 qubits"), row("qaoa", "b", p=32, skipped="needs 30 qubits")]
    table = tables.skipped((comparison(rows),))
    assert [[cell.text for cell in line[:4]] for line in table.rows] == [["qaoa", "needs 30 qubits", "16, 32", "2"]]
    assert tables.skipped((comparison([row("swap")]),)) is None


def test_what_is_not_known_or_infinite_is_said_in_words_and_sorted_last():
    cells = [tables.number(value) for value in (float("nan"), float("inf"), 2.5, float("-inf"))]
    assert [cell.text for cell in cells] == ["–", "never", "2.5", "none"]
    assert [cell.value for cell in cells] == sorted((cell.value for cell in cells), reverse=True)
    assert all(math.isfinite(cell.value) for cell in cells)


def test_a_figure_without_data_says_in_one_line_which_command_fills_it():
    for drawn in draw(Material()):
        assert drawn.figures == ()
        assert drawn.absent.reason
        assert "prunebench " in drawn.absent.command


def test_every_term_that_a_figure_or_table_links_to_is_in_the_glossary():
    rows = [
        row(name, f"{i}", objective=0.1 * i, feasible_before_repair=0.5) for i in range(5) for name in ("neal", "x")
    ]
    events = [step(i, -0.1 * i, -0.1 * i, validation={"accuracy": 0.6}) for i in range(1, 5)]
    run = icbs(events, result=result(0.6), layers={"fc1": (5, 50)})
    held = comparison(rows)
    drawn = draw(Material((held,), (run,)))
    figures = [figure for kind in drawn for figure in kind.figures]
    assert len(figures) == 14
    shown = [*tables.summaries((held,)), *tables.every_answer((held,)), *tables.pruning((run,))]
    assert {term for item in (*figures, *shown) for term in item.terms} <= set(GLOSSARY)
    assert all(figure.caption.endswith(".") for figure in figures)


def test_solvers_differ_in_colour_until_colours_run_out_and_always_in_their_whole_look():
    looks = Looks([f"solver {i}" for i in range(60)])
    held = [looks.of(f"solver {i}") for i in range(60)]
    assert len({(look.colour, look.marker, look.dash) for look in held}) == 60
    few = Looks(["swap", "anneal", "mine", "yours (a=1)"])
    assert len({few.of(key).colour for key in ("swap", "anneal", "mine", "yours (a=1)")}) == 4
    assert len({few.of(key).marker for key in ("swap", "anneal", "mine", "yours (a=1)")}) == 4
    assert few.of("swap") == Looks([*FAMILIAR, "another"]).of("swap")
    assert all(colour.startswith("#") and len(colour) == 7 for colour in COLOURS)


def test_every_look_has_a_swatch_for_the_legend():
    figure = only(anytime.quality_against_time((comparison([row("swap")]),)))
    looks = Looks([f"solver {i}" for i in range(20)])
    drawn = {swatch(figure.series[0], looks.of(f"solver {i}")) for i in range(20)}
    assert len(drawn) == 20


@pytest.mark.parametrize(
    ("low", "high"), [(1e-6, 1.0), (0.4, 0.5), (2.0, 2.0), (1.0, 9.0), (1e-9, 1e9), (16, 64), (1e-150, 1e150)]
)
def test_logarithmic_axes_have_two_to_a_dozen_ticks_inside(low, high):
    axis = log_axis("x", [np.array([low, high])])
    assert axis.limits[0] < low <= high < axis.limits[1]
    assert 2 <= len(axis.ticks) <= 12
    assert all(axis.limits[0] <= value <= axis.limits[1] for value, _ in axis.ticks)


def test_a_table_that_is_no_comparison_is_refused_by_its_missing_columns():
    import pandas

    with pytest.raises(InvalidInput, match="no column select"):
        of_frame(pandas.DataFrame({"problem": ["x"], "density": [0.5]}))


def test_directories_without_anything_to_report_are_refused_with_the_reason(tmp_path):
    with pytest.raises(InvalidInput, match="no such directory"):
        gather([tmp_path / "nowhere"])
    with pytest.raises(InvalidInput, match="nothing to report in"):
        gather([tmp_path])
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InvalidInput, match="not readable"):
        gather([tmp_path])
    (tmp_path / "run.json").write_text(json.dumps({"format": "prunebench.run/1", "request": {"problem": "x"}}))
    with pytest.raises(InvalidInput, match="'density' is missing"):
        gather([tmp_path])
    asked = {"coordinator": "icbs", "solver": "swap", "mode": "refit", "seed": 0, "scope": "network"}
    request = {"problem": "x", "density": 0.5, **asked, "solver_options": {}, "coordinator_options": {}}
    (tmp_path / "run.json").write_text(json.dumps({"format": "prunebench.run/1", "request": request}))
    with pytest.raises(InvalidInput, match="nothing has happened"):
        gather([tmp_path])
    with pytest.raises(InvalidInput, match="is a file"):
        gather([tmp_path / "run.json"])


def test_a_runs_name_holds_mode_blocks_and_what_else_differs():
    held = {"block_size": 256, "blocks_per_step": 1, "ridge": 0.1}
    one = icbs([], result={**result(0.5), "mode": "refit", "coordinator_options": held})
    other = {**result(0.6), "mode": "select", "coordinator_options": {**held, "block_size": 16, "ridge": 0.2}}
    two = icbs([], solver="anneal", result=other)
    names = [name for name, _ in runs.labels([one, two]).values()]
    assert names == [
        "icbs · swap · refit · blocks of 256 (ridge 0.1)",
        "icbs · anneal · select · blocks of 16 (ridge 0.2)",
    ]


def test_every_built_in_solver_has_a_colour_of_its_own_name_wherever_it_is_drawn():
    from prunebench.core.registry import SOLVERS

    built_in = {name for name in SOLVERS.names() if SOLVERS.get(name).__module__.startswith("prunebench.solvers")}
    assert built_in <= set(FAMILIAR)
    for name in FAMILIAR:
        alone, among = Looks([f"{name} (a=1)"]), Looks([*FAMILIAR, f"{name} (a=1)", "my own"])
        assert alone.of(f"{name} (a=1)").colour == among.of(name).colour == style.colour(f"{name}:a=1")
    among = Looks([*FAMILIAR, "anneal (a=1)"])
    looks = {(look.colour, look.marker, look.dash) for look in map(among.of, [*FAMILIAR, "anneal (a=1)"])}
    assert len(looks) == len(FAMILIAR) + 1
    with pytest.raises(InvalidInput, match="did you mean 'anneal'"):
        style.colour("aneal")


def verdict_of(gaps, **more):
    """gaps : by solver one a block"""
    rows = [
        row(solver, f"b{i}", objective=gap, trace=((0.05, 0.9), (0.5, gap)), **more)
        for solver, held in gaps.items()
        for i, gap in enumerate(held)
        if gap is not None
    ]
    return verdict.verdicts(comparison(rows))


def test_the_verdict_names_the_best_and_how_far_the_next_is_behind():
    held = verdict_of({"swap": (0.0, 0.0, 0.0), "anneal": (0.1, 0.2, 0.3), "random": (0.5, 0.5, 0.5)})
    long, short = held
    assert (long.seconds, short.seconds) == (1.0, 0.1)
    assert (long.best, long.sure) == (("swap",), "told apart")
    standing, behind = long.after
    assert (standing.solver, behind.value, behind.lower, behind.upper) == (
        "anneal",
        *map(pytest.approx, (0.2, 0.1, 0.3)),
    )
    assert verdict.sentence(long) == (
        "16 weights, density 0.5, 1 s: swap is best, at a gap of 0; next is anneal, 0.2 [0.1, 0.3] behind."
    )
    # after a tenth of a second all have their first answer alone
    assert set(short.best) == {"swap", "anneal", "random"}
    assert short.sure == "equal"


def test_solvers_whose_difference_changes_sign_among_blocks_are_not_told_apart():
    first = verdict_of({"swap": (0.0, 0.2, 0.0, 0.2), "anneal": (0.1, 0.0, 0.3, 0.1), "random": (0.9, 0.8, 0.9, 0.8)})[
        0
    ]
    assert first.best == ("swap", "anneal")
    assert first.sure == "not told apart"
    assert first.after[0].solver == "random"
    assert "the blocks do not tell anneal from it" in verdict.sentence(first)


def test_two_blocks_give_a_verdict_without_an_interval():
    first = verdict_of({"swap": (0.0, 0.0), "anneal": (0.1, 0.2)})[0]
    assert first.best == ("swap",)
    assert math.isnan(first.after[1].lower)
    assert first.sure == "2 blocks: too few to say (at least 3)"
    assert verdict.sentence(first).endswith("(2 blocks: too few to say (at least 3)).")


def test_a_solver_that_missed_a_block_is_named_and_not_ranked():
    first = verdict_of({"swap": (0.1, 0.1, 0.1), "anneal": (0.0, 0.0, None)})[0]
    assert first.partial == ("anneal",)
    assert [standing.solver for standing in first.standings] == ["swap"]
    held = comparison([row("swap", "a"), row("swap", "b"), row("anneal", "a"), row("anneal", "b", skipped="no")])
    assert "Not ranked, since blocks are missing: anneal." in only(verdict.ranking((held,))).note


def test_the_time_to_solution_has_an_interval_and_its_growth_is_fitted():
    rows = [
        row("anneal", f"{p}-{i}", seed, p=p, objective=0.0, trace=((1e-6 * p**2 * factor, 0.0),))
        for p in (16, 32, 64)
        for i, factor in enumerate((1.0, 2.0, 4.0))
        for seed in (0, 1)
    ]
    series = named(only(sizes.time_to_solution((comparison(rows),))))
    assert series["anneal"].y == pytest.approx([2e-6 * p**2 for p in (16, 32, 64)])
    assert series["anneal"].lower == pytest.approx(series["anneal"].y / 2)
    assert series["anneal"].upper == pytest.approx(series["anneal"].y * 2)
    assert series["anneal, fitted"].y[0] == pytest.approx(2e-6 * 16**2)
    fit = sizes.scaling({float(p): np.full(2, math.exp(0.1 * p)) for p in (16, 32, 64)})
    assert fit.words == "as e to the power p times 0.1 (a power law fits worse)"
    assert sizes.scaling({16.0: np.ones(3), 32.0: np.full(3, np.inf), 64.0: np.ones(3)}) is None


def test_tables_are_written_for_spreadsheets_and_for_papers():
    cells = (
        tables.Cell("a_b, 50 %"),
        tables.number(0.25),
        tables.number(math.inf),
        tables.number(None),
        tables.count(7),
    )
    table = tables.Table("t", "T", "", ("name", "x", "y", "z", "n"), (cells,))
    assert exports.csv_text(table) == 'name,x,y,z,n\n"a_b, 50 %",0.25,inf,,7\n'
    assert exports.latex_text(table) == (
        "\\begin{tabular}{lrrrr}\n\\toprule\nname & x & y & z & n \\\\\n\\midrule\n"
        "a\\_b, 50 \\% & 0.25 & never & -- & 7 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_a_picture_of_a_mask_has_a_dot_for_each_weight_or_patch():
    from prunebench.report.patches import LARGEST, patches

    small = np.eye(3, 5, dtype=bool)
    assert np.array_equal(patches(small), small)
    wide = np.zeros((4, 3 * LARGEST), dtype=bool)
    wide[0, :3] = True
    assert patches(wide).shape == (4, LARGEST)
    assert patches(wide)[0, 0] == 1.0
    assert patches(wide).sum() == 1.0
    assert patches(np.ones((2, 3, 3, 3), dtype=bool)).shape == (2, 27)
    held = masks.png(np.array([[0, 255]], dtype=np.uint8))
    import io

    from matplotlib.image import imread

    assert imread(io.BytesIO(held)).tolist() == [[0.0, 1.0]]


def test_a_thinned_curve_is_the_same_step_function():
    x, y = np.arange(1.0, 8.0), np.array([3.0, 3.0, 2.0, 2.0, 2.0, 1.0, 1.0])
    curve = Series("a", "a", "step", x, y, y - 1, y + 1, tuple("abcdefg"), marked=(3,))
    thin = thinned(curve)
    assert thin.x.tolist() == [1.0, 3.0, 4.0, 6.0, 7.0]
    assert thin.marked == (2,)
    assert thin.text == tuple("acdfg")
    at = np.searchsorted(thin.x, x, side="right") - 1
    assert np.array_equal(thin.y[at], y)
    assert np.array_equal(thin.upper[at], y + 1)


def test_a_page_holds_a_thousand_answers_and_files_hold_all():
    held = (comparison([row("swap", f"{i}") for i in range(tables.MOST_ROWS + 5)]),)
    (shown,) = tables.every_answer(held)
    assert len(shown.rows) == tables.MOST_ROWS
    assert "The first 1,000 of 1,005" in shown.caption
    (whole,) = tables.every_answer(held, None)
    assert len(whole.rows) == tables.MOST_ROWS + 5
    assert "first" not in whole.caption


def test_the_verdict_on_runs_names_the_best_way_at_each_density():
    one = [icbs([], seed=seed, result=result(0.80 + 0.01 * seed)) for seed in range(3)]
    two = [icbs([], solver="anneal", seed=seed, result=result(0.60 + 0.01 * seed)) for seed in range(3)]
    (said,) = run_verdict.sentences([*one, *two])
    assert said.startswith("digits-mlp, density 0.1: icbs · swap is best, accuracy 81.00 % (dense: 97.00 %); next is")
    # Welch: 20 ± 2.776 · sqrt(1/3 + 1/3) points, 4 degrees of freedom
    assert said.endswith("icbs · anneal, 20 [18, 22] points behind (told apart).")
    (said,) = run_verdict.sentences([one[0], two[0]])
    assert said.endswith("icbs · anneal, 20 points behind (one seed: too few to say how sure).")
    assert run_verdict.sentences(one) == []


@pytest.mark.parametrize(
    ("layers", "short"),
    [
        (["stack.fc1.weight", "stack.fc2.weight"], ["fc1", "fc2"]),
        (["fc1", "fc2"], ["fc1", "fc2"]),
        (["a.weight", "a.bias"], ["weight", "bias"]),
        (
            ["b.0.qkv.weight", "b.0.proj.weight", "b.1.qkv.weight", "head.weight"],
            ["b.0.qkv", "b.0.proj", "b.1.qkv", "head"],
        ),
        (["only.one.weight"], ["only.one.weight"]),
        (["x.weight", "x.y.weight"], ["x", "x.y"]),
    ],
)
def test_layers_are_called_by_what_tells_them_apart(layers, short):
    assert runs.short_names(layers) == short
