import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench.core.errors import InvalidInput
from prunebench.curvature import gradient_ways, linear_gradients
from prunebench.curvature.gradients import available_memory, gradient_memory, sample_gradients
from prunebench.networks.classification import cross_entropy
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples

INPUTS, CLASSES, SAMPLES = (1, 6, 6), 3, 20


def convolutional():
    """Convolution with bias, batch norm with running statistics, dropout, linear."""
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, CLASSES)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
        model[1].running_mean.normal_(generator=generator)
        model[1].running_var.uniform_(0.5, 2.0, generator=generator)
    return model


@pytest.fixture
def model():
    return convolutional()


@pytest.fixture
def network(model):
    return PrunableNetwork(model, ("0.weight", "5.weight"))


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(1)
    return TensorSamples(
        torch.randn((SAMPLES, *INPUTS), generator=generator), torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    )


def plain_loop(network, samples, batches):
    """The straightforward formulation: zero the gradients, go backward, copy."""
    model = network.model.eval()
    rows = []
    for batch in batches:
        model.zero_grad()
        inputs, targets = samples.batch(np.asarray(batch))
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        rows.append(np.concatenate([model.get_parameter(name).grad.numpy().ravel() for name in network.names]))
    return np.array(rows)


def test_sample_gradients_equal_one_backward_pass_a_sample(network, samples):
    positions = [3, 0, 19, 7]
    rows = sample_gradients(network, cross_entropy, samples, positions)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, plain_loop(network, samples, [[i] for i in positions]), rtol=1e-4, atol=1e-6)


def test_rows_come_in_the_order_of_the_positions_across_chunks(network, samples, monkeypatch):
    monkeypatch.setattr("prunebench.curvature.gradients.CHUNK_SAMPLES", 3)
    positions = np.arange(SAMPLES)[::-1]
    rows = sample_gradients(network, cross_entropy, samples, positions)
    np.testing.assert_allclose(rows, plain_loop(network, samples, positions[:, None]), rtol=1e-4, atol=1e-6)


class Branching(torch.nn.Module):
    """A convolution used twice, one with stride, dilation and padding, batch norm, a sum, a linear head."""

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.again = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.wide = nn.Conv2d(3, 2, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1))
        self.head = nn.Linear(2, CLASSES)

    def forward(self, images):
        held = torch.relu(self.norm(self.first(images)))
        held = torch.tanh(self.again(held)) + self.again(held * held)
        return self.head(self.wide(held).mean(dim=(2, 3)))


def branching():
    """Branching with weights from a seed of its own."""
    model = Branching().eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
        model.norm.running_mean.normal_(generator=generator)
    return model


def test_convolutions_have_the_gradients_of_one_backward_pass_a_sample(samples, monkeypatch):
    monkeypatch.setattr("prunebench.curvature.gradients.CHUNK_SAMPLES", 7)
    called = []
    kept = linear_gradients.fill_by_passes
    monkeypatch.setattr(linear_gradients, "fill_by_passes", lambda *given: called.append(1) or kept(*given))
    network = PrunableNetwork(branching(), ("first.weight", "again.weight", "wide.weight", "head.weight"))
    positions = np.arange(SAMPLES)[::-1]
    rows = sample_gradients(network, cross_entropy, samples, positions)
    np.testing.assert_allclose(rows, plain_loop(network, samples, positions[:, None]), rtol=1e-4, atol=1e-6)
    assert called, "the gradients came another way"


def test_grouped_or_reflecting_convolutions_are_vectorised_instead(samples):
    for options in ({"groups": 2}, {"padding_mode": "reflect", "padding": 1}, {"padding": "same"}):
        nn = torch.nn
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, **options), nn.Flatten(), nn.LazyLinear(CLASSES)
        ).eval()
        model(samples.inputs[:1])
        network = PrunableNetwork(model, ("0.weight", "1.weight"))
        assert "1.weight" not in linear_gradients.weighted_modules(network)
        rows = sample_gradients(network, cross_entropy, samples, [4, 2])
        np.testing.assert_allclose(rows, plain_loop(network, samples, [[4], [2]]), rtol=1e-4, atol=1e-6)


def chain(*layers):
    model = torch.nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model


NN = torch.nn
CHAINS = {
    "with biases": lambda: chain(NN.Flatten(), NN.Linear(36, 5), NN.ReLU(), NN.Dropout(0.5), NN.Linear(5, CLASSES)),
    "nested": lambda: chain(NN.Flatten(), NN.Sequential(NN.Linear(36, 5), NN.Tanh()), NN.Linear(5, CLASSES)),
    "over a sequence": lambda: chain(
        NN.Flatten(1, 2), NN.Linear(6, 5), NN.GELU(), NN.Flatten(), NN.Linear(30, CLASSES)
    ),
}
OTHERS = {
    "in place": lambda: chain(NN.Flatten(), NN.Linear(36, 5), NN.ReLU(inplace=True), NN.Linear(5, CLASSES)),
    "normalised": lambda: chain(NN.Flatten(), NN.Linear(36, 5), NN.LayerNorm(5), NN.Linear(5, CLASSES)),
}


def weights_of(model):
    names = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, NN.Linear)]
    return PrunableNetwork(model, names)


@pytest.mark.parametrize("make", [*CHAINS.values(), *OTHERS.values()], ids=[*CHAINS, *OTHERS])
def test_chains_of_layers_have_the_gradients_of_one_backward_pass_a_sample(make, samples, monkeypatch):
    monkeypatch.setattr("prunebench.curvature.gradients.CHUNK_SAMPLES", 7)
    network = weights_of(make())
    positions = np.arange(SAMPLES)[::-1]
    rows = sample_gradients(network, cross_entropy, samples, positions)
    np.testing.assert_allclose(rows, plain_loop(network, samples, positions[:, None]), rtol=1e-4, atol=1e-6)


def test_outer_products_are_used_where_they_are_exact_and_nowhere_else():
    assert all(linear_gradients.applies(weights_of(make())) for make in CHAINS.values())
    assert not any(linear_gradients.applies(weights_of(make())) for make in OTHERS.values())


def test_outer_products_are_not_used_for_biases_repeated_or_hooked_layers():
    biased = CHAINS["with biases"]()
    assert not linear_gradients.applies(PrunableNetwork(biased, ("1.weight", "1.bias")))
    hooked = CHAINS["with biases"]()
    hooked[1].register_forward_hook(lambda _, inputs, output: 2.0 * output)
    assert not linear_gradients.applies(weights_of(hooked))
    layer = NN.Linear(36, 36)
    assert not linear_gradients.applies(
        PrunableNetwork(NN.Sequential(NN.Flatten(), layer, NN.Linear(36, 36), NN.Sequential(layer)), ("2.weight",))
    )


def test_outer_products_leave_no_hook_behind(samples):
    network = weights_of(CHAINS["with biases"]())
    sample_gradients(network, cross_entropy, samples, [0])
    assert not any(module._forward_hooks for module in network.model.modules())


@settings(max_examples=10, deadline=None)
@given(batch_size=st.integers(2, 8))
def test_mini_batch_rows_are_the_means_of_their_samples_gradients(batch_size):
    generator = torch.Generator().manual_seed(1)
    samples = TensorSamples(torch.randn((SAMPLES, *INPUTS), generator=generator), torch.arange(SAMPLES) % CLASSES)
    network = PrunableNetwork(convolutional(), ("0.weight", "5.weight"))
    rows = sample_gradients(network, cross_entropy, samples, np.arange(SAMPLES), batch_size=batch_size)
    count = SAMPLES // batch_size
    single = sample_gradients(network, cross_entropy, samples, np.arange(count * batch_size))
    np.testing.assert_allclose(rows, single.reshape(count, batch_size, -1).mean(axis=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_model_is_left_as_it_was(network, samples, batch_size):
    model = network.model.train()
    model[0].weight.requires_grad_(False)
    before = network.state()
    sample_gradients(network, cross_entropy, samples, np.arange(8), batch_size=batch_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_global_random_state_is_left_as_it_was(network, samples, batch_size):
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # the state under test
    sample_gradients(network, cross_entropy, samples, np.arange(8), batch_size=batch_size)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002  # the state under test


def test_a_parameter_that_the_loss_does_not_use_has_zero_gradient(samples):
    class Idle(torch.nn.Sequential):
        def __init__(self):
            super().__init__(torch.nn.Flatten(), torch.nn.Linear(36, CLASSES))
            self.idle = torch.nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self[1](self[0](x))

    network = PrunableNetwork(Idle(), ("1.weight", "idle"))
    for batch_size in (1, 2):
        rows = sample_gradients(network, cross_entropy, samples, np.arange(4), batch_size=batch_size)
        assert not rows[:, -2:].any()
        assert rows[:, :-2].any()


def test_a_network_that_cannot_be_vectorised_gives_the_same_rows_and_says_so(samples):
    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = convolutional()

        def forward(self, x):
            return self.inner(x) * (2.0 if float(x.sum()) > 0.0 else 1.0)

    network = PrunableNetwork(Branching(), ("inner.0.weight", "inner.5.weight"))
    with pytest.warns(RuntimeWarning, match="cannot be vectorised"):
        rows = sample_gradients(network, cross_entropy, samples, np.arange(6))
    np.testing.assert_allclose(rows, plain_loop(network, samples, np.arange(6)[:, None]), rtol=1e-4, atol=1e-6)


def test_samples_that_cannot_be_vectorised_where_others_could_are_told_once(samples, monkeypatch):
    class Tiring(torch.nn.Module):
        """Vectorises so often and no more."""

        def __init__(self):
            super().__init__()
            self.inner, self.left = convolutional(), 2

        def forward(self, x):
            if torch._C._functorch.is_functorch_wrapped_tensor(x):
                self.left -= 1
                if self.left < 0:
                    raise RuntimeError("enough")
            return self.inner(x)

    monkeypatch.setattr("prunebench.curvature.gradients.CHUNK_SAMPLES", 2)
    monkeypatch.setattr(gradient_ways, "_suggested", lambda *_: iter([gradient_ways.VECTORISED]))
    network = PrunableNetwork(Tiring(), ("inner.0.weight", "inner.5.weight"))
    with pytest.warns(RuntimeWarning, match="enough") as told:
        rows = sample_gradients(network, cross_entropy, samples, np.arange(8))
    assert len(told) == 1
    assert network.model.left < -1
    np.testing.assert_allclose(rows, plain_loop(network, samples, np.arange(8)[:, None]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_gradient_that_is_not_finite_names_the_layer_and_the_sample(network, samples, batch_size):
    samples.inputs[5] = float("inf")
    with pytest.raises(InvalidInput, match=r"layer '0\.weight' is NaN or infinite at sample [45]"):
        sample_gradients(network, cross_entropy, samples, np.arange(4, 8), batch_size=batch_size)


class RootOfSquares(torch.nn.Module):
    """|x|, whose slope at zero is NaN by plain autograd."""

    def forward(self, given):
        return torch.sqrt(given * given)


def test_a_gradient_that_is_nan_in_one_layer_alone_is_found():
    model = torch.nn.Sequential(
        torch.nn.Linear(60, 60, bias=False), RootOfSquares(), torch.nn.Linear(60, 2, bias=False)
    )
    inputs = torch.randn((12, 60), generator=torch.Generator().manual_seed(0))
    inputs[9] = 0.0
    samples = TensorSamples(inputs, torch.zeros(12, dtype=torch.int64))
    with pytest.raises(InvalidInput, match=r"layer '0\.weight' is NaN or infinite at sample 9"):
        sample_gradients(PrunableNetwork(model, ("0.weight", "2.weight")), cross_entropy, samples, np.arange(12))


def test_more_memory_than_allowed_is_refused_before_anything_is_computed(network, samples):
    def never(*_):
        raise AssertionError("progress was reported")

    with pytest.raises(InvalidInput, match="take fewer samples, mini-batches"):
        sample_gradients(network, cross_entropy, samples, np.arange(8), memory_limit=1000, progress=never)


def test_a_position_outside_the_samples_is_refused(network, samples):
    with pytest.raises(InvalidInput, match="position 20 is outside the 20 samples"):
        sample_gradients(network, cross_entropy, samples, [0, 20])


def test_fewer_samples_than_a_mini_batch_are_refused(network, samples):
    with pytest.raises(InvalidInput, match="batch_size is 5 but there are 3 samples"):
        sample_gradients(network, cross_entropy, samples, [0, 1, 2], batch_size=5)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_a_batch_size_that_is_no_positive_whole_number_is_refused(network, samples, batch_size):
    with pytest.raises(InvalidInput, match="batch_size"):
        sample_gradients(network, cross_entropy, samples, [0, 1], batch_size=batch_size)


def test_a_loss_that_is_not_one_number_a_sample_is_refused(network, samples):
    with pytest.raises(InvalidInput, match="one number a sample"):
        sample_gradients(network, lambda o, t: torch.nn.functional.cross_entropy(o, t), samples, [0, 1])


def test_progress_ends_with_all_rows(network, samples):
    seen = []
    sample_gradients(network, cross_entropy, samples, np.arange(9), batch_size=2, progress=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_estimate_counts_the_result_exactly(network, samples):
    assert gradient_memory(network, cross_entropy, samples, 1000).result == 1000 * network.total * 4


@pytest.mark.skipif(available_memory() is None, reason="the system has no /proc/meminfo")
@pytest.mark.parametrize("vectorised", [False, True])
def test_peak_memory_is_within_half_of_what_the_estimate_said(vectorised):
    script = """
        import numpy as np, torch
        from prunebench.curvature import gradient_ways, linear_gradients
        from prunebench.networks.classification import cross_entropy
        from prunebench.curvature.gradients import gradient_memory, sample_gradients
        from prunebench.networks.network import PrunableNetwork
        from prunebench.networks.samples import TensorSamples
        from prunebench.networks.training import dense_network

        if VECTORISED:
            linear_gradients.applies = lambda network: False

        def status(key):
            return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

        model = dense_network((784, 40, 20, 10), ("fc1", "fc2", "fc3"), bias=False)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.05, generator=generator)
        network = PrunableNetwork(model, ("fc1.weight", "fc2.weight", "fc3.weight"))
        samples = TensorSamples(torch.randn((1000, 784), generator=generator), torch.arange(1000) % 10)
        sample_gradients(network, cross_entropy, samples, [0, 1])  # torch loads parts of itself on the first call
        before = status("VmRSS")
        estimate = gradient_memory(network, cross_entropy, samples, 1000).total
        rows = sample_gradients(network, cross_entropy, samples, np.arange(1000))
        print((status("VmHWM") - before) / estimate)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script).replace("VECTORISED", str(vectorised))],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    ratio = float(done.stdout)
    assert 1 / 1.5 < ratio < 1.5
