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
# # 09 · Is the oracle an oracle?
#
# Pruning methods look for the mask of the lowest loss. Suppose somebody gave it to us: the best of *all* masks, found
# by trying every one. This is what the literature calls **oracle pruning**. But nobody ships a network as it was
# pruned; its weights are trained once more. Is the oracle's mask still the best then?
#
# Three links are easily confused, and are measured apart here:
#
# 1. from the **quadratic model** to the network's **true loss** with the pruned weights at zero,
# 2. from that loss to the loss **after training**,
# 3. from the model to the loss after training.
#
# Each is a Kendall τ: 1 where two orders of the masks agree, 0 where they have nothing to do with each other. Beside
# them stands a **ceiling**: two trainings of the same masks that differ in the order of the samples. No prediction can
# be expected to do better than that.

# %%
# %matplotlib inline
import os

import matplotlib.pyplot as plt
import numpy as np

from prunebench import make_problem, plot
from prunebench.networks.chosen import prunable_network
from prunebench.recovery.training.halving import successive_halving
from prunebench.recovery.training.protocol import parse
from prunebench.studies.enumeration import neurons as neurons_of
from prunebench.studies.enumeration import parse as parse_items
from prunebench.studies.oracle import Oracle
from prunebench.studies.run import study

SIZES = {
    "small": {"neurons": 8, "weights": 8, "masks": 30, "population": 24, "epochs": (1, 4)},
    "default": {"neurons": 16, "weights": 14, "masks": 160, "population": 95, "epochs": (1, 5, 20)},
}
size = SIZES[os.environ.get("PRUNEBENCH_NOTEBOOK_SIZE", "default")]
PROTOCOL = "learning_rate=0.002,batch_size=64"
SHORT, LONG = size["epochs"][0], size["epochs"][-1]
COLOURS = {
    "model": "#CC79A7", "model about the pruned network": "#009E73", "model, refitted": "#E69F00",
    "true pruned loss": "#0072B2", "true loss after refit": "#56B4E9", "another order of samples": "#555555",
}  # fmt: skip

plt.rcParams.update({"figure.dpi": 100, "axes.spines.top": False, "axes.spines.right": False})


def link(found, known, epochs, third="all"):
    """Kendall's τ of what is known before training with the validation loss after so many epochs."""
    held = [one for one in found["values"]["links"] if one["target"] == "validation loss"]
    return next(one[third] for one in held if (one["predictor"], one["epochs"]) == (known, epochs))


def known_of(found, name):
    return np.array([mask[name] for mask in found["values"]["masks"]])


def after(found, epochs, measure="loss"):
    """What every mask comes to, the mean over orders of the samples."""
    return np.mean([seed[measure] for seed in found["values"]["trained"][str(epochs)]], axis=0)


# %% [markdown]
# ## All masks of a hidden layer
#
# A network for handwritten digits with one hidden layer, of whose neurons half are kept. All masks are tried: there
# are few enough. The best third of those that we train are the best of all; the others lie evenly down the order.

# %%
half = size["neurons"] // 2
neurons = study(
    Oracle(enumerate=f"neurons:{half}/{size['neurons']}", masks=size["masks"], epochs=size["epochs"],
           protocol=PROTOCOL),
    "digits-mlp", {"hidden": (size["neurons"],)},
)  # fmt: skip
everything = neurons["values"]["enumerated"]
print(
    f"{everything['true pruned loss']['masks']:,} masks; the lowest true loss is "
    f"{everything['true pruned loss']['lowest']:.3f}, the mean {everything['true pruned loss']['mean']:.3f}"
)

pruned, accuracy = known_of(neurons, "true pruned loss"), after(neurons, LONG, "accuracy")
oracle, optimum = int(np.argmin(pruned)), int(np.argmin(known_of(neurons, "model")))
figure, panels = plt.subplots(
    1, len(size["epochs"]), figsize=(4.0 * len(size["epochs"]), 3.6), layout="constrained", squeeze=False
)
for axes, epochs in zip(panels[0], size["epochs"], strict=True):
    loss = after(neurons, epochs)
    axes.scatter(pruned, loss, s=12, color="#BBBBBB", label="masks")
    axes.scatter(pruned[oracle], loss[oracle], s=90, color="#0072B2", edgecolor="black", label="the oracle")
    axes.scatter(pruned[optimum], loss[optimum], s=90, marker="s", color="#CC79A7", edgecolor="black",
                 label="optimum of the model")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="true pruned loss", xticks=(0.5, 1, 2, 4), xticklabels=(0.5, 1, 2, 4))
    axes.minorticks_off()
    axes.set(yticks=(0.3, 0.5, 1, 2), yticklabels=(0.3, 0.5, 1, 2))
    words = f"{epochs} epoch{'' if epochs == 1 else 's'}"
    axes.set_title(f"after {words}: τ = {link(neurons, 'true pruned loss', epochs)['value']:.2f}", fontsize=10)
panels[0][0].set_ylabel("validation loss after training")
panels[0][0].legend(frameon=False, fontsize=8)
plt.show()

above = (accuracy > accuracy[oracle]).mean()
print(f"after {LONG} epochs {above:.0%} of the masks are more accurate than the oracle's")
print(
    f"accuracy: oracle {accuracy[oracle]:.1%}, optimum of the model {accuracy[optimum]:.1%}, "
    f"median {np.median(accuracy):.1%}, best {accuracy.max():.1%}"
)
assert above > 0, "the oracle is no oracle after training"

# %% [markdown]
# After one epoch the order by pruned loss is still there. With every further epoch it blurs, at the lower left end
# first: **among the good masks** the pruned loss says little of what training makes of them. Is that noise?

# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
for axes, third in zip(panels, ("all", "best third"), strict=True):
    for known in ("another order of samples", "true pruned loss", "model"):
        held = [link(neurons, known, epochs, third) for epochs in size["epochs"]]
        middle = np.array([one["value"] for one in held])
        spread = np.abs(np.array([[one["low"], one["high"]] for one in held]).T - middle)
        axes.errorbar(size["epochs"], middle, yerr=spread, marker="o", capsize=3, color=COLOURS[known], label=known)
    axes.axhline(0.0, color="#DDDDDD", zorder=0)
    axes.set(xscale="log", xticks=size["epochs"], xticklabels=size["epochs"], xlabel="epochs of training")
    axes.minorticks_off()
    axes.set_title("all trained masks" if third == "all" else "the third of lowest pruned loss", fontsize=10)
panels[0].set_ylabel("Kendall's τ with the validation loss")
panels[1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()

first, last = (link(neurons, "true pruned loss", epochs)["value"] for epochs in (SHORT, LONG))
ceiling = link(neurons, "another order of samples", LONG)["value"]
print(f"true pruned loss: τ = {first:.2f} after {SHORT}, {last:.2f} after {LONG}; the ceiling there is {ceiling:.2f}")
assert ceiling > last, "training itself is far more repeatable than the pruned loss can predict"
assert last < first, "the longer the training, the less the pruned loss says"
assert last > link(neurons, "model", LONG)["value"], "and the model says less still"

# %% [markdown]
# It is not noise: the grey line is what a second training of the same masks says of the first. Which half of the
# neurons is best *after* training is a fact about the mask that can be reproduced, and the loss before training does
# not know it.

# %% [markdown]
# ## All masks of a few weights
#
# Now a network that is pruned already (density 0.05 by magnitude), and of its weights the ones that cost most alone:
# half of them may stay. What fails here first is not the oracle but the model, if it is taken about the *dense*
# network. A model about the pruned network's own weights, with their gradients, is another thing.

# %%
half = size["weights"] // 2
few = study(
    Oracle(enumerate=f"weights:{half}/{size['weights']}", density=0.05, masks=size["masks"], epochs=size["epochs"],
           protocol=PROTOCOL),
    "digits-mlp",
)  # fmt: skip
rows = {row[0]: row for row in few["grids"][0]["rows"]}
pruned = known_of(few, "true pruned loss")
figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
for axes, known in zip(panels, ("model", "model about the pruned network"), strict=True):
    axes.scatter(known_of(few, known), pruned, s=12, color=COLOURS[known])
    axes.set(xlabel=f"{known if known != 'model' else 'model about the dense network'}: objective")
    axes.set_title(f"τ = {rows[known][3][0]:.2f} over all {rows[known][2]:,} masks; its optimum is number "
                   f"{rows[known][5]:,}", fontsize=10)  # fmt: skip
panels[0].set_ylabel("true pruned loss")
plt.show()

far, near = rows["model"][3][0], rows["model about the pruned network"][3][0]
assert near > far + 0.2, "a model knows its surroundings, and little beyond them"

# %% [markdown]
# This is the case for moving in steps (`icbs`, `multi-stage`, `rounds`): every step has a model of the network as it
# is then.

# %% [markdown]
# ## A whole network
#
# Neurons of one layer are many masks that are all about equally good. How is it over a whole network, where masks are
# very different? A population from random masks to the best that solvers find, a tenth of the weights kept.

# %%
whole = study(Oracle(density=0.1, masks=size["population"], epochs=size["epochs"], protocol=PROTOCOL), "digits-mlp")
pruned, families = known_of(whole, "true pruned loss"), np.array([m["family"] for m in whole["values"]["masks"]])
accuracy = after(whole, LONG, "accuracy")
figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
# a solver has the colour that it has in every figure; markers tell apart those of like colours
populations = {"magnitude, noisy": ("magnitude", "o"), "obd, noisy": ("obd", "x"), "swap, noisy start": ("swap", "."),
               "random": ("random", "+")}  # fmt: skip
for family, (solver, marker) in populations.items():
    part = families == family
    if part.any():  # descents that end where `swap` does are one mask with it
        axes.scatter(pruned[part], 100 * accuracy[part], s=24, color=plot.colour(solver), marker=marker, label=family)
for solver, marker in zip(("swap", "admm", "chita", "woodfisher"), ("o", "s", "D", "^"), strict=True):
    part = families == solver
    axes.scatter(pruned[part], 100 * accuracy[part], s=90, color=plot.colour(solver), marker=marker, edgecolor="black",
                 label=solver)  # fmt: skip
axes.set(xlabel="true pruned loss", ylabel=f"accuracy after {LONG} epochs (%)")
axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()

oracle = int(np.argmin(pruned))
place = int((accuracy > accuracy[oracle]).sum()) + 1
print(
    f"the mask of the lowest pruned loss is {whole['values']['masks'][oracle]['name']}'s; after {LONG} epochs it is "
    f"number {place} of {accuracy.size} by accuracy"
)
for known in ("true pruned loss", "true loss after refit", "model", "another order of samples"):
    print(f"{known:<26} τ = {link(whole, known, LONG)['value']:.2f}, in the best third "
          f"{link(whole, known, LONG, 'best third')['value']:.2f}")  # fmt: skip
assert place <= 0.2 * accuracy.size, "over a whole network the lowest pruned loss is a good choice"

# %% [markdown]
# Here the oracle is a good choice: what differs between these masks, such as how much of each layer is left, is still
# there after training. But it is the extremes that make the correlation; within the best third it is weak again.
#
# ## What to do about it
#
# A short training predicts a long one better than any loss before training does. So let the pruned loss choose many
# candidates, a quarter of the training fewer, and the whole training the winner: *successive halving*. On the masks of
# whole neurons, where the pruned loss alone was no guide:

# %%
problem = make_problem("digits-mlp", {"hidden": (size["neurons"],)})
network = prunable_network(problem)
every = neurons_of(network.layers, parse_items(f"neurons:{size['neurons'] // 2}/{size['neurons']}", "here"), "here")
masks = every.masks(np.array([int(mask["name"].removeprefix("mask ")) for mask in neurons["values"]["masks"]]))
halving = successive_halving(problem, network, masks, parse(f"{PROTOCOL},epochs={LONG}"))

spent, whole_cost = sum(rung.epochs * rung.positions.size for rung in halving.rungs), LONG * masks.shape[0]
accuracy = after(neurons, LONG, "accuracy")
chosen = {"lowest pruned loss": int(np.argmin(known_of(neurons, "true pruned loss"))),
          "successive halving": int(halving.order[0])}  # fmt: skip
figure, axes = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
axes.plot(np.arange(1, masks.shape[0] + 1), 100 * np.sort(accuracy)[::-1], color="#BBBBBB", label="all trained masks")
for (name, number), colour in zip(chosen.items(), ("#0072B2", "#D55E00"), strict=True):
    place = int((accuracy > accuracy[number]).sum()) + 1
    axes.scatter(place, 100 * accuracy[number], s=90, color=colour, edgecolor="black", zorder=3,
                 label=f"{name}: number {place}")  # fmt: skip
axes.set(xlabel="rank by accuracy", ylabel=f"accuracy after {LONG} epochs (%)")
axes.legend(frameon=False, fontsize=9)
plt.show()
print(f"{spent} epochs of training in place of {whole_cost}")
assert spent < 0.5 * whole_cost
better = accuracy[chosen["successive halving"]] - accuracy[chosen["lowest pruned loss"]]
print(f"halving's mask is {100 * better:+.1f} points more accurate than that of the lowest pruned loss")
assert better > -0.02, "a short training is no worse a guide than the pruned loss"

# %% [markdown]
# The same from the command line, with tables and a page: `prunebench study oracle digits-mlp --option hidden=16
# --enumerate neurons:8/16`. All numbers, and what the other studies find (`allocation`, `robustness`, `connectivity`,
# `plasticity`), are on the page Studies of the documentation.
