"""Language models of other kinds: they run with right gradients or are refused by name; what is left out is told."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from prunebench.cli import main

pytestmark = pytest.mark.usefixtures("torchvision_imports")

SMALL = {"vocab_size": 48, "max_position_embeddings": 32}
ICBS = ("--coordinator", "icbs", "--solver", "swap", "--block-size", "32", "--steps", "1", "--samples", "6",
        "--option", "accept_samples=6")  # fmt: skip
LAYERS = ("--coordinator", "layer-wise", "--solver", "wanda", "--samples", "6")
ONCE = ("--coordinator", "one-shot", "--solver", "obd", "--mode", "select", "--samples", "6")


def _configs():
    import transformers as T

    return {
        "opt": T.OPTConfig(
            hidden_size=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=8, **SMALL
        ),
        "mamba": T.MambaConfig(vocab_size=48, hidden_size=16, state_size=4, num_hidden_layers=1),
        "bart": T.BartConfig(
            d_model=16, decoder_layers=1, decoder_ffn_dim=24, decoder_attention_heads=2, encoder_layers=1,
            encoder_ffn_dim=24, encoder_attention_heads=2, **SMALL,
        ),
        "mixtral": T.MixtralConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            num_local_experts=3, num_experts_per_tok=1, **SMALL,
        ),
        "deepseek": T.DeepseekV3Config(
            hidden_size=16, intermediate_size=24, moe_intermediate_size=12, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, n_group=2,
            topk_group=1, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, v_head_dim=4,
            qk_nope_head_dim=4, **SMALL,
        ),
        "gptoss": T.GptOssConfig(
            hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            head_dim=8, num_local_experts=3, num_experts_per_tok=2, sliding_window=8, **SMALL,
        ),
        "gpt2": T.GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folders(tiny_mistral, tmp_path_factory):
    """Folders with randomly initialised models, the tokenizer and the text of `tiny_mistral` beside each."""
    import transformers as T

    root = tmp_path_factory.mktemp("kinds")
    for name, config in _configs().items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = T.BartForCausalLM(config) if name == "bart" else T.AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim >= 2:
                        parameter.mul_(5.0)
        model.save_pretrained(root / name)
        for file in ("tokenizer.json", "tokenizer_config.json", "text.json"):
            shutil.copy(tiny_mistral / file, root / name / file)
    return root


def run(capsys, tmp_path, folder, *words, context=16):
    given = {"model": folder, "text": folder / "text.json", "context": context, "sequences": 16}
    given["validation_sequences"] = 2
    options = [part for key, value in given.items() for part in ("--option", f"{key}={value}")]
    code = main(["prune", "causal-lm", "--density", "0.5", *options, *words, "--out", str(tmp_path / "run"), "--json"])
    told = capsys.readouterr()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["network"] if code == 0 else {}
    return code, told.err, facts


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("kind", ["opt", "deepseek", "bart"])
def test_input_norms_are_had_however_a_layer_gets_its_inputs(folders, capsys, tmp_path, kind):
    words = (*ICBS, "--init", "wanda", "--option", "packing=documents", "--option", "batch=3")
    code, err, facts = run(capsys, tmp_path, folders / kind, *words)
    assert code == 0, err
    unreached = facts["unreached"]["layers"]["names"]
    assert any("encoder_attn" in name for name in unreached) == (kind == "bart")


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("how", [(*ICBS, "--init", "wanda"), LAYERS])
def test_a_weight_that_is_used_by_function_shows_its_inputs_where_it_multiplies(folders, capsys, tmp_path, how):
    code, err, facts = run(capsys, tmp_path, folders / "mamba", *how)
    assert code == 0, err
    assert "left_dense" not in facts
    # with padding, which of its inputs are tokens is not seen
    words = ("--option", "packing=documents", "--option", "validation_packing=documents")
    code, err, facts = run(capsys, tmp_path / "padded", folders / "mamba", *how, *words, context=200)
    if how is LAYERS:
        assert code == 0, err
        assert [held["names"] for held in facts["left_dense"]] == [["backbone.layers.*.mixer.dt_proj.weight"]]
        assert "dt_proj.weight: gets padding among its inputs" in err
    else:
        assert code == 2
        assert "the score 'wanda' has no input norms for layer 'backbone.layers.0.mixer.dt_proj'" in err
        assert "--option exclude=backbone.layers.0.mixer.dt_proj.weight" in err


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_its_gradients_are_right_without_its_inputs(folders, capsys, tmp_path):
    code, err, facts = run(capsys, tmp_path, folders / "mamba", *ICBS)
    assert code == 0, err
    assert facts["gradients"]["way"] != "layer passes"
    assert "dt_proj" in facts["gradients"]["rejected"]["layer passes"]


@pytest.mark.parametrize("kind", ["mixtral", "gptoss", "deepseek"])
def test_fused_experts_are_pruned_each_by_its_own_inputs(folders, capsys, tmp_path, kind):
    code, err, facts = run(capsys, tmp_path, folders / kind, *LAYERS)
    assert code == 0, err
    assert "left_dense" not in facts
    names = [name for group in facts["not_pruned"] for name in group["names"]]
    assert not any(name.endswith(("gate_up_proj", "down_proj")) for name in names)
    masks = load_file(tmp_path / "run" / "mask.safetensors")
    experts = {name: mask for name, mask in masks.items() if "mlp.experts" in name}
    assert experts
    for mask in experts.values():
        # half of every output's inputs; gpt-oss has its inputs along the second axis
        assert (mask.float().mean(dim=1 if kind == "gptoss" else 2) == 0.5).all()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_experts_are_pruned_by_their_gradients(folders, capsys, tmp_path):
    code, err, facts = run(capsys, tmp_path, folders / "mixtral", *ONCE, "--option", "include=*.mlp.experts.*")
    assert code == 0, err
    assert "causal-lm: 6912 prunable weights" in err
    assert not any("Experts" in group["kind"] for group in facts["not_pruned"])


def test_the_layers_of_gpt2_are_linear_layers(folders, capsys, tmp_path):
    code, err, facts = run(capsys, tmp_path, folders / "gpt2", *LAYERS)
    assert code == 0, err
    assert "causal-lm: 6144 prunable weights" in err
    assert [(group["kind"], group["matrices"]) for group in facts["not_pruned"]] == [("Embedding", 2)]
    for name, mask in load_file(tmp_path / "run" / "mask.safetensors").items():
        assert name.startswith("transformer.h.")
        assert (mask.float().mean(dim=0) == 0.5).all()


def test_tokens_that_the_model_does_not_know_may_be_there_and_not_occur(folders, capsys, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders / "mixtral", folder)
    file = folder / "tokenizer.json"
    held = json.loads(file.read_text())
    held["model"]["vocab"] |= {f"more{number}": 48 + number for number in range(5)}
    file.write_text(json.dumps(held))
    code, err, _ = run(capsys, tmp_path, folder, *LAYERS)
    assert code == 0, err
    texts = json.loads((folder / "text.json").read_text())
    (folder / "text.json").write_text(json.dumps(["more0 " + text for text in texts]))
    other = folder.rename(tmp_path / "other")
    shutil.rmtree(tmp_path / "run")
    code, err, _ = run(capsys, tmp_path, other, *LAYERS)
    assert code == 2
    assert "the text holds token 48 ('more0')" in err
