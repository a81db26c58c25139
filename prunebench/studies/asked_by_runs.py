"""A study that is asked of run directories: their network, their density, and themselves as what is looked at."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunebench.core.errors import InvalidInput
from prunebench.core.trust import require_trust
from prunebench.log.run_directory import RunDirectory
from prunebench.studies.study import Study


@dataclasses.dataclass(frozen=True)
class OfRuns:
    """What run directories say of a study: the network, and options of the study that are not given."""

    problem: str
    problem_options: Mapping[str, Any]
    options: Mapping[str, Any]


def is_run(text: str) -> bool:
    """Whether a text names a run directory."""
    return (Path(text) / "run.json").is_file()


def asked_by_runs(kind: type[Study], paths: Sequence[str]) -> OfRuns:
    """What a study of these runs is asked for: no solvers beside them, and their density.

    Raises
    ------
    InvalidInput   the study looks at no runs, one is none of a network, they are of different networks, or name code
    """
    names = {item.name for item in dataclasses.fields(kind)}
    if "runs" not in names:
        raise InvalidInput(f"study {kind.name} looks at masks that it makes itself, not at runs; name a problem")
    requests = []
    for path in paths:
        request = RunDirectory.open(Path(path)).request
        if "kind" in request or "density" not in request:
            raise InvalidInput(f"{path} is no run of 'prunebench prune'; name directories of such runs, or a problem")
        require_trust(
            request, Path(path), f"prunebench study {kind.name} {request['problem']} --runs {' '.join(paths)}"
        )
        requests.append(request)
    networks = [(request["problem"], request.get("problem_options", {})) for request in requests]
    for path, network in zip(paths, networks, strict=True):
        if network != networks[0]:
            raise InvalidInput(
                f"{path} is a run of {_words(*network)}, and {paths[0]} one of {_words(*networks[0])}; name runs of "
                "one network"
            )
    options: dict[str, Any] = {"runs": tuple(paths)}
    if "density" in names:
        options["density"] = requests[0]["density"]
    if "solvers" in names:
        options["solvers"] = ()
    return OfRuns(*networks[0], options)


def _words(problem: str, options: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{problem} ({said})" if said else problem
