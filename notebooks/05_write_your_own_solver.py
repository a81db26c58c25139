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
# # 05 · Write your own solver in 20 lines, and have it tested
#
# A solver is a frozen dataclass: its fields are its options, a few class facts say what it can do, and `search`
# offers masks. It knows nothing of networks. Once it is registered it works everywhere: in `solve`, in comparisons,
# in iCBS, on the command line.

# %%
# %matplotlib inline
import os
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

import prunebench
from prunebench import Solver, Stop, plot, register_solver, solve
from prunebench.comparison.table import summary
from prunebench.runs.cut import cut_block
from prunebench.testing.conformance import CHECKS, assert_conforms, families

SIZES = {
    "small": {"seeds": 1, "compare": {"sizes": (32,), "blocks": 2, "seeds": 2, "time_limit": 0.1}},
    "default": {"seeds": 5, "compare": {"sizes": (16, 32, 64), "blocks": 4, "seeds": 3, "time_limit": 1.0}},
}
size = SIZES[os.environ.get("PRUNEBENCH_NOTEBOOK_SIZE", "default")]

plt.rcParams["figure.dpi"] = 100

# %% [markdown]
# ## The algorithm: random exchange
#
# Start at the incumbent. Exchange `swaps` randomly chosen kept weights for as many pruned ones, keep the new mask if
# it is better, and stop after `patience` failures in a row. It is simple, and it already sees all pair terms, since
# it asks the block for the objective of the whole mask.


# %%
@register_solver
@dataclass(frozen=True, kw_only=True)
class RandomExchange(Solver):
    """Exchange a few random weights while that helps; stop after `patience` failures in a row."""

    name = "random-exchange"
    stochastic = True

    swaps: int = 1
    patience: int = 200

    def refuses(self, block):
        return "" if self.swaps >= 1 else f"swaps is {self.swaps}; choose at least 1"

    def search(self, best, rng):
        tried, failures = 0, 0
        count = min(self.swaps, best.block.keep, best.block.p - best.block.keep)
        while failures < self.patience:
            if stop := best.stop(tried):
                return stop
            mask = best.mask.copy()
            mask[rng.choice(np.flatnonzero(best.mask), count, replace=False)] = False
            mask[rng.choice(np.flatnonzero(~best.mask), count, replace=False)] = True
            tried += 1
            failures = 0 if best.offer(mask, "exchange") else failures + 1
        return Stop.finished(f"{failures} failures in a row")


# %% [markdown]
# What the parts are for:
#
# - `refuses` says why a block is not taken, **with the remedy**; `""` accepts it.
# - Random numbers come **only from `rng`**: the same seed gives the same answer.
# - `best` is the incumbent: it begins with the block's own, and `best.offer(mask, source)` has the block evaluate a
#   mask (in mode `refit` with its weights re-optimised) and takes it if it is better. A solver never reports an
#   objective of its own.
# - `best.stop(tried)` says why to stop now; running out of budget is a normal end.
# - A block with one feasible mask, Ctrl-C and the solution itself are the base class' work.
#
# It works at once:

# %%
block = cut_block("digits-mlp", size=32, density=0.5, select="row", seed=0)
for options in ({}, {"swaps": 2}, {"patience": 2000}):
    answer = solve(block, "random-exchange", options=options, seed=0)
    print(f"{options!s:<20} {answer.objective:.6e}   {answer.stop_reason}")
print(f"{'magnitude':<20} {block.evaluate(block.incumbent):.6e}")
proved = solve(block, "branch-and-bound")
print(f"{'the optimum':<20} {proved.objective:.6e}   {proved.stop_reason}")

assert proved.objective <= solve(block, "random-exchange", seed=0).objective < block.evaluate(block.incumbent)

# %% [markdown]
# ## Have it tested
#
# The conformance suite is shipped with prunebench. It runs every check on every family of instances (Gaussian, rank
# two, equal weights, cancelling pairs, duplicate and zero columns, real blocks, …) in both modes and compares with
# brute force:

# %%
for name, check in CHECKS.items():
    print(f"{name:<46} {check.__doc__.splitlines()[0]}")
print("families:", ", ".join(families()))

# %%
assert_conforms(RandomExchange(), seeds=range(size["seeds"]))
print(f"random-exchange conforms: {len(CHECKS)} checks, {len(families())} families, 2 modes, {size['seeds']} seed(s)")

# %% [markdown]
# ## A suite is worth what it catches
#
# Here is the same solver with a fault that is easy to make and hard to see: it draws from a generator of its own
# instead of `rng`. The answers are feasible and good; they are only not reproducible.


# %%
class Forgetful(RandomExchange):
    name = "forgetful"

    def search(self, best, rng):
        return super().search(best, np.random.default_rng())


caught = ""
try:
    assert_conforms(Forgetful(patience=3), seeds=range(size["seeds"]))
except AssertionError as error:
    caught = str(error).splitlines()[0]
print("caught:", caught)
assert "same_seed_same_answer" in caught

# %% [markdown]
# ## Let it compete
#
# Registered solvers are known to comparisons by name, and options are written after a colon. (`cache=False`: the
# cache of answers recognises edited solvers by their source file, which a notebook does not have.)

# %%
frame = prunebench.compare(
    "digits-mlp",
    ["random-exchange", "random-exchange:swaps=2,patience=1000", "branch-and-bound"],
    select="row",
    cache=False,
    **size["compare"],
)
columns = ["gap", "gap_to", "success", "time_to_solution", "seconds"]
display(summary(frame).set_index(["p", "solver"])[columns].round(4))

# %%
display(plot.quality_against_time(frame))

# %%
by_solver = frame.groupby("solver")["gap"].mean()
assert by_solver["random-exchange"] < by_solver["random"], "a search beats sampling"
assert by_solver["random-exchange"] > by_solver["branch-and-bound"] - 1e-12

# %% [markdown]
# ## From the notebook into a package
#
# - In prunebench itself: one file in `solvers/`, with types and docstrings; the tests find it. See
#   `solvers/README.md`.
# - In a package of your own: leave the decorator out and name the class in `pyproject.toml`,
#
#   ```toml
#   [project.entry-points."prunebench.solvers"]
#   random-exchange = "my_package.random_exchange:RandomExchange"
#   ```
#
#   and `prunebench solve b.npz --solver random-exchange` works wherever the package is installed. In your tests,
#   `assert_conforms(RandomExchange())` is one line.
# - **To try.** Each step here costs a whole objective, 2np operations. `solvers/swap.py` gets the change of all swaps
#   at once from the fields E changes by. How much faster can you make yours, without failing a check?
