"""Proofs of group blocks: bounds never above the optimum, whatever the records hold, and what verification finds."""

import itertools
import json
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest

from helpers import call, refused
from prunebench import Budget, Status, solve, verify
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_form import GroupForm
from prunebench.core.group_proof import GroupProof, GroupRelaxation
from prunebench.kernels.groups.relaxation import Reduced, relax
from prunebench.proofs.groups import proved_group_bound, record_bound
from prunebench.testing.groups import FAMILIES, BestGroups, group_instance


def drawn(seed):
    """A small random block: sizes, ridge, correlation and count all differ."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, int(rng.integers(3, 8)))
    group = rng.permutation(np.repeat(np.arange(sizes.size), sizes))
    p = group.size
    inputs = rng.normal(size=(2 * p, p)) @ (np.eye(p) + rng.random() * rng.normal(size=(p, p)))
    outputs = inputs @ rng.normal(size=(p, int(rng.integers(1, 4)))) * rng.random() + rng.normal(size=(2 * p, 1))
    gram = inputs.T @ inputs / (2 * p)
    ridge = 10.0 ** -rng.integers(1, 6) * gram.trace() / p
    form = GroupForm(gram, inputs.T @ outputs / (2 * p), group, ridge, 0.25 * float((outputs**2).sum()) / p)
    return GroupBlock(form, int(rng.integers(1, sizes.size)))


def masks_within(block, kept, dropped):
    free = np.flatnonzero(~kept & ~dropped)
    for chosen in itertools.combinations(free, block.keep - int(kept.sum())):
        mask = kept.copy()
        mask[list(chosen)] = True
        yield mask


def test_the_bound_of_a_relaxation_is_below_every_mask_of_its_node():
    tight = 0
    for seed in range(100):
        block = drawn(seed)
        rng = np.random.default_rng(seed)
        kept, dropped = np.zeros((2, block.p), bool)
        order = rng.permutation(block.p)
        kept[order[: rng.integers(0, block.keep)]] = True
        dropped[order[block.p - int(rng.integers(0, block.p - block.keep)) :]] = True
        dropped &= ~kept
        least = min(block.form.value(mask) for mask in masks_within(block, kept, dropped))
        reduced = Reduced.of(block.form, block.keep, kept, dropped)
        if 0 < reduced.count < reduced.free.size:
            found = relax(reduced, [], least, 6)
            bound = record_bound(block, kept, dropped, found.record)
            scale = abs(block.form.constant)
            assert bound <= least + 1e-9 * scale, seed
            assert bound == pytest.approx(found.bound, abs=0.02 * scale), seed
            tight += bound > 0.8 * least
    assert tight > 40


def test_a_relaxation_of_any_numbers_is_below_the_optimum():
    for seed in range(100):
        block = drawn(seed)
        rng = np.random.default_rng(seed)
        none = np.zeros(block.p, bool)
        half = rng.normal(size=(block.p, block.p))
        moments = (half @ half.T if seed % 2 else half + half.T).astype(np.float32)
        record = GroupRelaxation(moments, rng.normal(size=block.p) * 10.0 ** rng.integers(-3, 4), rng.random(block.p))
        best = BestGroups.of(block).objective
        assert record_bound(block, none, none, record) <= best + 1e-9 * abs(block.form.constant), seed


def test_the_bound_of_one_set_is_its_value_less_rounding():
    for family in FAMILIES:
        block = group_instance(family, 0)
        mask = block.incumbent
        bound, value = record_bound(block, mask, ~mask, None), block.form.value(mask)
        assert value - 1e-8 * abs(block.form.constant) <= bound <= value + 1e-12 * abs(block.form.constant)


def exact_value(block, mask):
    """f of a set in exact rational arithmetic, from the form's arrays of whole numbers."""
    form = block.form
    rows = np.flatnonzero(mask[form.group])
    matrix = [[Fraction(form.gram[i, j]) + Fraction(form.ridge[i]) * int(i == j) for j in rows] for i in rows]
    explained = Fraction(0)
    for output in range(form.q):
        right = [Fraction(form.cross[i, output]) for i in rows]
        system = [[*row, value] for row, value in zip(matrix, right, strict=True)]
        for k in range(len(rows)):
            for i in range(len(rows)):
                if i != k:
                    share = system[i][k] / system[k][k]
                    system[i] = [a - share * b for a, b in zip(system[i], system[k], strict=True)]
        explained += sum(value * row[-1] / row[k] for k, (row, value) in enumerate(zip(system, right, strict=True)))
    return Fraction(form.constant) - explained / 2


@pytest.mark.parametrize("alike", [1, 30, 100])
def test_the_bound_of_one_set_holds_exactly_and_is_tight_where_inputs_are_much_alike(alike):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        inputs = alike * rng.integers(-9, 10, (24, 1)) + rng.integers(-3, 4, (24, 8))
        cross = inputs.T @ rng.integers(-9, 10, (24, 3))
        block = GroupBlock(GroupForm(inputs.T @ inputs, cross, np.arange(8) // 2, 0.5, 1e4), 3)
        mask = np.arange(4) != seed % 4
        bound, exact = record_bound(block, mask, ~mask, None), exact_value(block, mask)
        assert Fraction(bound) <= exact
        assert exact - Fraction(bound) <= Fraction(1e-9) * exact


@pytest.mark.parametrize("seed", range(8))
def test_exact_is_enumeration_and_its_proof_is_checked(seed):
    block = drawn(100 + seed)
    best = BestGroups.of(block)
    answer = solve(block, "group-exact", options={"proof": True})
    assert answer.objective == pytest.approx(best.objective, abs=1e-9 * block.form.constant)
    bound = proved_group_bound(block, answer.proof) if answer.proof else answer.lower_bound
    assert bound >= answer.lower_bound - 1e-9 * block.form.constant
    assert bound <= best.objective + 1e-12 * block.form.constant
    found = verify(block, answer)
    assert found.verified, found.faults


def stopped_answer():
    block = group_instance("correlated", 1)
    return block, solve(block, "group-exact", options={"proof": True}, budget=Budget(evaluations=2))


def test_a_search_that_is_cut_short_proves_the_bound_that_it_claims():
    block, answer = stopped_answer()
    assert answer.details["nodes"] == 2
    assert answer.details["waiting"] > 0
    assert answer.status is Status.TIME_LIMIT
    assert 0.5 * answer.objective < answer.lower_bound < answer.objective
    assert proved_group_bound(block, answer.proof) == answer.lower_bound
    assert verify(block, answer).verified


def test_verification_finds_what_is_wrong():
    block = group_instance("correlated", 0)
    answer = solve(block, "group-exact", options={"proof": True})
    assert answer.status is Status.OPTIMAL
    assert verify(block, answer).verified
    worse = solve(block.with_start(np.roll(answer.mask, 1)), "group-greedy")
    for changes, words in (
        ({"objective": 0.5 * answer.objective}, "the objective is"),
        ({"lower_bound": 1.5 * answer.objective}, "above the objective"),
        ({"weights": 1.01 * answer.weights}, "the objective is"),
        ({"mask": ~answer.mask}, "weights of dropped groups remain"),
        ({"mask": np.ones(block.p, bool)}, "must keep"),
    ):
        found = verify(block, replace(answer, **changes))
        assert not found.verified
        assert any(words in fault for fault in found.faults), (words, found.faults)
    forged = replace(worse, lower_bound=worse.objective, status=Status.OPTIMAL, proof=None)
    if worse.objective > answer.objective * (1 + 1e-5):
        assert not verify(block, forged).verified
    unproved = replace(answer, proof=None)
    assert verify(block, unproved).verified  # few masks: they are enumerated
    assert not verify(group_instance("correlated", 1), answer).verified


def test_a_bound_without_support_is_not_verified(monkeypatch):
    from prunebench import group_verification

    monkeypatch.setattr(group_verification, "ENUMERATED", 0)
    block = group_instance("correlated", 0)
    answer = solve(block, "group-swap")
    claimed = replace(answer, lower_bound=answer.objective, details={})
    assert "not supported" in " ".join(verify(block, claimed, seconds=0.0).faults)
    searched = replace(claimed, details={"nodes": 5})
    assert verify(block, searched, seconds=0.0).verdict == "consistent"
    assert verify(block, answer, seconds=0.0).verified  # no bound is claimed


def damaged(proof, block):
    records = proof.records
    yield {"block": "0" * 64}, "another block"
    yield {"parent": proof.parent[:-1]}, "one entry a record"
    yield {"parent": np.full(records, -1)}, "one tree"
    yield {"value": np.full(records, 1, np.int8)}, "'value'"
    yield {"branch": np.full(records, block.p, np.int32)}, "outside"
    yield {"branch": np.full(records, -1, np.int32)}, "two children"
    yield {"points": proof.points[:-1]}, "do not fit"
    yield {"moments": proof.moments[:-1]}, "do not fit"
    yield {"points": np.full_like(proof.points, np.nan)}, "not finite"
    yield {"points": proof.points + 5.0}, "outside"
    first = int(proof.branch[0])
    yield {"branch": np.where(proof.branch >= 0, first, -1).astype(np.int32)}, "that it has fixed"


def test_damaged_proofs_are_refused(tmp_path):
    block = group_instance("correlated", 3)
    proof = solve(block, "group-exact", options={"proof": True}).proof
    assert proof.records > 3
    assert (proof.branch >= 0).sum() > 1
    for changes, words in damaged(proof, block):
        with pytest.raises(InvalidInput, match=words):
            proved_group_bound(block, replace(proof, **changes))
    proof.save(tmp_path / "p.npz")
    again = GroupProof.load(tmp_path / "p.npz")
    assert all(np.array_equal(getattr(again, item.name), getattr(proof, item.name)) for item in fields(proof))
    whole = (tmp_path / "p.npz").read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 25)):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(InvalidInput):
            GroupProof.load(tmp_path / "cut.npz")


def test_changed_relaxations_never_prove_too_much():
    block = group_instance("correlated", 1)
    answer = solve(block, "group-exact", options={"proof": True})
    proof, best = answer.proof, BestGroups.of(block).objective
    rng = np.random.default_rng(0)
    for _ in range(40):
        points = proof.points.copy()
        at = rng.integers(points.size)
        points[at] = rng.random()
        moments = proof.moments * (1.0 + 0.5 * rng.normal(size=proof.moments.size)).astype(np.float32)
        changed = replace(proof, points=points, moments=moments)
        try:
            assert proved_group_bound(block, changed) <= best + 1e-12 * block.form.constant
        except InvalidInput as error:
            assert "shares outside" in str(error)  # noqa: PT017  # a shift may land where a share stands


def test_the_command_line_solves_with_a_proof_and_verifies_it(capsys, tmp_path):
    block = group_instance("unequal", 1)
    file, answer, proof = tmp_path / "g.npz", tmp_path / "s.json", tmp_path / "p.npz"
    block.save(file)
    code, out, _ = call(
        capsys, "solve", file, "--solver", "group-exact", "-o", answer, "--proof", proof, "--json", "--quiet"
    )
    assert code == 0
    assert json.loads(out)["status"] == "optimal"
    code, out, _ = call(capsys, "verify", answer, file, "--proof", proof, "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["form"]) == (0, "verified", "groups")
    code, out, _ = call(capsys, "verify", answer, file, "--proof", proof)
    assert "nothing kept" in out
    assert "group-exact" in refused(capsys, "solve", file, "--solver", "group-swap", "--proof", proof)
    code, out, _ = call(capsys, "solve", file, "--solver", "osscar", "--bound", "--json", "--quiet")
    row = json.loads(out)
    assert row["lower_bound"] == pytest.approx(BestGroups.of(block).objective, rel=1e-5)
    assert row["details"]["bound_method"] == "group-exact"
