"""Draw learning curves with bands over seeds, or the accuracy matrix.

    raysweep curves results/vib [--metric test_accuracy] [--by replay] [--facet lr]
    raysweep curves results/vib --matrix [--by replay] [--out matrix.pdf]

The metric is a column of ``epochs``: test_accuracy (on the task being learned), loss, class_loss
and so on. Stages follow each other on one axis. A line is the mean of a group's finished runs, its
band Student's 95 % interval over seeds, or with --band minmax the range from the lowest to the
highest seed; each seed counts with its mean over the settings that are not named. Runs that diverge
are thin lines that end in a cross; crosses at the bottom count them by epoch. Without --out the
figure is written to curves.png (matrix.png).
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import numpy as np
import pandas as pd
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from raysweep.analysis import matrix
from raysweep.analysis.command import Folders, Out, Where, run
from raysweep.analysis.figures import (
    COLORS,
    DASHES,
    MARKERS,
    FigureFormat,
    give_figure,
    is_log,
    metric_label,
    style,
    words,
)
from raysweep.analysis.panels import (
    Panel,
    averaged_over,
    combinations,
    facet_columns,
    is_lowest,
    layout,
    new_figure,
    set_title,
    show_keys,
)
from raysweep.analysis.stage_axis import LINE_IN, Track, draw_counts, draw_stages
from raysweep.analysis.sweeps import Sweeps, setting
from raysweep.analysis.tradeoff import color_column
from raysweep.errors import InputError
from raysweep.statuses import Status
from raysweep.tables.columns import SETTING
from raysweep.tables.ranking import metrics_of
from raysweep.tables.schemas import column_of
from raysweep.user_text.metric_hints import metric_hint

Band = Literal["ci95", "minmax"]
_BANDS = {
    "ci95": "Student's 95 % interval over seeds",
    "minmax": "lowest to highest seed",
}
_SEED = SETTING + "seed"
_ON_NEW_TASK = ("train_accuracy", "test_accuracy")
"""Metrics of the stage's own task only, not of earlier tasks."""
_PANEL_IN = 1.6
_BAND_SHARE, _MARGIN = 0.3, 0.05
"""How far bands may extend beyond the means, and the margin, as shares of the means' span."""


def curves(
    epochs: pd.DataFrame, trials: pd.DataFrame, metric: str, by: Sequence[str], band: Band = "ci95"
) -> pd.DataFrame:
    """Compute the mean of a column of ``epochs`` over finished runs by group, stage and epoch.

    Each seed counts once, with its mean over everything that is not in ``by``. Columns: those in
    ``by``, ``stage``, ``epoch``, ``mean``, ``low`` and ``high`` (the band; null for one seed),
    ``n_seeds``, and the number ``n`` of runs.
    """
    from scipy.stats import t

    keys = [*by, "stage", "epoch"]
    finished = trials[trials["status"] == Status.FINISHED]
    rows = _with_settings(epochs, finished, [*by, _SEED]).dropna(subset=[metric])
    seeds = rows.groupby(list(dict.fromkeys([*keys, _SEED])), dropna=False)[metric].agg(
        ["mean", "size"]
    )
    groups = seeds.groupby(keys, dropna=False)
    found = groups["mean"].agg(mean="mean", sd="std", low="min", high="max", n_seeds="size")
    found["n"] = groups["size"].sum()
    has_band = found["n_seeds"] > 1
    if band == "ci95":
        n = found["n_seeds"].where(has_band)
        half_width = found["sd"] * t.ppf(0.975, n - 1) / np.sqrt(n)
        found["low"], found["high"] = found["mean"] - half_width, found["mean"] + half_width
    found[["low", "high"]] = found[["low", "high"]].where(has_band)
    return found.drop(columns="sd").reset_index()


def _with_settings(
    epochs: pd.DataFrame, trials: pd.DataFrame, columns: Sequence[str]
) -> pd.DataFrame:
    keys = ["sweep", "config_id"]
    return epochs.merge(trials[list(dict.fromkeys([*keys, *columns]))], on=keys)


def figure(
    epochs: pd.DataFrame,
    trials: pd.DataFrame,
    metric: str = "test_accuracy",
    by: Sequence[str] = (),
    facets: Sequence[str] = (),
    band: Band = "ci95",
) -> Figure:
    """Draw learning curves: a line for each group by the settings ``by``, panels by ``facets``.

    Raises ``InputError`` for an unknown column or setting, one that is named twice, more groups or
    panels than can be told apart, and a column without values.
    """
    _check_metric(epochs, metric)
    groups_by = list(dict.fromkeys(setting(trials, name) for name in by))
    groups_by = groups_by or [color_column(trials, None)]
    columns = facet_columns(trials, facets, groups_by)
    measured = epochs.dropna(subset=[metric])
    if measured.empty:
        raise InputError(f"{metric}: expected epochs with a value, found none; take another column")
    ends = trials.loc[trials["status"] == Status.DIVERGED].dropna(subset=["diverged_epoch"])
    track = Track.of(epochs[epochs["stage"].isin([*measured["stage"], *ends["diverged_stage"]])])
    table = curves(epochs, trials, metric, [*columns, *groups_by], band)
    groups = _groups(trials, groups_by)
    runs = _with_settings(
        measured, ends, [*columns, *groups_by, "diverged_stage", "diverged_epoch"]
    )
    plan = layout(trials, columns)
    lost = [[_rows(ends, panel.keys, keys) for keys in groups] for panel in plan.panels]
    n_lines = max(sum(len(rows) > 0 for rows in some) for some in lost)
    room_in = (n_lines + 0.4) * LINE_IN if n_lines else 0.0
    height_in = _PANEL_IN + room_in
    with style():
        n_epochs = sum(track.lengths.values())
        width_in = min(max(2.8, 0.13 * n_epochs, 0.72 * len(track.starts)), 6.5)
        margins = 0.7, 0.9 + 0.18 * _n_legend_rows(len(groups) + 1)
        size = width_in, height_in + 0.5
        drawn, axes = new_figure(plan, size, margins, sharex=True, sharey=True)
        for panel, ax, some in zip(plan.panels, axes, lost, strict=True):
            for i, keys in enumerate(groups):
                _draw_line(ax, _rows(table, panel.keys, keys), track, i)
                _draw_ends(ax, _rows(runs, panel.keys, keys), metric, track, i)
            draw_counts(ax, some, track, LINE_IN / height_in)
            ax.set_title(panel.top, pad=14)
            draw_stages(ax, track, is_lowest(plan, panel), width_in / n_epochs)
            if panel.column == 0:
                ax.set_ylabel(metric_label(metric))
        _set_limits(axes, table, (metric, runs[metric]), room_in / height_in)
        _finish(drawn, trials, groups, (metric, [*columns, *groups_by], band))
    return drawn


def _rows(frame: pd.DataFrame, *keys: dict[str, object]) -> pd.DataFrame:
    return Panel(0, 0, "", "", {k: v for some in keys for k, v in some.items()}).of(frame)


def _n_legend_rows(n_entries: int) -> int:
    return n_entries if n_entries < 5 else math.ceil(n_entries / 2)


def _check_metric(epochs: pd.DataFrame, metric: str) -> None:
    known = metrics_of(epochs)
    if metric not in known:
        hint = metric_hint(metric, [name for name in known if epochs[name].notna().any()])
        raise InputError(f"--metric: expected a column of epochs, got {metric!r}{hint}")


def _groups(trials: pd.DataFrame, by: Sequence[str]) -> list[dict[str, object]]:
    found = combinations(trials, by)
    if len(found) > len(COLORS):
        names = ", ".join(name.removeprefix(SETTING) for name in by)
        raise InputError(
            f"--by: expected at most {len(COLORS)} groups, got {len(found)} ({names}); "
            "use --facet for some, or take fewer rows with --where"
        )
    return found


def _look(i: int) -> dict[str, Any]:
    return {"color": COLORS[i], "ls": DASHES[i % len(DASHES)], "marker": MARKERS[i], "ms": 3.5}


def _draw_line(ax: Axes, table: pd.DataFrame, track: Track, i: int) -> None:
    for _, rows in table.sort_values("epoch").groupby("stage"):
        x = track.location(rows)
        every = max(1, len(rows) // 8)
        ax.plot(x, rows["mean"], lw=1.4, markevery=every, gid=f"mean-{i}", **_look(i))
        ax.fill_between(x, rows["low"], rows["high"], color=COLORS[i], alpha=0.18, lw=0)


def _draw_ends(ax: Axes, runs: pd.DataFrame, metric: str, track: Track, i: int) -> None:
    """Draw each diverged run up to its last value, with a cross there."""
    for _, rows in runs.sort_values("epoch").groupby(["sweep", "config_id"]):
        parts = [part for _, part in rows.groupby("stage")]
        for part in parts:
            ax.plot(
                track.location(part),
                part[metric],
                color=COLORS[i],
                lw=0.6,
                alpha=0.6,
                gid="diverged",
            )
        end = max((part.tail(1) for part in parts), key=track.location)
        ax.plot(track.location(end), end[metric], "x", color=COLORS[i], ms=5, gid="end")


def _set_limits(
    axes: Sequence[Axes], table: pd.DataFrame, runs: tuple[str, "pd.Series[float]"], room: float
) -> None:
    """Scale the y axis to the means, cutting off wide bands.

    ``runs`` is a metric's name and its values in single runs; ``room`` is the share of the height
    that is kept free at the bottom, without ticks.
    """
    metric, singles = runs
    values = pd.concat([table["mean"], singles]).dropna()
    if len(values) and is_log(metric, values.min(), values.max()):
        axes[0].set_yscale("log")
    scale = axes[0].yaxis.get_transform()
    ends = scale.transform(np.array([values.min(), values.max()] if len(values) else [0.0, 1.0]))
    span = (ends[1] - ends[0]) or abs(ends[1]) or 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        bands = scale.transform(table[["low", "high"]].to_numpy(dtype=float)).ravel()
    low = max(np.nanmin([*bands, ends[0]]), ends[0] - _BAND_SHARE * span)
    high = min(np.nanmax([*bands, ends[1]]), ends[1] + _BAND_SHARE * span)
    column = column_of(metric)
    if column is not None and column.bounds is not None:
        low, high = max(low, column.bounds[0]), min(high, column.bounds[1])
    low, high = low - _MARGIN * span, high + _MARGIN * span
    bottom = low - (high - low) * room / (1 - room)
    axes[0].set_ylim(*scale.inverted().transform(np.array([bottom, high])))
    if room:
        least = float(scale.inverted().transform(np.array([low]))[0])
        axes[0].set_yticks([tick for tick in axes[0].get_yticks() if tick >= least])
        axes[0].minorticks_off()
        axes[0].set_ylim(*scale.inverted().transform(np.array([bottom, high])))
        for ax in axes:
            ax.spines["left"].set_bounds(least, ax.get_ylim()[1])


def _finish(
    drawn: Figure,
    trials: pd.DataFrame,
    groups: Sequence[dict[str, object]],
    what: tuple[str, list[str], Band],
) -> None:
    metric, by, band = what
    handles = []
    for i, keys in enumerate(groups):
        runs = _rows(trials, keys)
        n, n_finished = len(runs), int((runs["status"] == Status.FINISHED).sum())
        share = f" ({n_finished} of {n} runs finished)" if n_finished < n else ""
        handles.append(Line2D([], [], label=show_keys(keys) + share, **_look(i)))
    has_lost = (trials["status"] == Status.DIVERGED).any()
    if has_lost:
        label = "diverged; at the bottom: number of runs in that epoch"
        handles.append(Line2D([], [], color="#555555", ls="", marker="x", ms=5, label=label))
    drawn.legend(handles=handles, loc="outside lower left", ncols=1 if len(handles) < 5 else 2)
    over = averaged_over(trials, by)
    is_over_seeds = trials[_SEED].nunique() > 1 and _SEED not in by
    set_title(
        drawn,
        words(metric).capitalize()
        + (", on the task being learned" if metric in _ON_NEW_TASK else ""),
        (f"Finished runs, mean over {over}" if over else "One run per line")
        + (f"; band: {_BANDS[band]}" if is_over_seeds else "; one seed, no band"),
    )


def show(
    folders: Folders,
    metric: Annotated[str, typer.Option(help="A column of the table epochs.")] = "test_accuracy",
    by: Annotated[
        list[str] | None, typer.Option(help="Setting with a line for each value (repeatable).")
    ] = None,
    facet: Annotated[
        list[str] | None, typer.Option(help="Setting with a panel for each value (repeatable).")
    ] = None,
    band: Annotated[str, typer.Option(help=f"Over seeds: {', '.join(_BANDS)}.")] = "ci95",
    is_matrix: Annotated[
        bool, typer.Option("--matrix", help="Draw the accuracy matrix, a panel for each group.")
    ] = False,
    where: Where = None,
    out: Out = None,
    given_format: FigureFormat = None,
) -> None:
    """Draw learning curves with bands over seeds, or the accuracy matrix.

    Without --out it is written to curves.png, with --matrix to matrix.png.
    """
    if band not in _BANDS:
        raise InputError(f"--band: expected one of {', '.join(_BANDS)}, got {band!r}")
    sweeps = Sweeps(folders, where)
    if is_matrix:
        trials = sweeps.trials
        groups = facet_columns(trials, [*(by or [color_column(trials, None)]), *(facet or [])], [])
        give_figure(matrix.figure(sweeps.accuracy, trials, groups), out, given_format, "matrix")
        return
    drawn = figure(sweeps.epochs, sweeps.trials, metric, by or (), facet or (), cast("Band", band))
    give_figure(drawn, out, given_format, "curves")


if __name__ == "__main__":
    run(show)
