"""Many architectures at random weights: does each prune, and what is left dense?

    OMP_NUM_THREADS=1 python benchmarks/architectures.py language     [--networks gpt2 mixtral …]
    OMP_NUM_THREADS=1 python benchmarks/architectures.py torchvision  [--part 1/4] [--largest 20000]
    OMP_NUM_THREADS=1 python benchmarks/architectures.py timm         [--part 1/4]

language: 25 small causal language models of transformers, each by one-shot (obd), iCBS, iCBS from Wanda's mask,
multi-stage (magnitude) and layer-wise (Wanda), at density 0.5. torchvision: every network that it registers; timm: its
own test networks and at least one of each file of its models. These get the smallest square input that they take, and
are pruned layer-wise by magnitude and by one step of iCBS, on one sample.

Of a network with more than --largest weights in matrices that multiply, the smallest matrices that together hold so
many are pruned, and of each kind of layer the smallest in any case; "matrices" says how many there are in all.
A row a network and way: what became of it, how many weights were kept of how many, how many were left dense, CPU
seconds, and where it was not pruned the line that says why. "warnings" counts those that the network alone does not
give. The last rows count outcomes; "error" is a fault of prunebench; what "does not run"
does not do so by itself on this machine.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import prunebench
import vision_networks as vision
from prunebench.core.errors import PrunebenchError
from prunebench.networks.own import OwnNetwork
from prunebench.networks.torchvision_build import make_importable
from prunebench.runs.prune import PruneRequest, prune
from runner import Benchmark, Note, Row

VOCABULARY, CONTEXT = 128, 32
"""Tokens that the small language models know, and those in a sequence."""

OUTCOMES = ("pruned", "refused", "error", "does not run", "too large")
"""What becomes of a network."""

Ways = Mapping[str, Mapping[str, Any]]

VISION_WAYS: Ways = {
    "layer-wise": {"coordinator": "layer-wise", "solver": "magnitude", "samples": 1},
    "icbs": {
        "coordinator": "icbs", "solver": "swap", "steps": 1, "block_size": 16, "samples": 1, "accept_samples": 1,
    },
}  # fmt: skip
ICBS = {"steps": 2, "block_size": 32, "samples": 8, "accept_samples": 8}
LANGUAGE_WAYS: Ways = {
    "one-shot": {"coordinator": "one-shot", "solver": "obd", "mode": "select", "curvature": {"samples": 8}},
    "icbs": {"coordinator": "icbs", "solver": "swap", "mode": "select", "coordinator_options": ICBS},
    "icbs, wanda": {
        "coordinator": "icbs",
        "solver": "swap",
        "mode": "select",
        "coordinator_options": {**ICBS, "init": "wanda"},
    },
    "multi-stage": {
        "coordinator": "multi-stage",
        "solver": "magnitude",
        "mode": "select",
        "coordinator_options": {"stages": 2, "samples": 8, "held_out": 8},
    },
    "layer-wise": {"coordinator": "layer-wise", "solver": "wanda", "coordinator_options": {"samples": 8}},
}


def language_configs(T: Any) -> dict[str, Callable[[], Any]]:
    """The small language models by name."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    common = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
    usual = {**shape, "intermediate_size": 48, **heads, **common}
    plain = {**shape, "intermediate_size": 64, "num_attention_heads": 4, **common}
    few = {"vocab_size": VOCABULARY}
    experts = {"num_experts_per_tok": 2}
    latent = {
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    }  # fmt: skip
    routed = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1}
    encoder = {"encoder_layers": 1, "encoder_ffn_dim": 64, "encoder_attention_heads": 4}
    decoder = {"decoder_layers": 2, "decoder_ffn_dim": 64, "decoder_attention_heads": 4}
    kinds = ["mamba", "hybrid", "mamba", "mamba", "mamba", "hybrid", "mamba", "mamba"]
    seeing = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    return {
        "gpt2": lambda: T.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **few),
        "opt": lambda: T.OPTConfig(**{**plain, "num_attention_heads": 2}, ffn_dim=64, word_embed_proj_dim=16),
        "llama": lambda: T.LlamaConfig(**usual, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        "qwen3": lambda: T.Qwen3Config(**usual, head_dim=8),
        "mixtral": lambda: T.MixtralConfig(**usual, **experts, num_local_experts=4),
        "qwen3-moe": lambda: T.Qwen3MoeConfig(**usual, **experts, moe_intermediate_size=24, num_experts=4, head_dim=8),
        "gemma2": lambda: T.Gemma2Config(**usual, head_dim=8, sliding_window=16),
        "bloom": lambda: T.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **few),
        "falcon": lambda: T.FalconConfig(**shape, num_attention_heads=4, **few),
        "gpt-neox": lambda: T.GPTNeoXConfig(**plain),
        "gpt-neo": lambda: T.GPTNeoConfig(
            hidden_size=32, num_layers=2, num_heads=4, window_size=16, attention_types=[[["global", "local"], 1]],
            **common,
        ),
        "phi": lambda: T.PhiConfig(**plain),
        "phi3": lambda: T.Phi3Config(**usual, original_max_position_embeddings=64, pad_token_id=0),
        "mamba": lambda: T.MambaConfig(**shape, state_size=4, **few),
        "bert": lambda: T.BertConfig(**plain, is_decoder=True),
        "bert-encoder": lambda: T.BertConfig(**plain),
        "t5": lambda: T.T5Config(
            d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, pad_token_id=0, **few
        ),
        "olmo2": lambda: T.Olmo2Config(**plain, pad_token_id=1),
        "gemma3": lambda: T.Gemma3Config(
            text_config={**usual, "head_dim": 8, "sliding_window": 16}, vision_config=seeing, mm_tokens_per_image=4,
            image_token_index=120, boi_token_index=121, eoi_token_index=122,
        ),
        "rwkv": lambda: T.RwkvConfig(**shape, attention_hidden_size=32, context_length=64, **few),
        "deepseek-v3": lambda: T.DeepseekV3Config(
            **{**usual, "num_key_value_heads": 4}, **experts, **latent, **routed, moe_intermediate_size=24,
        ),
        "gpt-oss": lambda: T.GptOssConfig(**usual, **experts, head_dim=8, num_local_experts=4, sliding_window=16),
        "zamba": lambda: T.ZambaConfig(
            **{**plain, "intermediate_size": 48, "num_hidden_layers": 8}, num_key_value_heads=4,
            attention_hidden_size=64, n_mamba_heads=2, mamba_d_state=4, layers_block_type=kinds,
            use_mamba_kernels=False,
        ),
        "xglm": lambda: T.XGLMConfig(
            d_model=32, ffn_dim=64, num_layers=2, attention_heads=4, vocab_size=VOCABULARY, max_position_embeddings=64
        ),
        "bart": lambda: T.BartConfig(d_model=32, **encoder, **decoder, **common),
    }  # fmt: skip


OF_ANOTHER_CLASS = {
    "bert-encoder": "BertForMaskedLM",
    "t5": "T5ForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "bart": "BartForCausalLM",
}
"""Language models that are saved as another class than AutoModelForCausalLM makes of their configuration."""


TRANSLATING = ("t5",)
"""Language models with an encoder, which the problem causal-lm does not take: by `prunebench.prune`, labels given."""


def language_model(T: Any, name: str, config: Any) -> torch.nn.Module:
    """A model at random weights, its matrices three times as large as usual."""
    torch.manual_seed(0)
    cls = OF_ANOTHER_CLASS.get(name)
    model: torch.nn.Module = getattr(T, cls)(config) if cls else T.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3.0)
    return model


def write_language_model(T: Any, name: str, config: Any, folder: Path) -> None:
    """A folder with a model at random weights, a tokenizer and a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    saved: Any = language_model(T, name, config)
    saved.save_pretrained(folder)
    words = {f"w{number}": number for number in range(100)}
    tokenizer = Tokenizer(models.WordLevel(words | {"</s>": 100}, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    T.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    drawn = torch.randint(100, (120, 40)).tolist()
    (folder / "text.json").write_text(json.dumps([" ".join(f"w{token}" for token in row) for row in drawn]))


def outcome(run: Callable[[Path], Mapping[str, Any]], usual: Sequence[str] = ()) -> dict[str, Any]:
    """What becomes of a run, which is given a folder and gives how many weights were kept of how many.

    usual : warnings that do not count
    """
    clock = time.process_time()
    row: dict[str, Any] = {"outcome": "pruned", "kept": None, "of": None, "matrices": None, "left dense": None}
    why = ""
    with tempfile.TemporaryDirectory() as folder, recorded() as told:
        out = Path(folder) / "run"
        try:
            row |= run(out)
            facts = json.loads((out / "run.json").read_text())["network"]
            row["left dense"] = sum(held["weights"] for held in facts.get("left_dense", []))
        except PrunebenchError as error:
            row["outcome"], why = "refused", str(error)
        except Exception as error:  # a fault of ours, which is what is looked for
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}, line {last.lineno}"
            row["outcome"], why = "error", f"{type(error).__name__}: {error} ({where})"
    new = [text for text in told if text not in usual]
    words = "; ".join([*([why] if why else []), *(f"warning: {text}" for text in new)])
    return {**row, "CPU s": time.process_time() - clock, "warnings": len(new), "why": " ".join(words.split())}


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The distinct warnings that are given inside, filled in at the end."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    found += dict.fromkeys(str(item.message) for item in caught)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=("language", "torchvision", "timm"), default="language")
    parser.add_argument("--networks", nargs="*", default=[], help="only these")
    parser.add_argument("--part", default="1/1", help="the first, second, … of so many parts of the list")
    parser.add_argument("--largest", type=int, default=20_000, help="weights that are pruned at most")
    parser.add_argument("--heaviest", type=int, default=100_000_000, help="weights of the largest network that is run")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    make_importable()
    number, parts = map(int, chosen.part.split("/"))
    counts: dict[str, Counter[str]] = {}
    found = language_rows(chosen, number, parts) if chosen.kind == "language" else vision_rows(chosen, number, parts)
    for row in found:
        if isinstance(row, Row):
            counts.setdefault(row.values["way"], Counter())[row.values["outcome"]] += 1
        yield row
    for way, held in counts.items():
        yield Row(f"{chosen.kind}, counts", {"way": way, **{name: held[name] for name in OUTCOMES}})


def language_rows(chosen: argparse.Namespace, number: int, parts: int) -> Iterator[Row | Note]:
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    configs = language_configs(transformers)
    for name in (chosen.networks or list(configs))[number - 1 :: parts]:
        config = configs[name]()
        with tempfile.TemporaryDirectory() as held:
            prune_it = translator(transformers, name, config) if name in TRANSLATING else None
            if prune_it is None:
                write_language_model(transformers, name, config, Path(held))
                prune_it = saved_model(Path(held))
            for way, asked in LANGUAGE_WAYS.items():

                def run(out: Path, asked: Mapping[str, Any] = asked, prune_it: PruneIt = prune_it) -> Mapping[str, Any]:
                    return prune_it(asked, out)

                yield Row("language", {"network": name, "way": way, **outcome(run)})


PruneIt = Callable[[Mapping[str, Any], Path], Mapping[str, Any]]
"""Prunes a network in a way, into a folder, and says how many weights were kept of how many."""


def saved_model(folder: Path) -> PruneIt:
    """A causal language model in a folder, as the problem causal-lm."""
    options = {
        "model": str(folder), "text": str(folder / "text.json"), "context": CONTEXT, "sequences": 24,
        "validation_sequences": 4,
    }  # fmt: skip

    def run(asked: Mapping[str, Any], out: Path) -> Mapping[str, Any]:
        found = prune(PruneRequest(problem="causal-lm", problem_options=options, density=0.5, **asked), out=out)
        return {"kept": found["kept"], "of": found["total"], "matrices": found["total"]}

    return run


def translator(T: Any, name: str, config: Any) -> PruneIt:
    """A model with an encoder and a decoder, by `prunebench.prune` on token ids with labels."""
    model = language_model(T, name, config)
    data = {"input_ids": torch.randint(100, (24, CONTEXT)), "labels": torch.randint(100, (24, CONTEXT // 2))}

    def run(asked: Mapping[str, Any], out: Path) -> Mapping[str, Any]:
        found = prunebench.prune(model, data, density=0.5, recipe=None, out=out, progress=False, **asked)
        return {"kept": found.kept, "of": found.total, "matrices": found.total}

    return run


def vision_rows(chosen: argparse.Namespace, number: int, parts: int) -> Iterator[Row | Note]:
    for name in (chosen.networks or vision.names(chosen.kind))[number - 1 :: parts]:
        facts: dict[str, Any] = {"network": name, "family": vision.family(chosen.kind, name)}
        with recorded() as usual:
            try:
                held = vision.given(chosen.kind, name)
            except vision.DoesNotRun as error:
                yield Row("not run", {**facts, "way": "none", "outcome": "does not run", "why": str(error)})
                continue
        facts |= {"side": held.side, "weights": held.weights}
        if held.weights > chosen.heaviest:
            why = f"{held.weights:,} weights, more than --heaviest"
            yield Row("not run", {**facts, "way": "none", "outcome": "too large", "why": why})
            continue
        for way, how in VISION_WAYS.items():

            def run(out: Path, how: Mapping[str, Any] = how, held: vision.Given = held) -> Mapping[str, Any]:
                problem, matrices = own_problem(held, chosen.largest)
                found = prunebench.prune(
                    problem, density=0.5, mode="select", recipe=None, out=out, progress=False, **how
                )
                return {"kept": found.kept, "of": found.total, "matrices": matrices}

            yield Row(chosen.kind, {**facts, "way": way, **outcome(run, usual)})


@lru_cache(maxsize=1)
def own_problem(held: vision.Given, largest: int) -> tuple[OwnNetwork, int]:
    """The network as a problem in which at most about so many weights are pruned, and how many its matrices hold."""
    given: dict[str, Any] = {"loss": held.loss, "forward": held.forward}
    data = (held.inputs, held.targets)
    whole = prunebench.own_network(held.model, data, validation=data, **given)
    sizes = {name: held.model.get_parameter(name).numel() for name in whole.prunable()}
    if sum(sizes.values()) <= largest:
        return whole, sum(sizes.values())
    some = small_matrices(held.model, sizes, largest)
    return prunebench.own_network(held.model, data, validation=data, prunable=some, **given), sum(sizes.values())


def small_matrices(model: torch.nn.Module, sizes: Mapping[str, int], largest: int) -> list[str]:
    """The smallest matrices that together hold so many weights, and the smallest of each kind of layer."""
    chosen, kinds, total = [], set(), 0
    for name in sorted(sizes, key=lambda held: (sizes[held], held)):
        module = model.get_submodule(name.rpartition(".")[0])
        kind = (type(module), getattr(module, "groups", 1) > 1, model.get_parameter(name).ndim)
        if total + sizes[name] <= largest or kind not in kinds:
            chosen.append(name)
            total += sizes[name]
        kinds.add(kind)
    return chosen


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"networks": ["gpt2"]})

if __name__ == "__main__":
    BENCHMARK.main()
