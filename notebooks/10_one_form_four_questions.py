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
# # 10 · One form, four questions
#
# Keep k of n things so that what is lost costs least, where the cost depends on *which* are kept together: that is a
# quadratic form with a cardinality. This project was made for one such question, which **weights** of a network may go.
# The same form, the same files and the same solvers answer three more: which **samples** to train on, which **bits** to
# store, and what several **sites** know together.
#
# Everything below is about one small network for handwritten digits.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from prunebench import cut_block, make_problem, solve
from prunebench.meanings.bits.slices import sliced, stored
from prunebench.meanings.features import labels_of
from prunebench.meanings.samples import SampleOptions, sample_block
from prunebench.meanings.sites import SiteOptions, at_site, merge, shares
from prunebench.networks.chosen import prunable_network
from prunebench.recovery.training.many import reached
from prunebench.recovery.training.protocol import Begin, Protocol
from prunebench.recovery.training.starts import place

SIZES = {
    "small": {"keep": (30,), "subsets": 1, "students": 2, "steps": 100, "sketches": (20, 200)},
    "default": {"keep": (30, 100), "subsets": 2, "students": 4, "steps": 300, "sketches": (10, 30, 100, 300)},
}
size = SIZES[os.environ.get("PRUNEBENCH_NOTEBOOK_SIZE", "default")]
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#BBBBBB"
plt.rcParams.update({"figure.dpi": 100, "axes.spines.top": False, "axes.spines.right": False})

digits = make_problem("digits-mlp")
images, labels = digits.calibration().batch(np.arange(len(digits.calibration())))

# %% [markdown]
# ## Weights
#
# Twenty of the network's weights, of which ten are kept. The form is the curvature of the loss about the trained
# network. An exact solver proves the best choice.

# %%
block = cut_block("digits-mlp", size=20, density=0.5, select="row", seed=0)
proved = solve(block, "branch-and-bound")
by_size = solve(block, "magnitude")
print(f"the {block.p} {block.word}: best {proved.objective:.3e} ({proved.status}), by size {by_size.objective:.3e}")
assert proved.objective <= by_size.objective

# %% [markdown]
# ## Samples
#
# Which 30 of 1,347 images stand for all? Give every image a row of features, and ask for those whose mean is nearest to
# the mean of all, within every digit. One `BlockProblem` again, but its items are samples. `swap` solves it in a
# fraction of a second.

# %%
options = SampleOptions(of="inputs", per_class=True)
samples = sample_block(digits, 30, options)
chosen = solve(samples, "swap")
print(f"the {samples.p} {samples.word}: f {chosen.objective:.2e}, of a random choice {samples.random_mean():.2e}")
assert chosen.objective < 0.5 * samples.random_mean()

figure, panels = plt.subplots(1, 2, figsize=(9.0, 1.7), layout="constrained")
for axes, name, mask in zip(panels, ("random", "chosen"), (samples.start_mask, chosen.mask), strict=True):
    columns = [images[np.flatnonzero(mask & (labels.numpy() == digit))].reshape(-1, 8) for digit in range(10)]
    axes.imshow(np.concatenate(columns, axis=1), cmap="gray_r")
    axes.set(xticks=(), yticks=(), title=f"{name}: three of each digit")
    axes.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# Is that worth anything? Students are trained on the chosen images alone, and on random ones. Then both once more with
# a teacher: the network that has seen all images tells them its predictions.


# %%
def accuracy(masks, distil):
    """Accuracy in % of students on each subset, the same initialisations for all."""
    network, starts = prunable_network(digits), []
    for number in range(size["students"]):
        place(digits, network, Begin("fresh", number))
        starts.append(network.weights())
    all_weights = np.ones((len(starts), network.total), dtype=bool)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for mask in masks:
            file = Path(folder) / "subset.npz"
            sample_block(digits, int(mask.sum()), options).with_start(mask).save(file)
            protocol = Protocol(steps=size["steps"], batch_size=30, subset=str(file), distil=distil)
            after = reached(digits, network, all_weights, protocol, weights=np.array(starts))
            found += list(100.0 * after.validation.accuracy)
    return np.array(found)


rows = []
for keep in size["keep"]:
    made = [sample_block(digits, keep, options, seed=seed) for seed in range(size["subsets"])]
    sets = {"random": [one.start_mask for one in made], "chosen": [solve(one, "swap").mask for one in made]}
    for name, masks in sets.items():
        for distil in (0.0, 0.9):
            rows.append((keep, name, distil, accuracy(masks, distil)))
            print(f"{keep:4d} {name:<7} {'with a teacher' if distil else '':<15} {rows[-1][3].mean():.1f} %")

held = {(keep, name, bool(distil)): found.mean() for keep, name, distil, found in rows}
figure, axes = plt.subplots(figsize=(5.0, 3.0), layout="constrained")
names = [(name, taught) for taught in (False, True) for name in ("random", "chosen")]
width = 0.18
for number, (name, taught) in enumerate(names):
    heights = [held[keep, name, taught] for keep in size["keep"]]
    axes.bar(
        np.arange(len(heights)) + (number - 1.5) * width, heights, width, color=ORANGE if name == "random" else BLUE,
        alpha=0.45 if taught else 1.0, label=f"{name}{', with a teacher' if taught else ''}",
    )  # fmt: skip
axes.set(xticks=np.arange(len(size["keep"])), xticklabels=size["keep"], xlabel="samples", ylabel="accuracy in %")
axes.set_ylim(bottom=min(held.values()) - 10.0)
axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
plt.show()
if size is SIZES["default"]:
    assert held[30, "chosen", False] > held[30, "random", False] + 3.0
    assert held[30, "random", True] > held[30, "random", False]

# %% [markdown]
# The choice is worth most where samples are few; a teacher is worth more still, and makes it nearly indifferent which
# samples are chosen. Both are in the literature, and both come out of one table here.
#
# ## Bits
#
# A weight of up to eight bits is a coarse slice of four and a slice that refines it. Both are items; keeping neither is
# pruning. A budget of three bits a weight is a number of slices, so the choice of *which* weights and *how fine* is one
# block, and its optimum is proved as before.

# %%
weights = cut_block("digits-mlp", size=24, density=1.0, seed=1)
slices = sliced(weights, bits=(0, 4, 8), budget=3.0)
answer = solve(slices, "branch-and-bound")
bits = stored(slices, answer.mask).bits
print(f"the {slices.p} {slices.word}: {answer.status}, {[int((bits == b).sum()) for b in (0, 4, 8)]} with 0, 4, 8 bits")
assert bits.sum() == 3 * weights.p

figure, axes = plt.subplots(figsize=(7.0, 2.4), layout="constrained")
order = np.argsort(-np.abs(weights.dense_weights))
axes.bar(np.arange(weights.p), np.abs(weights.dense_weights)[order], color=GREY, label="size of the weight")
axes.set(xlabel="weights, by size", ylabel="size", xticks=())
other = axes.twinx()
other.plot(np.arange(weights.p), bits[order], "s", color=BLUE, label="bits")
other.set(ylabel="bits", yticks=(0, 4, 8), ylim=(-0.5, 8.5))
plt.show()

# %% [markdown]
# ## Sites
#
# Four sites have some digits each, and no images leave them. The curvature is a sum over samples: each site hands on
# its part, and the parts add up to the very same block, whatever their order. Where that is too much to send, a site
# can hand on fewer, random sums of its gradients (a sketch), at the price of an error.

# %%
parts = shares(labels_of(digits.calibration()), 4)
pooled = merge([at_site(digits)], density=0.1).block
merged = merge([at_site(digits, part) for part in parts], density=0.1).block
again = merge([at_site(digits, part) for part in reversed(parts)], density=0.1).block
mask = pooled.incumbent
print(f"f of magnitude's mask: pooled {pooled.evaluate(mask):.15g}, merged {merged.evaluate(mask):.15g}")
assert abs(merged.evaluate(mask) / pooled.evaluate(mask) - 1.0) < 1e-12
assert merged.hash == again.hash

best = pooled.evaluate(solve(merged, "swap").mask)
alone = [pooled.evaluate(solve(merge([at_site(digits, part)], density=0.1).block, "swap").mask) for part in parts]
lost = []
for count in size["sketches"]:
    sketched = [at_site(digits, part, SiteOptions(kind="sketch", sketched=count)) for part in parts]
    lost.append(pooled.evaluate(solve(merge(sketched, density=0.1).block, "swap").mask))
figure, axes = plt.subplots(figsize=(5.0, 3.0), layout="constrained")
axes.plot(size["sketches"], lost, "o-", color=BLUE, label="four sketches, merged")
axes.axhline(best, color="black", linewidth=1.0, label="rows, merged")
axes.axhline(min(alone), color=ORANGE, linewidth=1.0, linestyle="--", label="best single site")
axes.axhline(pooled.evaluate(mask), color=GREY, linewidth=1.0, linestyle=":", label="magnitude")
axes.set(xlabel="rows of a site's sketch", ylabel="f of swap's mask, on all samples", xscale="log", ylim=(0.0, None))
axes.legend(frameon=False, fontsize=8)
plt.show()
assert best < min(alone)

# %% [markdown]
# **None of it is private.** A row of gradients of the first layer *is* the image, up to a factor: the gradient of a
# linear layer's weights is what went in, times what comes back.

# %%
site = at_site(digits, np.arange(4))
figure, panels = plt.subplots(2, 4, figsize=(4.6, 2.6), layout="constrained")
for number in range(4):
    first = site.data[number, : 32 * 64].reshape(32, 64)
    seen = first[np.argmax(np.abs(first).sum(axis=1))]
    image = images[number].numpy()
    alike = abs(seen @ image) / (np.linalg.norm(seen) * np.linalg.norm(image))
    assert alike > 0.9999
    panels[0][number].imshow(image.reshape(8, 8), cmap="gray_r")
    panels[1][number].imshow(np.abs(seen).reshape(8, 8), cmap="gray_r")
for axes in panels.ravel():
    axes.set(xticks=(), yticks=())
panels[0][0].set_ylabel("the image")
panels[1][0].set_ylabel("handed on")
plt.show()

# %% [markdown]
# The commands for all of it, and what else the files can do, are on the page "One form, four questions" of the
# documentation (`docs/one-form.md`).
