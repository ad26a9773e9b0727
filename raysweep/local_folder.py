"""A folder on this machine, below which no link is followed, whoever else can write there.

Links in a results folder would lead our writes and deletions outside. To look for them first would
not do, since another user may put one there in between. So every entry is opened relative to the
folder that holds it, which is open already, and the system refuses a link at that moment.
"""

import contextlib
import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from raysweep.atomic import write_at

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Without waiting, as opening a pipe would wait for its other end; no difference for files."""
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class _ReasonError(OSError):
    """An error whose text is one line that says it all; ``strerror``, too."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EIO, reason)
        self.strerror: str = reason

    def __str__(self) -> str:
        return self.strerror

    def __reduce__(self) -> tuple[type["_ReasonError"], tuple[str]]:
        """Support pickling."""
        return type(self), (self.strerror,)


class StrangeEntryError(_ReasonError):
    """An entry is not what we write there: a link, a pipe, a device, a folder for a file."""


class LostFolderError(_ReasonError):
    """The folder is no longer ours to write to."""


class LocalFolder:
    """A folder, whose entries are given by the names that lead to them: ``("parts", "trials")``.

    The folder itself, and those above it, may be links. While it is pinned, only the folder that
    was there then is used: once it is moved, a ``LostFolderError`` is raised. ``guard``, if set, is
    called just before anything is changed, and raises ``OSError`` if that is no longer allowed.
    Methods raise ``OSError``, a ``StrangeEntryError`` for a link; its ``filename`` is the whole
    path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.guard: Callable[[], None] | None = None
        self._pinned: int | None = None
        self._pinning = threading.Lock()

    def __reduce__(self) -> tuple[type["LocalFolder"], tuple[Path]]:
        """Support pickling; the copy is not pinned."""
        return LocalFolder, (self.path,)

    def pin(self) -> int:
        """Keep the folder open until ``unpin`` and return its descriptor."""
        with self._pinning:
            if self._pinned is None:
                self._pinned = os.open(self.path, _FOLDER)
            return self._pinned

    def unpin(self) -> None:
        """Close the folder; from now on, it is whichever is at its path."""
        with self._pinning:
            if self._pinned is not None:
                os.close(self._pinned)
                self._pinned = None

    def expect_in_place(self) -> None:
        """Raise ``OSError`` if the pinned folder is no longer the one at its path."""
        with self._naming(()):
            os.close(self._root())

    @contextlib.contextmanager
    def opened(self, *names: str) -> Iterator[int]:
        """Open the folder below this one that the names lead to."""
        with self._naming(names):
            folder = self._root()
            try:
                for i, name in enumerate(names):
                    below = self._below(folder, names[: i + 1], name)
                    os.close(folder)
                    folder = below
            except BaseException:
                os.close(folder)
                raise
        try:
            yield folder
        finally:
            os.close(folder)

    def _root(self) -> int:
        """Open the folder at its path; if it is pinned, only if that is still the same folder.

        Not a copy of the pinned descriptor, which knows nothing of what was mounted there since.
        """
        with self._pinning:
            try:
                folder = os.open(self.path, _FOLDER)
            except FileNotFoundError:
                if self._pinned is None:
                    raise
                raise _lost(self._pinned) from None
            if self._pinned is None or os.path.samestat(os.fstat(folder), os.fstat(self._pinned)):
                return folder
            os.close(folder)
            raise _lost(self._pinned)

    def _below(self, folder: int, names: Sequence[str], name: str) -> int:
        try:
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        except NotADirectoryError:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            raise _strange(self._path(names), folder, name, found, "a folder") from None

    @contextlib.contextmanager
    def _parent(self, names: Sequence[str]) -> Iterator[int]:
        with self.opened(*names[:-1]) as folder, self._naming(names):
            yield folder

    def _check(self) -> None:
        if self.guard:
            self.guard()

    @contextlib.contextmanager
    def _naming(self, names: Sequence[str]) -> Iterator[None]:
        """Put the whole path into errors, not the part of it that the system was asked for."""
        try:
            yield
        except (StrangeEntryError, LostFolderError):
            raise
        except OSError as error:
            error.filename, error.filename2 = str(self._path(names)), None
            raise

    def _path(self, names: Sequence[str]) -> Path:
        return self.path.joinpath(*names)

    def stat(self, *names: str) -> os.stat_result:
        """Return the state of an entry, of a link itself."""
        with self._parent(names) as folder:
            return os.stat(names[-1], dir_fd=folder, follow_symlinks=False)

    def exists(self, *names: str) -> bool:
        """Return whether there is an entry of any kind."""
        try:
            self.stat(*names)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def expect(self, kind: str, *names: str) -> None:
        """Raise ``StrangeEntryError`` if there is an entry, but not ``a file`` or ``a folder``."""
        with contextlib.suppress(FileNotFoundError), self._parent(names) as folder:
            found = os.stat(names[-1], dir_fd=folder, follow_symlinks=False)
            if _KINDS.get(stat.S_IFMT(found.st_mode)) != kind:
                raise _strange(self._path(names), folder, names[-1], found, kind)

    def open_file(self, flags: int, *names: str) -> int:
        """Open a file; anything else is refused without opening it."""
        with self._parent(names) as folder:
            return self._open_file(folder, flags, names)

    def _open_file(self, folder: int, flags: int, names: Sequence[str]) -> int:
        name = names[-1]
        with contextlib.suppress(FileNotFoundError):  # it may be about to be created
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):  # opening a device may have an effect
                raise _strange(self._path(names), folder, name, found, "a file")
        opened = os.open(name, flags | _NO_LINK, 0o666, dir_fd=folder)
        found = os.fstat(opened)
        if stat.S_ISREG(found.st_mode):
            return opened
        os.close(opened)
        raise _strange(self._path(names), folder, name, found, "a file")

    def read_bytes(self, *names: str) -> bytes:
        """Read a whole file."""
        with self._parent(names) as folder:
            opened = self._open_file(folder, os.O_RDONLY, names)
            with open(opened, "rb") as file:  # noqa: PTH123 (a descriptor)
                return file.read()

    def write_bytes(self, content: bytes, *names: str) -> None:
        """Write a file atomically: it ends up complete, or stays as it was."""
        with self._parent(names) as folder:
            write_at(folder, names[-1], content, self.guard)

    def names(self, *names: str) -> list[str]:
        """List the names in a folder, sorted; empty if there is none."""
        try:
            with self.opened(*names) as folder:
                return sorted(os.listdir(folder))  # noqa: PTH208 (a descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def entries(self, *names: str) -> dict[str, bool]:
        """Map the names in a folder to whether each is a file (a link is not); empty if none."""
        try:
            with self.opened(*names) as folder, os.scandir(folder) as found:
                return {entry.name: entry.is_file(follow_symlinks=False) for entry in found}
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def make(self, *names: str) -> None:
        """Make a folder, and those above it, unless they exist."""
        if self._pinned is None:
            self.path.mkdir(parents=True, exist_ok=True)
        for i in range(len(names)):
            with self._parent(names[: i + 1]) as folder:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(names[i], dir_fd=folder)
                os.close(self._below(folder, names[: i + 1], names[i]))

    def rename(self, names: Sequence[str], new: str) -> None:
        """Rename an entry within its folder; an entry of the new name is replaced."""
        with self._parent(names) as folder:
            self._check()
            os.rename(names[-1], new, src_dir_fd=folder, dst_dir_fd=folder)

    def delete(self, *names: str) -> None:
        """Delete a file, if it exists. Raise ``OSError`` for anything else, links included."""
        with contextlib.suppress(FileNotFoundError), self._parent(names) as folder:
            found = os.stat(names[-1], dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise _strange(self._path(names), folder, names[-1], found, "a file")
            self._check()
            os.unlink(names[-1], dir_fd=folder)

    def delete_tree(self, *names: str) -> None:
        """Delete a folder and everything in it, as far as possible; links are not followed."""
        with contextlib.suppress(OSError), self._parent(names) as folder:
            self._check()
            shutil.rmtree(names[-1], ignore_errors=True, dir_fd=folder)


def _lost(pinned: int) -> LostFolderError:
    where = ""
    with contextlib.suppress(OSError):
        where = str(Path(f"/proc/self/fd/{pinned}").readlink())
    if where and os.fstat(pinned).st_nlink:
        return LostFolderError(
            f"the folder was moved to {where} during the run; move it back to continue"
        )
    return LostFolderError("the folder was deleted or replaced during the run")


def _strange(
    path: Path, folder: int, name: str, found: os.stat_result, kind: str
) -> StrangeEntryError:
    what = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
    way_on = f"remove it, or put {kind} in its place"
    if stat.S_ISLNK(found.st_mode):
        target = "another place"
        with contextlib.suppress(OSError):
            target = os.readlink(name, dir_fd=folder)
        what += f" to {target}"
        way_on = "delete the link: nothing in a sweep's folder may be one"
    return StrangeEntryError(f"{path} is {what}, not {kind}; {way_on}")
