"""Files of results in QOBLIB's submission format, whose columns mean what they mean in a comparison's export.

Blocks of groups are left out: the format's variables are single bits of one quadratic objective, which they have not.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prunebench import __version__, measures
from prunebench.comparison import qoblib
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.registry import SOLVERS
from prunebench.core.solver import facts
from prunebench.suite import instances
from prunebench.suite.catalogue import Instance, catalogue
from prunebench.suite.results import Results, Row
from prunebench.suite.run import labels


def export(files: Sequence[Results], out: Path, *, submitter: str, affiliation: str, reference: str = "") -> list[Path]:
    """Write one folder a solver and instance below `out`; the folders written.

    Raises
    ------
    InvalidInput   `out` is not empty, or a file is of another suite
    """
    import pandas

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} exists and is not empty; choose another -o")
    held = catalogue()
    folders = []
    for label, part in labels(files):
        if part.suite.get("digest") != held.digest:
            raise InvalidInput(f"the results of {label} are of another version of the suite; run it again")
        common = {
            "Submitter": submitter,
            "Affiliation": affiliation,
            "Date": part.date.replace("T", " ")[:19],
            "Reference": reference or f"prunebench {__version__}, suite {held.version}",
            "Success Threshold": measures.TARGET,
            "Hardware Specifications": qoblib.hardware(part.machine),
        }
        for item in held.instances:
            block = instances.load(item)
            rows = [_line(row, item, part) for row in part.rows if row.instance == item.name and row.solved]
            if rows and isinstance(block, BlockProblem):
                folders.append(qoblib.write_folder(out, label, pandas.DataFrame(rows), block, common))
    return folders


def _line(row: Row, item: Instance, held: Results) -> dict[str, object]:
    """A row with the columns of a comparison's table that the format needs."""
    name = str(held.solver["name"])
    trace = np.asarray(row.trace, dtype=np.float64).reshape(-1, 2)
    gaps = (trace[:, 1] - item.best) / (item.scale - item.best)
    return {
        "solver_name": name,
        "options": str(held.solver.get("options", {})),
        "stochastic": name in SOLVERS.names() and facts(SOLVERS.get(name)).stochastic,
        "objective": row.objective,
        "lower_bound": np.nan if row.lower_bound is None else row.lower_bound,
        "seconds": row.seconds,
        "cpu_seconds": row.cpu_seconds,
        "solve": row.seconds,
        "queue": 0.0,
        "time_to_target": measures.time_to_target(trace[:, 0], gaps),
        "success": bool((gaps <= measures.TARGET).any()),
        "mask": row.mask,
        "trace_seconds": trace[:, 0],
        "trace_objective": trace[:, 1],
    }
