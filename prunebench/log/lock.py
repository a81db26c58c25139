"""One writer a run directory: a lock of the operating system, gone with the process that holds it."""

import os
import platform
from pathlib import Path
from typing import IO

from prunebench.core.errors import InvalidInput

FILE = "lock"
"""In the run directory's state folder. It stays there: the lock is the system's, not that the file exists."""


class Lock:
    """Held from `take` until `release` or the end of the process, however it ends.

    missing : why there is no lock, where the system or the file system has none; "" where it is held
    """

    def __init__(self, stream: IO[str] | None, missing: str = "") -> None:
        self._stream = stream
        self.missing = missing

    @staticmethod
    def take(folder: Path, owner: Path) -> "Lock":
        """The lock of a folder.

        owner : the run directory, for messages

        Raises
        ------
        InvalidInput   another process, or another run of this one, holds it
        OSError        the lock's file cannot be written
        """
        try:
            import fcntl
        except ImportError:
            return Lock(None, "this system has no file locks")
        stream = (folder / FILE).open("a+", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = " ".join(stream.read(200).split()) or "another process"
            stream.close()
            raise InvalidInput(
                f"{owner} is being written to by {holder}; wait until it ends, or stop it (Ctrl-C keeps what is done)"
            ) from None
        except OSError as error:
            stream.close()
            return Lock(None, f"its file system has no locks ({error.strerror})")
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}\n")
        stream.flush()
        return Lock(stream)

    def release(self) -> None:
        """Give the lock back."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
