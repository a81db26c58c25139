"""The report: what runs and comparisons measured, as one self-contained page and as figures for print."""

from collections.abc import Sequence
from pathlib import Path


def write_report(directories: Sequence[Path | str], out: Path | str) -> Path:
    """Write one self-contained HTML page about run directories and comparisons, and return its path.

    Parameters
    ----------
    directories : run directories, comparisons, or folders that hold such
    out : the file to write; its folder must exist

    Raises
    ------
    InvalidInput   a directory is missing or holds nothing that can be reported, or the file cannot be written
    """
    from prunebench.report.gather import gather
    from prunebench.report.page import write

    return write(gather(directories), Path(out))
