"""How far a run is: lines with an estimate, from which compilation is left out."""

import pytest

from prunebench import progress
from prunebench.progress import Bar, Lines
from prunebench.runs.runner import Step


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    held = [100.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: held[0])
    return held


def compiled(display, clock, seconds):
    with display.compiling():
        clock[0] += seconds


def test_lines_say_how_long_the_other_steps_take_without_compilation(capsys, clock):
    lines = Lines()
    compiled(lines, clock, 20.0)
    clock[0] += 7.0
    lines.step(Step(1, 4, "accepted"))
    compiled(lines, clock, 30.0)
    clock[0] += 5.0
    lines.step(Step(2, 4, "rejected"))
    clock[0] += 1.0
    lines.step(Step(3, 4, "rejected"))
    lines.step(Step(4, 4, "rejected"))
    lines.close()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "compiling, once",
        "step 1/4  accepted",
        "step 2/4  rejected  10 s to go",
        "step 3/4  rejected  3 s to go",
        "step 4/4  rejected",
        "compilation took 50.0 s, once for this kind of block and machine",
    ]


def test_a_run_resumed_and_one_of_open_length(capsys, clock):
    lines = Lines()
    lines.step(Step(5, None, "accepted"))
    clock[0] += 5.0
    lines.step(Step(6, None, "accepted"))
    assert capsys.readouterr().err.splitlines() == ["step 5  accepted", "step 6  accepted"]


@pytest.mark.parametrize(("terminal", "kind"), [(True, Bar), (False, Lines)])
def test_commands_have_a_bar_in_a_terminal_and_lines_in_a_pipe(monkeypatch, terminal, kind):
    monkeypatch.setattr(progress, "_is_watched", lambda: terminal)
    with progress.shown(True, lines=True) as (say, _step):
        assert type(say.__self__) is kind
