"""Keeps what other libraries warn of off the terminal while prunebench works; its own warnings are shown.

What torch and transformers warn of is for those who write the network (a mask that is converted, a fast path that
is not taken, a loss that is not named), and comes again for every pass.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = r"(torch|torchvision|transformers|timm|accelerate|huggingface_hub)(\.|$)"
"""Modules whose warnings are left out."""

OURS = r"prunebench(\.|$)"
"""Modules that torch's warnings are put down to where torch names its caller. What they warn of is a RuntimeWarning."""

OF_CALLERS = (UserWarning, FutureWarning)
"""What torch warns of in the name of its caller."""


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, warnings of LIBRARIES are left out; afterwards all filters are as before.

    The log of transformers shows errors only, where it is loaded already.
    """
    with warnings.catch_warnings(), _quiet_log():
        warnings.filterwarnings("ignore", module=LIBRARIES)
        for kind in OF_CALLERS:
            warnings.filterwarnings("ignore", category=kind, module=OURS)
        yield


@contextmanager
def _quiet_log() -> Iterator[None]:
    log = sys.modules.get("transformers.utils.logging")
    if log is None:
        yield
        return
    level = log.get_verbosity()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(level)
