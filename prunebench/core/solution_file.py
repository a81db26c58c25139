"""The solution JSON: written by `prunebench solve`, read by `verify`."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import MODES, BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock
from prunebench.core.solution import Solution


def as_json(
    block: BlockProblem | GroupBlock, solution: Solution, *, solver: str, options: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """The solution as JSON-able values under stable keys; `with_arrays` adds mask and weights."""
    gap = block.gap(solution.objective, solution.lower_bound)
    excess = solution.objective - solution.lower_bound
    relative = excess / abs(solution.objective) if solution.objective else (0.0 if excess == 0.0 else math.inf)
    return {
        "solver": solver,
        "options": plain(options),
        "status": str(solution.status),
        "stop": str(solution.stop.kind),
        "stop_reason": solution.stop_reason,
        "objective": solution.objective,
        "lower_bound": finite(solution.lower_bound),
        "gap": finite(gap),
        "relative_gap": finite(relative),
        "kept": int(solution.mask.sum()),
        "total": block.p,
        "items": block.word,
        **({} if block.budget is None else {"budgets": spending(block.budget, solution.mask)}),
        "seconds": float(solution.timings.get("total", solution.timings.get("solve", math.nan))),
        "seed": seed,
        "mode": block.mode,
        "block_hash": block.hash,
        "trace": [[float(a), float(b), finite(c)] for a, b, c in solution.trace],
        "timings": plain(solution.timings),
        "details": plain(solution.details),
        "bridges": list(solution.bridges),
    }


def spending(budget: Cost, mask: BoolArray) -> list[dict[str, Any]]:
    """What a mask spends of each budget, as JSON-able rows of name, spent, limit. bool (p,)"""
    rows = zip(budget.names, budget.spent(mask), budget.limits, strict=True)
    return [{"name": name, "spent": float(spent), "limit": float(limit)} for name, spent, limit in rows]


def with_arrays(summary: Mapping[str, Any], solution: Solution) -> dict[str, Any]:
    """The content of a solution file: the summary plus `mask` (0 or 1 per weight) and `weights`."""
    return {**summary, "mask": solution.mask.astype(int).tolist(), "weights": solution.weights.tolist()}


def write(path: Path, contents: Mapping[str, Any]) -> None:
    """Write a solution file atomically, through a temporary name."""
    if not path.parent.is_dir():
        raise InvalidInput(f"{path}: the folder {path.parent} does not exist; create it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(contents, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read(path: Path) -> dict[str, Any]:
    """The contents of a solution file.

    Raises
    ------
    InvalidInput   missing file, not a JSON object, or a missing key
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: there is no such file; make one with 'prunebench solve … -o FILE.json'")
    try:
        contents = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (UnicodeDecodeError, ValueError, RecursionError, OSError) as error:
        raise InvalidInput(f"{path}: not a solution file: {error}") from error
    return checked(contents, path)


def checked(contents: Any, source: object) -> dict[str, Any]:
    """The contents of a solution file, once checked.

    source : its name in messages

    Raises
    ------
    InvalidInput   not a JSON object, a missing key, or a value of the wrong type
    """
    if not isinstance(contents, Mapping):
        raise InvalidInput(f"{source}: not a solution file: a JSON object is expected")
    missing = [key for key in ("mask", "weights", "objective", "block_hash", "mode") if key not in contents]
    if missing:
        raise InvalidInput(f"{source}: not a solution file: the key {missing[0]!r} is missing")
    for key in ("objective", "lower_bound", "gap", "relative_gap"):
        _require_number(source, contents, key)
    for key in ("kept", "total"):
        if not isinstance(contents.get(key, 0), int) or isinstance(contents.get(key), bool):
            raise InvalidInput(f"{source}: {key} is {_short(contents[key])}; expected a whole number")
    for key in ("block_hash", "mode", "status", "solver", "items"):
        if not isinstance(contents.get(key, ""), str):
            raise InvalidInput(f"{source}: {key} is {_short(contents[key])}; expected text")
    if contents["mode"] not in MODES:
        raise InvalidInput(f"{source}: mode is {contents['mode']!r}; expected one of {', '.join(MODES)}")
    details = {} if contents.get("details") is None else contents["details"]
    if not isinstance(details, dict):
        raise InvalidInput(f"{source}: details is {_short(details)}; expected an object")
    if not isinstance(details.get("certificate", {}), dict):
        raise InvalidInput(f"{source}: the certificate is {_short(details['certificate'])}; expected an object")
    return dict(contents)


def _require_number(source: object, contents: Mapping[str, Any], key: str) -> None:
    """Refuse values that are not finite numbers; except for the objective, null is allowed and means none."""
    value = contents.get(key)
    if value is None and key != "objective":
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not _is_finite(value):
        raise InvalidInput(f"{source}: {key} is {_short(value)}; expected a finite number")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _short(value: Any) -> str:
    """The value as text, cut to some forty characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def finite(number: float) -> float | None:
    """The number, or None (JSON null) if it is infinite or NaN."""
    return float(number) if math.isfinite(number) else None


def plain(value: Any) -> Any:
    """`value` with numpy types, tuples and non-finite numbers replaced by JSON equivalents."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return finite(float(value))
    return value if value is None or isinstance(value, str) else str(value)
