"""The Pareto front of a sweep: the settings that no other one beats in all of several metrics."""

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

if TYPE_CHECKING:
    import pandas as pd

_FILE = "pareto.parquet"


def pareto_front(
    frame: "pd.DataFrame", objectives: Sequence[str], modes: Sequence[str] | None = None
) -> "pd.DataFrame":
    """Return the rows that no other row beats: at least as good in all objectives, better in one.

    ``objectives`` are columns of numbers, ``modes`` is ``max`` or ``min`` for each; without it
    each goes the way that its column declares (a column that is not of the tables is maximised).
    Rows that tie are all kept; one with a null is never on the front. Index and order are those of
    ``frame``.
    Raises ``InputError`` for no objective, an unknown column, one that is not of numbers, and
    modes that do not fit.
    """
    if not objectives:
        raise InputError("objectives: expected at least one column, got none")
    for name in objectives:
        if name not in frame or frame[name].dtype.kind not in "fiu":
            raise InputError(f"objectives: expected columns of numbers, got {name!r}")
    signs = [1.0 if mode == Direction.LOWER else -1.0 for mode in _modes(objectives, modes)]
    costs = frame[[*objectives]].to_numpy(dtype=float, na_value=np.nan) * signs
    candidates = np.flatnonzero(~np.isnan(costs).any(axis=1))
    # Each row in turn takes away all that it beats, so few rows are left to compare after some.
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
    """Return the settings on the Pareto front of the means over seeds, best first metric first.

    ``trials`` has the columns of the table, ``modes`` is as in ``pareto_front``. Only a setting
    counts that has finished with a value of each metric in all of its seeds: ``n_seeds`` of them,
    or as many as any setting of its sweep has rows. Gives a row for each setting: ``sweep`` if
    ``trials`` has it, all columns ``config/...`` but the seed, the metrics' means under their names
    and ``n_seeds``. Raises ``InputError`` for what is no metric, or no mode.
    """
    front = pareto_front(_complete_settings(trials, metrics, n_seeds), metrics, modes)
    is_ascending = [mode == Direction.LOWER for mode in _modes(metrics, modes)]
    front = front.sort_values([*metrics], ascending=is_ascending, kind="stable", ignore_index=True)
    # Of rows without nulls the types that the stored table has: whole numbers are whole again.
    stored: pd.DataFrame = _to_arrow(front).to_pandas()
    return stored


def _complete_settings(
    trials: "pd.DataFrame", metrics: Sequence[str], n_seeds: int | None
) -> "pd.DataFrame":
    """Take the metrics' means of each setting that has finished in all of its seeds."""
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
    """Return ``pareto_settings`` for people: the metrics, ``seeds``, and the settings that differ.

    Those are the settings that differ among all rows of ``trials``, under their short names, with
    ``sweep`` where they are of several sweeps.
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
    """Lay a ``pareto_leaderboard`` out as text: a caption, a line a row, how many were cut off."""
    if board.empty:
        return (
            f"no setting has finished in all of its seeds with a value of {' and '.join(metrics)}"
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
    """Lay out up to ``n`` best settings: the leaderboard of a metric, the front of several."""
    if len(metrics) > 1:
        front = pareto_leaderboard(trials, metrics, modes, n_seeds)
        return format_pareto(front.head(n), metrics, modes, len(front) - n)
    (metric,) = metrics
    board = leaderboard(trials, metric, n, modes[0] if modes else None)
    if board.empty and (trials["status"] == Status.FINISHED).any():
        return f"no configuration has finished with a value of {metric}"
    return format_leaderboard(board, metric)


def write_pareto(folder: ResultsFolder, front: "pd.DataFrame | None") -> None:
    """Write what ``pareto_settings`` gives into ``pareto.parquet``, atomically; None deletes it.

    Raises ``WriteError``, also if another driver has taken the folder.
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
    """Cast settings to the types that they have in ``trials``: a few rows do not tell them."""
    known = TABLES["trials"].arrow
    columns = {}
    for name in front.columns:
        kind = known.field(name).type if name in known.names else None
        columns[name] = pa.array(front[name], type=kind, from_pandas=True)
    return pa.table(columns)


def read_pareto(folder: str | Path | ResultsPath) -> "pd.DataFrame":
    """Read the table ``pareto``: the settings on the front as the last run left it.

    ``folder`` is a sweep's, as a path or an address. Raises ``InputError`` if there is no such
    table, it is damaged, or the store can't be read.
    """
    location = ResultsPath.of(folder) / _FILE
    try:
        front: pd.DataFrame = checksums.decode(location.read_bytes()).to_pandas()
    except FileNotFoundError:
        raise InputError(
            f"{location}: expected the Pareto front of a search for several metrics, found no such "
            f"file; the run of such a search writes it at its end"
        ) from None
    except OSError as error:
        raise InputError(
            f"{location}: expected to read it, got: {error.strerror or error}"
        ) from None
    except checksums.DamagedError as error:
        raise InputError(
            f"{location}: expected a whole Parquet file, got a damaged one ({error}); "
            f"run the sweep again: it writes the file anew"
        ) from None
    return front
