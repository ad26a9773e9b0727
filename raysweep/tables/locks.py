"""What the locks share that allow one driver per sweep folder."""

import os
import socket
from collections.abc import Callable
from typing import Protocol

from raysweep.errors import InputError
from raysweep.tables.json_files import decode_json

LOCK = ".lock"

Say = Callable[[str], None]


class Lock(Protocol):
    """The exclusive right to write to a folder."""

    def take(self, say: Say | None = None) -> None:
        """Take the lock; raise ``InputError`` if another driver has it, ``OSError`` on failure."""

    def holder(self) -> str | None:
        """Return the name of another process that holds the lock, or None."""

    def release(self) -> None:
        """Release the lock."""


def held_error(folder: object, holder: str, more: str = "") -> InputError:
    """Return the error of a folder that another driver holds."""
    return InputError(
        f"{folder}: expected no other driver to use this folder, but {holder} holds it{more}; "
        f"wait for it, or use another --name"
    )


def lost_text(holder: str) -> str:
    """Return why a driver stops whose folder another one holds."""
    return f"{holder} holds the folder now; this driver lost it"


def this_process() -> str:
    """Return the name of this process, as written in locks."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def field_of(lease: bytes, name: str) -> str | None:
    """Return a text of a lease, None if it has none or is damaged."""
    try:
        value = decode_json(lease)[name]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None


def is_released(lease: bytes) -> bool:
    """Return whether a lease was given back by its driver."""
    return field_of(lease, "released_by") is not None


def name_of(lease: bytes) -> str:
    """Return the name of a lease's holder."""
    return field_of(lease, "holder") or "another process"
