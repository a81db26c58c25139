"""The repository's notebooks as pages of the site: text, code, outputs and figures, as they were committed.

Formulas become MathML, which browsers draw themselves, so that no page loads a script for them.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File

FORMULA = re.compile(r"(?P<code>`+[^`]*`+)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$]+?)\$", re.DOTALL)
STYLE = re.compile(r"<style.*?</style>", re.DOTALL)
FOLDER = "tutorials"


@dataclass(frozen=True)
class Picture:
    """A figure of a notebook. heading : the last one above it;  anchor : that heading's"""

    address: str
    heading: str
    anchor: str


@dataclass(frozen=True)
class Tutorial:
    """A notebook as a page. address : relative to the docs;  pictures : in their order, with their bytes"""

    title: str
    address: str
    markdown: str
    pictures: tuple[tuple[Picture, bytes], ...]

    def files(self, config: MkDocsConfig) -> Iterator[File]:
        """The page and its pictures for MkDocs."""
        yield File.generated(config, self.address, content=self.markdown)
        for picture, held in self.pictures:
            yield File.generated(config, picture.address, content=held)


def tutorial(notebook: Path) -> Tutorial:
    """A committed notebook as a page."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts: list[str] = []
    pictures: list[tuple[Picture, bytes]] = []
    title = heading = notebook.stem
    for cell in cells:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            headings = re.findall(r"^#+ (.+)$", source, re.MULTILINE)
            if headings and title == notebook.stem:
                title = headings[0]
            heading = headings[-1] if headings else heading
            parts.append(formulas(source))
            if len(parts) == 1:
                parts.append(f"[Download this notebook](../notebooks/{notebook.name}) and run it, or read on.")
            continue
        if source:
            parts.append(f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            held = output.get("data", {})
            if "image/png" in held:
                address = f"{FOLDER}/{notebook.stem}-{len(pictures)}.png"
                picture = Picture(address, heading, _anchor(heading))
                pictures.append((picture, base64.b64decode(held["image/png"])))
                parts.append(f"![{heading}]({Path(address).name})")
            else:
                parts.append(_words(output, held))
    return Tutorial(title, f"{FOLDER}/{notebook.stem}.md", "\n\n".join(filter(None, parts)), tuple(pictures))


def formulas(markdown: str) -> str:
    """Formulas between dollar signs as MathML; code is left alone."""

    def draw(found: re.Match[str]) -> str:
        if found["code"]:
            return found["code"]
        if found["block"]:
            return f'<div class="formula">{convert(_one_line(found["block"]), display="block")}</div>'
        # in a span, since Markdown takes a formula at the beginning of a line for a block
        return f"<span>{convert(_one_line(found['inline']))}</span>"

    return FORMULA.sub(draw, markdown)


def _one_line(formula: str) -> str:
    return " ".join(formula.split())


def _words(output: dict[str, Any], held: dict[str, Any]) -> str:
    """An output without a picture: Markdown and tables as such, all else as text."""
    if "text/markdown" in held:
        return formulas("".join(held["text/markdown"]))
    if "text/html" in held:
        table = STYLE.sub("", "".join(held["text/html"]))
        return f'<div class="output">{" ".join(table.split())}</div>'
    text = "".join(output.get("text", held.get("text/plain", ""))).rstrip()
    return f"```text\n{text}\n```" if text else ""


def _anchor(heading: str) -> str:
    """As Markdown's table of contents makes it."""
    from markdown.extensions.toc import slugify

    return str(slugify(heading, "-"))
