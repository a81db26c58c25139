"""On what times and results were made: versions of libraries, system, processor. Times mean nothing without."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("prunebench", "numpy", "scipy", "numba", "torch")
"""Distributions whose versions are recorded: those that can change a result."""


def versions() -> dict[str, str]:
    """The installed version of each of LIBRARIES; imports none of them."""
    return {name: _version(name) for name in LIBRARIES}


def machine() -> dict[str, str | int | None]:
    """Python, system, processor and cores."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    """The processor's model where the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
