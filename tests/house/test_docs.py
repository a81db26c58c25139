"""The documentation: it builds without a warning, needs no network, names what there is, and its examples run."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from functools import reduce
from html.parser import HTMLParser
from pathlib import Path

import pytest

from browser import Browser
from prunebench import PROBLEMS, SOLVERS, cli, measures
from prunebench.comparison.table import COLUMNS
from prunebench.core.registry import COORDINATORS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
INCLUDED = re.compile(r'^--8<-- "(?P<path>[^"]+)"$', re.MULTILINE)
BLOCK = re.compile(r"(?P<skip><!-- not run: [^\n]+ -->\n)?^```(?P<language>python|sh)\n(?P<code>.*?)^```$", re.M | re.S)


def _markdown(page):
    """The page with the files it includes."""
    return INCLUDED.sub(lambda found: (ROOT / found["path"]).read_text(), page.read_text())


def _blocks(page, language):
    """Line numbers and code of the blocks that are to be run."""
    text = _markdown(page)
    return [
        (text[: found.start("code")].count("\n") + 1, found["code"])
        for found in BLOCK.finditer(text)
        if found["language"] == language and not found["skip"]
    ]


PAGES_WITH_EXAMPLES = [page for page in (ROOT / "README.md", *PAGES) if _blocks(page, "python") or _blocks(page, "sh")]


class _Page(HTMLParser):
    """What a page loads when it is opened, and its text."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        held = dict(attributes)
        if tag in ("script", "img", "iframe"):
            self.loads.append(held.get("src") or "")
        elif tag == "link" and held.get("rel") in ("stylesheet", "icon", "preconnect", "preload", "modulepreload"):
            self.loads.append(held.get("href") or "")

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; a warning stops the build."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, capture_output=True, text=True, cwd=ROOT, env=quiet)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def _text(site, name):
    return _Page((site / f"{name}.html").read_text()).text


def test_every_page_is_built(site):
    assert {page.relative_to(DOCS).with_suffix("") for page in PAGES} <= {
        page.relative_to(site).with_suffix("") for page in site.rglob("*.html")
    }


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.glob("*.html"):
        for address in _Page(page.read_text()).loads:
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text()), sheet


def test_every_command_is_on_the_page_of_commands(site):
    text = _text(site, "command-line")
    for name in cli.COMMANDS:
        assert f"prunebench {name}" in text
    assert "--block-time-limit SEC" in text


def test_every_solver_is_in_the_reference(site):
    text = _text(site, "solvers")
    for name in SOLVERS.names():
        assert text.count(name) >= 2, name


def test_every_problem_is_in_the_reference(site):
    text = _text(site, "problems")
    for name in PROBLEMS.names():
        assert name in text


def test_every_coordinator_has_a_section_and_its_options(site):
    page = (site / "coordinators.html").read_text()
    for name in COORDINATORS.names():
        assert f'id="{name}"' in page
        assert f'id="options-{name}"' in page


def test_every_measure_and_column_is_defined(site):
    text = _text(site, "measures")
    for name, meaning in measures.GLOSSARY.items():
        assert name in text
        assert meaning[:40] in text
    formats = _text(site, "formats")
    for column in COLUMNS:
        assert column in formats


def test_the_public_functions_are_in_the_api_reference(site):
    pages = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    for name in ("prunebench.compare", "prunebench.solve", "prunebench.core.block.BlockProblem.evaluate",
                 "prunebench.core.gap.gap", "prunebench.measures.primal_integral",
                 "prunebench.plot.quality_against_time", "prunebench.plot.colour",
                 "prunebench.testing.conformance.assert_conforms"):  # fmt: skip
        assert f'id="{name}"' in pages, name


def test_sections_of_docstrings_become_lists(site):
    pages = [(page, page.read_text()) for page in (site / "api").glob("*.html")]
    assert any("<strong>Raises</strong>" in text for _, text in pages)
    for page, text in pages:
        assert "------" not in _Page(text).text, page.name


def test_every_notebook_is_a_page_and_can_be_downloaded(site):
    notebooks = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert notebooks
    start, gallery = ((site / name).read_text() for name in ("quick-start.html", "gallery.html"))
    for notebook in notebooks:
        assert (site / "notebooks" / notebook.name).read_bytes() == notebook.read_bytes()
        assert f'href="tutorials/{notebook.stem}.html"' in start
        page = (site / "tutorials" / f"{notebook.stem}.html").read_text()
        assert f'href="../notebooks/{notebook.name}"' in page
        # formulas are drawn, and every figure is on the page and in the gallery
        assert "$" not in re.sub(r"<code.*?</code>|<script.*?</script>", "", page, flags=re.DOTALL)
        figures = [
            output
            for cell in json.loads(notebook.read_text())["cells"]
            for output in cell.get("outputs", [])
            if "image/png" in output.get("data", {})
        ]
        for number in range(len(figures)):
            picture = f"{notebook.stem}-{number}.png"
            assert (site / "tutorials" / picture).read_bytes().startswith(b"\x89PNG")
            assert f'src="{picture}"' in page
            assert f'src="tutorials/{picture}"' in gallery


def test_the_site_is_searched_and_its_diagrams_are_whole_where_it_is_opened_as_a_file(site, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.open((site / "decisions" / "index.html").as_uri(), 1400)
        field = "document.querySelector('input.md-search__input')"
        browser.run(f"document.querySelector('[for=__search]').click(); {field}.focus(); {field}.value = 'bootstrap'")
        found = browser.run(
            "new Promise((resolve) => { const look = setInterval(() => {"
            f"{field}.dispatchEvent(new KeyboardEvent('keyup', {{bubbles: true}}));"
            "const links = document.querySelectorAll('.md-search-result__link');"
            "if (links.length) { clearInterval(look); resolve(Array.from(links, (link) => link.href)); } }, 200); })"
        )
        assert any("measures.html" in link for link in found), found
        assert browser.errors == []
        browser.open((site / "architecture.html").as_uri(), 1400)
        cut = "((code) => code.scrollWidth - code.clientWidth)(document.querySelector('.diagram code'))"
        assert browser.run(cut) <= 0
    finally:
        browser.close()


def test_every_benchmark_that_is_named_exists():
    for page in [*PAGES, ROOT / "README.md"]:
        for name in re.findall(r"benchmarks/\w+\.py", page.read_text()):
            assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_every_file_that_is_named_exists():
    named = re.compile(r"`((?:prunebench|solvers|problems|tests|docs|notebooks)/[\w/.-]*\w(?:/|\.\w+))`")
    found = 0
    for page in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for name in named.findall(page.read_text()):
            found += 1
            assert (ROOT / name).exists(), f"{page.name} names {name}"
    assert found > 20


def test_every_name_that_is_written_in_code_font_exists():
    named = re.compile(r"`(prunebench(?:\.\w+)+)`")
    names = {name for page in [*PAGES, ROOT / "README.md"] for name in named.findall(page.read_text())}
    names = {name for name in names if not name.endswith(".json")}  # a file's name
    assert len(names) > 20
    for name in names:
        assert _exists(name.split(".")), name


def _exists(parts):
    """Whether a dotted name is a module, or something inside one."""
    for depth in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:depth]))
        except ModuleNotFoundError:
            continue
        return reduce(lambda held, part: getattr(held, part, None), parts[depth:], found) is not None
    return False


def test_every_option_of_a_line_that_is_not_run_exists():
    lines = [
        (page, line)
        for page in PAGES
        for found in BLOCK.finditer(_markdown(page))
        if found["skip"] and found["language"] == "sh"
        for line in _lines(found["code"])
    ]
    assert lines
    for page, line in lines:
        command, *rest = shlex.split(line, comments=True)[1:]
        assert command in cli.COMMANDS, f"{page.name}: {line}"
        known = _long_options(command)
        for word in rest:
            assert not word.startswith("--") or word in known, f"{page.name}: {word} in {line}"


def _long_options(command):
    import argparse

    parser = argparse.ArgumentParser()
    cli.command_module(command).add_arguments(parser)
    help_of_all = "".join(one.format_help() for one in (parser, *cli.parts(parser).values()))
    return set(re.findall(r"--[\w-]+", help_of_all)) | {"--json", "--quiet", "--data", "--debug"}


def test_most_pages_have_examples():
    assert len(PAGES_WITH_EXAMPLES) >= 9
    assert sum(len(_blocks(page, "python")) for page in PAGES) >= 10
    assert sum(len(_lines(code)) for page in PAGES for _, code in _blocks(page, "sh")) >= 15


@pytest.mark.parametrize("page", PAGES_WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    """All Python of a page as one program, then the lines of its shell blocks, in one folder."""
    monkeypatch.chdir(tmp_path)
    python = _blocks(page, "python")
    if python:
        _run_python(page, python, tmp_path)
    for _, code in _blocks(page, "sh"):
        for line in _lines(code):
            done = cli.main([*shlex.split(line, comments=True)[1:], "--quiet"])
            assert done == 0, f"{page.name}: {line}: {capsys.readouterr().err}"


def _lines(code):
    """The prunebench lines of a shell block, continued lines joined."""
    joined = code.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("prunebench ")]


def _run_python(page, blocks, folder):
    """All blocks as one program, blank lines before each so that line numbers are those of the page."""
    program = ""
    for line, code in blocks:
        program += "\n" * (line - 1 - program.count("\n")) + code
    file = folder / f"{page.stem}.py".replace("-", "_")
    file.write_text(program)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, f"{page.name}: {done.stderr[-3000:]}"
