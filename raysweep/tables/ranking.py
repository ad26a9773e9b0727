"""Ranking of settings by their mean over seeds."""

import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

from raysweep.errors import InputError
from raysweep.statuses import Status
from raysweep.tables.columns import SETTING, Direction
from raysweep.tables.schemas import column_of
from raysweep.user_text.metric_hints import metric_hint
from raysweep.user_text.values import is_null, show_value

if TYPE_CHECKING:
    import pandas as pd


def is_lower_better(metric: str, mode: str | None = None) -> bool:
    """Return whether lower values of a metric are better: ``mode`` is ``max`` or ``min``.

    Without ``mode`` the direction is the one that the metric's column declares. Higher is better if
    the column declares none or is not in the tables.
    """
    return (mode or usual_mode(metric)) == Direction.LOWER


def usual_mode(metric: str) -> str:
    """Return ``max`` or ``min`` as declared by the metric's column (see ``is_lower_better``)."""
    column = column_of(metric)
    better = column.better if column else None
    return (better or Direction.HIGHER).value


class Summary(NamedTuple):
    """The result of ``summarise``; ``sd`` and ``half_width`` are None for a single value."""

    mean: float
    sd: float | None
    half_width: float | None
    n: int


def summarise(values: Sequence[float]) -> Summary:
    """Summarise values over seeds: mean, sd (n - 1), 95 % interval (mean +- half-width), n.

    The interval is Student's, for values from one normal distribution: with few seeds, the 1.96 of
    a normal interval would be too narrow. Needs at least one value.
    """
    n = len(values)
    if n == 1:
        return Summary(values[0], None, None, n)
    sd = stdev(values)
    return Summary(fmean(values), sd, sd * half_width_in_sd(n), n)


@cache
def half_width_in_sd(n: int) -> float:
    """Return t(0.975, n - 1) / sqrt(n); NaN for one value."""
    if n < 2:
        return math.nan
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1)) / math.sqrt(n)


def metrics_of(trials: "pd.DataFrame") -> list[str]:
    """List the metrics among the columns of ``trials`` or another table.

    These are the declared metrics, and floating-point columns that are neither in the tables nor
    settings.
    """
    return [name for name in trials.columns if trials[name].dtype.kind == "f" and _is_metric(name)]


def _is_metric(name: str) -> bool:
    column = column_of(name)
    return column.is_metric if column else not name.startswith(SETTING)


def check_metric(trials: "pd.DataFrame", metric: str) -> None:
    """Raise ``InputError`` for a metric that is not a numeric column of ``trials``."""
    metrics = metrics_of(trials)
    if metric not in metrics:
        hint = metric_hint(metric, metrics)
        raise InputError(f"metric: expected a column of numbers of trials, got {metric!r}{hint}")


def varied_settings(trials: "pd.DataFrame") -> list[str]:
    """List the columns of settings that differ among rows, except the seed.

    A setting whose values merely rename those of an earlier one is left out. If each row has its
    own drawn value, renaming cannot be detected, and the setting stays.
    """
    settings = [name for name in trials.columns if name.startswith(SETTING)]
    varied = [
        name
        for name in settings
        # Ignore nulls: whether a setting applies depends on other settings.
        if name != SETTING + "seed" and trials[name].nunique() > 1
    ]
    n_distinct = len(trials[varied].drop_duplicates()) if varied else 0
    is_drawn = {
        name
        for name in varied
        if trials[name].dtype.kind in "fi" and trials[name].nunique(dropna=False) == n_distinct > 2
    }
    return [
        name
        for i, name in enumerate(varied)
        if (name in is_drawn and len(varied) > 1) or not _repeats(trials, name, varied[:i])
    ]


def mean_over_seeds(trials: "pd.DataFrame", metric: str, by: Sequence[str]) -> "pd.DataFrame":
    """Compute the mean of a metric over the finished rows of each group.

    Return the columns ``by``, then ``mean``, ``sd`` and ``ci95`` as in ``summarise``, and the
    counts ``n_finished``, ``n_diverged`` and ``n``. Groups are in the order of their first rows;
    the mean of a group without finished rows is null. Raise ``InputError`` for a metric that is not
    a numeric column.
    """
    check_metric(trials, metric)
    is_finished = trials["status"] == Status.FINISHED
    counted = trials[[*by]].assign(
        _value=trials[metric].where(is_finished), _is_diverged=trials["status"] == Status.DIVERGED
    )
    means = (
        counted.groupby([*by], dropna=False, sort=False)
        .agg(
            mean=("_value", "mean"),
            sd=("_value", "std"),
            n_finished=("_value", "count"),
            n_diverged=("_is_diverged", "sum"),
            n=("_value", "size"),
        )
        .reset_index()
    )
    means["ci95"] = means["sd"] * means["n_finished"].map(half_width_in_sd)
    return means[[*by, "mean", "sd", "ci95", "n_finished", "n_diverged", "n"]]


def best_of(trials: "pd.DataFrame", metric: str, mode: str | None = None) -> float | None:
    """Return the best value of a metric among finished rows, None if there are none.

    ``mode`` is ``max`` or ``min``, None for the metric's usual direction.
    """
    if metric not in trials:
        return None
    values = trials.loc[trials["status"] == Status.FINISHED, metric]
    best = values.min() if is_lower_better(metric, mode) else values.max()
    return None if math.isnan(best) else float(best)


def ranked(
    trials: "pd.DataFrame", metric: str, by: Sequence[str], mode: str | None = None
) -> "pd.DataFrame":
    """Return ``mean_over_seeds`` with the best group first, without favouring lucky seeds.

    Groups are sorted by their number of finished seeds, then by mean: if seeds diverged, failed or
    have not run yet, the mean of the others cannot be compared fairly with a mean of all. ``mode``
    is ``max`` or ``min``, None for the metric's usual direction. The index counts from 0.
    """
    is_ascending = is_lower_better(metric, mode)
    return mean_over_seeds(trials, metric, by).sort_values(
        ["n_finished", "mean"],
        ascending=[False, is_ascending],
        kind="stable",
        ignore_index=True,
    )


def leaderboard(
    trials: "pd.DataFrame",
    metric: str = "average_accuracy",
    n: int = 10,
    mode: str | None = None,
) -> "pd.DataFrame":
    """Rank settings by the mean of a metric over their finished seeds, like ``ranked``.

    Return up to ``n`` rows: ``mean``, ``sd`` and ``ci95`` as in ``summarise`` (null for one seed),
    ``seeds`` (finished / all) and the settings that differ among all rows of ``trials``, with
    ``sweep`` if there are several sweeps.
    """
    sweeps = ["sweep"] if "sweep" in trials and trials["sweep"].nunique() > 1 else []
    varied = sweeps + varied_settings(trials)
    by = varied or [name for name in trials.columns if name.startswith(SETTING)][:1]
    board = ranked(trials, metric, by, mode)
    board = board[board["n_finished"] > 0].head(n).reset_index(drop=True)
    counts = zip(board["n_finished"], board["n"], strict=True)
    board["seeds"] = [f"{done}/{all_}" for done, all_ in counts]
    board = board.rename(columns={name: name.removeprefix(SETTING) for name in varied})
    names = [name.removeprefix(SETTING) for name in varied]
    return board[["mean", "sd", "ci95", "seeds", *names]]


def _repeats(trials: "pd.DataFrame", name: str, earlier: list[str]) -> bool:
    """Return whether a setting, where it applies, merely renames the values of an earlier one."""
    rows = trials[trials[name].notna()]
    return any(
        len(rows[[name, other]].drop_duplicates())
        == rows[name].nunique()
        == rows[other].nunique(dropna=False)
        for other in earlier
    )


def format_leaderboard(board: "pd.DataFrame", metric: str = "average_accuracy") -> str:
    """Format a leaderboard as text, one line per row."""
    if board.empty:
        return "no configuration has finished yet"
    shown = board.rename(columns={"mean": metric})
    if shown["sd"].isna().all():
        shown = shown.drop(columns=["sd", "ci95"])
    return as_text(shown, (metric, "sd", "ci95"))


def as_text(board: "pd.DataFrame", measures: Sequence[str]) -> str:
    """Format rows as text, numbered from 1; ``measures`` are columns shown with four decimals."""
    shown = board.set_axis(range(1, len(board) + 1), axis="index")
    return in_texts(shown, measures).to_string()


def in_texts(frame: "pd.DataFrame", measures: Sequence[str], spec: str = ".4f") -> "pd.DataFrame":
    """Convert the values of a table to texts for display, nulls as in ``show_value``.

    ``measures`` are numeric columns to format with ``spec``.
    """
    shown = frame.astype(object)
    for name in frame:
        shown[name] = [
            f"{value:{spec}}" if name in measures and not is_null(value) else show_value(value)
            for value in frame[name]
        ]
    return shown
