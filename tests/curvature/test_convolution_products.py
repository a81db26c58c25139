"""Products of shifted inputs are those of unfolded windows, and rows that may have overflown are not called finite."""

import numpy as np
import pytest
import torch

from prunebench.curvature import convolution_products, linear_gradients
from prunebench.curvature.gradient_work import GradientWork
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples

NN = torch.nn
CONVOLUTIONS = {
    "usual": lambda: NN.Conv2d(3, 4, 3, padding=1),
    "with a stride": lambda: NN.Conv2d(3, 4, 3, stride=2, padding=1),
    "uneven in everything": lambda: NN.Conv2d(3, 4, (4, 2), stride=(3, 2), padding=(2, 0), dilation=(2, 3)),
    "of single places": lambda: NN.Conv2d(3, 4, 1, stride=(2, 1)),
    "of single places with zeros around": lambda: NN.Conv2d(3, 4, 1, padding=1),
    "with more outputs than places": lambda: NN.Conv2d(3, 200, 3, stride=2),
}


@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_products_are_autograds_gradient_of_each_sample(make):
    torch.manual_seed(0)
    module, given = make(), torch.randn(5, 3, 11, 13)
    outputs = module(given)
    slopes = torch.randn_like(outputs)
    # part of a longer row, as in the rows of a network
    rows = torch.full((5, module.weight.numel() + 7), 9.0)
    out = rows[:, 3:-4].view(5, *module.weight.shape)
    convolution_products.products(module, given, slopes, out)
    for sample in range(5):
        (true,) = torch.autograd.grad((outputs[sample] * slopes[sample]).sum(), module.weight, retain_graph=True)
        torch.testing.assert_close(out[sample], true, rtol=1e-4, atol=1e-4)
    assert (rows[:, :3] == 9.0).all()
    assert (rows[:, -4:] == 9.0).all()


@pytest.mark.parametrize("fill", [linear_gradients.fill, linear_gradients.fill_by_passes])
@pytest.mark.parametrize("size", [12, 200])  # below and above PRODUCT_ELEMENTS
@pytest.mark.parametrize(("scale", "known"), [(1.0, True), (1e20, False), (float("nan"), False)])
def test_rows_are_known_to_be_finite_only_where_no_product_can_overflow(fill, size, scale, known):
    torch.manual_seed(0)
    model = NN.Sequential(NN.Linear(size, size, bias=False), NN.Linear(size, 2, bias=False)).eval()
    samples = TensorSamples(torch.randn(3, size) * scale, torch.zeros(3, dtype=torch.int64))
    network = PrunableNetwork(model, ("0.weight", "1.weight"))
    work = GradientWork(network, lambda outputs, _: outputs.sum(dim=1) * scale, samples, torch.device("cpu"))
    rows = torch.zeros(3, network.total)
    (written,) = fill(work, np.arange(3), 3, rows)
    assert (written.rows, written.finite) == (3, known)
    assert bool(torch.isfinite(rows).all()) is known
