"""Try to read a dimod file in a process of its own: some damaged files end the process that reads them.

dimod's readers trust the positions that a file holds; a wrong one is read beyond the memory of the model.
"""

import signal
import subprocess
import sys
from pathlib import Path

from prunebench.core.errors import InvalidInput


def require_readable(path: Path, form: str) -> None:
    """Raise InvalidInput unless another process can read the file to its end. form : bqm or cqm"""
    command = [sys.executable, "-m", "prunebench.forms.foreign.apart", form, str(path.absolute())]
    tried = subprocess.run(command, capture_output=True, check=False)
    if tried.returncode < 0:
        raise InvalidInput(
            f"{path}: it is damaged: dimod ends with {signal.Signals(-tried.returncode).name} where it reads it"
        )


def main(form: str, path: str) -> None:
    """Read, and say nothing: what can be told is told by the process that reads it after this one."""
    from prunebench.forms.foreign import dimod_models

    try:
        {"bqm": dimod_models.bqm_of, "cqm": dimod_models.cqm_of}[form](Path(path))
    except InvalidInput:
        return


if __name__ == "__main__":
    main(*sys.argv[1:])
