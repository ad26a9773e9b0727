"""Readers of the tables, safe to use while a sweep is writing them."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysweep.errors import InputError
from raysweep.tables import checksums
from raysweep.tables.origins import odd_ones, sweep_in
from raysweep.tables.part_files import part_files
from raysweep.tables.paths import ResultsPath, read_all
from raysweep.tables.schemas import TABLES
from raysweep.tables.unpacking import RefusedError

if TYPE_CHECKING:
    import pandas as pd

_ATTEMPTS = 100
_PAUSE_S = 0.05
_LOOKS_AT_DAMAGE = 5
OURS = frozenset({"parts", "sweep.yaml", ".lock"})
"""Names that identify a sweep's folder."""


class TableFiles(NamedTuple):
    """The content of a table's files: the folded file, if any, and the parts, oldest first.

    ``sweep`` is the id of the sweep that they belong to, None if they are of version 0.3.0.
    """

    folded: pa.Table | None
    parts: dict[ResultsPath, pa.Table]
    sweep: str | None = None

    @property
    def tables(self) -> list[pa.Table]:
        """The content of all files, oldest first."""
        return ([] if self.folded is None else [self.folded]) + list(self.parts.values())


def read_trials(folder: str | Path | ResultsPath) -> "pd.DataFrame":
    """Read the table ``trials``: a row for each configuration that has ended.

    ``folder`` is a sweep's folder, as a path or an address (``s3://BUCKET/NAME``). Like the other
    readers, raise ``InputError`` if there is no such folder, a file is damaged, or the store cannot
    be read.
    """
    return _read(folder, "trials")


def read_epochs(folder: str | Path | ResultsPath) -> "pd.DataFrame":
    """Read the table ``epochs``: a row for each configuration, stage and epoch."""
    return _read(folder, "epochs")


def read_accuracy(folder: str | Path | ResultsPath) -> "pd.DataFrame":
    """Read the table ``accuracy``: a row for each configuration, task learned and task tested."""
    return _read(folder, "accuracy")


def statuses(folder: str | Path | ResultsPath) -> dict[str, tuple[str, int]]:
    """Map the id of each configuration that has ended to its status and attempt.

    A configuration may lack rows of other tables: ``raysweep.tables.survey`` looks at these, too.
    """
    location = ResultsPath.of(folder)
    return statuses_in(read_arrow(location, "trials", ["config_id", "status", "attempt"]))


def statuses_in(trials: pa.Table) -> dict[str, tuple[str, int]]:
    """Map the id of each configuration in ``trials`` to its status and attempt."""
    columns = (trials[name].to_pylist() for name in ("config_id", "status", "attempt"))
    return {config_id: (status, n) for config_id, status, n in zip(*columns, strict=True)}


def _read(folder: str | Path | ResultsPath, table: str) -> "pd.DataFrame":
    location = ResultsPath.of(folder)
    if location.local is not None:
        parts, file = location.local / "parts", location.local / f"{table}.parquet"
        try:
            is_there = parts.is_dir() or file.exists()
        except OSError as error:  # a name that is too long
            reason = error.strerror
            raise InputError(f"{location}: expected a folder, got: {reason}") from None
        if not is_there:
            raise _no_sweep(location, table)
    frame: pd.DataFrame = read_arrow(location, table).to_pandas()
    if location.local is None and frame.empty:
        _expect_sweep(location, table)
    return frame


def _no_sweep(location: ResultsPath, table: str) -> InputError:
    meant = _in_results(location)
    hint = f" (did you mean {meant}?)" if meant else "; `raysweep run FILE` creates one"
    return InputError(
        f"{location}: expected a sweep's folder (with {table}.parquet), found none{hint}"
    )


def _in_results(location: ResultsPath) -> Path | None:
    """Return the sweep of this name in ``results`` next to it, where runs write by default."""
    if location.local is None:
        return None
    meant = location.local.parent / "results" / location.local.name
    try:
        if not any((meant / name).exists() for name in OURS):
            return None
        here = Path.cwd()
    except OSError:
        return None
    return meant.relative_to(here) if meant.is_relative_to(here) else meant


def _expect_sweep(location: ResultsPath, table: str) -> None:
    try:
        names = location.names()
    except OSError as error:
        raise _unreadable(location, table, error) from None
    if not OURS & set(names):
        expect_bucket(location, table)
        raise _no_sweep(location, table)


def expect_bucket(location: ResultsPath, table: str) -> None:
    """Raise ``InputError`` if a store has no such bucket, or cannot be reached."""
    try:
        location.expect_bucket()
    except OSError as error:
        raise _unreadable(location, table, error) from None


def _unreadable(location: ResultsPath, table: str, error: OSError) -> InputError:
    reason = error.strerror or error
    return InputError(f"{location}: expected to read {table}, got: {reason}")


def read_arrow(
    folder: str | Path | ResultsPath, table: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read the folded file and the parts of a table; the last row with a key wins.

    Raise ``InputError`` like ``read_trials``; without any files the table is empty.
    """
    location = ResultsPath.of(folder)
    return unite(location, table, ask_files(location, table, columns).tables, columns)


def ask_files(
    location: ResultsPath, table: str, columns: Sequence[str] | None = None
) -> TableFiles:
    """Read a table's files like ``read_files``, but raise ``InputError`` for every error."""
    try:
        return read_files(location, table, columns)
    except OSError as error:
        raise _unreadable(location, table, error) from None


def read_files(folder: ResultsPath, table: str, columns: Sequence[str] | None = None) -> TableFiles:
    """Read a consistent snapshot of all files of a table.

    Raise ``InputError`` for a damaged file, ``OSError`` if the folder cannot be read.
    """
    n_damaged = 0
    for _ in range(_ATTEMPTS):
        # List parts first: if one is folded meanwhile, opening it fails and we start over.
        parts = part_files(folder, table)
        file = folder / f"{table}.parquet"
        sweeps: dict[ResultsPath, str | None] = {}
        try:
            whole = _folded(file)
            contents = dict(zip(parts, read_all(parts), strict=True))
            folded = None if whole is None else _decode(file, table, whole, columns, sweeps)
            decoded = {
                part: _decode(part, table, content, columns, sweeps)
                for part, content in contents.items()
            }
            return TableFiles(folded, decoded, _one_sweep(sweeps))
        except FileNotFoundError:
            time.sleep(_PAUSE_S)
        except InputError:
            # If a store's file is replaced between the request for its size and the one for its
            # content, only a part of it is read.
            n_damaged += 1
            if folder.local is not None or n_damaged == _LOOKS_AT_DAMAGE:
                raise
            time.sleep(_PAUSE_S)
    raise InputError(f"{folder}: expected to read {table}, but its files keep changing; try again")


def _folded(path: ResultsPath) -> bytes | None:
    if path.local is not None and not path.exists():
        return None
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if path.local is not None:
            raise
        return None  # in a store, an existing file is never missing, not even for a moment


def _decode(
    path: ResultsPath,
    table: str,
    content: bytes,
    columns: Sequence[str] | None,
    sweeps: dict[ResultsPath, str | None],
) -> pa.Table:
    """Decode a file's content, and note in ``sweeps`` which sweep it belongs to."""

    def expect(file: pq.FileMetaData) -> None:
        sweeps[path] = sweep_in(table, file)

    try:
        return checksums.decode(content, columns, expect)
    except RefusedError as error:
        raise InputError(
            f"{path}: {error}; delete it and run the sweep again to train what the file held"
        ) from None


def _one_sweep(sweeps: Mapping[ResultsPath, str | None]) -> str | None:
    """Return the sweep that files belong to; raise ``InputError`` if they are of several."""
    odd = odd_ones({str(path): sweep for path, sweep in sweeps.items()})
    if odd:
        raise foreign_error(odd)
    return next((sweep for sweep in sweeps.values() if sweep is not None), None)


def earlier_sweep(folder: ResultsPath) -> str | None:
    """Return the id of the sweep whose files are in a folder; None if no file has one.

    Raise ``OSError`` if the folder cannot be read.
    """
    parts = [(t, path) for t in TABLES for path in part_files(folder, t)[-1:]]
    for table, path in [*parts, *((t, folder / f"{t}.parquet") for t in reversed(TABLES))]:
        sweeps: dict[ResultsPath, str | None] = {}
        with contextlib.suppress(InputError, FileNotFoundError):  # reading the tables tells them
            content = _folded(path)
            if content is not None:
                _decode(path, table, content, [], sweeps)
        if sweeps.get(path) is not None:
            return sweeps[path]
    return None


def foreign_error(odd: Sequence[str]) -> InputError:
    """Return the error for files that belong to another sweep than those beside them."""
    more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
    return InputError(
        f"{odd[0]}: expected a file of the same sweep as those beside it, got one of another "
        f"sweep{more}; put the right one back, or delete it and run the sweep again"
    )


def unite(
    folder: ResultsPath, name: str, tables: Sequence[pa.Table], columns: Sequence[str] | None = None
) -> pa.Table:
    """Unite the tables of a table's files; the last row with a key wins.

    Raise ``InputError`` if a column has two types.
    """
    schema = TABLES[name].arrow
    empty = schema.empty_table().select(columns) if columns else schema.empty_table()
    try:
        table = pa.concat_tables([empty, *tables], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(
            f"{folder}: expected {name} with one type for each column, got: {error}; "
            f"use another --name or --fresh"
        ) from None
    if not tables:
        return table
    key = TABLES[name].key
    indexed = {column: _codes(table[column]) for column in key}
    indexed["row"] = pa.chunked_array([np.arange(len(table))])
    last = pa.table(indexed).group_by([*key]).aggregate([("row", "max")])["row_max"]
    if len(last) == len(table):
        return table
    return table.take(last.combine_chunks().sort())


def _codes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace texts with whole numbers, as grouping by these takes a third of the time."""
    if not pa.types.is_string(column.type):
        return column
    return pa.chunked_array([column.combine_chunks().dictionary_encode().indices])
