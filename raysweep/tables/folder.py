"""A sweep's folder: its name, its lock, and the files beside the tables."""

import contextlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from pyarrow import fs

from raysweep.atomic import is_temporary
from raysweep.errors import InputError, RaysweepError
from raysweep.local_folder import LocalFolder, LostFolderError, StrangeEntryError
from raysweep.tables.conditions import replacer
from raysweep.tables.file_lock import take_local
from raysweep.tables.json_files import checked_run, read_json
from raysweep.tables.lease import Lease
from raysweep.tables.locks import LOCK, Lock, Say, lost_text
from raysweep.tables.object_store import patiently
from raysweep.tables.paths import ResultsPath, copy_all, delete_all
from raysweep.tables.paused import PAUSED, PAUSED_LIST, rescue_states
from raysweep.tables.reader import OURS
from raysweep.tables.schemas import TABLES

_SCRATCH = ".tune"
_LOGS, _LOGGERS, _PARTS = "logs", "loggers", "parts"
_FOLDERS = (
    *((_SCRATCH,), (_PARTS,), *((_PARTS, name) for name in TABLES)),
    *((PAUSED,), (_LOGS,), (_LOGGERS,)),
)
_FILES = (
    *((LOCK,), ("sweep.yaml",), ("manifest.json",), ("status.json",), ("suggestions.json",)),
    *((PAUSED, PAUSED_LIST), *((f"{name}.parquet",) for name in (*TABLES, "pareto"))),
)
"""What a run writes in a folder, or reads there; something else of such a name is refused."""


class WriteError(RaysweepError):
    """The results cannot be written; the message says where and why, in one line."""

    def __init__(self, location: object, error: OSError | str) -> None:
        where, why = location, error
        if isinstance(error, OSError):
            where, why = error.filename or location, error.strerror or str(error)
        super().__init__(f"{where}: expected to write results, got: {why}")


def check_name(name: str) -> str:
    """Refuse a sweep name that would leave the results folder or hide in it."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise InputError(
            f"--name: expected letters, digits, '.', '_', '-' (not starting with '.' or '-'), "
            f"got {name!r} (the default is the file's name)"
        )
    return name


class ResultsFolder:
    """A sweep's folder, with a lock that allows one driver at a time.

    ``location`` is a path or an address (``s3://BUCKET/NAME``). Raise ``InputError`` for an invalid
    address.
    """

    def __init__(self, location: str | Path | ResultsPath) -> None:
        self.location = ResultsPath.of(location).as_root()
        self._lock: Lock | None = None
        self._remover: ThreadPoolExecutor | None = None

    @property
    def path(self) -> Path:
        """The folder's local path; only for a local folder."""
        assert self.location.local is not None, f"{self.location} has no local path"
        return self.location.local

    @property
    def root(self) -> LocalFolder:
        """The folder, below which no link is followed; only for a local folder."""
        assert self.location.root is not None, f"{self.location} has no local path"
        return self.location.root

    @property
    def scratch(self) -> ResultsPath:
        """Folder of Ray Tune's files and the checkpoints of running packs."""
        return self.location / _SCRATCH

    def storage(self) -> tuple[str, fs.FileSystem | None]:
        """Return where Ray Tune keeps its files: a path and its file system (None if local).

        Raise ``OSError`` if a store cannot be reached.
        """
        scratch = self.scratch
        return scratch.key, None if scratch.local is not None else scratch.filesystem

    def remove_tree(self, path: str) -> None:
        """Remove one of Ray Tune's folders, named as in ``storage``; in a store, asynchronously.

        Errors are ignored: whatever remains is removed with the rest at the end.
        """
        if self.location.local is not None:
            start = Path(self.scratch.key)
            if start in Path(path).parents:
                self.root.delete_tree(_SCRATCH, *Path(path).relative_to(start).parts)
            return
        scratch, filesystem = self.storage()
        assert path.startswith(f"{scratch}/"), f"{path} is not in {scratch}"
        if self._remover is None:
            self._remover = ThreadPoolExecutor(1, "raysweep-remover")
        self._remover.submit(filesystem.delete_dir, path)  # type: ignore[union-attr]

    def open(self, is_fresh: bool = False, say: Say | None = None) -> ResultsPath | None:
        """Make the folder and take its lock; with ``is_fresh`` move an old one aside.

        Return where the old folder was moved to, if any. In a store this may wait up to 75 s for
        the lease of a killed driver to expire, and reports that through ``say``. Raise
        ``InputError`` if the folder is not writable, is not a sweep's folder, or is held by another
        driver, ``WriteError`` if the lock is lost meanwhile.
        """
        try:
            self._refuse_foreign()
            if self.location.local is None:
                return self._open_in_store(is_fresh, say)
            return self._open_locally(self.location.local, is_fresh, say)
        except StrangeEntryError as error:
            raise InputError(str(error)) from None
        except LostFolderError as error:  # just after it was taken
            raise WriteError(self.location, error) from None
        except OSError as error:
            raise InputError(
                f"{self.location}: expected a writable folder, "
                f"got: {error.strerror or error}; choose another with --results"
            ) from None

    def _open_locally(self, path: Path, is_fresh: bool, say: Say | None) -> ResultsPath | None:
        path.mkdir(parents=True, exist_ok=True)
        for kind, entries in (("a folder", _FOLDERS), ("a file", _FILES)):
            for names in entries:
                self.root.expect(kind, *names)
        self._lock = take_local(self.root, say)
        moved = self._move_aside() if is_fresh else None
        rescue_states(self.location, self.scratch)  # a killed driver left these, as the rest
        self.scratch.delete_tree()
        for name in TABLES:
            self.root.make(_PARTS, name)
        self._clear_temporary()
        return moved

    def _clear_temporary(self) -> None:
        """Delete what drivers left that were killed while they wrote."""
        loggers = [(_LOGGERS, name) for name in self.root.names(_LOGGERS)]
        for folder in ((), *_FOLDERS, *loggers):
            with contextlib.suppress(StrangeEntryError):  # not ours
                for name in filter(is_temporary, self.root.names(*folder)):
                    with contextlib.suppress(StrangeEntryError):
                        self.root.delete(*folder, name)

    def _open_in_store(self, is_fresh: bool, say: Say | None) -> ResultsPath | None:
        lease = Lease(self.location)
        lease.take(say)
        self._lock = lease
        if not is_fresh:
            rescue_states(self.location, self.scratch)
        self.scratch.delete_tree()
        return self._copy_aside() if is_fresh else None

    def _refuse_foreign(self) -> None:
        names = self.location.names()
        # Workers may make Ray Tune's folder again where a folder was that is moved while it runs.
        is_empty = all(name.startswith(LOCK) or name == _SCRATCH for name in names)
        is_ours = OURS & set(names) or is_empty
        if self.location.is_file() or not is_ours:
            raise InputError(
                f"{self.location}: expected no folder or a sweep's folder, got something else; "
                f"choose another with --name or --results"
            )

    def _aside(self) -> ResultsPath:
        return self.location.with_name(f"{self.location.name}.{datetime.now():%Y%m%d-%H%M%S}")

    def _move_aside(self) -> ResultsPath | None:
        content = sorted(
            (name for name in self.root.names() if not name.startswith(LOCK)),
            key=lambda name: not name.startswith("trials"),
        )
        if not content:
            return None
        moved = self._aside()
        assert moved.local is not None
        moved.local.mkdir()
        with self.root.opened() as old, LocalFolder(moved.local).opened() as new:
            for name in content:
                os.rename(name, name, src_dir_fd=old, dst_dir_fd=new)
        return moved

    def _copy_aside(self) -> ResultsPath | None:
        """Copy everything in a store, and only then delete the originals.

        The files of ``trials`` are deleted first: a row of ``trials`` without the rows it vouches
        for would keep them from being trained again after a crash.
        """
        names = [name for name in self.location.tree() if name != LOCK]
        if not names:
            return None
        moved = self._aside()
        copy_all((self.location / name, moved / name) for name in names)
        vouching = [name for name in names if name.startswith(("trials.", "parts/trials/"))]
        delete_all(self.location / name for name in vouching)
        delete_all(self.location / name for name in names if name not in vouching)
        return moved

    def expect_lock(self) -> None:
        """Raise ``WriteError`` if another driver holds the folder, ``OSError`` if unknown."""
        holder = self._lock.holder() if self._lock else None
        if holder:
            raise WriteError(self.location, lost_text(holder))

    def replacer(self, name: str) -> Callable[[bytes], None]:
        """Return what replaces a file, unless another driver has replaced it since this call.

        That is certain in a store that writes on a condition. It raises ``WriteError`` then, and
        ``OSError`` on failure, as this call does.
        """
        location = self.location / name
        if not (isinstance(self._lock, Lease) and self._lock.is_certain):
            return lambda content: patiently(lambda: location.write_bytes(content))
        replace = replacer(location)

        def expect_replaced(content: bytes) -> None:
            if not replace(content):
                self.expect_lock()
                raise WriteError(location, "another program replaced it meanwhile")

        return expect_replaced

    def close(self) -> None:
        """Remove Ray's files and release the lock, if it was taken."""
        if not self._lock:
            return
        if self._remover:
            self._remover.shutdown(cancel_futures=True)
            self._remover = None
        with contextlib.suppress(OSError):
            if not self._lock.holder():  # otherwise they belong to another driver
                self.scratch.delete_tree()
        self._lock.release()
        self._lock = None
        self._clear_old_place()

    def _clear_old_place(self) -> None:
        """Remove what workers made where the folder was before it was moved during the run."""
        place = self.location.local
        if place is not None and LocalFolder(place).names() == [_SCRATCH]:
            with contextlib.suppress(OSError):
                self.root.delete_tree(_SCRATCH)
                place.rmdir()

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into the folder atomically. Raise ``WriteError`` on failure."""
        try:
            (self.location / name).write_bytes(text.encode())
        except OSError as error:
            raise WriteError(self.location, error) from None

    def write_log(self, name: str, text: str) -> ResultsPath:
        """Write the log of a failure and return its path. Raise ``OSError`` on failure."""
        (self.location / _LOGS).make_folder()
        log = self.location / _LOGS / name
        log.write_bytes(text.encode())
        return log

    def add_run(self, run: Mapping[str, Any]) -> None:
        """Add a run to ``manifest.json``, replacing an entry with the same start.

        Raise ``WriteError`` on failure.
        """
        location = self.location / "manifest.json"
        try:
            runs = _runs(location, run["start"])
            content = json.dumps({"runs": [*runs, dict(run)]}, indent=2) + "\n"
            location.write_bytes(content.encode())
        except OSError as error:
            raise WriteError(self.location, error) from None


def read_runs(folder: str | Path | ResultsPath) -> list[dict[str, Any]]:
    """Return the runs in a folder's ``manifest.json``, oldest first; empty if it is unreadable."""
    try:
        runs = read_json(ResultsPath.of(folder) / "manifest.json")["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if not isinstance(runs, list):
        return []
    return [checked_run(run) for run in runs if isinstance(run, dict)]


def resume_command(command: Sequence[str]) -> str:
    """Return the command that resumes this one."""
    return shlex.join(word for word in command if word != "--fresh")


def _runs(manifest: ResultsPath, other_than: str) -> list[dict[str, Any]]:
    """Return all runs in a manifest except one; move a damaged manifest aside."""
    try:
        content = read_json(manifest)
        return [entry for entry in content["runs"] if entry["start"] != other_than]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        manifest.move(manifest.with_name("manifest.json.damaged"))
        return []
