"""stories260K: a real pretrained Llama of 260,000 weights that tells children's stories.

The model is karpathy's llama2.c stories260K (MIT), converted for transformers; the stories derive from
TinyStories (Eldan, Li: TinyStories, arXiv 2305.07759). Neither is part of prunebench.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prunebench.core.errors import MissingData
from prunebench.core.problem import DATA_VARIABLE, data_directory, register
from prunebench.problems.causal_lm import CausalLM

CHECKPOINT_FOLDER = "checkpoints/stories260K-llama-hf"
"""Where model and tokenizer are looked for below the data folder."""
STORIES = "text/tinystories_917_clean.json"
"""The stories, below the data folder."""


@register
@dataclass(frozen=True, kw_only=True)
class StoriesLlama(CausalLM):
    """stories260K on 917 stories, the last 100 for validation: perplexity 3.87 over the first 512 tokens of each."""

    name = "stories-llama"
    summary = "stories260K, a Llama of 5 layers, 226,560 weights, perplexity 3.87 on held-out stories"

    source: str = field(default="", metadata={"option": "model"})
    """A folder with the model and its tokenizer; empty: the data folder's checkpoints/stories260K-llama-hf."""

    text: str = STORIES
    """Stories: a file as for causal-lm."""

    context: int = 512
    """Tokens in a calibration sequence."""

    validation_context: int = 512
    """Tokens in a validation sequence."""

    validation_packing: Literal["packed", "documents"] = "documents"
    """Validation: every story by itself, cut to the context, or filled up with those that follow."""

    batch: int = 16
    """Sequences that go through the network at a time."""

    def _located(self) -> str:
        if self.source:
            return self.source
        if self._missing_model():
            raise MissingData(self._missing_model())
        return str(data_directory() / CHECKPOINT_FOLDER)

    def _missing_model(self) -> str:
        folder = Path(self.source).expanduser() if self.source else data_directory() / CHECKPOINT_FOLDER
        if folder.is_dir():
            return ""
        return (
            f"the model of {self.name} is not at {str(folder)!r}: put karpathy's stories260K there, converted for "
            f"transformers (config.json, model.safetensors, tokenizer.json), give its folder with --option model=…, "
            f"or point {DATA_VARIABLE} or --data at the folder that holds checkpoints"
        )
