"""The parser of the program: near misses, completion, tables for terminals and pipes, and where the cache is."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import call
from prunebench import cli
from prunebench.commands import tables
from prunebench.core.problem import cache_directory


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("block", "digits-mlp", "--size", 8, "--densty", 0.5), "--densty: did you mean --density?"),
        (("export", "b.npz", "--fromat", "bqm", "-o", "x"), "--fromat: did you mean --format?"),
        (("solve", "b.npz", "--solvr=swap"), "--solvr: did you mean --solver?"),
    ],
)
def test_a_wrong_option_is_refused_with_the_one_that_was_meant(capsys, arguments, hint):
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert hint in err
    assert err.count("\n") == 1


def test_abbreviations_and_far_misses_get_no_hint(capsys):
    assert "did you mean" not in call(capsys, "solve", "none.npz", "--time", 1)[2]
    assert "did you mean" not in call(capsys, "solve", "none.npz", "--xyzzy")[2]


def test_help_has_a_line_for_every_command(capsys):
    lines = call(capsys, "--help")[1].splitlines()
    for name in cli.COMMANDS:
        assert any(line.split()[:1] == [name] for line in lines), name


def test_the_whole_parser_knows_every_command():
    whole = cli.parser()
    assert set(whole.of) == set(cli.COMMANDS)
    assert whole.parse_args(["solve", "b.npz", "--seed", "3"]).seed == 3


def test_a_script_for_the_shell_completes_options_and_solvers(capsys):
    code, out, _ = call(capsys, "--completion", "bash")
    assert code == 0
    assert "--solver-log" in out
    assert "branch-and-bound" in out
    checked = subprocess.run(["bash", "-n"], input=out, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert call(capsys, "--completion", "sh")[0] == 2


def test_a_command_loads_no_other():
    code = "import sys; from prunebench.cli import main; main(['solvers', 'swap']); "
    code += "print([m for m in ('rich', 'shtab', 'prunebench.commands.compare') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.splitlines()[-1] == "[]"


def test_tables_are_plain_in_pipes_and_ruled_in_terminals(monkeypatch):
    heads, rows = ("name", ">number"), [("a", "1"), ("[bold]longer", "20")]
    assert tables.table(heads, rows) == "name          number\na                  1\n[bold]longer      20"

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    ruled = tables.table(heads, rows)
    assert "─" in ruled
    assert "[bold]longer" in ruled
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in ruled.splitlines()) <= 40


def test_the_cache_is_where_it_was_or_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, appauthor: tmp_path / "Caches" / name)
    assert cache_directory() == tmp_path / "Caches" / "prunebench"
    (tmp_path / ".cache" / "prunebench").mkdir(parents=True)
    assert cache_directory() == tmp_path / ".cache" / "prunebench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_directory() == tmp_path / "x" / "prunebench"
