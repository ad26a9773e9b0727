"""A folder or file, on a local file system or in an object store."""

import contextlib
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from raysweep.atomic import write_atomically
from raysweep.errors import InputError
from raysweep.tables.object_store import (
    SCHEMES,
    StoreError,
    connect,
    explained,
    no_bucket,
    take_apart,
)

_N_REQUESTS = 16
"""How many requests to a store may be under way at once."""
_N_READS = 5
"""How often a file is opened that is replaced before it is read."""


@dataclass(frozen=True)
class ResultsPath:
    """A folder or file: ``local``, or else an ``address`` in an object store with its ``query``.

    ``str()`` gives what the user wrote, plus names. It holds no connection and no credentials, so
    it can be pickled. Object stores have no folders, only key prefixes: none
    has to be made, and an empty one does not exist.

    What does I/O raises ``OSError``, for a store's errors with one line as its text.
    """

    local: Path | None
    address: str = ""
    query: str = ""

    @classmethod
    def of(cls, text: "str | Path | ResultsPath") -> "ResultsPath":
        """Take a path, an address (``s3://``, ``gs://``, ``file://``) or a place.

        Raises ``InputError`` for an address that can't be one, or that holds credentials.
        """
        if isinstance(text, ResultsPath):
            return text
        slip = re.match(rf"({'|'.join(SCHEMES)}):/(?!/)", str(text))
        if slip:  # also what pathlib makes of an address
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
            return ResultsPath(self.local / name)
        return ResultsPath(None, f"{self.address}/{name}", self.query)

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self.local.name if self.local is not None else self.key.rpartition("/")[2]

    def with_name(self, name: str) -> "ResultsPath":
        """Return the place beside this one that has another name."""
        if self.local is not None:
            return ResultsPath(self.local.with_name(name))
        return ResultsPath(None, f"{self.address.rpartition('/')[0]}/{name}", self.query)

    @property
    def bucket(self) -> str:
        """The bucket of an object store."""
        return take_apart(self.address).bucket

    @property
    def key(self) -> str:
        """The path in ``filesystem``: in an object store the bucket and the name in it."""
        if self.local is not None:
            return str(self.local.absolute())
        found = take_apart(self.address)
        return f"{found.bucket}/{found.key}".rstrip("/")

    @property
    def filesystem(self) -> fs.FileSystem:
        """The file system in pyarrow's form, connected once a process."""
        if self.local is not None:
            return fs.LocalFileSystem()
        with self._asking():
            return connect(take_apart(self.address).scheme, self.bucket, self.query)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn errors of a store into ``StoreError``, for what is missing ``FileNotFoundError``."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            # A file may be deleted between the two requests of a read; Google's store has no
            # FileNotFoundError for a folder.
            words = "NO_SUCH_KEY|RESOURCE_NOT_FOUND|No such directory"
            if isinstance(error, FileNotFoundError) or re.search(words, str(error)):
                raise FileNotFoundError(str(self)) from None
            found = take_apart(self.address)
            raise explained(found.scheme, found.bucket, error) from None

    def read_bytes(self) -> bytes:
        """Read the whole file. Raises ``FileNotFoundError`` if there is none."""
        if self.local is not None:
            return self.local.read_bytes()
        filesystem, key = self.filesystem, self.key
        for _ in range(_N_READS):
            # Google's store: what was deleted or replaced since it was opened is a closed file.
            with (
                contextlib.suppress(ValueError),
                self._asking(),
                filesystem.open_input_file(key) as file,
            ):
                content: bytes = file.read()
                return content
        raise StoreError(f"{self} is replaced again and again, or cut off", is_passing=True)

    def write_bytes(self, content: bytes) -> None:
        """Write the file: afterwards it is there whole, or as it was before."""
        if self.local is not None:
            write_atomically(self.local, content)
        elif threading.current_thread() is threading.main_thread():
            # pyarrow completes what was begun even when an interrupt (which only the main thread
            # gets) comes in between: with half of the content, or none.
            _pool().submit(self._put, content).result()
        else:
            self._put(content)

    def _put(self, content: bytes) -> None:
        filesystem, key = self.filesystem, self.key
        try:
            with self._asking(), filesystem.open_output_stream(key, compression=None) as file:
                file.write(content)
        except FileNotFoundError:  # Google's store
            raise no_bucket(take_apart(self.address).scheme, self.bucket) from None

    def names(self) -> list[str]:
        """List the names in the folder, sorted; none if there is no folder."""
        if self.local is not None:
            try:
                return sorted(entry.name for entry in self.local.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return []
        # Google's store tells of files alone, and of all below in any case.
        is_recursive = take_apart(self.address).scheme == "gs"
        start = len(self.key) + 1
        infos = self._list(is_recursive)
        return sorted({info.path[start:].partition("/")[0] for info in infos})

    def tree(self) -> list[str]:
        """List all files in a store's folder and below, as paths from here, sorted."""
        start = len(self.key) + 1
        infos = self._list(is_recursive=True)
        return sorted(info.path[start:] for info in infos if info.type == fs.FileType.File)

    def _list(self, is_recursive: bool) -> list[fs.FileInfo]:
        filesystem = self.filesystem
        selector = fs.FileSelector(self.key, allow_not_found=True, recursive=is_recursive)
        with self._asking():
            return list(filesystem.get_file_info(selector))

    def _info(self, key: str) -> fs.FileInfo:
        filesystem = self.filesystem
        with self._asking():
            return filesystem.get_file_info(key)

    def exists(self) -> bool:
        """Return whether there is a file or folder."""
        if self.local is not None:
            return self.local.exists()
        return bool(self._info(self.key).type != fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Return whether there is a file."""
        if self.local is not None:
            return self.local.is_file()
        return bool(self._info(self.key).type == fs.FileType.File)

    def written_at(self) -> datetime:
        """Return when the file was written, by the store's clock."""
        info = self._info(self.key)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(str(self))
        written: datetime = info.mtime
        return written

    def expect_bucket(self) -> None:
        """Raise ``OSError`` if the store has no such bucket, or can't be asked."""
        if self.local is None and self._info(self.bucket).type == fs.FileType.NotFound:
            raise no_bucket(take_apart(self.address).scheme, self.bucket)

    def delete(self) -> None:
        """Delete the file, if there is one."""
        if self.local is not None:
            self.local.unlink(missing_ok=True)
            return
        filesystem, key = self.filesystem, self.key
        with contextlib.suppress(FileNotFoundError), self._asking():
            filesystem.delete_file(key)

    def delete_tree(self) -> None:
        """Delete the folder with all in it, if there is one."""
        if self.local is not None:
            shutil.rmtree(self.local, ignore_errors=True)
            return
        filesystem, key = self.filesystem, self.key
        with contextlib.suppress(FileNotFoundError), self._asking():
            filesystem.delete_dir(key)

    def copy(self, target: "ResultsPath") -> None:
        """Copy a store's file to a place in the same store."""
        filesystem, key = self.filesystem, self.key
        with self._asking():
            filesystem.copy_file(key, target.key)

    def move(self, target: "ResultsPath") -> None:
        """Move the file on the same file system; in a store, copy and delete it."""
        if self.local is not None and target.local is not None:
            self.local.rename(target.local)
            return
        self.copy(target)
        self.delete()


def read_all(places: Sequence[ResultsPath]) -> list[bytes]:
    """Read files, those of a store several at once. Raises what ``read_bytes`` does."""
    if any(location.local is None for location in places):
        return list(_pool().map(ResultsPath.read_bytes, places))
    return [location.read_bytes() for location in places]


def delete_all(places: Iterable[ResultsPath]) -> None:
    """Delete a store's files, several at once and in no order."""
    list(_pool().map(ResultsPath.delete, places))


def copy_all(pairs: Iterable[tuple[ResultsPath, ResultsPath]]) -> None:
    """Copy a store's files, several at once."""
    list(_pool().map(lambda pair: pair[0].copy(pair[1]), pairs))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_N_REQUESTS, "raysweep-store")
