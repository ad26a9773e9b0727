"""A folder or file, on a local file system or in an object store."""

import contextlib
import errno
import re
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import IO

import pyarrow as pa
from pyarrow import fs

from raysweep.atomic import write_atomically
from raysweep.errors import InputError
from raysweep.local_folder import LocalFolder
from raysweep.tables.object_store import (
    SCHEMES,
    StoreError,
    connect,
    explained,
    no_bucket,
    patient,
    take_apart,
)

_N_REQUESTS = 16
"""How many requests to a store may be in flight at once."""
_N_READS = 5
"""How often to try to open a file that keeps being replaced before it is read."""


@dataclass(frozen=True)
class ResultsPath:
    """A folder or file: a ``local`` path, or an ``address`` in an object store with its ``query``.

    ``str()`` returns what the user wrote, plus names. A path holds no connection and no
    credentials, so it can be pickled. Object stores have no folders, only key prefixes: folders
    need not be created, and an empty one does not exist.

    ``root`` is the local folder that names were appended to: the folder itself, and those above it,
    may be links, but nothing below it.

    Methods that do I/O raise ``OSError``; for a store's errors, its text is one line.
    """

    local: Path | None
    address: str = ""
    query: str = ""
    root: LocalFolder | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, text: "str | Path | ResultsPath") -> "ResultsPath":
        """Convert a path, an address (``s3://``, ``gs://``, ``file://``) or a ``ResultsPath``.

        Raise ``InputError`` for an invalid address, or one with credentials.
        """
        if isinstance(text, ResultsPath):
            return text
        slip = re.match(rf"({'|'.join(SCHEMES)}):/(?!/)", str(text))
        if slip:  # pathlib also turns addresses into this
            raise InputError(f"{text}: expected two slashes after {slip[1]}: in an address")
        if isinstance(text, Path) or "://" not in text:
            return cls(Path(text))
        found = take_apart(text)
        if found.scheme == "file":
            return cls(Path(found.key))
        return cls(None, text.partition("?")[0].rstrip("/"), found.query)

    def __str__(self) -> str:
        if self.local is not None:
            return str(self.local)
        return f"{self.address}?{self.query}" if self.query else self.address

    def __truediv__(self, name: str) -> "ResultsPath":
        if self.local is not None:
            return ResultsPath(self.local / name, root=self.root or LocalFolder(self.local))
        return ResultsPath(None, f"{self.address}/{name}", self.query)

    def as_root(self) -> "ResultsPath":
        """Return this folder as one that may be a link, as may those above it."""
        if self.local is None:
            return self
        return ResultsPath(self.local, root=LocalFolder(self.local))

    def _below(self) -> tuple[LocalFolder, tuple[str, ...]] | None:
        """Return the root and the names that lead from it to here; None if not below one."""
        if self.local is None or self.root is None or self.local == self.root.path:
            return None
        return self.root, self.local.relative_to(self.root.path).parts

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.local.name if self.local is not None else self.key.rpartition("/")[2]

    def with_name(self, name: str) -> "ResultsPath":
        """Return the sibling of this path with another name."""
        if self.local is not None:
            is_below = self._below() is not None
            return ResultsPath(self.local.with_name(name), root=self.root if is_below else None)
        return ResultsPath(None, f"{self.address.rpartition('/')[0]}/{name}", self.query)

    @property
    def bucket(self) -> str:
        """The bucket of an object store."""
        return take_apart(self.address).bucket

    @property
    def key(self) -> str:
        """The path in ``filesystem``; in an object store, the bucket and the name in it."""
        if self.local is not None:
            return str(self.local.absolute())
        found = take_apart(self.address)
        return f"{found.bucket}/{found.key}".rstrip("/")

    @property
    @patient
    def filesystem(self) -> fs.FileSystem:
        """The pyarrow file system, connected once per process."""
        if self.local is not None:
            return fs.LocalFileSystem()
        with self._asking():
            return connect(take_apart(self.address).scheme, self.bucket, self.query)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Convert a store's errors to ``StoreError``, or ``FileNotFoundError`` if missing."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            # A file may be deleted between the two requests of a read; Google's store does not
            # raise FileNotFoundError for a folder.
            words = "NO_SUCH_KEY|RESOURCE_NOT_FOUND|No such directory"
            if isinstance(error, FileNotFoundError) or re.search(words, str(error)):
                raise FileNotFoundError(str(self)) from None
            found = take_apart(self.address)
            raise explained(found.scheme, found.bucket, error) from None

    @patient
    def read_bytes(self) -> bytes:
        """Read the whole file. Raise ``FileNotFoundError`` if it does not exist."""
        if below := self._below():
            return below[0].read_bytes(*below[1])
        if self.local is not None:
            return self.local.read_bytes()
        filesystem, key = self.filesystem, self.key
        for _ in range(_N_READS):
            # In Google's store, a file deleted or replaced after opening appears as closed.
            with (
                contextlib.suppress(ValueError),
                self._asking(),
                filesystem.open_input_file(key) as file,
            ):
                content: bytes = file.read()
                return content
        raise StoreError(f"{self} keeps being replaced, or is cut off", is_passing=True)

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Open the file to read parts of it. Raise ``FileNotFoundError`` if it does not exist."""
        if self.local is not None:
            with self.local.open("rb") as local:
                yield local
            return
        filesystem, key = self.filesystem, self.key
        with self._asking(), filesystem.open_input_file(key) as file:
            yield file

    def write_bytes(self, content: bytes) -> None:
        """Write the file atomically: it ends up complete, or stays as it was."""
        if below := self._below():
            below[0].write_bytes(content, *below[1])
        elif self.local is not None:
            write_atomically(self.local, content)
        elif threading.current_thread() is threading.main_thread():
            # If an interrupt (which only the main thread receives) occurs in between, pyarrow
            # still completes the upload, with half of the content or none.
            _pool().submit(self._put, content).result()
        else:
            self._put(content)

    @patient
    def _put(self, content: bytes) -> None:
        filesystem, key = self.filesystem, self.key
        try:
            with self._asking(), filesystem.open_output_stream(key, compression=None) as file:
                file.write(content)
        except FileNotFoundError:  # Google's store
            raise no_bucket(take_apart(self.address).scheme, self.bucket) from None

    def names(self) -> list[str]:
        """List the names in the folder, sorted; empty if the folder does not exist."""
        if self.local is not None:
            root, names = self._below() or (self.root or LocalFolder(self.local), ())
            return root.names(*names)
        # Google's store lists only files, and always recursively.
        is_recursive = take_apart(self.address).scheme == "gs"
        start = len(self.key) + 1
        infos = self._list(is_recursive)
        return sorted({info.path[start:].partition("/")[0] for info in infos})

    def entries(self) -> dict[str, bool]:
        """Map the names in the folder to whether each is a file that can be opened safely."""
        if self.local is not None:
            root, names = self._below() or (self.root or LocalFolder(self.local), ())
            return root.entries(*names)
        return dict.fromkeys(self.names(), True)

    def tree(self) -> list[str]:
        """List all files below a store's folder as relative paths, sorted."""
        start = len(self.key) + 1
        infos = self._list(is_recursive=True)
        return sorted(info.path[start:] for info in infos if info.type == fs.FileType.File)

    @patient
    def _list(self, is_recursive: bool) -> list[fs.FileInfo]:
        filesystem = self.filesystem
        selector = fs.FileSelector(self.key, allow_not_found=True, recursive=is_recursive)
        with self._asking():
            return list(filesystem.get_file_info(selector))

    @patient
    def _info(self, key: str) -> fs.FileInfo:
        filesystem = self.filesystem
        with self._asking():
            return filesystem.get_file_info(key)

    def exists(self) -> bool:
        """Return whether the file or folder exists."""
        if below := self._below():
            return below[0].exists(*below[1])
        if self.local is not None:
            return self.local.exists()
        return bool(self._info(self.key).type != fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Return whether this is a file."""
        if self.local is not None:
            return self.local.is_file()
        return bool(self._info(self.key).type == fs.FileType.File)

    def written_at(self) -> datetime:
        """Return when the file was written, by the clock of the store or file system."""
        if below := self._below():
            return datetime.fromtimestamp(below[0].stat(*below[1]).st_mtime, UTC)
        info = self._info(self.key)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(str(self))
        written: datetime = info.mtime
        return written

    def size(self) -> int:
        """Return the size of the file in bytes. Raise ``OSError`` for anything but a file."""
        if self.local is not None:
            if below := self._below():
                below[0].expect("a file", *below[1])
                return below[0].stat(*below[1]).st_size
            state = self.local.stat()
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "not a file, but a folder, pipe or device", str(self))
            return state.st_size
        info = self._info(self.key)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(str(self))
        return int(info.size or 0)

    def expect_bucket(self) -> None:
        """Raise ``OSError`` if the store has no such bucket, or cannot be reached."""
        if self.local is None and self._info(self.bucket).type == fs.FileType.NotFound:
            raise no_bucket(take_apart(self.address).scheme, self.bucket)

    @patient
    def delete(self) -> None:
        """Delete the file, if it exists."""
        if below := self._below():
            below[0].delete(*below[1])
            return
        if self.local is not None:
            self.local.unlink(missing_ok=True)
            return
        filesystem, key = self.filesystem, self.key
        with contextlib.suppress(FileNotFoundError), self._asking():
            filesystem.delete_file(key)

    def make_folder(self) -> None:
        """Make the folder, and those above it; in a store, there are none."""
        if below := self._below():
            below[0].make(*below[1])
        elif self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)

    def expect_folder(self) -> None:
        """Raise ``OSError`` if something else is there, such as a link to a folder."""
        if below := self._below():
            below[0].expect("a folder", *below[1])

    @patient
    def delete_tree(self) -> None:
        """Delete the folder and everything in it, if it exists."""
        if self.local is not None:
            root, names = self._below() or (LocalFolder(self.local.parent), (self.local.name,))
            root.delete_tree(*names)
            return
        filesystem, key = self.filesystem, self.key
        with contextlib.suppress(FileNotFoundError), self._asking():
            filesystem.delete_dir(key)

    @patient
    def copy(self, target: "ResultsPath") -> None:
        """Copy a store's file to another path in the same store."""
        filesystem, key = self.filesystem, self.key
        with self._asking():
            filesystem.copy_file(key, target.key)

    def move(self, target: "ResultsPath") -> None:
        """Move the file within its folder; in a store, copy and delete it."""
        if (below := self._below()) and target == self.with_name(target.name):
            below[0].rename(below[1], target.name)
            return
        if self.local is not None and target.local is not None:
            self.local.rename(target.local)
            return
        self.copy(target)
        self.delete()


def read_all(places: Sequence[ResultsPath]) -> list[bytes]:
    """Read files, in parallel from a store. Raise the same errors as ``read_bytes``."""
    if any(location.local is None for location in places):
        return list(_pool().map(ResultsPath.read_bytes, places))
    return [location.read_bytes() for location in places]


def delete_all(places: Iterable[ResultsPath]) -> None:
    """Delete a store's files in parallel, in no particular order."""
    list(_pool().map(ResultsPath.delete, places))


def copy_all(pairs: Iterable[tuple[ResultsPath, ResultsPath]]) -> None:
    """Copy a store's files in parallel."""
    list(_pool().map(lambda pair: pair[0].copy(pair[1]), pairs))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_N_REQUESTS, "raysweep-store")
