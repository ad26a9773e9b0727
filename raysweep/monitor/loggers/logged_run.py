"""The data logged for one configuration."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raysweep.tables.columns import SETTING
from raysweep.tables.completeness import COUNTS
from raysweep.tables.schemas import TABLES, setting_of
from raysweep.user_text.values import is_null, show_value

_KEYS = ("config_id", "stage", "epoch", "task")
_NAMED = ("model", "replay", "lr", "beta_1", "beta_2", "seed")
_TEXTS = (
    *("status", "diverged_stage", "diverged_epoch", "diverged_step"),
    *("stopped_rung", "stopped_reason", "error", "host", "device"),
)
SETTING_NAMES = tuple(
    column.name.removeprefix(SETTING) for column in TABLES["trials"].columns if column.is_setting
)
"""Possible keys of ``LoggedRun.settings``, which omits settings that do not apply."""
_LONGEST_TITLE = 150
"""In characters; the name of a run is also the name of a folder."""

METRIC_NAMES = tuple(
    column.name
    for column in TABLES["trials"].columns
    if column.is_number
    and not column.is_setting
    and column.name not in (*_TEXTS, "attempt", *COUNTS.values())
)
"""Possible keys of ``LoggedRun.metrics``, which omits nulls."""


@dataclass(frozen=True)
class LoggedRun:
    """One configuration: its settings, its epochs in order, and its outcome.

    ``epochs`` has the values of each epoch, counted over all stages from 1, by name, such as
    ``train_task_1/test_accuracy``. ``texts`` has how, where and why it ended.
    """

    config_id: str
    name: str
    settings: Mapping[str, Any]
    epochs: Sequence[Mapping[str, float]]
    metrics: Mapping[str, float]
    texts: Mapping[str, str]
    started_s: float
    ended_s: float


class Logger(Protocol):
    """Writes runs with another tool's client. Methods may raise any error of that client."""

    def log(self, run: LoggedRun) -> None:
        """Write a run."""

    def remove(self, config_id: str) -> None:
        """Remove what was written of a run, if anything."""

    def close(self) -> None:
        """Finish pending work."""


def run_of(trial: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> LoggedRun:
    """Make a run from a configuration's row of ``trials`` and its rows of ``epochs``.

    Stages are in the order of their tasks, each after the one that generates for it.
    """
    settings = {
        name.removeprefix(SETTING): _as_declared(name, value)
        for name, value in trial.items()
        if name.startswith(SETTING) and not is_null(value)
    }
    ordered = sorted(epochs, key=lambda row: (row["task"], row["stage"], row["epoch"]))
    steps = [
        {f"{row['stage']}/{name}": value for name, value in _numbers(row, _KEYS).items()}
        for row in ordered
    ]
    texts = {
        name: show_value(value) for name in _TEXTS if (value := _plain(trial.get(name))) is not None
    }
    title = " ".join(f"{name}={show_value(settings[name])}" for name in _NAMED if name in settings)
    ended_s = _seconds(trial.get("ended_at")) or time.time()  # null if its worker was lost
    return LoggedRun(
        config_id=trial["config_id"],
        name=f"{title[:_LONGEST_TITLE]} {trial['config_id']}",
        settings=settings,
        epochs=steps,
        metrics=_numbers({name: trial.get(name) for name in METRIC_NAMES}, ()),
        texts=texts,
        started_s=_seconds(trial.get("started_at")) or ended_s,
        ended_s=ended_s,
    )


def _plain(value: Any) -> Any:
    """Convert a table's value to a Python value; None for null."""
    if is_null(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _as_declared(column: str, value: Any) -> Any:
    """Convert a setting to its declared type; pandas stores integers with nulls as floats."""
    declared, plain = setting_of(column), _plain(value)
    return int(plain) if declared is not None and declared.is_whole else plain


def _numbers(row: Mapping[str, Any], skipped: Any) -> dict[str, float]:
    found = {}
    for name, raw in row.items():
        value = _plain(raw)  # None instead of NaN for null
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in skipped and is_number and math.isfinite(value):
            found[str(name)] = float(value)
    return found


def _seconds(moment: Any) -> float:
    """Return the seconds since 1970, 0 for null."""
    if moment is None or moment != moment:  # noqa: PLR0124 (NaT)
        return 0.0
    return float(moment.timestamp())
