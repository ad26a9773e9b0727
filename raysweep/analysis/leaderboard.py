"""Rank the settings of one or several sweeps by a metric, by mean over seeds.

    raysweep leaderboard results/vib [results/mir ...] [--metric average_accuracy] [-n 10]
        [--where "lr < 0.1 and replay == 'simple'"] [--format markdown] [--out best.csv]
    raysweep leaderboard results/vib --metric average_accuracy --metric forgetting

sd is over the finished seeds, ci95 the half-width of Student's 95 % interval of the mean, and seeds
the number of finished seeds out of all. Settings with fewer finished seeds come after the others.
The interval covers the seeds only, not the finite test set: on the 1,000 test images of mnist_5k an
accuracy of 0.95 is known to about +-0.013 (95 %). The top row was selected on test samples, so it
is optimistic.
The table shows the settings that differ among the rows, and ``sweep`` if there are several.
Several metrics give the Pareto front: the settings that no other one beats in all metrics, among
those that finished in all of their seeds, sorted by the first metric. --mode sets for each metric
whether to maximise or to minimise it, by default its usual mode.
``raysweep.results`` has ``leaderboard`` and ``pareto_leaderboard`` as functions of DataFrames.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import pandas as pd
import typer

from raysweep.analysis.command import Folders, Out, TableFormat, Where, give_table, run
from raysweep.analysis.sweeps import Sweeps
from raysweep.analysis.sweeps import metric as known_metric
from raysweep.errors import InputError
from raysweep.statuses import Status
from raysweep.tables.columns import Direction
from raysweep.tables.pareto import format_pareto, pareto_leaderboard
from raysweep.tables.ranking import format_leaderboard, leaderboard

DEFAULT_METRIC = "average_accuracy"


def show(
    folders: Folders,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A metric of the table (repeatable: several give the Pareto front).",
            show_default="average_accuracy",
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="max or min, for each --metric.", show_default="the metric's usual mode"),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of rows.")] = 10,
    where: Where = None,
    table_format: TableFormat = None,
    out: Out = None,
) -> None:
    """Rank the settings of sweeps, finished or running, by a metric's mean over seeds.

    Several metrics give the Pareto front.
    """
    trials = Sweeps(folders, where).trials
    metrics = metric or [DEFAULT_METRIC]
    board = rank(trials, metrics, mode or None, n)
    if len(metrics) == 1:
        give_table(board, out, table_format, partial(format_leaderboard, metric=metrics[0]))
        return
    n_more = board.attrs["n_more"]
    as_text = partial(format_pareto, metrics=metrics, modes=mode or None, n_more=n_more)
    give_table(board, out, table_format, as_text)


def rank(
    trials: pd.DataFrame, metrics: Sequence[str], modes: Sequence[str] | None = None, n: int = 10
) -> pd.DataFrame:
    """Rank settings by one metric, or return the Pareto front of several: up to ``n`` rows.

    ``modes`` has ``max`` or ``min`` for each metric (None: its usual mode). ``attrs["n_more"]`` is
    the number of settings of a front that were left out. Raises ``InputError`` for metrics that
    are unknown or were not measured.
    """
    metrics = [known_metric(trials, name) for name in metrics]
    if len(set(metrics)) < len(metrics):
        raise InputError(f"--metric: expected each metric once, got {', '.join(metrics)}")
    if modes and (len(modes) != len(metrics) or not set(modes) <= set(Direction)):
        given = ", ".join(modes)
        raise InputError(
            f"--mode: expected max or min for each of {len(metrics)} metrics, got {given}"
        )
    _expect_measured(trials, metrics)
    if len(metrics) == 1:
        return leaderboard(trials, metrics[0], n, modes[0] if modes else None)
    front = pareto_leaderboard(trials, metrics, modes)
    board = front.head(n)
    board.attrs["n_more"] = len(front) - n
    return board


def _expect_measured(trials: pd.DataFrame, metrics: Sequence[str]) -> None:
    finished = trials[trials["status"] == Status.FINISHED]
    for name in metrics:
        if len(finished) and finished[name].isna().all():
            raise InputError(
                f"--metric: expected a metric that was measured, got {name}, which is null in all "
                f"{len(finished)} finished rows"
            )


if __name__ == "__main__":
    run(show)
