"""Which table and which sweep a file belongs to, as recorded in it.

A sweep's id is drawn when its first rows are written and is found only in its files. So a folder
may be copied, renamed or moved to another machine as a whole; a file that is copied into another
sweep's folder does not fit those that are there.
"""

import secrets
from collections import Counter
from collections.abc import Mapping

import pyarrow.parquet as pq

from raysweep.tables.schemas import TABLES
from raysweep.tables.unpacking import RefusedError

_TABLE, _SWEEP = b"raysweep.table", b"raysweep.sweep"


def new_sweep() -> str:
    """Draw the id of a new sweep."""
    return secrets.token_hex(8)


def marks(table: str, sweep: str) -> dict[bytes, bytes]:
    """Return the metadata of a file of a table."""
    return {_TABLE: table.encode(), _SWEEP: sweep.encode()}


def sweep_in(table: str, file: pq.FileMetaData) -> str | None:
    """Return the id of the sweep of a file, None if it has none; check that it is of ``table``.

    A file without that (from version 0.3.0 or the user) is known by its columns. Raise
    ``RefusedError`` for one of another table.
    """
    metadata: Mapping[bytes, bytes] = file.metadata or {}
    if _TABLE in metadata:
        written = metadata[_TABLE].decode(errors="replace")
        if written != table:
            raise _other(table, f"one of {written[:40]!r}")
        return metadata.get(_SWEEP, b"").decode(errors="replace") or None
    columns = set(file.schema.to_arrow_schema().names)
    missing = [name for name in TABLES[table].key if name not in columns]
    if missing:
        raise _other(table, f"one without the column {missing[0]}")
    likeness = {name: len(columns & set(TABLES[name].arrow.names)) for name in TABLES}
    most = max(likeness, key=lambda name: (likeness[name], name == table))
    if most != table:
        raise _other(table, f"one with the columns of {most}")
    return None


def odd_ones(sweeps: Mapping[str, str | None]) -> list[str]:
    """Return the names of the files (or tables) that belong to another sweep than most of them.

    Files without an id fit any. If no sweep has more of them than another, all differ.
    """
    known = {name: sweep for name, sweep in sweeps.items() if sweep is not None}
    counts = Counter(known.values()).most_common(2)
    if len(counts) < 2:
        return []
    usual = counts[0][0] if counts[0][1] > counts[1][1] else None
    return [name for name, sweep in known.items() if sweep != usual]


def _other(table: str, got: str) -> RefusedError:
    return RefusedError(f"expected a file of the table {table}, got {got}")
