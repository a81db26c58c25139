import numpy as np
import pytest
import torch

from prunebench.core.errors import InvalidInput, UnknownName
from prunebench.curvature.activations import layer_input_form, layer_inputs
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples

SAMPLES = 30


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(0)
    nn = torch.nn
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model.train()


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(1)
    return TensorSamples(torch.randn((SAMPLES, 5), generator=generator), torch.zeros(SAMPLES))


def inputs_of_last(model, samples, positions):
    with torch.no_grad():
        return torch.relu(model[0](samples.inputs[positions])).double().numpy()


def test_the_gram_is_that_of_the_layers_inputs(model, samples, monkeypatch):
    monkeypatch.setattr("prunebench.curvature.activations.CHUNK_SAMPLES", 7)
    positions = np.arange(3, SAMPLES)
    held = layer_inputs(model, "3", samples, positions)
    inputs = inputs_of_last(model, samples, positions)
    assert held.count == len(positions)
    np.testing.assert_allclose(held.gram, inputs.T @ inputs / len(positions), rtol=1e-6)


def test_the_form_is_half_the_mean_squared_change_of_the_rows_output_plus_ridge(model, samples):
    positions = np.arange(SAMPLES)
    form = layer_input_form(model, "3", samples, positions, row=2, ridge=0.5)
    inputs = inputs_of_last(model, samples, positions)
    dense = model[3].weight.detach().double().numpy()[2]
    move = np.array([1.0, -2.0, 0.5, 3.0])
    ridge = 0.5 * (inputs**2).mean(axis=0).mean()
    expected = 0.5 * ((inputs @ move) ** 2).mean() + 0.5 * ridge * move @ move
    assert form.value(dense + move) == pytest.approx(expected, rel=1e-6)
    assert form.value(dense) == 0.0


def test_all_rows_share_one_gram_and_stand_at_their_own_weights(model, samples):
    forms = list(layer_inputs(model, "3", samples, np.arange(SAMPLES)).forms(ridge=0.1))
    np.testing.assert_array_equal([form.centre for form in forms], model[3].weight.detach().double().numpy())
    assert all(np.shares_memory(form.hessian, forms[0].hessian) for form in forms)


def test_a_shared_form_equals_the_form_of_its_row(model, samples):
    held = layer_inputs(model, "3", samples, np.arange(SAMPLES))
    weights = np.array([0.3, 0.0, -1.0, 2.0])
    for row, form in enumerate(held.forms(ridge=0.1)):
        assert form.value(weights) == held.form(row, 0.1).value(weights)


def test_positions_in_a_sequence_count_as_inputs(samples):
    model = torch.nn.Sequential(torch.nn.Unflatten(1, (5, 1)), torch.nn.Linear(1, 2))
    held = layer_inputs(model, "1", samples, np.arange(SAMPLES))
    assert held.count == SAMPLES * 5
    assert held.gram[0, 0] == pytest.approx(float((samples.inputs.double() ** 2).mean()), rel=1e-6)


def test_the_model_and_the_global_random_state_are_left_as_they_were(model, samples):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    layer_inputs(PrunableNetwork(model, ("3.weight",)), "3.weight", samples, np.arange(SAMPLES))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not model[3]._forward_pre_hooks
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_layer_that_is_not_linear_is_refused(model, samples):
    message = r"'1' is a ReLU; layer-input forms are for torch\.nn\.Linear and torch\.nn\.Conv2d only"
    with pytest.raises(InvalidInput, match=message):
        layer_inputs(model, "1", samples, [0])


def test_an_unknown_layer_gets_the_nearest_match(samples):
    model = torch.nn.ModuleDict({"fc1": torch.nn.Linear(5, 4)})
    with pytest.raises(UnknownName, match="did you mean 'fc1'"):
        layer_inputs(model, "fcl", samples, [0])


def test_a_row_that_is_not_there_is_refused(model, samples):
    with pytest.raises(InvalidInput, match="3 output rows; there is no row 3"):
        layer_input_form(model, "3", samples, [0], row=3)


def test_inputs_that_are_nan_name_the_layer(model, samples):
    samples.inputs[0] = float("nan")
    with pytest.raises(InvalidInput, match="inputs of layer '3' hold NaN"):
        layer_inputs(model, "3", samples, np.arange(SAMPLES))


def test_a_layer_that_gets_zeros_only_is_refused(model, samples):
    samples.inputs.zero_()
    with pytest.raises(InvalidInput, match="zeros only"):
        layer_input_form(model, "0", samples, np.arange(SAMPLES))
