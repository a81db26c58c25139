"""Masks that were found elsewhere are evaluated by the block: verify --mask, solve --start; and a solver's own log."""

import json

import dimod
import highspy
import numpy as np
import pyscipopt
import pytest

import prunebench
from helpers import call
from prunebench import import_block
from prunebench.testing.instances import BruteForce, instance

PROGRAM = "Minimize\n x + 2 y - 3 z + [ 8 x * y - 2 y * z ] / 2\nSubject To\n c: x + y + z = 2\nBinaries\n x y z\nEnd\n"
BEST, VALUE = [0, 1, 1], -2.0


@pytest.fixture
def block(tmp_path):
    (tmp_path / "p.lp").write_text(PROGRAM)
    found = import_block(tmp_path / "p.lp").block
    found.save(tmp_path / "b.npz")
    return found


def verified(capsys, folder, mask):
    code, out, err = call(capsys, "verify", folder / "b.npz", "--mask", mask, "--json", "--seconds", "2")
    return code, (json.loads(out) if out else err)


CPLEX = """<?xml version = "1.0" encoding="UTF-8"?>
<CPLEXSolution version="1.2"><header problemName="p" objectiveValue="-2"/><variables>
<variable name="x" index="0" value="0"/><variable name="y" index="1" value="0.999999999"/>
<variable name="z" index="2" value="1"/></variables></CPLEXSolution>
"""
HIGHS = "Model status\nOptimal\n\n# Primal solution values\nFeasible\nObjective -2\n"
SCIP = "solution status: optimal\nobjective value:      -2\n"
FILES = {
    "a.txt": "0 1 1\n",
    "b.txt": "# Energy: -2\n0\n1\n1\n",
    "c.txt": "110\n011\n111\n",
    "d.json": "[0, 1, 1]",
    "e.json": "[1, 2]",
    "f.json": "[[true, true, false], [0, 1, 1]]",
    "g.json": '{"mask": [0, 1, 1], "objective": -2}',
    "h.json": '{"x": 0, "y": 1.0, "z": 1}',
    "gurobi.sol": "# Solution for model obj\n# Objective value = -2\nx 0\ny 1\nz 1\nslack 3\n",
    "scip.sol": f"{SCIP}y    1 \t(obj:2)\nz    1 \t(obj:-3)\nquadobjvar  -1 \t(obj:1)\n",
    "highs.sol": f"{HIGHS}# Columns 3\nx 0\ny 1\nz 1\n# Rows 1\nc 2\n",
    "sparse.sol": f"{HIGHS}# Columns -2\ny 1\nz 1\n# Rows -1\nc 2\n",
    "cbc.sol": "Optimal - objective value -2.00000000\n      1 y      1      2\n      2 z      1     -3\n",
    "qplib.sol": "objvar -2\ny 1\nz 1\n",
    "cplex.sol": CPLEX,
}
STATED = {"g.json", "gurobi.sol", "scip.sol", "highs.sol", "sparse.sol", "cbc.sol", "qplib.sol", "cplex.sol"}


@pytest.mark.parametrize("name", FILES)
def test_a_foreign_mask_has_the_value_that_the_block_gives_it(capsys, tmp_path, block, name):
    (tmp_path / name).write_text(FILES[name])
    code, found = verified(capsys, tmp_path, tmp_path / name)
    assert code == 0, found
    assert found["objective"] == VALUE
    assert found["derived_bound"] <= VALUE
    assert found["stated"] == (VALUE if name in STATED else None)
    assert found["masks"] == {"c.txt": 3, "f.json": 2}.get(name, 1)
    assert found["feasible"] == {"c.txt": 2, "f.json": 2}.get(name, 1)


def test_arrays_and_sample_sets(capsys, tmp_path, block):
    np.save(tmp_path / "m.npy", np.array([[1, 1, 0], BEST], dtype=np.int8))
    assert verified(capsys, tmp_path, tmp_path / "m.npy")[1]["objectives"] == [7.0, VALUE]
    spins = dimod.SampleSet.from_samples([{"x": -1, "z": 1, "y": 1}, {"x": 1, "z": 1, "y": 1}], "SPIN", energy=[0, 0])
    (tmp_path / "s.json").write_text(json.dumps(spins.to_serializable()))
    code, found = verified(capsys, tmp_path, tmp_path / "s.json")
    assert (code, found["objectives"]) == (0, [VALUE, None])


def test_files_that_solvers_write_themselves(capsys, tmp_path):
    block = instance("gaussian", 0, "select", p=6)
    block.save(tmp_path / "b.npz")
    call(capsys, "export", tmp_path / "b.npz", "--format", "lp", "-o", tmp_path / "q.lp")
    call(capsys, "export", tmp_path / "b.npz", "--format", "mps", "--formulation", "milp", "-o", tmp_path / "l.mps")
    scip = pyscipopt.Model()
    scip.hideOutput()
    scip.readProblem(str(tmp_path / "q.lp"))
    scip.optimize()
    scip.writeBestSol(str(tmp_path / "scip.sol"))
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.readModel(str(tmp_path / "l.mps"))
    highs.run()
    highs.writeSolution(str(tmp_path / "highs.sol"), 0)
    best = BruteForce.of(block).objective
    for name in ("scip.sol", "highs.sol"):
        code, found = verified(capsys, tmp_path, tmp_path / name)
        assert (code, found["objective"]) == (0, pytest.approx(best, abs=1e-9)), found


def test_the_solution_of_a_submission_to_qoblib_is_read_back(capsys, tmp_path):
    block = instance("gaussian", 0, "select", p=6)
    block.save(tmp_path / "b.npz")
    prunebench.compare([block], ["exhaustive"], out=tmp_path / "c", seeds=1, time_limit=1)
    named = ("--submitter", "N", "--affiliation", "A", "-o", tmp_path / "q")
    assert call(capsys, "export", tmp_path / "c", "--format", "qoblib", *named)[0] == 0
    (file,) = (tmp_path / "q" / "exhaustive").glob("*/*_solution.txt")
    code, found = verified(capsys, tmp_path, file)
    assert (code, found["objective"]) == (0, pytest.approx(BruteForce.of(block).objective, rel=1e-12))


def test_masks_of_which_none_is_feasible_are_not_verified(capsys, tmp_path, block):
    (tmp_path / "m.txt").write_text("111\n100\n")
    code, found = verified(capsys, tmp_path, tmp_path / "m.txt")
    assert code == 1
    assert found["verdict"] == "not verified"
    assert "keeps 3" in found["faults"][0]


REFUSED = {
    "short.txt": ("0 1\n", "2 entries; the block has 3"),
    "words.txt": ("hello there world\n", "neither a name"),
    "empty.txt": ("", "lacks 3 of 3"),
    "half.sol": ("# Objective value = 1\nx 0.5\ny 1\nz 1\n", "x is 0.5"),
    "missing.sol": ("# Objective value = 1\nx 0\ny 1\n", "'z'"),
    "nan.sol": ("# Objective value = 1\nx nan\ny 1\nz 1\n", "neither a name"),
    "none.sol": ("Model status\nInfeasible\n\n# Primal solution values\nNone\n", "no columns"),
    "positions.json": ("[1, 3]", "from 0 to 2"),
    "nested.json": ("[" * 5000, "no JSON"),
    "text.json": ('["x", "y"]', "expected a list"),
    "samples.json": ('{"type": "SampleSet", "num_rows": 4}', "no dimod SampleSet"),
    "bomb.xml": ('<!DOCTYPE l [<!ENTITY a "b">]><CPLEXSolution/>', "document type"),
    "cut.xml": (CPLEX[:200], "no XML"),
    "cut.npy": ("\x93NUMPY", "as an array"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_answers_get_one_clear_error(capsys, tmp_path, block, name):
    text, words = REFUSED[name]
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    for command in (("verify", tmp_path / "b.npz", "--mask"), ("solve", tmp_path / "b.npz", "--start")):
        code, _, err = call(capsys, *command, tmp_path / name)
        assert code == 2, err
        assert words in err, err
        assert name in err


def test_an_array_that_claims_more_than_it_holds_takes_no_memory(capsys, tmp_path, block):
    np.save(tmp_path / "m.npy", np.ones((1, 3), dtype=bool))
    data = (tmp_path / "m.npy").read_bytes().replace(b"(1, 3)", b"(99999999999, 3)")
    (tmp_path / "m.npy").write_bytes(data)
    assert verified(capsys, tmp_path, tmp_path / "m.npy")[0] == 2


def test_a_start_is_where_a_solver_begins(capsys, tmp_path, block):
    (tmp_path / "m.txt").write_text("110\n011\n")
    code, out, _ = call(
        capsys, "solve", tmp_path / "b.npz", "--solver", "magnitude", "--start", tmp_path / "m.txt", "--json"
    )
    assert (code, json.loads(out)["objective"]) == (0, VALUE)
    assert (
        json.loads(call(capsys, "solve", tmp_path / "b.npz", "--solver", "magnitude", "--json")[1])["objective"] == 7.0
    )


def test_the_number_of_files_is_told(capsys, tmp_path, block):
    code, _, err = call(capsys, "verify", tmp_path / "b.npz")
    assert code == 2
    assert "--mask" in err


@pytest.mark.parametrize(("solver", "word"), [("highs", "HiGHS"), ("pyomo", "HiGHS")])
def test_the_solvers_own_log_is_on_standard_error(capfd, tmp_path, solver, word):
    instance("gaussian", 0, "select", p=10).save(tmp_path / "b.npz")
    options = ["--option", "probing=false", "--option", "formulation=residuals"] if solver == "highs" else []
    arguments = ("solve", tmp_path / "b.npz", "--solver", solver, *options, "--json")
    _, out, quiet = call(capfd, *arguments)
    assert "Presol" not in quiet
    code, out, err = call(capfd, *arguments, "--solver-log")
    assert code == 0
    assert "Presol" in err
    assert json.loads(out.splitlines()[-1])["solver"] == solver


def test_a_solver_without_a_log_says_who_has_one(capsys, tmp_path, block):
    code, _, err = call(capsys, "solve", tmp_path / "b.npz", "--solver", "swap", "--solver-log")
    assert code == 2
    assert "highs, pyomo" in err
