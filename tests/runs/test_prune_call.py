"""prunebench.prune: one call for a torch model, its result, going on with a run, and the same on the command line."""

import json

import pytest
import torch
from torch import nn

import prunebench
from helpers import call, refused
from prunebench import Pruned, own_network
from prunebench.core.errors import Interrupted, InvalidInput
from prunebench.runs.runner import Step

QUICK = {"coordinator": "one-shot", "solver": "magnitude", "samples": 16, "progress": False}
"""A way to prune that takes milliseconds."""


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def data(count=60):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def pruned_by(model, **arguments):
    return prunebench.prune(model, data(), loss="cross_entropy", **QUICK, **arguments)


def test_masks_keep_the_exact_count_and_the_model_is_as_before():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for amount, kept in (({"density": 0.37}, round(0.37 * 72)), ({"keep": 5}, 5)):
        pruned = pruned_by(model, **amount)
        assert sum(int(mask.sum()) for mask in pruned.masks.values()) == pruned.kept == kept
        assert pruned.total == 72
        assert all(not pruned.weights[name][~mask].any() for name, mask in pruned.masks.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training


def test_apply_and_torchs_own_masks_give_the_same_outputs():
    pruned, x = pruned_by(network(), density=0.5), data()[0]
    applied, masked = pruned.apply(network()).eval(), pruned.as_torch_prune(network()).eval()
    torch.testing.assert_close(applied(x), masked(x))
    assert {"0.weight_orig", "3.weight_orig"} <= set(dict(masked.named_parameters()))
    assert torch.equal(masked[0].weight_mask.bool(), pruned.masks["0.weight"])
    assert torch.equal(masked[0].weight_orig[~pruned.masks["0.weight"]], network()[0].weight[~pruned.masks["0.weight"]])
    pruned.apply(applied)
    again = prunebench.prune(masked, data(), loss="cross_entropy", density=0.25, **QUICK)
    assert again.apply(masked)[0].weight_mask.bool().equal(again.masks["0.weight"])


def test_another_model_is_refused_and_nothing_written():
    pruned = pruned_by(network(), density=0.5)
    for other, why in (
        (network(seed=1), "its values are others"),
        (nn.Sequential(*network()[:3], nn.Linear(8, 4)), "has shape"),
        (nn.Sequential(*network(), nn.Linear(3, 3)), "which that one has not"),
        (nn.Linear(6, 8), "is not there"),
    ):
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        for put in (pruned.apply, pruned.as_torch_prune):
            with pytest.raises(InvalidInput, match=why):
                put(other)
        assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_a_saved_result_is_the_same_again_and_a_table_says_what_it_is(tmp_path):
    pruned = pruned_by(network(), density=0.5)
    loaded = Pruned.load(pruned.save(tmp_path / "kept"))
    assert str(loaded) == str(pruned)
    assert all(torch.equal(loaded.masks[name], mask) for name, mask in pruned.masks.items())
    loaded.apply(network())
    for words in ("0.weight", "density", "accuracy", "dense", "12 of 60 samples are held out"):
        assert words in str(pruned)
        assert words in pruned._repr_html_()
    assert "36 of 72" in repr(pruned)


def test_masks_stand_in_the_order_of_the_network(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential()
    for name, inner in (("see", nn.Linear(6, 8)), ("act", nn.ReLU()), ("judge", nn.Linear(8, 3))):
        model.add_module(name, inner)
    pruned = pruned_by(model, density=0.5)
    assert list(pruned.masks) == ["see.weight", "judge.weight"]
    assert list(Pruned.load(pruned.save(tmp_path / "kept")).masks) == ["see.weight", "judge.weight"]


def test_nothing_is_left_on_disk_without_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pruned_by(network(), density=0.5)
    assert not list(tmp_path.iterdir())


def test_what_is_not_pruned_and_the_choice_of_parameters_are_told(capsys):
    arguments = QUICK | {"progress": True}
    prunebench.prune(network(), data(), loss="cross_entropy", density=0.5, exclude="3.*", **arguments)
    told = capsys.readouterr()
    assert told.out == ""
    assert "not pruned: 1 matrix, 24 weights" in told.err
    assert "12 of 60 samples are held out to judge" in told.err
    assert "pruning" in told.err


class Stop(Exception):
    pass


def test_a_run_goes_on_to_the_result_it_would_have_had_and_only_with_the_same_network(tmp_path, monkeypatch, capsys):
    way = {"coordinator": "icbs", "solver": "swap", "steps": 4, "samples": 16, "block_size": 8, "progress": False}

    def run(model=None, density=0.5, **arguments):
        return prunebench.prune(
            network() if model is None else model, data(), loss="cross_entropy", density=density, **way, **arguments
        )

    whole = run()
    folder = tmp_path / "run"
    held = prunebench.runs.runner._Log.step

    def interrupted(log, *arguments):
        held(log, *arguments)
        if log.steps == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("prunebench.runs.runner._Log.step", interrupted)
        with pytest.raises(Interrupted, match="Go on with the same call and resume=True"):
            run(out=folder)
        with pytest.raises(Interrupted, match="give out=FOLDER and then resume=True"):
            run()
    with pytest.raises(InvalidInput, match="another model than the run began with"):
        run(network(seed=1), out=folder, resume=True)
    with pytest.raises(InvalidInput, match=r"its density is 0\.5, and 0\.25 is asked for"):
        run(density=0.25, out=folder, resume=True)
    with pytest.raises(InvalidInput, match="not empty"):
        run(out=folder)
    assert "go on from that program" in refused(capsys, "resume", folder)
    done = run(out=folder, resume=True)
    assert all(torch.equal(done.masks[name], mask) for name, mask in whole.masks.items())
    assert str(run(out=folder, resume=True)) == str(done)
    assert Pruned.load(folder).kept == whole.kept
    code, _, err = call(capsys, "report", folder, "-o", tmp_path / "page.html")
    assert code == 0, err
    assert "own:Sequential" in (tmp_path / "page.html").read_text()


PROGRAM = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(60, 6)
    return model, (x, (x[:, 0] > 0).long()), "cross_entropy"

def by_name():
    model, data, loss = make()
    return dict(model=model, data=data, loss=loss, evaluate=lambda network: {"own": 0.25})

def other():
    torch.manual_seed(9)
    return make()

def wrong():
    return 3
"""


def test_a_function_of_a_file_makes_the_network_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.py"
    file.write_text(PROGRAM)
    way = ("--density", "0.5", "--coordinator", "one-shot", "--solver", "magnitude", "--samples", "16")
    code, out, err = call(capsys, "prune", "own.py:by_name", *way, "--option", "exclude=2.*", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["problem"], result["kept"], result["total"], result["own"]) == ("own.py:by_name", 24, 48, 0.25)
    assert result["run"] == "runs/own-by_name-magnitude-001"
    run = json.loads((tmp_path / result["run"] / "run.json").read_text())
    assert set(run["request"]["problem_options"]) == {"fingerprint", "data", "loss", "exclude"}
    (tmp_path / result["run"] / "result.json").unlink()
    assert "problem=own.py:by_name" in refused(capsys, "resume", result["run"])
    assert call(capsys, "resume", result["run"], "--trust")[0] == 0
    (tmp_path / result["run"] / "result.json").unlink()
    file.write_text(PROGRAM.replace("manual_seed(0)", "manual_seed(1)"))
    assert "another model than the run began with" in refused(capsys, "resume", result["run"], "--trust")
    for function, why in (("wrong", "gives a int"), ("mak", "did you mean 'make'"), ("make", "raised ValueError: no")):
        if function == "make":
            file.write_text("def make():\n    raise ValueError('no')\n")
        assert why in refused(capsys, "prune", f"own.py:{function}", *way)
    assert "is not there" in refused(capsys, "prune", "none.py:make", *way)


def test_blocks_and_comparisons_take_a_network_of_ones_own(tmp_path, capsys):
    problem = own_network(network(), data(), loss="cross_entropy")
    block = prunebench.cut_block(problem, size=8, density=0.5, curvature={"samples": 16})
    assert block.problem == "own:Sequential"
    assert prunebench.solve(block, "exhaustive").mask.sum() == 4
    frame = prunebench.compare(
        problem, ["exhaustive"], sizes=(8,), blocks=1, seeds=1, time_limit=1.0, curvature={"samples": 16},
        out=tmp_path / "compared", cache=False,
    )  # fmt: skip
    assert set(frame["problem"]) == {"own:Sequential"}
    assert frame["true_change"].notna().any()


def test_a_registered_problem_by_name_is_the_same_call():
    pruned = prunebench.prune("planted", density=0.5, solver="magnitude", p=12, progress=False)
    assert pruned.kept == 6
    with pytest.raises(InvalidInput, match="loss is given"):
        prunebench.prune("planted", density=0.5, loss="mse", progress=False)


def test_the_bar_leaves_compilation_out_of_its_estimate(monkeypatch, capsys):
    from prunebench import progress

    clock = iter([100.0, 130.0])
    monkeypatch.setattr(progress, "perf_counter", lambda: next(clock))
    bar = progress.Bar()
    bar.step(Step(1, 4, "accepted"))
    began = bar._bar.start_t
    with bar.compiling():
        pass
    assert bar._bar.start_t == began + 30.0
    bar.step(Step(2, 4, "accepted"))
    assert (bar._bar.n, bar._bar.total) == (2, 4)
    bar.close()
    shown = capsys.readouterr().err
    assert "compiling" in shown
    assert "compilation took 30.0 s" in shown


def test_where_targets_are_no_classes_refitted_layers_go_by_the_datas_own(capsys):
    x, _ = data()
    way = {"coordinator": "multi-stage", "solver": "iht", "stages": 1, "samples": 16, "recover": ["layers:samples=16"]}
    pruned = prunebench.prune(network(), (x, x[:, :3]), loss="mse", density=0.5, **way)
    assert pruned.kept == 36
    assert "at the data's own targets" in capsys.readouterr().err


def test_layers_that_cannot_be_refitted_stay_as_they_are_and_are_told():
    torch.manual_seed(0)
    depthwise = nn.Conv2d(4, 4, 3, groups=4)
    model = nn.Sequential(depthwise, nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 2), nn.Flatten(), nn.Linear(32, 3))
    x = torch.randn(40, 4, 5, 5)
    pruned = prunebench.prune(
        model, (x, x[:, 0, 0, 0].gt(0).long()), loss="cross_entropy", density=0.5, coordinator="multi-stage",
        solver="obd", mode="refit", recover=["layers:samples=16"], stages=2, samples=8, held_out=8, progress=False,
    )  # fmt: skip
    assert pruned.kept == round(0.5 * pruned.total)
    (told,) = [note for note in pruned.notes if note.startswith("not refitted")]
    assert "1 matrix, 32 weights: 2.weight" in told
