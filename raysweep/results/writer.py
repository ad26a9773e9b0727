"""The only writer of a sweep's folder: atomic files, part files, folding, lock and manifest."""

import fcntl
import io
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysweep.atomic import TEMPORARY, write_atomically
from raysweep.results.reader import part_files, read_arrow
from raysweep.results.schema import TABLES
from raysweep.settings import InputError

_FOLD_AFTER_PARTS = 200


class WriteError(Exception):
    """Say in one line that the results can't be written: where and why."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{error.filename or path}: expected to write results, got: {error.strerror or error}"
        )


def check_name(name: str) -> str:
    """Refuse a sweep name that would leave the results folder or hide in it."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise InputError(
            f"--name: expected letters, digits, '.', '_', '-' (not first '.' or '-'), got {name!r} "
            f"(without --name it is the file's name)"
        )
    return name


def _encode(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


class ResultsFolder:
    """The paths of one sweep's folder, and the lock that lets one driver write at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @property
    def logs(self) -> Path:
        """Folder of the tracebacks of failed packs."""
        return self.path / "logs"

    @property
    def scratch(self) -> Path:
        """Folder of Ray Tune's files and the checkpoints of running packs."""
        return self.path / ".tune"

    def open(self, is_fresh: bool = False) -> Path | None:
        """Make the folder and take its lock; with ``is_fresh`` move an old one aside.

        Gives the path the old folder was moved to, if any. Raises ``InputError`` if the folder
        can't be written, belongs to something else, or another driver holds it.
        """
        try:
            self._refuse_foreign()
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            moved = self._move_aside() if is_fresh else None
            shutil.rmtree(self.scratch, ignore_errors=True)  # of a killed driver
            for name in TABLES:
                (self.path / "parts" / name).mkdir(parents=True, exist_ok=True)
            for stale in self.path.rglob(f"{TEMPORARY}*"):
                stale.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path}: expected a folder that can be written, got: {error.strerror}; "
                f"choose another with --results"
            ) from None
        return moved

    def _refuse_foreign(self) -> None:
        if not self.path.exists():
            return
        ours = {"parts", "sweep.yaml", ".lock"}
        if not self.path.is_dir() or (
            any(self.path.iterdir()) and not any((self.path / name).exists() for name in ours)
        ):
            raise InputError(
                f"{self.path}: expected no folder or that of a sweep, got something else; "
                f"choose another with --name or --results"
            )

    def _take_lock(self) -> None:
        lock = (self.path / ".lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise InputError(
                f"{self.path}: expected no other driver on this folder, but {holder} holds it; "
                f"wait for it, or use another --name"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        self._lock = lock

    def _move_aside(self) -> Path | None:
        moved = self.path.with_name(f"{self.path.name}.{datetime.now():%Y%m%d-%H%M%S}")
        content = [entry for entry in self.path.iterdir() if entry.name != ".lock"]
        if not content:
            return None
        moved.mkdir()
        for entry in content:
            entry.rename(moved / entry.name)
        return moved

    def close(self) -> None:
        """Remove Ray's files and give the lock back, if it was taken."""
        if self._lock:
            shutil.rmtree(self.scratch, ignore_errors=True)
            self._lock.close()
            self._lock = None

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the folder atomically."""
        write_atomically(self.path / name, text.encode())

    def write_log(self, name: str, text: str) -> Path:
        """Write a log of a failure and give its path."""
        self.logs.mkdir(exist_ok=True)
        path = self.logs / name
        write_atomically(path, text.encode())
        return path

    def add_run(self, run: Mapping[str, Any]) -> None:
        """Put a run into ``manifest.json``, in place of an entry with the same start."""
        path = self.path / "manifest.json"
        try:
            manifest = json.loads(path.read_text())
            runs = [entry for entry in manifest["runs"] if entry["start"] != run["start"]]
        except FileNotFoundError:
            runs = []
        except (ValueError, KeyError, TypeError):
            path.rename(path.with_name("manifest.json.damaged"))
            runs = []
        content = json.dumps({"runs": [*runs, dict(run)]}, indent=2) + "\n"
        write_atomically(path, content.encode())


class Writer:
    """Collect rows and append them to a sweep's tables as immutable part files.

    Rows are acknowledged when ``flush`` returns. ``fold`` turns parts into one file a table.
    """

    def __init__(self, folder: ResultsFolder) -> None:
        self.folder = folder
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self._n_written = 0
        # Later runs sort after earlier ones even if the clock was set back.
        earlier = {name: part_files(folder.path, name) for name in TABLES}
        self._n_parts = {name: len(parts) for name, parts in earlier.items()}
        names = [part.name for parts in earlier.values() for part in parts]
        latest = max((int(name.split("-")[1]) for name in names), default=0)
        self._run = max(time.time_ns(), latest + 1)

    def add(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Collect rows of a table; keys are its columns, absent ones are null."""
        names = set(TABLES[table].arrow.names)
        for row in rows:
            unknown = set(row) - names
            assert not unknown, f"{table} has no column {sorted(unknown)}"
        self._rows[table].extend(dict(row) for row in rows)

    def flush(self) -> None:
        """Write the collected rows, a part a table, ``trials`` last.

        Raises ``WriteError``; rows that were not written are kept for the next call.
        """
        for name, schema in TABLES.items():
            rows, self._rows[name] = self._rows[name], []
            if not rows:
                continue
            self._n_written += 1
            part = f"part-{self._run:020d}-{self._n_written:08d}.parquet"
            try:
                table = pa.Table.from_pylist(rows, schema=schema.arrow)
                write_atomically(self.folder.path / "parts" / name / part, _encode(table))
                self._n_parts[name] += 1
            except BaseException as error:
                self._rows[name] = rows
                if isinstance(error, OSError):
                    raise WriteError(self.folder.path, error) from None
                raise
        for name in TABLES:
            if self._n_parts[name] >= _FOLD_AFTER_PARTS:
                self._fold_table(name)

    def fold(self) -> None:
        """Fold the parts of every table into ``<table>.parquet``, written even if empty."""
        self.flush()
        for name in TABLES:
            self._fold_table(name)

    def _fold_table(self, name: str) -> None:
        path = self.folder.path
        parts = part_files(path, name)
        folded = path / f"{name}.parquet"
        if folded.exists() and not parts:
            return
        try:
            write_atomically(folded, _encode(read_arrow(path, name)))
            for part in parts:
                part.unlink()
            self._n_parts[name] = 0
        except OSError as error:
            raise WriteError(path, error) from None


def now() -> str:
    """Give the time in UTC as ISO 8601 text."""
    return datetime.now(UTC).isoformat(timespec="seconds")
