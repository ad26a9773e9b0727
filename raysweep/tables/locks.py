"""Locks that allow one driver per sweep folder: a file lock, or a lease in an object store."""

import contextlib
import fcntl
import json
import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from raysweep.errors import InputError
from raysweep.tables.paths import ResultsPath

LOCK = ".lock"
_PROBE = ".lock-"
RENEW_S = 15.0
"""How often a driver renews its lease."""
STALE_S = 60.0
"""A lease that has not been renewed for this long may be taken."""
_SETTLE_S = 1.0
"""How long to wait before checking whether another driver took the lease at the same moment."""
_LOOK_S = 2.0
_CLOCK_S = 10.0
"""How much the clock may have been adjusted since the machine started."""
_MARGIN_S = 2.0
"""Stores report times in whole seconds."""

Say = Callable[[str], None]


class Lock(Protocol):
    """The exclusive right to write to a folder."""

    def take(self, say: Say | None = None) -> None:
        """Take the lock; raise ``InputError`` if another driver has it, ``OSError`` on failure."""

    def holder(self) -> str | None:
        """Return the name of another process that holds the lock, or None."""

    def release(self) -> None:
        """Release the lock."""


def _held(folder: object, holder: str, more: str = "") -> InputError:
    return InputError(
        f"{folder}: expected no other driver to use this folder, but {holder} holds it{more}; "
        f"wait for it, or use another --name"
    )


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
        return Holder(_name(content), age_s < STALE_S)
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


def this_process() -> str:
    """Return the name of this process, as written in locks."""
    return f"process {os.getpid()} on {socket.gethostname()}"


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
            raise _held(self._folder, holder) from None
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


class Lease:
    """A lock in an object store: an object that a thread renews, and that goes stale otherwise.

    Only the store's clock and this process's monotonic clock are trusted. If two drivers take a
    stale lease at the same moment, the last one to write holds it. Stores have no conditional
    write, so a driver that sleeps between checking its lease and writing may write once more.
    """

    def __init__(self, folder: ResultsPath) -> None:
        self._folder = folder
        self._object = folder / LOCK
        self._token = uuid.uuid4().hex
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, say: Say | None = None) -> None:
        """Take the lease; wait up to 75 s for an existing one to go stale.

        Report through ``say`` that it is waiting. Raise ``InputError`` if another driver renews the
        lease, ``OSError`` if the store cannot be reached.
        """
        held = self._read()
        if held is not None:
            self._wait(held, say)
        self._write()
        try:
            time.sleep(_SETTLE_S)
            winner = self.holder()
            if winner:
                raise _held(self._folder, winner)
        except BaseException:
            self._give_back()
            raise
        self._thread = threading.Thread(target=self._renew, name="raysweep-lease", daemon=True)
        self._thread.start()

    def _wait(self, held: bytes, say: Say | None) -> None:
        left = STALE_S - self._age_s()
        if left <= 0:
            return
        name = _name(held)
        if say:
            say(
                f"{self._folder}: {name} holds it; waiting {left:.0f} s for its lease to expire "
                f"unless it is still alive"
            )
        until = time.monotonic() + left + _MARGIN_S
        while (rest := until - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, rest))
            now = self._read()
            if now is None:
                return
            if now != held:
                raise _held(self._folder, _name(now), " and has just renewed its lease")

    def _age_s(self) -> float:
        """Return the lease's age by the store's clock, read from the time of a new object."""
        probe = self._folder / f"{_PROBE}{self._token}"
        probe.write_bytes(b"")
        try:
            return (probe.written_at() - self._object.written_at()).total_seconds()
        except FileNotFoundError:
            return STALE_S
        finally:
            probe.delete()

    def _read(self) -> bytes | None:
        try:
            return self._object.read_bytes()
        except FileNotFoundError:
            return None

    def _write(self) -> None:
        lease = {
            "holder": this_process(),
            "token": self._token,
            "time": datetime.now(UTC).isoformat(),
        }
        self._object.write_bytes(json.dumps(lease).encode())

    def _renew(self) -> None:
        while not self._is_over.wait(RENEW_S):
            # Ignore errors: writing rows would show them, and a later renewal may be in time.
            with contextlib.suppress(OSError):
                if self.holder():
                    return
                self._write()

    def holder(self) -> str | None:
        """Return the name of another holder, read from the store, or None."""
        held = self._read()
        if held is None:
            return "no driver"
        return None if _field(held, "token") == self._token else _name(held)

    def release(self) -> None:
        """Release the lease if this driver still holds it; a lease left behind goes stale."""
        self._is_over.set()
        if self._thread:
            self._thread.join()
            self._thread = None
            self._give_back()

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):
            if not self.holder():
                self._object.delete()


def clear_probes(folder: ResultsPath) -> None:
    """Delete the probes of drivers that were killed while reading the store's clock."""
    for name in folder.names():
        if name.startswith(_PROBE):
            (folder / name).delete()


def _field(lease: bytes, name: str) -> str | None:
    try:
        value = json.loads(lease)[name]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None


def _name(lease: bytes) -> str:
    return _field(lease, "holder") or "another process"
