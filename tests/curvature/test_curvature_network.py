import numpy as np
import pytest
import torch

from prunebench.core.errors import InvalidInput, MissingData, UnknownName
from prunebench.networks.checkpoints import write_state
from prunebench.networks.network import PrunableNetwork, evaluation_mode


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model


def test_weights_are_the_parameters_flattened_in_the_order_of_the_names(model):
    network = PrunableNetwork(model, ("2.weight", "0.weight"))
    expected = np.concatenate([model[2].weight.detach().numpy().ravel(), model[0].weight.detach().numpy().ravel()])
    assert network.weights().dtype == np.float64
    np.testing.assert_array_equal(network.weights(), expected)


def test_layers_cover_the_weight_vector_without_a_hole(model):
    network = PrunableNetwork(model, ("0.weight", "2.weight"))
    assert [(layer.start, layer.stop, layer.shape) for layer in network.layers] == [(0, 12, (3, 4)), (12, 18, (2, 3))]
    assert network.total == 18


def test_assigned_weights_are_read_back_and_change_the_model_in_place(model):
    network = PrunableNetwork(model, ("0.weight", "2.weight"))
    held = model[0].weight
    network.assign(np.arange(18.0))
    np.testing.assert_array_equal(network.weights(), np.arange(18.0))
    assert model[0].weight is held
    assert held.requires_grad


def test_assigning_the_wrong_number_of_weights_names_both_shapes(model):
    with pytest.raises(InvalidInput, match=r"\(17,\).*\(18,\)"):
        PrunableNetwork(model, ("0.weight", "2.weight")).assign(np.zeros(17))


def test_assigning_nan_names_the_layer_and_writes_nothing(model):
    network = PrunableNetwork(model, ("0.weight", "2.weight"))
    before = network.weights()
    weights = np.zeros(18)
    weights[15] = np.nan
    with pytest.raises(InvalidInput, match=r"2\.weight"):
        network.assign(weights)
    np.testing.assert_array_equal(network.weights(), before)


def test_nan_in_the_model_names_the_layer(model):
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(InvalidInput, match=r"layer '2\.weight' holds 1 weights"):
        PrunableNetwork(model, ("0.weight", "2.weight")).weights()


def test_layer_names_say_where_each_weight_belongs(model):
    network = PrunableNetwork(model, ("0.weight", "2.weight"))
    assert network.layer_names([0, 11, 12, 17]).tolist() == ["0.weight", "0.weight", "2.weight", "2.weight"]


def test_layer_names_outside_the_network_are_refused(model):
    with pytest.raises(IndexError, match="18 prunable weights"):
        PrunableNetwork(model, ("0.weight", "2.weight")).layer_names([18])


def test_an_unknown_parameter_gets_the_nearest_match(model):
    with pytest.raises(UnknownName, match=r"did you mean '0\.weight'"):
        PrunableNetwork(model, ("0.wieght",))


def test_a_parameter_named_twice_is_refused(model):
    with pytest.raises(InvalidInput, match="named twice"):
        PrunableNetwork(model, ("0.weight", "0.weight"))


def test_no_names_are_refused(model):
    with pytest.raises(InvalidInput, match="at least one"):
        PrunableNetwork(model, ())


def test_a_tied_parameter_is_pruned_once_under_its_first_name():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    for names in (("a.weight",), ("b.weight",), ("b.weight", "a.weight")):
        network = PrunableNetwork(model, names)
        assert network.names == ("a.weight",)
        assert network.total == 9
        assert network.tied == {"a.weight": ("b.weight",)}


def test_parameters_that_share_memory_without_being_one_are_refused():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
    model["b"].weight.data = model["a"].weight.data
    with pytest.raises(InvalidInput, match=r"'a\.weight' has its memory in common with 'b\.weight'"):
        PrunableNetwork(model, ("a.weight",))


def test_a_saved_state_is_loaded_back_biases_included(model, tmp_path):
    network = PrunableNetwork(model, ("0.weight",))
    network.save(tmp_path / "weights.safetensors")
    before = network.state()
    network.assign(np.zeros(12))
    with torch.no_grad():
        model[0].bias.zero_()
    network.load(tmp_path / "weights.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_saving_leaves_no_temporary_file(model, tmp_path):
    PrunableNetwork(model, ("0.weight",)).save(tmp_path / "weights.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_loading_another_shape_names_the_tensor_and_both_shapes(model, tmp_path):
    state = model.state_dict() | {"0.weight": torch.zeros(3, 5)}
    write_state(tmp_path / "other.safetensors", state)
    with pytest.raises(InvalidInput, match=r"'0\.weight' has shape \(3, 5\); the network needs \(3, 4\)"):
        PrunableNetwork(model, ("0.weight",)).load(tmp_path / "other.safetensors")


def test_loading_a_state_that_lacks_a_tensor_names_it(model):
    with pytest.raises(InvalidInput, match=r"lacks 2\.bias \(2,\)"):
        PrunableNetwork(model, ("0.weight",)).load_state({k: v for k, v in model.state_dict().items() if k != "2.bias"})


def test_loading_a_tensor_the_network_does_not_have_names_it(model):
    with pytest.raises(InvalidInput, match="holds extra, which"):
        PrunableNetwork(model, ("0.weight",)).load_state(model.state_dict() | {"extra": torch.zeros(1)})


def test_a_truncated_weights_file_is_an_error_that_names_it(model, tmp_path):
    file = tmp_path / "weights.safetensors"
    PrunableNetwork(model, ("0.weight",)).save(file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InvalidInput, match=r"weights\.safetensors.*truncated"):
        PrunableNetwork(model, ("0.weight",)).load(file)


def test_a_missing_weights_file_is_missing_data(model, tmp_path):
    with pytest.raises(MissingData, match="does not exist"):
        PrunableNetwork(model, ("0.weight",)).load(tmp_path / "none.safetensors")


def test_evaluation_mode_restores_every_training_flag_also_after_an_error(model):
    model.train()
    model[1].eval()
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False, True]
    with pytest.raises(RuntimeError), evaluation_mode(model):
        model(torch.zeros(1, 99))
    assert [module.training for module in model.modules()] == [True, True, False, True]
