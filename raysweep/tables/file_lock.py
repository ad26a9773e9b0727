"""The lock of a local folder."""

import contextlib
import fcntl
from pathlib import Path
from typing import IO

from raysweep.tables.locks import LOCK, Say, held_error, this_process


class FileLock:
    """A lock on a local file, which the system releases when its process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[str] | None = None

    def take(self, say: Say | None = None) -> None:
        """Take the lock or raise ``InputError`` at once."""
        lock = (self._folder / LOCK).open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise held_error(self._folder, holder) from None
        lock.truncate(0)
        lock.write(this_process())
        lock.flush()
        self._file = lock

    def holder(self) -> str | None:
        """Return None: no other process can take the lock away."""
        return None

    def release(self) -> None:
        """Release the lock."""
        if self._file:
            # The process may keep running, and `find_holder` reads this file.
            with contextlib.suppress(OSError):
                self._file.truncate(0)
            self._file.close()
            self._file = None
