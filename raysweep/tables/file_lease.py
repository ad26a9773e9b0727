"""The lock of a local folder whose file system has no locks: a file that its driver renews."""

import contextlib
import errno
import json
import os
import re
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import NamedTuple

from raysweep.atomic import create, temporary_name, write_at
from raysweep.local_folder import LocalFolder, LostFolderError
from raysweep.tables.locks import (
    LOCK,
    Say,
    field_of,
    held_error,
    is_released,
    name_of,
    this_process,
)
from raysweep.tables.processes import is_alive

RENEW_S = 15.0
"""How often a driver renews its lease."""
STALE_S = 60.0
"""A lease that has not been renewed for this long may be taken."""
_LOOK_S = 1.0
_MARGIN_S = 2.0
"""File systems may report times in whole seconds."""
_LEASE = re.compile(re.escape(LOCK) + r"-(\d{8})")
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


class HeldLease(NamedTuple):
    """The newest lease of a folder: its number, its content, and when it was written."""

    number: int
    content: bytes
    written: float

    @property
    def is_released(self) -> bool:
        """Return whether its driver gave it back; an empty one may be about to be written."""
        return is_released(self.content)


class FileLease:
    """A lock of files that are numbered and only ever created: the newest one holds the folder.

    The driver of a lease alone writes to its file. Whoever finds it stale or released creates the
    next one, which succeeds for only one driver; the earlier one notices that before it writes.
    A driver that sleeps between this check and its write may write once more.
    """

    def __init__(self, folder: LocalFolder) -> None:
        self._folder = folder
        self._token = uuid.uuid4().hex
        self._number = 0
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, say: Say | None = None) -> None:
        """Take the lease; wait up to 62 s for an existing one to go stale.

        Report through ``say`` that it is waiting. Raise ``InputError`` if another driver has it.
        """
        try:
            self._folder.pin()
            self._refuse_locked()
            earlier = wait_for_leases(self._folder, say)
            number = earlier + 1
            if not self._create(number):
                raise self._held()
            self._number = number
            newest = newest_lease(self._folder)
            if newest is None or field_of(newest.content, "token") != self._token:
                raise self._held()
        except BaseException:
            self._drop()
            raise
        self._clear()
        self._thread = threading.Thread(target=self._renew, name="raysweep-lease", daemon=True)
        self._thread.start()

    def _refuse_locked(self) -> None:
        """Raise ``InputError`` if a driver that sees the folder with locks may hold one."""
        with contextlib.suppress(FileNotFoundError):
            name = self._folder.read_bytes(LOCK).decode(errors="replace").strip()
            since = datetime.fromtimestamp(self._folder.stat(LOCK).st_mtime, UTC)
            runs = is_alive(name, since) if name else False
            if runs is not False:
                more = "" if runs else f" (if it was killed, delete {LOCK} there)"
                raise held_error(self._folder.path, name, more)

    def _held(self) -> Exception:
        newest = newest_lease(self._folder)
        return held_error(
            self._folder.path, name_of(newest.content) if newest else "another process"
        )

    def _create(self, number: int) -> bool:
        """Create the file of a lease; return False if another driver was faster."""
        folder, name, temporary = self._folder.pin(), _name(number), temporary_name(LOCK)
        content = self._content()
        try:
            with open(create(folder, temporary), "wb") as file:  # noqa: PTH123 (a descriptor)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            # Over NFS, a link may have been made although the answer was lost.
            with contextlib.suppress(FileNotFoundError):
                return self._folder.read_bytes(name) == content
            return False
        except FileNotFoundError:  # another driver has it by now, and cleared what lay around
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._create_in_place(folder, name, content)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
        return True

    def _create_in_place(self, folder: int, name: str, content: bytes) -> bool:
        """Create the file without a hard link; others may see it empty for a moment."""
        try:
            file = create(folder, name)
        except FileExistsError:
            return False
        with open(file, "wb") as opened:  # noqa: PTH123 (a descriptor)
            opened.write(content)
        return True

    def _content(self, is_released: bool = False) -> bytes:
        role = "released_by" if is_released else "token"
        lease = {"holder": this_process(), "time": datetime.now(UTC).isoformat(), role: self._token}
        return json.dumps(lease).encode()

    def _clear(self) -> None:
        """Delete the leases before this one; the newest always stays, as numbers must not recur."""
        for number in _numbers(self._folder):
            if number < self._number:
                with contextlib.suppress(OSError):
                    self._folder.delete(_name(number))

    def _renew(self) -> None:
        while not self._is_over.wait(RENEW_S):
            # Ignore errors: writing rows would show them, and a later renewal may be in time.
            with contextlib.suppress(OSError):
                if self.holder():
                    return
                write_at(self._folder.pin(), _name(self._number), self._content())

    def holder(self) -> str | None:
        """Return the name of another process that holds the folder, or None if this one does.

        Raise ``OSError`` if the lease was deleted, or the folder moved.
        """
        self._folder.expect_in_place()
        newest = newest_lease(self._folder)
        if newest is not None and field_of(newest.content, "token") == self._token:
            return None
        if newest is not None and newest.number >= self._number:
            return name_of(newest.content)
        raise LostFolderError(
            f"its lease {_name(self._number)} was deleted during the run (as git clean and rsync "
            f"--delete do), so another driver may use the folder",
        )

    def release(self) -> None:
        """Release the lease if this driver still holds it; a lease left behind goes stale."""
        self._is_over.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        self._drop()

    def _drop(self) -> None:
        self._folder.guard = None
        if self._number:
            with contextlib.suppress(OSError):
                if not self.holder():
                    write_at(
                        self._folder.pin(), _name(self._number), self._content(is_released=True)
                    )
        self._number = 0
        self._folder.unpin()


def _name(number: int) -> str:
    return f"{LOCK}-{number:08d}"


def _numbers(folder: LocalFolder) -> list[int]:
    found = (_LEASE.fullmatch(name) for name in folder.names())
    return sorted(int(match[1]) for match in found if match)


def newest_lease(folder: LocalFolder) -> HeldLease | None:
    """Return the newest lease of a folder, None if there is none."""
    while numbers := _numbers(folder):
        # It may have been replaced by a newer one in between.
        with contextlib.suppress(FileNotFoundError):
            name = _name(numbers[-1])
            return HeldLease(numbers[-1], folder.read_bytes(name), folder.stat(name).st_mtime)
    return None


def wait_for_leases(folder: LocalFolder, say: Say | None) -> int:
    """Wait until the newest lease is stale or released and return its number, 0 without one.

    Raise ``InputError`` if its driver is alive: if it renews the lease.
    """
    held = newest_lease(folder)
    if held is None or held.is_released:
        return held.number if held else 0
    left = min(STALE_S, STALE_S - (_clock(folder) - held.written))
    if left <= 0:
        return held.number
    if say:
        say(
            f"{folder.path}: {name_of(held.content)} holds it; waiting {left:.0f} s for its lease "
            f"to expire unless it is still alive"
        )
    until = time.monotonic() + left + _MARGIN_S
    while (rest := until - time.monotonic()) > 0:
        time.sleep(min(_LOOK_S, rest))
        now = newest_lease(folder)
        if now is None or now.is_released:
            return now.number if now else 0
        if now.content != held.content:
            more = " and has just renewed its lease"
            raise held_error(folder.path, name_of(now.content), more)
    return held.number


def _clock(folder: LocalFolder) -> float:
    """Return the time by the file system's clock, which may be another machine's."""
    opened, name = folder.pin(), temporary_name("clock")
    file = create(opened, name)
    try:
        os.write(file, b"?")
        return os.fstat(file).st_mtime
    finally:
        os.close(file)
        with contextlib.suppress(FileNotFoundError):  # the holder has cleared it
            os.unlink(name, dir_fd=opened)
