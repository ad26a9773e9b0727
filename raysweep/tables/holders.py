"""Who holds a sweep's folder, found without taking its lock."""

from dataclasses import dataclass
from datetime import UTC, datetime

from raysweep.local_folder import LocalFolder
from raysweep.tables import file_lease
from raysweep.tables.lease import STALE_S
from raysweep.tables.locks import LOCK, name_of
from raysweep.tables.paths import ResultsPath
from raysweep.tables.processes import is_alive


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
    if folder.local is not None and (holder := _leaseholder(LocalFolder(folder.local))):
        return holder
    lock = folder / LOCK
    try:
        content, written = lock.read_bytes(), lock.written_at()
    except FileNotFoundError:
        return None
    if folder.local is None:
        age_s = (datetime.now(UTC) - written).total_seconds()
        return Holder(name_of(content), age_s < STALE_S)
    name = content.decode(errors="replace").strip()
    return Holder(name, is_alive(name, written)) if name else None


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
