"""Solvers that nobody registered: as objects and classes from Python, as module:Object or FILE.py:Object by name."""

import json
from dataclasses import dataclass

import pytest

import prunebench
from helpers import call
from prunebench import Solution, Solver, Status, make_solver
from prunebench.cli import main
from prunebench.comparison.request import SolverChoice
from prunebench.core.errors import InvalidInput
from prunebench.core.solver import Stop
from prunebench.testing.conformance import assert_conforms, run_check
from prunebench.testing.instances import instance

WANTED = {"seeds": 1, "time_limit": 2.0}


@dataclass(frozen=True, kw_only=True)
class Lightest(Solver):
    """Keeps the smallest weights: a solver of nobody."""

    name = "lightest"
    modes = frozenset({"select"})

    power: float = 1.0
    """Of the weights."""

    def search(self, best, rng):
        """One mask."""
        best.offer(best.block.top_mask(-(abs(best.block.dense_weights) ** self.power)), "lightest")
        return Stop.finished("once")


class Bare:
    """No dataclass, no base class."""

    name = "swap"
    modes = frozenset({"select", "refit"})

    def refuses(self, block):
        return ""

    def solve(self, block, budget, rng, progress=None):
        return Solution.from_mask(block, block.incumbent, status=Status.FEASIBLE, stop_reason="the start")


class Broken(Bare):
    name = "broken"

    def solve(self, block, budget, rng, progress=None):
        raise ZeroDivisionError("nothing to divide")


@pytest.fixture
def block():
    return instance("gaussian", 0, "select", p=8)


@pytest.fixture
def file(tmp_path):
    """This file under a name that no package has."""
    target = tmp_path / "mine.py"
    target.write_text(
        "import sys\nfrom dwave.samplers import SteepestDescentSampler as Descent\n"
        f"Lightest = sys.modules[{Lightest.__module__!r}].Lightest\nBare = sys.modules[{Lightest.__module__!r}].Bare\n"
        "number = 3\n\ndef made():\n    return Lightest(power=2.0)\n\ndef fails():\n    raise RuntimeError('no key')\n"
    )
    return target


def test_objects_and_classes_compete_without_being_registered(tmp_path, block):
    frame = prunebench.compare([block], [Lightest(power=2.0), Lightest, Bare()], out=tmp_path / "c", **WANTED)
    rows = frame.set_index("solver")["skipped"].to_dict()
    assert {"lightest (power=2.0)", "lightest", "swap"} <= set(rows)
    own = next(label for label in rows if label.endswith("Bare"))
    assert set(rows.values()) == {""}
    objectives = frame.set_index("solver")["objective"]
    assert objectives[own] == block.evaluate(block.incumbent)
    with pytest.raises(InvalidInput, match="given as an object"):
        SolverChoice("lightest", is_object=True).make()


def test_the_command_line_names_a_file(capsys, tmp_path, block, file):
    block.save(tmp_path / "b.npz")
    for name in (f"{file}:Lightest", f"{file}:made", f"{file}:Bare"):
        code, out, err = call(capsys, "solve", tmp_path / "b.npz", "--solver", name, "--json")
        assert code == 0, err
        assert json.loads(out)["objective"] == block.evaluate(block.incumbent)
    code, out, _ = call(
        capsys, "solve", tmp_path / "b.npz", "--solver", f"{file}:Descent", "--option", "reads=5", "--json"
    )
    assert code == 0
    assert json.loads(out)["options"]["sampler"] == f"{file}:Descent"
    for name, words in (("number", "no name, modes and solve"), ("fails", "no key"), ("Lihtest", "did you mean")):
        code, _, err = call(capsys, "solve", tmp_path / "b.npz", "--solver", f"{file}:{name}")
        assert code == 2
        assert words in err


def test_a_comparison_by_name_is_resumed_with_trust_only(capsys, tmp_path, file):
    arguments = ("--size", 8, "--blocks", 1, "--seeds", 1, "--time-limit", 1, "--no-true-loss", "--out", tmp_path / "c")
    code, _, err = call(
        capsys, "compare", "planted", *arguments, "--solver", f"{file}:Lightest:power=3", "--solver",
        "dwave.samplers:SteepestDescentSampler:reads=5", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    held = json.loads((tmp_path / "c" / "run.json").read_text())["request"]["solvers"]
    assert [choice["options"] for choice in held[-2:]] == [{"power": "3"}, {"reads": "5"}]
    (tmp_path / "c" / "result.json").unlink()
    (tmp_path / "c" / "results.parquet").unlink()
    code, _, err = call(capsys, "resume", tmp_path / "c")
    assert code == 2
    assert f"solver={file}:Lightest" in err
    assert call(capsys, "resume", tmp_path / "c", "--trust", "--quiet")[0] == 0


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("anneal:sweeps=5", "anneal", {"sweeps": "5"}),
        ("pack.age:Solver", "pack.age:Solver", {}),
        ("pack:Solver:a=1,b=[2,3]", "pack:Solver", {"a": "1", "b": "[2,3]"}),
        ("/some/file.py:Solver:a=x:y", "/some/file.py:Solver", {"a": "x:y"}),
    ],
)
def test_names_with_colons_are_parted(text, name, options):
    assert SolverChoice.parse(text) == SolverChoice(name, options)


def test_what_is_not_there_is_told():
    with pytest.raises(InvalidInput, match="no_such_package"):
        make_solver("no_such_package:Solver")
    with pytest.raises(InvalidInput, match="is not there"):
        make_solver("no/such.py:Solver")


def test_a_solver_that_raises_is_named_with_check_family_mode_and_seed():
    with pytest.raises(
        AssertionError, match=r"broken fails keeps_exactly_keep on gaussian, seed 0, mode select: .*Zero"
    ):
        assert_conforms(Broken(), seeds=[0])
    with pytest.raises(AssertionError, match="seed 3, mode refit: it raises ZeroDivisionError"):
        run_check("trace_is_monotone", Broken(), "gaussian", "refit", [3])


def test_a_block_file_takes_no_arguments_of_a_problem(tmp_path, capsys):
    file = tmp_path / "b.npz"
    instance("gaussian", 0, "select").save(file)
    assert main(["compare", str(file), "--solver", "magnitude", "--mode", "refit"]) == 2
    assert "--mode says how blocks are cut out of a problem" in capsys.readouterr().err
