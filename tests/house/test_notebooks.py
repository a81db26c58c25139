"""The notebooks: both files of a pair say the same, they run, and what is committed has its outputs and no secrets."""

import importlib.util
import re
import socket
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))
LARGEST_BYTES = 600_000
SECONDS = 300
"""For a notebook in small size, with compilation and on a busy machine; most take a tenth of it."""

FIGURE = re.compile(r"plt\.show\(\)|display\((?:named\()?plot\.")
NOT_PORTABLE = re.compile(
    r"(?<![\w.:/<])/(?:home|root|tmp|work|users|usr|var|opt|mnt|private)/|[A-Z]:\\", re.IGNORECASE
)

NEEDS_DATA = {"03": "garment-fashion-mnist"}


def _execute():
    spec = importlib.util.spec_from_file_location("notebooks_execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXECUTE = _execute()


def _committed(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _texts(cell):
    """All that a cell's outputs say in words."""
    for output in cell.outputs:
        yield output.get("text", "")
        for kind, held in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield held


def _images(notebook):
    return [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in _code(notebook)]


def _small(source):
    needed = NEEDS_DATA.get(source.name[:2])
    return pytest.param(source, id=source.stem, marks=[pytest.mark.needs_data(needed)] if needed else [])


@pytest.fixture(params=SOURCES, ids=lambda source: source.stem)
def source(request):
    return request.param


def test_there_are_ten_and_the_readme_names_each():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [source.name[:2] for source in SOURCES] == ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10"]
    assert all(source.with_suffix(".ipynb").name in readme for source in SOURCES)
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == {source.stem for source in SOURCES}


def test_the_pair_says_the_same(source):
    ours, committed = EXECUTE.unexecuted(source), _committed(source)
    assert [(c.cell_type, c.source) for c in ours.cells] == [(c.cell_type, c.source) for c in committed.cells]


def test_the_committed_notebook_was_run_from_top_to_bottom(source):
    notebook = _committed(source)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in _code(notebook)] == list(range(1, len(_code(notebook)) + 1))
    kinds = {output.output_type for cell in _code(notebook) for output in cell.outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert not [text for cell in _code(notebook) for text in _texts(cell) if "Traceback" in text or "Warning" in text]


def test_every_figure_is_in_the_committed_notebook(source):
    notebook = _committed(source)
    drawing = [bool(FIGURE.search(cell.source)) for cell in _code(notebook)]
    assert any(drawing)
    assert [count > 0 for count in _images(notebook)] == drawing
    assert source.with_suffix(".ipynb").stat().st_size < LARGEST_BYTES


def test_the_outputs_name_no_folder_user_or_machine(source):
    host = socket.gethostname()
    for cell in _code(_committed(source)):
        for text in _texts(cell):
            assert not NOT_PORTABLE.search(text), text
            assert len(host) < 8 or host == "localhost" or host not in text, text


@pytest.mark.parametrize("text", ["/home/ada/x", "in /tmp/abc/run", "'/root/.cache'", "C:\\Users\\ada"])
def test_folders_of_a_machine_are_recognised(text):
    assert NOT_PORTABLE.search(text)


def test_03_was_committed_with_fashion_mnist():
    notebook = _committed(next(source for source in SOURCES if source.name.startswith("03")))
    said = " ".join(text for cell in _code(notebook) for text in _texts(cell))
    assert "This run prunes garment-fashion-mnist" in said


@pytest.mark.parametrize("source", [_small(source) for source in SOURCES])
def test_it_runs_in_small_size(source, monkeypatch):
    """The facts that a notebook teaches are assertions in its own cells."""
    monkeypatch.setenv(EXECUTE.SIZE_VARIABLE, "small")
    monkeypatch.setattr(EXECUTE, "CELL_SECONDS", SECONDS)
    notebook = EXECUTE.executed(source)
    assert "assert " in "".join(cell.source for cell in _code(notebook))
    assert _images(notebook) == _images(_committed(source))


def test_03_falls_back_to_the_digits_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv(EXECUTE.SIZE_VARIABLE, "small")
    monkeypatch.setenv("PRUNEBENCH_DATA", str(tmp_path))
    notebook = EXECUTE.executed(next(source for source in SOURCES if source.name.startswith("03")))
    said = " ".join(text for cell in _code(notebook) for text in _texts(cell))
    assert "This run prunes digits-mlp" in said
    assert "garment-fashion-mnist, whose data are not there" in said


def test_a_cell_that_fails_fails_the_run(tmp_path):
    from nbclient.exceptions import CellExecutionError

    broken = tmp_path / "broken.py"
    broken.write_text("# %%\nprint('before')\nassert 1 + 1 == 3, 'arithmetic holds'\n", encoding="utf-8")
    with pytest.raises(CellExecutionError, match="arithmetic holds"):
        EXECUTE.executed(broken)


def test_execute_writes_the_pair(tmp_path, monkeypatch):
    """Two runs give the same file: no times, no random names."""
    monkeypatch.setattr(EXECUTE, "HERE", tmp_path)
    (tmp_path / "09_two.py").write_text("# %% [markdown]\n# # Title\n\n# %%\nprint(6 * 7)\n", encoding="utf-8")
    written = []
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["execute.py", "09", "--out", str(tmp_path)])
        EXECUTE.main()
        written.append((tmp_path / "09_two.ipynb").read_bytes())
    assert written[0] == written[1]
    assert nbformat.reads(written[0].decode(), 4).cells[1].outputs[0].text == "42\n"


def test_execute_refuses_a_name_that_is_none(monkeypatch):
    monkeypatch.setattr("sys.argv", ["execute.py", "77"])
    with pytest.raises(SystemExit, match="no notebook begins with 77"):
        EXECUTE.main()


def test_no_notebook_submits_to_hardware_by_itself():
    text = next(source for source in SOURCES if source.name.startswith("04")).read_text(encoding="utf-8")
    assert re.search(r"^HARDWARE = False\b", text, re.MULTILINE)
    calls = re.findall(r'^( *).*?run(?:_circuit)?\("(?:dwave|ibm)[":]', text, re.MULTILINE)
    assert len(calls) == 2
    assert all(len(indent) == 4 for indent in calls), "hardware is called outside of 'if HARDWARE:'"
