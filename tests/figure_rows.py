"""Tables of sweeps made from real configurations, without training."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from table_rows import frame_of

from raysweep.learning.config import Config
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.schemas import config_columns
from raysweep.tables.writer import Writer

ROOT = Path(__file__).parents[1]
CONFIG = ("lr", "beta_1", "beta_2", "replay", "model", "seed", "experiment")


def row(status: str = "finished", **values: Any) -> dict[str, Any]:
    """Make a row of ``trials``: settings by their names, and metrics."""
    settings = {name: values.pop(name) for name in CONFIG if name in values}
    none_lost = {"n_epoch_rows": 0, "n_accuracy_rows": 0}  # the tests write some of the rows only
    return {**config_columns(Config(**settings)), "status": status, **none_lost, **values}


def diverged(stage: str, epoch: int, **values: Any) -> dict[str, Any]:
    return row("diverged", diverged_stage=stage, diverged_epoch=epoch, **values)


def table(name: str, rows: Sequence[dict[str, Any]], sweep: str = "one") -> pd.DataFrame:
    """Return rows as the readers do, with the column ``sweep``."""
    frame = frame_of(rows, name)
    frame.insert(0, "sweep", sweep)
    return frame


def epoch_rows(
    of: dict[str, Any], stage: str, values: Sequence[float | None], **more: Any
) -> list[dict[str, Any]]:
    """Make the rows of ``epochs`` of a stage: its test accuracy in each epoch."""
    common = {"config_id": of["config_id"], "stage": stage, "task": int(stage[-1]), **more}
    return [
        {**common, "epoch": epoch, "test_accuracy": value}
        for epoch, value in enumerate(values, start=1)
    ]


def accuracy_rows(of: dict[str, Any], matrix: dict[tuple[int, int], float]) -> list[dict[str, Any]]:
    """Make the rows of ``accuracy``, by (after_task, on_task)."""
    return [
        {"config_id": of["config_id"], "after_task": after, "on_task": on, "accuracy": value}
        for (after, on), value in matrix.items()
    ]


def sweep_folder(folder: Path, tables: dict[str, Sequence[dict[str, Any]]]) -> Path:
    """Write tables as a sweep leaves them."""
    results = ResultsFolder(folder)
    results.open()
    writer = Writer(results)
    for name, rows in tables.items():
        writer.add(name, rows)
    writer.flush()
    results.close()
    return folder


def run_command(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m analysis.<name>``."""
    command = [sys.executable, "-m", f"analysis.{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
