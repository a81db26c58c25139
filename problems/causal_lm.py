"""Any causal language model of `transformers`, from a folder or the Hugging Face hub, on any text.

Prunable is every linear layer but the head, as in SparseGPT, Wanda and iCBS; fused experts are linear layers.
Judged by the perplexity of held-out text and, where tasks are named, by the LM Evaluation Harness.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prunebench.core.errors import InvalidInput, MissingData
from prunebench.core.problem import Problem, joined, register
from prunebench.core.registry import missing_packages
from prunebench.data.texts import missing_text
from prunebench.networks.hub import cached

if TYPE_CHECKING:
    from prunebench.data.language_samples import Packing, TokenSamples

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Of the weights: those that layers can compute in, and the checkpoint's own."""

TASKS = ("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
"""The zero-shot tasks of Rosenberg et al., arXiv 2411.17796 (and of Sun et al.: Wanda, arXiv 2306.11695)."""


@register
@dataclass(frozen=True, kw_only=True)
class CausalLM(Problem):
    """A causal language model with a text for calibration and one for validation."""

    name = "causal-lm"
    summary = "any causal language model of transformers, on C4, WikiText or a text file of yours"
    requires = ("torch", "transformers")
    install = "pip install 'prunebench[transformers]'"

    source: str = field(default="", metadata={"option": "model"})
    """A folder that AutoModelForCausalLM.from_pretrained takes, tokenizer beside it, or a name on the hub."""

    text: str = "wikitext"
    """Calibration text: c4, wikitext, or a file (.txt, .json, .jsonl, .json.gz, .parquet, .csv)."""

    text_key: str = "text"
    """Under what the objects of a JSON file, or the columns of a columnar one, hold their text (message.content)."""

    validation_text: str = ""
    """Validation text, likewise; empty: the validation part of c4, the test part of wikitext, or the file's end."""

    validation_documents: int = 100
    """Documents at the end of a text file that are for validation only; of a single document, its last tenth."""

    context: int = 0
    """Tokens in a sequence; 0: what the model was made for, at most 2,048."""

    validation_context: int = 0
    """Tokens in a validation sequence; 0: as for calibration."""

    sequences: int = 1024
    """Calibration sequences at most."""

    validation_sequences: int | None = None
    """Validation sequences at most; none: all."""

    packing: Literal["packed", "documents"] = "packed"
    """Calibration: sequences filled up with the documents that follow, or one document each, cut and padded."""

    validation_packing: Literal["packed", "documents"] = "packed"
    """The same for validation."""

    layers: tuple[str, ...] = ()
    """Ends of the names of the linear layers that are pruned (q_proj, mlp.down_proj); none: all but the head."""

    sample: Literal["sequence", "token"] = "sequence"
    """What a row of the curvature's factor stands for: a sequence, or one token of it."""

    weighting: Literal["tokens", "none"] = "tokens"
    """How much a sequence's gradient counts in the curvature: once a token its loss is the mean of, or once."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto: the checkpoint's own. Gradients are gathered in float32 whatever it is."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, …, or auto to spread the model over all devices (needs accelerate)."""

    checkpointing: bool = False
    """Recompute activations in the backward pass, layer by layer, instead of keeping them: less memory, more time."""

    batch: int = 8
    """Sequences that go through the network at a time."""

    tasks: tuple[str, ...] = ()
    """Tasks of lm-eval to judge by as well, zero-shot: boolq, rte, hellaswag, …; accuracy is their mean."""

    def __post_init__(self) -> None:
        for name, least in (
            ("validation_documents", 1),
            ("context", 0),
            ("validation_context", 0),
            ("sequences", 1),
            ("batch", 1),
        ):
            _require_whole(self.name, name, getattr(self, name), least)
        if self.validation_sequences is not None:
            _require_whole(self.name, "validation_sequences", self.validation_sequences, 1)
        if 1 in (self.context, self.validation_context):
            raise InvalidInput(f"{self.name}: a context is 1; nothing can be predicted from less than 2 tokens")
        for name, known in (
            ("packing", ("packed", "documents")),
            ("validation_packing", ("packed", "documents")),
            ("sample", ("sequence", "token")),
            ("weighting", ("tokens", "none")),
            ("dtype", DTYPES),
        ):
            if getattr(self, name) not in known:
                raise InvalidInput(f"{self.name}: {name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")

    def missing(self) -> str:
        """Which model, text or package is not there and what to do; "" if all are. Fetches nothing."""
        return joined(self._missing_tasks(), self._missing_model(), *self._missing_texts())

    def model(self) -> Any:
        """A new copy of the language model on its device, in evaluation mode."""
        from prunebench.networks.language_models import load_model

        return load_model(self._located(), self.dtype, self.device)

    def prunable(self) -> tuple[str, ...]:
        """The weights of the linear layers but the head, or of those that `layers` names."""
        from prunebench.networks.language_models import linear_layers

        return linear_layers(self._located(), self.layers)

    def calibration(self) -> "TokenSamples":
        """Sequences of the calibration text; targets are the tokens themselves, -100 where there is padding."""
        return self._samples("train", self.text, self.context, self.packing, self.sequences)

    def validation(self) -> "TokenSamples":
        """Sequences of the validation text."""
        text, context = self.validation_text or self.text, self.validation_context or self.context
        return self._samples("validation", text, context, self.validation_packing, self.validation_sequences)

    def loss(self, outputs: Any, targets: Any) -> Any:
        """The mean cross-entropy of every sequence's predicted tokens."""
        from prunebench.networks.language import sequence_loss

        return sequence_loss(outputs, targets)

    def evaluate(self, model: Any) -> dict[str, float]:
        """Loss and perplexity a token of the validation text, and the accuracy of the tasks that are named."""
        from prunebench.networks.language import evaluate_language_model

        measures = evaluate_language_model(model, self.validation())
        if self.tasks:
            from prunebench.networks.language_models import load_tokenizer
            from prunebench.networks.language_tasks import evaluate_tasks

            measures |= evaluate_tasks(model, load_tokenizer(self._located()), self.tasks, self.batch)
        return measures

    def save_pretrained(self, model: Any, folder: Path) -> None:
        """Write the model and its tokenizer as a folder that AutoModelForCausalLM.from_pretrained takes."""
        from prunebench.networks.language_models import save

        save(model, self._located(), folder)

    def _located(self) -> str:
        """The model's folder, or its name on the hub."""
        if not self.source:
            raise MissingData(self._missing_model())
        return self.source

    def _missing_model(self) -> str:
        if not self.source:
            return f"{self.name} needs a model: give a folder or a name on the hub with --option model=…"
        if Path(self.source).expanduser().is_dir() or cached(self.source, "config.json"):
            return ""
        return (
            f"the model {self.source!r} is neither a folder nor in the hub's cache; "
            "it is downloaded when it is used, where there is a network"
        )

    def _missing_tasks(self) -> str:
        if not self.tasks or not missing_packages(("lm_eval",)):
            return ""
        return (
            f"the tasks of {self.name} need lm_eval, which is not installed: run pip install 'prunebench[lm-eval]', "
            "or leave the tasks out with --option tasks="
        )

    def _missing_texts(self) -> Iterator[str]:
        yield missing_text(self.text)
        if self.validation_text:
            yield missing_text(self.validation_text)

    def _samples(self, part: str, text: str, context: int, packing: "Packing", most: int | None) -> "TokenSamples":
        from prunebench.data.language_samples import TokenSamples
        from prunebench.data.language_sets import LanguageSet

        located, held_out = self._located(), self.validation_documents
        chosen = LanguageSet(located, text, held_out, context, packing, most, self.text_key)
        return TokenSamples(chosen.sequences(part), self.batch, self.sample, weighted=self.weighting == "tokens")


def _require_whole(owner: str, name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(f"{owner}: {name} is {value!r}; choose a whole number from {least}")
