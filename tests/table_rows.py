"""Rows of a table, and reading them while they are written."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from raysweep.learning.config import Config
from raysweep.tables.schemas import TABLES, config_columns
from raysweep.tables.writer import Writer


def frame_of(rows: Sequence[dict[str, Any]], table: str = "trials") -> pd.DataFrame:
    """Return rows of a table as the readers do."""
    frame: pd.DataFrame = pa.Table.from_pylist([*rows], schema=TABLES[table].arrow).to_pandas()
    return frame


def trial_row(config: Config, status: str = "finished", **more: Any) -> dict[str, Any]:
    """Return the row of ``trials`` of a configuration that ended at its first attempt."""
    return {**config_columns(config), "status": status, "attempt": 1, **more}


def accuracy_rows(first: int, n: int, value: float = 0.5) -> list[dict[str, object]]:
    return [
        {"config_id": f"{i:016x}", "after_task": 1, "on_task": 1, "accuracy": value}
        for i in range(first, first + n)
    ]


def read_while_flushed(
    writer: Writer, n_flushes: int, count: Callable[[], int], fold_every: int | None = None
) -> int:
    """Count rows as often as can be while ten at a time are flushed; give how often that was.

    No count may be less than what was acknowledged before.
    """
    acknowledged = 0
    is_over = threading.Event()

    def write() -> None:
        nonlocal acknowledged
        for i in range(n_flushes):
            writer.add("accuracy", accuracy_rows(10 * i, 10))
            writer.flush()
            acknowledged = 10 * (i + 1)
            if fold_every and i % fold_every == 0:
                writer.fold()
        is_over.set()

    thread = threading.Thread(target=write)
    thread.start()
    n_reads = 0
    while thread.is_alive():
        least = acknowledged
        assert count() >= least
        n_reads += 1
    assert is_over.is_set()
    return n_reads
