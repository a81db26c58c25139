"""How many threads a run's arithmetic gets."""

import numpy as np
import pytest
import torch

from prunebench import threads
from prunebench.core.block import BlockProblem
from prunebench.core.quadratic import QuadraticForm
from prunebench.networks.samples import TensorSamples


@pytest.fixture
def two_threads(monkeypatch):
    """A process of two threads whose user has not said how many."""
    monkeypatch.delenv(threads.SAID_BY_USER, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threads._controller().limit(limits=2, user_api="blas"):
        yield
    torch.set_num_threads(before)


def counts():
    return torch.get_num_threads(), threads._blas_threads(threads._controller())


def a_block(size):
    form = QuadraticForm(factor=np.ones((2, size), dtype=np.float32), ridge=1.0)
    return BlockProblem(form, np.ones(size), size // 2, "select")


def test_a_small_network_has_one_thread_inside_and_as_many_as_before_after_an_error(two_threads):
    model, samples = torch.nn.Linear(8, 4), TensorSamples(torch.randn(3, 8), torch.zeros(3))
    assert threads.few(model, samples)
    inside = []

    def fails():
        with threads.for_network(True):
            inside.append(counts())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert inside == [(1, 1)]
    assert counts() == (2, 2)


def test_a_network_of_much_work_keeps_its_threads(two_threads, monkeypatch):
    # 8 inputs, 4 outputs, 5 places: 160 multiply-adds
    model, samples = torch.nn.Linear(8, 4), TensorSamples(torch.randn(3, 5, 8), torch.zeros(3))
    monkeypatch.setattr(threads, "PASS_PAYS", 161)
    assert threads.few(model, samples)
    monkeypatch.setattr(threads, "PASS_PAYS", 160)
    assert not threads.few(model, samples)


def test_who_says_how_many_threads_gets_them(two_threads, monkeypatch):
    monkeypatch.setenv(threads.SAID_BY_USER, "2")
    assert not threads.few(torch.nn.Linear(1, 1), TensorSamples(torch.ones(1, 1), torch.ones(1)))
    with threads.for_block(a_block(4), None):
        assert counts() == (2, 2)


def test_a_large_block_has_all_threads_also_of_a_small_network(two_threads, monkeypatch):
    monkeypatch.setattr(threads, "BLOCK_PAYS", 8)
    with threads.for_network(True):
        with threads.for_block(a_block(3), None):
            assert counts()[1] == 1
        with threads.for_block(a_block(4), None):
            assert counts()[1] == 2
        with threads.for_block(a_block(4), 1):
            assert counts()[1] == 1
        assert counts() == (1, 1)
