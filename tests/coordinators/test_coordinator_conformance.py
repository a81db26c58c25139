"""Every coordinator in the conformance suite; the suite finds faults; one of another package is taken too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prunebench.cli import main
from prunebench.coordinators.one_shot import OneShot
from prunebench.core.coordinator import Move
from prunebench.core.errors import Interrupted
from prunebench.core.registry import COORDINATORS
from prunebench.core.solver import make_solver
from prunebench.runs import runner
from prunebench.runs.executors import make_workers
from prunebench.runs.prune import PruneRequest, prune, resume
from prunebench.testing.coordinators import COORDINATOR_CHECKS, Case, assert_coordinator_conforms, run_coordinator_check
from prunebench.testing.drawn import drawn_network

THIRD_PARTY = Path(__file__).with_name("third_party")
SHORT = {
    "icbs": {"steps": 3, "block_size": 16, "samples": 60, "accept_samples": 100, "blocks_per_step": 2},
    "layer-wise": {"samples": 64},
    "multi-stage": {"stages": 2, "samples": 60, "held_out": 60},
    "one-shot": {},
    "rounds": {"rounds": 2, "samples": 60, "train": "epochs=1,samples=100,batch_size=64", "regrow": 0.2},
    "structured": {"samples": 60},
    "structured-rounds": {
        "samples": 60,
        "rounds": 2,
        "start_density": 0.7,
        "train": "epochs=1,samples=100,batch_size=64",
    },
}
RECOVER = {"multi-stage": ("batch-norm", "settle:rounds=1,between=1,samples=100")}
SOLVERS = {
    "icbs": ("swap", "select"),
    "layer-wise": ("obs", "refit"),
    "multi-stage": ("admm", "refit"),
    "structured": ("obd", "refit"),
    "structured-rounds": ("group-swap", "refit"),
}


@pytest.fixture(scope="module")
def workers():
    held = make_workers("local:2")
    yield held
    held.close()


def test_none_is_left_out():
    assert sorted(SHORT) == COORDINATORS.names()


@pytest.mark.parametrize("name", SHORT)
def test_every_coordinator_conforms(name, workers):
    solver, mode = SOLVERS.get(name, ("admm", "refit"))
    assert_coordinator_conforms(
        COORDINATORS.get(name),
        options=SHORT[name],
        solver=solver,
        mode=mode,
        workers=workers,
        recover=RECOVER.get(name),
    )


class Sound(OneShot):
    """One with nothing wrong, of which faulty ones are made."""

    name = "sound"


class KeepsOneMore(Sound):
    def tell(self, task, solution):
        move = super().tell(task, solution)
        self.mask[np.flatnonzero(~self.mask)[0]] = True
        return move


class LeavesPrunedWeights(Sound):
    def tell(self, task, solution):
        super().tell(task, solution)
        self.weights[~self.mask] = 0.5
        return Move(True, None, 1)


class ForgetsItsWeights(Sound):
    def load_state_dict(self, arrays, info):
        self._done = info["done"]


class TakesAnything(Sound):
    def load_state_dict(self, arrays, info):
        self.mask, self.weights = arrays.get("mask", self.mask), arrays.get("weights", self.weights)
        self._done = min(1, info.get("done", 1))


class Restless(Sound):
    calls = 0

    def tell(self, task, solution):
        move = super().tell(task, solution)
        Restless.calls += 1
        self.weights[np.flatnonzero(self.mask)[0]] = Restless.calls
        return move


class NeverEnds(Sound):
    def advance(self):
        return Move(False, None, 0)


class Unfinished(Sound):
    @property
    def complete(self):
        return False


class WithoutSummary(Sound):
    summary = ""


@pytest.mark.parametrize(
    ("kind", "check", "words"),
    [
        (KeepsOneMore, "the_end_has_the_count_asked_for", "weights are kept instead of"),
        (LeavesPrunedWeights, "every_step_keeps_weights_off_the_mask_at_zero", "not zero where the mask is false"),
        (ForgetsItsWeights, "a_run_resumes_at_every_step", "it ends with something else"),
        (TakesAnything, "states_of_another_run_are_refused", "a state .* is taken"),
        (Restless, "the_same_seed_gives_the_same_answer", "two runs with one seed differ"),
        (NeverEnds, "the_end_has_the_count_asked_for", "makes more than 200 steps"),
        (Unfinished, "the_end_has_the_count_asked_for", "complete is false at the end"),
        (WithoutSummary, "facts_and_options_are_complete", "its summary is empty"),
    ],
)
def test_a_fault_is_found_and_named(kind, check, words):
    case = Case(kind, {}, make_solver("magnitude"), "select", network=False)
    run_coordinator_check(check, Case(Sound, {}, make_solver("magnitude"), "select", network=False))
    with pytest.raises(AssertionError, match=f"coordinator 'sound' fails {check} on a quadratic form: .*({words})"):
        run_coordinator_check(check, case)


def test_every_check_has_a_sentence():
    assert all(check.__doc__ for check in COORDINATOR_CHECKS.values())


# --- a coordinator of another package --------------------------------------------------------------------------------


def command(*words):
    """prunebench in a process of its own that finds the package, and the drawn network, by their entry points."""
    env = {**os.environ, "PYTHONPATH": str(THIRD_PARTY)}
    line = [sys.executable, "-m", "prunebench.cli", *map(str, words), "--json", "--quiet"]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def random_blocks(monkeypatch):
    """The coordinator, registered in this process."""
    monkeypatch.syspath_prepend(str(THIRD_PARTY))
    from random_blocks import RandomBlocks

    COORDINATORS.names()
    COORDINATORS.register(RandomBlocks)
    yield RandomBlocks
    COORDINATORS.forget(RandomBlocks.name)


def test_it_conforms(random_blocks, workers):
    assert_coordinator_conforms(random_blocks, options={"steps": 3}, solver="swap", mode="select", workers=workers)


def test_it_is_short(random_blocks):
    lines = (THIRD_PARTY / "random_blocks.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.lstrip().startswith(("#", '"""', "from ", "import "))]
    assert 60 <= len(code) <= 90


def test_it_is_listed_with_its_options(random_blocks, capsys):
    assert main(["coordinators", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["coordinators"]}
    assert [option["name"] for option in rows["random-blocks"]["options"]] == ["steps", "size"]


def test_it_prunes_resumes_and_runs_on_two_workers_with_the_same_result(random_blocks, tmp_path, monkeypatch):
    words = (
        "drawn",
        "--density",
        0.3,
        "--mode",
        "select",
        "--coordinator",
        "random-blocks",
        "--steps",
        4,
        "--size",
        40,
    )
    found = command("prune", *words, "--executor", "local:2", "--out", tmp_path / "workers")
    assert found["kept"] == round(0.3 * found["total"])
    assert found["coordinator_options"] == {"steps": 4, "size": 40}
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(runner, "CHECKPOINT_RATIO", 0.0)
    options = {"steps": 4, "size": 40}
    asked = PruneRequest(
        problem="drawn", density=0.3, mode="select", coordinator="random-blocks", coordinator_options=options
    )
    with drawn_network():
        prune(asked, out=tmp_path / "inline")
        with pytest.raises(Interrupted):
            prune(asked, out=tmp_path / "cut", say=stopped_after(2))
        assert resume(tmp_path / "cut")["steps"] == 4
    masks = {(tmp_path / name / "mask.safetensors").read_bytes() for name in ("workers", "inline", "cut")}
    assert len(masks) == 1


def stopped_after(number):
    def say(line):
        if line.startswith(f"step {number}/"):
            raise KeyboardInterrupt

    return say
