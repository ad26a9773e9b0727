"""Who holds a sweep's folder, found without taking its lock."""

import math
import os
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from raysweep.tables.lease import STALE_S
from raysweep.tables.locks import LOCK, name_of
from raysweep.tables.paths import ResultsPath

_CLOCK_S = 10.0
"""How much the clock may have been adjusted since the machine started."""


@dataclass(frozen=True)
class Holder:
    """The holder of a folder, according to its lock.

    ``is_alive`` is None if it cannot be determined from here: for a process on another host.
    """

    name: str
    is_alive: bool | None


def find_holder(folder: ResultsPath) -> Holder | None:
    """Return the holder of a folder, which may have been killed, or None. Takes no lock.

    A lease's age is measured with the store's clock and this machine's. Raise ``OSError`` if the
    store cannot be reached.
    """
    lock = folder / LOCK
    try:
        content, written = lock.read_bytes(), lock.written_at()
    except FileNotFoundError:
        return None
    if folder.local is None:
        age_s = (datetime.now(UTC) - written).total_seconds()
        return Holder(name_of(content), age_s < STALE_S)
    name = content.decode(errors="replace").strip()
    return Holder(name, _is_alive(name, written)) if name else None


def _is_alive(name: str, since: datetime) -> bool | None:
    """Return whether a process on this host runs and is not a later one with the same id."""
    found = re.fullmatch(r"process (\d+) on (.*)", name)
    if not found or found[2] != socket.gethostname():
        return None
    pid = int(found[1])
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    began = _began(pid)
    return began is None or began <= since.timestamp() + _CLOCK_S


def _began(pid: int) -> float | None:
    """Return the start of a process, in seconds of the clock; None if the system does not tell.

    Return infinity for a zombie process.
    """
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if state in ("Z", "X"):
            return math.inf
        ticks = int(numbers[18])
        booted = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
        return int(booted[1]) + ticks / os.sysconf("SC_CLK_TCK") if booted else None
    except (OSError, ValueError, IndexError):
        return None
