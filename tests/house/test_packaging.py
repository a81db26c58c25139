"""The map from folders to packages, what an import loads, and the guard on the short names."""

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    *("torch", "qiskit", "qiskit_aer", "dwave", "pyomo", "dimod", "numba", "highspy", "sklearn", "pandas"),
    *("transformers", "timm"),
)


def _packages_on_disk() -> set[str]:
    found = set()
    for top, name in (
        ("prunebench", "prunebench"),
        ("solvers", "prunebench.solvers"),
        ("problems", "prunebench.problems"),
    ):
        for file in (ROOT / top).rglob("__init__.py"):
            inside = file.parent.relative_to(ROOT / top).parts
            if top == "prunebench" and inside[:1] in (("solvers",), ("problems",)):
                continue
            found.add(".".join([name, *inside]))
    return found


def test_the_package_list_is_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == _packages_on_disk()
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", ["solvers", "problems"])
def test_the_links_lead_to_the_top_level_folders(name):
    assert (ROOT / "prunebench" / name).resolve() == ROOT / name


@pytest.mark.parametrize("name", ["solvers", "problems"])
def test_the_short_names_refuse_to_be_imported(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / name / "__init__.py")
    with pytest.raises(ImportError, match=f"import this package as prunebench.{name}"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize(
    "code",
    [
        "import prunebench",
        "from prunebench import SOLVERS; SOLVERS.names()",
        "from prunebench import PROBLEMS; PROBLEMS.names()",
        "from prunebench.cli import main; main(['solvers', '--json', '--quiet'])",
        "from prunebench.cli import main; main(['problems', '--json', '--quiet'])",
        "import prunebench.curvature.fisher",
    ],
)
def test_importing_and_listing_load_no_heavy_library(code):
    report = f"import sys, json, io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()):\n    {code}\n"
    report += "print(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, cwd="/")
    loaded = set(json.loads(done.stdout))
    assert "prunebench" in loaded
    assert loaded.isdisjoint(HEAVY), loaded.intersection(HEAVY)


def test_the_dimod_sampler_is_there_and_loaded_only_when_asked_for():
    code = "import sys, prunebench; print('PruneSampler' in prunebench.__all__, 'dimod' in sys.modules, "
    code += "prunebench.PruneSampler.__name__, 'dimod' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == ["True", "False", "PruneSampler", "True"]


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import prunebench

    with pytest.raises(AttributeError, match="no_such"):
        _ = prunebench.no_such


def test_the_version_is_the_packages():
    import prunebench

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == prunebench.__version__
