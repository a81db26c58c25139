"""Recipes: files that say what they mean, rules on what is measured, and what is given beside them."""

import dataclasses
import json

import pytest

from prunebench import make_problem, recipes
from prunebench.cli import main
from prunebench.core.errors import InvalidInput, UnknownName
from prunebench.core.registry import COORDINATORS
from prunebench.recipes import RULES, Traits, rules
from prunebench.recipes.resolve import kept_fields
from prunebench.runs.counts import lowered
from prunebench.runs.prune import prune, resume
from prunebench.runs.request import PruneRequest

MINE = """
summary = "of a test"
good_for = "tests"
cost = "none"
coordinator = "icbs"
solver = "swap"
mode = "select"

[coordinator_options]
steps = 2
block_size = 16
samples = 5000

[quick]
solver = "magnitude"
coordinator_options = { steps = 1 }
"""

PUBLISHED = {
    *("chita", "chita++", "icbs", "icbs-strongest", "woodfisher", "m-fac", "cbs", "obs", "magnitude", "wanda"),
    *("sparsegpt", "alps", "obc"),
}


@pytest.fixture(scope="module")
def digits():
    return make_problem("digits-mlp")


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def command(capsys, *arguments):
    code = main([str(part) for part in arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_every_recipe_that_comes_with_prunebench_can_be_read_at_every_effort():
    assert set(recipes.names()) >= PUBLISHED | {rule.recipe for rule in RULES}
    for name in recipes.names():
        for effort in recipes.EFFORTS:
            assert recipes.find(name).at(effort).name == name


def test_an_effort_changes_what_its_table_says_and_nothing_else(mine):
    recipe = recipes.find(str(mine))
    assert recipe.at("normal").coordinator_options == {"steps": 2, "block_size": 16, "samples": 5000}
    quick = recipe.at("quick")
    assert (quick.solver, quick.coordinator_options) == (
        "magnitude",
        {"steps": 1, "block_size": 16, "samples": 5000},
    )
    assert recipe.at("thorough") == recipe.at("normal")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('mode = "select"', "mode = select", "is not TOML"),
        ('mode = "select"', 'moode = "select"', "unknown key 'moode': did you mean 'mode'?"),
        ('cost = "none"', "", "the key cost is missing"),
        ('solver = "swap"', 'solver = "swop"', "did you mean 'swap'?"),
        ('coordinator = "icbs"', 'coordinator = "ibcs"', "did you mean 'icbs'?"),
        ('mode = "select"', 'mode = "selct"', "did you mean 'select'?"),
        ('mode = "select"', "mode = 3", "mode is 3; give a text in quotes"),
        ('mode = "select"', 'recover = "settle"', "give a list of texts"),
        ('mode = "select"', 'recover = ["setle"]', "did you mean 'settle'?"),
        ('mode = "select"', "solver_options = 3", "give a table"),
        ("steps = 2", "stpes = 2", "did you mean 'steps'?"),
        ("steps = 2", 'steps = "many"', "steps is 'many'"),
        ("steps = 2", "steps = 2.5", "steps is 2.5"),
        ("[quick]", "[curvature]\nsamples = 3\n[quick]", "takes no curvature"),
        ("[quick]", "[normal]\n[quick]", "leave the table [normal] out"),
        ('solver = "magnitude"', 'solver = "magnitud"', "at effort quick: unknown solver"),
        ("[quick]", "[quick]\ncost = '1'", "table [quick]: unknown key 'cost'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_name_and_the_mistake(mine, old, new, words):
    assert old in MINE
    mine.write_text(MINE.replace(old, new, 1))
    with pytest.raises(InvalidInput) as refusal:
        recipes.find(str(mine))
    assert str(mine) in str(refusal.value)
    assert words in str(refusal.value)


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'wanda'"):
        recipes.find("wande")
    with pytest.raises(InvalidInput, match=r"none\.toml is not readable: No such file"):
        recipes.find(str(tmp_path / "none.toml"))


SMALL, MIDDLE, LARGE, HUGE = 30_000, 300_000, 5_000_000, 7_000_000_000


def network(weights, **traits):
    return Traits(network=True, weights=weights, **traits)


@pytest.mark.parametrize(
    ("traits", "density", "grouped", "name"),
    [
        (Traits(network=False), 0.5, False, "one-block"),
        (network(SMALL), 0.1, False, "staged"),
        (network(SMALL), 0.1, True, "staged"),
        (network(SMALL), 0.02, False, "staged-deep"),
        (network(SMALL, tokens=True), 0.1, False, "tokens"),
        (network(SMALL, hindrance="an LSTM"), 0.1, False, "staged"),
        (network(MIDDLE, hindrance="an LSTM"), 0.5, False, "icbs-strongest"),
        (network(LARGE), 0.001, False, "layers-settled"),
        (network(MIDDLE, batch_norm=True, convolutions=True, refittable=True), 0.3, False, "layers-refitted"),
        (network(MIDDLE, batch_norm=True, convolutions=True), 0.3, False, "layers-settled"),
        (network(MIDDLE, batch_norm=True, convolutions=True, refittable=True), 0.5, True, "layers-settled"),
        (network(MIDDLE, convolutions=True), 0.3, False, "layers-settled"),
        (network(LARGE, batch_norm=True, convolutions=True, refittable=True), 0.5, False, "layers"),
        (network(MIDDLE, tokens=True), 0.5, True, "tokens"),
        (network(LARGE, tokens=True), 0.5, False, "layers"),
        (network(HUGE, tokens=True), 0.5, False, "sparsegpt"),
    ],
)
def test_the_rules_go_by_what_can_be_measured(traits, density, grouped, name):
    found, reason = rules.chosen(rules.Asked(traits, density, grouped))
    assert found == name
    assert reason


def test_the_traits_of_a_network_are_measured(digits):
    traits = recipes.traits_of(digits)
    assert (traits.network, traits.weights, traits.samples, traits.walkable) == (True, 2368, 1347, True)
    assert (traits.tokens, traits.batch_norm, traits.convolutions) == (False, False, False)


@pytest.mark.parametrize(("length", "positions", "taken"), [(200, None, True), (200, 200, False), (64, 64, True)])
def test_samples_are_tokens_where_the_loss_of_a_window_is_a_number(length, positions, taken):
    import numpy as np
    import torch

    from prunebench.data.language_samples import TokenSamples
    from prunebench.networks.language import sequence_loss
    from prunebench.networks.samples import TensorSamples
    from prunebench.recipes.traits import _takes_windows

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9)

        def forward(self, ids):
            held = self.embed(ids)
            # a model with as many learned positions as its samples have, and no fewer
            return self.out(held if positions is None else held + torch.ones(positions, 4))

    class Problem:
        loss = staticmethod(sequence_loss)

    tokens = TokenSamples([np.arange(length) % 9 for _ in range(3)])
    assert _takes_windows(Model(), Problem(), tokens) is taken
    assert not _takes_windows(Model(), Problem(), TensorSamples(torch.zeros(3, 8), torch.zeros(3, dtype=torch.int64)))


@pytest.mark.parametrize(("groups", "taken"), [(4, "layers-refitted"), (None, "layers-settled")])
def test_convolutions_are_refitted_where_there_is_a_layer_that_can_be(groups, taken):
    import torch

    import prunebench

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Conv2d(4, 4, 3, padding=1, groups=groups or 1)
            self.norm, self.last = torch.nn.BatchNorm2d(4), torch.nn.Linear(256, 50)

        def forward(self, given):
            held = self.first(given)
            if groups is None:
                # no layer is called just once
                return torch.nn.functional.linear(self.norm(self.first(held)).flatten(1), self.last.weight)
            return self.last(self.norm(held).flatten(1))

    torch.manual_seed(0)
    model, data = Network(), (torch.rand(40, 4, 8, 8), torch.arange(40) % 3)
    # more weights than stages can settle
    problem = prunebench.own_network(model, data, loss="cross_entropy")
    assert recipes.choose(problem, 0.8).recipe.name == taken
    pruned = prunebench.prune(model, data, loss="cross_entropy", density=0.8, effort="quick", progress=False)
    assert pruned.result["outcome"] == "finished"


def test_what_is_given_goes_over_the_recipe(mine, digits):
    given = {"coordinator_options": {"steps": 7}, "seed": 3, "executor": None}
    request = recipes.request_of(digits, 0.2, recipe=str(mine), given=given)
    options = dict(request.coordinator_options)
    assert (options["steps"], options["block_size"], request.seed, request.mode) == (7, 16, 3, "select")
    assert (request.recipe, request.effort, request.density, request.problem) == (str(mine), None, 0.2, "digits-mlp")


def test_another_solver_or_coordinator_drops_what_the_recipe_says_for_its_own(mine):
    recipe = dataclasses.replace(recipes.find("icbs"), efforts={})
    assert kept_fields(recipe, {})["solver_options"] == {"sweeps": 100, "reads": 10}
    other = kept_fields(recipe, {"solver": "swap"})
    assert other["coordinator_options"]["steps"] == 90
    assert not {"solver_options", "mode"} & set(other)
    assert set(kept_fields(recipe, {"coordinator": "one-shot"})) == {"coordinator", "solver", "solver_options"}
    assert kept_fields(recipe, {"solver": "anneal"}) == kept_fields(recipe, {})


@pytest.mark.parametrize("given", [{"solver": "obd"}, {"coordinator": "icbs"}, {"mode": "select"}, {"start": "runs/1"}])
def test_who_chooses_by_hand_gets_no_recipe(digits, given):
    request = recipes.request_of(digits, 0.2, given=given)
    assert request == PruneRequest(problem="digits-mlp", density=0.2, **given)


def test_auto_tells_what_it_chose_and_why(digits):
    told = []
    request = recipes.request_of(digits, 0.1, effort="quick", say=told.append)
    assert (request.recipe, request.effort, request.coordinator) == ("auto:staged", "quick", "multi-stage")
    assert told[0].startswith("recipe auto: chose staged, effort quick, because 237 weights are kept")


def test_a_network_that_auto_looked_at_is_the_one_that_is_pruned(capsys, monkeypatch, tmp_path, digits):
    import prunebench

    loads = []
    load = type(digits).model
    monkeypatch.setattr(type(digits), "model", lambda self: loads.append(self) or load(self))
    out = tmp_path / "run"
    code, text, err = command(
        capsys, "prune", "digits-mlp", "--density", 0.2, "--effort", "quick", "--out", out, "--json"
    )
    assert code == 0, err
    assert len(loads) == 1
    called = prunebench.prune("digits-mlp", density=0.2, effort="quick", progress=False)
    assert len(loads) == 2
    # where nothing is looked at, the run loads it
    request = PruneRequest.from_json(json.loads((out / "run.json").read_text())["request"], "run.json")
    plain = prune(request, out=tmp_path / "plain")
    assert len(loads) == 3
    assert json.loads(text)["loss"] == called.result["loss"] == plain["loss"]


def test_counts_of_a_recipe_are_lowered_to_the_samples_there_are_and_given_ones_are_not(mine, digits):
    told = []
    request = recipes.request_of(digits, 0.2, recipe=str(mine), say=told.append)
    apart = 1347 // 4
    assert request.coordinator_options["samples"] == 1347 - apart
    assert told[-1] == "samples lowered to 1,011: digits-mlp has 1,347 calibration samples"
    kept = recipes.request_of(digits, 0.2, recipe=str(mine), given={"coordinator_options": {"samples": 5000}})
    assert kept.coordinator_options["samples"] == 5000


@pytest.mark.parametrize(
    ("coordinator", "asked", "total", "lowered"),
    [
        ("one-shot", {}, 508, {"samples": 508}),
        ("one-shot", {}, 1000, {}),
        ("one-shot", {"samples": "600"}, 508, {"samples": 508}),
        ("rounds", {}, 508, {"samples": 508}),
        ("layer-wise", {}, 100, {"samples": 100}),
        ("layer-wise", {"held_out": 32}, 100, {"samples": 100, "held_out": 20}),
        ("icbs", {}, 200, {"samples": 150}),
        ("icbs", {"accept_samples": 300, "samples": 100}, 200, {"accept_samples": 50}),
        ("icbs", {"accept_samples": 100, "samples": 100}, 200, {}),
        ("multi-stage", {}, 10, {}),
        ("multi-stage", {"samples": 300, "held_out": 600}, 500, {"held_out": 100}),
        ("multi-stage", {"samples": 300, "held_out": 600}, 200, {"held_out": 40, "samples": 160}),
        ("multi-stage", {"samples": 300}, 200, {"samples": 160}),
    ],
)
def test_usual_counts_fit_the_samples_there_are_with_every_coordinator(coordinator, asked, total, lowered):
    kind = COORDINATORS.get(coordinator)
    assert kind.fitted(asked, total, ()) == lowered
    assert not set(kind.fitted(asked, total, asked)) & set(asked)


def test_a_plain_request_is_written_down_with_the_counts_that_were_taken(digits):
    told = []
    request = PruneRequest(problem="digits-mlp", density=0.2, coordinator="multi-stage", recover=("layers:ridge=0.1",))
    fixed = {"coordinator_options": {}, "curvature": {}}
    asked = dataclasses.replace(request, coordinator_options={"samples": 9000})
    found = lowered(asked, digits, fixed, told.append)
    assert found.coordinator_options == {"samples": 1347 - 269}
    assert told == ["samples lowered to 1,078: digits-mlp has 1,347 calibration samples"]
    many = dataclasses.replace(request, recover=("layers:samples=2000", "settle"))
    assert lowered(many, digits, fixed, told.append).recover == ["layers:samples=1078", "settle"]
    assert lowered(many, digits, fixed, told.append, own_recovery=True).recover == list(many.recover)


@pytest.mark.parametrize(
    ("memory", "batch"), [(4 * 100 * 1000, 1), (4 * 100 * 1000 - 1, 3), (4 * 100 * 20, 100), (10, 1000)]
)
def test_rows_that_do_not_fit_into_memory_are_means_of_more_samples(memory, batch):
    from prunebench.curvature.gradients import fitting_batch

    assert fitting_batch(1000, 1, 100, memory) == batch
    assert batch == 1 or memory < 4 * 100 or 2 * (1000 // batch) * 4 * 100 <= memory


@pytest.mark.parametrize(
    ("coordinator", "options", "rows"),
    [("one-shot", {}, 1000), ("multi-stage", {"coordinator_options": {"stages": 1}}, 539)],
)
def test_a_run_whose_rows_do_not_fit_tells_what_it_takes_instead(monkeypatch, tmp_path, coordinator, options, rows):
    from prunebench.curvature import gradients

    told = []
    fitting = gradients.fitting_batch
    monkeypatch.setattr(gradients, "fitting_batch", lambda *asked: fitting(*asked, 4 * 2368 * 100))
    request = PruneRequest(
        problem="digits-mlp", density=0.2, coordinator=coordinator, solver="obd", recover=("none",), **options
    )
    result = prune(request, out=tmp_path / "run", say=told.append)
    assert result["outcome"] == "finished"
    (line,) = [line for line in told if "do not fit into memory" in line]
    assert f"since {rows:,} rows" in line


def test_a_field_that_no_request_has_is_refused(digits):
    with pytest.raises(UnknownName, match="did you mean 'solver'"):
        recipes.request_of(digits, 0.2, given={"solvr": "swap"})
    with pytest.raises(UnknownName, match="unknown effort 'quik': did you mean 'quick'"):
        recipes.request_of(digits, 0.2, effort="quik")


def test_a_run_by_a_recipe_is_written_down_resolved_and_resumed(capsys, mine, tmp_path):
    out = tmp_path / "run"
    asked = ["prune", "digits-mlp", "--density", 0.2, "--recipe", mine, "--samples", 60, "--out", out, "--json"]
    code, text, err = command(capsys, *asked)
    assert code == 0, err
    assert f"recipe {mine}: of a test" in err
    request = json.loads((out / "run.json").read_text())["request"]
    assert (request["recipe"], request["coordinator"], request["solver"]) == (str(mine), "icbs", "swap")
    assert request["coordinator_options"]["samples"] == 60
    (out / "result.json").unlink()
    mine.unlink()
    assert resume(out)["loss"] == json.loads(text)["loss"]


def test_a_run_directory_from_before_recipes_is_still_read():
    held = PruneRequest(problem="digits-mlp", density=0.2).as_json()
    older = {name: value for name, value in held.items() if name not in ("recipe", "effort")}
    assert PruneRequest.from_json(older, "run.json") == PruneRequest(problem="digits-mlp", density=0.2)


def test_an_option_that_the_chosen_coordinator_lacks_is_refused_with_the_choice(capsys, tmp_path):
    code, _, err = command(capsys, "prune", "digits-mlp", "--density", 0.1, "--steps", 3, "--quiet", "--out", tmp_path)
    assert code == 2
    assert "'steps'" in err
    assert "recipe auto chose coordinator multi-stage" in err


def test_recipes_are_listed_and_one_is_shown_whole(capsys, mine):
    code, text, _ = command(capsys, "recipes")
    assert code == 0
    assert all(f"{name}: " in text for name in recipes.names())
    listed = json.loads(command(capsys, "recipes", "--json")[1])["recipes"]
    assert [row["name"] for row in listed] == recipes.names()
    shown = command(capsys, "recipes", mine)[1]
    assert "--option coordinator.steps=2" in shown
    assert "at effort quick" in shown
