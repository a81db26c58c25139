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
# # 02 · Compare solvers on real blocks
#
# `prunebench.compare` lets every solver work on **identical** blocks: blocks × solvers × seeds. The objective of
# every answer is recomputed by the block in float64, and each row carries the block's hash. Three baselines are rows
# of every comparison: random sampling, greedy elimination, and multi-start swap descent. Here we run one and learn to
# read its figures.

# %%
# %matplotlib inline
import os

import matplotlib.pyplot as plt
from IPython.display import Markdown, display

import prunebench
from prunebench import plot
from prunebench.comparison.table import summary
from prunebench.measures import GLOSSARY

SIZES = {
    "small": {"sizes": (8, 32), "blocks": 2, "seeds": 2, "time_limit": 0.1},
    "default": {"sizes": (16, 32, 64, 128), "blocks": 4, "seeds": 3, "time_limit": 1.0},
}
size = SIZES[os.environ.get("PRUNEBENCH_NOTEBOOK_SIZE", "default")]

plt.rcParams["figure.dpi"] = 88

# %% [markdown]
# ## The comparison
#
# The blocks are rows of a small network on handwritten digits: consecutive weights that lead into the same neuron,
# whose inputs are correlated pixels, so that the pair terms matter. Half of the weights are kept. Each solve may take
# `time_limit` seconds.
#
# A name may carry options: `"anneal:sweeps=50"`. The run directory can be resumed after an interruption, and answers
# are cached by block, solver, options, seed and code, so running this cell again is cheap.

# %%
frame = prunebench.compare(
    "digits-mlp",
    ["magnitude", "branch-and-bound", "anneal", "neal", "qaoa-subspace"],
    sizes=size["sizes"],
    densities=(0.5,),
    blocks=size["blocks"],
    seeds=size["seeds"],
    time_limit=size["time_limit"],
    select="row",
)
print(f"{len(frame)} rows in {frame.attrs['directory']}, {frame.attrs['skipped']} of them skipped")
frame[["solver", "p", "seed", "block_hash", "objective", "gap", "gap_to", "status", "seconds", "skipped"]].assign(
    block_hash=frame["block_hash"].str[:8], skipped=frame["skipped"].str[:40]
).head(12)

# %%
assert (frame.groupby("block_index")["block_hash"].nunique() == 1).all(), "all solvers had the same blocks"
assert {"random", "greedy", "swap"} <= set(frame["solver"]), "the baselines are always there"
solved = frame[frame["skipped"] == ""]
assert (solved["gap"] >= 0).all(), "no answer is better than a proven bound"
assert (solved.loc[solved["status"] == "optimal", "gap"] < 1e-6).all()

# %% [markdown]
# ## The measures
#
# Every number below has one definition, kept with the code that computes it:

# %%
terms = (
    "gap", "gap to best", "random mean", "anytime curve", "success probability", "time to target",
    "time to solution", "primal integral", "performance profile", "confidence interval",
)  # fmt: skip
display(Markdown("\n".join(f"- **{term}**: {GLOSSARY[term]}" for term in terms)))

# %% [markdown]
# ## The table
#
# One row for each block size and solver. Read `gap` first, then whether it is a gap to a proven `bound` or only to
# the `best` that any solver here found: the second compares the solvers with each other, not with the optimum.
# `time_to_solution` puts speed and reliability into one number. A solver that does not take a block is not missing,
# it is *skipped*, with its reason.

# %%
table = summary(frame)
columns = ["gap", "gap_to", "optimal", "success", "time_to_solution", "primal_integral", "seconds"]
display(table.set_index(["p", "solver"])[["runs", *columns]].round(4))
for _, row in table[table["skipped"] > 0].iterrows():
    print(f"p={row['p']}  {row['solver']} skipped: {row['reason']}")

# %%
gaps = table.pivot(index="solver", columns="p", values="gap")
largest = max(size["sizes"])
assert gaps.loc["magnitude", largest] > gaps.loc["swap", largest], "couplings matter"
assert gaps.loc["random", largest] > gaps.loc["swap", largest], "and 10,000 random masks do not replace a search"

# %% [markdown]
# ## Who is best
#
# The final answers of each block size, best solver first. The bar is the mean gap to the best answer known, the
# whisker its 95 % interval over blocks: blocks are drawn again and again with replacement, and the means of the draws
# lie between its ends 95 times of 100. Fewer than three blocks say nothing of how blocks differ, and have none.
# Where whiskers overlap, look at the page of the comparison: its verdict compares solvers block by block.

# %%
display(plot.ranking(frame))

# %% [markdown]
# ## Quality against time
#
# For each solver the mean gap of its best answer so far. **Lower and further left is better.** Where two curves
# cross, the answer to "which solver?" depends on the time there is. A curve that ends early belongs to a solver that
# stops by itself; one that runs to the right edge uses all the time it is given, even if its last improvement came
# early. The band is the 95 % interval over blocks.

# %%
display(plot.quality_against_time(frame))

# %% [markdown]
# ## Gap against block size
#
# The final answers only. Small blocks do not tell solvers apart: with 16 weights nearly every solver finds the
# optimum. What matters is **how the gap grows with the block**, and which solver still proves a bound.

# %%
display(plot.gap_against_size(frame))

# %% [markdown]
# ## Performance profile
#
# One curve a solver over all blocks at once. At the left edge (τ = 1) it shows the share of instances on which the
# solver was the **fastest** to reach the target, at the right edge the share that it reached **at all**. High on the
# left means fast, high on the right means reliable. A profile compares with the best of those present: add a solver,
# and all curves move.

# %%
display(plot.performance_profile(frame))

# %% [markdown]
# ## Time to solution of the stochastic solvers
#
# How long must one repeat runs until one has succeeded with probability 99 %? A point is the median over the blocks of
# a size. A point at “never” means that in half of these blocks or more **no** seed reached the target; in the others
# some may have. A whisker up to “never” says that a few other blocks would have moved the median there.

# %%
display(plot.time_to_solution(frame))

# %% [markdown]
# ## Does a better answer make a better network?
#
# The solvers minimise a quadratic model. Each answer was also written into the network, and the loss on validation
# samples measured. Both axes show the change from magnitude pruning of the same block; below zero on the vertical
# axis the network itself got better. Both axes are logarithmic on either side of zero, since most changes are small:
# these blocks are a small part of the network, half of which is kept, and the loss on a few hundred samples hardly
# notices. Follow the large changes, far from the middle: they agree in sign. Notebook 06 asks where the model can be
# trusted.

# %%
display(plot.model_against_true(frame))
known = solved.dropna(subset=["true_change"])
better = known[known["model_change"] < 0]
share, correlation = (better["true_change"] < 0).mean(), known["model_change"].corr(known["true_change"])
print(f"{share:.0%} of the answers that the model calls better than magnitude make the true loss smaller")
print(f"correlation of model change and true change: {correlation:.2f}")
assert len(better) > 0

# %% [markdown]
# ## Before you conclude
#
# - **Seconds depend on the machine** and on what else it does; ratios of ten carry over, ratios of 1.2 do not.
#   Compilation and imports are left out: each solver first solves a small instance.
# - **A time limit is a choice.** Solvers that use all of it look slow in a table of seconds and may have been done
#   long before: read `time_to_target`.
# - **Defaults are not tuned.** Every option is a field; `prunebench solvers NAME` lists them.
# - The same figures as one interactive page: `prunebench report DIR`, with the directory that was printed above. As
#   vector files: `plot.save(figure, "gap.pdf")`.
