"""Readers of the tables, safe while a sweep is writing them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from raysweep.results.schema import TABLES
from raysweep.settings import InputError

if TYPE_CHECKING:
    import pandas as pd

_ATTEMPTS = 100
_PAUSE_S = 0.05


def read_trials(folder: str | Path) -> "pd.DataFrame":
    """Read the table ``trials``: a row for each configuration that has ended."""
    return _read(folder, "trials")


def read_epochs(folder: str | Path) -> "pd.DataFrame":
    """Read the table ``epochs``: a row for each configuration, stage and epoch."""
    return _read(folder, "epochs")


def read_accuracy(folder: str | Path) -> "pd.DataFrame":
    """Read the table ``accuracy``: a row for each configuration, task learned and task tested."""
    return _read(folder, "accuracy")


def statuses(folder: str | Path) -> dict[str, tuple[str, int]]:
    """Map the id of each configuration that has ended to its status and attempt."""
    table = read_arrow(Path(folder), "trials", ["config_id", "status", "attempt"])
    rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return {config_id: (status, attempt) for config_id, status, attempt in rows}


def _read(folder: str | Path, table: str) -> "pd.DataFrame":
    folder = Path(folder)
    if not (folder / "parts").is_dir() and not (folder / f"{table}.parquet").exists():
        raise InputError(
            f"{folder}: expected the folder of a sweep (with {table}.parquet), found none there; "
            f"`python -m raysweep.tune FILE` makes one"
        )
    frame: pd.DataFrame = read_arrow(folder, table).to_pandas()
    return frame


def part_files(folder: Path, table: str) -> list[Path]:
    """List the part files of a table, oldest first."""
    return sorted((folder / "parts" / table).glob("part-*.parquet"))


def read_arrow(folder: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the folded file and the parts of a table; of rows with one key the last counts."""
    for _ in range(_ATTEMPTS):
        # Parts first: one that is folded meanwhile is gone when it is opened, and we start over.
        parts = part_files(folder, table)
        folded = folder / f"{table}.parquet"
        try:
            tables = [_open(folded, columns)] if folded.exists() else []
            tables += [_open(part, columns) for part in parts]
        except FileNotFoundError:
            time.sleep(_PAUSE_S)
            continue
        return _unite(folder, table, tables, columns)
    raise InputError(f"{folder}: expected to read {table}, but its files keep changing; try again")


def _open(path: Path, columns: Sequence[str] | None) -> pa.Table:
    # One handle for the whole read: the file may be replaced meanwhile.
    with path.open("rb") as file:
        try:
            return pq.ParquetFile(file).read(columns=columns)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(
                f"{path}: expected a whole Parquet file, got a damaged one ({reason}); "
                f"delete it and run the sweep again: it trains what the file held"
            ) from None


def _unite(
    folder: Path, name: str, tables: Sequence[pa.Table], columns: Sequence[str] | None
) -> pa.Table:
    schema = TABLES[name].arrow
    empty = schema.empty_table().select(columns) if columns else schema.empty_table()
    try:
        table = pa.concat_tables([empty, *tables], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(
            f"{folder}: expected {name} with one type for each column, got: {error}; "
            f"use another --name or --fresh"
        ) from None
    key = list(TABLES[name].key)
    if not tables:
        return table
    indexed = table.select(key).append_column("row", pa.array(range(len(table)), pa.int64()))
    last = indexed.group_by(key).aggregate([("row", "max")])["row_max"]
    return table.take(last.combine_chunks().sort())
