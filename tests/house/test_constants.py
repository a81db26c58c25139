"""Every constant says what it is."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("prunebench", "solvers", "problems")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
NAME = re.compile(r"_?[A-Z][A-Z0-9_]+")


def silent_constants(source: str) -> list[str]:
    """The module's constants with neither a sentence below them nor a comment at them."""
    body, lines = ast.parse(source).body, source.split("\n")
    out = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        names = [part.id for part in getattr(target, "elts", [target]) if isinstance(part, ast.Name)]
        said = (
            isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
        )
        noted = "#" in lines[node.lineno - 1] or lines[node.lineno - 2].lstrip().startswith("#")
        if not (said or noted):
            out += [name for name in names if NAME.fullmatch(name)]
    return out


def test_a_constant_without_a_word_is_seen():
    assert silent_constants('"""Module."""\nLIMIT = 3\n"""Most."""\nOTHER = 4\nA, B2 = 1, 2\n') == ["OTHER", "B2"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_constant_has_a_sentence(file):
    assert silent_constants(file.read_text()) == []
