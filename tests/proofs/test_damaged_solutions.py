"""Damaged solution and proof files: a verdict or one refusal, never an internal error, and never verified falsely."""

import argparse
import io
import json
import zipfile

import numpy as np
import pytest

from prunebench import BlockProblem, QuadraticForm, solve
from prunebench.commands import verify
from prunebench.core import solution_file
from prunebench.core.errors import InvalidInput

JUNK = [
    None, True, -1, 0, 3, 1.5, 1e308, -1e308, 10**400, "", "optimal", "x" * 10_000, [], [[]], [1, [2]], [None], ["a"],
    [1e400], {}, {"a": 1}, {"certificate": 3}, {"certificate": {"formulation": []}}, {"certificate": {"nodes": "many"}},
    [0] * 14, [1] * 14, [0.5] * 14, [True] * 14, list(range(6)), [-1] * 6, [10**30] * 6, [[0] * 14] * 14,
]  # fmt: skip
"""What a key of a solution file is replaced by."""
CERTIFICATE_JUNK = [None, "x", -1.0, [], [0.0], [1e308] * 14, [-1e308] * 14, ["a"] * 14, [None] * 14, {"a": 1}, True]


@pytest.fixture(scope="module", params=["select", "refit"])
def files(request, tmp_path_factory):
    rng = np.random.default_rng(3)
    weights = rng.normal(size=14)
    block = BlockProblem(
        QuadraticForm(factor=rng.normal(size=(9, 14)), ridge=0.05, centre=weights), weights, 6, request.param
    )
    folder = tmp_path_factory.mktemp(request.param)
    block.save(folder / "b.npz")
    answer = solve(block, "branch-and-bound", options={"proof": True})
    summary = solution_file.as_json(block, answer, solver="branch-and-bound", options={}, seed=0)
    answer.proof.save(folder / "p.npz")
    return folder, solution_file.with_arrays(summary, answer)


def verdict(folder, text, *more):
    path = folder / "s.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    parser = argparse.ArgumentParser()
    verify.add_arguments(parser)
    try:
        return verify.run(parser.parse_args([str(path), str(folder / "b.npz"), "--seconds", "1", *more]))["verdict"]
    except InvalidInput:
        return "refused"


def test_a_key_with_anything_else_in_it_gives_a_verdict_or_one_refusal(files):
    folder, honest = files
    found = set()
    for key in ("mask", "weights", "objective", "lower_bound", "status", "mode", "block_hash", "kept", "details"):
        for junk in JUNK:
            said = verdict(folder, json.dumps({**honest, key: junk}))
            found.add(said)
            if key in ("mask", "weights", "objective", "block_hash") and junk != honest[key]:
                assert said in ("not verified", "refused"), (key, junk)
    assert {"refused", "not verified"} <= found


def test_a_certificate_with_anything_else_in_it_gives_a_verdict_or_one_refusal(files):
    folder, honest = files
    for key in honest["details"]["certificate"]:
        for junk in CERTIFICATE_JUNK:
            certificate = {**honest["details"]["certificate"], key: junk}
            verdict(folder, json.dumps({**honest, "details": {**honest["details"], "certificate": certificate}}))


def test_bytes_that_are_no_solution_file_are_refused(files):
    folder, honest = files
    text = json.dumps(honest).encode()
    deep = b"[" * 100_000
    samples = [
        b"",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"{}",
        text[:100],
        text[:-2],
        b"PK\x03\x04",
        deep,
        b'{"mask": NaN}',
    ]
    for data in samples:
        assert verdict(folder, data) == "refused"


def test_damaged_proof_files_prove_nothing_and_raise_nothing_else(files):
    folder, honest = files
    whole = (folder / "p.npz").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"no archive", whole[: len(whole) // 2]]
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(whole), size=3):
            data[at] ^= int(rng.integers(1, 256))
        damaged.append(bytes(data))
    with np.load(folder / "p.npz") as archive:
        held = dict(archive)
    for key in held:
        for junk in (None, np.array("x"), np.zeros(3, np.complex128), np.array(1e300), np.zeros((2, 2, 2), np.int64)):
            stream = io.BytesIO()
            np.savez(stream, **{name: value for name, value in {**held, key: junk}.items() if value is not None})
            damaged.append(stream.getvalue())
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("entries.npy", bytes(2**20))
    damaged.append(bomb.getvalue())
    outcomes = []
    for data in damaged:
        (folder / "q.npz").write_bytes(data)
        outcomes.append(verdict(folder, json.dumps(honest), "--proof", str(folder / "q.npz")))
    assert outcomes.count("refused") + outcomes.count("not verified") > 40
