"""Who holds a sweep's folder, found without taking its lock."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from raysweep.local_folder import LocalFolder
from raysweep.tables import file_lease
from raysweep.tables.json_files import read_limited
from raysweep.tables.lease import STALE_S
from raysweep.tables.locks import LOCK, field_of, is_released, name_of
from raysweep.tables.paths import ResultsPath
from raysweep.tables.processes import is_alive, is_gone

_MOST_BYTES = 100_000
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
        local = self.folder.local
        if local is not None and (holder := _leaseholder(LocalFolder(local))):
            return holder
        lock = self.folder / LOCK
        try:
            content, written = read_limited(lock, _MOST_BYTES), lock.written_at()
        except FileNotFoundError:
            return None
        except ValueError:  # too large to be a lock of ours
            return Holder(name_of(b""), None)
        if is_released(content):
            return None
        if local is None:
            return Holder(name_of(content), self._is_held(content, written))
        # A lease, if the folder was copied from a store.
        name = field_of(content, "holder") or content.decode(errors="replace").strip()
        return Holder(name, is_alive(name, written)) if name else None

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


def _leaseholder(folder: LocalFolder) -> Holder | None:
    """Return the holder of a local folder whose file system has no locks."""
    held = file_lease.newest_lease(folder)
    if held is None or held.is_released:
        return None
    name, written = name_of(held.content), datetime.fromtimestamp(held.written, UTC)
    runs = is_alive(name, written)
    if runs is None:
        runs = (datetime.now(UTC) - written).total_seconds() < file_lease.STALE_S
    return Holder(name, runs)
