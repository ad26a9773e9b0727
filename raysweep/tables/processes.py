"""What tells a process from all others on this machine, and whether it has ended."""

import math
import os
import re
import socket
from datetime import datetime
from pathlib import Path

_CLOCK_S = 10.0
"""How much the clock may have been adjusted since the machine started."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


def identity() -> str | None:
    """Return a text that no other process has: host, boot, PID namespace, id and start.

    Return None where the system does not tell. Containers on one machine share the boot, but see
    each other's processes only within a PID namespace; a number of a namespace is given again only
    once all its processes have ended.
    """
    pid = os.getpid()
    start = _start(pid)
    where = _here()
    return None if start is None or where is None else f"{where} {pid} {start}"


def is_gone(other: str | None) -> bool:
    """Return whether a process, given by its identity, ran here and has provably ended.

    False means that it runs, or that it cannot be determined from here.
    """
    where, _, process = (other or "").rpartition(" ")
    where, _, pid = where.rpartition(" ")
    if not where or where != _here() or not (pid.isdecimal() and process.isdecimal()):
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's
        pass
    start = _start(int(pid))
    return start is not None and (start != process or _has_ended(int(pid)))


def _here() -> str | None:
    try:
        namespace = os.readlink(_NAMESPACE)  # noqa: PTH115
        return f"{socket.gethostname()} {_BOOT.read_text().strip()} {namespace}"
    except OSError:
        return None


def _start(pid: int) -> str | None:
    """Return when a process began, in ticks since the machine started."""
    fields = stat_fields(pid)
    return fields[19] if len(fields) > 19 else None


def _has_ended(pid: int) -> bool:
    """Return whether all threads of a process have ended, which no process has waited for yet."""
    try:
        return stat_fields(pid)[:1] in (["Z"], ["X"]) and len(os.listdir(f"/proc/{pid}/task")) <= 1  # noqa: PTH208
    except OSError:
        return False


def stat_fields(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the name; empty if the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_alive(name: str, since: datetime) -> bool | None:
    """Return whether a process on this host runs and is not a later one with the same id.

    ``name`` is that of ``this_process``. Return None for a process on another host.
    """
    found = re.fullmatch(r"process (\d{1,10}) on (.*)", name)
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
        state, ticks = stat_fields(pid)[0], int(stat_fields(pid)[19])
        if state in ("Z", "X"):
            return math.inf
        booted = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
        return int(booted[1]) + ticks / os.sysconf("SC_CLK_TCK") if booted else None
    except (OSError, ValueError, IndexError):
        return None
