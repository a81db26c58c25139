"""Where blocks are solved must not matter: inline, processes, a dask cluster, with deaths, hangs and kills."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from prunebench import Budget, make_solver
from prunebench.core.errors import InvalidInput
from prunebench.curvature import sharing
from prunebench.runs import executors
from prunebench.runs.executors import Inline, Job, make_workers
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.testing.instances import instance

REQUEST = PruneRequest(
    problem="digits-mlp",
    density=0.15,
    solver="swap",
    coordinator="icbs",
    coordinator_options={"steps": 5, "block_size": 32, "blocks_per_step": 3, "samples": 64, "accept_samples": 200},
    seed=3,
)

ODD_SOLVERS = '''
"""Solvers that die or hang the first time."""

import os, pathlib, signal, time
from dataclasses import dataclass
from typing import ClassVar

from prunebench import Solution, Status, make_solver


@dataclass(frozen=True, kw_only=True)
class Odd:
    name: ClassVar[str] = "odd"
    modes: ClassVar[frozenset] = frozenset({"select"})
    exact: ClassVar[bool] = False

    marker: str
    deed: str

    def refuses(self, block):
        return ""

    def solve(self, block, budget, rng, progress=None):
        marker = pathlib.Path(self.marker)
        if not marker.exists() or self.deed == "die always":
            marker.touch()
            if self.deed == "hang":
                time.sleep(120)
            os.kill(os.getpid(), signal.SIGKILL)
        return make_solver("swap").solve(block, budget, rng, progress)
'''


@pytest.fixture
def odd(tmp_path, monkeypatch):
    (tmp_path / "odd_solvers.py").write_text(ODD_SOLVERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("odd_solvers")
    yield lambda deed: module.Odd(marker=str(tmp_path / "marker"), deed=deed)
    sys.modules.pop("odd_solvers", None)


def mask_of(run):
    return (run / "mask.safetensors").read_bytes()


@pytest.fixture(scope="module")
def inline_mask(tmp_path_factory):
    out = tmp_path_factory.mktemp("inline") / "run"
    prune(REQUEST, out=out)
    return mask_of(out)


def jobs(solver, count=3, seconds=float("inf")):
    return [Job(instance("gaussian", i, "select"), solver, Budget(seconds=seconds), i) for i in range(count)]


def test_worker_processes_give_the_same_mask_as_inline(tmp_path, inline_mask):
    prune(dataclasses.replace(REQUEST, executor="local:2"), out=tmp_path / "run")
    assert mask_of(tmp_path / "run") == inline_mask


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    # two are left when one test has killed one
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as made:
        yield made


def processes(cluster):
    return list(cluster.workers.values())


def a_process_of(cluster):
    return processes(cluster)[0].process.pid


def test_a_dask_cluster_gives_the_same_mask_even_when_a_worker_is_killed(tmp_path, cluster, inline_mask):
    request = dataclasses.replace(REQUEST, executor=f"dask:{cluster.scheduler_address}")
    prune(request, out=tmp_path / "whole")
    assert mask_of(tmp_path / "whole") == inline_mask
    victim = a_process_of(cluster)
    killed = []

    def kill_once(line):
        if line.startswith("step 2") and not killed:
            os.kill(victim, signal.SIGKILL)
            killed.append(line)

    prune(request, out=tmp_path / "killed", say=kill_once)
    assert killed
    assert mask_of(tmp_path / "killed") == inline_mask


def test_passes_of_a_dask_cluster_are_the_same_though_a_worker_is_killed(tmp_path, cluster, inline_mask, monkeypatch):
    # as if the network were large: its passes are shared out
    monkeypatch.setattr(sharing, "OPERATIONS_A_SECOND", 1e-6)
    said, asked = [], []
    send = sharing.Sharing._send

    def noted(self, member, *given):
        asked.append(member)
        return send(self, member, *given)

    monkeypatch.setattr(sharing.Sharing, "_send", noted)

    def kill_once(line):
        if line.startswith("step 2"):
            # the one that had the last share; it may hold the only one
            os.kill(
                next(held for held in processes(cluster) if held.worker_address == asked[-1]).process.pid,
                signal.SIGKILL,
            )
        said.append(line)

    request = dataclasses.replace(REQUEST, executor=f"dask:{cluster.scheduler_address}")
    result = prune(request, out=tmp_path / "run", say=kill_once)
    assert mask_of(tmp_path / "run") == inline_mask
    assert result["workers"]["deaths"] >= 1
    assert "a worker died; its share of the samples goes to another" in said
    assert result["workers"]["changes_bytes"] < result["workers"]["network_bytes"]


def test_a_worker_that_dies_is_survived_and_its_block_solved(odd):
    workers, said = make_workers("local:2"), []
    try:
        answers = workers.answers(jobs(odd("die")), said.append)
    finally:
        workers.close()
    assert all(solution is not None for solution, _ in answers)
    assert any("a worker died" in line for line in said)
    for (solution, _), (expected, _) in zip(answers, Inline().answers(jobs(make_solver("swap")), print), strict=True):
        assert np.array_equal(solution.mask, expected.mask)


def test_a_block_that_always_kills_its_worker_is_given_up(odd):
    workers = make_workers("local:1")
    try:
        answers = workers.answers(jobs(odd("die always"), 1), lambda _line: None)
    finally:
        workers.close()
    assert answers == [(None, "workers died 3 times")]


def test_a_solver_that_hangs_is_stopped_after_its_limit_and_the_others_are_solved(odd, monkeypatch):
    monkeypatch.setattr(executors, "GRACE_SECONDS", 15.0)
    monkeypatch.setattr(executors, "WARM_UP_SECONDS", 0.0)
    workers, said = make_workers("local:1"), []
    started = time.monotonic()
    try:
        answers = workers.answers(jobs(odd("hang"), 2, seconds=0.5), said.append)
    finally:
        workers.close()
    assert answers[0] == (None, "solver 'odd' did not stop at its time limit and was given up")
    assert answers[1][0] is not None
    assert time.monotonic() - started < 100
    assert any("given up" in line for line in said)


@pytest.mark.parametrize("text", ["local:0", "local:", "local:two", "cluster", "dask:"])
def test_an_executor_that_makes_no_sense_is_refused(text):
    with pytest.raises(InvalidInput, match="--executor"):
        make_workers(text)


def test_no_scheduler_at_the_address_is_one_clear_line():
    pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    with pytest.raises(InvalidInput, match="no dask scheduler answers"):
        make_workers("dask:tcp://127.0.0.1:9")


CHILD = """
    import json, sys
    from pathlib import Path
    from prunebench.runs.prune import PruneRequest, prune
    prune(PruneRequest(**json.loads(sys.argv[1])), out=Path(sys.argv[2]), say=lambda line: print(line, flush=True))
"""


def _listen_to_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(request, out):
    command = [sys.executable, "-c", textwrap.dedent(CHILD), json.dumps(request.as_json()), str(out)]
    # A shell that runs the tests in the background has Ctrl-C ignored, and the child would inherit that.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_listen_to_interrupts,
    )


@pytest.mark.parametrize("after", ["dense accuracy", "step 1/", "step 3/", "step 4/"])
def test_a_run_killed_at_any_moment_resumes_to_the_same_mask(tmp_path, inline_mask, after):
    child = start(REQUEST, tmp_path / "run")
    for line in child.stdout:
        if after in line:
            time.sleep(0.01 * len(after))
            child.kill()
            break
    child.wait()
    result = resume(tmp_path / "run")
    assert mask_of(tmp_path / "run") == inline_mask
    assert result["kept"] == round(0.15 * result["total"])
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5]
    assert {event["kept"] for event in events} == {result["kept"]}


def test_ctrl_c_finishes_the_step_writes_the_checkpoint_and_says_how_to_resume(tmp_path, inline_mask):
    child = start(REQUEST, tmp_path / "run")
    for line in child.stdout:
        if "step 2/" in line:
            child.send_signal(signal.SIGINT)
            break
    rest = child.stdout.read()
    child.wait()
    errors = child.stderr.read()
    if "step 5/" not in rest:
        assert "Resume with: prunebench resume" in errors
        steps = len((tmp_path / "run" / "events.jsonl").read_text().splitlines())
        assert 2 <= steps < 5
    resume(tmp_path / "run")
    assert mask_of(tmp_path / "run") == inline_mask


def test_ctrl_c_in_a_one_shot_run_says_how_to_resume(tmp_path):
    request = PruneRequest(
        problem="digits-mlp", density=0.3, solver="swap", solver_options={"restarts": 10**9}, scope="layer", seed=1
    )
    child = start(request, tmp_path / "run")
    for line in child.stdout:
        if "quadratic form" in line:
            time.sleep(1.0)
            child.send_signal(signal.SIGINT)
            break
    child.wait(timeout=60)
    assert "Resume with: prunebench resume" in child.stderr.read()
    assert child.returncode != 0


def test_a_finished_run_is_not_done_again(tmp_path):
    first = prune(REQUEST, out=tmp_path / "run")
    before = (tmp_path / "run" / "events.jsonl").stat().st_mtime_ns
    again = resume(tmp_path / "run")
    assert again["accuracy"] == first["accuracy"]
    assert (tmp_path / "run" / "events.jsonl").stat().st_mtime_ns == before


def test_a_time_limit_ends_the_run_with_the_best_so_far(tmp_path):
    request = dataclasses.replace(
        REQUEST, coordinator_options={**REQUEST.coordinator_options, "steps": 10**6}, seconds=3.0
    )
    result = prune(request, out=tmp_path / "run")
    assert 0 < result["steps"] < 10**6
    assert result["kept"] == round(0.15 * result["total"])


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path):
    with pytest.raises(InvalidInput, match=r"run\.json is missing"):
        resume(tmp_path)
