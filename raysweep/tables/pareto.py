"""The Pareto front of a sweep: the settings that no other setting beats in all metrics."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raysweep.errors import InputError
from raysweep.statuses import Status
from raysweep.tables import checksums
from raysweep.tables.columns import SETTING, Direction
from raysweep.tables.folder import ResultsFolder, WriteError
from raysweep.tables.object_store import patiently
from raysweep.tables.paths import ResultsPath
from raysweep.tables.ranking import (
    as_text,
    check_metric,
    format_leaderboard,
    leaderboard,
    usual_mode,
    varied_settings,
)
from raysweep.tables.schemas import TABLES
from raysweep.tables.unpacking import RefusedError

if TYPE_CHECKING:
    import pandas as pd

_FILE = "pareto.parquet"


def pareto_front(
    frame: "pd.DataFrame", objectives: Sequence[str], modes: Sequence[str] | None = None
) -> "pd.DataFrame":
    """Return the rows that no other row dominates (as good in all objectives, better in one).

    ``objectives`` are numeric columns; ``modes`` has ``max`` or ``min`` for each. By default each
    column's declared direction applies (columns that are not in the tables are maximised). All
    tied rows are kept; rows with a null are never on the front. Index and order are those of
    ``frame``.
    Raise ``InputError`` for no objective, an unknown or non-numeric column, and unsuitable modes.
    """
    if not objectives:
        raise InputError("objectives: expected at least one column, got none")
    for name in objectives:
        if name not in frame or frame[name].dtype.kind not in "fiu":
            raise InputError(f"objectives: expected columns of numbers, got {name!r}")
    signs = [1.0 if mode == Direction.LOWER else -1.0 for mode in _modes(objectives, modes)]
    costs = frame[[*objectives]].to_numpy(dtype=float, na_value=np.nan) * signs
    candidates = np.flatnonzero(~np.isnan(costs).any(axis=1))
    # Each row in turn eliminates all rows it dominates, so soon few are left to compare.
    costs, i = costs[candidates], 0
    while i < len(candidates):
        is_kept = (costs < costs[i]).any(axis=1) | (costs == costs[i]).all(axis=1)
        i = int(is_kept[:i].sum()) + 1
        candidates, costs = candidates[is_kept], costs[is_kept]
    return frame.iloc[candidates]


def _modes(objectives: Sequence[str], modes: Sequence[str] | None) -> list[str]:
    if modes is None:
        return [usual_mode(name) for name in objectives]
    if len(modes) != len(objectives) or not set(modes) <= set(Direction):
        raise InputError(
            f"modes: expected max or min for each of {', '.join(objectives)}, "
            f"got {', '.join(modes) or 'none'}"
        )
    return list(modes)


def pareto_settings(
    trials: "pd.DataFrame",
    metrics: Sequence[str],
    modes: Sequence[str] | None = None,
    n_seeds: int | None = None,
) -> "pd.DataFrame":
    """Return the settings on the Pareto front of the means over seeds, sorted by the first metric.

    ``trials`` has the columns of the table, ``modes`` is as in ``pareto_front``. Only settings
    count that have finished with a value of each metric for all seeds: ``n_seeds`` of them, or the
    largest number of rows of any setting of the sweep. Return a row per setting: ``sweep`` if
    ``trials`` has it, all columns ``config/...`` except the seed, the mean of each metric under its
    name, and ``n_seeds``. Raise ``InputError`` for an invalid metric or mode.
    """
    front = pareto_front(_complete_settings(trials, metrics, n_seeds), metrics, modes)
    is_ascending = [mode == Direction.LOWER for mode in _modes(metrics, modes)]
    front = front.sort_values([*metrics], ascending=is_ascending, kind="stable", ignore_index=True)
    # Restore the stored table's types, so that columns without nulls hold whole numbers again.
    stored: pd.DataFrame = _to_arrow(front).to_pandas()
    return stored


def _complete_settings(
    trials: "pd.DataFrame", metrics: Sequence[str], n_seeds: int | None
) -> "pd.DataFrame":
    """Compute the means of the metrics for each setting that has finished for all its seeds."""
    for name in metrics:
        check_metric(trials, name)
    sweep = ["sweep"] if "sweep" in trials else []
    settings = [name for name in trials.columns if name.startswith(SETTING)]
    by = [*sweep, *(name for name in settings if name != SETTING + "seed")]
    setting = trials.groupby(by, dropna=False, sort=False).ngroup()
    values = trials[[*dict.fromkeys(metrics)]]
    is_measured: np.ndarray[Any, Any] = np.isfinite(values.to_numpy(dtype=float)).all(axis=1)
    is_whole = (trials["status"] == Status.FINISHED) & is_measured
    table = trials.loc[~setting.duplicated(), by].reset_index(drop=True)
    table = table.join(values.groupby(setting).mean())
    n = is_whole.groupby(setting).size()
    needed = n_seeds or (n.groupby(table["sweep"]).transform("max") if sweep else n.max())
    table["n_seeds"] = is_whole.groupby(setting).sum().astype("int64")
    return table[(table["n_seeds"] == n) & (n >= needed)]


def pareto_leaderboard(
    trials: "pd.DataFrame",
    metrics: Sequence[str],
    modes: Sequence[str] | None = None,
    n_seeds: int | None = None,
) -> "pd.DataFrame":
    """Return ``pareto_settings`` for display: the metrics, ``seeds``, and the settings that differ.

    These are the settings that differ among all rows of ``trials``, under their short names, and
    ``sweep`` if there are several sweeps.
    """
    front = pareto_settings(trials, metrics, modes, n_seeds)
    is_several = "sweep" in trials and trials["sweep"].nunique() > 1
    names = (["sweep"] if is_several else []) + varied_settings(trials)
    board = front[[*metrics, "n_seeds", *names]]
    short = {name: name.removeprefix(SETTING) for name in names}
    return board.rename(columns={"n_seeds": "seeds", **short})


def format_pareto(
    board: "pd.DataFrame",
    metrics: Sequence[str],
    modes: Sequence[str] | None = None,
    n_more: int = 0,
) -> str:
    """Format a ``pareto_leaderboard``: a caption, one line per row, and the number cut off."""
    if board.empty:
        return (
            f"no setting has finished for all of its seeds with a value of {' and '.join(metrics)}"
        )
    wanted = zip(metrics, _modes(metrics, modes), strict=True)
    aims = ", ".join(f"{name} ({mode})" for name, mode in wanted)
    lines = [f"Pareto front: the settings that no other one beats in all of {aims}"]
    lines.append(as_text(board, metrics))
    lines += [f"{n_more} more"] if n_more > 0 else []
    return "\n".join(lines)


def format_best(
    trials: "pd.DataFrame",
    metrics: Sequence[str],
    modes: Sequence[str] | None = None,
    n: int = 10,
    n_seeds: int | None = None,
) -> str:
    """Format up to ``n`` best settings: a leaderboard for one metric, a front for several."""
    if len(metrics) > 1:
        front = pareto_leaderboard(trials, metrics, modes, n_seeds)
        return format_pareto(front.head(n), metrics, modes, len(front) - n)
    (metric,) = metrics
    board = leaderboard(trials, metric, n, modes[0] if modes else None)
    if board.empty and (trials["status"] == Status.FINISHED).any():
        return f"no configuration has finished with a value of {metric}"
    return format_leaderboard(board, metric)


def write_pareto(folder: ResultsFolder, front: "pd.DataFrame | None") -> None:
    """Write the result of ``pareto_settings`` to ``pareto.parquet`` atomically; None deletes it.

    Raise ``WriteError`` on failure, also if another driver has taken the folder.
    """
    location = folder.location / _FILE
    try:
        patiently(folder.expect_lock)
        if front is not None:
            content = checksums.encode(_to_arrow(front))
            patiently(lambda: location.write_bytes(content))
        elif patiently(location.exists):
            patiently(location.delete)
    except OSError as error:
        raise WriteError(folder.location, error) from None


def _to_arrow(front: "pd.DataFrame") -> pa.Table:
    """Cast settings to their types in ``trials``, which a few rows do not determine."""
    known = TABLES["trials"].arrow
    columns = {}
    for name in front.columns:
        kind = known.field(name).type if name in known.names else None
        columns[name] = pa.array(front[name], type=kind, from_pandas=True)
    return pa.table(columns)


def read_pareto(folder: str | Path | ResultsPath) -> "pd.DataFrame":
    """Read the table ``pareto``: the settings on the front at the end of the last run.

    ``folder`` is a sweep's folder, as a path or an address. Raise ``InputError`` if the table is
    missing or damaged, or if the store cannot be read.
    """
    location = ResultsPath.of(folder) / _FILE
    try:
        front: pd.DataFrame = checksums.decode(location.read_bytes()).to_pandas()
    except FileNotFoundError:
        raise InputError(
            f"{location}: expected the Pareto front of a search for several metrics, found no such "
            f"file; a run of such a search writes it when it ends"
        ) from None
    except OSError as error:
        raise InputError(
            f"{location}: expected to read it, got: {error.strerror or error}"
        ) from None
    except RefusedError as error:
        raise InputError(f"{location}: {error}; run the sweep again to rewrite it") from None
    return front
