"""Rank the settings of one or several sweeps by a metric, by mean over seeds.

    python -m analysis.leaderboard results/vib [results/mir ...] [--metric average_accuracy] [-n 10]
        [--where "lr < 0.1 and replay == 'simple'"] [--format markdown] [--out best.csv]

sd is over the finished seeds, ci95 the half-width of Student's 95 % interval of the mean, seeds
how many finished of how many there are. Settings with fewer finished seeds than others come after
these. Shown are the settings that differ among the rows, and ``sweep`` where there are several.
``raysweep.results.leaderboard`` is the same as a function of DataFrames.
"""

from functools import partial
from typing import Annotated

import typer

from analysis.command import Folders, Metric, Out, TableFormat, Where, give_table, run
from analysis.tables import Sweeps
from analysis.tables import metric as known_metric
from raysweep.results import InputError, format_leaderboard, leaderboard


def show(
    folders: Folders,
    metric: Metric = "average_accuracy",
    n: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 10,
    where: Where = None,
    table_format: TableFormat = None,
    out: Out = None,
) -> None:
    """Rank the settings of sweeps by a metric, by mean over seeds; also while they run."""
    trials = Sweeps(folders, where).trials
    board = leaderboard(trials, known_metric(trials, metric), n)
    n_finished = int((trials["status"] == "finished").sum())
    if board.empty and n_finished:
        raise InputError(
            f"--metric: expected a metric that was measured, got {metric}, which is null in all "
            f"{n_finished} finished rows"
        )
    give_table(board, out, table_format, partial(format_leaderboard, metric=metric))


if __name__ == "__main__":
    run(show)
