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
# # 06 · How good is the quadratic model?
#
# All solvers minimise a **model** of the loss: the empirical Fisher about the dense weights. Branch and bound can
# prove its optimum. Is the optimum of the model also good for the network? Here we compare
#
# - the **model change**: what $f$ says pruning costs, against
# - the **true change**: the network's mean loss on validation samples with the pruned weights written into it, minus
#   that of the dense network,
#
# over many masks, solvers, densities, sample counts and ridges, until the model breaks.

# %%
# %matplotlib inline
import os

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr

from prunebench import Budget, make_problem, plot, solve
from prunebench.comparison.true_loss import TrueLoss
from prunebench.core.errors import InvalidInput
from prunebench.runs.cut import cut_block

SIZES = {
    "small": {
        "masks": 40, "blocks": 3, "sizes": (16, 256), "densities": (0.9, 0.3), "ridges": (1e-3, 1.0), "repeats": 1,
    },
    "default": {
        "masks": 250, "blocks": 20, "sizes": (16, 64, 256, 1024), "densities": (0.9, 0.7, 0.5, 0.3, 0.1),
        "ridges": (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), "repeats": 3,
    },
}  # fmt: skip
size = SIZES[os.environ.get("PRUNEBENCH_NOTEBOOK_SIZE", "default")]
PROBLEM = "digits-mlp"
COLOURS = {name: plot.colour(name) for name in ("magnitude", "obd", "greedy", "swap", "branch-and-bound")}

plt.rcParams.update({"figure.dpi": 100, "axes.spines.top": False, "axes.spines.right": False})

# %%
judge = TrueLoss(make_problem(PROBLEM))


def true_change(block, weights):
    """The loss with these weights in the block's place minus the dense network's."""
    return judge.change(block, weights) - judge.change(block, block.dense_weights)


def answer_of(block, solver, seconds=60):
    return solve(block, solver, budget=Budget(seconds=seconds), seed=0)


def many_masks(block, near, rng):
    """Random masks, and as many that differ from `near` by a few exchanges."""
    masks = [block.top_mask(rng.random(block.p)) for _ in range(size["masks"])]
    most = max(1, min(block.keep, block.p - block.keep) // 2)
    for _ in range(size["masks"]):
        mask, count = near.copy(), rng.integers(1, most + 1)
        gone, back = rng.choice(np.flatnonzero(mask), count, False), rng.choice(np.flatnonzero(~mask), count, False)
        mask[gone], mask[back] = False, True
        masks.append(mask)
    return masks


def changes(block, masks):
    model = np.array([block.evaluate(mask) for mask in masks])
    return model, np.array([true_change(block, block.weights_of(mask)) for mask in masks])


# %% [markdown]
# ## One block, many masks
#
# The 64 heaviest weights of the network, half of them kept. Grey: random masks. Light green: masks a few exchanges
# away from the proved optimum of the model.

# %%
block = cut_block(PROBLEM, size=64, density=0.5, select="magnitude", seed=0)
answers = {name: answer_of(block, name) for name in COLOURS}
assert answers["branch-and-bound"].status == "optimal"
model, true = changes(block, many_masks(block, answers["branch-and-bound"].mask, np.random.default_rng(0)))

figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
half = size["masks"]
axes.scatter(model[:half], true[:half], s=10, color="#BBBBBB", label="random masks")
axes.scatter(model[half:], true[half:], s=10, color="#9ADBC5", label="near the optimum")
for name, answer in answers.items():
    place = answer.objective, true_change(block, answer.weights)
    axes.scatter(*place, s=90, color=COLOURS[name], label=name, edgecolor="black", zorder=3)
span = np.array([min(model.min(), answers["branch-and-bound"].objective), model.max()])
axes.plot(span, span, color="#555555", linestyle=":", label="true = model")
axes.set(xscale="log", yscale="log", xlabel="model change", ylabel="true change of the validation loss")
axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()

rank = spearmanr(model, true)[0]
ratio = np.median(true / model)
print(f"rank correlation {rank:.2f}; the true change is {ratio:.0f} times the model's (median)")
gain = true_change(block, answers["magnitude"].weights) / true_change(block, answers["branch-and-bound"].weights)
print(f"magnitude pruning costs {gain:.1f} times the true loss of the model's optimum")

assert rank > 0.6, "the model orders masks"
assert ratio > 2, "but it does not know how much they cost"
assert gain > 1, "and its optimum is better for the network than magnitude pruning"

# %% [markdown]
# Two different statements, and only one of them is true:
#
# - **The order is right**, mostly: masks that are better for the model are better for the network.
# - **The scale is wrong**, by about an order of magnitude. The empirical Fisher is made of gradients, and a network
#   that fits its training samples has small ones: the better it fits, the smaller the model's curvature. (The
#   *expected* Fisher, and the Gauss–Newton matrix, would not shrink that way.) The pruned network is also far away,
#   where higher orders count.
#
# Nothing in the choice of a mask depends on the scale: multiply $f$ by ten and the optimum stays. Accepting a step
# because the *model* says that the loss falls does depend on it, and so does every trade between loss and ridge.

# %% [markdown]
# ## Does solving better help the network?
#
# Many blocks of 64 weights, 30 % kept. From left to right the solvers know more of the model, up to the proved
# optimum. Grey lines: the true change of each block.

# %%
figure, panels = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained")
means = {}
for axes, select in zip(panels, ("row", "magnitude"), strict=True):
    found = []
    for seed in range(size["blocks"]):
        try:
            one = cut_block(PROBLEM, size=64, density=0.3, select=select, seed=seed)
        except InvalidInput:
            continue  # a neuron that never fires: any mask will do
        solutions = [answer_of(one, name) for name in COLOURS]
        assert solutions[-1].status == "optimal"
        found.append([[s.objective, true_change(one, s.weights)] for s in solutions])
    found = np.array(found)
    means[select] = found.mean(axis=0)
    for number in range(len(found)):
        axes.plot(range(5), found[number, :, 1], color="#DDDDDD", linewidth=0.8)
    axes.plot(range(5), means[select][:, 1], "o-", color="black", label="true change, mean")
    axes.plot(range(5), means[select][:, 0], "s--", color="#6B4C9A", label="model change, mean")
    axes.set(xticks=range(5), xticklabels=[name.replace("branch-and-bound", "proved\noptimum") for name in COLOURS])
    what = "the 64 heaviest weights, other samples" if select == "magnitude" else "weights of one neuron"
    axes.set_title(f"{what} ({len(found)} blocks)", fontsize=10)
    if (found[:, :, 1] > 0).all():
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=1e-3)
panels[0].set_ylabel("change of the loss")
panels[0].legend(frameon=False, fontsize=9)
plt.show()

for select, mean in means.items():
    words = ", ".join(f"{name} {value:.4f}" for name, value in zip(COLOURS, mean[:, 1], strict=True))
    print(f"{select:<10} true change: {words}")
    assert (np.diff(mean[[0, 3, 4], 0]) <= 1e-12).all(), "the model improves from magnitude to swap to the optimum"
assert means["magnitude"][4, 1] < means["magnitude"][0, 1], "and from magnitude to the optimum the network does"

# %% [markdown]
# From magnitude to the methods that see the couplings the network gains a lot; `obd`, which sees the diagonal only,
# gains nothing. From a good local search to the proved optimum the *model* still improves a little; whether the
# *network* does is a matter of luck: there the differences are smaller than the model's own error. Exact solvers are
# worth their time as a **yardstick** for the others, and where the model is good; not for the last per cent of a bad
# model.

# %% [markdown]
# ## Density and block size
#
# How do the order and the scale hold when more is pruned at once? Blocks of the weights that cost most alone (score
# `obd`), from 16 weights to nearly half of the network; for each density the masks as above about the best answer of
# `swap`.

# %%
ranks = np.zeros((len(size["sizes"]), len(size["densities"])))
ratios = np.zeros_like(ranks)
losses = np.zeros_like(ranks)
for i, p in enumerate(size["sizes"]):
    for j, density in enumerate(size["densities"]):
        one = cut_block(PROBLEM, size=p, density=density, select="obd", seed=0)
        near = answer_of(one, "swap").mask
        model, true = changes(one, many_masks(one, near, np.random.default_rng(0)))
        ranks[i, j] = spearmanr(model[half:], true[half:])[0]
        ratios[i, j] = np.median(true / model)
        losses[i, j] = true.mean()

figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
pictures = (
    (ranks, "rank correlation, masks near the best", "Greens", "{:.2f}"),
    (ratios, "true change / model change (median)", "Oranges", "{:.1f}"),
    (losses, "mean true change of the loss", "Purples", "{:.2g}"),
)  # fmt: skip
for axes, (values, title, colours, form) in zip(panels, pictures, strict=True):
    shade = values if title.startswith("rank") else np.log10(np.maximum(values, 1e-4))
    axes.imshow(shade, cmap=colours, aspect="auto", vmin=0 if title.startswith("rank") else None)
    middle = (shade.min() + shade.max()) / 2 if not title.startswith("rank") else 0.6
    for i, j in np.ndindex(values.shape):
        ink = "white" if shade[i, j] > middle else "black"
        axes.text(j, i, form.format(values[i, j]), ha="center", va="center", fontsize=9, color=ink)
    axes.set(xticks=range(len(size["densities"])), xticklabels=size["densities"], xlabel="density of the block")
    axes.set(yticks=range(len(size["sizes"])), yticklabels=size["sizes"], ylabel="weights in the block")
    axes.set_title(title, fontsize=10)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
plt.show()
assert np.isfinite(ranks).all()
assert ranks.mean() > 0.4, "the order holds"
assert ratios[-1, -1] > 2 * ratios[0, 0], "the scale does not: the more is pruned at once, the more the model promises"
assert losses[-1, -1] > losses[0, 0], "pruning more of a larger block costs more"

# %% [markdown]
# These weights are the hardest case, and still the order holds, even among masks near the best one. The **scale** is
# what breaks: in the upper left corner the truth is a few times what the model says, in the lower right corner some
# forty times, where the loss itself is many times that of the dense network. A model that is wrong by a factor that
# depends on how far one goes can rank the ways to go; it cannot say how far to go. This is why iCBS prunes in blocks
# about the *current* weights, with fresh gradients, and accepts by true loss, and why CHITA++ lowers the density in
# stages.

# %% [markdown]
# ## Samples and ridge
#
# In mode `refit` the kept weights move, and the solver can exploit every direction in which the model sees no
# curvature. With fewer sample gradients $n$ than weights there are such directions: the model promises that nearly
# everything can be pruned for free. The ridge is what keeps the weights at home. Exact optimum (branch and bound, 3
# s) of blocks of the 64 heaviest weights, 30 % kept:

# %%
counts = (20, 100, 1000)
promised = np.zeros((len(counts), len(size["ridges"])))
got = np.zeros_like(promised)
proved = 0
for i, n in enumerate(counts):
    for j, ridge in enumerate(size["ridges"]):
        pairs = []
        for seed in range(size["repeats"]):
            curvature = {"samples": n, "ridge": ridge}
            one = cut_block(
                PROBLEM, size=64, density=0.3, select="magnitude", mode="refit", curvature=curvature, seed=seed
            )
            answer = answer_of(one, "branch-and-bound", seconds=3)
            proved += answer.status == "optimal"
            pairs.append((answer.objective, true_change(one, answer.weights)))
        promised[i, j], got[i, j] = np.mean(pairs, axis=0)
print(f"{proved} of {promised.size * size['repeats']} blocks solved to proved optimality")

figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
for i, (n, colour, marker) in enumerate(zip(counts, ("#D55E00", "#E69F00", "#0072B2"), ("o", "s", "D"), strict=True)):
    axes.plot(size["ridges"], got[i], marker=marker, color=colour, label=f"n = {n}: true change")
    axes.plot(
        size["ridges"], np.maximum(promised[i], 1e-6), ":", color=colour, label=f"n = {n}: what the model promised"
    )
axes.set(xscale="log", yscale="log", xlabel="ridge, relative to the mean curvature", ylabel="change of the loss")
axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()

assert (promised[0] < got[0]).all(), "with few samples the model promises too much, whatever the ridge"
assert got[0].min() > got[-1].min(), "more samples make a better network"
assert promised[0, 0] < 0.01 * got[0, 0], "small ridge and n < p: nearly for free, says the model"

# %% [markdown]
# ## What to do about it
#
# - **Report both** model value and true loss. Comparisons do (`model_change`, `true_change`), and so do runs.
# - **Take enough samples**: their number matters more than the ridge, of which anything from 10⁻³ to 10⁻¹ of the mean
#   curvature does.
# - **Move in small steps** and accept by true loss on samples the model did not see (`--coordinator icbs`).
# - **Re-rank**: solvers return their other good masks too (`answer.alternatives`); the true loss can choose among
#   them.
