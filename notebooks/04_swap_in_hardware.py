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
# # 04 · Swap in hardware
#
# Every solver gets the same block problem. Hardware is one more solver: its name changes, the cell does not.
#
# - **Annealing**: `anneal` (our own) → `neal` (D-Wave's simulated annealing) → `dwave-mock` (the path of a device
#   without the device) → `dwave`.
# - **Gates**: `qaoa` on a state vector → on Aer → on a noisy fake device → on an IBM backend.
#
# Nothing is submitted to a machine unless `HARDWARE` below is set to `True` by you. What is not installed is left out,
# and the cell says what brings it; `pip install 'prunebench[notebooks]'` brings all of it.

# %%
# %matplotlib inline
import logging
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas
from IPython.display import display

from prunebench import Budget, make_solver, plot, solve
from prunebench.core.errors import MissingPackage
from prunebench.runs.cut import cut_block
from prunebench.solvers.qaoa.samples import baselines

SIZES = {
    "small": {"weights": 16, "seconds": 0.5, "qubits": 6, "shots": 256},
    "default": {"weights": 32, "seconds": 2.0, "qubits": 8, "shots": 1024},
}
size = SIZES[os.environ.get("PRUNEBENCH_NOTEBOOK_SIZE", "default")]
HARDWARE = False  # True submits jobs to D-Wave and IBM Quantum, on your accounts

logging.getLogger("prunebench.qaoa").setLevel(logging.ERROR)  # `run_circuit` prints the same itself
plt.rcParams.update({"figure.dpi": 100, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## Annealing
#
# A block of a small network on handwritten digits, with its optimum proved, so that every gap below is to the truth:
# 0 is the optimum, 1 what a random mask gives.

# %%
block = cut_block("digits-mlp", size=size["weights"], density=0.5, select="row", seed=0)
optimum = solve(block, "branch-and-bound")
assert optimum.status == "optimal"


def gap(objective):
    return np.nan if objective is None else block.gap(objective, optimum.objective)


# %% [markdown]
# ### One cell for all of them
#
# A sampler's answer comes in three stages, and we keep them apart, since the last can hide what the machine did:
#
# 1. **raw**: the best sample that happens to keep exactly $k$ weights. `anneal` holds the count in every state; the
#    others take it as a linear term and a penalty in their energy, and many of their samples miss it;
# 2. **repaired**: samples with a wrong count, fixed by single flips;
# 3. **polished**: after the swap descent that all samplers share.

# %%
annealers = {}


def run(name, **options):
    try:
        answer = solve(block, name, options=options, budget=Budget(seconds=size["seconds"]), seed=0)
    except MissingPackage as error:
        print(f"left out: {error}")
        return None
    details, before = answer.details, answer.details.get("objective_before_polish", answer.objective)
    annealers[name] = {
        "reads": details.get("reads"),
        "feasible before repair": details.get("feasible_share", 1.0),
        "gap raw": gap(details.get("objective_raw", before)),
        "gap repaired": gap(details.get("objective_repaired", before)),
        "gap polished": gap(answer.objective),
        "chains broken": details.get("chain_break_fraction"),
        "seconds": answer.timings["total"],
    }
    return answer


# %%
answer = run("anneal")

# %%
answer = run("neal")

# %%
answer = run("dwave-mock")

# %% [markdown]
# `dwave-mock` has the real topology (Pegasus, cut to 8×8), finds the real clique embedding, sets chains and unembeds
# them, and returns the timing fields of a device. **Its samples come from a classical stand-in and its times are
# constants**: it tests the path, not the physics.
#
# The machine itself needs `pip install dwave-system` and a token (`dwave config create`, or `DWAVE_API_TOKEN`). Then
# it is the same line:

# %%
if HARDWARE:
    answer = run("dwave", reads=1000)  # run("dwave", device="hybrid-cqm") for Leap's hybrid solver
else:
    print("not submitted: HARDWARE is False")

# %%
frame = pandas.DataFrame(annealers).T
display(frame.astype(float).round(5))

stages = {"raw": 0.35, "repaired": 0.65, "polished": 1.0}  # and how opaque their bars are
FLOOR = 1e-6  # gaps below this, 0 among them, are drawn here
colours = [plot.colour(name) for name in annealers]
places = np.arange(len(annealers))
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(1, 2.6), layout="constrained")
left.barh(list(annealers), [row["feasible before repair"] for row in annealers.values()], color=colours)
left.invert_yaxis()
left.set(xlabel="share of samples that keep exactly k", xlim=(0, 1.02))
for shift, (stage, opacity) in zip((-0.27, 0, 0.27), stages.items(), strict=True):
    gaps = np.array([row[f"gap {stage}"] for row in annealers.values()], dtype=float)
    heights = np.maximum(np.nan_to_num(gaps, nan=FLOOR), 2 * FLOOR)
    right.bar(places + shift, heights, width=0.25, color=colours, alpha=opacity)
    for place, height, value in zip(places + shift, heights, gaps, strict=True):
        words = "none" if np.isnan(value) else "0" if value < 1e-9 else f"{value:.1g}"
        right.annotate(
            f"{stage}\n{words}", (place, height), (0, 3), textcoords="offset points", ha="center", fontsize=7.5
        )
right.set(
    xticks=places,
    xticklabels=list(annealers),
    ylabel="gap of the best sample to the optimum",
    yscale="log",
    ylim=(FLOOR, 1),
)
plt.show()

assert annealers["anneal"]["feasible before repair"] == 1.0, "native cardinality: every sample is feasible"
if "dwave-mock" in annealers:
    assert annealers["dwave-mock"]["chains broken"] is not None, "the mock embeds, chains and unembeds"
for row in annealers.values():
    assert row["gap polished"] <= np.nanmin([row["gap raw"], row["gap repaired"]]) + 1e-12, "polishing never hurts"

# %% [markdown]
# Read it from left to right: what share of the samples is usable as it comes, how good the best of them is, what
# repair adds, and how much of the final answer is the classical polish. The scale is logarithmic; a stub on the axis
# is a gap of 0, the optimum itself. A comparison of *machines* is a comparison of
# the raw column. A comparison of *workflows* is one of the last.

# %% [markdown]
# ## Gates
#
# The same change of one word, with a smaller block: a state vector of $p$ qubits has $2^p$ amplitudes. The circuit
# starts in the Dicke state (all masks with $k$ ones at once), and its mixer exchanges ones with zeros, so without
# noise **every sample keeps exactly $k$ weights**.

# %%
small = cut_block("digits-mlp", size=size["qubits"], density=0.5, select="row", seed=2)
best = solve(small, "exhaustive").objective
circuits = {}


def run_circuit(sampler, **options):
    solver = make_solver("qaoa", {"sampler": sampler, "shots": size["shots"], "polish": True, **options})
    try:
        plan = solver.plan(small)  # what would be submitted, without submitting
    except MissingPackage as error:
        print(f"left out: {error}")
        return
    gates = f"{plan['two_qubit_gates']} two-qubit gates, depth {plan['depth']}"
    print(f"{sampler}: {plan['qubits']} qubits, layers: {plan['reps']}, {gates}")
    answer = solve(small, solver, seed=1)
    details = answer.details
    circuits[sampler] = {
        "two-qubit gates": plan["two_qubit_gates"],
        "feasible shots": details["feasible_share"],
        "by chance": details["feasible_share_uniform"],
        "P(optimum)": details.get("probability_optimum", 0.0),
        "P(optimum), uniform masks": details["probability_optimum_uniform"],
        "gap raw": small.gap(details["raw_objective"], best),
        "gap polished": small.gap(answer.objective, best),
        "seconds": answer.timings["total"],
    }


# %%
run_circuit("statevector")

# %%
run_circuit("aer")

# %% [markdown]
# On a device every two-qubit gate costs fidelity, so the defaults change: one layer, angles that were fixed
# beforehand instead of a loop over jobs, and we ask for the cheaper ring mixer. `fake:torino` is a snapshot of a real
# backend's topology, gates and noise, simulated locally.

# %%
run_circuit("fake:torino", mixer="ring")

# %% [markdown]
# A real backend takes an account, saved once by `QiskitRuntimeService.save_account(token=…, instance=…)`.
# `solver.plan(block)` has told what would be sent; then it is the same line:

# %%
if HARDWARE:
    run_circuit("ibm", mixer="ring", timeout=24 * 3600)  # the least busy one; "ibm:ibm_torino" for a particular one
else:
    print("not submitted: HARDWARE is False")

# %%
frame = pandas.DataFrame(circuits).T
display(frame.round(4))

beside = baselines(small, size["shots"], np.random.default_rng(1))
print(f"the best of {size['shots']} random masks: gap {small.gap(beside['random_objective'], best):.4f}")
print(f"multi-start swap descent:      gap {small.gap(beside['swap_descent_objective'], best):.4f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
places = np.arange(len(circuits))
pairs = (
    (left, "feasible shots", "by chance", "uniform bit strings", "share of shots that keep exactly k"),
    (right, "P(optimum)", "P(optimum), uniform masks", "uniform feasible masks", "share of shots that are the optimum"),
)
for axes, measured, chance, words, title in pairs:
    bars = axes.bar(places - 0.2, frame[measured], width=0.38, color=plot.colour("qaoa"), label="measured")
    axes.bar_label(bars, [f"{value:.2g}" for value in frame[measured]], fontsize=8, padding=2)
    bars = axes.bar(places + 0.2, frame[chance], width=0.38, color="#BBBBBB", label=words)
    axes.bar_label(bars, [f"{value:.2g}" for value in frame[chance]], fontsize=8, padding=2)
    axes.margins(y=0.25)  # room for the legend
    axes.set(xticks=places, xticklabels=list(circuits))
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)
plt.show()

exact = frame.loc["statevector"]
assert exact["feasible shots"] == 1.0, "the mixer keeps the number of ones"
assert exact["P(optimum)"] > exact["P(optimum), uniform masks"], "three layers concentrate on the optimum"
if "fake:torino" in frame.index:
    assert frame.loc["fake:torino", "feasible shots"] < 1.0, "noise breaks the count"

# %% [markdown]
# What to look at, in this order:
#
# 1. **Against chance.** A sampler that finds the optimum of a block with few masks has shown nothing: as many uniform
#    samples do the same. Compare the coloured bar with the grey one beside it.
# 2. **Feasible shots.** Noise turns ones into zeros. When the share comes near the grey bar, the circuit's structure
#    is gone.
# 3. **Gates.** More layers help an exact simulator and hurt a noisy device.
# 4. **One block is one block.** Three layers at these angles do not concentrate on the optimum of every block: cut
#    this one with `seed=0`, and the state vector finds it less often than chance does.
#
# Larger blocks go through sub-blocks: the option `qubits=12` solves a block of any size by circuits of 12 qubits. And
# all of these are solvers for iCBS:
# `prunebench prune digits-mlp --density 0.1 --coordinator icbs --block-size 12 --solver qaoa`.
