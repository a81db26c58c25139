"""Group forms against plain linear algebra: values, refits, single moves, exchanges, files, and what is refused."""

import itertools

import numpy as np
import pytest

from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock, load_block
from prunebench.core.group_form import GroupForm
from prunebench.core.group_state import REFRESH, GroupState
from prunebench.testing.groups import FAMILIES, group_instance

CASES = [(family, seed) for family in FAMILIES for seed in range(2)]


def plain_value(form, kept):
    """f by the formula, with M formed."""
    rows = np.flatnonzero(kept[form.group])
    weight = np.eye(form.q) if form.weight is None else form.weight
    weight = np.diag(weight) if weight.ndim == 1 else weight
    products = form.cross @ weight @ form.cross.T
    matrix = form.gram + np.diag(form.ridge)
    inverse = np.linalg.inv(matrix[np.ix_(rows, rows)])
    return form.constant - 0.5 * np.trace(inverse @ products[np.ix_(rows, rows)])


def masks_of(form, rng, count=4):
    return [np.zeros(form.groups, bool), np.ones(form.groups, bool), *(rng.random((count, form.groups)) < 0.5)]


def random_form(rng, weight):
    sizes = rng.integers(1, 4, 6)
    group = rng.permutation(np.repeat(np.arange(6), sizes))
    outputs = int(rng.integers(1, 9))
    inputs = rng.normal(size=(30, group.size)) @ (np.eye(group.size) + 0.4 * rng.normal(size=(group.size,) * 2))
    targets = rng.normal(size=(30, outputs))
    held = {"none": None, "diagonal": rng.random(outputs), "matrix": np.cov(rng.normal(size=(outputs, 40)), ddof=0)}
    return GroupForm(
        inputs.T @ inputs / 30, inputs.T @ targets / 30, group, 0.1, 3.0, np.atleast_1d(held[weight]).reshape(
            (outputs, outputs) if weight == "matrix" else (outputs,)
        ) if held[weight] is not None else None,
    )  # fmt: skip


@pytest.mark.parametrize("weight", ["none", "diagonal", "matrix"])
@pytest.mark.parametrize("seed", range(8))
def test_value_refit_drops_additions_and_exchanges_are_those_of_the_formula(seed, weight):
    rng = np.random.default_rng(seed)
    form = random_form(rng, weight)
    for mask in masks_of(form, rng):
        value = plain_value(form, mask)
        assert form.value(mask) == pytest.approx(value, rel=1e-10)
        assert form.loss(form.refit(mask)) == pytest.approx(value, rel=1e-9)
        state = GroupState(form, mask)
        drops, gains = form.drop_costs(mask), form.add_gains(mask)
        for group in range(form.groups):
            other = mask.copy()
            other[group] = not other[group]
            change = plain_value(form, other) - value
            assert (drops if mask[group] else -gains)[group] == pytest.approx(change, abs=1e-9)
            assert np.isnan((gains if mask[group] else drops)[group])
            if mask[group]:
                exchanges = state.exchanges(group)
                for entering in np.flatnonzero(~mask):
                    pair = other.copy()
                    pair[entering] = True
                    assert exchanges[entering] == pytest.approx(plain_value(form, pair) - value, abs=1e-9)


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_moves_keep_the_state_that_of_the_set(family, seed):
    form = group_instance(family, seed).form
    rng = np.random.default_rng(seed)
    state = GroupState(form, np.ones(form.groups, bool))
    for _ in range(2 * REFRESH + 5):
        state.move(int(rng.integers(form.groups)))
    fresh = GroupState(form, state.kept)
    scale = max(abs(form.constant), 1e-300)
    assert state.value == pytest.approx(fresh.value, abs=1e-9 * scale)
    assert state.changes() == pytest.approx(fresh.changes(), abs=1e-8 * scale)
    assert 0 < state.moves <= REFRESH


def test_other_weights_of_the_same_groups_are_no_better():
    block = group_instance("unequal", 0)
    rng = np.random.default_rng(0)
    mask = block.top_mask(rng.random(block.p))
    best = block.form.refit(mask)
    for _ in range(20):
        moved = best + 0.01 * rng.normal(size=best.shape) * block.form.inputs(mask)[:, None]
        assert block.evaluate(moved, mask) > block.form.value(mask)


def test_more_outputs_than_inputs_cost_no_more_than_the_inputs():
    form = group_instance("many-outputs", 0).form
    assert form.q > form.p
    assert form.parts.right.shape == (form.p, form.p)


def test_a_repeated_group_costs_nothing_to_drop_once():
    block = group_instance("repeated", 0)
    everything = np.ones(block.p, bool)
    costs = block.form.drop_costs(everything)
    assert costs[[2, 3]].max() < 0.05 * costs[[0, 1, 4, 5]].min()
    without = everything.copy()
    without[2] = False
    assert block.form.drop_costs(without)[3] > 0.1 * costs[[0, 1, 4, 5]].min()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gram": np.full((4, 4), np.nan)}, "the Gram matrix holds nan"),
        ({"gram": np.diag([1.0, 1.0, -1.0, 1.0])}, "not positive definite.*raise the ridge"),
        ({"gram": np.zeros((4, 4)), "ridge": 0.0}, "not positive definite.*raise the ridge"),
        ({"gram": np.eye(4) + np.triu(np.ones((4, 4)), 1)}, "not symmetric"),
        ({"gram": np.ones((4, 3))}, "expected a square matrix"),
        ({"cross": np.ones((3, 2))}, "cross has shape"),
        ({"cross": np.ones((4, 0))}, "cross has shape"),
        ({"group": np.array([0, 0, 2, 2])}, "group 1 has no input"),
        ({"group": np.array([0, 1, 2])}, "one an input"),
        ({"group": np.array([0.0, 0.0, 1.0, 1.0])}, "whole numbers"),
        ({"group": np.array([-1, 0, 0, 0])}, "group holds -1"),
        ({"group": np.array([0, 0, 0, 9])}, "group holds 9"),
        ({"ridge": -1.0}, "must not be negative"),
        ({"constant": np.inf}, "constant holds inf"),
        ({"weight": np.array([1.0, -1.0])}, "weighs 0 or more"),
        ({"weight": np.array([[0.0, 1.0], [1.0, 0.0]])}, "negative eigenvalue"),
        ({"weight": np.ones(3)}, "weight has shape"),
    ],
)
def test_what_makes_no_form_is_refused_in_one_line(changes, words):
    good = {"gram": np.eye(4), "cross": np.ones((4, 2)), "group": np.array([0, 0, 1, 1]), "ridge": 0.1, "constant": 9.0}
    GroupForm(**good)
    with pytest.raises(InvalidInput, match=words) as error:
        GroupForm(**{**good, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("keep", "words"), [(9, "choose 0 to 7"), (-1, "at least 0"), (2.5, "whole number")])
def test_a_wrong_count_is_refused(keep, words):
    with pytest.raises(InvalidInput, match=words):
        GroupBlock(group_instance("plain", 0).form, keep)


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_a_block_comes_back_from_its_file(family, seed, tmp_path):
    block = group_instance(family, seed)
    block = block.with_start(block.incumbent) if seed else block
    block.save(tmp_path / "g.npz")
    again = load_block(tmp_path / "g.npz")
    assert isinstance(again, GroupBlock)
    assert again.hash == block.hash
    assert (again.name, again.keep) == (block.name, block.keep)
    assert again.form.value(again.incumbent) == block.form.value(block.incumbent)


def test_the_hash_is_of_what_a_solver_sees():
    block = group_instance("plain", 0)
    same = GroupBlock(block.form, block.keep, problem="another", layer="name")
    assert same.hash == block.hash
    assert GroupBlock(block.form, block.keep - 1).hash != block.hash
    assert block.with_start(block.incumbent).hash != block.hash


def _damaged(contents):
    """Group files that are wrong, each with words of its error."""
    without = {key: value for key, value in contents.items() if key != "cross"}
    yield without, "'cross' is missing"
    for key, value, words in (
        ("gram", np.eye(3), "cross has shape"),
        ("gram", np.ones((14, 13)), "gram has shape"),
        ("gram", np.eye(14, dtype=np.float16), "gram has dtype float16"),
        ("gram", -np.eye(14), "not positive definite"),
        ("cross", np.full((14, 3), np.nan), "cross holds nan"),
        ("group", np.zeros(14), "group has dtype"),
        ("group", np.zeros(3, dtype=np.int64), "group has shape"),
        ("keep", np.int64(99), "keep is 99"),
        ("keep", np.float64(2.0), "keep has dtype"),
        ("start_mask", np.ones(7, dtype=bool), "must keep 3"),
        ("start_mask", np.ones(7), "start_mask has dtype"),
        ("weight", np.ones((3, 2)), "weight has shape"),
        ("ridge", np.ones(5), "ridge has shape"),
        ("layer", np.str_("a\nb"), "characters that print"),
        ("constant", np.float64("nan"), "constant holds nan"),
    ):
        yield {**contents, key: value}, words


def test_damaged_files_are_refused_in_one_line(tmp_path):
    contents = group_instance("plain", 0).contents()
    file = tmp_path / "g.npz"
    for number, (held, words) in enumerate(_damaged(contents)):
        np.savez(file, format=np.str_("prunebench.group/1"), **held)
        with pytest.raises(InvalidInput, match=words) as error:
            load_block(file)
        assert "\n" not in str(error.value), number
        assert str(file) in str(error.value), number
    np.savez(file, format=np.str_("prunebench.group/2"), **contents)
    with pytest.raises(InvalidInput, match="expected"):
        load_block(file)
    with pytest.raises(InvalidInput, match=r"expected 'prunebench\.group/1'"):
        GroupBlock.load(file)


def test_a_truncated_file_is_refused_at_every_length(tmp_path):
    group_instance("plain", 0).save(tmp_path / "g.npz")
    whole = (tmp_path / "g.npz").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(InvalidInput):
            load_block(tmp_path / "cut.npz")


def test_the_incumbent_holds_the_groups_that_cost_most_alone():
    block = group_instance("correlated", 0)
    costs = block.form.drop_costs(np.ones(block.p, bool))
    assert costs[block.incumbent].min() >= costs[~block.incumbent].max()


def test_removing_more_groups_never_lowers_f():
    form = group_instance("correlated", 1).form
    for first, second in itertools.combinations(range(form.groups), 2):
        mask = np.ones(form.groups, bool)
        mask[first] = False
        more = mask.copy()
        more[second] = False
        assert form.value(more) >= form.value(mask)
