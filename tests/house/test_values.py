"""Values travel between parts, not sentences: no text for people decides anything, facts are read in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunebench.core.solver import Facts

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "prunebench").rglob("*.py"), *(ROOT / "solvers").rglob("*.py")])
SENTENCES = {"reason", "stop_reason", "reasons", "why", "refusal", "words", "message", "stop", "stopped", "skipped"}
"""Names that hold a text for people, or the value that carries one."""
PARSERS = {"startswith", "endswith", "find", "index", "count", "split", "partition", "removeprefix"}
"""Methods that look into a text."""
FOREIGN = {"prunebench/networks/torchvision_build.py"}
"""Where another library's error is recognised by its words, since it has nothing else."""
FACTS_READ_IN = ROOT / "prunebench" / "core" / "solver.py"


def is_sentence(node: ast.expr, errors: set[str]) -> bool:
    """Whether an expression is a text for people: a name or attribute of SENTENCES, `stop.text`, or str(error)."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("str", "repr"):
        return len(node.args) == 1 and isinstance(node.args[0], ast.Name) and node.args[0].id in errors
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "lower":
        return is_sentence(node.func.value, errors)
    if isinstance(node, ast.Attribute) and node.attr == "text":
        return is_sentence(node.value, errors)
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name in SENTENCES


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != ""


def decided_by_sentences(source: str) -> Iterator[int]:
    """The lines of a file in which something is decided by a text for people."""
    tree = ast.parse(source)
    errors = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(is_sentence(side, errors) for side in sides) and any(is_text(side) for side in sides):
                yield node.lineno
        looks = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PARSERS
        if looks and is_sentence(node.func.value, errors):
            yield node.lineno


@pytest.mark.parametrize(
    "source",
    [
        'if reason.startswith("time limit"): pass',
        'expired = self.reason.startswith(("time limit", "evaluation limit"))',
        'x = "time" in solution.stop_reason',
        'x = "time" in stop.text.lower()',
        'x = solution.stop.text == "proved optimal"',
        'try: pass\nexcept ValueError as error:\n    x = "singular" in str(error)',
        'try: pass\nexcept ValueError as error:\n    x = str(error).split("): ", 1)[-1]',
    ],
)
def test_the_search_finds_what_it_is_for(source):
    assert list(decided_by_sentences(source))


@pytest.mark.parametrize(
    "source",
    [
        "if reason: pass",
        'x = reason == ""',
        "x = stop.kind is StopKind.TIME",
        'x = f"{reason}; then more"',
        "try: pass\nexcept ValueError as error:\n    x = str(error)",
    ],
)
def test_and_nothing_else(source):
    assert not list(decided_by_sentences(source))


def test_nothing_is_decided_by_a_text_for_people():
    found = {f"{path.relative_to(ROOT)}:{line}" for path in SOURCES for line in decided_by_sentences(path.read_text())}
    assert {place.split(":")[0] for place in found} <= FOREIGN, sorted(found)


def fact_reads(source: str) -> Iterator[int]:
    """The lines of a file in which getattr asks for a fact of a solver."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            asked = node.args[1] if len(node.args) > 1 else None
            if isinstance(asked, ast.Constant) and asked.value in set(Facts._fields) - {"name", "requires", "install"}:
                yield node.lineno


def test_facts_of_solvers_are_read_in_one_place():
    found = {f"{path.relative_to(ROOT)}:{line}" for path in SOURCES for line in fact_reads(path.read_text())}
    assert not {place for place in found if not place.startswith(str(FACTS_READ_IN.relative_to(ROOT)))}, sorted(found)
