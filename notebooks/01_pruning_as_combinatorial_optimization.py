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
# # 01 · Pruning as combinatorial optimization
#
# Which weights may go, so that the loss rises least? With six weights all answers fit into one picture, so here we
# look at all of them and see
#
# 1. how the loss becomes a **quadratic form** of the mask, and what its pair terms mean,
# 2. why ranking weights fails, why pruning them one at a time fails, and what the joint optimum does instead,
# 3. what the **keep count** has to do with it: the best masks of different keep counts are not nested,
# 4. what changes when the kept weights may move: mode `select` against mode `refit`.

# %%
# %matplotlib inline
import os
from dataclasses import replace
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np

from prunebench import BlockProblem, QuadraticForm, plot, solve
from prunebench.core.errors import InvalidInput
from prunebench.runs.cut import cut_block

SIZES = {"small": {"real_blocks": 12}, "default": {"real_blocks": 40}}
size = SIZES[os.environ.get("PRUNEBENCH_NOTEBOOK_SIZE", "default")]

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## One neuron, six weights
#
# A neuron computes $y = \sum_i \bar w_i x_i$. Its inputs are six features of 500 calibration samples:
#
# - $x_1$ and $x_2$ are nearly the **same** feature, and their weights have opposite signs: what one adds, the other
#   takes away.
# - $x_3$ is quiet: it hardly varies, though its weight is the largest of all.
# - $x_4$ and $x_5$ share a feature too, but their weights have the same sign: they add up.
# - $x_6$ stands alone.

# %%
rng = np.random.default_rng(0)
shared, doubled, quiet, single, noise_2, noise_5 = rng.normal(size=(6, 500))
inputs = np.stack([shared, shared + 0.1 * noise_2, 0.1 * quiet, doubled, doubled + 0.3 * noise_5, single], axis=1)
dense = np.array([1.5, -1.4, 2.0, 0.6, 0.7, 0.8])

# %% [markdown]
# ## The quadratic form
#
# Pruning changes the weights from $\bar w$ to $w$. The damage is the mean squared change of the output, halved:
#
# $$f(w) = \tfrac12 \cdot \tfrac1n \lVert X (w - \bar w) \rVert^2 + \tfrac12 \rho \lVert w - \bar w \rVert^2
#        = \tfrac12 (w - \bar w)^\top H (w - \bar w), \qquad H = A^\top A + \rho I, \quad A = X/\sqrt n .$$
#
# This is the form all of prunebench stands on. For one neuron it is exact. For a whole network $A$ holds sample
# gradients of the loss (the empirical Fisher), and $f$ is a second-order model of the loss.
#
# A *mask* $m$ is 1 where a weight is **kept**. In mode `select` a kept weight has its dense value,
# $w = m \cdot \bar w$. Write $u = 1 - m$ for what is pruned; since $u_i^2 = u_i$,
#
# $$f = \tfrac12 \sum_i Q_{ii}\, u_i + \sum_{i<j} Q_{ij}\, u_i u_j, \qquad Q_{ij} = \bar w_i H_{ij} \bar w_j .$$
#
# - $\tfrac12 Q_{ii}$ is what pruning weight $i$ **alone** costs;
# - $Q_{ij}$ is what pruning $i$ and $j$ **together** costs on top. Positive: they back each other up, and pruning
#   both is worse than the sum. Negative: they cancel each other, and pruning both is *cheaper* than the sum.

# %%
form = QuadraticForm(factor=inputs / np.sqrt(500), ridge=1e-3, centre=dense)
block = BlockProblem(form, dense, keep=3, mode="select")

H = form.gram(np.arange(6))
Q = dense[:, None] * H * dense


# %%
def heat_map(axes, matrix, title):
    limit = np.abs(matrix).max()
    axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for i, j in np.ndindex(matrix.shape):
        shade = "white" if abs(matrix[i, j]) > 0.6 * limit else "black"
        text = f"{matrix[i, j]:.2f}".replace("-0.00", "0.00").replace("-", "−")
        axes.text(j, i, text, ha="center", va="center", color=shade, fontsize=9)
    ticks = [f"$w_{i + 1}$" for i in range(6)]
    axes.set(xticks=range(6), yticks=range(6), xticklabels=ticks, yticklabels=ticks)
    axes.set_title(title, fontsize=10)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.9), layout="constrained")
left.bar(range(6), dense, color=["#0072B2" if w > 0 else "#D55E00" for w in dense])
left.axhline(0, color="black", linewidth=0.8)
left.set(xticks=range(6), xticklabels=[f"$w_{i + 1}$" for i in range(6)])
left.set_title("dense weights $\\bar w$", fontsize=10)
heat_map(middle, H, "curvature $H$")
heat_map(right, Q, "couplings $Q_{ij} = \\bar w_i H_{ij} \\bar w_j$")
plt.show()

assert Q[0, 1] < -2.0, "weights 1 and 2 cancel each other"
assert Q[3, 4] > 0.3, "weights 4 and 5 back each other up"
assert np.isclose(block.evaluate(np.array([0, 0, 1, 1, 1, 0], bool)), Q[[0, 1, 5]][:, [0, 1, 5]].sum() / 2)

# %% [markdown]
# Right picture, row by row: $w_1$ and $w_2$ have the largest costs on the diagonal ($\tfrac12 Q_{ii} \approx 1$
# each), and the deep blue pair term $Q_{12}$ takes nearly all of it back. Any method that looks at the diagonal alone
# will never touch them. (The assertions below the figure hold the facts that this notebook teaches; the tests run
# them.)
#
# ## Four ways to choose
#
# Three of six weights shall go. The candidates, from the least informed to the fully informed:
#
# | method | looks at | prunes |
# |---|---|---|
# | `magnitude` | $\lvert \bar w_i \rvert$ | the three smallest weights |
# | `obd` | the diagonal, $\tfrac12 Q_{ii}$ (Optimal Brain Damage) | the three that are cheapest **alone** |
# | `greedy` | all of $Q$, one step at a time | the cheapest, then the cheapest given the first, … |
# | `exhaustive` | all of $Q$, all masks | the best of all $\binom63 = 20$ |

# %%
METHODS = {name: plot.colour(name) for name in ("magnitude", "obd", "greedy", "exhaustive")}
answers = {name: solve(block, name) for name in METHODS}


def pruned(mask):
    return tuple(int(i) + 1 for i in np.flatnonzero(~mask))


for name, answer in answers.items():
    print(f"{name:<11} prunes {pruned(answer.mask)}   loss {answer.objective:.3f}   {answer.status}")

assert answers["exhaustive"].status == "optimal"
assert pruned(answers["exhaustive"].mask) == (1, 2, 3)
losses = [answers[name].objective for name in METHODS]
assert losses[0] > losses[1] > losses[2] > 10 * losses[3], (
    "each method beats the one above it; the joint optimum by far"
)

# %% [markdown]
# All 20 masks in order of their loss. The dots below a bar show which weights it prunes.

# %%
masks = [np.isin(np.arange(6), kept) for kept in combinations(range(6), 3)]
masks.sort(key=block.evaluate)
loss = [block.evaluate(mask) for mask in masks]
chosen = {pruned(answer.mask): name for name, answer in answers.items()}

figure, (bars, dots) = plt.subplots(2, 1, figsize=(10, 5), sharex=True, height_ratios=(2.2, 1), layout="constrained")
for at, (mask, value) in enumerate(zip(masks, loss, strict=True)):
    name = chosen.get(pruned(mask))
    colour = METHODS.get(name, "#C8C8C8")
    bars.bar(at, value, color=colour, width=0.75)
    if name:
        label = "joint optimum" if name == "exhaustive" else name
        side = {"ha": "left", "xytext": (-6, 24)} if at == 0 else {"ha": "center", "xytext": (0, 6)}
        words = f"{label}\n{value:.3f}"
        bars.annotate(
            words, (at, value), textcoords="offset points", fontsize=9, fontweight="bold", color=colour, **side
        )
    gone = np.flatnonzero(~mask)
    dots.scatter(np.full(6, at), range(6), s=28, color="#E4E4E4")
    dots.scatter(np.full(3, at), gone, s=46, color=colour if name else "#666666", zorder=3)
bars.axhline(block.random_mean(), color="black", linewidth=0.9, linestyle="--")
bars.text(0.0, block.random_mean() + 0.04, "mean of all 20 (a random mask)", fontsize=9)
bars.set(ylabel="loss $f$", xlim=(-0.7, 19.7))
dots.set(yticks=range(6), yticklabels=[f"$w_{i + 1}$" for i in range(6)], xticks=[], ylim=(5.6, -0.6))
dots.set_ylabel("pruned")
dots.spines[["bottom", "left"]].set_visible(False)
dots.tick_params(length=0)
plt.show()

# %% [markdown]
# `magnitude` keeps $w_3$, the largest weight, which does nothing, and prunes the pair that backs each other up. `obd`
# sees that $w_3$ is cheap, yet adds $w_4$ and $w_5$, each of which is cheap *as long as the other stays*. `greedy`
# notices this after the first of them is gone. It still cannot find $\{1, 2, 3\}$: the way there leads over a step
# that costs about 1 before the next one gives it back.

# %% [markdown]
# ## The landscape: all 64 masks
#
# Each point is a mask, each thin line prunes one more weight. Greedy pruning walks from left to right and always
# takes the lowest next point. The optimum for each keep count is green.

# %%
every = {}
for count in range(7):
    for gone in combinations(range(6), count):
        mask = ~np.isin(np.arange(6), gone)
        every[gone] = replace(block, keep=6 - count).evaluate(mask)

path = [()]
while len(path[-1]) < 6:
    path.append(min((tuple(sorted({*path[-1], i})) for i in set(range(6)) - set(path[-1])), key=every.get))
best = [min((gone for gone in every if len(gone) == count), key=every.get) for count in range(7)]

figure, axes = plt.subplots(figsize=(10, 5.2), layout="constrained")
for gone, value in every.items():
    for i in set(range(6)) - set(gone):
        more = tuple(sorted({*gone, i}))
        axes.plot((len(gone), len(more)), (value, every[more]), color="#DDDDDD", linewidth=0.6, zorder=1)
axes.scatter([len(gone) for gone in every], list(every.values()), s=16, color="#888888", zorder=2)
axes.plot(
    range(7), [every[gone] for gone in path], color=METHODS["greedy"], linewidth=2.2, zorder=3, label="greedy path"
)
lowest = [every[gone] for gone in best]
axes.plot(
    range(7), lowest, "o", color=METHODS["exhaustive"], markersize=9, zorder=4, label="optimum of each keep count"
)
for gone in best[1:6]:
    words = "{" + ",".join(str(i + 1) for i in gone) + "}"
    place, ink = (len(gone), every[gone]), METHODS["exhaustive"]
    axes.annotate(words, place, (0, -16), textcoords="offset points", ha="center", color=ink)
for count in (2, 3, 4):
    words = "{" + ",".join(str(i + 1) for i in path[count]) + "}"
    axes.annotate(
        words, (count, every[path[count]]), (-6, 7), textcoords="offset points", ha="right", color=METHODS["greedy"]
    )  # fmt: skip
axes.set(xlabel="weights kept", ylabel="loss $f$", xticks=range(7), xticklabels=range(6, -1, -1), ylim=(-0.25, None))
axes.legend(frameon=False, loc="upper left")
plt.show()

assert every[path[3]] > 10 * every[best[3]], "one at a time fails at keep = 3"
assert best[1] == (2,), "weight 3 is the first to go when one goes"
assert best[2] == (0, 1), "and it stays when two go"
assert max(every, key=every.get) not in (best[6], path[6]), (
    "pruning everything is not the worst: half a cancelling pair is"
)

# %% [markdown]
# Two things to take away:
#
# - **Optimal masks are not nested.** The best single weight to prune is $w_3$; the best *two* are $w_1$ and $w_2$,
#   and $w_3$ comes back. So no method that only ever prunes more, whatever its score, finds both. The keep count
#   belongs to the problem: $\sum_i m_i = k$ exactly.
# - **Greedy's answer is a local optimum.** Exchanging any one kept for any one pruned weight does not help, so even a
#   local search that starts there is stuck; one with several starts (`swap`) gets out.

# %%
stuck = answers["greedy"].mask
neighbours = []
for out_, in_ in np.ndindex(6, 6):
    if stuck[out_] and not stuck[in_]:
        neighbour = stuck.copy()
        neighbour[[out_, in_]] = False, True
        neighbours.append(block.evaluate(neighbour))
print(
    f"greedy {block.evaluate(stuck):.3f}, the best of its {len(neighbours)} one-swap neighbours {min(neighbours):.3f}"
)

several_starts = solve(block, "swap", seed=0)
print(f"swap, several starts: {several_starts.objective:.3f}, prunes {pruned(several_starts.mask)}")

assert min(neighbours) > block.evaluate(stuck)
assert np.array_equal(several_starts.mask, answers["exhaustive"].mask)

# %% [markdown]
# ## Select or refit?
#
# So far kept weights had their dense values (mode `select`): a quadratic function of bits with one cardinality
# constraint, a QUBO, what annealers and quantum computers take. In mode `refit` the kept weights are re-optimised too
# (best-subset selection): $\min f(w)$ with at most $k$ weights that are not zero. A pair that backs each other up is
# then as cheap to break as a pair that cancels: the survivor takes over.

# %%
rows = {
    mode: [solve(replace(block, keep=k, mode=mode), "exhaustive") for k in range(7)] for mode in ("select", "refit")
}
two_steps = [form.value(form.refit(answer.mask)) for answer in rows["select"]]

figure, (curves, bars) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
kept = range(7)
curves.plot(kept, [max(a.objective, 1e-3) for a in rows["select"]], "o-", color="#0072B2", label="select, optimal")
curves.plot(
    kept, [max(v, 1e-3) for v in two_steps], "s--", color="#56B4E9", label="select's mask, then refitted", markersize=5
)  # fmt: skip
curves.plot(kept, [max(a.objective, 1e-3) for a in rows["refit"]], "D-", color="#6B4C9A", label="refit, optimal")
curves.set(xlabel="weights kept", ylabel="loss $f$", yscale="log", xlim=(6.2, -0.2))
curves.set_yticks([1e-3, 1e-2, 1e-1, 1], ["≤ 10⁻³", "10⁻²", "10⁻¹", "1"])
curves.legend(frameon=False, loc="lower right")

shown = {
    "dense": (dense, "#BBBBBB"),
    f"select, prunes {pruned(rows['select'][3].mask)}": (rows["select"][3].weights, "#0072B2"),
    f"refit, prunes {pruned(rows['refit'][3].mask)}": (rows["refit"][3].weights, "#6B4C9A"),
}
for shift, (label, (weights, colour)) in zip((-0.27, 0.0, 0.27), shown.items(), strict=True):
    bars.bar(np.arange(6) + shift, weights, width=0.25, color=colour, label=label)
bars.axhline(0, color="black", linewidth=0.8)
bars.set(xticks=range(6), xticklabels=[f"$w_{i + 1}$" for i in range(6)], ylabel="weight")
bars.set_title("keep = 3", fontsize=10)
bars.legend(frameon=False, fontsize=9, loc="lower right")
plt.show()

select, refit = rows["select"][3], rows["refit"][3]
assert refit.objective < two_steps[3] < select.objective
assert pruned(refit.mask) == (1, 2, 4), "refit breaks up the pair that backs each other up"
assert refit.weights[4] > 1.2, "weight 5 does the work of both"
assert rows["select"][5].objective > rows["select"][4].objective, "keeping more can cost more"
assert all(r.objective <= s.objective + 1e-12 for r, s in zip(rows["refit"], rows["select"], strict=True))

# %% [markdown]
# The mask that is best for `select` is not the best for `refit`. Choosing in one mode and refitting afterwards (the
# dashed line, what `Refit(mask solver)` does) is a good heuristic and no more: with three weights kept, and with
# five, it stays above the optimum.
#
# Note also the left end: in mode `select`, keeping **exactly** five weights costs more than keeping four. With one to
# go, $w_3$ is the cheapest; with two to go, the cancelling pair is cheaper still. In mode `refit` this cannot happen,
# since a kept weight may become zero.
#
# ## Is this contrived?
#
# The example is; the effect is not. Here are blocks of 16 weights that lead into one neuron of a small network
# trained on handwritten digits, half of them kept. $\binom{16}{8} = 12\,870$ masks can still be tried one by one. The
# gap is 0 at the optimum and 1 at what a random mask gives.

# %%
names = ("magnitude", "obd", "greedy", "swap")
gaps = {name: [] for name in names}
for seed in range(size["real_blocks"]):
    try:
        real = cut_block("digits-mlp", size=16, density=0.5, select="row", seed=seed)
    except InvalidInput:
        continue  # all inputs are dark border pixels, or the neuron never fires: any mask will do
    optimum = solve(real, "exhaustive").objective
    for name in names:
        gaps[name].append(real.gap(solve(real, name, seed=0).objective, optimum))

figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
colours = {**METHODS, "swap": plot.colour("swap")}
spread = np.random.default_rng(0)
for at, name in enumerate(names):
    found = sum(gap < 1e-9 for gap in gaps[name])
    axes.scatter(gaps[name], at + spread.uniform(-0.2, 0.2, len(gaps[name])), s=18, alpha=0.7, color=colours[name])
    axes.text(1.02, at, f"optimal on {found} of {len(gaps[name])}", transform=axes.get_yaxis_transform(), va="center")
axes.axvline(1, color="black", linewidth=0.9, linestyle="--")
axes.set(
    yticks=range(len(names)), yticklabels=names, xlabel="gap to the optimum (dashed: a random mask)", ylim=(3.6, -0.6)
)
axes.set_xscale("symlog", linthresh=1e-3)
axes.set_xlim(-3e-4, 4)
axes.set_xticks([0, 1e-3, 1e-2, 1e-1, 1], ["0", "0.001", "0.01", "0.1", "1"])
plt.show()

mean = {name: np.mean(values) for name, values in gaps.items()}
assert mean["magnitude"] > mean["greedy"] > mean["swap"]
assert min(min(values) for values in gaps.values()) >= 0.0, "no solver beats the exhaustive optimum"

# %% [markdown]
# ## And with more weights?
#
# The number of masks, $\binom{p}{k}$, is about $10^{4}$ for 16 weights and $10^{18}$ for 64. That is where solvers
# begin: local search, annealing, branch and bound with a proof, quantum circuits. Notebook 02 lets them compete.
#
# **To try.** (a) Make $w_1$ and $w_2$ the same sign: which method is right now? (b) Give $x_2$ more noise until
# `greedy` finds the optimum at `keep=3`. (c) Build a block of six weights on which `swap` with one restart
# (`options={"restarts": 1}`) fails.
