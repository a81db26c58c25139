"""Shared by all tests: a cache of their own, and what happens to tests whose data are not there."""

import json
import os

import numpy as np
import pytest
from hypothesis import settings

from prunebench import make_problem
from prunebench.core.problem import DATA_VARIABLE

REQUIRE_VARIABLE = "PRUNEBENCH_REQUIRE_DATA"

# a deadline would fail examples for the machine's load
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        f"needs_data(problem, ...): uses these problems' data under ${DATA_VARIABLE}; "
        f"skipped without, failed if {REQUIRE_VARIABLE}=1",
    )


def pytest_runtest_setup(item):
    for marker in item.iter_markers("needs_data"):
        reason = _absent(marker.args)
        if reason and os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(f"{REQUIRE_VARIABLE} is 1 but {reason}", pytrace=False)
        if reason:
            pytest.skip(reason)


def _absent(problems):
    if not os.environ.get(DATA_VARIABLE):
        return f"{DATA_VARIABLE} is not set"
    return "; ".join(text for text in (make_problem(name).missing() for name in problems) if text)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test reads or writes the user's cache; trained networks are shared within one session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def torchvision_imports():
    """Tests that import transformers or timm themselves meet them as the program does."""
    from prunebench.networks.torchvision_build import make_importable

    make_importable()


@pytest.fixture(scope="session")
def tiny_mistral(torchvision_imports, tmp_path_factory):
    """A folder with a randomly initialised Mistral (grouped-query attention, sliding window), its tokenizer, a text."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-mistral")
    words = [f"w{number}" for number in range(45)]
    vocabulary = {word: place for place, word in enumerate(["<s>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )
    fast.save_pretrained(folder)
    config = MistralConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        sliding_window=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MistralForCausalLM(config)
        # Larger than the usual start, so that what is pruned can be felt.
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(words, size=int(rng.integers(20, 60)))) for _ in range(120)]
    (folder / "text.json").write_text(json.dumps(documents))
    return folder
