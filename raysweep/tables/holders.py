"""Who holds a sweep's folder, found without taking its lock."""

import math
import os
import re
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from raysweep.tables.lease import STALE_S, is_released
from raysweep.tables.locks import LOCK, field_of, name_of
from raysweep.tables.paths import ResultsPath
from raysweep.tables.processes import is_gone, stat_fields

_CLOCK_S = 10.0
"""How much the clock may have been adjusted since the machine started."""
_SKEW_S = 900.0
"""How far this machine's clock and a store's may be apart; S3 refuses requests beyond that."""


WHOLE_S = 2.0
"""Stores report times in whole seconds."""


@dataclass(frozen=True)
class Holder:
    """The holder of a folder, according to its lock.

    ``is_alive`` is None if it cannot be determined from here: for a process on another host, until
    its lease was watched for a while.
    """

    name: str
    is_alive: bool | None


@dataclass
class HolderWatch:
    """The holder of a folder, for repeated looks. Takes no lock."""

    folder: ResultsPath
    _lease: bytes | None = None
    _since: float = field(default=0.0)
    _is_renewed: bool = False

    def look(self) -> Holder | None:
        """Return the holder of the folder, which may have been killed, or None.

        Raise ``OSError`` if the store cannot be reached.
        """
        lock = self.folder / LOCK
        try:
            content, written = lock.read_bytes(), lock.written_at()
        except FileNotFoundError:
            return None
        if is_released(content):
            return None
        if self.folder.local is None:
            return Holder(name_of(content), self._is_held(content, written))
        # A lease, if the folder was copied from a store.
        name = field_of(content, "holder") or content.decode(errors="replace").strip()
        return Holder(name, _is_alive(name, written)) if name else None

    def _is_held(self, lease: bytes, written: datetime) -> bool | None:
        """Return whether a lease is renewed; None if two clocks would have to be trusted."""
        now = time.monotonic()
        if lease != self._lease:
            self._is_renewed = self._lease is not None
            self._lease, self._since = lease, now
        if is_gone(field_of(lease, "process")) or now - self._since >= STALE_S:
            return False
        if self._is_renewed:
            return True
        age_s = (datetime.now(UTC) - written).total_seconds()
        if age_s > STALE_S + _SKEW_S:
            return False
        return True if -WHOLE_S <= age_s <= STALE_S else None


def find_holder(folder: ResultsPath) -> Holder | None:
    """Return the holder of a folder at a single look; see ``HolderWatch``."""
    return HolderWatch(folder).look()


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
        state, ticks = stat_fields(pid)[0], int(stat_fields(pid)[19])
        if state in ("Z", "X"):
            return math.inf
        booted = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
        return int(booted[1]) + ticks / os.sysconf("SC_CLK_TCK") if booted else None
    except (OSError, ValueError, IndexError):
        return None
