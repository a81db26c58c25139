"""Transformers from end to end on the CPU: pruned, saved as Hugging Face folders, loaded again; and bad input."""

import json
import sys
import types

import numpy as np
import pytest
import torch

from prunebench import make_problem
from prunebench.cli import main
from prunebench.core.errors import InvalidInput, MissingData, MissingPackage, UnknownName
from prunebench.core.problem import require_data
from prunebench.networks import hub
from prunebench.networks.checkpoints import read_state

pytestmark = pytest.mark.usefixtures("torchvision_imports")

QUICK = ["--coordinator", "icbs", "--block-size", "64", "--samples", "8", "--steps", "3", "--quiet", "--json"]


def command(capsys, *arguments):
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def pruned(capsys, folder, *arguments):
    code, out, err = command(capsys, "prune", *arguments, "--out", str(folder))
    assert code == 0, err
    return json.loads(out)


def options(tiny_mistral, **more):
    given = {"model": tiny_mistral, "text": tiny_mistral / "text.json", "context": 16, "batch": 8, **more}
    return [part for key, value in given.items() for part in ("--option", f"{key}={value}")]


def test_a_random_mistral_on_levels_is_packed_and_loaded_by_transformers(tiny_mistral, tmp_path, capsys):
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    asked = ["--density", "0.5", "--bits", "4", "--group-size", "16", "--solver", "sparsegpt", "--samples", "8"]
    result = pruned(capsys, tmp_path / "run", "causal-lm", *asked, "--quiet", "--json", *options(tiny_mistral))
    code, _, err = command(
        capsys, "export-model", str(tmp_path / "run"), "--format", "packed", "-o", str(tmp_path / "q")
    )
    assert code == 0, err
    state = read_state(tmp_path / "run" / "weights.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32)
    tokens = torch.arange(12).reshape(1, 12) % 40
    with torch.no_grad():
        logits = model(tokens).logits
        dense = AutoModelForCausalLM.from_pretrained(tiny_mistral, dtype=torch.float32)
        dense.load_state_dict(state, strict=False)
        torch.testing.assert_close(logits, dense(tokens).logits)
    assert result["bits"]["bytes"]["packed"] < result["bits"]["bytes"]["dense"]


@pytest.mark.parametrize("more", [["--mode", "select"], ["--mode", "refit", "--option", "blocks_per_step=14"]])
def test_a_random_mistral_is_pruned_saved_and_loaded_again(tiny_mistral, tmp_path, capsys, more):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = ["causal-lm", "--density", "0.5", "--solver", "swap", *QUICK, *options(tiny_mistral), *more]
    result = pruned(capsys, tmp_path / "run", *asked, "--option", "accept_samples=32")
    assert result["kept"] == round(0.5 * result["total"])
    assert result["perplexity"] == pytest.approx(np.exp(result["loss"]))
    code, out, _ = command(capsys, "export-model", str(tmp_path / "run"), "-o", str(tmp_path / "hf"), "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["kept"], told["total"]) == (result["kept"], result["total"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    masks = read_state(tmp_path / "hf" / "mask.safetensors")
    names = make_problem("causal-lm", {"model": str(tiny_mistral)}).prunable()
    assert set(masks) == set(names)
    zeros = sum(int((model.get_parameter(name) == 0).sum()) for name in names)
    assert zeros == result["total"] - result["kept"] == told["zeros"]
    assert all(bool((model.get_parameter(name)[~masks[name]] == 0).all()) for name in names)
    assert model.config.sliding_window == 8
    assert len(AutoTokenizer.from_pretrained(tmp_path / "hf")) == 48
    again = make_problem(
        "causal-lm",
        {"model": str(tmp_path / "hf"), "text": str(tiny_mistral / "text.json"), "context": 16, "batch": 8},
    )
    assert again.evaluate(again.model())["perplexity"] == pytest.approx(result["perplexity"], rel=1e-6)
    code, out, _ = command(capsys, "evaluate", "causal-lm", *options(tiny_mistral, model=tmp_path / "hf"))
    assert code == 0
    assert "perplexity" in out
    assert f"kept      {result['kept']:,} of {result['total']:,}" in out


def test_one_shot_pruning_takes_a_language_models_gradients(tiny_mistral, tmp_path, capsys):
    asked = ["causal-lm", "--density", "0.5", *options(tiny_mistral), "--quiet", "--json"]
    rest = ["--mode", "select", "--samples", "40", "--coordinator", "one-shot"]
    result = pruned(capsys, tmp_path / "obd", *asked, "--solver", "obd", *rest)
    other = pruned(capsys, tmp_path / "random", *asked, "--solver", "magnitude", "--option", "score=random", *rest)
    assert result["kept"] == other["kept"] == round(0.5 * result["total"])
    assert result["objective"] < other["objective"]


def test_the_text_of_a_pruning_run_tells_the_perplexity(tiny_mistral, tmp_path, capsys):
    asked = [part for part in QUICK if part not in ("--json", "--quiet")]
    code, out, err = command(
        capsys, "prune", "causal-lm", "--density", "0.5", *asked, *options(tiny_mistral), "--out", str(tmp_path / "run")
    )
    assert code == 0
    assert "perplexity " in out
    assert "accuracy" not in out
    assert "perplexity" in err


def test_an_export_of_a_network_that_is_no_transformer_is_refused(tmp_path, capsys):
    asked = ["digits-mlp", "--density", "0.5", "--solver", "magnitude", "--quiet", "--json", "--option", "epochs=1"]
    pruned(capsys, tmp_path / "run", *asked)
    code, _, err = command(capsys, "export-model", str(tmp_path / "run"), "-o", str(tmp_path / "hf"))
    assert code == 2
    assert "has no network of transformers or timm" in err
    code, _, err = command(capsys, "export-model", str(tmp_path), "-o", str(tmp_path / "hf"))
    assert code == 2
    assert "is not a run directory" in err


@pytest.fixture(scope="module")
def deit(torchvision_imports, tmp_path_factory):
    """A folder of tiny images and the weights of a randomly initialised DeiT-tiny."""
    import timm
    from PIL import Image
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("deit")
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for label in ("n01", "n02"):
            (folder / "images" / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / part / label / f"{number}.png")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("deit_tiny_patch16_224", num_classes=2)
    save_file(model.state_dict(), folder / "deit.safetensors")
    return folder


def test_a_random_deit_is_pruned_saved_and_loaded_again(deit, tmp_path, capsys):
    import timm
    from transformers import AutoModelForImageClassification

    chosen = {"network": "deit_tiny_patch16_224", "images": deit / "images", "weights": deit / "deit.safetensors"}
    given = [part for key, value in chosen.items() for part in ("--option", f"{key}={value}")]
    asked = ["deit-imagenet", "--density", "0.5", "--solver", "swap", *QUICK, "--option", "accept_samples=4"]
    result = pruned(capsys, tmp_path / "run", *asked, *given, "--steps", "1", "--option", "blocks_per_step=6")
    assert result["total"] == 12 * (192 * 576 + 192 * 192 + 2 * 192 * 768)
    assert result["kept"] == round(0.5 * result["total"])
    assert 0.0 <= result["accuracy"] <= 1.0
    code, out, _ = command(capsys, "export-model", str(tmp_path / "run"), "-o", str(tmp_path / "hf"), "--json")
    assert code == 0
    masks = read_state(tmp_path / "hf" / "mask.safetensors")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'hf'}", pretrained=True, num_classes=2)
    zeros = sum(int((loaded.get_parameter(name) == 0).sum()) for name in masks)
    assert zeros == result["total"] - result["kept"] == json.loads(out)["zeros"]
    wrapped = AutoModelForImageClassification.from_pretrained(tmp_path / "hf")
    assert sum(int((wrapped.timm_model.get_parameter(name) == 0).sum()) for name in masks) == zeros


@pytest.mark.needs_data("stories-llama")
def test_icbs_with_refit_improves_on_magnitude_pruning_of_stories(tmp_path, capsys):
    asked = ["stories-llama", "--density", "0.5", "--coordinator", "icbs", "--quiet", "--json"]
    small = ["--option", "context=64", "--option", "validation_sequences=5", "--option", "sequences=200"]
    whole = ["--option", "block_scope=network", "--block-size", "1000000", "--select", "magnitude"]
    loose = ["--option", "fixed_pruned=0", "--option", "fixed_kept=0", "--option", "tabu=0", "--gradient-scale", "1"]
    steps = ["--samples", "64", "--steps", "2", "--ridge", "1", "--option", "accept_samples=32", "--mode", "refit"]
    start = pruned(
        capsys, tmp_path / "start", *asked, *small, "--solver", "swap", "--block-size", "2", "--samples", "2",
        "--steps", "1",
    )  # fmt: skip
    after = pruned(capsys, tmp_path / "after", *asked, *small, *whole, *loose, *steps, "--solver", "obd")
    assert start["kept"] == after["kept"] == 113_280
    assert start["perplexity"] > 30.0
    assert after["perplexity"] < 0.75 * start["perplexity"]


@pytest.mark.needs_data("vit-mnist")
def test_icbs_improves_on_magnitude_pruning_of_the_vision_transformer(tmp_path, capsys):
    asked = ["vit-mnist", "--density", "0.2", "--solver", "swap", "--coordinator", "icbs", "--quiet", "--json"]
    rest = ["--block-size", "512", "--samples", "200", "--steps", "2", "--option", "blocks_per_step=12"]
    start = pruned(capsys, tmp_path / "start", *asked, "--block-size", "2", "--samples", "2", "--steps", "1")
    after = pruned(capsys, tmp_path / "after", *asked, *rest, "--option", "accept_samples=200")
    assert start["kept"] == after["kept"] == round(0.2 * 196_608)
    assert after["loss"] < 0.9 * start["loss"]


# Bad input: one clear line each


def lines_of(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_must_be_named(capsys):
    with pytest.raises(MissingData) as error:
        require_data(make_problem("causal-lm"))
    assert "--option model=" in lines_of(error)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InvalidInput) as error:
        make_problem("causal-lm", {"model": str(tmp_path)}).model()
    assert "cannot be loaded as a causal language model" in lines_of(error)


def test_a_quantised_model_is_refused_by_name(tiny_mistral, tmp_path):
    config = json.loads((tiny_mistral / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInput) as error:
        make_problem("causal-lm", {"model": str(tmp_path)}).prunable()
    assert "quantised weights (gptq)" in lines_of(error)


def test_a_tied_weight_is_pruned_once(tiny_mistral):
    from prunebench.networks.network import PrunableNetwork

    model = make_problem("causal-lm", {"model": str(tiny_mistral)}).model()
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    name, other = (f"model.layers.{number}.mlp.up_proj.weight" for number in (0, 1))
    assert PrunableNetwork(model, [name, other]).tied == {name: (other,)}


def test_a_model_without_the_named_layers_gets_the_nearest_name(tiny_mistral):
    with pytest.raises(UnknownName) as error:
        make_problem("causal-lm", {"model": str(tiny_mistral), "layers": "q_projj"}).prunable()
    assert "did you mean 'q_proj'?" in lines_of(error)


def test_a_text_shorter_than_the_context_is_refused(tiny_mistral, tmp_path):
    (tmp_path / "short.txt").write_text("w1 w2 w3 w4")
    problem = make_problem("causal-lm", {"model": str(tiny_mistral), "text": str(tmp_path / "short.txt")})
    with pytest.raises(InvalidInput) as error:
        problem.calibration()
    assert "shorter than one context of 64" in lines_of(error)


def test_a_context_beyond_the_models_is_refused(tiny_mistral):
    problem = make_problem("causal-lm", {"model": str(tiny_mistral), "context": 65})
    with pytest.raises(InvalidInput, match="made for 64 tokens"):
        problem.calibration()


def test_a_tokenizer_of_another_model_is_refused(tiny_mistral, tmp_path):
    from transformers import MistralConfig

    for file in tiny_mistral.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = MistralConfig.from_pretrained(tiny_mistral)
    config.vocab_size = 20
    config.save_pretrained(tmp_path)
    problem = make_problem("causal-lm", {"model": str(tmp_path), "text": str(tmp_path / "text.json")})
    with pytest.raises(InvalidInput) as error:
        problem.calibration()
    assert "the text holds token 47 ('w44') and model" in lines_of(error)


def test_a_folder_without_a_tokenizer_is_refused(tiny_mistral, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny_mistral / "config.json").read_bytes())
    problem = make_problem("causal-lm", {"model": str(tmp_path), "text": str(tiny_mistral / "text.json")})
    with pytest.raises(InvalidInput) as error:
        problem.calibration()
    lines_of(error)


def test_a_missing_text_names_the_file(tiny_mistral, tmp_path):
    problem = make_problem("causal-lm", {"model": str(tiny_mistral), "text": str(tmp_path / "none.txt")})
    assert "none.txt' does not exist" in problem.missing()
    with pytest.raises(MissingData):
        problem.calibration()


@pytest.mark.parametrize("package", ["transformers", "timm"])
def test_a_missing_extra_is_named_with_the_command(package, monkeypatch):
    from prunebench.core import registry

    monkeypatch.setattr(registry, "_installed", lambda name: name != package)
    with pytest.raises(MissingPackage) as error:
        make_problem({"transformers": "causal-lm", "timm": "deit-imagenet"}[package])
    assert f"pip install 'prunebench[{package}]'" in lines_of(error)


def test_tasks_without_lm_eval_are_refused_before_any_work(tiny_mistral, monkeypatch):
    from prunebench.core import registry

    monkeypatch.setattr(registry, "_installed", lambda name: name != "lm_eval")
    given = {"model": str(tiny_mistral), "text": str(tiny_mistral / "text.json"), "tasks": "boolq,rte"}
    with pytest.raises(InvalidInput) as error:
        require_data(make_problem("causal-lm", given))
    assert "pip install 'prunebench[lm-eval]'" in lines_of(error)


def test_tasks_are_judged_by_plain_accuracy_and_their_mean(tiny_mistral, monkeypatch):
    from prunebench.networks.language_tasks import evaluate_tasks

    asked = {}

    class Model:
        def __init__(self, **given):
            asked.update(given)

    def simple_evaluate(*, model, tasks, num_fewshot):
        asked.update(tasks=tasks, num_fewshot=num_fewshot)
        return {"results": {"boolq": {"acc,none": 0.5}, "rte": {"acc,none": 0.25, "acc_norm,none": 0.9}}}

    wrapper = types.ModuleType("lm_eval.models.huggingface")
    wrapper.HFLM = Model
    harness = types.ModuleType("lm_eval")
    harness.simple_evaluate = simple_evaluate
    for name, module in {"lm_eval": harness, "lm_eval.models": types.ModuleType("lm_eval.models"),
                         "lm_eval.models.huggingface": wrapper}.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    model = torch.nn.Linear(1, 1)
    found = evaluate_tasks(model, "tokenizer", ("boolq", "rte"), 4)
    assert found == {"accuracy": 0.375, "boolq": 0.5, "rte": 0.25}
    assert asked["pretrained"] is model
    assert (asked["tasks"], asked["num_fewshot"]) == (["boolq", "rte"], 0)
    with pytest.raises(InvalidInput, match="'piqa' of lm-eval has no measure 'acc'"):
        evaluate_tasks(model, "tokenizer", ("piqa",), 4)


@pytest.mark.parametrize("forbidden", [False, True])
def test_without_a_network_a_hub_name_fails_at_once_with_one_line(forbidden, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if forbidden else "0")
    monkeypatch.setattr(hub, "cached", lambda *_: False)
    monkeypatch.setattr("prunebench.networks.language_models.cached", lambda *_: False)
    with pytest.raises(MissingData) as error:
        make_problem("causal-lm", {"model": "nobody/nothing"}).model()
    text = lines_of(error)
    assert ("HF_HUB_OFFLINE forbids downloads" if forbidden else "the hub cannot be reached") in text


def test_options_that_make_no_sense_are_refused():
    for name, value in (("context", 1), ("sequences", 0), ("packing", "loose"), ("sample", "word"), ("batch", 0)):
        with pytest.raises(InvalidInput, match=name):
            make_problem("causal-lm", {name: value})


def test_a_device_that_is_not_there_is_refused(tiny_mistral):
    with pytest.raises(InvalidInput) as error:
        make_problem("causal-lm", {"model": str(tiny_mistral), "device": "cuda:99"}).model()
    assert "device 'cuda:99' cannot be used" in lines_of(error)


# Memory


def test_a_pass_that_does_not_fit_names_bytes_and_remedies(tiny_mistral):
    from prunebench.curvature.pass_memory import activations, pass_memory, require_room

    problem = make_problem(
        "causal-lm", {"model": str(tiny_mistral), "text": str(tiny_mistral / "text.json"), "context": 16}
    )
    model = problem.model()
    one, two = (activations(model, problem.calibration().batch(np.array([0]))[0][:, :size]) for size in (8, 16))
    assert two.kept(False) == 2 * one.kept(False)
    assert two.kept(True) < two.kept(False)
    need = pass_memory(two, batch=4, rows=100, batch_rows=4, columns=1000, weights=5000, recompute=False)
    assert need.factor == 400_000
    cpu = torch.device("cpu")
    require_room(need, cpu, (10**9, 10**9))
    with pytest.raises(InvalidInput) as error:
        require_room(need, cpu, (1000, 1000))
    text = lines_of(error)
    assert f"{need.activations + need.gathered + need.factor + need.gradient:,} bytes" in text
    assert "checkpointing=true" in text
    with pytest.raises(InvalidInput, match="block score other than gradient"):
        require_room(need, torch.device("meta"), (None, 1000))


def test_the_estimate_bounds_what_autograd_keeps(tiny_mistral):
    from prunebench.curvature.pass_memory import activations

    problem = make_problem(
        "causal-lm", {"model": str(tiny_mistral), "text": str(tiny_mistral / "text.json"), "context": 64}
    )
    model, (inputs, targets) = problem.model(), problem.calibration().batch(np.array([0]))
    own = {item.untyped_storage().data_ptr() for item in model.parameters()}
    sizes = {}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        problem.loss(model(inputs), targets)
    kept = sum(sizes.values())
    assert kept <= activations(model, inputs).kept(False) <= 6 * kept
