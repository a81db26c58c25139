"""Runs with bits: weights on levels, resumed and exported exactly; what cannot be is refused before any work."""

import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import prunebench
from helpers import call, refused
from prunebench import Pruned
from prunebench.coordinators.layer_wise import LayerWise
from prunebench.core.errors import Interrupted, InvalidInput
from prunebench.core.levels import spread_scales
from prunebench.networks.checkpoints import read_state

ASKED = {"density": 0.5, "solver": "sparsegpt", "samples": 32, "progress": False}


class _Table(NamedTuple):
    name: str
    shape: tuple[int, int]


def _network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)).to(
        dtype
    )


def _data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 1, 3, 3, generator=generator)
    return x, x[:, 0, 0, :].argmax(dim=1)


def _pruned(model=None, **more):
    return prunebench.prune(model or _network(), _data(), loss="cross_entropy", **{**ASKED, **more})


def _require_on_levels(pruned, group_size=None):
    for name, mask in pruned.masks.items():
        levels, scales = pruned.levels[f"{name}.levels"].numpy(), pruned.levels[f"{name}.scales"].numpy()
        table = pruned.state[name].numpy().reshape(levels.shape)
        assert (table == levels.astype(np.float32) * spread_scales(scales, levels.shape[1], group_size)).all()
        assert not levels[~mask.numpy().reshape(levels.shape)].any()


@pytest.mark.parametrize(("bits", "group_size"), [(4, None), (3, 5)])
def test_the_network_of_a_run_has_levels_times_scales(bits, group_size, tmp_path):
    pruned = _pruned(bits=bits, **({} if group_size is None else {"group_size": group_size}), out=tmp_path / "run")
    assert pruned.kept == round(0.5 * pruned.total)
    _require_on_levels(pruned, group_size)
    said = pruned.result["bits"]
    assert (said["bits"], said["group_size"]) == (bits, group_size)
    assert set(said["unrounded"]) == {"accuracy", "loss"}
    assert said["unrounded"]["loss"] != pruned.result["loss"]
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["bits"] for event in events] == [bits] * 3
    _require_on_levels(Pruned.load(pruned.save(tmp_path / "saved")), group_size)


def test_bytes_are_those_of_tensors_in_each_way_of_storing():
    pruned = _pruned(bits=4)
    said, model = pruned.result["bits"]["bytes"], _network()
    weights, kept = sum(mask.numel() for mask in pruned.masks.values()), pruned.kept
    rest = 4 * sum(parameter.numel() for name, parameter in model.named_parameters() if "bias" in name)
    assert said["dense"] == 4 * weights + rest
    assert said["sparse"] == 4 * kept + -(-weights // 8) + rest
    scales = 4 * (3 + 8 + 3)
    # rows of 4, 12 and 8 weights are 1, 2 and 1 words
    assert said["packed"] == 4 * (3 * 1 + 8 * 2 + 3 * 1) + scales + rest
    assert said["packed_sparse"] == -(-kept // 2) + -(-weights // 8) + scales + rest


def test_a_run_without_bits_has_no_levels():
    pruned = _pruned(recipe="layers")
    assert pruned.levels is None
    assert "bits" not in pruned.result


def test_an_interrupted_run_resumes_to_the_same_levels(tmp_path, monkeypatch):
    whole = _pruned(bits=4, group_size=8, out=tmp_path / "whole")
    begin = LayerWise._begin

    def cut(self):
        if self._done == 1:
            raise KeyboardInterrupt
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(LayerWise, "_begin", cut)
        with pytest.raises(Interrupted):
            _pruned(bits=4, group_size=8, out=tmp_path / "cut")
    again = _pruned(bits=4, group_size=8, out=tmp_path / "cut", resume=True)
    for name in whole.levels:
        assert torch.equal(whole.levels[name], again.levels[name])
    assert all(torch.equal(whole.state[name], again.state[name]) for name in whole.state)
    assert whole.result["bits"] == again.result["bits"]


def test_recovery_that_moves_no_weight_keeps_the_levels():
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    pruned = _pruned(model, bits=4, recover=["batch-norm"])
    _require_on_levels(pruned)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"bits": 1}, "bits is 1; choose a whole number from 2 to 8"),
        ({"bits": 9}, "from 2 to 8"),
        ({"group_size": 8, "recipe": "layers"}, "give bits too"),
        ({"bits": 4, "group_size": 0}, "whole number from 1"),
        ({"bits": 4, "mode": "select", "solver": "wanda"}, "mode select keeps their values"),
        ({"bits": 4, "recover": ["settle"]}, "recovery settle moves weights off the levels"),
        ({"bits": 4, "retrain": "epochs=1"}, "a training moves weights off the levels"),
        ({"bits": 4, "coordinator": "icbs", "solver": "swap"}, "use coordinator layer-wise"),
        ({"bits": 4, "coordinator": "one-shot"}, "use coordinator layer-wise"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(more, words, tmp_path):
    with pytest.raises(InvalidInput, match=words):
        _pruned(**more, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_precision_is_refused_as_it_would_round_once_more():
    with pytest.raises(InvalidInput, match="holds bfloat16"):
        prunebench.prune(_network(torch.bfloat16), (_data()[0].bfloat16(), _data()[1]), loss="cross_entropy", **ASKED,
                         bits=4)  # fmt: skip


def test_what_becomes_of_groups_that_do_not_divide_rows_is_said(capsys):
    _pruned(bits=4, group_size=8, progress=True)
    said = capsys.readouterr().err
    assert "have 12 weights, no multiple of 8: the last group has 4" in said
    assert "have 4 weights, no multiple of 8: the whole row is one group" in said


def test_a_network_is_packed_and_read_back_exactly(tmp_path):
    """By the specification here; `test_compressed_tensors_reads_what_is_packed` by the library."""
    pruned = _pruned(bits=4, out=tmp_path / "run")
    from prunebench.runs.packed import export_packed

    told = export_packed(tmp_path / "run", tmp_path / "packed")
    held = read_state(tmp_path / "packed" / "model.safetensors")
    assert told["bytes"] == (tmp_path / "packed" / "model.safetensors").stat().st_size
    for name in pruned.masks:
        rows, columns = held[f"{name}_shape"].tolist()
        words, scale = held[f"{name}_packed"], held[f"{name}_scale"]
        for row in range(rows):
            for column in range(columns):
                level = (int(words[row, column // 8]) >> (4 * (column % 8))) % 16 - 8
                assert level * scale[row, 0] == pruned.state[name].reshape(rows, columns)[row, column]
        assert name not in held
    assert torch.equal(held["3.bias"], pruned.state["3.bias"])
    bits = read_state(tmp_path / "packed" / "mask.safetensors")
    for name, mask in pruned.masks.items():
        assert (np.unpackbits(bits[name].numpy(), bitorder="little")[: mask.numel()] == mask.numpy().reshape(-1)).all()


@pytest.mark.parametrize(("bits", "group_size"), [(4, None), (4, 4), (3, None), (8, 8)])
def test_compressed_tensors_reads_what_is_packed(bits, group_size, tmp_path):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    from prunebench.runs.packed import export_packed

    options = {} if group_size is None else {"group_size": group_size}
    pruned = _pruned(bits=bits, **options, exclude="0.weight", out=tmp_path / "run")
    told = export_packed(tmp_path / "run", tmp_path / "packed")
    held = read_state(tmp_path / "packed" / "model.safetensors")
    read = 0
    for scheme in told["quantization_config"]["config_groups"].values():
        for module in scheme["targets"]:
            state = {f"weight_{part}": held[f"{module}.weight_{part}"] for part in ("packed", "scale", "shape")}
            weight = PackedQuantizationCompressor.decompress(state, QuantizationScheme(**scheme))["weight"]
            assert torch.equal(weight, pruned.state[f"{module}.weight"])
            read += 1
    assert read == 2


def test_runs_without_levels_are_not_packed(capsys, tmp_path):
    _pruned(recipe="layers", out=tmp_path / "run")
    said = refused(capsys, "export-model", tmp_path / "run", "--format", "packed", "-o", tmp_path / "out")
    assert "plain floats" in said
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    _pruned(bits=4, out=tmp_path / "levels")
    said = refused(capsys, "export-model", tmp_path / "levels", "--format", "packed", "-o", tmp_path / "full")
    assert "not empty" in said


def test_the_command_line_and_the_report_tell_bits_and_bytes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("digits-mlp", "--density", "0.5", "--bits", "4", "--solver", "sparsegpt", "--quiet", "--out", "run")
    code, said, _ = call(capsys, "prune", *asked)
    assert code == 0
    assert "bits         4, a scale a row; accuracy" in said
    assert "bytes        dense 9,640" in said
    call(capsys, "export-model", "run", "--format", "packed", "-o", "packed")
    call(capsys, "report", "run", "-o", "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Weights on levels" in page
    assert "9,640" in page


def test_a_checkpoint_whose_levels_are_of_other_weights_is_refused():
    from prunebench.coordinators.layer_wise.grid import Grid

    table = _Table("a", (2, 3))
    grid = Grid(4, None, [table], np.zeros(6, dtype=np.float32))
    arrays = {"unrounded": np.zeros(6, dtype=np.float32), "levels": np.ones(6, dtype=np.int8), "scales": np.ones(2)}
    with pytest.raises(InvalidInput, match="not their level times their scale"):
        grid.load(arrays, {0: np.arange(6)}, np.zeros(6, dtype=np.float32))
    with pytest.raises(InvalidInput, match="scales is"):
        grid.load({**arrays, "scales": np.ones(3)}, {0: np.arange(6)}, np.ones(6, dtype=np.float32))
    grid.load(arrays, {0: np.arange(6)}, np.ones(6, dtype=np.float32))
