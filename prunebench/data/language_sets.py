"""Calibration and validation sequences of a language problem: texts read, tokenised, cut to the context."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import InvalidInput
from prunebench.data import texts
from prunebench.data.language_samples import Packing, pack
from prunebench.networks.language_models import load_tokenizer, longest_context, require_known, tokenized

LONGEST_CONTEXT = 2048
"""The context where none is asked for and the model is made for more."""

DOCUMENTS_AT_ONCE = 500
"""Documents tokenised in one call: reading stops once there are sequences enough."""

Sequences = tuple[npt.NDArray[np.int64], ...]


@dataclass(frozen=True)
class LanguageSet:
    """Where sequences come from.

    model : folder or hub name, for the tokenizer
    text : "c4", "wikitext" or a file
    held_out : how many documents at the end of a file are for validation; of a single document, its last tenth
    key : under what objects and columnar files hold their texts
    context : tokens a sequence; 0 for what the model was made for, at most LONGEST_CONTEXT
    """

    model: str
    text: str
    held_out: int
    context: int
    packing: Packing
    most: int | None
    key: str = texts.TEXT_KEY

    def sequences(self, part: str) -> Sequences:
        """The token sequences for "train" or "validation".

        Raises
        ------
        InvalidInput   the text is shorter than the context, or the context longer than the model's
        """
        return _sequences(self, part, self.checked_context())

    def checked_context(self) -> int:
        """Tokens a sequence."""
        longest = longest_context(self.model)
        if self.context == 0:
            return min(LONGEST_CONTEXT, longest or LONGEST_CONTEXT)
        if longest is not None and self.context > longest:
            raise InvalidInput(
                f"context is {self.context} but model {self.model!r} was made for {longest} tokens; choose at most "
                "that (--option context=N)"
            )
        return self.context


@lru_cache(maxsize=8)
def _sequences(chosen: LanguageSet, part: str, context: int) -> Sequences:
    found: list[npt.NDArray[np.int64]] = []
    held: list[npt.NDArray[np.int64]] = []
    count = 0
    for document in _tokens(chosen, part):
        held.append(document)
        count += len(document)
        # Cut only where a sequence ends anyway, so that the result does not depend on how texts are read.
        if chosen.packing == "documents" or sum(map(len, held)) >= context:
            found += pack(held, context, chosen.packing)
            held = []
        if chosen.most is not None and len(found) >= chosen.most:
            break
    if not found:
        raise InvalidInput(
            f"the {part} part of text {chosen.text!r} has {count} tokens{_why_short(chosen, part)}, shorter than one "
            f"context of {context}; give a longer text, or a smaller context (--option context=N)"
        )
    return tuple(found[: chosen.most])


def _why_short(chosen: LanguageSet, part: str) -> str:
    """How much of the text that part is."""
    if chosen.text in texts.NAMED:
        return ""
    total = len(texts.documents(chosen.text, part, key=chosen.key))
    if total == 1:
        return " (nine tenths of its only document)" if part == "train" else " (the last tenth of its only document)"
    held = chosen.held_out if part == "validation" else total - chosen.held_out
    return f" ({held} of its {total} documents: --option validation_documents={chosen.held_out})"


def _tokens(chosen: LanguageSet, part: str) -> Iterator[npt.NDArray[np.int64]]:
    """The documents of a part as token ids."""
    tokenizer = load_tokenizer(chosen.model)

    def checked(documents: list[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64]]:
        # together: the model's configuration is read for each call
        if documents:
            require_known(chosen.model, np.concatenate(documents), tokenizer)
        return documents

    if chosen.text in texts.NAMED:
        source = texts.documents(chosen.text, "test" if (chosen.text, part) == ("wikitext", "validation") else part)
    else:
        source = texts.documents(chosen.text, part, key=chosen.key)
        if len(source) == 1:
            (whole,) = checked(tokenized(tokenizer, source))
            cut = len(whole) - len(whole) // 10
            yield whole[:cut] if part == "train" else whole[cut:]
            return
        if len(source) <= chosen.held_out:
            raise InvalidInput(
                f"the text {chosen.text!r} has {len(source)} documents and validation_documents is "
                f"{chosen.held_out}; take fewer (--option validation_documents=N)"
            )
        cut = len(source) - chosen.held_out
        source = source[:cut] if part == "train" else source[cut:]
    for start in range(0, len(source), DOCUMENTS_AT_ONCE):
        yield from checked(tokenized(tokenizer, source[start : start + DOCUMENTS_AT_ONCE]))
