"""The only writer of a sweep's tables: it writes part files and folds them from time to time."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from raysweep.errors import InputError
from raysweep.tables import checksums
from raysweep.tables.folder import ResultsFolder, WriteError
from raysweep.tables.object_store import patiently
from raysweep.tables.origins import marks, new_sweep
from raysweep.tables.part_files import part_files, part_name, run_of
from raysweep.tables.paths import ResultsPath, delete_all
from raysweep.tables.reader import TableFiles, earlier_sweep, read_files, unite
from raysweep.tables.schemas import TABLES

_FOLD_AFTER_PARTS = 200


class Writer:
    """Collects rows and appends them to a sweep's tables as immutable part files.

    Rows are durable once ``flush`` returns. ``fold`` merges the parts into one file per table.
    Raise ``WriteError`` if the folder cannot be read.
    """

    def __init__(self, folder: ResultsFolder) -> None:
        self.folder = folder
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self._n_written = 0
        # Later runs must sort after earlier ones even if the clock was set back.
        try:
            earlier = {name: part_files(folder.location, name) for name in TABLES}
        except OSError as error:
            raise WriteError(folder.location, error) from None
        self._n_parts = {name: len(parts) for name, parts in earlier.items()}
        runs = [run_of(part.name) or 0 for parts in earlier.values() for part in parts]
        self._run = max(time.time_ns(), max(runs, default=0) + 1)
        self._sweep = earlier_sweep(folder.location) or new_sweep()

    def add(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Collect rows of a table; keys are column names, missing ones become null."""
        names = set(TABLES[table].arrow.names)
        for row in rows:
            unknown = set(row) - names
            assert not unknown, f"{table} has no column {sorted(unknown)}"
        self._rows[table].extend(dict(row) for row in rows)

    def flush(self) -> None:
        """Write the collected rows, one part per table, ``trials`` last.

        Raise ``WriteError`` on failure, also if another driver has taken the folder; rows that
        were not written are kept for the next call.
        """
        if any(self._rows.values()):
            self._expect_lock()
        for name, schema in TABLES.items():
            rows, self._rows[name] = self._rows[name], []
            if not rows:
                continue
            self._n_written += 1
            part = part_name(self._run, self._n_written)
            location = self.folder.location / "parts" / name / part
            try:
                table = pa.Table.from_pylist(rows, schema=schema.arrow)
                _write(location, self._encoded(name, table))
                self._n_parts[name] += 1
            except BaseException as error:
                self._rows[name] = rows
                if isinstance(error, OSError):
                    raise WriteError(self.folder.location, error) from None
                raise
        for name in TABLES:
            if self._n_parts[name] >= _FOLD_AFTER_PARTS:
                self._fold_table(name)

    def _encoded(self, name: str, table: pa.Table) -> bytes:
        return checksums.encode(table, marks(name, self._sweep))

    def _expect_lock(self) -> None:
        try:
            patiently(self.folder.expect_lock)
        except OSError as error:
            raise WriteError(self.folder.location, error) from None

    def fold(self) -> None:
        """Fold the parts of every table into ``<table>.parquet``, which is written even if empty.

        Raise ``WriteError`` on failure.
        """
        self.flush()
        for name in TABLES:
            self._fold_table(name)

    def _fold_table(self, name: str) -> None:
        location = self.folder.location
        try:
            replace = self.folder.replacer(f"{name}.parquet")  # before it is read
            found = patiently(lambda: read_files(location, name))
            if found.folded is not None and not found.parts:
                return
            self._write_folded(name, found, replace)
            self._n_parts[name] = 0
        except OSError as error:
            raise WriteError(location, error) from None
        except InputError as error:  # a file was damaged after the run began
            raise WriteError(location, str(error)) from None

    def _write_folded(self, name: str, found: TableFiles, replace: Callable[[bytes], None]) -> None:
        location = self.folder.location
        parts = list(found.parts.values())
        earlier = [] if found.folded is None else [found.folded]
        content = self._encoded(name, unite(location, name, [*earlier, *parts]))
        self._expect_lock()
        replace(content)
        if location.local is None and len(unite(location, name, parts)) == sum(map(len, parts)):
            delete_all(found.parts)
            return
        # Oldest first: if the driver is killed here, an earlier row must not outlive a later one
        # with the same key, as it would then win.
        for part in found.parts:
            part.delete()


def _write(location: ResultsPath, content: bytes) -> None:
    """Write a file, retrying for a while if a store cannot be reached."""
    patiently(lambda: location.write_bytes(content))


def now() -> str:
    """Return the time in UTC as ISO 8601 text."""
    return datetime.now(UTC).isoformat(timespec="seconds")
