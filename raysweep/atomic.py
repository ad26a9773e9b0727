"""Files that are whole or not there."""

import contextlib
import os
import socket
from pathlib import Path

TEMPORARY = ".tmp-"
"""How the name of a file that is being written starts."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in its folder, then give it its own.

    Raises ``OSError`` if it can't be written; then nothing is left of it, and what ``path`` was
    stays.
    """
    writer = f"{socket.gethostname()}-{os.getpid()}"
    temporary = path.with_name(f"{TEMPORARY}{writer}-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
