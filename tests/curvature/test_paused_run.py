"""A pass that stops before chosen layers and goes on once they are pruned."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from prunebench.curvature.layer_walk import LayerWalk
from prunebench.curvature.paused_run import OutOfOrder, PausedRun
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples


def model():
    made = torch.nn.Sequential(*(torch.nn.Linear(3, 3, bias=False) for _ in range(3)))
    with torch.no_grad():
        for number, layer in enumerate(made):
            layer.weight.copy_(torch.eye(3) * (number + 2))
    return made


def test_a_run_stops_before_a_layer_and_sees_what_is_written_meanwhile():
    made, given = model(), torch.ones(2, 3)
    run = PausedRun(lambda: made(given), {made[0]: 0, made[2]: 1})
    assert torch.equal(run.until(0), given)
    assert torch.equal(run.until(0), given)
    with torch.no_grad():
        made[0].weight.mul_(10.0)
    assert torch.equal(run.until(1), 60.0 * given)
    assert torch.equal(made(given), 240.0 * given)  # others may run it while the run stands still
    with torch.no_grad():
        made[2].weight.zero_()
    assert not run.result().any()
    assert not any(layer._forward_pre_hooks for layer in made)


def test_a_run_that_is_given_up_leaves_no_thread_and_no_hook():
    made, before = model(), threading.active_count()
    run = PausedRun(lambda: made(torch.ones(1, 3)), {made[1]: 0})
    run.until(0)
    run.close()
    run._thread.join(10.0)
    assert threading.active_count() == before
    assert not made[1]._forward_pre_hooks
    assert PausedRun(lambda: made(torch.ones(1, 3)), {}).until(0) is None


def test_an_error_in_a_run_is_told_to_who_waits_and_a_wrong_order_as_well():
    made = model()
    run = PausedRun(lambda: made(torch.ones(1, 4)), {made[0]: 0, made[1]: 1})
    run.until(0)
    with pytest.raises(RuntimeError, match="shapes"):
        run.until(1)
    with pytest.raises(OutOfOrder):
        PausedRun(lambda: made(torch.ones(1, 3)), {made[0]: 1, made[1]: 0}).until(0)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (torch.nn.Linear(4, 4) for _ in range(3))
        self.runs = 0

    def forward(self, hidden):
        self.runs += 1
        return hidden + self.third(torch.relu(self.first(hidden)) * self.second(hidden))


@pytest.mark.parametrize("dense", [False, True])
def test_a_block_is_run_once_for_all_its_layers(dense):
    torch.manual_seed(0)
    held = torch.nn.Sequential(*(Block() for _ in range(3))).eval()
    names = [name for name, _ in held.named_parameters() if name.endswith("weight")]
    network = PrunableNetwork(held, names)
    data = TensorSamples(torch.randn(6, 4), torch.zeros(6))
    walk = LayerWalk(network, data, np.arange(6), dense=dense)
    assert walk.blocks == 3
    before, weights = [block.runs for block in held], network.weights()
    for group in range(len(walk.groups)):
        walk.inputs(group, weights)
        for layer in walk.groups[group]:
            part = network.layers[layer]
            weights[part.start : part.stop : 2] = 0.0
    # the first pass finds what enters the chain and stops before its last block
    assert [block.runs - runs for block, runs in zip(held, before, strict=True)] == [2, 2, 1]


def test_an_interpreter_ends_although_a_run_stands_still():
    script = """
import torch
from prunebench.curvature.paused_run import PausedRun

class Holder:
    def __init__(self):
        layer = torch.nn.Linear(3, 3)
        self.run = PausedRun(lambda: layer(torch.ones(1, 3)), {layer: 0})
        self.run.until(0)

    def __del__(self):
        self.run.close()

held = Holder()
torch.held = held  # lives until modules are torn down
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
