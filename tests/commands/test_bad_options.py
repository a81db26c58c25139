"""Options and budgets of wrong kinds are refused with one line, by every solver, from Python and as text."""

import dataclasses

import numpy as np
import pytest

from prunebench import SOLVERS, Budget, solve
from prunebench.cli import main
from prunebench.core.errors import InvalidInput
from prunebench.core.options import Option, options_of
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import missing_packages
from prunebench.core.solver import solvers_of
from prunebench.testing.instances import instance

NUMBERS = {"whole number": int, "number": float}


def _options():
    for name in solvers_of(QuadraticForm):
        if not missing_packages(SOLVERS.get(name).requires):
            for option in options_of(SOLVERS.get(name)):
                yield pytest.param(name, option, id=f"{name}-{option.name}")


@pytest.mark.parametrize(("name", "option"), list(_options()))
def test_an_option_of_another_kind_is_refused_in_one_line(name, option):
    block = instance("gaussian", 1, "select" if "select" in SOLVERS.get(name).modes else "refit", p=8, keep=4)
    kinds = option.kind.split(" or ")
    wrong = [float("nan"), {}]
    if set(kinds) <= {*NUMBERS, "none"}:
        wrong += ["several", True, [1], 10**30, "nan", "1e400x"]
        if "number" not in kinds:
            wrong += [1.5, "1.5"]
    if "none" not in kinds and option.kind != "Any":
        wrong += [None]
    if not ({*NUMBERS, "text", "true or false", "none"} >= set(kinds)):
        # choices and tuples; objects of other libraries are looked at by their owner
        wrong = [] if "tuple" in option.kind or "Any" in option.kind else ["several"]
    for value in wrong:
        with pytest.raises(InvalidInput) as caught:
            solve(block, name, options={option.name: value}, budget=Budget(seconds=0.0))
        assert len(str(caught.value).splitlines()) == 1
        assert option.name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("chita", {"active": float("inf")}),
        ("chita", {"active": -1.0}),
        ("anneal", {"sweeps": 2**62}),
        ("anneal", {"hot": float("inf")}),
        ("anneal", {"cold": 0.0}),
        ("path-integral", {"sweeps": 2**62}),
        ("path-integral", {"hot": float("inf")}),
        ("qaoa-subspace", {"shots": 2**62}),
        ("qaoa-subspace", {"reps": 10**6}),
        ("swap", {"restarts": 0}),
    ],
)
def test_a_value_out_of_range_is_refused_before_any_work(name, options):
    block = instance("gaussian", 1, "select" if "select" in SOLVERS.get(name).modes else "refit", p=8, keep=4)
    with pytest.raises(InvalidInput, match="choose"):
        solve(block, name, options=options)


@pytest.mark.parametrize("field", ["seconds", "evaluations", "gap"])
@pytest.mark.parametrize("value", [float("nan"), -1.0, "1", None, True, [1.0], 1j])
def test_a_budget_refuses_what_is_no_number(field, value):
    with pytest.raises(InvalidInput, match=field):
        Budget(**{field: value})


@pytest.mark.parametrize("value", [np.float32(2.0), np.int64(3), 0, 10**30])
def test_a_budget_takes_any_number(value):
    assert Budget(seconds=value).seconds == value


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InvalidInput, match="seed"):
        solve(instance("gaussian", 1, "select"), "magnitude", seed=seed)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--time-limit", "nan"],
        ["--time-limit", "-1"],
        ["--time-limit", "soon"],
        ["--evaluations", "nan"],
        ["--gap", "-0.1"],
        ["--seed", "1.5"],
        ["--seed", "-1"],
        ["--repeat", "0"],
        ["--option", "restarts=0"],
        ["--option", "restarts=nan"],
        ["--option", "restarts=1e30"],
        ["--option", "restarts=99999999999999999999"],
        ["--option", "restart=1"],
        ["--option", "restarts"],
    ],
)
def test_the_command_line_refuses_wrong_numbers_with_exit_code_two(arguments, tmp_path, capsys):
    instance("gaussian", 1, "select").save(tmp_path / "b.npz")
    assert main(["solve", str(tmp_path / "b.npz"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "0"],
        ["--size", "-3"],
        ["--size", "2.5"],
        ["--density", "0"],
        ["--density", "1.5"],
        ["--density", "nan"],
        ["--samples", "0"],
        ["--ridge", "nan"],
        ["--ridge", "-1"],
        ["--gradient-scale", "nan"],
    ],
)
def test_cutting_a_block_refuses_wrong_numbers_with_exit_code_two(arguments, tmp_path, capsys):
    given = {"--size": "8", "--density": "0.5", arguments[0]: arguments[1]}
    words = [word for pair in given.items() for word in pair]
    assert main(["block", "planted", *words, "-o", str(tmp_path / "b.npz")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_options_of_a_class_whose_module_is_gone_are_listed_without_their_texts():
    made = dataclasses.make_dataclass("Made", [("sweeps", int, 3)], frozen=True)
    made.__module__ = "no.longer.there"
    assert options_of(made) == [Option("sweeps", "whole number", "3", "")]
