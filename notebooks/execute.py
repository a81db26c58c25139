"""Run the notebooks and write their outputs: python notebooks/execute.py [NAME …].

Each `.py` is the source; the `.ipynb` beside it is the same cells with the outputs of the last run. Cell
names are numbers and no times are kept, so that a second run changes only what it computes differently.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
SIZE_VARIABLE = "PRUNEBENCH_NOTEBOOK_SIZE"
CELL_SECONDS = 600


def sources() -> list[Path]:
    """The notebooks' `.py` files, in their order."""
    return sorted(HERE.glob("[0-9]*.py"))


def unexecuted(source: Path) -> Any:
    """The notebook of a `.py` file, without outputs."""
    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    notebook.metadata = nbformat.from_dict(
        {
            "jupytext": {"formats": "ipynb,py:percent"},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        }
    )
    return notebook


def executed(source: Path) -> Any:
    """The notebook with outputs, run in a folder of its own that is removed afterwards.

    Raises
    ------
    nbclient.exceptions.CellExecutionError   a cell raised
    """
    notebook = unexecuted(source)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(
            notebook, timeout=CELL_SECONDS, record_timing=False, coalesce_streams=True, resources=resources
        )
        client.execute()
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    """Execute the named notebooks, or all, and write their `.ipynb`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 01; all by default")
    parser.add_argument(
        "--out", type=Path, default=HERE, help="the folder for the .ipynb files; default: beside the .py"
    )
    arguments = parser.parse_args()
    names = tuple(arguments.names) or ("",)
    chosen = [source for source in sources() if source.name.startswith(names)]
    if not chosen:
        sys.exit(f"no notebook begins with {' or '.join(names)}; there are {', '.join(s.stem for s in sources())}")
    for source in chosen:
        began = perf_counter()
        notebook = executed(source)
        target = arguments.out / f"{source.stem}.ipynb"
        nbformat.write(notebook, target)
        size = os.environ.get(SIZE_VARIABLE, "default")
        print(f"{target.name}  {size}  {perf_counter() - began:.0f} s  {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
