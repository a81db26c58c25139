"""One call that prunes a network: a torch model of the user's with its data, or a problem by name."""

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunebench.coordinators.quotas import QuotaKind
from prunebench.core import options as option_tools
from prunebench.core.block import Mode
from prunebench.core.coordinator import Coordinator, require_current
from prunebench.core.errors import (
    CannotWrite,
    Interrupted,
    InvalidInput,
    PrunebenchError,
    RunFailed,
    WorkersGone,
    unknown_name,
)
from prunebench.core.masks import keep_count
from prunebench.core.problem import (
    BlockSetProblem,
    NetworkProblem,
    ProblemLike,
    class_of,
    make_problem,
    options_as_json,
    problem_options,
)
from prunebench.core.registry import COORDINATORS, SOLVERS
from prunebench.core.solution_file import plain
from prunebench.core.subset import of_subset
from prunebench.log.run_directory import RunDirectory, require_free, resume_line
from prunebench.progress import shown
from prunebench.pruned import Pruned, from_run
from prunebench.pruned_structure import smaller_from_run
from prunebench.quiet import quiet
from prunebench.recipes import AUTO, NORMAL, choose, default_recipe, loaded, resolved
from prunebench.recovery.training.protocol import Protocol, as_text
from prunebench.runs import prune as runs
from prunebench.runs.preparation import prepare
from prunebench.runs.request import PruneRequest
from prunebench.runs.runner import Progress, Say
from prunebench.runs.structured import is_structured

OF_NETWORK = ("data", "loss", "validation", "evaluate", "prunable", "exclude", "forward", "loss_is_mean")
"""Arguments that say what an own model is; a problem by name or as an object has them in itself."""


def prune(
    model: Any,
    data: Any = None,
    *,
    loss: str | Callable[..., Any] | None = None,
    density: float | None = None,
    keep: int | None = None,
    quota: str | None = None,
    structure: str | Sequence[str] | None = None,
    flops: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    validation: Any = None,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    prunable: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    forward: Callable[[Any, Any], Any] | None = None,
    loss_is_mean: bool = False,
    recipe: str | None = AUTO,
    effort: str = NORMAL,
    coordinator: str | None = None,
    solver: str | None = None,
    mode: Mode | None = None,
    recover: Sequence[str] | None = None,
    retrain: str | Protocol | None = None,
    controls: Sequence[str] | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    device: str | None = None,
    executor: str | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Pruned:
    """Prune a network and return masks, weights and measures; the model itself is not changed.

    Parameters
    ----------
    model : a torch.nn.Module; or a registered problem by name, FILE.py:FUNCTION, or a problem object
    data, loss, validation, evaluate, prunable, exclude, forward, loss_is_mean : of a torch model, as
        `prunebench.own_network` takes them
    density : the part of the weights that is kept;  keep : in place of it, how many
    quota : "row", "layer", or "N:M", which says the density by itself
    structure : prune whole groups and get a smaller network, `prunebench.pruned_structure.Smaller`: kinds (channels,
        neurons, heads, ...) or patterns of families' names, as `StructuredOptions` has them; "" for the usual ones
    flops, params : in place of density, for structured pruning: the part of the multiply-accumulates or of the
        parameters that is kept;  latency : of the measured time, on one thread of the processor, with options runtime
        ("torch", "onnxruntime"), latency_batch=16 and latency_table (a run's latency.json)
    recipe, effort : a named way to prune, "auto" for the strongest known, None for none; quick, normal or thorough
    coordinator, solver, mode, recover : over what the recipe says; naming one of the first three leaves "auto" out
    retrain : train what was kept once pruning is over: a protocol, as text ("epochs=2,distil=0.9") or object; "" for
        the usual one. `Pruned.retrained` then has what that reaches, and the pruned network stays as it is
    controls : what the mask is compared with under the same training, in `Pruned.result["controls"]`: reinit, random,
        shuffle, one-shot, small-dense (`prunebench.core.controls.CONTROLS`)
    out : a folder for the run directory; without it nothing is left on disk
    resume : go on with the run that is in `out`, if there is one
    device : where a torch model is pruned; by default where it is
    executor : where blocks are solved: inline, local:N or dask:ADDRESS
    seed : of everything random
    progress : a bar and what is found out, on standard error; False: nothing
    options : options of solver, coordinator, curvature or problem by name (samples=500, steps=90, or bits=4 with
        group_size=128 for weights on levels, by recipe "layers" unless another is named), and the other fields of
        `prunebench.runs.request.PruneRequest` (scope, seconds, block_seconds, validate_every, start, subset)

    Raises
    ------
    InvalidInput   before any work, where something does not fit
    Interrupted, RunFailed, WorkersGone, CannotWrite   as `prunebench.runs.prune.prune`
    """
    own = {"data": data, "loss": loss, "validation": validation, "evaluate": evaluate, "prunable": prunable,
           "exclude": exclude, "forward": forward, "loss_is_mean": loss_is_mean}  # fmt: skip
    asked: dict[str, Any] = {"coordinator": coordinator, "solver": solver, "mode": mode, "recover": recover,
                             "retrain": as_text(retrain) if isinstance(retrain, Protocol) else retrain,
                             "controls": _names_of(controls), "executor": executor, "seed": seed}  # fmt: skip
    _require_names(asked)
    density, grouped = _structured(
        structure, {"density": density, "flops": flops, "params": params, "latency": latency}
    )
    if grouped:
        asked["coordinator"] = _for_groups(coordinator)
        options = {**options, "coordinator_options": {**options.get("coordinator_options", {}), **grouped}}
    folder = _folder(out, resume)
    _require_density(density, keep, quota)
    with quiet(), shown(progress) as (say, step):
        problem, asked["problem_options"] = _problem(model, own, device, seed, options)
        network = loaded(problem) if isinstance(problem, NetworkProblem) else None
        amount = _density(_total(problem, network), density, keep, quota)
        given = {name: value for name, value in asked.items() if value is not None}
        # A problem that is there already has its options: only one that was made by its name takes them here.
        taken = set(asked["problem_options"]) if isinstance(model, str) else set()
        request = _request((problem, network), amount, (recipe, effort), given, quota, options, taken, say)
        return _run(request, (problem, network), folder, resume, say, step)


STRUCTURED = "structured"
"""The coordinator that prunes whole groups where none is named."""


BUDGETS = {"flops": "macs", "params": "parameters", "latency": "latency"}
"""By argument, what structured pruning keeps a part of."""


def _structured(
    structure: str | Sequence[str] | None, parts: Mapping[str, float | None]
) -> tuple[float | None, dict[str, Any]]:
    """The density, and the options of structured pruning; none where weights are pruned.

    parts : what is kept, by the argument that says it

    Raises
    ------
    InvalidInput   a budget is said twice
    """
    given = {name: value for name, value in parts.items() if value is not None}
    if structure is None and BUDGETS.keys().isdisjoint(given):
        return parts["density"], {}
    if len(given) > 1:
        raise InvalidInput(f"{' and '.join(given)} are both given; say one of them")
    kinds = structure if isinstance(structure, str) else ",".join(structure or ())
    budget = next((BUDGETS[name] for name in given if name in BUDGETS), "macs")
    return next(iter(given.values()), None), {"structure": kinds, "budget": budget}


def _for_groups(coordinator: str | None) -> str:
    """The coordinator of structured pruning.

    Raises
    ------
    InvalidInput   another one is named
    """
    if coordinator is None:
        return STRUCTURED
    if not COORDINATORS.get(coordinator).of_groups:
        others = " or ".join(name for name in COORDINATORS.names() if COORDINATORS.get(name).of_groups)
        raise InvalidInput(
            f"structure, flops, params and latency are of coordinator {others}, and {coordinator} is given"
        )
    return coordinator


def _run(
    request: PruneRequest, what: tuple[ProblemLike, Any], folder: Path | None, resume: bool, say: Say, step: Progress
) -> Pruned:
    """Run what is asked for, in a folder that is left or in one that is not.

    what : the problem, and its network, or None where it has none
    """
    problem, network = what
    notes = tuple(getattr(problem, "told", ()))
    layers = problem.prunable() if isinstance(problem, NetworkProblem) else ()
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="prunebench-") as temporary:
            place = Path(temporary) / "run"
            with _resuming(place, "To be able to resume, give out=FOLDER and then resume=True"):
                runs.prune(request, out=place, say=say, problem=problem, network=network, progress=step)
            if is_structured(place):
                small = smaller_from_run(place, notes)
                return replace(small, result={**small.result, "run": None})
            pruned = from_run(place, notes).in_order(layers)
            return replace(pruned, result={**pruned.result, "run": None})
    with _resuming(folder, "Go on with the same call and resume=True"):
        if resume and (folder / "run.json").is_file():
            _require_same_request(request, problem, folder)
            runs.resume(
                folder,
                say=say,
                trust=True,
                executor=request.executor,
                problem=problem,
                network=network,
                progress=step,
            )
        else:
            runs.prune(request, out=folder, say=say, problem=problem, network=network, progress=step)
    if is_structured(folder):
        return smaller_from_run(folder, notes)
    return from_run(folder, notes).in_order(layers)


@contextmanager
def _resuming(place: Path, words: str) -> Iterator[None]:
    """Inside, an error that says by which command a run is resumed says how this call does it.

    place : the run directory;  words : what is said
    """

    def reworded(error: PrunebenchError) -> str:
        asked = RunDirectory.open(place).request if (place / "run.json").is_file() else None
        return str(error).replace(f"Resume with: {resume_line(place, asked)}", words)

    try:
        yield
    except (Interrupted, WorkersGone, CannotWrite) as error:
        raise type(error)(reworded(error)) from error
    except RunFailed as error:
        raise RunFailed(reworded(error), error.result) from error


def _require_same_request(request: PruneRequest, problem: ProblemLike, folder: Path) -> None:
    """Raise InvalidInput unless a run directory asks for just this, of the same network."""
    held = dict(RunDirectory.open(folder).request)
    asked = plain(runs.identified(prepare(request, lambda _line: None, problem=problem)).as_json())
    options = held.get("problem_options", {})
    if "fingerprint" in options and isinstance(asked["problem_options"], dict):
        from prunebench.networks.own import OwnNetwork, require_same

        if isinstance(problem, OwnNetwork):
            require_same(problem, {"include": "", "exclude": "", **options}, folder)
    for name, value in asked.items():
        # Where blocks are solved makes no difference to the result.
        if name != "executor" and held.get(name) != value:
            raise InvalidInput(
                f"{folder} holds a run of another request: its {name} is {held.get(name)!r}, and {value!r} is asked "
                "for; ask for the same, or give another folder"
            )


def _problem(
    model: Any, own: Mapping[str, Any], device: str | None, seed: int, options: Mapping[str, Any]
) -> tuple[ProblemLike, dict[str, Any]]:
    """The problem that is pruned, and its options as a request holds them.

    Raises
    ------
    InvalidInput   it is none, or arguments are given that it has in itself
    """
    if _is_module(model):
        from prunebench.networks.own import own_network

        return own_network(model, device=device, seed=seed, **own), {}
    if not isinstance(model, str | NetworkProblem | BlockSetProblem):
        raise InvalidInput(
            f"the model is a {type(model).__name__}; give a torch.nn.Module with its data, the name of a problem, or a "
            "problem object"
        )
    if given := [name for name in OF_NETWORK if _is_given(own[name])]:
        raise InvalidInput(f"{given[0]} is given, but a problem by name or as an object has its own; leave it out")
    if isinstance(model, str):
        known = {option.name for option in problem_options(class_of(model))}
        chosen = {**options.get("problem_options", {}), **{key: options[key] for key in options if key in known}}
        if device is not None:
            if "device" not in known:
                raise InvalidInput(f"problem {model!r} has no option device; leave device out")
            chosen["device"] = device
        return make_problem(model, chosen), chosen
    return model, options_as_json(model)


def _is_module(model: Any) -> bool:
    import torch

    return isinstance(model, torch.nn.Module)


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, bool | str | tuple | list) and not value)


def _require_density(density: float | None, keep: int | None, quota: str | None) -> None:
    """Raise InvalidInput where the part that is kept is said twice or not at all, or the quota is none."""
    pattern = QuotaKind.parse(quota).density
    if density is not None and keep is not None:
        raise InvalidInput("density and keep are both given; say one of them")
    if density is None and keep is None and pattern is None:
        raise InvalidInput("density is missing: give the part that is kept (0.1), keep=COUNT, or a quota N:M")


def _density(total: int, density: float | None, keep: int | None, quota: str | None) -> float:
    """The part of the weights that is kept, whichever way it is said.

    Raises
    ------
    InvalidInput   nothing would be kept, or more than there is
    """
    if keep is not None:
        if isinstance(keep, bool) or not isinstance(keep, int) or not 0 < keep <= total:
            raise InvalidInput(f"keep is {keep!r}; choose a whole number from 1 to the network's {total} weights")
        density = keep / total
    if density is None:
        density = QuotaKind.parse(quota).density
        assert density is not None
        return density
    keep_count(density, total)
    return density


def _total(problem: ProblemLike, network: Any) -> int:
    """How many weights there are to prune."""
    if network is not None:
        return int(network.total)
    assert isinstance(problem, BlockSetProblem)
    return problem.block(0.5, "select", 0).p


def _request(
    what: tuple[ProblemLike, Any],
    density: float,
    way: tuple[str | None, str],
    given: dict[str, Any],
    quota: str | None,
    options: Mapping[str, Any],
    taken: Collection[str],
    say: Say,
) -> PruneRequest:
    """What is asked for: the recipe, and over it what is given.

    what : the problem, and its network, or None where it has none
    way : recipe and effort;  options : by name, of whoever has them;  taken : those that the problem has taken

    Raises
    ------
    InvalidInput   something is unknown, or does not fit
    """
    problem, network = what
    given |= {name: options[name] for name in _FIELDS if options.get(name) is not None}
    if "subset" in given:
        given["subset"] = str(given["subset"])
        # what a recipe counts samples by
        problem = of_subset(problem, given["subset"])
    grouped = {} if quota is None else {"quota": quota}
    choice = choose(
        problem,
        density,
        recipe=default_recipe(given, {**options, **options.get("coordinator_options", {})})
        if way[0] == AUTO
        else way[0],
        effort=way[1],
        given={**given, "coordinator_options": grouped} if quota else given,
        network=network,
    )
    base = {} if choice.recipe is None else choice.recipe.request_fields
    kind = COORDINATORS.get(given.get("coordinator", base.get("coordinator", PruneRequest.coordinator)))
    if "solver" not in given and "solver" not in base:
        given["solver"] = kind.usual_solver({**options, **options.get("coordinator_options", {})}, given.get("mode"))
    solver = SOLVERS.get(given["solver"] if "solver" in given else base["solver"])
    tables = _tables(kind, solver, taken, options)
    tables["coordinator_options"] |= grouped
    return resolved(choice, problem, density, given | tables, say)


def _tables(
    kind: type[Coordinator], solver: type[Any], taken: Collection[str], options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Options by the field of a request that holds them, each with who has an option of that name.

    Raises
    ------
    InvalidInput   nobody has it, or several have
    """
    from prunebench.curvature.fisher import FisherOptions

    owners: dict[str, list[option_tools.Option]] = {
        "solver_options": option_tools.options_of(solver),
        "coordinator_options": option_tools.options_of(kind.options_class) if kind.options_class else [],
        "curvature": option_tools.options_of(FisherOptions) if "curvature" in kind.takes else [],
    }
    known = {owner: {option.name for option in held} for owner, held in owners.items()}
    tables = {owner: dict(options.get(owner, {})) for owner in owners}
    require_current(kind, options)
    for name, value in options.items():
        if name in (*tables, "problem_options", *_FIELDS):
            continue
        having = [owner for owner, names in known.items() if name in names]
        if len(having) + (name in taken) > 1:
            words = " or ".join([*having, *(["problem_options"] if name in taken else [])])
            raise InvalidInput(f"option {name} may be meant by {words}; say {having[0]}={{{name!r}: {value!r}}}")
        if having:
            tables[having[0]][name] = value
        elif name not in taken:
            raise unknown_name(
                f"option (of solver {solver.name} and coordinator {kind.name})", name, set().union(*known.values())
            )
    return tables


_FIELDS = ("scope", "seconds", "block_seconds", "validate_every", "start", "subset")
"""Fields of a request that are given among the options."""


def _require_names(asked: Mapping[str, Any]) -> None:
    """Raise InvalidInput for names that are none, before a network is copied."""
    for name, registry in (("coordinator", COORDINATORS), ("solver", SOLVERS)):
        value = asked[name]
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"{name} is {value!r}; give the name of one, its options by name beside it")
        if value is not None:
            registry.get(value)
    if isinstance(asked["recover"], str):
        raise InvalidInput(f"recover is the text {asked['recover']!r}; give a list of recoveries, as ['settle']")


def _names_of(controls: Sequence[str] | None) -> list[str] | None:
    """The controls, None without any.

    Raises
    ------
    InvalidInput   one text in place of a list
    """
    if isinstance(controls, str):
        raise InvalidInput(f"controls is the text {controls!r}; give a list of names, as ['reinit']")
    return list(controls) if controls else None


def _folder(out: Path | str | None, resume: bool) -> Path | None:
    """Where the run is written, checked before any work.

    Raises
    ------
    InvalidInput   it holds something, or there is none to resume
    """
    if out is None:
        if resume:
            raise InvalidInput("resume=True needs out=FOLDER, the run directory that is continued")
        return None
    folder = Path(out)
    if not (resume and (folder / "run.json").is_file()):
        require_free(folder)
    return folder
