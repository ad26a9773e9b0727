"""Readers of the tables, safe to use while a sweep is writing them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from raysweep.errors import InputError
from raysweep.tables import checksums
from raysweep.tables.paths import ResultsPath, read_all
from raysweep.tables.schemas import TABLES

if TYPE_CHECKING:
    import pandas as pd

_ATTEMPTS = 100
_PAUSE_S = 0.05
_LOOKS_AT_DAMAGE = 5
OURS = frozenset({"parts", "sweep.yaml", ".lock"})
"""Names that identify a sweep's folder."""


class TableFiles(NamedTuple):
    """The content of a table's files: the folded file, if any, and the parts, oldest first."""

    folded: pa.Table | None
    parts: dict[ResultsPath, pa.Table]


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

    Also check the files of the other tables and raise ``InputError`` for a damaged one: better
    before a run than when it folds them.
    """
    location = ResultsPath.of(folder)
    for name in TABLES:
        if name != "trials":
            _asked(location, name, columns=[])
    table = read_arrow(location, "trials", ["config_id", "status", "attempt"])
    if location.local is None and not len(table):
        _expect_bucket(location, "trials")
    rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return {config_id: (status, attempt) for config_id, status, attempt in rows}


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
        _expect_bucket(location, table)
        raise _no_sweep(location, table)


def _expect_bucket(location: ResultsPath, table: str) -> None:
    try:
        location.expect_bucket()
    except OSError as error:
        raise _unreadable(location, table, error) from None


def _unreadable(location: ResultsPath, table: str, error: OSError) -> InputError:
    reason = error.strerror or error
    return InputError(f"{location}: expected to read {table}, got: {reason}")


def part_files(location: ResultsPath, table: str) -> list[ResultsPath]:
    """List the part files of a table, oldest first. Raise ``OSError`` on failure."""
    folder = location / "parts" / table
    return [
        folder / name
        for name in folder.names()
        if name.startswith("part-") and name.endswith(".parquet")
    ]


def read_arrow(
    folder: str | Path | ResultsPath, table: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read the folded file and the parts of a table; the last row with a key wins.

    Raise ``InputError`` like ``read_trials``; without any files the table is empty.
    """
    location = ResultsPath.of(folder)
    found = _asked(location, table, columns)
    tables = ([] if found.folded is None else [found.folded]) + list(found.parts.values())
    return unite(location, table, tables, columns)


def _asked(location: ResultsPath, table: str, columns: Sequence[str] | None) -> TableFiles:
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
        try:
            folded = _folded(folder / f"{table}.parquet", table, columns)
            contents = read_all(parts)
            return TableFiles(
                folded,
                {
                    part: _decode(part, table, content, columns)
                    for part, content in zip(parts, contents, strict=True)
                },
            )
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


def _folded(path: ResultsPath, table: str, columns: Sequence[str] | None) -> pa.Table | None:
    if path.local is not None and not path.exists():
        return None
    try:
        return _decode(path, table, path.read_bytes(), columns)
    except FileNotFoundError:
        if path.local is not None:
            raise
        return None  # in a store, an existing file is never missing, not even for a moment


def _decode(
    path: ResultsPath, table: str, content: bytes, columns: Sequence[str] | None
) -> pa.Table:
    try:
        return checksums.decode(content, columns)
    except checksums.DamagedError as error:
        # A row of `trials` vouches for those of other tables, which are not trained again.
        way_on = (
            "delete it and run the sweep again to train what the file held"
            if table == "trials"
            else f"delete it to continue without its rows of {table}, or train everything again "
            "with --fresh"
        )
        raise InputError(
            f"{path}: expected a complete Parquet file, got a damaged one ({error}); {way_on}"
        ) from None


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
