"""Mistral-7B pruned with C4 and judged by seven zero-shot tasks: the largest experiment of iCBS.

Rosenberg et al.: Scalable iterative pruning of large language and vision models using block coordinate
descent, arXiv 2411.17796 (2024): Mistral-7B-v0.1 in half precision, one sample a document of C4 cut at
4,096 tokens, 16 new documents a step, every linear layer but the head. The published run is
`--coordinator icbs --init wanda --option init_scope=row --block-size 4096 --samples 16 --steps 3000
--accept none`; needs the model (14.5 GB) and C4 from the hub, a GPU, and lm-eval for the tasks.
"""

from dataclasses import dataclass, field
from typing import Literal

from prunebench.core.problem import register
from prunebench.problems.causal_lm import TASKS, CausalLM

DOCUMENTS = 16 * 300
"""What the published run uses: 16 documents a step, the same 300 steps' worth in every epoch."""


@register
@dataclass(frozen=True, kw_only=True)
class MistralC4(CausalLM):
    """Mistral-7B-v0.1 on C4 with the published settings; judged by perplexity on C4 and the seven tasks."""

    name = "mistral-c4"
    summary = "Mistral-7B-v0.1 on C4, 6,979,321,856 weights, seven zero-shot tasks; needs a GPU"

    source: str = field(default="mistralai/Mistral-7B-v0.1", metadata={"option": "model"})
    """A folder that AutoModelForCausalLM.from_pretrained takes, tokenizer beside it, or a name on the hub."""

    text: str = "c4"
    """Calibration text: c4, wikitext, or a file (.txt, .json, .jsonl, .json.gz, .parquet, .csv)."""

    context: int = 4096
    """Tokens in a sequence."""

    sequences: int = DOCUMENTS
    """Calibration sequences at most."""

    validation_sequences: int | None = 128
    """Validation sequences at most; none: all."""

    packing: Literal["packed", "documents"] = "documents"
    """Calibration: sequences filled up with the documents that follow, or one document each, cut and padded."""

    weighting: Literal["tokens", "none"] = "none"
    """How much a sequence's gradient counts in the curvature: once a token, or once (published)."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float16"
    """Of the weights; auto: the checkpoint's own. Gradients are gathered in float32 whatever it is."""

    device: str = "cuda"
    """cpu, cuda, cuda:1, …, or auto to spread the model over all devices (needs accelerate)."""

    checkpointing: bool = True
    """Recompute activations in the backward pass, layer by layer, instead of keeping them: less memory, more time."""

    batch: int = 1
    """Sequences that go through the network at a time."""

    tasks: tuple[str, ...] = TASKS
    """Tasks of lm-eval to judge by as well, zero-shot; none: perplexity only."""
