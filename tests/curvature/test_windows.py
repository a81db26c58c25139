"""Windows of token sequences: stretches of their samples, the same however they are batched."""

import numpy as np
import pytest
import torch

from prunebench.core.errors import InvalidInput
from prunebench.curvature.windows import Windows
from prunebench.data.language_samples import IGNORED, TokenSamples
from prunebench.networks.samples import Parts, TensorSamples


def test_a_window_is_a_stretch_of_its_sample_however_samples_are_batched():
    samples = TokenSamples([np.arange(100 * row, 100 * row + 30) for row in range(8)], batch_size=4)
    windows = Windows(samples, 6, np.random.default_rng(0))
    ids, labels = windows.batch(np.arange(8))
    assert torch.equal(ids, labels)
    assert torch.equal(ids - ids[:, :1], torch.arange(6).expand(8, 6))
    assert torch.equal(ids[:, 0] // 100, torch.arange(8))
    assert len(set((ids[:, 0] % 100).tolist())) > 2
    assert torch.equal(windows.batch(np.array([5, 2]))[0], ids[[5, 2]])
    assert (len(windows), windows.batch_size, windows.row_weight) == (8, 4, 5.0)


def test_a_window_of_a_short_sample_is_all_of_it_and_its_padding():
    samples = TokenSamples([np.arange(1, 4), np.arange(10, 30)])
    ids, labels = Windows(samples, 8, np.random.default_rng(0)).batch(np.array([0, 1]))
    assert labels[0].tolist() == [1, 2, 3] + [IGNORED] * 5
    assert ids.shape == (2, 8)
    assert (labels[1] != IGNORED).all()


def test_windows_of_what_is_no_row_of_tokens_are_refused():
    windows = Windows(TensorSamples(torch.zeros(4, 9), torch.zeros(4)), 3, np.random.default_rng(0))
    with pytest.raises(InvalidInput, match="rows of tokens"):
        windows.batch(np.arange(2))


class Padded:
    """Tokens with a mask of attention beside them, padded to the left."""

    def __len__(self):
        return 2

    def batch(self, positions):
        ids = torch.tensor([[0, 0, 5, 6, 7, 8], [11, 12, 13, 14, 15, 16]])[torch.from_numpy(positions)]
        inputs = Parts.of(({"input_ids": ids, "attention_mask": (ids > 0).long(), "use_cache": False},))
        return inputs, Parts.of({"labels": ids.where(ids > 0, torch.tensor(IGNORED)), "counted": ids > 0})

    @staticmethod
    def counted(targets):
        return targets.value["counted"]


def test_windows_of_several_tensors_cut_all_of_them_within_what_is_no_padding():
    inputs, targets = Windows(Padded(), 3, np.random.default_rng(0)).batch(np.arange(2))
    held = inputs.value[0]
    assert held["use_cache"] is False
    assert torch.equal(held["input_ids"], targets.value["labels"])
    assert torch.equal(held["input_ids"] - held["input_ids"][:, :1], torch.arange(3).expand(2, 3))
    assert bool(held["attention_mask"].all())
    assert bool(targets.value["counted"].all())
