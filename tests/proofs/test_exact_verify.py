"""prunebench verify: true solutions pass, every forged entry is named."""

import argparse
import json

import numpy as np
import pytest

from prunebench import BlockProblem, QuadraticForm, solve, verification
from prunebench.commands import verify
from prunebench.core import solution_file
from prunebench.core.errors import InvalidInput
from prunebench.core.optimality import PROOF_TOLERANCE
from prunebench.testing.forged import FORGERIES, forged
from prunebench.verification import Support


@pytest.fixture(params=["select", "refit"])
def files(request, tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=14)
    form = QuadraticForm(factor=rng.normal(size=(9, 14)), ridge=0.05, centre=weights)
    block = BlockProblem(form, weights, 6, request.param)
    block.save(tmp_path / "block.npz")
    solution = solve(block, "branch-and-bound")
    summary = solution_file.as_json(block, solution, solver="branch-and-bound", options={}, seed=0)
    solution_file.write(tmp_path / "solution.json", solution_file.with_arrays(summary, solution))
    return tmp_path


def verdict(folder, **changes):
    path = folder / "solution.json"
    if changes:
        contents = json.loads(path.read_text())
        contents.update(changes)
        path.write_text(json.dumps(contents))
    parser = argparse.ArgumentParser()
    verify.add_arguments(parser)
    return verify.run(parser.parse_args([str(path), str(folder / "block.npz")]))


def test_a_true_solution_is_verified_by_its_own_certificate(files):
    result = verdict(files)
    assert result["verified"], result["faults"]
    assert result["verdict"] == "verified"
    assert result["rests_on"].startswith(("certificate", "enumeration of all 3003 masks"))
    assert result["derived_bound"] <= result["objective"]
    assert verify.text(result).startswith("verified")
    json.dumps(result, allow_nan=False)


def test_a_wrong_objective_is_named(files):
    assert "objective" in verdict(files, objective=0.0)["faults"][0]


def test_a_worse_objective_than_the_weights_have_is_named(files):
    worse = json.loads((files / "solution.json").read_text())["objective"] + 1.0
    result = verdict(files, objective=worse, status="feasible", lower_bound=None, relative_gap=None)
    assert [fault for fault in result["faults"] if fault.startswith("the objective is")] == result["faults"] != []


def test_a_bound_above_the_objective_is_named(files):
    assert any("above the objective" in fault for fault in verdict(files, lower_bound=1e9)["faults"])


def test_optimal_without_a_bound_is_named(files):
    assert any("without a bound" in fault for fault in verdict(files, lower_bound=None)["faults"])


def test_optimal_with_a_gap_is_named(files):
    assert any("leaves a gap" in fault for fault in verdict(files, lower_bound=-1e3)["faults"])


def test_another_blocks_solution_is_named(files):
    assert any("hashes differ" in fault for fault in verdict(files, block_hash="0")["faults"])


def test_too_many_kept_weights_are_named(files):
    assert any("keep" in fault for fault in verdict(files, mask=[1] * 14)["faults"])


def test_a_mask_may_be_a_list_of_positions(files):
    contents = json.loads((files / "solution.json").read_text())
    kept = [i for i, value in enumerate(contents["mask"]) if value]
    assert verdict(files, mask=kept)["verified"]


def test_without_a_certificate_a_bound_is_found(files):
    result = verdict(files, details={}, status="feasible", lower_bound=None)
    assert result["verified"], result["faults"]
    assert result["rests_on"].endswith("found here")


def test_weights_of_the_wrong_length_are_refused(files):
    with pytest.raises(InvalidInput, match="weights have shape"):
        verdict(files, weights=[0.0])


def test_a_root_bound_above_what_the_certificates_numbers_prove_is_named(files):
    details = json.loads((files / "solution.json").read_text())["details"]
    root = details["certificate"]["root_bound"]
    details["certificate"]["root_bound"] = root + 0.01 * abs(root)
    assert any("root bound" in fault for fault in verdict(files, details=details)["faults"])


def test_optimal_is_verified_by_a_bound_that_proves_the_objective_and_not_by_one_that_only_proves_the_claim(
    files, monkeypatch
):
    objective = json.loads((files / "solution.json").read_text())["objective"]
    within = {part: objective - part * PROOF_TOLERANCE * abs(objective) for part in (0.5, 0.9, 1.5)}
    gap = {"lower_bound": within[0.9], "relative_gap": None}
    for part, expected in ((0.5, "verified"), (1.5, "consistent")):
        support = Support(within[part], "stand-in", within[part])
        monkeypatch.setattr(verification, "_support", lambda *_, support=support: (support, []))
        result = verdict(files, **gap)
        assert (result["verdict"], result["faults"]) == (expected, [])


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_file_is_never_verified(files, kind):
    block = BlockProblem.load(files / "block.npz")
    honest = json.loads((files / "solution.json").read_text())
    for seed in range(2):
        contents = forged(kind, honest, block, np.random.default_rng(seed))
        try:
            found = verdict(files, **contents)["verdict"]
        except InvalidInput:
            found = "refused"
        assert found in ("not verified", "refused")
