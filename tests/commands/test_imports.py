"""Problems that were written elsewhere: read into blocks with the same value on every mask, or refused with what is."""

import gzip
import json
import random

import dimod
import gurobipy
import highspy
import numpy as np
import pyscipopt
import pytest

from prunebench import BlockProblem, Quota, import_block, solve
from prunebench.cli import main
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput
from prunebench.forms.dimod import encode
from prunebench.forms.foreign.reading import READERS
from prunebench.forms.program import program
from prunebench.forms.pyomo import algebraic
from prunebench.forms.text_files import write_mps
from prunebench.testing.instances import instance

LP = """\\ three of five, as Gurobi writes it
Minimize
  2 x1 - 3 x2 + 0.5 big + Constant
   + [ 4 x1 * x2 - 2 x2 * x3 + 6 x1 ^ 2 - 1e-13 x3 * x4 ] / 2
Subject To
 count: x1 + x2 + x3 + x4 + big = 3
Bounds
 Constant = 2.5
Binaries
 x1 x2 x3 x4 big
End
"""

MPS = """* the same with every section of the objective
NAME          example
OBJSENSE
    MAX
ROWS
 N  cost
 L  spent
COLUMNS
    MARKER    'MARKER'    'INTORG'
    a         cost      1.0   spent     2.0
    b         cost      -2.0  spent     1.0
    c         spent     3.0
    MARKER    'MARKER'    'INTEND'
RHS
    RHS       spent     4.0   cost      -10.0
BOUNDS
 BV BND       a
 BV BND       b
 UP BND       c         1
QUADOBJ
    a         a         2.0
    a         b         5.0
    b         c         -1e-13
ENDATA
"""

QPLIB = """QPLIB_0000
QBL
maximize
3 # number of variables
1 # number of constraints
2 # number of quadratic terms in objective
2 1 4.0
3 3 -2.0
1.0 # default value for linear coefficients in objective
1 # number of non-default values
2 -1.5
0.25 # objective constant
3 # number of linear terms in all constraints
1 1 1
1 2 1
1 3 1
1.0E+30 # infinity
2.0 # default left-hand-side
0
2.0 # default right-hand-side
0
0.0 # default starting value
0
0.0 # default multiplier of constraints
0
0.0 # default multiplier of bounds
0
1 # number of non-default names of variables
2 second
0 # of constraints
"""

COO = "# vartype=SPIN\n0 0 1.5\n0 2 -2e0\n1 2 0.25\n"
QUBO = "c qbsolv\np qubo 0 3 2 2\n0 0 -5\n2 2 1.5\nc products\n0 1 2\n1 2 -4e-1\n"
QS = "# made by Zimpl\n# ObjectiveOffset 5\n# Vars Non-zeros\n3 4\n1 1 -1\n1 2 1\n2 2 -1\n3 3 -2\n"
CUT = "4 4\n1 2 1\n2 3 -1\n3 4 2\n4 1\n"

EDGES = [("1", "2", 1), ("2", "3", -1), ("3", "4", 2), ("4", "1", 1)]


def masks(p):
    return ((np.arange(2**p)[:, None] >> np.arange(p)) & 1).astype(bool)


def feasible(block):
    return [mask for mask in masks(block.p) if block.constraint.feasible(mask)]


def written(folder, name, text):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def values(found):
    """The problem's own values on all feasible masks."""
    return np.array([found.value(found.block.evaluate(mask)) for mask in feasible(found.block)])


def expected(found, function):
    names = [str(name) for name in found.block.names]
    return np.array([function(dict(zip(names, mask.astype(int), strict=True))) for mask in feasible(found.block)])


def test_lp_keeps_every_term_and_substitutes_what_is_fixed(tmp_path):
    found = import_block(written(tmp_path, "a.lp", LP))
    assert found.block.keep == 3
    assert found.fixed == {"Constant": 2.5}

    def value(x):
        linear = 2 * x["x1"] - 3 * x["x2"] + 0.5 * x["big"] + 2.5
        return linear + 2 * x["x1"] * x["x2"] - x["x2"] * x["x3"] + 3 * x["x1"] - 5e-14 * x["x3"] * x["x4"]

    np.testing.assert_allclose(values(found), expected(found, value), rtol=0, atol=1e-15)
    assert -5e-14 in found.block.form.hessian


def test_mps_maximises_under_a_budget(tmp_path):
    found = import_block(written(tmp_path, "a.mps", MPS))
    assert found.scale == -1.0
    assert len(feasible(found.block)) == 6
    again = import_block(written(tmp_path, "b.mps", MPS.replace("COLUMNS", " N  other\nCOLUMNS", 1)))
    assert any("'other'" in note for note in again.notes)

    def value(x):
        return 10 + x["a"] - 2 * x["b"] + x["a"] + 5 * x["a"] * x["b"] - 1e-13 * x["b"] * x["c"]

    np.testing.assert_allclose(values(found), expected(found, value), rtol=1e-15)


def test_qmatrix_counts_both_halves_and_a_side_of_a_range_that_never_binds_is_none(tmp_path):
    text = MPS.replace("QUADOBJ", "QMATRIX").replace("    a         b         5.0\n", " a b 5\n b a 5\n")
    text = text.replace("BOUNDS\n", "RANGES\n RNG spent 9\nBOUNDS\n").replace("    b         c         -1e-13\n", "")
    found = import_block(written(tmp_path, "a.mps", text))
    assert found.block.form.hessian[0, 1] == -5.0


def test_qplib_has_half_the_diagonal_and_names(tmp_path):
    found = import_block(written(tmp_path, "a.qplib", QPLIB))
    assert found.block.keep == 2
    assert list(found.block.names) == ["1", "second", "3"]

    def value(x):
        return x["1"] - 1.5 * x["second"] + x["3"] + 0.25 + 4 * x["1"] * x["second"] - x["3"]

    np.testing.assert_allclose(values(found), expected(found, value), rtol=1e-15)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("a.coo", COO, lambda x: 1.5 * s(x["0"]) - 2 * s(x["0"]) * s(x["2"]) + 0.25 * s(x["1"]) * s(x["2"])),
        ("a.qubo", QUBO, lambda x: -5 * x["0"] + 1.5 * x["2"] + 2 * x["0"] * x["1"] - 0.4 * x["1"] * x["2"]),
        ("a.qs", QS, lambda x: 5 - x["1"] + 2 * x["1"] * x["2"] - x["2"] - 2 * x["3"]),
        ("a.mc", CUT, lambda x: sum(w * (x[i] != x[j]) for i, j, w in EDGES)),
    ],
)
def test_lists_have_the_value_of_their_own_definition(tmp_path, name, text, value):
    found = import_block(written(tmp_path, name, text))
    np.testing.assert_allclose(values(found), expected(found, value), rtol=1e-15, atol=1e-15)
    assert len(feasible(found.block)) == 2**found.block.p
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert import_block(packed).block.hash == found.block.hash


def s(bit):
    return 2 * bit - 1


@pytest.mark.parametrize("vartype", ["BINARY", "SPIN"])
def test_a_bqm_is_a_block_with_or_without_a_count(tmp_path, vartype):
    rng = np.random.default_rng(0)
    pairs = {(f"v{i}", f"v{j}"): rng.normal() for i in range(5) for j in range(i)}
    bqm = dimod.BinaryQuadraticModel({f"v{i}": rng.normal() for i in range(5)}, pairs, 1.5, vartype)
    file = tmp_path / "a.bqm"
    with bqm.to_file() as stream:
        file.write_bytes(stream.read())
    for source in (bqm, file):
        free, three = import_block(source), import_block(source, keep=3)
        assert free.block.hash == import_block(bqm).block.hash
        assert three.block.keep == 3
        samples = masks(5).astype(int) if vartype == "BINARY" else 2 * masks(5).astype(int) - 1
        energies = bqm.energies((samples, [str(name) for name in free.block.names]))
        np.testing.assert_allclose(values(free), energies, rtol=1e-13, atol=1e-13)
    again = import_block(written(tmp_path, "b.bqm", json.dumps(bqm.to_serializable())))
    np.testing.assert_allclose(np.sort(values(again)), np.sort(values(free)), atol=1e-13)


def blocks():
    plain = instance("gaussian", 1, "select", p=6, keep=2)
    yield "count", plain
    yield "scaled", instance("gaussian", 2, "select", p=6, keep=3).in_mode("select")
    yield "quota", BlockProblem(plain.form, plain.dense_weights, 3, "select", quota=Quota([0, 1, 0, 1, 0, 1], [2, 1]))
    yield "budget", plain.with_budget(Cost(np.arange(1.0, 7.0)[None], np.array([9.0]), ("MACs",)))


@pytest.mark.parametrize("form", ["lp", "mps", "cqm"])
@pytest.mark.parametrize("kind", ["count", "scaled", "quota", "budget"])
def test_what_is_exported_comes_back_with_the_same_value_on_every_mask(tmp_path, capsys, form, kind):
    block = dict(blocks())[kind]
    block.save(tmp_path / "b.npz")
    assert main(["export", str(tmp_path / "b.npz"), "--format", form, "-o", str(tmp_path / f"b.{form}")]) == 0
    assert main(["import", str(tmp_path / f"b.{form}"), "-o", str(tmp_path / "again.npz"), "--json"]) == 0
    again = BlockProblem.load(tmp_path / "again.npz")
    kept = feasible(block)
    np.testing.assert_array_equal(kept, feasible(again))
    size = max(abs(block.evaluate(mask)) for mask in kept) + abs(block.form.constant)
    np.testing.assert_allclose(
        [again.evaluate(mask) for mask in kept], [block.evaluate(mask) for mask in kept], rtol=0, atol=1e-12 * size
    )
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["p"] == block.p


@pytest.mark.parametrize("writer", ["gurobi", "highs", "pyomo", "scip"])
def test_files_that_others_write_have_the_same_values(tmp_path, writer):
    block = dict(blocks())["count"]
    write_mps(program(block), tmp_path / "own.mps")
    file = tmp_path / f"{writer}.{'mps' if writer == 'highs' else 'lp'}"
    if writer == "gurobi":
        with gurobipy.Env(params={"OutputFlag": 0}) as environment:
            gurobipy.read(str(tmp_path / "own.mps"), environment).write(str(file))
    elif writer == "highs":
        model = highspy.Highs()
        model.setOptionValue("output_flag", False)
        model.readModel(str(tmp_path / "own.mps"))
        model.writeModel(str(file))
    elif writer == "pyomo":
        algebraic(program(block)).write(str(file), io_options={"symbolic_solver_labels": True})
    else:
        model = pyscipopt.Model()
        model.hideOutput()
        model.readProblem(str(tmp_path / "own.mps"))
        model.writeProblem(str(file), verbose=False)
        # SCIP moves a quadratic objective into a row
        with pytest.raises(InvalidInput, match="is quadratic"):
            import_block(file)
        return
    own, other = import_block(tmp_path / "own.mps"), import_block(file)
    places = [int(str(name)[1:]) for name in other.block.names]
    for mask in feasible(block):
        value = own.value(own.block.evaluate(mask))
        assert other.value(other.block.evaluate(mask[places])) == pytest.approx(value, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("form", ["bqm", "coo", "qs"])
def test_penalised_exports_come_back_with_the_count_said_again(tmp_path, form):
    block = dict(blocks())["count"]
    block.save(tmp_path / "b.npz")
    assert main(["export", str(tmp_path / "b.npz"), "--format", form, "-o", str(tmp_path / f"b.{form}")]) == 0
    again = import_block(tmp_path / f"b.{form}", keep=2).block
    penalised = encode(block).couplings.max() + np.abs(import_block(tmp_path / f"b.{form}").block.form.hessian).max()
    for mask in feasible(block):
        assert again.evaluate(mask) == pytest.approx(block.evaluate(mask), abs=1e-13 * penalised)


@pytest.mark.parametrize("form", ["bqm", "coo", "qs", "lp", "mps", "cqm"])
def test_a_problem_without_a_constraint_goes_out_and_comes_back(tmp_path, form):
    first = import_block(written(tmp_path, "a.qs", QS)).block
    first.save(tmp_path / "b.npz")
    assert main(["export", str(tmp_path / "b.npz"), "--format", form, "-o", str(tmp_path / f"b.{form}")]) == 0
    again = import_block(tmp_path / f"b.{form}").block
    assert [again.evaluate(mask) for mask in masks(3)] == [first.evaluate(mask) for mask in masks(3)]


@pytest.mark.parametrize("solver", ["greedy", "random", "anneal", "neal", "branch-and-bound"])
def test_solvers_with_budgets_solve_what_has_no_constraint(tmp_path, solver):
    found = import_block(written(tmp_path, "a.mc", CUT))
    answer = solve(found.block, solver)
    assert found.value(answer.objective) == max(values(found))
    assert found.value(found.block.random_mean()) == pytest.approx(values(found).mean())


REFUSED = {
    "nan.lp": (LP.replace("2 x1 -", "nan x1 -"), "not finite"),
    "cut.lp": (LP.replace("End\n", ""), "End"),
    "continuous.lp": (LP.replace("x3 x4 big", "x3 x4"), "1 continuous (big)"),
    "general.lp": ("Minimize\n x + y\nSubject To\n x + y = 1\nGenerals\n x y\nEnd\n", "2 general integer"),
    "quadratic.lp": (LP.replace("+ big =", "+ big + [ x1 * x2 ] ="), "quadratic"),
    "weighted.lp": (LP.replace("x1 + x2 + x3 + x4", "2 x1 + x2 + x3 + x4"), "different coefficients"),
    "part.lp": (LP.replace(" + x4 + big", ""), "count 3 of 5"),
    "half.lp": (LP.replace("big = 3", "big = 2.5"), "asks for 2.5"),
    "six.lp": (LP.replace("big = 3", "big = 6"), "no mask is feasible"),
    "covering.lp": (LP.replace("big = 3", "big >= 3"), "no budget"),
    "both.lp": (LP.replace("Bounds", " more: x1 + x2 <= 1\nBounds"), "not both"),
    "cut.mps": (MPS.replace("ENDATA\n", ""), "ENDATA"),
    "section.mps": (MPS.replace("QUADOBJ", "SOS1"), "SOS1"),
    "inf.mps": (MPS.replace("5.0\n", "inf\n"), "line 22"),
    "row.mps": (MPS.replace("spent     3.0", "spend     3.0"), "'spend'"),
    "cut.qplib": (QPLIB[: QPLIB.index("0.25")], "ends too early"),
    "constraints.qplib": (QPLIB.replace("QBL", "QBQ"), "quadratic constraints"),
    "place.qplib": (QPLIB.replace("2 1 4.0", "4 1 4.0"), "line 7"),
    "huge.qplib": (QPLIB.replace("3 # number", "99999999999 # number"), "whole number from 0"),
    "cut.qubo": (QUBO.replace("0 1 2\n", ""), "4 terms are announced and 3"),
    "late.qubo": ("0 0 1\n" + QUBO, "before the line"),
    "huge.qubo": (QUBO.replace("0 3 2", "0 3000000000 2"), "whole number from 1"),
    "place.qs": (QS.replace("3 3 -2", "3 4 -2"), "line 8"),
    "overflow.qs": (QS.replace("-2\n", "1e300\n"), "1e"),
    "loop.mc": (CUT.replace("1 2 1", "2 2 1"), "edge to itself"),
    "words.coo": ("# vartype=BINARY\n0 0\n", "line 2"),
    "kind.coo": ("# vartype=QUTRIT\n0 0 1\n", "QUTRIT"),
    "empty.lp": ("", "End"),
    "plain.txt": (CUT, "--format maxcut"),
    "binary.qs": ("3 1\n1 1 \0\n", "no text"),
    "junk.bqm": ("DIMODBQM", "dimod cannot read"),
    "junk.cqm": ("PK", "dimod cannot read"),
    "other.xyz": ("hello\n", "--format"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_get_one_clear_error(tmp_path, capsys, name):
    text, words = REFUSED[name]
    file = written(tmp_path, name, text)
    assert main(["import", str(file), "-o", str(tmp_path / "o.npz")]) == 2
    told = capsys.readouterr().err
    assert words in told, told
    assert str(file) in told, told
    assert not (tmp_path / "o.npz").exists()


def test_a_count_beside_a_constraint_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="leave keep out"):
        import_block(written(tmp_path, "a.lp", LP), keep=2)


@pytest.mark.parametrize("form", ["bqm", "cqm"])
def test_damaged_binary_files_are_refused_or_read_and_nothing_else(tmp_path, form):
    rng = random.Random(0)
    block = dict(blocks())["count"]
    block.save(tmp_path / "b.npz")
    assert main(["export", str(tmp_path / "b.npz"), "--format", form, "-o", str(tmp_path / f"b.{form}")]) == 0
    whole = (tmp_path / f"b.{form}").read_bytes()
    file = tmp_path / f"damaged.{form}"
    for _ in range(6):
        data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(rng.randrange(3)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(bytes(data))
        try:
            import_block(file)
        except InvalidInput as error:
            told = str(error)
        else:
            told = str(file)
        assert str(file) in told


def test_every_format_is_tested():
    tested = {name.rpartition(".")[2] for name in REFUSED} | {"maxcut"}
    assert set(READERS) <= tested
