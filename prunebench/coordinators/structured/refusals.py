"""Which options of structured pruning do not fit each other."""

import math

from prunebench.coordinators.structured.calibration import require_calibration
from prunebench.coordinators.structured.options import StructuredOptions
from prunebench.core.coordinator import Setting
from prunebench.core.errors import InvalidInput, SolverRefused
from prunebench.core.group_form import GroupForm
from prunebench.core.problem import selection
from prunebench.core.solver import facts, solves
from prunebench.curvature.group_scores.names import GATES, require_score


def layers_choose(setting: Setting) -> bool:
    """Whether groups are chosen layer by layer, by the error that the refit leaves."""
    options: StructuredOptions = setting.options
    if options.choice == "auto":
        return setting.mode == "refit" and solves(setting.solver, GroupForm)
    return options.choice == "layers"


def require(setting: Setting) -> None:
    """Raise InvalidInput or SolverRefused if options do not fit each other."""
    options: StructuredOptions = setting.options
    taus = options.taus(setting.mode)
    require_score(options.score)
    require_calibration(options.calibration)
    if options.score != GATES and taus != (0.0,):
        raise InvalidInput(
            f"score {options.score} says nothing of two groups together: leave couplings out, or take score {GATES}"
        )
    if options.calibration and len(taus) > 1:
        raise InvalidInput(
            "several couplings are judged on held-out samples of the problem, which calibration is to do without: "
            "give one, such as couplings 0"
        )
    if options.allocation != "cost" and options.budget == "latency":
        raise InvalidInput(
            f"allocation {options.allocation} says the counts, and so does a budget of time: leave one of them out"
        )
    if options.allocation == "measured" and setting.mode != "refit":
        raise InvalidInput("allocation measured is of refitted networks; use it with mode refit")
    for name, least in (
        ("samples", 1), ("tokens", 1), ("draws", -1), ("multiple", 1), ("latency_batch", 1),
        ("measured_samples", 1),
    ):  # fmt: skip
        if getattr(options, name) < least:
            raise InvalidInput(f"coordinator structured: {name} is {getattr(options, name)}; at least {least}")
    if not (options.ridge > 0.0 and math.isfinite(options.ridge)):
        raise InvalidInput(f"coordinator structured: ridge is {options.ridge}; give a number above 0")
    if not (options.temperature > 0.0 and math.isfinite(options.temperature)):
        raise InvalidInput(f"coordinator structured: temperature is {options.temperature}; give a number above 0")
    if options.targets == "own" and not layers_choose(setting):
        raise InvalidInput(
            "targets own is what a layer gives before its groups are chosen, which only choice layers sees: add "
            "--choice layers, or take targets dense"
        )
    if options.allocation == "block":
        _require_budget(setting)
    if options.budget != "latency" and (options.runtime != "torch" or options.latency_table):
        raise InvalidInput("runtime and latency_table are of a budget of time: add --latency PART")
    others = [step.name for step in setting.recovery if not step.of_groups]
    if others or len(setting.recovery) > 1:
        raise InvalidInput(
            "coordinator structured refits layers by itself, and takes recovery distil alone; leave out "
            f"{', '.join(others) or 'what is given twice'}"
        )
    if any(selection(setting.problem).patterns):
        raise InvalidInput(
            "include and exclude choose matrices; structured pruning takes families by option structure "
            "(kinds, or patterns of their names)"
        )
    groups = solves(setting.solver, GroupForm)
    if options.choice == "layers":
        if setting.mode != "refit":
            raise InvalidInput("choice layers is by the error that a refit leaves; use it with mode refit")
        if not groups:
            raise SolverRefused(
                f"solver {setting.solver.name} takes no group supports, which choice layers asks for; "
                "take group-swap, group-greedy or osscar"
            )
    elif groups and not layers_choose(setting):
        raise SolverRefused(
            f"solver {setting.solver.name} takes group supports alone, by which layers choose in mode refit; leave out "
            f"{'choice gates' if setting.mode == 'refit' else 'mode select'}, or take another solver"
        )


def _require_budget(setting: Setting) -> None:
    """Refuse what cannot stand beside counts that the block decides."""
    options: StructuredOptions = setting.options
    if layers_choose(setting):
        raise InvalidInput(
            "allocation block decides counts and choice in one block of gates; choice layers decides layer by layer: "
            "take allocation cost"
        )
    if options.multiple > 1 or options.uniform:
        raise InvalidInput(
            "multiple and uniform tie groups together, and with allocation block a solver chooses each by itself: "
            "take allocation cost"
        )
    if not facts(setting.solver).budgets:
        raise SolverRefused(
            f"solver {setting.solver.name} takes no budget, which allocation block asks for; take swap, obd or "
            "branch-and-bound, or allocation cost"
        )
