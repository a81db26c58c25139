"""Warnings: those of torch and transformers are left out, ours are shown, and nothing is left behind."""

import warnings

import pytest
import torch

import prunebench
from prunebench.quiet import quiet


def warn_as(module, kind):
    exec("import warnings\nwarnings.warn('a warning', kind)", {"__name__": module, "kind": kind})


@pytest.mark.parametrize(
    ("module", "kind", "shown"),
    [
        ("torch.nn.modules.transformer", UserWarning, False),
        ("transformers.modeling_utils", FutureWarning, False),
        ("prunebench.curvature.gradient_ways", UserWarning, False),
        ("prunebench.curvature.gradient_ways", RuntimeWarning, True),
        ("torchlike", UserWarning, True),
        ("__main__", UserWarning, True),
    ],
)
def test_warnings_of_torch_and_transformers_are_left_out_and_others_shown(module, kind, shown):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with quiet():
            warn_as(module, kind)
        assert warnings.filters == before
    assert len(seen) == shown


class Ragged(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, place):
        return torch.randn(2, 6 + place % 4, generator=torch.Generator().manual_seed(place)), place % 3


class Short(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.head = torch.nn.Conv1d(2, 4, 3), torch.nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head(torch.relu(self.convolution(inputs)).mean(-1))


class WithLoss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x, labels):
        outputs = self.layer(x)
        return {"loss": torch.nn.functional.cross_entropy(outputs, labels) + outputs.square().mean()}


@pytest.mark.parametrize(
    ("model", "data", "loss"),
    [
        (Short(), Ragged(), "cross_entropy"),
        (WithLoss(), {"x": torch.randn(12, 4), "labels": torch.arange(12) % 3}, None),
    ],
    ids=["different shapes", "the model's own loss"],
)
def test_samples_that_go_one_at_a_time_are_pruned_without_a_warning(model, data, loss):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = prunebench.prune(
            model, data, loss=loss, density=0.5, recipe=None, solver="obd", samples=6, progress=False
        )
    assert done.kept == done.total // 2
