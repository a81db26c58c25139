"""What of a user's own network is refused: in one line that says what to change, before any work."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import prunebench
from prunebench.core.errors import InvalidInput

X, Y = torch.linspace(-1.0, 1.0, 120).reshape(20, 6), torch.arange(20) % 3


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


class TrainingOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        if not self.training:
            raise RuntimeError("no statistics yet")
        return self.layer(x)


def broken():
    model = mlp()
    model[0].weight.data[0, 0] = torch.nan
    return model


def used_up():
    batches = iter([(X, Y)])
    list(batches)
    return batches


def total(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="sum")


def not_finite(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none") + torch.nan


def plain_number(outputs, targets):
    return 3.0


CE = {"loss": "cross_entropy"}
CASES = {
    "no parameter matches": (mlp, (X, Y), CE | {"prunable": "fc*"}, "prunable=fc\\* matches none"),
    "no excluded parameter matches": (mlp, (X, Y), CE | {"exclude": "fc*"}, "exclude=fc\\* matches none"),
    "all are excluded": (mlp, (X, Y), CE | {"exclude": "*"}, "leaves nothing to prune"),
    "nothing multiplies": (lambda: nn.LayerNorm(6), (X, Y), CE, "multiplies by no matrix"),
    "no parameters": (nn.ReLU, (X, Y), CE, "has no parameters"),
    "parameters without values": (lambda: nn.LazyLinear(3), (X, Y), CE, "has no values yet"),
    "no model": (lambda: 3, (X, Y), CE, "give a torch.nn.Module with its data"),
    "no data": (mlp, None, CE, "data: it is missing"),
    "nothing is kept": (mlp, (X, Y), CE | {"density": 1e-9}, "keeps none of the network's 45 weights"),
    "more is kept than there is": (mlp, (X, Y), CE | {"density": None, "keep": 46}, "from 1 to the network's 45"),
    "density and keep": (mlp, (X, Y), CE | {"keep": 3}, "say one of them"),
    "no density": (mlp, (X, Y), CE | {"density": None}, "density is missing"),
    "no such quota": (mlp, (X, Y), CE | {"quota": "5:4"}, "is no pattern"),
    "a loss that is NaN": (mlp, (X, Y), {"loss": not_finite}, "loss not_finite of the first 2 samples is \\[nan"),
    "weights that are NaN": (broken, (X, Y), CE, "look for weights or data that are NaN"),
    "a loss that is a sum": (mlp, (X, Y), {"loss": total}, "loss_is_mean=True"),
    "a loss that is no tensor": (mlp, (X, Y), {"loss": plain_number}, "gives a float"),
    "a loss of another shape": (mlp, (X, Y), {"loss": lambda o, t: o}, "one value a sample"),
    "an unknown loss": (mlp, (X, Y), {"loss": "crossentropy"}, "did you mean 'cross_entropy'"),
    "a loss that is none": (mlp, (X, Y), {"loss": 3}, "loss is 3; give one of cross_entropy"),
    "no loss among the outputs": (mlp, X, {}, "returns a Tensor of shape \\(1, 3\\) and no loss"),
    "no samples": (mlp, (X[:0], Y[:0]), CE, "data has no samples"),
    "a data set without samples": (mlp, TensorDataset(X[:0], Y[:0]), CE, "data has no samples"),
    "no batches": (mlp, [], CE, "it gives no batch"),
    "a generator that was gone through": (mlp, used_up, CE, "it gives no batch"),
    "columns of different lengths": (mlp, {"x": X, "y": Y[:5]}, CE, "different lengths: x 20, y 5"),
    "fewer targets than inputs": (mlp, (X, Y[:5]), CE, "\\(20, 6\\), \\(5,\\)"),
    "data of no known form": (mlp, 3, CE, "a int is no data"),
    "targets of another shape": (mlp, (X, torch.zeros(20, 4)), {"loss": "mse"}, "targets \\(2, 4\\); give targets of"),
    "targets of another kind": (mlp, (X, torch.zeros(20, 4)), CE, "targets \\(2, 4\\) of torch.float32"),
    "labels beyond the classes": (mlp, (X, Y + 1), CE, "targets run from 1 to 3.*3 classes, 0 to 2"),
    "targets are missing": (mlp, X, CE, "targets are missing: a batch is a Tensor"),
    "labels are missing": (mlp, {"x": X}, CE, "targets are missing: a batch is columns x"),
    "no column is an argument": (mlp, {"a": X, "b": X, "y": Y}, CE, "none is an argument of the model"),
    "another type of numbers": (mlp, (X.double(), Y), CE, "numbers of type float32 and the data float64"),
    "inputs of another shape": (mlp, (X[:, :5], Y), CE, "not run in evaluation mode on inputs of shape \\(2, 5\\)"),
    "training mode alone": (TrainingOnly, (X, Y), CE, "RuntimeError: no statistics yet"),
    "a norm over the batch": (
        lambda: nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3)),
        (X, Y),
        CE,
        "the BatchNorm1d '0' keeps no running statistics",
    ),
    "measures that are no numbers": (mlp, (X, Y), CE | {"evaluate": lambda model: 3}, "it must give numbers by name"),
    "measures that raise": (mlp, (X, Y), CE | {"evaluate": lambda model: {}["a"]}, "evaluate raised KeyError"),
    "validation of another form": (mlp, (X, Y), CE | {"validation": X}, "validation: targets are missing"),
    "validation of another shape": (mlp, (X, Y), CE | {"validation": (X[:, :5], Y)}, "validation: RuntimeError: mat1"),
    "no such device": (mlp, (X, Y), CE | {"device": "cpuu"}, "cpuu"),
    "resume without a folder": (mlp, (X, Y), CE | {"resume": True}, "resume=True needs out=FOLDER"),
    "no such solver": (mlp, (X, Y), CE | {"solver": "swapp"}, "did you mean 'swap'"),
    "a solver as an object": (mlp, (X, Y), CE | {"solver": nn.Linear}, "give the name of one"),
    "no such option": (mlp, (X, Y), CE | {"sample": 3}, "did you mean 'samples'"),
    "a recovery that is a text": (mlp, (X, Y), CE | {"recover": "settle"}, "give a list of recoveries"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_go_together_is_refused_in_one_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, data, arguments, why = CASES[case]
    data = data() if callable(data) and not isinstance(data, TensorDataset) else data
    way = {"density": 0.5, "coordinator": "one-shot", "solver": "magnitude", "progress": False}
    with pytest.raises(InvalidInput, match=why) as refusal:
        prunebench.prune(model(), data, **(way | arguments))
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())
