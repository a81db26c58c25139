"""Causal language models of `transformers`: loaded from a folder or the hub, checked, with their tokenizer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.errors import InvalidInput, MissingData, MissingPackage, PrunebenchError, unknown_name
from prunebench.core.registry import require_packages
from prunebench.devices import torch_device
from prunebench.networks.chosen import folded, kinds_of
from prunebench.networks.hub import cached, fetched, named
from prunebench.networks.language import logits_of, replaced, same_before
from prunebench.networks.torchvision_build import make_importable

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""What the option dtype takes; auto is what the checkpoint was saved in."""
EXPERT_AXES = 3
"""Axes of a parameter that holds the matrices of all experts: expert, and the two of a matrix."""
NOT_MATRICES = ("A_log",)
"""Parameters with as many axes that multiply nothing: logarithms of decay rates, in state-space layers (Zamba)."""
ALL_LAYERS = "all"
"""The value of the option layers that leaves no decoder layer out."""

SEEN_TOKENS = 8
"""Tokens of the text by which a model shows whether it is causal."""


def load_model(model: str, dtype: str, device: str) -> torch.nn.Module:
    """The language model in evaluation mode.

    Parameters
    ----------
    model : folder, or name on the hub
    dtype : "auto" for the checkpoint's own, or float32, bfloat16, float16
    device : "cpu", "cuda", … for the whole model, or "auto" to spread it over all devices (needs accelerate)

    Raises
    ------
    MissingData      the model is neither a folder nor to be had from the hub
    InvalidInput     it is no causal language model or sees the tokens that follow, its weights are quantised, or there
                     is no such device
    MissingPackage   transformers cannot be loaded
    """
    if device != "auto":
        torch_device(device)
    config = load_config(model)
    classes = _transformers()
    asked: dict[str, Any] = {"dtype": "auto" if dtype == "auto" else getattr(torch, dtype)}
    if device == "auto":
        require_packages(f"{model!r} on device auto", ("accelerate",), "pip install accelerate")
        asked["device_map"] = "auto"
    made, told = _from_hub(
        model,
        lambda name, local: classes.AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            local_files_only=local,
            # Told below by name; else what the file lacks would be random numbers.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **asked,
        ),
    )
    _require_whole(model, told)
    made.config.use_cache = False
    loaded: torch.nn.Module = (made if device == "auto" else made.to(device)).eval()
    _require_causal(model, loaded)
    return loaded


def _require_causal(model: str, made: torch.nn.Module) -> None:
    """Refuse a model whose prediction of a token sees the token: it is asked for two texts that differ in the last."""
    device = next(made.parameters()).device
    ids = torch.ones((1, SEEN_TOKENS), dtype=torch.int64, device=device)
    last = torch.tensor([SEEN_TOKENS - 1], device=device)
    with torch.no_grad(), _quiet():
        first, second = (logits_of(made(tokens)) for tokens in (ids, replaced(ids, last)))
    if not same_before(first, second, SEEN_TOKENS - 1):
        raise InvalidInput(
            f"model {model!r} ({type(made).__name__}) sees the tokens that follow, so it has no perplexity and is no "
            "causal language model; prune it with its own loss: prunebench.prune(model, data), or FILE.py:FUNCTION"
        )


def load_config(model: str) -> Any:
    """The model's configuration.

    Raises
    ------
    as `load_model`
    """
    classes = _transformers()
    config = _from_hub(model, lambda name, local: classes.AutoConfig.from_pretrained(name, local_files_only=local))
    held = getattr(config, "quantization_config", None)
    if held is not None:
        method = held.get("quant_method", "") if isinstance(held, dict) else type(held).__name__
        raise InvalidInput(
            f"model {model!r} has quantised weights ({method}); pruning needs floating-point weights: "
            "give the model they were quantised from"
        )
    return config


@lru_cache(maxsize=4)
def linear_layers(model: str, layers: tuple[str, ...]) -> tuple[str, ...]:
    """The weights of the model's linear layers but the head, by name, in the order of the model. Loads no weights.

    Linear layers are torch.nn.Linear, transformers' Conv1D (GPT-2), and experts whose matrices lie in one parameter
    with three axes (Mixtral, Qwen3-MoE, DeepSeek-V3, gpt-oss).

    Parameters
    ----------
    model : folder, or name on the hub
    layers : only layers whose name ends in one of these ("q_proj", "mlp.down_proj"); empty for all

    Raises
    ------
    UnknownName    no linear layer ends in one of the names; the message gives the nearest
    InvalidInput   there is no linear layer but the head
    """
    classes = _transformers()
    with torch.device("meta"), _quiet():
        skeleton = classes.AutoModelForCausalLM.from_config(load_config(model))
    found = _linear_parameters(skeleton, skeleton.get_output_embeddings())
    if not found:
        others = folded(
            name
            for name, item in skeleton.named_parameters()
            if item.ndim >= 2 and not isinstance(skeleton.get_submodule(name.rpartition(".")[0]), torch.nn.Embedding)
        )
        raise InvalidInput(
            f"model {model!r} ({type(skeleton).__name__}) has no linear layer but its head; "
            "by themselves only weights of torch.nn.Linear, Conv1D and fused experts are pruned. Name others of its "
            "matrices "
            f"({kinds_of(skeleton)}) with --option include=PATTERN, such as {others[0]}"
        )
    for wanted in layers:
        if not any(_ends_in(name, wanted) for name in found):
            raise unknown_name(f"layer of {model!r}", wanted, {name.rpartition(".")[2] for name in found})
    return tuple(
        parameter for name, parameter in found.items() if not layers or any(_ends_in(name, end) for end in layers)
    )


def _linear_parameters(model: torch.nn.Module, head: torch.nn.Module | None) -> dict[str, str]:
    """The weights of linear layers but the head, by the layer's name; of fused experts by the parameter's."""
    found: dict[str, str] = {}
    for owner, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
            found[owner] = f"{owner}.weight"
            continue
        if type(module).__module__.startswith("torch.nn."):
            continue
        for leaf, item in module.named_parameters(recurse=False):
            if leaf in NOT_MATRICES:
                continue
            if item.ndim == EXPERT_AXES and min(item.shape) > 1 and item.is_floating_point():
                found[f"{owner}.{leaf}"] = f"{owner}.{leaf}"
    return found


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer. It may have tokens that the model does not know: `require_known` looks at those used.

    Raises
    ------
    InvalidInput   there is none
    """
    classes = _transformers()
    load_config(model)
    try:
        made = _from_hub(
            model,
            lambda name, local: classes.AutoTokenizer.from_pretrained(name, local_files_only=local),
            "has no tokenizer that can be read",
            "put tokenizer.json and tokenizer_config.json into it",
        )
    except PrunebenchError:
        raise
    except Exception as error:
        raise InvalidInput(
            f"model {model!r} has no tokenizer beside it that can be read ({_first_line(error)}); "
            "put tokenizer.json and tokenizer_config.json into its folder"
        ) from error
    return made


def require_known(model: str, tokens: npt.NDArray[np.int64], tokenizer: Any) -> None:
    """Refuse token ids that the model has no embedding for; tokens that do not occur may be more than it knows.

    Raises
    ------
    InvalidInput   one occurs; the message names it
    """
    known = load_config(model).get_text_config().vocab_size
    if tokens.size and int(tokens.max()) >= known:
        worst = int(tokens.max())
        raise InvalidInput(
            f"the text holds token {worst} ({tokenizer.convert_ids_to_tokens(worst)!r}) and model {model!r} knows "
            f"{known} tokens; give a folder with its own tokenizer and config.json, or a text without that token"
        )


def save(model: Any, source: str, folder: Path) -> None:
    """Write a model as a folder for from_pretrained: safetensors, configuration, tokenizer, masks not included.

    Parameters
    ----------
    model : a model of transformers
    source : where it came from, for the tokenizer
    folder : exists
    """
    with _quiet():
        model.config.use_cache = load_config(source).use_cache
        model.save_pretrained(folder)
        load_tokenizer(source).save_pretrained(folder)


def tokenized(tokenizer: Any, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
    """The texts as token ids, each behind the beginning-of-sequence token where the tokenizer has one.

    Raises
    ------
    InvalidInput   a text becomes ids the tokenizer has no tokens for
    """
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    with _quiet():
        found = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [np.array(first + ids, dtype=np.int64) for ids in found]


def longest_context(model: str) -> int | None:
    """How many tokens the model was made for; None where its configuration does not say."""
    held = getattr(load_config(model).get_text_config(), "max_position_embeddings", None)
    return int(held) if held else None


def _ends_in(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _require_whole(model: str, told: Any) -> None:
    """Refuse a checkpoint that lacks weights of its model, or holds them in other shapes."""
    if told["mismatched_keys"]:
        name, held, wanted = min(told["mismatched_keys"])
        raise InvalidInput(
            f"model {model!r} and its config.json do not fit: {name} is {tuple(held)} in the file and "
            f"{tuple(wanted)} by the configuration; give the configuration that belongs to the weights"
        )
    if told["missing_keys"]:
        missing = sorted(told["missing_keys"])
        raise InvalidInput(
            f"model {model!r} lacks {len(missing)} weights that its config.json asks for, the first is {missing[0]}; "
            "give a checkpoint that holds them all"
        )


def _from_hub(
    model: str,
    load: Any,
    refusal: str = "cannot be loaded as a causal language model",
    remedy: str = "give a folder that AutoModelForCausalLM.from_pretrained takes",
) -> Any:
    """load(name, local files only) for a folder or for a name on the hub, from its cache where it is there."""
    from safetensors import SafetensorError

    folder = Path(model).expanduser()
    if folder.is_dir():
        try:
            with _quiet():
                return load(str(folder), True)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise InvalidInput(f"model folder {str(folder)!r} {refusal} ({_first_line(error)}); {remedy}") from error
    if not named(model):
        raise MissingData(
            f"model {model!r} is no folder that exists, and no name on the hub (owner/name); check --option model=…"
        )
    if cached(model, "config.json"):
        try:
            with _quiet():
                return load(model, True)
        except OSError:
            pass  # part of it is in the cache: the rest is fetched below
    with _quiet():
        return fetched("model", model, lambda: load(model, False))


def _transformers() -> Any:
    try:
        make_importable()
        import transformers

        # Loaded lazily by transformers: a broken companion package shows only here.
        _ = transformers.AutoModelForCausalLM, transformers.AutoConfig, transformers.AutoTokenizer
        _ = transformers.models.llama.LlamaConfig
    except (ImportError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise MissingPackage(
            f"transformers cannot be loaded ({_first_line(cause)}); run: pip install 'prunebench[transformers]', and "
            "where torchvision is installed, take the build that belongs to torch's (same index), or uninstall it"
        ) from error
    return transformers


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither progress bars nor warnings of transformers on standard error."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
