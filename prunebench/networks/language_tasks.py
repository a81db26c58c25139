"""Zero-shot tasks by the LM Evaluation Harness (Gao et al., EleutherAI), an optional package."""

from collections.abc import Sequence
from typing import Any

import torch

from prunebench.core.errors import InvalidInput, MissingPackage
from prunebench.networks.network import evaluation_mode


def evaluate_tasks(model: torch.nn.Module, tokenizer: Any, tasks: Sequence[str], batch_size: int) -> dict[str, float]:
    """The accuracy (a fraction, not normalised by length) on every task, and their plain mean as "accuracy".

    Parameters
    ----------
    model : a causal language model of transformers, where it is
    tokenizer : its tokenizer
    tasks : names of lm-eval's tasks with a measure "acc"
    batch_size : requests at a time

    Raises
    ------
    MissingPackage   lm-eval is not installed
    InvalidInput     lm-eval does not know a task, or the task has no accuracy
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise MissingPackage(
            "the tasks need lm_eval, which is not installed; run: pip install 'prunebench[lm-eval]', "
            "or leave the tasks out"
        ) from error
    held = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    try:
        with evaluation_mode(model), torch.no_grad():
            found = lm_eval.simple_evaluate(model=held, tasks=list(tasks), num_fewshot=0)["results"]
    except KeyError as error:
        raise InvalidInput(f"lm-eval does not know the task {error}; choose others with --option tasks=…") from error
    out: dict[str, float] = {}
    for task in tasks:
        value = found.get(task, {}).get("acc,none")
        if value is None:
            raise InvalidInput(f"task {task!r} of lm-eval has no measure 'acc'; choose one that has")
        out[task] = float(value)
    return {"accuracy": sum(out.values()) / len(out), **out}
