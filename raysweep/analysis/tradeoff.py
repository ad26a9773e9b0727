"""Draw metrics against each other: with the Pareto front, or with a fitted line.

    raysweep tradeoff results/vib [--color replay] [--out tradeoff.pdf]
    raysweep tradeoff results/vib --x forgetting --y average_accuracy --y duration_s
    raysweep tradeoff results/vib --x weight_kl --y forgetting --draw line

Without --x and --y, draw accuracy and reconstruction loss against forgetting with their fronts, and
forgetting against the entropy of the replay labels with a line. A point is the mean over seeds of
one combination of all other settings; if fewer of its seeds finished than elsewhere, it is hollow
and never on a front. Without --out the figure is written to tradeoff.png.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, cast, get_args

import numpy as np
import pandas as pd
import typer
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from raysweep.analysis.command import Folders, Out, Where, run
from raysweep.analysis.figures import (
    COLOR_MAP,
    COLORS,
    MARKERS,
    FigureFormat,
    give_figure,
    is_log,
    is_log_setting,
    metric_label,
    setting_words,
    style,
    with_minus,
)
from raysweep.analysis.panels import (
    Layout,
    Panel,
    averaged_over,
    has_value,
    new_figure,
    set_title,
)
from raysweep.analysis.sweeps import Sweeps, levels, metric, setting
from raysweep.errors import InputError
from raysweep.statuses import Status
from raysweep.tables.columns import SETTING
from raysweep.tables.pareto import pareto_front
from raysweep.tables.ranking import is_lower_better, varied_settings
from raysweep.user_text.values import NULL_TEXT, show_value

Draw = Literal["front", "line", "none"]
"""What is drawn over the points."""
_ENTROPY = "replay_label_entropy"
_NULL_COLOR, _NULL_MARKER = COLORS[5], "X"
"""Colour of null where a colour bar shows the numbers: one that the bar does not have."""


@dataclass(frozen=True)
class Pair:
    """Two metrics to draw against each other."""

    x: str
    y: str
    draw: Draw = "front"


PAIRS = (
    Pair("forgetting", "average_accuracy"),
    Pair("forgetting", "reconstruction_loss"),
    Pair(_ENTROPY, "forgetting", "line"),
)
"""The relations that the reference study examined."""


class Line(NamedTuple):
    """A line by ordinary least squares: y = intercept + slope x, over n points.

    ``r`` is Pearson's correlation, ``p`` of the test that it is 0, ``slope_ci95`` the half-width of
    the slope's 95 % interval (Student's t with n - 2 degrees of freedom).
    """

    slope: float
    intercept: float
    r: float
    p: float
    slope_ci95: float
    n: int


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """Fit a line to points; return None for fewer than three, or if all x are equal."""
    from scipy.stats import linregress, t

    if len(x) < 3 or min(x) == max(x):
        return None
    found = linregress(x, y)
    half_width = float(t.ppf(0.975, len(x) - 2) * found.stderr)
    return Line(found.slope, found.intercept, found.rvalue, found.pvalue, half_width, len(x))


def points(trials: pd.DataFrame, metrics: Sequence[str], also: Sequence[str] = ()) -> pd.DataFrame:
    """Compute means of metrics over the finished seeds of each combination of other settings.

    Columns: ``sweep``, the settings that vary and those in ``also``; each metric; ``n_finished``
    and ``n`` (seeds), and ``is_complete``: whether no other combination has more finished seeds.
    Combinations without a finished seed have no row.
    """
    by = list(dict.fromkeys(["sweep", *varied_settings(trials), *also]))
    finished = trials[trials["status"] == Status.FINISHED]
    groups = finished.groupby(by, dropna=False, sort=True)
    means = groups[list(dict.fromkeys(metrics))].mean()
    means["n_finished"] = groups.size()
    means["n"] = trials.groupby(by, dropna=False, sort=True).size()
    means["is_complete"] = means["n_finished"] == means["n_finished"].max()
    return means.reset_index()


def figure(trials: pd.DataFrame, pairs: Sequence[Pair] = PAIRS, color: str | None = None) -> Figure:
    """Draw pairs of metrics side by side, coloured by a setting, with a row for each sweep.

    ``color`` defaults to the sweep if there are several (they then share a row), else to replay,
    model or the first other setting that varies. A pair without points is left out. Raises
    ``InputError`` for an unknown metric or setting, and if no pair has points.
    """
    for pair in pairs:
        metric(trials, pair.x, "--x"), metric(trials, pair.y, "--y")
    column = color_column(trials, color)
    table = points(trials, [name for pair in pairs for name in (pair.x, pair.y)], [column])
    pairs = [pair for pair in pairs if table[[pair.x, pair.y]].notna().all(axis=1).any()]
    if not pairs:
        raise InputError(
            "expected finished configurations with a value of both metrics, found none; "
            "take other metrics, or other rows with --where"
        )
    sweeps = levels(table, "sweep") if column != "sweep" else [None]
    plan = Layout(
        len(sweeps),
        len(pairs),
        [
            Panel(i, j, "", str(sweep) if len(sweeps) > 1 and pair is pairs[-1] else "", {})
            for i, sweep in enumerate(sweeps)
            for j, pair in enumerate(pairs)
        ],
    )
    look = _Look.of(trials, column)
    with style():
        drawn, axes = new_figure(
            plan, (3.2, 2.8), (0.2 if len(pairs) > 1 else 1.4, 1.3), sharex="col", sharey="col"
        )
        pairs_of_rows = [(sweep, pair) for sweep in sweeps for pair in pairs]
        for ax, (sweep, pair) in zip(axes, pairs_of_rows, strict=True):
            _panel(ax, table if sweep is None else table[table["sweep"] == sweep], pair, look)
        _finish(drawn, axes, trials, table, look)
    return drawn


def color_column(trials: pd.DataFrame, name: str | None) -> str:
    """Find the setting that sets the colours: the named one, else sweep, replay, model, ..."""
    if name is not None:
        return setting(trials, name)
    varied = varied_settings(trials)
    wanted = ["sweep", SETTING + "replay", SETTING + "model", *varied, SETTING + "replay"]
    return (
        next(column for column in wanted if column in varied or trials[column].nunique() > 1)
        if varied or trials["sweep"].nunique() > 1
        else wanted[-1]
    )


@dataclass(frozen=True)
class _Look:
    """Colours and markers of a setting's values, with a colour bar if there are many numbers."""

    column: str
    values: list[object]
    colors: ScalarMappable | None

    @classmethod
    def of(cls, trials: pd.DataFrame, column: str) -> "_Look":
        values = levels(trials, column)
        if len(values) <= len(MARKERS):
            return cls(column, values, None)
        if trials[column].dtype.kind not in "fi":
            raise InputError(
                f"--color: expected a setting of at most {len(MARKERS)} values, or of numbers, "
                f"got {column.removeprefix(SETTING)} with {len(values)}; choose another one"
            )
        return cls(column, values, ScalarMappable(_norm(trials[column]), COLOR_MAP))

    def groups(self, table: pd.DataFrame) -> list[tuple[pd.DataFrame, str | None, str]]:
        """Return the rows of each value with its colour (None: by the colour bar) and marker."""
        if self.colors is not None:
            is_null = table[self.column].isna()
            return [(table[~is_null], None, "o"), (table[is_null], _NULL_COLOR, _NULL_MARKER)]
        return [
            (table[has_value(table[self.column], value)], COLORS[i], MARKERS[i])
            for i, value in enumerate(self.values)
        ]


def _norm(values: "pd.Series[float]") -> Normalize:
    low, high = values.min(), values.max()
    if not is_log_setting(values):
        return Normalize(low, high)
    least = values.abs()[values != 0].min()
    return LogNorm(low, high) if low > 0 else SymLogNorm(least, vmin=low, vmax=high)


def _panel(ax: Axes, table: pd.DataFrame, pair: Pair, look: _Look) -> None:
    shown = table[table[[pair.x, pair.y]].notna().all(axis=1)]
    size = 18 if len(shown) < 400 else 8
    for rows, color, marker in look.groups(shown):
        for is_complete, mine in rows.groupby("is_complete"):
            face = (
                {"c": mine[look.column], "norm": look.colors.norm, "cmap": COLOR_MAP}
                if look.colors is not None and color is None
                else {"c": [color]}
                if is_complete
                else {"facecolors": "none", "edgecolors": color}
            )
            ax.scatter(mine[pair.x], mine[pair.y], s=size, marker=marker, alpha=0.8, **face)
    if pair.draw == "front":
        _draw_front(ax, shown[shown["is_complete"]], pair)
    elif pair.draw == "line":
        _draw_line(ax, shown, pair)
    ax.tick_params(labelbottom=True)
    for name, label, scale in (
        (pair.x, ax.set_xlabel, ax.set_xscale),
        (pair.y, ax.set_ylabel, ax.set_yscale),
    ):
        hint = " is better" if pair.draw == "front" else ""
        direction = ("lower" if is_lower_better(name) else "higher") + hint
        label(metric_label(name) + (f"\n({direction})" if hint else ""))
        values = table[name].dropna()
        if len(values) and is_log(name, values.min(), values.max()):
            scale("log")


def _draw_front(ax: Axes, table: pd.DataFrame, pair: Pair) -> None:
    front = pareto_front(table, [pair.x, pair.y]).sort_values([pair.x, pair.y])
    ax.plot(
        front[pair.x],
        front[pair.y],
        drawstyle="steps-post" if is_lower_better(pair.x) else "steps-pre",
        color="black",
        lw=1,
        gid="front",
    )
    ax.scatter(
        front[pair.x], front[pair.y], s=42, facecolors="none", edgecolors="black", lw=0.9, zorder=3
    )
    ax.set_title(f"Pareto front: {len(front)} of {len(table)} settings", loc="left")


def _draw_line(ax: Axes, table: pd.DataFrame, pair: Pair) -> None:
    # One-hot labels have no entropy by definition, so the relation excludes them.
    is_soft = table[_ENTROPY] > 0 if pair.x == _ENTROPY else table[pair.x].notna()
    fitted = table[is_soft]
    line = fit_line(fitted[pair.x].tolist(), fitted[pair.y].tolist())
    if line is None:
        ax.set_title("no line: fewer than three different values", loc="left")
        return
    ends = np.array([fitted[pair.x].min(), fitted[pair.x].max()])
    ax.plot(ends, line.intercept + line.slope * ends, color="black", lw=1.2, gid="line")
    slope, r = (with_minus(text) for text in (f"{line.slope:.3g}", f"{line.r:.2f}"))
    hint = "" if is_soft.all() else ", soft labels only"
    ax.set_title(
        f"slope {slope} ± {line.slope_ci95:.2g} (95 %), r = {r}\n"
        f"p = {line.p:.1g}, n = {line.n}{hint}",
        loc="left",
    )


def _finish(
    drawn: Figure, axes: list[Axes], trials: pd.DataFrame, table: pd.DataFrame, look: _Look
) -> None:
    handles = [
        Line2D([], [], color=color, marker=MARKERS[i], ls="", label=with_minus(show_value(value)))
        for i, (value, color) in enumerate(zip(look.values, COLORS, strict=False))
        if look.colors is None
    ]
    name = setting_words(look.column)
    if look.colors is not None:
        drawn.colorbar(look.colors, ax=axes, aspect=30, pad=0.02).set_label(name)
        if None in look.values:
            label = f"{name} {NULL_TEXT}"
            handles.append(
                Line2D([], [], color=_NULL_COLOR, marker=_NULL_MARKER, ls="", label=label)
            )
    if not table["is_complete"].all():
        handles.append(
            Line2D(
                [],
                [],
                color="#555555",
                marker="o",
                mfc="none",
                ls="",
                label="fewer seeds finished",
            )
        )
    if handles:
        entry_in = 0.55 + 0.065 * max(len(str(handle.get_label())) for handle in handles)
        drawn.legend(
            handles=handles,
            title=name if look.colors is None else None,
            loc="outside lower center",
            ncols=max(1, min(len(handles), int(drawn.get_figwidth() / entry_in))),
        )
    by = ["sweep", *varied_settings(trials), look.column]
    over = averaged_over(trials, list(dict.fromkeys(by)))
    names = [setting_words(column) for column in varied_settings(trials)]
    point = f"A point is one setting of {', '.join(names)}" if names else "A point is a sweep"
    set_title(drawn, f"{point}: {f'mean over {over}' if over else 'one run'}")


def pairs_of(x: Sequence[str], y: Sequence[str], draw: Draw | None) -> list[Pair]:
    """Pair the metrics of --x and --y one by one or one with all; by default, ``PAIRS``."""
    if not x and not y:
        return [Pair(pair.x, pair.y, draw or pair.draw) for pair in PAIRS]
    x, y = x or ["forgetting"], y or ["average_accuracy"]
    n = max(len(x), len(y))
    if {len(x), len(y)} - {1, n}:
        raise InputError(
            f"--x, --y: expected equal numbers of them, or one of either, got {len(x)} and {len(y)}"
        )
    both = zip(list(x) * (n // len(x)), list(y) * (n // len(y)), strict=True)
    pairs = [Pair(*pair, draw or "front") for pair in both]
    if any(pair.x == pair.y for pair in pairs):
        raise InputError("--x, --y: expected two different metrics, got one twice")
    return pairs


def show(
    folders: Folders,
    x: Annotated[list[str] | None, typer.Option(help="Metric on the x axis (repeatable).")] = None,
    y: Annotated[list[str] | None, typer.Option(help="Metric on the y axis (repeatable).")] = None,
    color: Annotated[str | None, typer.Option(help="Setting that sets the colours.")] = None,
    draw: Annotated[str | None, typer.Option(help=", ".join(get_args(Draw)) + ".")] = None,
    where: Where = None,
    out: Out = None,
    given_format: FigureFormat = None,
) -> None:
    """Draw metrics against each other, with the Pareto front or a fitted line.

    Without --out it is written to tradeoff.png.
    """
    if draw is not None and draw not in get_args(Draw):
        raise InputError(f"--draw: expected one of {', '.join(get_args(Draw))}, got {draw!r}")
    pairs = pairs_of(x or [], y or [], cast("Draw | None", draw))
    drawn = figure(Sweeps(folders, where).trials, pairs, color)
    give_figure(drawn, out, given_format, "tradeoff")


if __name__ == "__main__":
    run(show)
