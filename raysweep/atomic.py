"""Atomic writing: a file is complete or unchanged."""

import contextlib
import os
import socket
from pathlib import Path

TEMPORARY = ".tmp-"
"""Prefix of the name of a file that is being written."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it.

    Raise ``OSError`` if writing fails; then ``path`` is unchanged and no temporary file remains.
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
