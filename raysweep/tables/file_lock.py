"""The lock of a local folder."""

import contextlib
import errno
import fcntl
import os

from raysweep.atomic import create, temporary_name
from raysweep.local_folder import LocalFolder, LostFolderError
from raysweep.tables.file_lease import FileLease, wait_for_leases
from raysweep.tables.locks import LOCK, Lock, Say, held_error, lost_text, this_process

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
_TRIES = 100


class NoLocksError(OSError):
    """The folder's file system has no locks."""


class FileLock:
    """A lock on a local file, which the system releases when its process ends.

    Its driver never writes into a file that it found, which may be another file, too (a hard link):
    it locks that file, then puts a new one in its place, locked already. While it is held, the
    folder is pinned and, where that is possible, locked as well. So if the file is deleted, another
    driver can begin only after this one has noticed.
    """

    def __init__(self, folder: LocalFolder) -> None:
        self._folder = folder
        self._file: int | None = None

    def take(self, say: Say | None = None) -> None:
        """Take the lock or raise ``InputError`` at once.

        Raise ``NoLocksError`` if the file system has none. Wait for the lease of a driver that saw
        the folder without locks (``FileLease``), as that may be stale.
        """
        try:
            self._lock_folder(self._folder.pin())
            found = self._lock_found()
            try:
                wait_for_leases(self._folder, say)
                self._file = self._put_ours()
            finally:
                os.close(found)
        except BaseException:
            self.release()
            raise

    def _lock_folder(self, folder: int) -> None:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._held() from None
        except OSError:  # such as NFS, where only a file that is open to write can be locked
            pass

    def _lock_found(self) -> int:
        """Open the lock, made if there is none, and lock it."""
        for _ in range(_TRIES):
            found = self._folder.open_file(os.O_RDWR | os.O_CREAT, LOCK)
            try:
                self._lock(found)
                if self._is_there(found):
                    return found
            except BaseException:
                os.close(found)
                raise
            os.close(found)  # another driver has replaced it since
        raise self._held()

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._held() from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise NoLocksError(error.errno, error.strerror) from None
            raise

    def _put_ours(self) -> int:
        folder, name = self._folder.pin(), temporary_name(LOCK)
        ours = create(folder, name)
        try:
            self._lock(ours)
            os.write(ours, this_process().encode())
            os.rename(name, LOCK, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.close(ours)
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise
        return ours

    def _is_there(self, file: int) -> bool:
        """Return whether the lock in the folder is this open file."""
        try:
            # Opened, as a network file system answers a mere question from what it remembers.
            there = self._folder.open_file(os.O_RDONLY, LOCK)
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(there), os.fstat(file))
        finally:
            os.close(there)

    def _name(self) -> str:
        try:
            return self._folder.read_bytes(LOCK).decode(errors="replace").strip()
        except OSError:
            return ""

    def _held(self) -> Exception:
        return held_error(self._folder.path, self._name() or "another process")

    def holder(self) -> str | None:
        """Return the name of another process that holds the lock, or None if this one does.

        Raise ``OSError`` if the lock was deleted, or the folder moved.
        """
        self._folder.expect_in_place()
        if self._file is None or self._is_there(self._file):
            return None
        if name := self._name():
            return name
        raise LostFolderError(
            f"its lock {LOCK} was deleted or replaced during the run (as git clean and rsync "
            f"--delete do), so another driver may use the folder",
        )

    def release(self) -> None:
        """Release the lock."""
        self._folder.guard = None
        if self._file is not None:
            # The process may keep running, and `find_holder` reads this file, which we made.
            with contextlib.suppress(OSError):
                os.truncate(self._file, 0)
            os.close(self._file)
            self._file = None
        self._folder.unpin()


def take_local(folder: LocalFolder, say: Say | None = None) -> Lock:
    """Take the lock of a local folder: a ``FileLock``, or a ``FileLease`` where there are none.

    Raise ``InputError`` if another driver has it, ``OSError`` on failure.
    """
    lock: Lock = FileLock(folder)
    try:
        lock.take(say)
    except NoLocksError as error:
        if say:
            say(
                f"note: the file system of {folder.path} has no locks ({error.strerror}): its "
                f"driver renews a lease there instead; after a crash, the next one waits for a "
                f"minute"
            )
        lock = FileLease(folder)
        lock.take(say)
    folder.guard = lambda: _expect_held(lock)
    return lock


def _expect_held(lock: Lock) -> None:
    if holder := lock.holder():
        raise LostFolderError(lost_text(holder))
