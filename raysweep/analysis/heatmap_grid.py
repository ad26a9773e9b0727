"""Grids of cells with a colour, a text and a state, for heatmaps and maps of divergence.

Four states can be told apart, also in grey: a value; a value of only those runs that did not
diverge (a corner is cut off); no value (hatched if runs diverged, dotted if not); no run (empty).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerPatch
from matplotlib.patches import Patch, Polygon, Rectangle

from raysweep.analysis.figures import COLOR_MAP, is_log, setting_words, style, with_minus
from raysweep.analysis.panels import Layout, facet_columns, is_lowest, new_figure, set_title
from raysweep.analysis.sweeps import levels, setting, short
from raysweep.errors import InputError
from raysweep.user_text.values import NULL_TEXT, show_value

State = Literal["value", "partial", "diverged", "null", "absent"]
LARGEST_PT, SMALLEST_PT = 8.0, 5.0
CHARACTER_EM = 0.62
"""Width of a character, a high estimate."""
_GREY, _PALE = "#8c8c8c", "#e4e4e4"
_CELL_IN = 0.62, 0.5
"""Planned width and height of a cell."""
_MOST_IN = 14.0, 18.0
"""Largest width and height of all panels together, unless that makes them tiny."""
_TICK_IN = 0.16
_BAR_IN = 0.14
"""Width of the colour bar."""


@dataclass(frozen=True)
class Cell:
    """A cell: position from the lower left, state, value, and texts from long to short."""

    column: int
    row: int
    state: State
    value: float = float("nan")
    texts: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Axis:
    """A side of a grid: its label, and a text for each column or row."""

    label: str
    ticks: Sequence[str]


def draw_grid(
    plan: Layout,
    cells: Sequence[Sequence[Cell]],
    sides: tuple[Axis, Axis],
    colors: ScalarMappable | None,
    words: tuple[str, str, str],
    meanings: dict[State, str],
) -> Figure:
    """Draw the cells of each panel of ``plan`` on one colour scale, with one colour bar.

    ``sides`` are the x and the y axis; ``words`` are the title, a note and the colour bar's label;
    ``meanings`` explains the states, of which the legend shows those that occur. Without ``colors``
    (no cell has a value) there is no colour bar.
    """
    shape = len(sides[0].ticks), len(sides[1].ticks)
    size = (
        min(max(1.5, _CELL_IN[0] * shape[0]), max(2.0, _MOST_IN[0] / plan.n_columns)),
        min(max(0.9, _CELL_IN[1] * shape[1]), max(1.5, _MOST_IN[1] / plan.n_rows)),
    )
    shades = colors or color_scale([0, 1])
    with style():
        figure, axes = new_figure(plan, size, (1.6, 1.4))
        for panel, ax, some in zip(plan.panels, axes, cells, strict=True):
            draw_cells(ax, some, shape, shades)
            _label(ax, sides, size, (is_lowest(plan, panel), panel.column == 0))
        if colors is not None:
            bar = figure.colorbar(
                axes[0].collections[0], ax=axes, pad=0.02, aspect=size[1] * plan.n_rows / _BAR_IN
            )
            bar.set_label(words[2])
            bar.outline.set_visible(False)
        set_title(figure, *words[:2])
        present = {cell.state for some in cells for cell in some}
        explain(figure, {state: text for state, text in meanings.items() if state in present})
        write_texts(figure, axes, cells, shades)
    return figure


def grid_columns(
    trials: pd.DataFrame, x: str, y: str, facets: Sequence[str]
) -> tuple[str, str, list[str]]:
    """Find the columns of x, y and the facets of a grid; each setting may occur once."""
    x, y = setting(trials, x), setting(trials, y)
    if x == y:
        raise InputError(f"--x, --y: expected two settings, got {short(x)} twice")
    return x, y, facet_columns(trials, facets, [x, y])


def side(trials: pd.DataFrame, column: str) -> Axis:
    """Return the axis of a setting: its values in ascending order, evenly spaced, null last."""
    ticks = [show_value(value) for value in levels(trials, column)]
    return Axis(setting_words(column), [with_minus(tick) for tick in ticks])


def place_cells(
    table: pd.DataFrame,
    trials: pd.DataFrame,
    xy: tuple[str, str],
    cell_of: Callable[["pd.Series[Any]"], tuple[State, float, tuple[str, ...]]],
) -> list[Cell]:
    """Make a cell for each combination of two settings' values, ``absent`` if it has no row.

    ``cell_of`` returns state, value and texts for a row of ``table``; ``trials`` has all values.
    """
    columns, rows = ({value: i for i, value in enumerate(levels(trials, column))} for column in xy)
    cells: list[Cell] = []
    for _, row in table.iterrows():
        x, y = (None if pd.isna(row[column]) else row[column] for column in xy)
        cells.append(Cell(columns[x], rows[y], *cell_of(row)))
    taken = {(cell.column, cell.row) for cell in cells}
    places = itertools.product(range(len(columns)), range(len(rows)))
    return cells + [Cell(*location, "absent") for location in places if location not in taken]


def _label(
    ax: Axes, sides: tuple[Axis, Axis], size_in: tuple[float, float], has: tuple[bool, bool]
) -> None:
    """Label the axes that have labels; when space is short, label every n-th tick, and null."""
    cell_in = [size / len(side.ticks) for size, side in zip(size_in, sides, strict=True)]
    every = [max(1, math.ceil(_TICK_IN / room)) for room in cell_in]
    columns, rows = (_written(side.ticks, n) for side, n in zip(sides, every, strict=True))
    ax.set_xticks(columns, [sides[0].ticks[i] for i in columns] if has[0] else [])
    ax.set_yticks(rows, [sides[1].ticks[i] for i in rows] if has[1] else [])
    if has[0]:
        ax.set_xlabel(sides[0].label)
        if max(map(len, sides[0].ticks)) * 0.08 > cell_in[0] * every[0]:
            ax.tick_params(axis="x", rotation=90)
    if has[1]:
        ax.set_ylabel(sides[1].label)


def _written(ticks: Sequence[str], every: int) -> list[int]:
    """Choose the ticks to label; null comes at the end, apart from the numbers."""
    last = len(ticks) - 1
    if ticks[last] != NULL_TEXT:
        return list(range(0, len(ticks), every))
    return [*(i for i in range(0, last, every) if last - i >= every), last]


def color_scale(
    values: Sequence[float], color_map: str = COLOR_MAP, metric: str = ""
) -> ScalarMappable:
    """Scale colours to finite values of a metric, logarithmically if ``is_log`` returns true."""
    low, high = min(values), max(values)
    if is_log(metric, low, high):
        return ScalarMappable(LogNorm(low, high), color_map)
    if low == high:
        low, high = low - (abs(low) or 1) / 100, high + (abs(high) or 1) / 100
    return ScalarMappable(Normalize(low, high), color_map)


def text_color(value: float, colors: ScalarMappable) -> str:
    """Choose black or white for text on a value's colour, by contrast (WCAG 2.1)."""
    shade = colors.cmap(float(cast("Normalize", colors.norm)(value)))
    channels = np.array([float(channel) for channel in shade[:3]])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def draw_cells(
    ax: Axes, cells: Sequence[Cell], shape: tuple[int, int], colors: ScalarMappable
) -> None:
    """Draw cells without their texts; ``shape`` is (columns, rows)."""
    values = np.full((shape[1], shape[0]), np.nan)
    for cell in cells:
        if cell.state in ("value", "partial"):
            values[cell.row, cell.column] = cell.value
    edges = np.arange(shape[0] + 1) - 0.5, np.arange(shape[1] + 1) - 0.5
    ax.pcolormesh(
        *edges,
        np.ma.masked_invalid(values),
        norm=cast("Normalize", colors.norm),
        cmap=colors.cmap,
        edgecolors="white",
        lw=0.5,
    )
    for cell in cells:
        corner = (cell.column - 0.5, cell.row - 0.5)
        if cell.state == "partial":
            ax.add_patch(_cut(*corner))
        elif cell.state != "value":
            ax.add_patch(Rectangle(corner, 1, 1, gid=cell.state, **_LOOK[cell.state]))
    ax.set_xlim(-0.5, shape[0] - 0.5)
    ax.set_ylim(-0.5, shape[1] - 0.5)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


_LOOK: dict[str, dict[str, Any]] = {
    "diverged": {"fc": _GREY, "ec": "white", "hatch": "////", "lw": 0.5},
    "null": {"fc": _PALE, "ec": "white", "hatch": "....", "lw": 0.5},
    "absent": {"fc": "none", "ec": "#b0b0b0", "ls": (0, (2, 2)), "lw": 0.5},
}


def _cut(x: float, y: float, width: float = 1, height: float = 1, part: float = 0.26) -> Polygon:
    top, right = y + height, x + width
    corners = [(right, top), (right - part * width, top), (right, top - part * height)]
    return Polygon(corners, fc="white", ec="black", lw=0.6, hatch="//////", gid="partial")


class _CutCorner(HandlerPatch):
    """Draws a partial cell's patch in the legend like the cell."""

    def create_artists(self, legend, orig_handle, x, y, width, height, size, trans):  # type: ignore[no-untyped-def]
        box = Rectangle((x, y), width, height, fc="#b9ad78", ec="none")
        cut = _cut(x, y, width, height, 0.5)
        for patch in (box, cut):
            patch.set_transform(trans)
        return [box, cut]


def explain(figure: Figure, meanings: dict[State, str]) -> None:
    """Add a legend of states under a figure."""
    handles = [
        Patch(label=text, gid=state, **_LOOK.get(state, {"fc": "#b9ad78"}))
        for state, text in meanings.items()
    ]
    if handles:
        figure.legend(
            handles=handles,
            handler_map={h: _CutCorner() for h in handles if h.get_gid() == "partial"},
            loc="outside lower left",
            ncols=1 if figure.get_figwidth() < 7 else 2,
            handleheight=1.2,
        )


def write_texts(
    figure: Figure, axes: Sequence[Axes], cells: Sequence[Sequence[Cell]], colors: ScalarMappable
) -> None:
    """Write texts into cells: for each state, the longest that fits into all its cells.

    Call this last, when the layout is final. If no text fits, cells have none.
    """
    figure.draw_without_rendering()
    width, height = min(_cell_size_pt(ax) for ax in axes)
    for state in ("value", "partial", "diverged", "null"):
        mine = [
            (ax, c)
            for ax, some in zip(axes, cells, strict=True)
            for c in some
            if c.state == state and c.texts
        ]
        n_choices = min((len(cell.texts) for _, cell in mine), default=0)
        for i in range(n_choices):
            size = min(_fitting_pt(cell.texts[i], width, height) for _, cell in mine)
            if size >= SMALLEST_PT:
                for ax, cell in mine:
                    _write(ax, cell, cell.texts[i], size, colors)
                break


def _cell_size_pt(ax: Axes) -> tuple[float, float]:
    box = ax.get_window_extent()
    dpi = ax.figure.dpi
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    return 72 * box.width / dpi / (right - left), 72 * box.height / dpi / (high - low)


def _fitting_pt(text: str, width_pt: float, height_pt: float) -> float:
    lines = text.split("\n")
    wide = 0.94 * width_pt / (CHARACTER_EM * max(map(len, lines)))
    return min(LARGEST_PT, wide, 0.9 * height_pt / (1.2 * len(lines)))


def _write(ax: Axes, cell: Cell, text: str, size: float, colors: ScalarMappable) -> None:
    is_colored = cell.state in ("value", "partial")
    ax.text(
        cell.column,
        cell.row,
        text,
        ha="center",
        va="center",
        size=size,
        linespacing=1.05,
        color=text_color(cell.value, colors) if is_colored else "black",
        bbox=None if is_colored else {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"},
    )
