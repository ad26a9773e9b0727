"""The best configurations, by mean over seeds."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from raysweep.settings import InputError, near

if TYPE_CHECKING:
    import pandas as pd

LOWER_IS_BETTER = frozenset({"forgetting", "reconstruction_loss", "replay_label_entropy"})


def leaderboard(
    trials: "pd.DataFrame", metric: str = "average_accuracy", n: int = 10
) -> "pd.DataFrame":
    """Rank settings by the mean of a metric over their finished seeds.

    Gives up to ``n`` rows: ``mean``, ``sd`` (over seeds; null for one), ``seeds`` (finished / all)
    and the settings that differ among all rows of ``trials``.
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
    board = board.sort_values("mean", ascending=metric in LOWER_IS_BETTER, kind="stable").head(n)
    board = board.rename(columns={name: name.removeprefix("config/") for name in varied})
    names = [name.removeprefix("config/") for name in varied]
    return board[["mean", "sd", "seeds", *names]].reset_index(drop=True)


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
        shown = shown.drop(columns="sd")
    formats: dict[str, Callable[[float], str]] = {
        str(name): "{:g}".format for name in shown if shown[name].dtype.kind == "f"
    }
    formats |= {name: "{:.4f}".format for name in (metric, "sd") if name in shown}
    return shown.to_string(formatters=formats, na_rep="-")
