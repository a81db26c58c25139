# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Prune your own network
#
# Everything here is defined in the notebook: a small convolutional network with two inputs, its data, its training.
# prunebench has never seen it. One call prunes it; the rest shows what comes back and what to do with it.

# %%
# %matplotlib inline
import copy
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import prunebench
from prunebench.core.errors import InvalidInput

SIZES = {
    "small": {"epochs": 12, "densities": (0.3,)},
    "default": {"epochs": 30, "densities": (0.5, 0.3, 0.2, 0.1, 0.05)},
}
size = SIZES[os.environ.get("PRUNEBENCH_NOTEBOOK_SIZE", "default")]

plt.rcParams["figure.dpi"] = 100

# %% [markdown]
# ## The network and its data
#
# A pair of digits goes in, whether the left one is the larger comes out. The two images are keyword arguments, and a
# module that is used twice, once for each image, does most of the work.


# %%
class Pairs(Dataset):
    """Pairs of digits; the target is 1 where the left digit is the larger."""

    def __init__(self, images, labels, count, seed):
        drawn = torch.randint(len(images), (count, 2), generator=torch.Generator().manual_seed(seed))
        self.left, self.right = images[drawn[:, 0]], images[drawn[:, 1]]
        self.larger = (labels[drawn[:, 0]] > labels[drawn[:, 1]]).long()

    def __len__(self):
        return len(self.larger)

    def __getitem__(self, i):
        return {"left": self.left[i], "right": self.right[i]}, self.larger[i]


class Comparer(nn.Module):
    def __init__(self):
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 24),
        )
        self.judge = nn.Sequential(nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 2))

    def forward(self, left, right):
        return self.judge(torch.cat([self.see(left), self.see(right)], dim=1))


digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16.0
labels = torch.tensor(digits.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train = Pairs(images[order[:1300]], labels[order[:1300]], 4000, seed=1)
test = Pairs(images[order[1300:]], labels[order[1300:]], 2000, seed=2)

torch.manual_seed(0)
model = Comparer()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(size["epochs"]):
    for inputs, target in DataLoader(train, batch_size=100, shuffle=True):
        optimizer.zero_grad()
        functional.cross_entropy(model(**inputs), target).backward()
        optimizer.step()
model.eval()


def accuracy(network):
    with torch.no_grad():
        return (network(test.left, test.right).argmax(dim=1) == test.larger).float().mean().item()


dense = accuracy(model)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, accuracy {dense:.3f}")
assert dense > 0.85

# %% [markdown]
# ## One call
#
# `data` is the `Dataset`, the loss has a name, and `validation` judges. Nothing else has to be said. The recipe is
# chosen by what kind of network this is; biases and batch norms are left alone. `effort="quick"` takes seconds here;
# without it, more is tried.

# %%
first = prunebench.prune(
    model, train, loss="cross_entropy", density=0.3, validation=test, effort="quick", progress=False
)
display(first)
assert first.kept == round(0.3 * first.total)
assert accuracy(model) == dense, "the model itself is not changed"

# %% [markdown]
# ## How far can it go?
#
# The same call for several densities, beside the largest weights (`recipe="magnitude"`), which is what most pruning
# tools do by default.

# %%
curves = {}
for recipe in ("auto", "magnitude"):
    for density in size["densities"]:
        found = prunebench.prune(
            model, train, loss="cross_entropy", density=density, validation=test, recipe=recipe,
            effort="quick", progress=False,
        )  # fmt: skip
        curves.setdefault(recipe, []).append(found.measures["accuracy"][1])

figure, axes = plt.subplots(figsize=(6.4, 3.6))
for recipe, reached in curves.items():
    axes.plot(size["densities"], reached, "o-", label=recipe)
axes.axhline(dense, color="0.6", linestyle="--", label="dense")
axes.set(xscale="log", xlabel="density (part of the weights that is kept)", ylabel="accuracy on held-out pairs")
axes.set_xticks(size["densities"], [f"{density:g}" for density in size["densities"]])
axes.minorticks_off()
axes.legend(frameon=False)
plt.show()
assert all(ours >= theirs - 0.01 for ours, theirs in zip(curves["auto"], curves["magnitude"], strict=True))

# %% [markdown]
# ## Where weights are kept
#
# `masks` are bool tensors by parameter name, true where a weight is kept. In the convolution each square is one
# weight of a filter; in the linear layers a row is a neuron.

# %%
shown = {name: mask for name, mask in first.masks.items() if mask.ndim == 2}
figure, panels = plt.subplots(len(shown), 1, figsize=(7, 1.2 + 1.3 * len(shown)), squeeze=False)
for panel, (name, mask) in zip(panels[:, 0], shown.items(), strict=True):
    panel.imshow(mask, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    panel.set_title(f"{name}: {int(mask.sum())} of {mask.numel()} kept", fontsize=9, loc="left")
    panel.set(xticks=[], yticks=[])
figure.tight_layout()
plt.show()

# %% [markdown]
# ## What to do with it
#
# `apply` puts the pruned weights into a model; `as_torch_prune` puts them in as `torch.nn.utils.prune` does, so that
# training goes on with the masks in place. `save` and `load` keep them.

# %%
small = first.apply(copy.deepcopy(model))
print(f"accuracy of the pruned network: {accuracy(small):.3f}")
assert abs(accuracy(small) - first.measures["accuracy"][1]) < 1e-6

masked = first.as_torch_prune(copy.deepcopy(model))
optimizer = torch.optim.Adam(masked.parameters(), lr=1e-3)
for inputs, target in DataLoader(train, batch_size=100, shuffle=True, generator=torch.Generator().manual_seed(0)):
    optimizer.zero_grad()
    functional.cross_entropy(masked(**inputs), target).backward()
    optimizer.step()
print(f"after one more epoch of training with the masks: {accuracy(masked.eval()):.3f}")
zeros = sum(int((masked.get_parameter(f"{name}_orig") * mask == 0).sum()) for name, mask in first.masks.items())
assert zeros >= first.total - first.kept

with tempfile.TemporaryDirectory() as folder:
    first.save(Path(folder) / "pruned")
    again = prunebench.Pruned.load(Path(folder) / "pruned")
assert all(torch.equal(again.masks[name], mask) for name, mask in first.masks.items())

# %% [markdown]
# ## What does not fit is said before any work

# %%
mistakes = {
    "a pattern that matches nothing": {"prunable": "layers.*.weight"},
    "a loss that is not there": {"loss": "cross_entrop"},
    "too little is kept": {"density": 1e-6},
}
for what, changed in mistakes.items():
    try:
        prunebench.prune(model, train, **{"loss": "cross_entropy", "density": 0.3, "progress": False, **changed})
    except InvalidInput as error:
        print(f"{what}:\n  {error}")
    else:
        raise AssertionError(what)
