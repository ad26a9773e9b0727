"""Draw a metric over two settings, faceted by others.

    raysweep heatmap results/vib [--metric forgetting] [--x beta_1] [--y beta_2]
        [--facet replay --facet lr] [--where "model == 'vib'"] [--out map.pdf]

A cell shows the mean over seeds and over the settings that are not named; the title lists these. If
all runs diverged, it shows the stage and epoch of the first divergence; if some did, how many out
of all. The first facet runs from left to right, further ones from top to bottom. Without --out the
figure is written to heatmap.png.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import pandas as pd
import typer
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from raysweep.analysis.command import Folders, Metric, Out, Where, run
from raysweep.analysis.figures import FigureFormat, give_figure, metric_label, with_minus, words
from raysweep.analysis.heatmap_grid import (
    State,
    color_scale,
    draw_grid,
    grid_columns,
    place_cells,
    side,
)
from raysweep.analysis.panels import averaged_over, layout
from raysweep.analysis.stability import divergence, mark, mark_texts
from raysweep.analysis.sweeps import Sweeps
from raysweep.analysis.sweeps import metric as known_metric
from raysweep.errors import InputError
from raysweep.statuses import Status
from raysweep.tables.ranking import is_lower_better, mean_over_seeds
from raysweep.user_text.values import NULL_TEXT

_MEANINGS: dict[State, str] = {
    "partial": "k/n: k of n runs diverged; value: mean of the others",
    "diverged": "all runs diverged: stage and epoch (+: others in a later stage)",
    "null": "runs without a value",
    "absent": "not run",
}


def means(trials: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """Compute the mean of a metric in each cell, and where runs diverged.

    Columns: those of ``raysweep.results.mean_over_seeds`` and ``mark``, such as ``task 2, ep. 3``
    (see ``raysweep.analysis.stability.mark``), null if none diverged.
    """
    cells = mean_over_seeds(trials, metric, by)
    places = divergence(trials, by)
    places["mark"] = [mark(row) or None for _, row in places.iterrows()]
    return cells.merge(places[[*by, "mark"]], on=[*by], how="left")


def figure(
    trials: pd.DataFrame,
    metric: str = "average_accuracy",
    x: str = "beta_1",
    y: str = "beta_2",
    facets: Sequence[str] = (),
) -> Figure:
    """Draw the mean of a metric over two settings, faceted by others, on one colour scale.

    Raises ``InputError`` for an unknown metric or setting, one that is named twice, too many panels
    to see, and a metric that no finished run has.
    """
    known_metric(trials, metric)
    x, y, columns = grid_columns(trials, x, y, facets)
    by = [*columns, y, x]
    table = means(trials, metric, by)
    values = table["mean"].dropna().tolist()
    if not values and (trials["status"] == Status.FINISHED).any():
        raise InputError(
            f"{metric}: expected finished configurations with a value, found none; "
            "take another metric, or other rows with --where"
        )
    colors = color_scale(values, metric=metric) if values else None
    show = number_format(values, colors)
    plan = layout(trials, columns)
    cells = [
        place_cells(panel.of(table), trials, (x, y), lambda row: _cell_of(row, show))
        for panel in plan.panels
    ]
    over = averaged_over(trials, by)
    direction = "lower is better" if is_lower_better(metric) else ""
    title = words(metric).capitalize() + (f" ({direction})" if direction else "")
    note = f"Mean over {over}" if over else "One run per cell"
    return draw_grid(
        plan,
        cells,
        (side(trials, x), side(trials, y)),
        colors,
        (title, note, metric_label(metric)),
        _MEANINGS,
    )


def _cell_of(
    row: "pd.Series[Any]", show: Callable[[float, int], str]
) -> tuple[State, float, tuple[str, ...]]:
    mean, n_diverged, n = float(row["mean"]), int(row["n_diverged"]), int(row["n"])
    share = f"{n_diverged}/{n}"
    if math.isnan(mean):
        if n_diverged == 0:
            return "null", mean, (NULL_TEXT,)
        texts = mark_texts(row["mark"] if isinstance(row["mark"], str) else "")
        if n_diverged < n:
            texts = tuple(f"{share}\n{text}" for text in texts)
        return "diverged", mean, texts
    long, brief = show(mean, 0), show(mean, -1)
    if n_diverged == 0:
        return "value", mean, (long, brief)
    return (
        "partial",
        mean,
        (f"{long}\n{share} div.", f"{long}\n{share}", f"{brief}\n{share}", brief),
    )


def number_format(
    values: Sequence[float], colors: ScalarMappable | None
) -> Callable[[float, int], str]:
    """Return a function that formats a value with enough decimals to tell neighbours apart.

    Its second argument adds or removes decimals.
    """
    if colors is None or isinstance(colors.norm, LogNorm) or max(map(abs, values)) >= 1e5:
        return lambda value, more: f"{value:.{3 + more}g}"
    span = max(values) - min(values) or abs(values[0]) or 1.0
    decimals = min(max(2 - math.floor(math.log10(span)), 0), 4)

    def show(value: float, more: int) -> str:
        text = f"{value:.{max(decimals + more, 0)}f}"
        return text.removeprefix("-") if float(text) == 0 else with_minus(text)

    return show


def show(
    folders: Folders,
    metric: Metric = "average_accuracy",
    x: Annotated[str, typer.Option(help="Setting from left to right.")] = "beta_1",
    y: Annotated[str, typer.Option(help="Setting from bottom to top.")] = "beta_2",
    facet: Annotated[
        list[str] | None, typer.Option(help="Setting with a panel for each value (repeatable).")
    ] = None,
    where: Where = None,
    out: Out = None,
    given_format: FigureFormat = None,
) -> None:
    """Draw a metric over two settings; without --out, write it to heatmap.png."""
    drawn = figure(Sweeps(folders, where).trials, metric, x, y, facet or ())
    give_figure(drawn, out, given_format, "heatmap")


if __name__ == "__main__":
    run(show)
