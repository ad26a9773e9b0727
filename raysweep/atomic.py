"""Atomic writing: a file is complete or unchanged."""

import contextlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

TEMPORARY = ".tmp-"
"""Prefix of the name of a file that is being written."""
_TEMPORARY = re.compile(re.escape(TEMPORARY) + r"([0-9a-f]{16}|.+-\d+)-.+", re.DOTALL)
"""Our temporary names; until version 0.3.0 they held the host and the process, which others can
predict."""


def temporary_name(name: str) -> str:
    """Return a name that no one can guess for a file that is to be renamed to ``name``."""
    return f"{TEMPORARY}{secrets.token_hex(8)}-{name}"


def is_temporary(name: str) -> bool:
    """Return whether a file has a name that we give to files that are being written."""
    return bool(_TEMPORARY.fullmatch(name))


def create(folder: int, name: str) -> int:
    """Create a file in an open folder and open it to write; never one that is there, or a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o666, dir_fd=folder)


def write_at(
    folder: int, name: str, content: bytes, check: Callable[[], None] | None = None
) -> None:
    """Write a file of an open folder under a temporary name, then rename it.

    ``check`` is called just before that, as writing may take long. Raise ``OSError`` if one of
    these fails; then the file is unchanged and no temporary one remains. A link of this name is
    replaced, not followed.
    """
    temporary = temporary_name(name)
    try:
        with open(create(folder, temporary), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check:
            check()
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it.

    Raise ``OSError`` if writing fails; then ``path`` is unchanged and no temporary file remains.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            write_at(folder, path.name, content)
        finally:
            os.close(folder)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
