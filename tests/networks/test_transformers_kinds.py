"""Language models of other kinds: they run with right gradients or are refused by name; what is left out is told."""

import json
import shutil

import pytest
import torch

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
            hidden_size=16, intermediate_size=24, moe_intermediate_size=12, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, n_group=2,
            topk_group=1, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, v_head_dim=4,
            qk_nope_head_dim=4, **SMALL,
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


def run(capsys, tmp_path, folder, *words):
    given = {"model": folder, "text": folder / "text.json", "context": 16, "sequences": 16, "validation_sequences": 2}
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
def test_a_layer_whose_weight_is_used_by_function_is_refused_where_inputs_are_wanted(folders, capsys, tmp_path, how):
    code, err, _ = run(capsys, tmp_path, folders / "mamba", *how)
    assert code == 2
    assert "the weight of layer 'backbone.layers.0.mixer.dt_proj' is used otherwise than by calling the layer" in err
    excluded = ("--option", "exclude=backbone.layers.0.mixer.dt_proj.weight")
    assert excluded[1] in err
    code, err, facts = run(capsys, tmp_path, folders / "mamba", *how, *excluded)
    assert code == 0, err
    assert "Linear, excluded" in [group["kind"] for group in facts["not_pruned"]]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_its_gradients_are_right_without_its_inputs(folders, capsys, tmp_path):
    code, err, facts = run(capsys, tmp_path, folders / "mamba", *ICBS)
    assert code == 0, err
    assert facts["gradients"]["way"] != "layer passes"
    assert "dt_proj" in facts["gradients"]["rejected"]["layer passes"]


def test_fused_experts_are_told_with_their_weights(folders, capsys, tmp_path):
    code, err, facts = run(capsys, tmp_path, folders / "mixtral", *LAYERS)
    assert code == 0, err
    experts = next(group for group in facts["not_pruned"] if "Experts" in group["kind"])
    # Two layers of three experts, each with a doubled and a single matrix of 16 by 24.
    assert experts["weights"] == 2 * 3 * 3 * 16 * 24
    assert experts["names"] == [f"model.layers.*.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")]
    assert f"of MixtralExperts (3 axes), {experts['weights']:,} weights: model.layers.*.mlp.experts" in err
    kinds = [group["kind"] for group in facts["not_pruned"]]
    assert {"Embedding", "Linear (output head)"} <= set(kinds)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_experts_that_are_included_are_pruned_by_their_gradients_and_refused_by_their_inputs(folders, capsys, tmp_path):
    included = ("--option", "include=*.mlp.experts.*")
    code, err, facts = run(capsys, tmp_path, folders / "mixtral", *LAYERS, *included)
    assert code == 2
    assert "parameter 'model.layers.0.mlp.experts.gate_up_proj' is not the weight of a module" in err
    code, err, facts = run(capsys, tmp_path, folders / "mixtral", *ONCE, *included)
    assert code == 0, err
    assert "causal-lm: 6912 prunable weights" in err
    assert not any("Experts" in group["kind"] for group in facts["not_pruned"])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_model_without_linear_layers_says_which_matrices_there_are(folders, capsys, tmp_path):
    code, err, _ = run(capsys, tmp_path, folders / "gpt2", *ONCE)
    assert code == 2
    assert "2 of Embedding, 8 of Conv1D" in err
    assert "include=PATTERN, such as transformer.h.*.attn.c_attn.weight" in err
    code, err, facts = run(
        capsys, tmp_path, folders / "gpt2", *ONCE, "--option", "include=*.c_attn.weight,*.c_fc.weight"
    )
    assert code == 0, err
    assert [(group["kind"], group["matrices"]) for group in facts["not_pruned"]] == [("Conv1D", 4), ("Embedding", 2)]


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
