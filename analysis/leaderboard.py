"""Rank the settings of a sweep by a metric, by mean over seeds.

    python -m analysis.leaderboard results/vib [--metric average_accuracy] [-n 10]

The folder may be in an object store, too (``s3://bucket/vib``).
sd is over the finished seeds, ci95 the half-width of Student's 95 % interval of the mean. Settings
with fewer finished seeds than others come after these.
``raysweep.results.leaderboard`` is the same as a function of DataFrames.
"""

import sys
from typing import Annotated

import typer

from raysweep.results import InputError, format_leaderboard, leaderboard, read_trials


def show(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Such as results/vib or s3://bucket/vib.")
    ],
    metric: Annotated[str, typer.Option(help="A metric of the table.")] = "average_accuracy",
    n: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 10,
) -> None:
    """Rank the settings of a sweep by a metric, by mean over seeds; also while it runs."""
    try:
        trials = read_trials(folder)
        print(format_leaderboard(leaderboard(trials, metric, n), metric))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(show)
    app()
