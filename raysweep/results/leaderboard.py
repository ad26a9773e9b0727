"""The best configurations, by mean over seeds."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

from raysweep.settings import InputError, near

if TYPE_CHECKING:
    import pandas as pd

LOWER_IS_BETTER = frozenset({"forgetting", "reconstruction_loss", "replay_label_entropy"})


class Summary(NamedTuple):
    """What ``summarise`` gives; ``sd`` and ``half_width`` are None for one value."""

    mean: float
    sd: float | None
    half_width: float | None
    n: int


def summarise(values: Sequence[float]) -> Summary:
    """Sum up a measure over seeds: mean, sd (of n - 1), 95 % interval (mean +- half-width), n.

    The interval is Student's, for values from one normal distribution: with few seeds the 1.96 of
    a normal interval would be too narrow. Expects at least one value.
    """
    n = len(values)
    if n == 1:
        return Summary(values[0], None, None, n)
    sd = stdev(values)
    return Summary(fmean(values), sd, sd * _half_width_in_sd(n), n)


@cache
def _half_width_in_sd(n: int) -> float:
    """Give t(0.975, n - 1) / sqrt(n); NaN for one value."""
    if n < 2:
        return math.nan
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1)) / math.sqrt(n)


def leaderboard(
    trials: "pd.DataFrame", metric: str = "average_accuracy", n: int = 10
) -> "pd.DataFrame":
    """Rank settings by the mean of a metric over their finished seeds, never by a lucky seed.

    Settings with the most finished seeds (of all settings) come first, by their mean; after them
    those with fewer, by number and then by mean: where seeds diverged, failed or are to come, the
    mean of the others is no fair match for that of all.

    Gives up to ``n`` rows: ``mean``, ``sd`` and ``ci95`` as ``summarise`` does (null for one seed),
    ``seeds`` (finished / all) and the settings that differ among all rows of ``trials``.
    """
    metrics = [
        name
        for name in trials.columns
        if trials[name].dtype.kind == "f" and not name.startswith("config/")
    ]
    if metric not in metrics:
        hint = near(metric, metrics) or f"; known: {', '.join(metrics)}"
        raise InputError(f"metric: expected a column of numbers of trials, got {metric!r}{hint}")
    settings = [name for name in trials.columns if name.startswith("config/")]
    settings = [name for name in settings if name != "config/seed"]
    varied = [name for name in settings if trials[name].nunique(dropna=False) > 1]
    varied = [name for i, name in enumerate(varied) if not _repeats(trials, name, varied[:i])]
    by = varied or settings[:1]
    grouped = trials.assign(**{metric: trials[metric].where(trials["status"] == "finished")})
    groups = grouped.groupby(by, dropna=False, sort=False)[metric]
    board = groups.agg(mean="mean", sd="std", finished="count", all="size").reset_index()
    board = board[board["finished"] > 0]
    board["seeds"] = [
        f"{done}/{all_}" for done, all_ in zip(board["finished"], board["all"], strict=True)
    ]
    board = board.sort_values(
        ["finished", "mean"], ascending=[False, metric in LOWER_IS_BETTER], kind="stable"
    ).head(n)
    board["ci95"] = board["sd"] * board["finished"].map(_half_width_in_sd)
    board = board.rename(columns={name: name.removeprefix("config/") for name in varied})
    names = [name.removeprefix("config/") for name in varied]
    return board[["mean", "sd", "ci95", "seeds", *names]].reset_index(drop=True)


def _repeats(trials: "pd.DataFrame", name: str, earlier: list[str]) -> bool:
    """Tell whether a setting only renames the values of an earlier one."""
    return any(
        len(trials[[name, other]].drop_duplicates())
        == trials[name].nunique(dropna=False)
        == trials[other].nunique(dropna=False)
        for other in earlier
    )


def format_leaderboard(board: "pd.DataFrame", metric: str = "average_accuracy") -> str:
    """Lay a leaderboard out as text, a line a row."""
    if board.empty:
        return "no configuration has finished yet"
    shown = board.rename(columns={"mean": metric}).set_axis(range(1, len(board) + 1), axis="index")
    if shown["sd"].isna().all():
        shown = shown.drop(columns=["sd", "ci95"])
    formats: dict[str, Callable[[float], str]] = {
        str(name): "{:g}".format for name in shown if shown[name].dtype.kind == "f"
    }
    formats |= {name: "{:.4f}".format for name in (metric, "sd", "ci95") if name in shown}
    return shown.to_string(formatters=formats, na_rep="-")
