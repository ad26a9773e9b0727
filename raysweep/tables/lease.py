"""The lock of a folder in an object store."""

import contextlib
import json
import threading
import time
import uuid
from datetime import UTC, datetime

from raysweep.tables.locks import LOCK, Say, field_of, held_error, name_of, this_process
from raysweep.tables.paths import ResultsPath

_PROBE = ".lock-"
RENEW_S = 15.0
"""How often a driver renews its lease."""
STALE_S = 60.0
"""A lease that has not been renewed for this long may be taken."""
_SETTLE_S = 1.0
"""How long to wait before checking whether another driver took the lease at the same moment."""
_LOOK_S = 2.0
_MARGIN_S = 2.0
"""Stores report times in whole seconds."""


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
                raise held_error(self._folder, winner)
        except BaseException:
            self._give_back()
            raise
        self._thread = threading.Thread(target=self._renew, name="raysweep-lease", daemon=True)
        self._thread.start()

    def _wait(self, held: bytes, say: Say | None) -> None:
        left = STALE_S - self._age_s()
        if left <= 0:
            return
        name = name_of(held)
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
                raise held_error(self._folder, name_of(now), " and has just renewed its lease")

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
        return None if field_of(held, "token") == self._token else name_of(held)

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
