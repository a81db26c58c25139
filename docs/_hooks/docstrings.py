"""Turn prunebench's docstrings into Markdown for mkdocstrings.

Sections are underlined as in numpydoc, but an entry says type and meaning in one line
(`name : meaning`, `Exception   meaning`), which numpydoc would take for a type. Entries become lists.
"""

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(Parameters|Returns|Raises|Yields|Notes|Examples)\n-{3,}\n", re.MULTILINE)
NAMED = re.compile(r"^(?P<name>\*{0,2}\w+(?:, \*{0,2}\w+)*) : +(?P<text>\S.*)$")
SPACED = re.compile(r"^(?P<name>\S+(?:, \S+)*)(?: {2,}(?P<text>\S.*))?$")


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **_rest: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """The docstring with sections as bold words and their entries, and runs of `name : text`, as lists."""
    parts = SECTION.split(docstring.strip())
    out = [_paragraphs(parts[0])]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        first, _, rest = body.strip("\n").partition("\n\n")
        out += [f"**{title}**", _entries(first, title), _paragraphs(rest)]
    return "\n\n".join(part for part in out if part)


def _paragraphs(text: str) -> str:
    """Free text; a paragraph that only defines names becomes a list, an indented one stays code."""
    out = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.split("\n")
        heads = [line for line in lines if not line.startswith(" ")]
        if heads and all(NAMED.match(line) for line in heads):
            out.append(_entries(paragraph, ""))
        else:
            out.append(paragraph)
    return "\n\n".join(out).strip("\n")


def _entries(text: str, title: str) -> str:
    """One list item an entry; indented lines continue it."""
    items: list[str] = []
    for line in text.split("\n"):
        stripped = line.strip()
        if line.startswith(" ") and items:
            items[-1] += f" {stripped}"
            continue
        found = NAMED.match(line)
        if found is None and title != "Notes":
            found = SPACED.match(line)
        if found is None:
            items.append(stripped)
        elif found["text"]:
            items.append(f"`{found['name']}`: {found['text']}")
        else:
            items.append(f"`{found['name']}`:")
    return "\n".join(f"- {re.sub(r'  +', '  ', item)}" for item in items)
