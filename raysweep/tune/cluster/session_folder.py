"""The folder of Ray's sessions, sockets and logs: private, and gone when the run is."""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raysweep.errors import NothingRunsError

_PREFIX = "raysweep."
_NAME = re.compile(re.escape(_PREFIX) + r"[a-z0-9_]{8}")  # as tempfile.mkdtemp names them
_MARK = "raysweep-session"
"""A file that tells our folders from others with such a name."""
_SOCKET_BYTES = 107
"""Length of a Unix socket's path, at most (sun_path in unix(7))."""
_RAYS_FOLDER = "r"
"""Ray's part of the folder, which it makes mode 0777; the folder around it stays 0700."""
_RAYS_PATHS = "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
_LONGEST = _SOCKET_BYTES - len(f"/{_PREFIX}12345678/{_RAYS_FOLDER}/{_RAYS_PATHS}")
_REMOVED_S = 10.0


@contextmanager
def session_folder(say: Callable[[str], None]) -> Iterator[Path]:
    """Yield a new folder that only this user can enter, and remove it with all that is in it.

    Ray's own, ``/tmp/ray``, can be written by everybody on this machine: who swaps a socket there
    is given the tasks, and with them the right to run code. It also keeps each session for good.
    The folder is made in ``RAY_TMPDIR``, ``TMPDIR`` or ``/tmp``, the first that is there and short
    enough for sockets; not in ``XDG_RUNTIME_DIR``, which is in memory, where Ray would put what
    memory lacks room for, and which is removed at logout, when a run under ``nohup`` continues.
    Folders of runs that were killed are removed. Raises ``NothingRunsError`` if none can be made.
    """
    folder, lock = _make(say)
    try:
        yield folder / _RAYS_FOLDER
    finally:
        remove(folder)
        os.close(lock)


def _make(say: Callable[[str], None]) -> tuple[Path, int]:
    """Make a folder and lock it; return it and the lock."""
    reasons = []
    for name, base in _bases():
        if len(os.fsencode(base)) > _LONGEST:
            reason = f"has more than {_LONGEST} letters, and sockets in it would have too many"
        else:
            try:
                if name == "RAY_TMPDIR":  # as Ray does
                    base.mkdir(parents=True, exist_ok=True)
                _remove_leftovers(base)
                return _make_in(base)
            except OSError as error:
                reason = error.strerror or str(error)
        reasons.append(f"{base}: {reason}")
        if name == "RAY_TMPDIR":
            say(f"note: RAY_TMPDIR is not used for Ray's sockets and logs: {base} {reason}")
    raise NothingRunsError(
        f"expected a folder for Ray's sockets and logs, got {'; '.join(reasons)}; make room, or "
        f"set RAY_TMPDIR to a folder of at most {_LONGEST} letters on a local disk"
    )


def _bases() -> Iterator[tuple[str, Path]]:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if os.environ.get(name):
            yield name, Path(os.environ[name]).absolute()
    yield "", Path("/tmp")  # noqa: S108 (only to make a private folder in it)


def _make_in(base: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))  # mode 0700
        lock = _open(folder)
        # On the folder itself: systemd-tmpfiles, too, leaves locked folders alone.
        with contextlib.suppress(OSError):  # no locks there, so none to remove it by
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            (folder / _MARK).touch()
            return folder, lock
        os.close(lock)  # another run took it for one that was left


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _remove_leftovers(base: Path) -> None:
    """Remove the folders of runs that were killed: ours by owner, name and mark, and not locked."""
    with os.scandir(base) as entries:
        names = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
    for name in names:
        with contextlib.suppress(OSError):  # somebody else's, a link, no folder, in use
            lock = _open(base / name)
            try:
                found = os.fstat(lock)
                if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
                    continue
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if any((base / name).iterdir()) and not _has_mark(lock):
                    continue
                shutil.rmtree(base / name)  # follows no links
            finally:
                os.close(lock)


def _has_mark(folder: int) -> bool:
    return stat.S_ISREG(os.stat(_MARK, dir_fd=folder, follow_symlinks=False).st_mode)


def remove(path: Path) -> None:
    """Remove a folder, into which Ray's last processes may still write for a moment."""
    end = time.monotonic() + _REMOVED_S
    while path.exists() and time.monotonic() < end:  # what is left then, a later run removes
        shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05 * path.exists())
