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
# # 08 · Watch a network shrink
#
# A mask of weights leaves a network as large as it was. Here whole channels go: the network really gets smaller, its
# widths can be seen, and it runs faster. The network, a small residual one, is defined and trained in the notebook.

# %%
# %matplotlib inline
import os
import statistics
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import prunebench
from prunebench.runs.structured import cut_groups

SIZES = {"small": {"epochs": 3, "parts": (0.5,)}, "default": {"epochs": 25, "parts": (0.8, 0.65, 0.5, 0.35, 0.2)}}
size = SIZES[os.environ.get("PRUNEBENCH_NOTEBOOK_SIZE", "default")]

plt.rcParams["figure.dpi"] = 100

# %% [markdown]
# ## The network
#
# Two residual blocks on digits of 8 by 8 pixels. Inside of a block there are 16 channels that nothing else reads; the
# 8 channels between the blocks are added to by both.


# %%
class Block(nn.Module):
    """Two convolutions, added to what comes in."""

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.second, self.norm2 = nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        """(s, 8, h, w) -> (s, 8, h, w)."""
        inner = torch.relu(self.norm1(self.first(x)))
        return torch.relu(x + self.norm2(self.second(inner)))


torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), Block(), Block(), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(),
    nn.Linear(32, 10),
)  # fmt: skip

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
labels = torch.tensor(digits.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
train, test = order[:1300], order[1300:]

optimiser = torch.optim.Adam(model.parameters(), 2e-3)
model.train()
for _ in range(size["epochs"]):
    for batch in train.split(50):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimiser.step()
model.eval()


# %%
def accuracy(network):
    """The part of the test digits that is recognised."""
    with torch.no_grad():
        return float((network(images[test]).argmax(1) == labels[test]).float().mean())


dense = accuracy(model)
assert dense > 0.8
f"accuracy {dense:.3f}"

# %% [markdown]
# ## One call
#
# `structure` says what may go; the budget is a part of the multiplications. The result is a smaller module.

# %%
data = (images[train], labels[train])
small = prunebench.prune(
    model, data, loss="cross_entropy", validation=(images[test], labels[test]),
    structure=["channels", "neurons"], flops=0.5, progress=False,
)  # fmt: skip
print(small)
before, after = small.costs["macs"]
assert after <= 0.5 * before, "the budget is never exceeded"
assert accuracy(model) == dense, "the model itself is not changed"

# %% [markdown]
# `small.apply(model)` is a copy of our own module with the smaller weights; its widths are those that are left.

# %%
module = small.apply(model)
for name, layer in module.named_modules():
    if isinstance(layer, nn.Conv2d | nn.Linear):
        print(f"{name:<10} {tuple(layer.weight.shape)}")
assert torch.allclose(module(images[test]), small.model(images[test]), atol=1e-4), "module and graph agree"

# %% [markdown]
# ## Smaller and smaller
#
# Every bar is a family of groups: what is left of it at each budget. The dots are the accuracy without any training
# after pruning.

# %%
steps = {1.0: None}
for part in size["parts"]:
    steps[part] = prunebench.prune(
        model, data, loss="cross_entropy", validation=(images[test], labels[test]),
        structure=["channels", "neurons"], flops=part, progress=False,
    )  # fmt: skip

families = {name: mask.numel() for name, mask in small.masks.items()}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), constrained_layout=True)
width = 0.8 / len(steps)
for place, (part, result) in enumerate(steps.items()):
    kept = [whole if result is None else int(result.masks[name].sum()) for name, whole in families.items()]
    positions = [k + (place - len(steps) / 2 + 0.5) * width for k in range(len(families))]
    left.bar(positions, kept, width, label="dense" if result is None else f"{part:.0%}",
             color=plt.get_cmap("viridis")(place / max(1, len(steps) - 1)))  # fmt: skip
left.set_xticks(range(len(families)), [name.replace(":", "\n") for name in families])
left.set_ylabel("groups kept")
left.set_title("What is left of each family")
left.legend(title="multiplications", fontsize=8)

parts = [1.0, *size["parts"]]
reached = [accuracy(model), *(accuracy(steps[part].model) for part in size["parts"])]
right.plot([100 * part for part in parts], [100 * value for value in reached], "o-")
right.set_xlabel("multiplications kept (%)")
right.set_ylabel("accuracy (%)")
right.set_title("Accuracy of the smaller network")
plt.show()

# %% [markdown]
# ## Is it faster?
#
# The dense and the smaller module run in turns on one thread, and the medians are compared. Half of the multiplications
# is not half of the time: additions, norms and the first layer stay.


# %%
def milliseconds(networks, repeats=60):
    """Median milliseconds of a batch of 64 in each network, run in turns."""
    batch, times = images[:64], [[] for _ in networks]
    for _ in range(repeats):
        for held, network in zip(times, networks, strict=True):
            clock = time.perf_counter()
            with torch.inference_mode():
                network(batch)
            held.append(1000 * (time.perf_counter() - clock))
    return [statistics.median(held) for held in times]


threads = torch.get_num_threads()
torch.set_num_threads(1)
smallest = steps[size["parts"][-1]].apply(model)
dense_time, half_time, smallest_time = milliseconds([model, module, smallest])
torch.set_num_threads(threads)
print(f"dense {dense_time:.2f} ms, half of the multiplications {half_time:.2f} ms, smallest {smallest_time:.2f} ms")

# %% [markdown]
# ## The same question as a block
#
# All gates of the network are one block problem: dense weights 1, one variable a group. Solvers of mode `select` take
# it, one that proves its answer too, and so do annealers and quantum computers. `obd` looks at each gate alone; the
# others count what gates do together.

# %%
problem = prunebench.own_network(model, data, loss="cross_entropy")
block = cut_groups(problem, structure="channels", density=0.5)
print(block.p, "gates, keep", block.keep)
objectives = {}
for name in ("obd", "swap", "anneal", "branch-and-bound"):
    solution = prunebench.solve(block, name)
    objectives[name] = solution.objective
    print(f"{name:<17} {solution.objective:.6f}  {solution.status}")
assert objectives["branch-and-bound"] <= min(objectives.values()), "the proved optimum"

# %% [markdown]
# ## Keep it
#
# `save` writes masks, tensors and the graph. The graph is read by `torch.export.load`, without the notebook's class.

# %%
folder = Path(tempfile.mkdtemp()) / "small"
small.save(folder)
again = torch.export.load(folder / "model.pt2").module()
print(sorted(path.name for path in folder.iterdir()))
assert torch.allclose(again(images[:5]), small.model(images[:5]))
