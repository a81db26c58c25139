"""The line under "How to reproduce", parsed by the command line's own parser, is the request again."""

import dataclasses
import json
import shlex
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench import cli
from prunebench.comparison.request import CompareRequest, SolverChoice
from prunebench.coordinators.icbs.options import ICBSOptions
from prunebench.coordinators.multi_stage.coordinator import MultiStageOptions
from prunebench.core import options as option_tools
from prunebench.core.errors import Interrupted
from prunebench.core.registry import PROBLEMS, SOLVERS
from prunebench.report.reproduce import COMPARE_FIELDS, PRUNE_FIELDS, command, why_not
from prunebench.runs.prune import PruneRequest

POSITIVE = st.one_of(st.integers(1, 1000).map(float), st.floats(1e-9, 1e9))
SEEDS = st.integers(0, 2**31)
EXECUTORS = st.sampled_from([None, "inline", "local:2", "dask:tcp://host:8786"])
CURVATURE = st.fixed_dictionaries(
    {}, optional={"samples": st.integers(1, 999), "batch_size": st.integers(1, 9), "ridge": st.floats(0.0, 1e5),
                  "gradient_scale": st.floats(0.0, 1.0)}
)  # fmt: skip
SOLVER_OPTIONS = {
    "swap": st.fixed_dictionaries({}, optional={"restarts": st.one_of(st.none(), st.integers(1, 9))}),
    "neal": st.fixed_dictionaries(
        {},
        optional={
            "sweeps": st.integers(1, 99),
            "cold": POSITIVE,
            "polish": st.booleans(),
            "keep_samples": st.one_of(st.none(), st.integers(0, 9)),
            "keywords": st.lists(st.sampled_from(["a=1", "beta=2.5"]), max_size=2).map(tuple),
        },
    ),
    "magnitude": st.fixed_dictionaries({}, optional={"score": st.sampled_from(["obd", "wanda"])}),
}
PROBLEM_OPTIONS = st.fixed_dictionaries({}, optional={"seed": st.integers(0, 9)})
COORDINATOR_OPTIONS = {
    "one-shot": st.just({}),
    "icbs": st.fixed_dictionaries({}, optional={
        "steps": st.integers(1, 99), "block_size": st.integers(2, 99), "accept": st.sampled_from(["model", "none"]),
        "quota": st.sampled_from(["row", "2:4"]), "ridge": POSITIVE}),
    "multi-stage": st.fixed_dictionaries({}, optional={
        "stages": st.integers(1, 9), "ridges": st.lists(POSITIVE, min_size=3, max_size=3).map(tuple)}),
}  # fmt: skip


def built(cls, given):
    """Options as their class has them, whether they came as texts or as values."""
    return option_tools.as_json(option_tools.build(cls, given))


@st.composite
def prune_requests(draw):
    solver = draw(st.sampled_from(sorted(SOLVER_OPTIONS)))
    coordinator = draw(st.sampled_from(sorted(COORDINATOR_OPTIONS)))
    one_shot = coordinator == "one-shot"
    return PruneRequest(
        problem="digits-mlp",
        density=draw(st.floats(1e-6, 1.0)),
        solver=solver,
        problem_options=draw(PROBLEM_OPTIONS),
        solver_options=draw(SOLVER_OPTIONS[solver]),
        coordinator=coordinator,
        mode=draw(st.sampled_from([None, "select", "refit"])),
        scope=draw(st.sampled_from(["network", "layer"])),
        curvature=draw(CURVATURE) | draw(st.sampled_from([{}, {"store": "-a folder"}])) if one_shot else {},
        coordinator_options=draw(COORDINATOR_OPTIONS[coordinator]),
        executor=draw(EXECUTORS),
        seconds=draw(st.one_of(st.none(), POSITIVE)),
        block_seconds=draw(st.one_of(st.none(), POSITIVE)),
        validate_every=draw(st.integers(0, 9)),
        retrain=draw(st.sampled_from([None, "", "epochs=2,distil=0.5"])),
        recover=draw(st.sampled_from([None, ["none"], ["batch-norm", "settle:rounds=2,ridges=(0.1,1)"]])),
        seed=draw(SEEDS),
        start=draw(st.sampled_from([None, "runs/first", "-odd name's run"])),
    )


@st.composite
def compare_requests(draw):
    names = draw(st.lists(st.sampled_from(sorted(SOLVER_OPTIONS)), min_size=1, unique=True))
    return CompareRequest(
        problem="digits-mlp",
        solvers=tuple(SolverChoice(name, draw(SOLVER_OPTIONS[name])) for name in names),
        problem_options=draw(PROBLEM_OPTIONS),
        sizes=tuple(draw(st.lists(st.integers(10, 99), min_size=1, max_size=3, unique=True))),
        densities=tuple(draw(st.lists(st.floats(0.3, 1.0), min_size=1, max_size=3, unique=True))),
        blocks=draw(st.integers(1, 9)),
        seeds=draw(st.integers(1, 9)),
        select=draw(st.sampled_from(["random", "row", "obd"])),
        mode=draw(st.sampled_from(["select", "refit"])),
        curvature=draw(CURVATURE),
        time_limit=draw(POSITIVE),
        target=draw(st.floats(0.0, 1.0)),
        executor=draw(EXECUTORS),
        true_loss=draw(st.booleans()),
        cache=draw(st.booleans()),
        seed=draw(SEEDS),
    )


def as_written(request):
    """The request as a run directory holds it."""
    return json.loads(json.dumps(request.as_json()))


def parsed(request, where):
    """What the command line makes of the printed line: the arguments of the function that it would call."""
    words = shlex.split(command(as_written(request)))
    assert words[0] == "prunebench"
    with mock.patch(where, side_effect=Interrupted("noted")) as called:
        assert cli.main([*words[1:], "--quiet"]) == 1
    return called.call_args


@given(prune_requests())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_line_of_any_pruning_run_is_parsed_into_the_same_request(request):
    again = parsed(request, "prunebench.commands.prune.prune").args[0]
    kinds = {"icbs": ICBSOptions, "multi-stage": MultiStageOptions}
    owners = {
        "solver_options": SOLVERS.get(request.solver),
        "problem_options": PROBLEMS.get(request.problem),
        "coordinator_options": kinds.get(request.coordinator),
    }
    for item in dataclasses.fields(PruneRequest):
        asked, read = getattr(request, item.name), getattr(again, item.name)
        owner = owners.get(item.name)
        assert (read == asked) if owner is None else (built(owner, read) == built(owner, asked)), item.name


@given(compare_requests())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_line_of_any_comparison_is_parsed_into_the_same_request(request):
    call = parsed(request, "prunebench.commands.compare.compare")
    wanted = {name: value for name, value in call.kwargs.items() if name not in ("out", "say")}
    again = CompareRequest(problem=call.args[0], solvers=tuple(call.args[1]), **wanted)
    for item in dataclasses.fields(CompareRequest):
        asked, read = getattr(request, item.name), getattr(again, item.name)
        if item.name == "solvers":
            assert [choice.make() for choice in read] == [choice.make() for choice in asked]
        elif item.name == "problem_options":
            owner = PROBLEMS.get(request.problem)
            assert built(owner, read) == built(owner, asked)
        else:
            assert read == asked, item.name


def test_every_field_of_a_request_has_its_words():
    assert set(PRUNE_FIELDS) == {item.name for item in dataclasses.fields(PruneRequest)} - {"problem"}
    assert set(COMPARE_FIELDS) == {item.name for item in dataclasses.fields(CompareRequest)} - {"problem"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"problem": ""}, "blocks were given as objects"),
        ({"colour": "red"}, "asks for colour"),
        ({"solvers": [{"name": "dimod", "options": {}, "is_object": True}]}, "dimod was given as an object"),
        ({"solvers": [{"name": "dimod", "options": {"sampler": "a,b:C"}}]}, "commas and brackets part"),
    ],
)
def test_where_no_command_asks_for_the_same_the_reason_is_given(change, reason):
    request = as_written(CompareRequest(problem="digits-mlp", solvers=(SolverChoice("swap"),))) | change
    assert command(request) == ""
    assert reason in why_not(request)


def test_start_is_in_the_line():
    request = PruneRequest(problem="digits-mlp", density=0.5, coordinator="icbs", start=str(Path("runs") / "first"))
    assert "--start=runs/first" in command(as_written(request))
    assert why_not(as_written(request)) == ""


def test_curvature_that_the_coordinator_does_not_take_has_no_words():
    request = PruneRequest(problem="digits-mlp", density=0.5, coordinator="icbs", curvature={"samples": 9})
    assert command(as_written(request)) == ""
    assert "one-shot" in why_not(as_written(request))
