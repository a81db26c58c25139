"""Every exported file, read by the programs it is for: their optimum and their values are the block's."""

import itertools
import json

import dimod
import gurobipy
import highspy
import numpy as np
import pyscipopt
import pytest
from dimod.serialization import coo

from prunebench import BlockProblem, QuadraticForm, solve
from prunebench.cli import main
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Quota
from prunebench.forms import qiskit as qiskit_forms
from prunebench.forms.program import Units, program, reach
from prunebench.forms.text_files import EXPORTS as TEXT_EXPORTS

P, KEEP = 5, 2


def block_of(mode="select", unit=1.0, constant=0.0, *, weight=1.0, seed=0, quota=False, keep=KEEP):
    """A block whose objective has the size `unit` and whose weights have the size `weight`."""
    rng = np.random.default_rng(seed)
    weights = weight * rng.normal(size=P)
    form = QuadraticForm(
        factor=np.sqrt(unit) / weight * rng.normal(size=(4, P)),
        ridge=0.1 * unit / weight**2,
        centre=1.1 * weights,
        linear=unit / weight * rng.normal(size=P),
        constant=constant,
    )
    groups = Quota(np.arange(P) % 2, np.array([2, 1])) if quota else None
    return BlockProblem(form, weights, 3 if quota else keep, mode, quota=groups)


def feasible_masks(block):
    for chosen in itertools.combinations(range(P), block.keep):
        mask = np.isin(np.arange(P), chosen)
        if block.quota is None or not block.quota.violation(mask):
            yield mask


def exported(block, folder, capsys, form, *options):
    """The written file and its units as the command prints them."""
    block.save(folder / "block.npz")
    target = folder / f"out.{form}"
    code = main([
        "export", str(folder / "block.npz"), "--format", form, "-o", str(target), "--json", "--quiet", *options
    ])  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    assert code == 0
    return target, Units(printed["scale"], printed["constant"], printed["weight_scale"])


def lp_copy(target):
    """Readers go by the suffix: a qp file is an LP file."""
    return target if target.suffix != ".qp" else target.rename(target.with_suffix(".lp"))


def gurobi(target):
    """(objective, values by name) of Gurobi's optimum, with its own tolerances."""
    with gurobipy.Env(params={"OutputFlag": 0}) as environment, gurobipy.read(str(target), environment) as model:
        model.optimize()
        assert model.Status == gurobipy.GRB.OPTIMAL
        return model.ObjVal, {variable.VarName: variable.X for variable in model.getVars()}


def scip(target):
    """(objective, values by name) of SCIP's optimum, with its own tolerances."""
    model = pyscipopt.Model()
    model.hideOutput()
    model.readProblem(str(target))  # of an .nl file it reads the names beside it
    model.setParam("limits/nodes", 3_000)
    model.optimize()
    assert model.getStatus() == "optimal"
    own = ("quadobjvar", "qmatrixvar", "nlobjvar")  # SCIP puts a quadratic objective into a constraint
    named = {v.name: model.getVal(v) for v in model.getVars() if v.name not in own}
    return model.getObjVal(), named


def highs_model(target):
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    assert model.readModel(str(target)) == highspy.HighsStatus.kOk
    return model


def highs_values(target, points):
    """HiGHS solves no quadratic program in integers: its objective at given points, by name."""
    model = highs_model(target)
    linear, hessian = model.getLp(), model.getModel().hessian_
    matrix = np.zeros((linear.num_col_, linear.num_col_))
    starts = list(hessian.start_)
    for column in range(hessian.dim_):
        for entry in range(starts[column], starts[column + 1]):
            matrix[hessian.index_[entry], column] = matrix[column, hessian.index_[entry]] = hessian.value_[entry]
    found = []
    for point in points:
        x = np.array([point[name] for name in linear.col_names_])
        found.append(linear.offset_ + np.array(linear.col_cost_) @ x + 0.5 * x @ matrix @ x)
    return np.array(found)


def mask_in(named):
    return np.array([named[f"m{i}"] > 0.5 for i in range(P)])


def assert_finds_the_optimum(block, found, units):
    value, named = found
    best, spread = solve(block, "exhaustive"), block.random_mean() - min(map(block.evaluate, feasible_masks(block)))
    expected = {f"m{i}" for i in range(P)} | ({f"w{i}" for i in range(P)} if block.mode == "refit" else set())
    assert set(named) == expected
    assert np.array_equal(mask_in(named), best.mask)
    assert units.objective(value) == pytest.approx(best.objective, abs=1e-5 * spread)
    if block.mode == "refit":
        weights = np.array([named[f"w{i}"] for i in range(P)]) / units.weight_scale
        assert np.allclose(weights, best.weights, atol=1e-2 * np.abs(best.weights).max())


CASES = {
    "plain": {},
    "negative": {"constant": -20.0},
    "drowned": {"constant": 1e6, "seed": 1},
    "tiny": {"unit": 1e-12, "constant": -3e-12, "seed": 2},
    "small": {"unit": 1e-6, "weight": 1e-3, "seed": 3},
    "large": {"unit": 1e6, "constant": -1e7, "weight": 1e3, "seed": 4},
    "huge": {"unit": 1e12, "seed": 5},
    "quota": {"unit": 1e-6, "constant": 1.0, "quota": True, "seed": 6},
}


@pytest.mark.parametrize(
    ("case", "mode"),
    [*((case, "select") for case in CASES), *((case, "refit") for case in ("negative", "small", "large", "quota"))],
)
def test_gurobi_and_scip_find_the_blocks_optimum_in_every_file(case, mode, tmp_path, capsys):
    block = block_of(mode, **CASES[case])
    for form, reader in (("lp", gurobi), ("lp", scip), ("mps", gurobi), ("mps", scip), ("nl", scip)):
        target, units = exported(block, tmp_path, capsys, form)
        assert_finds_the_optimum(block, reader(target), units)


@pytest.mark.parametrize("form", ["lp", "mps"])
@pytest.mark.parametrize("case", CASES)
def test_highs_keeps_every_term_and_solves_the_linear_formulation(case, form, tmp_path, capsys):
    block = block_of(**CASES[case])
    masks = list(feasible_masks(block))
    truth = np.array([block.evaluate(mask) for mask in masks])
    target, units = exported(block, tmp_path, capsys, form)
    values = highs_values(target, [{f"m{i}": float(on) for i, on in enumerate(mask)} for mask in masks])
    spread = truth.mean() - truth.min()
    assert np.allclose([units.objective(value) for value in values], truth, rtol=0.0, atol=1e-9 * spread + 1e-15 * abs(
        truth).max())  # fmt: skip

    target, units = exported(block, tmp_path, capsys, form, "--formulation", "milp")
    model = highs_model(target)
    model.run()
    assert model.getModelStatus() == highspy.HighsModelStatus.kOptimal
    named = dict(zip(model.getLp().col_names_, model.getSolution().col_value, strict=True))
    kept = {name: value for name, value in named.items() if name.startswith("m")}
    assert_finds_the_optimum(block, (model.getObjectiveValue(), kept), units)


@pytest.mark.parametrize("case", CASES)
def test_dimod_reads_the_blocks_values_and_optimum(case, tmp_path, capsys):
    block = block_of(**CASES[case])
    masks = list(feasible_masks(block))
    truth = np.array([block.evaluate(mask) for mask in masks])
    close = {"rtol": 1e-12, "atol": 1e-9 * (truth.max() - truth.min())}
    for form in ("cqm", "lp", "bqm", "coo"):
        target, units = exported(block, tmp_path, capsys, form)
        if form in ("cqm", "lp"):
            cqm = dimod.CQM.from_file(target.read_bytes()) if form == "cqm" else dimod.lp.load(str(target))
            model = cqm.objective
        else:
            read = dimod.BQM.from_file if form == "bqm" else lambda data: coo.loads(data.decode())
            model = read(target.read_bytes())
        names = [f"m{i}" if form == "lp" else i for i in range(P)]
        assert list(model.variables) == names
        points = [dict(zip(names, map(int, mask), strict=True)) for mask in masks]
        assert np.allclose([units.objective(model.energy(point)) for point in points], truth, **close)
        if form in ("cqm", "lp"):
            assert all(cqm.check_feasible(point) for point in points)
            everything = dict.fromkeys(names, 1)
            assert not cqm.check_feasible(everything)
        else:
            first = dimod.ExactSolver().sample(model).first
            assert np.array_equal([first.sample[name] for name in names], masks[int(truth.argmin())])


def test_qiskit_reads_the_program_through_gurobi(tmp_path, capsys):
    translators = pytest.importorskip("qiskit_optimization.translators")
    block = block_of(unit=1e-6, constant=-2e-6)
    target, units = exported(block, tmp_path, capsys, "qp")
    with gurobipy.Env(params={"OutputFlag": 0}) as environment:
        read = translators.from_gurobipy(gurobipy.read(str(lp_copy(target)), environment))
    assert [variable.name for variable in read.variables] == [f"m{i}" for i in range(P)]
    for mask in feasible_masks(block):
        assert read.is_feasible(mask.astype(float))
        assert units.objective(read.objective.evaluate(mask.astype(float))) == pytest.approx(block.evaluate(mask))


def test_the_circuits_units_give_the_objective_from_its_operator(tmp_path, capsys):
    block = block_of(unit=1e-6, constant=-2.0)
    target, units = exported(block, tmp_path, capsys, "qasm")
    fields, couplings, _ = qiskit_forms.ising_coefficients(block)
    for mask in feasible_masks(block):
        spins = 1.0 - 2.0 * mask
        value = units.scale * (spins @ fields + spins @ couplings @ spins)
        assert units.objective(value) == pytest.approx(block.evaluate(mask), rel=1e-12)
    assert units.text() in target.read_text()
    pytest.importorskip("qiskit_qasm3_import").parse(target.read_text())


@pytest.mark.parametrize("form", ["lp", "mps", "nl", "qp", "coo", "qasm"])
def test_scale_and_constant_stand_in_the_file_as_in_the_output(form, tmp_path, capsys):
    target, units = exported(block_of(unit=1e-6, constant=7.0), tmp_path, capsys, form)
    assert units.constant != 0.0
    assert units.text() in target.read_text()


def test_the_objective_is_written_as_it_is_where_readers_keep_it(tmp_path, capsys):
    for form in ("bqm", "cqm", "lp", "mps", "nl", "qp"):
        _, units = exported(block_of(constant=-5.0), tmp_path, capsys, form)
        assert units == Units()
    main(["export", str(tmp_path / "block.npz"), "--format", "lp", "-o", str(tmp_path / "o.lp")])
    assert "objective is the block's" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["lp", "mps", "qp"])
@pytest.mark.parametrize("keep", [0, P])
def test_a_block_with_one_mask_has_its_value(keep, form, tmp_path, capsys):
    block = block_of(constant=-5.0, keep=keep)
    target, units = exported(block, tmp_path, capsys, form)
    value, named = gurobi(lp_copy(target))
    assert mask_in(named).sum() == keep
    assert units.objective(value) == pytest.approx(block.evaluate(block.incumbent), rel=1e-9)


@pytest.mark.parametrize("form", ["bqm", "cqm", "coo", "qasm"])
def test_formats_of_masks_alone_refuse_mode_refit(form, tmp_path, capsys):
    block_of("refit").save(tmp_path / "block.npz")
    code = main(["export", str(tmp_path / "block.npz"), "--format", form, "-o", str(tmp_path / f"o.{form}")])
    assert code == 2
    assert "mode refit" in capsys.readouterr().err
    assert not (tmp_path / f"o.{form}").exists()


def test_a_curvature_that_bounds_no_weight_is_refused(tmp_path):
    weights = np.ones(P)
    form = QuadraticForm(factor=np.ones((1, P)), ridge=1e-18, centre=weights)
    with pytest.raises(InvalidInput, match="singular to rounding"):
        program(BlockProblem(form, weights, KEEP, "refit"))


@pytest.mark.parametrize("constant", [0.0, -1e4])
def test_every_weight_vector_no_worse_than_the_start_lies_within_the_bounds(constant):
    block = block_of("refit", constant=constant)
    upper = block.evaluate(block.incumbent)
    free, wide, _ = reach(block, upper)
    inverse = np.linalg.inv(block.form.gram(np.arange(P)))
    room = upper - block.form.value(free)
    for i in range(P):
        # The point of the level set of `upper` that lies farthest out along axis i, away from zero.
        move = np.sqrt(2.0 * room / inverse[i, i]) * inverse[i] * (np.sign(free[i]) or 1.0)
        assert block.form.value(free + move) == pytest.approx(upper)
        assert abs(free + move)[i] <= wide[i] * (1 + 1e-12)
        assert wide[i] <= 1.1 * abs(free + move)[i] + 1e-3


@pytest.mark.parametrize(
    ("form", "option"), [("lp", "--encoding=safe"), ("cqm", "--encoding=safe"), ("bqm", "--formulation=milp")]
)
def test_an_option_of_another_format_is_refused(form, option, tmp_path, capsys):
    block_of().save(tmp_path / "block.npz")
    code = main(["export", str(tmp_path / "block.npz"), "--format", form, "-o", str(tmp_path / "o"), option])
    assert code == 2
    assert f"{form} has none" in capsys.readouterr().err


def test_the_linear_formulation_of_mode_refit_is_refused():
    with pytest.raises(InvalidInput, match="leave the formulation at miqp"):
        program(block_of("refit"), "milp")


def test_a_milder_penalty_is_written_on_request(tmp_path, capsys):
    block = block_of()
    safe = dimod.BQM.from_file(exported(block, tmp_path, capsys, "bqm")[0].read_bytes())
    mild = dimod.BQM.from_file(exported(block, tmp_path, capsys, "bqm", "--encoding", "adaptive")[0].read_bytes())
    assert mild.quadratic[(0, 1)] < safe.quadratic[(0, 1)]


def test_lines_of_large_lp_files_stay_short(tmp_path):
    rng = np.random.default_rng(0)
    form = QuadraticForm(factor=rng.normal(size=(8, 60)), ridge=0.1, centre=rng.normal(size=60))
    TEXT_EXPORTS["lp"](BlockProblem(form, rng.normal(size=60), 30, "select"), tmp_path / "b.lp")
    assert max(map(len, (tmp_path / "b.lp").read_text().splitlines())) < 500
