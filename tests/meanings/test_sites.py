"""Several sites: merged is pooled in any order, sketches say their error, what differs is refused, rounds of sites."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import prunebench
from helpers import call, refused
from prunebench.coordinators.rounds import regrowth
from prunebench.core.errors import InvalidInput, NoCurvature, UnknownName
from prunebench.core.problem import make_problem
from prunebench.curvature.activations import layer_inputs
from prunebench.meanings import site_rounds
from prunebench.meanings.features import labels_of
from prunebench.meanings.site_file import Site
from prunebench.meanings.sites import SiteOptions, at_site, merge, shares
from prunebench.networks.chosen import prunable_network
from prunebench.recovery.batch_norm import batch_norms, reestimate_batch_norm

SIZE = 300


@pytest.fixture(scope="module")
def digits():
    return make_problem("digits-mlp")


@pytest.fixture(scope="module")
def parts(digits):
    return shares(labels_of(digits.calibration()), 4)


def of_kind(digits, positions, kind="rows", **more):
    return at_site(digits, positions, SiteOptions(kind=kind, size=SIZE, **more))


@pytest.mark.parametrize("kind", ["rows", "r", "gram"])
def test_merged_is_pooled_in_any_order(digits, parts, kind):
    sites = [of_kind(digits, part, kind) for part in parts]
    merged = merge(sites, density=0.1).block
    pooled = merge([of_kind(digits, None)], density=0.1).block
    masks = [pooled.top_mask(np.random.default_rng(seed).random(SIZE)) for seed in range(20)]
    for mask in masks:
        assert merged.evaluate(mask) == pytest.approx(pooled.evaluate(mask), rel=1e-12)
    assert merge(sites[::-1], density=0.1).block.hash == merged.hash
    assert merge([sites[2], sites[0], sites[3], sites[1]], density=0.1).block.hash == merged.hash
    found, expected = (prunebench.solve(block, "swap") for block in (merged, pooled))
    assert np.array_equal(found.mask, expected.mask)


def test_a_sketch_says_by_how_much_it_is_off(digits, parts):
    few, many = ([of_kind(digits, part, "sketch", sketched=rows) for part in parts] for rows in (20, 400))
    assert max(site.error for site in many) < 0.5 * min(site.error for site in few)
    told = merge(few, density=0.1).told
    assert any("is off by up to" in line for line in told)
    # no site's random numbers are another's: the error of the sum is less than that of the parts
    pooled, merged = (merge(sites, density=0.1).block for sites in ([of_kind(digits, None)], few))
    masks = [pooled.top_mask(np.random.default_rng(seed).random(SIZE)) for seed in range(20)]
    off = [abs(merged.evaluate(mask) / pooled.evaluate(mask) - 1.0) for mask in masks]
    assert 0.0 < max(off) < max(site.error for site in few)


def test_a_layers_inputs_add_up_to_a_whole_layers_block(digits, parts):
    sites = [at_site(digits, part, SiteOptions(kind="gram", layer="fc2")) for part in parts]
    block = merge(sites, density=0.25).block
    network = prunable_network(digits)
    found = layer_inputs(network, "fc2", digits.calibration(), np.arange(len(digits.calibration())))
    assert block.form.shared == pytest.approx(found.gram, rel=1e-5, abs=1e-6)
    assert block.p == 320
    assert prunebench.solve(block, "magnitude").mask.sum() == 80


def test_a_row_gives_its_image_away(digits):
    site = at_site(digits, np.arange(20))
    inputs, _ = digits.calibration().batch(np.arange(20))
    for number, row in enumerate(site.data):
        first = row[: 32 * 64].reshape(32, 64)
        unit = first[np.argmax(np.abs(first).sum(axis=1))]
        image = inputs[number].numpy()
        assert abs(unit @ image) == pytest.approx(np.linalg.norm(unit) * np.linalg.norm(image), rel=1e-5)


def test_a_site_file_is_what_was_written(digits, tmp_path):
    site = of_kind(digits, np.arange(30))
    site.save(tmp_path / "s.npz")
    assert Site.load(tmp_path / "s.npz").hash == site.hash
    merge([site], density=0.1).block.save(tmp_path / "b.npz")
    with pytest.raises(InvalidInput, match="site's file has"):
        Site.load(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "0" * 16}, "differ in their network's weights.*same checkpoint"),
        ({"preprocessing": "0" * 16}, "differ in their preprocessing"),
        ({"problem": "vit-mnist"}, "differ in their problem"),
        ({"ridge": 0.5}, "differ in their ridge"),
        ({"layer": "fc1.weight", "rows_of_layer": 1}, "differ in their layer"),
        ({"kind": "sketch", "error": 0.1}, "hand on sketches everywhere, or nowhere"),
        ({"indices": np.arange(SIZE)}, "are of other weights"),
        ({"samples": 0}, "do not fit each other"),
        ({"data": np.full((3, SIZE), np.nan)}, "NaN"),
        ({"data": np.ones((3, 4))}, "does not fit"),
        ({}, "hold the same; give every site once"),
    ],
)
def test_sites_that_differ_are_refused(digits, changes, words):
    first, second = of_kind(digits, np.arange(30)), of_kind(digits, np.arange(30, 60))
    other = replace(second, **changes) if changes else first
    with pytest.raises(InvalidInput, match=words):
        merge([first, other], density=0.1)


def test_other_networks_and_preprocessings_have_other_hashes(digits):
    here = of_kind(digits, np.arange(30))
    narrow = make_problem("digits-mlp", {"hidden": (16,)})
    assert at_site(narrow, np.arange(30)).weights != here.weights
    assert at_site(make_problem("digits-mlp", {"exclude": "fc2*"}), np.arange(30)).preprocessing != here.preprocessing


def test_products_and_rows_are_not_added_up(digits):
    with pytest.raises(InvalidInput, match="hand on products everywhere, or nowhere"):
        merge([of_kind(digits, np.arange(30)), of_kind(digits, np.arange(30, 60), "gram")], density=0.1)


def test_one_site_is_said(digits):
    assert "one site only" in merge([of_kind(digits, np.arange(30))], density=0.1).told[-1]
    with pytest.raises(InvalidInput, match="no sites"):
        merge([], density=0.1)


def test_what_a_site_cannot_hand_on_is_refused(digits):
    with pytest.raises(InvalidInput, match="has no samples"):
        at_site(digits, np.array([], dtype=np.int64))
    with pytest.raises(InvalidInput, match="has 2368 weights"):
        at_site(digits, None, SiteOptions(size=5000))
    with pytest.raises(InvalidInput, match="number of rows"):
        SiteOptions(kind="sketch")
    with pytest.raises(InvalidInput, match="--gram --layer"):
        SiteOptions(layer="fc1")
    with pytest.raises(UnknownName, match="fc2"):
        at_site(digits, None, SiteOptions(kind="gram", layer="fc3"))
    flat = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    data = [(torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64))]
    still = prunebench.own_network(flat, data, loss=lambda found, aimed: 0.0 * found.sum(dim=1))
    with pytest.raises(NoCurvature, match="all gradients at this site are zero"):
        at_site(still)


def test_the_commands_write_and_merge(capsys, tmp_path):
    files = []
    for number, classes in enumerate(("0,1,2,3,4", "5,6,7,8,9")):
        files.append(tmp_path / f"s{number}.npz")
        code, out, _ = call(
            capsys, "site", "digits-mlp", "--classes", classes, "--size", 100, "-o", files[-1], "--json"
        )
        assert code == 0
        assert json.loads(out)["numbers"] == 100 * json.loads(out)["samples"]
    code, out, _ = call(capsys, "merge", *files, "--density", 0.2, "-o", tmp_path / "b.npz")
    assert code == 0
    assert "1,347 samples of 2 sites" in out
    assert prunebench.BlockProblem.load(tmp_path / "b.npz").keep == 20
    base = ("site", "digits-mlp", "-o", tmp_path / "x.npz")
    assert "no samples of class 12" in refused(capsys, *base, "--classes", "1,12")
    assert "give I/N" in refused(capsys, *base, "--part", "5/4")
    assert "is no network" in refused(capsys, "site", "planted", "-o", tmp_path / "x.npz")


@pytest.fixture(scope="module")
def normed():
    """A small network with two batch norms, on 500 random images."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(4 * 16, 3),
    )  # fmt: skip
    images = torch.randn(500, 1, 4, 4)
    labels = torch.randint(3, (500,))
    images += labels[:, None, None, None]
    data = [(images[i : i + 50], labels[i : i + 50]) for i in range(0, 500, 50)]
    return prunebench.own_network(model.eval(), data, loss="cross_entropy", validation=data[:1])


def test_norms_of_sites_together_are_those_of_all_samples(normed):
    network = prunable_network(normed)
    mask = np.random.default_rng(0).random(network.total) < 0.5
    before = network.state()
    sites = [site_rounds.norms_at_site(normed, network, mask, np.arange(i, i + 250)) for i in (0, 250)]
    assert all(torch.equal(value, before[name]) for name, value in network.state().items())
    summed = site_rounds.summed_norms(sites)
    network.assign(np.where(mask, network.weights(), 0.0))
    reestimate_batch_norm(network.model, normed.calibration(), np.arange(500))
    for norm, (mean, variance) in zip(batch_norms(network.model), summed.norms, strict=True):
        assert mean == pytest.approx(norm.running_mean.numpy(), abs=1e-5)
        assert variance == pytest.approx(norm.running_var.numpy(), rel=1e-4)


def test_the_candidate_of_lowest_loss_at_all_sites_is_taken(normed):
    network = prunable_network(normed)
    whole, random = np.ones(network.total, dtype=bool), np.random.default_rng(1).random(network.total) < 0.05
    places = (np.arange(0, 200), np.arange(200, 400))
    held = (np.arange(400, 420), np.arange(420, 500))
    losses = []
    for mask in (random, whole):
        norms = site_rounds.summed_norms([site_rounds.norms_at_site(normed, network, mask, part) for part in places])
        losses.append([site_rounds.loss_at_site(normed, network, mask, norms, part) for part in held])
    best, means = site_rounds.best_candidate(losses)
    assert means == pytest.approx([sum(one.total for one in each) / 100 for each in losses])
    assert best == int(np.argmin(means))
    with pytest.raises(InvalidInput, match="same held-out samples"):
        site_rounds.best_candidate([losses[0], losses[1][:1]])
    with pytest.raises(InvalidInput, match="different networks"):
        site_rounds.summed_norms([])


def test_what_regrows_by_all_sites_is_what_regrows_by_the_pooled_gradient(digits, parts):
    network = prunable_network(digits)
    weights = network.weights()
    mask = np.abs(weights) > np.quantile(np.abs(weights), 0.8)
    network.assign(np.where(mask, weights, 0.0))
    sites = [site_rounds.top_gradients(digits, network, mask, part, 1.0) for part in parts]
    grown = site_rounds.regrown(mask, weights, network.layers, sites, 0.3)
    worth = regrowth.scores(digits, network, "gradient", 1347, np.random.default_rng(0))
    expected = regrowth.exchanged(mask, weights, worth, network.layers, 0.3)
    assert (grown != expected).sum() <= 4  # gradients that are equal to rounding
    assert np.array_equal(grown, site_rounds.regrown(mask, weights, network.layers, sites[::-1], 0.3))
    assert grown.sum() == mask.sum()
    few = [site_rounds.top_gradients(digits, network, mask, part, 0.2) for part in parts]
    assert sum(site.indices.size for site in few) < 0.21 * sum(site.indices.size for site in sites)
    overlap = (site_rounds.regrown(mask, weights, network.layers, few, 0.3) & grown & ~mask).sum()
    assert overlap > 0.7 * (grown & ~mask).sum()
    with pytest.raises(InvalidInput, match="no sites"):
        site_rounds.regrown(mask, weights, network.layers, [], 0.3)
    with pytest.raises(InvalidInput, match="a part above 0 and at most 1"):
        site_rounds.top_gradients(digits, network, mask, np.arange(5), 0.0)
