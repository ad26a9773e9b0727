"""Readers of results: tables as pandas DataFrames, during and after a sweep.

    from raysweep.results import read_trials
    trials = read_trials("results/vib")

The readers return every row that was written durably, each key once. They warn of files among the
parts that raysweep did not write, and pass over them.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.errors import InputError
from raysweep.tables import reader
from raysweep.tables.pareto import pareto_front, pareto_settings, read_pareto
from raysweep.tables.part_files import stray_note
from raysweep.tables.paths import ResultsPath
from raysweep.tables.ranking import leaderboard, mean_over_seeds, metrics_of, varied_settings
from raysweep.tables.schemas import TABLES, config_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "TABLES",
    "InputError",
    "config_of",
    "leaderboard",
    "mean_over_seeds",
    "metrics_of",
    "pareto_front",
    "pareto_settings",
    "read_accuracy",
    "read_epochs",
    "read_pareto",
    "read_trials",
    "varied_settings",
]


def read_trials(folder: str | Path | ResultsPath) -> "pd.DataFrame":
    """Read the table ``trials``: a row for each configuration that has ended.

    ``folder`` is a sweep's folder, as a path or an address (``s3://BUCKET/NAME``). Like the other
    readers, raise ``InputError`` if there is no such folder, a file is damaged or belongs to
    another table or sweep, or the store cannot be read.
    """
    trials = reader.read_trials(folder)
    _warn_of_strays(folder)
    return trials


def read_epochs(folder: str | Path | ResultsPath) -> "pd.DataFrame":
    """Read the table ``epochs``: a row for each configuration, stage and epoch."""
    epochs = reader.read_epochs(folder)
    _warn_of_strays(folder)
    return epochs


def read_accuracy(folder: str | Path | ResultsPath) -> "pd.DataFrame":
    """Read the table ``accuracy``: a row for each configuration, task learned and task tested."""
    accuracy = reader.read_accuracy(folder)
    _warn_of_strays(folder)
    return accuracy


def _warn_of_strays(folder: str | Path | ResultsPath) -> None:
    if note := stray_note(ResultsPath.of(folder)):
        warnings.warn(note, stacklevel=3)
