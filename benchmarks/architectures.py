"""Many architectures at random weights: does each prune, and what is left dense?

    OMP_NUM_THREADS=1 python benchmarks/architectures.py language     [--networks gpt2 mixtral …]
    OMP_NUM_THREADS=1 python benchmarks/architectures.py torchvision  [--part 1/4] [--largest 30000000]
    OMP_NUM_THREADS=1 python benchmarks/architectures.py timm         [--part 1/4]

language: 25 small causal language models of transformers, each by one-shot (obd), iCBS, iCBS from Wanda's mask,
multi-stage (magnitude) and layer-wise (Wanda), at density 0.5. torchvision: every registered classification and
segmentation network; timm: its own test networks and small ones of its families. These get the smallest square
input that they take, and are pruned layer-wise by magnitude and by one step of iCBS on four samples. A row a network
and way: what became of it, how many weights were kept of how many, how many were left dense, CPU seconds, and where
it was not pruned the line that says why. The last rows count outcomes. An outcome "error" is a fault of prunebench.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from prunebench.core.errors import PrunebenchError
from prunebench.core.problem import Problem
from prunebench.core.registry import PROBLEMS
from prunebench.networks.samples import TensorSamples
from prunebench.networks.torchvision_build import make_importable
from prunebench.runs.prune import PruneRequest, prune
from runner import Benchmark, Note, Row

SIZES = (32, 64, 96, 128, 160, 224, 256, 384)
"""Sides of square inputs that are tried, in pixels."""

SAMPLES, CLASSES = 8, 10
"""Random images and classes: enough for a loss and a mask, not for an accuracy."""

VOCABULARY, CONTEXT = 128, 32
"""Tokens that the small language models know, and those in a sequence."""

Ways = Mapping[str, Mapping[str, Any]]

FEW = {"steps": 1, "block_size": 16, "samples": 4, "accept_samples": 4}
VISION_WAYS: Ways = {
    "layer-wise": {
        "coordinator": "layer-wise",
        "solver": "magnitude",
        "mode": "select",
        "coordinator_options": {"samples": 4},
    },
    "icbs": {"coordinator": "icbs", "solver": "swap", "mode": "select", "coordinator_options": FEW},
}
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
        "t5": lambda: T.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, **few),
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


def write_language_model(T: Any, name: str, config: Any, folder: Path) -> None:
    """A folder with a model at random weights, a tokenizer and a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    cls = OF_ANOTHER_CLASS.get(name)
    model = getattr(T, cls)(config) if cls else T.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3.0)
    model.save_pretrained(folder)
    words = {f"w{number}": number for number in range(100)}
    tokenizer = Tokenizer(models.WordLevel(words | {"</s>": 100}, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    T.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    drawn = torch.randint(100, (120, 40)).tolist()
    (folder / "text.json").write_text(json.dumps([" ".join(f"w{token}" for token in row) for row in drawn]))


@dataclass(frozen=True, kw_only=True)
class Images(Problem):
    """A network of a library at random weights, on random images."""

    name: ClassVar[str] = "architecture"
    summary: ClassVar[str] = "a network at random weights, for this benchmark"

    library: str = "torchvision"
    network: str = ""
    side: int = 32

    def model(self) -> torch.nn.Module:
        """The network, with ten classes."""
        return made(self.library, self.network, self.side)

    def prunable(self) -> tuple[str, ...]:
        """The matrices of all layers that multiply."""
        model = self.model()
        kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd, torch.nn.MultiheadAttention, torch.nn.RNNBase)
        owners = {name for name, module in model.named_modules() if isinstance(module, kinds)}
        return tuple(
            name for name, item in model.named_parameters() if item.ndim > 1 and name.rpartition(".")[0] in owners
        )

    def calibration(self) -> TensorSamples:
        """The random images and classes."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn((SAMPLES, 3, self.side, self.side), generator=generator)
        return TensorSamples(images, torch.arange(SAMPLES) % CLASSES)

    def validation(self) -> TensorSamples:
        """The same."""
        return self.calibration()

    def loss(self, outputs: Any, targets: Any) -> Any:
        """Cross-entropy, of segmentation the mean over pixels."""
        if outputs.ndim == 2:
            return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
        wanted = targets.reshape(-1, 1, 1).expand(len(targets), *outputs.shape[2:])
        return torch.nn.functional.cross_entropy(outputs, wanted, reduction="none").mean(dim=(1, 2))

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """The loss."""
        held = self.validation()
        with torch.no_grad():
            losses = self.loss(model.eval()(held.inputs), held.targets)
        return {"accuracy": 0.0, "loss": float(losses.mean())}


class Segmentation(torch.nn.Module):
    """The main output of a network that gives several by name."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The scores of each pixel."""
        found: torch.Tensor = self.inner(images)["out"]
        return found


def made(library: str, name: str, side: int) -> torch.nn.Module:
    """A network at random weights that takes images of a side, in evaluation mode."""
    torch.manual_seed(0)
    if library == "timm":
        import timm

        try:
            model = timm.create_model(name, pretrained=False, num_classes=CLASSES, img_size=side)
        except TypeError:
            model = timm.create_model(name, pretrained=False, num_classes=CLASSES)
        return model.eval()
    import torchvision  # type: ignore[import-untyped]

    more: dict[str, Any] = {"weights": None, "num_classes": CLASSES}
    if "segmentation" in str(torchvision.models.get_model_builder(name).__module__):
        return Segmentation(torchvision.models.get_model(name, weights_backbone=None, **more)).eval()
    if name.startswith("vit_"):
        more["image_size"] = side
    if name in ("googlenet", "inception_v3"):
        more["init_weights"] = False
    held: torch.nn.Module = torchvision.models.get_model(name, **more)
    return held.eval()


def smallest_side(library: str, name: str) -> tuple[int, int, str]:
    """The smallest side of images that a network takes, how many weights it has, and why none fits."""
    why = ""
    for side in SIZES:
        try:
            model = made(library, name, side)
            with torch.no_grad():
                found = model(torch.randn(2, 3, side, side))
        except Exception as error:  # whatever a library's network says of a size
            why = next(iter(str(error).splitlines()), type(error).__name__)
            continue
        if not isinstance(found, torch.Tensor):
            return side, 0, f"gives a {type(found).__name__}"
        return side, sum(item.numel() for item in model.parameters()), ""
    return 0, 0, why


def vision_names(library: str) -> list[str]:
    """The networks of a library."""
    if library == "torchvision":
        import torchvision

        held = torchvision.models
        return [name for module in (held, held.segmentation) for name in held.list_models(module=module)]
    return timm_names()


SMALL = (
    "starnet_s050", "mobilenetv4_conv_small_035", "lcnet_035", "tinynet_e", "mobilenetv3_small_050", "dla46_c",
    "mobilevit_xxs", "edgenext_xx_small", "mobilevitv2_050", "dla46x_c", "efficientvit_m0", "repghostnet_050",
    "ghostnet_050", "mnasnet_small", "regnetx_002", "xcit_nano_12_p16_224", "regnety_002", "efficientvit_b0",
    "convnext_atto", "convnextv2_atto", "pvt_v2_b0", "fastvit_t8", "inception_next_atto", "mobileone_s0",
    "semnasnet_075", "spnasnet_100", "fbnetc_100", "hardcorenas_a", "mixnet_s", "rexnet_100", "skresnet18",
    "tf_efficientnet_lite0", "ghostnetv2_100", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "tiny_vit_5m_224",
    "resnet10t", "repvgg_a0", "levit_128s", "densenet121", "selecsls42", "hrnet_w18_small", "ese_vovnet19b_slim",
    "pit_ti_224", "crossvit_tiny_240", "convit_tiny", "visformer_tiny", "cait_xxs24_224", "coat_lite_tiny",
    "gmixer_12_224", "mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224", "poolformerv2_s12", "repvit_m0_9",
    "swiftformer_xs", "shvit_s1", "mambaout_femto", "efficientformer_l1", "efficientformerv2_s0", "hgnetv2_b0",
    "resnet18", "seresnet18", "resnetv2_18", "nf_regnet_b0", "eca_nfnet_l0", "darknet17", "cspdarknet53",
    "res2net50_14w_8s", "xception41", "inception_v3", "vgg11", "nest_tiny", "twins_svt_small", "twins_pcpvt_small",
    "maxvit_pico_rw_256", "coatnet_pico_rw_224", "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224",
    "focalnet_tiny_srf", "davit_tiny", "hiera_tiny_224", "sequencer2d_s", "tnt_s_legacy_patch16_224", "volo_d1_224",
    "beit_base_patch16_224", "eva02_tiny_patch14_224", "rdnet_tiny", "nextvit_small", "mvitv2_tiny", "gcvit_xxtiny",
    "edgenext_x_small", "bat_resnext26ts", "botnet26t_256", "halonet26t", "lambda_resnet26t", "gcresnext26ts",
    "eca_resnext26ts", "seresnext26t_32x4d", "regnetz_005", "ecaresnet26t", "dpn48b", "hardcorenas_b", "resnest14d",
)  # fmt: skip
"""Small networks of timm, at least one of most of its families, those with few weights first."""


def timm_names() -> list[str]:
    """The networks that timm tests itself with, and small ones of its families."""
    import timm

    return [*timm.list_models("test_*"), *(name for name in SMALL if timm.is_model(name))]


def outcome(request: PruneRequest) -> dict[str, Any]:
    """What becomes of a run."""
    clock = time.process_time()
    row: dict[str, Any] = {"outcome": "pruned", "kept": None, "of": None, "left dense": None}
    why = ""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        try:
            found = prune(request, out=out)
            facts = json.loads((out / "run.json").read_text())["network"]
            left = sum(held["weights"] for held in facts.get("left_dense", []))
            row |= {"kept": found["kept"], "of": found["total"], "left dense": left}
        except PrunebenchError as error:
            row["outcome"], why = "refused", str(error)
        except Exception as error:  # a fault of ours, which is what is looked for
            row["outcome"], why = "error", f"{type(error).__name__}: {error}"
    return {**row, "CPU s": time.process_time() - clock, "why": " ".join(why.split())}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=("language", "torchvision", "timm"), default="language")
    parser.add_argument("--networks", nargs="*", default=[], help="only these")
    parser.add_argument("--part", default="1/1", help="the first, second, … of so many parts of the list")
    parser.add_argument("--largest", type=int, default=30_000_000, help="weights of the largest that is run")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    make_importable()
    warnings.simplefilter("ignore")
    number, parts = map(int, chosen.part.split("/"))
    counts: dict[str, Counter[str]] = {}
    found = language_rows(chosen, number, parts) if chosen.kind == "language" else vision_rows(chosen, number, parts)
    for row in found:
        if isinstance(row, Row):
            counts.setdefault(row.values["way"], Counter())[row.values["outcome"]] += 1
        yield row
    for way, held in counts.items():
        yield Row(
            f"{chosen.kind}, counts", {"way": way, **{name: held[name] for name in ("pruned", "refused", "error")}}
        )


def language_rows(chosen: argparse.Namespace, number: int, parts: int) -> Iterator[Row | Note]:
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    configs = language_configs(transformers)
    for name in (chosen.networks or list(configs))[number - 1 :: parts]:
        with tempfile.TemporaryDirectory() as held:
            folder = Path(held)
            write_language_model(transformers, name, configs[name](), folder)
            options = {
                "model": str(folder), "text": str(folder / "text.json"), "context": CONTEXT, "sequences": 24,
                "validation_sequences": 4,
            }  # fmt: skip
            for way, asked in LANGUAGE_WAYS.items():
                request = PruneRequest(problem="causal-lm", problem_options=options, density=0.5, **asked)
                yield Row("language", {"network": name, "way": way, **outcome(request)})


def vision_rows(chosen: argparse.Namespace, number: int, parts: int) -> Iterator[Row | Note]:
    if "architecture" not in PROBLEMS.names():
        PROBLEMS.register(Images)
    for name in (chosen.networks or vision_names(chosen.kind))[number - 1 :: parts]:
        side, weights, why = smallest_side(chosen.kind, name)
        if why or weights > chosen.largest:
            yield Note(f"{name}: not run: {why or f'{weights:,} weights, more than --largest'}")
            continue
        options = {"library": chosen.kind, "network": name, "side": side}
        for way, asked in VISION_WAYS.items():
            request = PruneRequest(problem="architecture", problem_options=options, density=0.5, **asked)
            yield Row(chosen.kind, {"network": name, "side": side, "way": way, **outcome(request)})


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"networks": ["gpt2"]})

if __name__ == "__main__":
    BENCHMARK.main()
