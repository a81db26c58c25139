"""Run directories as strangers, crashes and disks leave them: damaged ones are refused in one line, none runs code."""

import io
import json
import random
import shutil
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers import call, refused
from prunebench.core.errors import Interrupted
from prunebench.core.registry import COORDINATORS
from prunebench.log import archive
from prunebench.log.run_directory import RunDirectory
from prunebench.runs import runner
from prunebench.runs.prune import PruneRequest, prune, resume

DENSITY, TOTAL = 0.2, 2368
KEPT = round(DENSITY * TOTAL)


def request(**changes):
    options = {"steps": 3, "block_size": 16, "samples": 40, "accept_samples": 60}
    options |= changes.pop("coordinator_options", {})
    asked = {"problem": "digits-mlp", "density": DENSITY, "solver": "swap", "coordinator": "icbs"} | changes
    return PruneRequest(**asked, coordinator_options=options)


def stopped_after(number):
    """Progress that is interrupted after a step."""

    def say(line):
        if line.startswith(f"step {number}/"):
            raise KeyboardInterrupt

    return say


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Finished and interrupted runs, and one of another density, made once; a test copies what it spoils."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        _checkpoint_every_step(patch)
        prune(request(), out=folder / "finished")
        prune(request(density=0.3), out=folder / "other")
        for name, asked in (("half", request()), ("other-half", request(density=0.3))):
            with pytest.raises(Interrupted):
                prune(asked, out=folder / name, say=stopped_after(2))
        for name, options in SHORT.items():
            asked = PruneRequest(
                problem="digits-mlp", density=DENSITY, solver="magnitude", mode="refit", coordinator=name,
                coordinator_options=options, scope="layer" if name == "one-shot" else "network",
            )  # fmt: skip
            with pytest.raises(Interrupted):
                prune(asked, out=folder / name, say=stopped_after(1))
    return folder


SHORT = {
    "one-shot": {},
    "layer-wise": {"samples": 50},
    "multi-stage": {"stages": 3, "samples": 60, "held_out": 60, "ridges": (1.0,), "gradient_scales": (0.0,)},
}


def _checkpoint_every_step(patch):
    patch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    patch.setattr(runner, "CHECKPOINT_RATIO", 0.0)


@pytest.fixture
def half(tiny, tmp_path):
    return shutil.copytree(tiny / "half", tmp_path / "half")


@pytest.fixture
def done(tiny, tmp_path):
    return shutil.copytree(tiny / "finished", tmp_path / "done")


# --- seals ---------------------------------------------------------------------------------------


def test_a_resumed_run_ends_as_an_uninterrupted_one(tiny, half):
    whole, again = json.loads((tiny / "finished" / "result.json").read_text()), resume(half)
    assert [again[key] for key in ("outcome", "kept", "loss", "steps")] == [
        whole[key] for key in ("outcome", "kept", "loss", "steps")
    ]
    assert (half / "mask.safetensors").read_bytes() == (tiny / "finished" / "mask.safetensors").read_bytes()


def test_a_checkpoint_of_another_run_is_refused_with_the_remedy(capsys, tiny, half):
    shutil.copy(tiny / "other-half" / "state" / "checkpoint.npz", half / "state")
    line = refused(capsys, "resume", half, "--quiet")
    assert "its seal does not fit" in line
    assert f"remove {half}/state/checkpoint.npz, then prunebench resume {half}" in line
    (half / "state" / "checkpoint.npz").unlink()
    assert resume(half)["kept"] == KEPT


def test_a_changed_request_does_not_fit_the_checkpoint(capsys, half):
    held = json.loads((half / "run.json").read_text())
    held["request"]["density"] = 0.3
    (half / "run.json").write_text(json.dumps(held))
    assert "its seal does not fit" in refused(capsys, "resume", half, "--quiet")


def test_every_flipped_bit_of_a_checkpoint_is_found(capsys, tiny, half):
    contents = (tiny / "half" / "state" / "checkpoint.npz").read_bytes()
    rng = random.Random(0)
    # within what the arrays hold: between members an archive has dates and other bytes that say nothing
    for name in ("mask", "weights", "last_seen", "info"):
        with zipfile.ZipFile(io.BytesIO(contents)) as held:
            member = held.getinfo(f"{name}.npy")
        for _ in range(3):
            place = member.header_offset + 200 + rng.randrange(member.file_size - 200)
            spoiled = bytearray(contents)
            spoiled[place] ^= 1 << rng.randrange(8)
            (half / "state" / "checkpoint.npz").write_bytes(spoiled)
            assert "checkpoint.npz is" in refused(capsys, "resume", half, "--quiet")


def test_a_seal_covers_everything():
    request, arrays, info = {"a": 1}, {"x": np.arange(4.0), "y": np.ones(2, dtype=bool)}, {"step": 1, "trust": 0.5}
    seals = {
        archive.seal(request, arrays, info),
        archive.seal({"a": 2}, arrays, info),
        archive.seal(request, arrays, {**info, "trust": 0.25}),
        archive.seal(request, {**arrays, "x": np.arange(1.0, 5.0)}, info),
        archive.seal(request, {**arrays, "x": np.arange(4.0).reshape(2, 2)}, info),
        archive.seal(request, {**arrays, "x": arrays["x"].view(np.int64)}, info),
        archive.seal(request, {"z": arrays["x"], "y": arrays["y"]}, info),
        archive.seal(request, {"x": arrays["x"]}, info),
    }
    assert len(seals) == 8
    assert archive.seal(request, dict(reversed(arrays.items())), dict(reversed(info.items()))) in seals


@pytest.mark.parametrize(
    ("coordinator", "unusual"),
    [("half", {"trust": 0.0625, "loss": 3.5, "best_loss": 1.5}), ("one-shot", {}), ("layer-wise", {}),
     ("multi-stage", {"recovery": {"number": 3, "first": 0, "stages": 1, "queue": [], "memory": {}}})],
)  # fmt: skip
def test_what_a_checkpoint_says_is_what_the_run_goes_on_with(tiny, tmp_path, monkeypatch, coordinator, unusual):
    run = shutil.copytree(tiny / coordinator, tmp_path / "run")
    of_run = {"seconds": 1234.5, "outcome": {"objective": 0.125, "status": "feasible"}, "solved": 7}

    def change(arrays, info):
        info.update(unusual)
        info["run"].update(of_run)

    rewrite(run, change)
    arrays, info = RunDirectory.open(run).load_state()
    for kind in map(COORDINATORS.get, COORDINATORS.names()):
        monkeypatch.setattr(kind, "ask", lambda *_count: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(Interrupted):
        resume(run)
    arrays_then, then = RunDirectory.open(run).load_state()
    assert 1234.5 <= then["run"].pop("seconds") < 1334.5
    info["run"].pop("seconds")
    assert then == info
    assert arrays.keys() == arrays_then.keys()
    assert all(np.array_equal(arrays[name], arrays_then[name]) for name in arrays)


def test_a_checkpoint_without_a_seal_is_taken_only_if_it_is_trusted(capsys, half):
    rewrite(half, lambda arrays, info: None, sealed=False)
    line = refused(capsys, "resume", half, "--quiet")
    assert "has no seal" in line
    assert f"prunebench resume {half} --trust" in line
    assert resume(half, trust=True)["kept"] == KEPT


def rewrite(run, change, sealed=True):
    """Change a checkpoint as somebody does who knows how to seal."""
    file = run / "state" / "checkpoint.npz"
    arrays = archive.read(file)
    arrays.pop("seal")
    info = json.loads(str(arrays.pop("info")))
    change(arrays, info)
    held = {**arrays, "info": np.array(json.dumps(info))}
    if sealed:
        held["seal"] = np.array(archive.seal(RunDirectory.open(run).request, arrays, info))
    archive.write(file, held)


def _keep_more(arrays, info):
    place = np.flatnonzero(~arrays["mask"])[0]
    arrays["mask"][place] = True


def _stray(arrays, info):
    arrays["weights"][np.flatnonzero(~arrays["mask"])[0]] = 0.5


def _moved(arrays, info):
    arrays["weights"][np.flatnonzero(arrays["mask"])[0]] *= 1.001


FORGED = {
    "keeps 475 weights where 474": _keep_more,
    "not zero where mask is false": _stray,
    "not the dense ones": _moved,
    "NaN or infinity": lambda arrays, info: arrays["weights"].__setitem__(0, np.nan),
    "the array fixed is missing": lambda arrays, info: arrays.pop("fixed"),
    "last_seen is float64": lambda arrays, info: arrays.update(last_seen=arrays["last_seen"].astype(float)),
    "mask is bool (2367,)": lambda arrays, info: arrays.update(mask=arrays["mask"][1:]),
    "step is 7": lambda arrays, info: info.update(step=7),
    "step is 'one'": lambda arrays, info: info.update(step="one"),
    "trust is None": lambda arrays, info: info.pop("trust"),
    "steps is -1": lambda arrays, info: info["run"].update(steps=-1),
    "run is missing": lambda arrays, info: info.pop("run"),
    "'seconds' is missing": lambda arrays, info: info["run"].pop("seconds"),
    "outcome is [1]": lambda arrays, info: info["run"].update(outcome=[1]),
}


@pytest.mark.parametrize("words", FORGED)
def test_a_sealed_checkpoint_that_is_none_of_this_run_is_refused(capsys, half, words):
    rewrite(half, FORGED[words])
    assert words in refused(capsys, "resume", half, "--quiet")


@pytest.mark.parametrize(
    ("coordinator", "spoil", "words"),
    [
        ("one-shot", lambda a, i: i.update(done=2), "keeps 320 weights where 64 are due"),
        ("one-shot", lambda a, i: i.update(done=9), "done is 9"),
        ("one-shot", _keep_more, "fc1.weight keeps 411 weights where 410 are due"),
        ("one-shot", _stray, "not zero where mask is false"),
        ("layer-wise", _keep_more, "its quota is exactly"),
        ("layer-wise", lambda a, i: i.update(done=0), "not done and already pruned"),
        ("layer-wise", lambda a, i: a["weights"].__setitem__(2367, 9.0), "other than the dense"),
        ("multi-stage", _keep_more, "weights are kept where"),
        ("multi-stage", lambda a, i: i.update(done=99), "done is 99"),
        (
            "multi-stage",
            lambda a, i: i["recovery"].update(memory={"settle": {"rate": 5.0}}),
            "settle remembers",
        ),
        ("multi-stage", lambda a, i: i["recovery"].update(queue=[[0, 9]], stages=1), "rounds [(0, 9)] of recovery"),
        ("multi-stage", lambda a, i: i.pop("recovery"), "recovery is missing"),
    ],
)
def test_every_coordinator_checks_the_state_it_continues_from(capsys, tiny, tmp_path, coordinator, spoil, words):
    shutil.copytree(tiny / coordinator, tmp_path / "run")
    rewrite(tmp_path / "run", spoil)
    assert words in refused(capsys, "resume", tmp_path / "run", "--quiet")


def test_events_that_are_not_those_before_the_checkpoint_are_refused(capsys, tiny, half):
    lines = (half / "events.jsonl").read_text().splitlines(keepends=True)
    other = (tiny / "other-half" / "events.jsonl").read_text()
    for contents in ("", lines[0], lines[1] + lines[0], other, lines[0].replace("true", "false") + lines[1]):
        (half / "events.jsonl").write_text(contents)
        assert "does not hold the 2 steps" in refused(capsys, "resume", half, "--quiet")
    (half / "events.jsonl").write_text("".join(lines) + lines[1] + lines[1][:20])
    assert resume(half)["steps"] == 3


def test_what_a_finished_run_wrote_is_told_from_what_it_did_not(capsys, tiny, done, tmp_path):
    asked = ["prune", "digits-mlp", "--density", DENSITY, "--coordinator", "icbs", "--steps", 1, "--quiet"]
    for name in ("mask.safetensors", "weights.safetensors"):
        before = (done / name).read_bytes()
        shutil.copy(tiny / "other" / name, done)
        assert "the files do not match" in refused(capsys, *asked, "--start", done, "--out", tmp_path / "new")
        (done / name).write_bytes(before)
    # files that fit one another, and yet are not what the run wrote
    weights = load_file(done / "weights.safetensors")
    before = (done / "weights.safetensors").read_bytes()
    save_file({**weights, "fc1.bias": weights["fc1.bias"] + 1.0}, done / "weights.safetensors")
    assert "the files do not match" in refused(capsys, *asked, "--start", done, "--out", tmp_path / "new")
    (done / "weights.safetensors").write_bytes(before)
    held = json.loads((done / "result.json").read_text())
    (done / "result.json").write_text(json.dumps({**held, "accuracy": 0.99}))
    assert "is not what this run wrote" in refused(capsys, "resume", done, "--quiet")
    # a report shows what there is, and says so
    code, out, _ = call(capsys, "report", done, "--quiet")
    assert code == 0
    assert f"trouble      {done}: {done}/result.json is not what this run wrote" in out
    assert "is not what this run wrote" in (done / "report.html").read_text()
    shutil.copy(tiny / "other" / "result.json", done)
    assert "is not what this run wrote" in refused(capsys, "resume", done, "--quiet")


# --- damage --------------------------------------------------------------------------------------

FILES = ("run.json", "events.jsonl", "state/checkpoint.npz", "mask.safetensors", "weights.safetensors", "result.json")
STRANGE = (None, True, -1, 1e308, "x", [], {}, [[]], {"a": 1}, 10**400)


def spoiled(tiny, rng):
    """Ways to damage a run directory, each with what it does to a copy. Seeded, so that a failure can be repeated."""
    ways = []
    for name in (*FILES, "results.parquet"):
        noise = rng.randbytes(300)
        ways += [
            (f"{name} missing", lambda run, name=name: (run / name).unlink()),
            (f"{name} a folder", lambda run, name=name: ((run / name).unlink(), (run / name).mkdir())),
            (f"{name} empty", lambda run, name=name: (run / name).write_bytes(b"")),
            (f"{name} garbage", lambda run, name=name, noise=noise: (run / name).write_bytes(noise)),
            (f"{name} cut", lambda run, name=name: _edit(run / name, lambda b: b[: len(b) // 2])),
            (f"{name} of another run", lambda run, name=name: shutil.copy(tiny / "other" / name, run / name)),
            (f"{name} is run.json", lambda run, name=name: _copy(run / "run.json", run / name)),
            (f"{name} is weights", lambda run, name=name: _copy(run / "weights.safetensors", run / name)),
            (f"{name} nested", lambda run, name=name: (run / name).write_text("[" * 10**5 + "\n")),
        ]
        for place in range(3):
            share, bit = rng.random(), 1 << rng.randrange(8)
            ways.append((f"{name} flipped {place}", lambda run, n=name, s=share, b=bit: _flip(run / n, s, b)))
    for name in ("run.json", "result.json"):
        keys = json.loads((tiny / "finished" / name).read_text())
        paths = [(key,) for key in keys]
        paths += [("request", key) for key in keys.get("request", ())]
        for path in paths:
            value = rng.choice(STRANGE)
            ways.append((f"{name} {path} {value!r:.20}", lambda run, n=name, p=path, v=value: _put(run / n, p, v)))
            ways.append((f"{name} {path} missing", lambda run, n=name, p=path: _drop(run / n, p)))
    for key in ("time", "step", "accepted", "kept", "tasks", "kept_per_layer", "acceptance_loss"):
        value = rng.choice(STRANGE)
        ways.append((f"event {key} {value!r:.20}", lambda run, k=key, v=value: _event(run, k, v)))
    ways.append(("event NaN", lambda run: _edit(run / "events.jsonl", lambda b: b.replace(b"0.", b"NaN", 1))))
    ways.append(
        ("result Infinity", lambda run: _edit(run / "result.json", lambda b: b.replace(b"0.", b"Infinity,", 1)))
    )
    return ways


def _copy(source, file):
    file.write_bytes(source.read_bytes())


def _edit(file, change):
    file.write_bytes(change(file.read_bytes()))


def _flip(file, share, bit):
    held = bytearray(file.read_bytes())
    held[int(share * len(held))] ^= bit
    file.write_bytes(held)


def _put(file, path, value):
    held = json.loads(file.read_text())
    inner = held
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps(held))


def _drop(file, path):
    held = json.loads(file.read_text())
    inner = held
    for key in path[:-1]:
        inner = inner[key]
    inner.pop(path[-1], None)
    file.write_text(json.dumps(held))


def _event(run, key, value):
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    lines[0][key] = value
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _unsealed(run):
    """Without the seals and digests, as an older version wrote it, so that what is behind them is met."""
    held = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({k: v for k, v in held.items() if k not in ("seal", "files")}))


def test_no_damaged_run_directory_gives_an_internal_error(capsys, tiny, tmp_path, monkeypatch):
    # A run that goes on where it was not asked to would take the test's time.
    monkeypatch.chdir(tmp_path)
    rng = random.Random(1)
    ways, found = spoiled(tiny, rng), []
    start = ["prune", "digits-mlp", "--density", DENSITY, "--coordinator", "icbs", "--steps", 1, "--block-size", 16]
    assert len(ways) > 150
    ways = [("nothing", lambda run: None), *rng.sample(ways, 40)]
    for number, (what, spoil) in enumerate(ways):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(tiny / "finished", run)
        if number % 2:
            _unsealed(run)
        spoil(run)
        # resume last: it may mend what it can
        commands = [
            ["report", run, "-o", tmp_path / "page.html"],
            ["export-model", run, "-o", tmp_path / "exported"],
            ["evaluate", "digits-mlp", "--weights", run / "weights.safetensors"],
            [*start, "--option", "samples=20", "--start", run, "--out", tmp_path / "new"],
            ["resume", run],
        ]
        for command in commands:
            # those that do not look at what was spoiled
            looks = {"evaluate": ("weights",), "prune": ("mask", "weights", "result", "run.json")}
            if command[0] in looks and what != "nothing" and not what.startswith(looks[command[0]]):
                continue
            code, out, err = call(capsys, *command, "--quiet", "--json")
            shutil.rmtree(tmp_path / "new", ignore_errors=True)
            fine = (code == 0 and out.count("\n") == 1) or (code in (1, 2) and err.count("\n") == 1 and out == "")
            if not fine or "--debug" in err or "please report" in err:
                found.append((what, command[0], code, err[-300:]))
            if what == "nothing" and command[0] != "export-model":
                assert code == 0, err
            if code == 0 and command[0] == "resume":
                assert json.loads(out)["kept"] in (KEPT, round(0.3 * TOTAL)), what
    assert not found, f"{len(found)}: " + "\n".join(map(str, found))
