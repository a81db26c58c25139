"""What a first solve compiles: every kernel once, which is said once; a second process finds all of it."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from helpers import call
from prunebench.core import compilation

PROBE = """
import json, sys
from numba.core import event

class Compiled(event.Listener):
    def on_start(self, event):
        kernel = event.data["dispatcher"].py_func
        if kernel.__module__.startswith("prunebench."):
            names.append(f"{kernel.__module__}.{kernel.__qualname__}")

    def on_end(self, event):
        pass

names, lines = [], []
event.register("numba:compile", Compiled())
from helpers import gaussian_block
from prunebench import Budget, solve
from prunebench.core import compilation

solver, mode = sys.argv[1:]
with compilation.said(lines.append):
    for seed, keep in enumerate((4, 5)):
        solve(gaussian_block(10, keep, seed, mode, n=12, ridge=0.1), solver, budget=Budget(evaluations=200))
print(json.dumps({"names": names, "lines": lines}))
"""


def compiled(solver, mode, cache):
    """The kernels that two solves compile in a process of their own, in order, and what is said meanwhile."""
    own = {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, solver, mode], env=os.environ | own, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    return found["names"], found["lines"]


@pytest.mark.parametrize(
    ("solver", "mode"),
    [
        ("swap", "refit"),
        ("anneal", "select"),
        pytest.param("branch-and-bound", "select", marks=pytest.mark.slow),
        pytest.param("branch-and-bound", "refit", marks=pytest.mark.slow),
        pytest.param("admm", "refit", marks=pytest.mark.slow),
    ],
)
def test_every_kernel_is_compiled_once_and_that_is_said_once(tmp_path, solver, mode):
    names, lines = compiled(solver, mode, tmp_path)
    assert names
    # copies between arrays of several types are the exception: four lines each
    assert {name for name, times in Counter(names).items() if times > 1} <= {
        "prunebench.kernels.compiled.copy", "prunebench.kernels.compiled.fill",
    }  # fmt: skip
    assert lines[0] == compilation.COMPILING
    assert lines.count(compilation.COMPILING) == 1
    assert compiled(solver, mode, tmp_path) == ([], [])


def test_what_is_warm_is_not_compiled_again(capsys):
    call(capsys, "warm", "swap", "--quiet")
    code, out, err = call(capsys, "warm", "swap", "--json", "--quiet")
    row = json.loads(out)
    assert (code, err) == (0, "")
    assert (row["solver"], row["compiled"], row["seconds"]) == ("swap", 0, 0.0)
    # both modes, four classes of sizes, a count and a quota
    assert row["kinds"] == 16


def test_warm_says_where_the_cache_is_and_what_it_holds_for(capsys):
    code, out, err = call(capsys, "warm", "magnitude")
    assert code == 0
    assert "magnitude: nothing to compile" in err
    assert "0 kernels compiled" in out
    assert "Another processor, another numba or changed sources compile anew." in out
