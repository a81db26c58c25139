"""Passes over samples by workers must give what one process gives, to the last bit, whoever dies on the way."""

import dataclasses
import json
import os
import signal
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from prunebench import make_problem
from prunebench.core.errors import InvalidInput, WorkersGone
from prunebench.curvature import gradients, landscape, layer_walk, sharing
from prunebench.curvature.drawn_labels import DrawnLabels
from prunebench.curvature.gradients import sample_gradients
from prunebench.curvature.landscape import NetworkLandscape
from prunebench.curvature.layer_walk import LayerWalk
from prunebench.curvature.sent import dumped, loaded
from prunebench.curvature.sharing import Job, Sharing, spans
from prunebench.curvature.sync import Synced, apply
from prunebench.networks.chosen import prunable_network
from prunebench.networks.classification import cross_entropy
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples
from prunebench.networks.vision_transformer import Sizes, VisionTransformer
from prunebench.report import tables
from prunebench.report.gather import gather
from prunebench.runs import preparation
from prunebench.runs.crews import DaskCrew, LocalCrew
from prunebench.runs.executors import Inline, make_workers
from prunebench.runs.prune import PruneRequest, prune

SIZES = Sizes(image=8, patch=4, width=8, depth=3, heads=2, hidden=12)


@pytest.fixture(autouse=True)
def pays(monkeypatch):
    """As if networks were large: workers are started at once."""
    monkeypatch.setattr(sharing, "OPERATIONS_A_SECOND", 1e-6)


@pytest.fixture(scope="module")
def crew():
    made = LocalCrew(2)
    made.close = lambda: None
    yield made
    LocalCrew.close(made)


@pytest.fixture
def said():
    return []


@pytest.fixture
def digits(crew, said):
    """The network, its problem, and the same shared out."""
    problem = make_problem("digits-mlp")
    alone, shared = prunable_network(problem), prunable_network(problem)
    shared.sharing = Sharing(crew, shared.model, problem.loss, said.append, 1.0)
    return problem, alone, shared


def process_of(crew, place=0):
    return next(iter(list(crew._pools.values())[place]._processes))


def kill_one(crew, place=0):
    os.kill(process_of(crew, place), signal.SIGKILL)


def transformer():
    torch.manual_seed(0)
    model = VisionTransformer(SIZES).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    names = [name for name, item in model.named_parameters() if name.startswith("blocks") and item.ndim == 2]
    return PrunableNetwork(model, names)


def images(count=21):
    generator = torch.Generator().manual_seed(1)
    return TensorSamples(torch.randn(count, 8, 8, generator=generator), torch.arange(count) % 10)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_gradient_rows_are_the_same_bits(digits, monkeypatch, batch_size):
    monkeypatch.setattr(gradients, "CHUNK_SAMPLES", 32)
    problem, alone, shared = digits
    samples, positions = problem.calibration(), np.arange(3, 303)
    for change in (0.0, 0.5):
        for network in (alone, shared):
            network.write(np.arange(10, 40), np.full(30, change))
        rows = [
            sample_gradients(network, problem.loss, samples, positions, batch_size=batch_size)
            for network in (alone, shared)
        ]
        assert np.array_equal(rows[0].view(np.int32), rows[1].view(np.int32))
        assert rows[0].any()
    spent = shared.sharing.spent()
    assert spent["jobs"] >= 4
    assert spent["network_bytes"] > 0
    assert 0 < spent["changes_bytes"] < spent["network_bytes"]
    assert spent["result_bytes"] > 2 * rows[0].nbytes


def test_two_runs_on_the_same_workers_do_not_mix(digits, crew, said):
    problem, alone, shared = digits
    samples, other = problem.calibration(), prunable_network(problem)
    other.write(np.arange(100), np.zeros(100))
    other.sharing = Sharing(crew, other.model, problem.loss, said.append, 1.0)
    expected = sample_gradients(alone, problem.loss, samples, np.arange(20))
    for network in (shared, other, shared):
        rows = sample_gradients(network, problem.loss, samples, np.arange(20))
        assert np.array_equal(rows, expected) == (network is shared)
    assert said == []
    assert shared.sharing.spent()["deaths"] == 0


def test_rows_at_drawn_labels_are_the_same_bits(digits):
    problem, alone, shared = digits
    rows = []
    for network in (alone, shared):
        drawn = DrawnLabels(problem.calibration(), network, np.random.default_rng(2), 3.0)
        rows.append(sample_gradients(network, drawn.loss(problem.loss), drawn, np.arange(50)))
    assert np.array_equal(*rows)
    assert shared.sharing.spent()["jobs"] > 0


def test_a_worker_that_dies_between_passes_is_counted_though_nothing_is_asked_of_it(digits, crew, said):
    problem, alone, shared = digits
    samples, positions = problem.calibration(), np.arange(20)
    expected = sample_gradients(alone, problem.loss, samples, positions)
    sample_gradients(shared, problem.loss, samples, positions)
    # twenty samples are one share, and the other worker has none
    assert shared.sharing.spent()["jobs"] == 1 + len(crew.members)
    idle = next(name for name in crew.members if name != shared.sharing._owners[0])
    crew._end(idle)
    assert np.array_equal(sample_gradients(shared, problem.loss, samples, positions), expected)
    assert shared.sharing.spent()["deaths"] == 1
    assert said == ["a worker died; its share of the samples goes to another"]


@pytest.mark.parametrize("dies", [False, True])
def test_products_of_layers_inputs_are_the_same_bits_though_a_worker_dies(crew, said, monkeypatch, dies):
    monkeypatch.setattr(layer_walk, "CHUNK_SAMPLES", 3)
    found = []
    for shared in (False, True):
        network = transformer()
        if shared:
            network.sharing = Sharing(crew, network.model, cross_entropy, said.append, 1.0)
        weights, rng = network.weights(), np.random.default_rng(0)
        walk = LayerWalk(network, images(), np.arange(21), dense=dies)
        assert walk.blocks == SIZES.depth
        held = []
        for number, group in enumerate(walk.groups):
            if dies and shared and number == 5:
                kill_one(crew, 1)
            held += [(item.gram, item.apart, item.drift, item.count) for item in walk.part_inputs(number, weights)]
            for layer in group:
                span = network.layers[layer]
                weights[span.start : span.stop] *= rng.random(span.size) < 0.5
        found.append(held)
    assert network.sharing.spent()["deaths"] == dies
    assert said == ["a worker died; its share of the samples goes to another"] * dies
    for alone, by_workers in zip(*found, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(alone, by_workers, strict=True))


def test_what_icbs_sees_is_the_same_bits(crew, said, monkeypatch):
    monkeypatch.setattr("prunebench.curvature.landscape.EVALUATION_BATCH", 4)

    class Problem:
        name = "tiny"

        def calibration(self):
            return images()

        loss = staticmethod(cross_entropy)

    found = []
    for shared in (False, True):
        network = transformer()
        if shared:
            network.sharing = Sharing(crew, network.model, cross_entropy, said.append, 1.0)
        landscape = NetworkLandscape(Problem(), network)
        held, indices = [], np.arange(5, network.total, 37)
        for step in range(3):
            seen = landscape.look(np.arange(step, 18 + step))
            held += [seen.gradient.copy(), *seen.factors([indices, indices + 1]), seen.slope(indices), seen.loss]
            with landscape.moved(indices, np.zeros(indices.size)):
                held.append(landscape.loss(np.arange(21)))
            weights = landscape.dense_weights.copy()
            weights[indices + step] = 0.0
            landscape.place(weights)
            weights[indices] = 0.25
            landscape.write(indices, weights[indices])
            seen, layer = landscape.look(np.arange(4, 15)), network.layers[step]
            held += [seen.slope(np.arange(layer.start, layer.stop)), *seen.factors([np.array([layer.start, 3])])]
        found.append(held)
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
    spent = network.sharing.spent()
    assert spent["jobs"] > 10
    assert spent["changes_bytes"] < 9 * spent["network_bytes"]


def test_a_network_that_cannot_be_sent_is_told_and_stays(crew, said):
    class Local(torch.nn.Linear):
        """Of a function: no other process can import it."""

    network = PrunableNetwork(torch.nn.Sequential(Local(4, 3)), ["0.weight"])
    network.sharing = Sharing(crew, network.model, cross_entropy, said.append, 1.0)
    samples = TensorSamples(torch.randn(6, 4), torch.arange(6) % 3)
    rows = sample_gradients(network, cross_entropy, samples, np.arange(6))
    assert rows.shape == (6, 12)
    assert len(said) == 1
    assert "cannot be sent this network" in said[0]
    assert network.sharing.spent() == {}


def die(_held, _network):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_share_that_always_kills_its_worker_ends_the_run(digits, said, crew):
    _, _, shared = digits
    victims = set(crew.members)
    with pytest.raises(WorkersGone, match="died 3 times over the same share"):
        list(shared.sharing.results(shared, [Job(0, die, tuple)]))
    assert len(said) == 3
    assert victims - set(crew.members)


def test_a_dask_worker_whose_work_is_cancelled_is_gone():
    pytest.importorskip("distributed")
    cancelled = Future()
    cancelled.cancel()
    assert DaskCrew(None)._answer(cancelled) is None


def sent_and_read(tensor):
    return loaded(dumped(tensor, LocalCrew.pickler, {}), {})


def test_tensors_arrive_as_they_lay_in_memory():
    image = torch.randn(2, 3, 4, 5)
    for tensor in (
        torch.tensor(3.0), torch.empty(0, 4), image, image.to(memory_format=torch.channels_last), image[:, 1:, ::2],
        image.permute(3, 0, 2, 1), torch.arange(6)[:, None], torch.ones(1, 1).expand(3, 4),
    ):  # fmt: skip
        arrived = sent_and_read(tensor)
        assert arrived.shape == tensor.shape
        assert torch.equal(arrived, tensor)
    assert sent_and_read(image.to(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
    assert sent_and_read(image.permute(3, 0, 2, 1)).stride() == image.permute(3, 0, 2, 1).stride()


def test_samples_that_cannot_be_sent_are_refused_in_words(digits):
    _, _, shared = digits

    def unsendable():
        return (lambda: None,)

    with pytest.raises(InvalidInput, match="workers cannot be sent these samples"):
        list(shared.sharing.results(shared, [Job(0, die, unsendable)]))


def test_waiting_for_workers_to_start_is_no_waiting_for_answers(digits):
    _, _, shared = digits
    assert shared.sharing._have_network(shared)
    spent = shared.sharing.spent()
    assert spent["setup_seconds"] > 0.0
    assert spent["wait_seconds"] == spent["send_seconds"] == 0.0


def test_how_many_samples_go_together_does_not_depend_on_what_was_asked_before(monkeypatch):
    monkeypatch.setattr(landscape, "PASS_BYTES", 2**14)
    made = NetworkLandscape(make_problem("digits-mlp"), prunable_network(make_problem("digits-mlp")))
    first = made.at_once(np.arange(500))
    made._kept(torch.randn(8, 64))
    assert made.at_once(np.arange(500)) == first < 500


def test_small_work_starts_no_worker(monkeypatch, said):
    monkeypatch.setattr(sharing, "OPERATIONS_A_SECOND", 1e12)
    problem = make_problem("digits-mlp")
    network = prunable_network(problem)
    made = make_workers("local:2").crew()
    assert made.size == 2
    network.sharing = Sharing(made, network.model, problem.loss, said.append, 2368.0)
    sample_gradients(network, problem.loss, problem.calibration(), np.arange(50))
    assert made._pools == {}


def test_changes_are_found_to_the_last_bit_and_sent_as_few():
    torch.manual_seed(0)
    model, other = (torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.BatchNorm1d(20)) for _ in range(2))
    other.load_state_dict(model.state_dict())
    synced = Synced(model)
    assert synced.changes() == []
    with torch.no_grad():
        model[0].weight[3, 4] = -0.0
        model[0].weight[0, 0] = float("nan")
        model[0].bias += 1.0
    model[1].running_mean[2] = 5.0
    changes = synced.changes()
    assert {change.name: None if change.places is None else len(change.places) for change in changes} == {
        "0.weight": 2, "0.bias": None, "1.running_mean": 1,
    }  # fmt: skip
    apply(other, changes)
    for mine, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert mine.numpy().tobytes() == theirs.numpy().tobytes()
    assert synced.changes() == []


@pytest.mark.parametrize(("count", "parts"), [(5, 2), (3, 8), (64, 7)])
def test_stretches_cover_all_pieces(count, parts):
    found = spans(count, parts)
    assert [piece for span in found for piece in span] == list(range(count))
    assert max(map(len, found)) - min(map(len, found)) <= 1


class ByCrew(Inline):
    """Blocks in this process, passes by a crew that stays."""

    def __init__(self, crew):
        self.crew = lambda: crew


@pytest.mark.parametrize("coordinator", ["one-shot", "icbs", "layer-wise", "multi-stage"])
def test_a_run_by_workers_gives_the_same_files(tmp_path, coordinator, crew, monkeypatch):
    options = {
        "icbs": {"steps": 3, "block_size": 32, "samples": 64, "accept_samples": 200},
        "layer-wise": {"samples": 600},
        "multi-stage": {"stages": 2, "samples": 300},
        "one-shot": {},
    }[coordinator]
    request = PruneRequest(
        problem="digits-mlp", density=0.2, solver="magnitude", coordinator=coordinator, coordinator_options=options,
        mode="select",
    )  # fmt: skip
    said = []
    prune(request, out=tmp_path / "inline")
    monkeypatch.setattr(preparation, "make_workers", lambda _text: ByCrew(crew))
    result = prune(dataclasses.replace(request, executor="local:2"), out=tmp_path / "workers", say=said.append)
    for name in ("mask.safetensors", "weights.safetensors"):
        assert (tmp_path / "inline" / name).read_bytes() == (tmp_path / "workers" / name).read_bytes()
    assert result["workers"]["jobs"] > 1
    assert any(line.startswith("workers computed") and "MiB were sent" in line for line in said)
    first = json.loads((tmp_path / "workers" / "events.jsonl").read_text().splitlines()[0])
    assert first["workers"]["network_bytes"] > 0
    told = tables.workers(gather([tmp_path / "workers", tmp_path / "inline"]).runs)
    assert [row[2].value for row in told.rows] == [result["workers"]["jobs"]]
