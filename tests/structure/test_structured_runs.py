"""Structured pruning by the command line: runs, resuming, files, and what is refused."""

import json

import numpy as np
import pytest
import torch

from helpers import call, refused
from prunebench.log.run_directory import RunDirectory
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.runs.smaller import export_smaller, time_smaller
from prunebench.structure.cost import Cost, Term
from prunebench.structure.linear_cost import GateBudget


def test_the_families_of_a_problem_are_listed(capsys):
    code, out, _ = call(capsys, "structure", "digits-mlp")
    assert code == 0
    assert "neurons  fc1     32      100.0%" in out
    assert "an output of the network" in out
    code, out, _ = call(capsys, "structure", "digits-mlp", "--json")
    held = json.loads(out)
    (family,) = held["families"]
    assert (family["name"], family["kind"], family["groups"]) == ("fc1", "neurons", 32)
    assert family["members"] == ["fc1.weight[0]", "fc1.bias[0]", "fc2.weight[1]"]
    assert family["share"]["macs"] == 1.0
    assert held["costs"] == {"macs": 2368.0, "parameters": 2410.0, "bytes": 9640.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("structured") / "run"
    result = prune(
        PruneRequest(
            problem="digits-mlp", density=0.5, coordinator="structured", solver="obd",
            coordinator_options={"samples": 300},
        ),
        out=path,
    )  # fmt: skip
    return path, result


def test_a_run_leaves_a_smaller_network(run):
    path, result = run
    assert (result["kept"], result["total"], result["budget"]) == (16, 32, "macs")
    assert result["costs"]["macs"] == {"dense": 2368.0, "pruned": 1184.0}
    assert result["accuracy"] > 0.85
    assert result["kept_per_layer"] == {"fc1:neurons": 16}
    program = torch.export.load(path / "model.pt2").module()
    assert program(torch.zeros(11, 64)).shape == (11, 10)
    facts = json.loads((path / "structure.json").read_text())
    assert facts["families"] == [{"name": "fc1", "kind": "neurons", "before": 32, "after": 16}]
    assert facts["module"] == "takes the smaller weights"
    assert facts["difference"] < 1e-5
    assert [event["kind"] for event in RunDirectory.open(path).events()] == ["gates, coupling 0", "refit"]


def test_an_interrupted_run_resumes_to_the_same(run, tmp_path, monkeypatch):
    from prunebench.coordinators.structured import Structured
    from prunebench.core.errors import Interrupted

    path, result = run
    request = RunDirectory.open(path).request
    whole = Structured._pruned

    def stop(self, kept):
        raise KeyboardInterrupt

    monkeypatch.setattr(Structured, "_pruned", stop)
    with pytest.raises(Interrupted):
        prune(PruneRequest(**request), out=tmp_path / "run")
    monkeypatch.setattr(Structured, "_pruned", whole)
    monkeypatch.setattr(Structured, "_gather", stop)
    again = resume(tmp_path / "run")
    for key in ("kept", "accuracy", "loss", "objective", "costs"):
        assert again[key] == result[key], key


def test_layers_choose_by_their_own_error(tmp_path):
    result = prune(
        PruneRequest(
            problem="digits-mlp", density=0.5, coordinator="structured", solver="group-swap",
            coordinator_options={"samples": 300, "choice": "layers"},
        ),
        out=tmp_path / "run",
    )  # fmt: skip
    assert result["kept"] == 16
    assert result["accuracy"] > 0.85
    kinds = [event["kind"] for event in RunDirectory.open(tmp_path / "run").events()]
    assert kinds == ["fc1"]


def test_select_chooses_the_coupling_on_held_out_samples(tmp_path):
    result = prune(
        PruneRequest(
            problem="digits-mlp", density=0.75, coordinator="structured", solver="greedy", mode="select",
            coordinator_options={"samples": 300, "couplings": "0,1"},
        ),
        out=tmp_path / "run",
    )  # fmt: skip
    events = RunDirectory.open(tmp_path / "run").events()
    judged = [event["true_after"] for event in events if event["kind"] == "masked"]
    assert len(judged) == 2
    assert [event["accepted"] for event in events if event["kind"] == "masked"] == [True, judged[1] < judged[0]]
    assert result["kept"] == 24


def test_a_smaller_network_is_exported_and_timed(run, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'prunebench[onnx]'")
    path, _ = run
    made = export_smaller(path, tmp_path / "small.onnx", "onnx")
    assert made["difference"] < 1e-5
    code, out, _ = call(capsys, "export-model", path, "--format", "safetensors", "-o", tmp_path / "small.safetensors")
    assert (code, "format safetensors" in out) == (0, True)
    timed = time_smaller(path, runtimes=("torch", "onnxruntime"), threads=(1,), batch=8, runs=3)
    assert [row["runtime"] for row in timed["rows"]] == ["torch", "onnxruntime"]
    assert timed["macs"] == 2.0
    assert all(row["dense_ms"] > 0 and row["pruned_ms"] > 0 for row in timed["rows"])


def test_a_language_model_loses_heads_and_neurons(tiny_mistral, tmp_path):
    result = prune(
        PruneRequest(
            problem="causal-lm", density=0.8, coordinator="structured", solver="obd",
            problem_options={"model": str(tiny_mistral), "text": str(tiny_mistral / "text.json"), "context": 16,
                             "sequences": 20},
            coordinator_options={"samples": 10, "budget": "parameters", "uniform": True},
        ),
        out=tmp_path / "run",
    )  # fmt: skip
    assert result["costs"]["parameters"]["pruned"] <= 0.8 * result["costs"]["parameters"]["dense"]
    assert {name.rpartition(":")[2] for name in result["kept_per_layer"]} == {"kv-heads", "neurons"}
    assert result["perplexity"] > 1.0
    program = torch.export.load(tmp_path / "run" / "model.pt2").module(check_guards=False)
    assert program(torch.zeros(2, 9, dtype=torch.int64)).logits.shape[:2] == (2, 9)

    from transformers import AutoModelForCausalLM

    from prunebench.runs.export import export_model

    written = export_model(tmp_path / "run", tmp_path / "folder")
    assert written["difference"] < 1e-5
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    tokens = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, program(tokens).logits, rtol=1e-4, atol=1e-4)


def test_the_report_has_a_table_of_smaller_networks(run, tmp_path, capsys):
    path, _ = run
    code, _, _ = call(capsys, "report", path, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert code == 0
    assert "Smaller networks" in page
    assert "fc1 32 to 16" in page


def test_the_groups_of_a_network_are_a_block_for_any_solver(tmp_path, capsys):
    from prunebench import BlockProblem, solve

    file = tmp_path / "g.npz"
    arguments = ("--structure", "neurons", "--density", "0.5", "--samples", "200", "-o", file)
    code, out, _ = call(capsys, "block", "digits-mlp", *arguments)
    assert (code, "32 weights of digits-mlp" in out) == (0, True)
    block = BlockProblem.load(file)
    assert (block.p, block.keep, block.mode) == (32, 16, "select")
    assert (block.dense_weights == 1.0).all()
    proved = solve(block, "branch-and-bound")
    assert str(proved.status) == "optimal"
    assert solve(block, "greedy").objective >= proved.objective


def test_counts_and_choice_are_one_block_with_the_cost_as_its_budget(tmp_path, capsys):
    from prunebench import BlockProblem, solve

    file = tmp_path / "g.npz"
    arguments = ("--structure", "neurons", "--density", "0.5", "--samples", "200", "--by", "budget", "-o", file)
    code, out, _ = call(capsys, "block", "digits-mlp", *arguments)
    assert (code, "budget macs up to 1110" in out) == (0, True), out
    block = BlockProblem.load(file)
    # the best neuron stays; each of the others costs 64 + 10 multiplications
    assert (block.p, block.budget.names) == (31, ("macs",))
    assert (block.budget.costs == 74.0).all()
    proved = solve(block, "branch-and-bound")
    assert str(proved.status) == "optimal"
    assert proved.mask.sum() <= 15
    result = prune(
        PruneRequest(
            problem="digits-mlp", density=0.5, coordinator="structured", solver="swap",
            coordinator_options={"samples": 300, "allocation": "block"},
        ),
        out=tmp_path / "run",
    )  # fmt: skip
    assert result["costs"]["macs"]["pruned"] <= 1184.0
    assert result["kept"] == 16
    assert resume(tmp_path / "run")["kept"] == 16


@pytest.mark.parametrize("part", [0.3, 0.5, 0.8])
def test_where_families_meet_the_exact_cost_is_never_exceeded(part):
    # three layers in a row: 10 inputs, families of 6 and 8, 4 outputs
    terms = (
        Term("first", 10.0, ((((0,), 6.0),),)),
        Term("second", 1.0, ((((0,), 6.0),), (((1,), 8.0),))),
        Term("third", 4.0, ((((1,), 8.0),),)),
    )
    cost = Cost("macs", (6, 8), terms)
    rng = np.random.default_rng(0)
    scores = [rng.random(6), rng.random(8)]
    limit = part * cost.total()
    gates = GateBudget.of(cost, limit, scores, [3, 4])
    assert not gates.exact
    assert "linear near the greedy counts" in gates.row([3, 4]).names[0]
    for chosen in (np.ones(12, bool), np.zeros(12, bool), rng.random(12) < 0.5):
        mask = gates.within(chosen)
        assert cost.total([int(mask[:6].sum()), int(mask[6:].sum())]) <= limit * (1 + 1e-9)
        assert mask[:6].any()
        assert mask[6:].any()


PRUNE = ("prune", "digits-mlp")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*PRUNE, "--structure", "neuron", "--flops", "0.5"), "did you mean 'neurons'"),
        ((*PRUNE, "--structure", "heads", "--flops", "0.5"), "no family of heads can be pruned; there are: neurons"),
        ((*PRUNE, "--structure", "neurons", "--flops", "0.001"), "0.03125 stays"),
        ((*PRUNE, "--structure", "neurons", "--flops", "0.5", "--params", "0.5"), "are both given"),
        ((*PRUNE, "--structure", "neurons"), "--density is missing"),
        ((*PRUNE, "--flops", "0.5", "--coordinator", "icbs"), "is of coordinator structured"),
        ((*PRUNE, "--flops", "0.5", "--option", "multiple=0"), "multiple is 0"),
        ((*PRUNE, "--flops", "0.5", "--option", "couplings=2"), "numbers from 0 to 1"),
        ((*PRUNE, "--flops", "0.5", "--solver", "group-swap", "--choice", "gates"), "leave out choice gates"),
        ((*PRUNE, "--flops", "0.5", "--choice", "layers", "--solver", "swap"), "takes no group supports"),
        ((*PRUNE, "--flops", "0.5", "--option", "ridge=0"), "ridge is 0.0; give a number above 0"),
        ((*PRUNE, "--flops", "0.5", "--recover", "settle"), "takes recovery distil alone; leave out settle"),
        ((*PRUNE, "--flops", "0.5", "--recover", "distil:epochs=0"), "epochs is 0; choose a whole number from 1"),
        ((*PRUNE, "--density", "0.5", "--recover", "distil"), "use it with --structure"),
        ((*PRUNE, "--flops", "0.5", "--validate-every", "1"), "leave out validate_every"),
        ((*PRUNE, "--flops", "0.5", "--option", "exclude=fc2*"), "include and exclude choose matrices"),
        ((*PRUNE, "--flops", "0.5", "--choice", "gates", "--option", "targets=own"), "add --choice layers"),
        ((*PRUNE, "--flops", "0.5", "--samples", "100000"), "are not held out; take fewer"),
        ((*PRUNE, "--flops", "0.5", "--allocation", "measured", "--mode", "select"), "use it with mode refit"),
        ((*PRUNE, "--flops", "0.5", "--option", "allocation=block", "--choice", "layers"), "take allocation cost"),
        ((*PRUNE, "--flops", "0.5", "--option", "allocation=block", "--uniform"), "take allocation cost"),
        ((*PRUNE, "--flops", "0.5", "--option", "allocation=block", "--solver", "qaoa"), "takes no budget"),
        (("structure", "planted"), "is no network and has no structure"),
        (("time", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    # what needs the network to be seen comes after the line on the dense network
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("prunebench: error: ")
    assert words in err.splitlines()[-1]
    assert not list(tmp_path.rglob("run.json"))


def test_a_run_of_weights_has_no_smaller_network(tmp_path, capsys):
    prune(PruneRequest(problem="digits-mlp", density=0.5, solver="magnitude", curvature={"samples": 50}),
          out=tmp_path / "run")  # fmt: skip
    assert "pruned weights" in refused(capsys, "time", tmp_path / "run")


def test_the_smaller_network_is_trained_and_resumes_to_the_bit(run, tmp_path, monkeypatch):
    from prunebench.core.errors import Interrupted
    from prunebench.recovery.distillation import Distillation

    request = PruneRequest(
        problem="digits-mlp", density=0.25, coordinator="structured", solver="obd",
        coordinator_options={"samples": 300}, recover=("distil:epochs=3,rate=0.01",),
    )  # fmt: skip
    whole = prune(request, out=tmp_path / "whole")
    plain = prune(PruneRequest(**{**vars(request), "recover": None}), out=tmp_path / "plain")
    events = [event for event in RunDirectory.open(tmp_path / "whole").events() if event["kind"] == "distil"]
    assert [event["epoch"] for event in events] == [1, 2, 3]
    assert events[2]["distance"] < events[0]["distance"]
    assert events[2]["true_after"] < events[2]["true_before"]
    assert whole["loss"] < plain["loss"]
    assert whole["costs"] == plain["costs"]

    epoch = Distillation.epoch

    def stopped(self):
        if self.epochs == 1:
            raise KeyboardInterrupt
        return epoch(self)

    monkeypatch.setattr(Distillation, "epoch", stopped)
    monkeypatch.setattr("prunebench.runs.runner.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("prunebench.runs.runner.CHECKPOINT_RATIO", 0.0)
    with pytest.raises(Interrupted):
        prune(request, out=tmp_path / "run")
    monkeypatch.setattr(Distillation, "epoch", epoch)
    again = resume(tmp_path / "run")
    for key in ("kept", "accuracy", "loss", "costs"):
        assert again[key] == whole[key], key
    epochs = [e["epoch"] for e in RunDirectory.open(tmp_path / "run").events() if e["kind"] == "distil"]
    assert epochs == [1, 2, 3]


def test_counts_by_measured_rises_are_resumed_and_logged(tmp_path, monkeypatch):
    from prunebench.core.errors import Interrupted
    from prunebench.recovery.measured_curves import Measured

    request = PruneRequest(
        problem="digits-mlp", density=0.5, coordinator="structured", solver="group-swap",
        coordinator_options={"samples": 200, "allocation": "measured", "measured_samples": 100},
    )  # fmt: skip
    whole = prune(request, out=tmp_path / "whole")
    (event,) = [event for event in RunDirectory.open(tmp_path / "whole").events() if event["kind"] == "measured"]
    assert (event["family"], event["counts"]) == ("fc1:neurons", [24, 16, 8, 2])
    assert 0.0 < event["rises"][0] < event["rises"][2] < event["rises"][3]
    assert whole["kept"] == 16
    assert whole["costs"]["macs"]["pruned"] <= 0.5 * whole["costs"]["macs"]["dense"]

    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("prunebench.coordinators.structured.coordinator.Structured._ask_layer", stop)
    with pytest.raises(Interrupted):
        prune(request, out=tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr(Measured, "rise", stop)
    assert resume(tmp_path / "run")["loss"] == whole["loss"]


def test_a_block_of_groups_without_a_density_is_of_half_and_says_so(capsys, tmp_path):
    out = tmp_path / "g.npz"
    code, words, _ = call(capsys, "block", "digits-mlp", "--structure", "neurons", "--samples", "100", "-o", out)
    assert (code, "keep 16" in words) == (0, True)
    assert "no --density is given: 0.5 of the multiply-accumulates" in words
