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
# # 03 · iCBS on Fashion-MNIST: quality against time
#
# A network is too large for one block problem. iCBS (Rosenberg et al., arXiv 2411.17796) is block coordinate descent:
# pick a block of weights, model the loss about the **current** weights, let a solver choose which of them are kept,
# accept the answer if the loss falls on samples the model did not see, repeat. Any solver can sit inside. Here we
# watch what each second buys.

# %%
# %matplotlib inline
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from prunebench import make_problem, plot
from prunebench.log.run_directory import next_free
from prunebench.runs.prune import PruneRequest, prune

SIZES = {"small": {"steps": 4, "strong_steps": 2, "every": 1}, "default": {"steps": 90, "strong_steps": 20, "every": 3}}
size = SIZES[os.environ.get("PRUNEBENCH_NOTEBOOK_SIZE", "default")]
DENSITY = 0.1

plt.rcParams["figure.dpi"] = 100

GARMENT, FALLBACK = "garment-fashion-mnist", "digits-mlp"
missing = make_problem(GARMENT).missing()
PROBLEM = FALLBACK if missing else GARMENT
print(f"This run prunes {PROBLEM}: {make_problem(PROBLEM).summary}.")
if missing:
    print(f"It is not {GARMENT}, whose data are not there; set PRUNEBENCH_DATA to the folder that holds them.")

# %% [markdown]
# ## Four runs at density 0.1
#
# Nine of ten weights go. The runs, each in its own run directory:
#
# | run | what it is |
# |---|---|
# | magnitude, one-shot | keep the largest weights of the whole network. The baseline, a point at its own time |
# | iCBS, swap, select, blocks of 1024 | published settings: 90 steps, every answer applied; local search |
# | iCBS, anneal, select, blocks of 1024 | the same with simulated annealing, the solver that the paper used |
# | iCBS, swap, refit, blocks of 512 | fewer, larger steps of three blocks, kept weights free, accepted by true loss |
#
# The last run differs from the first two in mode, block size and acceptance, and not in the solver alone: its name
# says so, and a comparison of *solvers* is one of the two before it.
#
# `validate_every` measures the accuracy on the test images as the run goes on, for the log only; its time is not
# counted.

# %%
whole = PROBLEM == GARMENT
published = {"steps": size["steps"], "accept": "none", "evaluate": True, "block_size": 1024 if whole else 128}
strong = {
    "steps": size["strong_steps"],
    "samples": 1000 if whole else 300,
    "block_size": 512 if whole else 128,
    "blocks_per_step": 3,
    "ridge": 0.003,
    "select": "random",
    "fixed_pruned": 0.0,
    "fixed_kept": 0.0,
    "accept_samples": 3000 if whole else None,
}
icbs_swap = {"coordinator": "icbs", "solver": "swap", "solver_options": {"restarts": 1}}
icbs_anneal = {"coordinator": "icbs", "solver": "anneal", "solver_options": {"sweeps": 100, "reads": 10}}
REQUESTS = {
    "magnitude, one-shot": {"solver": "magnitude", "mode": "select", "curvature": {"samples": 10}},
    f"iCBS, swap, select, blocks of {published['block_size']}": {**icbs_swap, "coordinator_options": published},
    f"iCBS, anneal, select, blocks of {published['block_size']}": {**icbs_anneal, "coordinator_options": published},
    f"iCBS, swap, refit, blocks of {strong['block_size']}": {
        **icbs_swap,
        "mode": "refit",
        "coordinator_options": strong,
    },
}

runs, results = {}, {}
for name, wanted in REQUESTS.items():
    runs[name] = next_free(Path("runs"), PROBLEM)
    request = PruneRequest(problem=PROBLEM, density=DENSITY, validate_every=size["every"], seed=0, **wanted)
    results[name] = prune(request, out=runs[name])

magnitude, *_, refit = results
dense = results[magnitude]
print(f"{'dense':<37} accuracy {dense['dense_accuracy']:.4f}  loss {dense['dense_loss']:.4f}")
for name, result in results.items():
    quality = f"accuracy {result['accuracy']:.4f}  loss {result['loss']:.4f}"
    print(f"{name:<37} {quality}  kept {result['kept']}  coordinator {result['timings']['solve']:.1f} s")

# %%
keep = round(DENSITY * dense["total"])
assert all(result["kept"] == keep for result in results.values()), "every run keeps exactly the same number of weights"
assert results[refit]["loss"] < results[magnitude]["loss"], "iCBS beats magnitude pruning"

# %% [markdown]
# ## Accuracy against time
#
# Dashed: the dense network. Magnitude pruning is one point, at the left; the question for every other method is what
# it adds for its seconds. A curve that is above another at the same second is better **at that budget**, wherever the
# two end. The published settings apply every answer, so the curve goes up and down; with acceptance by true loss on
# unseen samples it mostly rises.
#
# A solver has the same colour here as in every figure and report; the marker and the dashes tell its runs apart.

# %%
display(plot.accuracy_against_time(runs))

# %% [markdown]
# ## What the coordinator sees
#
# Each step logs what the quadratic model predicted and what the loss did: on the left on the samples that the model
# was made from, on the right on samples set apart, which it has not seen. On the dotted line the prediction is right;
# above it, the model promised too much. Early steps are large and real gains. Later ones are small, and on unseen
# samples nearly as often losses as gains: there the model fits the samples and not the loss. This is why acceptance
# is by true loss on samples set apart, and why each step takes fresh gradients.

# %%
display(plot.steps_against_true(runs))


# %%
def events(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


logs = {name: events(folder) for name, folder in runs.items() if name != magnitude}
for name, log in logs.items():
    accepted = [event for event in log if event["accepted"]]
    split = {phase: np.mean([event["times"].get(phase, 0.0) for event in log]) for phase in log[0]["times"]}
    phases = ", ".join(f"{phase} {1000 * seconds:.0f} ms" for phase, seconds in split.items())
    print(f"{name:<37} {len(accepted)} of {len(log)} steps accepted; a step: {phases}")
    assert all(event["kept"] == keep for event in log), "the keep count holds after every step"

# %% [markdown]
# ## Where the weights are kept
#
# The share of each layer that is kept. Magnitude pruning ranks all weights of the network together, and the last
# layer keeps the most. The first mask of iCBS has the same density in every layer, and blocks within a layer keep it
# so; with `block_scope=network` weights may move between layers.

# %%
display(plot.density_per_layer(runs))

# %% [markdown]
# ## To go on
#
# - `prunebench prune garment-fashion-mnist --density 0.1 --coordinator icbs --solver swap --steps 90 --out runs/first`
#   is the same from the command line; `prunebench resume runs/first` continues it after an interruption, to the same
#   mask.
# - `prunebench report runs` puts all of this on one page.
# - Swap another solver in: `"solver": "branch-and-bound"` proves each small block optimal, and notebook 04 does it
#   with hardware.
# - One seed is an anecdote. `benchmarks/icbs.py` runs five and prints mean and standard deviation.
