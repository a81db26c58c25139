"""What a run loses is told: solvers that fail, workers that die, full disks, signals; resuming does it again."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from prunebench import make_solver, register_solver
from prunebench.cli import main
from prunebench.coordinators.icbs.coordinator import ICBS
from prunebench.core.errors import Interrupted, InvalidInput, RunFailed, WorkersGone
from prunebench.core.registry import SOLVERS
from prunebench.log.run_directory import RunDirectory
from prunebench.report import write_report
from prunebench.report.gather import gather
from prunebench.runs import runner
from prunebench.runs.executors import Pooled
from prunebench.runs.prune import PruneRequest, prune, resume

KEPT = 474
WORDS = "licence server unreachable"

OPTIONS = {
    "one-shot": {},
    "layer-wise": {"samples": 50},
    "multi-stage": {
        "stages": 2, "samples": 60, "held_out": 60, "ridges": (1.0, 10.0),
        "gradient_scales": (0.0, 0.0),
    },
    "icbs": {"steps": 4, "block_size": 16, "blocks_per_step": 2, "samples": 40, "accept_samples": 60},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Failing:
    """As the solver magnitude, but for the calls whose numbers are in `broken`, counted over the process."""

    name: ClassVar[str] = "failing"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = ""
    broken: ClassVar[set[int]] = set()
    calls: ClassVar[list[int]] = []

    def refuses(self, block):
        return ""

    def solve(self, block, budget, rng, progress=None):
        self.calls.append(len(self.calls))
        if self.calls[-1] in self.broken:
            raise ConnectionError(WORDS)
        return make_solver("magnitude").solve(block, budget, rng, progress)


@pytest.fixture(scope="module", autouse=True)
def _only_here():
    # not when the file is imported: tests collected later would take it for a solver of the project
    register_solver(Failing)
    yield
    SOLVERS._classes.pop("failing", None)


@pytest.fixture(autouse=True)
def _anew(monkeypatch):
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(runner, "CHECKPOINT_RATIO", 0.0)
    breaks()


def breaks(*numbers):
    Failing.calls.clear()
    Failing.broken.clear()
    Failing.broken.update(numbers)


def request(coordinator, **changes):
    scope = "layer" if coordinator == "one-shot" else "network"
    asked = {"problem": "digits-mlp", "density": 0.2, "solver": "failing", "mode": "refit", "scope": scope}
    asked |= {"recover": ("none",)} | changes
    return PruneRequest(coordinator=coordinator, **{"coordinator_options": OPTIONS[coordinator]} | asked)


def result_of(run):
    return json.loads((run / "result.json").read_text())


def same_mask(first, second):
    return (first / "mask.safetensors").read_bytes() == (second / "mask.safetensors").read_bytes()


def reported(run):
    """What a report says of a run that is not finished."""
    try:
        return gather([run]).runs[0].source.trouble
    except InvalidInput as error:
        return str(error)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What each coordinator gives where nothing fails."""
    folder = tmp_path_factory.mktemp("whole")
    breaks()
    for coordinator in OPTIONS:
        assert prune(request(coordinator), out=folder / coordinator)["outcome"] == "finished"
    return folder


@pytest.mark.parametrize("coordinator", OPTIONS)
def test_a_solver_that_always_fails_ends_the_run_with_its_own_words_and_resuming_solves_it(
    whole, tmp_path, coordinator
):
    breaks(*range(1000))
    with pytest.raises(RunFailed, match=WORDS) as raised:
        prune(request(coordinator), out=tmp_path / "run")
    assert f"prunebench resume {tmp_path / 'run'}" in str(raised.value)
    held = result_of(tmp_path / "run")
    assert held["outcome"] == "failed"
    assert WORDS in held["error"]
    assert held["unsolved"] == sum(held["failures"].values()) >= 1
    assert all(WORDS in reason for reason in held["failures"])
    assert not (tmp_path / "run" / "mask.safetensors").exists()
    assert WORDS in reported(tmp_path / "run")
    with pytest.raises(RunFailed, match=WORDS):
        resume(tmp_path / "run")
    breaks()
    again = resume(tmp_path / "run")
    assert (again["outcome"], again["unsolved"], again["failures"]) == ("finished", 0, {})
    assert same_mask(tmp_path / "run", whole / coordinator)


@pytest.mark.parametrize("coordinator", ["one-shot", "layer-wise"])
def test_a_layer_that_fails_ends_the_run_and_those_before_it_are_not_solved_again(whole, tmp_path, coordinator):
    first = 1 if coordinator == "one-shot" else 32
    breaks(first)
    with pytest.raises(RunFailed, match=WORDS):
        prune(request(coordinator), out=tmp_path / "run")
    assert result_of(tmp_path / "run")["steps"] == 1
    breaks()
    resume(tmp_path / "run")
    assert len(Failing.calls) == (1 if coordinator == "one-shot" else 10)
    assert same_mask(tmp_path / "run", whole / coordinator)


@pytest.mark.parametrize("coordinator", ["icbs", "multi-stage"])
def test_one_block_that_fails_among_many_leaves_a_whole_network_that_says_what_it_lost(
    capsys, whole, tmp_path, coordinator
):
    run = tmp_path / "run"
    breaks(2)
    with pytest.raises(RunFailed, match="1 blocks were not solved") as raised:
        prune(request(coordinator), out=run)
    held = result_of(run)
    for found in (held, raised.value.result):
        assert (found["outcome"], found["unsolved"], found["kept"]) == ("incomplete", 1, KEPT)
        assert list(found["failures"].values()) == [1]
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    lost = [task for line in lines for task in line["tasks"] if task["status"] == "unsolved"]
    assert len(lost) == 1
    assert WORDS in lost[0]["stop_reason"]
    text = write_report([run], tmp_path / "page.html").read_text()
    assert "1 blocks were not solved (1 x solver" in text
    # it is no start, and exporting it is refused, before the loss is made good
    with pytest.raises(InvalidInput, match="lost blocks"):
        prune(request("icbs", start=str(run)), out=tmp_path / "next")
    breaks()
    assert main(["resume", str(run), "--quiet", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["outcome"], again["unsolved"]) == ("finished", 0)
    assert same_mask(run, whole / coordinator)


def test_the_command_line_prints_the_result_says_what_is_lost_and_ends_with_1(capsys, tmp_path):
    asked = ["prune", "digits-mlp", "--density", "0.2", "--solver", "failing", "--coordinator", "icbs", "--steps", "3"]
    asked += ["--block-size", "16", "--samples", "40", "--option", "accept_samples=60", "--quiet"]
    for extra in ([], ["--json"]):
        breaks(1)
        assert main([*asked, "--out", str(tmp_path / f"run{len(extra)}"), *extra]) == 1
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        assert f"prunebench resume {tmp_path}" in shown.err
        assert WORDS in shown.out
        if extra:
            assert json.loads(shown.out)["outcome"] == "incomplete"
        else:
            assert "unsolved     1 blocks" in shown.out
    breaks(*range(100))
    assert main([*asked, "--out", str(tmp_path / "none")]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "no block was solved" in shown.err


def test_a_run_whose_solver_stops_working_is_given_up_after_three_steps(tmp_path):
    options = {**OPTIONS["icbs"], "steps": 50, "blocks_per_step": 1}
    breaks(*range(3, 1000))
    with pytest.raises(RunFailed, match="3 steps in a row solved nothing"):
        prune(request("icbs", coordinator_options=options), out=tmp_path / "run")
    assert result_of(tmp_path / "run")["steps"] == 6
    assert len(Failing.calls) == 6


def test_losses_now_and_then_end_no_run_and_it_resumes_before_the_first(tmp_path):
    options = {**OPTIONS["icbs"], "steps": 9, "blocks_per_step": 1}
    breaks(1, 3, 5, 7)
    with pytest.raises(RunFailed, match="4 blocks were not solved"):
        prune(request("icbs", coordinator_options=options), out=tmp_path / "run")
    assert result_of(tmp_path / "run")["steps"] == 9
    breaks()
    said = []
    resume(tmp_path / "run", say=said.append)
    assert "continuing after step 1" in said
    assert len(Failing.calls) == 8


def test_what_was_solved_before_an_interrupt_counts_when_the_solver_fails_after_it(tmp_path):
    options = {**OPTIONS["icbs"], "steps": 9, "blocks_per_step": 1}
    with pytest.raises(Interrupted):
        prune(
            request("icbs", coordinator_options=options),
            out=tmp_path / "run",
            say=lambda line: _interrupt() if "step 2/" in line else None,
        )
    breaks(*range(100))
    with pytest.raises(RunFailed, match="3 steps in a row solved nothing"):
        resume(tmp_path / "run")


def test_an_interrupt_while_a_step_is_applied_leaves_the_checkpoint_before_it(whole, tmp_path, monkeypatch):
    close, calls = ICBS._close_step, []

    def interrupted(self):
        move = close(self)
        calls.append(move)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return move

    monkeypatch.setattr(ICBS, "_close_step", interrupted)
    with pytest.raises(Interrupted):
        prune(request("icbs"), out=tmp_path / "run")
    assert resume(tmp_path / "run")["steps"] == 4
    assert same_mask(tmp_path / "run", whole / "icbs")
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_a_run_with_a_loss_that_is_killed_goes_back_to_before_the_loss(whole, tmp_path):
    def say(line):
        if line.startswith("step 3/"):
            raise KeyboardInterrupt

    breaks(2)
    with pytest.raises(Interrupted):
        prune(request("icbs"), out=tmp_path / "run", say=say)
    breaks()
    said = []
    assert resume(tmp_path / "run", say=said.append)["outcome"] == "finished"
    assert "going back to before the first block that was not solved" in said
    assert "continuing after step 1" in said
    assert same_mask(tmp_path / "run", whole / "icbs")


@pytest.mark.parametrize("coordinator", ["one-shot", "layer-wise", "multi-stage"])
def test_a_time_limit_that_ends_a_run_short_of_its_density_is_no_success(whole, tmp_path, monkeypatch, coordinator):
    clock = [0.0]
    monkeypatch.setattr(runner, "perf_counter", lambda: clock[0])

    def say(line):
        if line.startswith("step 1/"):
            clock[0] += 100.0

    with pytest.raises(RunFailed, match=r"time limit of 50 s ended the run after 1 of 2 steps"):
        prune(request(coordinator, seconds=50.0), out=tmp_path / "run", say=say)
    assert result_of(tmp_path / "run")["outcome"] == "failed"
    again = resume(tmp_path / "run")
    assert (again["outcome"], again["kept"]) == ("finished", KEPT)
    assert same_mask(tmp_path / "run", whole / coordinator)


# --- workers -------------------------------------------------------------------------------------

UNGUARDED = """
    from pathlib import Path
    from prunebench.runs.prune import PruneRequest, prune
    Path("marks").mkdir(exist_ok=True)
    prune(PruneRequest(problem="digits-mlp", density=0.2, coordinator="icbs", executor="local:2"), out=Path("run"))
    Path("marks/after").touch()
"""


def test_a_script_without_a_main_guard_is_told_of_it_before_anything_is_made(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(UNGUARDED))
    ran = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert ran.stderr.count("Traceback") == 1
    assert 'if __name__ == "__main__":' in ran.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "marks" / "after").exists()


def test_workers_that_die_at_their_start_for_another_reason_are_told_too(tmp_path):
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        import os
        from prunebench.runs.executors import make_workers
        if __name__ != "__main__":
            os._exit(3)
        make_workers("local:1").start()
    """)
    )
    ran = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    # the library's own thread may say more on the way out
    assert any("worker processes die before they solve anything" in line for line in ran.stderr.splitlines())


def test_a_scheduler_that_is_gone_keeps_the_run_and_says_how_to_resume(whole, tmp_path):
    class Lost:
        def submit(self, *_job):
            raise RuntimeError("cannot schedule new futures")

        def shutdown(self, *_how):
            pass

    answered = []

    class Sometimes(Lost):
        def submit(self, work, job):
            from concurrent.futures import Future

            if len(answered) >= 3:
                return super().submit()
            answered.append(job)
            future = Future()
            future.set_result(work(job))
            return future

    with pytest.MonkeyPatch.context() as patch:
        workers = Pooled(Sometimes, 1, gone=lambda: "the dask scheduler at tcp://x is gone")
        patch.setattr("prunebench.runs.preparation.make_workers", lambda _text: workers)
        with pytest.raises(WorkersGone, match=r"scheduler at tcp://x is gone; the steps done are kept\. Resume with"):
            prune(request("icbs"), out=tmp_path / "run")
    assert resume(tmp_path / "run")["outcome"] == "finished"
    assert same_mask(tmp_path / "run", whole / "icbs")


# --- locks, disks, signals -----------------------------------------------------------------------

HOLD = """
    import sys, time
    from pathlib import Path
    from prunebench.log.run_directory import RunDirectory
    run = RunDirectory.open(Path(sys.argv[1]))
    run.hold()
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_directory_that_a_run_writes_to_is_refused_and_free_again_when_it_is_killed(capsys, tmp_path):
    with pytest.raises(Interrupted):
        prune(request("icbs"), out=tmp_path / "run", say=lambda line: _interrupt() if "step 2/" in line else None)
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        before = (tmp_path / "run" / "events.jsonl").read_bytes()
        assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 2
        assert f"is being written to by process {holder.pid}" in capsys.readouterr().err
        with pytest.raises(InvalidInput, match="exists and is not empty"):
            prune(request("icbs"), out=tmp_path / "run")
        assert (tmp_path / "run" / "events.jsonl").read_bytes() == before
    finally:
        holder.kill()
        holder.wait()
    assert resume(tmp_path / "run")["outcome"] == "finished"


def _interrupt():
    raise KeyboardInterrupt


def test_a_system_without_locks_is_told(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path / "run", {"kind": "x"}, 0)
    run.release()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    said = []
    RunDirectory.open(tmp_path / "run").hold(said.append)
    assert "is not locked, because this system has no file locks" in said[0]


@pytest.mark.parametrize("name", ["events.jsonl", "state/checkpoint.npz", "weights.safetensors", "results.parquet"])
def test_a_disk_that_is_full_is_one_line_that_says_how_to_resume(capsys, whole, tmp_path, monkeypatch, name):
    run = tmp_path / "run"
    real = Path.open

    def open_(self, mode="r", *args, **more):
        begun = self.name != "events.jsonl" or (run / "events.jsonl").exists()
        if begun and ("a" in mode or "w" in mode) and self.name.startswith((Path(name).stem, f".{name}")):
            raise OSError(28, "No space left on device")
        return real(self, mode, *args, **more)

    monkeypatch.setattr(Path, "open", open_)
    if name.endswith(("safetensors", "parquet")):
        place = "safetensors.torch.save_file" if "safe" in name else "pandas.DataFrame.to_parquet"
        monkeypatch.setattr(
            "prunebench.networks.checkpoints.save_file" if "safe" in name else place,
            lambda *_args, **_more: (_ for _ in ()).throw(OSError(28, "No space left on device")),
        )
    asked = ["prune", "digits-mlp", "--density", "0.2", "--solver", "failing", "--coordinator", "icbs", "--steps", "4"]
    asked += ["--mode", "refit", "--block-size", "16", "--samples", "40", "--quiet"]
    asked += ["--option", "accept_samples=60", "--option", "blocks_per_step=2"]
    assert main([*asked, "--out", str(run)]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "No space left on device" in line
    assert f"{run / name} cannot be written" in line
    assert f"Resume with: prunebench resume {run}" in line
    monkeypatch.undo()
    assert resume(run)["outcome"] == "finished"
    assert same_mask(run, whole / "icbs")


CHILD = """
    import sys
    from prunebench.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def test_sigterm_finishes_the_step_and_says_how_to_resume(tmp_path):
    run = tmp_path / "run"
    asked = ["prune", "digits-mlp", "--density", "0.2", "--coordinator", "icbs", "--steps", "500", "--out", str(run)]
    asked += ["--block-size", "16", "--samples", "40", "--executor", "local:1"]
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), *asked], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, start_new_session=True,
    )  # fmt: skip
    for line in child.stderr:
        if "step 2/" in line:
            # as `timeout` and service managers do: to the workers too
            os.killpg(child.pid, signal.SIGTERM)
            break
    rest = child.stderr.read()
    assert child.wait() == 1
    assert "Traceback" not in rest
    assert "a worker died" not in rest
    assert rest.splitlines()[-1].endswith(f"the steps done are kept. Resume with: prunebench resume {run}")
    steps = len((run / "events.jsonl").read_text().splitlines())
    assert 2 <= steps < 500
    assert RunDirectory.open(run).load_state()[1]["run"]["steps"] == steps


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_before_the_first_step_is_one_line_too(tmp_path, number):
    run = tmp_path / "run"
    asked = ["prune", "digits-mlp", "--density", "0.2", "--coordinator", "icbs", "--out", str(run), "--quiet"]
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), *asked], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not (run / "run.json").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(number)
    errors = child.stderr.read()
    assert child.wait() == 1
    assert errors.count("\n") == 1, errors
    assert f"Resume with: prunebench resume {run}" in errors


def test_workers_end_with_the_process_that_started_them(tmp_path):
    code = """
        import os, sys, time
        from prunebench.runs.executors import make_workers
        if __name__ == "__main__":
            workers = make_workers("local:1")
            workers.start()
            print(*[p.pid for p in workers._pool._processes.values()], flush=True)
            time.sleep(60)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    child = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE, text=True)
    worker = int(child.stdout.readline())
    child.kill()
    child.wait()
    for _ in range(500):
        if not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2]:
            return
        time.sleep(0.02)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


# --- trust ---------------------------------------------------------------------------------------


def test_a_strangers_run_directory_runs_no_code_unless_it_is_trusted(capsys, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()\nfrom dimod import ExactSolver\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {**OPTIONS["icbs"], "block_size": 8}
    asked = request(
        "icbs",
        solver="dimod",
        mode="select",
        solver_options={"sampler": "evil:ExactSolver"},
        coordinator_options=options,
    )
    RunDirectory.create(tmp_path / "run", asked.as_json(), 0).release()
    for arguments in (["resume", "run"], ["report", "run"], ["export-model", "run", "-o", "x"]):
        assert main([*arguments, "--quiet"]) == 2
        assert not (tmp_path / "ran").exists()
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert arguments[0] != "resume" or "sampler=evil:ExactSolver" in line
        assert arguments[0] != "resume" or "prunebench resume run --trust" in line
    sys.modules.pop("evil", None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"executor": "dask:tcp://stranger:1"}, "executor=dask:tcp://stranger:1"),
        ({"solver": "pyomo", "solver_options": {"solver": "/tmp/evil"}}, "solver=/tmp/evil"),
        ({"solver": "dimod", "solver_options": {"sampler": "os:abort"}}, "sampler=os:abort"),
    ],
)
def test_what_names_code_is_refused_by_name(tmp_path, changes, named):
    RunDirectory.create(tmp_path / "run", request("icbs", **changes).as_json(), 0).release()
    with pytest.raises(InvalidInput, match="may run code that is not part of prunebench") as raised:
        resume(tmp_path / "run")
    assert named in str(raised.value)


def test_a_strangers_comparison_runs_no_code_either(tmp_path, capsys):
    from prunebench.comparison.request import CompareRequest, SolverChoice

    asked = CompareRequest(problem="digits-mlp", solvers=(SolverChoice("dimod", {"sampler": "os:abort"}),))
    RunDirectory.create(tmp_path / "run", asked.as_json(), 0).release()
    assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 2
    assert "sampler=os:abort" in capsys.readouterr().err


def test_the_line_that_resumes_an_own_run_says_that_it_is_trusted(tmp_path):
    asked = request("icbs", solver="dimod", mode="select", solver_options={"sampler": "dimod:ExactSolver"})
    small = {**OPTIONS["icbs"], "block_size": 8}
    with pytest.raises(Interrupted, match="--trust"):
        prune(
            PruneRequest(**{**asked.as_json(), "coordinator_options": small}),
            out=tmp_path / "run",
            say=lambda line: _interrupt() if "step 1/" in line else None,
        )
    assert resume(tmp_path / "run", trust=True)["outcome"] == "finished"


def test_a_run_can_be_continued_elsewhere_with_the_same_result(whole, tmp_path):
    with pytest.raises(Interrupted):
        prune(request("icbs"), out=tmp_path / "run", say=lambda line: _interrupt() if "step 2/" in line else None)
    held = json.loads((tmp_path / "run" / "run.json").read_text())
    assert held["request"]["executor"] is None
    with pytest.raises(InvalidInput, match="--executor"):
        resume(tmp_path / "run", executor="nowhere")
    resume(tmp_path / "run", executor="inline")
    assert same_mask(tmp_path / "run", whole / "icbs")


# --- weights that are no numbers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("fc1.bias", lambda held: np.where(np.arange(held.size) == 3, np.nan, held), "holds 1 values that are NaN"),
        ("fc2.weight", lambda held: np.full_like(held, np.inf), "holds 320 values that are NaN or infinite"),
        ("fc2.weight", lambda held: held != 0, "holds torch.bool"),
    ],
)
def test_evaluate_refuses_weights_that_are_no_numbers_by_name(capsys, whole, tmp_path, name, spoil, words):
    from safetensors.numpy import load_file, save_file

    held = load_file(whole / "icbs" / "weights.safetensors")
    save_file({**held, name: spoil(held[name])}, tmp_path / "w.safetensors")
    assert main(["evaluate", "digits-mlp", "--weights", str(tmp_path / "w.safetensors"), "--quiet"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"tensor {name!r} {words}" in line
