"""stories-llama, dense and pruned, judged by the LM Evaluation Harness on a task made from local text.

The task is the 100 stories that stories-llama is judged on, by the harness's `loglikelihood_rolling`. It gives
perplexity a word and a byte; from the same sum and the number of tokens follows that a token, which is what
prunebench gives. Two definitions differ. Where the tokenizer puts a beginning of the sequence before a text, the
harness has it predicted too, after another one; with `add_bos_token=False` it does not. And it judges longer stories to
their end, in windows of the model's context, where prunebench judges the first 512 tokens of each.
"""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner import Benchmark, Note, Row

TASK: dict[str, Any] = {
    "task": "stories",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
}
"""The task as lm-eval takes it in Python; as YAML it has the same keys (docs/transformers.md)."""

BATCH = 16
"""Windows that go through the model at a time."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--effort", default="quick", help="of recipe auto (default: quick)")
    parser.add_argument("--stories", type=int, default=100, help="the last so many are judged (default: 100)")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    if find_spec("lm_eval") is None:
        yield Note("skipped: lm_eval is not installed; run: pip install 'prunebench[lm-eval]'")
        return
    import prunebench

    problem = prunebench.make_problem("stories-llama", {"validation_documents": chosen.stories})
    if problem.missing():
        yield Note(f"skipped: {problem.missing()}")
        return
    model: Any = problem.model()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        judged = Judged(problem, Path(folder), chosen.stories)
        yield Row("perplexity of stories-llama", {"network": "dense", **judged.of(model)})
        pruned = prunebench.prune(problem, density=chosen.density, effort=chosen.effort, progress=False)
        pruned.apply(model)
        name = f"density {pruned.kept / pruned.total:g}"
        yield Row("perplexity of stories-llama", {"network": name, **judged.of(model)})


class Judged:
    """Judges a model by both, on the same stories."""

    def __init__(self, problem: Any, folder: Path, count: int) -> None:
        from prunebench.data.texts import documents
        from prunebench.networks.language_models import load_tokenizer, tokenized

        self._problem = problem
        self._tokenizer = load_tokenizer(problem._located())
        self._stories = documents(problem.text, "validation")[-count:]
        self._file = folder / "stories.jsonl"
        self._file.write_text("".join(json.dumps({"text": story}) + "\n" for story in self._stories))
        # Without the beginning of the sequence, which nobody predicts.
        self._lengths = [len(tokens) - 1 for tokens in tokenized(self._tokenizer, self._stories)]

    def of(self, model: Any) -> dict[str, Any]:
        """The perplexities of a model, by column."""
        usual, alike = self._by_harness(model), self._by_harness(model, add_bos_token=False)
        fitting = sum(length < self._problem.validation_context for length in self._lengths)
        return {
            "prunebench, a token": self._problem.evaluate(model)["perplexity"],
            "lm-eval, a token, add_bos_token=False": self._of_tokens(alike),
            "lm-eval, a token": self._of_tokens(usual),
            "lm-eval, a word": usual["word_perplexity,none"],
            "lm-eval, a byte": usual["byte_perplexity,none"],
            "stories": len(self._stories),
            "of them within the context": fitting,
        }

    def _of_tokens(self, found: dict[str, float]) -> float:
        """The perplexity a token of the stories, by that a word."""
        words = sum(len(story.split()) for story in self._stories)
        return math.exp(words * math.log(found["word_perplexity,none"]) / sum(self._lengths))

    def _by_harness(self, model: Any, **how: Any) -> dict[str, float]:
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        context = self._problem.validation_context
        held = HFLM(pretrained=model, tokenizer=self._tokenizer, batch_size=BATCH, max_length=context, **how)
        task = TASK | {"dataset_kwargs": {"data_files": {"test": str(self._file)}}}
        found: dict[str, float] = lm_eval.simple_evaluate(model=held, tasks=[task], bootstrap_iters=0)["results"][
            "stories"
        ]
        return found


os.environ.setdefault("HF_HUB_OFFLINE", "1")

BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"stories": 10})

if __name__ == "__main__":
    BENCHMARK.main()
