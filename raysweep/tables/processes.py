"""Whether the process that a lock names still runs."""

import math
import os
import re
import socket
from datetime import datetime
from pathlib import Path

_CLOCK_S = 10.0
"""How much the clock may have been adjusted since the machine started."""


def is_alive(name: str, since: datetime) -> bool | None:
    """Return whether a process on this host runs and is not a later one with the same id.

    ``name`` is that of ``this_process``. Return None for a process on another host.
    """
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
