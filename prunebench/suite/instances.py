"""Making the blocks of the suite from its small files.

A recipe has a `kind` and

    data       name of the file in `data/` that holds its arrays
    scale      1/√n, a power of two
    ridge      a number, for all weights
    samples    how many rows of the file are used; all by default

and the file of the instance's own, `data/NAME.npz`, may hold `chosen` (positions of its weights), `weights`, `centre`,
`linear`, `quota_group` and `quota_counts`, `budget_costs` and `budget_limits`. The kinds are

    outer      the file has `left` (n, a) and `right` (n, b): sample gradients of a linear layer are their outer
               products, left_i·right_j for weight (i, j) of a·b, times `unit`; its weights are `weights` (a, b)
    columns    the file has `columns` (n, c): a layer's inputs, or gradients, times `unit`; `weights` (c,) unless the
               instance has its own
    drawn      `family`, `seed`, `n`, `p` of `prunebench.suite.drawn`; no file
    groups     the file is a group block's own

Factors are whole numbers of few bits times a power of two, so that their products and the sums of these, the Hessian,
are exact in float64 in whatever order they are added: the block, and its hash, are the same on every machine.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import as_file
from io import BytesIO
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_form import GroupForm
from prunebench.core.group_proof import GroupProof
from prunebench.core.keeping import Quota
from prunebench.core.proof import Proof
from prunebench.core.quadratic import QuadraticForm
from prunebench.suite import drawn
from prunebench.suite.catalogue import FOLDER, Instance

Arrays = Mapping[str, npt.NDArray[Any]]


def load(instance: Instance) -> BlockProblem | GroupBlock:
    """The block of an instance.

    Raises
    ------
    InvalidInput   its hash is not the catalogue's: a file was changed
    """
    block = made(instance.name, instance.recipe, instance.mode, instance.keep)
    if block.hash != instance.hash:
        raise InvalidInput(
            f"instance {instance.name!r}: its hash is {block.hash[:12]}…, the catalogue's {instance.hash[:12]}…; the "
            "files of the suite were changed: install prunebench again"
        )
    return block


def made(name: str, recipe: Mapping[str, Any], mode: str, keep: int) -> BlockProblem | GroupBlock:
    """The block of a recipe, whatever its hash."""
    own = _arrays(name)
    if recipe["kind"] == "groups":
        return _group_block(name, recipe, keep)
    factor, weights = _factor(recipe, own)
    form = QuadraticForm(
        factor=factor,
        ridge=float(recipe["ridge"]),
        linear=_wide(own["linear"]) if "linear" in own else None,
        centre=_wide(own["centre"]) if "centre" in own else weights,
    )
    budget = None
    if "budget_costs" in own:
        budget = Cost(_wide(own["budget_costs"]), _wide(own["budget_limits"]))
    return BlockProblem(
        form,
        weights,
        keep if budget is None else budget.most,
        cast(Mode, mode),
        problem=f"suite/{name}",
        quota=Quota(own["quota_group"].astype(np.int64), own["quota_counts"].astype(np.int64))
        if "quota_group" in own
        else None,
        budget=budget,
    )


def proof_of(instance: Instance) -> Proof | GroupProof | None:
    """The proof that comes with an instance; None without one."""
    if not instance.proof:
        return None
    with as_file(FOLDER.joinpath("data", instance.proof)) as file:
        return GroupProof.load(file) if instance.kind == "groups" else Proof.load(file)


def _factor(recipe: Mapping[str, Any], own: Arrays) -> tuple[FloatArray, FloatArray]:
    """The factor (n, p) and the dense weights (p,)."""
    if recipe["kind"] == "drawn":
        return drawn.columns(recipe["family"], recipe["seed"], recipe["n"], recipe["p"])
    held = _arrays(recipe["data"])
    weights = _wide(own.get("weights", held.get("weights")))
    rows = slice(recipe.get("samples"))
    if recipe["kind"] == "outer":
        chosen = own["chosen"].astype(np.int64) if "chosen" in own else np.arange(weights.size)
        above, below = np.divmod(chosen, held["right"].shape[1])
        factor = _wide(held["left"][rows, above]) * _wide(held["right"][rows, below]) * float(held["unit"])
        weights = weights if "weights" in own else weights.ravel()[chosen]
    elif recipe["kind"] == "columns":
        chosen = own["chosen"].astype(np.int64) if "chosen" in own else np.arange(held["columns"].shape[1])
        factor = _wide(held["columns"][rows, chosen]) * float(held["unit"])
        weights = weights if weights.size == chosen.size else weights[chosen]
    else:
        raise InvalidInput(f"the suite knows no recipe of kind {recipe['kind']!r}; install prunebench again")
    return factor * float(recipe["scale"]), weights


def _group_block(name: str, recipe: Mapping[str, Any], keep: int) -> GroupBlock:
    held = _arrays(recipe["data"])
    form = GroupForm(
        _wide(held["gram"]),
        _wide(held["cross"]),
        held["group"].astype(np.int64),
        float(recipe["ridge"]),
        float(recipe["constant"]),
    )
    return GroupBlock(form, keep, problem=f"suite/{name}")


def _wide(values: Any) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


@lru_cache(maxsize=4)
def _arrays(name: str) -> Arrays:
    """The arrays of a file of the suite; none where there is no such file."""
    file = FOLDER.joinpath("data", f"{name}.npz")
    if not file.is_file():
        return {}
    with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as held:
        return {key: held[key] for key in held.files}
