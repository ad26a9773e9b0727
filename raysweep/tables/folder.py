"""A sweep's folder: its name, its lock, and the files beside the tables."""

import contextlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from pyarrow import fs

from raysweep.atomic import TEMPORARY
from raysweep.errors import InputError, RaysweepError
from raysweep.tables.file_lock import FileLock
from raysweep.tables.lease import Lease, clear_probes
from raysweep.tables.locks import LOCK, Lock, Say
from raysweep.tables.paths import ResultsPath, copy_all, delete_all
from raysweep.tables.paused import rescue_states
from raysweep.tables.reader import OURS
from raysweep.tables.schemas import TABLES

_SCRATCH = ".tune"


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
        self.location = ResultsPath.of(location)
        self._lock: Lock | None = None
        self._remover: ThreadPoolExecutor | None = None

    @property
    def path(self) -> Path:
        """The folder's local path; only for a local folder."""
        assert self.location.local is not None, f"{self.location} has no local path"
        return self.location.local

    @property
    def logs(self) -> Path:
        """Local folder of the tracebacks of failed packs."""
        return self.path / "logs"

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
            ResultsPath(Path(path)).delete_tree()
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
        driver.
        """
        try:
            self._refuse_foreign()
            if self.location.local is None:
                return self._open_in_store(is_fresh, say)
            return self._open_locally(self.location.local, is_fresh)
        except OSError as error:
            raise InputError(
                f"{self.location}: expected a writable folder, "
                f"got: {error.strerror or error}; choose another with --results"
            ) from None

    def _open_locally(self, path: Path, is_fresh: bool) -> ResultsPath | None:
        path.mkdir(parents=True, exist_ok=True)
        self._take(FileLock(path))
        moved = self._move_aside(path) if is_fresh else None
        rescue_states(
            self.location, self.scratch
        )  # left by a killed driver, as what is deleted here
        self.scratch.delete_tree()
        for name in TABLES:
            (path / "parts" / name).mkdir(parents=True, exist_ok=True)
        for stale in path.rglob(f"{TEMPORARY}*"):
            stale.unlink(missing_ok=True)
        return moved

    def _open_in_store(self, is_fresh: bool, say: Say | None) -> ResultsPath | None:
        self._take(Lease(self.location), say)
        clear_probes(self.location)
        if not is_fresh:
            rescue_states(self.location, self.scratch)
        self.scratch.delete_tree()
        return self._copy_aside() if is_fresh else None

    def _take(self, lock: Lock, say: Say | None = None) -> None:
        lock.take(say)
        self._lock = lock

    def _refuse_foreign(self) -> None:
        names = self.location.names()
        is_ours = OURS & set(names) or all(name.startswith(LOCK) for name in names)
        if self.location.is_file() or not is_ours:
            raise InputError(
                f"{self.location}: expected no folder or a sweep's folder, got something else; "
                f"choose another with --name or --results"
            )

    def _aside(self) -> ResultsPath:
        return self.location.with_name(f"{self.location.name}.{datetime.now():%Y%m%d-%H%M%S}")

    def _move_aside(self, path: Path) -> ResultsPath | None:
        content = sorted(
            (entry for entry in path.iterdir() if entry.name != LOCK),
            key=lambda entry: not entry.name.startswith("trials"),
        )
        if not content:
            return None
        moved = self._aside()
        assert moved.local is not None
        moved.local.mkdir()
        for entry in content:
            entry.rename(moved.local / entry.name)
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
            raise WriteError(self.location, f"{holder} holds the folder now; this driver lost it")

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

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into the folder atomically. Raise ``WriteError`` on failure."""
        try:
            (self.location / name).write_bytes(text.encode())
        except OSError as error:
            raise WriteError(self.location, error) from None

    def write_log(self, name: str, text: str) -> ResultsPath:
        """Write the log of a failure and return its path. Raise ``OSError`` on failure."""
        if self.location.local is not None:
            self.logs.mkdir(exist_ok=True)
        log = self.location / "logs" / name
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
        runs = json.loads((ResultsPath.of(folder) / "manifest.json").read_bytes())["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [run for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []


def resume_command(command: Sequence[str]) -> str:
    """Return the command that resumes this one."""
    return shlex.join(word for word in command if word != "--fresh")


def _runs(manifest: ResultsPath, other_than: str) -> list[dict[str, Any]]:
    """Return all runs in a manifest except one; move a damaged manifest aside."""
    try:
        content = json.loads(manifest.read_bytes())
        return [entry for entry in content["runs"] if entry["start"] != other_than]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        manifest.move(manifest.with_name("manifest.json.damaged"))
        return []
