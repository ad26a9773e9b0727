"""Collect what a report shows, as plain values for compact JSON.

Columns are arrays over the rows of ``trials``; texts are encoded (``levels`` and ``codes``).
"""

import base64
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from raysweep.analysis.figures import LOG_SPAN, rendered
from raysweep.analysis.samples import choose, sample_figure
from raysweep.analysis.sweeps import Sweeps, levels, short
from raysweep.errors import InputError
from raysweep.statuses import ENDED
from raysweep.tables.columns import SETTING
from raysweep.tables.folder import read_runs, resume_command
from raysweep.tables.json_files import read_limited
from raysweep.tables.paths import ResultsPath
from raysweep.tables.ranking import (
    half_width_in_sd,
    is_lower_better,
    metrics_of,
    varied_settings,
)
from raysweep.tables.schemas import column_of
from raysweep.user_text.values import NULL_TEXT, is_null, show_value

_DIGITS = 5
_CURVES = {"accuracy": "test_accuracy", "loss": "loss"}
"""The learning curves of a report: columns of ``epochs``."""
_LONGEST_YAML = 1_000_000
"""In bytes, as for the search spaces themselves."""
_MOST_CURVES = 1_000_000
"""Most numbers of learning curves: with more, every second epoch is left out, and so on."""


def collect(sweeps: Sweeps, metric: str, n_samples: int = 0, data: Path | None = None) -> Any:
    """Collect the page's data; ``n_samples`` is the number of configurations with images."""
    trials = sweeps.trials
    settings = _settings(trials)
    measured = [name for name in metrics_of(trials) if trials[name].notna().any()]
    return {
        "title": ", ".join(sweeps.names),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "metric": metric,
        "columns": _declared([*settings, *measured, *_CURVES.values()]),
        "log_span": LOG_SPAN,
        "null_text": NULL_TEXT,
        # Student's 95 % interval of a mean of n values, in standard deviations.
        "half_width": [None, None, *(half_width_in_sd(n) for n in range(2, _most_seeds(trials)))],
        "statuses": ENDED,
        "status_codes": {status.name: code for code, status in enumerate(ENDED)},
        "curve_columns": _CURVES,
        "ids": trials["config_id"].tolist(),
        "status": [ENDED.index(status) for status in trials["status"]],
        "settings": {short(name): _coded(trials, name) for name in settings},
        "seed": [int(seed) for seed in trials[SETTING + "seed"]],
        "metrics": {name: _numbers(trials[name]) for name in measured},
        "diverged": _diverged(trials),
        "errors": {
            str(row): text for row, text in enumerate(trials["error"]) if isinstance(text, str)
        },
        "curves": _curves(sweeps),
        "time": _time(sweeps),
        "sweeps": [
            _sweep(location, name, trials[trials["sweep"] == name])
            for location, name in zip(sweeps.places, sweeps.names, strict=True)
        ],
        "samples": _samples(sweeps, metric, n_samples, data, settings),
    }


def _settings(trials: pd.DataFrame) -> list[str]:
    """List what differs between rows, sweep and settings; if nothing does, the experiment."""
    several = ["sweep"] if trials["sweep"].nunique() > 1 else []
    return [*several, *varied_settings(trials)] or [SETTING + "experiment"]


def _most_seeds(trials: pd.DataFrame) -> int:
    return int(trials[SETTING + "seed"].nunique()) + 2


def _declared(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what columns declare, by their short names, without columns not in the tables."""
    columns = {name: column_of(name) for name in names}
    return {
        short(name): {
            "label": column.label,
            "unit": column.unit,
            "meaning": column.description,
            "is_lower_better": is_lower_better(name),
            "is_log": column.is_log,
        }
        for name, column in columns.items()
        if column is not None
    }


def _coded(trials: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return a setting's values in order, as shown, and each row's index into them.

    ``null`` is the index of null, the last, if any row has it; ``is_number`` is about the others.
    """
    found = levels(trials, name)
    texts = [show_value(value) for value in found]
    if len(set(texts)) < len(texts):  # equal to six digits
        texts = [f"{v:.15g}" if isinstance(v, float) else show_value(v) for v in found]
    location = {value: i for i, value in enumerate(found)}
    return {
        "levels": texts,
        "null": location.get(None),
        "is_number": all(isinstance(v, int | float) for v in found if v is not None),
        "codes": [location[None if is_null(value) else value] for value in trials[name]],
    }


def _number(value: Any, digits: int = _DIGITS) -> float | None:
    if value is None or value is pd.NA or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def _numbers(values: "pd.Series[Any]") -> list[float | None]:
    return [_number(value) for value in values]


def _diverged(trials: pd.DataFrame) -> dict[str, Any]:
    """Return stage and epoch of the rows that diverged, by row."""
    rows = enumerate(zip(trials["diverged_stage"], trials["diverged_epoch"], strict=True))
    return {
        str(row): [stage, int(epoch)]
        for row, (stage, epoch) in rows
        if isinstance(stage, str) and epoch == epoch and epoch is not pd.NA  # noqa: PLR0124
    }


def _curves(sweeps: Sweeps) -> dict[str, Any]:
    """Return each row's test accuracy and loss over the epochs of its classifier's stages."""
    epochs = sweeps.epochs
    epochs = epochs[epochs["stage"].str.startswith(("train_task", "train_joint"))]
    epochs = epochs.sort_values(["sweep", "config_id", "task", "epoch"], kind="stable")
    n_each = max(1, math.ceil(2 * len(epochs) / _MOST_CURVES))
    if n_each > 1:
        last = epochs.groupby(["sweep", "config_id", "stage"])["epoch"].transform("max")
        epochs = epochs[(epochs["epoch"] % n_each == 0) | (epochs["epoch"] == last)]
    stages = list(dict.fromkeys(epochs["stage"]))
    number = {stage: i for i, stage in enumerate(stages)}
    of_row = {
        key: row
        for row, key in enumerate(
            zip(sweeps.trials["sweep"], sweeps.trials["config_id"], strict=True)
        )
    }
    curves: list[Any] = [None] * len(of_row)
    for key, rows in epochs.groupby(["sweep", "config_id"], sort=False):
        curves[of_row[key]] = [  # type: ignore[index]
            [number[stage] for stage in rows["stage"]],
            [int(epoch) for epoch in rows["epoch"]],
            *([_number(value, 4) for value in rows[column]] for column in _CURVES.values()),
        ]
    return {"stages": stages, "rows": curves, "n_each": n_each}


def _time(sweeps: Sweeps) -> dict[str, Any]:
    """Sum up training seconds by kind of stage, and configurations and seconds by host."""
    epochs, trials = sweeps.epochs, sweeps.trials
    stages = epochs.groupby("stage", sort=False)["duration_s"].sum()
    hosts = trials.groupby("host", dropna=True)["duration_s"].agg(["size", "sum"])
    return {
        "stages": [[str(stage), _number(seconds)] for stage, seconds in stages.items()],
        "hosts": [
            [str(host), int(n), _number(seconds)]
            for host, n, seconds in zip(hosts.index, hosts["size"], hosts["sum"], strict=True)
        ],
        "total_s": _number(trials["duration_s"].sum()),
        "longest_s": _number(trials["duration_s"].max()),
    }


def _sweep(location: ResultsPath, name: str, trials: pd.DataFrame) -> dict[str, Any]:
    """Return a sweep's folder, and when, how and with what it ran."""
    try:
        resolved = read_limited(location / "sweep.yaml", _LONGEST_YAML).decode(errors="replace")
    except (OSError, ValueError):
        resolved = ""
    times = [trials["started_at"].min(), trials["ended_at"].max()]
    return {
        "name": name,
        "place": str(location),
        "counts": {s: int((trials["status"] == s).sum()) for s in ENDED},
        "times": [t.isoformat(timespec="seconds") if pd.notna(t) else None for t in times],
        "devices": sorted(trials["device"].dropna().unique()),
        "runs": [_run(run) for run in read_runs(location)],
        "resolved": resolved,
    }


def _run(run: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown of a run, and the command that repeats it."""
    shown = ("start", "end", "driver", "hosts", "versions", "git", "counts", "train_s")
    kept = {name: run.get(name) for name in shown}
    command = [str(word) for word in run.get("command") or ()]
    return {**kept, "command": resume_command(command)}


def _samples(
    sweeps: Sweeps, metric: str, n: int, data: Path | None, settings: Sequence[str]
) -> dict[str, Any]:
    """Draw images of the ``n`` best configurations, or return why there are none."""
    if n == 0:
        return {"images": [], "why_not": "none were requested (--samples)"}
    images: list[dict[str, Any]] = []
    try:
        chosen = choose(sweeps.trials, (), n, metric)
        for _, row in chosen.iterrows():
            location = sweeps.places[sweeps.names.index(row["sweep"])]
            images.append(_image(row, data, location, settings))
    except InputError as error:
        return {"images": images, "why_not": str(error)}
    return {"images": images, "why_not": None if images else "nothing has finished"}


def _image(
    row: "pd.Series[Any]", data: Path | None, location: ResultsPath, names: Sequence[str]
) -> dict[str, Any]:
    image = rendered(sample_figure(row, data=data, store_of=location), "png", dpi=110)
    shown = ", ".join(f"{short(name)} {show_value(row[name])}" for name in names)
    return {
        "id": row["config_id"],
        "text": f"{shown}, seed {row[SETTING + 'seed']}",
        "png": base64.b64encode(image).decode(),
    }
